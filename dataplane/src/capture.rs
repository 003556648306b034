//! Which packets does somebody want to see? Copies of them as they came and as they left, with what became of them.
//!
//! A worker without a capture asks once for each burst whether it has one. With one, each packet takes the general way,
//! which does what the [lane](crate::plain) does, and is copied as far as the order says; so many a second at most, into a
//! channel that has an end. What does not fit is counted and not waited for.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use conntrack::Timestamp;
use crossbeam::channel::{Sender, TrySendError};
use ipnet::Ipv4Net;

use crate::burst::Came;
use crate::counters::Counter;
use crate::drop_reason::DropReason;
use crate::interface::InterfaceId;
use crate::io::{PacketIo, Received};
use crate::wire::ethernet;
use crate::worker::Worker;

/// Which packets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CaptureFilter {
    /// One end, before or after translation.
    pub from: Option<Ipv4Net>,
    /// The other end.
    pub to: Option<Ipv4Net>,
    /// Only what is dropped.
    pub drops: bool,
    /// Only what is dropped for this reason.
    pub reason: Option<DropReason>,
}

/// What the one who ordered a capture and a worker tell each other.
#[derive(Debug, Default)]
pub struct CaptureState {
    /// Nobody wants more.
    pub ended: AtomicBool,
    /// Packets that were wanted and not copied: too many in a second, or no room.
    pub missed: Counter,
}

/// What a worker is to capture.
#[derive(Debug)]
pub struct CaptureOrder {
    /// Which packets.
    pub filter: CaptureFilter,
    /// Bytes of each at most.
    pub snap: usize,
    /// Packets a second at most.
    pub per_second: u32,
    /// Not longer than this.
    pub until: Timestamp,
    /// Where to.
    pub packets: Sender<Captured>,
    /// Shared with who ordered.
    pub state: Arc<CaptureState>,
}

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It was sent on.
    Passed,
    /// natgate answered it.
    Answered,
    /// It was dropped.
    Dropped(DropReason),
    /// It waits, for a next hop or for other fragments.
    Waits,
}

/// A packet at one place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Copied {
    /// Where it came in, or left.
    pub interface: InterfaceId,
    /// How long it is.
    pub len: usize,
    /// Its first bytes.
    pub bytes: Box<[u8]>,
}

/// A packet, as it came and as it left.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Captured {
    /// When, since the epoch of the clock.
    pub at: Duration,
    /// By which worker.
    pub worker: u16,
    /// As it came.
    pub arrived: Copied,
    /// What became of it.
    pub fate: Fate,
    /// What left for it: itself, its pieces, or natgate's answer.
    pub sent: Vec<Copied>,
}

/// A capture under way.
#[derive(Debug)]
pub(crate) struct Tap {
    order: CaptureOrder,
    /// What has left for the packet that is looked at.
    sent: Vec<Copied>,
    looking: bool,
    /// The second that is counted, and how many were copied in it.
    second: (u64, u32),
}

impl Tap {
    fn copy(&self, interface: InterfaceId, bytes: &[u8]) -> Copied {
        let part = &bytes[..bytes.len().min(self.order.snap)];
        Copied { interface, len: bytes.len(), bytes: part.into() }
    }

    fn is_over(&self, now: Timestamp) -> bool {
        now >= self.order.until || self.order.state.ended.load(Ordering::Relaxed)
    }

    /// Gives a packet to who ordered it; false if nobody takes any more.
    fn give(&mut self, packet: Captured, now: Timestamp) -> bool {
        if self.second.0 != now.as_secs() {
            self.second = (now.as_secs(), 0);
        }
        if self.second.1 >= self.order.per_second {
            self.order.state.missed.add(1);
            return true;
        }
        self.second.1 += 1;
        match self.order.packets.try_send(packet) {
            Ok(()) => true,
            Err(TrySendError::Full(_)) => {
                self.order.state.missed.add(1);
                true
            }
            Err(TrySendError::Disconnected(_)) => false,
        }
    }
}

