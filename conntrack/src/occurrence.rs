//! What is worth a record? What changed hands, and what somebody should know: enough to say later which pod had a public
//! endpoint, and when.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use crate::block::PortBlock;
use crate::directory::Holder;
use crate::endpoint::{Endpoint, Protocol};
use crate::events::Event;
use crate::nat::Nat;
use crate::pool::{Pool, PoolId};
use crate::session::{Session, Slot};
use crate::time::Timestamp;

/// One thing that happened in a NAT.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When.
    pub at: Timestamp,
    /// What.
    pub what: What,
}

impl Record {
    /// The limit that it tells of, if it does.
    pub const fn limit(&self) -> Option<Event> {
        match self.what {
            What::Limit(event) => Some(event),
            What::Block(_) | What::Session(_) | What::Missing(_) => None,
        }
    }
}

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// A limit is near or reached.
    Limit(Event),
    /// A port block was given to a subscriber, or came back (RFC 6888 REQ-12, RFC 8158 section 4.6.10).
    Block(BlockChange),
    /// A session began or ended.
    Session(SessionChange),
    /// So many records that belong here were lost: nobody took them in time.
    Missing(u64),
}

/// A port block changes hands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockChange {
    /// The subscriber got it; otherwise it gave it back.
    pub allotted: bool,
    /// Its pool.
    pub pool: PoolId,
    /// The public address.
    pub public: Ipv4Addr,
    /// Its first port.
    pub first: u16,
    /// Its last port.
    pub last: u16,
    /// Whose it is, or was.
    pub holder: Holder,
}

impl BlockChange {
    pub(crate) fn of(block: &PortBlock, pool: &Pool, holder: Holder, allotted: bool) -> Self {
        let public = &pool.addresses[usize::from(block.address)];
        let ports = public.blocks(block.class).ports(block.number);
        Self::new(allotted, pool.id, (public.addr, ports), holder)
    }

    /// A change of the block of these ports.
    pub fn new(
        allotted: bool,
        pool: PoolId,
        (public, ports): (Ipv4Addr, RangeInclusive<u16>),
        holder: Holder,
    ) -> Self {
        let (first, last) = ports.into_inner();
        Self { allotted, pool, public, first, last, holder }
    }
}

/// A session begins or ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionChange {
    /// It begins; otherwise it ends.
    pub began: bool,
    /// Its protocol.
    pub protocol: Protocol,
    /// Its pool.
    pub pool: PoolId,
    /// The overlay of the pod.
    pub overlay: u16,
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The public endpoint.
    pub public: Endpoint,
    /// The peer outside.
    pub remote: Endpoint,
}

impl SessionChange {
    pub(crate) fn of(session: &Session, pool: PoolId, began: bool) -> Self {
        Self {
            began,
            protocol: session.protocol(),
            pool,
            overlay: session.overlay(),
            internal: session.internal(),
            public: session.public(),
            remote: session.remote(),
        }
    }
}

impl Nat {
    /// Records that a session begins or ends, if such are recorded.
    pub(crate) fn record_session(&mut self, slot: Slot, pool: PoolId, began: bool, now: Timestamp) {
        if self.events.has_sessions() {
            let change = SessionChange::of(self.table.get(slot), pool, began);
            let settings = self.pools.get(pool.index()).map(|pool| &pool.settings);
            if self.events.wants(&change, settings) {
                self.events.session(change, now);
            }
        }
    }

    /// The next record, oldest first.
    pub fn take_record(&mut self) -> Option<Record> {
        self.events.take()
    }

    /// Whether there are records to take.
    #[inline]
    pub fn has_records(&self) -> bool {
        !self.events.is_empty()
    }

    /// From now on, sessions are recorded, or not.
    pub fn record_sessions(&mut self, sessions: bool) {
        self.events.record_sessions(sessions);
    }
}
