//! Frames of flows, and what a frame says.

use std::net::Ipv4Addr;

use conntrack::{Endpoint, FlowKey, Protocol, Realm, Segment, TcpFlags};
use etherparse::{
    IpNumber, NetSlice, PacketBuilder, SlicedPacket, TcpHeader, TcpOptionElement, TransportSlice,
};

const HOST: [u8; 6] = [2, 9, 9, 9, 9, 9];
pub const GATE: [u8; 6] = [2, 0, 0, 0, 0, 9];
const ETHERNET: usize = 14;

/// The frame of a packet with this key.
pub fn frame(key: &FlowKey, segment: Option<&Segment>) -> Vec<u8> {
    let ip =
        PacketBuilder::ethernet2(HOST, GATE).ipv4(key.src.addr.octets(), key.dst.addr.octets(), 64);
    let mut bytes = Vec::new();
    let payload = b"what the payload says";
    match (key.protocol, segment) {
        (Protocol::Tcp, Some(segment)) => {
            let payload = vec![7; usize::from(segment.len)];
            let header = header(key, segment);
            ip.tcp_header(header).write(&mut bytes, &payload).unwrap();
        }
        (Protocol::Icmp, _) if key.realm == Realm::Internal => {
            ip.icmpv4_echo_request(key.src.port, 5).write(&mut bytes, payload).unwrap();
        }
        (Protocol::Icmp, _) => {
            ip.icmpv4_echo_reply(key.dst.port, 5).write(&mut bytes, payload).unwrap();
        }
        (Protocol::Other(number), _) => {
            ip.write(&mut bytes, IpNumber(number), payload).unwrap();
        }
        _ => ip.udp(key.src.port, key.dst.port).write(&mut bytes, payload).unwrap(),
    }
    bytes
}

fn header(key: &FlowKey, segment: &Segment) -> TcpHeader {
    let mut header = TcpHeader::new(key.src.port, key.dst.port, segment.seq, segment.window);
    header.acknowledgment_number = segment.ack;
    header.syn = segment.flags.has(TcpFlags::SYN);
    header.fin = segment.flags.has(TcpFlags::FIN);
    header.rst = segment.flags.has(TcpFlags::RST);
    header.ack = segment.flags.has(TcpFlags::ACK);
    if let Some(scale) = segment.window_scale {
        header.set_options(&[TcpOptionElement::WindowScale(scale)]).unwrap();
    }
    header
}

/// An ICMP error of `router` to `to` about the packet in `frame`, whose bytes it quotes.
pub fn error(kind: (u8, u8), router: Ipv4Addr, to: Ipv4Addr, frame: &[u8]) -> Vec<u8> {
    let quote = &frame[ETHERNET..frame.len().min(ETHERNET + 128)];
    let mut bytes = Vec::new();
    let ip = PacketBuilder::ethernet2(HOST, GATE).ipv4(router.octets(), to.octets(), 64);
    ip.icmpv4_raw(kind.0, kind.1, [0; 4]).write(&mut bytes, quote).unwrap();
    bytes
}

/// What a frame says; its checksums were found right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    pub protocol: Protocol,
    pub src: Endpoint,
    pub dst: Endpoint,
    pub ttl: u8,
    /// Type and code of an ICMP error.
    pub error: Option<(u8, u8)>,
    pub reset: bool,
    /// From the transport's payload on; of an error, the quote.
    pub payload: Vec<u8>,
}

pub fn read(frame: &[u8]) -> Result<Said, String> {
    let sliced = SlicedPacket::from_ethernet(frame).map_err(|e| e.to_string())?;
    let Some(NetSlice::Ipv4(ip)) = &sliced.net else { return Err("not IPv4".into()) };
    let header = ip.header();
    let right = |name: &str, got: u16, want: u16| {
        if got == want { Ok(()) } else { Err(format!("{name} checksum {got:#x}, not {want:#x}")) }
    };
    right("header", header.header_checksum(), header.to_header().calc_header_checksum())?;
    let (source, destination) = (header.source_addr(), header.destination_addr());
    let mut said = Said {
        protocol: Protocol::from_number(header.protocol().0),
        src: Endpoint::new(source, 0),
        dst: Endpoint::new(destination, 0),
        ttl: header.ttl(),
        error: None,
        reset: false,
        payload: ip.payload().payload.to_vec(),
    };
    match &sliced.transport {
        Some(TransportSlice::Udp(udp)) => {
            let want = udp.to_header().calc_checksum_ipv4(&header.to_header(), udp.payload());
            right("UDP", udp.checksum(), want.map_err(|e| e.to_string())?)?;
            (said.src.port, said.dst.port) = (udp.source_port(), udp.destination_port());
            said.payload = udp.payload().to_vec();
        }
        Some(TransportSlice::Tcp(tcp)) => {
            let want = tcp.calc_checksum_ipv4(header.source(), header.destination());
            right("TCP", tcp.checksum(), want.map_err(|e| e.to_string())?)?;
            (said.src.port, said.dst.port) = (tcp.source_port(), tcp.destination_port());
            (said.payload, said.reset) = (tcp.slice()[4..16].to_vec(), tcp.rst());
        }
        Some(TransportSlice::Icmpv4(icmp)) => {
            right("ICMP", icmp.checksum(), icmp.icmp_type().calc_checksum(icmp.payload()))?;
            let id = u16::from_be_bytes([icmp.bytes5to8()[0], icmp.bytes5to8()[1]]);
            match icmp.type_u8() {
                8 => said.src.port = id,
                0 => said.dst.port = id,
                kind => said.error = Some((kind, icmp.code_u8())),
            }
            said.payload = icmp.payload().to_vec();
        }
        _ => {}
    }
    Ok(said)
}

/// The ends in a quoted packet, and its length.
pub fn quoted_ends(quote: &[u8]) -> Option<(Endpoint, Endpoint, usize)> {
    let address = |at: usize| {
        let bytes: [u8; 4] = quote.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    let word = |at: usize| Some(u16::from_be_bytes(quote.get(at..at + 2)?.try_into().ok()?));
    let (mut src, mut dst) = (Endpoint::new(address(12)?, 0), Endpoint::new(address(16)?, 0));
    match (quote.get(9)?, quote.get(20)?) {
        (1, 8) => src.port = word(24)?,
        (1, _) => dst.port = word(24)?,
        (6 | 17, _) => (src.port, dst.port) = (word(20)?, word(22)?),
        _ => {}
    }
    Some((src, dst, quote.len()))
}
