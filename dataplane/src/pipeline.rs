//! The packet's way, from top to bottom.
//!
//! ```text
//! parse ─► answer? ─► whose? ──not mine──► hand-off ring ─► home worker
//!                       │ mine
//!                 look up session ──miss──► slow path: rule, subscriber, port, session
//!                       │ hit
//!                 next hop ─► rewrite ─► count ─► transmit
//! ```
//!
//! The worker calls the stages for a whole burst: [`Worker::parse`] for every packet, then the lines of
//! their sessions are read side by side, then [`Worker::arrive`] for every packet, in order.

use conntrack::{CachedHop, Endpoint, HashedKey, Realm, Slot, Timestamp};

use crate::drop_reason::DropReason;
use crate::hand_off::{Errand, HandedOver};
use crate::interface::InterfaceId;
use crate::io::{PacketIo, Received};
use crate::ip_id::FreshId;
use crate::packet::{Content, Packet, Query, Transport};
use crate::roads::{AdjacencyId, NextHop};
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
    /// It belongs to this worker, for this reason.
    HandOver(u16, Parsed, Errand),
}

/// A packet, the side it came from, and the hashed key of its session, if it can have one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Parsed {
    pub(crate) packet: Packet,
    pub(crate) realm: Realm,
    pub(crate) key: Option<HashedKey>,
    /// It came from a pod, was translated once, and turns back to the pods.
    pub(crate) hairpin: bool,
    /// A fragment's: the identification that the others of its datagram have.
    pub(crate) fresh_id: Option<FreshId>,
    /// Source and destination with which it came to the gateway, before anything was translated.
    pub(crate) arrived: (Endpoint, Endpoint),
}

/// What has arrived; `None`: ARP.
#[derive(Debug)]
pub(crate) struct Arrival<F> {
    pub(crate) received: Received<F>,
    pub(crate) parsed: Result<Option<Parsed>, DropReason>,
}

impl<I: PacketIo> Worker<I> {
    /// First stage: what is it?
    pub(crate) fn parse(&self, received: Received<I::Frame>) -> Arrival<I::Frame> {
        let own = self.interface(received.interface).map(|it| it.mac).unwrap_or_default();
        let content = Content::parse(self.io.bytes(&received.frame), own);
        let parsed = content.map(|content| match content {
            Content::Arp => None,
            Content::Packet(packet) => {
                let realm = self.realm_of(&packet, received.interface);
                let key = packet.flow_key(realm).ok().map(|key| self.nat.secret().hash_key(&key));
                let arrived = (packet.src, packet.dst);
                Some(Parsed { packet, realm, key, hairpin: false, fresh_id: None, arrived })
            }
        });
        if let Ok(Some(Parsed { key: Some(key), .. })) = parsed {
            self.nat.touch_bucket(key);
        }
        Arrival { received, parsed }
    }

    /// Last stage: what becomes of it?
    pub(crate) fn arrive(&mut self, mut arrival: Arrival<I::Frame>, now: Timestamp) {
        match arrival.parsed {
            Ok(Some(parsed)) if parsed.packet.fragment.is_fragment() => {
                self.fragment_arrives(arrival.received, parsed, now);
            }
            _ => {
                let fate = self.decide(&mut arrival, now);
                let parsed = arrival.parsed.as_ref().ok().and_then(Option::as_ref);
                self.finish(arrival.received, parsed, fate, now);
            }
        }
    }

    /// A packet that another worker has given us.
    pub(crate) fn take_over(&mut self, mut given: HandedOver<I::Frame>, now: Timestamp) {
        match given.errand {
            Errand::Translate => {
                let fate = self.translate(&mut given.received, &given.parsed, now);
                self.finish(given.received, Some(&given.parsed), fate, now);
            }
            Errand::Keep => self.fragment_arrives(given.received, given.parsed, now),
        }
    }

    fn decide(
        &mut self,
        arrival: &mut Arrival<I::Frame>,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let received = &mut arrival.received;
        let Some(parsed) = arrival.parsed? else { return self.answer_arp(received) };
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
        parsed: Parsed,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        match self.home_of(&parsed)? {
            home if home == self.id => self.translate(received, &parsed, now),
            home => Ok(Fate::HandOver(home, parsed, Errand::Translate)),
        }
    }

    fn translate(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let &Parsed { ref packet, realm, key, hairpin, .. } = parsed;
        if packet.ttl <= 1 {
            return Err(DropReason::TtlExpired);
        }
        let slot = match key.and_then(|key| self.nat.find_hashed(key)) {
            Some(slot) => slot,
            None => match self.admit(received, parsed, now)? {
                Admitted::Session(slot) => {
                    self.forget_syn(slot);
                    slot
                }
                Admitted::Exempt => return self.forward_exempt(received, packet, realm),
                Admitted::Answered => return Ok(Fate::Answer),
            },
        };
        if let Transport::Error(_) = packet.transport {
            return self.relay_error(received, parsed, slot, now);
        }
        let rewrite = self.nat.rewrite(slot);
        let hop = self.next_hop(slot, rewrite.dst.addr);
        self.may_leave(hop, realm, packet)?;
        if !packet.fragment.is_atomic() && !hairpin {
            self.identify(received, parsed, slot, (rewrite.src.addr, hop), now)?;
        }
        if !hairpin {
            self.repair_checksum(received, packet);
            packet.decrement_ttl(self.io.bytes_mut(&mut received.frame))?;
        }
        packet.translate(self.io.bytes_mut(&mut received.frame), &rewrite)?;
        self.nat.commit(slot, now, packet.len.into(), packet.segment());
        if hop == NextHop::Hairpin {
            return self.turn_back(received, parsed, packet.rewritten(&rewrite), now);
        }
        Ok(Fate::Forward(hop))
    }

