//! Pools change under live sessions: they keep what they have, and new ones get what is left.

use std::ops::RangeInclusive;

use proptest::prelude::*;

use super::random::{Step, check, flow_of, held_of, kinds, pass, read_ahead, step};
use super::*;
use crate::{Claimant, PublicAddress, Standing};

/// `pool` with the same addresses, good for `standings`, of which the ports in `reserved` are configuration's.
fn changed(
    pool: &Pool,
    settings: &PoolSettings,
    standings: &[Standing],
    reserved: &[RangeInclusive<u16>],
) -> Arc<Pool> {
    let keep = |address: &Arc<PublicAddress>| Arc::new(address.reserving(settings, reserved));
    let addresses: Vec<_> = pool.addresses.iter().map(keep).collect();
    let pool = Pool::of(pool.id, pool.name.clone(), settings.clone(), addresses);
    let pool = Arc::new(pool.with_standings(standings.to_vec()));
    pool.addresses.iter().for_each(|address| address.settle());
    pool
}

fn sweep(nat: &mut Nat, now: Timestamp, ends: impl Fn(&Claimant) -> bool) {
    let mut cursor = Some(0);
    while let Some(at) = cursor {
        cursor = nat.sweep(at, 3, now, &ends);
    }
}

const LEAVING: [Standing; 2] = [Standing::Leaving, Standing::Serving];

#[test]
fn an_address_that_leaves_keeps_its_sessions_and_gets_no_new_ones() {
    for settings in [tiny_settings(), class(CLASSES[0], CLASSES[0])] {
        let (mut nat, pool) = nat_with(settings.clone(), 2, 200);
        let flow = |pod_number, port| key(Protocol::Udp, (pod(pod_number), port), remote(1, 443));
        let before: Vec<_> =
            (1..=40).map(|port| send(&mut nat, &flow(1, port), secs(1)).unwrap()).collect();
        let left = before[0].addr;
        let index = pool.addresses.iter().position(|address| address.addr == left).unwrap();
        let mut standings = vec![Standing::Serving; 2];
        standings[index] = Standing::Leaving;
        let shrunk = changed(&pool, &settings, &standings, &[]);
        nat.adopt(std::slice::from_ref(&shrunk));
        for (port, public) in (1..).zip(&before) {
            assert_eq!(send(&mut nat, &flow(1, port), secs(2)), Ok(*public), "it keeps its port");
        }
        for (pod_number, port) in [(1, 100), (2, 1)] {
            let public = send(&mut nat, &flow(pod_number, port), secs(2)).unwrap();
            assert_ne!(public.addr, left, "pod {pod_number}");
        }
        // Pairing goes on with the new address.
        let again = send(&mut nat, &flow(1, 101), secs(2)).unwrap();
        assert_eq!(again.addr, send(&mut nat, &flow(1, 100), secs(2)).unwrap().addr);
        nat.expire(secs(400), u32::MAX);
        assert_eq!(shrunk.addresses[index].directory.held(), 0, "empty blocks come back at once");
        assert!(!shrunk.addresses[index].is_vacant(secs(400)), "but they rest");
        assert!(shrunk.addresses[index].is_vacant(secs(522)));
        // And it comes back.
        let whole = changed(&shrunk, &settings, &[Standing::Serving; 2], &[]);
        nat.adopt(std::slice::from_ref(&whole));
        let seen: HashSet<_> = (1..5)
            .filter_map(|n| send(&mut nat, &flow(n, 7), secs(600)).ok())
            .map(|e| e.addr)
            .collect();
        assert!(seen.contains(&left), "{seen:?}");
    }
}

#[test]
fn an_idle_block_on_an_address_that_leaves_comes_back_though_its_pod_is_busy() {
    let (mut nat, pool) = nat_with(tiny_settings(), 2, 200);
    let flow = |port| key(Protocol::Udp, (pod(1), port), remote(1, 443));
    let first = send(&mut nat, &flow(1), secs(1)).unwrap();
    let index = usize::from(pool.addresses[0].addr != first.addr);
    nat.expire(secs(310), u32::MAX);
    assert_eq!(
        pool.addresses[index].directory.held(),
        1,
        "an idle pod keeps its last block a while"
    );
    let mut standings = vec![Standing::Serving; 2];
    standings[index] = Standing::Leaving;
    nat.adopt(&[changed(&pool, &tiny_settings(), &standings, &[])]);
    send(&mut nat, &flow(2), secs(311)).unwrap();
    nat.expire(secs(312), u32::MAX);
    assert_eq!(pool.addresses[index].directory.held(), 0);
}

