//! Which block could a subscriber claim? As [`Holding::claim`] would, without a claim.

use super::{Holding, NoBlock};
use crate::address::PortClass;
use crate::directory::{BlockNumber, Holder};
use crate::pool::Pool;
use crate::time::Timestamp;

/// A block that could be claimed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Claimable {
    /// This one, which the subscriber had before.
    Exactly { address: u16, block: BlockNumber, spilled: bool },
    /// One on one of these addresses.
    Some { addresses: Vec<u16>, spilled: bool },
}

impl Holding {
    /// What [`claim`](Self::claim) would take.
    pub(crate) fn claimable(
        &self,
        pool: &Pool,
        class: PortClass,
        holder: Holder,
        now: Timestamp,
    ) -> Result<Claimable, NoBlock> {
        if !self.may_claim(pool, class) {
            return Err(NoBlock::Quota);
        }
        let home = self.home(pool);
        let own = self
            .reclaimable(pool, (class, home), holder, now)
            .or_else(|| self.fresh(pool, (class, false), holder, now));
        let found = if own.is_none() && home.is_some() && pool.settings.spill {
            self.reclaimable(pool, (class, None), holder, now)
                .or_else(|| self.fresh(pool, (class, true), holder, now))
        } else {
            own
        };
        found.ok_or(NoBlock::Exhausted)
    }

    /// A block that the subscriber has given back lately, on that address or any.
    fn reclaimable(
        &self,
        pool: &Pool,
        (class, on): (PortClass, Option<u16>),
        holder: Holder,
        now: Timestamp,
    ) -> Option<Claimable> {
        let mut recent = self.rare.as_ref()?.recent.iter().rev();
        let &(address, block, _) = recent.find(|&&(address, block, of)| {
            let here = of == class && on.is_none_or(|on| on == address) && pool.serves(address);
            here && pool.addresses[usize::from(address)]
                .blocks(class)
                .is_claimable(block, holder, now)
        })?;
        let spilled = self.home(pool).is_some_and(|home| home != address);
        Some(Claimable::Exactly { address, block, spilled })
    }

    /// Addresses with a block to give: the first of them, if the subscriber has one of its own; else a draw decides.
    fn fresh(
        &self,
        pool: &Pool,
        (class, spills): (PortClass, bool),
        holder: Holder,
        now: Timestamp,
    ) -> Option<Claimable> {
        let has = |&address: &u16| {
            pool.addresses[usize::from(address)].blocks(class).has_claimable(holder, now)
        };
        let home = self.home(pool);
        let all = self.addresses(pool, 0, spills).filter(has);
        let addresses: Vec<u16> = all.take(if home.is_some() { 1 } else { usize::MAX }).collect();
        let first = *addresses.first()?;
        let spilled = home.is_some_and(|home| home != first);
        Some(Claimable::Some { addresses, spilled })
    }

    /// The addresses where [`claim_port`](Self::claim_port) would get the block of `port`, one of which it would take.
    pub(crate) fn claimable_port(
        &self,
        pool: &Pool,
        port: u16,
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> impl Iterator<Item = u16> {
        self.addresses(pool, random, false).filter(move |&address| {
            let public = &pool.addresses[usize::from(address)];
            let class = public.class_of(port);
            let directory = public.blocks(class);
            self.may_claim(pool, class)
                && !public.is_reserved(port)
                && directory.is_claimable(directory.block_of(port), holder, now)
        })
    }
}
