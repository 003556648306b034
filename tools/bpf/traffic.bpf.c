// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Traffic at the rate of the driver: makes UDP packets, and counts what arrives.
//
//   generate  run with BPF_PROG_RUN on live frames: every run is one packet, sent to a device in WAYS
//   sink      attached to an interface: counts IPv4, drops UDP, leaves the rest to the kernel
//   accept    attached to an interface: passes everything. A veth device takes redirected frames
//             only while its receiving end has an XDP program (or GRO).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/tcp.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Set by the loader before the program is loaded; addresses and ports in host order.
const volatile __u64 FLOWS = 1;
const volatile __u32 SOURCE = 0;
const volatile __u32 PORTS_PER_SOURCE = 1;
const volatile __u32 SOURCE_PORT = 1024;
const volatile __u32 DESTINATION = 0;
const volatile __u32 DESTINATIONS = 1;
const volatile __u32 DESTINATION_PORT = 0;
const volatile __u32 DESTINATION_PORTS = 1;
const volatile __u32 IP_LENGTH = 0;
const volatile __u32 PAYLOAD_SUM = 0;
const volatile __u32 CHECKSUM = 1;
const volatile __u8 MAC_TO[ETH_ALEN] = {};
const volatile __u8 MAC_FROM[ETH_ALEN] = {};

// The packets are put into VXLAN (RFC 7348): outer addresses and network, and Ethernet addresses of the inner packet,
// which are those of the flows and the flood otherwise.
const volatile __u32 TUNNEL = 0;
const volatile __u32 TUNNEL_FROM = 0;
const volatile __u32 TUNNEL_TO = 0;
const volatile __u32 TUNNEL_VNI = 0;
const volatile __u32 TUNNEL_PORT = 0;
const volatile __u8 TUNNEL_MAC_TO[ETH_ALEN] = {};

// Packets that are due together, and handed to the device together: a power of two.
const volatile __u64 GROUP = 64;
// ns: a generator that was held up longer does not catch up.
const volatile __u64 CATCH_UP = 1000000;
// The payload begins with the time at which the packet was due (CLOCK_MONOTONIC, ns, big endian).
const volatile __u32 STAMPED = 0;

// Packets of flows that never were before, among the others: of each 65,536 packets so many.
const volatile __u32 FLOOD_SHARE = 0;
const volatile __u32 FLOOD = 0;
const volatile __u32 FLOOD_SOURCE = 0;
const volatile __u32 FLOOD_SOURCE_RANGE = 0; // host bits, set: a mask of what is drawn
const volatile __u32 FLOOD_DESTINATION = 0;
const volatile __u32 FLOOD_DESTINATION_RANGE = 0;
const volatile __u32 FLOOD_PORT = 0;
const volatile __u8 FLOOD_MAC_TO[ETH_ALEN] = {};
const volatile __u8 FLOOD_MAC_FROM[ETH_ALEN] = {};

// What a flood draws besides addresses. In the order of `Kind` in flood.rs.
enum { FLOOD_UDP, FLOOD_SYN, FLOOD_SCAN };

// The sink's: packets whose source is outside this prefix are counted apart.
const volatile __u32 EXPECTED = 0;
const volatile __u32 EXPECTED_MASK = 0;
// UDP packets to this port are counted apart too.
const volatile __u32 WATCHED_PORT = 0;
// Drop what is not UDP too.
const volatile __u32 DROP_ALL = 0;

// Steps through the flows in an order without locality; prime, so that every flow comes once in
// FLOWS packets (a number of flows that is a multiple of it does not fit in 32 bits of sources).
#define STRIDE 2654435761ULL

// The generator's pace. A call of BPF_PROG_RUN costs some 20 ms, so that it is the program that waits.
struct pace {
	__u64 generated; // packets
	__u64 runs;      // runs of the program, those that only waited included
	__u64 waited;    // nanoseconds
	__u64 start;     // when packet 0 of this pace was due; 0: not yet known
	__u64 first;     // its number
	__u64 interval;  // between packets, in 1/65536 ns; 0: do not wait
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct pace);
} PACE SEC(".maps");

