//! Which packets are exempt, and which way do they leave, as was decided before?
//!
//! Rules and routes say the same about all packets between a pod and one port of another host while the snapshot stays
//! the same; so what they said is remembered for a while. That is no state of a flow (RFC 6888 REQ-6): about what was
//! forgotten they are asked again.

use conntrack::HashedKey;

use crate::interface::InterfaceId;
use crate::io::PacketIo;
use crate::packet::Transport;
use crate::pipeline::Parsed;
use crate::roads::{AdjacencyId, NextHop};
use crate::worker::Worker;

/// Places in the memory: a power of two.
const PLACES: usize = 4096;

/// Packets that are exempt, and their way.
#[derive(Clone, Copy, Debug, Default)]
struct Decided {
    /// Whose they are, but for the pod's port.
    ends: [u64; 2],
    /// By which snapshot; 0: none.
    version: u64,
    hop: u32,
    arrival: u8,
}

/// What was decided.
#[derive(Debug)]
pub(crate) struct Exempt {
    places: Box<[Decided]>,
    /// The last snapshot by which something was.
    latest: u64,
}

impl Default for Exempt {
    fn default() -> Self {
        Self { places: vec![Decided::default(); PLACES].into(), latest: 0 }
    }
}

/// Where `ends` are remembered. Who chooses them so that they share a place gains nothing but that rules are asked.
#[inline]
fn place_of([addresses, rest]: [u64; 2]) -> usize {
    let mixed = (addresses ^ rest.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (mixed >> 40) as usize % PLACES
}

impl Exempt {
    /// Whether something may be known by the snapshot `version`.
    #[inline]
    pub(crate) fn knows_any(&self, version: u64) -> bool {
        self.latest == version
    }

    /// The way of packets with `key` that come by `arrival`, if they are known to be exempt by the snapshot `version`.
    #[inline]
    pub(crate) fn way(
        &self,
        key: &HashedKey,
        arrival: InterfaceId,
        version: u64,
    ) -> Option<AdjacencyId> {
        let (port, ends) = key.split_own_port();
        let it = &self.places[place_of(ends)];
        let known = it.ends == ends && it.version == version && it.arrival == arrival.0;
        // All but the pod's port was looked at when it was decided: no packet has port 0.
        (known && port != 0).then_some(AdjacencyId(it.hop))
    }

    /// Whether packets with `key` are known to be exempt, wherever they come.
    #[inline]
    pub(crate) fn knows(&self, key: &HashedKey, version: u64) -> bool {
        let (_, ends) = key.split_own_port();
        let it = &self.places[place_of(ends)];
        it.ends == ends && it.version == version
    }

    fn learn(
        &mut self,
        key: &HashedKey,
        arrival: InterfaceId,
        version: u64,
        AdjacencyId(hop): AdjacencyId,
    ) {
        let (_, ends) = key.split_own_port();
        self.latest = version;
        self.places[place_of(ends)] = Decided { ends, version, hop, arrival: arrival.0 };
    }
}

impl<I: PacketIo> Worker<I> {
    /// Remembers that packets like `parsed` are exempt, and leave by `hop`, which is one of several or not.
    pub(crate) fn learn_exempt(
        &mut self,
        parsed: &Parsed,
        arrival: InterfaceId,
        (hop, is_one_of): (NextHop, bool),
    ) {
        let Parsed { packet, key, .. } = parsed;
        // An error's key is that of what it quotes; the ports of others may be anything. Of several ways, flows that
        // differ in the pod's port take different ones.
        let is_plain = matches!(packet.transport, Transport::Udp | Transport::Tcp(_))
            && !packet.fragment.is_fragment();
        if let (Some(key), NextHop::Adjacency(hop), true, false) = (key, hop, is_plain, is_one_of) {
            self.exempt.learn(key, arrival, self.snapshot_version, hop);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use conntrack::{Endpoint, FlowKey, Protocol, Realm, Secret};

    use super::*;

    /// Of the pod's flow from this port.
    fn key(port: u16) -> HashedKey {
        let src = Endpoint::new(Ipv4Addr::new(10, 244, 1, 1), port);
        let dst = Endpoint::new(Ipv4Addr::new(192, 0, 3, 80), 53);
        let (protocol, realm) = (Protocol::Udp, Realm::Internal);
        Secret::from_seed(1).hash_key(&FlowKey { src, dst, protocol, realm, overlay: 0 })
    }

    #[test]
    fn a_way_is_known_for_one_arrival_and_one_snapshot() {
        let (here, there, way) = (InterfaceId(0), InterfaceId(1), AdjacencyId(7));
        let mut exempt = Exempt::default();
        exempt.learn(&key(4000), here, 5, way);
        assert!(exempt.knows_any(5) && exempt.knows(&key(4001), 5));
        assert_eq!(exempt.way(&key(4001), here, 5), Some(way));
        assert_eq!(exempt.way(&key(0), here, 5), None, "no packet has this port");
        assert_eq!(exempt.way(&key(4001), there, 5), None);
        assert_eq!(exempt.way(&key(4001), here, 6), None);
        assert!(!exempt.knows_any(6) && !exempt.knows(&key(4001), 6));
    }
}
