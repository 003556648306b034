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
// Not looked into, always the kernel's: IPv6, VLAN tags, other tunnels.

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

// Frames of 2,048 and of 4,096 bytes without their headroom: the values of `room` (xsk/open.rs, Sizes).
#define SMALL_ROOM (2048 - 256)
#define LARGE_ROOM (4096 - 256)

// Order and meaning are known to xsk/steering.rs (DROP_NAMES).
enum drop_cause {
	DROP_POD_NO_SOCKET,
	DROP_POOL_NO_SOCKET,
	DROP_ARP_NO_SOCKET,
	DROP_SUPER_PACKET,
	DROP_CAUSES,
};

struct interface {
	__u32 roles;
	__u32 base;   // index of queue 0 in `sockets`
	__u32 queues; // beyond this the index belongs to another interface
	__u32 room;   // largest frame that a socket can take: SMALL_ROOM or LARGE_ROOM
	__u32 underlay;
};

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
	struct iphdr inner;
} __attribute__((packed));

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

	if (queue >= in->queues || !bpf_map_lookup_elem(&sockets, &index))
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

static __always_inline int steer_ipv4(struct xdp_md *ctx, const struct interface *in, int in_tunnel, struct iphdr *ip,
				      void *end)
{
	if ((void *)(ip + 1) > end)
		return XDP_PASS; // the kernel drops and counts it

	// Any protocol and fragments too: what natgate can't translate must not leave untranslated either.
	if (serves(in, in_tunnel, ROLE_INTERNAL) && (holds(&internal, ip->saddr) || is_about_pod(ip, end))) {
		if (holds(&pools, ip->daddr))
			return take(ctx, in, DROP_POD_NO_SOCKET);
		if (is_group(ip->daddr) || holds(&kernel_destinations, ip->daddr))
			return XDP_PASS;
		return take(ctx, in, DROP_POD_NO_SOCKET);
	}
	if (serves(in, in_tunnel, ROLE_EXTERNAL)) {
		if (holds(&pools, ip->daddr))
			return take(ctx, in, DROP_POOL_NO_SOCKET);
		if (holds(&exempt, ip->saddr) && holds(&internal, ip->daddr))
			return take(ctx, in, DROP_POD_NO_SOCKET);
	}
	return XDP_PASS;
}

// Whether this is a tunnel to here. (Not where the inner packet is: the verifier would have to compare that with NULL,
// which it does not without CAP_PERFMON.)
static __always_inline int is_tunnel(struct iphdr *ip, void *end)
{
	struct vxlan *packet = (void *)ip;
	struct tunnel_key key = {};
	struct tunnel *tunnel;

	if ((void *)(packet + 1) > end || ip->protocol != IPPROTO_UDP || ip->ihl != 5)
		return 0;
	if (packet->flags != bpf_htonl(VXLAN_FLAGS) || packet->type != bpf_htons(ETH_P_IP))
		return 0;
	if (ip->frag_off & bpf_htons(FRAGMENT_OFFSET | MORE_FRAGMENTS))
		return 0;
	key.vni = packet->vni;
	key.local = ip->daddr;
	key.port = packet->udp.dest;
	tunnel = bpf_map_lookup_elem(&tunnels, &key);
	if (!tunnel || packet->destination[0] != tunnel->mac[0] || packet->destination[1] != tunnel->mac[1] ||
	    packet->destination[2] != tunnel->mac[2])
		return 0;
	return 1;
}

static __always_inline int steer_ip(struct xdp_md *ctx, const struct interface *in, struct iphdr *ip, void *end)
{
	if (in->underlay && is_tunnel(ip, end)) {
		void *inner = (void *)ip + __builtin_offsetof(struct vxlan, inner);

		return steer_ipv4(ctx, in, 1, inner, end);
	}
	return steer_ipv4(ctx, in, 0, ip, end);
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
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
