//! How does a frame get to the worker that transmits for another, and how does that one hear of it? `dataplane/tests/shared.rs`
//! includes this, over a queue and a waker of loom's, and tries every order of its steps.

use super::sync::{ArrayQueue, Waker};

/// What workers want others to transmit.
pub(crate) struct Relays<T> {
    /// By worker.
    queues: Vec<ArrayQueue<T>>,
    /// By worker.
    wakers: Vec<Waker>,
}

/// Workers that one worker has to wake, as bits.
#[derive(Default)]
pub(crate) struct Due(u64);

impl<T> Relays<T> {
    /// For the workers with these wakers, 64 at most: each is asked for `size` at most at a time.
    pub(crate) fn between(wakers: Vec<Waker>, size: usize) -> Self {
        Self { queues: wakers.iter().map(|_| ArrayQueue::new(size)).collect(), wakers }
    }

    /// Asks `worker` to transmit, who hears of it with the next [`wake`](Self::wake); gives `item` back if that one is asked
    /// for too much already.
    pub(crate) fn give(&self, worker: usize, item: T, due: &mut Due) -> Result<(), T> {
        self.queues[worker].push(item)?;
        due.0 |= 1 << worker;
        Ok(())
    }

    /// What `worker` is asked for next.
    pub(crate) fn take(&self, worker: usize) -> Option<T> {
        self.queues[worker].pop()
    }

    /// How much `worker` is asked for.
    pub(crate) fn waiting(&self, worker: usize) -> usize {
        self.queues[worker].len()
    }

    /// Wakes those who were asked.
    pub(crate) fn wake(&self, due: &mut Due) {
        while due.0 != 0 {
            self.wakers[due.0.trailing_zeros() as usize].wake();
            due.0 &= due.0 - 1;
        }
    }

    /// What wakes `worker`.
    pub(crate) fn waker(&self, worker: usize) -> &Waker {
        &self.wakers[worker]
    }
}
