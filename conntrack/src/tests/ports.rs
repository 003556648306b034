//! Which port? Drawn evenly, of its kind, never a reserved one.

use super::*;

fn open_udp(nat: &mut Nat, src: (Ipv4Addr, u16), dst: Endpoint, now: Timestamp) -> u16 {
    let slot = nat.open(&key(Protocol::Udp, src, dst), POOL, None, now).unwrap();
    nat.rewrite(slot).src.port
}

/// Sum of (seen - expected)^2 / expected; its mean is the number of classes, its variance twice that.
fn chi_square(counts: &[u32]) -> f64 {
    let all: u32 = counts.iter().sum();
    let expected = f64::from(all) / counts.len() as f64;
    counts.iter().map(|&n| (f64::from(n) - expected).powi(2) / expected).sum()
}

/// Whether `counts` may be an even draw: four standard deviations about the mean, on both sides.
fn assert_even(counts: &[u32]) {
    let (classes, chi) = (counts.len() as f64, chi_square(counts));
    let width = 4.0 * (2.0 * classes).sqrt();
    assert!((chi - classes).abs() < width, "chi-square {chi} of {classes} classes: {counts:?}");
}

/// Correlation of each draw with the next one; its standard deviation is 1 / sqrt(n).
fn serial_correlation(draws: &[u16]) -> f64 {
    let mean = draws.iter().map(|&d| f64::from(d)).sum::<f64>() / draws.len() as f64;
    let off: Vec<f64> = draws.iter().map(|&d| f64::from(d) - mean).collect();
    let variance: f64 = off.iter().map(|d| d * d).sum();
    off.windows(2).map(|w| w[0] * w[1]).sum::<f64>() / variance
}

/// One port at a time of one block, `count` times: each session ends before the next one opens.
fn draws(settings: PoolSettings, count: u64, internal: impl Fn(u64) -> u16) -> Vec<u16> {
    let (mut nat, _) = nat_with(settings, 1, 10);
    (0..count)
        .map(|i| {
            let now = secs(1 + i * 400);
            let port = open_udp(&mut nat, (pod(1), internal(i)), remote(1, 443), now);
            nat.expire(now + Duration::from_secs(310), 1_000);
            port
        })
        .collect()
}

fn counts_of(draws: &[u16], ports: impl Iterator<Item = u16>) -> Vec<u32> {
    ports.map(|port| draws.iter().filter(|&&d| d == port).count() as u32).collect()
}

// Proves: 6056-S3.3, 6056-S4a, 6888-REQ-15, 7857-S9
// Museum: C37
#[test]
fn ports_of_a_block_are_drawn_evenly_and_one_says_nothing_about_the_next() {
    let settings = PoolSettings {
        ports: 1024..=1535,
        block_size: 512,
        linger: Duration::from_secs(100_000),
        ..PoolSettings::default()
    };
    let drawn = draws(settings, 10_240, |i| i as u16);
    assert_even(&counts_of(&drawn, 1024..=1535));
    let correlation = serial_correlation(&drawn);
    assert!(correlation.abs() < 4.0 / (drawn.len() as f64).sqrt(), "{correlation}");
}

// Proves: 6056-S3.3
#[test]
fn two_starts_draw_different_ports() {
    let sequence = |seed| {
        let pool = Pool::new(PoolId(0), "p", PoolSettings::default(), [Ipv4Addr::LOCALHOST]);
        let mut nat = Nat::new(0, 1_000, Secret::from_seed(seed), secs(0));
        nat.adopt(&[Arc::new(pool)]);
        (0..64)
            .map(|i| open_udp(&mut nat, (pod(1), 1 + i), remote(1, 80), secs(1)))
            .collect::<Vec<_>>()
    };
    assert_eq!(sequence(5), sequence(5), "the seed is all there is");
    let (first, second) = (sequence(5), sequence(6));
    let same = first.iter().zip(&second).filter(|&(&a, &b)| a % 64 == b % 64).count();
    assert!(same < 8, "{same} of 64 ports at the same place of their blocks");
}

// Proves: 6056-S5
#[test]
fn few_ports_left_are_drawn_as_evenly_as_many() {
    // 26 of 512 ports are left, in clumps: a search from a random start would favour their first ones.
    let left = |port: &u16| [1030, 1031, 1032, 1033].contains(port) || (1300..1322).contains(port);
    let except = vec![1024..=1029, 1034..=1299, 1322..=1535];
    let settings = PoolSettings {
        ports: 1024..=1535,
        except,
        block_size: 512,
        linger: Duration::from_secs(100_000),
        ..PoolSettings::default()
    };
    let drawn = draws(settings, 5_200, |i| i as u16);
    assert!(drawn.iter().all(left));
    assert_even(&counts_of(&drawn, (1024..=1535).filter(left)));
}

