//! What would become of the first packet of a flow? Asked by people, answered by the home of its subscriber: the
//! stages of [`pipeline`](crate::pipeline) and of the slow path, in their order, with nothing opened, counted or sent.
//!
//! What depends on the moment of arrival is left out: rate limits of natgate's own answers, and
//! [overload](crate::overload).

use conntrack::{
    Admission, Endpoint, FixedMapping, HashedKey, PoolId, Prospect, Protocol, Reached, Realm,
    SessionView, Slot, Usage,
};
use conntrack::{Secret, Timestamp};

use crate::drop_reason::DropReason;
use crate::forward::Fixed;
use crate::interface::InterfaceId;
use crate::io::PacketIo;
use crate::packet::{Packet, Query, Transport};
use crate::passage::Passage;
use crate::pipeline::Parsed;
use crate::roads::{AdjacencyId, Journey, NextHop};
use crate::slow_path::NO_RULE;
use crate::tunnel::Exit;
use crate::worker::Worker;

/// Source ports of this and above stand for one that is not known.
const SOME_PORT: u16 = 49_152;

/// A flow whose first packet is explained.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// Its protocol.
    pub protocol: Protocol,
    /// Who sends. Port 0: some port that nothing is known of.
    pub src: Endpoint,
    /// To whom.
    pub dst: Endpoint,
    /// Where it arrives.
    pub arrival: InterfaceId,
    /// It turned back to the pods: source and destination with which it came to the gateway.
    pub turned: Option<(Endpoint, Endpoint)>,
}

/// What becomes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It has a session.
    Session(SessionView),
    /// It opens a session, and gets one of these public endpoints.
    Opens(Prospect),
    /// It opens a session, and reaches this pod.
    Reaches(Reached),
    /// It is forwarded untranslated.
    Exempt,
    /// natgate answers it itself.
    Answered,
    /// It is dropped.
    Refused(DropReason),
}

/// What becomes of the first packet of a flow, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Who decides.
    pub worker: u16,
    /// The side that it comes from.
    pub realm: Realm,
    /// The rule that decides about it, or let its session in; by [`RuleId`](crate::rule::RuleId).
    pub rule: Option<u16>,
    /// The pool.
    pub pool: Option<PoolId>,
    /// What becomes of it.
    pub outcome: Outcome,
    /// How far the limits of its subscriber are used up.
    pub usage: Vec<Usage>,
    /// It leaves towards a public address, and turns back to the pods.
    pub turns_back: bool,
    /// The way to its destination.
    pub there: Option<Passage>,
    /// The way of what answers it.
    pub back: Option<Passage>,
}

/// All that would become of the first packet of `flow`: `ask` asks all workers, of which one answers. Two answers if the
/// packet turns back to the pods; the second is then by the worker of the pod that it is for.
pub fn follow(flow: Flow, mut ask: impl FnMut(Flow) -> Option<Explanation>) -> Vec<Explanation> {
    let Some(first) = ask(flow) else { return Vec::new() };
    let seen_as = match &first.outcome {
        Outcome::Session(view) if first.realm == Realm::Internal => Some(view.public),
        // Whoever is called knows the address; a port that is drawn has no session yet.
        Outcome::Opens(prospect) => {
            prospect.places.first().map(|(addr, ports)| Endpoint::new(*addr, *ports.start()))
        }
        _ => None,
    };
    let second = seen_as
        .filter(|_| first.turns_back)
        .and_then(|src| ask(Flow { src, turned: Some((flow.src, flow.dst)), ..flow }));
    [Some(first), second].into_iter().flatten().collect()
}

/// Of what several workers say of one flow: that there is a session.
pub fn most_telling(answers: impl IntoIterator<Item = Explanation>) -> Option<Explanation> {
    let is_session = |it: &Explanation| matches!(it.outcome, Outcome::Session(_));
    answers.into_iter().reduce(|a, b| if is_session(&b) { b } else { a })
}

/// How far the look has come: what is known of a flow beside its outcome.
#[derive(Default)]
struct Found {
    rule: Option<u16>,
    pool: Option<PoolId>,
    slot: Option<Slot>,
    /// Where packets go, and where those go that answer them, with the overlay of each.
    ends: Option<[(std::net::Ipv4Addr, u16); 2]>,
}

impl<I: PacketIo> Worker<I> {
    /// What would become of the first packet of `flow` now. `None`: another worker knows.
    pub(crate) fn explain(&self, flow: &Flow, now: Timestamp) -> Option<Explanation> {
        let packet = Packet::opening(flow.protocol, flow.src, flow.dst);
        let realm = match (&packet, flow.turned) {
            (Ok(packet), None) => self.realm_of(packet, flow.arrival),
            (Ok(_), Some(_)) => Realm::External,
            (Err(_), _) => Realm::Internal,
        };
        let mut found = Found::default();
        let outcome = match packet {
            Err(reason) => Outcome::Refused(reason),
            Ok(mut packet) => {
                packet.src.port = self.port_of(flow, &packet, realm);
                let mut parsed = self.parsed(packet, realm, flow);
                parsed.key = parsed.flow_key().ok().map(|key| self.nat.secret().hash_key(&key));
                let is_here = parsed.key.is_some_and(|key| self.nat.find_hashed(&key).is_some());
                if !is_here && self.likely_home_of(&parsed).unwrap_or(0) != self.id {
                    return None;
                }
                self.outcome(&parsed, flow, &mut found, now).unwrap_or_else(Outcome::Refused)
            }
        };
        Some(self.explanation(flow, realm, &found, outcome))
    }

