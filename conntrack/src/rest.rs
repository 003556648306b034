//! What rests before it is used again? Freed ports, and tuples of the region for DNS.

use std::collections::{HashMap, VecDeque};

use ahash::RandomState;

use crate::endpoint::{Endpoint, Protocol};
use crate::nat::Nat;
use crate::pool::PoolId;
use crate::session::Slot;
use crate::time::Timestamp;

/// A port of a subscriber that nobody uses, and until when nobody may (RFC 6888 REQ-8).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rest {
    pub(crate) subscriber: u32,
    pub(crate) protocol: Protocol,
    pub(crate) public: Endpoint,
    pub(crate) until: Timestamp,
}

/// The ports at rest, by pool, the oldest first.
///
/// A port at rest keeps its block held, so that the number of the subscriber stays good.
#[derive(Debug, Default)]
pub(crate) struct Rests {
    queues: Vec<VecDeque<Rest>>,
    /// Ports whose rest was cut short.
    pub(crate) cut_short: u64,
}

impl Rests {
    /// Makes room for `pools`.
    pub(crate) fn adopt(&mut self, pools: usize) {
        self.queues.resize_with(pools.max(self.queues.len()), VecDeque::new);
    }

    fn push(&mut self, pool: PoolId, rest: Rest) {
        if let Some(queue) = self.queues.get_mut(pool.index()) {
            queue.push_back(rest);
        }
    }

    fn len(&self, pool: PoolId) -> usize {
        self.queues.get(pool.index()).map_or(0, VecDeque::len)
    }

    /// The oldest one, if it is over at `now` or there are more than `max`.
    fn pop(&mut self, pool: PoolId, max: usize, now: Timestamp) -> Option<Rest> {
        let queue = self.queues.get_mut(pool.index())?;
        let due = queue.len() > max || queue.front()?.until <= now;
        due.then(|| queue.pop_front())?
    }
}

impl Nat {
    /// Lets a port rest. If too many do, the one that has rested longest goes early.
    pub(crate) fn rest_port(&mut self, pool: PoolId, rest: Rest, now: Timestamp) {
        self.rests.push(pool, rest);
        let Some(max) = self.pool(pool).map(|p| p.settings.max_resting(p.addresses.len())) else {
            return;
        };
        let max = max.div_ceil(u64::from(self.workers())) as usize;
        while self.rests.len(pool) > max {
            let Some(oldest) = self.rests.pop(pool, max, now) else { return };
            if self.wake_port(pool, oldest, now) && oldest.until > now {
                self.rests.cut_short += 1;
                self.note_overflow(pool, max as u64, now);
            }
        }
    }

    /// Lets the tuple of a session that ends rest, if it is of the region for DNS.
    pub(crate) fn rest_tuple(&mut self, slot: Slot, now: Timestamp) {
        let (session, owner) = (self.table.get(slot), self.table.owner(slot));
        let Some(settings) = self.pool(owner.pool).map(|pool| &pool.settings) else { return };
        if settings.scatters(session.protocol(), session.remote().port)
            && let Some(scatter) = &settings.scatter
        {
            let (until, reply) = (now + scatter.rest, self.secret().hash(session.inbound.key));
            self.scatter_rests.push(reply, until, now);
        }
    }

    /// Ends the rests in `pool` that are over, `budget` at most.
    pub(crate) fn wake_ports(&mut self, pool: PoolId, now: Timestamp, budget: &mut u32) {
        while *budget > 0
            && let Some(rest) = self.rests.pop(pool, usize::MAX, now)
        {
            *budget -= 1;
            self.wake_port(pool, rest, now);
        }
    }

    /// The same in all pools.
    pub(crate) fn wake_all_ports(&mut self, now: Timestamp, budget: &mut u32) {
        for pool in 0..self.rests.queues.len() {
            self.wake_ports(PoolId(pool as u16), now, budget);
        }
    }

    fn wake_port(&mut self, id: PoolId, rest: Rest, now: Timestamp) -> bool {
        let Some(pool) = self.pool(id).cloned() else { return false };
        let holding = self.subscribers.get_mut(rest.subscriber).holding_mut(id);
        let Some(block) = holding.block_of(&pool, rest.public) else { return false };
        let woken = holding.blocks[block].wake_port(rest.protocol, rest.public.port, rest.until);
        if woken && holding.blocks[block].is_empty() {
            self.arm_idle(rest.subscriber, now);
        }
        woken
    }
}

/// Tuples of the region for DNS that rest: the hashes of their reply keys (decision D5).
///
/// They wake by themselves: what is over only waits to be swept.
#[derive(Debug)]
pub(crate) struct ScatterRests {
    until: HashMap<u64, Timestamp, RandomState>,
    queue: VecDeque<(u64, Timestamp)>,
    max: usize,
}

/// Tuples swept when one is added: more than one, so that what is over goes away.
const SWEEP: u32 = 4;

impl ScatterRests {
    pub(crate) fn new(max: usize) -> Self {
        Self { until: HashMap::with_hasher(RandomState::new()), queue: VecDeque::new(), max }
    }

    pub(crate) fn rests(&self, reply: u64, now: Timestamp) -> bool {
        self.until.get(&reply).is_some_and(|&until| now < until)
    }

    /// Lets a tuple rest; the one that has rested longest goes early if there are too many.
    pub(crate) fn push(&mut self, reply: u64, until: Timestamp, now: Timestamp) {
        self.sweep(now, &mut SWEEP.clone());
        if self.queue.len() >= self.max {
            self.pop();
        }
        self.until.insert(reply, until);
        self.queue.push_back((reply, until));
    }

    /// Forgets tuples that have rested enough, `budget` at most.
    pub(crate) fn sweep(&mut self, now: Timestamp, budget: &mut u32) {
        while *budget > 0 && self.queue.front().is_some_and(|&(_, until)| until <= now) {
            *budget -= 1;
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some((reply, until)) = self.queue.pop_front() else { return };
        // It may rest again meanwhile.
        if self.until.get(&reply) == Some(&until) {
            self.until.remove(&reply);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tuples_rest_and_are_forgotten() {
        let at = Timestamp::from_millis;
        let mut rests = ScatterRests::new(100);
        for reply in 0..1_000 {
            rests.push(reply, at(reply * 10 + 2_000), at(reply * 10));
            assert!(rests.queue.len() <= 100 && rests.until.len() <= rests.queue.len());
        }
        assert!(rests.rests(999, at(11_989)));
        assert!(!rests.rests(999, at(11_990)));
        assert!(!rests.rests(0, at(0)), "cut short");
        rests.push(999, at(20_000), at(11_000));
        assert!(rests.rests(999, at(19_999)), "the first rest does not end the second");
        let before = rests.queue.len();
        rests.sweep(at(30_000), &mut 3);
        assert_eq!(rests.queue.len(), before - 3, "no more than its budget");
        rests.sweep(at(30_000), &mut 1_000);
        assert_eq!((rests.queue.len(), rests.until.len()), (0, 0));
    }
}
