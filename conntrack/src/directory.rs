//! Who holds a port block? One array look-up.
//!
//! Every public address has a directory with one atomic word for each block of ports. A block is
//! claimed and released by compare-and-swap, off the packet path; a packet from outside finds the
//! worker that owns it with one load. A block has one holder, so no two subscribers share a public
//! endpoint (RFC 4787 REQ-3, RFC 5382 REQ-7).

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::sync::{AtomicU32, AtomicU64, Ordering};
use crate::time::Timestamp;

/// Workers that the directory has room for.
pub const MAX_WORKERS: usize = 1 << 10;

/// Number of a block: its first port divided by the block size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockNumber(pub u16);

/// Who holds a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The internal address.
    pub subscriber: Ipv4Addr,
    /// The worker where the subscriber lives.
    pub worker: u16,
    /// The overlay in which the address is the subscriber's.
    pub overlay: u16,
}

/// What a directory word says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BlockState {
    /// Nobody's.
    Free,
    /// Given out.
    Held(Holder),
    /// Given back by this subscriber of overlay 0, and not for others until this second (modulo 2^30). By one of another
    /// overlay: for nobody until then, and the address is 0.
    Resting(Ipv4Addr, u32),
    /// Never given out.
    Closed,
}

/// Blocks drawn before the directory is walked.
const DRAWS: u64 = 8;
/// Odd, and far from every number of blocks: draws lie apart.
const DRAW_STEP: u64 = 0x9e37_79b9_7f4a_7c15;

const FREE: u64 = 0;
const HELD: u64 = 1;
const RESTING: u64 = 2;
const CLOSED: u64 = 3;
/// Enough for 34 years: a word that nobody touches says the right thing for half of that. Nobody asks a
/// resting block for its worker, so the seconds may lie where a held one has it.
const SECONDS_BITS: u32 = 30;
const SECONDS_MASK: u32 = (1 << SECONDS_BITS) - 1;

/// In the word of a held block: it is closed when it is given back. Who gives it back may not know yet.
const CLOSES: u64 = 1 << 18;

/// Word layout: subscriber (32 bits) | held: worker (10), 0 (3), [`CLOSES`] (1), overlay (16); resting: second until which
/// it rests, modulo 2^30 (30) | state (2).
fn encode(state: BlockState) -> u64 {
    let pack = |subscriber: Ipv4Addr, middle: u64, kind: u64| {
        u64::from(u32::from(subscriber)) << 32 | middle << 2 | kind
    };
    match state {
        BlockState::Free => FREE,
        BlockState::Held(Holder { subscriber, worker, overlay }) => {
            pack(subscriber, u64::from(worker) << 20 | u64::from(overlay), HELD)
        }
        BlockState::Resting(subscriber, until) => {
            pack(subscriber, u64::from(until & SECONDS_MASK), RESTING)
        }
        BlockState::Closed => CLOSED,
    }
}

#[inline]
fn decode(word: u64) -> BlockState {
    let subscriber = Ipv4Addr::from((word >> 32) as u32);
    match word & 3 {
        HELD => {
            let worker = (word >> 22) as u16 & (MAX_WORKERS as u16 - 1);
            BlockState::Held(Holder { subscriber, worker, overlay: (word >> 2) as u16 })
        }
        RESTING => BlockState::Resting(subscriber, (word >> 2) as u32 & SECONDS_MASK),
        CLOSED => BlockState::Closed,
        _ => BlockState::Free,
    }
}

/// Whether the second `until` (modulo 2^30) has come at `now`; rests are far shorter than half the range.
fn is_over(until: u32, now: Timestamp) -> bool {
    let now = now.as_secs() as u32 & SECONDS_MASK;
    now.wrapping_sub(until) & SECONDS_MASK < 1 << (SECONDS_BITS - 1)
}

/// Whether a block with this word may become `holder`'s.
fn is_available(word: u64, holder: Holder, now: Timestamp) -> bool {
    match decode(word) {
        BlockState::Free => true,
        BlockState::Held(_) | BlockState::Closed => false,
        BlockState::Resting(last, until) => {
            holder.overlay == 0 && last == holder.subscriber || is_over(until, now)
        }
    }
}