#define LOOKS 16 // at the clock in one run, about 0.4 us

// Devices that packets leave by, perhaps in several network namespaces: flows, and the flood.
enum { WAY_FLOWS, WAY_FLOOD, NUMBER_OF_WAYS };

struct {
	__uint(type, BPF_MAP_TYPE_DEVMAP);
	__uint(max_entries, NUMBER_OF_WAYS);
	__type(key, __u32);
	__type(value, struct bpf_devmap_val);
} WAYS SEC(".maps");

enum { PACKETS, BYTES, UNEXPECTED, OTHER, WATCHED, COUNTERS };

// Latencies in ns, by leading bit and the FINE bits that follow it (latency.rs).
#define FINE 5
#define BUCKETS 1280

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, BUCKETS);
	__type(key, __u32);
	__type(value, __u64);
} LATENCIES SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, COUNTERS);
	__type(key, __u32);
	__type(value, __u64);
} COUNTS SEC(".maps");

static __always_inline void count(__u32 what, __u64 by)
{
	__u64 *value = bpf_map_lookup_elem(&COUNTS, &what);

	if (value)
		*value += by;
}

static __always_inline __u16 fold(__u32 sum)
{
	sum = (sum & 0xffff) + (sum >> 16);
	sum = (sum & 0xffff) + (sum >> 16);
	return ~sum;
}

// When the next packet is due, in ns; 0: not yet, also not after a short wait.
static __always_inline __u64 due_time(struct pace *pace)
{
	__u64 begin, now, due;

	pace->runs++;
	begin = now = bpf_ktime_get_ns();
	if (!pace->interval)
		return now;
	if (!pace->start) {
		pace->start = now;
		pace->first = pace->generated;
	}
	due = pace->start + (((pace->generated - pace->first) & ~(GROUP - 1)) * pace->interval >> 16);
	if (now > due + CATCH_UP) {
		pace->start += now - due;
		due = now;
	}
	for (int i = 0; i < LOOKS && now < due; i++)
		now = bpf_ktime_get_ns();
	pace->waited += now - begin;
	return now >= due ? due : 0;
}

struct packet {
	__u32 from;
	__u32 to;
	__u16 port;
	__u16 to_port;
	__u8 protocol;
	__u8 flood;
	__u16 length; // of the IP packet
};

static __always_inline void draw_flow(struct packet *packet, __u64 number)
{
	__u64 flow = number * STRIDE % FLOWS;

	packet->from = SOURCE + flow / PORTS_PER_SOURCE;
	packet->to = DESTINATION + flow % DESTINATIONS;
	packet->port = SOURCE_PORT + flow % PORTS_PER_SOURCE;
	packet->to_port = DESTINATION_PORT + flow % DESTINATION_PORTS;
	packet->protocol = IPPROTO_UDP;
	packet->flood = 0;
	packet->length = IP_LENGTH;
}

static __always_inline void draw_flood(struct packet *packet)
{
	__u32 ports = bpf_get_prandom_u32();

	packet->from = FLOOD_SOURCE + (bpf_get_prandom_u32() & FLOOD_SOURCE_RANGE);
	packet->to = FLOOD_DESTINATION + (bpf_get_prandom_u32() & FLOOD_DESTINATION_RANGE);
	packet->port = 1024 | (ports & 0xffff);
	packet->to_port = FLOOD == FLOOD_SCAN ? ports >> 16 : FLOOD_PORT;
	packet->protocol = FLOOD == FLOOD_SYN ? IPPROTO_TCP : IPPROTO_UDP;
	packet->flood = 1;
	packet->length = FLOOD == FLOOD_SYN ? sizeof(struct iphdr) + sizeof(struct tcphdr) : IP_LENGTH;
}

