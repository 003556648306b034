//! DNS queries over the region that all subscribers share (decision D5).

use super::*;

const REGION: std::ops::RangeInclusive<u16> = 57_344..=u16::MAX;

/// As many NATs as workers, on one pool and one secret.
fn workers(count: u16, settings: PoolSettings) -> (Vec<Nat>, Arc<Pool>) {
    let pool = Arc::new(Pool::new(PoolId(0), "p", settings, [Ipv4Addr::new(203, 0, 113, 10)]));
    let nat = |worker| {
        let mut nat = Nat::new(worker, 50_000, Secret::from_seed(4), secs(0)).with_workers(count);
        nat.adopt(&[Arc::clone(&pool)]);
        nat
    };
    ((0..count).map(nat).collect(), pool)
}

fn query(n: u32, port: u16, server: u8) -> FlowKey {
    key(Protocol::Udp, (Ipv4Addr::from(0x0a00_0000 + n), port), remote(server, 53))
}

// Proves: 6888-REQ-15
#[test]
fn queries_use_all_13_bits_and_one_says_nothing_about_the_next() {
    for count in [1, 4] {
        let (mut nats, _) = workers(count, PoolSettings::default());
        let mut counts = vec![0_u32; 64];
        let (mut seen, mut last, mut rising) = (HashSet::new(), 0, 0);
        for n in 0..20_000 {
            let flow = query(n, 1_000, (n % 200) as u8);
            let home = nats[0].secret().home(flow.src.addr, count);
            let nat = &mut nats[usize::from(home)];
            let slot = nat.open(&flow, POOL, None, secs(1)).unwrap();
            let port = nat.rewrite(slot).src.port;
            assert!(REGION.contains(&port));
            counts[usize::from((port - 57_344) / 128)] += 1;
            seen.insert(port);
            rising += u32::from(port > last);
            last = port;
        }
        let expected = 20_000.0 / 64.0;
        let chi: f64 = counts.iter().map(|&c| (f64::from(c) - expected).powi(2) / expected).sum();
        assert!((chi - 63.0).abs() < 4.0 * 126_f64.sqrt(), "{count} workers: {chi}, {counts:?}");
        // 8,192 classes and 20,000 draws leave 713 out.
        assert!((7_350..7_600).contains(&seen.len()), "{}", seen.len());
        assert!((9_700..10_300).contains(&rising), "{rising}");
    }
}

#[test]
fn a_tuple_has_one_owner_over_all_workers_and_is_found_by_arithmetic() {
    let (mut nats, pool) = workers(6, PoolSettings::default());
    let secret = nats[0].secret().clone();
    let mut tuples = HashSet::new();
    let mut shared = HashMap::new();
    for n in 0..6_000 {
        let flow = query(n, 1_000, 1);
        let home = secret.home(flow.src.addr, 6);
        let nat = &mut nats[usize::from(home)];
        let slot = nat.open(&flow, POOL, None, secs(1)).unwrap();
        let public = nat.rewrite(slot).src;
        if !REGION.contains(&public.port) {
            continue;
        }
        assert!(tuples.insert((public, flow.dst)), "two subscribers on one tuple");
        let found = pool.addresses[0].home_of(Protocol::Udp, public.port, flow.dst, &secret, 6);
        assert_eq!(found, Some(home));
        shared.insert(public.port, home);
    }
    assert!(tuples.len() > 5_500);
    // The same port towards another server may be another worker's.
    let moved = |(&port, &home): (&u16, &u16)| {
        pool.addresses[0].scatter_worker(port, remote(2, 53), &secret, 6) != Some(home)
    };
    assert!(shared.iter().filter(|&(port, home)| moved((port, home))).count() > 3_000);
    // Nothing but DNS over UDP is found there.
    let address = &pool.addresses[0];
    assert_eq!(address.scatter_worker(57_344, remote(1, 443), &secret, 6), None);
    assert_eq!(address.scatter_worker(57_343, remote(1, 53), &secret, 6), None);
    assert_eq!(address.home_of(Protocol::Tcp, 57_400, remote(1, 53), &secret, 6), None);
}

#[test]
fn no_block_reaches_into_the_region() {
    let (_, pool) = workers(1, PoolSettings::default());
    let directory = &pool.addresses[0].directory;
    let holder = Holder { subscriber: pod(1), worker: 0, overlay: 0 };
    while let Some(block) = directory.claim(holder, 7, secs(1)) {
        assert!(*directory.ports(block).end() < *REGION.start());
    }
    assert_eq!(directory.held(), 880);
}

