//! Where packets come in and go out: the interfaces of the gateway.

use std::fmt;

/// An Ethernet address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Mac(pub [u8; 6]);

impl Mac {
    /// ff:ff:ff:ff:ff:ff.
    pub const BROADCAST: Self = Self([0xff; 6]);
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// Index of an interface in [`Snapshot::interfaces`](crate::snapshot::Snapshot); dense, from 0, fixed for
/// the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct InterfaceId(pub u8);

impl InterfaceId {
    /// The index as `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Which sides of the gateway an interface serves. Both: one-armed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Roles {
    /// Pods' traffic arrives here.
    pub internal: bool,
    /// The outside is reached through it.
    pub external: bool,
}

/// What a worker needs to know about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Name, such as `eth0`.
    pub name: String,
    /// The kernel's index of it.
    pub ifindex: u32,
    /// Its Ethernet address: source of every frame sent there.
    pub mac: Mac,
    /// Its IPv4 address: source of the ICMP errors that natgate sends to pods.
    pub address: Option<std::net::Ipv4Addr>,
    /// Largest IP packet that may leave there, in bytes.
    pub mtu: u16,
    /// Sides it serves.
    pub roles: Roles,
    /// The driver delivers locally generated packets whose L4 checksum holds only the pseudo-header
    /// sum (veth, virtio, tun): compute it. A tunnel's: if one of its underlays does.
    pub repair_checksums: bool,
    /// Which of several pods with one address its pods are: pods that arrive by interfaces with different numbers
    /// are different subscribers, with ports and sessions of their own. 0 wherever addresses tell pods apart, and so
    /// for every interface without tunnel: then a pod may arrive by a tunnel and by a plain route. Another number
    /// only for a tunnel to pods whose addresses are in other tunnels too, for each such network its own, which
    /// it keeps for the life of the process. Replies to an overlay go by the routes of
    /// [`Roads::overlays`](crate::roads::Roads::overlays).
    pub overlay: u16,
    /// Packets of tunnels are taken out where they arrive here. Others leave by any interface.
    pub underlay: bool,
    /// It has no queues: what arrives there came through an underlay, and what leaves there does so by
    /// [`Adjacency::tunnel`](crate::roads::Adjacency::tunnel) of its neighbours.
    pub tunnel: Option<Tunnel>,
}

/// A VXLAN device of the kernel (RFC 7348), as an interface of the gateway. It is internal, and `mac`, `address` and
/// `mtu` (of inner IP packets) are the device's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The network's number, 24 bits.
    pub vni: u32,
    /// UDP port that tunnels end at, here and there (4789; flannel: 8472).
    pub port: u16,
    /// The gateway's end: source of outer packets, and destination of those that are taken out.
    pub local: std::net::Ipv4Addr,
    /// Source ports of outer packets, the first and the last one. A flow has always the same of them.
    pub source_ports: (u16, u16),
    /// Time to live of outer packets; `None`: that of the inner packet.
    pub ttl: Option<u8>,
    /// Type of service of outer packets but for ECN, which is always the inner packet's (RFC 6040);
    /// `None`: that of the inner packet.
    pub tos: Option<u8>,
    /// DF of outer packets.
    pub df: OuterDf,
    /// Whether outer packets have a UDP checksum.
    pub checksum: bool,
}

/// DF of outer packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OuterDf {
    /// Never set.
    Unset,
    /// Always set.
    Set,
    /// That of the inner packet.
    Inherit,
}
