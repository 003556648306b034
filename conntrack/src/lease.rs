//! Which public endpoint does a new flow get?
//!
//! Where mappings share no endpoint, only an unused port will do. Where they do, as in the `high-density`
//! profile, a port may serve several sessions of its subscriber as long as their
//! remotes differ (RFC 7857 section 3; decision D1). So a port is looked for, in this order:
//! 1. for DNS, one of the region that all subscribers share (decision D5);
//! 2. the pod's own port, where the pool preserves ports (RFC 6056 section 4);
//! 3. one that no session of the protocol uses, drawn by who holds the secret (RFC 6056 section 3.3);
//! 4. one of a few that are used, but not towards this remote;
//! 5. one of a further block, within the quota;
//! 6. any that is not used towards this remote;
//! 7. one whose connection to this remote is over, the longest over first (decision D3,
//!    RFC 6888 REQ-8a).
//!
//! Where ports are not shared, 4, 6 and 7 fall away (RFC 4787 REQ-1 and REQ-3). Class and parity, where the pool keeps them, hold in
//! every step but the first: a flow is refused rather than given a port of another kind (decision 0007).

mod prospect;

use crate::address::PortClass;
use crate::block::{Parity, PortBlock};
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Protocol};
use crate::key::Secret;
use crate::mapping::{Mappings, Sharing};
use crate::pool::Pool;
use crate::rest::ScatterRests;
use crate::scatter::Scattered;
use crate::session::{Slot, reply_key};
use crate::subscriber::{Claimed, Holding, Kind, NoBlock};
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
    /// A block was claimed for it.
    pub(crate) claimed: Option<Claimed>,
    /// It should have been in the region for DNS, but there was no port.
    pub(crate) scatter_full: bool,
}

impl Lease {
    fn of(public: Endpoint) -> Self {
        Self { public, replaces: None, claimed: None, scatter_full: false }
    }
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
    /// An unused port that `random` has drawn already, in this burst.
    pub(crate) foreseen: Option<Endpoint>,
    pub(crate) now: Timestamp,
    pub(crate) secret: &'a Secret,
    pub(crate) workers: u16,
    pub(crate) scatter_rests: &'a ScatterRests,
}

