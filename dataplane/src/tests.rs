//! Workers on the memory backend: packets in, packets out, on warped time.
//!
//! ```text
//! pods 10.244.0.0/16 ── node 10.0.0.1 ── [0] natgate [1] ── router 203.0.113.1 ── servers 192.0.2.0/24
//! ```

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{Pool, PoolId, PoolSettings, Protocol, Secret, Timestamp};
use crossbeam::channel::{self, Receiver, Sender};
use crossbeam::utils::CachePadded;
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use proptest::prelude::*;

use crate::counters::{AllCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::forward::Forwards;
use crate::hand_off::HandOff;
use crate::interface::{Interface, InterfaceId, Mac, Roles};
use crate::io::PacketIo;
use crate::memory::MemoryIo;
use crate::request::{Notice, Request, SessionFilter};
use crate::roads::{Adjacency, AdjacencyId, Roads, Route};
use crate::rule::{Action, Rule, RuleSet};
use crate::snapshot::{Answers, Policy, Published, Snapshot};
use crate::waker::Waker;
use crate::worker::{Clock, Shared, Worker};

const INSIDE: InterfaceId = InterfaceId(0);
const OUTSIDE: InterfaceId = InterfaceId(1);
const NODE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const ROUTER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
const GATE_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];
const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 80);
const EXEMPT_SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 3, 80);
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
const FRAMES: usize = 512;

fn pod(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, n)
}

struct Rig {
    workers: Vec<Worker<MemoryIo>>,
    counters: Arc<AllCounters>,
    snapshot: Arc<Published<Snapshot>>,
    notices: Receiver<Notice>,
    requests: Vec<Sender<Request>>,
    now: Timestamp,
    /// Which worker a packet arrives at.
    arrivals: usize,
}

fn interface(name: &str, internal: bool) -> Interface {
    Interface {
        name: name.into(),
        ifindex: 1,
        mac: Mac(GATE_MAC),
        mtu: 1500,
        roles: Roles { internal, external: !internal },
        repair_checksums: true,
    }
}

fn roads(router: Option<Mac>) -> Roads {
    let adjacency =
        |interface, address: [u8; 4], mac| Adjacency { interface, address: address.into(), mac };
    let route = |net: &str, route| (net.parse().unwrap(), route);
    Roads {
        generation: 1,
        routes: [
            route("10.244.0.0/16", Route::Via(AdjacencyId(0))),
            route("192.0.2.0/23", Route::Via(AdjacencyId(1))),
            route("203.0.113.0/24", Route::OnLink(OUTSIDE)),
            route("198.51.100.0/24", Route::Unreachable),
            route("10.0.0.9/32", Route::Local),
        ]
        .into_iter()
        .collect(),
        adjacencies: vec![
            adjacency(INSIDE, [10, 0, 0, 1], Some(Mac(NODE_MAC))),
            adjacency(OUTSIDE, [203, 0, 113, 1], router),
        ],
        neighbours: [
            ((INSIDE, Ipv4Addr::new(10, 0, 0, 1)), AdjacencyId(0)),
            ((OUTSIDE, Ipv4Addr::new(203, 0, 113, 1)), AdjacencyId(1)),
        ]
        .into_iter()
        .collect(),
    }
}

fn policy(settings: PoolSettings) -> Policy {
    let pool = Pool::new(PoolId(0), "default", settings, [PUBLIC, Ipv4Addr::new(203, 0, 113, 11)]);
    let rule = |name: &str, to: &str, action| Rule {
        name: name.into(),
        priority: 1000,
        from: vec!["10.244.0.0/16".parse().unwrap()],
        to: vec![to.parse().unwrap()],
        except: vec!["192.0.2.99/32".parse().unwrap()],
        services: vec![],
        action,
    };
    let rules = RuleSet::new(vec![
        rule("default", "0.0.0.0/0", Action::Pool(PoolId(0))),
        rule("exempt", "192.0.3.0/24", Action::Exempt),
    ]);
    Policy::new(1, vec![Arc::new(pool)], rules, Forwards::default(), Answers::default())
}

impl Rig {
    fn new(workers: u16) -> Self {
        Self::with(workers, PoolSettings::default(), Some(Mac(ROUTER_MAC)))
    }

