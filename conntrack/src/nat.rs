//! The translator of one worker: everything about the subscribers whose home it is.

mod ahead;
mod change;
mod end;
mod follow;
mod hit;
mod open;
mod prospect;
mod restore;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;

pub use change::Claimant;
pub use follow::{Farewell, Obituary};
pub use hit::{Acknowledgement, Hit};
pub use prospect::{Means, Prospect, Reached, Usage};
pub use restore::claim_blocks;

use ahead::Foresight;

use crate::endpoint::{Endpoint, FlowKey, Protocol};
use crate::events::{EventKind, Events};
use crate::key::{HashedKey, Secret};
use crate::mapping::Mappings;
use crate::pool::{IpId, Pool, PoolId, PoolSettings};
use crate::rest::{Rests, ScatterRests};
use crate::rewrite::Rewrite;
use crate::session::{CachedHop, Direction, Slot, Via};
use crate::subscriber::Subscribers;
use crate::table::SessionTable;
use crate::tails::Tails;
use crate::time::Timestamp;
use crate::wheel::Wheel;

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
    /// The subscriber has as many TCP sessions as it may have that did not complete their handshake.
    #[error("the subscriber's quota of half-open connections is used up")]
    QuotaHalfOpen,
    /// The subscriber uses as many public ports of the protocol as it may.
    #[error("the subscriber's quota of ports is used up")]
    QuotaPorts,
    /// The subscriber opens more sessions a second than it may.
    #[error("the subscriber opens sessions too fast")]
    QuotaRate,
    /// No address of the pool has a block to give.
    #[error("the pool has no port block left")]
    PoolExhausted,
    /// The session table is as large as it may be.
    #[error("the session table is full")]
    TableFull,
    /// From outside to a public endpoint that no mapping has.
    #[error("no mapping has this public endpoint")]
    NoMapping,
    /// From outside to a mapping whose filter does not admit the sender.
    #[error("the mapping's filter does not admit this remote")]
    Filtered,
    /// Another session between the same two ends, or on the same tuple outside.
    #[error("another session has this tuple")]
    TupleTaken,
    /// A protocol without ports, and another subscriber talks to this remote from the same address.
    #[error("another subscriber has this protocol and remote on the same public address")]
    ProtocolClash,
}

/// A flow that a rule sends to a pool.
#[derive(Clone, Copy, Debug)]
pub struct Admission {
    /// The pool.
    pub pool: PoolId,
    /// The rule, remembered with the session.
    pub rule: u16,
}

/// A mapping that configuration made, and not the NAT: a port forward or an address that is all one pod's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedMapping {
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The public endpoint.
    pub public: Endpoint,
    /// The pool whose settings the sessions have.
    pub pool: PoolId,
    /// Remembered with the sessions.
    pub rule: u16,
    /// The pod's overlay ([`FlowKey::overlay`]).
    pub overlay: u16,
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
    /// Mappings that are more than a session, now.
    pub mappings: u64,
    /// Sessions that ended without resets because too many others did.
    pub unannounced: u64,
    /// Subscribers now.
    pub subscribers: u64,
    /// Bytes of the session table in use.
    pub table_bytes: u64,
    /// Ports whose rest was cut short (RFC 6888 REQ-8.1).
    pub rests_cut_short: u64,
    /// How often what events tell has happened, by [`EventKind::index`].
    pub events: [u64; EventKind::COUNT],
    /// Records that nobody took in time.
    pub records_lost: u64,
}

/// Bytes that the tables of one NAT take, without what the allocator adds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Both halves of every session.
    pub sessions: u64,
    /// Finds sessions by their keys.
    pub index: u64,
    /// What opening and closing need of TCP connections.
    pub tails: u64,
    /// Timer wheels.
    pub timers: u64,
    /// Subscribers, their blocks and ports.
    pub subscribers: u64,
    /// Mappings that are more than a session.
    pub mappings: u64,
    /// What rests.
    pub rests: u64,
}

