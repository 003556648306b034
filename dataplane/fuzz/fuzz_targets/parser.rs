//! Every view on every byte: parsing, reading, printing, and the changes that a view offers.

#![no_main]

use dataplane::interface::Mac;
use dataplane::packet::Content;
use dataplane::wire::tcp::Reset;
use dataplane::wire::{Arp, Ethernet, Icmp, Ipv4, Tcp, Udp};
use fuzz::gateway::OWN_MAC;
use fuzz::play::fix_header;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    views(bytes);
    let Some((mode, frame)) = bytes.split_first() else { return };
    let mut frame = frame.to_vec();
    // Most frames would stop at the first checks: help them across, now and then.
    if mode & 1 != 0 && frame.len() >= 14 {
        frame[..6].copy_from_slice(&OWN_MAC);
        frame[12..14].copy_from_slice(&[8, 0]);
    }
    if mode & 2 != 0 {
        fix_header(&mut frame);
    }
    let Ok(Content::Packet(packet)) = Content::parse(&frame, Mac(OWN_MAC)) else { return };
    assert!(packet.to_string().contains(" > "));
    assert_eq!(packet.ip(&frame).len(), usize::from(packet.len));
    assert!(packet.payload(&frame).len() + 20 <= usize::from(packet.len));
    packet.repair_partial_checksum(&mut frame);
    assert!(Ipv4::new_checked(packet.ip(&frame)).is_ok_and(|ip| ip.checksum_is_right()));
});

/// Reads and writes whatever the views offer; they promise not to panic after `new_checked`.
fn views(bytes: &[u8]) {
    if let Ok(view) = Ethernet::new_checked(bytes) {
        let _ = (view.src(), view.dst(), view.ether_type());
    }
    if let Ok(view) = Arp::new_checked(bytes) {
        let _ = (view.operation(), view.sender(), view.target());
    }
    if let Ok(view) = Ipv4::new_checked(bytes) {
        let _ = (view.id(), view.fragment(), view.checksum_is_right(), view.options().count());
        assert!(view.to_string().len() > 10);
    }
    if let Ok(view) = Tcp::new_checked(bytes) {
        let _ = (view.src_port(), view.dst_port(), view.seq(), view.ack(), view.flags());
        assert!(Reset::answering(&view).ports == (view.dst_port(), view.src_port()));
    }
    if let Ok(view) = Udp::new_checked(bytes) {
        let _ = (view.src_port(), view.dst_port(), view.has_checksum());
    }
    if let Ok(view) = Icmp::new_checked(bytes) {
        let _ = (view.kind(), view.identifier());
    }
    if let Ok(mut view) = Icmp::new_checked(bytes.to_vec()) {
        view.reply();
    }
    if let Ok(mut view) = Ipv4::new_checked(bytes.to_vec()) {
        view.answer_with_addresses_swapped();
        assert!(view.checksum_is_right());
        view.decrement_ttl();
    }
}