    fn parsed(&self, packet: Packet, realm: Realm, flow: &Flow) -> Parsed {
        let interface = self.interface(flow.arrival).filter(|_| realm == Realm::Internal);
        let overlay = interface.map_or(0, |it| it.overlay);
        Parsed { packet, realm, overlay, key: None, hairpin: flow.turned, fresh_id: None }
    }

    /// The source port: one without session, where none is given.
    fn port_of(&self, flow: &Flow, packet: &Packet, realm: Realm) -> u16 {
        let has_ports = !matches!(flow.protocol, Protocol::Other(_));
        if flow.src.port != 0 || !has_ports {
            return flow.src.port;
        }
        let is_unknown = |port: &u16| {
            let mut parsed = self.parsed(*packet, realm, flow);
            parsed.packet.src.port = *port;
            parsed.flow_key().is_ok_and(|key| self.nat.find(&key).is_none())
        };
        (SOME_PORT..=u16::MAX).find(is_unknown).unwrap_or(SOME_PORT)
    }

    /// The stages, as [`arrive`](Self::arrive) takes them.
    fn outcome(
        &self,
        parsed: &Parsed,
        flow: &Flow,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let echo = packet.transport == Transport::Icmp(Query::Echo);
        if flow.turned.is_none() && echo && self.answers_for(packet.dst.addr) {
            return self.may_ping(packet, realm).map(|()| Outcome::Answered);
        }
        self.believe_sender(parsed)?;
        let slot = parsed.key.as_ref().and_then(|key| self.nat.find_hashed(key));
        if let Some(slot) = slot {
            return self.explain_session(parsed, slot, flow, found, now);
        }
        self.likely_home_of(parsed)?;
        if realm == Realm::External && self.is_public(packet.dst.addr) {
            return self.explain_inbound(parsed, flow, found, now);
        }
        self.explain_outbound(parsed, flow, found, now)
    }

    fn explain_session(
        &self,
        parsed: &Parsed,
        slot: Slot,
        flow: &Flow,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let view = self.nat.session_at(slot, now).ok_or(DropReason::NoSession)?;
        found.slot = Some(slot);
        found.pool = Some(view.pool);
        found.rule = Some(view.rule).filter(|&rule| rule != NO_RULE);
        let (there, back) = (self.nat.overlay_towards(slot), parsed.overlay);
        let destination = self.nat.rewrite(slot).dst.addr;
        found.ends = Some([(destination, there), (parsed.packet.src.addr, back)]);
        self.explain_way(parsed, flow, found, destination)?;
        Ok(Outcome::Session(view))
    }

    /// As [`admit`](Self::admit) decides about what goes out.
    fn explain_outbound(
        &self,
        parsed: &Parsed,
        flow: &Flow,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let (rule, action) = self.rule_for(packet, realm).ok_or(DropReason::NoRule)?;
        found.rule = Some(rule);
        found.ends = Some([(packet.dst.addr, 0), (packet.src.addr, parsed.overlay)]);
        let Some(pool) = self.pool_of(action, parsed)? else {
            let hop = self.explain_way(parsed, flow, found, packet.dst.addr)?;
            let public = hop == NextHop::Hairpin;
            return if public { Err(DropReason::NoRoute) } else { Ok(Outcome::Exempt) };
        };
        found.pool = Some(pool);
        let key = parsed.flow_key()?;
        self.explain_way(parsed, flow, found, packet.dst.addr)?;
        self.explain_drain()?;
        let prospect = if let Some(fixed) = self.fixed_for(&key, pool) {
            let Fixed { internal, public, pool, .. } = fixed;
            found.pool = Some(pool);
            let mapping = FixedMapping { internal, public, pool, rule, overlay: key.overlay };
            self.nat.prospect_fixed(&key, mapping, packet.segment(), now)
        } else {
            let forwards = &self.snapshot.policy.forwards;
            let is_its = |vni| self.snapshot.overlay_of(key.src.addr, vni) == Some(key.overlay);
            let pair = forwards.address_of(key.src.addr, pool, is_its);
            self.nat.prospect(&key, Admission { pool, rule }, pair, packet.segment(), now)
        };
        Ok(Outcome::Opens(prospect?))
    }

