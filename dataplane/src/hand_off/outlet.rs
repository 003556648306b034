//! The giver's end of a ring, and how the taker empties the other: `dataplane/tests/hand_off.rs` includes it too, over a
//! ring of loom's, and tries every order of its steps.

use super::ring::{Consumer, Producer, RingBuffer};

/// The giver's end of a ring.
#[derive(Debug)]
pub(crate) struct Outlet<T> {
    ring: Producer<T>,
    /// What the other worker does not see yet; the ring has room for it.
    collected: Vec<T>,
    /// For so many more it has room for sure.
    room: usize,
}

impl<T> Outlet<T> {
    /// A ring of `size`, and the taker's end of it.
    pub(crate) fn new(size: usize) -> (Self, Consumer<T>) {
        let (ring, other_end) = RingBuffer::new(size);
        (Self { ring, collected: Vec::with_capacity(size), room: size }, other_end)
    }

    /// Collects an item for the other worker; gives it back if the ring is full.
    #[inline]
    pub(crate) fn give(&mut self, item: T) -> Result<(), T> {
        if self.room == 0 && !self.look_for_room() {
            return Err(item);
        }
        self.room -= 1;
        self.collected.push(item);
        Ok(())
    }

    /// Reads the other worker's index, which is seldom: only when the last look at it does not suffice.
    #[cold]
    fn look_for_room(&mut self) -> bool {
        self.room = self.ring.slots() - self.collected.len();
        self.room > 0
    }

    /// Shows the other worker what was collected; whether that was anything.
    pub(crate) fn show(&mut self) -> bool {
        let any = !self.collected.is_empty();
        if any && let Ok(room) = self.ring.write_chunk_uninit(self.collected.len()) {
            room.fill_from_iter(self.collected.drain(..));
        }
        any
    }
}

/// Puts at most `most` items behind what is in `into`; returns how many.
pub(crate) fn take<T>(ring: &mut Consumer<T>, most: usize, into: &mut Vec<T>) -> usize {
    let count = ring.slots().min(most);
    if count > 0
        && let Ok(burst) = ring.read_chunk(count)
    {
        into.extend(burst);
    }
    count
}