impl CaptureFilter {
    fn wants(&self, packet: &Captured) -> bool {
        let dropped = match packet.fate {
            Fate::Dropped(reason) => self.reason.is_none_or(|wanted| wanted == reason),
            _ => !self.drops && self.reason.is_none(),
        };
        let ends = || std::iter::once(&packet.arrived).chain(&packet.sent).any(|it| self.has(it));
        dropped && (self.from.is_none() && self.to.is_none() || ends())
    }

    /// Whether its ends are those that are wanted, in either direction.
    fn has(&self, copied: &Copied) -> bool {
        let Some((src, dst)) = ends(&copied.bytes) else { return false };
        let in_net = |net: &Option<Ipv4Net>, addr| net.is_none_or(|net| net.contains(&addr));
        let both = |src, dst| in_net(&self.from, src) && in_net(&self.to, dst);
        both(src, dst) || both(dst, src)
    }
}

fn ends(frame: &[u8]) -> Option<(Ipv4Addr, Ipv4Addr)> {
    let header = frame.get(ethernet::HEADER..)?;
    let address = |at: usize| {
        let bytes: [u8; 4] = header.get(at..at + 4)?.try_into().ok()?;
        Some(Ipv4Addr::from(bytes))
    };
    (header.first()? >> 4 == 4).then_some((address(12)?, address(16)?))
}

impl<I: PacketIo> Worker<I> {
    /// Begins a capture; another one ends.
    pub(crate) fn start_capture(&mut self, order: CaptureOrder) {
        let tap = Tap { order, sent: Vec::new(), looking: false, second: (0, 0) };
        self.tap = Some(Box::new(tap));
    }

    /// Ends the capture when it is time.
    pub(crate) fn end_capture(&mut self, now: Timestamp) {
        if self.tap.as_ref().is_some_and(|tap| tap.is_over(now)) {
            self.tap = None;
        }
    }

    /// Remembers what leaves for the packet that is looked at.
    pub(crate) fn note_sent(&mut self, interface: InterfaceId, frame: &I::Frame) {
        if let Some(tap) = self.tap.as_mut().filter(|tap| tap.looking) {
            let copied = tap.copy(interface, self.io.bytes(frame));
            tap.sent.push(copied);
        }
    }

    /// A burst, packet by packet.
    #[cold]
    pub(crate) fn process_captured(
        &mut self,
        burst: &mut Vec<Received<I::Frame>>,
        by: Came,
        now: Timestamp,
    ) {
        for received in std::mem::take(burst) {
            if by == Came::ByInterface {
                let counters = self.counters().interface(received.interface);
                counters.received_packets.add(1);
                counters.received_bytes.add(self.io.bytes(&received.frame).len() as u64);
            }
            self.capture_one(received, by, now);
        }
    }

    fn capture_one(&mut self, received: Received<I::Frame>, by: Came, now: Timestamp) {
        let drops = |worker: &Self| -> Vec<u64> {
            worker.counters().drops.iter().map(Counter::get).collect()
        };
        let bytes = self.io.bytes(&received.frame);
        let arrived = self.tap.as_mut().map(|tap| {
            tap.looking = true;
            tap.copy(received.interface, bytes)
        });
        let (before, given) = (drops(self), self.counters().handed_over.get());
        let answered = self.counters().answered.get();
        let mut arrival = self.parse(&received);
        self.arrive(received, &mut arrival, by, now);
        let after = drops(self);
        let reason = DropReason::ALL.iter().find(|it| after[it.index()] > before[it.index()]);
        let is_given = self.counters().handed_over.get() > given;
        let is_answered = self.counters().answered.get() > answered;
        let (at, worker) = (self.shared.clock.elapsed(), self.id);
        let (Some(tap), Some(arrived)) = (&mut self.tap, arrived) else { return };
        tap.looking = false;
        let sent = std::mem::take(&mut tap.sent);
        let fate = match reason {
            Some(reason) => Fate::Dropped(*reason),
            // Its home captures it.
            None if is_given => return,
            None if is_answered => Fate::Answered,
            None if sent.is_empty() => Fate::Waits,
            None => Fate::Passed,
        };
        let packet = Captured { at, worker, arrived, fate, sent };
        if tap.order.filter.wants(&packet) && !tap.give(packet, now) {
            self.tap = None;
        }
    }
}
