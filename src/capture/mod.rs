//! How does somebody get to see packets? As a file that Wireshark opens, over the stats socket.

mod client;
mod pcapng;
mod query;
mod stream;

pub(crate) use client::{Target, capture};
pub(crate) use query::{Asked, Wanted};
pub(crate) use stream::stream;
