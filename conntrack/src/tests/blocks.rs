//! Blocks: held by one, at rest, back again.

use super::*;

#[test]
fn req_6888_8_a_block_rests_before_another_subscriber_gets_it() {
    let settings = PoolSettings { ports: 1024..=1087, ..PoolSettings::default() };
    let (mut nat, pool) = nat_with(settings, 1, 100);
    let flow = |n| key(Protocol::Udp, (pod(n), 1), remote(1, 53));
    nat.open(&flow(1), POOL, None, secs(0)).unwrap();
    assert_eq!(pool.addresses[0].directory.held(), 1);
    assert_eq!(nat.open(&flow(2), POOL, None, secs(1)), Err(Refusal::PoolExhausted));
    // The session ends at 10 s, the last block is kept for 60 s, then it rests for 120 s.
    for s in 0..=75 {
        nat.expire(secs(s), 100);
    }
    assert_eq!(pool.addresses[0].directory.held(), 0);
    assert_eq!(pool.addresses[0].directory.resting(secs(75)), 1);
    assert_eq!(nat.open(&flow(2), POOL, None, secs(185)), Err(Refusal::PoolExhausted));
    nat.open(&flow(1), POOL, None, secs(186))
        .expect("its own block does not rest for the subscriber");
    for s in 186..=275 {
        nat.expire(secs(s), 100);
    }
    nat.open(&flow(2), POOL, None, secs(400)).expect("rested enough");
    assert_eq!(nat.stats().subscribers, 2);
    for s in 400..=1_100 {
        nat.expire(secs(s), 100);
    }
    assert_eq!(nat.stats().subscribers, 0, "forgotten after 600 s");
}

#[test]
fn the_directory_finds_the_worker() {
    let pool = Pool::new(PoolId(0), "p", PoolSettings::default(), [Ipv4Addr::new(203, 0, 113, 1)]);
    let directory = &pool.addresses[0].directory;
    assert_eq!(directory.blocks(), 880);
    let holder = Holder { subscriber: pod(9), worker: MAX_WORKERS as u16 - 1, overlay: 0 };
    let block = directory.claim(holder, 12_345, secs(5)).unwrap();
    for port in directory.ports(block) {
        assert_eq!(directory.worker_of(port), Some(holder.worker));
    }
    assert_eq!(directory.state(block), BlockState::Held(holder));
    assert_eq!(directory.worker_of(80), None);
    let stranger = Holder { subscriber: pod(1), worker: 0, overlay: 0 };
    directory.release(block, stranger, Duration::ZERO, secs(6));
    assert_eq!(directory.state(block), BlockState::Held(holder), "not the stranger's to release");
    directory.release(block, holder, Duration::ZERO, secs(6));
    assert_eq!(directory.state(block), BlockState::Free);
    assert_eq!(directory.state(BlockNumber(0)), BlockState::Free);
}

// Proves: 6056-S3.2a
// Museum: C1, C13, C14
#[test]
fn a_directory_can_be_claimed_dry_by_many_threads_without_a_double() {
    let unscattered = PoolSettings { scatter: None, ..PoolSettings::default() };
    let pool = Arc::new(Pool::new(PoolId(0), "p", unscattered, [Ipv4Addr::LOCALHOST]));
    let threads: Vec<_> = (0..4u16)
        .map(|worker| {
            let pool = Arc::clone(&pool);
            std::thread::spawn(move || {
                let holder = Holder { subscriber: pod(worker as u8), worker, overlay: 0 };
                let claim = |i: u64| pool.addresses[0].directory.claim(holder, i * 97, secs(1));
                (0..1008).map_while(claim).collect::<Vec<_>>()
            })
        })
        .collect();
    let claimed: Vec<_> = threads.into_iter().flat_map(|t| t.join().unwrap()).collect();
    assert_eq!(claimed.len(), 1008);
    assert_eq!(claimed.iter().collect::<HashSet<_>>().len(), 1008);
    let directory = &pool.addresses[0].directory;
    let mut ports: Vec<u16> = claimed.iter().flat_map(|&block| directory.ports(block)).collect();
    ports.sort_unstable();
    assert!(ports.iter().copied().eq(1024..=u16::MAX), "every port, the last one too, once");
    assert!(ports.iter().all(|&port| directory.worker_of(port).is_some_and(|worker| worker < 4)));
}