    /// As [`admit_inbound`](Self::admit_inbound) decides.
    fn explain_inbound(
        &self,
        parsed: &Parsed,
        flow: &Flow,
        found: &mut Found,
        now: Timestamp,
    ) -> Result<Outcome, DropReason> {
        let &Parsed { ref packet, realm, hairpin, .. } = parsed;
        let key = packet.flow_key(realm)?;
        if hairpin.is_none() && self.snapshot.policy.rules.knows_source(packet.src.addr) {
            return Err(DropReason::Spoofed);
        }
        self.explain_drain()?;
        let forwards = &self.snapshot.policy.forwards;
        let reached = match forwards.by_public(key.protocol, key.dst) {
            Some(Fixed { internal, vni, public, pool }) => {
                let overlay = self.snapshot.overlay_of(internal.addr, vni);
                let overlay = overlay.ok_or(DropReason::NoRoute)?;
                let mapping = FixedMapping { internal, public, pool, rule: NO_RULE, overlay };
                let opened = self.nat.prospect_fixed(&key, mapping, packet.segment(), now);
                opened.map(|_| Reached { internal, overlay, pool })
            }
            None => self.nat.prospect_inbound(&key, packet.segment(), now),
        }?;
        found.pool = Some(reached.pool);
        let destination = (reached.internal.addr, reached.overlay);
        found.ends = Some([destination, (packet.src.addr, 0)]);
        self.explain_way(parsed, flow, found, destination.0)?;
        Ok(Outcome::Reaches(reached))
    }

    /// While natgate is drained nothing is opened.
    fn explain_drain(&self) -> Result<(), DropReason> {
        if self.snapshot.policy.draining { Err(DropReason::Draining) } else { Ok(()) }
    }

    /// The next hop, if the packet may take that way.
    fn explain_way(
        &self,
        parsed: &Parsed,
        flow: &Flow,
        found: &Found,
        destination: std::net::Ipv4Addr,
    ) -> Result<NextHop, DropReason> {
        let overlay = found.ends.map_or(0, |[(_, overlay), _]| overlay);
        let kept = found.slot.map(|slot| AdjacencyId(self.nat.hop(slot).adjacency));
        let journey = Journey { kept, overlay, ..parsed.journey(destination, flow.arrival) };
        let hop = self.way_to(&journey);
        self.may_leave(hop, parsed.realm, &parsed.packet)?;
        match self.exit_by(hop) {
            Exit::Closed(reason) if hop != NextHop::Hairpin => Err(reason),
            _ => Ok(hop),
        }
    }

    /// All of it, with the ways there and back.
    fn explanation(
        &self,
        flow: &Flow,
        realm: Realm,
        found: &Found,
        outcome: Outcome,
    ) -> Explanation {
        let turns_back = found.ends.is_some_and(|[(there, _), _]| self.is_public(there));
        let (there, back) = match found.ends {
            Some(ends) => self.ways(flow, realm, ends, found.slot),
            None => (None, None),
        };
        let usage = match (found.pool, realm, &outcome) {
            (Some(pool), Realm::Internal, _) => {
                let overlay = found.ends.map_or(0, |[_, (_, overlay)]| overlay);
                self.nat.usage((flow.src.addr, overlay), pool, flow.protocol)
            }
            (Some(pool), Realm::External, Outcome::Reaches(reached)) => {
                self.nat.usage((reached.internal.addr, reached.overlay), pool, flow.protocol)
            }
            _ => Vec::new(),
        };
        let &Found { rule, pool, .. } = found;
        Explanation { worker: self.id, realm, rule, pool, outcome, usage, turns_back, there, back }
    }

    fn ways(
        &self,
        flow: &Flow,
        realm: Realm,
        [there, back]: [(std::net::Ipv4Addr, u16); 2],
        slot: Option<Slot>,
    ) -> (Option<Passage>, Option<Passage>) {
        let key = |src: Endpoint, dst: Endpoint, realm, overlay| {
            let key = conntrack::FlowKey { src, dst, protocol: flow.protocol, realm, overlay };
            flow_number(self.nat.secret(), &key)
        };
        let passage = |journey: &Journey| {
            let is_own = self.is_public(journey.destination);
            (!is_own).then(|| self.snapshot.passage(journey))
        };
        let kept = slot.map(|slot| AdjacencyId(self.nat.hop(slot).adjacency));
        let source = flow.turned.map_or(flow.src.addr, |(src, _)| src.addr);
        let overlay = if realm == Realm::Internal { back.1 } else { 0 };
        let there = passage(&Journey {
            destination: there.0,
            source,
            arrival: Some(flow.arrival),
            flow: key(flow.src, flow.dst, realm, overlay),
            kept,
            overlay: there.1,
        });
        let arrival = there.as_ref().and_then(|it| it.step).map(|step| step.interface);
        let back = passage(&Journey {
            destination: back.0,
            source: flow.dst.addr,
            arrival,
            flow: 0,
            kept: None,
            overlay: back.1,
        });
        (there, back)
    }
}

/// The number by which a flow chooses among several ways.
fn flow_number(secret: &Secret, key: &conntrack::FlowKey) -> u64 {
    HashedKey::flow(&secret.hash_key(key))
}
