//! The packet's way, from top to bottom.
//!
//! ```text
//! parse ─► answer? ─► session here? ──no──► whose? ──not mine──► hand-off ring ─► home worker
//!                          │ yes              │ mine
//!                          │◄───── slow path: rule, subscriber, port, session
//!                    next hop ─► rewrite ─► count ─► transmit
//! ```
//!
//! Sessions are made by their subscriber's home alone, so whoever has the session is the home: most packets
//! need not ask.
//!
//! Before that, [`burst`](crate::burst) takes packets out of tunnels and, where many live elsewhere, hands those over by
//! their ends alone; plain packets of sessions that are here take the [lane](crate::plain) instead. Both lead to the same.
//!
//! The worker calls the stages for a whole burst: [`Worker::parse`] for every packet, then the lines of
//! their sessions are read side by side, then [`Worker::arrive`] for every packet, in order.

use std::net::Ipv4Addr;

use conntrack::{CachedHop, Endpoint, FlowKey, HashedKey, Realm, Slot, Timestamp};

use crate::burst::Came;
use crate::drop_reason::DropReason;
use crate::hand_off::Known;
use crate::interface::InterfaceId;
use crate::io::{PacketIo, Received};
use crate::ip_id::FreshId;
use crate::packet::{Content, Packet, Query, Transport};
use crate::roads::{AdjacencyId, Journey, NextHop, Route};
use crate::rule::Action;
use crate::slow_path::Admitted;
use crate::worker::Worker;

/// What becomes of a packet that is not dropped.
#[derive(Clone, Copy)]
pub(crate) enum Fate {
    /// It leaves towards this next hop.
    Forward(NextHop),
    /// It was turned into an answer and goes back.
    Answer,
    /// Its subscriber lives with this worker.
    HandOver(u16),
}

/// A packet, the side it came from, and the hashed key of its session, if it can have one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed {
    pub(crate) packet: Packet,
    pub(crate) realm: Realm,
    /// From inside: which of several pods with one address sent it ([`overlay`](crate::interface::Interface::overlay)).
    pub(crate) overlay: u16,
    pub(crate) key: Option<HashedKey>,
    /// It came from a pod, was translated once, and turns back to the pods: source and destination with which it
    /// came to the gateway, before anything was translated.
    pub(crate) hairpin: Option<(Endpoint, Endpoint)>,
    /// A fragment's: the identification that the others of its datagram have.
    pub(crate) fresh_id: Option<FreshId>,
}

/// What has arrived; `None`: ARP.
pub(crate) type Arrival = Result<Option<Parsed>, DropReason>;

impl Parsed {
    /// Source and destination with which it came to the gateway, before anything was translated.
    pub(crate) fn arrived(&self) -> (Endpoint, Endpoint) {
        self.hairpin.unwrap_or((self.packet.src, self.packet.dst))
    }

    /// Whether its home finds out by its bytes what is known of it here.
    pub(crate) fn is_in_its_bytes(&self) -> bool {
        // A fragment comes from its keeper, and would go back there.
        self.hairpin.is_none() && !self.packet.fragment.is_fragment()
    }

    /// The key of its session.
    #[inline]
    pub(crate) fn flow_key(&self) -> Result<FlowKey, DropReason> {
        Ok(FlowKey { overlay: self.overlay, ..self.packet.flow_key(self.realm)? })
    }

    /// The journey to `destination`, as the kernel would ask: after the destination was translated, and
    /// before the source is.
    pub(crate) fn journey(&self, destination: Ipv4Addr, arrival: InterfaceId) -> Journey {
        let flow = self.key.as_ref().map_or(0, HashedKey::flow);
        let source = self.arrived().0.addr;
        Journey { destination, source, arrival: Some(arrival), flow, kept: None, overlay: 0 }
    }
}

