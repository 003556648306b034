//! Which of the kernel's routes decides about a prefix?
//!
//! The kernel looks into its `local` table first, then into `main`; within a table the longest prefix
//! wins, then the lowest metric, then the route that was listed first.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHopFlags, RouteType,
};

/// The tables that decide, in the order in which the kernel asks them.
const TABLES: [u32; 2] = [255, 254];
/// Never forwarded (RFC 1812 5.2.3 and 5.3.5): multicast and the limited broadcast address.
const NEVER_FORWARDED: [(Ipv4Addr, u8); 2] =
    [(Ipv4Addr::new(224, 0, 0, 0), 4), (Ipv4Addr::BROADCAST, 32)];

/// One way to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hop {
    pub(super) ifindex: u32,
    /// `None`: the destination is on the link.
    pub(super) gateway: Option<Ipv4Addr>,
}

/// A way that exists and that natgate cannot use: it counts as one through an interface that natgate does
/// not serve.
const UNUSABLE: Hop = Hop { ifindex: 0, gateway: None };

/// A route of the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct KernelRoute {
    pub(super) table: u32,
    pub(super) prefix: Ipv4Net,
    pub(super) metric: u32,
    pub(super) kind: RouteType,
    /// Ways that are alive.
    pub(super) hops: Vec<Hop>,
}

/// What the tables say about a prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Target {
    Gateway(u32, Ipv4Addr),
    OnLink(u32),
    Local,
    Unreachable,
    Elsewhere,
}

impl KernelRoute {
    /// The route in `message`; `None` if it is not one that natgate follows (by type of service, cached,
    /// not IPv4).
    pub(super) fn from_message(message: &RouteMessage) -> Option<Self> {
        let header = &message.header;
        if header.tos != 0 || header.flags.contains(RouteFlags::Cloned) {
            return None;
        }
        let mut prefix =
            Ipv4Net::new(Ipv4Addr::UNSPECIFIED, header.destination_prefix_length).ok()?;
        let (mut table, mut metric, mut multipath) = (u32::from(header.table), 0, None);
        let mut next_hop_object = false;
        for attribute in &message.attributes {
            match attribute {
                RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                    prefix = Ipv4Net::new(*address, prefix.prefix_len()).ok()?;
                }
                RouteAttribute::Table(id) => table = *id,
                RouteAttribute::Priority(value) => metric = *value,
                RouteAttribute::MultiPath(hops) => multipath = Some(hops),
                RouteAttribute::NhId(_) => next_hop_object = true,
                _ => {}
            }
        }
        let dead = header.flags.intersects(RouteFlags::Dead | RouteFlags::Linkdown);
        let mut hops: Vec<Hop> = match multipath {
            Some(hops) => {
                let dead = RouteNextHopFlags::Dead | RouteNextHopFlags::Linkdown;
                let alive = hops.iter().filter(|hop| !hop.flags.intersects(dead));
                alive.filter_map(|hop| hop_of(hop.interface_index, &hop.attributes)).collect()
            }
            None if dead => Vec::new(),
            None => hop_of(0, &message.attributes).into_iter().collect(),
        };
        if next_hop_object && multipath.is_none() && hops.is_empty() && !dead {
            // With `nexthop_compat_mode=0` the kernel names the next-hop object only. The route is there,
            // and a shorter prefix must not take its packets.
            hops.push(UNUSABLE);
        }
        Some(Self { table, prefix: prefix.trunc(), metric, kind: header.kind, hops })
    }

    /// What the route says, where `ours` tells the interfaces that natgate serves. `None` if it is as if
    /// the route were not there.
    fn target(&self, ours: &dyn Fn(u32) -> bool) -> Option<Target> {
        match self.kind {
            RouteType::Unicast => {
                let best = self.hops.iter().find(|hop| ours(hop.ifindex));
                Some(match best.or(self.hops.first())? {
                    hop if !ours(hop.ifindex) => Target::Elsewhere,
                    Hop { ifindex, gateway: Some(gateway) } => Target::Gateway(*ifindex, *gateway),
                    Hop { ifindex, gateway: None } => Target::OnLink(*ifindex),
                })
            }
            RouteType::Local | RouteType::Broadcast | RouteType::Anycast | RouteType::Multicast => {
                Some(Target::Local)
            }
            RouteType::BlackHole
            | RouteType::Unreachable
            | RouteType::Prohibit
            | RouteType::Throw => Some(Target::Unreachable),
            _ => Some(Target::Elsewhere),
        }
    }
}

