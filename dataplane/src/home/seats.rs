//! Who came first? `dataplane/tests/shared.rs` includes this, over loom's atomics, and tries every order of its steps.

use std::sync::Arc;

use super::sync::{AtomicU8, Ordering};

/// Nobody has arrived there.
const FREE: u8 = u8::MAX;

/// Homes, by seat: the first to ask for a seat decides, for all and for good. A clone is another handle of the same.
#[derive(Clone, Debug)]
pub(crate) struct Seats(Arc<[AtomicU8]>);

impl Seats {
    /// So many, all free.
    pub(crate) fn new(count: usize) -> Self {
        Self((0..count).map(|_| AtomicU8::new(FREE)).collect())
    }

    /// The home at this seat; if it has none yet, `wish`, unless somebody else's comes first.
    #[inline]
    pub(crate) fn of(&self, seat: usize, wish: impl FnOnce() -> u16) -> u16 {
        let seat = &self.0[seat];
        match seat.load(Ordering::Relaxed) {
            FREE => settle(seat, wish()),
            home => home.into(),
        }
    }

    /// Whether this seat has a home.
    pub(crate) fn is_taken(&self, seat: usize) -> bool {
        self.0[seat].load(Ordering::Relaxed) != FREE
    }
}

/// Gives a pod that has no home one. Who comes second finds it taken.
#[cold]
fn settle(seat: &AtomicU8, home: u16) -> u16 {
    match seat.compare_exchange(FREE, home as u8, Ordering::Relaxed, Ordering::Relaxed) {
        Ok(_) => home,
        Err(taken) => taken.into(),
    }
}