/// The NAT of one worker. Single writer; nothing here is shared but the pools' directories.
#[derive(Debug)]
pub struct Nat {
    worker: u16,
    workers: u16,
    secret: Secret,
    pub(crate) pools: Vec<Arc<Pool>>,
    pub(crate) table: SessionTable,
    pub(crate) mappings: Mappings,
    /// Some pool wants identifications that were not used lately.
    strict_ids: bool,
    /// Mappings that nobody wants any more, whose sessions are to end.
    stranded: Vec<u32>,
    /// Addresses that have left their pools, whose empty blocks are to be taken back.
    left: VecDeque<(PoolId, u16)>,
    wheel: Wheel,
    pub(crate) subscribers: Subscribers,
    /// Subscribers with an idle holding: to give its last block back; those without sessions: to be
    /// forgotten.
    idle: Wheel,
    /// Sessions below this number have been armed by the timers that are set now; `MAX`: all.
    rearmed: usize,
    /// Of TCP sessions.
    pub(crate) tails: Tails,
    /// Sessions that expired while their ends may not know, at most [`follow::OBITUARIES`].
    obituaries: VecDeque<Obituary>,
    pub(crate) rests: Rests,
    pub(crate) scatter_rests: ScatterRests,
    pub(crate) events: Events,
    /// Some subscriber was once seen under several addresses.
    spread: bool,
    foresight: Foresight,
    created: u64,
    ended: u64,
    unannounced: u64,
}

impl Nat {
    /// A NAT for the subscribers of `worker`, with room for `max_sessions`. All workers share `secret`.
    pub fn new(worker: u16, max_sessions: usize, secret: Secret, now: Timestamp) -> Self {
        Self {
            worker,
            workers: 1,
            pools: Vec::new(),
            table: SessionTable::new(max_sessions, secret.clone()),
            mappings: Mappings::default(),
            strict_ids: false,
            stranded: Vec::new(),
            left: VecDeque::new(),
            wheel: Wheel::new(now.as_secs() as u32),
            secret,
            subscribers: Subscribers::new(max_sessions),
            idle: Wheel::new(now.as_secs() as u32),
            rearmed: usize::MAX,
            tails: Tails::default(),
            obituaries: VecDeque::new(),
            rests: Rests::default(),
            scatter_rests: ScatterRests::new(max_sessions),
            events: Events::default(),
            spread: false,
            foresight: Foresight::new(),
            created: 0,
            ended: 0,
            unannounced: 0,
        }
    }

    /// The same, as one of `workers`: they share the region for DNS.
    #[must_use]
    pub fn with_workers(self, workers: u16) -> Self {
        Self { workers, ..self }
    }

    /// How many workers there are.
    pub(crate) fn workers(&self) -> u16 {
        self.workers.max(1)
    }

    /// The addresses that are reserved for the tables in which packets find their sessions, touched or not. They
    /// never move. Packets come to them at random, so large pages serve them.
    pub fn reserved(&self) -> [std::ops::Range<usize>; 2] {
        self.table.reserved()
    }

    /// The session that a packet belongs to, and its direction.
    pub fn find(&self, key: &FlowKey) -> Option<Slot> {
        self.table.find(key)
    }

    /// The same, for a key that is hashed already.
    #[inline]
    pub fn find_hashed(&self, key: &HashedKey) -> Option<Slot> {
        self.table.find_hashed(key)
    }

    /// How packets of `slot` are rewritten.
    #[inline]
    pub fn rewrite(&self, slot: Slot) -> Rewrite {
        self.table.get(slot).rewrite(slot.direction())
    }

    /// The next hop kept for packets of `slot`.
    #[inline]
    pub fn hop(&self, slot: Slot) -> CachedHop {
        self.table.get(slot).half(slot.direction()).hop
    }

