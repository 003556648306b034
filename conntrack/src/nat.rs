//! The translator of one worker: everything about the subscribers whose home it is.

use std::sync::Arc;
use std::time::Duration;

use crate::directory::Holder;
use crate::endpoint::{FlowKey, Protocol};
use crate::key::{HashedKey, Secret};
use crate::lease::Search;
use crate::pool::{Pool, PoolId};
use crate::rewrite::Rewrite;
use crate::session::{CachedHop, Direction, Owner, Slot};
use crate::subscriber::{Holding, NoBlock, Subscribers};
use crate::table::SessionTable;
use crate::tcp::{Segment, State};
use crate::time::Timestamp;
use crate::wheel::Wheel;

/// A subscriber without sessions in a pool gives its last block there back after this time.
const KEEP_LAST_BLOCK: Duration = Duration::from_secs(60);
/// A subscriber without sessions keeps its public address for this long (`pooling.linger`).
const KEEP_ANCHOR: Duration = Duration::from_secs(600);

/// Why a new flow was refused. Nothing has changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A TCP segment that does not open a connection.
    #[error("no session and no SYN")]
    NotSyn,
    /// The subscriber holds as many blocks as it may, and all their ports serve this remote.
    #[error("the subscriber's quota of port blocks is used up")]
    QuotaBlocks,
    /// The subscriber has as many sessions as it may have.
    #[error("the subscriber's quota of sessions is used up")]
    QuotaSessions,
    /// No address of the pool has a block to give.
    #[error("the pool has no port block left")]
    PoolExhausted,
    /// The session table is as large as it may be.
    #[error("the session table is full")]
    TableFull,
}

/// A flow that a rule sends to a pool.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The pool.
    pub pool: PoolId,
    /// The rule, remembered with the session.
    pub rule: u16,
}

/// What a NAT has done since it started, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct NatStats {
    /// Sessions now.
    pub sessions: u64,
    /// Sessions ever created.
    pub created: u64,
    /// Sessions ever ended.
    pub ended: u64,
    /// Subscribers now.
    pub subscribers: u64,
    /// Bytes of the session table in use.
    pub table_bytes: u64,
}

/// The NAT of one worker. Single writer; nothing here is shared but the pools' directories.
#[derive(Debug)]
pub struct Nat {
    worker: u16,
    secret: Secret,
    pools: Vec<Arc<Pool>>,
    pub(crate) table: SessionTable,
    wheel: Wheel,
    pub(crate) subscribers: Subscribers,
    /// Subscribers with an idle holding: to give its last block back; those without sessions: to be
    /// forgotten.
    idle: Wheel,
    created: u64,
    ended: u64,
}

impl Nat {
    /// A NAT for the subscribers of `worker`, with room for `max_sessions`. All workers share `secret`.
    pub fn new(worker: u16, max_sessions: usize, secret: Secret, now: Timestamp) -> Self {
        Self {
            worker,
            pools: Vec::new(),
            table: SessionTable::new(max_sessions, secret.clone()),
            wheel: Wheel::new(now.as_secs() as u32, max_sessions),
            secret,
            subscribers: Subscribers::new(),
            idle: Wheel::new(now.as_secs() as u32, 0),
            created: 0,
            ended: 0,
        }
    }

    /// Takes over the pools of a new configuration; indexed by [`PoolId`], which never changes its meaning.
    pub fn adopt(&mut self, pools: &[Arc<Pool>]) {
        self.pools = pools.to_vec();
    }

    /// The session that a packet belongs to, and its direction.
    pub fn find(&self, key: &FlowKey) -> Option<Slot> {
        self.table.find(key)
    }

    /// The same, for a key that is hashed already.
    pub fn find_hashed(&self, key: HashedKey) -> Option<Slot> {
        self.table.find_hashed(key)
    }

    /// Reads the index line where `key` is looked up. Call it for a whole burst before
    /// [`touch_session`](Self::touch_session): the reads of different packets overlap.
    pub fn touch_bucket(&self, key: HashedKey) {
        self.table.touch_bucket(key);
    }

    /// Reads the line of the session that `key` probably has. Call it for a whole burst before
    /// [`find_hashed`](Self::find_hashed).
    pub fn touch_session(&self, key: HashedKey) {
        self.table.touch_session(key);
    }

    /// How packets of `slot` are rewritten.
    pub fn rewrite(&self, slot: Slot) -> Rewrite {
        self.table.get(slot).half(slot.direction()).rewrite
    }

    /// The next hop kept for packets of `slot`.
    pub fn hop(&self, slot: Slot) -> CachedHop {
        self.table.get(slot).half(slot.direction()).hop
    }

    /// Keeps a next hop for packets of `slot`.
    pub fn set_hop(&mut self, slot: Slot, hop: CachedHop) {
        self.table.get_mut(slot).half_mut(slot.direction()).hop = hop;
    }

    /// Counts a packet of `bytes` (IP length) that is forwarded, renews the timer and follows the TCP
    /// state.
    pub fn commit(&mut self, slot: Slot, now: Timestamp, bytes: u64, tcp: Option<&Segment>) {
        let session = self.table.get_mut(slot);
        let half = session.half_mut(slot.direction());
        half.last_seen = now.stored();
        half.count(bytes);
        let Some(segment) = tcp else { return };
        let state = half.state.after(segment.flags, slot.direction() == Direction::Outbound);
        if state != half.state {
            session.set_state(state);
            self.arm(slot, now);
        }
    }

