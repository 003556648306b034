//! Who gets a port block, by the directory alone? `tests/interleavings.rs` has what two workers do at once.

use std::net::Ipv4Addr;
use std::time::Duration;

use crate::directory::{BlockNumber, BlockState, Directory, Holder};
use crate::time::Timestamp;

/// A refusal must not walk the directory again, and must not outlive what made it so.
#[test]
fn a_failed_walk_is_remembered_until_something_can_be_had() {
    let at = |s: u64| Timestamp::from_millis(s * 1000);
    let holder = |n: u32| Holder { subscriber: Ipv4Addr::from(n), worker: 3, overlay: 0 };
    let directory = Directory::new(1024..=1279, 64);
    let blocks: Vec<_> = (0..4).map(|i| directory.claim(holder(1), i, at(1)).unwrap()).collect();
    directory.release(blocks[0], holder(1), Duration::from_secs(50), at(1));
    directory.release(blocks[1], holder(1), Duration::from_secs(20), at(1));
    assert_eq!(directory.barren_until(), 0);
    assert_eq!(directory.claim(holder(2), 0, at(2)), None);
    assert_eq!(directory.barren_until(), 22, "the earliest end of a rest");
    assert_eq!(directory.claim(holder(2), 0, at(21)), None);
    assert_eq!(directory.claim(holder(2), 0, at(22)), Some(blocks[1]));
    assert_eq!(directory.claim(holder(2), 0, at(22)), None);
    assert_eq!(directory.barren_until(), 52);
    // The last subscriber still gets its own block if it asks for it.
    assert!(directory.claim_block(blocks[0], holder(1), at(22)));
    directory.release(blocks[0], holder(1), Duration::from_secs(50), at(22));
    assert_eq!(directory.claim(holder(2), 0, at(22)), None);
    directory.release(blocks[2], holder(1), Duration::ZERO, at(22));
    assert_eq!(directory.claim(holder(2), 0, at(22)), Some(blocks[2]));
}

/// A journal may name blocks that the address does not have any more.
#[test]
fn blocks_beside_those_of_the_address_can_not_be_claimed() {
    let now = Timestamp::from_millis(1_000);
    let holder = Holder { subscriber: Ipv4Addr::LOCALHOST, worker: 0, overlay: 0 };
    let directory = Directory::new(1024..=1279, 64);
    let claimed: Vec<_> =
        (0..30).filter(|&n| directory.claim_block(BlockNumber(n), holder, now)).collect();
    assert_eq!(claimed, [16, 17, 18, 19]);
}

#[test]
fn a_block_rests_for_its_subscriber_and_not_for_one_with_its_address_elsewhere() {
    let directory = Directory::new(1024..=1087, 64);
    let at = |second: u64| Timestamp::from_millis(second * 1000);
    let holder = |overlay| Holder { subscriber: Ipv4Addr::new(10, 1, 2, 3), worker: 7, overlay };
    for (before, after, early) in [(0, 0, true), (0, 5, false), (5, 0, false), (5, 6, false)] {
        let start = 100 * u64::from(before + 10 * after) + 1;
        let block = directory.claim(holder(before), 0, at(start)).unwrap();
        assert_eq!(directory.state(block), BlockState::Held(holder(before)));
        directory.release(block, holder(before), Duration::from_secs(50), at(start));
        let claimed = directory.claim_block(block, holder(after), at(start + 10));
        assert_eq!(claimed, early, "{before} then {after}");
        let claimed = claimed || directory.claim_block(block, holder(after), at(start + 52));
        assert!(claimed, "{before} then {after}: it does not rest for ever");
        directory.release(block, holder(after), Duration::ZERO, at(start + 52));
    }
}
