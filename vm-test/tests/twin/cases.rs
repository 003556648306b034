//! What is played, and what must be seen.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result};
use vm_test::Flow;
use vm_test::client::pattern;
use vm_test::craft::{self, ACK, FIN, Ip, PSH, RST, SYN, Segment};
use vm_test::inject::{INSIDE, OUTSIDE, Received};
use vm_test::oracle::packet::{ICMP, UDP};
use vm_test::oracle::reassembly::Reassembly;
use vm_test::oracle::{Ipv4, checksums};

use super::Bench;
use super::portless::{dccp, esp, esp_crowd};

/// A second address inside.
pub(crate) const SECOND: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 22);
/// Last bytes of further pods' addresses: with the first pod one more than there are public addresses.
pub(crate) const CROWD: [u8; 4] = [22, 23, 24, 25];
/// A router that sends errors.
const ROUTER: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 1);

/// One thing that both gateways are asked to do.
pub(crate) struct Case {
    /// What is done.
    pub(crate) name: &'static str,
    /// Who says what is right.
    pub(crate) requirements: &'static str,
    /// What the endpoints see with Linux between them.
    pub(crate) linux: &'static str,
    /// What they see with natgate.
    pub(crate) natgate: &'static str,
    /// Does it, and says what they saw.
    pub(crate) play: fn(&Bench) -> Result<String>,
}

