//! Giving packets their identification, where natgate is their source (RFC 6864 section 5.3.1).

use std::net::Ipv4Addr;

use conntrack::{Realm, Slot, Timestamp};

use crate::drop_reason::DropReason;
use crate::fragment::{DatagramId, DatagramKey};
use crate::io::{PacketIo, Received};
use crate::ip_id::FreshId;
use crate::packet::Packet;
use crate::pipeline::Parsed;
use crate::roads::NextHop;
use crate::worker::Worker;

/// What datagrams with one identification must differ in: source, destination and protocol. The
/// destination is left out where datagrams to several of our addresses end at one pod.
pub(crate) type Kind = (u64, u8);

pub(crate) fn kind(source: Ipv4Addr, destination: Ipv4Addr, protocol: u8) -> Kind {
    let addresses = u64::from(u32::from(source)) << 32 | u64::from(u32::from(destination));
    (addresses, protocol)
}

impl<I: PacketIo> Worker<I> {
    /// Gives a packet that is not atomic, and leaves with `source`, a fresh identification: outbound always (two pods share an
    /// address), inbound where the subscriber has several addresses (two of its addresses share a pod). A
    /// datagram has one for all its fragments; a copy of a datagram gets another one (RFC 6864 4.2). Atomic
    /// datagrams keep theirs (RFC 6864 4.1b), and DF is never cleared (RFC 6864 4.3c).
    pub(crate) fn identify(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
        slot: Slot,
        (source, hop): (Ipv4Addr, NextHop),
        now: Timestamp,
    ) -> Result<(), DropReason> {
        let &Parsed { ref packet, realm, fresh_id, .. } = parsed;
        let kind = match realm {
            Realm::Internal => {
                let turns_back = hop == NextHop::Hairpin;
                let to = self.nat.rewrite(slot).dst.addr;
                let to = if turns_back { Ipv4Addr::UNSPECIFIED } else { to };
                kind(source, to, packet.number)
            }
            Realm::External if !self.nat.has_other_addresses(slot) => return Ok(()),
            Realm::External => inbound_kind(packet),
        };
        let strict = self.nat.has_strict_ids(slot);
        let issued = fresh_id.filter(|fresh| !(strict && fresh.reused));
        let issued = issued.or_else(|| self.issue(kind, strict, now));
        let fresh = issued.ok_or(DropReason::IpIdExhausted)?;
        if fresh.reused && !packet.is_later_fragment() {
            self.counters().ip_id_reused.add(1);
        }
        if packet.fragment.is_fragment() && fresh_id != Some(fresh) {
            let kept = DatagramKey::of(parsed).and_then(|key| self.fragments.find(&key));
            kept.inspect(|&kept| self.fragments.keep_id(kept, fresh));
        }
        packet.set_id(self.io.bytes_mut(&mut received.frame), fresh.id)
    }

    /// The identification for a fragmented datagram from outside, chosen by its keeper: whether the
    /// subscriber has several addresses is known at its home only, but one that has needs it.
    pub(crate) fn inbound_id(
        &mut self,
        datagram: DatagramId,
        parsed: &Parsed,
        now: Timestamp,
    ) -> Option<FreshId> {
        let addresses = &self.snapshot.policy.addresses;
        let packet = &parsed.packet;
        let translated = addresses.contains_key(&packet.dst.addr);
        if parsed.realm == Realm::Internal || addresses.len() < 2 || !translated {
            return None;
        }
        let fresh = self.issue(inbound_kind(packet), false, now)?;
        self.fragments.keep_id(datagram, fresh);
        Some(fresh)
    }

    fn issue(&mut self, kind: Kind, strict: bool, now: Timestamp) -> Option<FreshId> {
        self.ip_ids.issue(kind, strict, now)
    }
}

fn inbound_kind(packet: &Packet) -> Kind {
    kind(packet.src.addr, Ipv4Addr::UNSPECIFIED, packet.number)
}
