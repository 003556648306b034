//! What one NAT leaves, another one goes on with.

use proptest::prelude::*;

use super::random::{Step, check, flow_of, held_of, kinds, pass, step};
use super::*;
use crate::{HoldingRecord, Records, SubscriberRecord, SubscriberView, claim_blocks};

/// A NAT as its successor sees the world: the same pool with all blocks free, but for those that rest.
fn successor(before: &Pool, nat: &Nat, worker: u16, now: Timestamp) -> (Nat, Arc<Pool>, Records) {
    let addresses = before.addresses.iter().map(|address| address.addr);
    let pool = Arc::new(Pool::new(PoolId(0), "p", before.settings.clone(), addresses));
    let records = nat.records(now);
    for subscriber in &records.subscribers {
        claim_blocks(&pool, subscriber, PoolId(0), worker, now);
    }
    for (old, new) in before.addresses.iter().zip(&pool.addresses) {
        for (from, to) in [(&old.directory, &new.directory), (&old.low, &new.low)] {
            for (block, subscriber, until) in from.rests(now) {
                assert!(to.rest_as(block, subscriber, until), "a block that rests is not free");
            }
        }
    }
    let mut next = Nat::new(worker, 120, Secret::from_seed(1), now);
    next.adopt(&[Arc::clone(&pool)]);
    (next, pool, records)
}

fn sorted_sessions(nat: &Nat, now: Timestamp) -> Vec<SessionView> {
    let mut all = all_sessions(nat, now);
    all.sort_by_key(|s| (s.protocol, s.internal, s.remote, s.public));
    all
}

fn sorted_subscribers(nat: &Nat) -> Vec<SubscriberView> {
    let (mut cursor, mut all) = (0, Vec::new());
    while let Some(slice) = nat.subscribers(&mut cursor, 100) {
        all.extend(slice);
    }
    all.sort_by_key(|subscriber| subscriber.addr);
    all
}

/// Everything that can be seen of both is the same: sessions with their timers and counts, subscribers with what they
/// hold, and every block.
fn assert_same(a: (&Nat, &Pool), b: (&Nat, &Pool), now: Timestamp) {
    assert_eq!(sorted_sessions(a.0, now), sorted_sessions(b.0, now));
    assert_eq!(sorted_subscribers(a.0), sorted_subscribers(b.0));
    for (a, b) in a.1.addresses.iter().zip(&b.1.addresses) {
        for (a, b) in [(&a.directory, &b.directory), (&a.low, &b.low)] {
            assert_eq!(a.held_blocks().collect::<Vec<_>>(), b.held_blocks().collect::<Vec<_>>());
            assert_eq!(a.rests(now).collect::<Vec<_>>(), b.rests(now).collect::<Vec<_>>());
        }
    }
}

