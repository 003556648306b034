//! Workers as they are: threads of their own, which hand over to each other in both directions while others publish, ask and
//! look. Every answer is its pod's, and every packet and frame is accounted for. `tools/sanitize thread` runs it, too.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use conntrack::Timestamp;

use super::rig::policy;
use super::*;
use crate::Worker;
use crate::capture::{CaptureFilter, CaptureOrder, CaptureState};
use crate::memory::MemoryIo;
use crate::request::SubscriberFilter;

const WORKERS: usize = 3;
/// Flows that begin at each worker.
const FLOWS: u16 = 400;

/// What the threads have in common.
#[derive(Default)]
struct Ends {
    /// Answers that pods got.
    answered: AtomicUsize,
    /// Workers that have begun all of their flows.
    done: AtomicUsize,
    stop: AtomicBool,
}

/// Takes turns until told to stop. What leaves for the server is answered, by whatever worker sent it.
fn serve(worker: &mut Worker<MemoryIo>, id: usize, start: Timestamp, ends: &Ends) {
    let mut begun = 0;
    let mut answers: Vec<Vec<u8>> = Vec::new();
    for turn in 0.. {
        if begun < FLOWS {
            let from = (pod((begun % 50) as u8), 1000 + 400 * id as u16 + begun / 50);
            let packet = udp(from, (SERVER, 53), &from.1.to_be_bytes());
            if worker.io_mut().inject(INSIDE, &packet) {
                begun += 1;
                ends.done.fetch_add(usize::from(begun == FLOWS), Ordering::Relaxed);
            }
        } else if ends.stop.load(Ordering::Relaxed) {
            break;
        }
        answers.retain(|packet| !worker.io_mut().inject(OUTSIDE, packet));
        worker.turn(start + Duration::from_millis(turn));
        while let Some((interface, packet)) = worker.io_mut().take_sent() {
            let packet = seen(&packet);
            if interface == OUTSIDE {
                answers.push(udp(packet.dst, packet.src, &packet.payload));
            } else {
                assert_eq!(packet.payload, packet.dst.1.to_be_bytes(), "an answer of another's");
                ends.answered.fetch_add(1, Ordering::Relaxed);
            }
        }
        std::thread::yield_now();
    }
    assert!(answers.is_empty(), "answers that found no room");
}

/// What the control thread does all the time: publishes, asks, counts.
fn disturb(rig: &Rig, round: u32) {
    let mut snapshot = Snapshot::clone(&rig.snapshot.get());
    let mut next = policy(PoolSettings::default());
    next.pools.clone_from(&snapshot.policy.pools);
    next.cuts = round;
    snapshot.policy = Arc::new(next);
    snapshot.roads = Arc::new(roads(Some(Mac(ROUTER_MAC))));
    rig.snapshot.publish(snapshot);
    for pool in &rig.snapshot.get().policy.pools {
        for address in &pool.addresses {
            let blocks = address.directory.held_blocks().count();
            assert!(blocks <= address.directory.blocks() as usize);
        }
    }
    let (sessions, rows) = channel::bounded(64);
    let (subscribers, _) = channel::bounded(1);
    let (packets, captured) = channel::bounded(16);
    for worker in &rig.requests {
        let until = rig.now + Duration::from_secs(60);
        let state = Arc::<CaptureState>::default();
        let (filter, packets) = (CaptureFilter::default(), packets.clone());
        let order = CaptureOrder { filter, snap: 60, per_second: 100, until, packets, state };
        // A worker that was asked for much is not asked for more.
        let _ = worker.try_send(Request::Sessions(SessionFilter::default(), sessions.clone()));
        let _ =
            worker.try_send(Request::Subscribers(SubscriberFilter::default(), subscribers.clone()));
        let _ = worker.try_send(Request::Capture(order));
    }
    drop((sessions, packets));
    std::thread::sleep(Duration::from_millis(2));
    let known = |row: &crate::request::SessionRow| row.remote.addr == SERVER;
    assert!(rows.try_iter().flatten().all(|row| known(&row)), "a session of nobody's");
    let _ = captured.try_iter().count();
    let counted = rig.sum(|it| it.forwarded.get() + it.handed_over.get());
    assert!(counted < 10 * WORKERS as u64 * u64::from(FLOWS));
}

#[test]
fn workers_on_threads_lose_and_mix_up_nothing() {
    let mut rig = Rig::new(WORKERS as u16);
    let mut workers = std::mem::take(&mut rig.workers);
    let (ends, start) = (Ends::default(), rig.now);
    let flows = WORKERS * usize::from(FLOWS);
    let workers: Vec<_> = std::thread::scope(|scope| {
        let run = |(id, mut worker): (usize, Worker<MemoryIo>)| {
            let ends = &ends;
            scope.spawn(move || {
                serve(&mut worker, id, start, ends);
                worker
            })
        };
        let threads: Vec<_> = workers.drain(..).enumerate().map(run).collect();
        let mut round = 0;
        let unanswered = || {
            let lost: u64 = DropReason::ALL.iter().map(|&reason| rig.dropped(reason)).sum();
            flows - ends.answered.load(Ordering::Relaxed) - lost as usize
        };
        while ends.done.load(Ordering::Relaxed) < WORKERS || unanswered() > 0 {
            round += 1;
            disturb(&rig, round);
            assert!(round < 20_000, "{} of {flows} have no answer", unanswered());
        }
        ends.stop.store(true, Ordering::Relaxed);
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    rig.workers = workers;
    rig.advance(Duration::from_secs(10));
    assert_eq!(rig.run(), []);
    assert!(rig.sum(|it| it.handed_over.get()) > 0, "nothing was handed over");
    assert_eq!(ends.answered.load(Ordering::Relaxed), flows, "packets were dropped");
}
