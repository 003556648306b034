//! By which way do packets to a neighbour behind a VXLAN device go? As the device would send them: to the remote that
//! its forwarding database has for the neighbour's Ethernet address, by the route to that remote.
//!
//! Pure state.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::Ipv4Addr;

use ahash::RandomState;
use dataplane::interface::InterfaceId;
use dataplane::roads::{AdjacencyId, Journey, NextHop, Roads, TunnelTo};

use super::fdb::{Device, Fdb, NoRemote};
use super::neighbours::{Key, Neighbours};
use super::path_mtu::PathMtus;

/// The VXLAN devices, by number.
type Devices = HashMap<InterfaceId, Device, RandomState>;

/// What is known of the tunnels.
#[derive(Debug, Default)]
pub(super) struct Tunnels {
    pub(super) fdb: Fdb,
    /// How long outer packets may be, where the kernel has learned it.
    pub(super) path_mtus: PathMtus,
    /// The neighbours on underlays by which tunnels lead.
    outer: HashSet<Key, RandomState>,
    /// What the databases have that natgate does not follow.
    refused: BTreeSet<(InterfaceId, &'static str)>,
}

impl Tunnels {
    /// What the databases have that natgate does not follow.
    pub(super) fn refused(&self) -> impl Iterator<Item = (InterfaceId, &'static str)> {
        self.refused.iter().copied()
    }

    /// Finds the way to every neighbour behind a tunnel. Neighbours on underlays by which tunnels lead from now on are
    /// needed, and returned.
    pub(super) fn lay(
        &mut self,
        devices: &Devices,
        roads: &Roads,
        neighbours: &mut Neighbours,
    ) -> Vec<Key> {
        self.refused.clear();
        let mut outer = HashSet::default();
        let mut ways = HashMap::<Ipv4Addr, Option<AdjacencyId>, RandomState>::default();
        for (adjacency, id) in roads.adjacencies.iter().zip(0..) {
            let Some(device) = devices.get(&adjacency.interface) else { continue };
            let remote =
                adjacency.mac.map(|mac| self.fdb.remote(adjacency.interface, mac, *device));
            if let Some(Err(NoRemote::Refused(why))) = remote {
                self.refused.insert((adjacency.interface, why));
            }
            let tunnel = remote.and_then(Result::ok).and_then(|remote| {
                let kept = adjacency.tunnel.map(|tunnel| tunnel.outer);
                let way = || way_to(remote, kept, devices, roads, neighbours);
                let outer = (*ways.entry(remote).or_insert_with(way))?;
                Some(TunnelTo { remote, outer, path_mtu: self.path_mtus.get(&remote).copied() })
            });
            if let Some(road) =
                tunnel.and_then(|it| neighbours.adjacencies().get(it.outer.0 as usize))
            {
                outer.insert((road.interface, road.address));
            }
            neighbours.set_tunnel(AdjacencyId(id), tunnel);
        }
        let mut new = Vec::new();
        for key in outer.difference(&self.outer) {
            if neighbours.lead_by(*key) {
                new.push(*key);
            }
        }
        for key in self.outer.difference(&outer) {
            neighbours.lead_elsewhere(*key);
        }
        self.outer = outer;
        new
    }
}

/// The neighbour by which a tunnel's other end is reached; the same for all that is sent there.
fn way_to(
    remote: Ipv4Addr,
    kept: Option<AdjacencyId>,
    devices: &Devices,
    roads: &Roads,
    neighbours: &mut Neighbours,
) -> Option<AdjacencyId> {
    let flow = u64::from(u32::from(remote));
    let hop = roads.next_hop(&Journey { flow, kept, ..Journey::to(remote) });
    let id = match hop {
        NextHop::Adjacency(id) => id,
        NextHop::Unknown(interface, address) => neighbours.id((interface, address)),
        _ => return None,
    };
    let interface = neighbours.adjacencies().get(id.0 as usize)?.interface;
    // A tunnel in a tunnel is none of natgate's.
    (!devices.contains_key(&interface)).then_some(id)
}
