//! ICMP errors in both directions, with right and wrong quotes (topology: `vm_test::rig`).
//!
//! ```text
//!  inside 10.244.1.21 ── node ── gw ── r (errors as a router) ── 192.0.2.20 outside
//!   (raw, on c1's link)   └ router behind the gateway   └ x (errors from off the path)
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vm_test::craft::{self, Ip, RST, Segment};
use vm_test::inject::{INSIDE, OUTSIDE, Received};
use vm_test::oracle::packet::{ICMP, UDP};
use vm_test::oracle::{Ipv4, checksums};
use vm_test::rig::verified;
use vm_test::{Flow, Lab, Options, Rig, Wire};

const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);
const OFF_PATH: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);

/// Every code of the three types of errors that are translated.
fn every_code() -> Vec<(u8, u8)> {
    let mut codes: Vec<_> = (0..16).map(|code| (3, code)).collect();
    codes.extend([(11, 0), (11, 1), (12, 0), (12, 1), (12, 2)]);
    codes
}

/// A flow of each protocol with 64 bytes of data.
fn flows(lab: &Lab) -> Result<[Flow; 3]> {
    let data = [0x5a; 64];
    let mut tcp = lab.connect(3001, 80)?;
    let segment =
        Segment { flags: craft::ACK, sequence: 1001, acknowledgement: 5001, data: data.to_vec() };
    tcp = lab.segment(tcp.local.port(), 80, &segment)?;
    Ok([lab.udp(3000, 7, &data)?, tcp, lab.ping(3002, &data)?])
}

/// What came inside is `code` from `sender` to the flow's own endpoint, and quotes what was sent
/// inside (one hop older, up to `length` bytes).
fn relayed_inside(
    got: &Received,
    flow: &Flow,
    sender: Ipv4Addr,
    code: (u8, u8),
    length: usize,
) -> Result<()> {
    let ip = got.ip();
    ensure!(ip.protocol() == ICMP && (ip.body[0], ip.body[1]) == code, "{ip} is not {code:?}");
    ensure!((ip.source(), ip.destination()) == (sender, INSIDE), "{ip}");
    ensure!(checksums::fault(&ip).is_none(), "{:?}: {ip}", checksums::fault(&ip));
    let quoted = ip.quoted().context("no quote")?;
    let length = length.min(flow.seen.len());
    ensure!(ip.body.len() == 8 + length, "{} bytes of {length}", ip.body.len());
    let sent = Ipv4::parse(&flow.sent).context("what was sent")?;
    ensure!(quoted.endpoints() == sent.endpoints(), "the quote is {quoted}, sent was {sent}");
    same_but_hops(&ip.body[8..], &flow.sent[..length])
}

/// Equal but for TTL and header checksum.
fn same_but_hops(one: &[u8], other: &[u8]) -> Result<()> {
    let differs = |at: &usize| one[*at] != other[*at] && ![8, 10, 11].contains(at);
    let first = (0..one.len()).find(differs);
    ensure!(first.is_none(), "byte {first:?} of the quote differs: {one:02x?} {other:02x?}");
    Ok(())
}

/// Errors about what pods sent reach them, whoever sends them, whatever their code and length.
fn errors_from_outside(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let router = Wire::router(rig)?;
    let off_path = Wire::off_path(rig)?;
    for flow in flows(&lab)? {
        for code in every_code() {
            let error =
                craft::error(ROUTER, *flow.public.ip(), code, [0, 0, 5, 20], &flow.seen[..28]);
            router.send(&error)?;
            let got = lab.one_inside(&format!("{code:?} from r about {}", flow.protocol))?;
            relayed_inside(&got, &flow, ROUTER, code, 28)?;
            ensure!(got.ip().body[4..8] == [0, 0, 5, 20], "bytes 4 to 8 changed");
        }
        for length in [28, 36, 48, 60, 1500] {
            let quote = &flow.seen[..length.min(flow.seen.len())];
            let error = craft::error(OUTSIDE, *flow.public.ip(), (3, 3), [0; 4], quote);
            lab.outside.send(&error)?;
            let got = lab.one_inside(&format!("3/3 with {length} bytes"))?;
            relayed_inside(&got, &flow, OUTSIDE, (3, 3), length)?;
        }
        // 4787-REQ-12a: its source does not matter, its quote does.
        off_path.send(&craft::error(OFF_PATH, *flow.public.ip(), (3, 1), [0; 4], &flow.seen))?;
        let got = lab.inside.expect("3/1 from x", |ip| ip.source() == OFF_PATH)?;
        relayed_inside(&got, &flow, OFF_PATH, (3, 1), 1500)?;
    }
    Ok(())
}

