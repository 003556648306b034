//! ICMP queries, and what of ICMP and of IP options does not pass.

use super::*;
use crate::snapshot::{Answers, Policy};
use crate::wire::checksum;

/// Where natgate has an address of its own inside and answers.
pub(super) const GATE: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 9);
/// A router on the way to the servers.
pub(super) const ROUTER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);

/// A rig whose internal interface has an address, and MTUs of 1500, with these settings and answers.
pub(super) fn answering(workers: u16, settings: PoolSettings, answers: Answers) -> Rig {
    let rig = Rig::with(workers, settings, Some(Mac(ROUTER_MAC)));
    change(&rig, |snapshot| {
        snapshot.interfaces[INSIDE.index()].address = Some(GATE);
        snapshot.policy = Arc::new(Policy { answers, ..Policy::clone(&snapshot.policy) });
    });
    rig
}

/// Publishes a snapshot that differs.
pub(super) fn change(rig: &Rig, change: impl FnOnce(&mut Snapshot)) {
    let mut snapshot = Snapshot::clone(&rig.snapshot.get());
    change(&mut snapshot);
    rig.snapshot.publish(snapshot);
}

/// An ICMP message of any type.
pub(super) fn icmp(
    ends: (Ipv4Addr, Ipv4Addr),
    kind: (u8, u8),
    word: [u8; 4],
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = packets::ether(ends.0, ends.1, 64).icmpv4_raw(kind.0, kind.1, word);
    step.write(&mut packet, payload).unwrap();
    packet
}

/// The same packet with `options` in its IP header, a multiple of four bytes.
pub(super) fn with_options(packet: &[u8], options: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet.splice(34..34, options.iter().copied());
    packet[14] += (options.len() / 4) as u8;
    let total = (packet.len() - 14) as u16;
    packet[16..18].copy_from_slice(&total.to_be_bytes());
    seal(&mut packet[14..]);
    packet
}

/// Puts the right checksum into an IP header.
pub(super) fn seal(ip: &mut [u8]) {
    let header = usize::from(ip[0] & 15) * 4;
    ip[10..12].fill(0);
    let sum = !checksum::fold(checksum::sum(&ip[..header]));
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// The IP packet in a frame, as the next hop gets it: with a TTL of one less.
pub(super) fn forwarded(frame: &[u8]) -> Vec<u8> {
    let mut ip = frame[14..].to_vec();
    ip[8] -= 1;
    seal(&mut ip);
    ip
}

// Proves: 5508-REQ-1, 5508-REQ-10a.3, 5508-REQ-10b.2
#[test]
fn timestamps_pass_like_echo_by_their_identifier() {
    for workers in [1, 3] {
        let mut rig = Rig::new(workers);
        for n in 1..20 {
            let word = |id: u16| [(id >> 8) as u8, id as u8, 0, 1];
            let (_, out) =
                rig.one(INSIDE, &icmp((pod(n), SERVER), (13, 0), word(77), &[5; 12])).unwrap();
            assert_eq!((out[34], &out[42..]), (13, &[5; 12][..]));
            assert_eq!(checksum::fold(checksum::sum(&out[34..])), 0xffff);
            let public = Ipv4Addr::new(out[26], out[27], out[28], out[29]);
            let id = u16::from_be_bytes([out[38], out[39]]);
            let answer = icmp((SERVER, public), (14, 0), word(id), &[6; 12]);
            let (interface, back) = rig.one(OUTSIDE, &answer).unwrap();
            let want = icmp((SERVER, pod(n)), (14, 0), word(77), &[6; 12]);
            assert_eq!((interface, &back[14..]), (INSIDE, &forwarded(&want)[..]));
        }
        let nobody = icmp((SERVER, PUBLIC), (13, 0), [0, 9, 0, 1], &[5; 12]);
        assert_eq!(rig.one(OUTSIDE, &nobody), None, "natgate answers none");
    }
}

// Proves: 5508-REQ-10b.1, 5508-REQ-10b.4, 5508-REQ-10b.6, 5508-REQ-10c.1, 5508-REQ-10c.2, 5508-REQ-11
#[test]
fn other_types_are_dropped_each_under_its_name() {
    let mut rig = answering(2, PoolSettings::default(), Answers::default());
    let (_, out) = rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"query")).unwrap();
    let public = seen(&out).src.0;
    let named = [
        (4, DropReason::IcmpSourceQuench),
        (5, DropReason::IcmpRedirect),
        (9, DropReason::IcmpRouter),
        (10, DropReason::IcmpRouter),
        (15, DropReason::IcmpInformation),
        (16, DropReason::IcmpInformation),
        (17, DropReason::IcmpAddressMask),
        (18, DropReason::IcmpAddressMask),
        (40, DropReason::IcmpType),
        (255, DropReason::IcmpType),
    ];
    for (kind, reason) in named {
        let before = rig.dropped(reason);
        // With a quote that would do for an error.
        let outside = icmp((SERVER, public), (kind, 0), [0; 4], &out[14..]);
        let inside = icmp((pod(1), SERVER), (kind, 0), [0; 4], &out[14..]);
        assert_eq!(rig.one(OUTSIDE, &outside), None);
        assert_eq!(rig.one(INSIDE, &inside), None, "not forwarded, not answered");
        assert_eq!(rig.dropped(reason), before + 2, "type {kind}");
    }
}

// Proves: 1812-S4.2.2.3, 1812-S5.3.13.1
#[test]
fn unknown_options_and_the_reserved_bit_pass_unchanged() {
    let mut rig = Rig::new(1);
    let plain = udp((pod(1), 4000), (SERVER, 53), b"data");
    for options in [&[148, 4, 0, 0][..], &[222, 6, 1, 2, 3, 4, 1, 0], &[1, 1, 1, 0]] {
        let mut packet = with_options(&plain, options);
        packet[20] |= 0x80;
        seal(&mut packet[14..]);
        let (interface, out) = rig.one(INSIDE, &packet).expect("passes");
        assert_eq!((interface, &out[34..34 + options.len()]), (OUTSIDE, options));
        assert_eq!(out[20] & 0x80, 0x80, "the reserved bit stays");
        let header = 34 + options.len();
        assert_eq!(checksum::fold(checksum::sum(&out[14..header])), 0xffff);
    }
}

// Proves: 1812-S5.3.13.4, 1812-S5.3.13.5, 1812-S5.3.13.6, 5508-REQ-10b.3
#[test]
fn options_that_show_or_choose_the_way_are_dropped() {
    let mut rig = Rig::new(1);
    let plain = udp((pod(1), 4000), (SERVER, 53), b"data");
    for (count, kind) in (1..).zip([7, 68, 131, 137]) {
        let packet = with_options(&plain, &[1, 1, 1, 1, kind, 7, 4, 0, 0, 0, 0, 0]);
        assert_eq!(rig.one(INSIDE, &packet), None);
        assert_eq!(rig.dropped(DropReason::IpOption), count);
    }
}
