//! Floods of fragments: bounded, counted, and harmless for others.

use super::pieces::{Receiver, pieces};
use super::*;
use crate::fragment::{
    MAX_DATAGRAMS, MAX_DATAGRAMS_PER_SOURCE, MAX_WAITING, MAX_WAITING_PER_SOURCE,
};
use crate::interface::InterfaceId;

/// A fragment without a first one.
fn orphan(src: Ipv4Addr, id: u16) -> Vec<u8> {
    pieces(&udp((src, 5000), (SERVER, 53), &[9; 64]), id, 40).pop().unwrap()
}

fn first(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), id: u16) -> Vec<u8> {
    pieces(&udp(src, dst, &[9; 64]), id, 40).swap_remove(0)
}

/// Fragments in order, and whole packets, pass: in `Receiver`'s hands whole.
fn clean_traffic_passes(rig: &mut Rig, n: u8, id: u16) {
    let request = udp((pod(n), 7000), (SERVER, 53), &[n; 3000]);
    let frames = pieces(&request, id, 1480);
    let sent: Vec<_> = frames.iter().filter_map(|f| rig.one(INSIDE, f)).map(|f| f.1).collect();
    let packets = Receiver::default().take_all(&sent);
    assert_eq!(packets.len(), 1, "fragments in order are lost");
    let public = seen(&packets[0]).src;
    let reply = pieces(&udp((SERVER, 53), public, &[n; 3000]), id, 1480);
    let back: Vec<_> = reply.iter().filter_map(|f| rig.one(OUTSIDE, f)).map(|f| f.1).collect();
    let packets = Receiver::default().take_all(&back);
    assert_eq!(packets.len(), 1, "fragments in order are lost on the way back");
    assert_eq!(seen(&packets[0]).dst, (pod(n), 7000));
    let request = udp((pod(n), 7001), (SERVER, 53), b"whole");
    round_trip(rig, &request, |public| udp((SERVER, 53), public, b"whole"));
}

fn flood(rig: &mut Rig, by: InterfaceId, frames: impl Iterator<Item = Vec<u8>>) {
    for frame in frames {
        rig.inject(by, &frame);
        rig.run();
    }
}

// Proves: 4787-REQ-14a
#[test]
fn orphans_of_one_pod_take_a_bounded_part_of_the_room() {
    let mut rig = Rig::new(2);
    flood(&mut rig, INSIDE, (0..1_000).map(|id| orphan(pod(1), id)));
    assert_eq!(rig.sum(|c| c.held.get()), u64::from(MAX_WAITING_PER_SOURCE));
    let refused = 1_000 - u64::from(MAX_WAITING_PER_SOURCE);
    assert_eq!(rig.dropped(DropReason::FragmentLimit), refused);
    clean_traffic_passes(&mut rig, 2, 1);
    // Others may still come early.
    let frames = pieces(&udp((pod(2), 5000), (SERVER, 53), &[1; 2000]), 7, 1480);
    assert_eq!(rig.one(INSIDE, &frames[1]), None);
    rig.inject(INSIDE, &frames[0]);
    assert_eq!(rig.run().len(), 2);
    rig.advance(Duration::from_secs(2));
    rig.run();
    rig.advance(Duration::from_secs(1));
    rig.run();
    assert_eq!(rig.sum(|c| c.held.get() + c.fragmented_datagrams.get()), 0);
    assert_eq!(rig.dropped(DropReason::FragmentTimeout), u64::from(MAX_WAITING_PER_SOURCE));
}

// Proves: 4787-REQ-14a
#[test]
fn orphans_from_everywhere_outside_harm_no_fragments_in_order() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        clean_traffic_passes(&mut rig, 1, 1);
        let from =
            |i: u32| pieces(&udp(((0xc633_0000 + i).into(), 53), (PUBLIC, 2000), &[0; 64]), 7, 40);
        flood(&mut rig, OUTSIDE, (0..2_000).map(|i| from(i).pop().unwrap()));
        let most = MAX_WAITING as u64 * u64::from(workers);
        assert!(rig.sum(|c| c.held.get()) <= most);
        assert!(rig.dropped(DropReason::FragmentLimit) >= 2_000 - most);
        for n in 2..6 {
            clean_traffic_passes(&mut rig, n, 1);
        }
    }
}

// Proves: 4787-REQ-14a
// Museum: C29
#[test]
fn first_fragments_without_end_are_bounded_by_source_and_in_all() {
    let mut rig = Rig::new(1);
    let firsts = |n: u8| (0..2_000).map(move |id| first((pod(n), 5000), (SERVER, 53), id));
    flood(&mut rig, INSIDE, firsts(1));
    let limit = u64::from(MAX_DATAGRAMS_PER_SOURCE);
    assert_eq!(rig.dropped(DropReason::FragmentLimit), 2_000 - limit);
    for n in 2..7 {
        flood(&mut rig, INSIDE, firsts(n));
    }
    rig.advance(Duration::from_millis(200));
    rig.run();
    assert_eq!(rig.sum(|c| c.fragmented_datagrams.get()), MAX_DATAGRAMS as u64);
    clean_traffic_passes(&mut rig, 9, 1);
}

// Proves: 4787-REQ-14a
#[test]
fn first_fragments_from_outside_to_unused_ports_take_no_place() {
    let mut rig = Rig::new(2);
    flood(&mut rig, OUTSIDE, (0..500).map(|i| first((SERVER, 53), (PUBLIC, 2000 + i), i)));
    rig.advance(Duration::from_millis(200));
    rig.run();
    assert_eq!(rig.sum(|c| c.fragmented_datagrams.get()), 0);
    assert_eq!(rig.dropped(DropReason::NoSession), 500);
}

#[test]
fn a_datagram_of_too_many_pieces_is_cut_off() {
    let mut rig = Rig::new(1);
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &[9; 2000]), 7, 8);
    flood(&mut rig, INSIDE, frames.into_iter());
    assert_eq!(rig.sum(|c| c.forwarded.get()), 128);
    assert_eq!(rig.dropped(DropReason::FragmentTooMany), 251 - 128);
}

#[test]
fn a_worker_that_ends_gives_waiting_fragments_back() {
    let mut rig = Rig::new(1);
    flood(&mut rig, INSIDE, (0..10).map(|id| orphan(pod(1), id)));
    rig.requests[0].send(Request::Stop).unwrap();
    let worker = rig.workers.pop().unwrap();
    let (io, _) = worker.run();
    let (here, made) = io.frames();
    assert_eq!(here, made);
}
