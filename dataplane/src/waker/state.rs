//! Who sleeps, who was notified? The part of a waker that is only atomics: `dataplane/tests/waker.rs` includes it
//! too, over loom's, and tries every order of its steps.

use super::atomic::{AtomicU8, Ordering};

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// One worker's state.
#[derive(Debug)]
pub(crate) struct State(AtomicU8);

impl State {
    pub(crate) fn awake() -> Self {
        Self(AtomicU8::new(AWAKE))
    }

    /// Notifies the worker. True if it sleeps: whoever gets that must end its sleep.
    pub(crate) fn notify(&self) -> bool {
        // The exchange also orders what was queued before against the worker's look after `woke`.
        self.0.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING
    }

    /// The worker is about to sleep. False if it was notified meanwhile and must not.
    pub(crate) fn may_sleep(&self) -> bool {
        let entered =
            self.0.compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst).is_ok();
        if !entered {
            self.0.swap(AWAKE, Ordering::SeqCst);
        }
        entered
    }

    /// The worker woke up, for whatever reason.
    pub(crate) fn woke(&self) {
        self.0.swap(AWAKE, Ordering::SeqCst);
    }
}
