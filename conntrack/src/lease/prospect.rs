//! Which public endpoint would a new flow get? The steps of [`Search::lease`], without a claim.

use super::{FULL_PROBES, REUSE_PROBES, Search};
use crate::block::PortBlock;
use crate::endpoint::Endpoint;
use crate::mapping::Sharing;
use crate::nat::{Means, Prospect};
use crate::scatter::Scattered;
use crate::subscriber::{Claimable, Holding, NoBlock};

impl Search<'_> {
    /// What [`lease`](Self::lease) would find. `holding` is a copy.
    pub(crate) fn prospect(&self, holding: &mut Holding) -> Result<Prospect, NoBlock> {
        let home = holding.home(self.pool);
        let scatter_full = match self.scattered(holding) {
            Scattered::Port(public) => {
                let addresses = self.pool.serving.iter().map(|&index| (Some(index), index));
                let those = addresses.filter(|(index, _)| home.is_none() || *index == home);
                let all = those.filter_map(|(_, index)| {
                    let address = &self.pool.addresses[usize::from(index)];
                    Some((address.addr, address.scatter()?.clone()))
                });
                let places: Vec<_> = all.collect();
                debug_assert!(places.iter().any(|(addr, _)| *addr == public.addr));
                return Ok(Prospect::of(Means::Scattered, places));
            }
            Scattered::Full => true,
            Scattered::Nowhere => false,
        };
        self.prospect_of_blocks(holding).map(|prospect| Prospect { scatter_full, ..prospect })
    }

    fn prospect_of_blocks(&self, holding: &mut Holding) -> Result<Prospect, NoBlock> {
        if let Some(no_block) = holding.refused_lately(self.key, self.kind(), self.now) {
            return Err(no_block);
        }
        let capped = holding.has_all_ports(&self.pool.settings.quota, self.key.protocol);
        if !capped {
            if let Some(prospect) = self.prospect_preserved(holding) {
                return Ok(prospect);
            }
            if let Some(public) = self.unused(holding) {
                return Ok(self.held(holding, public));
            }
        }
        if self.reusable(holding, REUSE_PROBES).is_some() {
            return Ok(self.shared(holding));
        }
        let claimable = if capped {
            Err(NoBlock::Ports)
        } else {
            holding.claimable(self.pool, self.class(), self.holder, self.now)
        };
        match claimable {
            Ok(claimable) => Ok(self.further(&claimable)),
            Err(no_block) if !holding.may_search(self.now) => Err(no_block),
            Err(no_block) => {
                if self.reusable(holding, FULL_PROBES).is_some() {
                    return Ok(self.shared(holding));
                }
                // Whatever connection is over: which of them is longest may change until then.
                let closed = self.closed(holding).ok_or(no_block)?;
                Ok(Prospect::exactly(Means::Replaced, closed.public))
            }
        }
    }

    /// Any port of the block of `public`.
    fn held(&self, holding: &mut Holding, public: Endpoint) -> Prospect {
        let block = holding.block_of(self.pool, public);
        let place = block.and_then(|block| holding.blocks.get(block)).map(|it| self.place(it));
        Prospect::of(Means::Held, place)
    }

    /// Any port that the subscriber has.
    fn shared(&self, holding: &Holding) -> Prospect {
        debug_assert!(self.sharing != Sharing::Nobody);
        let class = self.class();
        let blocks = self.blocks(holding).filter(|block| block.class == class);
        Prospect::of(Means::Shared, blocks.map(|block| self.place(block)))
    }

    fn place(&self, block: &PortBlock) -> (std::net::Ipv4Addr, std::ops::RangeInclusive<u16>) {
        let address = &self.pool.addresses[usize::from(block.address)];
        (address.addr, address.blocks(block.class).ports(block.number))
    }

    /// A port of a block that is yet to be claimed.
    fn further(&self, claimable: &Claimable) -> Prospect {
        let class = self.class();
        let (spilled, places) = match claimable {
            Claimable::Exactly { address, block, spilled } => {
                let address = &self.pool.addresses[usize::from(*address)];
                (*spilled, vec![(address.addr, address.blocks(class).ports(*block))])
            }
            Claimable::Some { addresses, spilled } => {
                let all = addresses.iter().filter_map(|&index| {
                    let address = &self.pool.addresses[usize::from(index)];
                    Some((address.addr, address.blocks(class).all_ports()?))
                });
                (*spilled, all.collect())
            }
        };
        Prospect::of(Means::Block { spilled }, places)
    }

    /// What [`preserved`](Self::preserved) would give, without a claim.
    fn prospect_preserved(&self, holding: &Holding) -> Option<Prospect> {
        if !self.pool.settings.preserve || !self.has_ports() {
            return None;
        }
        let port = self.key.src.port;
        if self.blocks(holding).any(|block| block.holds(port)) {
            let public = self.preserved_in_blocks(holding)?;
            return Some(Prospect::exactly(Means::Preserved, public));
        }
        let places = holding.claimable_port(self.pool, port, self.holder, self.random, self.now);
        let places: Vec<_> = places
            .map(|index| (self.pool.addresses[usize::from(index)].addr, port..=port))
            .collect();
        (!places.is_empty()).then(|| Prospect::of(Means::Preserved, places))
    }
}
