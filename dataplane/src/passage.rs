//! Which way does a packet take? For people; packets themselves ask [`Roads::next_hop`](crate::roads::Roads::next_hop).

use std::net::Ipv4Addr;

use crate::interface::{InterfaceId, Mac};
use crate::roads::{Adjacency, Journey, NextHop};
use crate::snapshot::Snapshot;

/// The way of one packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Passage {
    /// What the routes say.
    pub hop: NextHop,
    /// Where it leaves, and the neighbour there, if it leaves.
    pub step: Option<Step>,
    /// What it is put into, if it leaves by a tunnel whose other end is known.
    pub tunnel: Option<Through>,
    /// The longest IP packet that the way carries, in bytes, as far as this gateway knows.
    pub mtu: Option<u16>,
}

/// A neighbour to which packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// The interface.
    pub interface: InterfaceId,
    /// The neighbour's address.
    pub address: Ipv4Addr,
    /// Its Ethernet address, if it is known.
    pub mac: Option<Mac>,
}

/// A tunnel by which packets go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Through {
    /// The network's number.
    pub vni: u32,
    /// This end, the other one, and the UDP port of both.
    pub ends: (Ipv4Addr, Ipv4Addr, u16),
    /// The neighbour on the underlay.
    pub outer: Step,
}

impl From<&Adjacency> for Step {
    fn from(it: &Adjacency) -> Self {
        Self { interface: it.interface, address: it.address, mac: it.mac }
    }
}

impl Snapshot {
    /// The way of the packet that `journey` describes.
    pub fn passage(&self, journey: &Journey) -> Passage {
        let roads = &self.roads;
        let hop = roads.next_hop(journey);
        let (adjacency, step) = match hop {
            NextHop::Adjacency(id) => {
                let adjacency = roads.adjacency(id);
                (adjacency, adjacency.map(Step::from))
            }
            NextHop::Unknown(interface, address) => {
                (None, Some(Step { interface, address, mac: None }))
            }
            _ => (None, None),
        };
        let tunnel = adjacency.and_then(|adjacency| {
            let device = self.interfaces.get(adjacency.interface.index())?.tunnel?;
            let to = adjacency.tunnel?;
            let outer = Step::from(roads.adjacency(to.outer)?);
            Some(Through { vni: device.vni, ends: (device.local, to.remote, device.port), outer })
        });
        Passage { hop, step, tunnel, mtu: self.mtu_of(hop) }
    }
}
