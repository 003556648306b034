//! How do the kernel's routes, rules and neighbours become roads? One change at a time.
//!
//! Pure state. Whatever is different in [`Roads`] after a change is what workers must look at again.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use ahash::RandomState;
use dataplane::interface::{InterfaceId, Mac, OuterDf};
use dataplane::lpm::Lpm;
use dataplane::roads::{AdjacencyId, Member, Roads, Route, Way};
use ipnet::Ipv4Net;
use rtnetlink::packet_route::neighbour::NeighbourState;

use super::dump::Dump;
use super::events::Event;
use super::fdb::{Device, FdbFact};
use super::link::Link;
use super::neighbours::{Fact, Key, Neighbours, Noticed};
use super::overlays::{Network, Overlays};
use super::path_mtu::{Ends, PathMtus};
use super::rules::{KernelRule, signposts};
use super::tables::{Hop, Interfaces, Place, Tables, Target};
use super::tunnels::Tunnels;

/// What has to be read again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Stale {
    /// Links, and addresses.
    pub(super) links: bool,
    pub(super) routes: bool,
    pub(super) rules: bool,
    pub(super) neighbours: bool,
}

impl Stale {
    /// Everything.
    pub(super) const ALL: Self = Self { links: true, routes: true, rules: true, neighbours: true };

    /// Whether there is anything.
    pub(super) fn is_any(self) -> bool {
        self != Self::default()
    }

    /// What is in either.
    pub(super) fn and(self, other: Self) -> Self {
        Self {
            links: self.links | other.links,
            routes: self.routes | other.routes,
            rules: self.rules | other.rules,
            neighbours: self.neighbours | other.neighbours,
        }
    }
}

/// The interfaces of the host.
#[derive(Debug, Default)]
struct Links {
    /// Those that natgate serves, by the kernel's index.
    served: HashMap<u32, InterfaceId, RandomState>,
    up: HashMap<u32, bool, RandomState>,
    /// The VXLAN devices among those that are served.
    devices: HashMap<InterfaceId, Device, RandomState>,
}

impl Links {
    fn network(&self, ifindex: u32) -> Option<Network> {
        let device = self.devices.get(self.served.get(&ifindex)?)?;
        Some((device.vni, device.port))
    }
}

impl Interfaces for Links {
    fn is_served(&self, ifindex: u32) -> bool {
        self.served.contains_key(&ifindex)
    }

    fn is_up(&self, ifindex: u32) -> bool {
        self.up.get(&ifindex) != Some(&false)
    }
}

/// The kernel's knowledge, and the roads that follow from it.
#[derive(Debug)]
pub(super) struct Atlas {
    links: Links,
    /// Names of the interfaces that natgate serves.
    names: HashMap<String, InterfaceId, RandomState>,
    tables: Tables,
    rules: Vec<KernelRule>,
    /// The interfaces that belong to a VRF, and its table.
    vrfs: Vec<(InterfaceId, u32)>,
    /// Routes to a link with an `mtu` that is not followed.
    narrow_links: BTreeSet<Place>,
    neighbours: Neighbours,
    tunnels: Tunnels,
    overlays: Overlays,
    roads: Roads,
    /// Index in [`Roads::tables`] by the kernel's number.
    indices: HashMap<u32, usize, RandomState>,
    /// How many routes have this neighbour as one of several.
    members: HashMap<AdjacencyId, u32, RandomState>,
    /// How many routes have a link as one of several.
    several_links: u32,
    /// Rules that are not followed, a line each.
    refused: Vec<String>,
    /// Gateways that routes lead by since somebody asked.
    new_gateways: Vec<Key>,
    /// Something is to be published.
    changed: bool,
}

