//! Is a notice ever lost? Every order in which a worker and those who wake it can take their steps.

#![allow(missing_docs)]

use loom::model::Builder;
use loom::sync::atomic::AtomicUsize;
use loom::sync::{Arc, Notify};
use loom::thread;

mod atomic {
    pub(crate) use loom::sync::atomic::{AtomicU8, Ordering};
}
#[path = "../src/waker/state.rs"]
mod state;

use atomic::Ordering;
use state::State;

/// What a worker and two others share: packets in its rings, its state, its event.
struct Shared {
    queued: AtomicUsize,
    state: State,
    event: Notify,
}

/// A worker that sleeps whenever it finds nothing, until it has seen the packets of `givers` others. With a
/// lost notice it sleeps for ever, which loom finds.
fn every_order(givers: usize) {
    let mut builder = Builder::new();
    builder.preemption_bound = Some(3);
    builder.check(move || {
        let shared = Arc::new(Shared {
            queued: AtomicUsize::new(0),
            state: State::awake(),
            event: Notify::new(),
        });
        for _ in 0..givers {
            let shared = Arc::clone(&shared);
            thread::spawn(move || {
                shared.queued.fetch_add(1, Ordering::Release);
                if shared.state.notify() {
                    shared.event.notify();
                }
            });
        }
        while shared.queued.load(Ordering::Acquire) < givers {
            if shared.state.may_sleep() {
                shared.event.wait();
                shared.state.woke();
            }
        }
    });
}

#[test]
fn a_notice_is_not_lost() {
    every_order(1);
}

#[test]
fn a_notice_of_two_is_not_lost() {
    every_order(2);
}
