//! NAT as pure state.
//!
//! Tuples, sessions, subscribers, port blocks and timers: everything that a network address
//! translator has to remember, and nothing else. There are no packet bytes, no sockets, no clock
//! and no threads here; `now` is a parameter ([`Timestamp`]), so a 124-minute timer can be tested
//! in microseconds. The only thing shared between workers is the port-block [`Directory`].

#![forbid(unsafe_code)]

mod address;
mod block;
mod chunks;
mod claims;
mod directory;
mod endpoint;
mod events;
mod index;
mod key;
mod lease;
mod limits;
mod listing;
mod mapping;
mod nat;
mod occurrence;
mod pool;
mod record;
mod rest;
mod rewrite;
mod scatter;
mod session;
mod subscriber;
mod sync;
mod table;
mod tails;
mod tcp;
mod time;
mod track;
mod wheel;

#[cfg(test)]
mod tests;

pub use address::PublicAddress;
pub use claims::Claims;
pub use directory::{BlockNumber, BlockState, Directory, Holder, MAX_WORKERS};
pub use endpoint::{Endpoint, FlowKey, Protocol, Realm};
pub use events::{Event, EventKind, Limit};
pub use key::{HashedKey, Secret, Side};
pub use listing::{SessionView, SubscriberView};
pub use nat::{
    Acknowledgement, Admission, Claimant, Farewell, FixedMapping, Hit, Means, Memory, Nat,
    NatStats, Obituary, Prospect, Reached, Refusal, Usage, claim_blocks,
};
pub use occurrence::{BlockChange, Record, SessionChange, What};
pub use pool::{
    Behavior, HoldDown, InboundRefresh, IpId, MidStream, OnExhaustion, OnExpiry, Overlap, Pool,
    PoolId, PoolSettings, Pooling, Quota, Removal, Scatter, Standing, Timers, UnsolicitedSyn,
};
pub use record::{
    HoldingRecord, Origin, Records, RestRecord, Restored, SessionRecord, SubscriberRecord,
    TcpRecord,
};
pub use rewrite::{ChecksumDelta, Rewrite};
pub use session::{CachedHop, Direction, Slot};
pub use tcp::{Segment, State, TcpFlags};
pub use time::Timestamp;
