//! AF_XDP: how do packets come from the NIC to a worker and back without a copy?
//!
//! The order of a start: [`InterfaceLock`] for each interface, [`open`] (all sockets), then
//! [`Steering::load`], [`Opened::register`], [`Steering::apply`], and last [`Steering::attach`]: once
//! the program is attached, everything behind it is ready.
//!
//! This is the only module with unsafe code. Its two invariants:
//!
//! 1. A frame of the UMEM is in exactly one place: a free list, the common pool, the kernel (fill or
//!    transmit ring, or on its way), a relay, or a [`Frame`] token. Tokens are made only from
//!    descriptors that just left another place, can't be cloned, and go back only by value; see
//!    the text of the module `frame`.
//! 2. A file descriptor of a socket is used only while the rings that keep the socket alive are.

#![allow(unsafe_code)]

mod ahead;
mod attach;
mod bind;
mod error;
mod frame;
mod huge;
mod io;
mod lock;
mod nic;
mod open;
mod port;
mod ring;
mod steering;

pub(crate) use ahead::fetch_to_write;
pub use attach::{AttachMode, Inspection, detach, glance, inspect};
pub use error::XskError;
pub use frame::{Audit, Frame};
pub use huge::{ask_for_huge_pages, huge_pages};
pub use io::XskIo;
pub use lock::InterfaceLock;
pub use nic::{merging, receive_queues};
pub use open::{
    BindMode, InterfaceReport, LONGEST, Mode, OpenConfig, OpenInterface, Opened, most_queues, open,
};
pub use steering::{DROP_NAMES, InterfaceEntry, MAX_QUEUES, Steering, SteeringTables, TunnelEntry};
