//! Which port of a block is free? A bitmap for each protocol, and a draw by rank.

use crate::address::PortClass;
use crate::directory::BlockNumber;
use crate::endpoint::Protocol;
use crate::time::Timestamp;

/// Which ports a draw may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Parity {
    /// Any.
    Any,
    /// Even ones.
    Even,
    /// Odd ones.
    Odd,
}

impl Parity {
    /// The parity of `port`.
    pub(crate) const fn of(port: u16) -> Self {
        if port & 1 == 0 { Self::Even } else { Self::Odd }
    }

    /// Whether `port` is one that the draw may give.
    pub(crate) const fn admits(self, port: u16) -> bool {
        self.mask() >> (port & 1) & 1 == 1
    }

    /// Blocks are aligned, so that a number in a bitmap is as odd as its port.
    const fn mask(self) -> u64 {
        match self {
            Self::Any => u64::MAX,
            Self::Even => 0x5555_5555_5555_5555,
            Self::Odd => 0xaaaa_aaaa_aaaa_aaaa,
        }
    }
}

/// Numbers 0 to `len - 1`, each free or taken.
#[derive(Clone, Debug)]
struct Bitmap {
    /// Bit set: the number is free.
    words: Box<[u64]>,
    /// How many even and odd numbers are free.
    free: [u16; 2],
}

impl Bitmap {
    fn new(len: u16) -> Self {
        let full_words = usize::from(len) / 64;
        let rest = u32::from(len) % 64;
        let mut words = vec![u64::MAX; full_words];
        if rest != 0 {
            words.push((1 << rest) - 1);
        }
        Self { words: words.into_boxed_slice(), free: [len.div_ceil(2), len / 2] }
    }

    fn count(&self, parity: Parity) -> u16 {
        match parity {
            Parity::Any => self.free[0] + self.free[1],
            Parity::Even => self.free[0],
            Parity::Odd => self.free[1],
        }
    }

    /// A free number, each with the same chance however few there are: the one of random rank.
    ///
    /// RFC 6056 section 5: a random start and a search from there on would favour what comes after taken
    /// or excluded numbers.
    fn draw(&self, parity: Parity, random: u64) -> Option<u16> {
        let free = self.count(parity);
        // Multiply-shift maps the number to 0..free without a division.
        let mut rank = ((u128::from(random) * u128::from(free)) >> 64) as u32;
        for (word, &bits) in self.words.iter().enumerate() {
            let bits = bits & parity.mask();
            let count = bits.count_ones();
            if rank < count {
                return Some((word as u32 * 64 + nth_one(bits, rank)) as u16);
            }
            rank -= count;
        }
        None
    }

    fn is_free(&self, number: u16) -> bool {
        self.words[usize::from(number) / 64] >> (number % 64) & 1 == 1
    }

    fn take(&mut self, number: u16) {
        if self.is_free(number) {
            self.words[usize::from(number) / 64] &= !(1 << (number % 64));
            self.free[usize::from(number & 1)] -= 1;
        }
    }

    fn give_back(&mut self, number: u16) {
        if !self.is_free(number) {
            self.words[usize::from(number) / 64] |= 1 << (number % 64);
            self.free[usize::from(number & 1)] += 1;
        }
    }
}

/// The place of the set bit that `rank` others come before; `rank` is less than their number.
fn nth_one(mut bits: u64, mut rank: u32) -> u32 {
    let (mut place, mut width) = (0, 32);
    while width > 0 {
        let low = (bits & ((1 << width) - 1)).count_ones();
        if rank >= low {
            rank -= low;
            bits >>= width;
            place += width;
        }
        width /= 2;
    }
    place
}

/// In `PortBlock::uses`: the port is never given out.
const NEVER: u32 = u32::MAX;

/// What became of a port when a session ended on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Returned {
    /// Other sessions use it, or it is not the block's to give.
    InUse,
    /// It may be drawn again at once.
    Free,
    /// It rests until then.
    Rests(Timestamp),
}

