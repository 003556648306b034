//! Limits: who is refused, who is not, and who is told.

use super::*;

fn flow(protocol: Protocol, n: u8, port: u16, server: u8) -> FlowKey {
    key(protocol, (pod(n), port), remote(server, 443))
}

fn open(nat: &mut Nat, key: FlowKey, now: Timestamp) -> Result<(), Refusal> {
    nat.open(&key, POOL, opening(key.protocol), now).map(|_| ())
}

fn events(nat: &mut Nat) -> Vec<Event> {
    std::iter::from_fn(|| nat.take_record()).filter_map(|record| record.limit()).collect()
}

fn kinds(nat: &mut Nat) -> Vec<EventKind> {
    events(nat).into_iter().map(|event| event.kind).collect()
}

// Proves: 6888-REQ-4b
#[test]
fn a_cap_on_udp_ports_leaves_tcp_and_icmp_free() {
    let quota = Quota { udp: Some(20), ..PoolSettings::default().quota };
    let (mut nat, _) = nat_with(PoolSettings { quota, ..PoolSettings::default() }, 1, 1_000);
    for port in 1..=20 {
        open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(1)).unwrap();
    }
    let further = flow(Protocol::Udp, 1, 21, 1);
    assert_eq!(open(&mut nat, further, secs(1)), Err(Refusal::QuotaPorts));
    // A port in use may serve another remote; it is none more.
    open(&mut nat, flow(Protocol::Udp, 1, 21, 2), secs(1)).unwrap();
    for protocol in [Protocol::Tcp, Protocol::Icmp] {
        for port in 1..=100 {
            open(&mut nat, flow(protocol, 1, port, 1), secs(1)).unwrap();
        }
    }
    open(&mut nat, flow(Protocol::Udp, 2, 1, 1), secs(1)).expect("another subscriber");
    // What ends makes room.
    nat.expire(secs(301), 10_000);
    for port in 31..=50 {
        open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(302)).unwrap();
    }
    assert_eq!(open(&mut nat, further, secs(302)), Err(Refusal::QuotaPorts));
}

#[test]
fn a_closed_connection_is_replaced_under_a_cap_although_another_block_is_empty() {
    let quota = Quota { tcp: Some(64), ..quota(2, 1_000) };
    let settings = PoolSettings { quota, ..tiny_settings() };
    let (mut nat, pool) = nat_with(settings, 1, 1_000);
    for port in 1..=65 {
        open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(0)).unwrap();
    }
    // One TCP connection alone, over, in a block that the end of UDP leaves to it.
    let quota = Quota { tcp: Some(1), ..quota_of(&pool) };
    let settings = PoolSettings { quota, ..pool.settings.clone() };
    let capped = Pool { settings, ..Pool::clone(&pool) };
    nat.adopt(&[Arc::new(capped)]);
    let slot = nat.open(&flow(Protocol::Tcp, 1, 1, 1), POOL, SYN, secs(299)).unwrap();
    let port = nat.rewrite(slot).src.port;
    nat.commit(slot, secs(299), 60, RST);
    nat.expire(secs(301), 1_000);
    let next = nat.open(&flow(Protocol::Tcp, 1, 2, 1), POOL, SYN, secs(302)).unwrap();
    assert_eq!(nat.rewrite(next).src.port, port);
    assert_eq!(pool.addresses[0].directory.worker_of(port), Some(0), "its block was given back");
}

fn quota_of(pool: &Pool) -> Quota {
    pool.settings.quota.clone()
}