    fn with(count: u16, settings: PoolSettings, router: Option<Mac>) -> Self {
        let interfaces = vec![interface("in0", true), interface("out0", false)];
        let snapshot = Arc::new(Published::new(Snapshot {
            interfaces,
            policy: Arc::new(policy(settings)),
            roads: Arc::new(roads(router)),
        }));
        let counters: Arc<AllCounters> =
            Arc::new((0..count).map(|_| CachePadded::new(WorkerCounters::default())).collect());
        let (notices_tx, notices) = channel::bounded(64);
        let shared = Shared {
            snapshot: Arc::clone(&snapshot),
            counters: Arc::clone(&counters),
            secret: Secret::from_seed(3),
            notices: notices_tx,
            clock: Clock::start(),
            sessions_per_worker: 10_000,
        };
        let ios: Vec<MemoryIo> = (0..count).map(|_| MemoryIo::new(FRAMES).unwrap()).collect();
        let wakers: Vec<Waker> = ios.iter().map(|io| io.waker().clone()).collect();
        let now = Timestamp::from_millis(1_000);
        let mut requests = Vec::new();
        let workers = ios
            .into_iter()
            .zip(HandOff::between(&wakers))
            .enumerate()
            .map(|(id, (io, hand_off))| {
                let (tx, rx) = channel::bounded(16);
                requests.push(tx);
                Worker::new(id as u16, io, hand_off, rx, shared.clone(), now)
            })
            .collect();
        Self { workers, counters, snapshot, notices, requests, now, arrivals: 0 }
    }

    /// Lets a packet arrive, at each worker in turn.
    fn inject(&mut self, interface: InterfaceId, packet: &[u8]) {
        self.arrivals += 1;
        let worker = self.arrivals % self.workers.len();
        assert!(self.workers[worker].io_mut().inject(interface, packet));
    }

    /// Lets every worker take two turns, and collects what was sent.
    fn run(&mut self) -> Vec<(InterfaceId, Vec<u8>)> {
        let mut sent = Vec::new();
        for _ in 0..3 {
            for worker in &mut self.workers {
                worker.turn(self.now);
                while let Some(packet) = worker.io_mut().take_sent() {
                    sent.push(packet);
                }
            }
        }
        self.balance();
        sent
    }

    fn one(&mut self, interface: InterfaceId, packet: &[u8]) -> Option<(InterfaceId, Vec<u8>)> {
        self.inject(interface, packet);
        let mut sent = self.run();
        assert!(sent.len() <= 1, "one packet in, {} out", sent.len());
        sent.pop()
    }

    fn advance(&mut self, time: Duration) {
        self.now = self.now + time;
    }

    fn sum(&self, counter: impl Fn(&WorkerCounters) -> u64) -> u64 {
        self.counters.iter().map(|c| counter(c)).sum()
    }

    fn dropped(&self, reason: DropReason) -> u64 {
        self.sum(|c| c.drops[reason.index()].get())
    }

    /// Every packet is in exactly one counter, every frame in exactly one place.
    fn balance(&mut self) {
        let received = self.sum(|c| c.interfaces.iter().map(|i| i.received_packets.get()).sum());
        let dropped: u64 = DropReason::ALL.iter().map(|&reason| self.dropped(reason)).sum();
        let ended = self.sum(|c| c.forwarded.get() + c.answered.get() + c.held.get()) + dropped;
        assert_eq!(received, ended, "packets in and packets accounted for");
        assert_eq!(self.sum(|c| c.handed_over.get()), self.sum(|c| c.taken_over.get()));
        let held = self.sum(|c| c.held.get()) as usize;
        let frames = self.workers.iter_mut().map(|w| w.io_mut().frames());
        let (here, made) = frames.fold((0, 0), |(a, b), (x, y)| (a + x, b + y));
        assert_eq!(here + held, made, "frames conserved");
    }
}

fn ether(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], GATE_MAC).ipv4(src.octets(), dst.octets(), ttl)
}

fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src.0, dst.0, 64).udp(src.1, dst.1).write(&mut packet, payload).unwrap();
    packet
}

fn tcp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), flags: &str, payload: &[u8]) -> Vec<u8> {
    let mut step = ether(src.0, dst.0, 64).tcp(src.1, dst.1, 1000, 65_000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(77),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no flag {other}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, payload).unwrap();
    packet
}

fn ping(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src, dst, 64).icmpv4_echo_request(id, 5).write(&mut packet, payload).unwrap();
    packet
}

fn pong(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src, dst, 64).icmpv4_echo_reply(id, 5).write(&mut packet, payload).unwrap();
    packet
}