/// Short for a case.
const fn case(
    name: &'static str,
    requirements: &'static str,
    [linux, natgate]: [&'static str; 2],
    play: fn(&Bench) -> Result<String>,
) -> Case {
    Case { name, requirements, linux, natgate, play }
}

/// All cases, in the order in which they are played.
pub(crate) const CASES: &[Case] = &[
    case("UDP out and back", "4787-S9a", ["whole both ways"; 2], udp),
    case("Ping out and back", "5508-REQ-1", ["whole both ways"; 2], ping),
    case("Timestamp query and reply", "5508-REQ-10b.2", ["whole both ways"; 2], timestamp),
    case(
        "TCP: handshake, data, half-close, close",
        "5382-REQ-2",
        ["every segment as sent"; 2],
        tcp,
    ),
    case("TCP: simultaneous open", "5382-REQ-2a", ["every segment as sent"; 2], simultaneous_open),
    case("TCP: SYN in TIME_WAIT", "5382-REQ-2", ["reopened, same public endpoint"; 2], reopen),
    case("UDP without checksum", "1624-S3", ["still without"; 2], no_checksum),
    case("Public port of a new flow", "6056-S4a", ["the pod's own", "drawn"], port),
    case(
        "One socket towards two remotes",
        "4787-REQ-1 (D1)",
        ["one public endpoint", "two public endpoints"],
        two_remotes,
    ),
    case(
        "Datagram from another port of the remote",
        "4787-REQ-8",
        ["nothing inside; 3/3 outside", "nothing inside; nothing outside"],
        stranger,
    ),
    case(
        "SYN to an unmapped public port",
        "5382-REQ-4a",
        ["nothing inside; RST outside", "nothing inside; nothing outside"],
        unsolicited,
    ),
    case("TCP: first segment is an ACK", "no RFC", ["translated", "nothing outside"], midstream),
    case(
        "TCP: first segment is SYN and FIN",
        "no RFC",
        ["the packet, untranslated outside", "nothing outside"],
        syn_fin,
    ),
    case(
        "TCP: reset far outside the window",
        "7857-S2.2a, 7857-S2.2c",
        ["swallowed; the connection goes on", "passed on; the connection goes on"],
        far_reset,
    ),
    case(
        "TCP: reset inside the window, then the challenge and data",
        "7857-S2.2b",
        ["passed on; the connection goes on"; 2],
        near_reset,
    ),
    case("Source port 0", "no RFC", ["the packet outside", "nothing outside"], port_zero),
    case(
        "ICMP error from outside about a flow",
        "5508-REQ-4a",
        ["translated, quote too"; 2],
        error_in,
    ),
    case("… whose ICMP checksum is wrong", "5508-REQ-3", ["nothing inside"; 2], error_bad_checksum),
    case(
        "… whose quoted header checksum is wrong",
        "5508-REQ-3a",
        ["3/1 inside", "nothing inside"],
        error_bad_quote,
    ),
    case("… about nothing", "5508-REQ-4", ["nothing inside"; 2], error_unknown),
    case("… source quench", "5508-REQ-10c.1", ["translated, quote too", "nothing inside"], quench),
    case("… redirect", "5508-REQ-10b.1", ["nothing inside"; 2], redirect),
    case("… parameter problem", "5508-REQ-10b.5", ["translated, quote too"; 2], parameter_problem),
    case(
        "ICMP error from inside about a flow",
        "5508-REQ-5a",
        ["translated, quote too"; 2],
        error_out,
    ),
    case(
        "… about nothing",
        "5508-REQ-5",
        ["3/3, untranslated outside", "nothing outside"],
        error_out_unknown,
    ),
    case(
        "TTL 1 from inside",
        "5508-S7.2a, 5508-S7.7a",
        [
            "11/0 from the internal interface, class 54",
            "11/0 from the internal interface, class 46",
        ],
        ttl_inside,
    ),
    case(
        "TTL 1 from outside",
        "5508-S7.2a, 1812-S4.3.2.4",
        ["11/0 from the public address, class 54", "11/0 from the public address, class 46"],
        ttl_outside,
    ),
    case("Three fragments, last one first, out", "4787-REQ-14", ["whole"; 2], fragments_out),
    case("Three fragments, last one first, in", "4787-REQ-14", ["whole"; 2], fragments_in),
    case("Fragments with DF", "6864-S4.3c", ["whole, without DF", "whole, with DF"], fragments_df),
    case(
        "Two pods, one identification, interleaved fragments",
        "6864-S5.3.1",
        ["2 whole datagrams"; 2],
        equal_ids,
    ),
    case(
        "Identification of DF-clear datagrams of two pods",
        "6864-S4.3a",
        ["repeated", "unique"],
        ids,
    ),
    case(
        "Record route option",
        "1812-S5.3.13.5 (D12)",
        ["passed, and written in on the way", "nothing outside"],
        record_route,
    ),
    case("Loose source route option", "1812-S5.3.13.4 (D12)", ["nothing outside"; 2], source_route),
    case("Unknown option", "1812-S5.3.13.1", ["as sent"; 2], unknown_option),
    case("ESP of one pod", "no RFC", ["address translated, body as sent"; 2], esp),
    case(
        "ESP of more pods than public addresses to the same remote",
        "no RFC",
        [
            "one pod under each address; others: nothing inside",
            "one pod under each address; others: 3/1 inside",
        ],
        esp_crowd,
    ),
    case(
        "DCCP",
        "6888-REQ-1d",
        ["the packet outside; nothing inside", "nothing outside; 3/2 inside"],
        dccp,
    ),
];

fn local(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(INSIDE, port)
}

fn remote(port: u16) -> SocketAddrV4 {
    SocketAddrV4::new(OUTSIDE, port)
}

fn segment(flags: u8, sequence: u32, acknowledgement: u32, data: &[u8]) -> Segment {
    Segment { flags, sequence, acknowledgement, data: data.to_vec() }
}

/// Names what came: nothing, a reset, an ICMP error, something untranslated.
pub(super) fn name(came: &[Received], place: &str) -> String {
    let Some(packet) = came.first() else { return format!("nothing {place}") };
    let ip = packet.ip();
    let what = match (ip.protocol(), ip.tcp_flags()) {
        (ICMP, _) => format!("{}/{}", ip.body[0], ip.body[1]),
        (_, Some(flags)) if flags & RST != 0 => "RST".to_owned(),
        _ => "the packet".to_owned(),
    };
    let leaked =
        if place == "outside" && ip.source().octets()[0] == 10 { ", untranslated" } else { "" };
    format!("{what}{leaked} {place}")
}

fn udp(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3000, 7, &pattern(1, 700))?;
    bench.lab.datagram_in(&flow, &pattern(2, 700))?;
    let seen = Ipv4::parse(&flow.seen).context("no packet")?;
    Ok(if seen.body[8..] == pattern(1, 700) { "whole both ways" } else { "changed" }.to_owned())
}

fn ping(bench: &Bench) -> Result<String> {
    let flow = bench.lab.ping(3001, &pattern(1, 300))?;
    let [a, b] = flow.public.port().to_be_bytes();
    query_back(bench, &flow, &craft::icmp(0, 0, [a, b, 0, 1], &pattern(1, 300)))
}