    /// The overlay of the destination of packets of `slot`: 0 outside.
    pub fn overlay_towards(&self, slot: Slot) -> u16 {
        match slot.direction() {
            Direction::Outbound => 0,
            Direction::Inbound => self.table.get(slot).overlay(),
        }
    }

    /// Keeps a next hop for packets of `slot`.
    pub fn set_hop(&mut self, slot: Slot, hop: CachedHop) {
        self.table.get_mut(slot).half_mut(slot.direction()).hop = hop;
    }

    /// The internal endpoint addresses the remote of `slot` itself.
    fn address(&mut self, slot: Slot) {
        let session = self.table.get_mut(slot);
        let (owner, remote) = (session.owner(), session.remote().addr);
        if owner.addressed {
            return;
        }
        session.set_addressed();
        let holding = self.subscribers.get_mut(owner.subscriber).holding_mut(owner.pool);
        holding.strangers = holding.strangers.saturating_sub(1);
        if owner.via == Via::Mapping {
            self.mappings.address(self.mappings.of(slot.number()), remote);
        }
    }

    /// The pool with this number.
    pub(crate) fn pool(&self, id: PoolId) -> Option<&Arc<Pool>> {
        self.pools.get(id.index())
    }

    /// Whether packets of `slot` may leave only with identifications that were not used lately.
    pub fn has_strict_ids(&self, slot: Slot) -> bool {
        self.strict_ids
            && self.settings(slot).is_some_and(|settings| settings.ip_id == IpId::Strict)
    }

    /// The settings of the pool that `slot` was admitted to.
    pub fn settings(&self, slot: Slot) -> Option<&PoolSettings> {
        self.pool(self.table.owner(slot).pool).map(|pool| &pool.settings)
    }

    /// Whether the subscriber of `slot` is seen under public addresses other than that of `slot`: what is
    /// sent to several of them meets at the subscriber (RFC 6864 section 5.3.1).
    ///
    /// Asked for every DF-clear packet from outside: as long as no subscriber ever was, it costs nothing.
    pub fn has_other_addresses(&self, slot: Slot) -> bool {
        let subscriber = || self.table.owner(slot).subscriber;
        self.spread && self.is_spread(subscriber(), self.table.get(slot).public().addr)
    }

    /// Whether a subscriber, who is seen under `public`, is seen under other addresses as well.
    fn is_spread(&self, subscriber: u32, public: Ipv4Addr) -> bool {
        self.subscribers.get(subscriber).has_other_address(public, &self.pools)
    }

    /// The secret of this start.
    pub fn secret(&self) -> &Secret {
        &self.secret
    }

    /// Sessions ever created.
    pub fn created(&self) -> u64 {
        self.created
    }

    /// What its tables take, part by part. Walks over all subscribers.
    pub fn memory(&self) -> Memory {
        Memory {
            sessions: self.table.session_bytes() as u64,
            index: self.table.bytes().saturating_sub(self.table.session_bytes()) as u64,
            tails: self.tails.bytes() as u64,
            timers: (self.wheel.bytes() + self.idle.bytes()) as u64,
            subscribers: self.subscribers.bytes() as u64,
            mappings: self.mappings.bytes() as u64,
            rests: (self.rests.bytes() + self.scatter_rests.bytes()) as u64,
        }
    }

    /// Counters.
    pub fn stats(&self) -> NatStats {
        NatStats {
            sessions: self.table.len() as u64,
            created: self.created,
            ended: self.ended,
            unannounced: self.unannounced,
            mappings: self.mappings.len() as u64,
            subscribers: self.subscribers.len() as u64,
            table_bytes: (self.table.bytes() + self.tails.bytes() + self.wheel.bytes()) as u64,
            rests_cut_short: self.rests.cut_short,
            events: self.events.counts(),
            records_lost: self.events.lost(),
        }
    }

    /// The protocol of the packets of `slot`.
    pub fn protocol(&self, slot: Slot) -> Protocol {
        self.table.get(slot).protocol()
    }
}
