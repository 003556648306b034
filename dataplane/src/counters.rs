//! What a worker counts: written by one worker, read by anyone, never with a read-modify-write.

use std::sync::atomic::{AtomicU64, Ordering};

use conntrack::EventKind;
use crossbeam::utils::CachePadded;

use crate::drop_reason::DropReason;
use crate::interface::InterfaceId;
use crate::load::Latency;
use crate::refuse::IcmpError;

/// A number that one thread raises and others read.
#[derive(Debug, Default)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds `n`. Only the owning worker calls this.
    pub fn add(&self, n: u64) {
        self.0.store(self.0.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    /// Replaces the value (gauges). Only the owning worker calls this.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Interfaces that counters have room for.
pub const MAX_INTERFACES: usize = 16;

/// Traffic of one interface as one worker saw it.
#[derive(Debug, Default)]
pub struct InterfaceCounters {
    /// Packets received.
    pub received_packets: Counter,
    /// Bytes received, Ethernet header included.
    pub received_bytes: Counter,
    /// Packets sent.
    pub transmitted_packets: Counter,
    /// Bytes sent, Ethernet header included.
    pub transmitted_bytes: Counter,
}

/// Dropped packets by [`DropReason::index`].
#[derive(Debug)]
pub struct Drops([Counter; DropReason::COUNT]);

impl Default for Drops {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Counter::default()))
    }
}

impl std::ops::Deref for Drops {
    type Target = [Counter];

    fn deref(&self) -> &[Counter] {
        &self.0
    }
}

/// All counters of one worker.
///
/// Balance, at any quiet moment: `received + received by hand-off = forwarded + answered + handed
/// over + dropped + held`.
#[derive(Debug, Default)]
pub struct WorkerCounters {
    /// By interface.
    pub interfaces: [InterfaceCounters; MAX_INTERFACES],
    /// By drop reason.
    pub drops: Drops,
    /// Packets translated or exempt and sent on.
    pub forwarded: Counter,
    /// Packets answered by natgate itself: ARP, echo, segments without session.
    pub answered: Counter,
    /// Gratuitous ARPs sent; not part of the balance, since nothing was received for them.
    pub announced: Counter,
    /// ICMP errors sent about packets that were dropped, by [`IcmpError`]; not part of the balance, since
    /// the packet is counted as dropped.
    pub icmp_errors_sent: [Counter; IcmpError::ALL.len()],
    /// ICMP errors not sent because of their rate.
    pub icmp_errors_limited: Counter,
    /// Resets sent about segments that were dropped; not part of the balance either.
    pub resets_sent: Counter,
    /// Such resets not sent because of their rate.
    pub resets_limited: Counter,
    /// Resets about expired sessions not sent: no frame, or the way is not known now.
    pub resets_missed: Counter,
    /// Sessions that expired without resets because too many others did.
    pub sessions_unannounced: Counter,
    /// Answers, errors and resets of natgate's own that waited for a next hop and were not sent in the end;
    /// not part of the balance: they were counted when they were made.
    pub answers_lost: Counter,
    /// Packets given to their home worker.
    pub handed_over: Counter,
    /// Packets taken from other workers.
    pub taken_over: Counter,
    /// Packets that came in and wait for a next hop, or for the first fragment of their datagram, now.
    pub held: Counter,
    /// Answers, errors and resets of natgate's own that wait for a next hop now.
    pub answers_held: Counter,
    /// Sessions now.
    pub sessions: Counter,
    /// Sessions ever created.
    pub sessions_created: Counter,
    /// Sessions ever ended.
    pub sessions_ended: Counter,
    /// Subscribers now.
    pub subscribers: Counter,
    /// What events tell, told or not, by [`EventKind::index`].
    pub events: [Counter; EventKind::COUNT],
    /// Ports of subscribers whose rest was cut short.
    pub rests_cut_short: Counter,
    /// Packets that went through the slow path.
    pub slow_path: Counter,
    /// Loops that found packets.
    pub busy_loops: Counter,
    /// Loops that found none.
    pub idle_loops: Counter,
    /// Nanoseconds of turns that found packets.
    pub busy_nanos: Counter,
    /// Bursts received that were not empty.
    pub bursts: Counter,
    /// How long packets stay, of one busy turn in so many ([`LatencySample`](crate::load::LatencySample)).
    pub latency: Latency,
    /// Times the worker slept.
    pub sleeps: Counter,
    /// Fragments made of packets that were too big for the next link.
    pub fragments_sent: Counter,
    /// Datagrams whose fragments are followed now.
    pub fragmented_datagrams: Counter,
    /// Identifications given to DF-clear packets sooner than RFC 6864 allows.
    pub ip_id_reused: Counter,
    /// Partial checksums computed whole.
    pub checksums_repaired: Counter,
    /// Frames in the worker's free list.
    pub frames_free: Counter,
    /// Frames with the kernel.
    pub frames_in_kernel: Counter,
    /// Packets that did not fit a transmit ring.
    pub transmit_ring_full: Counter,
    /// Packets that the kernel dropped because a receive ring was full.
    pub receive_ring_full: Counter,
    /// Times that the kernel found a fill ring empty.
    pub fill_ring_empty: Counter,
    /// Wake-up system calls.
    pub wakeups: Counter,
    /// Wishes to have neighbours resolved, lost because the control thread was slow; they are repeated.
    pub notices_lost: Counter,
    /// Records of what happened, lost because the control thread was slow.
    pub records_lost: Counter,
}

impl WorkerCounters {
    /// Counts one dropped packet.
    pub fn drop_packet(&self, reason: DropReason) {
        self.drops[reason.index()].add(1);
    }

    /// The counters of one interface.
    pub fn interface(&self, id: InterfaceId) -> &InterfaceCounters {
        &self.interfaces[id.index() % MAX_INTERFACES]
    }
}

/// The counters of all workers, each on cache lines of its own.
pub type AllCounters = Vec<CachePadded<WorkerCounters>>;
