//! Which prefix is the longest that holds an address?

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::Ipv4Net;

/// Bits of the address that one node decides.
const STRIDE: u32 = 4;

/// For each value of the next four bits, the places of the prefixes of up to three bits that hold it.
const ON_THE_WAY: [u16; 1 << STRIDE] = {
    let mut places = [0; 1 << STRIDE];
    let mut bits = 0;
    while bits < places.len() {
        places[bits] = 1 << 1 | 1 << (2 | bits >> 3) | 1 << (4 | bits >> 2) | 1 << (8 | bits >> 1);
        bits += 1;
    }
    places
};

/// A node of the trie: the prefixes that end less than four bits below it, and its children.
///
/// The prefix of the next `len` bits, 0 to 3, has the place `1 << len | bits`: longer ones have higher places.
#[derive(Clone, Debug)]
struct Node<V> {
    /// Places that are taken; their values in the same order.
    places: u16,
    /// Values of the next four bits that have a child; the children in the same order.
    branches: u16,
    values: Vec<V>,
    children: Vec<Arc<Node<V>>>,
}

impl<V> Default for Node<V> {
    fn default() -> Self {
        Self { places: 0, branches: 0, values: Vec::new(), children: Vec::new() }
    }
}

/// A longest-prefix-match table from IPv4 prefixes to values.
///
/// Copies share what is equal (a tree bitmap, Eatherton et al. 2004, of counted nodes): a copy costs nothing,
/// and a change copies the at most nine nodes on its way. A look-up reads as many at most.
#[derive(Clone, Debug)]
pub struct Lpm<V> {
    root: Arc<Node<V>>,
    len: usize,
}

impl<V> Default for Lpm<V> {
    fn default() -> Self {
        Self { root: Arc::default(), len: 0 }
    }
}

impl<V: Clone> FromIterator<(Ipv4Net, V)> for Lpm<V> {
    /// Builds the table. Of two equal prefixes the later one wins.
    fn from_iter<I: IntoIterator<Item = (Ipv4Net, V)>>(iter: I) -> Self {
        let mut lpm = Self::default();
        for (prefix, value) in iter {
            lpm.insert(prefix, value);
        }
        lpm
    }
}

/// How many bits of a byte are set: less work than to count them, where the processor has no instruction for it that all of
/// its kind have.
const ONES: [u8; 256] = {
    let mut ones = [0; 256];
    let mut byte = 0;
    while byte < ones.len() {
        ones[byte] = (byte as u8).count_ones() as u8;
        byte += 1;
    }
    ones
};

/// How many of the places below `place` are taken.
#[inline]
fn rank(places: u16, place: u32) -> usize {
    let below = (places & !(u16::MAX << place)).to_ne_bytes();
    below.iter().map(|&byte| usize::from(ONES[usize::from(byte)])).sum()
}

/// The four bits of `address` that a node at `depth` bits decides; 0 below the last bit.
#[inline]
fn bits_at(address: u32, depth: u32) -> u32 {
    address.checked_shl(depth).unwrap_or(0) >> (32 - STRIDE)
}

/// The place of a prefix of `len` bits (up to three) in a node at `depth` bits.
fn place_of(address: u32, depth: u32, len: u32) -> u32 {
    1 << len | bits_at(address, depth) >> (STRIDE - len)
}

impl<V> Lpm<V> {
    /// The value of the longest prefix that holds `addr`.
    #[inline]
    pub fn get(&self, addr: Ipv4Addr) -> Option<&V> {
        self.longest(addr).map(|(_, value)| value)
    }

    /// The length and the value of the longest prefix that holds `addr`.
    pub fn longest(&self, addr: Ipv4Addr) -> Option<(u8, &V)> {
        let address = u32::from(addr);
        let mut node = &*self.root;
        let mut best = None;
        let mut depth = 0;
        loop {
            let bits = bits_at(address, depth);
            // Below the last bit only the prefix of the whole address is left.
            let way = if depth < 32 { ON_THE_WAY[bits as usize] } else { 1 << 1 };
            let found = node.places & way;
            if found != 0 {
                best = Some((node, depth, found.ilog2()));
            }
            if node.branches >> bits & 1 == 0 {
                break;
            }
            node = &node.children[rank(node.branches, bits)];
            depth += STRIDE;
        }
        let (node, depth, place) = best?;
        let value = node.values.get(rank(node.places, place))?;
        Some(((depth + place.ilog2()) as u8, value))
    }

