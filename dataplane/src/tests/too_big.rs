//! Packets that are larger than the next link carries.

use super::pieces::{Receiver, ip, pieces, turning_back, with_id};
use super::*;
use crate::interface::InterfaceId;

/// Sets the MTU of an interface.
fn set_mtu(rig: &mut Rig, interface: InterfaceId, mtu: u16) {
    let mut snapshot = Snapshot::clone(&rig.snapshot.get());
    snapshot.interfaces[interface.index()].mtu = mtu;
    rig.snapshot.publish(snapshot);
}

fn offsets(frames: &[Vec<u8>]) -> Vec<usize> {
    frames.iter().map(|frame| usize::from(ip(frame).0.fragment_offset.value()) * 8).collect()
}

fn sent(rig: &mut Rig, by: InterfaceId, packet: &[u8], out: InterfaceId) -> Vec<Vec<u8>> {
    rig.inject(by, packet);
    let sent = rig.run();
    assert!(sent.iter().all(|(interface, _)| *interface == out));
    sent.into_iter().map(|(_, frame)| frame).collect()
}

/// What `frames` are together, each of which must fit the link.
fn whole(frames: &[Vec<u8>], mtu: usize) -> Vec<u8> {
    assert!(frames.iter().all(|frame| frame.len() <= 14 + mtu));
    let mut packets = Receiver::default().take_all(frames);
    assert_eq!(packets.len(), 1);
    packets.pop().unwrap()
}

// Proves: 4787-REQ-13a.1, 4787-REQ-13a.2, 1812-S4.2.2.7, 5508-S7.1.1c
#[test]
fn without_df_it_leaves_in_fewest_fragments_in_order() {
    for workers in [1, 2] {
        let mut rig = Rig::new(workers);
        for mtu in [576, 1000, 1280, 1499] {
            set_mtu(&mut rig, OUTSIDE, mtu);
            for packet in [
                udp((pod(1), 4000), (SERVER, 53), &[7; 1472]),
                tcp((pod(1), 4000), (SERVER, 80), "S", &[7; 1460]),
                ping(pod(1), SERVER, 4000, &[7; 1472]),
            ] {
                let clear = with_id(&packet, 0, false);
                let frames = sent(&mut rig, INSIDE, &clear, OUTSIDE);
                let room = usize::from(mtu - 20) / 8 * 8;
                assert_eq!(frames.len(), 1480usize.div_ceil(room), "MTU {mtu}");
                assert!(offsets(&frames).is_sorted(), "in order");
                let view = seen(&whole(&frames, mtu.into()));
                assert_eq!((view.dst.0, view.payload.len() >= 1460), (SERVER, true));
                assert!(view.payload.iter().all(|&byte| byte == 7));
            }
        }
        assert!(rig.sum(|c| c.fragments_sent.get()) > 12);
    }
}

// Proves: 5508-S7.1.1c, 4787-REQ-13a.1
#[test]
fn replies_are_cut_as_well() {
    let mut rig = Rig::new(2);
    set_mtu(&mut rig, INSIDE, 1400);
    for (request, protocol) in [
        (udp((pod(1), 4000), (SERVER, 53), b"q"), 17),
        (tcp((pod(1), 4000), (SERVER, 80), "S", b""), 6),
        (ping(pod(1), SERVER, 4000, b"abc"), 1),
    ] {
        let public = seen(&rig.one(INSIDE, &request).unwrap().1).src;
        let data = [8; 1460];
        let reply = match protocol {
            17 => udp((SERVER, 53), public, &data),
            6 => tcp((SERVER, 80), public, "SA", &data),
            _ => pong(SERVER, public.0, public.1, &data),
        };
        let reply = with_id(&reply, 4711, false);
        let frames = sent(&mut rig, OUTSIDE, &reply, INSIDE);
        assert_eq!((frames.len(), offsets(&frames)), (2, vec![0, 1376]));
        assert!(frames.iter().all(|frame| ip(frame).0.identification == 4711));
        let view = seen(&whole(&frames, 1400));
        assert_eq!((view.dst, &view.payload[..]), ((pod(1), 4000), &data[..]));
    }
}

