//! How does a session end, and what returns then?

use std::net::Ipv4Addr;

use super::{KEEP_ANCHOR, KEEP_LAST_BLOCK, Nat};
use crate::directory::Holder;
use crate::mapping::Left;
use crate::session::{Direction, Slot, Via};
use crate::time::Timestamp;

impl Nat {
    /// Ends a session: its port returns, its keys are free.
    pub(super) fn end(&mut self, slot: Slot, now: Timestamp) {
        let (session, owner) = (self.table.get(slot), self.table.owner(slot));
        let (protocol, public) = (session.protocol(), session.public());
        let remote = session.remote().addr;
        self.wheel.disarm(slot.number());
        self.table.remove(slot);
        self.ended += 1;
        let subscriber = self.subscribers.get_mut(owner.subscriber);
        subscriber.sessions = subscriber.sessions.saturating_sub(1);
        let holder = Holder { subscriber: subscriber.addr, worker: self.worker };
        if subscriber.sessions == 0 {
            subscriber.idle_since = now;
        }
        let holding = subscriber.holding_mut(owner.pool);
        let pool = self.pools.get(owner.pool.index());
        match (owner.via, pool) {
            (Via::Block | Via::Mapping(_), Some(pool)) => {
                holding.end_session(pool, protocol, public, holder, now);
            }
            (Via::Address, Some(pool)) => {
                holding.count_end(now);
                pool.release_claim(protocol, public.addr, remote);
            }
            (Via::Fixed, _) | (_, None) => holding.count_end(now),
        }
        if holding.sessions == 0 {
            self.arm_idle(owner.subscriber, now + KEEP_LAST_BLOCK);
        }
        if let Via::Mapping(mapping) = owner.via {
            self.leave(mapping, slot.number(), remote, owner.addressed, now);
        }
    }

    /// Takes an ended session out of its mapping, and ends with it what only strangers keep open.
    fn leave(
        &mut self,
        mapping: u32,
        session: u32,
        remote: Ipv4Addr,
        addressed: bool,
        now: Timestamp,
    ) {
        if self.mappings.unlink(mapping, session, remote, addressed) == Left::Strangers {
            for session in self.mappings.sessions(mapping) {
                self.end(Slot::new(session, Direction::Outbound), now);
            }
        }
    }

    /// Looks at what a subscriber does not need at `due` or soon after; never later than planned before.
    pub(super) fn arm_idle(&mut self, number: u32, due: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        if due < subscriber.settle_at {
            subscriber.settle_at = due;
            self.idle.arm(number, due.as_secs() as u32 + 1);
        }
    }

    /// Ends what is due, looking at `budget` sessions at most. Costs nothing when nothing is due.
    /// True if the budget was used up: there may be more.
    pub fn expire(&mut self, now: Timestamp, mut budget: u32) -> bool {
        self.rearm(now, &mut budget);
        while let Some(number) = self.wheel.pop(now.as_secs() as u32, &mut budget) {
            let slot = Slot::new(number, Direction::Outbound);
            let Some((session, owner)) = self.table.live(number as usize) else { continue };
            let Some(pool) = self.pools.get(owner.pool.index()) else { continue };
            let timeout = session.timeout(&pool.settings.timers).as_millis() as u32;
            let idle = session.unrenewed(&owner, pool.settings.inbound_refresh, now);
            if idle >= timeout {
                self.mourn(slot);
                self.end(slot, now);
            } else {
                self.arm(slot, now);
            }
        }
        while let Some(number) = self.idle.pop(now.as_secs() as u32, &mut budget) {
            self.settle_idle(number, now);
        }
        budget == 0
    }

    /// Takes back what a subscriber that has been idle for long, in a pool or at all, does not need.
    fn settle_idle(&mut self, number: u32, now: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        subscriber.settle_at = Timestamp::NEVER;
        let holder = Holder { subscriber: subscriber.addr, worker: self.worker };
        let mut next = Timestamp::NEVER;
        for holding in subscriber.holdings.iter_mut().filter(|h| h.sessions == 0) {
            let Some(pool) = self.pools.get(holding.pool.index()) else { continue };
            let due = holding.idle_since + KEEP_LAST_BLOCK;
            if now >= due {
                holding.release_empty(pool, holder, now);
            } else if !holding.blocks.is_empty() {
                next = next.min(due);
            }
        }
        if subscriber.sessions == 0 {
            let due = subscriber.idle_since + KEEP_ANCHOR;
            // A block that a refused flow has claimed may be younger than the last session.
            if now >= due && subscriber.holdings.iter().all(|h| h.blocks.is_empty()) {
                return self.forget(number);
            }
            if now < due {
                next = next.min(due);
            }
        }
        if next < Timestamp::NEVER {
            self.arm_idle(number, next);
        }
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.idle.disarm(number);
        self.subscribers.forget(number);
    }
}
