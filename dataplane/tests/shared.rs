//! What comes of what workers share beside the hand-off (`hand_off.rs`) and their wakers (`waker.rs`), whichever way their
//! steps fall: free frames, frames that another transmits, homes, snapshots. The code is that of the crate, over loom's
//! atomics and locks; `crossbeam`'s queue is another project's, one of loom's stands for it.

#![allow(missing_docs, dead_code, unreachable_pub)]

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};
}
mod sync {
    use std::collections::VecDeque;

    pub(crate) use loom::sync::Mutex;
    pub(crate) use loom::sync::atomic::{AtomicU8, AtomicU64, Ordering};
    use loom::sync::{Arc, Notify};

    use super::state::State;

    /// What is used of `crossbeam`'s.
    pub(crate) struct ArrayQueue<T> {
        items: Mutex<VecDeque<T>>,
        room: usize,
    }

    impl<T> ArrayQueue<T> {
        pub(crate) fn new(room: usize) -> Self {
            Self { items: Mutex::new(VecDeque::new()), room }
        }

        pub(crate) fn push(&self, item: T) -> Result<(), T> {
            let mut items = self.items.lock().expect("nobody panics with it");
            if items.len() == self.room {
                return Err(item);
            }
            items.push_back(item);
            Ok(())
        }

        pub(crate) fn pop(&self) -> Option<T> {
            self.items.lock().expect("nobody panics with it").pop_front()
        }

        pub(crate) fn len(&self) -> usize {
            self.items.lock().expect("nobody panics with it").len()
        }
    }

    /// A waker whose event is loom's.
    #[derive(Clone)]
    pub(crate) struct Waker(Arc<(State, Notify)>);

    impl Waker {
        pub(crate) fn new() -> Self {
            Self(Arc::new((State::awake(), Notify::new())))
        }

        pub(crate) fn wake(&self) {
            if self.0.0.notify() {
                self.0.1.notify();
            }
        }

        /// As a worker sleeps.
        pub(crate) fn sleep(&self) {
            if self.0.0.may_sleep() {
                self.0.1.wait();
                self.0.0.woke();
            }
        }
    }
}
#[path = "../src/xsk/frame/pool.rs"]
mod pool;
#[path = "../src/snapshot/published.rs"]
mod published;
#[path = "../src/xsk/io/relay.rs"]
mod relay;
#[path = "../src/home/seats.rs"]
mod seats;
#[path = "../src/waker/state.rs"]
mod state;

use std::sync::Arc;

use loom::model::Builder;
use loom::thread;

use pool::{Ledger, Place, Pool};
use published::Published;
use relay::{Due, Relays};
use seats::Seats;
use sync::Waker;

fn every_order(model: impl Fn() + Sync + Send + 'static) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(model);
}

/// Two workers give frames to the pool and take others: each frame is in one place at all times, and none is lost.
#[test]
fn a_frame_is_free_for_one_worker() {
    const FRAMES: usize = 4;
    every_order(|| {
        let shared = Arc::new((Pool::<usize, 2>::of(FRAMES), Ledger::of(FRAMES)));
        let balance = |shared: &(Pool<usize, 2>, Ledger), mut free: Vec<usize>| {
            let (pool, ledger) = shared;
            let moved = |frame: &usize, from, to| ledger.moved(*frame, from, to);
            pool.give_surplus(&mut free, 0, moved);
            pool.top_up(&mut free, 1, moved);
            // It holds what it has: nobody else may.
            for frame in &free {
                ledger.moved(*frame, Place::Free, Place::Hand);
            }
            for frame in &free {
                ledger.moved(*frame, Place::Hand, Place::Free);
            }
            free
        };
        let others = Arc::clone(&shared);
        let other = thread::spawn(move || balance(&others, vec![0, 1]));
        let mut free = balance(&shared, vec![2, 3]);
        free.extend(other.join().unwrap());
        let (pool, ledger) = &*shared;
        assert_eq!(free.len() + pool.frames(), FRAMES, "frames are missing");
        assert_eq!(
            (ledger.count(Place::Free), ledger.count(Place::Pool)),
            (free.len(), pool.frames())
        );
        pool.top_up(&mut free, FRAMES, |frame, from, to| ledger.moved(*frame, from, to));
        free.sort_unstable();
        assert_eq!(free, [0, 1, 2, 3]);
    });
}

/// A worker asks another one to transmit, who is awake, or about to sleep, or asleep: with a lost notice that one sleeps for
/// ever, which loom finds.
fn relayed(items: usize, room: usize) {
    every_order(move || {
        let wakers = vec![Waker::new(), Waker::new()];
        let relays = Arc::new(Relays::between(wakers, room));
        let asked = Arc::clone(&relays);
        let asker = thread::spawn(move || {
            let mut due = Due::default();
            let mut refused = 0;
            for item in 0..items {
                refused += usize::from(asked.give(1, item, &mut due).is_err());
                if item % 2 == 1 {
                    asked.wake(&mut due);
                }
            }
            asked.wake(&mut due);
            assert!(items > room || refused == 0, "refused, though there was room");
        });
        let mut sent = Vec::new();
        while sent.len() < items.min(room) {
            match relays.take(1) {
                Some(item) => sent.push(item),
                None => relays.waker(1).sleep(),
            }
        }
        asker.join().expect("the asker panicked");
        assert!(sent.is_sorted_by(|a, b| a < b), "overtaken or doubled: {sent:?}");
    });
}

#[test]
fn what_is_relayed_is_heard_of() {
    relayed(3, 3);
}

#[test]
fn who_is_asked_for_too_much_sends_what_there_is_room_for() {
    relayed(3, 2);
}

/// A pod's first packets arrive at two workers at once: both send it to one home.
#[test]
fn a_pod_has_one_home() {
    every_order(|| {
        let seats = Seats::new(1);
        let others = seats.clone();
        let other = thread::spawn(move || [others.of(0, || 1), others.of(0, || 1)]);
        let ours = [seats.of(0, || 0), seats.of(0, || 0)];
        let theirs = other.join().unwrap();
        assert!(seats.is_taken(0));
        assert_eq!([ours, theirs].concat(), [ours[0]; 4]);
    });
}

/// Whoever looks sees the newest value in the end, though he looks at no lock when nothing is new.
#[test]
fn no_value_is_missed() {
    every_order(|| {
        let published = Arc::new(Published::new(0));
        let writes = Arc::clone(&published);
        let writer = thread::spawn(move || {
            writes.publish(1);
            writes.publish(2);
        });
        let (mut seen, mut known) = (0, None);
        for _ in 0..2 {
            if let Some(value) = published.newer(&mut seen) {
                assert!(Some(*value) >= known, "an older value after a newer one");
                assert!(*value + 1 >= seen, "version {seen} came with value {value}");
                known = Some(*value);
            }
        }
        writer.join().unwrap();
        if let Some(value) = published.newer(&mut seen) {
            known = Some(*value);
        }
        assert_eq!((known, seen, published.newer(&mut seen)), (Some(2), 3, None));
    });
}
