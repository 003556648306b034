//! Why was a packet not forwarded? One reason each, counted once, exported under the same name.

macro_rules! drop_reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $name:literal, $remedy:literal;)+) => {
        /// Why a packet was dropped.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum DropReason {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl DropReason {
            /// All reasons, in the order of [`DropReason::index`].
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// The name in metrics, logs and the command line.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What has happened.
            pub fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim(),)+ }
            }

            /// What an operator can do about it.
            pub const fn remedy(self) -> &'static str {
                match self { $(Self::$variant => $remedy,)+ }
            }
        }
    };
}

drop_reasons! {
    /// Shorter than its headers say, or bad version, header length or total length (RFC 1812 5.2.2).
    Malformed = "malformed", "the sender or a device on the way damages packets";
    /// The IPv4 header checksum is wrong (RFC 1812 5.2.2).
    BadHeaderChecksum = "bad-header-checksum", "the sender or a device on the way damages packets";
    /// Not IPv4 and not an ARP request for a pool address.
    NotIpv4 = "not-ipv4", "nothing to do: natgate does not translate this protocol";
    /// The frame is addressed to another host, or to all (RFC 1812 5.3.4).
    NotForUs = "not-for-us", "see that senders resolve this gateway's own address; a flooding switch looks like this";
    /// A source or destination address that no router may forward (RFC 1812 5.3.7).
    BadAddress = "bad-address", "look for a spoofing or misconfigured sender";
    /// Source routing, record route or timestamp option (decision D12).
    IpOption = "ip-option", "the sender must not use source route, record route or timestamp options";
    /// DCCP, AH or UDP-Lite: a checksum or signature over the addresses forbids to translate only those.
    UnsupportedProtocol = "unsupported-protocol", "exempt the destination if this traffic needs no translation";
    /// A later fragment of a datagram whose first fragment was refused.
    Fragment = "fragment", "look at why first fragments are dropped";
    /// A first fragment without the whole transport header, or one that would overwrite it (RFC 3128).
    FragmentTiny = "fragment-tiny", "look for an attacker: no router makes fragments that small";
    /// A fragment that contradicts another one of its datagram.
    FragmentOverlap = "fragment-overlap", "look for an attacker, or a sender that repeats identifications";
    /// A datagram in more fragments than natgate follows.
    FragmentTooMany = "fragment-too-many", "raise the MTU on the path, or look for an attacker";
    /// A fragment that came early, and the first one of its datagram did not follow in time.
    FragmentTimeout = "fragment-timeout", "look for loss on the path, or for a flood of fragments";
    /// More datagrams in fragments, or more early fragments, than one source or all may have at once.
    FragmentLimit = "fragment-limit", "look for a flood of fragments; lower the senders' packet size";
    /// No identification for a DF-clear packet that was not used lately (RFC 6864), with strict use of them.
    IpIdExhausted = "ip-id-exhausted", "let the sender set DF, or write ipId: best-effort in the pool";
    /// No free frame to fragment a packet into.
    NoFrame = "no-frame", "make the MTU the same on the path, or let the sender set DF";
    /// An ICMP message that no other name is for: an unknown type or code.
    IcmpType = "icmp-type", "nothing to do: natgate translates echo, timestamp and errors (types 3, 11, 12)";
    /// ICMP redirect.
    IcmpRedirect = "icmp-redirect", "look for a misconfigured router or a forger";
    /// ICMP source quench.
    IcmpSourceQuench = "icmp-source-quench", "nothing to do: it is obsolete (RFC 6633)";
    /// ICMP router advertisement or solicitation.
    IcmpRouter = "icmp-router", "nothing to do: it is for its link only";
    /// ICMP information request or reply.
    IcmpInformation = "icmp-information", "nothing to do: it is obsolete";
    /// ICMP address mask request or reply.
    IcmpAddressMask = "icmp-address-mask", "nothing to do: it is for its link only";
    /// An ICMP error whose checksum is wrong.
    IcmpChecksum = "icmp-checksum", "the sender or a device on the way damages packets";
    /// An ICMP error that quotes no packet, less than 8 bytes of its transport, one with a wrong header
    /// checksum, a later fragment, or another error.
    IcmpQuote = "icmp-quote", "the sender or a device on the way damages packets";
    /// An ICMP error to another than the sender of the packet that it quotes.
    IcmpMismatch = "icmp-mismatch", "look for a forger";
    /// An ICMP error about a packet of no session.
    IcmpNoSession = "icmp-no-session", "nothing to do: late errors look like this, and forged ones";
    /// Source or destination port 0.
    PortZero = "port-zero", "look for a scanning or broken sender";
    /// The time to live ran out here.
    TtlExpired = "ttl-expired", "look for a routing loop, or a traceroute";
    /// No rule translates or exempts this flow.
    NoRule = "no-rule", "add a NatRule whose `from` and `to` hold this flow";
    /// Exempt traffic of a pod whose address the host's routes lead to another network of: replies would go there.
    ExemptOverlay = "exempt-overlay", "let a rule with a pool carry it, or let the host's best route to the pod's address lead into its network";
    /// A TCP segment from inside without a session that is not a SYN.
    TcpNotSyn = "tcp-not-syn", "nothing to do: the connection is older than this process, or ended";
    /// All blocks or ports that the subscriber may use are taken.
    QuotaBlocks = "quota-blocks", "raise quota.blocks of the pool, or look at what the pod does";
    /// The subscriber has as many sessions as it may have.
    QuotaSessions = "quota-sessions", "raise quota.sessions of the pool, or look at what the pod does";
    /// The subscriber has as many connections as it may have that did not complete their handshake.
    QuotaHalfOpen = "quota-half-open", "look for a pod that scans, or raise quota.halfOpen of the pool";
    /// The subscriber uses as many public ports of the protocol as it may.
    QuotaPorts = "quota-ports", "raise quota.tcp, quota.udp or quota.icmp of the pool";
    /// The subscriber opens sessions faster than it may.
    QuotaRate = "quota-rate", "raise quota.newPerSecond of the pool, or look at what the pod does";
    /// No address of the pool has a free block.
    PoolExhausted = "pool-exhausted", "add addresses to the pool";
    /// The session table has reached its maximum.
    TableFull = "table-full", "raise --sessions";
    /// A packet from outside to a public address, or an answer from inside, for which there is no session.
    NoSession = "no-session", "nothing to do: scans and late packets look like this";
    /// A packet from outside to a mapping whose filter does not admit the sender.
    Filtered = "filtered", "nothing to do, or choose another `filtering` for the pool";
    /// Two sessions would have the same two ends: a remote that the target of a port forward talks to from the
    /// same port by another pool, calls the forwarded port.
    TupleTaken = "tuple-taken", "let the rule that carries the target's own packets name the pool of the forward's address";
    /// A protocol without ports, and another pod talks to this remote from the same public address.
    ProtocolClash = "protocol-clash", "add addresses to the pool, or give one pod a StaticNat";
    /// No route to the destination in the kernel's table.
    NoRoute = "no-route", "add a route to the destination on this host";
    /// The route to the destination, or a routing rule, is a `blackhole`.
    RouteBlackhole = "route-blackhole", "nothing to do: the kernel's routes say so (ip route, ip rule)";
    /// The route to the destination is `unreachable`.
    RouteUnreachable = "route-unreachable", "nothing to do: the kernel's routes say so (ip route)";
    /// The route to the destination, or a routing rule, is a `prohibit`.
    RouteProhibited = "route-prohibited", "nothing to do: the kernel's routes say so (ip route, ip rule)";
    /// The kernel routes the destination through an interface that is not the right side of natgate.
    WrongInterface = "wrong-interface", "the route must leave by an external interface (pods' traffic) or an internal one (replies)";
    /// The kernel could not resolve the next hop in time.
    NeighbourUnresolved = "neighbour-unresolved", "see that the next hop answers ARP";
    /// Too many packets already wait for that next hop.
    NeighbourQueueFull = "neighbour-queue-full", "see that the next hop answers ARP";
    /// The next hop is behind a tunnel, and no other end of that is known for it, or no way to there.
    TunnelNoRemote = "tunnel-no-remote", "see that the forwarding database (bridge fdb show dev VXLAN) has one remote for the next hop, and the host a route to there by an interface of natgate";
    /// A router in the middle of a tunnel saw congestion, and the packet in there is of a sender that would not learn it
    /// (RFC 6040 section 4.2).
    TunnelCongestion = "tunnel-congestion", "look for congestion on the underlay; the packet's ends do not use ECN";
    /// The UDP checksum of the packet around it is wrong.
    TunnelChecksum = "tunnel-checksum", "the other end of the tunnel or a device on the underlay damages packets";
    /// Larger than the MTU of the interface it would leave by, and not to be fragmented.
    TooBig = "too-big", "make the MTU the same on the path, or lower it at the pods";
    /// A merged packet (GRO, LRO, TSO) that is larger than a frame can be.
    SuperPacket = "super-packet", "ethtool -K IF gro off lro off tso off gso off at the sender or on this host";
    /// The ring towards the home worker was full.
    HandOffFull = "hand-off-full", "steer the NIC's queues by source address, or add workers";
    /// A new flow while receive rings overflow: established ones go first.
    Overload = "overload", "look for a flood of new flows (quota.newPerSecond bounds a pod's); else add workers";
    /// A new flow while natgate is drained: established ones go on.
    Draining = "draining", "natgate undrain, or let new flows take another gateway";
    /// The transmit ring was full.
    TransmitFull = "transmit-full", "the link or the kernel is slower than the traffic";
    /// More pings to pool addresses than natgate answers.
    EchoLimited = "echo-limited", "nothing to do: pings to pool addresses are rate-limited";
    /// A ping to a pool address, and natgate is told not to answer any.
    EchoRefused = "echo-refused", "nothing to do: the Gateway says answerPing: false";
    /// ARP for a pool address on a link where natgate does not answer, or an ARP reply.
    ArpIgnored = "arp-ignored", "nothing to do";
    /// From outside, with a source address inside `from`, or to a pool address from itself.
    Spoofed = "spoofed", "look for a spoofing sender outside";
}

impl DropReason {
    /// How many reasons there are.
    pub const COUNT: usize = Self::ALL.len();

    /// A dense index.
    pub const fn index(self) -> usize {
        self as usize
    }
}

impl std::fmt::Display for DropReason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}
