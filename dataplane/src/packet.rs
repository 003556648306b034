//! What is in a frame? Parsed once; everything later works on offsets.

use std::fmt;
use std::net::Ipv4Addr;

use conntrack::{Endpoint, FlowKey, Protocol, Realm, Rewrite, Segment, TcpFlags};

use crate::drop_reason::DropReason;
use crate::interface::Mac;
pub use crate::wire::icmp::Query;
use crate::wire::{
    EtherType, Ethernet, FragmentField, Icmp, Ipv4, Malformed, Quoted, Tcp, Udp, checksum,
    ethernet, ipv4, tcp, udp,
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

/// What an ICMP error says about the packet that it quotes; ports as in that packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quote {
    /// Source of the quoted packet.
    pub src: Endpoint,
    /// Destination of the quoted packet.
    pub dst: Endpoint,
    /// Its protocol.
    pub protocol: Protocol,
}

/// What the transport header says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// TCP.
    Tcp(Segment),
    /// UDP.
    Udp,
    /// An ICMP query; the identifier stands for the port of the side that asked.
    Icmp(Query),
    /// An ICMP error about this packet.
    Error(Quote),
    /// Another protocol, of which only the addresses are translated.
    Other(u8),
    /// A later fragment: it has no transport header, and its ports are not known yet.
    Later(Protocol),
    /// A later fragment with the ports of its datagram's first one.
    Resolved(Protocol),
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
    /// Number of the protocol.
    pub number: u8,
    /// Flags and fragment offset.
    pub fragment: FragmentField,
    /// Identification on arrival.
    pub id: u16,
}

impl Content {
    /// Parses a frame that arrived at the interface with the Ethernet address `own`.
    #[inline]
    pub fn parse(frame: &[u8], own: Mac) -> Result<Self, DropReason> {
        let ethernet = Ethernet::new_checked(frame)?;
        match ethernet.ether_type() {
            EtherType::IPV4 if ethernet.dst() != own => Err(DropReason::NotForUs),
            EtherType::IPV4 => Packet::of_frame(frame).map(Self::Packet),
            EtherType::ARP => Ok(Self::Arp),
            _ => Err(DropReason::NotIpv4),
        }
    }
}

impl Packet {
    /// Parses the IPv4 packet in a frame that is known to hold one.
    #[inline]
    pub(crate) fn of_frame(frame: &[u8]) -> Result<Self, DropReason> {
        Self::parse(frame.get(ethernet::HEADER..).ok_or(DropReason::Malformed)?)
    }

    /// The first packet of a flow that is only thought of: small, and fragmented if need be.
    pub(crate) fn opening(
        protocol: Protocol,
        src: Endpoint,
        dst: Endpoint,
    ) -> Result<Self, DropReason> {
        if !is_forwardable(src.addr) || !is_forwardable(dst.addr) {
            return Err(DropReason::BadAddress);
        }
        let packet = Self {
            src,
            dst,
            transport: Transport::Udp,
            l4: (ethernet::HEADER + ipv4::HEADER) as u16,
            len: 60,
            ttl: 64,
            number: protocol.number(),
            fragment: FragmentField::default(),
            id: 0,
        };
        Ok(match protocol {
            Protocol::Tcp => packet.with(Transport::Tcp(Segment::bare(TcpFlags::SYN))),
            Protocol::Udp => packet,
            Protocol::Icmp => packet.with(Transport::Icmp(Query::Echo)),
            Protocol::Other(number) => packet.parse_other(number),
        })
    }

