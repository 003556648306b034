//! Which public endpoint does a new flow get?
//!
//! Where mappings share no endpoint, only an unused port will do. Where they do, as in the `high-density`
//! profile, a port may serve several sessions of its subscriber as long as their
//! remotes differ (RFC 7857 section 3; decision D1). So a port is looked for, in this order:
//! 1. one that no session of the protocol uses, at a place that only the holder of the secret can
//!    foresee (RFC 6056 section 3.3);
//! 2. one of a few that are used, but not towards this remote;
//! 3. one of a further block, within the quota;
//! 4. any that is not used towards this remote;
//! 5. one whose connection to this remote is over, the longest over first (decision D3,
//!    RFC 6888 REQ-8a).

use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Protocol};
use crate::mapping::{Mappings, Sharing};
use crate::pool::Pool;
use crate::session::{Slot, reply_key};
use crate::subscriber::{Holding, NoBlock};
use crate::table::SessionTable;
use crate::time::Timestamp;

/// Ports tried for reuse before a further block is claimed.
const REUSE_PROBES: usize = 64;
/// Ports tried at most before a flow is refused: a packet must not walk a huge holding.
const FULL_PROBES: usize = 4096;
/// Closed connections compared before the one that is over for longest is taken.
const CLOSED_COMPARED: usize = 32;

/// A public endpoint for a new session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lease {
    pub(crate) public: Endpoint,
    /// A session to the same remote that is over and must end first.
    pub(crate) replaces: Option<Slot>,
}

/// Everything that the choice depends on, beside what the subscriber holds.
pub(crate) struct Search<'a> {
    pub(crate) table: &'a SessionTable,
    pub(crate) mappings: &'a Mappings,
    pub(crate) sharing: Sharing,
    pub(crate) pool: &'a Pool,
    pub(crate) key: &'a FlowKey,
    pub(crate) holder: Holder,
    pub(crate) random: u64,
    pub(crate) now: Timestamp,
}

impl Search<'_> {
    pub(crate) fn lease(&self, holding: &mut Holding) -> Result<Lease, NoBlock> {
        if let Some(no_block) = holding.refused_lately(self.key, self.now) {
            return Err(no_block);
        }
        if let Some(public) = self.unused(holding).or_else(|| self.reusable(holding, REUSE_PROBES))
        {
            return Ok(Lease { public, replaces: None });
        }
        match holding.claim(self.pool, self.holder, self.random, self.now) {
            Ok(()) => {
                // The new block is the last one, and all of it is unused.
                let public = self.unused(holding).ok_or(NoBlock::Exhausted)?;
                Ok(Lease { public, replaces: None })
            }
            Err(no_block) => {
                let found = self
                    .reusable(holding, FULL_PROBES)
                    .map(|public| Lease { public, replaces: None })
                    .or_else(|| self.closed(holding));
                if found.is_none() {
                    holding.refuse(self.key, no_block, self.now);
                }
                found.ok_or(no_block)
            }
        }
    }

    /// The lease of a connection that is over, if nothing else can be had; claims nothing.
    pub(crate) fn replacing(&self, holding: &mut Holding) -> Option<Lease> {
        let all_used = self.key.protocol == Protocol::Tcp
            && holding.blocks.len() >= self.pool.settings.quota.blocks as usize
            && self.unused(holding).is_none()
            && holding.refused_lately(self.key, self.now).is_none();
        if !all_used {
            return None;
        }
        let found = self.closed(holding);
        if found.is_none() {
            holding.refuse(self.key, NoBlock::Quota, self.now);
        }
        found
    }

    fn endpoint(&self, address: u16, port: u16) -> Endpoint {
        Endpoint::new(self.pool.addresses[usize::from(address)].addr, port)
    }

    fn unused(&self, holding: &Holding) -> Option<Endpoint> {
        holding.blocks.iter().rev().find_map(|block| {
            let port = block.unused_port(self.key.protocol, self.random)?;
            Some(self.endpoint(block.address, port))
        })
    }

    /// The public endpoints that the subscriber holds, from a place that the secret chooses.
    fn endpoints<'h>(&'h self, holding: &'h Holding) -> impl Iterator<Item = Endpoint> + 'h {
        let count = holding.blocks.len();
        let first = (self.random >> 32) as usize % count.max(1);
        (0..count).flat_map(move |i| {
            let block = &holding.blocks[(first + i) % count];
            block.ports(self.random).map(|port| self.endpoint(block.address, port))
        })
    }

    fn session_at(&self, public: Endpoint) -> Option<Slot> {
        self.table.find(&reply_key(self.key, public))
    }

    /// The mapping that has `public` towards everybody, or towards this remote's address.
    fn mapping_at(&self, public: Endpoint) -> Option<u32> {
        self.mappings.at_public(self.key.protocol, public, self.key.dst.addr)
    }

    fn reusable(&self, holding: &Holding, probes: usize) -> Option<Endpoint> {
        if self.sharing == Sharing::Nobody {
            return None;
        }
        let free = |public| self.session_at(public).is_none() && self.mapping_at(public).is_none();
        self.endpoints(holding).take(probes).find(|&public| free(public))
    }

    fn closed(&self, holding: &Holding) -> Option<Lease> {
        if self.key.protocol != Protocol::Tcp || self.sharing == Sharing::Nobody {
            return None;
        }
        // Ending the session must free what it had, not only its tuple.
        let alone =
            |mapping: Option<u32>| mapping.is_none_or(|m| self.mappings.get(m).sessions == 1);
        let over = |public: Endpoint| {
            let slot = self.session_at(public)?;
            let session = self.table.get(slot);
            (session.state().is_over() && alone(self.mapping_at(public)))
                .then(|| (session.idle(self.now), slot, public))
        };
        let candidates =
            self.endpoints(holding).take(FULL_PROBES).filter_map(over).take(CLOSED_COMPARED);
        let (_, slot, public) = candidates.max_by_key(|&(idle, ..)| idle)?;
        Some(Lease { public, replaces: Some(slot) })
    }
}