impl<I: PacketIo> Worker<I> {
    /// First stage: what is it?
    pub(crate) fn parse(&self, received: &Received<I::Frame>) -> Arrival {
        let interface = self.interface(received.interface);
        let own = interface.map(|it| it.mac).unwrap_or_default();
        let Content::Packet(packet) = Content::parse(self.io.bytes(&received.frame), own)? else {
            return Ok(None);
        };
        let realm = self.realm_of(&packet, received.interface);
        let overlay = interface.filter(|_| realm == Realm::Internal).map_or(0, |it| it.overlay);
        let mut parsed =
            Parsed { packet, realm, overlay, key: None, hairpin: None, fresh_id: None };
        parsed.key = parsed.flow_key().ok().map(|key| self.nat.secret().hash_key(&key));
        Ok(Some(parsed))
    }

    /// The same for a plain packet with `key` from `realm`.
    pub(crate) fn parse_plain(
        &self,
        received: &Received<I::Frame>,
        realm: Realm,
        key: HashedKey,
    ) -> Arrival {
        let packet = Packet::of_frame(self.io.bytes(&received.frame))?;
        let (overlay, key) = (key.overlay(), Some(key));
        Ok(Some(Parsed { packet, realm, overlay, key, hairpin: None, fresh_id: None }))
    }

    /// Last stage: what becomes of it?
    pub(crate) fn arrive(
        &mut self,
        mut received: Received<I::Frame>,
        arrival: &mut Arrival,
        by: Came,
        now: Timestamp,
    ) {
        match arrival {
            Ok(Some(parsed)) if parsed.packet.fragment.is_fragment() => {
                self.fragment_arrives(received, *parsed, now);
            }
            Ok(Some(parsed)) if by == Came::ByHandOff => self.come_home(received, parsed, now),
            Ok(Some(parsed)) => {
                let fate = self.decide(&mut received, parsed, now);
                self.finish(received, parsed, fate, now);
            }
            Ok(None) => match self.answer_arp(&mut received) {
                Ok(()) => self.return_answer(received, now),
                Err(reason) => self.refuse(received, None, reason, now),
            },
            Err(reason) => self.refuse(received, None, *reason, now),
        }
    }

    /// A packet that another worker has given us with what is known of it.
    pub(crate) fn take_over(&mut self, given: Known<I::Frame>, now: Timestamp) {
        let Known { received, mut parsed } = given;
        self.come_home(received, &mut parsed, now);
    }

    /// A packet whose home this is, as another worker has found.
    fn come_home(&mut self, mut received: Received<I::Frame>, parsed: &mut Parsed, now: Timestamp) {
        let fate = match self.find(parsed) {
            Some(slot) => self.translate(&mut received, parsed, slot, now),
            None => self.open(&mut received, parsed, now),
        };
        self.finish(received, parsed, fate, now);
    }

    fn decide(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let packet = &parsed.packet;
        if packet.transport == Transport::Icmp(Query::Echo) && self.answers_for(packet.dst.addr) {
            return self.answer_echo(received, packet, parsed.realm, now);
        }
        self.at_home(received, parsed, now)
    }

    /// Translates the packet if it is this worker's.
    pub(crate) fn at_home(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        self.believe_sender(parsed)?;
        if let Some(slot) = self.find(parsed) {
            return self.translate(received, parsed, slot, now);
        }
        match self.home_of(parsed)? {
            home if home == self.id => self.open(received, parsed, now),
            home => Ok(Fate::HandOver(home)),
        }
    }

    /// The packet's session, if this worker has it.
    #[inline]
    pub(crate) fn find(&self, parsed: &Parsed) -> Option<Slot> {
        self.nat.find_hashed(parsed.key.as_ref()?)
    }

    /// A packet without session, at home: it may open one.
    #[cold]
    fn open(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let packet = &parsed.packet;
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        match self.admit(received, parsed, now)? {
            Admitted::Session(slot) => {
                self.forget_syn(slot);
                self.translate(received, parsed, slot, now)
            }
            Admitted::Exempt => self.forward_exempt(received, parsed),
            Admitted::Answered => Ok(Fate::Answer),
        }
    }

