//! What was freed rests: ports of a subscriber, and blocks whose state was lost.

use super::*;

/// One block of 16 ports, which is all a subscriber may have; ports rest for `rest`.
fn settings(rest: u64, max_ports: Option<u32>) -> PoolSettings {
    let strict = PoolSettings::rfc4787();
    let port = Duration::from_secs(rest);
    PoolSettings {
        ports: 1024..=1039,
        block_size: 16,
        parity: false,
        low_ports: None,
        quota: quota(1, 1_000),
        hold_down: HoldDown { port, max_ports, ..strict.hold_down.clone() },
        ..strict
    }
}

fn open(nat: &mut Nat, protocol: Protocol, port: u16, now: Timestamp) -> Result<u16, Refusal> {
    let dst = if protocol == Protocol::Icmp { 0 } else { 443 };
    let flow = key(protocol, (pod(1), port), remote(1, dst));
    nat.open(&flow, POOL, opening(protocol), now).map(|slot| nat.rewrite(slot).src.port)
}

// Proves: 6888-REQ-8, 6888-REQ-8.1
#[test]
fn a_freed_port_rests_for_120_seconds() {
    for (protocol, idle) in [(Protocol::Udp, 300), (Protocol::Icmp, 60), (Protocol::Tcp, 240)] {
        let (mut nat, pool) = nat_with(settings(120, Some(100)), 1, 100);
        for port in 1..=16 {
            open(&mut nat, protocol, port, secs(0)).unwrap();
        }
        nat.expire(secs(idle), 1_000);
        assert_eq!(nat.stats().sessions, 0, "{protocol}");
        for s in 0..120 {
            let refused = open(&mut nat, protocol, 100, secs(idle + s));
            assert_eq!(refused, Err(Refusal::QuotaBlocks), "{protocol} after {s} s");
            nat.expire(secs(idle + s), 1_000);
            assert_eq!(pool.addresses[0].directory.held(), 1, "the block stays held meanwhile");
        }
        for port in 101..=116 {
            open(&mut nat, protocol, port, secs(idle + 121)).unwrap();
        }
        assert_eq!(nat.stats().rests_cut_short, 0);
    }
}

// Proves: 6888-REQ-8
#[test]
fn protocols_rest_apart() {
    let (mut nat, _) = nat_with(settings(120, Some(100)), 1, 100);
    for port in 1..=16 {
        open(&mut nat, Protocol::Udp, port, secs(0)).unwrap();
    }
    nat.expire(secs(300), 1_000);
    assert_eq!(open(&mut nat, Protocol::Udp, 1, secs(301)), Err(Refusal::QuotaBlocks));
    open(&mut nat, Protocol::Tcp, 1, secs(301)).unwrap();
    open(&mut nat, Protocol::Icmp, 1, secs(301)).unwrap();
}

// Proves: 6888-REQ-8a
#[test]
fn a_tracked_close_frees_a_tcp_port_at_once() {
    let (mut nat, _) = nat_with(settings(120, Some(100)), 1, 100);
    for port in 1..=16 {
        let flow = key(Protocol::Tcp, (pod(1), port), remote(1, 443));
        let slot = nat.open(&flow, POOL, SYN, secs(0)).unwrap();
        if port % 2 == 0 {
            nat.commit(slot, secs(0), 60, RST);
        }
    }
    nat.expire(secs(240), 1_000);
    assert_eq!(nat.stats().sessions, 0);
    for port in 101..=108 {
        open(&mut nat, Protocol::Tcp, port, secs(240)).expect("closed before all eyes");
    }
    let refused = open(&mut nat, Protocol::Tcp, 109, secs(240));
    assert_eq!(refused, Err(Refusal::QuotaBlocks), "the others were abandoned");
    open(&mut nat, Protocol::Tcp, 109, secs(361)).unwrap();
}

// Proves: 6888-REQ-8.1
#[test]
fn ten_seconds_and_eight_ports_at_most_the_oldest_goes_early() {
    let (mut nat, _) = nat_with(settings(10, Some(8)), 1, 100);
    let mut ports = Vec::new();
    for port in 1..=16 {
        ports.push(open(&mut nat, Protocol::Udp, port, secs(u64::from(port))).unwrap());
    }
    for s in 301..=316 {
        nat.expire(secs(s), 1_000);
    }
    // One is freed each second, so that ten would rest at once; from the ninth on the oldest goes early.
    let now = secs(316);
    let stats = nat.stats();
    assert_eq!((stats.sessions, stats.rests_cut_short), (0, 8), "{stats:?}");
    assert_eq!(stats.events[EventKind::HoldDownOverflow.index()], 8);
    let mut events = std::iter::from_fn(|| nat.take_record()).filter_map(|record| record.limit());
    let told = events.find(|event| event.kind == EventKind::HoldDownOverflow);
    assert_eq!(told.map(|event| event.limit), Some(8));
    let mut again: Vec<u16> =
        (101..=108).map(|port| open(&mut nat, Protocol::Udp, port, now).unwrap()).collect();
    again.sort_unstable();
    ports[..8].sort_unstable();
    assert_eq!(again, ports[..8], "the oldest ones");
    assert_eq!(open(&mut nat, Protocol::Udp, 109, now), Err(Refusal::QuotaBlocks));
    for port in 109..=116 {
        open(&mut nat, Protocol::Udp, port, secs(327)).unwrap();
    }
}

