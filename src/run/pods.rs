//! Which destinations inside `from` are pods that the kernel reaches, and which would leave?
//!
//! What pods send each other through this node is the kernel's. But a destination inside `from` that no
//! pod has (a drained node, a withdrawn route) follows a shorter route to the outside, and must not get there
//! untranslated. So only those parts of `from` are left to the kernel that it routes towards pods.

use std::collections::BTreeSet;

use dataplane::interface::{InterfaceId, Roles};
use dataplane::lpm::Lpm;
use dataplane::roads::Route;
use ipnet::{Ipv4Net, Ipv4Subnets};

use crate::mirror::MirrorState;

/// The parts of `from` that the kernel's routes in `state` lead to pods, as disjoint prefixes. `roles` are those
/// of the gateway's interfaces.
pub(super) fn behind_the_kernel(
    from: &[Ipv4Net],
    state: &MirrorState,
    roles: &[Roles],
) -> Vec<Ipv4Net> {
    let interface_of = |route: Route| match route {
        Route::Via(id) => state.roads.adjacency(id).map(|adjacency| adjacency.interface),
        Route::OnLink(interface) => Some(interface),
        Route::Local | Route::Unreachable | Route::Elsewhere => None,
    };
    let leads_to_pods = |from: &Ipv4Net, prefix: &Ipv4Net, route: Route| {
        let inside = from.contains(prefix);
        match (route, interface_of(route)) {
            // Another interface of this host, such as the bridge of its own pods; or another way out.
            (Route::Elsewhere, _) => inside,
            (_, Some(InterfaceId(id))) => match roles.get(usize::from(id)) {
                Some(Roles { internal: true, external: false }) => true,
                // One-armed: the outside is there, too.
                Some(Roles { internal: true, external: true }) => inside,
                _ => false,
            },
            _ => false,
        }
    };
    let table: Lpm<(Ipv4Net, Route)> =
        state.routes.iter().map(|&(prefix, route)| (prefix, (prefix, route))).collect();
    let mut kept = Vec::new();
    for from in Ipv4Net::aggregate(&from.to_vec()) {
        for (first, last) in pieces(from, state.routes.iter().map(|(prefix, _)| prefix)) {
            let route = table.get(first.into());
            if route.is_some_and(|(prefix, route)| leads_to_pods(&from, prefix, *route)) {
                kept.extend(Ipv4Subnets::new(first.into(), last.into(), 0));
            }
        }
    }
    Ipv4Net::aggregate(&kept)
}

/// Cuts `from` where a prefix begins or ends: within each piece (first and last address) one route decides.
fn pieces<'a>(from: Ipv4Net, prefixes: impl Iterator<Item = &'a Ipv4Net>) -> Vec<(u32, u32)> {
    let (first, last) = (u32::from(from.network()), u32::from(from.broadcast()));
    let mut starts = BTreeSet::from([first]);
    for prefix in prefixes {
        let after = u32::from(prefix.broadcast()).checked_add(1);
        let bounds = [Some(u32::from(prefix.network())), after];
        starts.extend(bounds.into_iter().flatten().filter(|bound| (first..=last).contains(bound)));
    }
    let ends = starts.iter().skip(1).map(|start| start - 1).chain([last]);
    starts.iter().copied().zip(ends).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::roads::{Adjacency, AdjacencyId, Roads};

    use super::*;

    const INSIDE: Roles = Roles { internal: true, external: false };
    const OUTSIDE: Roles = Roles { internal: false, external: true };
    const BOTH: Roles = Roles { internal: true, external: true };

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn kept(from: &[&str], routes: &[(&str, Route)], roles: &[Roles]) -> Vec<Ipv4Net> {
        let adjacency = |id| Adjacency {
            interface: InterfaceId(id),
            address: [10, 0, 0, id].into(),
            mac: None,
        };
        let roads = Roads { adjacencies: vec![adjacency(0), adjacency(1)], ..Roads::default() };
        let state = MirrorState {
            roads: Arc::new(roads),
            routes: Arc::new(routes.iter().map(|&(prefix, route)| (net(prefix), route)).collect()),
            links: Vec::new(),
            host_addresses: Vec::new(),
            rebuilds: 0,
            resyncs: 0,
        };
        let from: Vec<Ipv4Net> = from.iter().map(|prefix| net(prefix)).collect();
        behind_the_kernel(&from, &state, roles)
    }

    fn nets(texts: &[&str]) -> Vec<Ipv4Net> {
        texts.iter().map(|text| net(text)).collect()
    }

    #[test]
    fn what_no_pod_has_is_not_left_to_the_kernel() {
        let routes = [
            ("0.0.0.0/0", Route::Via(AdjacencyId(1))),
            ("10.244.1.0/24", Route::Via(AdjacencyId(0))),
            ("10.244.2.0/24", Route::OnLink(InterfaceId(0))),
            ("10.244.3.0/24", Route::Elsewhere),
            ("10.244.4.0/24", Route::Unreachable),
            ("10.244.1.128/25", Route::Via(AdjacencyId(1))),
        ];
        let kept = kept(&["10.244.0.0/16"], &routes, &[INSIDE, OUTSIDE]);
        assert_eq!(kept, nets(&["10.244.1.0/25", "10.244.2.0/23"]));
    }

    #[test]
    fn a_shorter_route_by_the_internal_side_leads_to_pods_and_one_elsewhere_may_not() {
        let internal = [("10.0.0.0/8", Route::Via(AdjacencyId(0)))];
        assert_eq!(
            kept(&["10.244.0.0/16"], &internal, &[INSIDE, OUTSIDE]),
            nets(&["10.244.0.0/16"])
        );
        let elsewhere = [("0.0.0.0/0", Route::Elsewhere)];
        assert_eq!(kept(&["10.244.0.0/16"], &elsewhere, &[INSIDE, OUTSIDE]), nets(&[]));
        assert_eq!(kept(&["10.244.0.0/16"], &[], &[INSIDE, OUTSIDE]), nets(&[]));
    }

    #[test]
    fn one_armed_gateways_go_by_the_prefix() {
        let routes = [
            ("0.0.0.0/0", Route::Via(AdjacencyId(0))),
            ("10.244.1.0/24", Route::Via(AdjacencyId(0))),
        ];
        assert_eq!(kept(&["10.244.0.0/16"], &routes, &[BOTH]), nets(&["10.244.1.0/24"]));
    }
}