fn query_back(bench: &Bench, flow: &Flow, reply: &[u8]) -> Result<String> {
    bench.lab.outside.send(&Ip::new(OUTSIDE, *flow.public.ip(), ICMP).packet(reply))?;
    let got = bench.lab.one_inside("a reply")?;
    let same = got.ip().body[8..] == reply[8..] && checksums::fault(&got.ip()).is_none();
    Ok(if same { "whole both ways" } else { "changed" }.to_owned())
}

fn timestamp(bench: &Bench) -> Result<String> {
    let query = craft::icmp(13, 0, [0x30, 2, 0, 1], &[0; 12]);
    bench.lab.inside.send(&Ip::new(INSIDE, OUTSIDE, ICMP).packet(&query))?;
    let got = bench.lab.one_outside("a query")?;
    let public = SocketAddrV4::new(got.ip().source(), got.ip().word(4).context("no identifier")?);
    let [a, b] = public.port().to_be_bytes();
    let flow = Flow {
        protocol: ICMP,
        local: local(0x3002),
        public,
        remote: remote(0),
        sent: Vec::new(),
        seen: Vec::new(),
    };
    query_back(bench, &flow, &craft::icmp(14, 0, [a, b, 0, 1], &[9; 12]))
}

/// Sends a segment from inside that must come outside as it is, from the same public endpoint.
fn out(bench: &Bench, flow: &Flow, sent: &Segment) -> Result<()> {
    let now = bench.lab.segment(flow.local.port(), flow.remote.port(), sent)?;
    anyhow::ensure!(now.public == flow.public, "another public endpoint");
    let seen = Ipv4::parse(&now.seen).context("no packet")?;
    anyhow::ensure!(seen.tcp_flags() == Some(sent.flags), "other flags");
    Ok(())
}

fn tcp(bench: &Bench) -> Result<String> {
    let flow = bench.lab.connect(3003, 80)?;
    out(bench, &flow, &segment(ACK | PSH, 1001, 5001, b"data"))?;
    bench.lab.answer(&flow, &segment(ACK | PSH, 5001, 1005, b"data"))?;
    out(bench, &flow, &segment(ACK | FIN, 1005, 5005, b""))?;
    bench.lab.answer(&flow, &segment(ACK, 5005, 1006, b"more"))?;
    out(bench, &flow, &segment(ACK, 1006, 5009, b""))?;
    bench.lab.answer(&flow, &segment(ACK | FIN, 5009, 1006, b""))?;
    out(bench, &flow, &segment(ACK, 1006, 5010, b""))?;
    Ok("every segment as sent".to_owned())
}

fn simultaneous_open(bench: &Bench) -> Result<String> {
    let flow = bench.lab.segment(3004, 80, &segment(SYN, 1000, 0, b""))?;
    bench.lab.answer(&flow, &segment(SYN, 5000, 0, b""))?;
    out(bench, &flow, &segment(SYN | ACK, 1000, 5001, b""))?;
    bench.lab.answer(&flow, &segment(SYN | ACK, 5000, 1001, b""))?;
    out(bench, &flow, &segment(ACK | PSH, 1001, 5001, b"data"))?;
    bench.lab.answer(&flow, &segment(ACK, 5001, 1005, b""))?;
    Ok("every segment as sent".to_owned())
}

fn reopen(bench: &Bench) -> Result<String> {
    let flow = bench.lab.connect(3005, 80)?;
    out(bench, &flow, &segment(ACK | FIN, 1001, 5001, b""))?;
    bench.lab.answer(&flow, &segment(ACK | FIN, 5001, 1002, b""))?;
    out(bench, &flow, &segment(ACK, 1002, 5002, b""))?;
    out(bench, &flow, &segment(SYN, 900_000, 0, b""))?;
    bench.lab.answer(&flow, &segment(SYN | ACK, 7000, 900_001, b""))?;
    Ok("reopened, same public endpoint".to_owned())
}

fn no_checksum(bench: &Bench) -> Result<String> {
    let mut body = craft::datagram(local(3006), remote(7), b"no checksum");
    body[6..8].fill(0);
    bench.lab.inside.send(&Ip::new(INSIDE, OUTSIDE, UDP).packet(&body))?;
    let got = bench.lab.one_outside("a datagram")?;
    Ok(if got.ip().word(6) == Some(0) { "still without" } else { "with one" }.to_owned())
}

fn port(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3007, 7, b"port")?;
    Ok(if flow.public.port() == 3007 { "the pod's own" } else { "drawn" }.to_owned())
}