// Proves: 6864-S4.3b, 6864-S4.3c, 5508-S7.1.1a
#[test]
fn what_has_df_is_never_cut() {
    let mut rig = Rig::new(2);
    set_mtu(&mut rig, OUTSIDE, 1000);
    let packet = udp((pod(1), 4000), (SERVER, 53), &[7; 1400]);
    let mut fragment = pieces(&packet, 7, 1200).swap_remove(0);
    assert_eq!(sent(&mut rig, INSIDE, &with_id(&fragment, 7, true), OUTSIDE).len(), 0);
    assert_eq!(rig.dropped(DropReason::TooBig), 1);
    assert_eq!(rig.sum(|c| c.fragments_sent.get()), 0);
    fragment = with_id(&pieces(&packet, 8, 800)[0], 8, true);
    let small = sent(&mut rig, INSIDE, &fragment, OUTSIDE);
    assert!(ip(&small[0]).0.dont_fragment, "fits, and keeps its DF");
}

// Proves: 4787-REQ-13a.1
#[test]
fn fragments_that_are_too_big_are_cut_again() {
    for order in super::pieces::orders(3) {
        let mut rig = Rig::new(2);
        set_mtu(&mut rig, OUTSIDE, 600);
        let data: Vec<u8> = (0..4000u32).map(|i| (i * 7 / 3) as u8).collect();
        let fragments = pieces(&udp((pod(1), 4000), (SERVER, 53), &data), 7, 1480);
        let mut frames = Vec::new();
        for &at in &order {
            frames.extend(sent(&mut rig, INSIDE, &fragments[at], OUTSIDE));
        }
        assert_eq!(frames.len(), 3 + 3 + 2, "1,480 and 1,480 and 1,048 bytes by 576");
        let view = seen(&whole(&frames, 600));
        assert_eq!((view.dst, view.payload), ((SERVER, 53), data));
    }
}

#[test]
fn turning_back_over_a_smaller_link_cuts_too() {
    let (mut rig, [from, caller, called]) = turning_back(2);
    set_mtu(&mut rig, INSIDE, 1000);
    let packet = with_id(&udp(from, called, &[5; 1400]), 7, false);
    let frames = sent(&mut rig, INSIDE, &packet, INSIDE);
    assert_eq!(frames.len(), 2);
    let view = seen(&whole(&frames, 1000));
    assert_eq!((view.src, view.dst, view.ttl), (caller, (pod(2), 6000), 63));
}

#[test]
fn without_frames_the_whole_datagram_is_dropped() {
    let mut rig = Rig::new(1);
    set_mtu(&mut rig, OUTSIDE, 68);
    let packet = with_id(&udp((pod(1), 4000), (SERVER, 53), &[7; 1400]), 0, false);
    let pieces = sent(&mut rig, INSIDE, &packet, OUTSIDE).len() as u64;
    assert_eq!(pieces, 1408u64.div_ceil(48));
    // As many at once as there are not frames for.
    let many = super::rig::FRAMES as u64 / pieces + 3;
    for _ in 0..many {
        rig.inject(INSIDE, &packet);
    }
    let left = rig.run().len() as u64;
    let dropped = rig.dropped(DropReason::NoFrame);
    assert!(dropped > 0);
    assert_eq!(left, (many - dropped) * pieces, "all pieces or none");
    assert_eq!(rig.sum(|c| c.fragments_sent.get()), left + pieces);
}

#[test]
fn a_full_ring_drops_the_datagram_once() {
    let mut rig = Rig::new(1);
    set_mtu(&mut rig, OUTSIDE, 576);
    rig.workers[0].io_mut().limit_transmit(2);
    let packet = with_id(&udp((pod(1), 4000), (SERVER, 53), &[7; 1400]), 0, false);
    sent(&mut rig, INSIDE, &packet, OUTSIDE);
    assert_eq!(rig.dropped(DropReason::TransmitFull), 1);
    assert_eq!(rig.sum(|c| c.forwarded.get()), 0);
}

#[test]
fn a_trailer_does_not_make_a_packet_too_big() {
    let mut rig = Rig::new(1);
    set_mtu(&mut rig, OUTSIDE, 600);
    let packet = udp((pod(1), 4000), (SERVER, 53), &[7; 500]);
    let mut padded = packet.clone();
    padded.resize(700, 0xee);
    let frames = sent(&mut rig, INSIDE, &padded, OUTSIDE);
    assert_eq!((frames.len(), frames[0].len()), (1, packet.len()));
    assert_eq!(seen(&frames[0]).payload, [7; 500]);
}
