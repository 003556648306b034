//! How does a session begin?

use std::net::Ipv4Addr;
use std::sync::Arc;

use super::{Admission, FixedMapping, Nat, Refusal};
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::lease::Search;
use crate::mapping::{Class, Mapping, NewMapping};
use crate::occurrence::BlockChange;
use crate::pool::{Pool, PoolId};
use crate::session::{Direction, Owner, Slot, Via, reply_key};
use crate::subscriber::{KEEP_LAST_BLOCK, NoBlock};
use crate::table::NotAdded;
use crate::tcp::{Segment, State};
use crate::time::Timestamp;

/// Ports whose rest is over that a new flow wakes at most.
pub(super) const WAKE_BUDGET: u32 = 64;

impl From<NoBlock> for Refusal {
    fn from(no_block: NoBlock) -> Self {
        match no_block {
            NoBlock::Quota => Self::QuotaBlocks,
            NoBlock::Ports => Self::QuotaPorts,
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
pub(super) fn first_state(key: &FlowKey, first: Option<&Segment>) -> Result<State, Refusal> {
    match (key.protocol, first) {
        (Protocol::Tcp, Some(segment)) if segment.flags.opens() => Ok(match key.realm {
            Realm::Internal => State::SynSent,
            Realm::External => State::SynExternal,
        }),
        (Protocol::Tcp, _) => Err(Refusal::NotSyn),
        _ => Ok(State::Open),
    }
}

/// The flow from inside whose session a packet with `key` belongs to, if `internal` in `overlay` is its inner end.
pub(super) fn outbound_key(key: &FlowKey, internal: Endpoint, overlay: u16) -> FlowKey {
    let dst = match key.realm {
        Realm::Internal => key.dst,
        Realm::External => key.src,
    };
    FlowKey { src: internal, dst, protocol: key.protocol, realm: Realm::Internal, overlay }
}

/// What is remembered of a session that a packet from `realm` opens now, under a pool and a rule.
fn owner(subscriber: u32, (pool, rule): (PoolId, u16), via: Via, realm: Realm) -> Owner {
    let addressed = realm == Realm::Internal;
    Owner { subscriber, pool, rule, via, opened_by: realm, addressed }
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
        self.counted(
            (key, first),
            (key.src.addr, key.overlay),
            admission.pool,
            now,
            |nat, number| nat.open_for(number, key, admission, state, now),
        )
    }

    /// Pairs the subscriber at `internal` in an overlay with the address of `pool` on which configuration gave it ports, unless it has an address: its other flows are to be seen under the same one
    /// (RFC 4787 REQ-2).
    pub fn pair(
        &mut self,
        internal: (Ipv4Addr, u16),
        pool: PoolId,
        public: Ipv4Addr,
        now: Timestamp,
    ) {
        let Some(settings) = self.pools.get(pool.index()).cloned() else { return };
        let mut addresses = settings.addresses.iter();
        let Some(index) = addresses.position(|address| address.addr == public) else { return };
        if !settings.serves(index as u16) {
            return;
        }
        let Some(number) = self.subscribers.get_or_insert(internal, now) else { return };
        let holding = self.subscribers.get_mut(number).holding_mut(pool);
        holding.pair_with(&settings, index as u16, now);
        self.settle_refused(number);
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
        let FixedMapping { internal, public, pool, rule, overlay } = mapping;
        let outbound = outbound_key(key, internal, overlay);
        self.counted((key, first), (internal.addr, overlay), pool, now, |nat, subscriber| {
            let settings = nat.admitted(subscriber, pool, state, key.realm, now)?;
            if key.realm == Realm::External {
                let holding = nat.subscribers.get_mut(subscriber).holding_mut(pool);
                holding.admits_stranger(&settings.settings.quota)?;
            }
            let owner = owner(subscriber, (pool, rule), Via::Fixed, key.realm);
            nat.add((&outbound, public), state, owner, None, now)
        })
    }

    /// Opens a session for a packet from outside to a public endpoint that the NAT gave out, if the pool's
    /// filter admits it. A refusal renews nothing (RFC 7857 section 7). Where only the addressed endpoint
    /// may send in, there is nothing to open: its packets have a session.
    ///
    /// Queries come in by fixed mappings only: an ICMP request has no identifier at this end, and a
    /// protocol without ports has nothing that a mapping could be told by.
    pub fn open_inbound(
        &mut self,
        key: &FlowKey,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let (number, mapping) = self.addressed_mapping(key)?;
        let (public, state) = (key.dst, first_state(key, first)?);
        let outbound = outbound_key(key, mapping.internal, mapping.overlay);
        let (host, pool) = ((mapping.internal.addr, mapping.overlay), mapping.pool);
        self.counted((key, first), host, pool, now, |nat, subscriber| {
            let pool = nat.admitted(subscriber, mapping.pool, state, key.realm, now)?;
            nat.has_room(number, &pool)?;
            let holding = nat.subscribers.get_mut(subscriber).holding_mut(pool.id);
            holding.admits_stranger(&pool.settings.quota)?;
            let admission = (mapping.pool, mapping.rule);
            let owner = owner(subscriber, admission, Via::Mapping, key.realm);
            nat.add((&outbound, public), state, owner, Some(number), now)
        })
    }

    /// The mapping that a packet from outside addresses, if its filter admits the sender.
    pub(super) fn addressed_mapping(&self, key: &FlowKey) -> Result<(u32, Mapping), Refusal> {
        let remote = key.src.addr;
        let number =
            self.mappings.at_public(key.protocol, key.dst, remote).ok_or(Refusal::NoMapping)?;
        let mapping = *self.mappings.get(number);
        let pool = self.pools.get(mapping.pool.index()).ok_or(Refusal::NoMapping)?;
        let filtering = Class::of(&pool.settings, key.protocol).filtering;
        if !self.mappings.admits(number, filtering, remote) {
            return Err(Refusal::Filtered);
        }
        Ok((number, mapping))
    }

    /// Opens a session for the subscriber at an address in an overlay, in `pool`, and counts it, or the refusal. `open` says
    /// its outbound slot; the result is of the direction of the packet that came, with its first segment.
    fn counted(
        &mut self,
        (key, first): (&FlowKey, Option<&Segment>),
        internal: (Ipv4Addr, u16),
        pool: PoolId,
        now: Timestamp,
        open: impl FnOnce(&mut Self, u32) -> Result<Slot, Refusal>,
    ) -> Result<Slot, Refusal> {
        if self.table.is_full() && self.subscribers.find(internal.0, internal.1).is_none() {
            self.note_table_full(now);
            return Err(Refusal::TableFull);
        }
        let Some(number) = self.subscribers.get_or_insert(internal, now) else {
            self.note_table_full(now);
            return Err(Refusal::TableFull);
        };
        let opened = open(self, number).map(|slot| arriving(slot, key.realm));
        let subscriber = self.subscribers.get_mut(number);
        match opened {
            Ok(slot) => {
                subscriber.sessions += 1;
                subscriber.created += 1;
                self.created += 1;
                self.begin(slot, first, now);
                self.record_session(slot, pool, true, now);
                self.note_opened(number, pool, now);
            }
            Err(refusal) => {
                subscriber.refused += 1;
                self.note_refused(number, (pool, key.protocol), refusal, now);
                self.settle_refused(number);
            }
        }
        opened
    }

    /// The settings under which subscriber `number` may have one more session in `pool`.
    fn admitted(
        &mut self,
        number: u32,
        pool: PoolId,
        state: State,
        opener: Realm,
        now: Timestamp,
    ) -> Result<Arc<Pool>, Refusal> {
        let settings = self.pools.get(pool.index()).cloned().ok_or(Refusal::PoolExhausted)?;
        let holding = self.subscribers.get_mut(number).holding_mut(pool);
        holding.admit(&settings.settings.quota, state, opener, now)?;
        Ok(settings)
    }

    /// A refusal keeps nobody in memory: neither who came for the first time, nor, by renewing a timer,
    /// who was about to be forgotten.
    fn settle_refused(&mut self, number: u32) {
        let subscriber = self.subscribers.get_mut(number);
        if subscriber.sessions > 0 {
            return;
        }
        if subscriber.is_bare() {
            self.forget(number);
        } else {
            // A block may have been claimed before the index refused.
            let soon = subscriber.idle_since + KEEP_LAST_BLOCK;
            self.arm_idle(number, soon);
        }
    }

    /// Whether a mapping may have one more session (RFC 6888 REQ-5).
    pub(super) fn has_room(&self, mapping: u32, pool: &Pool) -> Result<(), Refusal> {
        let limit = pool.settings.quota.sessions_per_mapping;
        if limit.is_some_and(|limit| self.mappings.get(mapping).sessions >= limit) {
            return Err(Refusal::QuotaSessions);
        }
        Ok(())
    }

    fn open_for(
        &mut self,
        number: u32,
        key: &FlowKey,
        admission: Admission,
        state: State,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let pool = self.admitted(number, admission.pool, state, Realm::Internal, now)?;
        if let Protocol::Other(protocol) = key.protocol {
            return self.open_portless(number, (key, protocol), admission, &pool, now);
        }
        let Admission { pool: id, rule } = admission;
        let class = Class::of(&pool.settings, key.protocol);
        let existing = self.mappings.for_flow(class, key, id);
        let (public, mapping) = if let Some(mapping) = existing {
            self.has_room(mapping, &pool)?;
            let public = self.mappings.get(mapping).public;
            if !self.is_good(number, &pool, public) {
                return Err(Refusal::TupleTaken);
            }
            (public, existing)
        } else {
            let public = self.lease(number, key, &pool, now)?;
            let new = NewMapping { key, public, pool: id, rule, class };
            (public, class.keeps_mappings().then(|| self.mappings.add(new)))
        };
        let via = if mapping.is_some() { Via::Mapping } else { Via::Block };
        let owner = owner(number, (id, rule), via, Realm::Internal);
        let added = self.add((key, public), state, owner, mapping, now);
        if let (Err(_), Some(mapping), None) = (added, mapping, existing) {
            self.mappings.remove(mapping);
        }
        added
    }

    /// A public endpoint for a flow whose mapping is yet to be made.
    fn lease(
        &mut self,
        number: u32,
        key: &FlowKey,
        pool: &Pool,
        now: Timestamp,
    ) -> Result<Endpoint, Refusal> {
        self.wake_ports(pool.id, now, &mut WAKE_BUDGET.clone());
        let foreseen = self.foresight.take(key, pool.id);
        let random = match &foreseen {
            Some(foreseen) => foreseen.random,
            None => pool.lean(self.draw(key, now), self.worker, self.workers),
        };
        let subscriber = self.subscribers.get_mut(number);
        let holder = Holder {
            subscriber: subscriber.addr,
            worker: self.worker,
            overlay: subscriber.overlay(),
        };
        let sharing = Class::of(&pool.settings, key.protocol).sharing;
        let (table, mappings) = (&self.table, &self.mappings);
        let search = Search {
            table,
            mappings,
            sharing,
            pool,
            key,
            holder,
            random,
            foreseen: foreseen.map(|it| it.public),
            now,
            secret: &self.secret,
            workers: self.workers,
            scatter_rests: &self.scatter_rests,
        };
        let holding = subscriber.holding_mut(pool.id);
        let held = holding.blocks.len();
        let lease = if self.table.is_full() {
            // Before a block is claimed: a full table must not empty the pool as well.
            search.replacing(holding).ok_or(Refusal::TableFull)
        } else {
            search.lease(holding).map_err(Refusal::from)
        };
        // Also if it was claimed in vain.
        for block in &holding.blocks[held..] {
            self.events.block(BlockChange::of(block, pool, holder, true), now);
        }
        let lease = lease?;
        if let Some(slot) = lease.replaces {
            self.end_replaced(slot, now);
        }
        if lease.claimed.is_some() {
            self.spread = self.spread || self.is_spread(number, lease.public.addr);
        }
        self.note_lease(number, pool, &lease, now);
        Ok(lease.public)
    }

    /// Opens a session of a protocol without ports, on the subscriber's address alone: nobody else may talk
    /// to this remote in this protocol from there. Who is paired with an address gets no other, since he
    /// would be seen under two (RFC 6888 REQ-2).
    fn open_portless(
        &mut self,
        number: u32,
        (key, protocol): (&FlowKey, u8),
        admission: Admission,
        pool: &Pool,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        if self.table.is_full() {
            return Err(Refusal::TableFull);
        }
        let Admission { pool: id, rule } = admission;
        let random = self.secret.scramble((key, now.as_millis()));
        let random = pool.lean(random, self.worker, self.workers);
        let holding = self.subscribers.get_mut(number).holding_mut(id);
        let remote = key.dst.addr;
        let claim = |&index: &u16| {
            pool.addresses[usize::from(index)].claims.claim(protocol, remote, self.worker)
        };
        let found = holding.addresses_without_block(pool, random).find(claim);
        let empty = pool.serving(None, false, random).next().is_none();
        let clash = if empty { Refusal::PoolExhausted } else { Refusal::ProtocolClash };
        let index = found.ok_or(clash)?;
        let address = &pool.addresses[usize::from(index)];
        let public = Endpoint::new(address.addr, 0);
        let owner = owner(number, (id, rule), Via::Address, Realm::Internal);
        let added = self.add((key, public), State::Open, owner, None, now);
        if added.is_ok() {
            self.subscribers.get_mut(number).holding_mut(id).pair_with(pool, index, now);
        } else {
            address.claims.release(protocol, remote);
        }
        added
    }

    /// Adds a session of a flow from inside that is seen outside as `public`, and counts it wherever sessions are
    /// counted, or changes nothing.
    pub(super) fn add(
        &mut self,
        (outbound, public): (&FlowKey, Endpoint),
        state: State,
        owner: Owner,
        mapping: Option<u32>,
        now: Timestamp,
    ) -> Result<Slot, Refusal> {
        let keys = self.foresight.keys(outbound, public).unwrap_or_else(|| {
            [outbound, &reply_key(outbound, public)].map(|key| self.secret.hash_key(key))
        });
        let slot = self.table.insert(&keys, state, owner, now)?;
        let subscriber = self.subscribers.get_mut(owner.subscriber);
        let holding = subscriber.holding_mut(owner.pool);
        holding.count_begin(state, owner.opened_by);
        if let (Via::Block | Via::Mapping, Some(pool)) =
            (owner.via, self.pools.get(owner.pool.index()))
        {
            holding.use_port(pool, outbound.protocol, public);
        }
        if let Some(mapping) = mapping {
            self.mappings.link(mapping, slot.number(), outbound.dst.addr, owner.addressed);
        }
        // By blocks, it is told when they are claimed.
        if matches!(owner.via, Via::Address | Via::Fixed) {
            self.spread = self.spread || self.is_spread(owner.subscriber, public.addr);
        }
        Ok(slot)
    }
}