/// What a packet says, after its checksums were found right.
#[derive(Debug, PartialEq, Eq)]
struct Seen {
    macs: ([u8; 6], [u8; 6]),
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    ttl: u8,
    payload: Vec<u8>,
}

fn seen(packet: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(eth)) = &sliced.link else { panic!("no Ethernet") };
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
    let header = ip.header();
    assert_eq!(
        header.to_header().calc_header_checksum(),
        header.header_checksum(),
        "header checksum"
    );
    let (sport, dport, payload) = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => {
            if udp.checksum() != 0 {
                let want =
                    udp.to_header().calc_checksum_ipv4(&header.to_header(), udp.payload()).unwrap();
                assert_eq!(udp.checksum(), want, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port(), udp.payload())
        }
        TransportSlice::Tcp(tcp) => {
            let want = tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap();
            assert_eq!(tcp.checksum(), want, "TCP checksum");
            (tcp.source_port(), tcp.destination_port(), tcp.payload())
        }
        TransportSlice::Icmpv4(icmp) => {
            let want = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), want, "ICMP checksum");
            let id = u16::from_be_bytes([icmp.bytes5to8()[0], icmp.bytes5to8()[1]]);
            if icmp.type_u8() == 8 { (id, 0, icmp.payload()) } else { (0, id, icmp.payload()) }
        }
        other => panic!("neither UDP, TCP nor ICMP: {other:?}"),
    };
    Seen {
        macs: (eth.source(), eth.destination()),
        src: (header.source_addr(), sport),
        dst: (header.destination_addr(), dport),
        ttl: header.ttl(),
        payload: payload.to_vec(),
    }
}

/// Sends one request and one reply and checks both ends' view; returns the public endpoint.
fn round_trip(
    rig: &mut Rig,
    request: &[u8],
    reply: impl Fn((Ipv4Addr, u16)) -> Vec<u8>,
) -> (Ipv4Addr, u16) {
    let sent = seen(request);
    let (interface, out) = rig.one(INSIDE, request).expect("forwarded");
    let out = seen(&out);
    assert_eq!(interface, OUTSIDE);
    assert_eq!(out.macs, (GATE_MAC, ROUTER_MAC));
    assert_eq!((out.dst, out.ttl, &out.payload), (sent.dst, sent.ttl - 1, &sent.payload));
    assert_eq!(out.src.0.octets()[..3], [203, 0, 113]);
    let answer = reply(out.src);
    let answered = seen(&answer);
    let (interface, back) = rig.one(OUTSIDE, &answer).expect("mapped back");
    let back = seen(&back);
    assert_eq!(interface, INSIDE);
    assert_eq!(back.macs, (GATE_MAC, NODE_MAC));
    assert_eq!((back.src, back.dst), (answered.src, sent.src));
    assert_eq!((back.ttl, &back.payload), (answered.ttl - 1, &answered.payload));
    out.src
}

#[test]
fn every_protocol_goes_out_and_comes_back_at_any_number_of_workers() {
    for workers in [1, 2, 4, 7] {
        let mut rig = Rig::new(workers);
        for n in 1..30 {
            let request = udp((pod(n), 5000), (SERVER, 53), b"question");
            round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, b"longer answer"));
            let request = tcp((pod(n), 5000), (SERVER, 80), "S", b"");
            round_trip(&mut rig, &request, |public| tcp((SERVER, 80), public, "SA", b""));
            let request = ping(pod(n), SERVER, 5000, b"abc");
            round_trip(&mut rig, &request, |(addr, id)| pong(SERVER, addr, id, b"abc"));
        }
        assert_eq!(rig.sum(|c| c.handed_over.get()) > 0, workers > 1);
        assert_eq!(rig.sum(|c| c.forwarded.get()), 29 * 6);
    }
}

#[test]
fn two_pods_with_one_source_port_are_told_apart() {
    let mut rig = Rig::new(2);
    let mut owners = HashMap::new();
    for n in 1..60 {
        let request = udp((pod(n), 4000), (SERVER, 53), &[n]);
        let public = round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, &[n]));
        assert_eq!(owners.insert(public, n), None);
    }
}

#[test]
fn udp_without_checksum_stays_without() {
    let mut rig = Rig::new(1);
    let mut request = udp((pod(1), 4000), (SERVER, 53), b"x");
    request[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, out) = rig.one(INSIDE, &request).unwrap();
    assert_eq!(out[14 + 20 + 6..14 + 20 + 8], [0, 0]);
}

