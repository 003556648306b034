//! Which routes has the kernel, and which of them decides about a prefix?
//!
//! Pure state. Within a table the longest prefix wins; of several routes to one prefix the lowest metric, then the
//! first in the kernel's list, unless all its ways are dead.

use std::collections::HashMap;
use std::net::Ipv4Addr;

use ahash::RandomState;
use dataplane::roads::Denial;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags,
    RouteType,
};

use super::overlays::Network;

/// A prefix in the table with this number.
pub(super) type Place = (u32, Ipv4Net);

/// One way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) ifindex: u32,
    /// `None`: the destination is on the link.
    pub(super) gateway: Option<Ipv4Addr>,
    /// Its share against the others'.
    pub(super) weight: u16,
    /// The kernel says that it does not work.
    pub(super) dead: bool,
    /// Longest packet, if the route says so (`mtu`).
    pub(super) mtu: Option<u16>,
}

/// A way that exists and that natgate cannot use: it counts as one through an interface that natgate does
/// not serve.
const UNUSABLE: Hop = Hop { ifindex: 0, gateway: None, weight: 1, dead: false, mtu: None };

/// A route of the kernel, but for its place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRoute {
    pub(super) metric: u32,
    pub(super) kind: RouteType,
    pub(super) hops: Vec<Hop>,
}

/// What happened to a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// It is new: before those of the same metric.
    Added(Place, KernelRoute),
    /// It is new: after those of the same metric.
    Appended(Place, KernelRoute),
    /// It took the place of the first one of the same metric.
    Replaced(Place, KernelRoute),
    /// It is gone.
    Removed(Place, KernelRoute),
}

/// What a table says about a prefix.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// One of these, all by interfaces that natgate serves; never empty.
    Ways(Vec<Hop>),
    Local,
    Denied(Denial),
    Throw,
    Elsewhere,
}

/// What may be known of the interfaces that routes lead to.
pub(super) trait Interfaces {
    /// natgate serves it.
    fn is_served(&self, ifindex: u32) -> bool;
    /// It is up, as far as is known.
    fn is_up(&self, ifindex: u32) -> bool;
}

impl KernelRoute {
    /// The route in `message` and its place; `None` if it is not one that natgate follows (by type of service,
    /// cached, not IPv4).
    pub(super) fn from_message(message: &RouteMessage) -> Option<(Place, Self)> {
        let header = &message.header;
        if header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut prefix =
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?;
        let (mut table, mut metric, mut multipath) = (u32::from(header.table), 0, None);
        let (mut next_hop_object, mut mtu) = (false, None);
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    prefix = Ipv4Net::new(*address, prefix.prefix_len()).ok()?;
                }
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::MultiPath(hops) => multipath = Some(hops),
                RouteAttribute::NhId(_) => next_hop_object = true,
                RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(mtu_in),
                _ => {}
            }
        }
        let mut hops: Vec<Hop> = if let Some(hops) = multipath {
            let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
            let hops = hops.iter().filter_map(|hop| {
                let weight = u16::from(hop.hops) + 1;
                let found = hop_of(hop.interface_index, &hop.attributes)?;
                Some(Hop { weight, dead: hop.flags.intersects(dead), ..found })
            });
            hops.collect()
        } else {
            let dead = header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
            hop_of(0, &message.attributes).map(|hop| Hop { dead, ..hop }).into_iter().collect()
        };
        for hop in &mut hops {
            hop.mtu = mtu;
        }
        if next_hop_object && hops.is_empty() {
            // With `nexthop_compat_mode=0` the kernel names the next-hop object only. The route is there,
            // and a shorter prefix must not take its packets.
            hops.push(UNUSABLE);
        }
        Some(((table, prefix.trunc()), Self { metric, kind: header.kind, hops }))
    }

    /// Whether both are the same route, in whatever state.
    fn is(&self, other: &Self) -> bool {
        let ways = |route: &Self| {
            let ways = route.hops.iter().map(|hop| (hop.ifindex, hop.gateway, hop.weight));
            ways.collect::<Vec<_>>()
        };
        self.metric == other.metric && self.kind == other.kind && ways(self) == ways(other)
    }

    /// What the route says. `None` if it is as if the route were not there.
    fn target(&self, interfaces: &dyn Interfaces) -> Option<Target> {
        let denied = |denial| Some(Target::Denied(denial));
        match self.kind {
            RouteType::Unicast => {
                let alive =
                    self.hops.iter().filter(|hop| !hop.dead && interfaces.is_up(hop.ifindex));
                let alive: Vec<&Hop> = alive.collect();
                alive.first()?;
                let served = alive.into_iter().filter(|hop| interfaces.is_served(hop.ifindex));
                let ways: Vec<Hop> = served.cloned().collect();
                Some(if ways.is_empty() { Target::Elsewhere } else { Target::Ways(ways) })
            }
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
                Some(Target::Local)
            }
            RouteType::BlackHole => denied(Denial::Blackhole),
            RouteType::Unreachable => denied(Denial::Unreachable),
            RouteType::Prohibit => denied(Denial::Prohibit),
            RouteType::Throw => Some(Target::Throw),
            _ => Some(Target::Elsewhere),
        }
    }
}