#[test]
fn blocks_on_an_address_that_leaves_do_not_count_for_the_quota() {
    let settings = PoolSettings { quota: quota(1, 1000), ..tiny_settings() };
    let (mut nat, pool) = nat_with(settings.clone(), 2, 200);
    let flow = |port| key(Protocol::Udp, (pod(1), port), remote(1, 443));
    (1..=64).for_each(|port| assert!(send(&mut nat, &flow(port), secs(1)).is_ok()));
    assert_eq!(send(&mut nat, &flow(65), secs(1)), Err(Refusal::QuotaBlocks));
    let left = send(&mut nat, &flow(1), secs(1)).unwrap().addr;
    let standings = if pool.addresses[0].addr == left { LEAVING } else { [LEAVING[1], LEAVING[0]] };
    nat.adopt(&[changed(&pool, &settings, &standings, &[])]);
    for port in 65..=128 {
        assert_ne!(send(&mut nat, &flow(port), secs(2)).unwrap().addr, left);
    }
    assert_eq!(send(&mut nat, &flow(129), secs(2)), Err(Refusal::QuotaBlocks));
}

#[test]
fn sessions_on_an_address_that_is_gone_end_and_others_do_not() {
    let (mut nat, pool) = nat_with(tiny_settings(), 2, 200);
    let flow = |n| key(Protocol::Tcp, (pod(n), 1), remote(1, 443));
    for n in 1..=30 {
        send(&mut nat, &flow(n), secs(1)).unwrap_or_else(|refusal| panic!("{n}: {refusal}"));
        if n == 4 {
            break;
        }
    }
    let gone = pool.addresses[0].addr;
    let on_it = |nat: &Nat| {
        all_sessions(nat, secs(2)).into_iter().filter(|s| s.public.addr == gone).count() as u64
    };
    let (before, all) = (on_it(&nat), nat.stats().sessions);
    assert!(before > 0 && before < all, "{before} of {all}: both addresses are in use");
    let cut = changed(&pool, &tiny_settings(), &[Standing::Gone, Standing::Serving], &[]);
    nat.adopt(std::slice::from_ref(&cut));
    sweep(&mut nat, secs(2), |claimant| claimant.public.addr == gone);
    assert_eq!((on_it(&nat), nat.stats().sessions), (0, all - before));
    nat.expire(secs(3), u32::MAX);
    assert_eq!(cut.addresses[0].directory.held(), 0);
}

#[test]
fn a_port_that_is_reserved_late_is_not_drawn_again_and_who_has_it_keeps_it() {
    for settings in [
        tiny_settings(),
        class(CLASSES[0], CLASSES[0]),
        PoolSettings {
            hold_down: HoldDown { port: Duration::from_secs(5), ..tiny_settings().hold_down },
            ..tiny_settings()
        },
    ] {
        let (mut nat, pool) = nat_with(settings.clone(), 1, 1000);
        let flow = |port, server| key(Protocol::Udp, (pod(1), port), remote(server, 443));
        let held: Vec<_> =
            (1..=20).map(|port| send(&mut nat, &flow(port, 1), secs(1)).unwrap()).collect();
        let reserved = 1030..=1100;
        let late = changed(&pool, &settings, &[], std::slice::from_ref(&reserved));
        nat.adopt(std::slice::from_ref(&late));
        for (port, public) in (1..).zip(&held) {
            assert_eq!(send(&mut nat, &flow(port, 1), secs(2)), Ok(*public));
        }
        let mut drawn = 0;
        for port in 100..400 {
            let Ok(public) = send(&mut nat, &flow(port, 1), secs(3)) else { continue };
            assert!(!reserved.contains(&public.port), "{public}");
            drawn += 1;
        }
        let kept = held.iter().filter(|public| !reserved.contains(&public.port)).count();
        assert_eq!(drawn + kept, 128 - reserved.len(), "all others are");
        // After their sessions, too.
        nat.expire(secs(1_000), u32::MAX);
        nat.expire(secs(1_100), u32::MAX);
        for port in 100..400 {
            if let Ok(public) = send(&mut nat, &flow(port, 2), secs(1_101)) {
                assert!(!reserved.contains(&public.port), "{public}");
            }
        }
        nat.expire(secs(2_000), u32::MAX);
        nat.expire(secs(2_700), u32::MAX);
        assert_eq!(late.addresses[0].directory.held(), 0, "nothing keeps a block");
        // And back: the ports are the pool's again.
        let whole = changed(&late, &settings, &[], &[]);
        nat.adopt(std::slice::from_ref(&whole));
        let all = (100..400).filter(|&port| send(&mut nat, &flow(port, 3), secs(3_000)).is_ok());
        assert_eq!(all.count().min(128), 128);
    }
}

