//! Quotas, full tables and full pools refuse the new flow and disturb no other.

use super::*;

// Proves: 6888-REQ-4
#[test]
fn req_6888_4_a_quota_refuses_one_and_no_other() {
    let settings = PoolSettings { quota: quota(1, 70), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let open = |nat: &mut Nat, n, port, server| {
        nat.open(&key(Protocol::Udp, (pod(n), port), remote(server, 80)), POOL, None, secs(1))
    };
    for port in 1..=64 {
        open(&mut nat, 1, port, 1).unwrap();
    }
    assert_eq!(open(&mut nat, 1, 65, 1), Err(Refusal::QuotaBlocks));
    for port in 65..=70 {
        open(&mut nat, 1, port, 2).unwrap();
    }
    assert_eq!(open(&mut nat, 1, 71, 3), Err(Refusal::QuotaSessions));
    open(&mut nat, 2, 1, 1).unwrap();
    assert_eq!(open(&mut nat, 3, 1, 1), Err(Refusal::PoolExhausted));
    assert_eq!(nat.stats().sessions, 71);
}

#[test]
fn req_6888_11d_a_full_table_refuses_and_evicts_nobody() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 50);
    let flows: Vec<_> =
        (0..60).map(|i| key(Protocol::Udp, (pod(1), 100 + i), remote(1, 80))).collect();
    for (i, flow) in flows.iter().enumerate() {
        let opened = nat.open(flow, POOL, None, secs(1));
        assert_eq!(opened.is_ok(), i < 50);
    }
    assert!(flows[..50].iter().all(|flow| nat.find(flow).is_some()));
    // What was refused left nothing behind: after the old ones have ended, as many fit again.
    nat.expire(secs(302), 1_000);
    assert_eq!(nat.stats().sessions, 0);
    assert_eq!(
        flows[10..].iter().filter(|f| nat.open(f, POOL, None, secs(303)).is_ok()).count(),
        50
    );
}

// Proves: 6888-REQ-8a
#[test]
fn req_6888_8a_closed_connections_make_room_the_longest_over_first() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 100);
    let mut ports = Vec::new();
    for i in 0..64u16 {
        let flow = key(Protocol::Tcp, (pod(1), 1 + i), remote(1, 80));
        let slot = nat.open(&flow, POOL, SYN, secs(u64::from(i) / 8)).unwrap();
        ports.push(nat.rewrite(slot).src.port);
        nat.commit(slot, secs(u64::from(i) / 8), 60, RST);
    }
    let flow = key(Protocol::Tcp, (pod(1), 1000), remote(1, 80));
    let slot = nat.open(&flow, POOL, SYN, secs(10)).unwrap();
    assert!(ports.contains(&nat.rewrite(slot).src.port));
    assert_eq!(nat.stats().sessions, 64);
    assert_eq!(nat.stats().ended, 1);
}

// Museum: C13
#[test]
fn a_full_table_takes_no_blocks_and_makes_no_subscribers() {
    let (mut nat, pool) = nat_with(PoolSettings::default(), 1, 1);
    let flow = |n: u32| key(Protocol::Udp, (Ipv4Addr::from(0x0a00_0000 + n), 1), remote(1, 80));
    nat.open(&flow(0), POOL, None, secs(1)).unwrap();
    for n in 1..2_000 {
        assert_eq!(nat.open(&flow(n), POOL, None, secs(1)), Err(Refusal::TableFull));
    }
    assert_eq!((pool.addresses[0].directory.held(), nat.stats().subscribers), (1, 1));
    // A known subscriber gets no further block either.
    for n in 0..100 {
        let flow = FlowKey { src: Endpoint::new(flow(0).src.addr, 100 + n), ..flow(0) };
        assert_eq!(nat.open(&flow, POOL, None, secs(1)), Err(Refusal::TableFull));
    }
    assert_eq!(pool.addresses[0].directory.held(), 1);
}

#[test]
fn a_full_table_still_lets_a_closed_connection_be_replaced() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 64);
    for i in 0..64u16 {
        let flow = key(Protocol::Tcp, (pod(1), 1 + i), remote(1, 80));
        let slot = nat.open(&flow, POOL, SYN, secs(1)).unwrap();
        nat.commit(slot, secs(1), 60, RST);
    }
    let flow = key(Protocol::Tcp, (pod(1), 1000), remote(1, 80));
    nat.open(&flow, POOL, SYN, secs(2)).unwrap();
    assert_eq!(nat.stats().sessions, 64);
}

