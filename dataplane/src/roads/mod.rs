//! Where does a packet go next? The kernel's routes, rules and neighbours, mirrored.
//!
//! The control thread changes its copy of [`Roads`] when the kernel's tables change and publishes it; copies share
//! what is equal, so that a change costs as much as itself. Workers only read. Adjacency numbers are stable for the
//! life of the process, so a session may keep one as long as [`Roads::generation_of`] its destination stays the same.

mod several;
mod signpost;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use ahash::RandomState;
use ipnet::Ipv4Net;

use crate::interface::{InterfaceId, Mac};
use crate::lpm::Lpm;

pub use several::{Member, Way};
pub use signpost::{Arrival, Signpost, Towards};

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
    /// The kernel's last attempt to resolve it failed.
    pub failed: bool,
    /// How many attempts have failed so far: what waited for one is told.
    pub failures: u32,
    /// Longest IP packet that routes with this neighbour allow, in bytes, where they say so (`mtu` of a route): the
    /// neighbour has other numbers for routes that don't, or say something else.
    pub mtu: Option<u16>,
    /// Where packets to it go on the underlay, if the link is a tunnel. `None` there: no way is known, and nothing
    /// can be sent to it.
    pub tunnel: Option<TunnelTo>,
}

/// The other end of a tunnel, for one neighbour behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TunnelTo {
    /// Its address: the destination of outer packets.
    pub remote: Ipv4Addr,
    /// The neighbour on the underlay by which it is reached; not one behind a tunnel itself. While its Ethernet
    /// address is not known, packets wait for it.
    pub outer: AdjacencyId,
    /// Longest IP packet that the path to it carries, in bytes, outer headers included, if that is known to be less
    /// than the underlay's MTU (a route's `mtu`, or what path MTU discovery has found).
    pub path_mtu: Option<u16>,
}

impl Adjacency {
    /// A neighbour of which no more is known.
    pub fn new(interface: InterfaceId, address: Ipv4Addr, mac: Option<Mac>) -> Self {
        Self { interface, address, mac, failed: false, failures: 0, mtu: None, tunnel: None }
    }
}

/// Why a route, or a rule, lets nothing pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Denial {
    /// `blackhole`: silently.
    Blackhole,
    /// `unreachable`: ICMP host unreachable.
    Unreachable,
    /// `prohibit`: ICMP communication prohibited.
    Prohibit,
}

/// What a routing table says about a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// By a router on one of the gateway's links.
    Via(AdjacencyId),
    /// The destination itself is on that link.
    OnLink(InterfaceId),
    /// By one of several ways, for each flow the same.
    Several(Arc<[Member]>),
    /// An address of this host (or broadcast, or multicast): the kernel's own.
    Local,
    /// Nothing passes.
    Denied(Denial),
    /// `throw`: this table says nothing, others may.
    Throw,
    /// Through an interface that natgate does not serve.
    Elsewhere,
}

impl Route {
    /// The routers that it leads by.
    pub fn routers(&self) -> Vec<AdjacencyId> {
        match self {
            Self::Via(id) => vec![*id],
            Self::Several(members) => {
                let routers = members.iter().filter_map(|member| match member.way {
                    Way::Via(id) => Some(id),
                    Way::OnLink(_) => None,
                });
                routers.collect()
            }
            _ => Vec::new(),
        }
    }
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
    /// No route.
    Unreachable,
    /// A route that refuses.
    Denied(Denial),
    /// The route leads to this host itself or through an interface that natgate does not serve.
    NotOurs,
}

/// Who asks for the way, and whereto.
#[derive(Clone, Copy, Debug)]
pub struct Journey {
    /// Where the packet goes, translated if it is to be.
    pub destination: Ipv4Addr,
    /// Who sent it, as it arrived.
    pub source: Ipv4Addr,
    /// Where it arrived; `None`: it is natgate's own.
    pub arrival: Option<InterfaceId>,
    /// A number that is the same for all packets of its flow: it chooses among several ways.
    pub flow: u64,
    /// The way that its flow has taken so far.
    pub kept: Option<AdjacencyId>,
    /// Which of several pods with the destination's address is meant: see
    /// [`Interface::overlay`](crate::interface::Interface::overlay). 0 for all destinations but such pods.
    pub overlay: u16,
}

impl Journey {
    /// Nobody in particular asks for the way to `destination`.
    pub fn to(destination: Ipv4Addr) -> Self {
        Self {
            destination,
            source: Ipv4Addr::UNSPECIFIED,
            arrival: None,
            flow: 0,
            kept: None,
            overlay: 0,
        }
    }
}

