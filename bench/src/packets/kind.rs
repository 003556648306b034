//! Which packets are measured?

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

/// A kind of packet. All but the new ones and the exempt ones belong to established flows, and have DF clear unless named otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// TCP data from a pod.
    TcpOut,
    /// TCP data from a server.
    TcpIn,
    /// The same with DF set, as nearly all TCP comes: its identification need not be changed.
    TcpOutDf,
    /// TCP data from a server, with DF set.
    TcpInDf,
    /// TCP data with DF set from a pod behind a VXLAN tunnel, as it comes out of that.
    TunnelIn,
    /// TCP data from a server, with DF set, to a pod behind a VXLAN tunnel.
    TunnelOut,
    /// UDP from a pod.
    UdpOut,
    /// UDP from a server.
    UdpIn,
    /// Echo request from a pod.
    PingOut,
    /// Its reply.
    PingIn,
    /// First packet of a UDP session; one in 50 is the first of its pod.
    NewUdp,
    /// SYN of a new TCP session; one in 50 is the first of its pod.
    NewTcp,
    /// First echo request of an identifier; one in 50 is the first of its pod.
    NewPing,
    /// UDP from a pod that is not translated.
    ExemptOut,
    /// Its reply.
    ExemptIn,
    /// Destination unreachable from a router outside, about a UDP packet of a pod.
    ErrorIn,
    /// Port unreachable from a pod, about a UDP packet of a server.
    ErrorOut,
    /// UDP datagrams from pods in two fragments, the first one first.
    FragmentOut,
    /// UDP datagrams from servers in two fragments, the first one first.
    FragmentIn,
    /// UDP from a pod to the public endpoint of another pod.
    Hairpin,
    /// UDP from outside to a public endpoint that nobody has.
    Scan,
    /// A frame with another Ethernet address: the floor, ring and loop alone.
    Foreign,
}

impl Kind {
    /// Whether the pods are behind a tunnel.
    pub const fn is_tunnelled(self) -> bool {
        matches!(self, Self::TunnelIn | Self::TunnelOut)
    }

    /// What the table calls it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::TcpOut => "TCP, outbound",
            Self::TcpIn => "TCP, inbound",
            Self::TcpOutDf => "TCP with DF, outbound",
            Self::TcpInDf => "TCP with DF, inbound",
            Self::TunnelIn => "TCP with DF, outbound, out of a tunnel",
            Self::TunnelOut => "TCP with DF, inbound, into a tunnel",
            Self::UdpOut => "UDP, outbound",
            Self::UdpIn => "UDP, inbound",
            Self::PingOut => "ping, outbound",
            Self::PingIn => "ping, inbound",
            Self::NewUdp => "new UDP session",
            Self::NewTcp => "new TCP session (SYN)",
            Self::NewPing => "new ping session",
            Self::ExemptOut => "exempt UDP, outbound",
            Self::ExemptIn => "exempt UDP, inbound",
            Self::ErrorIn => "ICMP error, inbound",
            Self::ErrorOut => "ICMP error, outbound",
            Self::FragmentOut => "fragment, outbound",
            Self::FragmentIn => "fragment, inbound",
            Self::Hairpin => "hairpin UDP",
            Self::Scan => "scan from outside",
            Self::Foreign => "not for us (floor)",
        }
    }
}
