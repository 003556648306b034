//! What does a packet change, once its session is found? And what is told when a session expires?

use super::Nat;
use crate::endpoint::{Endpoint, Realm};
use crate::pool::OnExpiry;
use crate::session::{Direction, Slot};
use crate::tcp::{Segment, TcpFlags};
use crate::time::Timestamp;

/// Obituaries that wait at most; further ones are counted and forgotten.
pub(super) const OBITUARIES: usize = 1_024;

/// A reset that tells one end that its connection is gone; addresses as that end knows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Farewell {
    /// The source: the other end as this one sees it.
    pub src: Endpoint,
    /// The end that is told.
    pub dst: Endpoint,
    /// Sequence number: exactly what this end expects (RFC 9293 section 3.5.3).
    pub seq: u32,
    /// Acknowledgement number: what the other end has acknowledged.
    pub ack: u32,
}

/// An established TCP session that was idle for so long that it was ended (RFC 5382 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Obituary {
    /// To the pod.
    pub internal: Farewell,
    /// To the remote.
    pub external: Farewell,
    /// The pod's overlay ([`FlowKey::overlay`](crate::endpoint::FlowKey::overlay)).
    pub overlay: u16,
}

impl Nat {
    /// Counts a packet of `bytes` (IP length) that is forwarded, renews the timer and follows the TCP
    /// state.
    pub fn commit(&mut self, slot: Slot, now: Timestamp, bytes: u64, tcp: Option<&Segment>) {
        let half = self.table.get_mut(slot).half_mut(slot.direction());
        let first = half.count(bytes);
        if let Some(segment) = tcp {
            if !half.follow_plain(segment) {
                return self.follow(slot, segment, now);
            }
            half.last_seen = now.stored();
        } else {
            half.last_seen = now.stored();
            if first {
                let from_inside = self.table.owner(slot).opened_by == Realm::Internal;
                let asks = slot.direction() == Direction::Outbound;
                if asks {
                    self.address(slot);
                }
                // Answered, whoever asked: its timer may be shorter from now on.
                if asks != from_inside {
                    self.arm(slot, now);
                }
            }
        }
    }

    /// Follows the first segment of a session (`tcp`), and starts its timer.
    pub(super) fn begin(&mut self, slot: Slot, tcp: Option<&Segment>, now: Timestamp) {
        if let Some(segment) = tcp {
            let tail = self.tails.insert(now.as_secs() as u32);
            self.table.get_mut(slot).set_tail(Some(tail));
            self.follow(slot, segment, now);
        }
        self.arm(slot, now);
    }

    /// Follows a segment that may change the state.
    #[inline(never)]
    fn follow(&mut self, slot: Slot, segment: &Segment, now: Timestamp) {
        let session = self.table.get_mut(slot);
        let Some(number) = session.tail() else { return };
        let mut tail = self.tails.get(number);
        let verdict = session.follow(slot.direction(), &mut tail, segment);
        self.tails.set(number, &tail);
        let outbound = slot.direction() == Direction::Outbound;
        // RFC 7857 section 7.1: a reset refuses, whatever else it says.
        let speaks = segment.flags.has(TcpFlags::SYN) && !segment.flags.has(TcpFlags::RST);
        // Until the internal endpoint speaks, its half keeps the time of the first packet.
        if verdict.renews && (!outbound || speaks || session.owner().addressed) {
            session.half_mut(slot.direction()).last_seen = now.stored();
        }
        let was = session.state();
        if verdict.state != was {
            session.set_state(verdict.state);
            self.note_state(slot, was, verdict.state);
            self.arm(slot, now);
        }
        if outbound && speaks {
            self.address(slot);
        }
    }

    pub(super) fn arm(&mut self, slot: Slot, now: Timestamp) {
        let owner = self.table.owner(slot);
        let Some(pool) = self.pools.get(owner.pool.index()) else { return };
        let session = self.table.get(slot);
        let idle = session.unrenewed(&owner, pool.settings.inbound_refresh, now);
        let timeout = session.timeout(&pool.settings).as_millis() as u64;
        let due = now.as_millis() + timeout.saturating_sub(idle.into());
        self.wheel.arm(slot.number(), due.div_ceil(1000) as u32);
    }

    /// Goes on arming live sessions by the timers that are set now, after they have changed.
    pub(super) fn rearm(&mut self, now: Timestamp, budget: &mut u32) {
        while *budget > 0 && self.rearmed < self.table.end() {
            if self.table.live(self.rearmed).is_some() {
                self.arm(Slot::new(self.rearmed as u32, Direction::Outbound), now);
            }
            self.rearmed += 1;
            *budget -= 1;
        }
        if self.rearmed >= self.table.end() {
            self.rearmed = usize::MAX;
        }
    }

    /// Notes that both ends of an expired session are to be told, where the pool says so.
    pub(super) fn mourn(&mut self, slot: Slot) {
        let Some(pool) = self.pools.get(self.table.owner(slot).pool.index()) else { return };
        let session = self.table.get(slot);
        if pool.settings.on_expiry != OnExpiry::Reset || !session.state().is_established() {
            return;
        }
        if self.obituaries.len() >= OBITUARIES {
            self.unannounced += 1;
            return;
        }
        let (internal, public, remote) = (session.internal(), session.public(), session.remote());
        let expects = |direction| session.half(direction).side.expects();
        let (inner, outer) = (expects(Direction::Outbound), expects(Direction::Inbound));
        self.obituaries.push_back(Obituary {
            internal: Farewell { src: remote, dst: internal, seq: inner, ack: outer },
            external: Farewell { src: public, dst: remote, seq: outer, ack: inner },
            overlay: session.overlay(),
        });
    }

    /// The next session that expired and whose ends are to be told (RFC 5382 section 5; `onExpiry`).
    pub fn take_obituary(&mut self) -> Option<Obituary> {
        self.obituaries.pop_front()
    }
}
