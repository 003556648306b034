//! Packets that few kernels send: options, odd lengths, trailers, no checksum, impossible addresses,
//! broken headers (topology: `vm_test::rig`).
//!
//! ```text
//!  inside 10.244.1.21 ── node (raw, on its link to the gateway) ── gw ── r (the same) ── 192.0.2.20 outside
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::pattern;
use vm_test::craft::{self, Ip, SYN, Segment};
use vm_test::inject::{INSIDE, OUTSIDE};
use vm_test::oracle::checksums::{self, sum};
use vm_test::oracle::packet::{ICMP, UDP};
use vm_test::rig::verified;
use vm_test::{Flow, Lab, Options, Rig, Wire};

/// How long the links are listened to after a fence, which took another road at the last hop.
const REST: Duration = Duration::from_millis(30);

/// Every short length, in frames with a trailer of what is no part of the packet.
fn lengths_and_trailers(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (node, router) = (Wire::node(rig)?, Wire::router(rig)?);
    let flow = lab.udp(3000, 7, b"open")?;
    let ping = lab.ping(3001, b"open")?;
    for length in 0..70 {
        let payload = pattern(length as u64, length);
        let trailer = vec![0x5a; 46_usize.saturating_sub(28 + length).max(length % 4)];
        node.send_with_trailer(&craft::udp(flow.local, flow.remote, &payload), &trailer)?;
        let got = lab.one_outside(&format!("{length} bytes out"))?;
        ensure!(
            got.ip().body == craft::datagram(flow.public, flow.remote, &payload),
            "{}",
            got.ip()
        );
        router.send_with_trailer(&craft::udp(flow.remote, flow.public, &payload), &trailer)?;
        let got = lab.one_inside(&format!("{length} bytes in"))?;
        ensure!(
            got.ip().body == craft::datagram(flow.remote, flow.local, &payload),
            "{}",
            got.ip()
        );
        let body = craft::echo_request(3001, 2, &payload);
        node.send_with_trailer(&Ip::new(INSIDE, OUTSIDE, ICMP).packet(&body), &trailer)?;
        let got = lab.one_outside(&format!("a ping of {length} bytes"))?;
        let expected = craft::echo_request(ping.public.port(), 2, &payload);
        ensure!(got.ip().body == expected, "{}", got.ip());
    }
    Ok(())
}

/// UDP without checksum stays so; a checksum that comes to zero is sent as 0xffff.
fn zero_checksums(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    let without = |from, to| {
        let mut body = craft::datagram(from, to, b"no checksum");
        body[6..8].fill(0);
        body
    };
    lab.inside.send(&Ip::new(INSIDE, OUTSIDE, UDP).packet(&without(flow.local, flow.remote)))?;
    let got = lab.one_outside("no checksum, out")?;
    ensure!(got.ip().body == without(flow.public, flow.remote), "{:02x?}", got.ip().body);
    let public = *flow.public.ip();
    lab.outside.send(&Ip::new(OUTSIDE, public, UDP).packet(&without(flow.remote, flow.public)))?;
    let got = lab.one_inside("no checksum, in")?;
    ensure!(got.ip().body == without(flow.remote, flow.local), "{:02x?}", got.ip().body);
    // The word that brings the sum to 0xffff is the checksum without it.
    for (wire, sent, seen) in [
        (&lab.inside, (flow.local, flow.remote), (flow.public, flow.remote)),
        (&lab.outside, (flow.remote, flow.public), (flow.remote, flow.local)),
    ] {
        let word = craft::datagram(seen.0, seen.1, &[0, 0])[6..8].to_vec();
        let expected = craft::datagram(seen.0, seen.1, &word);
        ensure!(expected[6..8] == [0xff, 0xff], "this test is wrong: {expected:02x?}");
        wire.send(&craft::udp(sent.0, sent.1, &word))?;
        let out = sent.0 == flow.local;
        let got = if out { lab.one_outside("zero")? } else { lab.one_inside("zero")? };
        ensure!(got.ip().body == expected, "{:02x?}, not {expected:02x?}", got.ip().body);
    }
    Ok(())
}