    /// Parses an IPv4 packet (RFC 1812 5.2.2: length, version, header length, checksum).
    #[inline]
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
        let protocol = Protocol::from_number(ip.protocol());
        let payload = &bytes[ip.header_len()..usize::from(ip.total_len())];
        let packet = Self {
            src: Endpoint::new(ip.src(), 0),
            dst: Endpoint::new(ip.dst(), 0),
            transport: Transport::Refused(DropReason::UnsupportedProtocol),
            l4: (ethernet::HEADER + ip.header_len()) as u16,
            len: ip.total_len(),
            ttl: ip.ttl(),
            number: ip.protocol(),
            fragment: ip.fragment(),
            id: ip.id(),
        };
        match protocol {
            _ if packet.fragment.is_fragment() => packet.parse_fragment(protocol, payload),
            Protocol::Tcp => packet.parse_tcp(payload),
            Protocol::Udp => packet.parse_udp(payload),
            Protocol::Icmp => packet.parse_icmp(payload),
            Protocol::Other(number) => Ok(packet.parse_other(number)),
        }
    }

    /// A part of a datagram. It must be one that a sender or router can have made (RFC 791), and neither
    /// leave the transport header in pieces nor overwrite it (RFC 1858, RFC 3128; RFC 6146 3.4e).
    #[cold]
    fn parse_fragment(self, protocol: Protocol, payload: &[u8]) -> Result<Self, DropReason> {
        let (offset, more) = (self.fragment.offset(), self.fragment.more());
        let end = usize::from(self.l4) - ethernet::HEADER + usize::from(offset) + payload.len();
        if payload.is_empty()
            || more && !payload.len().is_multiple_of(8)
            || end > usize::from(u16::MAX)
        {
            return Err(DropReason::Malformed);
        }
        match (protocol, offset) {
            (Protocol::Other(number), 0) => Ok(self.parse_other(number)),
            (Protocol::Tcp, 8 | 16) => Err(DropReason::FragmentTiny),
            (Protocol::Tcp, 0) => {
                Tcp::new_checked(payload).map_err(|_| DropReason::FragmentTiny)?;
                self.parse_tcp(payload)
            }
            (Protocol::Udp, 0) => {
                let udp = Udp::new_header(payload).map_err(|_| DropReason::FragmentTiny)?;
                self.with_ports(Transport::Udp, udp.src_port(), udp.dst_port())
            }
            (Protocol::Icmp, 0) => {
                let icmp = Icmp::new_checked(payload).map_err(|_| DropReason::FragmentTiny)?;
                // An error's checksum, and what it quotes, are in the other fragments as well.
                match icmp.query() {
                    Some(_) => self.parse_icmp(payload),
                    None => Ok(self.with(Transport::Refused(DropReason::Fragment))),
                }
            }
            _ => Ok(self.with(Transport::Later(protocol))),
        }
    }

    /// A protocol without ports, as far as natgate is concerned. Those that protect the addresses, by a
    /// pseudo-header or more, can't be translated (requirements.md, "What no RFC settles").
    fn parse_other(self, number: u8) -> Self {
        const DCCP: u8 = 33;
        const AH: u8 = 51;
        const UDP_LITE: u8 = 136;
        self.with(match number {
            DCCP | AH | UDP_LITE => Transport::Refused(DropReason::UnsupportedProtocol),
            _ => Transport::Other(number),
        })
    }

    fn with(self, transport: Transport) -> Self {
        Self { transport, ..self }
    }

    #[inline]
    fn with_ports(self, transport: Transport, src: u16, dst: u16) -> Result<Self, DropReason> {
        if src == 0 || dst == 0 {
            return Err(DropReason::PortZero);
        }
        let (src, dst) = (Endpoint::new(self.src.addr, src), Endpoint::new(self.dst.addr, dst));
        Ok(Self { src, dst, transport, ..self })
    }

    #[inline]
    fn parse_tcp(self, payload: &[u8]) -> Result<Self, DropReason> {
        let tcp = Tcp::new_checked(payload)?;
        self.with_ports(Transport::Tcp(tcp.segment()), tcp.src_port(), tcp.dst_port())
    }

    #[inline]
    fn parse_udp(self, payload: &[u8]) -> Result<Self, DropReason> {
        let udp = Udp::new_checked(payload)?;
        self.with_ports(Transport::Udp, udp.src_port(), udp.dst_port())
    }

    #[inline(never)]
    fn parse_icmp(mut self, payload: &[u8]) -> Result<Self, DropReason> {
        let icmp = Icmp::new_checked(payload)?;
        self.transport = match icmp.query() {
            Some(query) => {
                let asker = if query.asks() { &mut self.src } else { &mut self.dst };
                asker.port = icmp.identifier();
                Transport::Icmp(query)
            }
            None if icmp.is_error() => {
                parse_error(payload).map_or_else(Transport::Refused, Transport::Error)
            }
            None => Transport::Refused(refused_type(icmp.kind().0)),
        };
        Ok(self)
    }

    /// The protocol, if natgate translates this packet.
    pub fn protocol(&self) -> Option<Protocol> {
        match self.transport {
            Transport::Tcp(_) => Some(Protocol::Tcp),
            Transport::Udp => Some(Protocol::Udp),
            Transport::Icmp(_) | Transport::Error(_) => Some(Protocol::Icmp),
            Transport::Other(number) => Some(Protocol::Other(number)),
            Transport::Later(protocol) | Transport::Resolved(protocol) => Some(protocol),
            Transport::Refused(_) => None,
        }
    }

    /// Whether this is a fragment other than the first of its datagram.
    pub fn is_later_fragment(&self) -> bool {
        self.fragment.offset() != 0
    }

    /// The ports of the datagram that this belongs to, or `None` for a later fragment that does not know.
    pub(crate) fn ports(&self) -> Option<(u16, u16)> {
        let known = !matches!(self.transport, Transport::Later(_));
        known.then_some((self.src.port, self.dst.port))
    }

    /// Tells a later fragment its ports.
    pub(crate) fn resolve(&mut self, (src, dst): (u16, u16)) {
        if let Transport::Later(protocol) = self.transport {
            self.transport = Transport::Resolved(protocol);
            (self.src.port, self.dst.port) = (src, dst);
        }
    }

    /// The protocol of the flow that it belongs to: an error, to that of the packet that it quotes.
    pub fn flow_protocol(&self) -> Option<Protocol> {
        match self.transport {
            Transport::Error(quote) => Some(quote.protocol),
            _ => self.protocol(),
        }
    }

    /// Why it is dropped if it has no session.
    pub fn no_session(&self) -> DropReason {
        match self.transport {
            Transport::Error(_) => DropReason::IcmpNoSession,
            _ => DropReason::NoSession,
        }
    }

    /// Whether a session may begin with it: an answer to a query has one already, and so has what lacks a
    /// transport header.
    pub fn may_open(&self) -> bool {
        !self.is_later_fragment()
            && !matches!(self.transport, Transport::Icmp(query) if !query.asks())
    }

    /// Why it is dropped if it has no session and may open none.
    pub fn opens_nothing(&self) -> DropReason {
        if self.is_later_fragment() { DropReason::Fragment } else { DropReason::NoSession }
    }

    /// The TCP segment, if it is one.
    pub fn segment(&self) -> Option<&Segment> {
        match &self.transport {
            Transport::Tcp(segment) => Some(segment),
            _ => None,
        }
    }

    /// The key of the session that this packet belongs to when it arrives from `realm`.
    #[inline]
    pub fn flow_key(&self, realm: Realm) -> Result<FlowKey, DropReason> {
        match self.transport {
            Transport::Refused(reason) => Err(reason),
            // RFC 5508 REQ-4a: an error goes to the sender of the packet that it quotes, to nobody else.
            Transport::Error(quote) if quote.src.addr != self.dst.addr => {
                Err(DropReason::IcmpMismatch)
            }
            // It belongs to the session of the packets that answer the quoted one.
            Transport::Error(Quote { src, dst, protocol }) => {
                Ok(FlowKey { src: dst, dst: src, protocol, realm, overlay: 0 })
            }
            Transport::Tcp(_) => Ok(self.key(Protocol::Tcp, realm)),
            Transport::Udp => Ok(self.key(Protocol::Udp, realm)),
            Transport::Icmp(_) => Ok(self.key(Protocol::Icmp, realm)),
            Transport::Other(number) => Ok(self.key(Protocol::Other(number), realm)),
            Transport::Later(_) => Err(DropReason::Fragment),
            Transport::Resolved(protocol) => Ok(self.key(protocol, realm)),
        }
    }

    fn key(&self, protocol: Protocol, realm: Realm) -> FlowKey {
        FlowKey { src: self.src, dst: self.dst, protocol, realm, overlay: 0 }
    }

    /// The end of the flow on natgate's side when the packet arrives from `realm`: the pod, or the public
    /// endpoint. An error has it in its quote.
    pub fn own_end(&self, realm: Realm) -> Endpoint {
        match (self.transport, realm) {
            (Transport::Error(quote), Realm::Internal) => quote.dst,
            (Transport::Error(quote), Realm::External) => quote.src,
            (_, Realm::Internal) => self.src,
            (_, Realm::External) => self.dst,
        }
    }

    /// The other end of the flow.
    pub fn other_end(&self, realm: Realm) -> Endpoint {
        match (self.transport, realm) {
            (Transport::Error(quote), Realm::Internal) => quote.src,
            (Transport::Error(quote), Realm::External) => quote.dst,
            (_, Realm::Internal) => self.dst,
            (_, Realm::External) => self.src,
        }
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

    /// Length of the transport header and what follows.
    pub(crate) fn payload_len(&self) -> u16 {
        ethernet::HEADER as u16 + self.len - self.l4
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

    /// Rewrites addresses, ports and checksums, and lowers the time to live by one if it `spends` a hop. Every
    /// other byte stays, and a checksum that was wrong stays wrong by as much.
    #[inline]
    pub fn translate(
        &self,
        frame: &mut [u8],
        rewrite: &Rewrite,
        spends: bool,
    ) -> Result<(), DropReason> {
        let (header, payload) = self.split_mut(frame).ok_or(DropReason::Malformed)?;
        ipv4::translate(header, (rewrite.src.addr, rewrite.dst.addr), rewrite.header, spends);
        let (src, dst, delta) = (rewrite.src.port, rewrite.dst.port, rewrite.payload);
        match self.transport {
            Transport::Tcp(_) => Tcp::new_header(payload)?.set_ports(src, dst, delta),
            Transport::Udp => Udp::new_header(payload)?.set_ports(src, dst, delta),
            Transport::Icmp(query) => {
                let identifier = if query.asks() { src } else { dst };
                Icmp::new_checked(payload)?.set_identifier(identifier, delta);
            }
            // Has two rewrites, see `translate_error`.
            Transport::Error(_) => return Err(DropReason::IcmpQuote),
            // What follows the IP header of a later fragment is payload.
            Transport::Resolved(_) | Transport::Other(_) => {}
            Transport::Later(_) => return Err(DropReason::Fragment),
            Transport::Refused(reason) => return Err(reason),
        }
        Ok(())
    }

    /// The IP header without options, and all from the transport header on.
    fn split_mut<'a>(
        &self,
        frame: &'a mut [u8],
    ) -> Option<(&'a mut [u8; ipv4::HEADER], &'a mut [u8])> {
        let (headers, payload) = frame.split_at_mut_checked(usize::from(self.l4))?;
        Some((headers.get_mut(ethernet::HEADER..)?.first_chunk_mut()?, payload))
    }

    /// Replaces the identification.
    pub(crate) fn set_id(&self, frame: &mut [u8], id: u16) -> Result<(), DropReason> {
        let (header, _) = self.split_mut(frame).ok_or(DropReason::Malformed)?;
        ipv4::set_id(header, id);
        Ok(())
    }

    /// Rewrites an error: the addresses outside become `ends`, the ends in its quote those of `to`.
    /// Returns what the packet is then. Type, code, MTU, length attribute and extensions stay (RFC 5508
    /// REQ-4b, REQ-5b, RFC 4884 section 6).
    pub fn translate_error(
        &self,
        frame: &mut [u8],
        ends: (Ipv4Addr, Ipv4Addr),
        to: Quote,
    ) -> Result<Self, DropReason> {
        let Transport::Error(quote) = self.transport else { return Err(DropReason::IcmpQuote) };
        let (src, dst) = (Endpoint::new(ends.0, 0), Endpoint::new(ends.1, 0));
        let outer = Rewrite::new(Protocol::Icmp, (self.src, self.dst), (src, dst));
        let inner = Rewrite::new(quote.protocol, (quote.src, quote.dst), (to.src, to.dst));
        Ipv4::new_checked(self.ip_mut(frame))?.set_addresses(src.addr, dst.addr, outer.header);
        Quoted::new_checked(self.payload_mut(frame))?.rewrite(quote.protocol, &inner)?;
        Ok(Self { src, dst, transport: Transport::Error(to), ..*self })
    }

    /// Makes the packet in `frame`, which may have been translated since, what it was when it was parsed as
    /// this, between the ends `arrived`. A partial checksum that was computed whole stays so.
    pub(crate) fn restore(
        &self,
        frame: &mut [u8],
        arrived: (Endpoint, Endpoint),
    ) -> Result<Self, DropReason> {
        let now = Self::parse(frame.get(ethernet::HEADER..).ok_or(DropReason::Malformed)?)?;
        let protocol = now.protocol().unwrap_or(Protocol::Other(0));
        if (now.src, now.dst) != arrived {
            now.translate(frame, &Rewrite::new(protocol, (now.src, now.dst), arrived), false)?;
        }
        if now.id != self.id {
            now.set_id(frame, self.id)?;
        }
        if now.ttl < self.ttl {
            Ipv4::new_checked(now.ip_mut(frame))?.restore_ttl();
        }
        Ok(Self { src: arrived.0, dst: arrived.1, ttl: self.ttl, ..now })
    }

    /// Computes the L4 checksum whole if the sender left only the pseudo-header sum in it, for an offload
    /// that never happens (veth, virtio). A complete checksum that equals that sum by chance is computed
    /// to the same value. Returns whether it did.
    #[inline]
    pub fn repair_partial_checksum(&self, frame: &mut [u8]) -> bool {
        let offset = match self.transport {
            Transport::Tcp(_) => tcp::CHECKSUM,
            Transport::Udp => udp::CHECKSUM,
            _ => return false,
        };
        let at = usize::from(self.l4) + offset;
        let Some(&[high, low]) = frame.get(at..at + 2) else { return false };
        let len = self.payload_len();
        let pseudo = checksum::pseudo_header(self.src.addr, self.dst.addr, self.number, len);
        let found = u16::from_be_bytes([high, low]);
        // The checksum of a fragment covers bytes that are elsewhere.
        if found != checksum::fold(pseudo) || found == 0 || self.fragment.is_fragment() {
            return false;
        }
        self.complete_checksum(frame, offset, pseudo);
        true
    }

    /// Computes the checksum at `offset` of the transport header.
    #[cold]
    fn complete_checksum(&self, frame: &mut [u8], offset: usize, pseudo: u64) {
        let payload = self.payload_mut(frame);
        payload[offset..offset + 2].fill(0);
        let whole = !checksum::fold(pseudo + checksum::sum(payload));
        let is_udp = self.transport == Transport::Udp;
        let whole = if whole == 0 && is_udp { 0xffff } else { whole };
        payload[offset..offset + 2].copy_from_slice(&whole.to_be_bytes());
    }
}