/// The hop that a list of attributes describes. A next hop with an IPv6 address cannot be used.
fn hop_of(ifindex: u32, attributes: &[RouteAttribute]) -> Option<Hop> {
    let mut hop = Hop { ifindex, gateway: None };
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

/// Merges all tables: one target for each prefix, sorted by prefix.
pub(super) fn merge(routes: &[KernelRoute], ours: &dyn Fn(u32) -> bool) -> Vec<(Ipv4Net, Target)> {
    let mut merged: BTreeMap<Ipv4Net, Target> = BTreeMap::new();
    for table in TABLES {
        let mut best: BTreeMap<Ipv4Net, (u32, Target)> = BTreeMap::new();
        for route in routes.iter().filter(|route| route.table == table) {
            let Some(target) = route.target(ours) else { continue };
            let entry = best.entry(route.prefix).or_insert((route.metric, target));
            if route.metric < entry.0 {
                *entry = (route.metric, target);
            }
        }
        // A shorter prefix of an earlier table hides longer ones of this table.
        let hiding: Vec<Ipv4Net> =
            merged.keys().filter(|prefix| prefix.prefix_len() < 32).copied().collect();
        for (prefix, (_, target)) in best {
            if !hiding.iter().any(|earlier| earlier.contains(&prefix)) {
                merged.entry(prefix).or_insert(target);
            }
        }
    }
    for (address, len) in NEVER_FORWARDED {
        if let Ok(prefix) = Ipv4Net::new(address, len) {
            merged.insert(prefix, Target::Local);
        }
    }
    merged.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(prefix: [u8; 4], len: u8, attributes: &[RouteAttribute]) -> RouteMessage {
        let mut message = RouteMessage::default();
        message.header.table = 254;
        message.header.kind = RouteType::Unicast;
        message.header.destination_prefix_length = len;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::Inet(prefix.into())));
        message.attributes.extend_from_slice(attributes);
        message
    }

    fn target(messages: &[RouteMessage], prefix: &str) -> Option<Target> {
        let routes: Vec<_> = messages.iter().filter_map(KernelRoute::from_message).collect();
        let merged = merge(&routes, &|ifindex| ifindex == 2);
        let prefix = prefix.parse().unwrap();
        merged.into_iter().find_map(|(net, target)| (net == prefix).then_some(target))
    }

    #[test]
    fn a_route_with_a_next_hop_object_only_leads_elsewhere() {
        let id = RouteAttribute::NhId(7);
        let bare = route([10, 1, 0, 0], 16, std::slice::from_ref(&id));
        assert_eq!(target(&[bare], "10.1.0.0/16"), Some(Target::Elsewhere));
        // In compatible mode the kernel says where the object leads, too.
        let compatible = route([10, 1, 0, 0], 16, &[id.clone(), RouteAttribute::Oif(2)]);
        assert_eq!(target(&[compatible], "10.1.0.0/16"), Some(Target::OnLink(2)));
        // A dead one is as if it were not there, as for routes without an object.
        let mut dead = route([10, 1, 0, 0], 16, &[id, RouteAttribute::Oif(2)]);
        dead.header.flags |= RouteFlags::Dead;
        assert_eq!(target(&[dead], "10.1.0.0/16"), None);
    }
}