fn mtu_in(metric: &RouteMetric) -> Option<u16> {
    match metric {
        // 0: none. With `lock` it is the same to natgate, which cuts and answers by it.
        RouteMetric::Mtu(mtu) => u16::try_from(*mtu).ok().filter(|mtu| *mtu > 0),
        _ => None,
    }
}

/// The hop that a list of attributes describes. A next hop with an IPv6 address cannot be used.
fn hop_of(ifindex: u32, attributes: &[RouteAttribute]) -> Option<Hop> {
    let mut hop = Hop { ifindex, ..UNUSABLE };
    for attribute in attributes {
        match attribute {
            RouteAttribute::Oif(ifindex) => hop.ifindex = *ifindex,
            RouteAttribute::Gateway(RouteAddress::Inet(gateway)) => hop.gateway = Some(*gateway),
            RouteAttribute::Via(_) => return Some(UNUSABLE),
            _ => {}
        }
    }
    (hop.ifindex != 0).then_some(hop)
}

/// All routes of all tables.
#[derive(Debug, Default)]
pub(super) struct Tables {
    /// By metric, then in the kernel's order; never empty.
    routes: HashMap<Place, Vec<KernelRoute>, RandomState>,
}

impl Tables {
    /// The routes of a dump, which are in the kernel's order.
    pub(super) fn of(dump: Vec<(Place, KernelRoute)>) -> Self {
        let mut tables = Self::default();
        tables.routes.reserve(dump.len());
        for (place, route) in dump {
            tables.routes.entry(place).or_default().push(route);
        }
        tables
    }

    /// Takes over a change; returns where. `Err`: it contradicts what is known.
    pub(super) fn apply(&mut self, change: Change) -> Result<Place, Place> {
        match change {
            Change::Added(place, route) => Ok(self.add(place, route, false)),
            Change::Appended(place, route) => Ok(self.add(place, route, true)),
            Change::Replaced(place, route) => {
                let routes = self.routes.entry(place).or_default();
                if let Some(old) = routes.iter_mut().find(|it| it.metric == route.metric) {
                    *old = route;
                    Ok(place)
                } else {
                    self.add(place, route, false);
                    Err(place)
                }
            }
            Change::Removed(place, route) => {
                let routes = self.routes.get_mut(&place).ok_or(place)?;
                let index = routes.iter().position(|it| it.is(&route)).ok_or(place)?;
                routes.remove(index);
                if routes.is_empty() {
                    self.routes.remove(&place);
                }
                Ok(place)
            }
        }
    }

    fn add(&mut self, place: Place, route: KernelRoute, last: bool) -> Place {
        let routes = self.routes.entry(place).or_default();
        // News of one that is known, or the echo of one that was dumped.
        if let Some(known) = routes.iter_mut().find(|it| it.is(&route)) {
            *known = route;
            return place;
        }
        let before =
            |it: &KernelRoute| it.metric < route.metric || last && it.metric == route.metric;
        let index = routes.iter().take_while(|it| before(it)).count();
        routes.insert(index, route);
        place
    }

    /// Where the two differ.
    pub(super) fn differences(&self, other: &Self) -> Vec<Place> {
        let changed =
            self.routes.iter().filter(|(place, routes)| other.routes.get(*place) != Some(*routes));
        let new = other.routes.keys().filter(|place| !self.routes.contains_key(*place));
        changed.map(|(place, _)| *place).chain(new.copied()).collect()
    }

    /// The routes of a place that lead into networks, by the `network` of an interface's index: the best one for each.
    pub(super) fn routes_to_networks(
        &self,
        place: Place,
        interfaces: &dyn Interfaces,
        network: impl Fn(u32) -> Option<Network>,
    ) -> Vec<(Network, Vec<Hop>)> {
        let mut found: Vec<(Network, Vec<Hop>)> = Vec::new();
        let routes = self.routes.get(&place).map_or(&[][..], Vec::as_slice);
        for route in routes.iter().filter(|route| route.kind == RouteType::Unicast) {
            let mut of_route: Vec<(Network, Vec<Hop>)> = Vec::new();
            for hop in route.hops.iter().filter(|hop| !hop.dead && interfaces.is_up(hop.ifindex)) {
                let Some(network) = network(hop.ifindex) else { continue };
                match of_route.iter_mut().find(|(it, _)| *it == network) {
                    Some((_, hops)) => hops.push(hop.clone()),
                    None => of_route.push((network, vec![hop.clone()])),
                }
            }
            let known: Vec<Network> = found.iter().map(|(network, _)| *network).collect();
            found.extend(of_route.into_iter().filter(|(network, _)| !known.contains(network)));
        }
        found
    }

    /// All places with a route.
    pub(super) fn places(&self) -> impl Iterator<Item = Place> {
        self.routes.keys().copied()
    }

