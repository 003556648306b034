//! What does a new configuration mean for what is there?
//!
//! Sessions keep their address and port. An address that leaves its pool gets no new flow, and its blocks come back
//! as they become empty. A port that is given to a pod by configuration is not drawn any more; who has it keeps it.

use std::ops::RangeInclusive;
use std::sync::Arc;

use super::Nat;
use crate::block::PortBlock;
use crate::directory::{BlockNumber, BlockState, Directory, Holder};
use crate::endpoint::{Endpoint, Protocol};
use crate::pool::{IpId, Pool, Standing};
use crate::session::{Direction, Slot, Via};
use crate::subscriber::Holding;
use crate::time::Timestamp;

/// A live session, as [`Nat::sweep`] asks about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claimant {
    /// Its protocol.
    pub protocol: Protocol,
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The pod's overlay.
    pub overlay: u16,
    /// The public endpoint.
    pub public: Endpoint,
    /// It has the public endpoint by a mapping that configuration made.
    pub fixed: bool,
}

impl Nat {
    /// Takes over the pools of a new configuration; indexed by [`PoolId`](crate::PoolId), which never changes its meaning. Addresses
    /// keep their places in their pools.
    pub fn adopt(&mut self, pools: &[Arc<Pool>]) {
        let timers = |pools: &[Arc<Pool>]| -> Vec<_> {
            pools.iter().map(|pool| pool.settings.timers.clone()).collect()
        };
        if self.table.end() > 0 && timers(&self.pools) != timers(pools) {
            self.rearmed = 0;
        }
        self.events.record_scattered(pools.iter().any(|pool| pool.settings.log_scattered));
        self.strict_ids = pools.iter().any(|pool| pool.settings.ip_id == IpId::Strict);
        let before = std::mem::replace(&mut self.pools, pools.to_vec());
        self.rests.adopt(pools.len());
        self.foresight.clear();
        for (before, after) in before.iter().zip(pools) {
            if !Arc::ptr_eq(before, after) {
                self.follow_pool(before, after);
            }
        }
    }

    fn follow_pool(&mut self, before: &Pool, after: &Pool) {
        for (index, (old, new)) in before.addresses.iter().zip(&after.addresses).enumerate() {
            if !Arc::ptr_eq(old, new) && old.addr == new.addr {
                for ports in new.never().iter().filter(|ports| !old.never().contains(ports)) {
                    self.reserve(after, index as u16, ports);
                }
            }
            let standing = after.standing(index);
            if standing != Standing::Serving && standing != before.standing(index) {
                self.left.push_back((after.id, index as u16));
            }
        }
    }

    /// Sees that no `ports` of this worker's blocks on an address are drawn any more.
    fn reserve(&mut self, pool: &Pool, address: u16, ports: &RangeInclusive<u16>) {
        let public = &pool.addresses[usize::from(address)];
        for directory in [&public.low, &public.directory] {
            let (first, last) =
                (directory.block_of(*ports.start()), directory.block_of(*ports.end()));
            for number in (first.0..=last.0).map(BlockNumber) {
                let Some(holder) = self.own(directory, number) else { continue };
                for subscriber in self.subscribers.at(holder.subscriber) {
                    let holding = self.subscribers.get_mut(subscriber).holding_mut(pool.id);
                    let blocks = holding.blocks.iter_mut();
                    let is_it = |block: &&mut PortBlock| {
                        block.address == address && block.holds(*directory.ports(number).start())
                    };
                    let mut empty = false;
                    for block in blocks.filter(is_it) {
                        let wanted = directory.ports(number).filter(|port| ports.contains(port));
                        wanted.for_each(|port| block.reserve(port));
                        empty |= block.is_empty();
                    }
                    // The last port that rested there makes itself heard no more.
                    if empty {
                        self.arm_idle(subscriber, Timestamp::default());
                    }
                }
            }
        }
    }

    /// The holder of a block, if it lives here.
    fn own(&self, directory: &Directory, number: BlockNumber) -> Option<Holder> {
        match directory.state(number) {
            BlockState::Held(holder) if holder.worker == self.worker => Some(holder),
            _ => None,
        }
    }

    /// Takes empty blocks back from an address that left its pool: one address a call at most.
    pub(super) fn take_leave(&mut self, now: Timestamp) {
        let Some((id, address)) = self.left.pop_front() else { return };
        let Some(pool) = self.pool(id).cloned() else { return };
        // It may have come back meanwhile.
        let left = pool.standing(address.into()) != Standing::Serving;
        let Some(public) = pool.addresses.get(usize::from(address)).filter(|_| left) else {
            return;
        };
        for directory in [&public.low, &public.directory] {
            for (_, holder) in directory.held_blocks().filter(|(_, h)| h.worker == self.worker) {
                for number in self.subscribers.at(holder.subscriber) {
                    let holding = self.subscribers.get_mut(number).holding_mut(id);
                    holding.leave(&pool, address, (holder, &mut self.events), now);
                }
            }
        }
    }

    /// Looks at the next `count` places of the session table from `cursor` on, and ends the sessions that `ends` says
    /// have nothing to stand on any more. Both ends are told, where the pool says so for idle ones. Where to go on;
    /// `None` at the end of the table.
    pub fn sweep(
        &mut self,
        cursor: usize,
        count: usize,
        now: Timestamp,
        ends: impl Fn(&Claimant) -> bool,
    ) -> Option<usize> {
        let until = (cursor + count).min(self.table.end());
        for number in cursor..until {
            let Some((session, owner)) = self.table.live(number) else { continue };
            let claimant = Claimant {
                protocol: session.protocol(),
                internal: session.internal(),
                overlay: session.overlay(),
                public: session.public(),
                fixed: owner.via == Via::Fixed,
            };
            if ends(&claimant) {
                let slot = Slot::new(number as u32, Direction::Outbound);
                self.mourn(slot);
                self.end(slot, now);
            }
        }
        (until < self.table.end()).then_some(until)
    }

    /// Whether obituaries wait to be taken.
    pub fn mourns(&self) -> bool {
        !self.obituaries.is_empty()
    }

    /// Whether a mapping that the subscriber `number` has at `public` may have one more session: its public endpoint is
    /// still the pool's to give.
    pub(super) fn is_good(&mut self, number: u32, pool: &Pool, public: Endpoint) -> bool {
        Self::is_good_in(self.subscribers.get_mut(number).holding_mut(pool.id), pool, public)
    }

    /// The same, for what a subscriber holds in the pool.
    pub(super) fn is_good_in(holding: &mut Holding, pool: &Pool, public: Endpoint) -> bool {
        let Some(block) = holding.block_of(pool, public) else { return false };
        let index = usize::from(holding.blocks[block].address);
        pool.standing(index) != Standing::Gone && !pool.addresses[index].is_reserved(public.port)
    }
}