fn two_remotes(bench: &Bench) -> Result<String> {
    let (one, other) = (bench.lab.udp(3008, 7, b"one")?, bench.lab.udp(3008, 8, b"two")?);
    let same = one.public == other.public;
    Ok(if same { "one public endpoint" } else { "two public endpoints" }.to_owned())
}

fn both_sides(bench: &Bench) -> Result<String> {
    let inside = name(&bench.lab.came_inside()?, "inside");
    Ok(format!("{inside}; {}", name(&bench.lab.came_outside()?, "outside")))
}

fn stranger(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3009, 7, b"mine")?;
    bench.lab.outside.send(&craft::udp(remote(9), flow.public, b"stranger"))?;
    both_sides(bench)
}

fn unsolicited(bench: &Bench) -> Result<String> {
    let flow = bench.lab.connect(3010, 80)?;
    let other = SocketAddrV4::new(*flow.public.ip(), flow.public.port() ^ 0x4000);
    bench.lab.outside.send(&craft::tcp(remote(80), other, &segment(SYN, 1, 0, b"")))?;
    both_sides(bench)
}

fn midstream(bench: &Bench) -> Result<String> {
    let packet = craft::tcp(local(3011), remote(80), &segment(ACK, 77, 99, b"old"));
    bench.lab.inside.send(&packet)?;
    let came = bench.lab.came_outside()?;
    let pool = |it: &Received| it.ip().source().octets()[0] == 203;
    Ok(if came.iter().any(pool) { "translated".to_owned() } else { name(&came, "outside") })
}

fn syn_fin(bench: &Bench) -> Result<String> {
    let packet = craft::tcp(local(3012), remote(80), &segment(SYN | FIN, 77, 0, b""));
    bench.lab.inside.send(&packet)?;
    Ok(name(&bench.lab.came_outside()?, "outside"))
}

/// A reset at `sequence`, the receiver's challenge, data: what came, and whether the flow goes on.
fn reset(bench: &Bench, port: u16, sequence: u32) -> Result<String> {
    let flow = bench.lab.connect(port, 80)?;
    out(bench, &flow, &segment(ACK | PSH, 1001, 5001, b"data"))?;
    bench.lab.answer(&flow, &segment(ACK | PSH, 5001, 1005, b"data"))?;
    let packet = craft::tcp(flow.remote, flow.public, &segment(RST, sequence, 0, b""));
    bench.lab.outside.send(&packet)?;
    let came = bench.lab.came_inside()?;
    let passed = if came.is_empty() { "swallowed" } else { "passed on" };
    let on = out(bench, &flow, &segment(ACK, 1005, 5005, b"")).is_ok()
        && bench.lab.answer(&flow, &segment(ACK | PSH, 5005, 1005, b"more")).is_ok();
    Ok(format!("{passed}; the connection {}", if on { "goes on" } else { "is dead" }))
}

fn far_reset(bench: &Bench) -> Result<String> {
    reset(bench, 3013, 0x9000_0000)
}

fn near_reset(bench: &Bench) -> Result<String> {
    reset(bench, 3014, 5300)
}

fn port_zero(bench: &Bench) -> Result<String> {
    bench.lab.inside.send(&craft::udp(local(0), remote(7), b"from port 0"))?;
    Ok(name(&bench.lab.came_outside()?, "outside"))
}

/// An error about a flow of its own, as `make` builds it from the packet seen outside.
fn error(bench: &Bench, port: u16, make: fn(Ipv4Addr, Vec<u8>) -> Vec<u8>) -> Result<String> {
    let flow = bench.lab.udp(port, 7, &[0x5a; 40])?;
    bench.router.send(&make(*flow.public.ip(), flow.seen.clone()))?;
    let came = bench.lab.came_inside()?;
    let Some(got) = came.first() else { return Ok(name(&came, "inside")) };
    let quoted = got.ip().quoted().and_then(|quoted| quoted.endpoints());
    let right = quoted == Some((flow.local, flow.remote)) && checksums::fault(&got.ip()).is_none();
    Ok(if right { "translated, quote too".to_owned() } else { name(&came, "inside") })
}

fn error_in(bench: &Bench) -> Result<String> {
    error(bench, 3020, |public, seen| craft::error(ROUTER, public, (3, 1), [0; 4], &seen))
}

fn error_bad_checksum(bench: &Bench) -> Result<String> {
    error(bench, 3021, |public, seen| {
        let mut packet = craft::error(ROUTER, public, (3, 1), [0; 4], &seen);
        packet[22] ^= 1;
        packet
    })
}

