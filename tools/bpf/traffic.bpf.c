// SPDX-License-Identifier: MIT OR Apache-2.0
//
// Traffic at the rate of the driver: makes UDP packets, and counts what arrives.
//
//   generate  run with BPF_PROG_RUN on live frames: every run is one packet, sent to INTERFACE
//   sink      attached to an interface: counts IPv4, drops UDP, leaves the rest to the kernel
//   accept    attached to an interface: passes everything. A veth device takes redirected frames
//             only while its receiving end has an XDP program (or GRO).

#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

// Set by the loader before the program is loaded; addresses and ports in host order.
const volatile __u32 INTERFACE = 0;
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

// The sink's: packets whose source is outside this prefix are counted apart.
const volatile __u32 EXPECTED = 0;
const volatile __u32 EXPECTED_MASK = 0;

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

#define GROUP 64           // packets that are due together
#define LATEST 1000000ULL  // ns: a generator that was held up longer does not catch up
#define LOOKS 16           // at the clock in one run, about 0.4 us

enum { PACKETS, BYTES, UNEXPECTED, OTHER, COUNTERS };

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

// Whether the next packet is due, after a short wait if need be.
static __always_inline int is_due(struct pace *pace)
{
	__u64 begin, now, due;

	pace->runs++;
	if (!pace->interval)
		return 1;
	begin = now = bpf_ktime_get_ns();
	if (!pace->start) {
		pace->start = now;
		pace->first = pace->generated;
	}
	due = pace->start + (((pace->generated - pace->first) & ~(GROUP - 1ULL)) * pace->interval >> 16);
	if (now > due + LATEST)
		pace->start += now - due;
	for (int i = 0; i < LOOKS && now < due; i++)
		now = bpf_ktime_get_ns();
	pace->waited += now - begin;
	return now >= due;
}

// Every field of every header is written each time: the kernel recycles the pages of live frames
// with whatever their receivers wrote into them.
SEC("xdp")
int generate(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);
	struct udphdr *udp = (void *)(ip + 1);
	__u32 zero = 0;
	struct pace *pace = bpf_map_lookup_elem(&PACE, &zero);

	if (!pace || (void *)(udp + 1) > end)
		return XDP_ABORTED;
	if (!is_due(pace))
		return XDP_DROP;

	__u64 number = pace->generated++;
	__u64 flow = number * STRIDE % FLOWS;
	__u32 from = SOURCE + flow / PORTS_PER_SOURCE;
	__u32 to = DESTINATION + flow % DESTINATIONS;
	__u32 port = SOURCE_PORT + flow % PORTS_PER_SOURCE;
	__u32 to_port = DESTINATION_PORT + flow % DESTINATION_PORTS;
	__u32 udp_length = IP_LENGTH - sizeof(*ip);
	__u32 addresses = (from >> 16) + (from & 0xffff) + (to >> 16) + (to & 0xffff);
	__u32 id = number & 0xffff;

#pragma unroll
	for (int i = 0; i < ETH_ALEN; i++) {
		eth->h_dest[i] = MAC_TO[i];
		eth->h_source[i] = MAC_FROM[i];
	}
	eth->h_proto = bpf_htons(ETH_P_IP);

	// Version 4, header of 20 bytes; DF; time to live 64.
	*(__u8 *)ip = 0x45;
	ip->tos = 0;
	ip->tot_len = bpf_htons(IP_LENGTH);
	ip->id = bpf_htons(id);
	ip->frag_off = bpf_htons(0x4000);
	ip->ttl = 64;
	ip->protocol = IPPROTO_UDP;
	ip->saddr = bpf_htonl(from);
	ip->daddr = bpf_htonl(to);
	ip->check = bpf_htons(fold(0x4500 + IP_LENGTH + id + 0x4000 + (64 << 8 | IPPROTO_UDP) + addresses));

	udp->source = bpf_htons(port);
	udp->dest = bpf_htons(to_port);
	udp->len = bpf_htons(udp_length);
	udp->check = 0;
	if (CHECKSUM) {
		__u16 sum = fold(addresses + IPPROTO_UDP + 2 * udp_length + port + to_port + PAYLOAD_SUM);

		udp->check = sum ? bpf_htons(sum) : 0xffff;
	}
	return bpf_redirect(INTERFACE, 0);
}

SEC("xdp")
int sink(struct xdp_md *ctx)
{
	void *data = (void *)(long)ctx->data;
	void *end = (void *)(long)ctx->data_end;
	struct ethhdr *eth = data;
	struct iphdr *ip = (void *)(eth + 1);

	if ((void *)(ip + 1) > end || eth->h_proto != bpf_htons(ETH_P_IP)) {
		count(OTHER, 1);
		return XDP_PASS;
	}
	if ((bpf_ntohl(ip->saddr) & EXPECTED_MASK) != EXPECTED)
		count(UNEXPECTED, 1);
	if (ip->protocol != IPPROTO_UDP) {
		count(OTHER, 1);
		return XDP_PASS;
	}
	count(PACKETS, 1);
	count(BYTES, end - data);
	return XDP_DROP;
}

SEC("xdp")
int accept(struct xdp_md *ctx)
{
	return XDP_PASS;
}

char LICENSE[] SEC("license") = "Dual MIT/GPL";
