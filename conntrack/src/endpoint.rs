//! Who talks to whom: protocol, endpoints, and the key of one direction of a session.

use std::fmt;
use std::net::Ipv4Addr;

/// A transport protocol that natgate translates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Protocol {
    /// ICMP queries; the identifier stands in for the port (RFC 5508).
    Icmp,
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// Any other IP protocol, by number: only addresses are translated, ports are 0.
    Other(u8),
}

impl Protocol {
    /// The protocols that have ports (or identifiers), in the order of [`Protocol::index`].
    pub const ALL: [Self; 3] = [Self::Icmp, Self::Tcp, Self::Udp];

    /// The protocol with this IP protocol number.
    pub const fn from_number(number: u8) -> Self {
        match number {
            1 => Self::Icmp,
            6 => Self::Tcp,
            17 => Self::Udp,
            other => Self::Other(other),
        }
    }

    /// The IP protocol number.
    pub const fn number(self) -> u8 {
        match self {
            Self::Icmp => 1,
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Other(number) => number,
        }
    }

    /// A dense index of the protocols in [`Protocol::ALL`]; `None` for those without ports.
    pub const fn index(self) -> Option<usize> {
        match self {
            Self::Icmp => Some(0),
            Self::Tcp => Some(1),
            Self::Udp => Some(2),
            Self::Other(_) => None,
        }
    }

    /// The lower-case name, as used in metrics and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Icmp => "icmp",
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Other(47) => "gre",
            Self::Other(50) => "esp",
            Self::Other(51) => "ah",
            Self::Other(132) => "sctp",
            Self::Other(_) => "other",
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The side of the gateway from which a packet came.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[repr(u8)]
pub enum Realm {
    /// The pods' side.
    Internal = 0,
    /// The outside.
    External = 1,
}

/// An address and a port (TCP, UDP) or identifier (ICMP queries): RFC 6146's transport address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Endpoint {
    /// The IPv4 address.
    pub addr: Ipv4Addr,
    /// The port, or the ICMP identifier; 0 for the remote side of an ICMP query.
    pub port: u16,
}

impl Endpoint {
    /// An endpoint of `addr` and `port`.
    pub const fn new(addr: Ipv4Addr, port: u16) -> Self {
        Self { addr, port }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.addr, self.port)
    }
}

/// What identifies one direction of a session: the addresses as they stand in a packet that
/// arrives from `realm`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FlowKey {
    /// Source of the arriving packet.
    pub src: Endpoint,
    /// Destination of the arriving packet.
    pub dst: Endpoint,
    /// Its protocol.
    pub protocol: Protocol,
    /// The side it came from.
    pub realm: Realm,
    /// From inside: tells pods with one address apart, 0 where none share one. From outside: 0.
    pub overlay: u16,
}

impl fmt::Display for FlowKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} > {}", self.protocol, self.src, self.dst)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_and_flows_are_written_as_people_write_them() {
        let (src, dst) =
            (Endpoint::new([10, 0, 0, 1].into(), 80), Endpoint::new([192, 0, 2, 9].into(), 443));
        let flow =
            FlowKey { src, dst, protocol: Protocol::Tcp, realm: Realm::Internal, overlay: 0 };
        assert_eq!(src.to_string(), "10.0.0.1:80");
        assert_eq!(flow.to_string(), "tcp 10.0.0.1:80 > 192.0.2.9:443");
    }
}