    /// Translates a packet of the session `slot`.
    fn translate(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        slot: Slot,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let &mut Parsed { ref packet, realm, hairpin, .. } = parsed;
        let hairpin = hairpin.is_some();
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        if let Transport::Error(_) = packet.transport {
            return self.relay_error(received, parsed, slot, now);
        }
        let rewrite = self.nat.rewrite(slot);
        let hop = self.next_hop(slot, rewrite.dst.addr, received.interface, parsed);
        self.may_leave(hop, realm, packet)?;
        if !packet.fragment.is_atomic() && !hairpin {
            self.identify(received, parsed, slot, (rewrite.src.addr, hop), now)?;
        }
        if !hairpin {
            self.repair_checksum(received, packet);
        }
        packet.translate(self.io.bytes_mut(&mut received.frame), &rewrite, !hairpin)?;
        self.clamp_mss(received, parsed, hop);
        let packet = &parsed.packet;
        self.nat.commit(slot, now, packet.len.into(), packet.segment());
        if hop == NextHop::Hairpin {
            let packet = packet.rewritten(&rewrite);
            return self.turn_back(received, parsed, packet, now);
        }
        Ok(Fate::Forward(hop))
    }

    /// A packet from a pod to a public address goes on as if it had come from outside: the pod behind that
    /// address sees the sender's public endpoint (RFC 4787 REQ-9a). It can't turn back twice: no packet from
    /// outside is translated to a public destination, as configuration keeps pods and public addresses apart,
    /// and if one is, it ends here.
    #[cold]
    pub(crate) fn turn_back(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &mut Parsed,
        packet: Packet,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        if parsed.realm == Realm::External {
            return Err(DropReason::NoRoute);
        }
        let realm = Realm::External;
        let key = Some(self.nat.secret().hash_key(&packet.flow_key(realm)?));
        let hairpin = Some(parsed.arrived());
        let mut turned = Parsed { packet, realm, overlay: 0, key, hairpin, fresh_id: None };
        let fate = self.at_home(received, &mut turned, now);
        // Whoever drops it here tells the sender by what it was; another worker goes on with what it is.
        if let Ok(Fate::HandOver(..)) = fate {
            *parsed = turned;
        }
        fate
    }

    /// Which side the packet came from; on a one-armed interface the source address tells.
    pub(crate) fn realm_of(&self, packet: &Packet, interface: InterfaceId) -> Realm {
        let internal = self.interface(interface).is_some_and(|interface| {
            let roles = interface.roles;
            // An error may be from any router; what it is about tells.
            let pod = packet.own_end(Realm::Internal).addr;
            roles.internal && (!roles.external || self.snapshot.policy.rules.knows_source(pod))
        });
        if internal { Realm::Internal } else { Realm::External }
    }

    /// Nobody outside sends in the name of a public address, nor errors in that of a pod.
    #[inline]
    pub(crate) fn believe_sender(&self, parsed: &Parsed) -> Result<(), DropReason> {
        let &Parsed { ref packet, realm, ref hairpin, .. } = parsed;
        if realm == Realm::External
            && hairpin.is_none()
            && (self.is_public(packet.src.addr) || self.is_spoofed_error(packet))
        {
            return Err(DropReason::Spoofed);
        }
        Ok(())
    }

    /// The next hop of a session's packets: kept until the mirror's routes to there change.
    #[inline]
    pub(crate) fn next_hop(
        &mut self,
        slot: Slot,
        destination: Ipv4Addr,
        arrival: InterfaceId,
        parsed: &Parsed,
    ) -> NextHop {
        let kept = self.nat.hop(slot);
        let generation = self.snapshot.roads.generation_of(destination);
        if kept.generation == generation && kept != CachedHop::NONE {
            return match AdjacencyId(kept.adjacency) {
                AdjacencyId::HAIRPIN => NextHop::Hairpin,
                id => NextHop::Adjacency(id),
            };
        }
        self.find_hop(slot, &parsed.journey(destination, arrival))
    }

    #[cold]
    fn find_hop(&mut self, slot: Slot, journey: &Journey) -> NextHop {
        let kept = Some(AdjacencyId(self.nat.hop(slot).adjacency));
        let overlay = self.nat.overlay_towards(slot);
        let hop = self.way_to(&Journey { kept, overlay, ..*journey });
        let keep = match hop {
            NextHop::Adjacency(id) => id,
            NextHop::Hairpin => AdjacencyId::HAIRPIN,
            NextHop::Unknown(..) | NextHop::Unreachable | NextHop::Denied(_) | NextHop::NotOurs => {
                return hop;
            }
        };
        self.keep_hop(slot, journey.destination, keep);
        hop
    }