static __always_inline void write_syn(struct tcphdr *tcp, const struct packet *packet, __u32 addresses)
{
	__u32 sequence = bpf_get_prandom_u32();
	__u32 words = (sequence >> 16) + (sequence & 0xffff) + 0x5002 + 0xffff;

	tcp->source = bpf_htons(packet->port);
	tcp->dest = bpf_htons(packet->to_port);
	tcp->seq = bpf_htonl(sequence);
	tcp->ack_seq = 0;
	((__be16 *)tcp)[6] = bpf_htons(0x5002); // header of 20 bytes; SYN
	tcp->window = bpf_htons(0xffff);
	tcp->urg_ptr = 0;
	tcp->check = bpf_htons(
		fold(addresses + IPPROTO_TCP + sizeof(*tcp) + packet->port + packet->to_port + words));
}

static __always_inline __u32 words_of(__u64 stamp)
{
	return (stamp >> 48) + (stamp >> 32 & 0xffff) + (stamp >> 16 & 0xffff) + (stamp & 0xffff);
}

struct tunnel_header {
	struct ethhdr eth;
	struct iphdr ip;
	struct udphdr udp;
	__be32 flags;
	__be32 vni;
} __attribute__((packed));

static __always_inline void write_tunnel(struct tunnel_header *outer, const struct packet *packet)
{
	__u32 length = sizeof(*outer) + packet->length; // the inner Ethernet header for the outer one
	__u32 sum;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		outer->eth.h_dest[i] = MAC_TO[i];
		outer->eth.h_source[i] = MAC_FROM[i];
	}
	outer->eth.h_proto = bpf_htons(ETH_P_IP);
	*(__u8 *)&outer->ip = 0x45;
	outer->ip.tos = 0;
	outer->ip.tot_len = bpf_htons(length);
	outer->ip.id = 0;
	outer->ip.frag_off = bpf_htons(0x4000);
	outer->ip.ttl = 64;
	outer->ip.protocol = IPPROTO_UDP;
	sum = 0x4500 + length + 0x4000 + (64 << 8 | IPPROTO_UDP) + (TUNNEL_FROM >> 16) + (TUNNEL_FROM & 0xffff) +
	      (TUNNEL_TO >> 16) + (TUNNEL_TO & 0xffff);
	outer->ip.check = bpf_htons(fold(sum));
	outer->ip.saddr = bpf_htonl(TUNNEL_FROM);
	outer->ip.daddr = bpf_htonl(TUNNEL_TO);
	outer->udp.source = bpf_htons(32768 | ((packet->from * 31 + packet->port) & 0x3fff));
	outer->udp.dest = bpf_htons(TUNNEL_PORT);
	outer->udp.len = bpf_htons(length - sizeof(struct iphdr));
	outer->udp.check = 0;
	outer->flags = bpf_htonl(0x08000000);
	outer->vni = bpf_htonl(TUNNEL_VNI << 8);
}

// Every field of every header is written each time: the kernel recycles the pages of live frames
// with whatever their receivers wrote into them.
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = TUNNEL ? data + sizeof(struct tunnel_header) : data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	struct tcphdr *tcp = (void *)(ip + 1);
	__be64 *stamp = (void *)(udp + 1);
	__u32 zero = 0, stamped = 0;
	struct pace *pace = bpf_map_lookup_elem(&PACE, &zero);
	struct packet packet;

	if (!pace || (void *)(udp + 1) > end)
		return XDP_ABORTED;

	__u64 due = due_time(pace);

	if (!due)
		return XDP_DROP;

	// The flood is spread evenly, and what is left of the numbers goes through the flows in turn.
	__u64 number = pace->generated++;
	__u64 floods = number * FLOOD_SHARE >> 16;

	if (((number + 1) * FLOOD_SHARE >> 16) != floods)
		draw_flood(&packet);
	else
		draw_flow(&packet, number - floods);

	__u32 udp_length = packet.length - sizeof(*ip);
	__u32 addresses = (packet.from >> 16) + (packet.from & 0xffff) + (packet.to >> 16) + (packet.to & 0xffff);
	__u32 id = number & 0xffff;

	if (TUNNEL)
		write_tunnel(data, &packet);