impl Atlas {
    /// Knows nothing yet but the interfaces that natgate serves, by the kernel's index.
    pub(super) fn new(served: impl IntoIterator<Item = (u32, InterfaceId)>) -> Self {
        let links = Links { served: served.into_iter().collect(), ..Links::default() };
        let mut roads = Roads::default();
        roads.tables.clear();
        Self {
            links,
            names: HashMap::default(),
            tables: Tables::default(),
            rules: Vec::new(),
            vrfs: Vec::new(),
            narrow_links: BTreeSet::new(),
            neighbours: Neighbours::default(),
            tunnels: Tunnels::default(),
            overlays: Overlays::default(),
            roads,
            indices: HashMap::default(),
            members: HashMap::default(),
            several_links: 0,
            refused: Vec::new(),
            new_gateways: Vec::new(),
            changed: true,
        }
    }

    /// Takes over which interfaces natgate serves: the kernel's index and number of each, and their links in the
    /// order of those. Whether they are others.
    pub(super) fn serve(
        &mut self,
        ids: impl IntoIterator<Item = (u32, InterfaceId)>,
        links: &[Link],
    ) -> bool {
        let served: HashMap<_, _, _> = ids.into_iter().collect();
        let devices = links.iter().zip(0..).filter_map(|(link, id)| {
            let device = link.vxlan.as_ref()?;
            let (tunnel, (vni, port)) = (link.tunnel?.tunnel, device.name());
            let whole_from = (tunnel.df != OuterDf::Unset).then_some(tunnel.local);
            Some((InterfaceId(id), Device { vni, port, link: device.link, whole_from }))
        });
        let devices: HashMap<_, _, _> = devices.collect();
        if served == self.links.served && devices == self.links.devices {
            return false;
        }
        (self.links.served, self.links.devices) = (served, devices);
        self.follow_all();
        true
    }

    /// The overlay of each interface, in their order; beyond the last, 0.
    pub(super) fn overlays(&self) -> Vec<u16> {
        let numbers = self.links.devices.iter();
        let numbers = numbers.map(|(id, it)| (id.index(), self.overlays.number((it.vni, it.port))));
        let mut all = Vec::new();
        for (index, number) in numbers.filter(|(_, number)| *number > 0) {
            all.resize(all.len().max(index + 1), 0);
            all[index] = number;
        }
        all
    }

    /// The roads now.
    pub(super) fn roads(&mut self) -> &Roads {
        if self.overlays.take_changed() {
            self.lay_overlays();
        }
        self.roads.adjacencies = Arc::clone(self.neighbours.adjacencies());
        self.roads.neighbours = Arc::clone(self.neighbours.ids());
        if !self.links.devices.is_empty() {
            let new = self.tunnels.lay(&self.links.devices, &self.roads, &mut self.neighbours);
            self.new_gateways.extend(new);
        }
        self.roads.adjacencies = Arc::clone(self.neighbours.adjacencies());
        self.roads.neighbours = Arc::clone(self.neighbours.ids());
        self.roads.narrowed = self.neighbours.any_narrow();
        &self.roads
    }

    /// The tunnels whose outer packets no router may cut.
    pub(super) fn whole_tunnels(&self) -> Vec<Ends> {
        if self.links.devices.values().all(|device| device.whole_from.is_none()) {
            return Vec::new();
        }
        let ends = self.roads.adjacencies.iter().filter_map(|adjacency| {
            let device = self.links.devices.get(&adjacency.interface)?;
            Some((device.whole_from?, adjacency.tunnel?.remote))
        });
        ends.collect::<BTreeSet<_>>().into_iter().collect()
    }

    /// Takes over how long outer packets may be. Those that are new.
    pub(super) fn follow_path_mtus(&mut self, learned: PathMtus) -> PathMtus {
        let known = std::mem::replace(&mut self.tunnels.path_mtus, learned);
        let now = &self.tunnels.path_mtus;
        self.changed |= known != *now;
        now.iter()
            .map(|(to, mtu)| (*to, *mtu))
            .filter(|(to, mtu)| known.get(to) != Some(mtu))
            .collect()
    }

    /// Notes that the description of a link has changed.
    pub(super) fn note_links(&mut self) {
        self.changed = true;
    }