    /// Keeps the next hop of a session's packets to `destination`.
    pub(crate) fn keep_hop(&mut self, slot: Slot, destination: Ipv4Addr, hop: AdjacencyId) {
        let generation = self.snapshot.roads.generation_of(destination);
        self.nat.set_hop(slot, CachedHop { adjacency: hop.0, generation });
    }

    /// The next hop to a destination, by the routing tables unless it is a public address of our own.
    #[cold]
    pub(crate) fn way_to(&self, journey: &Journey) -> NextHop {
        if self.is_public(journey.destination) {
            NextHop::Hairpin
        } else {
            self.snapshot.roads.next_hop(journey)
        }
    }

    /// Whether the packet may leave that way: by the right side, and not too big for it.
    pub(crate) fn may_leave(
        &self,
        hop: NextHop,
        realm: Realm,
        packet: &Packet,
    ) -> Result<(), DropReason> {
        let id = match hop {
            NextHop::Adjacency(_) | NextHop::Unknown(..) => self.snapshot.roads.interface_of(hop),
            NextHop::Hairpin => return Ok(()),
            NextHop::Unreachable => return Err(DropReason::NoRoute),
            NextHop::Denied(denial) => return Err(denial.into()),
            NextHop::NotOurs => return Err(DropReason::WrongInterface),
        };
        let interface = id.and_then(|id| self.interface(id)).ok_or(DropReason::WrongInterface)?;
        let right_side = match realm {
            Realm::Internal => interface.roles.external,
            Realm::External => interface.roles.internal,
        };
        if !right_side {
            return Err(DropReason::WrongInterface);
        }
        // Without DF it leaves in pieces.
        let mtu = match interface.tunnel {
            None if !self.snapshot.roads.narrowed => interface.mtu,
            _ => self.snapshot.mtu_of(hop).unwrap_or(interface.mtu),
        };
        let too_big = packet.len > mtu && packet.fragment.dont_fragment();
        if too_big { Err(DropReason::TooBig) } else { Ok(()) }
    }

    /// Forwards a packet of an exempt flow: no state, TTL − 1 (RFC 6888 REQ-6). A public address has no
    /// host that it could reach untranslated.
    pub(crate) fn forward_exempt(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
    ) -> Result<Fate, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        if self.is_public(packet.dst.addr) {
            return Err(DropReason::NoRoute);
        }
        let journey = parsed.journey(packet.dst.addr, received.interface);
        let route = self.snapshot.roads.route(&journey);
        let hop = self.snapshot.roads.along(route, &journey);
        let is_one_of = matches!(route, Some(Route::Several(_)));
        self.may_leave(hop, realm, packet)?;
        self.learn_exempt(parsed, received.interface, (hop, is_one_of));
        self.repair_checksum(received, packet);
        packet.decrement_ttl(self.io.bytes_mut(&mut received.frame))?;
        Ok(Fate::Forward(hop))
    }

    /// Computes a partial checksum whole, on interfaces that are known for them.
    #[inline]
    fn repair_checksum(&mut self, received: &mut Received<I::Frame>, packet: &Packet) {
        let repairs = self.interface(received.interface).is_some_and(|i| i.repair_checksums);
        let frame = self.io.bytes_mut(&mut received.frame);
        if repairs && packet.repair_partial_checksum(frame) {
            self.counters().checksums_repaired.add(1);
        }
    }

    /// The action of the rule that decides about a flow between these two ends, seen from the pod.
    pub(crate) fn rule_for(&self, packet: &Packet, realm: Realm) -> Option<(u16, Action)> {
        let (pod, remote) = (packet.own_end(realm), packet.other_end(realm));
        let rules = &self.snapshot.policy.rules;
        let (id, rule) =
            rules.decide(pod.addr, remote.addr, packet.flow_protocol(), remote.port)?;
        Some((id.0, rule.action))
    }
}