fn error_bad_quote(bench: &Bench) -> Result<String> {
    error(bench, 3022, |public, mut seen| {
        seen[10] ^= 1;
        craft::error(ROUTER, public, (3, 1), [0; 4], &seen)
    })
}

fn error_unknown(bench: &Bench) -> Result<String> {
    error(bench, 3023, |public, _| {
        let nobody = craft::udp(SocketAddrV4::new(public, 9999), remote(9), b"never sent");
        craft::error(ROUTER, public, (3, 1), [0; 4], &nobody)
    })
}

fn quench(bench: &Bench) -> Result<String> {
    error(bench, 3024, |public, seen| craft::error(ROUTER, public, (4, 0), [0; 4], &seen))
}

fn redirect(bench: &Bench) -> Result<String> {
    error(bench, 3025, |public, seen| craft::error(ROUTER, public, (5, 1), [203, 0, 113, 9], &seen))
}

fn parameter_problem(bench: &Bench) -> Result<String> {
    error(bench, 3026, |public, seen| craft::error(ROUTER, public, (12, 0), [20, 0, 0, 0], &seen))
}

fn error_out(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3027, 7, b"open")?;
    let (sent, got) = bench.lab.datagram_in(&flow, b"to a closed port")?;
    bench.lab.inside.send(&craft::error(INSIDE, OUTSIDE, (3, 3), [0; 4], got.bytes()))?;
    let came = bench.lab.came_outside()?;
    let right = came.first().is_some_and(|got| {
        let quoted = got.ip().quoted().and_then(|quoted| quoted.endpoints());
        let whole = got.bytes().len() == 28 + sent.len() && checksums::fault(&got.ip()).is_none();
        whole
            && got.ip().source() == *flow.public.ip()
            && quoted == Some((flow.remote, flow.public))
    });
    Ok(if right { "translated, quote too".to_owned() } else { name(&came, "outside") })
}

fn error_out_unknown(bench: &Bench) -> Result<String> {
    let never = craft::udp(remote(9), local(3999), b"never came");
    bench.lab.inside.send(&craft::error(INSIDE, OUTSIDE, (3, 3), [0; 4], &never))?;
    Ok(name(&bench.lab.came_outside()?, "outside"))
}

/// A packet of class 46 that expires at the gateway.
fn expired(
    wire: &vm_test::Wire,
    (from, to): (SocketAddrV4, SocketAddrV4),
    sources: &[(Ipv4Addr, &str)],
) -> Result<String> {
    let ip = Ip { ttl: 1, tos: 46 << 2, ..Ip::new(*from.ip(), *to.ip(), UDP) };
    let packet = ip.packet(&craft::datagram(from, to, b"expires"));
    wire.send(&packet)?;
    let got = wire.expect("an error", |ip| ip.protocol() == ICMP)?;
    let ip = got.ip();
    let source = sources.iter().find(|(address, _)| *address == ip.source());
    let source = source.map_or_else(|| ip.source().to_string(), |(_, name)| (*name).to_owned());
    let class = ip.header.dcp().value();
    let quote = if ip.body[8..] == packet { "" } else { ", another quote" };
    Ok(format!("{}/{} from {source}, class {class}{quote}", ip.body[0], ip.body[1]))
}

fn ttl_inside(bench: &Bench) -> Result<String> {
    let sources = [(Ipv4Addr::new(10, 0, 0, 1), "the internal interface")];
    expired(&bench.node, (local(3028), remote(7)), &sources)
}

fn ttl_outside(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3029, 7, b"open")?;
    let sources = [(*flow.public.ip(), "the public address")];
    expired(&bench.router, (flow.remote, flow.public), &sources)
}

const CUTS: [usize; 2] = [1000, 2008];

/// How `came` comes together, if it is `body` but for its first eight bytes.
fn together(came: &[Received], body: &[u8]) -> String {
    let mut reassembly = Reassembly::default();
    let whole = came.iter().find_map(|packet| reassembly.push(&packet.ip()));
    let right = whole.is_some_and(|whole| {
        Ipv4::parse(&whole)
            .is_some_and(|ip| ip.body[8..] == body[8..] && checksums::fault(&ip).is_none())
    });
    if right { "whole".to_owned() } else { format!("{} useless packets", came.len()) }
}

