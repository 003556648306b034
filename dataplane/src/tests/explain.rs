//! What is explained is what then happens, and explaining changes nothing.

use conntrack::{Endpoint, PoolSettings, Quota, Realm};
use proptest::prelude::*;

use super::fixed_rig::{CLIENTS, HOSTS, OWN, RANGE, SECURE, WEB, fixed_rig};
use super::icmp::change;
use super::*;
use crate::explain::{Explanation, Flow, Outcome, follow, most_telling};
use crate::interface::InterfaceId;
use crate::snapshot::{Answers, Refused};

/// All answers of all workers, by requests.
fn explain(rig: &mut Rig, flow: Flow) -> Vec<Explanation> {
    follow(flow, |flow| {
        let (reply, answers) = channel::bounded(8);
        for worker in &rig.requests {
            worker.send(Request::Explain(flow, reply.clone())).unwrap();
        }
        assert_eq!(rig.run(), [], "explaining sends nothing");
        let answers: Vec<_> = answers.try_iter().collect();
        assert!(!answers.is_empty(), "somebody knows");
        most_telling(answers)
    })
}

/// What must not change: sessions, subscribers, blocks, and every count of packets.
fn trace(rig: &Rig) -> String {
    let nats: Vec<_> = rig.workers.iter().map(|worker| worker.nat().stats()).collect();
    let drops: Vec<u64> = DropReason::ALL.iter().map(|&reason| rig.dropped(reason)).collect();
    let sent = rig.sum(|c| c.forwarded.get() + c.answered.get() + c.slow_path.get());
    let held: Vec<_> = rig.snapshot.get().policy.pools.iter().map(|pool| pool.fill()).collect();
    format!("{nats:?} {drops:?} {sent} {held:?}")
}

#[derive(Clone, Copy, Debug)]
struct Shot {
    protocol: usize,
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    inside: bool,
}

fn addr(text: &str) -> Ipv4Addr {
    text.parse().unwrap()
}

fn shot() -> impl Strategy<Value = Shot> {
    let pods: Vec<Ipv4Addr> =
        CLIENTS.into_iter().chain([2, 3]).map(pod).chain(HOSTS).chain([addr("10.9.9.9")]).collect();
    let places = [
        "192.0.2.80",
        "192.0.2.81",
        "192.0.2.99",
        "192.0.3.80",
        "198.51.100.70",
        "198.51.100.130",
        "198.51.100.200",
        "8.8.8.8",
        "10.0.0.9",
        "10.244.1.1",
        "203.0.113.1",
        "203.0.113.77",
        "127.0.0.1",
    ];
    let servers = places.map(|it| (addr(it), 80)).into_iter().chain([
        WEB,
        SECURE,
        RANGE,
        (RANGE.0, RANGE.1 + 99),
        (OWN[0], 80),
        (OWN[1], 81),
        (PUBLIC, 2_000),
        (addr("192.0.2.80"), 53),
    ]);
    let servers: Vec<_> = servers.collect();
    let inside = (
        0usize..4,
        prop::sample::select(pods),
        prop::sample::select(vec![80u16, 53, 4_000, 4_001, 7_003]),
        prop::sample::select(servers),
    );
    let strangers = vec![addr("192.0.2.80"), addr("192.0.3.80"), pod(1), PUBLIC];
    let targets =
        vec![WEB, SECURE, RANGE, (PUBLIC, 2_000), (OWN[0], 80), (pod(1), 80), (addr("8.8.8.8"), 1)];
    let outside = (
        0usize..4,
        prop::sample::select(strangers),
        5_000u16..5_003,
        prop::sample::select(targets),
    );
    prop_oneof![
        4 => inside.prop_map(|(protocol, src, port, dst)| Shot { protocol, src: (src, port), dst, inside: true }),
        1 => outside.prop_map(|(protocol, src, port, dst)| Shot { protocol, src: (src, port), dst, inside: false }),
    ]
}

/// The flow, and its first packet.
fn flow_of(shot: Shot) -> (Flow, Vec<u8>) {
    let Shot { protocol, src, dst, inside } = shot;
    let arrival = if inside { INSIDE } else { OUTSIDE };
    let (protocol, src_port, dst_port, packet) = match protocol {
        0 => (Protocol::Tcp, src.1, dst.1, tcp(src, dst, "S", b"")),
        1 => (Protocol::Udp, src.1, dst.1, udp(src, dst, b"x")),
        // Without ports, the pod may get the very address that it calls, and is then told of itself.
        2 | 3 if dst.0.octets()[..3] == [203, 0, 113] => {
            (Protocol::Icmp, src.1, 0, ping(src.0, dst.0, src.1, b"abc"))
        }
        2 => (Protocol::Icmp, src.1, 0, ping(src.0, dst.0, src.1, b"abc")),
        _ => {
            let mut packet = Vec::new();
            let number = etherparse::IpNumber(47);
            packets::ether(src.0, dst.0, 64).write(&mut packet, number, b"tunnelled").unwrap();
            (Protocol::Other(47), 0, 0, packet)
        }
    };
    let (src, dst) = (Endpoint::new(src.0, src_port), Endpoint::new(dst.0, dst_port));
    (Flow { protocol, src, dst, arrival, turned: None }, packet)
}

/// Source, destination, and the interface of a packet that was passed on.
fn passed(packet: &[u8]) -> (Endpoint, Endpoint) {
    if packet[23] == 47 {
        let at = |i: usize| Ipv4Addr::new(packet[i], packet[i + 1], packet[i + 2], packet[i + 3]);
        return (Endpoint::new(at(26), 0), Endpoint::new(at(30), 0));
    }
    let seen = seen(packet);
    let end = |(addr, port)| Endpoint::new(addr, port);
    (end(seen.src), end(seen.dst))
}

