//! Where is kept what opening and closing need of a TCP connection? Beside its session, and most of it only as long as
//! it is needed.

use crate::chunks::Slab;
use crate::track::{Closing, Tail};

/// Nothing but the numbers of the SYNs.
const NONE: u32 = u32::MAX;

/// What stays as long as the connection.
#[derive(Clone, Copy, Debug)]
struct Short {
    first: [u32; 2],
    /// The number of its [`Closing`], or [`NONE`].
    closing: u32,
    /// The second when the connection began.
    born: u32,
}

/// The tails of all TCP connections, by number.
#[derive(Debug, Default)]
pub(crate) struct Tails {
    all: Slab<Short>,
    closing: Slab<Closing>,
}

impl Tails {
    /// The number of a new tail, which is empty, of a connection that began in this second.
    pub(crate) fn insert(&mut self, born: u32) -> u32 {
        self.all.insert(Short { first: [0; 2], closing: NONE, born })
    }

    /// The second when the connection of a tail began.
    pub(crate) fn born(&self, number: u32) -> Option<u32> {
        self.all.get(number).map(|short| short.born)
    }

    pub(crate) fn get(&self, number: u32) -> Tail {
        let Some(short) = self.all.get(number) else { return Tail::default() };
        let closing = self.closing.get(short.closing).copied().unwrap_or_default();
        Tail { first: short.first, closing }
    }

    pub(crate) fn set(&mut self, number: u32, tail: &Tail) {
        let Some(short) = self.all.get_mut(number) else { return };
        short.first = tail.first;
        let needed = tail.closing != Closing::default();
        match self.closing.get_mut(short.closing) {
            Some(kept) if needed => *kept = tail.closing,
            Some(_) => {
                self.closing.remove(short.closing);
                short.closing = NONE;
            }
            None if needed => short.closing = self.closing.insert(tail.closing),
            None => {}
        }
    }

    pub(crate) fn remove(&mut self, number: u32) {
        if let Some(short) = self.all.remove(number) {
            self.closing.remove(short.closing);
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes() + self.closing.bytes()
    }
}
