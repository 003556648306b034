//! The Internet checksum (RFC 1071) and its incremental update (RFC 1624).

use std::net::Ipv4Addr;

use conntrack::ChecksumDelta;

/// Folds a sum of 16-bit words, or of 32-bit ones, to 16 bits. 0 only if the sum is.
#[inline]
pub fn fold(sum: u64) -> u16 {
    // Added to itself with the halves swapped, the upper half is both halves and the carry of the lower sum.
    let sum = (sum.wrapping_add(sum.rotate_left(32)) >> 32) as u32;
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}

/// The one's-complement sum of `bytes`, an odd last byte padded with zero; not complemented.
pub fn sum(bytes: &[u8]) -> u64 {
    fold(sum_swapped(0, bytes)).swap_bytes().into()
}

/// The sum of `bytes`, and of what is in `sum`, with the bytes of each word swapped: sums don't depend on their order but
/// for that (RFC 1071, 2B). Not folded.
#[inline]
pub(crate) fn sum_swapped(sum: u64, bytes: &[u8]) -> u64 {
    // Words of 64 bits, whose carries come in at the other end.
    let add = |sum: u64, word: &[u8; 8]| {
        let (sum, carry) = sum.overflowing_add(u64::from_le_bytes(*word));
        sum + u64::from(carry)
    };
    let (words, tail) = bytes.as_chunks::<8>();
    let (blocks, words) = words.as_chunks::<4>();
    let sum = blocks.iter().fold(sum, |sum, block| block.iter().fold(sum, add));
    let sum = words.iter().fold(sum, add);
    if tail.is_empty() { sum } else { add(sum, &padded(tail)) }
}

/// Up to eight bytes, and zeros.
#[inline]
fn padded(tail: &[u8]) -> [u8; 8] {
    let mut word = [0; 8];
    for (to, from) in word.iter_mut().zip(tail) {
        *to = *from;
    }
    word
}

/// The sum of the pseudo-header of TCP and UDP over IPv4, not folded; `len` in bytes.
#[inline]
pub fn pseudo_header(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, len: u16) -> u64 {
    // Words of 32 bits: folding makes them words of 16.
    u64::from(u32::from(src)) + u64::from(u32::from(dst)) + u64::from(protocol) + u64::from(len)
}

/// `checksum` after the words it covers have changed by `delta` (RFC 1624 section 3, equation 3).
#[inline]
pub fn update(checksum: u16, delta: ChecksumDelta) -> u16 {
    !add(!checksum, delta.0)
}

/// The one's-complement sum of two words.
#[inline]
pub fn add(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// The sum of a whole number of 32-bit words; not complemented, and not folded.
#[inline]
fn sum_words(bytes: &[u8]) -> u64 {
    bytes.chunks_exact(4).map(|c| u64::from(u32::from_ne_bytes([c[0], c[1], c[2], c[3]]))).sum()
}

/// Whether a header is intact whose checksum lies in it: its words sum up to all ones.
#[inline]
pub fn is_right(header: &[u8; 20], options: &[u8]) -> bool {
    let sum = sum_words(header) + if options.is_empty() { 0 } else { sum_words(options) };
    fold(sum) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(bytes: &[u8]) -> u16 {
        let words = bytes.chunks(2).map(|c| u16::from_be_bytes([c[0], *c.get(1).unwrap_or(&0)]));
        words.fold(0u16, |sum, word| {
            let (sum, carry) = sum.overflowing_add(word);
            sum + u16::from(carry)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_word_by_word(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            // Zero has two forms; both stand for the same sum.
            let (got, want) = (fold(sum(&bytes)), naive(&bytes));
            prop_assert!(got == want || got ^ want == 0xffff, "{got:04x} {want:04x}");
        }
    }

    proptest! {
        #[test]
        fn folding_is_the_remainder(sum in any::<u64>()) {
            // Of a division by 0xffff, which stands for 0 where there is something to fold.
            let remainder = (sum % 0xffff) as u16;
            let want = if remainder == 0 && sum != 0 { 0xffff } else { remainder };
            prop_assert_eq!(fold(sum), want);
        }
    }

    #[test]
    fn folding_at_the_edges() {
        for (sum, want) in
            [(0, 0), (0xffff, 0xffff), (u64::MAX, 0xffff), (1 << 32, 1), (0x1_0000, 1)]
        {
            assert_eq!(fold(sum), want, "{sum:x}");
        }
    }

    #[test]
    fn example_of_rfc_1071() {
        assert_eq!(fold(sum(&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7])), 0xddf2);
    }

    // Museum: C21
    #[test]
    fn example_of_rfc_1624() {
        // Section 4: 0xdd2f, a field changes from 0x5555 to 0x3285; the result is 0x0000, not 0xffff.
        let delta = fold(u64::from(!0x5555u16) + 0x3285);
        assert_eq!(update(0xdd2f, ChecksumDelta(delta)), 0x0000);
    }
}
