//! Is a packet that is handed over ever lost, doubled, overtaken or left lying while its worker sleeps? Every order in which
//! two workers can take their steps. The ring itself is another project's (`rtrb`): one of loom's stands for it.

#![allow(missing_docs)]

use loom::model::Builder;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};
}
/// What the hand-off uses of `rtrb`, with its orderings of the two indices.
mod ring {
    use loom::sync::atomic::{AtomicUsize, Ordering};
    use loom::sync::{Arc, Mutex};

    #[derive(Debug)]
    struct Shared<T> {
        slots: Vec<Mutex<Option<T>>>,
        written: AtomicUsize,
        read: AtomicUsize,
    }

    #[derive(Debug)]
    pub(crate) struct Producer<T>(Arc<Shared<T>>);
    #[derive(Debug)]
    pub(crate) struct Consumer<T>(Arc<Shared<T>>);
    pub(crate) struct RingBuffer;
    pub(crate) struct Room<'a, T>(&'a Shared<T>);

    impl RingBuffer {
        #[allow(clippy::new_ret_no_self)]
        pub(crate) fn new<T>(size: usize) -> (Producer<T>, Consumer<T>) {
            let slots = (0..size).map(|_| Mutex::new(None)).collect();
            let (written, read) = (AtomicUsize::new(0), AtomicUsize::new(0));
            let shared = Arc::new(Shared { slots, written, read });
            (Producer(Arc::clone(&shared)), Consumer(shared))
        }
    }

    impl<T> Shared<T> {
        fn slot(&self, index: usize) -> &Mutex<Option<T>> {
            &self.slots[index % self.slots.len()]
        }
    }

    impl<T> Producer<T> {
        pub(crate) fn slots(&self) -> usize {
            let written = self.0.written.load(Ordering::Relaxed);
            self.0.slots.len() - (written - self.0.read.load(Ordering::Acquire))
        }

        #[expect(clippy::unnecessary_wraps, reason = "as rtrb's")]
        pub(crate) fn write_chunk_uninit(&mut self, count: usize) -> Result<Room<'_, T>, ()> {
            assert!(count <= self.slots(), "no room for what was collected");
            Ok(Room(&self.0))
        }
    }

    impl<T> Room<'_, T> {
        pub(crate) fn fill_from_iter(self, items: impl Iterator<Item = T>) {
            let mut written = self.0.written.load(Ordering::Relaxed);
            for item in items {
                let before =
                    self.0.slot(written).lock().expect("nobody panics with it").replace(item);
                assert!(before.is_none(), "an item was overwritten");
                written += 1;
            }
            self.0.written.store(written, Ordering::Release);
        }
    }

    impl<T> Consumer<T> {
        pub(crate) fn slots(&self) -> usize {
            self.0.written.load(Ordering::Acquire) - self.0.read.load(Ordering::Relaxed)
        }

        #[expect(clippy::unnecessary_wraps, reason = "as rtrb's")]
        pub(crate) fn read_chunk(&mut self, count: usize) -> Result<Vec<T>, ()> {
            let read = self.0.read.load(Ordering::Relaxed);
            let take = |index| {
                self.0
                    .slot(index)
                    .lock()
                    .expect("nobody panics with it")
                    .take()
                    .expect("an item is missing")
            };
            let items = (read..read + count).map(take).collect();
            self.0.read.store(read + count, Ordering::Release);
            Ok(items)
        }
    }
}
#[path = "../src/hand_off/outlet.rs"]
mod outlet;
#[path = "../src/waker/state.rs"]
mod state;

use atomic::Ordering;
use outlet::{Outlet, take};
use state::State;

/// What two workers share beside the ring.
struct Shared {
    state: State,
    event: Notify,
    /// Packets that found no room, once the giver has ended; before, more than there are.
    lost: AtomicUsize,
}

/// One worker gives `packets` over a ring of `size`, showing what it has after each `burst`; the other takes two at a time
/// and sleeps whenever it finds nothing, until it has all that were not lost. With a lost notice it sleeps for ever, which
/// loom finds.
fn every_order(size: usize, packets: usize, burst: usize) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(2);
    builder.check(move || {
        let shared = Arc::new(Shared {
            state: State::awake(),
            event: Notify::new(),
            lost: AtomicUsize::new(usize::MAX),
        });
        let (mut outlet, mut inlet) = Outlet::new(size);
        let giver = Arc::clone(&shared);
        thread::spawn(move || {
            let mut lost = 0;
            for packet in 0..packets {
                lost += usize::from(outlet.give(packet).is_err());
                if (packet + 1) % burst == 0 {
                    wake(&giver, outlet.show());
                }
            }
            wake(&giver, outlet.show());
            if packets > size {
                giver.lost.store(lost, Ordering::Release);
                // The taker waits for what was just stored, too.
                wake(&giver, true);
            }
            assert!(packets > size || lost == 0, "lost, though there was room");
            assert!(!outlet.show(), "something was left in the giver's hand");
        });
        let mut taken: Vec<usize> = Vec::new();
        loop {
            let lost = shared.lost.load(Ordering::Acquire);
            if take(&mut inlet, 2, &mut taken) > 0 {
                continue;
            }
            let expected = if packets > size { packets.checked_sub(lost) } else { Some(packets) };
            if let Some(expected) = expected {
                if taken.len() == expected {
                    break;
                }
                assert!(packets <= size, "{taken:?} of {packets} came, {lost} were lost");
            }
            if shared.state.may_sleep() {
                shared.event.wait();
                shared.state.woke();
            }
        }
        assert!(taken.is_sorted_by(|a, b| a < b), "overtaken or doubled: {taken:?}");
    });
}

fn wake(shared: &Shared, any: bool) {
    if any && shared.state.notify() {
        shared.event.notify();
    }
}

#[test]
fn packets_one_by_one_arrive_in_order() {
    every_order(3, 3, 1);
}

#[test]
fn a_full_ring_loses_and_counts() {
    every_order(2, 4, 1);
}

#[test]
fn bursts_are_shown_whole() {
    every_order(4, 4, 2);
}

#[test]
fn what_is_collected_takes_room() {
    every_order(2, 5, 4);
}
