//! The packet that an ICMP error quotes (RFC 792, RFC 4884): a header and at least the first eight bytes
//! behind it.

use conntrack::{Endpoint, Protocol, Rewrite};

use super::{Ipv4, Malformed, checksum, icmp, read_u16, tcp, udp, write_u16};

/// Where the number of quoted 32-bit words stands; 0: all of the message (RFC 4884 section 4).
const LENGTH: usize = 5;
/// Bytes of a transport header that every error must quote (RFC 792).
const LEAST: usize = 8;
/// No byte behind these of the quoted transport header changes.
const CHANGED: usize = 20;

/// An ICMP error, seen as what it quotes.
#[derive(Debug)]
pub struct Quoted<B> {
    /// The whole ICMP message.
    message: B,
    /// Offset of the quoted transport header in it.
    l4: usize,
    /// End of what is quoted: padding and extensions (RFC 4884) lie behind it.
    end: usize,
}

impl<B: AsRef<[u8]>> Quoted<B> {
    /// A view of `message`, the whole IP payload of an error. The checksums are not looked at.
    pub fn new_checked(message: B) -> Result<Self, Malformed> {
        let b = message.as_ref();
        let rest = b.get(icmp::HEADER..).ok_or(Malformed)?;
        // RFC 4884 section 4: the field counts 32-bit words in ICMPv4, not bytes.
        let words = usize::from(b[LENGTH]);
        let len = if words == 0 { rest.len() } else { rest.len().min(words * 4) };
        let ip = Ipv4::new_quoted(&rest[..len])?;
        // RFC 5508 REQ-3b: options are stepped over. REQ-3d: padding is not part of the quote.
        let (header, len) = (ip.header_len(), len.min(usize::from(ip.total_len())));
        if len < header + LEAST {
            return Err(Malformed);
        }
        let (l4, end) = (icmp::HEADER + header, icmp::HEADER + len);
        Ok(Self { message, l4, end })
    }

    /// The quoted IP header, from its first byte on.
    fn header(&self) -> &[u8] {
        &self.message.as_ref()[icmp::HEADER..self.l4]
    }

    /// The quoted IP header.
    pub fn ip(&self) -> Result<Ipv4<&[u8]>, Malformed> {
        Ipv4::new_quoted(self.header())
    }

    fn transport(&self) -> &[u8] {
        &self.message.as_ref()[self.l4..self.end]
    }

    /// Protocol, source and destination as the quoted packet carries them: by the same rules as in
    /// [`Packet`](crate::packet::Packet). `None` if it is an ICMP message that no session carries, such as
    /// another error, or a later fragment, which has no ports.
    pub fn endpoints(&self) -> Option<(Protocol, Endpoint, Endpoint)> {
        let ip = self.ip().ok()?;
        if ip.fragment().offset() != 0 {
            return None;
        }
        let protocol = Protocol::from_number(ip.protocol());
        let transport = self.transport();
        let (src, dst) = match protocol {
            Protocol::Tcp | Protocol::Udp => (read_u16(transport, 0), read_u16(transport, 2)),
            Protocol::Icmp => {
                let icmp = icmp::Icmp::new_checked(transport).ok()?;
                match icmp.quoted_query()? {
                    query if query.asks() => (icmp.identifier(), 0),
                    _ => (0, icmp.identifier()),
                }
            }
            Protocol::Other(_) => (0, 0),
        };
        Some((protocol, Endpoint::new(ip.src(), src), Endpoint::new(ip.dst(), dst)))
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Quoted<B> {
    /// Gives the quoted packet the addresses, ports and checksums of `rewrite`; the error's own checksum
    /// stays right. The quoted transport checksum is adjusted where its bytes are there, never computed
    /// (RFC 5508 REQ-3c, REQ-3d).
    pub fn rewrite(&mut self, protocol: Protocol, rewrite: &Rewrite) -> Result<(), Malformed> {
        let before = checksum::fold(checksum::sum(self.changed()));
        let (l4, end) = (self.l4, self.end);
        Ipv4::new_quoted(&mut self.message.as_mut()[icmp::HEADER..l4])?.set_addresses(
            rewrite.src.addr,
            rewrite.dst.addr,
            rewrite.header,
        );
        let transport = &mut self.message.as_mut()[l4..end];
        let sum = match protocol {
            Protocol::Tcp => Some(tcp::CHECKSUM),
            Protocol::Udp => Some(udp::CHECKSUM),
            Protocol::Icmp => Some(icmp::CHECKSUM),
            Protocol::Other(_) => None,
        };
        match protocol {
            Protocol::Tcp | Protocol::Udp => {
                write_u16(transport, 0, rewrite.src.port);
                write_u16(transport, 2, rewrite.dst.port);
            }
            Protocol::Icmp => {
                let query = icmp::Icmp::new_checked(&*transport)?.quoted_query();
                let asks = query.is_some_and(icmp::Query::asks);
                let identifier = if asks { rewrite.src.port } else { rewrite.dst.port };
                write_u16(transport, icmp::IDENTIFIER, identifier);
            }
            Protocol::Other(_) => {}
        }
        if let Some(at) = sum.filter(|at| at + 2 <= transport.len()) {
            let old = read_u16(transport, at);
            let new = checksum::update(old, rewrite.payload);
            let new = if new == 0 && protocol == Protocol::Udp { 0xffff } else { new };
            // RFC 768: no checksum stays none.
            if protocol != Protocol::Udp || old != 0 {
                write_u16(transport, at, new);
            }
        }
        let after = checksum::fold(checksum::sum(self.changed()));
        let delta = checksum::fold(u64::from(!before) + u64::from(after));
        icmp::Icmp::new_checked(self.message.as_mut())?
            .update_checksum(conntrack::ChecksumDelta(delta));
        Ok(())
    }

    /// All that [`rewrite`](Self::rewrite) may change, from an even offset on.
    fn changed(&self) -> &[u8] {
        let b = self.message.as_ref();
        &b[icmp::HEADER..b.len().min(self.l4 + CHANGED)]
    }
}