#[test]
fn partial_checksums_are_computed_and_wrong_ones_stay_wrong() {
    let mut rig = Rig::new(1);
    for (mut request, offset, protocol) in [
        (udp((pod(1), 4000), (SERVER, 53), b"odd"), 6, 17u8),
        (tcp((pod(1), 4000), (SERVER, 80), "S", b""), 16, 6),
    ] {
        let len = (request.len() - 34) as u16;
        let pseudo = crate::wire::checksum::pseudo_header(pod(1), SERVER, protocol, len);
        let partial = crate::wire::checksum::fold(pseudo).to_be_bytes();
        request[34 + offset..36 + offset].copy_from_slice(&partial);
        let (_, out) = rig.one(INSIDE, &request).unwrap();
        seen(&out);
    }
    assert_eq!(rig.sum(|c| c.checksums_repaired.get()), 2);
    let good = udp((pod(1), 4000), (SERVER, 53), b"odd");
    let mut wrong = good.clone();
    wrong[34 + 6] ^= 0x10;
    let field = |packet: &[u8]| u32::from(u16::from_be_bytes([packet[40], packet[41]]));
    let difference = |a: &[u8], b: &[u8]| (field(a) + 0xffff - field(b)) % 0xffff;
    let (_, good_out) = rig.one(INSIDE, &good).unwrap();
    let (_, wrong_out) = rig.one(INSIDE, &wrong).unwrap();
    assert_eq!(difference(&wrong_out, &good_out), difference(&wrong, &good));
    assert_eq!(rig.sum(|c| c.checksums_repaired.get()), 2);
}

#[test]
fn what_may_not_pass_is_dropped_under_its_name() {
    let mut rig = Rig::new(2);
    let mut expect = |packet: Vec<u8>, interface, reason| {
        let before = rig.dropped(reason);
        assert_eq!(rig.one(interface, &packet), None, "{reason} was forwarded");
        assert_eq!(rig.dropped(reason), before + 1, "{reason} was not counted");
    };
    let good = udp((pod(1), 4000), (SERVER, 53), b"data");
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet[24..26].fill(0);
        let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&packet[14..34]));
        packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
        packet
    };
    expect(good[..20].to_vec(), INSIDE, DropReason::Malformed);
    expect(good[..10].to_vec(), INSIDE, DropReason::Malformed);
    expect(with(14, 0x65), INSIDE, DropReason::Malformed);
    expect(with(17, 200), INSIDE, DropReason::Malformed);
    expect(with(23, 132), INSIDE, DropReason::UnsupportedProtocol);
    expect(with(20, 0x20), INSIDE, DropReason::Fragment);
    expect(with(26, 127), INSIDE, DropReason::BadAddress);
    expect(with(30, 224), INSIDE, DropReason::BadAddress);
    expect(with(22, 1), INSIDE, DropReason::TtlExpired);
    expect(with(30, 198), INSIDE, DropReason::NoRoute);
    let mut damaged = good.clone();
    damaged[24] ^= 1;
    expect(damaged, INSIDE, DropReason::BadHeaderChecksum);
    for other in [[0xff; 6], [2, 0, 0, 0, 0, 77]] {
        let mut frame = good.clone();
        frame[..6].copy_from_slice(&other);
        expect(frame, INSIDE, DropReason::NotForUs);
    }
    let mut ipv6 = good.clone();
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    expect(ipv6, INSIDE, DropReason::NotIpv4);
    expect(udp((pod(1), 0), (SERVER, 53), b""), INSIDE, DropReason::PortZero);
    expect(udp((Ipv4Addr::new(10, 9, 9, 9), 1), (SERVER, 53), b""), INSIDE, DropReason::NoRule);
    expect(udp((pod(1), 1), (Ipv4Addr::new(192, 0, 2, 99), 53), b""), INSIDE, DropReason::NoRule);
    expect(
        udp((pod(1), 1), (Ipv4Addr::new(10, 0, 0, 9), 53), b""),
        INSIDE,
        DropReason::WrongInterface,
    );
    expect(udp((pod(1), 1), (pod(2), 53), b""), INSIDE, DropReason::WrongInterface);
    expect(udp((pod(1), 1), (PUBLIC, 53), b""), INSIDE, DropReason::NoSession);
    expect(tcp((pod(1), 1), (SERVER, 80), "A", b""), INSIDE, DropReason::TcpNotSyn);
    expect(tcp((pod(1), 1), (SERVER, 80), "SF", b""), INSIDE, DropReason::TcpNotSyn);
    expect(pong(pod(1), SERVER, 7, b""), INSIDE, DropReason::IcmpType);
    expect(udp((SERVER, 53), (PUBLIC, 5000), b""), OUTSIDE, DropReason::NoSession);
    expect(udp((PUBLIC, 53), (PUBLIC, 5000), b""), OUTSIDE, DropReason::Spoofed);
    expect(udp((SERVER, 53), (pod(1), 5000), b""), OUTSIDE, DropReason::Spoofed);
    expect(udp((pod(1), 4000), (SERVER, 53), &[0; 1473]), INSIDE, DropReason::TooBig);
}

