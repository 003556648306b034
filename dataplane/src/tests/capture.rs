//! What is copied is what came and what left, with its fate; without a capture nothing is.

use conntrack::Timestamp;

use super::*;
use crate::capture::{CaptureFilter, CaptureOrder, CaptureState, Captured, Fate};

/// Orders a capture from every worker, with room for so many packets.
fn capture(
    rig: &mut Rig,
    filter: &CaptureFilter,
    (room, per_second): (usize, u32),
) -> (channel::Receiver<Captured>, Vec<Arc<CaptureState>>) {
    let (packets, captured) = channel::bounded(room);
    let mut states = Vec::new();
    for worker in &rig.requests {
        let state = Arc::<CaptureState>::default();
        states.push(Arc::clone(&state));
        let until = rig.now + Duration::from_secs(60);
        let (filter, packets) = (filter.clone(), packets.clone());
        let order = CaptureOrder { filter, snap: 60, per_second, until, packets, state };
        worker.send(Request::Capture(order)).unwrap();
    }
    rig.run();
    (captured, states)
}

#[test]
fn both_sides_of_every_packet_are_copied_as_they_were() {
    for workers in [1, 4] {
        let mut rig = Rig::new(workers);
        let (captured, _) = capture(&mut rig, &CaptureFilter::default(), (100, 1_000));
        let mut sent = Vec::new();
        for n in 1..20 {
            let request = udp((pod(n), 5000), (SERVER, 53), &[n; 100]);
            // Twice: the second one would take the lane.
            for _ in 0..2 {
                sent.push((request.clone(), rig.one(INSIDE, &request).unwrap()));
            }
        }
        let packets: Vec<Captured> = captured.try_iter().collect();
        assert_eq!(packets.len(), sent.len(), "each once, whoever it was handed to");
        for (packet, (before, (out, after))) in packets.iter().zip(&sent) {
            assert_eq!(
                (&packet.arrived.bytes[..], packet.arrived.len),
                (&before[..60], before.len())
            );
            assert_eq!((packet.fate, packet.arrived.interface), (Fate::Passed, INSIDE));
            let [left] = packet.sent.as_slice() else { panic!("{packet:?}") };
            assert_eq!((&left.bytes[..], left.interface), (&after[..60], *out));
        }
    }
}

#[test]
fn fates_are_told_and_filters_choose() {
    let net = |text: &str| Some(text.parse().unwrap());
    let filters = [
        (CaptureFilter::default(), 4),
        (CaptureFilter { drops: true, ..CaptureFilter::default() }, 2),
        (CaptureFilter { reason: Some(DropReason::NoSession), ..CaptureFilter::default() }, 1),
        (CaptureFilter { from: net("10.244.1.1/32"), ..CaptureFilter::default() }, 2),
        (
            CaptureFilter {
                from: net("192.0.2.80/32"),
                to: net("10.244.1.2/32"),
                ..CaptureFilter::default()
            },
            1,
        ),
        (CaptureFilter { to: net("9.9.9.9/32"), ..CaptureFilter::default() }, 0),
    ];
    for (filter, count) in filters {
        let mut rig = Rig::new(1);
        let (captured, _) = capture(&mut rig, &filter, (100, 1_000));
        rig.one(INSIDE, &udp((pod(1), 5000), (SERVER, 53), b"passes")).unwrap();
        rig.one(INSIDE, &udp((pod(2), 5000), (Ipv4Addr::new(192, 0, 2, 99), 53), b"no rule"));
        assert_eq!(rig.one(OUTSIDE, &udp((SERVER, 53), (PUBLIC, 9), b"nobody")), None);
        rig.one(INSIDE, &ping(pod(1), PUBLIC, 7, b"answered")).unwrap();
        let fates: Vec<Fate> = captured.try_iter().map(|it| it.fate).collect();
        if filter == CaptureFilter::default() {
            let dropped = [DropReason::NoRule, DropReason::NoSession].map(Fate::Dropped);
            assert_eq!(fates, [Fate::Passed, dropped[0], dropped[1], Fate::Answered]);
        } else if filter.from != net("192.0.2.80/32") {
            assert_eq!(fates.len(), count, "{filter:?}: {fates:?}");
        }
    }
}

/// A reply to a pod is found by the pod's address though it does not have it when it comes.
#[test]
fn a_reply_is_found_by_what_it_becomes() {
    let mut rig = Rig::new(2);
    let filter =
        CaptureFilter { from: Some("10.244.1.1/32".parse().unwrap()), ..CaptureFilter::default() };
    let (captured, _) = capture(&mut rig, &filter, (100, 1_000));
    let request = udp((pod(1), 4000), (SERVER, 53), b"q");
    round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, b"a"));
    round_trip(&mut rig, &udp((pod(2), 4000), (SERVER, 53), b"q"), |public| {
        udp((SERVER, 53), public, b"a")
    });
    let interfaces: Vec<_> = captured.try_iter().map(|it| it.arrived.interface).collect();
    assert_eq!(interfaces, [INSIDE, OUTSIDE]);
}

#[test]
fn what_is_too_much_is_counted_and_the_end_is_the_end() {
    let mut rig = Rig::new(1);
    let missed =
        |states: &[Arc<CaptureState>]| states.iter().map(|it| it.missed.get()).sum::<u64>();
    let send = |rig: &mut Rig, count: u16| {
        for n in 0..count {
            rig.one(INSIDE, &udp((pod(1), 5000 + n), (SERVER, 53), b"x")).unwrap();
        }
    };
    let (captured, states) = capture(&mut rig, &CaptureFilter::default(), (5, 1_000));
    send(&mut rig, 9);
    assert_eq!((captured.len(), missed(&states)), (5, 4), "the channel has an end");
    let (captured, states) = capture(&mut rig, &CaptureFilter::default(), (100, 3));
    send(&mut rig, 9);
    assert_eq!((captured.len(), missed(&states)), (3, 6), "so many a second");
    rig.advance(Duration::from_secs(1));
    send(&mut rig, 1);
    assert_eq!(captured.len(), 4);
    rig.advance(Duration::from_secs(60));
    rig.run();
    send(&mut rig, 9);
    assert_eq!((captured.len(), missed(&states)), (4, 6), "its time is over");
    let (captured, states) = capture(&mut rig, &CaptureFilter::default(), (100, 100));
    states[0].ended.store(true, std::sync::atomic::Ordering::Relaxed);
    rig.advance(Duration::from_secs(1));
    rig.run();
    send(&mut rig, 9);
    assert_eq!(captured.len(), 0, "nobody wants more");
    assert!(rig.now > Timestamp::default());
}