    /// Rules that are not followed, and remotes that are not used, a line each.
    pub(super) fn refused(&self) -> Vec<String> {
        let name = |id: InterfaceId| {
            let mut names = self.names.iter();
            names.find(|(_, it)| **it == id).map_or("?", |(name, _)| name.as_str())
        };
        let remotes = self.tunnels.refused().map(|(id, why)| {
            format!(
                "{} (VXLAN): {why}, which natgate does not follow: pods behind it get nothing; give each remote one \
                 entry like the device's own",
                name(id)
            )
        });
        let links = self.narrow_links.iter().map(|(table, prefix)| {
            format!(
                "the mtu of route {prefix} (table {table}) is not followed: it leads to a link; lower the link's MTU, or \
                 give single hosts, or gateways, routes with an mtu"
            )
        });
        self.refused.iter().cloned().chain(remotes).chain(links).collect()
    }

    /// Whether anything has changed since the last time.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    /// Gateways that are new since the last time.
    pub(super) fn take_new_gateways(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.new_gateways)
    }

    pub(super) fn neighbours(&mut self) -> &mut Neighbours {
        &mut self.neighbours
    }

    /// Takes over what happened. Returns what has to be read again.
    pub(super) fn apply(&mut self, event: &Event) -> Stale {
        let none = Stale::default();
        let links = Stale { links: true, ..none };
        match event {
            Event::Route(change) => match self.tables.apply(change.clone()) {
                Ok(place) => self.follow(place),
                Err(place) => {
                    self.follow(place);
                    return Stale { routes: true, ..none };
                }
            },
            Event::Neighbour(fact) => self.follow_neighbour(fact),
            Event::Fdb(fact) => self.follow_fdb(fact),
            Event::Link(ifindex, up) => {
                if self.links.up.insert(*ifindex, *up) != Some(*up) {
                    self.follow_all();
                    return Stale { routes: true, ..links };
                }
                return links;
            }
            Event::Address | Event::NextHopObjects => return Stale { routes: true, ..links },
            Event::Rules => return Stale { rules: true, ..none },
            Event::Lost => return Stale::ALL,
        }
        none
    }

    /// Takes over a dump, and then what happened since it was begun. Returns how many routes were not as they were
    /// known.
    pub(super) fn adopt(&mut self, dump: Dump, since: &[Event]) -> usize {
        if let Some((links, _)) = &dump.links {
            self.names.clear();
            for link in links {
                if let Some(id) = self.links.served.get(&link.ifindex) {
                    self.names.insert(link.name.clone(), *id);
                }
            }
            let table = |master: u32| {
                let mut masters = links.iter().filter(|link| link.ifindex == master);
                masters.find_map(|link| link.vrf_table)
            };
            let vrf =
                |link: &Link| Some((*self.links.served.get(&link.ifindex)?, table(link.master)?));
            self.vrfs = links.iter().filter_map(vrf).collect();
            let up = links.iter().map(|link| (link.ifindex, link.up)).collect();
            if up != self.links.up {
                self.links.up = up;
                self.follow_all();
            }
            self.follow_rules();
        }
        if let Some(rules) = dump.rules {
            self.rules = rules;
            self.follow_rules();
        }
        if let Some((facts, fdb)) = dump.neighbours {
            let served = &self.links.served;
            let fdb = fdb.iter().filter_map(|fact| Some((*served.get(&fact.ifindex)?, fact)));
            self.changed |= self.tunnels.fdb.replace(fdb);
            let ours = facts.iter().filter_map(|fact| self.ours(fact)).collect();
            for noticed in self.neighbours.replace(ours) {
                self.notice(noticed);
            }
        }
        let mut different = 0;
        if let Some(routes) = dump.routes {
            let mut tables = Tables::of(routes);
            for event in since {
                if let Event::Route(change) = event {
                    // Contradictions are what the dump was newer than.
                    let _ = tables.apply(change.clone());
                }
            }
            let places = self.tables.differences(&tables);
            self.tables = tables;
            different = places.len();
            for place in places {
                self.follow(place);
            }
        }
        for event in since {
            match event {
                Event::Neighbour(fact) => self.follow_neighbour(fact),
                Event::Fdb(fact) => self.follow_fdb(fact),
                Event::Link(..) => drop(self.apply(event)),
                _ => {}
            }
        }
        different
    }

    fn ours(&self, fact: &Fact) -> Option<(Key, NeighbourState, Option<Mac>)> {
        let id = *self.links.served.get(&fact.ifindex)?;
        Some(((id, fact.address), fact.state, fact.mac))
    }

    fn follow_neighbour(&mut self, fact: &Fact) {
        let Some((key, state, mac)) = self.ours(fact) else { return };
        let noticed = self.neighbours.apply(key, state, mac);
        self.notice(noticed);
    }

    fn follow_fdb(&mut self, fact: &FdbFact) {
        if let Some(id) = self.links.served.get(&fact.ifindex) {
            self.changed |= self.tunnels.fdb.apply(*id, fact);
        }
    }

    fn notice(&mut self, noticed: Noticed) {
        match noticed {
            Noticed::Nothing => return,
            Noticed::Address(_) => {}
            Noticed::Life(id) => {
                if self.members.contains_key(&id) {
                    self.roads.note_change(Ipv4Net::default());
                } else if self.several_links > 0
                    && let Some(adjacency) = self.neighbours.adjacencies().get(id.0 as usize)
                {
                    self.roads.note_change(adjacency.address.into());
                }
            }
        }
        self.changed = true;
    }

    fn follow_rules(&mut self) {
        let (indices, tables) = (&mut self.indices, &mut self.roads.tables);
        let index = |id| index_of(indices, tables, id);
        let names = &self.names;
        let (signposts, refused) =
            signposts(&self.rules, index, |name| names.get(name).copied(), &self.vrfs);
        if self.roads.signposts[..] != signposts[..] {
            self.roads.signposts = signposts.into();
            self.roads.note_change(Ipv4Net::default());
            self.changed = true;
        }
        if self.refused != refused {
            self.refused = refused;
            self.changed = true;
        }
    }

    /// Looks at every route again.
    fn follow_all(&mut self) {
        let places: Vec<Place> = self.tables.places().collect();
        for place in places {
            self.follow(place);
        }
    }

    /// Looks at one prefix again.
    fn follow(&mut self, (table, prefix): Place) {
        if !self.links.devices.is_empty() {
            let network = |ifindex| self.links.network(ifindex);
            let routes = self.tables.routes_to_networks((table, prefix), &self.links, network);
            self.changed |= self.overlays.note((table, prefix), routes);
        }
        let target = self.tables.target((table, prefix), &self.links);
        let is_narrow = |hop: &Hop| hop.gateway.is_none() && hop.mtu.is_some();
        let narrow = prefix.prefix_len() < 32
            && matches!(&target, Some(Target::Ways(hops)) if hops.iter().any(is_narrow));
        if narrow {
            self.changed |= self.narrow_links.insert((table, prefix));
        } else {
            self.changed |= self.narrow_links.remove(&(table, prefix));
        }
        let route = target.map(|it| self.route(it, prefix));
        let index = index_of(&mut self.indices, &mut self.roads.tables, table);
        let routes = &mut self.roads.tables[index];
        if routes.get_exact(prefix) == route.as_ref() {
            return;
        }
        if let Some(route) = &route {
            self.count(route, true);
        }
        let routes = &mut self.roads.tables[index];
        let old = match route {
            Some(route) => routes.insert(prefix, route),
            None => routes.remove(prefix),
        };
        if let Some(old) = &old {
            self.count(old, false);
        }
        self.roads.note_change(prefix);
        self.changed = true;
    }

    /// The routes back to the pods of each overlay that has a number.
    fn lay_overlays(&mut self) {
        let mut overlays = Vec::new();
        for (number, routes) in self.overlays.tables() {
            let index = index_of_overlay(&self.roads.overlays, &mut self.roads.tables, number);
            let routes =
                routes.into_iter().map(|(to, hops)| (to, self.route(Target::Ways(hops), to)));
            let routes: Vec<(Ipv4Net, Route)> = routes.collect();
            overlays.push((number, index));
            let old = self.roads.tables[index].overlapping(Ipv4Net::default());
            let old: Vec<_> = old.into_iter().map(|(to, route)| (to, route.clone())).collect();
            if old == routes && self.roads.overlays.contains(&(number, index)) {
                continue;
            }
            for (_, route) in &routes {
                self.count(route, true);
            }
            for (_, route) in &old {
                self.count(route, false);
            }
            self.roads.tables[index] = routes.into_iter().collect();
            self.roads.note_change(Ipv4Net::default());
        }
        self.roads.overlays = overlays.into();
    }

    fn route(&mut self, target: Target, prefix: Ipv4Net) -> Route {
        let mut way = |hop: &Hop| {
            let id = self.links.served[&hop.ifindex];
            // A single host on the link is its own gateway.
            let host = (hop.mtu.is_some() && prefix.prefix_len() == 32).then(|| prefix.addr());
            hop.gateway.or(host).map_or(Way::OnLink(id), |gateway| {
                Way::Via(self.neighbours.id_within((id, gateway), hop.mtu))
            })
        };
        match target {
            Target::Ways(hops) => match &hops[..] {
                [only] => match way(only) {
                    Way::Via(id) => Route::Via(id),
                    Way::OnLink(id) => Route::OnLink(id),
                },
                several => {
                    let member = |hop: &Hop| Member { way: way(hop), weight: hop.weight };
                    Route::Several(several.iter().map(member).collect())
                }
            },
            Target::Local => Route::Local,
            Target::Denied(denial) => Route::Denied(denial),
            Target::Throw => Route::Throw,
            Target::Elsewhere => Route::Elsewhere,
        }
    }

    /// Notes that `route` is there now, or no longer is.
    fn count(&mut self, route: &Route, there: bool) {
        match route {
            Route::Via(id) => self.count_gateway(*id, there),
            Route::Several(members) => {
                for member in members.iter() {
                    match member.way {
                        Way::Via(id) => {
                            self.count_gateway(id, there);
                            // It lives and dies by its first number.
                            let known = self.neighbours.adjacencies().get(id.0 as usize);
                            let key = known.map(|it| (it.interface, it.address));
                            let id = key.map_or(id, |key| self.neighbours.id(key));
                            let count = self.members.entry(id).or_default();
                            *count = if there { *count + 1 } else { count.saturating_sub(1) };
                            if *count == 0 {
                                self.members.remove(&id);
                            }
                        }
                        Way::OnLink(_) if there => self.several_links += 1,
                        Way::OnLink(_) => self.several_links = self.several_links.saturating_sub(1),
                    }
                }
            }
            _ => {}
        }
    }

    fn count_gateway(&mut self, id: AdjacencyId, there: bool) {
        let Some(adjacency) = self.neighbours.adjacencies().get(id.0 as usize) else { return };
        let key = (adjacency.interface, adjacency.address);
        if !there {
            self.neighbours.lead_elsewhere(key);
        } else if self.neighbours.lead_by(key) {
            self.new_gateways.push(key);
        }
    }
}

/// The index of the table of the overlay `number`, a new one if it has none.
fn index_of_overlay(known: &[(u16, usize)], tables: &mut Vec<Lpm<Route>>, number: u16) -> usize {
    let known = known.iter().find(|(it, _)| *it == number);
    known.map_or_else(
        || {
            tables.push(Lpm::default());
            tables.len() - 1
        },
        |(_, index)| *index,
    )
}

/// The index of the table with the number `id`, a new one if it has none.
fn index_of(
    indices: &mut HashMap<u32, usize, RandomState>,
    tables: &mut Vec<Lpm<Route>>,
    id: u32,
) -> usize {
    *indices.entry(id).or_insert_with(|| {
        tables.push(Lpm::default());
        tables.len() - 1
    })
}
