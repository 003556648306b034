//! Which port of the shared region does a DNS query get?
//!
//! A block leaves few bits to guess for who knows it, and DNS needs more (RFC 6888 REQ-15; decision D5).
//! So queries leave by ports drawn from a region that all subscribers share. Workers don't ask each other: a
//! keyed hash of port and server names the worker whose tuple it is, so the home of a subscriber draws until
//! it hits one of its own. To the outside the draw is uniform over the region.

use std::ops::RangeInclusive;

use crate::endpoint::FlowKey;
use crate::endpoint::{Endpoint, Realm};
use crate::lease::Search;
use crate::mapping::Sharing;
use crate::subscriber::Holding;

/// Draws for each worker there is: the chance to miss one's own ports in all of them is 10^-14.
const DRAWS_PER_WORKER: u32 = 32;
/// Ports of this worker looked at before the region counts as full towards a server.
const OWN_PORTS: u32 = 32;

/// What came of looking for a port in the region.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scattered {
    /// This one.
    Port(Endpoint),
    /// The address has a region, but no port in it towards this server.
    Full,
    /// There is no region.
    Nowhere,
}

impl Search<'_> {
    /// A port of the region for a flow that is to be scattered.
    pub(crate) fn scattered(&self, holding: &mut Holding) -> Scattered {
        // An address keeps its region when a reload lets anybody send in.
        if !self.pool.settings.scatters(self.key.protocol, self.key.dst.port)
            || self.sharing == Sharing::Nobody
        {
            return Scattered::Nowhere;
        }
        let index = holding.addresses_without_block(self.pool, self.random).next();
        let Some(index) = index else { return Scattered::Nowhere };
        let address = &self.pool.addresses[usize::from(index)];
        let Some(region) = address.scatter() else { return Scattered::Nowhere };
        let mut own = 0;
        for draw in 0..DRAWS_PER_WORKER * u32::from(self.workers) {
            let port = port_of(region, mix(self.random, draw));
            let home = address.scatter_worker(port, self.key.dst, self.secret, self.workers);
            if home != Some(self.holder.worker) || address.is_reserved(port) {
                continue;
            }
            let public = Endpoint::new(address.addr, port);
            if self.is_free_tuple(public) {
                holding.pair_with(self.pool, index, self.now);
                return Scattered::Port(public);
            }
            own += 1;
            if own == OWN_PORTS {
                break;
            }
        }
        Scattered::Full
    }

    fn is_free_tuple(&self, public: Endpoint) -> bool {
        let key = self.key;
        let (src, dst) = (key.dst, public);
        let reply =
            FlowKey { src, dst, protocol: key.protocol, realm: Realm::External, overlay: 0 };
        let reply = self.secret.hash_key(&reply);
        !self.scatter_rests.rests(reply.hash, self.now) && self.table.find_hashed(&reply).is_none()
    }
}

fn port_of(region: &RangeInclusive<u16>, random: u64) -> u16 {
    let offset = (u128::from(random) * region.len() as u128) >> 64;
    region.start() + offset as u16
}

/// The draws of one flow, independent of each other (splitmix64).
fn mix(random: u64, draw: u32) -> u64 {
    let step = u64::from(draw).wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = random.wrapping_add(step);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The sequence that splitmix64 gives from 0 on, by its authors' program.
    #[test]
    fn draws_are_those_of_splitmix64() {
        let draws: Vec<u64> = (0..3).map(|draw| mix(0, draw)).collect();
        assert_eq!(draws, [0xe220_a839_7b1d_cdaf, 0x6e78_9e6a_a1b9_65f4, 0x06c4_5d18_8009_454f]);
    }
}