/// A port that makes room at the very moment when its rest is over has lost nothing of it.
#[test]
fn a_rest_that_ends_now_is_not_cut_short() {
    for (late, cut_short) in [(9, 1), (10, 0)] {
        let (mut nat, _) = nat_with(settings(10, Some(1)), 1, 100);
        open(&mut nat, Protocol::Udp, 1, secs(0)).unwrap();
        open(&mut nat, Protocol::Udp, 2, secs(late)).unwrap();
        nat.expire(secs(300), 1_000);
        nat.expire(secs(300 + late), 1_000);
        assert_eq!((nat.stats().sessions, nat.stats().rests_cut_short), (0, cut_short));
    }
}

#[test]
fn a_quarter_of_the_pool_rests_by_default() {
    let (mut nat, _) = nat_with(settings(1_000, None), 1, 100);
    for port in 1..=16 {
        open(&mut nat, Protocol::Udp, port, secs(0)).unwrap();
    }
    nat.expire(secs(300), 1_000);
    assert_eq!(nat.stats().rests_cut_short, 12);
    let now = secs(301);
    assert_eq!((1..100).filter(|&p| open(&mut nat, Protocol::Udp, p, now).is_ok()).count(), 12);
}

#[test]
fn blocks_return_when_their_ports_have_rested() {
    let settings =
        PoolSettings { ports: 1024..=1087, quota: quota(4, 1_000), ..settings(120, None) };
    let hold_down = HoldDown { max_ports: Some(1_000), ..settings.hold_down.clone() };
    let (mut nat, pool) = nat_with(PoolSettings { hold_down, ..settings }, 1, 1_000);
    for port in 1..=64 {
        open(&mut nat, Protocol::Udp, port, secs(0)).unwrap();
    }
    let flow = key(Protocol::Udp, (pod(1), 1), remote(1, 443));
    let busy = nat.find(&flow).unwrap();
    let held = |pool: &Pool| pool.addresses[0].directory.held();
    for s in (10..=1_000).step_by(10) {
        nat.commit(busy, secs(s), 100, None);
        nat.expire(secs(s), 10_000);
        match s {
            ..=420 => assert_eq!(held(&pool), 4, "{s}"),
            421..=430 => {}
            // The busy one, and an empty one for what comes next.
            _ => assert_eq!(held(&pool), 2, "{s}"),
        }
    }
    for s in (1_010..=3_000).step_by(10) {
        nat.expire(secs(s), 10_000);
    }
    assert_eq!((held(&pool), nat.stats().subscribers), (0, 0));
}

// Proves: 6888-REQ-8.2
#[test]
fn blocks_of_a_lost_state_rest_for_everybody() {
    let lost = Directory::new(1024..=1279, 64);
    let holder = |n| Holder { subscriber: pod(n), worker: 0, overlay: 0 };
    let mut journal = Vec::new();
    for n in [1, 2] {
        journal.push(lost.claim(holder(n), u64::from(n) * 77, secs(0)).unwrap());
    }
    let mut held: Vec<_> = lost.held_blocks().collect();
    held.sort_by_key(|(_, holder)| holder.subscriber);
    assert_eq!(held, [(journal[0], holder(1)), (journal[1], holder(2))]);
    let next = Directory::new(1024..=1279, 64);
    let blocks = journal.iter().copied().chain([BlockNumber(3), BlockNumber(9_999)]);
    assert_eq!(next.rest_all(blocks, Duration::from_secs(120), secs(0)), 2, "known ones");
    assert_eq!(next.resting(secs(119)), 2);
    let claimed = |now| (0..4).filter_map(|i| next.claim(holder(1), i, now)).collect::<Vec<_>>();
    let early = claimed(secs(119));
    assert!(early.len() == 2 && early.iter().all(|block| !journal.contains(block)));
    assert!(!next.claim_block(journal[0], holder(1), secs(119)), "its own subscriber neither");
    // Lost again: those that rest, and those that were given out since.
    assert_eq!(next.busy_blocks(secs(119)).count(), 4);
    assert_eq!(claimed(secs(121)).len(), 2);
    let at_once = Directory::new(1024..=1279, 64);
    assert_eq!(at_once.rest_all(journal, Duration::ZERO, secs(0)), 0);
    assert_eq!(at_once.resting(secs(0)), 0);
}