/// Options that pass unchanged, options that show the way and stay inside, reserved bits.
fn options_and_bits(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    let with = |options: &[u8], flow: &Flow| {
        let body = craft::datagram(flow.local, flow.remote, b"options");
        Ip { options: options.to_vec(), ..Ip::new(INSIDE, OUTSIDE, UDP) }.packet(&body)
    };
    let back = |options: &[u8]| {
        let body = craft::datagram(flow.remote, flow.public, b"options");
        Ip { options: options.to_vec(), ..Ip::new(OUTSIDE, *flow.public.ip(), UDP) }.packet(&body)
    };
    // Router alert; a number that nobody gave out; padding.
    for options in [&[148, 4, 0, 0][..], &[222, 6, 1, 2, 3, 4, 0, 0], &[1, 1, 1, 0], &[1; 40]] {
        lab.inside.send(&with(options, &flow))?;
        let got = lab.one_outside(&format!("options {options:?} out"))?;
        ensure!(got.ip().header.options() == options, "{:?}", got.ip().header.options());
        ensure!(got.endpoints()? == (flow.public, flow.remote), "{}", got.ip());
        lab.outside.send(&back(options))?;
        let got = lab.one_inside(&format!("options {options:?} in"))?;
        ensure!(got.ip().header.options() == options && checksums::fault(&got.ip()).is_none());
    }
    if rig.natgate.is_some() {
        // Loose and strict source route, record route, timestamp: past the node, which may have its
        // own opinion of them.
        let node = Wire::node(rig)?;
        for options in [
            &[131, 7, 4, 192, 0, 2, 70, 0][..],
            &[137, 7, 4, 192, 0, 2, 70, 0],
            &[7, 7, 4, 0, 0, 0, 0, 0],
            &[68, 8, 5, 0, 0, 0, 0, 0],
        ] {
            node.send(&with(options, &flow))?;
            lab.nothing_outside(&format!("options {options:?}"))?;
        }
    }
    let mut reserved = craft::udp(flow.local, flow.remote, b"reserved bit");
    reserved[6] |= 0x80;
    reserved[10..12].fill(0);
    let checksum = !sum(&reserved[..20]);
    reserved[10..12].copy_from_slice(&checksum.to_be_bytes());
    lab.inside.send(&reserved)?;
    let got = lab.one_outside("the reserved bit")?;
    ensure!(got.bytes()[6] & 0x80 == 0x80, "the reserved bit was cleared");
    Ok(())
}

/// Queries other than echo: timestamp goes both ways.
fn timestamps(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let query = craft::icmp(13, 0, [0x30, 0x01, 0, 1], &[0; 12]);
    lab.inside.send(&Ip::new(INSIDE, OUTSIDE, ICMP).packet(&query))?;
    let got = lab.one_outside("a timestamp query")?;
    let (public, identifier) = (got.ip().source(), got.ip().word(4).context("no identifier")?);
    let [a, b] = identifier.to_be_bytes();
    ensure!(got.ip().body == craft::icmp(13, 0, [a, b, 0, 1], &[0; 12]), "{}", got.ip());
    let reply = craft::icmp(14, 0, [a, b, 0, 1], &[7; 12]);
    lab.outside.send(&Ip::new(OUTSIDE, public, ICMP).packet(&reply))?;
    let got = lab.one_inside("its reply")?;
    ensure!(got.ip().body == craft::icmp(14, 0, [0x30, 0x01, 0, 1], &[7; 12]), "{}", got.ip());
    Ok(())
}

/// Nothing of it leaves by either side.
fn swallowed(lab: &Lab, wires: [&Wire; 2], what: &str) -> Result<()> {
    lab.nothing_outside(what)?;
    lab.nothing_inside(what)?;
    let fence = |ip: &vm_test::oracle::Ipv4<'_>| {
        ip.protocol() == UDP && ip.body.get(8..13) == Some(b"fence".as_slice())
    };
    for wire in wires {
        let came = wire.receive(REST, |ip| !fence(ip))?;
        ensure!(came.is_none(), "{what}: {}", came.map_or(String::new(), |it| it.ip().to_string()));
    }
    Ok(())
}

/// Addresses that no router may forward (RFC 1812 5.3.7), as sources and destinations.
fn impossible_addresses(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (node, router) = (Wire::node(rig)?, Wire::router(rig)?);
    let flow = lab.udp(3000, 7, b"open")?;
    let (first, _) = rig.options().pool.range();
    let impossible = [[0, 0, 0, 1], [127, 0, 0, 1], [224, 0, 0, 5], [240, 0, 0, 1], [255; 4]];
    for address in impossible.map(Ipv4Addr::from) {
        let other = SocketAddrV4::new(address, 7);
        node.drain()?;
        router.drain()?;
        node.send(&craft::udp(other, flow.remote, b"from nowhere"))?;
        node.send(&craft::udp(flow.local, other, b"to nowhere"))?;
        router.send(&craft::udp(other, flow.public, b"from nowhere"))?;
        swallowed(&lab, [&node, &router], &format!("{address}"))?;
    }
    node.drain()?;
    router.drain()?;
    for source in [first, Ipv4Addr::new(192, 0, 2, 10), Ipv4Addr::new(10, 77, 0, 1)] {
        node.send(&craft::udp(SocketAddrV4::new(source, 7), flow.remote, b"not a pod"))?;
    }
    swallowed(&lab, [&node, &router], "sources that are no pods")
}