// Proves: 6056-S5
#[test]
fn ports_that_others_use_do_not_weight_their_neighbours() {
    let settings = PoolSettings {
        ports: 1024..=1087,
        scatter: None,
        linger: Duration::from_secs(1_000_000),
        ..PoolSettings::default()
    };
    let (mut nat, _) = nat_with(settings, 1, 100);
    let mut slots = Vec::new();
    for i in 0..64 {
        let flow = key(Protocol::Udp, (pod(1), 1 + i), remote(1, 443));
        slots.push((nat.open(&flow, POOL, None, secs(0)).unwrap(), flow));
    }
    // Four stay free: the rest is renewed for ever.
    let free: Vec<u16> = slots[..4].iter().map(|(slot, _)| nat.rewrite(*slot).src.port).collect();
    let mut drawn = Vec::new();
    for round in 1..=4_000_u64 {
        let now = secs(round * 301);
        for (slot, _) in &slots[4..] {
            nat.commit(*slot, now + Duration::from_secs(0), 100, None);
        }
        nat.expire(now, 10_000);
        drawn.push(open_udp(&mut nat, (pod(1), 1_000), remote(1, 443), now));
    }
    assert_even(&counts_of(&drawn, free.into_iter()));
}

// Proves: 6056-S3.2a
#[test]
fn all_ports_from_1024_on_are_given_out() {
    let settings =
        PoolSettings { scatter: None, quota: quota(1_008, 100_000), ..PoolSettings::default() };
    let (mut nat, _) = nat_with(settings, 1, 70_000);
    let mut seen = HashSet::new();
    for i in 1..=64_512_u32 {
        seen.insert(open_udp(&mut nat, (pod(1), i as u16), remote((i >> 16) as u8, 80), secs(1)));
    }
    assert_eq!(seen.len(), 64_512);
    assert!(seen.iter().all(|&port| port >= 1024));
}

// Proves: 6056-S3.2b, 6056-S3.2c
#[test]
fn reserved_ports_are_never_given_out() {
    let settings = PoolSettings {
        ports: 1024..=1151,
        except: vec![1050..=1051],
        quota: quota(4, 1_000),
        ..PoolSettings::default()
    };
    let addresses = [(Ipv4Addr::new(203, 0, 113, 10), vec![1060..=1060, 1088..=1151])];
    let pool = Arc::new(Pool::with_reserved(PoolId(0), "p", settings, addresses));
    assert!(pool.addresses[0].is_reserved(1060) && !pool.addresses[0].is_reserved(1061));
    assert_eq!(pool.addresses[0].directory.blocks(), 1, "a block without ports is none");
    let mut nat = Nat::new(0, 1_000, Secret::from_seed(1), secs(0));
    nat.adopt(&[pool]);
    let mut seen = HashSet::new();
    for i in 0..61 {
        seen.insert(open_udp(&mut nat, (pod(1), 1 + i), remote(1, 80), secs(1)));
    }
    assert_eq!(seen.len(), 61);
    assert!([1050, 1051, 1060].iter().all(|port| !seen.contains(port)));
    let further = key(Protocol::Udp, (pod(1), 99), remote(1, 80));
    assert_eq!(nat.open(&further, POOL, None, secs(1)), Err(Refusal::PoolExhausted));
}

#[test]
fn a_fixed_pool_has_no_blocks() {
    let addresses = [Ipv4Addr::new(203, 0, 113, 10)];
    let pool = Arc::new(Pool::fixed(PoolId(0), "p", PoolSettings::default(), addresses));
    assert_eq!((pool.addresses[0].directory.blocks(), pool.fill()), (0, (0, 0)));
    let mut nat = Nat::new(0, 10, Secret::from_seed(1), secs(0));
    nat.adopt(&[pool]);
    for dst in [remote(1, 53), remote(1, 80)] {
        let flow = key(Protocol::Udp, (pod(1), 500), dst);
        assert_eq!(nat.open(&flow, POOL, None, secs(1)), Err(Refusal::PoolExhausted));
    }
}