/// No error ended anything: each flow still goes both ways, under the same public endpoint.
fn flows_live(lab: &Lab, before: &[Flow; 3]) -> Result<()> {
    let [udp, tcp, ping] = flows(lab).context("the flows after the errors")?;
    for (now, before) in [udp, tcp, ping].iter().zip(before) {
        ensure!(now.public == before.public, "{} became {}", before.public, now.public);
    }
    lab.datagram_in(&before[0], b"still there")?;
    Ok(())
}

/// 4787-REQ-12, 5382-REQ-10: errors of every kind leave the flows as they were.
fn errors_end_nothing(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let data = [0x5a; 64];
    let udp = lab.udp(3100, 7, &data)?;
    let tcp = lab.connect(3101, 80)?;
    let router = Wire::router(rig)?;
    let before = rig.natgate.as_ref().map(states).transpose()?;
    for flow in [&udp, &tcp] {
        // All but the queries that a host answers.
        for kind in (0..=20).filter(|kind| ![8, 13].contains(kind)) {
            for code in [0, 1, 3, 4, 13] {
                let error =
                    craft::error(ROUTER, *flow.public.ip(), (kind, code), [0; 4], &flow.seen);
                router.send(&error)?;
            }
        }
    }
    lab.came_inside()?;
    if let (Some(natgate), Some(before)) = (&rig.natgate, before) {
        let after = states(natgate)?;
        ensure!(before == after, "sessions before: {before:?}, after: {after:?}");
    }
    lab.datagram_in(&udp, b"still there")?;
    let segment =
        Segment { flags: craft::ACK, sequence: 5001, acknowledgement: 1001, data: b"on".to_vec() };
    lab.answer(&tcp, &segment)?;
    ensure!(lab.udp(3100, 7, &data)?.public == udp.public, "another public endpoint");
    Ok(())
}

/// (internal, remote, state) of every session but the fence's.
fn states(natgate: &vm_test::Gateway) -> Result<Vec<String>> {
    let rows = natgate.json(&["sessions"])?;
    let mut states: Vec<_> = rows
        .iter()
        .map(|row| {
            format!("{} {} {} {}", row["protocol"], row["internal"], row["remote"], row["state"])
        })
        .collect();
    states.sort();
    Ok(states)
}

/// Errors whose quotes belong to no flow, or are broken; `other` is another address of the pool.
fn wrong_quotes(flow: &Flow, other: Ipv4Addr) -> Vec<(&'static str, Vec<u8>)> {
    let (public, port) = (*flow.public.ip(), flow.public.port());
    let error = |quote: &[u8]| craft::error(ROUTER, public, (3, 1), [0; 4], quote);
    let about = |port, remote, remote_port| {
        let (from, to) = (SocketAddrV4::new(public, port), SocketAddrV4::new(remote, remote_port));
        error(&craft::udp(from, to, &[0x5a; 64]))
    };
    let mut bad_icmp = error(&flow.seen);
    bad_icmp[22] ^= 1;
    let mut bad_header = flow.seen.clone();
    bad_header[10] ^= 1;
    let about_error = craft::error(public, OUTSIDE, (3, 3), [0; 4], &flow.seen);
    vec![
        ("a port that nobody has", about(port ^ 0x4000, OUTSIDE, 7)),
        ("another remote port", about(port, OUTSIDE, 8)),
        ("another remote", about(port, Ipv4Addr::new(192, 0, 2, 99), 7)),
        (
            "a source that is not the outer destination",
            craft::error(ROUTER, other, (3, 1), [0; 4], &flow.seen),
        ),
        ("a bad ICMP checksum", bad_icmp),
        ("a bad checksum in the quoted header", error(&bad_header)),
        ("a quote of seven bytes of UDP", error(&flow.seen[..27])),
        ("a quote of half a header", error(&flow.seen[..10])),
        ("no quote", error(&[])),
        ("an error about an error", error(&about_error)),
    ]
}

/// Messages that are not carried, whatever they quote.
fn other_types(flow: &Flow) -> Vec<(&'static str, Vec<u8>)> {
    let message =
        |code, rest, data: &[u8]| craft::error(ROUTER, *flow.public.ip(), code, rest, data);
    vec![
        ("source quench", message((4, 0), [0; 4], &flow.seen)),
        ("redirect", message((5, 1), [10, 0, 0, 9], &flow.seen)),
        ("router solicitation", message((10, 0), [0; 4], &[])),
        ("information request", message((15, 0), [0; 4], &[])),
        ("address mask request", message((17, 0), [0; 4], &[0; 4])),
        ("type 40", message((40, 0), [0; 4], &flow.seen)),
    ]
}

