//! How a worker spends its turns: full rings, listings, sleep.

use super::*;

#[test]
fn a_full_transmit_ring_and_a_full_hand_off_ring_drop_and_count() {
    let mut rig = Rig::new(1);
    rig.workers[0].io_mut().limit_transmit(10);
    for n in 0..30 {
        rig.inject(INSIDE, &udp((pod(n), 4000), (SERVER, 53), b""));
    }
    assert_eq!(rig.workers[0].turn(rig.now), 30);
    assert_eq!(rig.dropped(DropReason::TransmitFull), 20);
}

#[test]
fn listings_come_in_slices_and_stop_for_a_reader_that_is_gone() {
    let mut rig = Rig::new(1);
    for round in 0..10 {
        for n in 0..60 {
            rig.inject(INSIDE, &udp((pod(n), 4000 + round), (SERVER, 443), b""));
        }
        assert_eq!(rig.run().len(), 60);
    }
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { protocol: Some(Protocol::Udp), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    let mut rows = Vec::new();
    for _ in 0..20 {
        rig.run();
        rows.extend(rx.try_iter().flatten());
    }
    assert_eq!(rows.len(), 600);
    assert_eq!(rx.try_recv(), Err(channel::TryRecvError::Disconnected));
    assert!(rows.iter().all(|row| row.packets_out == 1 && row.state == "open" && row.worker == 0));
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { address: Some(pod(7)), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    rig.run();
    drop(rx);
    rig.run();
}

/// Opens `rounds` times 60 UDP sessions that end after 10 s.
fn open_sessions(rig: &mut Rig, rounds: u16) {
    for round in 0..rounds {
        for n in 0..60 {
            rig.inject(INSIDE, &udp((pod(n), 4000 + round), (SERVER, 53), b""));
        }
        assert_eq!(rig.run().len(), 60);
    }
}

#[test]
fn an_idle_worker_does_not_sleep_while_sessions_are_due() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 60);
    rig.advance(Duration::from_secs(20));
    let worker = &mut rig.workers[0];
    while worker.turn(rig.now) == 0 && worker.unfinished {}
    assert_eq!(worker.nat.stats().ended, 3_600, "the worker went to sleep before");
    assert!(!worker.unfinished);
}

#[test]
fn a_listing_without_rows_shows_life_and_keeps_an_idle_worker_awake() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 100);
    let (tx, rx) = channel::bounded(1);
    let filter = SessionFilter { protocol: Some(Protocol::Tcp), ..SessionFilter::default() };
    rig.requests[0].send(Request::Sessions(filter, tx)).unwrap();
    let worker = &mut rig.workers[0];
    let mut turns = 1;
    while worker.turn(rig.now) == 0 && worker.unfinished {
        turns += 1;
    }
    assert!(turns >= 6_000 / 256, "asleep after {turns} turns");
    assert_eq!(rx.try_recv(), Ok(vec![]), "a sign of life");
    assert_eq!(rx.try_recv(), Err(channel::TryRecvError::Disconnected), "the end");
}

#[test]
fn a_listing_whose_reader_is_slow_lets_an_idle_worker_sleep() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 20);
    let (tx, rx) = channel::bounded(1);
    rig.requests[0].send(Request::Sessions(SessionFilter::default(), tx)).unwrap();
    let worker = &mut rig.workers[0];
    let mut rows = 0;
    for _ in 0..10 {
        for turn in 0.. {
            worker.turn(rig.now);
            if !worker.unfinished {
                break;
            }
            assert!(turn < 10, "the worker spins for a reader that is slow");
        }
        rows += rx.try_iter().flatten().count();
    }
    assert_eq!(rows, 1_200);
}

#[test]
fn a_listing_takes_little_of_a_busy_workers_time() {
    let mut rig = Rig::new(1);
    open_sessions(&mut rig, 20);
    let list = |rig: &Rig| {
        let (tx, rx) = channel::bounded(100);
        rig.requests[0].send(Request::Sessions(SessionFilter::default(), tx)).unwrap();
        rx
    };
    // Two at a time: together they may not take more than one.
    let (one, other) = (list(&rig), list(&rig));
    let burst = |rig: &mut Rig| {
        for n in 0..60 {
            rig.inject(INSIDE, &udp((pod(n), 4000), (SERVER, 53), b""));
        }
        assert_eq!(rig.workers[0].turn(rig.now), 60);
        while rig.workers[0].io_mut().take_sent().is_some() {}
    };
    let count =
        |rx: &channel::Receiver<Vec<crate::request::SessionRow>>| rx.try_iter().flatten().count();
    let clock = crate::worker::Clock::start();
    let mut rows = [0, 0];
    while rows != [1_200, 1_200] {
        burst(&mut rig);
        rows = [rows[0] + count(&one), rows[1] + count(&other)];
        // The first step may take a whole slice.
        let places = 256 + clock.elapsed().as_nanos() / 8_000;
        assert!(rows.iter().sum::<usize>() as u128 <= places, "{rows:?} of {places}");
        assert!(clock.elapsed() < Duration::from_secs(20), "{rows:?}");
    }
    // An idle worker has time.
    let rx = list(&rig);
    for _ in 0..10 {
        rig.workers[0].turn(rig.now);
    }
    assert_eq!(count(&rx), 1_200);
}
