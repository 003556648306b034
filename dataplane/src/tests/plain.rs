//! The plain lane does what the general way does: two gateways get the same bursts, and in one of them no packet is
//! plain. So it does with several workers, where a plain packet that lives elsewhere leaves before any look-up.

use proptest::prelude::*;

use conntrack::Timestamp;

use super::pieces::with_id;
use super::rig::{interface, policy, roads};
use super::*;
use crate::counters::Counter;
use crate::interface::{InterfaceId, Mac};
use crate::io::PacketIo;
use crate::request::{Request, SessionFilter, SessionRow};
use crate::rule::{Action, RuleSet, Service};
use crate::snapshot::{Policy, Snapshot};
use crate::wire::checksum;

const SERVERS: [Ipv4Addr; 4] =
    [SERVER, Ipv4Addr::new(192, 0, 2, 81), Ipv4Addr::new(203, 0, 113, 10), EXEMPT_SERVER];
const FLOWS: u8 = 8;
/// Stands for packets from a server to a pod itself.
const TO_POD: u8 = 3;

/// What is odd about a packet.
#[derive(Clone, Copy, Debug)]
enum Oddity {
    None,
    DfClear,
    NoChecksum,
    WrongChecksum,
    PartialChecksum,
    WrongHeader,
    LastHop,
    Truncated,
    Padded,
    PaddedBeyond,
    WrongMac,
    Fragment,
    Options,
    Long,
    ShortUdp,
    Multicast,
    PortZero,
    ReservedBit,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Udp,
    Tcp(&'static str),
    Ping,
}

#[derive(Clone, Debug)]
enum Step {
    /// Packets that arrive in one burst: from inside, or from outside to what was seen leaving, or to a pod.
    Burst(Vec<(bool, u8, u8, Kind, Oddity)>),
    Wait(u64),
    /// The routes change, or the router's Ethernet address, or the MTU outside.
    Roads(u32, Option<u8>, u16),
    /// Traffic that was exempt is not, or the other way round.
    Rules(Exempt),
}

#[derive(Clone, Copy, Debug)]
enum Exempt {
    Nothing,
    All,
    Datagrams,
}

const ODDITIES: [Oddity; 16] = [
    Oddity::NoChecksum,
    Oddity::WrongChecksum,
    Oddity::PartialChecksum,
    Oddity::WrongHeader,
    Oddity::LastHop,
    Oddity::Truncated,
    Oddity::Padded,
    Oddity::PaddedBeyond,
    Oddity::WrongMac,
    Oddity::Fragment,
    Oddity::Options,
    Oddity::Long,
    Oddity::ShortUdp,
    Oddity::Multicast,
    Oddity::PortZero,
    Oddity::ReservedBit,
];

fn oddity() -> impl Strategy<Value = Oddity> {
    prop_oneof![
        12 => Just(Oddity::None),
        3 => Just(Oddity::DfClear),
        6 => prop::sample::select(&ODDITIES[..]),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    let kind = prop_oneof![
        4 => Just(Kind::Udp),
        4 => prop::sample::select(vec!["S", "SA", "A", "A", "A", "FA", "R", "RA"]).prop_map(Kind::Tcp),
        1 => Just(Kind::Ping),
    ];
    let packet = (any::<bool>(), 0..=TO_POD, 0..FLOWS, kind, oddity());
    prop_oneof![
        12 => prop::collection::vec(packet, 1..12).prop_map(Step::Burst),
        1 => prop::sample::select(vec![1, 500, 3_000, 70_000, 301_000]).prop_map(Step::Wait),
        1 => (1..4u32, prop::option::weighted(0.8, 1..3u8), prop::sample::select(vec![1500, 60, 28]))
            .prop_map(|(generation, mac, mtu)| Step::Roads(generation, mac, mtu)),
        1 => prop::sample::select(vec![Exempt::Nothing, Exempt::All, Exempt::Datagrams])
            .prop_map(Step::Rules),
    ]
}

fn fix_header(frame: &mut [u8]) {
    let end = 14 + usize::from(frame[14] & 15) * 4;
    frame[24..26].fill(0);
    let sum = !checksum::fold(checksum::sum(&frame[14..end]));
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

/// Makes a packet that has DF odd.
fn make_odd(frame: &mut Vec<u8>, oddity: Oddity) {
    let checksum = if frame[23] == 6 { 50 } else { 40 };
    match oddity {
        Oddity::None => {}
        Oddity::DfClear => *frame = with_id(frame, 77, false),
        Oddity::NoChecksum => frame[checksum..checksum + 2].fill(0),
        Oddity::WrongChecksum => frame[checksum] ^= 0x55,
        Oddity::PartialChecksum => {
            let address =
                |at: usize| Ipv4Addr::new(frame[at], frame[at + 1], frame[at + 2], frame[at + 3]);
            let len = u16::from_be_bytes([frame[16], frame[17]]) - 20;
            let pseudo = checksum::pseudo_header(address(26), address(30), frame[23], len);
            let partial = checksum::fold(pseudo).to_be_bytes();
            frame[checksum..checksum + 2].copy_from_slice(&partial);
        }
        Oddity::WrongHeader => frame[24] ^= 1,
        Oddity::LastHop => frame[22] = 1,
        Oddity::Truncated => frame.truncate(frame.len() - 3),
        Oddity::Padded => frame.resize(frame.len() + 6, 0xaa),
        Oddity::PaddedBeyond => frame.resize(1514 + 20, 0),
        Oddity::WrongMac => frame[5] ^= 1,
        Oddity::Fragment => frame[20] |= 0x20,
        Oddity::Options => {
            frame[14] = 0x46;
            frame.splice(34..34, [1, 1, 1, 0]);
            frame[17] += 4;
        }
        Oddity::Long => {
            frame.resize(14 + 1500, 7);
            frame[16..18].copy_from_slice(&1500u16.to_be_bytes());
        }
        Oddity::ShortUdp => frame[39] = 7,
        Oddity::Multicast => frame[26..30].copy_from_slice(&[224, 0, 0, 5]),
        Oddity::PortZero => frame[34..36].fill(0),
        Oddity::ReservedBit => frame[20] |= 0x80,
    }
    if !matches!(oddity, Oddity::WrongHeader | Oddity::DfClear) {
        fix_header(frame);
    }
}

/// `before`, but for what is exempt.
fn with_exempt(before: &Policy, exempt: Exempt) -> Policy {
    let mut rules = policy(PoolSettings::default()).rules.rules().to_vec();
    match exempt {
        Exempt::Nothing => rules.retain(|rule| rule.action != Action::Exempt),
        Exempt::All => {}
        Exempt::Datagrams => {
            let datagrams = Service { protocol: Protocol::Udp, ports: 443..=443 };
            let exempt = rules.iter_mut().filter(|rule| rule.action == Action::Exempt);
            exempt.for_each(|rule| rule.services.push(datagrams.clone()));
        }
    }
    Policy { rules: RuleSet::new(rules), ..before.clone() }
}

/// Both gateways, and the ends that were seen outside.
struct Twins {
    rigs: [Rig; 2],
    seen: Vec<((Ipv4Addr, u16), (Ipv4Addr, u16))>,
}

impl Twins {
    fn new(settings: &PoolSettings, workers: u16) -> Self {
        let rig = || Rig::with(workers, settings.clone(), Some(Mac(ROUTER_MAC)));
        let mut twins = Self { rigs: [rig(), rig()], seen: Vec::new() };
        for worker in &mut twins.rigs[1].workers {
            worker.lane.closed = true;
        }
        twins
    }

    fn frame(&self, packet: (bool, u8, u8, Kind, Oddity)) -> (InterfaceId, Vec<u8>) {
        let (inside, host, flow, kind, oddity) = packet;
        let server = usize::from(flow) % SERVERS.len();
        let port = 4000 + u16::from(flow) / SERVERS.len() as u16;
        let (inner, outer) = ((pod(1 + host), port), (SERVERS[server], 443));
        let number = usize::from(host) * usize::from(FLOWS) + usize::from(flow);
        let reply = self.seen.get(number % self.seen.len().max(1));
        let (interface, src, dst) = match (inside, reply) {
            _ if host == TO_POD => (OUTSIDE, outer, (pod(1), port)),
            (false, Some(&(public, remote))) => (OUTSIDE, remote, public),
            _ => (INSIDE, inner, outer),
        };
        let mut frame = match kind {
            Kind::Udp => udp(src, dst, b"0123456789"),
            Kind::Tcp(flags) => tcp(src, dst, flags, b"data"),
            Kind::Ping if interface == INSIDE => ping(src.0, dst.0, src.1, b"echo"),
            Kind::Ping => pong(src.0, dst.0, dst.1, b"echo"),
        };
        frame = with_id(&frame, 9, true);
        make_odd(&mut frame, oddity);
        (interface, frame)
    }

    fn play(&mut self, step: &Step) {
        match step {
            Step::Burst(packets) => {
                let frames: Vec<_> = packets.iter().map(|&packet| self.frame(packet)).collect();
                let [open, closed] = self.rigs.each_mut().map(|rig| {
                    for (interface, frame) in &frames {
                        rig.inject(*interface, frame);
                    }
                    rig.run()
                });
                assert_eq!(open, closed, "what was sent, about {frames:02x?}");
                for (interface, frame) in open {
                    let udp_or_tcp = frame[12..15] == [8, 0, 0x45] && matches!(frame[23], 6 | 17);
                    if interface == OUTSIDE && udp_or_tcp && frame.len() >= 42 {
                        let end = |at: usize, port: usize| {
                            let addr: [u8; 4] = frame[at..at + 4].try_into().unwrap();
                            let port = u16::from_be_bytes([frame[port], frame[port + 1]]);
                            (Ipv4Addr::from(addr), port)
                        };
                        self.seen.push((end(26, 34), end(30, 36)));
                    }
                }
            }
            Step::Wait(millis) => {
                for rig in &mut self.rigs {
                    rig.advance(Duration::from_millis(*millis));
                }
            }
            &Step::Rules(exempt) => {
                for rig in &self.rigs {
                    let before = Snapshot::clone(&rig.snapshot.get());
                    let policy = Arc::new(with_exempt(&before.policy, exempt));
                    rig.snapshot.publish(Snapshot { policy, ..before });
                }
            }
            &Step::Roads(generation, mac, mtu) => {
                for rig in &self.rigs {
                    let mut roads = roads(mac.map(|last| Mac([2, 0, 0, 0, 0, last])));
                    roads.generation = generation;
                    let mut outside = interface("out0", false);
                    outside.mtu = mtu;
                    rig.snapshot.publish(Snapshot {
                        interfaces: vec![interface("in0", true), outside],
                        policy: Arc::clone(&rig.snapshot.get().policy),
                        roads: Arc::new(roads),
                    });
                }
            }
        }
    }

    /// Counters of each worker, and sessions.
    fn state(&mut self) -> [(Vec<u64>, Vec<SessionRow>); 2] {
        self.rigs.each_mut().map(|rig| {
            let (tx, rx) = channel::bounded(64);
            for requests in &rig.requests {
                requests.send(Request::Sessions(SessionFilter::default(), tx.clone())).unwrap();
            }
            rig.run();
            let mut rows: Vec<SessionRow> = rx.try_iter().flatten().collect();
            rows.sort_by_key(|row| format!("{row:?}"));
            // What is dropped may be seen to be bad only at its home.
            let mut counts: Vec<u64> =
                DropReason::ALL.iter().map(|&reason| rig.dropped(reason)).collect();
            for c in rig.counters.iter() {
                for it in &c.interfaces[..2] {
                    counts.extend([&it.received_packets, &it.received_bytes].map(Counter::get));
                    counts
                        .extend([&it.transmitted_packets, &it.transmitted_bytes].map(Counter::get));
                }
                let others = [
                    &c.forwarded,
                    &c.answered,
                    &c.held,
                    &c.checksums_repaired,
                    &c.ip_id_reused,
                    &c.fragments_sent,
                    &c.sessions,
                ];
                counts.extend(others.map(Counter::get));
            }
            (counts, rows)
        })
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]
    #[test]
    fn both_ways_do_the_same(
        steps in prop::collection::vec(step(), 1..40),
        (strict, anybody) in any::<(bool, bool)>(),
        workers in 1..4u16,
    ) {
        let mut settings =
            if anybody { PoolSettings::rfc4787() } else { PoolSettings::high_density() };
        if strict {
            settings.ip_id = conntrack::IpId::Strict;
        }
        let mut twins = Twins::new(&settings, workers);
        for step in &steps {
            twins.play(step);
            let [open, closed] = twins.state();
            prop_assert_eq!(open, closed, "after {:?}", step);
        }
    }
}

/// The second packet of a burst belongs to the session that the first one makes; the third is plain, and the last
/// reply's session has ended when it comes.
#[test]
fn a_burst_makes_uses_and_ends_sessions() {
    let mut twins = Twins::new(&PoolSettings::default(), 1);
    let packet = |inside, kind| (inside, 0, 0, kind, Oddity::None);
    let udp = packet(true, Kind::Udp);
    twins.play(&Step::Burst(vec![udp, udp, udp]));
    let tcp = |inside, flags| packet(inside, Kind::Tcp(flags));
    twins.play(&Step::Burst(vec![
        tcp(true, "S"),
        tcp(false, "SA"),
        tcp(true, "A"),
        tcp(true, "A"),
    ]));
    twins.play(&Step::Wait(400_000));
    twins.play(&Step::Burst(vec![packet(false, Kind::Udp), udp, udp]));
    let [open, closed] = twins.state();
    assert_eq!(open, closed);
    assert!(twins.rigs[0].now > Timestamp::from_millis(400_000));
}

/// The lane is used at all: a plain packet is not parsed a second time.
#[test]
fn established_packets_are_plain() {
    let mut rig = Rig::new(1);
    let packet = with_id(&udp((pod(1), 4000), (SERVER, 443), b"x"), 1, true);
    rig.one(INSIDE, &packet).unwrap();
    let worker = &mut rig.workers[0];
    assert!(worker.io_mut().inject(INSIDE, &packet));
    let mut burst = Vec::new();
    assert_eq!(worker.io.receive(1, &mut burst), 1);
    let received = burst.pop().unwrap();
    let frame = worker.io.bytes(&received.frame);
    let mut glance =
        worker.lane.look(frame, INSIDE, worker.nat.secret()).expect("its shape is plain");
    worker.nat.touch_bucket(&mut glance.key);
    worker.nat.guess(&mut glance.key);
    worker.nat.touch_guessed(&mut glance.key);
    let mut sent = crate::plain::Run::NONE;
    assert!(worker.pass(received, &glance, rig.now, &mut sent).is_ok(), "and so is its session");
    assert_eq!(sent.packets, 1);
}