#[test]
fn record_route_does_not_leave() {
    let mut rig = Rig::new(1);
    let mut option = udp((pod(1), 4000), (SERVER, 53), b"data");
    option.splice(34..34, [7, 4, 4, 0]);
    option[14] = 0x46;
    option[17] += 4;
    option[24..26].fill(0);
    let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&option[14..38]));
    option[24..26].copy_from_slice(&(!sum).to_be_bytes());
    assert_eq!(rig.one(INSIDE, &option), None);
    assert_eq!(rig.dropped(DropReason::IpOption), 1);
}

#[test]
fn a_flow_without_a_way_out_takes_no_port() {
    let mut rig = Rig::new(1);
    let nowhere = Ipv4Addr::new(198, 51, 100, 1);
    assert_eq!(rig.one(INSIDE, &udp((pod(1), 4000), (nowhere, 53), b"q")), None);
    rig.advance(Duration::from_secs(1));
    rig.run();
    assert_eq!(rig.dropped(DropReason::NoRoute), 1);
    assert_eq!(rig.sum(|c| c.sessions_created.get() + c.subscribers.get()), 0);
}

#[test]
fn replies_only_from_the_addressed_remote() {
    let mut rig = Rig::new(2);
    let request = udp((pod(1), 4000), (SERVER, 53), b"q");
    let public = round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, b"a"));
    assert_eq!(rig.one(OUTSIDE, &udp((SERVER, 54), public, b"other port")), None);
    assert_eq!(
        rig.one(OUTSIDE, &udp((Ipv4Addr::new(192, 0, 2, 81), 53), public, b"other host")),
        None
    );
    assert_eq!(rig.dropped(DropReason::NoSession), 2);
}

#[test]
fn exempt_traffic_passes_untranslated_both_ways() {
    let mut rig = Rig::new(2);
    let (interface, out) =
        rig.one(INSIDE, &udp((pod(1), 4000), (EXEMPT_SERVER, 53), b"q")).unwrap();
    let out = seen(&out);
    assert_eq!((interface, out.src, out.ttl), (OUTSIDE, (pod(1), 4000), 63));
    let (interface, back) =
        rig.one(OUTSIDE, &udp((EXEMPT_SERVER, 53), (pod(1), 4000), b"a")).unwrap();
    let back = seen(&back);
    assert_eq!((interface, back.src, back.dst), (INSIDE, (EXEMPT_SERVER, 53), (pod(1), 4000)));
    assert_eq!(rig.sum(|c| c.sessions_created.get()), 0);
}

#[test]
fn packets_wait_for_their_next_hop_and_none_is_lost() {
    let mut rig = Rig::with(2, PoolSettings::default(), None);
    for n in 1..=20 {
        rig.inject(INSIDE, &udp((pod(n), 4000), (SERVER, 53), &[n]));
    }
    assert!(rig.run().is_empty());
    let asked: Vec<Notice> = rig.notices.try_iter().collect();
    assert!(!asked.is_empty() && asked.len() <= 2, "one question a worker: {asked:?}");
    assert_eq!(asked[0], Notice::Resolve(OUTSIDE, Ipv4Addr::new(203, 0, 113, 1)));
    let old = rig.snapshot.get();
    rig.snapshot
        .publish(Snapshot { roads: Arc::new(roads(Some(Mac(ROUTER_MAC)))), ..(*old).clone() });
    let sent = rig.run();
    assert_eq!(sent.len(), 20);
    assert!(sent.iter().all(|(_, packet)| seen(packet).macs == (GATE_MAC, ROUTER_MAC)));
    // A neighbour that never answers: the packets are dropped under that name.
    let mut rig = Rig::with(1, PoolSettings::default(), None);
    assert_eq!(rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"q")), None);
    rig.advance(Duration::from_millis(3_100));
    rig.run();
    assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 1);
}