/// A block of ports that one subscriber holds, and how many sessions use each port.
///
/// Protocols are counted apart (RFC 7857 section 5): one port serves TCP, UDP and ICMP sessions at once. A
/// port may serve several sessions of its subscriber towards different remotes.
#[derive(Clone, Debug)]
pub(crate) struct PortBlock {
    /// Index of the public address in the pool.
    pub(crate) address: u16,
    /// The block on that address.
    pub(crate) number: BlockNumber,
    /// The class of its ports.
    pub(crate) class: PortClass,
    first_port: u16,
    unused: [Bitmap; 3],
    /// Sessions by protocol and port; as many as a table may have.
    uses: Box<[u32]>,
    /// Until which second a port rests once nobody uses it; empty where ports don't rest.
    rest_until: Box<[u32]>,
    len: u16,
    sessions: u32,
    resting: u32,
}

impl PortBlock {
    /// A block of the `len` ports from `first_port` on, without those that `never` names. `rests`: freed
    /// ports may rest.
    pub(crate) fn new(
        (address, number, class): (u16, BlockNumber, PortClass),
        (first_port, len): (u16, u16),
        rests: bool,
        never: impl Fn(u16) -> bool,
    ) -> Self {
        let cells = 3 * usize::from(len);
        let mut block = Self {
            address,
            number,
            class,
            first_port,
            unused: std::array::from_fn(|_| Bitmap::new(len)),
            uses: vec![0; cells].into_boxed_slice(),
            rest_until: vec![0; if rests { cells } else { 0 }].into_boxed_slice(),
            len,
            sessions: 0,
            resting: 0,
        };
        for number in (0..len).filter(|number| never(first_port + number)) {
            for protocol in 0..3 {
                let cell = block.cell(protocol, number);
                block.uses[cell] = NEVER;
                block.unused[protocol].take(number);
            }
        }
        block
    }

    fn cell(&self, protocol: usize, number: u16) -> usize {
        protocol * usize::from(self.len) + usize::from(number)
    }

    /// A port that no session of `protocol` uses, drawn by `random`.
    pub(crate) fn unused_port(
        &self,
        protocol: Protocol,
        parity: Parity,
        random: u64,
    ) -> Option<u16> {
        self.unused[protocol.index()?].draw(parity, random).map(|number| self.first_port + number)
    }

    /// Whether no session of `protocol` uses `port`, and it may be given out now.
    pub(crate) fn is_unused(&self, protocol: Protocol, port: u16) -> bool {
        let Some(protocol) = protocol.index() else { return false };
        self.holds(port) && self.unused[protocol].is_free(port - self.first_port)
    }

    /// Whether a session of `protocol` uses `port`, which must be in the block.
    pub(crate) fn is_used(&self, protocol: Protocol, port: u16) -> bool {
        let Some(protocol) = protocol.index() else { return false };
        let uses = self.uses[self.cell(protocol, port - self.first_port)];
        uses != 0 && uses != NEVER
    }

    /// All ports, from a place that `start` chooses onwards.
    pub(crate) fn ports(&self, start: u64) -> impl Iterator<Item = u16> + use<> {
        let (first, len) = (self.first_port, u64::from(self.len));
        (0..len).map(move |i| first + ((start % len + i) % len) as u16)
    }

    pub(crate) fn holds(&self, port: u16) -> bool {
        port.checked_sub(self.first_port).is_some_and(|number| number < self.len)
    }

    /// Counts one more session on `port`, which must be in the block. True if it is the first one there.
    pub(crate) fn use_port(&mut self, protocol: Protocol, port: u16) -> bool {
        let Some(protocol) = protocol.index() else { return false };
        let number = port - self.first_port;
        let cell = self.cell(protocol, number);
        self.sessions += 1;
        match self.uses[cell] {
            NEVER => return false,
            0 if !self.unused[protocol].is_free(number) => self.resting -= 1,
            _ => {}
        }
        self.uses[cell] += 1;
        self.unused[protocol].take(number);
        self.uses[cell] == 1
    }