// Proves: 6888-REQ-4c, 6888-REQ-5b
#[test]
fn new_sessions_a_second_are_capped_for_each_subscriber() {
    let quota = Quota { new_per_second: Some(100), burst: 50, ..PoolSettings::default().quota };
    let (mut nat, pool) = nat_with(PoolSettings { quota, ..PoolSettings::default() }, 1, 10_000);
    let mut opened = 0;
    for ms in 0..3_000_u16 {
        let now = secs(10) + Duration::from_millis(ms.into());
        match open(&mut nat, flow(Protocol::Udp, 1, 1 + ms, (ms % 200) as u8), now) {
            Ok(()) => opened += 1,
            Err(refusal) => assert_eq!(refusal, Refusal::QuotaRate),
        }
        if ms % 100 == 0 {
            open(&mut nat, flow(Protocol::Udp, 2, 1 + ms, 1), now).expect("another subscriber");
        }
    }
    assert_eq!(opened, 50 + 299);
    // Refusals take nothing.
    let held = pool.addresses[0].directory.held();
    for port in 0..1_000 {
        let now = secs(13);
        let _ = open(&mut nat, flow(Protocol::Udp, 1, 5_000 + port, 250), now);
    }
    assert!(pool.addresses[0].directory.held() <= held + 1);
}

// Proves: 6888-REQ-5b
#[test]
fn connections_that_are_not_complete_have_a_cap_of_their_own() {
    let quota = Quota { half_open: 5, ..PoolSettings::default().quota };
    let (mut nat, _) = nat_with(PoolSettings { quota, ..PoolSettings::default() }, 1, 1_000);
    for port in 1..=5 {
        open(&mut nat, flow(Protocol::Tcp, 1, port, 1), secs(1)).unwrap();
    }
    let sixth = flow(Protocol::Tcp, 1, 6, 1);
    assert_eq!(open(&mut nat, sixth, secs(1)), Err(Refusal::QuotaHalfOpen));
    open(&mut nat, flow(Protocol::Udp, 1, 6, 1), secs(1)).unwrap();
    open(&mut nat, flow(Protocol::Tcp, 2, 6, 1), secs(1)).expect("another subscriber");
    // One completes its handshake, another is reset: two may begin.
    let first = flow(Protocol::Tcp, 1, 1, 1);
    let back = nat.find(&reply_to(&nat, &first)).unwrap();
    nat.commit(back, secs(2), 60, SYN_ACK);
    assert_eq!(open(&mut nat, sixth, secs(2)), Err(Refusal::QuotaHalfOpen));
    let slot = nat.find(&first).unwrap();
    nat.commit(slot, secs(2), 60, ACK);
    open(&mut nat, sixth, secs(2)).unwrap();
    let slot = nat.find(&flow(Protocol::Tcp, 1, 2, 1)).unwrap();
    nat.commit(slot, secs(2), 60, RST);
    open(&mut nat, flow(Protocol::Tcp, 1, 7, 1), secs(2)).unwrap();
    assert_eq!(open(&mut nat, flow(Protocol::Tcp, 1, 8, 1), secs(2)), Err(Refusal::QuotaHalfOpen));
    // And when they have expired, five.
    nat.expire(secs(63), 1_000);
    for port in 11..=15 {
        open(&mut nat, flow(Protocol::Tcp, 1, port, 1), secs(63)).unwrap();
    }
    assert_eq!(
        open(&mut nat, flow(Protocol::Tcp, 1, 16, 1), secs(63)),
        Err(Refusal::QuotaHalfOpen)
    );
}