/// Whether the packet that left is as one leg says.
fn agrees(leg: &Explanation, (src, dst): (Endpoint, Endpoint), flow: &Flow) -> bool {
    match &leg.outcome {
        Outcome::Session(view) if leg.realm == Realm::Internal => src == view.public,
        Outcome::Session(view) => dst == view.internal,
        Outcome::Opens(prospect) => prospect.admits(src) && dst == flow.dst,
        Outcome::Reaches(reached) => dst == reached.internal,
        Outcome::Exempt => (src, dst) == (flow.src, flow.dst),
        Outcome::Answered | Outcome::Refused(_) => false,
    }
}

fn tiny(settings: PoolSettings) -> PoolSettings {
    let quota = Quota { blocks: 2, sessions: 40, half_open: 9, ..settings.quota.clone() };
    PoolSettings { ports: 1024..=1151, block_size: 16, scatter: None, quota, ..settings }
}

fn settings() -> impl Strategy<Value = PoolSettings> {
    let all = [PoolSettings::high_density(), PoolSettings::rfc4787()];
    let all = all.into_iter().flat_map(|settings| [tiny(settings.clone()), settings]);
    prop::sample::select(all.collect::<Vec<_>>())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]
    #[test]
    fn a_packet_fares_as_explained(
        workers in prop::sample::select(vec![1u16, 2, 4]),
        settings in settings(),
        (router, draining) in (any::<bool>(), prop::bool::weighted(0.1)),
        shots in prop::collection::vec(shot(), 1..60),
    ) {
        let answers = Answers { denied: Refused::Silent, ..Answers::default() };
        let mut rig = fixed_rig(workers, settings, answers);
        if !router {
            change(&rig, |snapshot| {
                let roads = Arc::make_mut(&mut snapshot.roads);
                Arc::make_mut(&mut roads.adjacencies)[1].mac = None;
            });
        }
        if draining {
            change(&rig, |snapshot| Arc::make_mut(&mut snapshot.policy).draining = true);
        }
        rig.run();
        for shot in shots {
            let (flow, packet) = flow_of(shot);
            let before = trace(&rig);
            let legs = explain(&mut rig, flow);
            prop_assert_eq!(trace(&rig), before, "explaining changes nothing");
            let last = legs.last().unwrap();
            let drops = |rig: &Rig| -> Vec<u64> {
                DropReason::ALL.iter().map(|&reason| rig.dropped(reason)).collect()
            };
            let counted = drops(&rig);
            let count = |rig: &Rig| (rig.sum(|c| c.forwarded.get()), rig.sum(|c| c.answered.get()), rig.sum(|c| c.held.get()));
            let (forwarded, answered, held) = count(&rig);
            rig.inject(flow.arrival, &packet);
            let sent = rig.run();
            let after = drops(&rig);
            let happened: Vec<&str> = DropReason::ALL.iter()
                .filter(|reason| after[reason.index()] > counted[reason.index()])
                .map(|reason| reason.name()).collect();
            let said = format!("{shot:?}: {legs:#?}, but {happened:?}, sent {}", sent.len());
            let now = count(&rig);
            match &last.outcome {
                // A SYN to no mapping is held before it is answered, where the pool says so.
                Outcome::Refused(reason) => prop_assert_eq!(happened, [reason.name()], "{}", said),
                Outcome::Answered => prop_assert!(now.1 == answered + 1 && happened.is_empty(), "{}", said),
                _ => {
                    prop_assert!(happened.is_empty(), "{}", said);
                    let step = last.there.as_ref().and_then(|it| it.step);
                    if step.is_some_and(|step| step.mac.is_none()) {
                        prop_assert_eq!((now.0, now.2), (forwarded, held + 1), "{}", said);
                        continue;
                    }
                    prop_assert_eq!(now.0, forwarded + 1, "{}", said);
                    let (interface, frame) = &sent[0];
                    prop_assert_eq!(step.map(|step| step.interface), Some(*interface), "{}", said);
                    prop_assert_eq!(step.and_then(|step| step.mac), Some(Mac(frame[..6].try_into().unwrap())));
                    let ends = passed(frame);
                    prop_assert!(agrees(last, ends, &flow), "{} {:?}", said, ends);
                    if let [first, _] = legs.as_slice() {
                        let (src, _) = ends;
                        prop_assert!(agrees(first, (src, flow.dst), &flow), "{} {:?}", said, ends);
                    }
                }
            }
        }
    }
}

/// Of two pods with one address, each by its own tunnel, both are told apart, and the tunnel is told.
#[test]
fn a_way_through_a_tunnel_is_told() {
    use super::overlays::{LOCAL, NODE, VXLAN_1};
    let mut rig = super::overlays::overlays(1);
    let flow = |arrival: InterfaceId| Flow {
        protocol: Protocol::Udp,
        src: Endpoint::new(pod(1), 0),
        dst: Endpoint::new(SERVER, 53),
        arrival,
        turned: None,
    };
    let legs = explain(&mut rig, flow(VXLAN_1));
    assert!(matches!(legs[0].outcome, Outcome::Opens(_)), "{legs:?}");
    let back = legs[0].back.unwrap();
    let tunnel = back.tunnel.unwrap();
    assert_eq!((tunnel.vni, tunnel.ends), (1, (LOCAL, NODE, 8472)));
    assert_eq!((back.mtu, legs[0].there.unwrap().mtu), (Some(1450), Some(1500)));
}
