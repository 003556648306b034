use proptest::prelude::*;

use super::seen::{Extent, Fit, Seen};
use super::split::Pieces;
use crate::wire::{Ipv4, checksum};

/// The obvious way to remember bytes: one flag for each, and the fragments as they came.
#[derive(Default)]
struct Model {
    bytes: Vec<bool>,
    fragments: Vec<(u16, u16, bool)>,
}

impl Model {
    fn add(&mut self, e: Extent) -> Fit {
        self.bytes.resize(0x1_0000, false);
        if self.fragments.contains(&(e.start, e.end, e.last)) {
            return Fit::Again;
        }
        let taken = self.bytes[usize::from(e.start)..usize::from(e.end)].iter().any(|&b| b);
        let end = self.fragments.iter().find(|f| f.2).map(|f| f.1);
        let furthest = self.fragments.iter().map(|f| f.1).max().unwrap_or(0);
        let second_end = e.last && end.is_some();
        let behind_the_end = end.is_some_and(|end| e.end > end) || e.last && furthest > e.end;
        // Bytes go on behind a fragment that is not the last, even if none of them has come.
        let goes_on_at_the_end = !e.last && end == Some(e.end);
        if taken || second_end || behind_the_end || goes_on_at_the_end {
            return Fit::Overlap;
        }
        self.bytes[usize::from(e.start)..usize::from(e.end)].fill(true);
        self.fragments.push((e.start, e.end, e.last));
        Fit::New
    }

    fn is_complete(&self) -> bool {
        let end = self.fragments.iter().find(|f| f.2).map(|f| usize::from(f.1));
        end.is_some_and(|end| self.bytes[..end].iter().all(|&b| b))
    }
}

fn extent() -> impl Strategy<Value = Extent> {
    (0u16..12, 1u16..6, any::<bool>()).prop_map(|(start, len, last)| Extent {
        start: start * 8,
        end: (start + len) * 8,
        last,
    })
}

/// Fragments of one datagram, some of them twice, in any order, with a few that don't belong.
fn arrivals() -> impl Strategy<Value = Vec<Extent>> {
    let cuts = prop::collection::btree_set(1u16..40, 1..6);
    (cuts, any::<u64>(), prop::collection::vec(extent(), 0..3), 0usize..3).prop_flat_map(
        |(cuts, _, strangers, copies)| {
            let cuts: Vec<u16> = std::iter::once(0).chain(cuts).collect();
            let count = cuts.len() - 1;
            let mut all: Vec<Extent> = cuts
                .windows(2)
                .enumerate()
                .map(|(n, w)| Extent { start: w[0] * 8, end: w[1] * 8, last: n + 1 == count })
                .collect();
            all.extend(all.clone().into_iter().take(copies));
            all.extend(strangers);
            Just(all).prop_shuffle()
        },
    )
}

