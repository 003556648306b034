// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Which packets does natgate take from an interface? One program for all interfaces; it decides by
// role of the interface, source and destination, and hands what is natgate's to the AF_XDP socket of
// the queue. Everything else stays with the kernel.
//
// Fail closed: a packet that is natgate's but has no socket (start-up, crash, kill -9) is dropped and
// counted here. It must never reach the kernel's forwarding, which would send it out untranslated.
//
// Tunnels: where an interface is an underlay, VXLAN packets of a known network to its end here are natgate's if
// what is in them would be; the worker takes it out. What the kernel takes out itself (fragments of outer packets,
// options, another interface) comes to this program once more, on the tunnel's device, where no socket is: it is
// dropped there if it is natgate's.
//
// A tunnel that is not known is none that natgate could take packets out of: what is natgate's in it, and addressed to
// this host, is dropped. Its device may be one that was made while natgate was dead, and has no program yet.
//
// A VLAN tag of network 0 is a priority only, which the kernel takes off without a word. What is natgate's behind one is
// dropped: workers don't take tags off.
//
// Not looked into, always the kernel's: IPv6, tags of other VLANs, other tunnels.

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ROLE_INTERNAL 1
#define ROLE_EXTERNAL 2

#define MAX_INTERFACES 16
#define MAX_TUNNELS 16
#define MAX_QUEUES 64
#define MAX_PREFIXES 65536

#define ARP_REQUEST 1

#define ICMP_UNREACHABLE 3
#define ICMP_TIME_EXCEEDED 11
#define ICMP_PARAMETER_PROBLEM 12
#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

// The network's number is valid; no other flag is set (RFC 7348 section 5).
#define VXLAN_FLAGS 0x08000000

// What is no business of natgate's. Anything else is the cause for which it is dropped if no socket takes it.
#define KERNELS DROP_CAUSES

// Frames of 2,048 and of 4,096 bytes without their headroom: the values of `room` (xsk/open.rs, Sizes).
#define SMALL_ROOM (2048 - 256)
#define LARGE_ROOM (4096 - 256)

// Order and meaning are known to xsk/steering.rs (DROP_NAMES).
enum drop_cause {
	DROP_POD_NO_SOCKET,
	DROP_POOL_NO_SOCKET,
	DROP_ARP_NO_SOCKET,
	DROP_SUPER_PACKET,
	DROP_PRIORITY_TAG,
	DROP_UNKNOWN_TUNNEL,
	DROP_POOL_SOURCE,
	DROP_CAUSES,
};

struct interface {
	__u32 roles;
	__u32 base;   // index of queue 0 in `sockets`
	__u32 queues; // beyond this the index belongs to another interface
	__u32 room;   // largest frame that a socket can take: SMALL_ROOM or LARGE_ROOM
	__u32 underlay; // LOOK and CLOSED
};

// Packets of tunnels that arrive are looked into.
#define LOOK 1
// And dropped if no tunnel is known that they are of.
#define CLOSED 2

// By which a tunnel is known.
struct tunnel_key {
	__be32 vni; // as in the header: the upper 24 bits
	__be32 local;
	__be16 port;
	__u16 unused;
};

struct tunnel {
	__be16 mac[3]; // of its device
	__u16 unused;
};

struct prefix {
	__u32 bits;
	__be32 address;
};

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_INTERFACES);
	__type(key, __u32);
	__type(value, struct interface);
} interfaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_TUNNELS);
	__type(key, struct tunnel_key);
	__type(value, struct tunnel);
} tunnels SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_XSKMAP);
	__uint(max_entries, MAX_INTERFACES * MAX_QUEUES);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

#define PREFIX_SET(name)                             \
	struct {                                     \
		__uint(type, BPF_MAP_TYPE_LPM_TRIE); \
		__uint(map_flags, BPF_F_NO_PREALLOC); \
		__uint(max_entries, MAX_PREFIXES);   \
		__type(key, struct prefix);          \
		__type(value, __u32);                \
	} name SEC(".maps")

PREFIX_SET(internal);            // sources that natgate translates
PREFIX_SET(kernel_destinations); // the host's addresses, pods behind other internal interfaces
PREFIX_SET(pools);               // public addresses
PREFIX_SET(exempt);              // destinations that are forwarded untranslated

// First half: counted here. Second half: what programs before this one counted, written by the loader
// only, so that no count is lost to a race.
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 2 * DROP_CAUSES);
	__type(key, __u32);
	__type(value, __u64);
} drops SEC(".maps");

struct arp_ipv4 {
	__be16 hardware;
	__be16 protocol;
	__u8 hardware_length;
	__u8 protocol_length;
	__be16 operation;
	__u8 sender_mac[ETH_ALEN];
	__u8 sender_address[4];
	__u8 target_mac[ETH_ALEN];
	__be32 target_address;
} __attribute__((packed));

