//! Bytes and workers.
//!
//! Packets come from a [`PacketIo`] backend, go through the pipeline of the worker that owns their
//! subscriber, and leave through the same backend. Configuration reaches a worker only as a
//! [`Snapshot`](snapshot::Snapshot), questions as a [`Request`](request::Request).

#![deny(unsafe_code)]

mod answer;
mod burst;
pub mod capture;
pub mod counters;
pub mod drop_reason;
mod error_limit;
mod exempt;
pub mod explain;
mod farewell;
mod follow;
pub mod forward;
mod fragment;
pub mod hand_off;
mod held;
mod hold;
pub mod home;
mod icmp_error;
mod identify;
pub mod interface;
pub mod io;
mod ip_id;
mod listing;
pub mod load;
pub mod lpm;
pub mod memory;
mod mtu;
mod overload;
pub mod packet;
pub mod passage;
mod pipeline;
mod plain;
mod records;
mod refuse;
pub mod request;
pub mod roads;
pub mod rule;
mod slow_path;
pub mod snapshot;
mod spin;
mod tunnel;
mod unsolicited;
pub mod waker;
pub mod wire;
pub mod worker;
pub mod xsk;

#[cfg(test)]
mod tests;

pub use drop_reason::DropReason;
pub use io::PacketIo;
pub use refuse::IcmpError;
pub use worker::Worker;