#[test]
fn a_one_armed_gateway_tells_the_sides_apart_by_the_source() {
    let mut rig = Rig::new(2);
    let old = rig.snapshot.get();
    let mut one_armed = interface("arm0", true);
    one_armed.roles.external = true;
    let mut roads = (*old.roads).clone();
    roads.generation += 1;
    for adjacency in &mut roads.adjacencies {
        adjacency.interface = INSIDE;
    }
    rig.snapshot.publish(Snapshot {
        interfaces: vec![one_armed],
        roads: Arc::new(roads),
        ..(*old).clone()
    });
    let (interface, out) = rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"q")).unwrap();
    let out = seen(&out);
    assert_eq!((interface, out.macs.1), (INSIDE, ROUTER_MAC));
    let (interface, back) = rig.one(INSIDE, &udp((SERVER, 53), out.src, b"a")).unwrap();
    let back = seen(&back);
    assert_eq!((interface, back.macs.1, back.dst), (INSIDE, NODE_MAC, (pod(1), 4000)));
}

#[test]
fn a_route_change_is_followed_by_old_sessions() {
    let mut rig = Rig::new(1);
    let packet = udp((pod(1), 4000), (SERVER, 53), b"q");
    assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, ROUTER_MAC);
    let old = rig.snapshot.get();
    let mut roads = (*old.roads).clone();
    roads.generation += 1;
    roads.adjacencies.push(Adjacency {
        interface: OUTSIDE,
        address: Ipv4Addr::new(203, 0, 113, 2),
        mac: Some(Mac([2, 0, 0, 0, 0, 3])),
    });
    roads.routes =
        [("192.0.2.0/24".parse().unwrap(), Route::Via(AdjacencyId(2)))].into_iter().collect();
    rig.snapshot.publish(Snapshot { roads: Arc::new(roads), ..(*old).clone() });
    assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, [2, 0, 0, 0, 0, 3]);
}

#[test]
fn pings_to_pool_addresses_are_answered_within_limits() {
    let mut rig = Rig::new(1);
    for interface in [INSIDE, OUTSIDE] {
        let (back, reply) = rig.one(interface, &ping(SERVER, PUBLIC, 9, b"hello")).unwrap();
        let reply = seen(&reply);
        assert_eq!(back, interface);
        assert_eq!((reply.src.0, reply.dst, reply.ttl), (PUBLIC, (SERVER, 9), 64));
        assert_eq!(reply.payload, b"hello");
    }
    let mut answered = 0;
    for _ in 0..30 {
        for _ in 0..60 {
            rig.inject(OUTSIDE, &ping(SERVER, PUBLIC, 9, b""));
        }
        answered += rig.run().len();
    }
    assert_eq!(answered, 98, "100 a second, two used above");
    assert_eq!(rig.dropped(DropReason::EchoLimited), 1_800 - 98);
}

#[test]
fn a_ping_from_outside_with_an_internal_source_is_not_answered() {
    let mut rig = Rig::new(2);
    for (count, source) in [(1, pod(1)), (2, PUBLIC)] {
        assert_eq!(rig.one(OUTSIDE, &ping(source, PUBLIC, 9, b"hello")), None);
        assert_eq!(rig.dropped(DropReason::Spoofed), count);
    }
    assert!(rig.one(INSIDE, &ping(pod(1), PUBLIC, 9, b"hello")).is_some(), "pods may ask");
}

#[test]
fn nobody_outside_opens_a_connection_to_a_pod_by_the_exempt_rule() {
    let mut rig = Rig::new(2);
    let (server, client) = ((EXEMPT_SERVER, 80), (pod(1), 4000));
    for flags in ["SA", "A", "FA", "R"] {
        assert!(rig.one(OUTSIDE, &tcp(server, client, flags, b"")).is_some(), "{flags} is a reply");
    }
    assert!(rig.one(INSIDE, &tcp(client, server, "S", b"")).is_some());
    assert_eq!(rig.dropped(DropReason::Spoofed), 0);
    assert_eq!(rig.one(OUTSIDE, &tcp(server, client, "S", b"")), None);
    assert_eq!(rig.dropped(DropReason::Spoofed), 1);
}

