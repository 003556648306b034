//! Ports and blocks, one by one and against simple twins.

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
