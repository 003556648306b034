//! What needs a packet of an established session, when it changes nothing but times and counts? One line.

use super::Nat;
use crate::key::HashedKey;
use crate::rewrite::Rewrite;
use crate::session::{CachedHop, Direction, Half};
use crate::tcp::TcpFlags;
use crate::time::Timestamp;

/// The line of a session's direction that a packet hits. Nothing changes before it is counted.
#[derive(Debug)]
pub struct Hit<'a>(&'a mut Half, Direction);

/// What a plain segment says of its sender's side of the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Acknowledgement {
    /// Acknowledgement number.
    pub number: u32,
    /// Window, not scaled.
    pub window: u16,
}

impl Nat {
    /// Reads the index line where `key` is looked up, and notes in `key` which one that is. Call it for a whole burst
    /// before [`guess`](Self::guess): the reads of different packets overlap. Nothing may be added in between.
    #[inline]
    pub fn touch_bucket(&self, key: &mut HashedKey) {
        self.table.touch_bucket(key);
    }

    /// Looks for the slot that `key` probably has, which is noted in it, by the index alone. Its line was read before
    /// ([`touch_bucket`](Self::touch_bucket)), so this does not wait.
    #[inline]
    pub fn guess(&self, key: &mut HashedKey) {
        self.table.guess(key);
    }

    /// Reads the line of the session that `key` probably has. Where [`guess`](Self::guess) found only that another line
    /// must be looked at, it is by now.
    #[inline]
    pub fn touch_guessed(&self, key: &mut HashedKey) {
        self.table.touch_guessed(key);
    }

    /// The session that `key` was guessed to have, if it is that of `key`. `None` says nothing: ask
    /// [`find_hashed`](Self::find_hashed).
    #[inline]
    pub fn hit(&mut self, key: &HashedKey) -> Option<Hit<'_>> {
        self.table.half_mut(key).map(|(half, direction)| Hit(half, direction))
    }

    /// Whether some pool wants identifications that were not used lately.
    #[inline]
    pub fn has_any_strict_ids(&self) -> bool {
        self.strict_ids
    }

    /// Whether some subscriber was ever seen under several addresses.
    #[inline]
    pub fn has_spread_subscribers(&self) -> bool {
        self.spread
    }
}

impl Hit<'_> {
    /// How packets of this direction are rewritten.
    #[inline]
    pub fn rewrite(&self) -> Rewrite {
        self.0.rewrite(self.1)
    }

    /// The next hop kept for them.
    #[inline]
    pub fn hop(&self) -> CachedHop {
        self.0.hop
    }

    /// Whether a packet without TCP changes nothing but times and counts: it is not the first of its direction, or it is
    /// the one that opened the session from inside.
    #[inline]
    pub fn is_plain(&self) -> bool {
        !self.0.is_fresh() || self.1 == Direction::Outbound && self.0.is_opened_inside()
    }

    /// Whether a segment with these flags changes no state.
    #[inline]
    pub fn is_plain_segment(&self, flags: TcpFlags) -> bool {
        self.0.is_plain(flags)
    }

    /// Counts a plain packet of `bytes` (IP length) and renews the timer, as [`Nat::commit`] does.
    #[inline]
    pub fn commit(self, now: Timestamp, bytes: u64, tcp: Option<Acknowledgement>) {
        self.0.count(bytes);
        self.0.last_seen = now.stored();
        if let Some(Acknowledgement { number, window }) = tcp {
            self.0.side.acknowledge(number, window);
        }
    }
}
