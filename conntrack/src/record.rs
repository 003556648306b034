//! What does a NAT leave to the one that takes its place? Plain records: nothing in them is a number of this process
//! but those of pools and rules, and times on the clock that both go by.

use std::net::Ipv4Addr;

use crate::endpoint::{Endpoint, Protocol, Realm};
use crate::pool::PoolId;
use crate::tcp::State;
use crate::time::Timestamp;

/// Where a session has its public endpoint from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum Origin {
    /// A port of one of the subscriber's blocks, or of the region for DNS.
    Port,
    /// The same, as one of the sessions of a mapping.
    Mapping {
        /// The remote of the flow that made the mapping: that of its first session.
        made_for: Ipv4Addr,
        /// The rule of that flow.
        rule: u16,
    },
    /// An address of the pool alone: the protocol has no ports.
    Address,
    /// A mapping that configuration made.
    Fixed,
}

/// What is known of a TCP connection beside its state. Opaque: only a NAT can make one, or read it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TcpRecord {
    /// By direction: what the side expects next, its window, the unit of that, and flags.
    pub sides: [(u32, u16, u8, u8); 2],
    /// The sequence numbers after the SYNs.
    pub first: [u32; 2],
    /// The sequence numbers after the FINs.
    pub fin: [Option<u32>; 2],
}

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SessionRecord {
    /// Protocol.
    pub protocol: Protocol,
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The public endpoint.
    pub public: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// The pod's overlay ([`FlowKey::overlay`](crate::FlowKey::overlay)).
    pub overlay: u16,
    /// Pool.
    pub pool: PoolId,
    /// Rule.
    pub rule: u16,
    /// Where the public endpoint is from.
    pub origin: Origin,
    /// The side whose packet opened it.
    pub opened_by: Realm,
    /// The pod has addressed the remote itself.
    pub addressed: bool,
    /// State.
    pub state: State,
    /// Milliseconds from the last packet of each direction, outbound first, to the time of the record.
    pub idle_ms: [u32; 2],
    /// Seconds from its beginning to the time of the record.
    pub age_s: u32,
    /// Packets and bytes of each direction.
    pub counts: [(u64, u64); 2],
    /// The connection, if it is one.
    pub tcp: Option<TcpRecord>,
}

/// What a subscriber holds in one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct HoldingRecord {
    /// Pool.
    pub pool: PoolId,
    /// The public address that it is paired with.
    pub anchor: Option<Ipv4Addr>,
    /// When its last session there ended; meaningful while there is none.
    pub idle_since: Timestamp,
    /// Its blocks, by address and first port, in the order in which it got them.
    pub blocks: Vec<(Ipv4Addr, u16)>,
}

/// One subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct SubscriberRecord {
    /// The internal address.
    pub addr: Ipv4Addr,
    /// The overlay in which that is its own.
    pub overlay: u16,
    /// Sessions ever created.
    pub created: u64,
    /// New flows refused.
    pub refused: u64,
    /// When its last session ended; meaningful while there is none.
    pub idle_since: Timestamp,
    /// What it holds.
    pub holdings: Vec<HoldingRecord>,
}

/// A port of a subscriber that nobody uses, and until when nobody may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct RestRecord {
    /// The subscriber's address.
    pub addr: Ipv4Addr,
    /// Its overlay.
    pub overlay: u16,
    /// Pool.
    pub pool: PoolId,
    /// Protocol.
    pub protocol: Protocol,
    /// The port.
    pub public: Endpoint,
    /// Until then.
    pub until: Timestamp,
}

/// Everything that one NAT leaves.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Records {
    /// Subscribers. Whoever has a session is one.
    pub subscribers: Vec<SubscriberRecord>,
    /// Sessions.
    pub sessions: Vec<SessionRecord>,
    /// Ports at rest, the oldest of each pool first.
    pub rests: Vec<RestRecord>,
    /// Tuples of the region for DNS at rest, by a keyed hash, and until when.
    pub tuples: Vec<(u64, Timestamp)>,
}

/// What became of records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Restored {
    /// Sessions that live on.
    pub sessions: u64,
    /// Sessions that do not: nothing to stand on, or no room.
    pub sessions_lost: u64,
    /// Blocks that are held as before.
    pub blocks: u64,
    /// Blocks that are not.
    pub blocks_lost: u64,
}

impl Restored {
    /// The sums of both.
    #[must_use]
    pub const fn and(self, other: Self) -> Self {
        Self {
            sessions: self.sessions + other.sessions,
            sessions_lost: self.sessions_lost + other.sessions_lost,
            blocks: self.blocks + other.blocks,
            blocks_lost: self.blocks_lost + other.blocks_lost,
        }
    }
}
