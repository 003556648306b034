//! What is foretold of a flow is what then happens, and telling it changes nothing.

use proptest::prelude::*;

use super::random::{Step, flow_of, held_of, kinds, pass, step};
use super::*;
use crate::{Means, Prospect};

/// Tiny pools of all kinds, and of all kinds of mapping and filter.
fn all_kinds() -> Vec<PoolSettings> {
    let mut all = kinds();
    for mapping in CLASSES {
        all.extend(CLASSES.map(|filtering| class(mapping, filtering)));
    }
    let scatter = Some(Scatter { ports: 1088..=1095, rest: Duration::from_secs(2) });
    all.push(PoolSettings { ports: 1024..=1151, block_size: 16, scatter, ..kinds()[0].clone() });
    let few = Quota { sessions_per_mapping: Some(2), ..quota(2, 9) };
    all.push(PoolSettings { quota: few, ..class(CLASSES[0], CLASSES[1]) });
    all
}

/// Everything that a question could have changed.
fn trace(nat: &Nat, pool: &Pool, now: Timestamp) -> String {
    let (mut cursor, mut subscribers) = (0, Vec::new());
    while let Some(slice) = nat.subscribers(&mut cursor, 100) {
        subscribers.extend(slice);
    }
    format!("{:?} {subscribers:?} {} {:?}", nat.stats(), held_of(pool), all_sessions(nat, now))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn a_flow_gets_what_was_foretold(
        settings in prop::sample::select(all_kinds()),
        full in any::<bool>(),
        dns in any::<bool>(),
        steps in prop::collection::vec(step(), 1..200),
    ) {
        let (mut nat, pool) = nat_with(settings, 2, if full { 40 } else { 120 });
        let mut now = secs(1);
        for step in steps {
            match step {
                Step::Open { pod, port, server, protocol } => {
                    let mut flow = flow_of(pod, port, server, protocol);
                    if dns && flow.protocol == Protocol::Udp {
                        flow.dst.port = 53;
                    }
                    if server == 3 && protocol == 2 {
                        flow.protocol = Protocol::Other(47);
                        (flow.src.port, flow.dst.port) = (0, 0);
                    }
                    let before = trace(&nat, &pool, now);
                    if nat.find(&flow).is_some() {
                        continue;
                    }
                    let tcp = opening(flow.protocol);
                    let foretold = nat.prospect(&flow, POOL, None, tcp, now);
                    prop_assert_eq!(trace(&nat, &pool, now), before);
                    let opened = nat.open(&flow, POOL, tcp, now).map(|slot| nat.rewrite(slot).src);
                    match (&foretold, opened) {
                        (Ok(prospect), Ok(public)) => {
                            prop_assert!(prospect.admits(public), "{:?}: {:?}", prospect, public);
                        }
                        (Err(refusal), Err(happened)) => prop_assert_eq!(*refusal, happened),
                        _ => prop_assert!(false, "{:?}, but {:?}", foretold, opened),
                    }
                    // A stranger, whom a filter may admit.
                    let Ok(public) = opened else { continue };
                    let stranger = inbound(flow.protocol, remote(server + (port % 2) as u8, port + 1), public);
                    if nat.find(&stranger).is_none() && flow.protocol.index().is_some() {
                        let before = trace(&nat, &pool, now);
                        let foretold = nat.prospect_inbound(&stranger, tcp, now);
                        prop_assert_eq!(trace(&nat, &pool, now), before);
                        let reached = nat.open_inbound(&stranger, tcp, now).map(|slot| nat.rewrite(slot).dst);
                        prop_assert_eq!(foretold.map(|reached| reached.internal), reached);
                    }
                }
                Step::Packet { pod, port, server, protocol, flags, back } => {
                    pass(&mut nat, flow_of(pod, port, server, protocol), (flags, back), now);
                }
                Step::Wait { secs } => {
                    now = now + Duration::from_secs(secs);
                    if secs % 2 == 0 {
                        nat.expire(now, u32::MAX);
                    }
                }
            }
        }
    }
}

/// The means, one by one, with exactly the places that are possible.
#[test]
fn means_and_places_are_named() {
    let (mut nat, pool) = nat_with(tiny_settings(), 2, 1_000);
    let now = secs(1);
    let tell = |nat: &Nat, flow: &FlowKey| nat.prospect(flow, POOL, None, None, now);
    let udp = |port, server| key(Protocol::Udp, (pod(1), port), remote(server, 80));
    let addresses = pool.addresses.iter().map(|address| (address.addr, 1024..=1151)).collect();
    let means = Means::Block { spilled: false };
    let nobody = Prospect { means, places: addresses, scatter_full: false };
    assert_eq!(tell(&nat, &udp(1, 1)), Ok(nobody));
    let public = send(&mut nat, &udp(1, 1), now).unwrap();
    let first = public.port / 64 * 64;
    let held = Prospect {
        means: Means::Held,
        places: vec![(public.addr, first..=first + 63)],
        scatter_full: false,
    };
    assert_eq!(tell(&nat, &udp(2, 1)), Ok(held));
    for port in 2..=128 {
        send(&mut nat, &udp(port, 1), now).unwrap();
    }
    assert_eq!(tell(&nat, &udp(200, 2)).unwrap().means, Means::Shared);
    let spilled = tell(&nat, &udp(200, 1)).unwrap();
    assert_eq!(spilled.means, Means::Block { spilled: true });
    assert!(spilled.places.iter().all(|(addr, _)| *addr != public.addr), "{spilled:?}");
    for port in 200..328 {
        send(&mut nat, &udp(port, 1), now).unwrap();
    }
    assert_eq!(tell(&nat, &udp(400, 1)), Err(Refusal::PoolExhausted));
    let usage = nat.usage((pod(1), 0), PoolId(0), Protocol::Udp);
    let used = |limit| usage.iter().find(|it| it.limit == limit).map(|it| it.used);
    assert_eq!((used(Limit::Blocks), used(Limit::Sessions)), (Some(4), Some(256)));
}

/// A port whose rest is over is there for the next flow, whether or not somebody has looked at it.
#[test]
fn a_rest_that_is_over_is_foreseen() {
    let settings = PoolSettings {
        ports: 1024..=1039,
        block_size: 16,
        scatter: None,
        parity: false,
        low_ports: None,
        quota: quota(1, 100),
        hold_down: HoldDown { max_ports: Some(100), ..PoolSettings::rfc4787().hold_down },
        ..PoolSettings::rfc4787()
    };
    let (mut nat, _) = nat_with(settings, 1, 100);
    let udp = |port| key(Protocol::Udp, (pod(1), port), remote(1, 80));
    for port in 2000..2016 {
        send(&mut nat, &udp(port), secs(1)).unwrap();
    }
    nat.expire(secs(400), u32::MAX);
    assert_eq!(nat.stats().sessions, 0);
    assert_eq!(nat.prospect(&udp(9), POOL, None, None, secs(401)), Err(Refusal::QuotaBlocks));
    let later = secs(600);
    assert_eq!(nat.prospect(&udp(9), POOL, None, None, later).unwrap().means, Means::Held);
    nat.open(&udp(9), POOL, None, later).unwrap();
}