fn ports_of(block: u16, shift: u32) -> RangeInclusive<u16> {
    let start = u32::from(block) << shift;
    start as u16..=(start + (1 << shift) - 1) as u16
}

/// The port blocks of one public address. A clone is another handle of the same blocks.
#[derive(Clone, Debug)]
pub struct Directory {
    first: u16,
    shift: u32,
    words: Arc<[AtomicU64]>,
    counts: Arc<Counts>,
}

/// What is counted beside the words.
#[derive(Debug, Default)]
struct Counts {
    /// Blocks that may be given out.
    open: AtomicU32,
    held: AtomicU32,
    /// Releases so far, modulo 2^32 (32 bits) | second before which there is nothing to claim (32).
    barren: AtomicU64,
}

impl Directory {
    /// A directory of all blocks of `block_size` ports (a power of two) that lie whole within `ports`;
    /// all free.
    pub fn new(ports: RangeInclusive<u16>, block_size: u16) -> Self {
        Self::with_closed(ports, block_size, |_| false)
    }

    /// The same, without the blocks whose ports are `closed`: they are never given out.
    pub fn with_closed(
        ports: RangeInclusive<u16>,
        block_size: u16,
        closed: impl Fn(RangeInclusive<u16>) -> bool,
    ) -> Self {
        let shift = block_size.trailing_zeros();
        let first = u32::from(*ports.start()).div_ceil(u32::from(block_size));
        let end = (u32::from(*ports.end()) + 1) >> shift;
        let state = |number: u32| {
            let closed = closed(ports_of(number as u16, shift));
            if closed { BlockState::Closed } else { BlockState::Free }
        };
        let words: Arc<[_]> =
            (first..end.max(first)).map(|number| AtomicU64::new(encode(state(number)))).collect();
        let open = words.iter().filter(|word| word.load(Ordering::Relaxed) == FREE).count();
        let counts = Counts { open: AtomicU32::new(open as u32), ..Counts::default() };
        Self { first: first as u16, shift, words, counts: Arc::new(counts) }
    }

    /// Takes every block whose ports are `closed` out of what may be given out, and puts the others back. One that is
    /// held stays so until it is given back.
    pub(crate) fn close_only(&self, closed: impl Fn(RangeInclusive<u16>) -> bool) {
        for number in (self.first..).map(BlockNumber).take(self.words.len()) {
            if closed(self.ports(number)) {
                self.close(number);
            } else {
                self.reopen(number);
            }
        }
    }