// Museum: C42
#[test]
fn a_rest_that_is_over_does_not_come_back_after_days() {
    let directory = Directory::new(1024..=1151, 64);
    let holder = |n| Holder { subscriber: pod(n), worker: MAX_WORKERS as u16 - 1, overlay: 0 };
    for start in [0, 1] {
        let block = directory.claim(holder(1), start, secs(10)).unwrap();
        directory.release(block, holder(1), Duration::from_secs(120), secs(10));
    }
    assert_eq!(directory.resting(secs(130)), 2, "never shorter than asked");
    assert_eq!(directory.claim(holder(2), 0, secs(130)), None);
    for day in 1..2_000 {
        assert_eq!(directory.resting(secs(day * 86_400)), 0, "on day {day}");
    }
    let block = directory.claim(holder(2), 0, secs(9 * 86_400)).unwrap();
    assert_eq!(directory.state(block), BlockState::Held(holder(2)));
    // Nor does the epoch matter.
    let now = secs((1 << 30) - 60);
    directory.release(block, holder(2), Duration::from_secs(86_400), now);
    assert_eq!(directory.resting(now + Duration::from_secs(86_400)), 1);
    assert_eq!(directory.resting(now + Duration::from_secs(86_401)), 0);
}

#[test]
fn a_block_comes_back_although_its_subscriber_is_busy_in_another_pool() {
    let pool = |id, n| {
        Arc::new(Pool::new(PoolId(id), "p", tiny_settings(), [Ipv4Addr::new(203, 0, 113, n)]))
    };
    let pools = [pool(0, 10), pool(1, 11)];
    let mut nat = Nat::new(0, 100, Secret::from_seed(1), secs(0));
    nat.adopt(&pools);
    let held = |n: usize| pools[n].addresses[0].directory.held();
    let busy = key(Protocol::Udp, (pod(1), 2), remote(2, 443));
    let slot = nat.open(&busy, Admission { pool: PoolId(1), rule: 0 }, None, secs(1)).unwrap();
    for round in 0..3u64 {
        // The session ends after 10 s, the block returns 60 s later.
        let start = round * 1_000 + 1;
        let dns = key(Protocol::Udp, (pod(1), 1), remote(1, 53));
        nat.open(&dns, POOL, None, secs(start)).unwrap();
        for s in start..start + 1_000 {
            nat.commit(slot, secs(s), 100, None);
            nat.expire(secs(s), 1_000);
            assert_eq!(held(0), u32::from(s < start + 71), "round {round}, second {s}");
        }
    }
    assert_eq!(held(1), 1);
}

#[test]
fn pods_of_a_worker_prefer_the_addresses_that_lean_to_it() {
    let addresses = |count: u8| (0..count).map(|n| Ipv4Addr::new(203, 0, 113, 10 + n));
    let settings = PoolSettings::default();
    let pool = Arc::new(Pool::new(PoolId(0), "p", settings.clone(), addresses(8)));
    let few = Arc::new(Pool::new(PoolId(1), "few", settings, addresses(3)));
    assert!(pool.leans_to_all(4) && !few.leans_to_all(4));
    let mut used = HashSet::new();
    for worker in 0..4 {
        let mut nat = Nat::new(worker, 1_000, Secret::from_seed(9), secs(0)).with_workers(4);
        nat.adopt(&[Arc::clone(&pool), Arc::clone(&few)]);
        for n in 0..20 {
            let flow = key(Protocol::Udp, (pod(50 * worker as u8 + n), 9), remote(1, 443));
            let public = send(&mut nat, &flow, secs(1)).unwrap().addr;
            assert_eq!(u32::from(public) % 4, u32::from(worker), "{public}");
            used.insert(public);
            // A worker without an address of its own uses all.
            let flow = FlowKey { src: Endpoint::new(flow.src.addr, 10), ..flow };
            let admission = Admission { pool: PoolId(1), rule: 1 };
            nat.open(&flow, admission, None, secs(1)).unwrap();
        }
    }
    assert_eq!(used.len(), 8, "both addresses of each worker are used");
}
