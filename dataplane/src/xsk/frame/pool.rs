//! Where is each frame, and how do free ones get from a worker that has many to one that has few? `dataplane/tests/shared.rs`
//! includes this, over loom's atomics and a queue of loom's, and tries every order of its steps.

use super::sync::{ArrayQueue, AtomicU8, Ordering};

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Place {
    Free,
    Pool,
    Receiving,
    Transmitting,
    Relay,
    Hand,
}

/// By frame, where it is; stops at the first that is in two places.
pub(crate) struct Ledger(Vec<AtomicU8>);

impl Ledger {
    /// Of so many frames, all free.
    pub(crate) fn of(frames: usize) -> Self {
        Self((0..frames).map(|_| AtomicU8::new(Place::Free as u8)).collect())
    }

    /// The frame of this number was at `from`, and is at `to` from now on.
    pub(crate) fn moved(&self, frame: usize, from: Place, to: Place) {
        let was = self.0[frame].swap(to as u8, Ordering::Relaxed);
        assert_eq!(was, from as u8, "frame {frame} was not at {from:?} on its way to {to:?}");
    }

    /// How many frames are there.
    pub(crate) fn count(&self, place: Place) -> usize {
        self.0.iter().filter(|it| it.load(Ordering::Relaxed) == place as u8).count()
    }
}

/// Free frames that are no worker's, in batches.
pub(crate) struct Pool<T, const BATCH: usize>(ArrayQueue<[T; BATCH]>);

impl<T: Copy, const BATCH: usize> Pool<T, BATCH> {
    /// An empty one with room for so many frames.
    pub(crate) fn of(frames: usize) -> Self {
        Self(ArrayQueue::new(frames / BATCH + 1))
    }

    /// How many are in it.
    pub(crate) fn frames(&self) -> usize {
        self.0.len() * BATCH
    }

    /// Takes frames from the pool, as long as there are, until `free` has as many as are `wanted`. Each that moves is told
    /// to `moved`.
    pub(crate) fn top_up(
        &self,
        free: &mut Vec<T>,
        wanted: usize,
        moved: impl Fn(&T, Place, Place),
    ) {
        while free.len() < wanted {
            let Some(batch) = self.0.pop() else { return };
            for frame in &batch {
                moved(frame, Place::Pool, Place::Free);
            }
            free.extend_from_slice(&batch);
        }
    }

    /// Gives frames beyond `most` to the pool. Each that moves is told to `moved`, before anybody else can have it.
    pub(crate) fn give_surplus(
        &self,
        free: &mut Vec<T>,
        most: usize,
        moved: impl Fn(&T, Place, Place),
    ) {
        while free.len() >= most + BATCH {
            let Some(batch) = free.last_chunk::<BATCH>().copied() else { return };
            for frame in &batch {
                moved(frame, Place::Free, Place::Pool);
            }
            if self.0.push(batch).is_err() {
                // Can't be: the pool has room for every frame there is.
                for frame in &batch {
                    moved(frame, Place::Pool, Place::Free);
                }
                return;
            }
            free.truncate(free.len() - BATCH);
        }
    }
}
