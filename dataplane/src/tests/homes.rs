//! Where pods live, when that is where they arrive.

use super::*;
use crate::home::Homes;

/// 40 pods send four packets each, pod `n` to worker `n mod 2`: what was handed over, and the sessions of each worker when
/// one more packet of each has arrived at the other one.
fn handed_over(homes: &Homes) -> (u64, Vec<u16>) {
    let mut rig = Rig::new(2);
    for worker in &mut rig.workers {
        worker.shared.homes = homes.clone();
    }
    for n in 0..40 {
        for port in 0..4 {
            let packet = udp((pod(n), 4000 + port), (SERVER, 443), b"");
            assert!(rig.workers[usize::from(n) % 2].io_mut().inject(INSIDE, &packet));
        }
    }
    assert_eq!(rig.run().len(), 160);
    let over = rig.sum(|c| c.handed_over.get());
    // They live there for good, wherever they arrive later.
    for n in 0..40 {
        let packet = udp((pod(n), 4000), (SERVER, 443), b"");
        assert!(rig.workers[usize::from(n + 1) % 2].io_mut().inject(INSIDE, &packet));
    }
    assert_eq!(rig.run().len(), 40);
    let mut sessions = |worker: usize| {
        let (tx, rx) = channel::bounded(8);
        rig.requests[worker].send(Request::Sessions(SessionFilter::default(), tx)).unwrap();
        rig.workers[worker].turn(rig.now);
        rig.workers[worker].turn(rig.now);
        rx.try_iter().flatten().count() as u16
    };
    (over, (0..2).map(&mut sessions).collect())
}

#[test]
fn pods_live_where_they_arrive_first_and_nothing_is_handed_over() {
    assert_eq!(handed_over(&Homes::by_arrival()), (0, vec![80, 80]));
    let (over, sessions) = handed_over(&Homes::by_hash());
    assert!((40..120).contains(&over), "{over}");
    assert_eq!(sessions.iter().sum::<u16>(), 160);
}
