//! How does an ICMP error pass? It belongs to the session of the packet that it quotes, is translated with
//! it, and changes nothing there (RFC 5508 REQ-4 to REQ-7, decision D10).

use std::net::Ipv4Addr;

use conntrack::{Endpoint, Protocol, Realm, Rewrite, Slot, Timestamp};

use crate::drop_reason::DropReason;
use crate::io::{PacketIo, Received};
use crate::packet::{Packet, Quote, Transport};
use crate::pipeline::{Fate, Parsed};
use crate::roads::NextHop;
use crate::rule::Action;
use crate::slow_path::Admitted;
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// Translates an error about a packet of the session `slot`. There is no `commit` here: an error neither
    /// counts on a session, nor renews nor ends it (RFC 4787 REQ-12, RFC 5382 REQ-10, RFC 5508 REQ-6).
    #[cold]
    pub(crate) fn relay_error(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        slot: Slot,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let &mut Parsed { ref packet, realm, hairpin, .. } = parsed;
        let hairpin = hairpin.is_some();
        let rewrite = self.nat.rewrite(slot);
        let hop = self.next_hop(slot, rewrite.dst.addr, received.interface, parsed);
        self.may_leave(hop, realm, packet)?;
        let src = self.error_source(parsed, &rewrite);
        if !packet.fragment.is_atomic() && !hairpin {
            self.identify(received, parsed, slot, (src, hop), now)?;
        }
        if !hairpin {
            packet.decrement_ttl(self.io.bytes_mut(&mut received.frame))?;
        }
        // The quoted packet goes the other way: it came from where the error is sent to.
        let quote = Quote { src: rewrite.dst, dst: rewrite.src, protocol: self.nat.protocol(slot) };
        let frame = self.io.bytes_mut(&mut received.frame);
        let out = packet.translate_error(frame, (src, rewrite.dst.addr), quote)?;
        if hop == NextHop::Hairpin {
            // RFC 5508 REQ-7: it goes on as if it had come from outside, about the sender's own session.
            return self.turn_back(received, parsed, out, now);
        }
        Ok(Fate::Forward(hop))
    }

    /// Under which address an error goes on.
    fn error_source(&self, parsed: &Parsed, rewrite: &Rewrite) -> Ipv4Addr {
        let &Parsed { ref packet, realm, overlay, .. } = parsed;
        let sender = packet.src.addr;
        match realm {
            // The remote itself, which may have another address for the pod; or a router on the way.
            Realm::External if sender == packet.other_end(realm).addr => rewrite.src.addr,
            Realm::External => sender,
            // RFC 5508 REQ-5c: its own public address if it has one, else that of the session.
            Realm::Internal => {
                let is_its = |vni| self.snapshot.overlay_of(sender, vni) == Some(overlay);
                let forwards = &self.snapshot.policy.forwards;
                let fixed = forwards.by_internal(Protocol::Icmp, Endpoint::new(sender, 0), is_its);
                fixed.map_or(rewrite.src.addr, |fixed| fixed.public.addr)
            }
        }
    }

    /// Whether this is an error from outside in a pod's name: any router's is believed, but no pod is there.
    #[inline]
    pub(crate) fn is_spoofed_error(&self, packet: &Packet) -> bool {
        matches!(packet.transport, Transport::Error(_))
            && self.snapshot.policy.rules.knows_source(packet.src.addr)
    }

    /// An error about a packet of no session: only about exempt traffic it passes, untranslated.
    pub(crate) fn admit_error(&self, parsed: &Parsed) -> Result<Admitted, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        packet.flow_key(realm)?;
        match self.rule_for(packet, realm) {
            // What it is about went to another pod with that address.
            Some((_, Action::Exempt))
                if realm == Realm::Internal && !self.hears_replies(parsed) =>
            {
                Err(DropReason::ExemptOverlay)
            }
            Some((_, Action::Exempt)) => Ok(Admitted::Exempt),
            _ => Err(DropReason::IcmpNoSession),
        }
    }
}