#[test]
fn a_block_without_a_port_to_give_is_closed_and_opened_again() {
    let settings = PoolSettings { ports: 1024..=1151, block_size: 16, ..PoolSettings::default() };
    let (mut nat, pool) = nat_with(settings.clone(), 1, 100);
    let directory = &pool.addresses[0].directory;
    let slot = send(&mut nat, &key(Protocol::Udp, (pod(1), 1), remote(1, 443)), secs(1)).unwrap();
    let whole = directory.ports(directory.block_of(slot.port));
    let closed = changed(&pool, &settings, &[], &[1024..=1055, whole.clone()]);
    nat.adopt(std::slice::from_ref(&closed));
    let expected = 8 - 2 - u32::from(*whole.start() > 1055);
    nat.expire(secs(400), u32::MAX);
    nat.expire(secs(470), u32::MAX);
    assert_eq!((directory.held(), directory.blocks()), (0, expected), "closed when given back");
    let open = changed(&closed, &settings, &[], &[]);
    nat.adopt(&[open]);
    assert_eq!(directory.blocks(), 8);
}

/// The directories are told first, and each worker goes over to the new pools when it has done its burst.
#[test]
fn a_block_that_comes_back_before_its_worker_knows_is_closed_or_open_as_others_know() {
    let settings = PoolSettings { ports: 1024..=1151, block_size: 16, ..PoolSettings::default() };
    let flow = key(Protocol::Udp, (pod(1), 1), remote(1, 443));
    for closes in [true, false] {
        let (mut nat, pool) = nat_with(settings.clone(), 1, 100);
        let directory = &pool.addresses[0].directory;
        let block = directory.block_of(send(&mut nat, &flow, secs(1)).unwrap().port);
        let closed = changed(&pool, &settings, &[], &[directory.ports(block)]);
        if !closes {
            nat.adopt(std::slice::from_ref(&closed));
            changed(&closed, &settings, &[], &[]);
        }
        nat.expire(secs(400), u32::MAX);
        nat.expire(secs(470), u32::MAX);
        let expected = 8 - u32::from(closes);
        assert_eq!((directory.held(), directory.blocks()), (0, expected), "{closes}");
        assert_eq!(directory.state(block) == BlockState::Closed, closes);
    }
}

/// Nothing else looks at a block again whose last port is reserved while it rests.
#[test]
fn a_port_that_is_reserved_at_rest_keeps_no_block() {
    let settings = PoolSettings {
        hold_down: HoldDown { port: Duration::from_secs(200), ..tiny_settings().hold_down },
        ..tiny_settings()
    };
    let (mut nat, pool) = nat_with(settings.clone(), 1, 100);
    let public = send(&mut nat, &key(Protocol::Udp, (pod(1), 1), remote(1, 443)), secs(1)).unwrap();
    // Its session ends, and the port rests on when the block could go.
    nat.expire(secs(302), u32::MAX);
    nat.expire(secs(370), u32::MAX);
    assert_eq!((nat.stats().sessions, held_of(&pool)), (0, 1));
    let ports = public.port..=public.port;
    nat.adopt(&[changed(&pool, &settings, &[], &[ports])]);
    nat.expire(secs(1_000), u32::MAX);
    nat.expire(secs(2_000), u32::MAX);
    assert_eq!((nat.stats().subscribers, held_of(&pool)), (0, 0));
}

