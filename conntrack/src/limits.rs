//! What may one subscriber have, and who is told when it has it?

use crate::address::PortClass;
use crate::block::PortBlock;
use crate::endpoint::{Protocol, Realm};
use crate::events::{Event, EventKind, Limit};
use crate::lease::Lease;
use crate::nat::{Nat, Refusal};
use crate::pool::{Pool, PoolId, Quota};
use crate::session::Slot;
use crate::subscriber::Holding;
use crate::tcp::State;
use crate::time::Timestamp;

impl Refusal {
    /// The limit of the subscriber that was reached, if it was one.
    pub const fn limit(self) -> Option<Limit> {
        match self {
            Self::QuotaBlocks => Some(Limit::Blocks),
            Self::QuotaSessions => Some(Limit::Sessions),
            Self::QuotaHalfOpen => Some(Limit::HalfOpen),
            Self::QuotaPorts => Some(Limit::Ports),
            Self::QuotaRate => Some(Limit::Rate),
            _ => None,
        }
    }
}

/// Nine tenths: at this fill, somebody should know.
const fn threshold(of: u64) -> u64 {
    of - of / 10
}

/// A rate limit with a burst: when the next one would be due if all came evenly.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Bucket {
    due_ns: u64,
}

impl Bucket {
    /// Whether one more may be had at `now`; then it is taken.
    pub(crate) fn take(&mut self, per_second: u32, burst: u32, now: Timestamp) -> bool {
        let Some(interval) = 1_000_000_000_u64.checked_div(per_second.into()) else { return false };
        let now = now.as_millis().saturating_mul(1_000_000);
        let due = self.due_ns.max(now);
        let may = due - now <= interval * u64::from(burst.max(1) - 1);
        if may {
            self.due_ns = due + interval;
        }
        may
    }
}

impl Holding {
    /// Whether the subscriber may have one more session, which starts in `state`. Asked before anything is
    /// looked for or allocated: refusals cost little (RFC 6888 REQ-4c, 5b).
    pub(crate) fn admit(
        &mut self,
        quota: &Quota,
        state: State,
        opener: Realm,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.sessions >= quota.sessions {
            return Err(Refusal::QuotaSessions);
        }
        if state.is_opening() && self.half_open[opener as usize] >= quota.half_open {
            return Err(Refusal::QuotaHalfOpen);
        }
        match quota.new_per_second {
            Some(rate) if !self.buckets[opener as usize].take(rate, quota.burst, now) => {
                Err(Refusal::QuotaRate)
            }
            _ => Ok(()),
        }
    }

    /// Whether strangers may open one more session: those that the subscriber has not answered have
    /// half of its sessions at most, since anybody can forge more of them than it may have.
    pub(crate) fn admits_stranger(&self, quota: &Quota) -> Result<(), Refusal> {
        let full = self.strangers >= quota.sessions.div_ceil(2);
        if full { Err(Refusal::QuotaSessions) } else { Ok(()) }
    }

    /// Whether the subscriber has as many public ports of `protocol` as it may have (RFC 6888 REQ-4b).
    pub(crate) fn has_all_ports(&self, quota: &Quota, protocol: Protocol) -> bool {
        let in_use = protocol.index().map(|index| self.ports[index]);
        in_use.zip(ports_quota(quota, protocol)).is_some_and(|(used, limit)| used >= limit)
    }

    /// Blocks of this class, on addresses that serve: each class may have as many as the quota says.
    pub(crate) fn blocks_of(&self, pool: &Pool, class: PortClass) -> u32 {
        let counts = |block: &&PortBlock| block.class == class && pool.serves(block.address);
        self.blocks.iter().filter(counts).count() as u32
    }

    /// How much of `limit` is used, and how much there is. `protocol`: of the flow that is concerned.
    pub(crate) fn usage(&self, pool: &Pool, limit: Limit, protocol: Protocol) -> (u64, u64) {
        let quota = &pool.settings.quota;
        let (used, limit) = match limit {
            Limit::Blocks => {
                let of = |class| self.blocks_of(pool, class);
                let most = of(PortClass::Low).max(of(PortClass::High));
                (most, quota.blocks)
            }
            Limit::Sessions => (self.sessions, quota.sessions),
            Limit::HalfOpen => (self.half_open.into_iter().max().unwrap_or(0), quota.half_open),
            Limit::Ports => (
                protocol.index().map_or(0, |index| self.ports[index]),
                ports_quota(quota, protocol).unwrap_or(u32::MAX),
            ),
            Limit::Rate => {
                let rate = quota.new_per_second.unwrap_or(u32::MAX);
                (rate, rate)
            }
        };
        (used.into(), limit.into())
    }
}

const fn ports_quota(quota: &Quota, protocol: Protocol) -> Option<u32> {
    match protocol {
        Protocol::Tcp => quota.tcp,
        Protocol::Udp => quota.udp,
        Protocol::Icmp => quota.icmp,
        Protocol::Other(_) => None,
    }
}

impl Nat {
    /// Keeps the number of half-open sessions when a session goes from one state to another.
    pub(crate) fn note_state(&mut self, slot: Slot, from: State, to: State) {
        if from.is_opening() == to.is_opening() {
            return;
        }
        let owner = self.table.owner(slot);
        let holding = self.subscribers.get_mut(owner.subscriber).holding_mut(owner.pool);
        let half_open = &mut holding.half_open[owner.opened_by as usize];
        if to.is_opening() {
            *half_open += 1;
        } else {
            *half_open = half_open.saturating_sub(1);
        }
    }