    /// Counts one session less on `port`. Nobody gets the port before `rest_until` if nobody else uses it.
    pub(crate) fn return_port(
        &mut self,
        protocol: Protocol,
        port: u16,
        rest_until: Timestamp,
        now: Timestamp,
    ) -> Returned {
        let Some(protocol) = protocol.index() else { return Returned::InUse };
        let number = port - self.first_port;
        let cell = self.cell(protocol, number);
        self.sessions = self.sessions.saturating_sub(1);
        if self.uses[cell] == NEVER {
            return Returned::InUse;
        }
        debug_assert!(self.uses[cell] > 0, "a port was returned twice");
        self.uses[cell] = self.uses[cell].saturating_sub(1);
        let mut rests = Timestamp::default();
        if let Some(kept) = self.rest_until.get_mut(cell) {
            // Rounded up, so that a rest is never shorter than asked. An earlier session may ask for more.
            if rest_until > now {
                *kept = (*kept).max(rest_until.as_millis().div_ceil(1000) as u32);
            }
            rests = Timestamp::from_millis(u64::from(*kept) * 1000);
        }
        if self.uses[cell] > 0 {
            Returned::InUse
        } else if rests > now {
            self.resting += 1;
            Returned::Rests(rests)
        } else {
            self.unused[protocol].give_back(number);
            Returned::Free
        }
    }

    /// Ends the rest of `port` that was to last until `until`, unless it was taken meanwhile. True if it
    /// did rest.
    pub(crate) fn wake_port(&mut self, protocol: Protocol, port: u16, until: Timestamp) -> bool {
        let Some(protocol) = protocol.index() else { return false };
        let number = port - self.first_port;
        let cell = self.cell(protocol, number);
        let same = self.rest_until.get(cell).is_some_and(|&s| u64::from(s) == until.as_secs());
        if !same || self.uses[cell] != 0 || self.unused[protocol].is_free(number) {
            return false;
        }
        self.rest_until[cell] = 0;
        self.resting -= 1;
        self.unused[protocol].give_back(number);
        true
    }

    /// Whether no session uses the block, and none of its ports rests.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions == 0 && self.resting == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    const NOW: Timestamp = Timestamp::from_millis(5_000);

    fn block(len: u16, rests: bool) -> PortBlock {
        PortBlock::new((0, BlockNumber(16), PortClass::High), (1024, len), rests, |_| false)
    }

    fn give_back(block: &mut PortBlock, port: u16) -> Returned {
        block.return_port(Protocol::Tcp, port, NOW, NOW)
    }

    proptest! {
        /// Every rank gives another number, and all of them together the whole set.
        #[test]
        fn the_bitmap_agrees_with_a_set(
            len in prop::sample::select(vec![16u16, 32, 64, 128, 1024, 4096]),
            steps in prop::collection::vec((any::<u16>(), any::<bool>()), 1..600),
        ) {
            let mut bitmap = Bitmap::new(len);
            let mut free: BTreeSet<u16> = (0..len).collect();
            for (number, take) in steps {
                let number = number % len;
                if take {
                    bitmap.take(number);
                    free.remove(&number);
                } else {
                    bitmap.give_back(number);
                    free.insert(number);
                }
            }
            for parity in [Parity::Any, Parity::Even, Parity::Odd] {
                let wanted: Vec<u16> = free.iter().copied().filter(|&n| parity.admits(n)).collect();
                prop_assert_eq!(usize::from(bitmap.count(parity)), wanted.len());
                let step = u64::MAX / wanted.len().max(1) as u64;
                let middle = |rank: usize| rank as u64 * step + step / 2;
                let drawn: Vec<_> =
                    (0..wanted.len()).map_while(|n| bitmap.draw(parity, middle(n))).collect();
                prop_assert_eq!(drawn, wanted);
            }
        }
    }

    #[test]
    fn the_nth_one_of_every_rank() {
        for bits in [1u64, 1 << 63, u64::MAX, 0x8000_0001_0000_8001, 0x5555_5555_5555_5555] {
            let ones: Vec<u32> = (0..64).filter(|n| bits >> n & 1 == 1).collect();
            let found: Vec<u32> = (0..bits.count_ones()).map(|rank| nth_one(bits, rank)).collect();
            assert_eq!(found, ones);
        }
    }

    #[test]
    fn a_port_counts_more_sessions_than_16_bits_hold() {
        let mut block = block(16, false);
        for number in 1..16 {
            block.use_port(Protocol::Tcp, 1024 + number);
        }
        for _ in 0..70_000 {
            block.use_port(Protocol::Tcp, 1024);
        }
        for _ in 0..69_999 {
            assert_eq!(give_back(&mut block, 1024), Returned::InUse);
        }
        assert_eq!(block.unused_port(Protocol::Tcp, Parity::Any, 0), None);
        assert_eq!(give_back(&mut block, 1024), Returned::Free);
        assert_eq!(block.unused_port(Protocol::Tcp, Parity::Any, 0), Some(1024));
    }

