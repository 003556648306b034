//! How does another thread wake a worker that sleeps in `wait`?

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;

use nix::sys::eventfd::{EfdFlags, EventFd};

use self::state::State;

mod atomic {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}
mod state;

/// Wakes one worker. Cloned freely; costs one atomic exchange while the worker is awake.
#[derive(Clone, Debug)]
pub struct Waker(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    state: State,
    event: EventFd,
}

impl Waker {
    /// A waker for a new worker.
    pub fn new() -> io::Result<Self> {
        let event = EventFd::from_flags(EfdFlags::EFD_NONBLOCK | EfdFlags::EFD_CLOEXEC)?;
        Ok(Self(Arc::new(Shared { state: State::awake(), event })))
    }

    /// Lets the worker's current or next `wait` return at once. Call it after the work was queued.
    pub fn wake(&self) {
        if self.0.state.notify() {
            // Fails only when the counter is full, and then the worker is awake.
            let _ = self.0.event.write(1);
        }
    }

    /// The worker is about to sleep. False if it was notified meanwhile and must not.
    pub(crate) fn may_sleep(&self) -> bool {
        self.0.state.may_sleep()
    }

    /// The worker woke up, for whatever reason; `event` says whether there is one.
    pub(crate) fn woke(&self, event: bool) {
        self.0.state.woke();
        // Whatever the state was: a notifier that has exchanged the state writes some time later, perhaps
        // after the worker looked. Such an event ends the next sleep early, once, and is taken here then.
        // None that is needed gets lost: while the worker is awake nobody begins to notify by the event.
        if event {
            let _ = self.0.event.read();
        }
    }

    pub(crate) fn event(&self) -> BorrowedFd<'_> {
        self.0.event.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

    use super::*;

    /// Sleeps as a worker does; whether the event ended it.
    fn sleep(waker: &Waker) -> bool {
        assert!(waker.may_sleep());
        let mut fds = [PollFd::new(waker.event(), PollFlags::POLLIN)];
        let ready = poll(&mut fds, PollTimeout::from(1u8)).unwrap();
        waker.woke(ready > 0);
        ready > 0
    }

    #[test]
    fn an_event_written_after_woke_ends_one_sleep_early_and_no_more() {
        let waker = Waker::new().unwrap();
        assert!(waker.may_sleep());
        // `wake`, torn apart: the worker wakes up between its two steps.
        assert!(waker.0.state.notify());
        waker.woke(false);
        waker.0.event.write(1).unwrap();
        assert!(sleep(&waker), "the stale event");
        for _ in 0..3 {
            assert!(!sleep(&waker), "the stale event was never taken");
        }
        waker.wake();
        assert!(!waker.may_sleep(), "a notice before the sleep");
        assert!(!sleep(&waker));
    }
}