impl Search<'_> {
    pub(crate) fn lease(&self, holding: &mut Holding) -> Result<Lease, NoBlock> {
        let scatter_full = match self.scattered(holding) {
            Scattered::Port(public) => return Ok(Lease::of(public)),
            Scattered::Full => true,
            Scattered::Nowhere => false,
        };
        self.lease_of_blocks(holding).map(|lease| Lease { scatter_full, ..lease })
    }

    /// A port of the subscriber's own blocks.
    fn lease_of_blocks(&self, holding: &mut Holding) -> Result<Lease, NoBlock> {
        if let Some(no_block) = holding.refused_lately(self.key, self.kind(), self.now) {
            return Err(no_block);
        }
        let capped = holding.has_all_ports(&self.pool.settings.quota, self.key.protocol);
        let fresh = |holding: &mut Holding| {
            self.preserved(holding).or_else(|| self.unused(holding).map(Lease::of))
        };
        let found = if capped { None } else { fresh(holding) };
        let found = found.or_else(|| self.reusable(holding, REUSE_PROBES).map(Lease::of));
        if let Some(lease) = found {
            return Ok(lease);
        }
        let claimed = if capped {
            Err(NoBlock::Ports)
        } else {
            holding.claim(self.pool, self.class(), self.holder, self.random, self.now)
        };
        match claimed {
            Ok(claimed) => {
                // All of the new block is unused.
                let public = self.unused(holding).ok_or(NoBlock::Exhausted)?;
                Ok(Lease { claimed: Some(claimed), ..Lease::of(public) })
            }
            Err(no_block) if !holding.may_search(self.now) => Err(no_block),
            Err(no_block) => {
                let found = self
                    .reusable(holding, FULL_PROBES)
                    .map(Lease::of)
                    .or_else(|| self.closed(holding));
                if found.is_none() {
                    holding.refuse(self.key, self.kind(), no_block, self.now);
                }
                found.ok_or(no_block)
            }
        }
    }

    /// The ports that will do.
    fn kind(&self) -> Kind {
        (self.class(), self.parity())
    }

    /// Whether ports have a class and a parity: identifiers of queries have none.
    fn has_ports(&self) -> bool {
        matches!(self.key.protocol, Protocol::Tcp | Protocol::Udp)
    }

    /// RFC 4787 REQ-3a: ports below 1024 stay below, the rest stays above.
    fn class(&self) -> PortClass {
        let low = self.pool.settings.low_ports.is_some() && self.key.src.port < 1024;
        if low && self.has_ports() { PortClass::Low } else { PortClass::High }
    }

    /// RFC 4787 REQ-4: odd ports stay odd, even ports stay even.
    fn parity(&self) -> Parity {
        let kept = self.pool.settings.parity && self.has_ports();
        if kept { Parity::of(self.key.src.port) } else { Parity::Any }
    }

    /// The pod's own port, if it can be had: RFC 6056 section 4 lets a NAT preserve ports, and draw one only
    /// if that fails.
    fn preserved(&self, holding: &mut Holding) -> Option<Lease> {
        if !self.pool.settings.preserve || !self.has_ports() {
            return None;
        }
        let port = self.key.src.port;
        if self.blocks(holding).any(|block| block.holds(port)) {
            return self.preserved_in_blocks(holding).map(Lease::of);
        }
        let claimed = holding.claim_port(self.pool, port, self.holder, self.random, self.now)?;
        let public = self.endpoint(claimed.address, port);
        Some(Lease { claimed: Some(claimed), ..Lease::of(public) })
    }

    /// The pod's own port, in a block that it holds.
    fn preserved_in_blocks(&self, holding: &Holding) -> Option<Endpoint> {
        let port = self.key.src.port;
        for block in self.blocks(holding).filter(|block| block.holds(port)) {
            let public = self.endpoint(block.address, port);
            let shared = || {
                let used = block.is_used(self.key.protocol, port);
                let reserved = self.pool.addresses[usize::from(block.address)].is_reserved(port);
                used && !reserved && self.sharing != Sharing::Nobody && self.is_free(public)
            };
            if block.is_unused(self.key.protocol, port) || shared() {
                return Some(public);
            }
        }
        None
    }

    /// The lease of a connection that is over, if nothing else can be had; claims nothing.
    pub(crate) fn replacing(&self, holding: &mut Holding) -> Option<Lease> {
        let all_used = self.key.protocol == Protocol::Tcp
            && self.sharing != Sharing::Nobody
            && self.blocks(holding).count() >= self.pool.settings.quota.blocks as usize
            && self.unused(holding).is_none()
            && holding.refused_lately(self.key, self.kind(), self.now).is_none()
            && holding.may_search(self.now);
        if !all_used {
            return None;
        }
        let found = self.closed(holding);
        if found.is_none() {
            holding.refuse(self.key, self.kind(), NoBlock::Quota, self.now);
        }
        found
    }

    /// The blocks that new flows may use.
    fn blocks<'h>(
        &'h self,
        holding: &'h Holding,
    ) -> impl DoubleEndedIterator<Item = &'h PortBlock> {
        holding.blocks.iter().filter(|block| self.pool.serves(block.address))
    }

    fn endpoint(&self, address: u16, port: u16) -> Endpoint {
        Endpoint::new(self.pool.addresses[usize::from(address)].addr, port)
    }

    /// Whether a port that was unused at the beginning of the burst still is.
    fn is_unused(&self, holding: &Holding, public: Endpoint) -> bool {
        let (protocol, port) = (self.key.protocol, public.port);
        let mut blocks = self.blocks(holding).rev().filter(|block| block.holds(port));
        blocks.any(|block| {
            self.endpoint(block.address, port) == public && block.is_unused(protocol, port)
        })
    }

    /// A port that nobody uses, of the newest block that has one: few blocks in use let the others go
    /// back. Blocks on the subscriber's own address come first (RFC 4787 REQ-2).
    pub(crate) fn unused(&self, holding: &Holding) -> Option<Endpoint> {
        let foreseen = self.foreseen.filter(|&public| self.is_unused(holding, public));
        if foreseen.is_some() {
            return foreseen;
        }
        let (class, parity) = (self.class(), self.parity());
        let draw = |on_anchor: bool| {
            let home = holding.home(self.pool);
            let blocks = self
                .blocks(holding)
                .rev()
                .filter(|block| block.class == class && (Some(block.address) == home) == on_anchor);
            blocks.into_iter().find_map(|block| {
                let port = block.unused_port(self.key.protocol, parity, self.random)?;
                Some(self.endpoint(block.address, port))
            })
        };
        draw(true).or_else(|| draw(false))
    }

    /// The public endpoints that the subscriber uses, of `probes` that it holds, from a place that the
    /// secret chooses.
    fn endpoints<'h>(
        &'h self,
        holding: &'h Holding,
        probes: usize,
    ) -> impl Iterator<Item = Endpoint> + 'h {
        let count = holding.blocks.len();
        let first = (self.random >> 32) as usize % count.max(1);
        let (class, parity) = (self.class(), self.parity());
        let blocks = (0..count).map(move |i| &holding.blocks[(first + i) % count]);
        let blocks = blocks.filter(|block| self.pool.serves(block.address));
        let ports = blocks
            .filter(move |block| block.class == class)
            .flat_map(|block| block.ports(self.random).map(move |port| (block, port)));
        // What nobody uses now is at rest, or of the other parity.
        let usable = move |(block, port): (&PortBlock, u16)| {
            let usable = parity.admits(port)
                && block.is_used(self.key.protocol, port)
                && !self.pool.addresses[usize::from(block.address)].is_reserved(port);
            usable.then(|| self.endpoint(block.address, port))
        };
        ports.take(probes).filter_map(usable)
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
        self.endpoints(holding, probes).find(|&public| self.is_free(public))
    }

    /// Whether a port that is used is not used towards this remote.
    fn is_free(&self, public: Endpoint) -> bool {
        self.session_at(public).is_none() && self.mapping_at(public).is_none()
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
            self.endpoints(holding, FULL_PROBES).filter_map(over).take(CLOSED_COMPARED);
        let (_, slot, public) = candidates.max_by_key(|&(idle, ..)| idle)?;
        Some(Lease { replaces: Some(slot), ..Lease::of(public) })
    }
}