// The offsets are constants (see `exceeds`): an error whose own header has options stays the kernel's. The
// destination that it quotes lies before any options there.
struct icmp_error {
	struct iphdr outer;
	__u8 type;
	__u8 code;
	__be16 checksum;
	__be32 word;
	struct iphdr quoted;
};

// The offsets are constants, as above: outer packets with options stay the kernel's.
struct vxlan {
	struct iphdr outer;
	struct udphdr udp;
	__be32 flags;
	__be32 vni;
	__be16 destination[3];
	__be16 source[3];
	__be16 type;
} __attribute__((packed));

// Behind an Ethernet type that says so.
struct tag {
	__be16 network;
	__be16 type;
};

static __always_inline int holds(void *set, __be32 address)
{
	struct prefix key = { .bits = 32, .address = address };

	return bpf_map_lookup_elem(set, &key) != NULL;
}

static __always_inline int drop(__u32 cause)
{
	__u64 *count = bpf_map_lookup_elem(&drops, &cause);

	if (count)
		*count += 1; // per CPU, and XDP isn't preempted by XDP
	return XDP_DROP;
}

// Whether the packet is longer than `room`. Without CAP_PERFMON the verifier allows neither a difference of
// packet pointers nor a variable added to one, but constants; and there are only two kinds of frames.
static __always_inline int exceeds(struct xdp_md *ctx, __u32 room)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;

	if (data + SMALL_ROOM >= end)
		return 0;
	return room < LARGE_ROOM || data + LARGE_ROOM < end;
}

static __always_inline int take(struct xdp_md *ctx, const struct interface *in, __u32 cause)
{
	__u32 queue = ctx->rx_queue_index;
	__u32 index = in->base + queue;

	if (cause == DROP_POOL_SOURCE || queue >= in->queues || !bpf_map_lookup_elem(&sockets, &index))
		return drop(cause);
	// Merged by GRO or LRO; the kernel would drop it behind our back, so count it here.
	if (exceeds(ctx, in->room))
		return drop(DROP_SUPER_PACKET);
	return bpf_redirect_map(&sockets, index, XDP_DROP);
}

static __always_inline int steer_arp(struct xdp_md *ctx, const struct interface *in, void *at, void *end)
{
	struct arp_ipv4 *arp = at;

	if ((void *)(arp + 1) > end || !(in->roles & ROLE_EXTERNAL))
		return XDP_PASS;
	if (arp->operation != bpf_htons(ARP_REQUEST) || arp->protocol != bpf_htons(ETH_P_IP))
		return XDP_PASS;
	// Pool addresses aren't configured on the host: the worker answers, and a dead natgate doesn't.
	if (holds(&pools, arp->target_address))
		return take(ctx, in, DROP_ARP_NO_SOCKET);
	return XDP_PASS;
}

// 224.0.0.0/4 and 255.255.255.255.
static __always_inline int is_group(__be32 address)
{
	__u32 host = bpf_ntohl(address);

	return (host >> 28) == 0xe || host == 0xffffffff;
}

// An error about a packet to a pod: by a router of any address between here and there (RFC 5508 REQ-5c).
static __always_inline int is_about_pod(struct iphdr *ip, void *end)
{
	struct icmp_error *error = (void *)ip;

	if ((void *)(error + 1) > end || ip->protocol != IPPROTO_ICMP || ip->ihl != 5)
		return 0;
	if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET))
		return 0;
	if (error->type != ICMP_UNREACHABLE && error->type != ICMP_TIME_EXCEEDED &&
	    error->type != ICMP_PARAMETER_PROBLEM)
		return 0;
	return holds(&internal, error->quoted.daddr);
}

// What came through a tunnel is from inside. Read anew each time: the verifier lets no number of four bytes be kept on
// the stack where a pointer has been, without CAP_PERFMON.
static __always_inline int serves(const struct interface *in, int in_tunnel, __u32 role)
{
	return in_tunnel ? role == ROLE_INTERNAL : *(volatile const __u32 *)&in->roles & role;
}

