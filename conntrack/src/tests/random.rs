//! Random traffic in a tiny pool.

use proptest::prelude::*;

use super::*;

#[derive(Clone, Copy, Debug)]
pub(super) enum Step {
    Open { pod: u8, port: u16, server: u8, protocol: usize },
    Packet { pod: u8, port: u16, server: u8, protocol: usize, flags: u8, back: bool },
    Wait { secs: u64 },
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let flow = (1u8..5, 1u16..40, 1u8..4, 0usize..3);
    let flags = prop::sample::select(vec![0x02u8, 0x10, 0x11, 0x12, 0x04, 0x14]);
    prop_oneof![
        6 => flow.clone().prop_map(|(pod, port, server, protocol)| Step::Open { pod, port, server, protocol }),
        3 => (flow, flags, any::<bool>()).prop_map(|((pod, port, server, protocol), flags, back)| {
            Step::Packet { pod, port, server, protocol, flags, back }
        }),
        1 => (0u64..200).prop_map(|secs| Step::Wait { secs }),
    ]
}

pub(super) fn flow_of(pod_number: u8, port: u16, server: u8, protocol: usize) -> FlowKey {
    // Ports on both sides of 1024.
    let port = port + port % 3 * 1_010;
    key(Protocol::ALL[protocol], (pod(pod_number), port), remote(server, 80))
}

/// No two live sessions share a tuple outside, nor a public endpoint between subscribers; every session is
/// found from both sides; counters and directory agree with the table.
pub(super) fn check(nat: &Nat, pool: &Pool, now: Timestamp) {
    let sessions = all_sessions(nat, now);
    assert_eq!(sessions.len() as u64, nat.stats().sessions);
    let mut tuples = HashSet::new();
    let mut owners: HashMap<(Protocol, Endpoint), Ipv4Addr> = HashMap::new();
    for s in &sessions {
        assert!(tuples.insert((s.protocol, s.public, s.remote)), "a tuple twice");
        let owner = *owners.entry((s.protocol, s.public)).or_insert(s.internal.addr);
        assert_eq!(owner, s.internal.addr, "two subscribers on one public endpoint");
        let out = FlowKey {
            src: s.internal,
            dst: s.remote,
            protocol: s.protocol,
            realm: Realm::Internal,
            overlay: 0,
        };
        let back = FlowKey {
            src: s.remote,
            dst: s.public,
            protocol: s.protocol,
            realm: Realm::External,
            overlay: 0,
        };
        assert_eq!(nat.rewrite(nat.find(&out).unwrap()).src, s.public);
        assert_eq!(nat.rewrite(nat.find(&back).unwrap()).dst, s.internal);
        let address = pool.addresses.iter().find(|a| a.addr == s.public.addr).unwrap();
        let port = s.public.port;
        let (directory, size) = if port < 1024 {
            (&address.low, 16)
        } else {
            (&address.directory, pool.settings.block_size)
        };
        let holder = Holder { subscriber: s.internal.addr, worker: 0, overlay: 0 };
        assert_eq!(directory.state(BlockNumber(port / size)), BlockState::Held(holder));
        if s.protocol != Protocol::Icmp {
            let same = |kept: bool, of: fn(u16) -> u16| !kept || of(port) == of(s.internal.port);
            assert!(same(pool.settings.parity, |port| port % 2), "{s:?}");
            assert!(
                same(pool.settings.low_ports.is_some(), |port| u16::from(port < 1024)),
                "{s:?}"
            );
        }
    }
    let (mut cursor, mut held) = (0, 0);
    while let Some(subscribers) = nat.subscribers(&mut cursor, 10) {
        for subscriber in subscribers {
            let mine = sessions.iter().filter(|s| s.internal.addr == subscriber.addr).count();
            assert_eq!(subscriber.sessions as usize, mine);
            held += subscriber.holdings.iter().flat_map(|(_, b)| b).map(|(_, n)| n).sum::<u32>();
        }
    }
    assert_eq!(held, held_of(pool));
    check_counts(nat, &sessions);
}

pub(super) fn held_of(pool: &Pool) -> u32 {
    pool.addresses.iter().map(|a| a.directory.held() + a.low.held()).sum()
}

/// What limits are compared with is what there is.
fn check_counts(nat: &Nat, sessions: &[SessionView]) {
    for number in 0..nat.subscribers.end() {
        let Some(subscriber) = nat.subscribers.live(number) else { continue };
        let mine = || sessions.iter().filter(|s| s.internal.addr == subscriber.addr);
        for holding in &subscriber.holdings {
            let half_open = mine().filter(|s| s.state.is_opening()).count();
            assert_eq!(holding.half_open, [half_open as u32, 0]);
            for protocol in Protocol::ALL {
                let of = mine().filter(|s| s.protocol == protocol).map(|s| s.public);
                let ports = of.collect::<HashSet<_>>().len();
                assert_eq!(holding.ports[protocol.index().unwrap()], ports as u32);
            }
        }
    }
}

