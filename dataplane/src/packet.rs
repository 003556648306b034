//! What is in a frame? Parsed once; everything later works on offsets.

use std::fmt;
use std::net::Ipv4Addr;

use conntrack::{Endpoint, FlowKey, Protocol, Realm, Rewrite, Segment};

use crate::drop_reason::DropReason;
use crate::interface::Mac;
use crate::wire::{
    EtherType, Ethernet, Icmp, Ipv4, Malformed, Tcp, Udp, checksum, ethernet, icmp, tcp, udp,
};

impl From<Malformed> for DropReason {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// Options that would show internal hops or step around policy (decision D12, against
/// RFC 1812 5.3.13.4, 5.3.13.5 and 5.3.13.6): record route, timestamp, loose and strict source route.
const REFUSED_OPTIONS: [u8; 4] = [7, 68, 131, 137];

/// What a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Content {
    /// ARP.
    Arp,
    /// An IPv4 packet.
    Packet(Packet),
}

/// What an ICMP message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Echo {
    /// A request.
    Request,
    /// A reply.
    Reply,
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp,
    /// An ICMP echo; the identifier stands for the port of the side that asked.
    Icmp(Echo),
    /// Not translated, for this reason: only exempt traffic may be it.
    Refused(DropReason),
}

/// An IPv4 packet in a frame: where its parts are, and what was read from them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Source; port 0 where there is none.
    pub src: Endpoint,
    /// Destination; port 0 where there is none.
    pub dst: Endpoint,
    /// Transport.
    pub transport: Transport,
    /// Offset of the transport header from the start of the frame.
    l4: u16,
    /// Length of the IP packet, in bytes.
    pub len: u16,
    /// Time to live on arrival.
    pub ttl: u8,
}

impl Content {
    /// Parses a frame that arrived at the interface with the Ethernet address `own`.
    pub fn parse(frame: &[u8], own: Mac) -> Result<Self, DropReason> {
        let ethernet = Ethernet::new_checked(frame)?;
        match ethernet.ether_type() {
            EtherType::IPV4 if ethernet.dst() != own => Err(DropReason::NotForUs),
            EtherType::IPV4 => Packet::parse(&frame[ethernet::HEADER..]).map(Self::Packet),
            EtherType::ARP => Ok(Self::Arp),
            _ => Err(DropReason::NotIpv4),
        }
    }
}

impl Packet {
    /// Parses an IPv4 packet (RFC 1812 5.2.2: length, version, header length, checksum).
    fn parse(bytes: &[u8]) -> Result<Self, DropReason> {
        let ip = Ipv4::new_checked(bytes)?;
        if !ip.checksum_is_right() {
            return Err(DropReason::BadHeaderChecksum);
        }
        if !is_forwardable(ip.src()) || !is_forwardable(ip.dst()) {
            return Err(DropReason::BadAddress);
        }
        if ip.header_len() > 20 && ip.options().any(|kind| REFUSED_OPTIONS.contains(&kind)) {
            return Err(DropReason::IpOption);
        }
        let payload = &bytes[ip.header_len()..usize::from(ip.total_len())];
        let mut packet = Self {
            src: Endpoint::new(ip.src(), 0),
            dst: Endpoint::new(ip.dst(), 0),
            transport: Transport::Refused(DropReason::UnsupportedProtocol),
            l4: (ethernet::HEADER + ip.header_len()) as u16,
            len: ip.total_len(),
            ttl: ip.ttl(),
        };
        if ip.is_fragment() {
            packet.transport = Transport::Refused(DropReason::Fragment);
            return Ok(packet);
        }
        match Protocol::from_number(ip.protocol()) {
            Protocol::Tcp => packet.parse_tcp(payload)?,
            Protocol::Udp => packet.parse_udp(payload)?,
            Protocol::Icmp => packet.parse_icmp(payload)?,
            Protocol::Other(_) => {}
        }
        Ok(packet)
    }

    fn set_ports(&mut self, src: u16, dst: u16) -> Result<(), DropReason> {
        if src == 0 || dst == 0 {
            return Err(DropReason::PortZero);
        }
        (self.src.port, self.dst.port) = (src, dst);
        Ok(())
    }

    fn parse_tcp(&mut self, payload: &[u8]) -> Result<(), DropReason> {
        let tcp = Tcp::new_checked(payload)?;
        self.transport = Transport::Tcp(tcp.segment());
        self.set_ports(tcp.src_port(), tcp.dst_port())
    }

    fn parse_udp(&mut self, payload: &[u8]) -> Result<(), DropReason> {
        let udp = Udp::new_checked(payload)?;
        self.transport = Transport::Udp;
        self.set_ports(udp.src_port(), udp.dst_port())
    }

    fn parse_icmp(&mut self, payload: &[u8]) -> Result<(), DropReason> {
        let icmp = Icmp::new_checked(payload)?;
        match icmp.kind() {
            (icmp::ECHO_REQUEST, 0) => {
                self.transport = Transport::Icmp(Echo::Request);
                self.src.port = icmp.identifier();
            }
            (icmp::ECHO_REPLY, 0) => {
                self.transport = Transport::Icmp(Echo::Reply);
                self.dst.port = icmp.identifier();
            }
            _ => self.transport = Transport::Refused(DropReason::IcmpType),
        }
        Ok(())
    }

    /// The protocol, if natgate translates this packet.
    pub fn protocol(&self) -> Option<Protocol> {
        match self.transport {
            Transport::Tcp(_) => Some(Protocol::Tcp),
            Transport::Udp => Some(Protocol::Udp),
            Transport::Icmp(_) => Some(Protocol::Icmp),
            Transport::Refused(_) => None,
        }
    }