// Proves: 6888-REQ-5b
#[test]
fn strangers_use_up_nothing_of_what_a_pod_may_open() {
    let quota = Quota { half_open: 5, new_per_second: Some(6), burst: 6, ..quota(4, 1_000) };
    let settings = PoolSettings { quota, ..PoolSettings::rfc4787() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let public = send(&mut nat, &flow(Protocol::Tcp, 1, 1, 1), secs(1)).unwrap();
    let syn = |n: u8| inbound(Protocol::Tcp, remote(n, 9_999), public);
    let refusals: Vec<_> =
        (10..20).filter_map(|n| receive(&mut nat, &syn(n), secs(1)).err()).collect();
    assert_eq!(refusals, [Refusal::QuotaHalfOpen; 5]);
    for port in 2..=5 {
        open(&mut nat, flow(Protocol::Tcp, 1, port, 1), secs(1)).unwrap();
    }
}

// Proves: 6888-REQ-4a, 6888-REQ-5a
#[test]
fn a_limit_changes_while_flows_live() {
    let small = PoolSettings { quota: quota(1, 50), ..PoolSettings::default() };
    let (mut nat, pool) = nat_with(small, 1, 1_000);
    let fill = |nat: &mut Nat, from: u16, server| {
        let opened = (0..200)
            .take_while(|i| open(nat, flow(Protocol::Udp, 1, from + i, server), secs(1)).is_ok());
        opened.count()
    };
    assert_eq!(fill(&mut nat, 1_000, 1), 50);
    let large = PoolSettings { quota: quota(2, 120), ..pool.settings.clone() };
    let large = Arc::new(Pool { settings: large, ..Pool::clone(&pool) });
    nat.adopt(&[large]);
    assert_eq!(fill(&mut nat, 2_000, 1), 70);
    nat.adopt(&[Arc::clone(&pool)]);
    assert_eq!(nat.stats().sessions, 120, "nobody is ended by a smaller limit");
    assert_eq!(fill(&mut nat, 3_000, 1), 0);
}

// Proves: 6888-REQ-11a, 6888-REQ-11d, 6888-REQ-5
// Museum: C12, C33
#[test]
fn ten_thousand_refusals_disturb_no_old_flow() {
    let settings = PoolSettings { quota: quota(1, 1_000), ..tiny_settings() };
    let (mut nat, pool) = nat_with(settings, 1, 1_000);
    let mut old = Vec::new();
    for n in [1, 2] {
        for protocol in Protocol::ALL {
            for port in 1..=64 {
                old.push(flow(protocol, n, port, 1));
                open(&mut nat, flow(protocol, n, port, 1), secs(1)).unwrap();
            }
        }
    }
    let before = (all_sessions(&nat, secs(1)), nat.stats().table_bytes, pool.fill());
    for i in 0..10_000_u32 {
        let now = secs(1) + Duration::from_millis(u64::from(i) / 100);
        let n = (i % 50) as u8;
        let protocol = Protocol::ALL[(i / 50 % 3) as usize];
        let key = flow(protocol, n, 2_000 + (i / 150) as u16, 1);
        let expected =
            if [1, 2].contains(&n) { Refusal::QuotaBlocks } else { Refusal::PoolExhausted };
        assert_eq!(open(&mut nat, key, now), Err(expected));
        assert_eq!(nat.find(&key), None);
    }
    assert_eq!((all_sessions(&nat, secs(1)), nat.stats().table_bytes, pool.fill()), before);
    assert!(old.iter().all(|flow| nat.find(flow).is_some()));
    assert_eq!((nat.stats().subscribers, nat.stats().ended), (2, 0));
}

// Proves: 6888-REQ-11c
#[test]
fn limits_are_told_before_and_when_they_are_reached() {
    let quota = Quota { blocks_soft: Some(2), sessions_soft: Some(100), ..quota(3, 180) };
    let (mut nat, _) = nat_with(PoolSettings { quota, ..PoolSettings::default() }, 1, 1_000);
    for port in 1..=64 {
        open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(1)).unwrap();
    }
    assert_eq!(kinds(&mut nat), []);
    open(&mut nat, flow(Protocol::Udp, 1, 65, 1), secs(1)).unwrap();
    let told = events(&mut nat);
    assert_eq!(told.len(), 1);
    assert_eq!(told[0].kind, EventKind::QuotaSoft(Limit::Blocks));
    assert_eq!((told[0].pool, told[0].subscriber), (Some(PoolId(0)), Some(pod(1))));
    assert_eq!((told[0].used, told[0].limit), (2, 3));
    for port in 66..=180 {
        open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(3)).unwrap();
    }
    assert_eq!(kinds(&mut nat), [EventKind::QuotaSoft(Limit::Sessions)]);
    for port in 181..=400 {
        let refused = open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(3));
        assert_eq!(refused, Err(Refusal::QuotaSessions));
    }
    assert_eq!(kinds(&mut nat), [EventKind::QuotaExhausted(Limit::Sessions)], "once a second");
    assert_eq!(nat.stats().events[EventKind::QuotaExhausted(Limit::Sessions).index()], 220);
    // Another subscriber is told of in the same second.
    for port in 1..=181 {
        let _ = open(&mut nat, flow(Protocol::Udp, 2, port, 1), secs(3));
    }
    let quotas = kinds(&mut nat);
    assert!(quotas.contains(&EventKind::QuotaExhausted(Limit::Sessions)), "{quotas:?}");
}

