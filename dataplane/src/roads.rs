//! Where does a packet go next? The kernel's routes and neighbours, mirrored.
//!
//! The control thread builds a new [`Roads`] whenever the kernel's tables change and publishes it;
//! workers only read. Adjacency numbers are stable for the life of the process, so a session may keep
//! one as long as [`Roads::generation`] stays the same.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ahash::RandomState;

use crate::interface::{InterfaceId, Mac};
use crate::lpm::Lpm;

/// Index of an [`Adjacency`]; stable for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AdjacencyId(pub u32);

/// A neighbour on one of the gateway's links: what stands in the Ethernet header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Adjacency {
    /// The link.
    pub interface: InterfaceId,
    /// The neighbour's address.
    pub address: Ipv4Addr,
    /// Its Ethernet address; `None` until the kernel has resolved it, and after it failed.
    pub mac: Option<Mac>,
}

/// What the routing table says about a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// By a router on one of the gateway's links.
    Via(AdjacencyId),
    /// The destination itself is on that link.
    OnLink(InterfaceId),
    /// An address of this host (or broadcast, or multicast): the kernel's own.
    Local,
    /// `blackhole`, `unreachable`, `prohibit`.
    Unreachable,
    /// Through an interface that natgate does not serve.
    Elsewhere,
}

impl AdjacencyId {
    /// What a session keeps that has no neighbour, but [`NextHop::Hairpin`].
    pub(crate) const HAIRPIN: Self = Self(u32::MAX - 1);
}

/// Where a destination is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NextHop {
    /// This neighbour; its address may still be unresolved.
    Adjacency(AdjacencyId),
    /// On this link, but nobody has asked for it yet: have the kernel resolve it.
    Unknown(InterfaceId, Ipv4Addr),
    /// To a public address of this gateway: it turns back to the pods (RFC 4787 REQ-9).
    Hairpin,
    /// No route, or one that refuses.
    Unreachable,
    /// The route leads to this host itself or through an interface that natgate does not serve.
    NotOurs,
}

/// The mirror: immutable, replaced as a whole.
#[derive(Clone, Debug, Default)]
pub struct Roads {
    /// Changes when a cached [`AdjacencyId`] may no longer be the right one (routes, links), not when
    /// a neighbour's Ethernet address changes.
    pub generation: u32,
    /// The routing table.
    pub routes: Lpm<Route>,
    /// All adjacencies ever seen, by [`AdjacencyId`].
    pub adjacencies: Vec<Adjacency>,
    /// The adjacency of a neighbour.
    pub neighbours: HashMap<(InterfaceId, Ipv4Addr), AdjacencyId, RandomState>,
}

impl Roads {
    /// Where `destination` is reached. Reads the routing table; sessions keep the answer.
    pub fn next_hop(&self, destination: Ipv4Addr) -> NextHop {
        match self.routes.get(destination) {
            Some(Route::Via(id)) => NextHop::Adjacency(*id),
            Some(&Route::OnLink(interface)) => match self.neighbours.get(&(interface, destination))
            {
                Some(id) => NextHop::Adjacency(*id),
                None => NextHop::Unknown(interface, destination),
            },
            Some(Route::Unreachable) | None => NextHop::Unreachable,
            Some(Route::Local | Route::Elsewhere) => NextHop::NotOurs,
        }
    }

    /// The neighbour behind `id`.
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)
    }

    /// Whether `address` lies on the link of `interface` by the routing table.
    pub fn is_on_link(&self, interface: InterfaceId, address: Ipv4Addr) -> bool {
        self.routes.get(address) == Some(&Route::OnLink(interface))
    }
}
