//! Who learns that an idle connection was ended? Both ends, by a reset (RFC 5382 section 5, `onExpiry`).
//!
//! So nobody waits for an answer that can't come. The resets are natgate's own packets: they carry exactly
//! the sequence number that each end expects, and they leave only where the way is known already.

use conntrack::{Farewell, FlowKey, Protocol, Realm, Timestamp};

use crate::io::PacketIo;
use crate::roads::{Adjacency, Journey, NextHop};
use crate::wire::tcp::{self, Reset};
use crate::wire::{EtherType, Ethernet, Malformed, ethernet, ipv4};
use crate::worker::Worker;

/// Connections whose ends are told in one turn at most.
const PER_TURN: usize = 16;
const LEN: usize = ethernet::HEADER + ipv4::HEADER + tcp::HEADER;

/// The key of what this end sent, on its side.
fn key(told: Farewell, realm: Realm) -> FlowKey {
    FlowKey { src: told.dst, dst: told.src, protocol: Protocol::Tcp, realm, overlay: 0 }
}

impl<I: PacketIo> Worker<I> {
    /// Tells both ends of some of the connections that have expired; whether there may be more.
    pub(crate) fn say_farewell(&mut self, now: Timestamp) -> bool {
        for _ in 0..PER_TURN {
            let Some(obituary) = self.nat.take_obituary() else { return false };
            let (internal, external) = (obituary.internal, obituary.external);
            let inbound = key(external, Realm::External);
            let outbound = key(internal, Realm::Internal);
            let outbound = FlowKey { overlay: obituary.overlay, ..outbound };
            self.tell(&internal, &inbound, (Realm::Internal, obituary.overlay), now);
            self.tell(&external, &outbound, (Realm::External, 0), now);
        }
        true
    }

    /// Tells the end on `side`, in an overlay there, which packets with this key reach.
    fn tell(&mut self, farewell: &Farewell, towards: &FlowKey, side: (Realm, u16), now: Timestamp) {
        // The other end is a pod behind this gateway: its own session tells it.
        if self.is_public(farewell.dst.addr) {
            return;
        }
        let way = self.way_for(farewell, towards, side);
        let sent = way.is_some_and(|way| self.send_reset(farewell, way, now));
        let counters = self.counters();
        if sent { counters.resets_sent.add(1) } else { counters.resets_missed.add(1) }
    }

    /// The neighbour by which this end is reached, if it is on its side and its address is known.
    fn way_for(
        &self,
        farewell: &Farewell,
        towards: &FlowKey,
        (side, overlay): (Realm, u16),
    ) -> Option<Adjacency> {
        let flow = self.nat.secret().hash_key(towards).flow();
        let source = towards.src.addr;
        let journey = Journey { source, flow, overlay, ..Journey::to(farewell.dst.addr) };
        let NextHop::Adjacency(id) = self.snapshot.roads.next_hop(&journey) else {
            return None;
        };
        let way = self.snapshot.roads.adjacency(id).filter(|way| way.mac.is_some())?;
        let roles = self.interface(way.interface)?.roles;
        let right_side = match side {
            Realm::Internal => roles.internal,
            Realm::External => roles.external,
        };
        right_side.then_some(*way)
    }

    fn send_reset(&mut self, farewell: &Farewell, way: Adjacency, now: Timestamp) -> bool {
        let Some(mut frame) = self.io.allocate() else { return false };
        let written =
            self.io.resize(&mut frame, LEN) && self.write_reset(&mut frame, farewell, way).is_ok();
        if !written {
            self.io.release(frame);
            return false;
        }
        self.transmit_own(way.interface, frame, now)
    }

    fn write_reset(
        &mut self,
        frame: &mut I::Frame,
        farewell: &Farewell,
        way: Adjacency,
    ) -> Result<(), Malformed> {
        let source = self.interface(way.interface).map(|interface| interface.mac);
        let (Some(source), Some(destination)) = (source, way.mac) else { return Err(Malformed) };
        let bytes = self.io.bytes_mut(frame);
        let mut ethernet = Ethernet::new_checked(&mut *bytes)?;
        ethernet.set_addresses(destination, source);
        ethernet.set_ether_type(EtherType::IPV4);
        let (ip, segment) = bytes[ethernet::HEADER..].split_at_mut(ipv4::HEADER);
        let (src, dst) = (farewell.src, farewell.dst);
        ipv4::emit(ip, src.addr, dst.addr, 6, tcp::HEADER as u16)?;
        let ports = (src.port, dst.port);
        Reset { ports, seq: farewell.seq, ack: Some(farewell.ack) }
            .emit(segment, src.addr, dst.addr)
    }
}