#[test]
fn arp_is_answered_for_pool_addresses_outside_and_announced() {
    use crate::wire::arp::{self, Operation, Party};
    let ask = |target: Ipv4Addr| {
        let mut packet = vec![0; 42];
        packet[..6].fill(0xff);
        packet[6..12].copy_from_slice(&ROUTER_MAC);
        packet[12..14].copy_from_slice(&[8, 6]);
        let sender = Party { mac: Mac(ROUTER_MAC), ip: Ipv4Addr::new(203, 0, 113, 1) };
        arp::emit(
            &mut packet[14..],
            Operation::Request,
            sender,
            Party { mac: Mac::default(), ip: target },
        )
        .unwrap();
        packet
    };
    let mut rig = Rig::new(2);
    let (interface, reply) = rig.one(OUTSIDE, &ask(PUBLIC)).unwrap();
    assert_eq!(interface, OUTSIDE);
    assert_eq!((&reply[..6], &reply[6..12]), (&ROUTER_MAC[..], &GATE_MAC[..]));
    let arp = crate::wire::Arp::new_checked(&reply[14..]).unwrap();
    assert_eq!(arp.operation(), Some(Operation::Reply));
    assert_eq!(arp.sender(), Party { mac: Mac(GATE_MAC), ip: PUBLIC });
    assert_eq!(rig.one(OUTSIDE, &ask(Ipv4Addr::new(203, 0, 113, 77))), None);
    assert_eq!(rig.one(INSIDE, &ask(PUBLIC)), None);
    assert_eq!(rig.dropped(DropReason::ArpIgnored), 2);
    rig.requests[0].send(Request::Announce).unwrap();
    let announced = rig.run();
    assert_eq!(announced.len(), 2, "both addresses are on the link");
    for (interface, packet) in announced {
        let arp = crate::wire::Arp::new_checked(&packet[14..]).unwrap();
        assert_eq!((interface, &packet[..6]), (OUTSIDE, &[0xff; 6][..]));
        assert_eq!(arp.sender().ip, arp.target().ip);
    }
}

#[test]
fn unknown_segments_from_inside_are_reset_after_the_grace_time() {
    let mut rig = Rig::new(2);
    let packet = tcp((pod(1), 4000), (SERVER, 80), "A", b"data");
    assert_eq!(rig.one(INSIDE, &packet), None);
    rig.advance(Duration::from_secs(10));
    let (interface, reset) = rig.one(INSIDE, &packet).unwrap();
    assert_eq!(interface, INSIDE);
    let view = seen(&reset);
    assert_eq!((view.src, view.dst), ((SERVER, 80), (pod(1), 4000)));
    let sliced = SlicedPacket::from_ethernet(&reset).unwrap();
    let Some(TransportSlice::Tcp(tcp_header)) = sliced.transport else { panic!("no TCP") };
    assert!(tcp_header.rst() && !tcp_header.ack());
    assert_eq!(tcp_header.sequence_number(), 77, "what the segment acknowledged");
    let reset_in = tcp((pod(1), 4000), (SERVER, 80), "RA", b"");
    assert_eq!(rig.one(INSIDE, &reset_in), None, "no reset in answer to a reset");
}

#[test]
fn a_full_transmit_ring_and_a_full_hand_off_ring_drop_and_count() {
    let mut rig = Rig::new(1);
    rig.workers[0].io_mut().limit_transmit(10);
    for n in 0..30 {
        rig.inject(INSIDE, &udp((pod(n), 4000), (SERVER, 53), b""));
    }
    assert_eq!(rig.workers[0].turn(rig.now), 30);
    assert_eq!(rig.dropped(DropReason::TransmitFull), 20);
}

#[test]
fn listings_come_in_slices_and_stop_for_a_reader_that_is_gone() {
    let mut rig = Rig::new(1);
    for round in 0..10 {
        for n in 0..60 {
            rig.inject(INSIDE, &udp((pod(n), 4000 + round), (SERVER, 443), b""));
        }
        assert_eq!(rig.run().len(), 60);
    }
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { protocol: Some(Protocol::Udp), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    let mut rows = Vec::new();
    for _ in 0..20 {
        rig.run();
        rows.extend(rx.try_iter().flatten());
    }
    assert_eq!(rows.len(), 600);
    assert_eq!(rx.try_recv(), Err(channel::TryRecvError::Disconnected));
    assert!(rows.iter().all(|row| row.packets_out == 1 && row.state == "open" && row.worker == 0));
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { address: Some(pod(7)), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    rig.run();
    drop(rx);
    rig.run();
}

/// Opens `rounds` times 60 UDP sessions that end after 10 s.
fn open_sessions(rig: &mut Rig, rounds: u16) {
    for round in 0..rounds {
        for n in 0..60 {
            rig.inject(INSIDE, &udp((pod(n), 4000 + round), (SERVER, 53), b""));
        }
        assert_eq!(rig.run().len(), 60);
    }
}

#[test]
fn an_idle_worker_does_not_sleep_while_sessions_are_due() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 60);
    rig.advance(Duration::from_secs(20));
    let worker = &mut rig.workers[0];
    while worker.turn(rig.now) == 0 && worker.unfinished {}
    assert_eq!(worker.nat.stats().ended, 3_600, "the worker went to sleep before");
    assert!(!worker.unfinished);
}

