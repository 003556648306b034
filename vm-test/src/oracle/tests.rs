//! Does every oracle fire? Crafted good and bad packets, one wrong thing each.

use std::net::Ipv4Addr;
use std::time::Duration;

use etherparse::PacketBuilder;
use serde_json::json;

use super::{Faults, Scope, Trace, balance, checksums, fidelity, leaks, sharing};

const NODE: [u8; 6] = [2, 0, 0, 0, 0, 1];
const INSIDE: [u8; 6] = [2, 0, 0, 0, 0, 2];
const OUTSIDE: [u8; 6] = [2, 0, 0, 0, 0, 3];
const ROUTER: [u8; 6] = [2, 0, 0, 0, 0, 4];
const POD: [u8; 4] = [10, 244, 1, 11];
const OTHER_POD: [u8; 4] = [10, 244, 1, 12];
const PUBLIC: [u8; 4] = [203, 0, 113, 10];
const SERVER: [u8; 4] = [192, 0, 2, 10];

fn scope() -> Scope {
    Scope {
        internal: vec!["10.0.0.0/8".parse().unwrap()],
        public: vec![(Ipv4Addr::from(PUBLIC), Ipv4Addr::new(203, 0, 113, 13))],
        exempt: vec!["192.0.2.70/32".parse().unwrap()],
        gateway_internal_mac: INSIDE,
        gateway_external_mac: OUTSIDE,
    }
}

type End = ([u8; 4], u16);

