//! How does a session end, and what returns then?

use super::Nat;
use crate::directory::Holder;
use crate::key::HashedKey;
use crate::mapping::Left;
use crate::rest::Rest;
use crate::session::{Direction, Slot, Via};
use crate::subscriber::{Ended, KEEP_LAST_BLOCK, Settled};
use crate::time::Timestamp;

/// Due sessions that are read side by side.
const SIDE_BY_SIDE: usize = 32;

impl Nat {
    /// Ends a session: its port returns, its keys are free.
    pub(super) fn end(&mut self, slot: Slot, now: Timestamp) {
        let keys = self.table.keys(slot.number());
        self.end_as(slot, &keys, false, now);
    }

    /// Ends a session whose port the next one takes: its block stays, though nobody uses it for a moment.
    pub(super) fn end_replaced(&mut self, slot: Slot, now: Timestamp) {
        let keys = self.table.keys(slot.number());
        self.end_as(slot, &keys, true, now);
    }

    fn end_as(&mut self, slot: Slot, keys: &[HashedKey; 2], replaced: bool, now: Timestamp) {
        let (session, owner) = (self.table.get(slot), self.table.owner(slot));
        let (protocol, public, state) = (session.protocol(), session.public(), session.state());
        let ended = Ended { protocol, public, state, replaced };
        let remote = session.remote().addr;
        self.record_session(slot, owner.pool, false, now);
        let session = self.table.get(slot);
        let tail = session.tail();
        self.rest_tuple(slot, now);
        self.table.remove(slot, keys);
        if let Some(tail) = tail {
            self.tails.remove(tail);
        }
        self.ended += 1;
        let subscriber = self.subscribers.get_mut(owner.subscriber);
        subscriber.sessions = subscriber.sessions.saturating_sub(1);
        let holder = Holder {
            subscriber: subscriber.addr,
            worker: self.worker,
            overlay: subscriber.overlay(),
        };
        if subscriber.sessions == 0 {
            subscriber.idle_since = now;
        }
        let holding = subscriber.holding_mut(owner.pool);
        let pool = self.pools.get(owner.pool.index());
        holding.count_end(state, &owner, now);
        let mut rests = None;
        match (owner.via, pool) {
            (Via::Block | Via::Mapping, Some(pool)) => {
                rests = holding.return_port(pool, ended, (holder, &mut self.events), now);
            }
            (Via::Address, Some(pool)) => pool.release_claim(protocol, public.addr, remote),
            (Via::Fixed, _) | (_, None) => {}
        }
        if holding.sessions == 0 {
            self.arm_idle(owner.subscriber, now + KEEP_LAST_BLOCK);
        }
        if let Some(until) = rests {
            let rest = Rest { subscriber: owner.subscriber, protocol, public, until };
            self.rest_port(owner.pool, rest, now);
        }
        if owner.via == Via::Mapping {
            let mapping = self.mappings.of(slot.number());
            match self.mappings.unlink(slot.number(), remote, owner.addressed) {
                Left::Mapping => {}
                Left::Strangers => self.stranded.push(mapping),
                Left::Nothing => self.stranded.retain(|&stranded| stranded != mapping),
            }
        }
    }

    /// Ends `budget` sessions at most that only strangers keep open: there may be many of them.
    fn end_stranded(&mut self, now: Timestamp, budget: &mut u32) {
        while *budget > 0
            && let Some(&mapping) = self.stranded.last()
            && let Some(session) = self.mappings.a_session(mapping)
        {
            *budget -= 1;
            self.end(Slot::new(session, Direction::Outbound), now);
        }
    }

    /// Looks at what a subscriber does not need at `due` or soon after; never later than planned before.
    pub(crate) fn arm_idle(&mut self, number: u32, due: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        if due < subscriber.settle_at {
            subscriber.settle_at = due;
            self.idle.arm(number, due.as_secs() as u32 + 1);
        }
    }

