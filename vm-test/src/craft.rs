//! How are packets made byte by byte, right ones and ones that no kernel would send?

use std::net::{Ipv4Addr, SocketAddrV4};

use crate::oracle::checksums::sum;
use crate::oracle::packet::{ICMP, TCP, UDP};

/// TCP flags.
pub const FIN: u8 = 1;
/// TCP flags.
pub const SYN: u8 = 2;
/// TCP flags.
pub const RST: u8 = 4;
/// TCP flags.
pub const PSH: u8 = 8;
/// TCP flags.
pub const ACK: u8 = 16;

/// The fields of an IPv4 header that a test chooses.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments follow.
    pub more: bool,
    /// Fragment offset, in bytes.
    pub offset: usize,
    /// Options, a multiple of four bytes.
    pub options: Vec<u8>,
}

impl Ip {
    /// A plain header: TTL 64, DF, no options.
    pub fn new(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Self {
        Self {
            source,
            destination,
            protocol,
            ttl: 64,
            tos: 0,
            id: 0x1234,
            dont_fragment: true,
            more: false,
            offset: 0,
            options: Vec::new(),
        }
    }

    /// The packet with this header and `body`.
    pub fn packet(&self, body: &[u8]) -> Vec<u8> {
        let header = 20 + self.options.len();
        let flags = u16::from(self.dont_fragment) << 14
            | u16::from(self.more) << 13
            | (self.offset / 8) as u16;
        let mut packet = vec![0x40 | (header / 4) as u8, self.tos];
        packet.extend(((header + body.len()) as u16).to_be_bytes());
        packet.extend(self.id.to_be_bytes());
        packet.extend(flags.to_be_bytes());
        packet.extend([self.ttl, self.protocol, 0, 0]);
        packet.extend(self.source.octets());
        packet.extend(self.destination.octets());
        packet.extend(&self.options);
        let checksum = !sum(&packet);
        packet[10..12].copy_from_slice(&checksum.to_be_bytes());
        packet.extend(body);
        packet
    }

    /// The packets of `body` cut at the offsets `cuts` (multiples of eight), in order.
    pub fn fragments(&self, body: &[u8], cuts: &[usize]) -> Vec<Vec<u8>> {
        let mut edges = vec![0];
        edges.extend(cuts);
        edges.push(body.len());
        edges
            .windows(2)
            .map(|edge| {
                let more = edge[1] < body.len();
                let part = Self { offset: edge[0], more, dont_fragment: false, ..self.clone() };
                part.packet(&body[edge[0]..edge[1]])
            })
            .collect()
    }
}

/// A UDP datagram with its checksum.
pub fn datagram(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    let mut body = ports(from, to);
    body.extend(((8 + payload.len()) as u16).to_be_bytes());
    body.extend([0, 0]);
    body.extend(payload);
    let checksum = match transport_checksum(&body, *from.ip(), *to.ip(), UDP) {
        0 => 0xffff,
        other => other,
    };
    body[6..8].copy_from_slice(&checksum.to_be_bytes());
    body
}

/// A whole UDP packet.
pub fn udp(from: SocketAddrV4, to: SocketAddrV4, payload: &[u8]) -> Vec<u8> {
    Ip::new(*from.ip(), *to.ip(), UDP).packet(&datagram(from, to, payload))
}

/// What a test chooses about a TCP segment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Flags.
    pub flags: u8,
    /// Sequence number.
    pub sequence: u32,
    /// Acknowledgement number.
    pub acknowledgement: u32,
    /// Data.
    pub data: Vec<u8>,
}

/// A whole TCP packet with its checksum.
pub fn tcp(from: SocketAddrV4, to: SocketAddrV4, segment: &Segment) -> Vec<u8> {
    let mut body = ports(from, to);
    body.extend(segment.sequence.to_be_bytes());
    body.extend(segment.acknowledgement.to_be_bytes());
    body.extend([0x50, segment.flags]);
    body.extend(20_000_u16.to_be_bytes());
    body.extend([0; 4]);
    body.extend(&segment.data);
    let checksum = transport_checksum(&body, *from.ip(), *to.ip(), TCP);
    body[16..18].copy_from_slice(&checksum.to_be_bytes());
    Ip::new(*from.ip(), *to.ip(), TCP).packet(&body)
}

/// An ICMP message with its checksum: type, code, the four bytes after the checksum, the rest.
pub fn icmp(kind: u8, code: u8, rest: [u8; 4], data: &[u8]) -> Vec<u8> {
    let mut body = vec![kind, code, 0, 0];
    body.extend(rest);
    body.extend(data);
    let checksum = !sum(&body);
    body[2..4].copy_from_slice(&checksum.to_be_bytes());
    body
}

/// A whole ICMP error from `source` to `destination` that quotes `quote`.
pub fn error(
    source: Ipv4Addr,
    destination: Ipv4Addr,
    (kind, code): (u8, u8),
    rest: [u8; 4],
    quote: &[u8],
) -> Vec<u8> {
    Ip::new(source, destination, ICMP).packet(&icmp(kind, code, rest, quote))
}

/// An echo request.
pub fn echo_request(identifier: u16, sequence: u16, data: &[u8]) -> Vec<u8> {
    let [a, b] = identifier.to_be_bytes();
    let [c, d] = sequence.to_be_bytes();
    icmp(8, 0, [a, b, c, d], data)
}

fn ports(from: SocketAddrV4, to: SocketAddrV4) -> Vec<u8> {
    let mut body = from.port().to_be_bytes().to_vec();
    body.extend(to.port().to_be_bytes());
    body
}

/// The checksum of a transport header and data over the pseudo-header (RFC 768, RFC 9293).
fn transport_checksum(body: &[u8], from: Ipv4Addr, to: Ipv4Addr, protocol: u8) -> u16 {
    let mut bytes = from.octets().to_vec();
    bytes.extend(to.octets());
    bytes.extend([0, protocol]);
    bytes.extend((body.len() as u16).to_be_bytes());
    bytes.extend(body);
    !sum(&bytes)
}