// Proves: 4787-REQ-4, 6056-S4c
#[test]
fn parity_is_kept_and_the_other_bits_are_drawn() {
    let settings = PoolSettings { linger: Duration::from_secs(100_000), ..PoolSettings::rfc4787() };
    let settings = PoolSettings { ports: 1024..=1535, ..settings };
    // Ports at rest would take part in the draw otherwise.
    let hold_down = HoldDown { port: Duration::ZERO, ..settings.hold_down.clone() };
    let settings = PoolSettings { hold_down, ..settings };
    for odd in [0, 1] {
        let drawn = draws(settings.clone(), 5_120, |i| 2_000 + 2 * (i % 1_000) as u16 + odd);
        assert!(drawn.iter().all(|port| port % 2 == odd));
        assert_even(&counts_of(&drawn, (1024..=1535).filter(|port| port % 2 == odd)));
    }
}

// Proves: 7857-S8a
#[test]
fn parity_is_nobodys_business_in_the_default_profile() {
    for odd in [0, 1] {
        let drawn = draws(PoolSettings::default(), 400, |i| 2_000 + 2 * i as u16 + odd);
        let even = drawn.iter().filter(|&&port| port % 2 == 0).count();
        assert!((120..280).contains(&even), "{even} of 400 are even");
    }
}

// Proves: 4787-REQ-4
#[test]
fn of_400_ports_each_keeps_its_parity_and_a_flow_is_refused_rather_than_given_another() {
    let settings = PoolSettings { quota: quota(1, 1_000), ..PoolSettings::rfc4787() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    for port in 2_000..2_400 {
        let public = open_udp(&mut nat, (pod(1), port), remote(1, 443), secs(1));
        assert_eq!(public % 2, port % 2);
    }
    let open = |nat: &mut Nat, port| {
        let flow = key(Protocol::Udp, (pod(1), port), remote(1, 443));
        nat.open(&flow, POOL, None, secs(1)).map(|_| ())
    };
    for port in (3_001..3_113).step_by(2) {
        open(&mut nat, port).unwrap();
    }
    // The even half of the block is not yet used up, and stays even.
    assert_eq!(open(&mut nat, 3_113), Err(Refusal::QuotaBlocks));
    open(&mut nat, 3_114).unwrap();
}

// Proves: 4787-REQ-3a
#[test]
fn low_ports_stay_low_and_high_ports_high() {
    let (mut nat, pool) = nat_with(PoolSettings::rfc4787(), 1, 10_000);
    for n in 0..32 {
        for (internal, low) in [(500, true), (1, true), (1023, true), (1024, false), (5000, false)]
        {
            let port = open_udp(&mut nat, (pod(n), internal), remote(1, 443), secs(1));
            assert_eq!((512..1024).contains(&port), low, "{internal} became {port}");
            assert_eq!(pool.addresses[0].worker_of(port), Some(0));
        }
    }
    assert_eq!((pool.addresses[0].low.held(), pool.addresses[0].low.blocks()), (32, 32));
    let low = key(Protocol::Udp, (pod(40), 500), remote(1, 443));
    assert_eq!(nat.open(&low, POOL, None, secs(1)), Err(Refusal::PoolExhausted));
    // Identifiers of queries have no class.
    let ping = key(Protocol::Icmp, (pod(1), 7), remote(1, 0));
    let slot = nat.open(&ping, POOL, None, secs(1)).unwrap();
    assert!(nat.rewrite(slot).src.port >= 1024);
    // All come back.
    for s in 2..1_000 {
        nat.expire(secs(s), 10_000);
    }
    assert_eq!((pool.addresses[0].low.held(), pool.addresses[0].directory.held()), (0, 0));
}

// Proves: 4787-REQ-3a
#[test]
fn without_low_ports_all_are_high() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 100);
    assert!(open_udp(&mut nat, (pod(1), 500), remote(1, 443), secs(1)) >= 1024);
}

// Proves: 6056-S4b
#[test]
fn a_port_is_preserved_where_it_is_free_and_drawn_where_not() {
    let settings = PoolSettings { preserve: true, ..PoolSettings::default() };
    let (mut nat, _) = nat_with(settings, 1, 100_000);
    assert_eq!(open_udp(&mut nat, (pod(1), 5_000), remote(1, 443), secs(1)), 5_000);
    assert_eq!(open_udp(&mut nat, (pod(1), 5_000), remote(2, 443), secs(1)), 5_000);
    assert_eq!(open_udp(&mut nat, (pod(1), 5_001), remote(1, 443), secs(1)), 5_001);
    // Its block is another's: conflicts are drawn.
    let drawn: Vec<u16> = (0..500_u32)
        .map(|n| {
            let pod = Ipv4Addr::from(0x0a01_0000 + n);
            open_udp(&mut nat, (pod, 5_000), remote(1, 443), secs(1))
        })
        .collect();
    assert!(!drawn.contains(&5_000));
    let correlation = serial_correlation(&drawn);
    assert!(correlation.abs() < 4.0 / (drawn.len() as f64).sqrt(), "{correlation}");
    // What can't be preserved at all.
    assert!(open_udp(&mut nat, (pod(1), 80), remote(1, 443), secs(1)) >= 1024);
}

