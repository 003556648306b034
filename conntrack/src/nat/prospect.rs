//! What would a new flow get? The steps of a packet that opens a session, on a copy of what its subscriber holds: nothing
//! is claimed, counted, remembered or told.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use super::open::{WAKE_BUDGET, first_state, outbound_key};
use super::{Admission, FixedMapping, Nat, Refusal};
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::events::Limit;
use crate::lease::Search;
use crate::listing::SessionView;
use crate::mapping::Class;
use crate::pool::{Pool, PoolId};
use crate::rest::Rest;
use crate::session::{Slot, reply_key};
use crate::subscriber::Holding;
use crate::tcp::{Segment, State};
use crate::time::Timestamp;

/// How a new flow would come to its public endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Means {
    /// It keeps the one of its mapping.
    Mapping,
    /// By configuration: a port forward, or an address that is all its pod's.
    Fixed,
    /// A port of the region that all subscribers share for DNS.
    Scattered,
    /// The pod's own port.
    Preserved,
    /// An unused port of a block that its subscriber holds.
    Held,
    /// A port that its subscriber uses, but not towards this remote.
    Shared,
    /// A port of a further block.
    Block {
        /// On another address than the subscriber's own.
        spilled: bool,
    },
    /// The port of a connection to the same remote that is over.
    Replaced,
    /// No port: the protocol has none.
    Address,
}

/// What a new flow would get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prospect {
    /// How.
    pub means: Means,
    /// The public endpoints of which it would be one: address and ports. A draw decides.
    pub places: Vec<(Ipv4Addr, RangeInclusive<u16>)>,
    /// It should have had a port of the region for DNS, but there is none.
    pub scatter_full: bool,
}

impl Prospect {
    /// Exactly this endpoint.
    pub(crate) fn exactly(means: Means, public: Endpoint) -> Self {
        Self::of(means, [(public.addr, public.port..=public.port)])
    }

    pub(crate) fn of(
        means: Means,
        places: impl IntoIterator<Item = (Ipv4Addr, RangeInclusive<u16>)>,
    ) -> Self {
        Self { means, places: places.into_iter().collect(), scatter_full: false }
    }

    /// Whether the flow may be seen as `public`.
    pub fn admits(&self, public: Endpoint) -> bool {
        self.places.iter().any(|(addr, ports)| *addr == public.addr && ports.contains(&public.port))
    }

    /// The public endpoint, if no draw is left.
    pub fn endpoint(&self) -> Option<Endpoint> {
        match self.places.as_slice() {
            [(addr, ports)] if ports.start() == ports.end() => {
                Some(Endpoint::new(*addr, *ports.start()))
            }
            _ => None,
        }
    }
}

/// Whom a packet from outside would reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The overlay of its address.
    pub overlay: u16,
    /// The pool whose settings decide.
    pub pool: PoolId,
}

/// How much of one limit a subscriber has used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Which limit.
    pub limit: Limit,
    /// So much is used.
    pub used: u64,
    /// So much there may be.
    pub most: u64,
}

