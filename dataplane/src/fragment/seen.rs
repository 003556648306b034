//! Which bytes of a datagram have been seen?

/// Fragments of one datagram that are remembered: 64 KiB over a link of 576 bytes are 119.
const MAX_PIECES: usize = 128;

/// Where a fragment lies in its datagram's payload, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Extent {
    pub(crate) start: u16,
    /// Behind its last byte; beyond `start`.
    pub(crate) end: u16,
    /// Nothing follows it.
    pub(crate) last: bool,
}

/// How a fragment agrees with those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// It holds what was missing.
    New,
    /// It was there already.
    Again,
    /// It shares bytes with others, or lies behind the end, or is another end.
    Overlap,
    /// There are too many others.
    TooMany,
}

/// The fragments seen of a datagram; no two of them share a byte.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Start and end, in order.
    pieces: Vec<(u16, u16)>,
    bytes: usize,
    /// Where the datagram ends.
    end: Option<u16>,
}

impl Seen {
    /// Forgets all of them, but for the room that they took.
    pub(crate) fn clear(&mut self) {
        self.pieces.clear();
        (self.bytes, self.end) = (0, None);
    }

    /// Adds a fragment, unless it does not agree with those before.
    pub(crate) fn add(&mut self, extent: Extent) -> Fit {
        let Extent { start, end, last } = extent;
        let at = self.pieces.partition_point(|piece| piece.0 < start);
        if self.pieces.get(at) == Some(&(start, end)) {
            return if (self.end == Some(end)) == last { Fit::Again } else { Fit::Overlap };
        }
        let beyond = match self.end {
            Some(there) => last || end >= there,
            None => last && self.pieces.last().is_some_and(|piece| piece.1 > end),
        };
        let before = at.checked_sub(1).is_some_and(|before| self.pieces[before].1 > start);
        let behind = self.pieces.get(at).is_some_and(|piece| piece.0 < end);
        if beyond || before || behind {
            return Fit::Overlap;
        }
        if self.pieces.len() == MAX_PIECES {
            return Fit::TooMany;
        }
        self.pieces.insert(at, (start, end));
        self.bytes += usize::from(end - start);
        if last {
            self.end = Some(end);
        }
        Fit::New
    }

    /// Whether every byte up to the end has been seen.
    pub(crate) fn is_complete(&self) -> bool {
        self.end.is_some_and(|end| self.bytes == usize::from(end))
    }
}