    /// Never gives `block` out any more; if somebody holds it, from when it is given back.
    pub(crate) fn close(&self, block: BlockNumber) {
        let closes = |word| match decode(word) {
            BlockState::Free | BlockState::Resting(..) => Some(CLOSED),
            BlockState::Held(_) => Some(word | CLOSES),
            BlockState::Closed => None,
        };
        let Some(word) = self.word(block) else { return };
        let before = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, closes);
        if before.is_ok_and(|before| before & 3 != HELD) {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    fn reopen(&self, block: BlockNumber) {
        let opens = |word| match decode(word) {
            BlockState::Closed => Some(FREE),
            BlockState::Held(_) if word & CLOSES != 0 => Some(word & !CLOSES),
            BlockState::Free | BlockState::Held(_) | BlockState::Resting(..) => None,
        };
        let Some(word) = self.word(block) else { return };
        let before = word.fetch_update(Ordering::AcqRel, Ordering::Acquire, opens);
        if before == Ok(CLOSED) {
            self.counts.open.fetch_add(1, Ordering::Relaxed);
            self.forget_barren();
        }
    }

    /// A directory without blocks.
    pub fn empty() -> Self {
        Self::new(RangeInclusive::new(1, 0), 16)
    }

    /// Whether there is no block, to give out or closed.
    pub fn is_empty(&self) -> bool {
        self.words.is_empty()
    }

    /// How many blocks there are to give out.
    pub fn blocks(&self) -> u32 {
        self.counts.open.load(Ordering::Relaxed)
    }

    /// Ports in a block.
    pub fn block_size(&self) -> u16 {
        1 << self.shift
    }

    /// How many blocks are held now.
    pub fn held(&self) -> u32 {
        self.counts.held.load(Ordering::Relaxed)
    }

    /// How many blocks rest now. Walks the directory.
    pub fn resting(&self, now: Timestamp) -> u32 {
        let resting = |word: &&AtomicU64| match decode(word.load(Ordering::Relaxed)) {
            BlockState::Resting(_, until) => !is_over(until, now),
            BlockState::Free | BlockState::Held(_) | BlockState::Closed => false,
        };
        self.words.iter().filter(resting).count() as u32
    }

    /// The ports of `block`.
    pub fn ports(&self, block: BlockNumber) -> RangeInclusive<u16> {
        ports_of(block.0, self.shift)
    }

    /// The ports of all blocks, from the first to the last.
    pub(crate) fn all_ports(&self) -> Option<RangeInclusive<u16>> {
        let last = self.words.len().checked_sub(1)?;
        let last = BlockNumber(self.first + last as u16);
        Some(*self.ports(BlockNumber(self.first)).start()..=*self.ports(last).end())
    }

    /// The blocks that are held now, and by whom: what a journal has to know. Walks the directory.
    pub fn held_blocks(&self) -> impl Iterator<Item = (BlockNumber, Holder)> + '_ {
        let numbers = (self.first..).map(BlockNumber);
        numbers.zip(&*self.words).filter_map(|(number, word)| {
            match decode(word.load(Ordering::Acquire)) {
                BlockState::Held(holder) => Some((number, holder)),
                BlockState::Free | BlockState::Resting(..) | BlockState::Closed => None,
            }
        })
    }