impl Nat {
    /// What [`open`](Self::open) would give this flow at `now`, or why not. `pair`: the address that
    /// [`pair`](Self::pair) would give its subscriber before.
    pub fn prospect(
        &self,
        key: &FlowKey,
        admission: Admission,
        pair: Option<Ipv4Addr>,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Prospect, Refusal> {
        let state = first_state(key, first)?;
        let host = (key.src.addr, key.overlay);
        let pool = self.pools.get(admission.pool.index()).ok_or(Refusal::PoolExhausted)?;
        let (number, mut holding) = self.copy_of(host, pool.id)?;
        let paired = pool.addresses.iter().position(|address| Some(address.addr) == pair);
        if let Some(index) = paired.filter(|&index| pool.serves(index as u16)) {
            holding.pair_with(pool, index as u16, now);
        }
        holding.admit(&pool.settings.quota, state, Realm::Internal, now)?;
        if let Protocol::Other(protocol) = key.protocol {
            let prospect = self.address_for((key, protocol), &holding, pool, now)?;
            return self.fits(key, prospect);
        }
        let class = Class::of(&pool.settings, key.protocol);
        if let Some(mapping) = self.mappings.for_flow(class, key, pool.id) {
            self.has_room(mapping, pool)?;
            let public = self.mappings.get(mapping).public;
            if !Self::is_good_in(&mut holding, pool, public) {
                return Err(Refusal::TupleTaken);
            }
            return self.fits(key, Prospect::exactly(Means::Mapping, public));
        }
        if let Some(number) = number {
            self.wake_copy(&mut holding, number, pool, now);
        }
        let holder = Holder { subscriber: host.0, worker: self.worker, overlay: host.1 };
        let search = Search {
            table: &self.table,
            mappings: &self.mappings,
            sharing: class.sharing,
            pool,
            key,
            holder,
            random: pool.lean(self.draw(key, now), self.worker, self.workers),
            foreseen: None,
            now,
            secret: &self.secret,
            workers: self.workers,
            scatter_rests: &self.scatter_rests,
        };
        if self.table.is_full() {
            let lease = search.replacing(&mut holding).ok_or(Refusal::TableFull)?;
            return Ok(Prospect::exactly(Means::Replaced, lease.public));
        }
        Ok(search.prospect(&mut holding)?)
    }

    /// Why [`open_fixed`](Self::open_fixed) would refuse this flow, if it would.
    pub fn prospect_fixed(
        &self,
        key: &FlowKey,
        mapping: FixedMapping,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Prospect, Refusal> {
        let state = first_state(key, first)?;
        let FixedMapping { internal, public, pool, overlay, .. } = mapping;
        self.stranger_or_own((internal.addr, overlay), pool, state, key.realm, now)?;
        let outbound = outbound_key(key, internal, overlay);
        self.fits(&outbound, Prospect::exactly(Means::Fixed, public))
    }

    /// Whom [`open_inbound`](Self::open_inbound) would let this packet reach, or why not.
    pub fn prospect_inbound(
        &self,
        key: &FlowKey,
        first: Option<&Segment>,
        now: Timestamp,
    ) -> Result<Reached, Refusal> {
        let (number, mapping) = self.addressed_mapping(key)?;
        let pool = self.pools.get(mapping.pool.index()).ok_or(Refusal::NoMapping)?;
        let (public, state) = (key.dst, first_state(key, first)?);
        self.has_room(number, pool)?;
        let host = (mapping.internal.addr, mapping.overlay);
        self.stranger_or_own(host, pool.id, state, key.realm, now)?;
        let outbound = outbound_key(key, mapping.internal, mapping.overlay);
        self.fits(&outbound, Prospect::exactly(Means::Mapping, public))?;
        Ok(Reached { internal: mapping.internal, overlay: mapping.overlay, pool: pool.id })
    }

    /// How far the limits are used up of the subscriber at an address in an overlay, in `pool`; `protocol`: whose ports
    /// are meant.
    pub fn usage(&self, host: (Ipv4Addr, u16), pool: PoolId, protocol: Protocol) -> Vec<Usage> {
        let (Some(settings), Ok((_, holding))) = (self.pool(pool), self.copy_of(host, pool)) else {
            return Vec::new();
        };
        let limits = [Limit::Blocks, Limit::Sessions, Limit::HalfOpen, Limit::Ports];
        let usage = limits.map(|limit| {
            let (used, most) = holding.usage(settings, limit, protocol);
            Usage { limit, used, most }
        });
        // Ports have no limit unless one is set.
        usage.into_iter().filter(|usage| usage.most < u64::from(u32::MAX)).collect()
    }

    /// The session of `slot`.
    pub fn session_at(&self, slot: Slot, now: Timestamp) -> Option<SessionView> {
        self.session_view(slot.number() as usize, now)
    }

    /// What the subscriber at an address in an overlay holds in `pool`, and its number if it is known.
    fn copy_of(
        &self,
        (addr, overlay): (Ipv4Addr, u16),
        pool: PoolId,
    ) -> Result<(Option<u32>, Holding), Refusal> {
        let number = self.subscribers.find(addr, overlay);
        if number.is_none() && self.table.is_full() {
            return Err(Refusal::TableFull);
        }
        let held = number.and_then(|number| {
            let subscriber = self.subscribers.get(number);
            subscriber.holdings.iter().find(|holding| holding.pool == pool).cloned()
        });
        Ok((number, held.unwrap_or_else(|| Holding::new(pool))))
    }

    /// Whether one more session may begin whose port is fixed; strangers may have fewer.
    fn stranger_or_own(
        &self,
        host: (Ipv4Addr, u16),
        pool: PoolId,
        state: State,
        opener: Realm,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        let settings = self.pools.get(pool.index()).ok_or(Refusal::PoolExhausted)?;
        let quota = &settings.settings.quota;
        let (_, mut holding) = self.copy_of(host, pool)?;
        holding.admit(quota, state, opener, now)?;
        match opener {
            Realm::External => holding.admits_stranger(quota),
            Realm::Internal => Ok(()),
        }
    }

    /// Whether the table takes the session, as far as its public endpoint is known.
    fn fits(&self, outbound: &FlowKey, prospect: Prospect) -> Result<Prospect, Refusal> {
        let taken = |key: &FlowKey| self.table.find(key).is_some();
        let reply = prospect.endpoint().map(|public| reply_key(outbound, public));
        if taken(outbound) || reply.as_ref().is_some_and(taken) {
            Err(Refusal::TupleTaken)
        } else if self.table.is_full() {
            Err(Refusal::TableFull)
        } else {
            Ok(prospect)
        }
    }

    /// The address under which a flow of a protocol without ports would be seen.
    fn address_for(
        &self,
        (key, protocol): (&FlowKey, u8),
        holding: &Holding,
        pool: &Pool,
        now: Timestamp,
    ) -> Result<Prospect, Refusal> {
        if self.table.is_full() {
            return Err(Refusal::TableFull);
        }
        let random = self.secret.scramble((key, now.as_millis()));
        let random = pool.lean(random, self.worker, self.workers);
        let claimed = |address: &crate::PublicAddress| {
            address.claims.worker_of(protocol, key.dst.addr).is_some()
        };
        let free = holding
            .addresses_without_block(pool, random)
            .map(|index| &*pool.addresses[usize::from(index)])
            .filter(|address| !claimed(address));
        let places: Vec<_> = free.map(|address| (address.addr, 0..=0)).collect();
        if places.is_empty() {
            let none = pool.serving(None, false, random).next().is_none();
            return Err(if none { Refusal::PoolExhausted } else { Refusal::ProtocolClash });
        }
        Ok(Prospect::of(Means::Address, places))
    }

    /// Ends those rests on a copy of what subscriber `number` holds that a new flow would end.
    fn wake_copy(&self, holding: &mut Holding, number: u32, pool: &Pool, now: Timestamp) {
        let due = self.rests.due(pool.id, now).take(WAKE_BUDGET as usize);
        for &Rest { protocol, public, until, .. } in due.filter(|rest| rest.subscriber == number) {
            if let Some(block) = holding.block_of(pool, public) {
                holding.blocks[block].wake_port(protocol, public.port, until);
            }
        }
    }
}