    // Museum: C14
    #[test]
    fn a_block_can_be_used_dry_and_comes_back() {
        for len in [16, 64, 512] {
            let mut block = block(len, false);
            for i in 0..len {
                let random = u64::from(i).wrapping_mul(0x9e37_79b9_7f4a_7c15);
                let port = block.unused_port(Protocol::Tcp, Parity::Any, random).unwrap();
                assert!(block.holds(port));
                assert!(block.use_port(Protocol::Tcp, port));
            }
            assert_eq!(block.unused_port(Protocol::Tcp, Parity::Any, 0), None);
            assert!(
                block.unused_port(Protocol::Udp, Parity::Any, 0).is_some(),
                "protocols are counted apart"
            );
            let port = 1024 + len / 2;
            assert!(!block.use_port(Protocol::Tcp, port));
            assert_eq!(give_back(&mut block, port), Returned::InUse);
            assert_eq!(block.unused_port(Protocol::Tcp, Parity::Any, 0), None);
            assert_eq!(give_back(&mut block, port), Returned::Free);
            assert_eq!(block.unused_port(Protocol::Tcp, Parity::Any, 0), Some(port));
            block.use_port(Protocol::Tcp, port);
            for port in block.ports(5).collect::<Vec<_>>() {
                give_back(&mut block, port);
            }
            assert!(block.is_empty());
        }
    }

    #[test]
    fn a_port_that_is_never_given_out_stays_so() {
        let place = (0, BlockNumber(16), PortClass::High);
        let mut block = PortBlock::new(place, (1024, 16), true, |port| port != 1030);
        for random in [0, u64::MAX / 2, u64::MAX] {
            assert_eq!(block.unused_port(Protocol::Udp, Parity::Any, random), Some(1030));
            assert_eq!(block.unused_port(Protocol::Udp, Parity::Odd, random), None);
        }
        // A fixed mapping may still have a session there.
        block.use_port(Protocol::Udp, 1025);
        assert!(!block.is_used(Protocol::Udp, 1025) && !block.is_empty());
        block.return_port(Protocol::Udp, 1025, NOW, NOW);
        assert!(block.is_empty() && !block.is_unused(Protocol::Udp, 1025));
    }

    // Proves: 6888-REQ-8a
    #[test]
    fn bug_a_port_without_rest_rested_until_the_next_full_second() {
        let mut block = block(16, true);
        block.use_port(Protocol::Tcp, 1030);
        let now = Timestamp::from_millis(62_001);
        assert_eq!(block.return_port(Protocol::Tcp, 1030, now, now), Returned::Free);
        assert!(block.is_unused(Protocol::Tcp, 1030));
    }

    #[test]
    fn a_resting_port_is_nobodys_until_it_wakes() {
        let mut block = block(16, true);
        let until = Timestamp::from_millis(9_000);
        for number in 0..16 {
            block.use_port(Protocol::Udp, 1024 + number);
        }
        // Two sessions on one port: the longer rest counts, whichever ends first.
        block.use_port(Protocol::Udp, 1024);
        assert_eq!(block.return_port(Protocol::Udp, 1024, until, NOW), Returned::InUse);
        let rests = block.return_port(Protocol::Udp, 1024, NOW, NOW);
        assert_eq!(rests, Returned::Rests(until));
        assert_eq!(block.unused_port(Protocol::Udp, Parity::Any, 7), None);
        assert!(!block.is_used(Protocol::Udp, 1024));
        assert!(!block.wake_port(Protocol::Udp, 1024, NOW), "another rest");
        assert!(block.wake_port(Protocol::Udp, 1024, until));
        assert!(!block.wake_port(Protocol::Udp, 1024, until), "twice");
        assert_eq!(block.unused_port(Protocol::Udp, Parity::Any, 7), Some(1024));
        // Taken by name while it rests.
        block.use_port(Protocol::Udp, 1024);
        block.return_port(Protocol::Udp, 1024, until, NOW);
        assert!(block.use_port(Protocol::Udp, 1024));
        assert!(!block.wake_port(Protocol::Udp, 1024, until));
        for number in 0..16 {
            block.return_port(Protocol::Udp, 1024 + number, NOW, until);
        }
        assert!(block.is_empty());
    }
}