#[derive(Clone, Debug)]
enum Change {
    Standings([bool; 3]),
    Reserve(Vec<u16>),
    Settings(usize),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        any::<[bool; 3]>().prop_map(Change::Standings),
        prop::collection::vec(1024u16..1088, 0..20).prop_map(Change::Reserve),
        (0usize..5).prop_map(Change::Settings),
    ]
}

fn step_or_change() -> impl Strategy<Value = Result<Step, Change>> {
    prop_oneof![8 => step().prop_map(Ok), 1 => change().prop_map(Err)]
}

/// Kinds that differ in everything but the shape of an address, and have no kept parity or class to check.
fn same_shape(kind: usize) -> PoolSettings {
    let settings = kinds().swap_remove(kind);
    let shape = kinds().swap_remove(0);
    PoolSettings {
        low_ports: None,
        parity: false,
        block_size: shape.block_size,
        ports: shape.ports,
        scatter: None,
        except: Vec::new(),
        ..settings
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn random_changes_break_no_session_and_no_invariant(
        kind in 0usize..5,
        steps in prop::collection::vec(step_or_change(), 1..300),
        burst in 1..40usize,
    ) {
        let (mut nat, mut pool) = nat_with(same_shape(kind), 3, 120);
        let (mut now, mut reserved, mut standings) = (secs(1), Vec::new(), vec![Standing::Serving; 3]);
        let mut settings = same_shape(kind);
        for (number, step) in steps.iter().enumerate() {
            if number % burst == 0 {
                let next = steps[number..].iter().filter_map(|step| step.as_ref().ok());
                read_ahead(&mut nat, next, now);
            }
            let before: HashMap<_, _> = all_sessions(&nat, now)
                .into_iter()
                .map(|s| ((s.protocol, s.internal, s.remote), s.public))
                .collect();
            match step.clone() {
                Ok(Step::Open { pod, port, server, protocol }) => {
                    let flow = flow_of(pod, port, server, protocol);
                    let opened = nat.find(&flow).is_none()
                        && nat.open(&flow, POOL, opening(flow.protocol), now).is_ok();
                    let public = nat.find(&flow).filter(|_| opened).map(|slot| nat.rewrite(slot).src);
                    if let Some(public) = public {
                        let index = pool.addresses.iter().position(|a| a.addr == public.addr).unwrap();
                        let kept = before.iter().any(|((protocol, internal, _), kept)| {
                            (*protocol, *internal, *kept) == (flow.protocol, flow.src, public)
                        });
                        let good = standings[index] == Standing::Serving;
                        prop_assert!(good || kept, "{} is on an address that left", public);
                        prop_assert!(!reserved.contains(&(public.port..=public.port)), "{}", public);
                    }
                }
                Ok(Step::Packet { pod, port, server, protocol, flags, back }) => {
                    let flow = flow_of(pod, port, server, protocol);
                    if !pass(&mut nat, flow, (flags, back), now) {
                        continue;
                    }
                }
                Ok(Step::Wait { secs }) => {
                    now = now + Duration::from_secs(secs);
                    nat.expire(now, u32::MAX);
                }
                Err(change) => {
                    match change {
                        Change::Standings(serve) => {
                            let of = |serves: bool| if serves { Standing::Serving } else { Standing::Leaving };
                            standings = serve.into_iter().map(of).collect();
                        }
                        Change::Reserve(ports) => {
                            reserved = ports.into_iter().map(|port| port..=port).collect();
                        }
                        Change::Settings(kind) => settings = same_shape(kind),
                    }
                    pool = changed(&pool, &settings, &standings, &reserved);
                    nat.adopt(std::slice::from_ref(&pool));
                    for ((protocol, internal, remote), public) in &before {
                        let flow = key(*protocol, (internal.addr, internal.port), *remote);
                        let slot = nat.find(&flow);
                        prop_assert_eq!(slot.map(|slot| nat.rewrite(slot).src), Some(*public));
                    }
                }
            }
            check(&nat, &pool, now);
        }
        now = now + Duration::from_secs(8_000);
        for _ in 0..6 {
            nat.expire(now, u32::MAX);
            now = now + Duration::from_secs(700);
        }
        prop_assert_eq!(nat.stats().sessions, 0);
        prop_assert_eq!(nat.stats().subscribers, 0);
        prop_assert_eq!(held_of(&pool), 0);
    }
}
