//! What others may ask of a worker, and what it answers, between bursts.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use conntrack::{Endpoint, PoolId, Protocol};
use crossbeam::channel::Sender;

use crate::capture::CaptureOrder;
use crate::explain::{Explanation, Flow};

/// A question to one worker. The worker answers in slices between bursts and stops when the
/// receiver is gone; a slice may be empty (a sign of life), and the end of the answer is the end of the channel.
#[derive(Debug)]
pub enum Request {
    /// List sessions.
    Sessions(SessionFilter, Sender<Vec<SessionRow>>),
    /// List subscribers.
    Subscribers(SubscriberFilter, Sender<Vec<SubscriberRow>>),
    /// Say what would become of the first packet of a flow; only its home answers.
    Explain(Flow, Sender<Explanation>),
    /// Copy packets.
    Capture(CaptureOrder),
    /// Announce the pool addresses that are on-link by gratuitous ARP.
    Announce,
    /// Finish the burst and return.
    Stop,
}

/// Which sessions to list; `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionFilter {
    /// Internal, public or remote address.
    pub address: Option<Ipv4Addr>,
    /// Pool.
    pub pool: Option<PoolId>,
    /// Protocol.
    pub protocol: Option<Protocol>,
    /// State, by name.
    pub state: Option<String>,
    /// One of these public addresses, on one of these ports.
    pub public: Option<(Arc<HashSet<Ipv4Addr>>, RangeInclusive<u16>)>,
}

/// Which subscribers to list; `None` means any.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SubscriberFilter {
    /// Internal or public address.
    pub address: Option<Ipv4Addr>,
    /// Pool.
    pub pool: Option<PoolId>,
}

/// One session, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionRow {
    /// Home worker.
    pub worker: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The pod's overlay; 0: its address is its own.
    pub overlay: u16,
    /// The public endpoint.
    pub public: Endpoint,
    /// The peer outside.
    pub remote: Endpoint,
    /// State by name, such as `established`.
    pub state: &'static str,
    /// Pool.
    pub pool: PoolId,
    /// Index of the rule that admitted it, in the policy of that time.
    pub rule: u16,
    /// Milliseconds since the last packet.
    pub idle_ms: u32,
    /// Seconds since it began.
    pub age_s: u32,
    /// Milliseconds until it ends, if nothing comes.
    pub expires_in_ms: u32,
    /// Packets from the pod.
    pub packets_out: u64,
    /// Bytes from the pod (IP length).
    pub bytes_out: u64,
    /// Packets to the pod.
    pub packets_in: u64,
    /// Bytes to the pod (IP length).
    pub bytes_in: u64,
}

/// What one subscriber holds in one pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldingRow {
    /// Pool.
    pub pool: PoolId,
    /// Public addresses and the number of port blocks held on each.
    pub blocks: Vec<(Ipv4Addr, u32)>,
}

/// One subscriber, as people see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberRow {
    /// Home worker.
    pub worker: u16,
    /// The internal address.
    pub address: Ipv4Addr,
    /// The overlay in which that is its own; 0: everywhere.
    pub overlay: u16,
    /// Sessions now.
    pub sessions: u32,
    /// Sessions ever created.
    pub created: u64,
    /// New flows refused.
    pub refused: u64,
    /// What it holds.
    pub holdings: Vec<HoldingRow>,
}

/// What a worker tells the control thread, unasked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Notice {
    /// Packets wait for this neighbour, or its entry is in use: have the kernel resolve it.
    Resolve(crate::interface::InterfaceId, Ipv4Addr),
}
