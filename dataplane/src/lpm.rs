//! Which prefix is the longest that holds an address?

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

/// Bits of the address that one node decides.
const STRIDE: u32 = 4;
const SLOTS: usize = 1 << STRIDE;
/// No value, no child.
const NONE: u32 = u32::MAX;

/// One node of the trie: for each of the next four bits the best value so far and the child.
#[derive(Clone, Copy, Debug)]
struct Node {
    value: [u32; SLOTS],
    child: [u32; SLOTS],
}

impl Node {
    const EMPTY: Self = Self { value: [NONE; SLOTS], child: [NONE; SLOTS] };
}

/// An immutable longest-prefix-match table from IPv4 prefixes to values.
///
/// A look-up reads at most eight nodes of 128 bytes.
#[derive(Clone, Debug)]
pub struct Lpm<V> {
    nodes: Vec<Node>,
    values: Vec<V>,
    default: u32,
}

impl<V> Default for Lpm<V> {
    fn default() -> Self {
        Self { nodes: vec![Node::EMPTY], values: Vec::new(), default: NONE }
    }
}

impl<V> FromIterator<(Ipv4Net, V)> for Lpm<V> {
    /// Builds the table. Of two equal prefixes the later one wins.
    fn from_iter<I: IntoIterator<Item = (Ipv4Net, V)>>(iter: I) -> Self {
        let mut items: Vec<(Ipv4Net, V)> = iter.into_iter().collect();
        // Shorter prefixes first, so that longer ones overwrite the slots they expand to.
        items.sort_by_key(|(prefix, _)| prefix.prefix_len());
        let mut lpm = Self::default();
        for (prefix, value) in items {
            lpm.insert(prefix, value);
        }
        lpm
    }
}

impl<V> Lpm<V> {
    fn insert(&mut self, prefix: Ipv4Net, value: V) {
        let id = self.values.len() as u32;
        self.values.push(value);
        let bits = u32::from(prefix.network());
        let mut remaining = u32::from(prefix.prefix_len());
        if remaining == 0 {
            self.default = id;
            return;
        }
        let mut node = 0;
        let mut shift = 32 - STRIDE;
        while remaining > STRIDE {
            node = self.child(node, (bits >> shift) as usize % SLOTS);
            remaining -= STRIDE;
            shift -= STRIDE;
        }
        let first = (bits >> shift) as usize % SLOTS;
        let count = 1 << (STRIDE - remaining);
        self.nodes[node].value[first..first + count].fill(id);
    }

    fn child(&mut self, node: usize, slot: usize) -> usize {
        if self.nodes[node].child[slot] == NONE {
            self.nodes[node].child[slot] = self.nodes.len() as u32;
            self.nodes.push(Node::EMPTY);
        }
        self.nodes[node].child[slot] as usize
    }

    /// The value of the longest prefix that holds `addr`.
    pub fn get(&self, addr: Ipv4Addr) -> Option<&V> {
        let bits = u32::from(addr);
        let mut best = self.default;
        let mut node = 0u32;
        let mut shift = 32;
        while node != NONE && shift > 0 {
            shift -= STRIDE;
            let slot = (bits >> shift) as usize % SLOTS;
            let here = &self.nodes[node as usize];
            if here.value[slot] != NONE {
                best = here.value[slot];
            }
            node = here.child[slot];
        }
        (best != NONE).then(|| &self.values[best as usize])
    }

    /// Whether some prefix holds `addr`.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        self.get(addr).is_some()
    }

    /// How many prefixes the table holds.
    pub fn len(&self) -> usize {
        self.values.len()
    }

    /// Whether the table holds no prefix.
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(items: &[(Ipv4Net, u32)], addr: Ipv4Addr) -> Option<u32> {
        items
            .iter()
            .filter(|(prefix, _)| prefix.contains(&addr))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|&(_, value)| value)
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            raw in prop::collection::btree_map((0u32..1 << 12, 0u8..=32), any::<u32>(), 0..60),
            addrs in prop::collection::vec(0u32..1 << 12, 50),
        ) {
            // Addresses crowd into one /20 so that prefixes nest.
            let mut seen = std::collections::BTreeMap::new();
            for ((low, len), value) in raw {
                let net = Ipv4Net::new(Ipv4Addr::from(0x0a64_0000 | low << 4), len).unwrap().trunc();
                seen.insert(net, value);
            }
            let items: Vec<_> = seen.into_iter().collect();
            let lpm: Lpm<u32> = items.iter().copied().collect();
            for low in addrs {
                let addr = Ipv4Addr::from(0x0a64_0000 | (low << 4) | (low % 16));
                prop_assert_eq!(lpm.get(addr).copied(), naive(&items, addr));
            }
        }
    }

    #[test]
    fn default_route_and_host_route() {
        let lpm: Lpm<u8> = [("0.0.0.0/0", 1), ("10.0.0.1/32", 2)]
            .into_iter()
            .map(|(net, value)| (net.parse().unwrap(), value))
            .collect();
        assert_eq!(lpm.get("192.0.2.1".parse().unwrap()), Some(&1));
        assert_eq!(lpm.get("10.0.0.1".parse().unwrap()), Some(&2));
        assert_eq!(lpm.get("10.0.0.2".parse().unwrap()), Some(&1));
        assert_eq!(Lpm::<u8>::default().get(Ipv4Addr::LOCALHOST), None);
    }
}