/// Plays `steps` but for the opening of sessions if `opens` is false: which port is drawn is nobody's promise.
fn play(nat: &mut Nat, steps: &[Step], now: &mut Timestamp, opens: bool) {
    for &step in steps {
        match step {
            Step::Open { pod, port, server, protocol } if opens => {
                let flow = flow_of(pod, port, server, protocol);
                if nat.find(&flow).is_none() {
                    let _ = nat.open(&flow, POOL, opening(flow.protocol), *now);
                }
            }
            Step::Open { .. } => {}
            Step::Packet { pod, port, server, protocol, flags, back } => {
                pass(nat, flow_of(pod, port, server, protocol), (flags, back), *now);
            }
            Step::Wait { secs } => {
                // As a worker does: what is due is looked for all the time.
                for _ in 0..secs {
                    *now = *now + Duration::from_secs(1);
                    nat.expire(*now, u32::MAX);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn a_successor_shows_and_does_the_same(
        settings in prop::sample::select(kinds()),
        first in prop::collection::vec(step(), 1..200),
        then in prop::collection::vec(step(), 1..100),
    ) {
        let (mut nat, pool) = nat_with(settings, 2, 120);
        let mut now = secs(1);
        play(&mut nat, &first, &mut now, true);
        nat.expire(now, u32::MAX);
        let (mut next, next_pool, records) = successor(&pool, &nat, 0, now);
        let done = next.restore(&records, now);
        prop_assert_eq!(done.sessions_lost, 0);
        prop_assert_eq!(done.blocks_lost, 0);
        prop_assert_eq!(done.sessions, nat.stats().sessions);
        check(&next, &next_pool, now);
        assert_same((&nat, &pool), (&next, &next_pool), now);
        // What comes of the same packets is the same, and so is when all this ends.
        let mut later = now;
        play(&mut nat, &then, &mut now, false);
        play(&mut next, &then, &mut later, false);
        check(&next, &next_pool, now);
        prop_assert_eq!(sorted_sessions(&nat, now), sorted_sessions(&next, now));
        // One may look for what a subscriber does not need a second after the other: soon both have it no more.
        let held = |nat: &Nat, pool: &Pool| {
            let mut subscribers = sorted_subscribers(nat);
            // Which block the last of several sessions had that end in one second is nobody's promise.
            for idle in subscribers.iter_mut().filter(|subscriber| subscriber.sessions == 0) {
                for (_, blocks) in &mut idle.holdings {
                    let count = blocks.iter().map(|(_, count)| count).sum();
                    *blocks = vec![(Ipv4Addr::UNSPECIFIED, count)];
                }
            }
            (subscribers, held_of(pool))
        };
        // Nor, if no more than some ports may rest, whose do: that is over when the last one has rested.
        let wait = &pool.settings.hold_down;
        let wait = if wait.max_ports.is_some() { 5 + wait.port.as_secs() } else { 5 };
        let soon = (0..wait).any(|_| {
            now = now + Duration::from_secs(1);
            nat.expire(now, u32::MAX);
            next.expire(now, u32::MAX);
            held(&nat, &pool) == held(&next, &next_pool)
        });
        prop_assert!(soon, "{:?} and {:?}", held(&nat, &pool), held(&next, &next_pool));
        later = now;
        // New flows find what is free, and nothing that is somebody's.
        play(&mut next, &first, &mut later, true);
        check(&next, &next_pool, later);
        for wait in [8_000, 700, 1_400, 2_100] {
            later = later + Duration::from_secs(wait);
            next.expire(later, u32::MAX);
        }
        prop_assert_eq!(next.stats().sessions, 0);
        prop_assert_eq!(next.stats().subscribers, 0);
        prop_assert_eq!(held_of(&next_pool), 0);
    }

    /// Records that were not made by a NAT, or for another one: what is added keeps every invariant, and the rest is
    /// counted.
    #[test]
    fn records_that_do_not_fit_are_left_out(
        settings in prop::sample::select(kinds()),
        steps in prop::collection::vec(step(), 1..200),
        damages in prop::collection::vec((any::<prop::sample::Index>(), 0..7_u8, any::<u16>()), 1..20),
    ) {
        let (mut nat, pool) = nat_with(settings, 2, 120);
        let mut now = secs(1);
        play(&mut nat, &steps, &mut now, true);
        let (mut next, next_pool, mut records) = successor(&pool, &nat, 0, now);
        if records.sessions.is_empty() {
            return Ok(());
        }
        for (index, kind, number) in damages {
            let at = index.index(records.sessions.len());
            let copy = records.sessions[at];
            let session = &mut records.sessions[at];
            match kind {
                0 => session.public.port = number,
                1 => session.internal.port = number,
                2 => session.state = State::ALL[usize::from(number) % State::ALL.len()],
                3 => session.tcp = None,
                4 => session.internal.addr = pod(number as u8),
                5 => session.pool = PoolId(number),
                _ => records.sessions.push(copy),
            }
        }
        let all = records.sessions.len() as u64;
        let done = next.restore(&records, now);
        prop_assert_eq!(done.sessions + done.sessions_lost, all);
        prop_assert_eq!(done.sessions, next.stats().sessions);
        let mut tuples = HashSet::new();
        let mut owners: HashMap<(Protocol, Endpoint), Ipv4Addr> = HashMap::new();
        for s in all_sessions(&next, now) {
            prop_assert!(tuples.insert((s.protocol, s.public, s.remote)), "a tuple twice");
            let owner = *owners.entry((s.protocol, s.public)).or_insert(s.internal.addr);
            prop_assert_eq!(owner, s.internal.addr, "two subscribers on one public endpoint");
        }
        now = now + Duration::from_secs(8_000);
        next.expire(now, u32::MAX);
        for wait in [700, 1_400, 2_100] {
            next.expire(now + Duration::from_secs(wait), u32::MAX);
        }
        prop_assert_eq!(next.stats().sessions, 0);
        prop_assert_eq!(held_of(&next_pool), 0);
    }
}

#[test]
fn every_session_knows_when_it_began() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 1_000);
    for (protocol, second) in [(Protocol::Udp, 100), (Protocol::Tcp, 103), (Protocol::Icmp, 105)] {
        let flow = key(protocol, (Ipv4Addr::new(10, 0, 0, 1), 1_000), remote(1, 443));
        nat.open(&flow, POOL, opening(protocol), secs(second)).unwrap();
    }
    let ages = |nat: &Nat, second| {
        let all = sorted_sessions(nat, secs(second)).into_iter();
        all.map(|session| (session.protocol, session.age_s)).collect::<HashMap<_, _>>()
    };
    let expected = [(Protocol::Udp, 7), (Protocol::Tcp, 4), (Protocol::Icmp, 2)];
    assert_eq!(ages(&nat, 107), HashMap::from(expected));
    // It is as old as before for who takes its place.
    let (mut next, _, records) = successor(&pool, &nat, 0, secs(107));
    next.restore(&records, secs(107));
    assert_eq!(
        ages(&next, 109),
        HashMap::from(expected.map(|(protocol, age)| (protocol, age + 2)))
    );
}

/// As after a reload that takes ports out of the pool.
#[test]
fn who_has_a_port_that_is_never_given_out_any_more_keeps_it_until_the_end() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 100);
    let flow = key(Protocol::Udp, (pod(1), 600), remote(1, 443));
    let public = send(&mut nat, &flow, secs(1)).unwrap();
    let block = pool.addresses[0].directory.block_of(public.port);
    let except = vec![pool.addresses[0].directory.ports(block)];
    let settings = PoolSettings { except, ..tiny_settings() };
    let without = Arc::new(Pool::new(PoolId(0), "p", settings, [public.addr]));
    let records = nat.records(secs(2));
    claim_blocks(&without, &records.subscribers[0], PoolId(0), 0, secs(2));
    let mut next = Nat::new(0, 100, Secret::from_seed(1), secs(2));
    next.adopt(&[Arc::clone(&without)]);
    let done = next.restore(&records, secs(2));
    assert_eq!((done.sessions, done.blocks, done.sessions_lost), (1, 1, 0));
    assert_eq!(send(&mut next, &flow, secs(3)), Ok(public));
    // Nobody gets another one of them, not even its pod.
    for port in 1..=70 {
        if let Ok(other) =
            send(&mut next, &key(Protocol::Udp, (pod(1), port), remote(1, 443)), secs(3))
        {
            assert_ne!(without.addresses[0].directory.block_of(other.port), block, "{other}");
        }
    }
    next.expire(secs(400), u32::MAX);
    next.expire(secs(470), u32::MAX);
    let directory = &without.addresses[0].directory;
    assert_eq!((directory.held(), directory.blocks()), (0, 1));
    assert_eq!(directory.state(block), BlockState::Closed);
}

