//! The first packet of a flow, and what natgate answers by itself.

use std::net::Ipv4Addr;

use conntrack::{
    Admission, FixedMapping, FlowKey, MidStream, PoolId, Realm, Refusal, Slot, Timestamp,
};

use crate::answer;
use crate::drop_reason::DropReason;
use crate::forward::Fixed;
use crate::interface::Interface;
use crate::io::{PacketIo, Received};
use crate::packet::{Packet, Transport};
use crate::pipeline::{Fate, Parsed};
use crate::roads::{Denial, Journey, NextHop};
use crate::rule::Action;
use crate::snapshot::Snapshot;
use crate::worker::Worker;

/// Stands for the rule of sessions that a fixed mapping let in from outside.
pub(crate) const NO_RULE: u16 = u16::MAX;

/// What the slow path decides about a packet without session.
pub(crate) enum Admitted {
    /// A session was opened for it.
    Session(Slot),
    /// It is forwarded untranslated, without state.
    Exempt,
    /// It was turned into an answer.
    Answered,
}

impl From<Refusal> for DropReason {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::NotSyn => Self::TcpNotSyn,
            Refusal::QuotaBlocks => Self::QuotaBlocks,
            Refusal::QuotaSessions => Self::QuotaSessions,
            Refusal::QuotaHalfOpen => Self::QuotaHalfOpen,
            Refusal::QuotaPorts => Self::QuotaPorts,
            Refusal::QuotaRate => Self::QuotaRate,
            Refusal::PoolExhausted => Self::PoolExhausted,
            Refusal::TableFull => Self::TableFull,
            Refusal::NoMapping => Self::NoSession,
            Refusal::Filtered => Self::Filtered,
            Refusal::TupleTaken => Self::TupleTaken,
            Refusal::ProtocolClash => Self::ProtocolClash,
        }
    }
}

impl From<Denial> for DropReason {
    fn from(denial: Denial) -> Self {
        match denial {
            Denial::Blackhole => Self::RouteBlackhole,
            Denial::Unreachable => Self::RouteUnreachable,
            Denial::Prohibit => Self::RouteProhibited,
        }
    }
}

impl<I: PacketIo> Worker<I> {
    /// Whether `addr` is a pool address.
    #[inline]
    pub(crate) fn is_public(&self, addr: Ipv4Addr) -> bool {
        self.snapshot.policy.addresses.contains_key(&addr)
    }

    /// Whether natgate answers pings to this address: a pool's, unless it is all one pod's.
    pub(crate) fn answers_for(&self, addr: Ipv4Addr) -> bool {
        self.is_public(addr) && !self.snapshot.policy.forwards.is_static(addr)
    }