// Proves: 4787-REQ-2, 6888-REQ-2.1, 6888-S3a
#[test]
fn one_address_for_all_protocols_also_when_the_pool_is_nearly_full() {
    let (mut nat, pool) = nat_with(PoolSettings::default(), 4, 200_000);
    // 95 % of the blocks of each address are others'.
    let other = Holder { subscriber: pod(200), worker: 9, overlay: 0 };
    for address in &pool.addresses {
        let share = address.directory.blocks() * 95 / 100;
        for i in 0..share {
            address.directory.claim(other, u64::from(i) * 7, secs(0)).unwrap();
        }
    }
    let mut seen = HashSet::new();
    for i in 0..1_000 {
        for protocol in Protocol::ALL {
            for dst in [remote(1, 443), remote(2, 53)] {
                let flow = key(protocol, (pod(1), 2_000 + i), dst);
                let tcp = if protocol == Protocol::Tcp { SYN } else { None };
                let slot = nat.open(&flow, POOL, tcp, secs(1)).unwrap();
                seen.insert(nat.rewrite(slot).src.addr);
            }
        }
    }
    assert_eq!(seen.len(), 1);
}

// Proves: 6888-REQ-2.2
#[test]
fn a_pool_may_pool_arbitrarily() {
    let settings = PoolSettings { pooling: Pooling::Arbitrary, ..PoolSettings::default() };
    let (mut nat, _) = nat_with(settings, 4, 5_000);
    let mut seen = HashSet::new();
    for i in 0..1_500 {
        let flow = key(Protocol::Udp, (pod(1), 1 + i), remote(1, 443));
        seen.insert(send(&mut nat, &flow, secs(1)).unwrap().addr);
    }
    assert_eq!(seen.len(), 4);
    assert_eq!(nat.stats().events[EventKind::Spill.index()], 0);
}

// Proves: 6888-REQ-3.1, 6888-REQ-3.2
#[test]
fn a_pool_may_have_many_scattered_addresses_and_all_are_used() {
    let of = |net: u8| (0..=255).map(move |n| Ipv4Addr::new(203, 0, net, n));
    let addresses = of(113).chain(of(7).step_by(2)).chain([Ipv4Addr::new(198, 51, 100, 1)]);
    let settings = PoolSettings::default();
    let pool = Arc::new(Pool::new(PoolId(0), "p", settings, addresses));
    let mut nat = Nat::new(0, 10_000, Secret::from_seed(1), secs(0));
    nat.adopt(&[Arc::clone(&pool)]);
    let mut seen = HashSet::new();
    for n in 0..10_000 {
        let flow = key(Protocol::Udp, (Ipv4Addr::from(0x0a00_0000 + n), 1), remote(1, 443));
        seen.insert(send(&mut nat, &flow, secs(1)).unwrap().addr);
    }
    assert_eq!((pool.addresses.len(), seen.len()), (385, 385));
}

// Proves: 6888-REQ-13
#[test]
fn subscribers_of_whole_blocks_use_the_ports_to_the_last() {
    let (mut nat, pool) = nat_with(PoolSettings::default(), 2, 200_000);
    let (_, blocks) = pool.fill();
    let mut used = HashSet::new();
    for n in 0..blocks as u32 {
        let pod = Ipv4Addr::from(0x0a00_0000 + n);
        for i in 0..64 {
            let flow = key(Protocol::Udp, (pod, 1 + i), remote(1, 443));
            let slot = nat.open(&flow, POOL, None, secs(1)).expect("refused early");
            used.insert(nat.rewrite(slot).src);
        }
    }
    assert_eq!(used.len() as u64, blocks * 64, "two subscribers on one port");
    assert_eq!(pool.fill(), (blocks, blocks));
    // With the region for DNS, nothing but what lies below 1024 is left out.
    assert_eq!(blocks * 64 + 2 * 8_192, 2 * 64_512);
}