/// The neighbours' numbers.
pub type NeighbourIds = HashMap<(InterfaceId, Ipv4Addr), AdjacencyId, RandomState>;

/// The mirror, at one moment.
#[derive(Clone, Debug)]
pub struct Roads {
    /// Raised by every change of routes or rules.
    pub generation: u32,
    /// By first byte of a destination: the generation in which its way may last have become another one.
    changed: [u32; 256],
    /// The routing tables.
    pub tables: Vec<Lpm<Route>>,
    /// Which table is asked, in this order.
    pub signposts: Arc<[Signpost]>,
    /// The routes back to pods of an overlay other than 0: the index of the only table that is asked, in place of
    /// [`signposts`](Self::signposts), for replies to such pods. An overlay without has no way back.
    pub overlays: Arc<[(u16, usize)]>,
    /// All adjacencies ever seen, by [`AdjacencyId`].
    pub adjacencies: Arc<Vec<Adjacency>>,
    /// The adjacency of a neighbour.
    pub neighbours: Arc<NeighbourIds>,
    /// Some adjacency has an [`mtu`](Adjacency::mtu).
    pub narrowed: bool,
}

impl Default for Roads {
    /// One table without routes.
    fn default() -> Self {
        Self {
            generation: 0,
            changed: [0; 256],
            tables: vec![Lpm::default()],
            signposts: [Signpost::to_table(0)].into(),
            overlays: Arc::default(),
            adjacencies: Arc::default(),
            neighbours: Arc::default(),
            narrowed: false,
        }
    }
}

impl Roads {
    /// Roads with one table.
    pub fn new(
        routes: impl IntoIterator<Item = (Ipv4Net, Route)>,
        adjacencies: Vec<Adjacency>,
    ) -> Self {
        let neighbours = adjacencies.iter().zip(0..);
        let neighbours = neighbours.map(|(it, id)| ((it.interface, it.address), AdjacencyId(id)));
        Self {
            generation: 1,
            changed: [1; 256],
            tables: vec![routes.into_iter().collect()],
            neighbours: Arc::new(neighbours.collect()),
            adjacencies: Arc::new(adjacencies),
            ..Self::default()
        }
    }

    /// Changes when an [`AdjacencyId`] that was kept for `destination` may no longer be the right one (routes, rules,
    /// failed members of several ways), not when a neighbour's Ethernet address changes.
    #[inline]
    pub fn generation_of(&self, destination: Ipv4Addr) -> u32 {
        self.changed[usize::from(destination.octets()[0])]
    }

    /// Notes that the way to destinations in `prefix` may be another one, in the next generation.
    pub fn note_change(&mut self, prefix: Ipv4Net) {
        self.generation = self.generation.wrapping_add(1);
        let [first, last] = [prefix.network(), prefix.broadcast()].map(|it| it.octets()[0]);
        self.changed[usize::from(first)..=usize::from(last)].fill(self.generation);
    }

    /// Where a packet goes. Reads rules and routing tables; sessions keep the answer.
    pub fn next_hop(&self, journey: &Journey) -> NextHop {
        self.along(self.route(journey), journey)
    }

    /// Where a packet goes about which `route` decides.
    pub(crate) fn along(&self, route: Option<&Route>, journey: &Journey) -> NextHop {
        match route {
            Some(Route::Via(id)) => NextHop::Adjacency(*id),
            Some(Route::OnLink(interface)) => self.on_link(*interface, journey.destination),
            Some(Route::Several(members)) => self.one_of(members, journey),
            Some(Route::Denied(denial)) => NextHop::Denied(*denial),
            Some(Route::Local | Route::Elsewhere) => NextHop::NotOurs,
            Some(Route::Throw) | None => NextHop::Unreachable,
        }
    }

    fn on_link(&self, interface: InterfaceId, destination: Ipv4Addr) -> NextHop {
        match self.neighbours.get(&(interface, destination)) {
            Some(id) => NextHop::Adjacency(*id),
            None => NextHop::Unknown(interface, destination),
        }
    }

    /// The neighbour behind `id`.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(id.0 as usize)
    }

    /// The interface that a packet leaves by.
    pub fn interface_of(&self, hop: NextHop) -> Option<InterfaceId> {
        match hop {
            NextHop::Adjacency(id) => self.adjacency(id).map(|adjacency| adjacency.interface),
            NextHop::Unknown(interface, _) => Some(interface),
            _ => None,
        }
    }

    /// Whether `address` lies on the link of `interface` by the routing tables.
    pub fn is_on_link(&self, interface: InterfaceId, address: Ipv4Addr) -> bool {
        self.route(&Journey::to(address)) == Some(&Route::OnLink(interface))
    }
}
