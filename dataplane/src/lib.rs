//! Bytes and workers.
//!
//! Packets come from a [`PacketIo`] backend, go through the pipeline of the worker that owns their
//! subscriber, and leave through the same backend. Configuration reaches a worker only as a
//! [`Snapshot`](snapshot::Snapshot), questions as a [`Request`](request::Request).

#![deny(unsafe_code)]

pub mod counters;
pub mod drop_reason;
pub mod interface;
pub mod io;
pub mod lpm;
pub mod request;
pub mod roads;
pub mod rule;
pub mod snapshot;
pub mod xsk;

pub use drop_reason::DropReason;
pub use io::PacketIo;
