//! Which port of a block is free? A bitmap of two levels for each protocol.

use crate::directory::BlockNumber;
use crate::endpoint::Protocol;

/// Numbers 0 to `len - 1`, each free or taken: finding a free one takes constant time at any fill.
#[derive(Clone, Debug)]
struct Bitmap {
    /// Bit set: the word has a free number.
    summary: u64,
    /// Bit set: the number is free.
    words: Box<[u64]>,
}

impl Bitmap {
    fn new(len: u16) -> Self {
        let full_words = usize::from(len) / 64;
        let rest = u32::from(len) % 64;
        let mut words = vec![u64::MAX; full_words];
        if rest != 0 {
            words.push((1 << rest) - 1);
        }
        let summary = u64::MAX >> (64 - words.len());
        Self { summary, words: words.into_boxed_slice() }
    }

    /// The first free number at or after `start`, going round.
    fn find(&self, start: u16) -> Option<u16> {
        if self.summary == 0 {
            return None;
        }
        let (word, bit) = (usize::from(start) / 64, u32::from(start) % 64);
        let ahead = self.words[word] >> bit << bit;
        if ahead != 0 {
            return Some((word as u32 * 64 + ahead.trailing_zeros()) as u16);
        }
        // Words after this one first, then from the beginning (this word's low bits come last).
        let later = self.summary & u64::MAX.checked_shl(word as u32 + 1).unwrap_or(0);
        let next = if later == 0 { self.summary } else { later }.trailing_zeros();
        Some((next * 64 + self.words[next as usize].trailing_zeros()) as u16)
    }

    fn take(&mut self, number: u16) {
        let word = usize::from(number) / 64;
        self.words[word] &= !(1 << (number % 64));
        if self.words[word] == 0 {
            self.summary &= !(1 << word);
        }
    }

    fn give_back(&mut self, number: u16) {
        let word = usize::from(number) / 64;
        self.words[word] |= 1 << (number % 64);
        self.summary |= 1 << word;
    }
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
    first_port: u16,
    unused: [Bitmap; 3],
    /// Sessions by protocol and port; as many as a table may have.
    uses: Box<[u32]>,
    len: u16,
    sessions: u32,
}

impl PortBlock {
    pub(crate) fn new(address: u16, number: BlockNumber, first_port: u16, len: u16) -> Self {
        Self {
            address,
            number,
            first_port,
            unused: std::array::from_fn(|_| Bitmap::new(len)),
            uses: vec![0; 3 * usize::from(len)].into_boxed_slice(),
            len,
            sessions: 0,
        }
    }

    /// A port that no session of `protocol` uses, from a place that `start` chooses onwards.
    pub(crate) fn unused_port(&self, protocol: Protocol, start: u64) -> Option<u16> {
        let start = (start % u64::from(self.len)) as u16;
        self.unused[protocol.index()?].find(start).map(|number| self.first_port + number)
    }

    /// All ports, from a place that `start` chooses onwards.
    pub(crate) fn ports(&self, start: u64) -> impl Iterator<Item = u16> + use<> {
        let (first, len) = (self.first_port, u64::from(self.len));
        (0..len).map(move |i| first + ((start % len + i) % len) as u16)
    }

    pub(crate) fn holds(&self, port: u16) -> bool {
        port.checked_sub(self.first_port).is_some_and(|number| number < self.len)
    }

    fn uses_mut(&mut self, protocol: usize, number: u16) -> &mut u32 {
        &mut self.uses[protocol * usize::from(self.len) + usize::from(number)]
    }

    /// Counts one more session on `port`, which must be in the block.
    pub(crate) fn use_port(&mut self, protocol: Protocol, port: u16) {
        let Some(protocol) = protocol.index() else { return };
        let number = port - self.first_port;
        *self.uses_mut(protocol, number) += 1;
        self.unused[protocol].take(number);
        self.sessions += 1;
    }

    /// Counts one session less on `port`.
    pub(crate) fn return_port(&mut self, protocol: Protocol, port: u16) {
        let Some(protocol) = protocol.index() else { return };
        let number = port - self.first_port;
        let uses = self.uses_mut(protocol, number);
        debug_assert!(*uses > 0, "a port was returned twice");
        *uses = uses.saturating_sub(1);
        if *uses == 0 {
            self.unused[protocol].give_back(number);
        }
        self.sessions = self.sessions.saturating_sub(1);
    }

    /// Whether no session uses the block.
    pub(crate) fn is_empty(&self) -> bool {
        self.sessions == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_bitmap_agrees_with_a_set(
            len in prop::sample::select(vec![16u16, 32, 64, 128, 1024, 4096]),
            steps in prop::collection::vec((any::<u16>(), any::<bool>()), 1..600),
        ) {
            let mut bitmap = Bitmap::new(len);
            let mut free: BTreeSet<u16> = (0..len).collect();
            for (number, take) in steps {
                let number = number % len;
                let expected = free.range(number..).next().or_else(|| free.iter().next()).copied();
                prop_assert_eq!(bitmap.find(number), expected);
                if take {
                    bitmap.take(number);
                    free.remove(&number);
                } else {
                    bitmap.give_back(number);
                    free.insert(number);
                }
            }
        }
    }

    #[test]
    fn a_port_counts_more_sessions_than_16_bits_hold() {
        let mut block = PortBlock::new(0, BlockNumber(16), 1024, 16);
        for _ in 0..70_000 {
            block.use_port(Protocol::Udp, 1024);
        }
        for _ in 0..69_999 {
            block.return_port(Protocol::Udp, 1024);
            assert_ne!(block.unused_port(Protocol::Udp, 0), Some(1024));
        }
        block.return_port(Protocol::Udp, 1024);
        assert_eq!(block.unused_port(Protocol::Udp, 0), Some(1024));
    }

    // Museum: C14
    #[test]
    fn a_block_can_be_used_dry_and_comes_back() {
        for len in [16, 64, 512] {
            let mut block = PortBlock::new(0, BlockNumber(16), 1024, len);
            for i in 0..len {
                let port = block.unused_port(Protocol::Tcp, u64::from(i) * 7).unwrap();
                assert!(block.holds(port));
                block.use_port(Protocol::Tcp, port);
            }
            assert_eq!(block.unused_port(Protocol::Tcp, 0), None);
            assert!(block.unused_port(Protocol::Udp, 0).is_some(), "protocols are counted apart");
            let port = 1024 + len / 2;
            block.use_port(Protocol::Tcp, port);
            block.return_port(Protocol::Tcp, port);
            assert_eq!(
                block.unused_port(Protocol::Tcp, 0),
                None,
                "one of two sessions still uses it"
            );
            block.return_port(Protocol::Tcp, port);
            assert_eq!(block.unused_port(Protocol::Tcp, 0), Some(port));
            block.use_port(Protocol::Tcp, port);
            for port in block.ports(5).collect::<Vec<_>>() {
                block.return_port(Protocol::Tcp, port);
            }
            assert!(block.is_empty());
        }
    }
}
