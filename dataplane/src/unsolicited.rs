//! What becomes of a SYN from outside that nothing admits (RFC 5382 REQ-4; decision D7)?
//!
//! It may be the remote's half of a simultaneous open, early: an answer at once would end that. So where
//! the pool says so it is held for six seconds and answered then, unless the pod has addressed that very
//! remote meanwhile. Held is what the answer quotes, not the frame; few are held, and the rest is dropped
//! in silence, so that a flood costs nothing.

use std::sync::Arc;

use conntrack::{Direction, Endpoint, Realm, Slot, Timestamp, UnsolicitedSyn};

use crate::interface::InterfaceId;
use crate::io::{PacketIo, Received};
use crate::packet::Packet;
use crate::pipeline::Parsed;
use crate::refuse::{IcmpError, write_error};
use crate::wire::ethernet;
use crate::worker::Worker;

/// SYNs that one worker holds at most.
const HELD: usize = 1_024;
/// Bytes of the packet that are kept for the quote: the longest headers of IP and TCP, and some data.
const QUOTED: usize = 128;

/// A SYN that waits for its answer.
#[derive(Clone, Debug)]
struct Held {
    due: Timestamp,
    interface: InterfaceId,
    /// The packet, its length cut to what is kept.
    packet: Packet,
    frame: [u8; ethernet::HEADER + QUOTED],
}

impl Held {
    fn bytes(&self) -> &[u8] {
        &self.frame[..ethernet::HEADER + usize::from(self.packet.len)]
    }
}

/// The SYNs that one worker holds.
#[derive(Debug, Default)]
pub(crate) struct Unsolicited {
    held: Vec<Held>,
}

impl Unsolicited {
    pub(crate) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.held.len()
    }

    fn position(&self, remote: Endpoint, public: Endpoint) -> Option<usize> {
        self.held.iter().position(|h| h.packet.src == remote && h.packet.dst == public)
    }

    fn take_due(&mut self, now: Timestamp) -> Option<Held> {
        let index = self.held.iter().position(|held| held.due <= now)?;
        Some(self.held.swap_remove(index))
    }
}

impl<I: PacketIo> Worker<I> {
    /// Holds a SYN from outside that was dropped, if its pool wants it to be answered later. True: nothing
    /// may be answered now (RFC 5382 REQ-4).
    pub(crate) fn hold_syn(
        &mut self,
        received: &Received<I::Frame>,
        parsed: &Parsed,
        now: Timestamp,
    ) -> bool {
        let packet = &parsed.packet;
        let opens = packet.segment().is_some_and(|s| s.flags.opens());
        if !opens || parsed.realm != Realm::External || parsed.hairpin.is_some() {
            return false;
        }
        let snapshot = Arc::clone(&self.snapshot);
        let pools = &snapshot.policy.pools;
        let Some(pool) = pools.iter().find(|pool| pool.has(packet.dst.addr)) else { return false };
        if pool.settings.unsolicited_syn != UnsolicitedSyn::Delayed {
            return false;
        }
        let bytes = self.io.bytes(&received.frame);
        let fits = self.unsolicited.held.len() < HELD
            && self.unsolicited.position(packet.src, packet.dst).is_none()
            && self.may_be_answered(bytes, parsed, packet);
        if fits {
            let mut packet = *packet;
            packet.len = packet.len.min(QUOTED as u16);
            let end = ethernet::HEADER + usize::from(packet.len);
            let mut frame = [0; ethernet::HEADER + QUOTED];
            frame[..end].copy_from_slice(&bytes[..end]);
            self.unsolicited.held.push(Held {
                due: now + pool.settings.timers.tcp_incoming_syn,
                interface: received.interface,
                packet,
                frame,
            });
        }
        true
    }

    /// A session was opened: if the pod has addressed who was held, its SYN is forgotten in silence
    /// (RFC 5382 REQ-4). The handshake goes on when the remote sends it again.
    pub(crate) fn forget_syn(&mut self, slot: Slot) {
        if self.unsolicited.is_empty() || slot.direction() != Direction::Outbound {
            return;
        }
        let rewrite = self.nat.rewrite(slot);
        if let Some(index) = self.unsolicited.position(rewrite.dst, rewrite.src) {
            self.unsolicited.held.swap_remove(index);
        }
    }

    /// Answers the SYNs that have been held for long enough, by ICMP 3/3.
    pub(crate) fn answer_held(&mut self, now: Timestamp) {
        while let Some(held) = self.unsolicited.take_due(now) {
            if self.is_unsolicited_still(&held) {
                self.answer_syn(&held, now);
            }
        }
    }

    /// Whether nobody here has a connection with the sender. Another worker may have given the port out
    /// since, and only that worker knows: then the answer is left out.
    fn is_unsolicited_still(&self, held: &Held) -> bool {
        let packet = &held.packet;
        let Some(address) = self.snapshot.policy.addresses.get(&packet.dst.addr) else {
            return false;
        };
        let here = address.worker_of(packet.dst.port).is_none_or(|worker| worker == self.id);
        here && packet.flow_key(Realm::External).is_ok_and(|key| self.nat.find(&key).is_none())
    }

    fn answer_syn(&mut self, held: &Held, now: Timestamp) {
        let snapshot = Arc::clone(&self.snapshot);
        let muted = snapshot.policy.answers.muted.contains(&held.interface);
        let Some(interface) = self.interface(held.interface).cloned() else { return };
        if muted {
            return;
        }
        if !self.error_limits.allow(Realm::External, held.packet.src.addr, now) {
            self.counters().icmp_errors_limited.add(1);
            return;
        }
        let Some(mut frame) = self.io.allocate() else { return };
        let bytes = held.bytes();
        let (packet, error) = (&held.packet, (IcmpError::PortUnreachable, 0));
        let written = self.io.resize(&mut frame, bytes.len()) && {
            self.io.bytes_mut(&mut frame).copy_from_slice(bytes);
            write_error(&mut self.io, &mut frame, packet, error, packet.dst.addr, &interface)
                .is_some()
        };
        if !written {
            self.io.release(frame);
        } else if self.transmit_own(held.interface, frame, now) {
            self.counters().icmp_errors_sent[IcmpError::PortUnreachable as usize].add(1);
        }
    }
}
