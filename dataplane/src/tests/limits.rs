//! Limits and DNS, through the pipeline of several workers.

use conntrack::{EventKind, Limit, Quota};

use super::*;
use crate::snapshot::Policy;

#[test]
fn dns_replies_find_the_worker_that_asked() {
    for workers in [1, 2, 5] {
        let mut rig = Rig::new(workers);
        let mut scattered = 0;
        for n in 1..=60 {
            let out = rig.one(INSIDE, &udp((pod(n), 4000), (SERVER, 53), b"who?")).unwrap().1;
            let public = seen(&out).src;
            scattered += u32::from(public.1 >= 57_344);
            let (interface, back) =
                rig.one(OUTSIDE, &udp((SERVER, 53), public, b"me")).expect("no reply");
            assert_eq!((interface, seen(&back).dst), (INSIDE, (pod(n), 4000)));
            // Another server's port on the same tuple is nobody's.
            let stranger = (Ipv4Addr::new(192, 0, 2, 77), 53);
            assert_eq!(rig.one(OUTSIDE, &udp(stranger, public, b"me")), None);
        }
        assert_eq!(scattered, 60, "{workers} workers");
    }
}

// Proves: 6888-REQ-11c
#[test]
fn a_limit_that_is_reached_is_told_and_counted() {
    let quota = Quota { half_open: 2, ..PoolSettings::default().quota };
    let settings = PoolSettings { quota, ..PoolSettings::default() };
    let mut rig = Rig::with(2, settings, Some(Mac(ROUTER_MAC)));
    let mut records = rig.records(64);
    for port in 1..=5 {
        rig.inject(INSIDE, &tcp((pod(1), port), (SERVER, 80), "S", b""));
        rig.run();
    }
    assert_eq!(rig.dropped(DropReason::QuotaHalfOpen), 3);
    rig.advance(Duration::from_millis(200));
    rig.run();
    let told: Vec<_> = records
        .iter_mut()
        .flat_map(|records| std::iter::from_fn(|| records.pop().ok()))
        .filter_map(|record| record.limit())
        .map(|event| (event.kind, event.subscriber, event.used, event.limit))
        .collect();
    assert_eq!(told, [(EventKind::QuotaExhausted(Limit::HalfOpen), Some(pod(1)), 2, 2)]);
    let kind = EventKind::QuotaExhausted(Limit::HalfOpen).index();
    assert_eq!(rig.sum(|c| c.events[kind].get()), 3);
}

#[test]
fn new_flows_give_way_while_the_receive_ring_overflows() {
    let mut rig = Rig::new(1);
    let old = udp((pod(1), 4000), (SERVER, 4433), b"hi");
    assert!(rig.one(INSIDE, &old).is_some());
    let fresh = |n: u8, port: u16| udp((pod(n), port), (SERVER, 4433), b"hi");
    let burst = |rig: &mut Rig, port: u16| {
        rig.inject(INSIDE, &old);
        (10..30).for_each(|n| rig.inject(INSIDE, &fresh(n, port)));
        // No port, no state, no budget: exempt traffic is not concerned.
        (10..30).for_each(|n| rig.inject(INSIDE, &udp((pod(n), port), (EXEMPT_SERVER, 1), b"")));
        rig.run().len()
    };
    assert_eq!(burst(&mut rig, 5_000), 41);
    rig.workers[0].io_mut().limit_receive(0);
    assert!(!rig.workers[0].io_mut().inject(INSIDE, &old), "the ring has no room");
    rig.workers[0].io_mut().limit_receive(usize::MAX);
    rig.advance(Duration::from_millis(200));
    rig.one(INSIDE, &old);
    assert_eq!(burst(&mut rig, 5_001), 25, "one established, four new, twenty exempt");
    assert_eq!(rig.dropped(DropReason::Overload), 16);
    rig.advance(Duration::from_millis(1_100));
    assert_eq!(burst(&mut rig, 5_002), 41, "it is over");
}

/// Everything that would open a session is dropped, from both sides; what has one passes, and so does what needs none.
#[test]
fn a_drained_gateway_opens_no_session_and_keeps_those_it_has() {
    let mut rig = Rig::new(2);
    let old = udp((pod(1), 4000), (SERVER, 4433), b"hi");
    let public = seen(&rig.one(INSIDE, &old).unwrap().1).src;
    let drain = |rig: &Rig, draining: bool| {
        let snapshot = rig.snapshot.get();
        let policy = Policy { draining, ..Policy::clone(&snapshot.policy) };
        rig.snapshot.publish(Snapshot { policy: Arc::new(policy), ..(*snapshot).clone() });
    };
    drain(&rig, true);
    let fresh = |n: u8| udp((pod(n), 5000), (SERVER, 4433), b"hi");
    for n in 1..=4 {
        rig.inject(INSIDE, &fresh(n));
        rig.run();
    }
    rig.inject(INSIDE, &tcp((pod(2), 6000), (SERVER, 80), "S", b""));
    rig.run();
    assert_eq!(rig.dropped(DropReason::Draining), 5);
    assert!(rig.one(INSIDE, &old).is_some(), "an old flow was cut");
    assert!(rig.one(OUTSIDE, &udp((SERVER, 4433), public, b"back")).is_some());
    drain(&rig, false);
    assert_eq!(rig.one(INSIDE, &fresh(2)).unwrap().0, OUTSIDE);
    assert_eq!(rig.dropped(DropReason::Draining), 5);
}
