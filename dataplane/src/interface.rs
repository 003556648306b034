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
    /// sum (veth, virtio, tun): compute it.
    pub repair_checksums: bool,
}