/// Whoever reads an event learns which limit it was, how much is used, and how much there is.
// Proves: 6888-REQ-11c
#[test]
fn every_limit_is_told_by_its_name_with_what_is_used() {
    let free = quota(100, 1_000);
    let limits = [
        (Limit::Blocks, Protocol::Udp, Quota { blocks: 1, ..free.clone() }, (64, 1)),
        (Limit::Sessions, Protocol::Udp, Quota { sessions: 5, ..free.clone() }, (5, 5)),
        (Limit::HalfOpen, Protocol::Tcp, Quota { half_open: 4, ..free.clone() }, (4, 4)),
        (Limit::Ports, Protocol::Icmp, Quota { icmp: Some(3), ..free.clone() }, (3, 3)),
        (Limit::Rate, Protocol::Udp, Quota { new_per_second: Some(2), burst: 2, ..free }, (2, 2)),
    ];
    for (limit, protocol, quota, (admitted, used)) in limits {
        let (mut nat, _) = nat_with(PoolSettings { quota, ..tiny_settings() }, 1, 1_000);
        for port in 1..=admitted {
            open(&mut nat, flow(protocol, 1, port, 1), secs(1)).unwrap();
        }
        let refusal = open(&mut nat, flow(protocol, 1, 1_000, 1), secs(1)).unwrap_err();
        assert_eq!(refusal.limit(), Some(limit));
        let told = events(&mut nat);
        let told: Vec<_> = told.iter().map(|e| (e.kind, e.subscriber, e.used, e.limit)).collect();
        assert_eq!(told, [(EventKind::QuotaExhausted(limit), Some(pod(1)), used, used)]);
    }
}

/// Blocks below 1024 have a quota of their own, beside that of the others.
// Proves: 6888-REQ-4
#[test]
fn bug_events_counted_blocks_of_low_ports_to_the_others() {
    let quota = Quota { blocks_soft: Some(2), ..quota(2, 1_000) };
    let strict = PoolSettings { parity: false, block_size: 64, ..PoolSettings::rfc4787() };
    let (mut nat, _) = nat_with(PoolSettings { quota, ..strict }, 1, 1_000);
    let mut told = Vec::new();
    // A low block has 16 ports, the others 64.
    for (first, blocks) in [(100, 2 * 16), (5_000, 2 * 64)] {
        for port in first..first + blocks {
            open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(u64::from(port))).unwrap();
        }
        let next = flow(Protocol::Udp, 1, first + blocks, 1);
        let refused = open(&mut nat, next, secs(u64::from(first + blocks)));
        assert_eq!(refused, Err(Refusal::QuotaBlocks));
        told.extend(events(&mut nat).into_iter().map(|e| (e.kind, e.used, e.limit)));
    }
    let both =
        [EventKind::QuotaSoft, EventKind::QuotaExhausted].map(|kind| (kind(Limit::Blocks), 2, 2));
    assert_eq!(told, [both, both].concat());
}

// Proves: 6888-REQ-11c
#[test]
fn pool_and_table_are_told_of_at_nine_tenths_and_at_the_end() {
    let settings =
        PoolSettings { ports: 1024..=1663, quota: quota(1, 64), ..PoolSettings::default() };
    let (mut nat, _) = nat_with(settings, 1, 20);
    let mut told = Vec::new();
    for n in 1..=11 {
        let refused = open(&mut nat, flow(Protocol::Udp, n, 1, 1), secs(u64::from(n))).err();
        assert_eq!(refused, (n == 11).then_some(Refusal::PoolExhausted));
        told.extend(events(&mut nat).into_iter().map(|e| (n, e.kind, e.used, e.limit)));
    }
    let near = EventKind::PoolThreshold;
    let expected = [(9, near, 9, 10), (10, near, 10, 10), (11, EventKind::PoolExhausted, 10, 10)];
    assert_eq!(told, expected);
    for port in 2..=20 {
        let _ = open(&mut nat, flow(Protocol::Udp, 1, port, 1), secs(20));
    }
    let told: Vec<_> = events(&mut nat).into_iter().map(|e| (e.kind, e.pool, e.used)).collect();
    let expected = [(EventKind::TableThreshold, None, 18), (EventKind::TableFull, None, 20)];
    assert_eq!(told, expected);
}