fn udp(macs: ([u8; 6], [u8; 6]), from: End, to: End, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(from.0, to.0, ttl)
        .udp(from.1, to.1)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn tcp(macs: ([u8; 6], [u8; 6]), from: End, to: End, ttl: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(macs.0, macs.1)
        .ipv4(from.0, to.0, ttl)
        .tcp(from.1, to.1, 1000, 512)
        .write(&mut frame, payload)
        .unwrap();
    frame
}

fn original(pod: [u8; 4], payload: &[u8]) -> Vec<u8> {
    udp((NODE, INSIDE), (pod, 5000), (SERVER, 53), 64, payload)
}

fn forwarded(payload: &[u8]) -> Vec<u8> {
    udp((OUTSIDE, ROUTER), (PUBLIC, 6000), (SERVER, 53), 63, payload)
}

fn trace(frames: &[&[u8]]) -> Trace {
    timed(&frames.iter().enumerate().map(|(at, frame)| (at as u64, *frame)).collect::<Vec<_>>())
}

fn timed(frames: &[(u64, &[u8])]) -> Trace {
    let mut trace = Trace::default();
    for (time, frame) in frames {
        trace.push(Duration::from_secs(*time), frame);
    }
    trace
}

fn checksum_faults(frame: &[u8]) -> usize {
    let mut faults = Faults::default();
    checksums::check(&trace(&[frame]), OUTSIDE, &scope(), &mut faults);
    faults.count(checksums::NAME)
}

/// An ICMP port unreachable from the public address that quotes `quoted` (no Ethernet header).
fn unreachable(quoted: &[u8]) -> Vec<u8> {
    let mut frame = Vec::new();
    PacketBuilder::ethernet2(OUTSIDE, ROUTER)
        .ipv4(PUBLIC, SERVER, 63)
        .icmpv4(etherparse::Icmpv4Type::DestinationUnreachable(
            etherparse::icmpv4::DestUnreachableHeader::Port,
        ))
        .write(&mut frame, quoted)
        .unwrap();
    frame
}

#[test]
fn right_checksums_pass() {
    assert_eq!(checksum_faults(&forwarded(b"odd")), 0);
    let segment = tcp((OUTSIDE, ROUTER), (PUBLIC, 6000), (SERVER, 80), 63, b"hello");
    assert_eq!(checksum_faults(&segment), 0);
    let quoted = udp((ROUTER, OUTSIDE), (SERVER, 53), (PUBLIC, 6000), 60, b"quoted");
    assert_eq!(checksum_faults(&unreachable(&quoted[14..])), 0);
}

#[test]
fn every_wrong_checksum_fires() {
    // IPv4 header checksum, UDP and TCP checksum, payload.
    for at in [24, 40, 42] {
        let mut frame = forwarded(b"payload");
        frame[at] ^= 1;
        assert_eq!(checksum_faults(&frame), 1, "byte {at}");
    }
    let mut segment = tcp((OUTSIDE, ROUTER), (PUBLIC, 6000), (SERVER, 80), 63, b"hello");
    segment[50] ^= 1;
    assert_eq!(checksum_faults(&segment), 1);
    let quoted = udp((ROUTER, OUTSIDE), (SERVER, 53), (PUBLIC, 6000), 60, b"quoted");
    let mut error = unreachable(&quoted[14..]);
    error[36] ^= 1;
    assert_eq!(checksum_faults(&error), 1, "ICMP checksum");
}

#[test]
fn a_wrong_checksum_in_a_quote_fires() {
    for at in [24, 40] {
        let mut quoted = udp((ROUTER, OUTSIDE), (SERVER, 53), (PUBLIC, 6000), 60, b"quoted");
        quoted[at] ^= 1;
        assert_eq!(checksum_faults(&unreachable(&quoted[14..])), 1, "byte {at}");
    }
}

#[test]
fn a_missing_udp_checksum_passes() {
    let mut frame = forwarded(b"payload");
    frame[40..42].fill(0);
    assert_eq!(checksum_faults(&frame), 0);
}

fn leak_faults(frame: &[u8]) -> usize {
    let mut faults = Faults::default();
    leaks::check(&trace(&[frame]), &scope(), &mut faults);
    faults.count(leaks::NAME)
}

fn arp(sender: [u8; 4], target: [u8; 4]) -> Vec<u8> {
    let mut frame = [[0xff; 6], OUTSIDE].concat();
    frame.extend([0x08, 0x06, 0, 1, 8, 0, 6, 4, 0, 1]);
    frame.extend(OUTSIDE);
    frame.extend(sender);
    frame.extend([0; 6]);
    frame.extend(target);
    frame
}

#[test]
fn public_addresses_are_no_leak() {
    assert_eq!(leak_faults(&forwarded(&POD)), 0, "payloads may hold anything");
    assert_eq!(leak_faults(&arp(PUBLIC, [203, 0, 113, 1])), 0);
    let exempt = udp((OUTSIDE, ROUTER), (POD, 5000), ([192, 0, 2, 70], 53), 63, b"");
    assert_eq!(leak_faults(&exempt), 0);
}

#[test]
fn every_internal_address_outside_fires() {
    let macs = (OUTSIDE, ROUTER);
    assert_eq!(leak_faults(&udp(macs, (POD, 5000), (SERVER, 53), 63, b"")), 1);
    assert_eq!(leak_faults(&udp(macs, (PUBLIC, 5000), (POD, 53), 63, b"")), 1);
    assert_eq!(leak_faults(&arp(POD, SERVER)), 1);
    assert_eq!(leak_faults(&arp(PUBLIC, POD)), 1);
    let quoted = udp((NODE, INSIDE), (SERVER, 53), (POD, 5000), 60, b"quoted");
    assert_eq!(leak_faults(&unreachable(&quoted[14..])), 1);
}

fn fidelity_faults(internal: &[&[u8]], external: &[&[u8]]) -> (usize, usize) {
    let mut faults = Faults::default();
    let found =
        fidelity::check(&trace(internal), &trace(external), Duration::MAX, &scope(), &mut faults);
    (faults.count(fidelity::NAME), found.len())
}

#[test]
fn a_translated_packet_finds_its_original_both_ways() {
    let answer = udp((ROUTER, OUTSIDE), (SERVER, 53), (PUBLIC, 6000), 60, b"answer");
    let handed = udp((INSIDE, NODE), (SERVER, 53), (POD, 5000), 59, b"answer");
    let internal: [&[u8]; 2] = [&original(POD, b"query"), &handed];
    let external: [&[u8]; 2] = [&forwarded(b"query"), &answer];
    assert_eq!(fidelity_faults(&internal, &external), (0, 2));
}

#[test]
fn every_changed_bit_fires() {
    // Type of service, identification, DF, TTL, remote address, remote port, payload; and the
    // checksum that became none.
    let original = original(POD, b"query");
    for (at, bits) in [(15, 1), (19, 1), (20, 0x40), (22, 1), (33, 1), (37, 1), (44, 1)] {
        let mut changed = forwarded(b"query");
        changed[at] ^= bits;
        assert_eq!(fidelity_faults(&[&original], &[&changed]), (1, 0), "byte {at}");
    }
    let mut changed = forwarded(b"query");
    changed[40..42].fill(0);
    assert_eq!(fidelity_faults(&[&original], &[&changed]), (1, 0), "no checksum");
}

/// `frame` cut into two fragments behind `at` bytes of its IP body, with identification `id`.
fn cut(frame: &[u8], at: usize, id: u16) -> [Vec<u8>; 2] {
    let whole = super::Ipv4::parse(&frame[14..]).unwrap();
    let ip = crate::craft::Ip {
        ttl: whole.header.ttl(),
        id,
        ..crate::craft::Ip::new(whole.source(), whole.destination(), whole.protocol())
    };
    let parts = ip.fragments(whole.body, &[at]);
    [0, 1].map(|part| [&frame[..14], &parts[part]].concat())
}

fn reassembled(frames: &[&[u8]]) -> Trace {
    let mut trace = trace(frames);
    assert!(trace.reassemble());
    trace
}

#[test]
fn fragments_are_compared_as_datagrams() {
    let [a, b] = cut(&original(POD, b"a longer query"), 8, 7);
    // Another identification, another cut, another order: allowed outbound.
    let [c, d] = cut(&forwarded(b"a longer query"), 16, 8);
    let check = |inside: &[&[u8]], outside: &[&[u8]]| {
        let mut faults = Faults::default();
        let (inside, outside) = (reassembled(inside), reassembled(outside));
        let found = fidelity::check(&inside, &outside, Duration::MAX, &scope(), &mut faults);
        checksums::check(&outside, OUTSIDE, &scope(), &mut faults);
        (faults.count(fidelity::NAME), faults.count(checksums::NAME), found.len())
    };
    assert_eq!(check(&[&a, &b], &[&d, &c]), (0, 0, 1));
    let mut changed = d.clone();
    changed[36] ^= 1;
    assert_eq!(check(&[&b, &a], &[&c, &changed]), (1, 1, 0), "a byte of the second fragment");
    assert_eq!(check(&[&a, &b, &b], &[&c, &c]), (0, 0, 0), "an incomplete datagram");
}

/// An ICMP error from `ends` about `quoted` (an Ethernet frame).
fn error(macs: ([u8; 6], [u8; 6]), ends: ([u8; 4], [u8; 4]), ttl: u8, quoted: &[u8]) -> Vec<u8> {
    let ip = crate::craft::Ip { ttl, ..crate::craft::Ip::new(ends.0.into(), ends.1.into(), 1) };
    let packet = ip.packet(&crate::craft::icmp(3, 1, [0; 4], &quoted[14..]));
    [&macs.1[..], &macs.0[..], &[8, 0], &packet].concat()
}

const HOP: [u8; 4] = [203, 0, 113, 1];

#[test]
fn a_translated_error_finds_its_original_and_a_changed_one_does_not() {
    let (sent, seen) = (original(POD, b"query"), forwarded(b"query"));
    let mut quote = sent.clone();
    quote[22] = seen[22];
    let came = error((ROUTER, OUTSIDE), (HOP, PUBLIC), 64, &seen);
    let relayed = error((INSIDE, NODE), (HOP, POD), 63, &quote);
    assert_eq!(fidelity_faults(&[&sent, &relayed], &[&seen, &came]), (0, 2));
    // Outer source, code, bytes 4 to 8, quoted destination, quoted remote port, quoted payload.
    for at in [29, 35, 38, 60, 65, 71] {
        let mut changed = relayed.clone();
        changed[at] ^= 1;
        let (faults, _) = fidelity_faults(&[&sent, &changed], &[&seen, &came]);
        assert_eq!(faults, 1, "byte {at}");
    }
    let untranslated = error((INSIDE, NODE), (HOP, POD), 63, &seen);
    assert_eq!(fidelity_faults(&[&sent, &untranslated], &[&seen, &came]).0, 0, "not (d)'s to see");
}

#[test]
fn an_own_error_must_quote_what_came() {
    let sent = original(POD, b"query");
    let own = error((INSIDE, NODE), ([10, 0, 0, 1], POD), 64, &sent);
    assert_eq!(fidelity_faults(&[&sent, &own], &[]), (0, 0));
    let never = error((INSIDE, NODE), ([10, 0, 0, 1], POD), 64, &original(POD, b"never"));
    assert_eq!(fidelity_faults(&[&sent, &never], &[]), (1, 0));
    let tired = error((INSIDE, NODE), ([10, 0, 0, 1], POD), 63, &sent);
    assert_eq!(fidelity_faults(&[&sent, &tired], &[]), (1, 0));
}

#[test]
fn a_hairpinned_packet_finds_its_original() {
    const OTHER_PUBLIC: [u8; 4] = [203, 0, 113, 11];
    let sent = udp((NODE, INSIDE), (POD, 5000), (OTHER_PUBLIC, 80), 64, b"turn");
    let turned = udp((INSIDE, NODE), (PUBLIC, 6000), (OTHER_POD, 8080), 63, b"turn");
    assert_eq!(fidelity_faults(&[&sent, &turned], &[]), (0, 1));
    let mut changed = turned.clone();
    changed[43] ^= 1;
    assert_eq!(fidelity_faults(&[&sent, &changed], &[]), (1, 0));
}

#[test]
fn every_changed_bit_of_tcp_fires() {
    let original = tcp((NODE, INSIDE), (POD, 5000), (SERVER, 80), 64, b"data");
    let good = tcp((OUTSIDE, ROUTER), (PUBLIC, 6000), (SERVER, 80), 63, b"data");
    assert_eq!(fidelity_faults(&[&original], &[&good]), (0, 1));
    // Sequence number, acknowledgement, flags, window, urgent pointer, payload.
    for at in [38, 42, 47, 48, 52, 54] {
        let mut changed = good.clone();
        changed[at] ^= 1;
        assert_eq!(fidelity_faults(&[&original], &[&changed]), (1, 0), "byte {at}");
    }
}

#[test]
fn a_packet_twice_or_too_early_fires() {
    let (original, forwarded) = (original(POD, b"query"), forwarded(b"query"));
    assert_eq!(fidelity_faults(&[&original], &[&forwarded, &forwarded]), (1, 1));
    let mut faults = Faults::default();
    let (late, early) = (timed(&[(2, &original)]), timed(&[(1, &forwarded)]));
    fidelity::check(&late, &early, Duration::MAX, &scope(), &mut faults);
    assert_eq!(faults.count(fidelity::NAME), 1);
}

// What was captured when the other link's capture had ended has no original there.
#[test]
fn nothing_is_said_about_what_came_after_the_end() {
    let original = original(POD, b"query");
    let mut faults = Faults::default();
    let internal = timed(&[(1, &original)]);
    let external = timed(&[(2, &forwarded(b"query")), (4, &forwarded(b"late"))]);
    for (end, late) in [(3, 0), (4, 1)] {
        let end = Duration::from_secs(end);
        let found = fidelity::check(&internal, &external, end, &scope(), &mut faults);
        assert_eq!((found.len(), faults.count(fidelity::NAME)), (1, late));
    }
}

fn sharing_faults(times: [u64; 3]) -> usize {
    let mut faults = Faults::default();
    let [first, second, third] = times;
    let frames = [
        (first, original(POD, b"one"), forwarded(b"one")),
        (second, original(OTHER_POD, b"two"), forwarded(b"two")),
        (third, original(POD, b"three"), forwarded(b"three")),
    ];
    let internal = timed(&frames.each_ref().map(|(time, inside, _)| (*time, inside.as_slice())));
    let external = timed(&frames.each_ref().map(|(time, _, outside)| (*time, outside.as_slice())));
    let found = fidelity::check(&internal, &external, Duration::MAX, &scope(), &mut faults);
    assert!(faults.is_empty() && found.len() == 3, "{faults}");
    sharing::check(&found, &mut faults);
    faults.count(sharing::NAME)
}

#[test]
fn two_live_endpoints_on_one_tuple_fire() {
    assert_eq!(sharing_faults([1, 2, 3]), 1);
}

#[test]
fn a_tuple_that_rested_may_be_used_again() {
    assert_eq!(sharing_faults([1, 100, 200]), 0);
}

#[test]
fn counters_that_balance_pass_and_others_fire() {
    let row = |received: u64, dropped: u64, handed: u64, taken: u64| {
        json!({"received": received, "taken_over": taken, "forwarded": 5, "answered": 1,
               "handed_over": handed, "dropped": dropped})
    };
    balance::check(&[row(10, 2, 2, 0), row(6, 2, 0, 2)]).unwrap();
    balance::check(&[row(10, 1, 2, 0), row(6, 2, 0, 2)]).unwrap_err();
    balance::check(&[row(10, 2, 2, 0), row(8, 2, 0, 0)]).unwrap_err();
    balance::check(&[]).unwrap_err();
    balance::check(&[json!({"received": 1})]).unwrap_err();
}