#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		eth->h_dest[i] = TUNNEL ? TUNNEL_MAC_TO[i] : packet.flood ? FLOOD_MAC_TO[i] : MAC_TO[i];
		eth->h_source[i] = packet.flood ? FLOOD_MAC_FROM[i] : MAC_FROM[i];
	}
	eth->h_proto = bpf_htons(ETH_P_IP);

	// Version 4, header of 20 bytes; DF; time to live 64.
	*(__u8 *)ip = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons(packet.length);
	ip->id = bpf_htons(id);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = packet.protocol;
	ip->saddr = bpf_htonl(packet.from);
	ip->daddr = bpf_htonl(packet.to);
	ip->check = bpf_htons(
		fold(0x4500 + packet.length + id + 0x4000 + (64 << 8 | packet.protocol) + addresses));

	if (packet.protocol == IPPROTO_TCP) {
		if ((void *)(tcp + 1) > end)
			return XDP_ABORTED;
		write_syn(tcp, &packet, addresses);
		return bpf_redirect_map(&WAYS, WAY_FLOOD, 0);
	}
	if (STAMPED) {
		if ((void *)(stamp + 1) > end)
			return XDP_ABORTED;
		*stamp = bpf_cpu_to_be64(due);
		stamped = words_of(due);
	}
	udp->source = bpf_htons(packet.port);
	udp->dest = bpf_htons(packet.to_port);
	udp->len = bpf_htons(udp_length);
	udp->check = 0;
	if (CHECKSUM) {
		__u16 sum = fold(addresses + IPPROTO_UDP + 2 * udp_length + packet.port + packet.to_port +
				 PAYLOAD_SUM + stamped);

		udp->check = sum ? bpf_htons(sum) : 0xffff;
	}
	return bpf_redirect_map(&WAYS, packet.flood ? WAY_FLOOD : WAY_FLOWS, 0);
}

// Which bucket holds a latency.
static __always_inline __u32 bucket(__u64 latency)
{
	__u32 top = 0;

	if (latency < 1 << FINE)
		return latency;
	if (latency >> 40)
		return BUCKETS - 1;
	for (int step = 5; step >= 0; step--)
		if (latency >> (top + (1 << step)))
			top += 1 << step;
	return ((top - FINE + 1) << FINE) + (latency >> (top - FINE) & ((1 << FINE) - 1));
}

static __always_inline void take_latency(__be64 *stamp, void *end)
{
	__u64 now = bpf_ktime_get_ns(), due, *counted;
	__u32 at;

	if ((void *)(stamp + 1) > end)
		return;
	due = bpf_be64_to_cpu(*stamp);
	at = bucket(now > due ? now - due : 0);
	counted = bpf_map_lookup_elem(&LATENCIES, &at);
	if (counted)
		*counted += 1;
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);

	if ((void *)(udp + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP)) {
		count(OTHER, 1);
		return XDP_PASS;
	}
	if ((bpf_ntohl(ip->saddr) & EXPECTED_MASK) != EXPECTED)
		count(UNEXPECTED, 1);
	if (ip->protocol != IPPROTO_UDP) {
		count(OTHER, 1);
		return DROP_ALL ? XDP_DROP : XDP_PASS;
	}
	count(PACKETS, 1);
	count(BYTES, end - data);
	if (udp->dest == bpf_htons(WATCHED_PORT)) {
		count(WATCHED, 1);
		if (STAMPED)
			take_latency((void *)(udp + 1), end);
	}
	return XDP_DROP;
}

SEC("xdp")
int accept(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