proptest! {
    // Proves: 4787-REQ-14
    #[test]
    fn what_was_seen_agrees_with_a_set_of_bytes(
        extents in prop_oneof![prop::collection::vec(extent(), 0..20), arrivals()],
    ) {
        let (mut seen, mut model) = (Seen::default(), Model::default());
        for extent in extents {
            prop_assert_eq!(seen.add(extent), model.add(extent), "{:?}", extent);
            prop_assert_eq!(seen.is_complete(), model.is_complete());
        }
    }

    // Proves: 1812-S4.2.2.7, 4787-REQ-13a.2, 6864-S4.3c
    #[test]
    fn pieces_are_few_in_order_and_make_the_packet_again(
        payload in prop::collection::vec(any::<u8>(), 1..4000),
        options in options(),
        mtu in 68u16..1600,
        (offset, more) in (0u16..4000, any::<bool>()),
    ) {
        let mut payload = payload;
        if more {
            payload.resize(payload.len().next_multiple_of(8), 0);
        }
        let packet = packet(&options.concat(), &payload, offset | if more { 0x2000 } else { 0 });
        let pieces: Vec<Vec<u8>> = Pieces::of(&packet, mtu).unwrap().map(|piece| {
            let mut bytes = vec![0xaa; piece.len()];
            piece.write(&mut bytes).unwrap();
            bytes
        }).collect();
        let mut whole = Vec::new();
        let count = pieces.len();
        for (n, bytes) in pieces.iter().enumerate() {
            let ip = Ipv4::new_checked(&bytes[..]).unwrap();
            let last = n + 1 == count;
            prop_assert!(bytes.len() <= usize::from(mtu));
            prop_assert_eq!(usize::from(ip.total_len()), bytes.len());
            prop_assert!(ip.checksum_is_right());
            prop_assert!(!ip.fragment().dont_fragment());
            prop_assert_eq!((ip.id(), ip.ttl(), ip.protocol(), bytes[1]), (0x1234, 63, 17, 0x2e));
            prop_assert_eq!(usize::from(ip.fragment().offset()), usize::from(offset) * 8 + whole.len());
            prop_assert_eq!(ip.fragment().more(), !last || more);
            let expected: Vec<u8> = options.iter()
                .filter(|option| n == 0 || option[0] & 0x80 != 0).flatten().copied().collect();
            let found = &bytes[20..ip.header_len()];
            prop_assert_eq!(&found[..expected.len()], &expected[..]);
            prop_assert!(found[expected.len()..].iter().all(|&byte| byte == 0) && found.len() < expected.len() + 4);
            let part = &bytes[ip.header_len()..];
            // Only what holds the end may have room left for eight more.
            prop_assert!(last || part.len() % 8 == 0 && bytes.len() + 8 > usize::from(mtu));
            whole.extend_from_slice(part);
        }
        prop_assert_eq!(whole, payload);
    }

    #[test]
    fn any_bytes_are_cut_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..200), mtu: u16) {
        if let Ok(pieces) = Pieces::of(&bytes, mtu) {
            for piece in pieces {
                let mut out = vec![0; piece.len()];
                prop_assert!(piece.write(&mut out).is_ok());
                prop_assert!(out.len() <= usize::from(mtu));
            }
        }
    }
}

/// Options of an IPv4 header, whole words together: some are copied to every fragment.
fn options() -> impl Strategy<Value = Vec<Vec<u8>>> {
    let option = (any::<bool>(), 0u8..3, any::<u8>()).prop_map(|(copied, words, fill)| {
        let kind = if copied { 0x94 } else { 0x1e };
        let len = 4 * (words + 1);
        let mut option = vec![fill; len.into()];
        option[..2].copy_from_slice(&[kind, len]);
        option
    });
    prop::collection::vec(option, 0..3)
}

fn packet(options: &[u8], payload: &[u8], fragment: u16) -> Vec<u8> {
    let header = 20 + options.len();
    let total = (header + payload.len()) as u16;
    let mut bytes = vec![0x40 | (header / 4) as u8, 0x2e];
    bytes.extend(total.to_be_bytes());
    bytes.extend([0x12, 0x34]);
    bytes.extend(fragment.to_be_bytes());
    bytes.extend([63, 17, 0, 0, 192, 0, 2, 1, 198, 51, 100, 1]);
    bytes.extend(options);
    let sum = !checksum::fold(checksum::sum(&bytes));
    bytes[10..12].copy_from_slice(&sum.to_be_bytes());
    bytes.extend(payload);
    bytes
}

// Proves: 1812-S4.2.2.7
#[test]
fn three_thousand_bytes_at_1500_are_three_fragments() {
    let datagram = packet(&[], &[1; 3000 - 20], 0);
    let lens: Vec<usize> = Pieces::of(&datagram, 1500).unwrap().map(|piece| piece.len()).collect();
    assert_eq!(lens, [1500, 1500, 40]);
    assert!(Pieces::of(&datagram, 27).is_err(), "no room for eight bytes");
}

#[test]
fn the_number_of_fragments_is_bounded() {
    let mut seen = Seen::default();
    let at = |n: u16| Extent { start: n * 16, end: n * 16 + 8, last: false };
    assert!((0..128).all(|n| seen.add(at(n)) == Fit::New));
    assert_eq!(seen.add(at(128)), Fit::TooMany);
    assert_eq!(seen.add(at(5)), Fit::Again, "those that are known still pass");
}