    /// The blocks that may not be anybody's now: held, or at rest. If the state is lost now, these have to
    /// rest (RFC 6888 REQ-8.2). Walks the directory.
    pub fn busy_blocks(&self, now: Timestamp) -> impl Iterator<Item = BlockNumber> + '_ {
        let numbers = (self.first..).map(BlockNumber);
        let busy = move |word: &AtomicU64| match decode(word.load(Ordering::Acquire)) {
            BlockState::Held(_) => true,
            BlockState::Resting(_, until) => !is_over(until, now),
            BlockState::Free | BlockState::Closed => false,
        };
        numbers.zip(&*self.words).filter_map(move |(number, word)| busy(word).then_some(number))
    }

    /// The blocks that rest at `now`, for whom if that is known, and until which second (modulo 2^30). Walks the
    /// directory.
    pub fn rests(&self, now: Timestamp) -> impl Iterator<Item = (BlockNumber, Ipv4Addr, u32)> + '_ {
        let numbers = (self.first..).map(BlockNumber);
        numbers.zip(&*self.words).filter_map(move |(number, word)| {
            match decode(word.load(Ordering::Acquire)) {
                BlockState::Resting(subscriber, until) if !is_over(until, now) => {
                    Some((number, subscriber, until))
                }
                _ => None,
            }
        })
    }

    /// Lets a block that is free rest as [`rests`](Self::rests) has told; whether it does.
    pub fn rest_as(&self, block: BlockNumber, subscriber: Ipv4Addr, until: u32) -> bool {
        let resting = encode(BlockState::Resting(subscriber, until));
        self.word(block).is_some_and(|word| {
            word.compare_exchange(FREE, resting, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        })
    }

    /// Keeps `blocks` from everybody for `rest`, also from those who held them: their state was lost
    /// (RFC 6888 REQ-8). Blocks that are not free, or unknown, stay as they are. How many rest now.
    pub fn rest_all(
        &self,
        blocks: impl IntoIterator<Item = BlockNumber>,
        rest: Duration,
        now: Timestamp,
    ) -> u32 {
        if rest.is_zero() {
            return 0;
        }
        // No subscriber has this address, so nobody may have a block of it early.
        let nobody = Ipv4Addr::UNSPECIFIED;
        let resting = encode(BlockState::Resting(nobody, (now + rest).as_secs() as u32 + 1));
        let mut count = 0;
        for word in blocks.into_iter().filter_map(|block| self.word(block)) {
            let done = word.compare_exchange(FREE, resting, Ordering::AcqRel, Ordering::Relaxed);
            count += u32::from(done.is_ok());
        }
        count
    }

    /// The number of the block where `port` would be.
    #[inline]
    pub fn block_of(&self, port: u16) -> BlockNumber {
        BlockNumber((u32::from(port) >> self.shift) as u16)
    }

    #[inline]
    fn word(&self, block: BlockNumber) -> Option<&AtomicU64> {
        self.words.get(usize::from(block.0.checked_sub(self.first)?))
    }

    /// The worker that owns `port`, if its block is held.
    #[inline]
    pub fn worker_of(&self, port: u16) -> Option<u16> {
        match self.state(self.block_of(port)) {
            BlockState::Held(holder) => Some(holder.worker),
            BlockState::Free | BlockState::Resting(..) | BlockState::Closed => None,
        }
    }

    /// What the directory says about `block`; [`BlockState::Free`] outside of its range.
    #[inline]
    pub fn state(&self, block: BlockNumber) -> BlockState {
        self.word(block).map_or(BlockState::Free, |word| decode(word.load(Ordering::Acquire)))
    }

    /// Claims a block for `holder`: one of a few that `random` draws, else the next one that can be had
    /// from there on. Blocks that rest are passed over, unless they rest for `holder`'s own
    /// subscriber. `None` if no block can be had.
    ///
    /// That there was none is remembered until a block is released or has rested enough, so that refused
    /// packets do not walk the directory. Until then, a subscriber gets a block that rests for it by
    /// [`claim_block`](Self::claim_block) only.
    pub fn claim(&self, holder: Holder, random: u64, now: Timestamp) -> Option<BlockNumber> {
        let count = self.words.len();
        let barren = self.counts.barren.load(Ordering::Acquire);
        if self.held() >= self.blocks() || now.as_secs() < u64::from(barren as u32) {
            return None;
        }
        // Drawn, so that a block behind others that are held is not more likely than they were.
        let draw =
            |i: u64| (random.wrapping_add(i.wrapping_mul(DRAW_STEP)) % count as u64) as usize;
        let start = draw(0);
        let found = (0..DRAWS)
            .find_map(|i| self.claim_at(draw(i), holder, now))
            .or_else(|| (1..=count).find_map(|i| self.claim_at((start + i) % count, holder, now)));
        if found.is_none() {
            self.remember_barren(barren, now);
        }
        found
    }

    /// Remembers until when a walk finds nothing, unless a block was released since `seen` was read.
    fn remember_barren(&self, seen: u64, now: Timestamp) {
        let left = |word: &AtomicU64| match decode(word.load(Ordering::Acquire)) {
            BlockState::Free => Some(0),
            BlockState::Held(_) | BlockState::Closed => None,
            BlockState::Resting(_, until) if is_over(until, now) => Some(0),
            BlockState::Resting(_, until) => {
                Some(until.wrapping_sub(now.as_secs() as u32) & SECONDS_MASK)
            }
        };
        let until = self.words.iter().filter_map(left).min().map_or(u64::from(u32::MAX), |left| {
            (now.as_secs() + u64::from(left)).min(u64::from(u32::MAX))
        });
        let next = seen >> 32 << 32 | until;
        // Fails if a block was released meanwhile, maybe behind the walk: then nothing is known.
        let _ =
            self.counts.barren.compare_exchange(seen, next, Ordering::AcqRel, Ordering::Relaxed);
    }

    /// Claims exactly `block`, if it can be had.
    pub fn claim_block(&self, block: BlockNumber, holder: Holder, now: Timestamp) -> bool {
        let Some(index) = block.0.checked_sub(self.first).map(usize::from) else { return false };
        index < self.words.len() && self.claim_at(index, holder, now).is_some()
    }

    /// Whether [`claim`](Self::claim) would find a block; claims none.
    pub(crate) fn has_claimable(&self, holder: Holder, now: Timestamp) -> bool {
        let barren = self.counts.barren.load(Ordering::Acquire);
        self.held() < self.blocks()
            && now.as_secs() >= u64::from(barren as u32)
            && self.words.iter().any(|w| is_available(w.load(Ordering::Acquire), holder, now))
    }

    /// Whether [`claim_block`](Self::claim_block) would get exactly `block`; does not claim it.
    pub(crate) fn is_claimable(&self, block: BlockNumber, holder: Holder, now: Timestamp) -> bool {
        let word = self.word(block);
        word.is_some_and(|word| is_available(word.load(Ordering::Acquire), holder, now))
    }

    fn claim_at(&self, index: usize, holder: Holder, now: Timestamp) -> Option<BlockNumber> {
        let word = &self.words[index];
        let seen = word.load(Ordering::Acquire);
        let available = is_available(seen, holder, now);
        let held = encode(BlockState::Held(holder));
        let won = available
            && word.compare_exchange(seen, held, Ordering::AcqRel, Ordering::Relaxed).is_ok();
        won.then(|| {
            self.counts.held.fetch_add(1, Ordering::Relaxed);
            BlockNumber(self.first + index as u16)
        })
    }

    /// Has `block` held for `holder`, who had it before a restart. It may be closed by now: then it is when it is given
    /// back. Whether it could be had.
    pub(crate) fn inherit(&self, block: BlockNumber, holder: Holder, now: Timestamp) -> bool {
        if self.claim_block(block, holder, now) {
            return true;
        }
        let held = encode(BlockState::Held(holder)) | CLOSES;
        let kept = self.word(block).is_some_and(|word| {
            word.compare_exchange(CLOSED, held, Ordering::AcqRel, Ordering::Relaxed).is_ok()
        });
        if kept {
            self.counts.open.fetch_add(1, Ordering::Relaxed);
            self.counts.held.fetch_add(1, Ordering::Relaxed);
        }
        kept
    }

    /// Gives `block` back. It rests for `rest` before another subscriber gets it, unless it was closed meanwhile. Does
    /// nothing unless `holder` holds it.
    pub fn release(&self, block: BlockNumber, holder: Holder, rest: Duration, now: Timestamp) {
        let next = if rest.is_zero() {
            BlockState::Free
        } else {
            // Rounded up, so that a rest is never shorter than asked.
            let subscriber =
                if holder.overlay == 0 { holder.subscriber } else { Ipv4Addr::UNSPECIFIED };
            BlockState::Resting(subscriber, (now + rest).as_secs() as u32 + 1)
        };
        let (held, next) = (encode(BlockState::Held(holder)), encode(next));
        let given_back = |word| match word {
            _ if word == held => Some(next),
            _ if word == held | CLOSES => Some(CLOSED),
            _ => None,
        };
        let Some(word) = self.word(block) else { return };
        let Ok(before) = word.fetch_update(Ordering::AcqRel, Ordering::Relaxed, given_back) else {
            return;
        };
        self.counts.held.fetch_sub(1, Ordering::Relaxed);
        if before == held {
            self.forget_barren();
        } else {
            self.counts.open.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// There is something to claim again. Called after the word has changed: who reads this count also finds the
    /// block. Counted even if nothing was remembered, because a walk may be under way.
    fn forget_barren(&self) {
        let forget = |barren: u64| Some((barren >> 32).wrapping_add(1) << 32);
        // It never fails.
        let _ = self.counts.barren.fetch_update(Ordering::AcqRel, Ordering::Relaxed, forget);
    }
    /// The second before which a refusal holds for all.
    #[cfg(test)]
    pub(crate) fn barren_until(&self) -> u32 {
        self.counts.barren.load(Ordering::Relaxed) as u32
    }
}
