//! Frames as hosts would send them, byte by byte, so that every field can be chosen.
//!
//! The fuzz targets in `dataplane/fuzz` include this file too.

use std::net::Ipv4Addr;

use dataplane::wire::checksum::{fold, pseudo_header, sum};

/// An address and a port, or an ICMP identifier.
pub type Party = (Ipv4Addr, u16);

/// An Ethernet frame with an IPv4 packet; the header checksum is right.
#[derive(Clone, Debug)]
pub struct Ip {
    /// Source.
    pub src: Ipv4Addr,
    /// Destination.
    pub dst: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Identification.
    pub id: u16,
    /// Flags and fragment offset, as in the header.
    pub fragment: u16,
    /// Options, a multiple of four bytes, at most 40.
    pub options: Vec<u8>,
    /// What follows the header.
    pub payload: Vec<u8>,
}

impl Ip {
    /// A whole packet without options.
    pub fn new(src: Ipv4Addr, dst: Ipv4Addr, protocol: u8, payload: Vec<u8>) -> Self {
        let (ttl, id, fragment, options) = (64, 0, 0, Vec::new());
        Self { src, dst, protocol, ttl, id, fragment, options, payload }
    }

    /// The packet, from its IPv4 header on.
    pub fn packet(&self) -> Vec<u8> {
        let header = 20 + self.options.len();
        let mut bytes = vec![0x40 | (header / 4) as u8, 0];
        bytes.extend(((header + self.payload.len()) as u16).to_be_bytes());
        bytes.extend(self.id.to_be_bytes());
        bytes.extend(self.fragment.to_be_bytes());
        bytes.extend([self.ttl, self.protocol, 0, 0]);
        bytes.extend(self.src.octets());
        bytes.extend(self.dst.octets());
        bytes.extend(&self.options);
        put_checksum(&mut bytes, 10, 0);
        bytes.extend(&self.payload);
        bytes
    }

    /// The frame, sent to the Ethernet address `to`.
    pub fn frame(&self, to: [u8; 6]) -> Vec<u8> {
        let mut bytes = to.to_vec();
        bytes.extend([2, 9, 9, 9, 9, 9, 0x08, 0x00]);
        bytes.extend(self.packet());
        bytes
    }

    /// A fragment: the bytes of the payload from `first` on, `len` of them at most.
    #[must_use]
    pub fn part(&self, first: usize, len: usize) -> Self {
        let end = (first + len).min(self.payload.len());
        let more = if end < self.payload.len() { 0x2000 } else { 0 };
        let payload = self.payload.get(first..end).unwrap_or_default().to_vec();
        Self { fragment: more | (first / 8) as u16, payload, ..self.clone() }
    }
}

/// Computes the checksum at `at`, which covers all of `bytes` and what sums up to `before`.
fn put_checksum(bytes: &mut [u8], at: usize, before: u64) {
    bytes[at..at + 2].fill(0);
    let value = !fold(before + sum(bytes));
    bytes[at..at + 2].copy_from_slice(&value.to_be_bytes());
}

/// A UDP datagram.
pub fn udp(src: Party, dst: Party, payload: &[u8]) -> Ip {
    let len = (8 + payload.len()) as u16;
    let mut bytes = Vec::with_capacity(usize::from(len));
    for field in [src.1, dst.1, len, 0] {
        bytes.extend(field.to_be_bytes());
    }
    bytes.extend(payload);
    put_checksum(&mut bytes, 6, pseudo_header(src.0, dst.0, 17, len));
    if bytes[6..8] == [0, 0] {
        bytes[6..8].fill(0xff);
    }
    Ip::new(src.0, dst.0, 17, bytes)
}

/// A TCP segment; `numbers`: sequence and acknowledgement.
pub fn tcp(src: Party, dst: Party, flags: u8, numbers: (u32, u32), payload: &[u8]) -> Ip {
    let mut bytes = Vec::with_capacity(20 + payload.len());
    bytes.extend(src.1.to_be_bytes());
    bytes.extend(dst.1.to_be_bytes());
    bytes.extend(numbers.0.to_be_bytes());
    bytes.extend(numbers.1.to_be_bytes());
    bytes.extend([5 << 4, flags, 0xfd, 0xe8, 0, 0, 0, 0]);
    bytes.extend(payload);
    let len = bytes.len() as u16;
    put_checksum(&mut bytes, 16, pseudo_header(src.0, dst.0, 6, len));
    Ip::new(src.0, dst.0, 6, bytes)
}

/// An ICMP message of a type and code; `rest` is the second word of its header.
pub fn icmp(src: Ipv4Addr, dst: Ipv4Addr, kind: (u8, u8), rest: u32, payload: &[u8]) -> Ip {
    let mut bytes = vec![kind.0, kind.1, 0, 0];
    bytes.extend(rest.to_be_bytes());
    bytes.extend(payload);
    put_checksum(&mut bytes, 2, 0);
    Ip::new(src, dst, 1, bytes)
}