// Proves: 7857-S4a, 7857-S4b, 7857-S4c
#[test]
fn without_spill_a_full_address_refuses_with_spill_the_next_one_serves_and_it_is_told() {
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        for spill in [false, true] {
            let settings = PoolSettings {
                ports: 1024..=1087,
                quota: quota(4, 1_000),
                spill,
                ..PoolSettings::default()
            };
            let (mut nat, _) = nat_with(settings, 2, 1_000);
            let mut seen = Vec::new();
            for port in 1..=65 {
                let opened = send(&mut nat, &flow(protocol, 1, port, 1), secs(1));
                if port == 65 && !spill {
                    assert_eq!(opened, Err(Refusal::PoolExhausted));
                } else {
                    seen.push(opened.unwrap().addr);
                }
            }
            assert_eq!(seen.iter().collect::<HashSet<_>>().len(), 1 + usize::from(spill));
            assert!(seen[..64].iter().all(|addr| *addr == seen[0]), "only when it is full");
            for port in 1..=64 {
                assert!(nat.find(&flow(protocol, 1, port, 1)).is_some(), "old flows stay");
            }
            assert_eq!(nat.stats().events[EventKind::Spill.index()], u64::from(spill));
            assert_eq!(kinds(&mut nat).contains(&EventKind::Spill), spill);
            // The subscriber's own address comes first again as soon as it has room.
            nat.expire(secs(7_500), 10_000);
            if spill {
                let next = send(&mut nat, &flow(protocol, 1, 99, 1), secs(7_500)).unwrap();
                assert_eq!(next.addr, seen[0]);
            }
        }
    }
}

#[test]
fn an_address_lingers_as_long_as_the_pool_says() {
    for (linger, remembered) in [(30, false), (500, true)] {
        let linger = Duration::from_secs(linger);
        let settings = PoolSettings { linger, ..PoolSettings::default() };
        let (mut nat, _) = nat_with(settings, 8, 1_000);
        let first = send(&mut nat, &flow(Protocol::Udp, 1, 1, 1), secs(0)).unwrap();
        for s in 0..=750 {
            nat.expire(secs(s), 1_000);
        }
        assert_eq!(nat.stats().subscribers, u64::from(remembered));
        if remembered {
            let next = send(&mut nat, &flow(Protocol::Udp, 1, 2, 9), secs(751)).unwrap();
            assert_eq!(next.addr, first.addr);
        }
    }
}

/// Strangers who call a published pod leave it half of its sessions.
// Proves: 6888-REQ-5
#[test]
fn strangers_do_not_use_up_what_the_pod_needs_itself() {
    let settings = PoolSettings { quota: quota(4, 100), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let (internal, public) =
        (Endpoint::new(pod(1), 80), Endpoint::new([203, 0, 113, 10].into(), 80));
    let mapping = FixedMapping { internal, public, pool: PoolId(0), rule: 0, overlay: 0 };
    let caller = |n: u16| inbound(Protocol::Udp, remote(9, n), public);
    let called = (1..=200).filter(|&n| nat.open_fixed(&caller(n), mapping, None, secs(1)).is_ok());
    assert_eq!(called.count(), 50);
    let own = (1..=200).filter(|&n| open(&mut nat, flow(Protocol::Udp, 1, n, 1), secs(1)).is_ok());
    assert_eq!(own.count(), 50);
    nat.expire(secs(400), u32::MAX);
    assert_eq!(nat.stats().sessions, 0);
    assert!(nat.open_fixed(&caller(1), mapping, None, secs(400)).is_ok());
}