/// What is wrong reaches nobody, and the right error after it does.
fn wrong_errors(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let router = Wire::router(rig)?;
    let flow = lab.udp(3000, 7, &[0x5a; 64])?;
    let public = *flow.public.ip();
    let (first, last) = rig.options().pool.range();
    let other = if public == first { last } else { first };
    for (what, packet) in wrong_quotes(&flow, other).into_iter().chain(other_types(&flow)) {
        router.send(&packet)?;
        lab.nothing_inside(what)?;
    }
    router.send(&craft::error(ROUTER, public, (3, 1), [0; 4], &flow.seen))?;
    relayed_inside(&lab.one_inside("a right quote")?, &flow, ROUTER, (3, 1), 1500)
}

/// Unusual but right quotes: options, wrong transport checksum, RFC 4884 extensions.
fn unusual_quotes(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let router = Wire::router(rig)?;
    let payload = [0x5a; 200];
    let flow = lab.udp(3000, 7, &payload)?;
    let public = *flow.public.ip();
    for length in [4, 20, 40] {
        let mut options = vec![1; length];
        options[length - 1] = 0;
        let body = craft::datagram(flow.public, flow.remote, &payload);
        let quote = Ip { options, ..Ip::new(public, OUTSIDE, UDP) }.packet(&body);
        router.send(&craft::error(ROUTER, public, (11, 0), [0; 4], &quote))?;
        let got = lab.one_inside(&format!("a quote with {length} bytes of options"))?;
        let quoted = got.ip().quoted().context("no quote")?.endpoints();
        ensure!(quoted == Some((flow.local, flow.remote)), "options {length}: {quoted:?}");
        ensure!(checksums::fault(&got.ip()).is_none(), "options {length}: {}", got.ip());
    }
    // 5508-REQ-3c: wrong before, wrong by the same amount after.
    let mut quote = flow.seen.clone();
    add_to_checksum(&mut quote, 0x1100);
    router.send(&craft::error(ROUTER, public, (3, 1), [0; 4], &quote))?;
    let got = lab.one_inside("a wrong quoted UDP checksum")?;
    ensure!(checksums::fault(&got.ip()) == Some(checksums::QUOTED), "the quote was repaired");
    let mut expected = flow.sent.clone();
    add_to_checksum(&mut expected, 0x1100);
    same_but_hops(&got.ip().body[8..], &expected).context("wrong by another amount")?;
    extensions(&lab, &router, &flow)
}

/// Makes the UDP checksum of a packet wrong by `amount` (ones' complement).
fn add_to_checksum(packet: &mut [u8], amount: u16) {
    let was = u32::from(u16::from_be_bytes([packet[26], packet[27]]));
    let sum = was + u32::from(amount);
    let folded = ((sum & 0xffff) + (sum >> 16)) as u16;
    packet[26..28].copy_from_slice(&folded.to_be_bytes());
}

/// 4884-S4, S6: the length attribute and the extension behind the padded quote are kept.
fn extensions(lab: &Lab, router: &Wire, flow: &Flow) -> Result<()> {
    // An MPLS label stack object (RFC 4950) behind an extension header of version 2.
    let mut extension = vec![0x20, 0, 0, 0, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0x40];
    let checksum = !checksums::sum(&extension);
    extension[2..4].copy_from_slice(&checksum.to_be_bytes());
    for words in [32, 33] {
        let mut quote = flow.seen[..4 * words].to_vec();
        quote.extend(&extension);
        router.send(&craft::error(
            ROUTER,
            *flow.public.ip(),
            (11, 0),
            [0, words as u8, 0, 0],
            &quote,
        ))?;
        let got = lab.one_inside(&format!("an extension behind {words} words"))?;
        let ip = got.ip();
        ensure!(ip.body[4..8] == [0, words as u8, 0, 0], "the length attribute changed");
        ensure!(ip.body[8 + 4 * words..] == extension, "the extension changed");
        same_but_hops(&ip.body[8..8 + 4 * words], &flow.sent[..4 * words])?;
        ensure!(checksums::sum(ip.body) == 0xffff, "the ICMP checksum is wrong");
    }
    Ok(())
}

