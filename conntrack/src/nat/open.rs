//! How does a session begin?

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Admission, FixedMapping, KEEP_LAST_BLOCK, Nat, Refusal};
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::lease::Search;
use crate::pool::{Pool, PoolId};
use crate::session::{Direction, Owner, Slot, Via};
use crate::subscriber::{Holding, NoBlock};
use crate::table::NotAdded;
use crate::tcp::{Segment, State};
use crate::time::Timestamp;

impl From<NoBlock> for Refusal {
    fn from(no_block: NoBlock) -> Self {
        match no_block {
            NoBlock::Quota => Self::QuotaBlocks,
            NoBlock::Exhausted => Self::PoolExhausted,
        }
    }
}

impl From<NotAdded> for Refusal {
    fn from(not_added: NotAdded) -> Self {
        match not_added {
            NotAdded::Full => Self::TableFull,
            NotAdded::Taken => Self::TupleTaken,
        }
    }
}

/// The state in which a session begins that a packet from `realm` opens.
fn first_state(key: &FlowKey, first: Option<&Segment>) -> Result<State, Refusal> {
    match (key.protocol, first) {
        (Protocol::Tcp, Some(segment)) if segment.flags.opens() => Ok(match key.realm {
            Realm::Internal => State::SynSent,
            Realm::External => State::SynReceived,
        }),
        (Protocol::Tcp, _) => Err(Refusal::NotSyn),
        _ => Ok(State::Open),
    }
}

/// The flow from inside whose session a packet with `key` belongs to, if `internal` is its inner end.
fn outbound_key(key: &FlowKey, internal: Endpoint) -> FlowKey {
    let dst = match key.realm {
        Realm::Internal => key.dst,
        Realm::External => key.src,
    };
    FlowKey { src: internal, dst, protocol: key.protocol, realm: Realm::Internal }
}

/// The slot for packets that arrive from `realm`.
fn arriving(outbound: Slot, realm: Realm) -> Slot {
    match realm {
        Realm::Internal => outbound,
        Realm::External => Slot::new(outbound.number(), Direction::Inbound),
    }
}

impl Nat {
    /// Opens a session for a flow from inside that has none. `first`: its first TCP segment.
    pub fn open(
        &mut self,
        key: &FlowKey,
        admission: Admission,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let state = first_state(key, first)?;
        self.counted(key.src.addr, now, |nat, number| {
            nat.open_for(number, key, admission, state, now)
        })
    }

    /// Opens a session through a mapping that configuration made. `key` is of the packet as it arrived,
    /// from either side; the slot is of its direction. No port is taken, so none can be wanting; the
    /// session counts for the internal address as any other.
    pub fn open_fixed(
        &mut self,
        key: &FlowKey,
        mapping: FixedMapping,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let state = first_state(key, first)?;
        let outbound = outbound_key(key, mapping.internal);
        let slot = self.counted(mapping.internal.addr, now, |nat, subscriber| {
            nat.admitted(subscriber, mapping.pool)?;
            let (pool, rule) = (mapping.pool, mapping.rule);
            let owner = Owner { subscriber, pool, rule, via: Via::Fixed };
            let slot = nat.table.insert(&outbound, mapping.public, state, owner, now)?;
            nat.subscribers.get_mut(subscriber).holding_mut(pool).sessions += 1;
            Ok(slot)
        })?;
        Ok(arriving(slot, key.realm))
    }

    /// Opens a session for a packet from outside to a public endpoint that the NAT gave out, if the pool's
    /// filter admits it.
    pub fn open_inbound(
        &mut self,
        _key: &FlowKey,
        _first: Option<&Segment>,
        _now: Timestamp,
    ) -> Result<Slot, Refusal> {
        Err(Refusal::NoMapping)
    }

    /// Opens a session for the subscriber at `internal`, and counts it, or the refusal.
    fn counted(
        &mut self,
        internal: Ipv4Addr,
        now: Timestamp,
        open: impl FnOnce(&mut Self, u32) -> Result<Slot, Refusal>,
    ) -> Result<Slot, Refusal> {
        if self.table.is_full() && self.subscribers.find(internal).is_none() {
            return Err(Refusal::TableFull);
        }
        let number = self.subscribers.get_or_insert(internal, now);
        let opened = open(self, number);
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

    /// The settings under which subscriber `number` may have one more session in `pool`.
    fn admitted(&mut self, number: u32, pool: PoolId) -> Result<Arc<Pool>, Refusal> {
        let settings = self.pools.get(pool.index()).cloned().ok_or(Refusal::PoolExhausted)?;
        let holding = self.subscribers.get_mut(number).holding_mut(pool);
        if holding.sessions >= settings.settings.quota.sessions {
            return Err(Refusal::QuotaSessions);
        }
        Ok(settings)
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

    fn open_for(
        &mut self,
        number: u32,
        key: &FlowKey,
        admission: Admission,
        state: State,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let pool = self.admitted(number, admission.pool)?;
        let holder = Holder { subscriber: key.src.addr, worker: self.worker };
        let random = self.secret.scramble((key, now.as_millis()));
        let holding = self.subscribers.get_mut(number).holding_mut(admission.pool);
        let search = Search { table: &self.table, pool: &pool, key, holder, random, now };
        let lease = if self.table.is_full() {
            // Before a block is claimed: a full table must not empty the pool as well.
            search.replacing(holding).ok_or(Refusal::TableFull)?
        } else {
            search.lease(holding)?
        };
        if let Some(slot) = lease.replaces {
            // Its block can't be released by this: had another block been empty, a port of that one
            // would have been taken.
            self.end(slot, now);
        }
        let Admission { pool: id, rule } = admission;
        let owner = Owner { subscriber: number, pool: id, rule, via: Via::Block };
        let slot = self.table.insert(key, lease.public, state, owner, now)?;
        let holding = self.subscribers.get_mut(number).holding_mut(admission.pool);
        holding.sessions += 1;
        if let Some(block) = holding.block_of(&pool, lease.public) {
            holding.blocks[block].use_port(key.protocol, lease.public.port);
        }
        Ok(slot)
    }
}