    /// The TCP segment, if it is one.
    pub fn segment(&self) -> Option<&Segment> {
        match &self.transport {
            Transport::Tcp(segment) => Some(segment),
            Transport::Udp | Transport::Icmp(_) | Transport::Refused(_) => None,
        }
    }

    /// The key of the session that this packet belongs to when it arrives from `realm`.
    pub fn flow_key(&self, realm: Realm) -> Result<FlowKey, DropReason> {
        match self.transport {
            Transport::Refused(reason) => Err(reason),
            // Pods ask and the outside answers; the other way round has no session.
            Transport::Icmp(Echo::Reply) if realm == Realm::Internal => Err(DropReason::IcmpType),
            Transport::Tcp(_) => Ok(self.key(Protocol::Tcp, realm)),
            Transport::Udp => Ok(self.key(Protocol::Udp, realm)),
            Transport::Icmp(_) => Ok(self.key(Protocol::Icmp, realm)),
        }
    }

    fn key(&self, protocol: Protocol, realm: Realm) -> FlowKey {
        FlowKey { src: self.src, dst: self.dst, protocol, realm }
    }

    /// The bytes of the IP packet in `frame`, which must be the frame this was parsed from.
    pub fn ip<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[ethernet::HEADER..ethernet::HEADER + usize::from(self.len)]
    }

    fn ip_mut<'a>(&self, frame: &'a mut [u8]) -> &'a mut [u8] {
        &mut frame[ethernet::HEADER..ethernet::HEADER + usize::from(self.len)]
    }

    /// The transport header and what follows, to be changed.
    pub(crate) fn payload_mut<'a>(&self, frame: &'a mut [u8]) -> &'a mut [u8] {
        &mut frame[usize::from(self.l4)..ethernet::HEADER + usize::from(self.len)]
    }

    /// The transport header and what follows.
    pub fn payload<'a>(&self, frame: &'a [u8]) -> &'a [u8] {
        &frame[usize::from(self.l4)..ethernet::HEADER + usize::from(self.len)]
    }

    /// Lowers the time to live by one and changes nothing else.
    pub fn decrement_ttl(&self, frame: &mut [u8]) -> Result<(), DropReason> {
        Ipv4::new_checked(self.ip_mut(frame))?.decrement_ttl();
        Ok(())
    }

    /// What this packet is after [`translate`](Self::translate).
    #[must_use]
    pub fn rewritten(&self, rewrite: &Rewrite) -> Self {
        Self { src: rewrite.src, dst: rewrite.dst, ..*self }
    }

    /// Rewrites addresses, ports and checksums. Every other byte stays, and a checksum that was wrong
    /// stays wrong by as much.
    pub fn translate(&self, frame: &mut [u8], rewrite: &Rewrite) -> Result<(), DropReason> {
        let mut ip = Ipv4::new_checked(self.ip_mut(frame))?;
        ip.set_addresses(rewrite.src.addr, rewrite.dst.addr, rewrite.header);
        let payload = self.payload_mut(frame);
        let (src, dst, delta) = (rewrite.src.port, rewrite.dst.port, rewrite.payload);
        match self.transport {
            Transport::Tcp(_) => Tcp::new_checked(payload)?.set_ports(src, dst, delta),
            Transport::Udp => Udp::new_checked(payload)?.set_ports(src, dst, delta),
            Transport::Icmp(Echo::Request) => {
                Icmp::new_checked(payload)?.set_identifier(src, delta);
            }
            Transport::Icmp(Echo::Reply) => Icmp::new_checked(payload)?.set_identifier(dst, delta),
            Transport::Refused(reason) => return Err(reason),
        }
        Ok(())
    }

    /// Computes the L4 checksum whole if the sender left only the pseudo-header sum in it, for an offload
    /// that never happens (veth, virtio). A complete checksum that equals that sum by chance is computed
    /// to the same value. Returns whether it did.
    pub fn repair_partial_checksum(&self, frame: &mut [u8]) -> bool {
        let (number, offset) = match self.transport {
            Transport::Tcp(_) => (6, tcp::CHECKSUM),
            Transport::Udp => (17, udp::CHECKSUM),
            Transport::Icmp(_) | Transport::Refused(_) => return false,
        };
        let payload = self.payload_mut(frame);
        let pseudo =
            checksum::pseudo_header(self.src.addr, self.dst.addr, number, payload.len() as u16);
        let partial = checksum::fold(pseudo).to_be_bytes();
        if payload[offset..offset + 2] != partial || payload[offset..offset + 2] == [0, 0] {
            return false;
        }
        payload[offset..offset + 2].fill(0);
        let whole = !checksum::fold(pseudo + checksum::sum(payload));
        let whole = if whole == 0 && number == 17 { 0xffff } else { whole };
        payload[offset..offset + 2].copy_from_slice(&whole.to_be_bytes());
        true
    }
}

/// Whether a router may forward a packet with this source or destination (RFC 1812 5.3.7; multicast is not
/// forwarded either).
fn is_forwardable(addr: Ipv4Addr) -> bool {
    let first = addr.octets()[0];
    first != 0 && first != 127 && first < 224
}

impl fmt::Display for Packet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = self.protocol().map_or("other", Protocol::name);
        write!(f, "{name} {} > {}, ttl {}, length {}", self.src, self.dst, self.ttl, self.len)
    }
}