/// Errors about what came from outside: from the pod itself and from a router behind the gateway.
fn errors_from_inside(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, &[0x5a; 64])?;
    for (sender, codes) in
        [(INSIDE, every_code()), (Ipv4Addr::new(10, 244, 7, 1), vec![(3, 4), (11, 0)])]
    {
        for code in codes {
            let (sent, got) = lab.datagram_in(&flow, b"from outside")?;
            lab.inside.send(&craft::error(sender, OUTSIDE, code, [0, 0, 5, 0], got.bytes()))?;
            let got = lab.one_outside(&format!("{code:?} from {sender}"))?;
            let ip = got.ip();
            ensure!(ip.protocol() == ICMP && (ip.body[0], ip.body[1]) == code, "{ip}");
            ensure!((ip.source(), ip.destination()) == (*flow.public.ip(), OUTSIDE), "{ip}");
            ensure!(ip.body[4..8] == [0, 0, 5, 0], "bytes 4 to 8 changed");
            ensure!(checksums::fault(&ip).is_none(), "{:?}: {ip}", checksums::fault(&ip));
            same_but_hops(&ip.body[8..], &sent).context("the quote is not what s1 sent")?;
        }
    }
    if rig.natgate.is_none() {
        // Linux sends what follows on, untranslated.
        return Ok(());
    }
    // 5508-REQ-5: quotes of nothing that came.
    let (_, got) = lab.datagram_in(&flow, b"from outside")?;
    let from = SocketAddrV4::new(OUTSIDE, 9);
    let forged = craft::udp(from, SocketAddrV4::new(INSIDE, 3999), b"never came");
    lab.inside.send(&craft::error(INSIDE, OUTSIDE, (3, 3), [0; 4], &forged))?;
    lab.nothing_outside("an error about what never came")?;
    lab.inside.send(&craft::error(INSIDE, OUTSIDE, (5, 0), [10, 0, 0, 9], got.bytes()))?;
    lab.nothing_outside("a redirect from inside")
}

/// A wrong ICMP reset (RST is not ICMP's): errors quote a TCP flow and its data goes on.
fn tcp_survives(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let before = flows(&lab)?;
    let router = Wire::router(rig)?;
    for flow in &before {
        router.send(&craft::error(ROUTER, *flow.public.ip(), (3, 3), [0; 4], &flow.seen))?;
    }
    ensure!(lab.came_inside()?.len() == 3, "not three errors");
    flows_live(&lab, &before)?;
    let reset = Segment { flags: RST, sequence: 5001, ..Segment::default() };
    lab.answer(&before[1], &reset)
}

// Proves: 5508-REQ-4a, 5508-REQ-4b, 5508-REQ-4c, 4787-REQ-12a, 4787-REQ-12b, 4787-S9a, 5382-REQ-9
// Proves: 5508-REQ-10a.1, 5508-REQ-10b.5, 5508-S10, 5508-S7.1.2
// Museum: C17, C23
#[test]
fn errors_from_outside_reach_the_pod() {
    verified(Options::default(), |rig| errors_from_outside(rig));
}

// Proves: 4787-REQ-12, 5382-REQ-10
#[test]
fn errors_change_no_state() {
    verified(Options::default(), |rig| errors_end_nothing(rig));
}

// Proves: 4787-REQ-12, 5382-REQ-10, 7857-S2.2a
#[test]
fn flows_go_on_after_errors() {
    verified(Options::default(), |rig| tcp_survives(rig));
}

// Proves: 5508-REQ-3, 5508-REQ-3a, 5508-REQ-4, 5508-REQ-4a, 5508-REQ-10b.1, 5508-REQ-10b.4
// Proves: 5508-REQ-10b.6, 5508-REQ-10c.1, 5508-REQ-10c.2, 5508-REQ-11
// Museum: C36
#[test]
fn wrong_quotes_reach_nobody() {
    // Linux does not check all of this: natgate only.
    let mut rig = Rig::start(Options::natgate()).unwrap();
    rig.must(wrong_errors(&rig));
    // One error of this run has a bad checksum on purpose, but nothing of it may leave.
    let verified = rig.verify();
    rig.must(verified);
}

// Proves: 5508-REQ-3b, 5508-REQ-3c, 5508-REQ-3d, 4884-S4, 4884-S6
// Museum: C30
#[test]
fn unusual_quotes_are_translated() {
    // The wrong quoted checksum stays wrong, which oracle (a) would call a fault.
    let rig = Rig::start(Options::default()).unwrap();
    rig.must(unusual_quotes(&rig));
}

// Proves: 5508-REQ-5, 5508-REQ-5a, 5508-REQ-5b, 5508-REQ-5c.2, 5508-S4.2.2
#[test]
fn errors_from_inside_reach_the_server() {
    verified(Options::default(), |rig| errors_from_inside(rig));
}

/// The negative control.
#[test]
fn no_error_comes_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    errors_from_outside(&rig).unwrap_err();
    errors_from_inside(&rig).unwrap_err();
}