#[test]
fn a_listing_without_rows_shows_life_and_keeps_an_idle_worker_awake() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 100);
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { protocol: Some(Protocol::Tcp), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    let worker = &mut rig.workers[0];
    let mut turns = 1;
    while worker.turn(rig.now) == 0 && worker.unfinished {
        turns += 1;
    }
    assert!(turns >= 6_000 / 256, "asleep after {turns} turns");
    assert_eq!(rx.try_recv(), Ok(vec![]), "a sign of life");
    assert_eq!(rx.try_recv(), Err(channel::TryRecvError::Disconnected), "the end");
}

#[test]
fn a_listing_whose_reader_is_slow_lets_an_idle_worker_sleep() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 20);
    let (tx, rx) = channel::bounded(1);
    rig.requests[0].send(Request::Sessions(SessionFilter::default(), tx)).unwrap();
    let worker = &mut rig.workers[0];
    let mut rows = 0;
    for _ in 0..10 {
        for turn in 0.. {
            worker.turn(rig.now);
            if !worker.unfinished {
                break;
            }
            assert!(turn < 10, "the worker spins for a reader that is slow");
        }
        rows += rx.try_iter().flatten().count();
    }
    assert_eq!(rows, 1_200);
}

/// The rights that docs/operations.md asks for; not `CAP_PERFMON`, not `CAP_SYS_ADMIN`.
const RIGHTS: &str = "-all,+net_admin,+net_raw,+bpf,+ipc_lock";

#[test]
fn the_steering_program_loads_without_cap_perfmon() {
    const CHILD: &str = "NATGATE_TEST_LOADS";
    if std::env::var(CHILD).is_ok() {
        crate::xsk::Steering::load().unwrap();
        return;
    }
    if std::os::unix::fs::MetadataExt::uid(&std::fs::metadata("/proc/self").unwrap()) != 0 {
        return; // only root can load it at all
    }
    crate::xsk::Steering::load().unwrap();
    let mut child = std::process::Command::new("setpriv");
    child.args(["--bounding-set", RIGHTS, "--inh-caps", RIGHTS]);
    child.arg(std::env::current_exe().unwrap()).env(CHILD, "1");
    child.args(["--exact", "tests::the_steering_program_loads_without_cap_perfmon", "--nocapture"]);
    let output = child.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert!(String::from_utf8_lossy(&output.stdout).contains("1 passed"), "{output:?}");
}

proptest! {
    #[test]
    fn no_frame_panics_the_pipeline_or_is_lost(
        frames in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..120)), 1..40),
    ) {
        let mut rig = Rig::new(2);
        for (outside, bytes) in frames {
            rig.inject(if outside { OUTSIDE } else { INSIDE }, &bytes);
            rig.run();
        }
    }

    #[test]
    fn no_damaged_packet_panics_the_pipeline_or_is_lost(
        damage in prop::collection::vec((12usize..80, any::<u8>(), 0usize..90), 1..60),
    ) {
        let mut rig = Rig::new(2);
        let good = [
            udp((pod(1), 4000), (SERVER, 53), &[7; 40]),
            tcp((pod(1), 4000), (SERVER, 80), "S", &[7; 40]),
            ping(pod(1), SERVER, 1, &[7; 40]),
        ];
        for (i, (at, value, cut)) in damage.into_iter().enumerate() {
            let mut packet = good[i % 3].clone();
            let at = at.min(packet.len() - 1);
            packet[at] = value;
            packet.truncate(packet.len().saturating_sub(cut / 3));
            // Keep the header checksum right, so that damage gets past the first check.
            if packet.len() >= 34 {
                packet[24..26].fill(0);
                let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&packet[14..34]));
                packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
            }
            rig.inject(INSIDE, &packet);
            rig.run();
        }
    }
}