    /// Ends what is due, looking at `budget` sessions at most. Costs nothing when nothing is due.
    /// True if there may be more.
    pub fn expire(&mut self, now: Timestamp, mut budget: u32) -> bool {
        self.rearm(now, &mut budget);
        self.expire_sessions(now, &mut budget);
        self.end_stranded(now, &mut budget);
        self.take_leave(now);
        self.wake_all_ports(now, &mut budget);
        self.scatter_rests.sweep(now, &mut budget);
        while let Some(number) = self.idle.pop(now.as_secs() as u32, &mut budget) {
            self.settle_due(number, now);
        }
        budget == 0 || !self.left.is_empty()
    }

    /// Sessions lie far apart. What is needed of those that are due is read side by side, before they are looked
    /// at one by one.
    fn expire_sessions(&mut self, now: Timestamp, budget: &mut u32) {
        let mut due = [0; SIDE_BY_SIDE];
        loop {
            let mut count = 0;
            while count < due.len()
                && let Some(number) = self.wheel.pop(now.as_secs() as u32, budget)
            {
                due[count] = number;
                count += 1;
            }
            if count == 0 {
                return;
            }
            let due = &due[..count];
            for &number in due {
                self.table.touch_number(number);
            }
            let mut keys = [Default::default(); SIDE_BY_SIDE];
            for (keys, &number) in keys.iter_mut().zip(due) {
                *keys = self.table.keys(number);
            }
            let hashed = keys;
            for key in keys[..count].as_flattened_mut() {
                self.table.touch_bucket(key);
            }
            let live = due.iter().filter_map(|&number| self.table.live(number as usize));
            let needs =
                live.map(|(session, owner)| (owner.subscriber, Some(session.public().port)));
            self.subscribers.touch(needs);
            for key in keys[..count].as_flattened_mut() {
                self.table.guess(key);
            }
            for (&number, keys) in due.iter().zip(&hashed) {
                self.expire_session(number, keys, now);
            }
            if count < SIDE_BY_SIDE {
                return;
            }
        }
    }

    /// Ends a session if its time is over; else it is looked at again then.
    fn expire_session(&mut self, number: u32, keys: &[HashedKey; 2], now: Timestamp) {
        let slot = Slot::new(number, Direction::Outbound);
        let Some((session, owner)) = self.table.live(number as usize) else { return };
        let Some(pool) = self.pools.get(owner.pool.index()) else { return };
        let timeout = session.timeout(&pool.settings).as_millis() as u32;
        let idle = session.unrenewed(&owner, pool.settings.inbound_refresh, now);
        if idle >= timeout {
            self.mourn(slot);
            self.end_as(slot, keys, false, now);
        } else {
            self.arm(slot, now);
        }
    }

    /// Looks at an idle subscriber, if it is time: the entry may be of one that had the number before.
    fn settle_due(&mut self, number: u32, now: Timestamp) {
        let Some(subscriber) = self.subscribers.live(number as usize) else { return };
        let due = subscriber.settle_at;
        if due <= now {
            self.settle_idle(number, now);
        } else if due < Timestamp::NEVER {
            self.idle.arm(number, due.as_secs() as u32 + 1);
        }
    }

    /// Takes back what a subscriber that has been idle for long, in a pool or at all, does not need.
    fn settle_idle(&mut self, number: u32, now: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        subscriber.settle_at = Timestamp::NEVER;
        let holder = Holder {
            subscriber: subscriber.addr,
            worker: self.worker,
            overlay: subscriber.overlay(),
        };
        let mut next = Timestamp::NEVER;
        let (pools, events) = (&self.pools, &mut self.events);
        subscriber.holdings.retain_mut(|holding| {
            let Some(pool) = pools.get(holding.pool.index()) else { return true };
            match holding.settle(pool, (holder, &mut *events), now) {
                Settled::Keep(due) => next = next.min(due),
                Settled::Forget => return false,
            }
            true
        });
        if subscriber.is_bare() {
            return self.forget(number);
        }
        if next < Timestamp::NEVER {
            self.arm_idle(number, next);
        }
    }

    pub(super) fn forget(&mut self, number: u32) {
        self.subscribers.forget(number);
    }
}