    /// Tells what a new session of a subscriber has reached.
    pub(crate) fn note_opened(&mut self, number: u32, id: PoolId, now: Timestamp) {
        let (len, max) = (self.table.len() as u64, self.table.max() as u64);
        if len == threshold(max) {
            let kind = EventKind::TableThreshold;
            let event = Event { kind, pool: None, subscriber: None, used: len, limit: max };
            self.events.raise(event, now);
        }
        let soft = self.pools.get(id.index()).and_then(|p| p.settings.quota.sessions_soft);
        let Some(soft) = soft else { return };
        let subscriber = self.subscribers.get_mut(number);
        let addr = Some(subscriber.addr);
        let holding = subscriber.holding_mut(id);
        if holding.sessions == soft {
            let kind = EventKind::QuotaSoft(Limit::Sessions);
            let (used, limit) = (soft.into(), soft.into());
            let event = Event { kind, pool: Some(id), subscriber: addr, used, limit };
            self.events.raise_for(&mut holding.rare().told_soft, event, now);
        }
    }

    /// Tells what the search for a port has brought about.
    pub(crate) fn note_lease(&mut self, number: u32, pool: &Pool, lease: &Lease, now: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        let addr = subscriber.addr;
        let event = |kind, used, limit| {
            let (pool, subscriber) = (Some(pool.id), Some(addr));
            Event { kind, pool, subscriber, used, limit }
        };
        if lease.scatter_full {
            let ports = pool.settings.scatter_region().map_or(0, |region| region.len() as u64);
            self.events.raise(event(EventKind::ScatterFull, ports, ports), now);
        }
        let Some(claimed) = lease.claimed else { return };
        let holding = subscriber.holding_mut(pool.id);
        let quota = &pool.settings.quota;
        // The new block is the last one.
        let class = holding.blocks.last().map_or(PortClass::High, |block| block.class);
        let blocks = holding.blocks_of(pool, class);
        if quota.blocks_soft == Some(blocks) {
            let kind = EventKind::QuotaSoft(Limit::Blocks);
            let soft = event(kind, blocks.into(), quota.blocks.into());
            self.events.raise_for(&mut holding.rare().told_soft, soft, now);
        }
        if claimed.spilled {
            self.events.raise(event(EventKind::Spill, blocks.into(), quota.blocks.into()), now);
        }
        let near = |held: u64, all: u64| held >= threshold(all);
        let directory = &pool.addresses[usize::from(claimed.address)].directory;
        // All addresses are counted only when this one is nearly full.
        if near(directory.held().into(), directory.blocks().into()) {
            let (held, all) = pool.fill();
            if near(held, all) {
                self.events.raise(event(EventKind::PoolThreshold, held, all), now);
            }
        }
    }

    /// Tells why a flow of a subscriber was refused (RFC 6888 REQ-11c).
    pub(crate) fn note_refused(
        &mut self,
        number: u32,
        (id, protocol): (PoolId, Protocol),
        refusal: Refusal,
        now: Timestamp,
    ) {
        let Some(pool) = self.pools.get(id.index()) else { return };
        let subscriber = self.subscribers.get_mut(number);
        let addr = Some(subscriber.addr);
        let event = |kind, (used, limit): (u64, u64)| {
            let pool = Some(id);
            Event { kind, pool, subscriber: addr, used, limit }
        };
        if let Some(limit) = refusal.limit() {
            let holding = subscriber.holding_mut(id);
            let usage = holding.usage(pool, limit, protocol);
            let event = event(EventKind::QuotaExhausted(limit), usage);
            self.events.raise_for(&mut holding.rare().told_hard, event, now);
        } else if refusal == Refusal::PoolExhausted {
            self.events.raise(event(EventKind::PoolExhausted, pool.fill()), now);
        } else if refusal == Refusal::TableFull {
            self.note_table_full(now);
        }
    }

    /// Tells that a flow was refused because the table is full.
    pub(crate) fn note_table_full(&mut self, now: Timestamp) {
        let (used, limit) = (self.table.len() as u64, self.table.max() as u64);
        let kind = EventKind::TableFull;
        self.events.raise(Event { kind, pool: None, subscriber: None, used, limit }, now);
    }

    /// Tells that a port rested for less than it should.
    pub(crate) fn note_overflow(&mut self, pool: PoolId, max: u64, now: Timestamp) {
        let (kind, pool) = (EventKind::HoldDownOverflow, Some(pool));
        self.events.raise(Event { kind, pool, subscriber: None, used: max, limit: max }, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_gives_its_rate_and_its_burst() {
        let mut bucket = Bucket::default();
        let mut take = |rate, burst, ms| bucket.take(rate, burst, Timestamp::from_millis(ms));
        assert_eq!((0..100).filter(|_| take(10, 5, 1_000)).count(), 5);
        let taken = (1_001..=11_000).filter(|&ms| take(10, 5, ms)).count();
        assert_eq!(taken, 100);
        assert_eq!((0..100).filter(|_| take(10, 5, 60_000)).count(), 5);
        assert!(!take(0, 5, 90_000));
    }
}