// Whose is a packet? Any protocol and fragments too: what natgate can't translate must not leave untranslated either.
static __always_inline __u32 judge(const struct interface *in, int in_tunnel, struct iphdr *ip, void *end)
{
	if ((void *)(ip + 1) > end)
		return KERNELS; // it drops and counts it

	if (serves(in, in_tunnel, ROLE_INTERNAL)) {
		if (holds(&internal, ip->saddr) || is_about_pod(ip, end)) {
			if (holds(&pools, ip->daddr))
				return DROP_POD_NO_SOCKET;
			if (is_group(ip->daddr) || holds(&kernel_destinations, ip->daddr))
				return KERNELS;
			return DROP_POD_NO_SOCKET;
		}
		// Nobody inside has such an address; outside, it would be believed.
		if (holds(&pools, ip->saddr))
			return DROP_POOL_SOURCE;
	}
	if (serves(in, in_tunnel, ROLE_EXTERNAL)) {
		if (holds(&pools, ip->daddr))
			return DROP_POOL_NO_SOCKET;
		if (holds(&exempt, ip->saddr) && holds(&internal, ip->daddr))
			return DROP_POD_NO_SOCKET;
	}
	return KERNELS;
}

static __always_inline int is_tag(__be16 type)
{
	return type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD);
}

// What is behind tags of network 0, of which this is the first. The kernel would take off more than two; nobody needs
// them, so that such packets from inside are natgate's whatever they are.
static __always_inline __u32 judge_tagged(const struct interface *in, int in_tunnel, struct tag *tag, void *end)
{
	if ((void *)(tag + 1) > end || tag->network & bpf_htons(0x0fff))
		return KERNELS;
	if (tag->type == bpf_htons(ETH_P_IP))
		return judge(in, in_tunnel, (void *)(tag + 1), end);
	if (!is_tag(tag->type))
		return KERNELS;
	tag += 1;
	if ((void *)(tag + 1) > end || tag->network & bpf_htons(0x0fff))
		return KERNELS;
	if (tag->type == bpf_htons(ETH_P_IP))
		return judge(in, in_tunnel, (void *)(tag + 1), end);
	return is_tag(tag->type) && serves(in, in_tunnel, ROLE_INTERNAL) ? DROP_PRIORITY_TAG : KERNELS;
}

static __always_inline int is_vxlan(struct iphdr *ip, void *end)
{
	struct vxlan *packet = (void *)ip;

	return (void *)(packet + 1) <= end && ip->protocol == IPPROTO_UDP && ip->ihl == 5 &&
	       !(ip->frag_off & bpf_htons(FRAGMENT_OFFSET | MORE_FRAGMENTS)) &&
	       packet->flags & bpf_htonl(VXLAN_FLAGS);
}

// Whether this is of a tunnel to here.
static __always_inline int is_known(struct vxlan *packet)
{
	struct tunnel_key key = {};
	struct tunnel *tunnel;

	key.vni = packet->vni;
	key.local = packet->outer.daddr;
	key.port = packet->udp.dest;
	tunnel = bpf_map_lookup_elem(&tunnels, &key);
	return tunnel && packet->flags == bpf_htonl(VXLAN_FLAGS) && packet->destination[0] == tunnel->mac[0] &&
	       packet->destination[1] == tunnel->mac[1] && packet->destination[2] == tunnel->mac[2];
}

static __always_inline int steer_ip(struct xdp_md *ctx, const struct interface *in, struct iphdr *ip, void *end)
{
	struct vxlan *packet = (void *)ip;
	__u32 cause;

	if (in->underlay && is_vxlan(ip, end)) {
		if (packet->type == bpf_htons(ETH_P_IP)) {
			cause = judge(in, 1, (void *)(packet + 1), end);
			if (is_known(packet))
				return cause == KERNELS ? XDP_PASS : take(ctx, in, cause);
		} else {
			cause = is_tag(packet->type) ? judge_tagged(in, 1, (void *)(packet + 1), end) : KERNELS;
			if (cause != KERNELS && is_known(packet))
				return drop(DROP_PRIORITY_TAG);
		}
		if (cause != KERNELS && in->underlay & CLOSED && holds(&kernel_destinations, ip->daddr))
			return drop(DROP_UNKNOWN_TUNNEL);
	}
	cause = judge(in, 0, ip, end);
	return cause == KERNELS ? XDP_PASS : take(ctx, in, cause);
}

SEC("xdp")
int natgate_steer(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *ethernet = data;
	__u32 ifindex = ctx->ingress_ifindex;
	struct interface *in = bpf_map_lookup_elem(&interfaces, &ifindex);

	if (!in || (void *)(ethernet + 1) > end)
		return XDP_PASS;
	if (ethernet->h_proto == bpf_htons(ETH_P_IP))
		return steer_ip(ctx, in, (void *)(ethernet + 1), end);
	if (ethernet->h_proto == bpf_htons(ETH_P_ARP))
		return steer_arp(ctx, in, ethernet + 1, end);
	if (is_tag(ethernet->h_proto) && judge_tagged(in, 0, (void *)(ethernet + 1), end) != KERNELS)
		return drop(DROP_PRIORITY_TAG);
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