#[test]
fn other_flows_and_other_settings_do_not_scatter() {
    let scattered = |settings: PoolSettings, flow: FlowKey| {
        let (mut nats, _) = workers(1, settings);
        let tcp = if flow.protocol == Protocol::Tcp { SYN } else { None };
        let slot = nats[0].open(&flow, POOL, tcp, secs(1)).unwrap();
        REGION.contains(&nats[0].rewrite(slot).src.port)
    };
    let dns = query(1, 1_000, 1);
    assert!(scattered(PoolSettings::default(), dns));
    assert!(!scattered(PoolSettings::default(), FlowKey { protocol: Protocol::Tcp, ..dns }));
    assert!(!scattered(PoolSettings::default(), FlowKey { dst: remote(1, 443), ..dns }));
    let few = PoolSettings { ports: 1024..=57_000, ..PoolSettings::default() };
    assert_eq!(few.scatter_region(), None, "not all of the region is the pool's");
    assert!(!scattered(few, dns));
    let only = PoolSettings { ports: REGION, ..PoolSettings::default() };
    assert_eq!(only.scatter_region(), None, "nothing would be left");
    let more = PoolSettings { ports: 57_280..=u16::MAX, ..PoolSettings::default() };
    assert_eq!(more.scatter_region(), Some(REGION));
    assert_eq!(PoolSettings::rfc4787().scatter_region(), None);
}

#[test]
fn a_region_that_is_full_towards_a_server_leaves_the_blocks() {
    let region = 1088..=1151;
    let scatter = Some(Scatter { ports: region.clone(), rest: Duration::from_secs(2) });
    let settings = PoolSettings { scatter, ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let mut inside = 0;
    for i in 0..128 {
        let slot = nat.open(&query(1, 1 + i, 1), POOL, None, secs(1)).unwrap();
        inside += u32::from(region.contains(&nat.rewrite(slot).src.port));
    }
    assert_eq!(inside, 64, "the last one is found, too");
    assert_eq!(nat.stats().events[EventKind::ScatterFull.index()], 64);
    let slot = nat.open(&query(1, 1, 2), POOL, None, secs(1)).unwrap();
    assert!(region.contains(&nat.rewrite(slot).src.port), "another server, all ports again");
}

// Proves: 6888-REQ-8
#[test]
fn a_tuple_of_the_region_rests_for_two_seconds() {
    let scatter = Some(Scatter { ports: 1088..=1103, rest: Duration::from_secs(2) });
    let settings = PoolSettings { scatter, ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let inside = |nat: &mut Nat, from: u16, now| {
        let ports = (from..from + 30)
            .map(|port| send(nat, &query(1, port, 1), now).unwrap().port)
            .collect::<Vec<_>>();
        ports.iter().filter(|&port| (1088..=1103).contains(port)).count()
    };
    assert_eq!(inside(&mut nat, 1, secs(1)), 16);
    nat.expire(secs(11), 1_000);
    assert_eq!(nat.stats().sessions, 0);
    assert_eq!(inside(&mut nat, 101, secs(12) + Duration::from_millis(999)), 0);
    assert_eq!(inside(&mut nat, 201, secs(13)), 16);
}

/// A port of the region is nobody's, so only sessions tell whose query it was; their records are few, if it is asked for.
// Proves: 6888-REQ-14
#[test]
fn queries_are_recorded_where_that_is_asked_for_and_nothing_else_is() {
    for log_scattered in [false, true] {
        let settings = PoolSettings { log_scattered, ..PoolSettings::default() };
        let (mut nat, _) = nat_with(settings, 1, 1_000);
        let records = |nat: &mut Nat| {
            let all = std::iter::from_fn(|| nat.take_record());
            let sessions = all.filter_map(|record| match record.what {
                crate::What::Session(change) => Some((change.began, change.public)),
                _ => None,
            });
            sessions.collect::<Vec<_>>()
        };
        let slot = nat.open(&query(1, 1_000, 1), POOL, None, secs(1)).unwrap();
        let public = nat.rewrite(slot).src;
        // To another port, and by another protocol.
        let other = FlowKey { dst: remote(1, 443), ..query(1, 1_000, 1) };
        nat.open(&other, POOL, None, secs(1)).unwrap();
        let tcp = FlowKey { protocol: Protocol::Tcp, ..query(1, 1_001, 1) };
        nat.open(&tcp, POOL, opening(Protocol::Tcp), secs(1)).unwrap();
        let expected = if log_scattered { vec![(true, public)] } else { vec![] };
        assert_eq!(records(&mut nat), expected);
        nat.expire(secs(10_000), 1_000);
        assert_eq!(nat.stats().sessions, 0);
        let expected = if log_scattered { vec![(false, public)] } else { vec![] };
        assert_eq!(records(&mut nat), expected);
        // All sessions are recorded once, whatever the pool says.
        nat.record_sessions(true);
        nat.open(&query(2, 1_000, 1), POOL, None, secs(10_001)).unwrap();
        assert_eq!(records(&mut nat).len(), 1);
    }
}