fn fragments_out(bench: &Bench) -> Result<String> {
    bench.lab.udp(3030, 7, b"open")?;
    let body = craft::datagram(local(3030), remote(7), &pattern(3, 3000));
    let parts = Ip { id: 30, ..Ip::new(INSIDE, OUTSIDE, UDP) }.fragments(&body, &CUTS);
    parts.iter().rev().try_for_each(|part| bench.lab.inside.send(part))?;
    Ok(together(&bench.lab.came_outside()?, &body))
}

fn fragments_in(bench: &Bench) -> Result<String> {
    let flow = bench.lab.udp(3031, 7, b"open")?;
    let body = craft::datagram(flow.remote, flow.public, &pattern(4, 3000));
    let ip = Ip { id: 31, ..Ip::new(OUTSIDE, *flow.public.ip(), UDP) };
    ip.fragments(&body, &CUTS).iter().rev().try_for_each(|part| bench.lab.outside.send(part))?;
    Ok(together(&bench.lab.came_inside()?, &body))
}

fn fragments_df(bench: &Bench) -> Result<String> {
    bench.lab.udp(3032, 7, b"open")?;
    let body = craft::datagram(local(3032), remote(7), &pattern(5, 1800));
    for (range, more) in [(0..1000, true), (1000..body.len(), false)] {
        let ip = Ip { id: 32, offset: range.start, more, ..Ip::new(INSIDE, OUTSIDE, UDP) };
        bench.lab.inside.send(&ip.packet(&body[range]))?;
    }
    let came = bench.lab.came_outside()?;
    let kept = came.iter().all(|packet| packet.ip().header.dont_fragment());
    Ok(together(&came, &body) + if kept { ", with DF" } else { ", without DF" })
}

fn equal_ids(bench: &Bench) -> Result<String> {
    let parts: Vec<_> = [(INSIDE, 1), (SECOND, 2)]
        .into_iter()
        .map(|(source, seed)| {
            let from = SocketAddrV4::new(source, 3033);
            let body = craft::datagram(from, remote(7), &pattern(seed, 2500));
            Ip { id: 33, ..Ip::new(source, OUTSIDE, UDP) }.fragments(&body, &CUTS)
        })
        .collect();
    for part in 0..3 {
        bench.lab.inside.send(&parts[0][part])?;
        bench.lab.inside.send(&parts[1][2 - part])?;
    }
    let mut reassembly = Reassembly::default();
    let came = bench.lab.came_outside()?;
    let whole = came.iter().filter_map(|packet| reassembly.push(&packet.ip()));
    let right = whole.filter(|it| it[28..] == pattern(1, 2500) || it[28..] == pattern(2, 2500));
    Ok(format!("{} whole datagrams", right.count()))
}

fn ids(bench: &Bench) -> Result<String> {
    for source in [INSIDE, SECOND, INSIDE, SECOND] {
        let from = SocketAddrV4::new(source, 3034);
        let ip = Ip { id: 34, dont_fragment: false, ..Ip::new(source, OUTSIDE, UDP) };
        bench.lab.inside.send(&ip.packet(&craft::datagram(from, remote(7), b"id")))?;
    }
    let came = bench.lab.came_outside()?;
    let ids = came.iter().map(|it| (it.ip().source(), it.ip().header.identification()));
    let unique = ids.collect::<BTreeSet<_>>().len() == came.len() && came.len() == 4;
    Ok(if unique { "unique" } else { "repeated" }.to_owned())
}

/// What becomes of a datagram with `options`.
fn option(bench: &Bench, port: u16, options: &[u8]) -> Result<String> {
    let ip = Ip { options: options.to_vec(), ..Ip::new(INSIDE, OUTSIDE, UDP) };
    bench.node.send(&ip.packet(&craft::datagram(local(port), remote(7), b"option")))?;
    let came = bench.lab.came_outside()?;
    let Some(got) = came.first() else { return Ok("nothing outside".to_owned()) };
    let same = got.ip().header.options() == options;
    Ok(if same { "as sent" } else { "passed, and written in on the way" }.to_owned())
}

fn record_route(bench: &Bench) -> Result<String> {
    let mut options = [0; 20];
    options[..3].copy_from_slice(&[7, 19, 4]);
    option(bench, 3035, &options)
}

fn source_route(bench: &Bench) -> Result<String> {
    option(bench, 3036, &[131, 7, 4, 192, 0, 2, 70, 0])
}

fn unknown_option(bench: &Bench) -> Result<String> {
    option(bench, 3037, &[222, 6, 1, 2, 3, 4, 0, 0])
}