/// Blocks of low ports and of others are counted apart, and may have one number.
#[test]
fn a_low_block_and_another_one_of_its_number_are_taken_over() {
    let (ports, low_ports) = (16_384..=16_895, Some(512..=527));
    let settings = PoolSettings { ports, low_ports, ..PoolSettings::rfc4787() };
    let (mut nat, pool) = nat_with(settings, 1, 100);
    let of = |port| key(Protocol::Udp, (pod(1), port), remote(1, 443));
    let public = [600, 6_000].map(|port| send(&mut nat, &of(port), secs(1)).unwrap().port);
    let address = &pool.addresses[0];
    assert_eq!(address.low.block_of(public[0]), address.directory.block_of(public[1]));
    let (mut next, next_pool, records) = successor(&pool, &nat, 0, secs(2));
    let done = next.restore(&records, secs(2));
    assert_eq!((done.sessions, done.blocks), (2, 2), "{done:?}");
    assert_same((&nat, &pool), (&next, &next_pool), secs(2));
}

#[test]
fn blocks_of_subscribers_for_whom_there_is_no_room_are_given_back() {
    let settings = PoolSettings::default();
    let rest = settings.hold_down.block;
    let (mut nat, pool) = nat_with(settings, 1, 1);
    let directory = &pool.addresses[0].directory;
    let first = |n: u32| *directory.ports(directory.block_of(2_048)).start() + 64 * n as u16;
    let subscriber = |n: u32, blocks| SubscriberRecord {
        addr: Ipv4Addr::from(0x0a00_0000 + n),
        overlay: 0,
        created: 0,
        refused: 0,
        idle_since: secs(1),
        holdings: vec![HoldingRecord {
            pool: PoolId(0),
            anchor: None,
            idle_since: secs(1),
            blocks,
        }],
    };
    // Far more than the table has room for; the first and the last ones have a block. It is hashed: where it is full,
    // room for this one or that may be left.
    let (all, with_block) = (166_000, 16);
    let has = |n| n < with_block || n >= all - with_block;
    let number = |n: u32| if n < with_block { n } else { n + 2 * with_block - all };
    let blocks = |n| if has(n) { vec![(pool.addresses[0].addr, first(number(n)))] } else { vec![] };
    let subscribers: Vec<_> = (0..all).map(|n| subscriber(n, blocks(n))).collect();
    for record in &subscribers {
        claim_blocks(&pool, record, PoolId(0), 0, secs(1));
    }
    assert_eq!(held_of(&pool), 2 * with_block);
    let done = nat.restore(&Records { subscribers, ..Records::default() }, secs(1));
    assert_eq!(done.blocks + done.blocks_lost, u64::from(2 * with_block));
    assert!(done.blocks >= with_block.into() && done.blocks_lost > 0, "{done:?}");
    assert_eq!(u64::from(held_of(&pool)), done.blocks, "those that somebody has");
    // As if they had been returned: they rest.
    let resting = u64::from(directory.resting(secs(1)));
    assert_eq!(resting, if rest.is_zero() { 0 } else { done.blocks_lost });
    assert_eq!(directory.resting(secs(2) + rest), 0);
}