/// What an ICMP error of the type 3, 11 or 12 quotes, if it may be translated.
fn parse_error(message: &[u8]) -> Result<Quote, DropReason> {
    // RFC 5508 REQ-3.
    if !Icmp::new_checked(message)?.checksum_is_right() {
        return Err(DropReason::IcmpChecksum);
    }
    let quoted = Quoted::new_checked(message).map_err(|_| DropReason::IcmpQuote)?;
    let ip = quoted.ip()?;
    // RFC 5508 REQ-3a. The quoted transport checksum is nobody's business (REQ-3c).
    if !ip.checksum_is_right() {
        return Err(DropReason::IcmpQuote);
    }
    // RFC 5508 section 7.3.
    if ip.options().any(|kind| REFUSED_OPTIONS.contains(&kind)) {
        return Err(DropReason::IpOption);
    }
    // Not about another error, and not about a later fragment: it has no ports.
    let (protocol, src, dst) = quoted.endpoints().ok_or(DropReason::IcmpQuote)?;
    Ok(Quote { src, dst, protocol })
}

/// Under which name an ICMP message is dropped that is neither a query nor an error of ours (RFC 5508 REQ-10).
fn refused_type(kind: u8) -> DropReason {
    match kind {
        4 => DropReason::IcmpSourceQuench,
        5 => DropReason::IcmpRedirect,
        9 | 10 => DropReason::IcmpRouter,
        15 | 16 => DropReason::IcmpInformation,
        17 | 18 => DropReason::IcmpAddressMask,
        _ => DropReason::IcmpType,
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
