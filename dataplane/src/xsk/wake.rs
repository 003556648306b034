//! How does another thread wake a worker that sleeps in `wait`?

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::sys::eventfd::{EfdFlags, EventFd};

const AWAKE: u8 = 0;
const SLEEPING: u8 = 1;
const NOTIFIED: u8 = 2;

/// Wakes one worker. Cloned freely; costs one atomic exchange while the worker is awake.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: AtomicU8,
    event: EventFd,
}

impl Waker {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { state: AtomicU8::new(AWAKE), event })))
    }

    /// Lets the worker's current or next `wait` return at once. Call it after the work was queued.
    pub fn wake(&self) {
        // The exchange also orders what was queued before against the worker's look after `woke`.
        if self.0.state.swap(NOTIFIED, Ordering::SeqCst) == SLEEPING {
            // Fails only when the counter is full, and then the worker is awake.
            let _ = self.0.event.write(1);
        }
    }

    /// The worker is about to sleep. False if it was notified meanwhile and must not.
    pub(super) fn may_sleep(&self) -> bool {
        let entered =
            self.0.state.compare_exchange(AWAKE, SLEEPING, Ordering::SeqCst, Ordering::SeqCst);
        if entered.is_err() {
            self.0.state.swap(AWAKE, Ordering::SeqCst);
        }
        entered.is_ok()
    }

    /// The worker woke up, for whatever reason.
    pub(super) fn woke(&self) {
        if self.0.state.swap(AWAKE, Ordering::SeqCst) == NOTIFIED {
            // Empty if the notifier has not written yet: then the next sleep ends early, once.
            let _ = self.0.event.read();
        }
    }

    pub(super) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}
