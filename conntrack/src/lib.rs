//! NAT as pure state.
//!
//! Tuples, sessions, subscribers, port blocks and timers: everything that a network address
//! translator has to remember, and nothing else. There are no packet bytes, no sockets, no clock
//! and no threads here; `now` is a parameter ([`Timestamp`]), so a 124-minute timer can be tested
//! in microseconds. The only thing shared between workers is the port-block [`Directory`].

#![forbid(unsafe_code)]

mod directory;
mod endpoint;
mod pool;
mod time;

pub use directory::{BlockNumber, BlockState, Directory, Holder, MAX_WORKERS};
pub use endpoint::{Endpoint, FlowKey, Protocol, Realm};
pub use pool::{Pool, PoolId, PoolSettings, PublicAddress, Timers};
pub use time::Timestamp;
