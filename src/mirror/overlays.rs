//! Are there pods with one address in several VXLAN networks? Then each such network is an overlay of its own.
//!
//! Pure state. Within a table the longest prefix tells addresses apart; what can't be told apart is a prefix that has
//! routes into several networks there (of different metrics), or in other tables, as with one VRF for each network.

use std::collections::{BTreeMap, BTreeSet};

use ipnet::Ipv4Net;

use super::tables::{Hop, Place};

/// VNI and port.
pub(super) type Network = (u32, u16);

/// The routes into VXLAN networks, and the networks' numbers.
#[derive(Debug, Default)]
pub(super) struct Overlays {
    /// At most one for each network in each place.
    routes: BTreeMap<Place, Vec<(Network, Vec<Hop>)>>,
    /// Kept for good: pods are not to change with a route that comes and goes.
    numbers: BTreeMap<Network, u16>,
    changed: bool,
}

impl Overlays {
    /// Takes over which networks a place leads to, best first. Whether that is new: it is also where another route
    /// decides for all others.
    pub(super) fn note(&mut self, place: Place, routes: Vec<(Network, Vec<Hop>)>) -> bool {
        let before = self.routes.get(&place);
        if before.map_or(&[][..], Vec::as_slice) == routes {
            return false;
        }
        self.changed = true;
        if routes.is_empty() {
            self.routes.remove(&place);
        } else {
            self.routes.insert(place, routes);
        }
        true
    }

    /// Whether anything is different since the last time. Gives numbers to networks that need them.
    pub(super) fn take_changed(&mut self) -> bool {
        if !std::mem::take(&mut self.changed) {
            return false;
        }
        for network in self.mixed() {
            let next = self.numbers.len() as u16 + 1;
            self.numbers.entry(network).or_insert_with(|| {
                tracing::warn!(
                    vni = network.0,
                    port = network.1,
                    overlay = next,
                    "pods of this VXLAN network have addresses that others have too: they are told apart from now on"
                );
                next
            });
        }
        true
    }

    /// The number of a network: 0 if addresses tell its pods apart.
    pub(super) fn number(&self, network: Network) -> u16 {
        self.numbers.get(&network).copied().unwrap_or_default()
    }

    /// The networks with a number, and their routes.
    pub(super) fn tables(&self) -> Vec<(u16, BTreeMap<Ipv4Net, Vec<Hop>>)> {
        let table = |(network, number): (&Network, &u16)| {
            let mut table = BTreeMap::new();
            for ((_, prefix), routes) in &self.routes {
                if let Some((_, hops)) = routes.iter().find(|(it, _)| it == network) {
                    table.entry(*prefix).or_insert_with(|| hops.clone());
                }
            }
            (*number, table)
        };
        self.numbers.iter().map(table).collect()
    }

    /// The networks whose pods' addresses are in others, too.
    fn mixed(&self) -> BTreeSet<Network> {
        let mut routes: Vec<(Ipv4Net, u32, Vec<Network>)> = (self.routes.iter())
            .map(|((table, prefix), routes)| {
                (*prefix, *table, routes.iter().map(|(network, _)| *network).collect())
            })
            // Everything is no pods' prefix.
            .filter(|(prefix, ..)| prefix.prefix_len() > 0)
            .collect();
        // A prefix comes after those that hold it.
        routes.sort_by_key(|(prefix, table, _)| (prefix.network(), prefix.prefix_len(), *table));
        let mut mixed = BTreeSet::new();
        let mut holding: Vec<&(Ipv4Net, u32, Vec<Network>)> = Vec::new();
        for same in routes.chunk_by(|one, other| one.0 == other.0) {
            let prefix = &same[0].0;
            while holding.last().is_some_and(|(outer, ..)| !outer.contains(prefix)) {
                holding.pop();
            }
            holding.extend(same);
            // What each table says about this prefix.
            let mut tables = BTreeSet::new();
            let said = holding.iter().rev().filter(|(_, table, _)| tables.insert(*table));
            let meeting: BTreeSet<Network> =
                said.flat_map(|(.., networks)| networks).copied().collect();
            if meeting.len() > 1 {
                mixed.extend(meeting);
            }
        }
        mixed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RED: Network = (1, 8472);
    const BLUE: Network = (2, 8472);
    const GREEN: Network = (3, 8472);

    fn numbers(routes: &[(u32, &str, &[Network])]) -> [u16; 3] {
        let mut overlays = Overlays::default();
        for (table, prefix, networks) in routes {
            let routes = networks.iter().map(|network| (*network, Vec::new())).collect();
            overlays.note((*table, prefix.parse().unwrap()), routes);
        }
        overlays.take_changed();
        [RED, BLUE, GREEN].map(|network| overlays.number(network))
    }

    #[test]
    fn networks_that_addresses_tell_apart_have_no_number() {
        assert_eq!(numbers(&[]), [0; 3]);
        assert_eq!(
            numbers(&[
                (254, "10.244.0.0/16", &[RED]),
                (254, "10.244.1.0/24", &[BLUE]),
                (254, "10.245.0.0/16", &[GREEN]),
                (7, "0.0.0.0/0", &[GREEN]),
                (7, "10.244.1.0/24", &[BLUE]),
            ]),
            [0; 3],
            "one table, nested"
        );
    }

    #[test]
    fn networks_with_one_prefix_are_told_apart() {
        let by_metric = [(254, "10.244.1.0/24", &[RED, BLUE][..]), (254, "10.9.0.0/16", &[GREEN])];
        assert_eq!(numbers(&by_metric), [1, 2, 0]);
        let by_table: [(u32, &str, &[Network]); 3] = [
            (10, "10.244.1.0/24", &[RED]),
            (20, "10.244.0.0/16", &[BLUE]),
            (30, "10.243.0.0/16", &[GREEN]),
        ];
        assert_eq!(numbers(&by_table), [1, 2, 0]);
        let same: [(u32, &str, &[Network]); 2] =
            [(10, "10.244.1.0/24", &[RED]), (20, "10.244.1.0/24", &[BLUE])];
        assert_eq!(numbers(&same), [1, 2, 0]);
    }

    #[test]
    fn numbers_stay_and_tables_have_their_own_routes_only() {
        let place = (10, "10.244.1.0/24".parse().unwrap());
        let mut overlays = Overlays::default();
        assert!(overlays.note(place, vec![(RED, Vec::new()), (BLUE, Vec::new())]));
        assert!(overlays.take_changed());
        assert!(overlays.note(place, vec![(BLUE, Vec::new())]));
        assert!(!overlays.note(place, vec![(BLUE, Vec::new())]));
        assert!(overlays.take_changed());
        assert!(!overlays.take_changed());
        assert_eq!((overlays.number(RED), overlays.number(BLUE)), (1, 2));
        let tables = overlays.tables();
        assert_eq!(tables[0], (1, BTreeMap::new()));
        assert_eq!(tables[1].1.keys().collect::<Vec<_>>(), [&place.1]);
    }
}
