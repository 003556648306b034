//! The UDP checksum of what arrives in a tunnel.

use super::icmp::change;
use super::overlays::*;
use super::*;

const CHECKSUM: usize = 14 + 20 + 6;
/// The inner packet's UDP checksum, in the outer frame.
const INNER_CHECKSUM: usize = 14 + 20 + 8 + 8 + 14 + 20 + 6;

fn signed(n: u8, payload: &[u8]) -> Vec<u8> {
    let frame = inner(1, &udp((pod(n), 4000), (SERVER, 53), payload));
    Outer { checksum: true, ..Outer::arriving(1) }.around(&frame)
}

fn word(packet: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([packet[at], packet[at + 1]])
}

fn set(packet: &mut [u8], at: usize, word: u16) {
    packet[at..at + 2].copy_from_slice(&word.to_be_bytes());
}

fn folded(words: impl Iterator<Item = u16>) -> u16 {
    words.fold(0u16, |sum, word| {
        let (sum, carry) = sum.overflowing_add(word);
        sum + u16::from(carry)
    })
}

/// The sum of the pseudo-header of the UDP datagram at `at`, as a sender leaves it to its card.
fn pseudo(packet: &[u8], at: usize) -> u16 {
    let addresses = (at - 8..at).step_by(2).map(|at| word(packet, at));
    folded(addresses.chain([17, word(packet, at + 4)]))
}

fn passes(rig: &mut Rig, packet: &[u8]) -> bool {
    rig.one(INSIDE, packet).is_some()
}

#[test]
fn a_wrong_outer_checksum_is_dropped_and_none_is_none() {
    let mut rig = overlays(1);
    // The first packet of a flow, and a plain one; lengths that are odd and even.
    for n in 1..20 {
        for payload in [&b"odd"[..], b"even"] {
            let right = signed(n, payload);
            let mut wrong = right.clone();
            set(&mut wrong, CHECKSUM, word(&right, CHECKSUM) ^ 0x0100);
            let mut damaged = right.clone();
            *damaged.last_mut().unwrap() ^= 1;
            let before = rig.dropped(DropReason::TunnelChecksum);
            assert!(!passes(&mut rig, &wrong) && !passes(&mut rig, &damaged));
            assert!(passes(&mut rig, &right));
            assert_eq!(rig.dropped(DropReason::TunnelChecksum), before + 2);
            let mut none = right;
            set(&mut none, CHECKSUM, 0);
            assert!(passes(&mut rig, &none));
        }
    }
    // Counted as arrived by the tunnel, as packets that pass.
    assert_eq!(rig.sum(|c| c.interfaces[VXLAN_1.index()].received_packets.get()), 19 * 2 * 4);
}

#[test]
fn checksums_that_senders_leave_to_their_cards_pass_where_there_are_such_senders() {
    for repairs in [false, true] {
        let mut rig = overlays(1);
        change(&rig, |snapshot| {
            for interface in &mut snapshot.interfaces {
                interface.repair_checksums = repairs;
            }
        });
        for n in 1..10 {
            // Of the outer packet.
            let mut outer = signed(n, b"left to the card");
            let sum = pseudo(&outer, CHECKSUM - 6);
            set(&mut outer, CHECKSUM, sum);
            // Of the inner one: the outer one is right for what the card would make of it (local checksum offload).
            let mut within = signed(n, b"left to the card");
            let sum = pseudo(&within, INNER_CHECKSUM - 6);
            set(&mut within, INNER_CHECKSUM, sum);
            for packet in [outer, within] {
                assert_eq!(passes(&mut rig, &packet), repairs);
            }
            let mut wrong = signed(n, b"left to nobody");
            let sum = word(&wrong, CHECKSUM) ^ 0x0100;
            set(&mut wrong, CHECKSUM, sum);
            assert!(!passes(&mut rig, &wrong));
        }
    }
}
