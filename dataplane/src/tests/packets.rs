//! Packets of all kinds, and what a packet says.

use std::net::Ipv4Addr;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

use super::rig::{GATE_MAC, INSIDE, NODE_MAC, OUTSIDE, ROUTER_MAC, Rig};

pub(super) fn ether(
    src: Ipv4Addr,
    dst: Ipv4Addr,
    ttl: u8,
) -> etherparse::PacketBuilderStep<etherparse::IpHeaders> {
    PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], GATE_MAC).ipv4(src.octets(), dst.octets(), ttl)
}

pub(super) fn udp(src: (Ipv4Addr, u16), dst: (Ipv4Addr, u16), payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src.0, dst.0, 64).udp(src.1, dst.1).write(&mut packet, payload).unwrap();
    packet
}

/// A segment of a connection whose sides both begin with 1000, and of which nothing was lost.
pub(super) fn tcp(
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    flags: &str,
    payload: &[u8],
) -> Vec<u8> {
    let seq = if flags.contains('S') { 1000 } else { 1001 };
    let mut step = ether(src.0, dst.0, 64).tcp(src.1, dst.1, seq, 65_000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(1001),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no flag {other}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, payload).unwrap();
    packet
}

pub(super) fn ping(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src, dst, 64).icmpv4_echo_request(id, 5).write(&mut packet, payload).unwrap();
    packet
}

pub(super) fn pong(src: Ipv4Addr, dst: Ipv4Addr, id: u16, payload: &[u8]) -> Vec<u8> {
    let mut packet = Vec::new();
    ether(src, dst, 64).icmpv4_echo_reply(id, 5).write(&mut packet, payload).unwrap();
    packet
}

/// What a packet says, after its checksums were found right.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Seen {
    pub(super) macs: ([u8; 6], [u8; 6]),
    pub(super) src: (Ipv4Addr, u16),
    pub(super) dst: (Ipv4Addr, u16),
    pub(super) ttl: u8,
    pub(super) payload: Vec<u8>,
}

pub(super) fn seen(packet: &[u8]) -> Seen {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(etherparse::LinkSlice::Ethernet2(eth)) = &sliced.link else { panic!("no Ethernet") };
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { panic!("not IPv4") };
    let header = ip.header();
    assert_eq!(
        header.to_header().calc_header_checksum(),
        header.header_checksum(),
        "header checksum"
    );
    let (sport, dport, payload) = match sliced.transport.as_ref().unwrap() {
        TransportSlice::Udp(udp) => {
            if udp.checksum() != 0 {
                let want =
                    udp.to_header().calc_checksum_ipv4(&header.to_header(), udp.payload()).unwrap();
                assert_eq!(udp.checksum(), want, "UDP checksum");
            }
            (udp.source_port(), udp.destination_port(), udp.payload())
        }
        TransportSlice::Tcp(tcp) => {
            let want = tcp.calc_checksum_ipv4(header.source(), header.destination()).unwrap();
            assert_eq!(tcp.checksum(), want, "TCP checksum");
            (tcp.source_port(), tcp.destination_port(), tcp.payload())
        }
        TransportSlice::Icmpv4(icmp) => {
            let want = icmp.icmp_type().calc_checksum(icmp.payload());
            assert_eq!(icmp.checksum(), want, "ICMP checksum");
            let id = u16::from_be_bytes([icmp.bytes5to8()[0], icmp.bytes5to8()[1]]);
            if icmp.type_u8() == 8 { (id, 0, icmp.payload()) } else { (0, id, icmp.payload()) }
        }
        other => panic!("neither UDP, TCP nor ICMP: {other:?}"),
    };
    Seen {
        macs: (eth.source(), eth.destination()),
        src: (header.source_addr(), sport),
        dst: (header.destination_addr(), dport),
        ttl: header.ttl(),
        payload: payload.to_vec(),
    }
}

/// Sends one request and one reply and checks both ends' view; returns the public endpoint.
pub(super) fn round_trip(
    rig: &mut Rig,
    request: &[u8],
    reply: impl Fn((Ipv4Addr, u16)) -> Vec<u8>,
) -> (Ipv4Addr, u16) {
    let sent = seen(request);
    let (interface, out) = rig.one(INSIDE, request).expect("forwarded");
    let out = seen(&out);
    assert_eq!(interface, OUTSIDE);
    assert_eq!(out.macs, (GATE_MAC, ROUTER_MAC));
    assert_eq!((out.dst, out.ttl, &out.payload), (sent.dst, sent.ttl - 1, &sent.payload));
    assert_eq!(out.src.0.octets()[..3], [203, 0, 113]);
    let answer = reply(out.src);
    let answered = seen(&answer);
    let (interface, back) = rig.one(OUTSIDE, &answer).expect("mapped back");
    let back = seen(&back);
    assert_eq!(interface, INSIDE);
    assert_eq!(back.macs, (GATE_MAC, NODE_MAC));
    assert_eq!((back.src, back.dst), (answered.src, sent.src));
    assert_eq!((back.ttl, &back.payload), (answered.ttl - 1, &answered.payload));
    out.src
}