    /// Decides about a packet that has no session.
    #[cold]
    pub(crate) fn admit(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
        now: Timestamp,
    ) -> Result<Admitted, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        self.counters().slow_path.add(1);
        if let Transport::Error(_) = packet.transport {
            return self.admit_error(parsed);
        }
        if realm == Realm::External && self.is_public(packet.dst.addr) {
            return self.admit_inbound(parsed, now);
        }
        let (rule, action) = self.rule_for(packet, realm).ok_or(DropReason::NoRule)?;
        let Some(pool) = self.pool_of(action, parsed)? else { return Ok(Admitted::Exempt) };
        let key = parsed.flow_key()?;
        if !packet.may_open() {
            return Err(packet.opens_nothing());
        }
        // A flow that has no way out takes no port.
        let way = self.way_to(&parsed.journey(packet.dst.addr, received.interface));
        self.may_leave(way, realm, packet)?;
        self.may_open(packet)?;
        let opened = if let Some(fixed) = self.fixed_for(&key, pool) {
            let Fixed { internal, public, pool, .. } = fixed;
            let mapping = FixedMapping { internal, public, pool, rule, overlay: key.overlay };
            self.nat.open_fixed(&key, mapping, packet.segment(), now)
        } else {
            let forwards = &self.snapshot.policy.forwards;
            let is_its = |vni| self.snapshot.overlay_of(key.src.addr, vni) == Some(key.overlay);
            let address = forwards.address_of(key.src.addr, pool, is_its);
            if let Some(address) = address {
                self.nat.pair((key.src.addr, key.overlay), pool, address, now);
            }
            self.nat.open(&key, Admission { pool, rule }, packet.segment(), now)
        };
        match opened {
            Ok(slot) => {
                // It is asked for once: `may_leave` has seen it already.
                if let NextHop::Adjacency(id) = way {
                    self.keep_hop(slot, packet.dst.addr, id);
                }
                Ok(Admitted::Session(slot))
            }
            Err(Refusal::NotSyn) if self.tells_mid_stream(pool) => {
                self.answer_reset(received, packet, now)
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// What an action means to a packet: the pool that it is translated by; `None`: it is exempt.
    pub(crate) fn pool_of(
        &self,
        action: Action,
        parsed: &Parsed,
    ) -> Result<Option<PoolId>, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let opens = packet.segment().is_some_and(|s| s.flags.opens());
        match (action, realm) {
            // Pods open exempt connections, nobody else: from outside come replies only, and not in the name
            // of other pods (RFC 1812 5.3.8). Other protocols
            // do not tell an opening from a reply, and there is no state that could.
            (Action::Exempt, Realm::External) if opens || self.lies_inside(packet.src.addr) => {
                Err(DropReason::Spoofed)
            }
            (Action::Exempt, Realm::Internal) if !self.hears_replies(parsed) => {
                Err(DropReason::ExemptOverlay)
            }
            (Action::Exempt, _) => Ok(None),
            (Action::Pool(_), Realm::External) => Err(DropReason::Spoofed),
            (Action::Pool(pool), Realm::Internal) => Ok(Some(pool)),
        }
    }

    /// Whether one more session may begin, and there is time for it. A segment that opens none is refused without search.
    fn may_open(&mut self, packet: &Packet) -> Result<(), DropReason> {
        let opens = packet.segment().is_none_or(|segment| segment.flags.opens());
        if opens && self.snapshot.policy.draining {
            return Err(DropReason::Draining);
        }
        if opens && !self.overload.admits() { Err(DropReason::Overload) } else { Ok(()) }
    }

    /// Whether replies to a pod's exempt traffic are led to it: they have nothing but its address.
    pub(crate) fn hears_replies(&self, parsed: &Parsed) -> bool {
        let led_to = self.snapshot.overlay_of(parsed.packet.own_end(Realm::Internal).addr, None);
        led_to == Some(parsed.overlay)
    }

    /// Whether the way to `addr` is by an interface that has pods only.
    pub(crate) fn lies_inside(&self, addr: Ipv4Addr) -> bool {
        let roads = &self.snapshot.roads;
        let interface = roads.interface_of(roads.next_hop(&Journey::to(addr)));
        let roles = interface.and_then(|id| self.interface(id)).map(|interface| interface.roles);
        roles.is_some_and(|roles| roles.internal && !roles.external)
    }

    /// The fixed mapping that a flow from inside leaves by: of a 1:1 address always, of a port forward if the
    /// rule's pool has its address. So an internal endpoint has one public endpoint (RFC 4787 REQ-1).
    pub(crate) fn fixed_for(&self, key: &FlowKey, pool: PoolId) -> Option<Fixed> {
        let forwards = &self.snapshot.policy.forwards;
        let is_its = |vni| self.snapshot.overlay_of(key.src.addr, vni) == Some(key.overlay);
        let fixed = forwards.by_internal(key.protocol, key.src, is_its)?;
        (fixed.pool == pool || forwards.is_static(fixed.public.addr)).then_some(fixed)
    }

    /// Decides about a packet without session to a public address: from outside, or turning back.
    fn admit_inbound(&mut self, parsed: &Parsed, now: Timestamp) -> Result<Admitted, DropReason> {
        let &Parsed { ref packet, realm, hairpin, .. } = parsed;
        let key = packet.flow_key(realm)?;
        if hairpin.is_none() && self.snapshot.policy.rules.knows_source(packet.src.addr) {
            return Err(DropReason::Spoofed);
        }
        if !packet.may_open() {
            return Err(packet.opens_nothing());
        }
        self.may_open(packet)?;
        let forwards = &self.snapshot.policy.forwards;
        let opened = match forwards.by_public(key.protocol, key.dst) {
            Some(Fixed { internal, vni, public, pool }) => {
                let overlay = self.snapshot.overlay_of(internal.addr, vni);
                let overlay = overlay.ok_or(DropReason::NoRoute)?;
                let mapping = FixedMapping { internal, public, pool, rule: NO_RULE, overlay };
                self.nat.open_fixed(&key, mapping, packet.segment(), now)
            }
            None => self.nat.open_inbound(&key, packet.segment(), now),
        };
        match opened {
            Ok(slot) => Ok(Admitted::Session(slot)),
            // RFC 9293 would have a reset here; a stranger gets what the pool says to its kind.
            Err(Refusal::NotSyn) => Err(DropReason::NoSession),
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Whether pods learn at once that a connection is not known; otherwise they find out by time.
    fn tells_mid_stream(&self, pool: PoolId) -> bool {
        let pool = self.snapshot.policy.pools.get(pool.index());
        pool.is_some_and(|pool| pool.settings.mid_stream == MidStream::Reset)
    }

    /// A segment from inside whose connection nobody knows: end it, so that the pod does not wait.
    fn answer_reset(
        &mut self,
        received: &mut Received<I::Frame>,
        packet: &Packet,
        now: Timestamp,
    ) -> Result<Admitted, DropReason> {
        let is_reset = packet.segment().is_some_and(|s| s.flags.has(conntrack::TcpFlags::RST));
        if is_reset
            || now.since(self.started) < self.snapshot.policy.answers.grace
            || !self.reset_limit.allow(now)
        {
            return Err(DropReason::TcpNotSyn);
        }
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let interface = arrived_by(&snapshot, received)?;
        answer::reset(&mut self.io, &mut received.frame, packet, interface)?;
        Ok(Admitted::Answered)
    }

    /// ARP: natgate has the pool addresses, on every external link on which somebody asks for them.
    pub(crate) fn answer_arp(
        &mut self,
        received: &mut Received<I::Frame>,
    ) -> Result<(), DropReason> {
        let policy = &self.snapshot.policy;
        let interface = arrived_by(&self.snapshot, received)?;
        let frame = self.io.bytes_mut(&mut received.frame);
        answer::arp_reply(frame, interface, |addr| policy.addresses.contains_key(&addr))
    }

    /// Whether a ping to a pool address is answered, but for how often.
    pub(crate) fn may_ping(&self, packet: &Packet, realm: Realm) -> Result<(), DropReason> {
        // The answer leaves by the interface that the ping came in by: outside, no internal address may be
        // its destination. (Only here: sources inside `from` may send replies, to exempt traffic say.)
        let source = packet.src.addr;
        let is_pod = self.snapshot.policy.rules.knows_source(source);
        // RFC 1812 5.3.7: nobody else has a public address.
        if self.is_public(source) || realm == Realm::External && is_pod {
            return Err(DropReason::Spoofed);
        }
        if self.snapshot.policy.answers.ping { Ok(()) } else { Err(DropReason::EchoRefused) }
    }

    /// A ping to a pool address, from either side.
    pub(crate) fn answer_echo(
        &mut self,
        received: &mut Received<I::Frame>,
        packet: &Packet,
        realm: Realm,
        now: Timestamp,
    ) -> Result<Fate, DropReason> {
        self.may_ping(packet, realm)?;
        if !self.echo_limit.allow(now) {
            return Err(DropReason::EchoLimited);
        }
        let interface = arrived_by(&self.snapshot, received)?;
        let frame = self.io.bytes_mut(&mut received.frame);
        answer::echo_reply(frame, packet, interface)?;
        Ok(Fate::Answer)
    }
}

/// The interface that a packet came in by.
pub(crate) fn arrived_by<'a, F>(
    snapshot: &'a Snapshot,
    received: &Received<F>,
) -> Result<&'a Interface, DropReason> {
    snapshot.interfaces.get(received.interface.index()).ok_or(DropReason::WrongInterface)
}
