//! What does an oracle see of a frame?

use std::net::{Ipv4Addr, SocketAddrV4};
use std::time::Duration;

use etherparse::Ipv4HeaderSlice;

/// ICMP type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// ICMP type of an echo request.
pub const ECHO_REQUEST: u8 = 8;
/// Protocol numbers.
pub const ICMP: u8 = 1;
/// Protocol numbers.
pub const TCP: u8 = 6;
/// Protocol numbers.
pub const UDP: u8 = 17;

/// One frame of a capture.
#[derive(Clone, Debug)]
pub struct Packet<'a> {
    /// When it was captured, since the epoch.
    pub time: Duration,
    /// Ethernet source.
    pub source_mac: [u8; 6],
    /// Ethernet destination.
    pub destination_mac: [u8; 6],
    /// What it carries.
    pub kind: Kind<'a>,
}

/// What a frame carries.
#[derive(Clone, Debug)]
pub enum Kind<'a> {
    /// ARP for IPv4: the sender's and the target's protocol address.
    Arp {
        /// Sender protocol address.
        sender: Ipv4Addr,
        /// Target protocol address.
        target: Ipv4Addr,
    },
    /// A whole IPv4 packet.
    Ipv4(Ipv4<'a>),
    /// Something that claims to be ARP or IPv4 and is not.
    Malformed,
    /// Anything else.
    Other,
}

/// An IPv4 packet, or the part of one that an ICMP error quotes.
#[derive(Clone, Debug)]
pub struct Ipv4<'a> {
    /// Its header.
    pub header: Ipv4HeaderSlice<'a>,
    /// What follows the header, without Ethernet padding.
    pub body: &'a [u8],
    /// Whether `body` is all that the header promises.
    pub complete: bool,
}

impl<'a> Packet<'a> {
    /// Looks at an Ethernet frame.
    pub fn parse(time: Duration, frame: &'a [u8]) -> Self {
        let mut source_mac = [0; 6];
        let mut destination_mac = [0; 6];
        let kind = if let (Some(macs), Some(kind)) = (frame.get(..12), frame.get(12..14)) {
            destination_mac.copy_from_slice(&macs[..6]);
            source_mac.copy_from_slice(&macs[6..]);
            match kind {
                [0x08, 0x00] => match Ipv4::parse(&frame[14..]) {
                    Some(packet) if packet.complete => Kind::Ipv4(packet),
                    _ => Kind::Malformed,
                },
                [0x08, 0x06] => arp(&frame[14..]).unwrap_or(Kind::Malformed),
                _ => Kind::Other,
            }
        } else {
            Kind::Malformed
        };
        Self { time, source_mac, destination_mac, kind }
    }
}

impl<'a> Ipv4<'a> {
    /// Looks at bytes that start with an IPv4 header.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = Ipv4HeaderSlice::from_slice(bytes).ok()?;
        let start = header.slice().len();
        let end = usize::from(header.total_len());
        let complete = (start..=bytes.len()).contains(&end);
        let body = if complete { &bytes[start..end] } else { &bytes[start..] };
        Some(Self { header, body, complete })
    }

    /// Protocol number.
    pub fn protocol(&self) -> u8 {
        self.header.protocol().0
    }

    /// Source address.
    pub fn source(&self) -> Ipv4Addr {
        self.header.source_addr()
    }

    /// Destination address.
    pub fn destination(&self) -> Ipv4Addr {
        self.header.destination_addr()
    }

    /// Whether it is a fragment.
    pub fn is_fragment(&self) -> bool {
        self.header.is_fragmenting_payload()
    }

    /// Offset of this fragment in its datagram, in bytes.
    pub fn offset(&self) -> usize {
        usize::from(self.header.fragments_offset().value()) * 8
    }

    /// Source and destination with ports; for ICMP queries the identifier stands for both ports, for
    /// protocols that have none 0. A later fragment has no endpoints, an ICMP error neither.
    pub fn endpoints(&self) -> Option<(SocketAddrV4, SocketAddrV4)> {
        let (source, destination) = match self.protocol() {
            _ if self.offset() > 0 => return None,
            TCP | UDP => (self.word(0)?, self.word(2)?),
            ICMP if matches!(self.body.first()?, &ECHO_REQUEST | &ECHO_REPLY | 13 | 14) => {
                (self.word(4)?, self.word(4)?)
            }
            ICMP => return None,
            _ => (0, 0),
        };
        let source = SocketAddrV4::new(self.source(), source);
        Some((source, SocketAddrV4::new(self.destination(), destination)))
    }

    /// The packet that an ICMP error quotes.
    pub fn quoted(&self) -> Option<Ipv4<'a>> {
        let error = matches!(self.body.first()?, 3 | 4 | 5 | 11 | 12);
        if error && self.protocol() == ICMP && self.offset() == 0 {
            Ipv4::parse(self.body.get(8..)?)
        } else {
            None
        }
    }

    /// The TCP flags, if it is TCP.
    pub fn tcp_flags(&self) -> Option<u8> {
        if self.protocol() == TCP { self.body.get(13).copied() } else { None }
    }

    /// A 16-bit field of the body.
    pub fn word(&self, at: usize) -> Option<u16> {
        Some(u16::from_be_bytes([*self.body.get(at)?, *self.body.get(at + 1)?]))
    }
}

impl std::fmt::Display for Ipv4<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (ttl, id) = (self.header.ttl(), self.header.identification());
        write!(f, "protocol {} ", self.protocol())?;
        match self.endpoints() {
            Some((source, destination)) => write!(f, "{source} > {destination}")?,
            None => write!(f, "{} > {}", self.source(), self.destination())?,
        }
        write!(f, " ttl {ttl} id {id} length {}", self.body.len())?;
        self.tcp_flags().map_or(Ok(()), |flags| write!(f, " flags {flags:#04x}"))
    }
}

fn arp(bytes: &[u8]) -> Option<Kind<'_>> {
    let address = |at: usize| {
        let bytes: [u8; 4] = bytes.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    (bytes.get(..6)? == [0, 1, 8, 0, 6, 4])
        .then_some(Kind::Arp { sender: address(14)?, target: address(24)? })
}