    /// The value of exactly this prefix.
    pub fn get_exact(&self, prefix: Ipv4Net) -> Option<&V> {
        let (address, mut len) = (u32::from(prefix.network()), u32::from(prefix.prefix_len()));
        let (mut node, mut depth) = (&*self.root, 0);
        while len >= STRIDE {
            let bits = bits_at(address, depth);
            if node.branches >> bits & 1 == 0 {
                return None;
            }
            node = &node.children[rank(node.branches, bits)];
            depth += STRIDE;
            len -= STRIDE;
        }
        let place = place_of(address, depth, len);
        let taken = node.places >> place & 1 != 0;
        taken.then(|| &node.values[rank(node.places, place)])
    }

    /// Whether some prefix holds `addr`.
    pub fn contains(&self, addr: Ipv4Addr) -> bool {
        self.get(addr).is_some()
    }

    /// How many prefixes the table holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether the table holds no prefix.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The prefixes that hold `area`, and those inside it, with their values.
    pub fn overlapping(&self, area: Ipv4Net) -> Vec<(Ipv4Net, &V)> {
        let mut found = Vec::new();
        self.root.collect(0, 0, area, &mut found);
        found
    }
}

impl<V: Clone> Lpm<V> {
    /// Sets the value of `prefix`; returns the one that it had.
    pub fn insert(&mut self, prefix: Ipv4Net, value: V) -> Option<V> {
        let (address, len) = (u32::from(prefix.network()), u32::from(prefix.prefix_len()));
        let old = Node::set(&mut self.root, address, 0, len, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes `prefix` out; returns the value that it had.
    pub fn remove(&mut self, prefix: Ipv4Net) -> Option<V> {
        let (address, len) = (u32::from(prefix.network()), u32::from(prefix.prefix_len()));
        // Nothing is copied in vain.
        self.get_exact(prefix)?;
        self.len -= 1;
        Node::unset(&mut self.root, address, 0, len)
    }
}

impl<V: Clone> Node<V> {
    /// Sets the value of the prefix that ends `len` bits below this node, which is at `depth` bits.
    fn set(node: &mut Arc<Self>, address: u32, depth: u32, len: u32, value: V) -> Option<V> {
        let node = Arc::make_mut(node);
        if len >= STRIDE {
            let bits = bits_at(address, depth);
            let index = rank(node.branches, bits);
            if node.branches >> bits & 1 == 0 {
                node.branches |= 1 << bits;
                node.children.insert(index, Arc::default());
            }
            let child = &mut node.children[index];
            return Self::set(child, address, depth + STRIDE, len - STRIDE, value);
        }
        let place = place_of(address, depth, len);
        let index = rank(node.places, place);
        if node.places >> place & 1 != 0 {
            return Some(std::mem::replace(&mut node.values[index], value));
        }
        node.places |= 1 << place;
        node.values.insert(index, value);
        None
    }

    /// Takes out the prefix that ends `len` bits below this node, and the nodes that are empty then.
    fn unset(node: &mut Arc<Self>, address: u32, depth: u32, len: u32) -> Option<V> {
        let node = Arc::make_mut(node);
        if len >= STRIDE {
            let bits = bits_at(address, depth);
            let index = rank(node.branches, bits);
            let child = node.children.get_mut(index)?;
            let old = Self::unset(child, address, depth + STRIDE, len - STRIDE);
            if child.places == 0 && child.branches == 0 {
                node.branches &= !(1 << bits);
                node.children.remove(index);
            }
            return old;
        }
        let place = place_of(address, depth, len);
        let index = rank(node.places, place);
        node.places &= !(1 << place);
        Some(node.values.remove(index))
    }
}

impl<V> Node<V> {
    /// What of this node, whose prefix are the first `depth` bits of `address`, overlaps `area`.
    fn collect<'a>(
        &'a self,
        address: u32,
        depth: u32,
        area: Ipv4Net,
        found: &mut Vec<(Ipv4Net, &'a V)>,
    ) {
        let overlaps = |net: &Ipv4Net| net.contains(&area) || area.contains(net);
        let places = (1..16).filter(|place| self.places >> place & 1 != 0);
        for (place, value) in places.zip(&self.values) {
            let len = u32::ilog2(place);
            // The bits after the leading one, moved to where they stand in an address.
            let bits = (place << (31 - len) << 1).checked_shr(depth).unwrap_or(0);
            let net = Ipv4Net::new_assert((address | bits).into(), (depth + len) as u8);
            if overlaps(&net) {
                found.push((net, value));
            }
        }
        let branches = (0..16).filter(|bits| self.branches >> bits & 1 != 0);
        for (bits, child) in branches.zip(&self.children) {
            let address = address | bits << (32 - STRIDE) >> depth;
            let net = Ipv4Net::new_assert(address.into(), (depth + STRIDE) as u8);
            if overlaps(&net) {
                child.collect(address, depth + STRIDE, area, found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn naive(items: &[(Ipv4Net, u32)], addr: Ipv4Addr) -> Option<(u8, u32)> {
        items
            .iter()
            .filter(|(prefix, _)| prefix.contains(&addr))
            .max_by_key(|(prefix, _)| prefix.prefix_len())
            .map(|&(prefix, value)| (prefix.prefix_len(), value))
    }

    fn seen(lpm: &Lpm<u32>, addr: Ipv4Addr) -> Option<(u8, u32)> {
        lpm.longest(addr).map(|(len, value)| (len, *value))
    }

    /// A prefix and an address in it; addresses crowd into one /20 so that prefixes nest.
    fn crowded() -> impl Strategy<Value = Ipv4Net> {
        (0u32..1 << 12, 0u8..=32).prop_map(|(low, len)| {
            Ipv4Net::new_assert(Ipv4Addr::from(0x0a64_0000 | (low << 4) | (low % 16)), len)
        })
    }

    proptest! {
        #[test]
        fn agrees_with_a_linear_search(
            steps in prop::collection::vec((crowded(), any::<Option<u32>>()), 0..40),
            probes in prop::collection::vec(crowded(), 20),
        ) {
            let mut model = std::collections::BTreeMap::new();
            let mut lpm = Lpm::default();
            let mut copies = Vec::new();
            for (net, value) in steps {
                copies.push((lpm.clone(), model.clone()));
                let old = match value {
                    Some(value) => (lpm.insert(net, value), model.insert(net.trunc(), value)),
                    None => (lpm.remove(net), model.remove(&net.trunc())),
                };
                prop_assert_eq!(old.0, old.1);
            }
            copies.push((lpm, model));
            // The copies that were taken on the way have not changed.
            for (lpm, model) in copies {
                let items: Vec<_> = model.into_iter().collect();
                prop_assert_eq!(lpm.len(), items.len());
                for probe in &probes {
                    prop_assert_eq!(seen(&lpm, probe.addr()), naive(&items, probe.addr()));
                    let exact = items.iter().find(|(net, _)| *net == probe.trunc());
                    prop_assert_eq!(lpm.get_exact(*probe), exact.map(|(_, value)| value));
                    let area = probe.trunc();
                    let mut found = lpm.overlapping(area);
                    found.sort_unstable();
                    let wanted = items.iter().filter(|(n, _)| n.contains(&area) || area.contains(n));
                    let wanted: Vec<_> = wanted.map(|(net, value)| (*net, value)).collect();
                    prop_assert_eq!(found, wanted);
                }
                let all = lpm.overlapping(Ipv4Net::default());
                prop_assert_eq!(all.len(), items.len());
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

    #[test]
    fn a_table_that_was_emptied_holds_no_nodes() {
        let nets: Vec<Ipv4Net> =
            ["10.1.2.3/32", "10.1.0.0/16", "0.0.0.0/0"].map(|net| net.parse().unwrap()).to_vec();
        let mut lpm: Lpm<u8> = nets.iter().map(|net| (*net, 1)).collect();
        for net in nets {
            assert_eq!(lpm.remove(net), Some(1));
        }
        assert!(lpm.is_empty() && lpm.root.children.is_empty());
    }
}