    /// A packet from a pod to a public address goes on as if it had come from outside: the pod behind that
    /// address sees the sender's public endpoint (RFC 4787 REQ-9a). It can't turn back twice, because no
    /// packet from outside is translated to a public destination.
    pub(crate) fn turn_back(
        &mut self,
        received: &mut Received<I::Frame>,
        from: &Parsed,
        packet: Packet,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        let realm = Realm::External;
        let key = Some(self.nat.secret().hash_key(&packet.flow_key(realm)?));
        let arrived = from.arrived;
        let turned = Parsed { packet, realm, key, hairpin: true, fresh_id: None, arrived };
        self.at_home(received, turned, now)
    }

    /// Which side the packet came from; on a one-armed interface the source address tells.
    fn realm_of(&self, packet: &Packet, interface: InterfaceId) -> Realm {
        let internal = self.interface(interface).is_some_and(|interface| {
            let roles = interface.roles;
            // An error may be from any router; what it is about tells.
            let pod = packet.own_end(Realm::Internal).addr;
            roles.internal && (!roles.external || self.snapshot.policy.rules.knows_source(pod))
        });
        if internal { Realm::Internal } else { Realm::External }
    }

    /// The worker that owns the packet's subscriber: a hash from inside, one array look-up from outside.
    pub(crate) fn home_of(&self, parsed: &Parsed) -> Result<u16, DropReason> {
        let &Parsed { ref packet, realm, hairpin, .. } = parsed;
        if realm == Realm::Internal {
            let pod = packet.own_end(realm).addr;
            return Ok(self.nat.secret().home(pod, self.hand_off.workers()));
        }
        if !hairpin && (self.is_public(packet.src.addr) || self.is_spoofed_error(packet)) {
            return Err(DropReason::Spoofed);
        }
        match self.snapshot.policy.addresses.get(&packet.dst.addr) {
            Some(address) => {
                let key = packet.flow_key(realm)?;
                let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
                if let Some(fixed) = self.snapshot.policy.forwards.by_public(key.protocol, key.dst)
                {
                    return Ok(secret.home(fixed.internal.addr, workers));
                }
                address
                    .home_of(key.protocol, key.dst.port, key.src, secret, workers)
                    .ok_or_else(|| packet.no_session())
            }
            // A reply to exempt traffic: no state, so any worker will do.
            None => Ok(self.id),
        }
    }

    /// The next hop of a session's packets: kept until the mirror's routes change.
    pub(crate) fn next_hop(&mut self, slot: Slot, destination: std::net::Ipv4Addr) -> NextHop {
        let roads = &self.snapshot.roads;
        let generation = roads.generation;
        let kept = self.nat.hop(slot);
        if kept.generation == generation && kept != CachedHop::NONE {
            return match AdjacencyId(kept.adjacency) {
                AdjacencyId::HAIRPIN => NextHop::Hairpin,
                id => NextHop::Adjacency(id),
            };
        }
        let hop = self.way_to(destination);
        let keep = match hop {
            NextHop::Adjacency(id) => id,
            NextHop::Hairpin => AdjacencyId::HAIRPIN,
            NextHop::Unknown(..) | NextHop::Unreachable | NextHop::NotOurs => return hop,
        };
        self.nat.set_hop(slot, CachedHop { adjacency: keep.0, generation });
        hop
    }

    /// The next hop to a destination, by the routing table unless it is a public address of our own.
    pub(crate) fn way_to(&self, destination: std::net::Ipv4Addr) -> NextHop {
        if self.is_public(destination) {
            NextHop::Hairpin
        } else {
            self.snapshot.roads.next_hop(destination)
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
            NextHop::Adjacency(id) => self.snapshot.roads.adjacency(id).map(|a| a.interface),
            NextHop::Unknown(interface, _) => Some(interface),
            NextHop::Hairpin => return Ok(()),
            NextHop::Unreachable => return Err(DropReason::NoRoute),
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
        let too_big = packet.len > interface.mtu && packet.fragment.dont_fragment();
        if too_big { Err(DropReason::TooBig) } else { Ok(()) }
    }

    /// Forwards a packet of an exempt flow: no state, TTL − 1 (RFC 6888 REQ-6). A public address has no
    /// host that it could reach untranslated.
    fn forward_exempt(
        &mut self,
        received: &mut Received<I::Frame>,
        packet: &Packet,
        realm: Realm,
    ) -> Result<Fate, DropReason> {
        let hop = self.way_to(packet.dst.addr);
        if hop == NextHop::Hairpin {
            return Err(DropReason::NoRoute);
        }
        self.may_leave(hop, realm, packet)?;
        self.repair_checksum(received, packet);
        packet.decrement_ttl(self.io.bytes_mut(&mut received.frame))?;
        Ok(Fate::Forward(hop))
    }

    /// Computes a partial checksum whole, on interfaces that are known for them.
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
