//! Which destinations inside `from` are pods that the kernel reaches, and which would leave?
//!
//! What pods send each other through this node is the kernel's. But a destination inside `from` that no
//! pod has (a drained node, a withdrawn route) follows a shorter route to the outside, and must not get there
//! untranslated. So only those parts of `from` are left to the kernel that it routes towards pods.

use std::collections::BTreeSet;

use dataplane::interface::{InterfaceId, Roles};
use dataplane::roads::{Roads, Route, Way};
use ipnet::{Ipv4Net, Ipv4Subnets};

/// What becomes of a packet to a destination inside `from` that the kernel routes so.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Outcome {
    /// It gets to the pods.
    Pods,
    /// It gets nowhere, or to this host.
    Ends,
    /// It leaves.
    Leaves,
}

/// The parts of `from` that the kernel's `roads` lead to pods, whoever sends there, as disjoint prefixes. `roles` are
/// those of the gateway's interfaces.
pub(super) fn behind_the_kernel(from: &[Ipv4Net], roads: &Roads, roles: &[Roles]) -> Vec<Ipv4Net> {
    let mut kept = Vec::new();
    for from in Ipv4Net::aggregate(&from.to_vec()) {
        for (first, last) in pieces(from, &bounds(from, roads)) {
            let routes = roads.possible_routes(first.into());
            let outcomes = routes.into_iter().map(|route| {
                let inside = route.is_some_and(|(prefix, _)| from.contains(&prefix));
                route.map_or(Outcome::Ends, |(_, route)| outcome(route, inside, roads, roles))
            });
            let outcomes: Vec<Outcome> = outcomes.collect();
            if outcomes.contains(&Outcome::Pods) && !outcomes.contains(&Outcome::Leaves) {
                kept.extend(Ipv4Subnets::new(first.into(), last.into(), 0));
            }
        }
    }
    Ipv4Net::aggregate(&kept)
}

/// What `route` does with a packet; `inside`: it is a route inside `from`.
fn outcome(route: &Route, inside: bool, roads: &Roads, roles: &[Roles]) -> Outcome {
    let by = |id: InterfaceId| match roles.get(id.index()) {
        Some(Roles { internal: true, external: false }) => Outcome::Pods,
        // One-armed: the outside is there, too.
        Some(Roles { internal: true, external: true }) if inside => Outcome::Pods,
        _ => Outcome::Leaves,
    };
    let via = |id| roads.adjacency(id).map_or(Outcome::Leaves, |road| by(road.interface));
    match route {
        Route::Via(id) => via(*id),
        Route::OnLink(id) => by(*id),
        Route::Several(members) => {
            let mut outcomes = members.iter().map(|member| match member.way {
                Way::Via(id) => via(id),
                Way::OnLink(id) => by(id),
            });
            let all = outcomes.all(|outcome| outcome == Outcome::Pods);
            if all { Outcome::Pods } else { Outcome::Leaves }
        }
        // Another interface of this host, such as the bridge of its own pods; or another way out.
        Route::Elsewhere if inside => Outcome::Pods,
        Route::Elsewhere => Outcome::Leaves,
        Route::Local | Route::Denied(_) | Route::Throw => Outcome::Ends,
    }
}

/// The prefixes by which routes and rules tell destinations inside `from` apart.
fn bounds(from: Ipv4Net, roads: &Roads) -> Vec<Ipv4Net> {
    let routes = roads.tables.iter().flat_map(|table| table.overlapping(from));
    let routes = routes.map(|(prefix, _)| prefix);
    routes.chain(roads.signposts.iter().map(|signpost| signpost.to)).collect()
}

/// Cuts `from` where a prefix begins or ends: within each piece (first and last address) one route decides.
fn pieces(from: Ipv4Net, prefixes: &[Ipv4Net]) -> Vec<(u32, u32)> {
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
    use dataplane::roads::{Adjacency, AdjacencyId, Denial, Member, Signpost, Towards};

    use super::*;

    const INSIDE: Roles = Roles { internal: true, external: false };
    const OUTSIDE: Roles = Roles { internal: false, external: true };
    const BOTH: Roles = Roles { internal: true, external: true };

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    fn roads(routes: &[(&str, Route)]) -> Roads {
        let adjacency = |id| Adjacency::new(InterfaceId(id), [10, 0, 0, id].into(), None);
        let routes = routes.iter().map(|(prefix, route)| (net(prefix), route.clone()));
        Roads::new(routes, vec![adjacency(0), adjacency(1)])
    }

    fn kept(from: &[&str], routes: &[(&str, Route)], roles: &[Roles]) -> Vec<Ipv4Net> {
        let from: Vec<Ipv4Net> = from.iter().map(|prefix| net(prefix)).collect();
        behind_the_kernel(&from, &roads(routes), roles)
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
            ("10.244.4.0/24", Route::Denied(Denial::Unreachable)),
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

    #[test]
    fn of_several_ways_all_must_lead_to_pods() {
        let several = |ids: [u32; 2]| {
            let member = |id| Member { way: Way::Via(AdjacencyId(id)), weight: 1 };
            Route::Several(ids.map(member).into())
        };
        let routes = [("10.244.1.0/24", several([0, 0])), ("10.244.2.0/24", several([0, 1]))];
        assert_eq!(kept(&["10.244.0.0/16"], &routes, &[INSIDE, OUTSIDE]), nets(&["10.244.1.0/24"]));
    }

    #[test]
    fn no_rule_may_lead_what_the_kernel_keeps_outside() {
        let main = [("10.244.0.0/16", Route::Via(AdjacencyId(0)))];
        let from = [net("10.244.0.0/16")];
        let with = |signpost: Signpost, route: Route| {
            let mut roads = roads(&main);
            roads.tables.push([(net("10.244.1.0/24"), route)].into_iter().collect());
            roads.signposts = [signpost, Signpost::to_table(0)].into();
            behind_the_kernel(&from, &roads, &[INSIDE, OUTSIDE])
        };
        let outside = Route::Via(AdjacencyId(1));
        let mut without =
            nets(&["10.244.0.0/24", "10.244.2.0/23", "10.244.4.0/22", "10.244.8.0/21"]);
        without.extend(nets(&[
            "10.244.16.0/20",
            "10.244.32.0/19",
            "10.244.64.0/18",
            "10.244.128.0/17",
        ]));
        let some = Signpost { from: net("10.244.7.0/24"), ..Signpost::to_table(1) };
        assert_eq!(with(some.clone(), outside.clone()), without);
        // Nor one that natgate does not understand.
        let unclear = Signpost { towards: Towards::Unclear(1), ..Signpost::to_table(1) };
        assert_eq!(with(unclear, outside.clone()), without);
        // One that ends here, or leads to the pods, is no danger; nor one about other destinations.
        assert_eq!(with(some.clone(), Route::Local), from);
        assert_eq!(with(some.clone(), Route::Via(AdjacencyId(0))), from);
        let others = Signpost { to: net("192.0.2.0/24"), ..some };
        assert_eq!(with(others, outside), from);
    }
}