    /// What the table says about the prefix; `None`: nothing.
    pub(super) fn target(&self, place: Place, interfaces: &dyn Interfaces) -> Option<Target> {
        self.routes.get(&place)?.iter().find_map(|route| route.target(interfaces))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Interface 2 and 3 are served, 3 is down.
    struct Two;

    impl Interfaces for Two {
        fn is_served(&self, ifindex: u32) -> bool {
            matches!(ifindex, 2 | 3)
        }

        fn is_up(&self, ifindex: u32) -> bool {
            ifindex != 3
        }
    }

    fn message(prefix: [u8; 4], len: u8, attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = 254;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = len;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(prefix.into())));
        message.attributes.extend_from_slice(attributes);
        message
    }

    fn place(prefix: &str) -> Place {
        (254, prefix.parse().unwrap())
    }

    fn target(messages: &[RouteMessage], prefix: &str) -> Option<Target> {
        let tables = Tables::of(messages.iter().filter_map(KernelRoute::from_message).collect());
        tables.target(place(prefix), &Two)
    }

    fn hop(ifindex: u32) -> Hop {
        Hop { ifindex, ..UNUSABLE }
    }

    fn route(metric: u32, last: u8) -> KernelRoute {
        let hop = Hop { gateway: Some(Ipv4Addr::new(10, 0, 0, last)), ..hop(2) };
        KernelRoute { metric, kind: RouteType::Unicast, hops: vec![hop] }
    }

    #[test]
    fn a_route_with_a_next_hop_object_only_leads_elsewhere() {
        let id = RouteAttribute::NhId(7);
        let bare = message([10, 1, 0, 0], 16, std::slice::from_ref(&id));
        assert_eq!(target(&[bare], "10.1.0.0/16"), Some(Target::Elsewhere));
        // In compatible mode the kernel says where the object leads, too.
        let compatible = message([10, 1, 0, 0], 16, &[id.clone(), RouteAttribute::Oif(2)]);
        assert_eq!(target(&[compatible], "10.1.0.0/16"), Some(Target::Ways(vec![hop(2)])));
        // A dead one is as if it were not there, as for routes without an object.
        let mut dead = message([10, 1, 0, 0], 16, &[id, RouteAttribute::Oif(2)]);
        dead.header.flags |= RouteFlags::Dead;
        assert_eq!(target(&[dead], "10.1.0.0/16"), None);
    }

    #[test]
    fn the_best_route_that_lives_decides() {
        let at = place("192.0.2.0/24");
        let mut tables = Tables::default();
        let decides = |tables: &Tables, last: u8| {
            assert_eq!(tables.target(at, &Two), Some(Target::Ways(route(0, last).hops)), "{last}");
        };
        for (change, last) in [
            (Change::Added(at, route(10, 1)), 1),
            (Change::Added(at, route(5, 2)), 2),
            (Change::Added(at, route(5, 3)), 3),
            (Change::Appended(at, route(5, 4)), 3),
            (Change::Removed(at, route(5, 3)), 2),
            (Change::Replaced(at, route(5, 5)), 5),
            (Change::Removed(at, route(5, 5)), 4),
            // The echo of one that is known.
            (Change::Added(at, route(5, 4)), 4),
            (Change::Removed(at, route(5, 4)), 1),
        ] {
            assert_eq!(tables.apply(change), Ok(at));
            decides(&tables, last);
        }
        let down = KernelRoute { hops: vec![hop(3)], ..route(1, 0) };
        tables.apply(Change::Added(at, down)).unwrap();
        decides(&tables, 1);
        tables.apply(Change::Removed(at, route(1, 9))).unwrap_err();
        tables.apply(Change::Replaced(at, route(2, 9))).unwrap_err();
        decides(&tables, 9);
        tables.apply(Change::Removed(at, route(2, 9))).unwrap();
        tables.apply(Change::Removed(at, route(10, 1))).unwrap();
        assert_eq!(tables.target(at, &Two), None);
    }

    #[test]
    fn of_several_ways_those_that_live_and_are_served_are_taken() {
        let ways = |ifindexes: &[u32]| KernelRoute {
            hops: ifindexes.iter().map(|ifindex| hop(*ifindex)).collect(),
            ..route(0, 0)
        };
        let at = place("0.0.0.0/0");
        let target = |ifindexes: &[u32]| Tables::of(vec![(at, ways(ifindexes))]).target(at, &Two);
        assert_eq!(target(&[2, 3, 2, 4]), Some(Target::Ways(vec![hop(2), hop(2)])));
        assert_eq!(target(&[3, 4]), Some(Target::Elsewhere));
        assert_eq!(target(&[3]), None);
    }

    #[test]
    fn differences_are_found_both_ways() {
        let [a, b, c, d] = ["10.1.0.0/16", "10.2.0.0/16", "10.3.0.0/16", "10.4.0.0/16"].map(place);
        let one = Tables::of(vec![(a, route(0, 1)), (b, route(0, 1)), (c, route(0, 1))]);
        let other = Tables::of(vec![(a, route(0, 1)), (b, route(0, 2)), (d, route(0, 1))]);
        let mut differences = one.differences(&other);
        differences.sort_unstable();
        assert_eq!(differences, [b, c, d]);
        assert!(one.differences(&one).is_empty());
    }
}