    fn arm(&mut self, slot: Slot, now: Timestamp) {
        let Some(pool) = self.pools.get(self.table.owner(slot).pool.index()) else { return };
        let session = self.table.get(slot);
        let idle = Duration::from_millis(session.idle(now).into());
        let left = session.timeout(&pool.settings.timers).saturating_sub(idle);
        let tick = (now + left).as_millis().div_ceil(1000);
        self.wheel.arm(slot.number(), tick as u32);
    }

    /// Opens a session for a flow from inside that has none. `tcp`: its first segment.
    pub fn open(
        &mut self,
        key: &FlowKey,
        admission: Admission,
        tcp: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let state = match tcp {
            Some(segment) if segment.flags.opens() => State::SynSent,
            Some(_) => return Err(Refusal::NotSyn),
            None => State::Open,
        };
        if self.table.is_full() && self.subscribers.find(key.src.addr).is_none() {
            return Err(Refusal::TableFull);
        }
        let number = self.subscribers.get_or_insert(key.src.addr, now);
        let opened = self.open_for(number, key, admission, state, now);
        let subscriber = self.subscribers.get_mut(number);
        if let Ok(slot) = opened {
            subscriber.sessions += 1;
            subscriber.created += 1;
            self.created += 1;
            self.arm(slot, now);
        } else {
            subscriber.refused += 1;
            self.settle_refused(number);
        }
        opened
    }

    /// A refusal keeps nobody in memory: neither who came for the first time, nor, by renewing a timer,
    /// who was about to be forgotten.
    fn settle_refused(&mut self, number: u32) {
        let subscriber = self.subscribers.get_mut(number);
        if subscriber.sessions > 0 {
            return;
        }
        if subscriber.holdings.iter().all(Holding::is_bare) {
            self.forget(number);
        } else {
            // A block may have been claimed before the index refused.
            let soon = subscriber.idle_since + KEEP_LAST_BLOCK;
            self.arm_idle(number, soon);
        }
    }

    fn forget(&mut self, number: u32) {
        self.idle.disarm(number);
        self.subscribers.forget(number);
    }

    fn open_for(
        &mut self,
        number: u32,
        key: &FlowKey,
        admission: Admission,
        state: State,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let pool = self.pools.get(admission.pool.index()).cloned().ok_or(Refusal::PoolExhausted)?;
        let holder = Holder { subscriber: key.src.addr, worker: self.worker };
        let random = self.secret.scramble((key, now.as_millis()));
        let holding = self.subscribers.get_mut(number).holding_mut(admission.pool);
        if holding.sessions >= pool.settings.quota.sessions {
            return Err(Refusal::QuotaSessions);
        }
        let search = Search { table: &self.table, pool: &pool, key, holder, random, now };
        let lease = if self.table.is_full() {
            // Before a block is claimed: a full table must not empty the pool as well.
            search.replacing(holding).ok_or(Refusal::TableFull)?
        } else {
            search.lease(holding).map_err(|no_block| match no_block {
                NoBlock::Quota => Refusal::QuotaBlocks,
                NoBlock::Exhausted => Refusal::PoolExhausted,
            })?
        };
        if let Some(slot) = lease.replaces {
            // Its block can't be released by this: had another block been empty, a port of that one
            // would have been taken.
            self.end(slot, now);
        }
        let owner = Owner { subscriber: number, pool: admission.pool, rule: admission.rule };
        let slot = self
            .table
            .insert(key, lease.public, state, owner, now)
            .map_err(|_| Refusal::TableFull)?;
        let holding = self.subscribers.get_mut(number).holding_mut(admission.pool);
        holding.sessions += 1;
        if let Some(block) = holding.block_of(&pool, lease.public) {
            holding.blocks[block].use_port(key.protocol, lease.public.port);
        }
        Ok(slot)
    }

    /// Ends a session: its port returns, its keys are free.
    fn end(&mut self, slot: Slot, now: Timestamp) {
        let (session, owner) = (self.table.get(slot), self.table.owner(slot));
        let (protocol, public) = (session.protocol(), session.public());
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
        if let Some(pool) = self.pools.get(owner.pool.index()) {
            holding.end_session(pool, protocol, public, holder, now);
        }
        if holding.sessions == 0 {
            self.arm_idle(owner.subscriber, now + KEEP_LAST_BLOCK);
        }
    }

    /// Looks at what a subscriber does not need at `due` or soon after; never later than planned before.
    fn arm_idle(&mut self, number: u32, due: Timestamp) {
        let subscriber = self.subscribers.get_mut(number);
        if due < subscriber.settle_at {
            subscriber.settle_at = due;
            self.idle.arm(number, due.as_secs() as u32 + 1);
        }
    }

    /// Ends what is due, looking at `budget` sessions at most. Costs nothing when nothing is due.
    /// True if the budget was used up: there may be more.
    pub fn expire(&mut self, now: Timestamp, mut budget: u32) -> bool {
        while let Some(number) = self.wheel.pop(now.as_secs() as u32, &mut budget) {
            let slot = Slot::new(number, Direction::Outbound);
            let Some((session, owner)) = self.table.live(number as usize) else { continue };
            let Some(pool) = self.pools.get(owner.pool.index()) else { continue };
            let timeout = session.timeout(&pool.settings.timers).as_millis() as u32;
            if session.idle(now) >= timeout {
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

    /// The pool with this number.
    pub(crate) fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(id.index())
    }

    /// The secret of this start.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Counters.
    pub fn stats(&self) -> NatStats {
        NatStats {
            sessions: self.table.len() as u64,
            created: self.created,
            ended: self.ended,
            subscribers: self.subscribers.len() as u64,
            table_bytes: self.table.bytes() as u64,
        }
    }

    /// The protocol of the packets of `slot`.
    pub fn protocol(&self, slot: Slot) -> Protocol {
        self.table.get(slot).protocol()
    }
}