/// Tiny pools of all kinds.
pub(super) fn kinds() -> Vec<PoolSettings> {
    let tiny = |settings: PoolSettings| PoolSettings {
        ports: 1024..=1087,
        block_size: 16,
        quota: Quota { sessions_per_mapping: None, ..quota(3, 60) },
        ..settings
    };
    let high = tiny(PoolSettings::default());
    let low = Some(1008..=1023);
    let rest = HoldDown { max_ports: Some(9), ..PoolSettings::rfc4787().hold_down };
    let strict = PoolSettings {
        low_ports: low.clone(),
        hold_down: rest.clone(),
        ..tiny(PoolSettings::rfc4787())
    };
    let capped = Quota {
        tcp: Some(9),
        udp: Some(5),
        half_open: 8,
        new_per_second: Some(3),
        burst: 9,
        ..high.quota.clone()
    };
    vec![
        high.clone(),
        strict,
        PoolSettings { quota: capped.clone(), preserve: true, hold_down: rest, ..high.clone() },
        PoolSettings {
            quota: capped,
            low_ports: low,
            parity: true,
            pooling: Pooling::Arbitrary,
            except: vec![1030..=1060],
            ..high.clone()
        },
        PoolSettings { overlap: Overlap::Address, ..high },
    ]
}

/// A packet of a flow, or `back` from its other end; false if the flow has no session.
pub(super) fn pass(
    nat: &mut Nat,
    mut flow: FlowKey,
    (flags, back): (u8, bool),
    now: Timestamp,
) -> bool {
    if nat.find(&flow).is_none() {
        return false;
    }
    if back {
        flow = reply_to(nat, &flow);
    }
    let tcp = (flow.protocol == Protocol::Tcp).then_some(Segment::bare(flags));
    nat.commit(nat.find(&flow).unwrap(), now, 100, tcp.as_ref());
    true
}

/// Reads ahead for what the next of `steps` open, as if they were a burst; it may come otherwise.
pub(super) fn read_ahead<'a>(nat: &mut Nat, steps: impl Iterator<Item = &'a Step>, now: Timestamp) {
    let mut keys = Vec::new();
    for step in steps.take(20) {
        if let &Step::Open { pod, port, server, protocol } = step {
            let flow = flow_of(pod, port, server, protocol);
            keys.extend(nat.find(&flow).is_none().then(|| nat.secret().hash_key(&flow)));
        }
    }
    nat.touch_openers(keys.iter(), now);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    // Proves: 4787-REQ-3
    // Museum: C10
    #[test]
    fn random_traffic_in_a_tiny_pool_keeps_every_invariant(
        settings in prop::sample::select(kinds()),
        steps in prop::collection::vec(step(), 1..300),
        burst in 1..40usize,
    ) {
        let (mut nat, pool) = nat_with(settings, 2, 120);
        let mut now = secs(1);
        for (number, step) in steps.iter().enumerate() {
            if number % burst == 0 {
                read_ahead(&mut nat, steps[number..].iter(), now);
            }
            match *step {
                Step::Open { pod, port, server, protocol } => {
                    let flow = flow_of(pod, port, server, protocol);
                    let tcp = if flow.protocol == Protocol::Tcp { SYN } else { None };
                    if nat.find(&flow).is_none() {
                        let before = nat.stats().sessions;
                        let ended = nat.stats().ended;
                        let opened = nat.open(&flow, POOL, tcp, now);
                        prop_assert_ne!(opened, Err(Refusal::TupleTaken), "a port was leased twice to one remote");
                        let opened = opened.is_ok();
                        let expected = before + u64::from(opened) - (nat.stats().ended - ended);
                        prop_assert_eq!(nat.stats().sessions, expected);
                    }
                }
                Step::Packet { pod, port, server, protocol, flags, back } => {
                    let flow = flow_of(pod, port, server, protocol);
                    if !pass(&mut nat, flow, (flags, back), now) {
                        continue;
                    }
                }
                Step::Wait { secs } => {
                    now = now + Duration::from_secs(secs);
                    nat.expire(now, u32::MAX);
                }
            }
            check(&nat, &pool, now);
        }
        now = now + Duration::from_secs(8_000);
        nat.expire(now, u32::MAX);
        nat.expire(now + Duration::from_secs(700), u32::MAX);
        nat.expire(now + Duration::from_secs(1_400), u32::MAX);
        nat.expire(now + Duration::from_secs(2_100), u32::MAX);
        prop_assert_eq!(nat.stats().sessions, 0);
        prop_assert_eq!(nat.stats().subscribers, 0);
        prop_assert_eq!(held_of(&pool), 0);
    }
}