/// Headers that lie, from both sides: swallowed, and the next good packet passes.
fn broken_headers(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (node, router) = (Wire::node(rig)?, Wire::router(rig)?);
    let flow = lab.udp(3000, 7, b"open")?;
    let tcp = lab.connect(3001, 80)?;
    let sides = [
        (&node, flow.local, flow.remote, tcp.local, tcp.remote),
        (&router, flow.remote, flow.public, tcp.remote, tcp.public),
    ];
    for (wire, from, to, tcp_from, tcp_to) in sides {
        let good = craft::udp(from, to, b"good");
        let segment = craft::tcp(tcp_from, tcp_to, &Segment { flags: SYN, ..Segment::default() });
        // What is wrong: byte, value, whether the header's checksum is mended.
        for (what, packet, at, value, mend) in [
            ("header checksum", &good, 10, good[10] ^ 1, false),
            ("version", &good, 0, 0x55, true),
            ("header length", &good, 0, 0x44, false),
            ("header longer than the packet", &good, 0, 0x4f, false),
            ("total length beyond the frame", &good, 2, 9, true),
            ("total length below the header", &good, 3, 19, true),
            ("TCP data offset too small", &segment, 32, 0x40, true),
            ("TCP data offset beyond the end", &segment, 32, 0xf0, true),
            ("source port 0", &good, 21, 0, true),
        ] {
            let mut packet = packet.clone();
            packet[at] = value;
            if what == "source port 0" {
                packet[20] = 0;
            }
            if mend {
                packet[10..12].fill(0);
                let checksum = !sum(&packet[..20]);
                packet[10..12].copy_from_slice(&checksum.to_be_bytes());
            }
            wire.send(&packet)?;
            lab.nothing_outside(what)?;
            lab.nothing_inside(what)?;
        }
        for length in [0, 1, 19, 27] {
            wire.send(&good[..length])?;
            lab.nothing_outside(&format!("{length} bytes of a packet"))?;
            lab.nothing_inside(&format!("{length} bytes of a packet"))?;
        }
    }
    lab.udp(3000, 7, b"after all this")?;
    lab.datagram_in(&flow, b"after all this")?;
    Ok(())
}

/// Echo replies whose data looks like a quoted packet of a live flow are data.
fn payloads_are_payloads(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, &[0x5a; 64])?;
    let ping = lab.ping(3001, &flow.sent)?;
    ensure!(ping.seen[28..] == flow.sent, "data of a ping changed");
    let [a, b] = ping.public.port().to_be_bytes();
    let reply = craft::icmp(0, 0, [a, b, 0, 1], &flow.seen);
    lab.outside.send(&Ip::new(OUTSIDE, *ping.public.ip(), ICMP).packet(&reply))?;
    let got = lab.one_inside("a reply with a packet as data")?;
    ensure!(got.ip().body[8..] == flow.seen, "data of a reply changed");
    Ok(())
}

// Proves: 5508-REQ-1
// Museum: C20, C42
#[test]
fn odd_lengths_and_trailers_pass() {
    verified(Options::default(), |rig| lengths_and_trailers(rig));
}

// Proves: 1624-S3
// Museum: C21, C22
#[test]
fn zero_checksums_are_what_they_were() {
    verified(Options::default(), |rig| zero_checksums(rig));
}

// Proves: 1812-S5.3.13.1, 1812-S4.2.2.3
// Museum: C42
#[test]
fn options_pass_unless_they_show_the_way() {
    verified(Options::default(), |rig| options_and_bits(rig));
}

// Proves: 5508-REQ-10b.2, 5508-REQ-1
#[test]
fn timestamp_queries_are_translated() {
    verified(Options::default(), |rig| timestamps(rig));
}

// Proves: 1812-S5.3.7
#[test]
fn impossible_addresses_are_swallowed() {
    // The kernel of a Linux gateway answers some of them itself.
    verified(Options::natgate(), |rig| impossible_addresses(rig));
}

// Proves: 1812-S5.2.2
#[test]
fn broken_headers_are_swallowed() {
    // The captures hold broken packets on purpose, which oracle (a) would call malformed.
    let rig = Rig::start(Options::natgate()).unwrap();
    rig.must(broken_headers(&rig));
    let balanced = vm_test::oracle::balance::settled(rig.natgate.as_ref().unwrap());
    rig.must(balanced);
}

// Proves: 5508-REQ-1
// Museum: C19
#[test]
fn data_that_looks_like_a_quote_is_data() {
    verified(Options::default(), |rig| payloads_are_payloads(rig));
}

/// The negative control.
#[test]
fn nothing_odd_passes_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    Lab::open(&rig).unwrap_err();
}