#[test]
fn refused_flows_leave_no_subscribers_behind_and_renew_no_timer() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 10);
    let flow = |n: u32| key(Protocol::Udp, (Ipv4Addr::from(0x0a00_0000 + n), 1), remote(1, 80));
    for n in 0..1_000 {
        assert_eq!(nat.open(&flow(n), POOL, None, secs(1)).is_ok(), n < 2);
    }
    assert_eq!(nat.stats().subscribers, 2);
    // Idle from 301 s on; refused flows must not keep the block.
    nat.expire(secs(302), 1_000);
    let other = Admission { pool: PoolId(9), rule: 0 };
    for s in 302..1_000 {
        assert_eq!(nat.open(&flow(0), other, None, secs(s)), Err(Refusal::PoolExhausted));
        nat.expire(secs(s), 1_000);
        assert!(s < 364 || pool.addresses[0].directory.held() == 0, "held at {s} s");
    }
    assert_eq!(nat.stats().subscribers, 0);
}

#[test]
fn a_guessed_reset_from_outside_hands_no_tuple_over() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let flow = |port| key(Protocol::Tcp, (pod(1), port), remote(1, 80));
    for port in 1..=64 {
        let slot = nat.open(&flow(port), POOL, SYN, secs(1)).unwrap();
        let back = nat.find(&reply_to(&nat, &flow(port))).unwrap();
        nat.commit(back, secs(1), 40, SYN_ACK);
        nat.commit(slot, secs(1), 40, ACK);
    }
    let back = nat.find(&reply_to(&nat, &flow(1))).unwrap();
    // Inside the window, but not what the pod expects.
    nat.commit(back, secs(2), 40, Some(&numbered(TcpFlags::RST, 2)));
    assert_eq!(nat.open(&flow(999), POOL, SYN, secs(2)), Err(Refusal::QuotaBlocks));
    let victim = nat.find(&flow(1)).expect("the reset ended a live session");
    // The pod's own reset does make room.
    nat.commit(victim, secs(3), 40, RST);
    nat.open(&flow(999), POOL, SYN, secs(4)).unwrap();
    assert_eq!(nat.find(&flow(1)), None);
}

#[test]
fn a_refused_remote_is_refused_at_once_for_a_moment() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let flow = |port, server| key(Protocol::Tcp, (pod(1), port), remote(server, 80));
    let mut slots = Vec::new();
    for port in 1..=64 {
        slots.push(nat.open(&flow(port, 1), POOL, SYN, secs(1)).unwrap());
    }
    assert_eq!(nat.open(&flow(99, 1), POOL, SYN, secs(1)), Err(Refusal::QuotaBlocks));
    // Nothing is looked for, although there is something now.
    nat.commit(slots[0], secs(1), 40, RST);
    let soon = secs(1) + Duration::from_millis(99);
    assert_eq!(nat.open(&flow(99, 1), POOL, SYN, soon), Err(Refusal::QuotaBlocks));
    nat.open(&flow(99, 2), POOL, SYN, soon).expect("another remote");
    nat.open(&flow(99, 1), POOL, SYN, secs(1) + Duration::from_millis(100)).unwrap();
    // The end of a session is noticed at once.
    let later = secs(1) + Duration::from_millis(100);
    assert_eq!(nat.open(&flow(98, 1), POOL, SYN, later), Err(Refusal::QuotaBlocks));
    nat.expire(secs(300), 10_000);
    nat.open(&flow(98, 1), POOL, SYN, later).unwrap();
}

#[test]
fn a_refusal_in_a_huge_holding_looks_at_a_bounded_number_of_ports() {
    let settings = PoolSettings {
        quota: Quota { half_open: u32::MAX, ..quota(313, 100_000) },
        ..PoolSettings::default()
    };
    let (mut nat, _) = nat_with(settings, 1, 100_000);
    let flow = |port| key(Protocol::Tcp, (pod(1), port), remote(1, 80));
    let slots: Vec<_> =
        (0..313 * 64).map(|i| nat.open(&flow(i), POOL, SYN, secs(1)).unwrap()).collect();
    nat.commit(slots[7], secs(1), 40, RST);
    // One closed connection among 20,000, and 4,096 are looked at: it is found sometimes.
    let found = (10..50).position(|s| nat.open(&flow(50_000), POOL, SYN, secs(s)).is_ok());
    assert!(found.is_some_and(|tries| tries > 0), "{found:?}");
}
