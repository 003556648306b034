//! What rests before it is used again? Freed ports, and tuples of the region for DNS.

use crate::chunks::Queue;
use crate::endpoint::{Endpoint, Protocol};
use crate::index::Index;
use crate::nat::Nat;
use crate::pool::PoolId;
use crate::session::Slot;
use crate::time::Timestamp;

/// Ports whose rest is over that are read side by side.
const SIDE_BY_SIDE: usize = 32;

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
    queues: Vec<Queue<Rest>>,
    /// Ports whose rest was cut short.
    pub(crate) cut_short: u64,
}

impl Rests {
    /// Makes room for `pools`.
    pub(crate) fn adopt(&mut self, pools: usize) {
        self.queues.resize_with(pools.max(self.queues.len()), Queue::default);
    }

    fn push(&mut self, pool: PoolId, rest: Rest) {
        if let Some(queue) = self.queues.get_mut(pool.index()) {
            queue.push(rest);
        }
    }

    fn len(&self, pool: PoolId) -> usize {
        self.queues.get(pool.index()).map_or(0, Queue::len)
    }

    /// All of them, by pool, the oldest first.
    pub(crate) fn all(&self) -> impl Iterator<Item = (PoolId, Rest)> + '_ {
        self.queues.iter().enumerate().flat_map(|(pool, queue)| {
            let rests = (0..queue.len()).filter_map(|place| queue.get(place));
            rests.map(move |rest| (PoolId(pool as u16), *rest))
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.queues.iter().map(Queue::bytes).sum()
    }

    /// Whether the oldest one is over.
    #[inline]
    fn is_due(&self, pool: PoolId, now: Timestamp) -> bool {
        let oldest = self.queues.get(pool.index()).and_then(Queue::front);
        oldest.is_some_and(|rest| rest.until <= now)
    }

    /// Those that are over, the oldest first.
    pub(crate) fn due(&self, pool: PoolId, now: Timestamp) -> impl Iterator<Item = &Rest> {
        let queue = self.queues.get(pool.index());
        let all = (0..).map_while(move |place| queue?.get(place));
        all.take_while(move |rest| rest.until <= now)
    }

    /// The oldest one, if it is over at `now` or there are more than `max`.
    fn pop(&mut self, pool: PoolId, max: usize, now: Timestamp) -> Option<Rest> {
        let queue = self.queues.get_mut(pool.index())?;
        let due = queue.len() > max || queue.front()?.until <= now;
        due.then(|| queue.pop())?
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
            if self.wake_port(pool, &oldest, now) && oldest.until > now {
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
        if !self.rests.is_due(pool, now) {
            return;
        }
        // Those that are due are read side by side, before they are looked at one by one.
        let mut due = [None; SIDE_BY_SIDE];
        loop {
            let mut count = 0;
            while *budget > 0
                && count < due.len()
                && let Some(rest) = self.rests.pop(pool, usize::MAX, now)
            {
                *budget -= 1;
                due[count] = Some(rest);
                count += 1;
            }
            let due = due[..count].iter().flatten();
            let needs = due.clone().map(|rest| (rest.subscriber, Some(rest.public.port)));
            self.subscribers.touch(needs);
            for rest in due {
                self.wake_port(pool, rest, now);
            }
            if count < SIDE_BY_SIDE {
                return;
            }
        }
    }

    /// The same in all pools.
    pub(crate) fn wake_all_ports(&mut self, now: Timestamp, budget: &mut u32) {
        for pool in 0..self.rests.queues.len() {
            self.wake_ports(PoolId(pool as u16), now, budget);
        }
    }

    fn wake_port(&mut self, id: PoolId, rest: &Rest, now: Timestamp) -> bool {
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
    /// From hashes to how many rested before.
    index: Index,
    queue: Queue<(u64, Timestamp)>,
    /// Rests that were swept, modulo 2^32.
    swept: u32,
    max: usize,
}

/// Tuples swept when one is added: more than one, so that what is over goes away.
const SWEEP: u32 = 4;

impl ScatterRests {
    pub(crate) fn new(max: usize) -> Self {
        Self { index: Index::new(max), queue: Queue::default(), swept: 0, max }
    }

    pub(crate) fn rests(&self, reply: u64, now: Timestamp) -> bool {
        let rests = |number: u32| {
            let rest = self.queue.get(number.wrapping_sub(self.swept) as usize);
            rest.is_some_and(|&(other, until)| other == reply && now < until)
        };
        self.index.find(reply, rests).is_some()
    }

    /// Lets a tuple rest; the one that has rested longest goes early if there are too many.
    pub(crate) fn push(&mut self, reply: u64, until: Timestamp, now: Timestamp) {
        self.sweep(now, &mut SWEEP.clone());
        if self.queue.len() >= self.max {
            self.pop();
        }
        let number = self.swept.wrapping_add(self.queue.len() as u32);
        let (queue, swept) = (&self.queue, self.swept);
        let hash_of = |number: u32| {
            queue.get(number.wrapping_sub(swept) as usize).map_or(0, |&(reply, _)| reply)
        };
        // Full only if one tuple rests many times at once: then the rests before say the same.
        if self.index.insert(reply, number, hash_of).is_ok() {
            self.queue.push((reply, until));
        }
    }

    /// Forgets tuples that have rested enough, `budget` at most.
    pub(crate) fn sweep(&mut self, now: Timestamp, budget: &mut u32) {
        while *budget > 0 && self.queue.front().is_some_and(|&(_, until)| until <= now) {
            *budget -= 1;
            self.pop();
        }
    }

    /// What rests at `now`, the oldest first.
    pub(crate) fn all(&self, now: Timestamp) -> impl Iterator<Item = (u64, Timestamp)> + '_ {
        let all = (0..self.queue.len()).filter_map(|place| self.queue.get(place));
        all.copied().filter(move |&(_, until)| until > now)
    }

    fn pop(&mut self) {
        let Some((reply, _)) = self.queue.pop() else { return };
        self.index.remove(reply, self.swept);
        self.swept = self.swept.wrapping_add(1);
    }

    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.queue.bytes()
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
            assert!(rests.queue.len() <= 100);
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
        assert_eq!(rests.queue.len(), 0);
        assert!((0..1_000).all(|reply| rests.index.find(reply, |_| true).is_none()));
    }
}
