//! How does the sender of a dropped packet learn it? By an ICMP error, a TCP reset, or not at all.
//!
//! The frame of the offender becomes the answer: it is made again what it was on arrival
//! (RFC 1812 4.3.2.3), quoted, and sent back to where it came from. The packet stays counted as dropped;
//! what is sent for it is counted apart.

use std::net::Ipv4Addr;

use conntrack::{OnExhaustion, Realm, TcpFlags, Timestamp};

use crate::answer;
use crate::drop_reason::DropReason;
use crate::interface::{Interface, InterfaceId};
use crate::io::{PacketIo, Received};
use crate::packet::{Packet, Transport};
use crate::pipeline::Parsed;
use crate::roads::Journey;
use crate::rule::Action;
use crate::snapshot::Refused;
use crate::wire::{Ethernet, Ipv4, ethernet, icmp, ipv4};
use crate::worker::Worker;

/// An error of natgate's own is no longer than this (RFC 1812 4.3.2.3).
const LONGEST: usize = 576;
/// What is quoted of the offender at most.
const QUOTED: usize = LONGEST - ipv4::HEADER - icmp::HEADER;

macro_rules! icmp_errors {
    ($($(#[doc = $doc:literal])+ $variant:ident = ($kind:literal, $code:literal);)+) => {
        /// An ICMP error that natgate sends itself.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[repr(u8)]
        pub enum IcmpError {
            $($(#[doc = $doc])+ $variant,)+
        }

        impl IcmpError {
            /// All of them, in the order of their declaration.
            pub const ALL: &[Self] = &[$(Self::$variant,)+];

            /// Type and code.
            pub const fn kind(self) -> (u8, u8) {
                match self { $(Self::$variant => ($kind, $code),)+ }
            }
        }
    };
}

icmp_errors! {
    /// No route.
    NetUnreachable = (3, 0);
    /// The next hop does not answer; no port is left for this flow (RFC 6888 REQ-11).
    HostUnreachable = (3, 1);
    /// A protocol that is not translated.
    ProtocolUnreachable = (3, 2);
    /// Nobody has this port.
    PortUnreachable = (3, 3);
    /// Too big and not to be fragmented.
    FragmentationNeeded = (3, 4);
    /// Denied by policy.
    Prohibited = (3, 13);
    /// The time to live ran out.
    TtlExceeded = (11, 0);
}

/// What the sender gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// An ICMP error; the number is the next hop's MTU in a 3/4.
    Icmp(IcmpError, u16),
    /// A TCP reset.
    Reset,
}

impl<I: PacketIo> Worker<I> {
    /// Drops a packet for `reason` and tells its sender, if that is to be told. `parsed`: what it was on
    /// arrival; `None`: nothing that may be answered.
    #[cold]
    pub(crate) fn refuse(
        &mut self,
        received: Received<I::Frame>,
        parsed: Option<&Parsed>,
        reason: DropReason,
        now: Timestamp,
    ) {
        self.counters().drop_packet(reason);
        if let (DropReason::NoSession | DropReason::Filtered, Some(parsed)) = (reason, parsed)
            && self.hold_syn(&received, parsed, now)
        {
            return self.io.release(received.frame);
        }
        match parsed.and_then(|parsed| Some((parsed, self.refusal(&received, parsed, reason)?))) {
            Some((parsed, refusal)) => self.send_refusal(received, parsed, refusal, now),
            None => self.io.release(received.frame),
        }
    }

    /// What the sender of a packet that is dropped for `reason` gets.
    fn refusal(
        &self,
        received: &Received<I::Frame>,
        parsed: &Parsed,
        reason: DropReason,
    ) -> Option<Refusal> {
        let from_inside = parsed.is_from_inside();
        let answers = &self.snapshot.policy.answers;
        let icmp = |error| Some(Refusal::Icmp(error, 0));
        match reason {
            DropReason::TtlExpired => icmp(IcmpError::TtlExceeded),
            DropReason::TooBig => {
                let ip = self.io.bytes(&received.frame).get(ethernet::HEADER..)?;
                let ip = Ipv4::new_checked(ip).ok()?;
                let mtu = self
                    .mtu_towards(parsed, received.interface)
                    .filter(|_| ip.fragment().dont_fragment())?;
                Some(Refusal::Icmp(IcmpError::FragmentationNeeded, mtu))
            }
            DropReason::NoRule if from_inside => {
                by_setting(answers.denied, parsed, IcmpError::Prohibited)
            }
            DropReason::NoRoute => icmp(IcmpError::NetUnreachable),
            DropReason::NeighbourUnresolved
            | DropReason::TunnelNoRemote
            | DropReason::RouteUnreachable => icmp(IcmpError::HostUnreachable),
            DropReason::RouteProhibited => icmp(IcmpError::Prohibited),
            DropReason::UnsupportedProtocol if from_inside => icmp(IcmpError::ProtocolUnreachable),
            DropReason::QuotaBlocks
            | DropReason::QuotaSessions
            | DropReason::QuotaHalfOpen
            | DropReason::QuotaPorts
            | DropReason::QuotaRate
            | DropReason::ProtocolClash
            | DropReason::PoolExhausted
            | DropReason::TableFull
            | DropReason::Draining => self.exhausted(parsed),
            DropReason::NoSession if self.is_public(parsed.packet.dst.addr) => {
                by_setting(answers.unmapped, parsed, IcmpError::PortUnreachable)
            }
            _ => None,
        }
    }

    /// The answer to a flow for which nothing is left (decision D2).
    fn exhausted(&self, parsed: &Parsed) -> Option<Refusal> {
        let (_, Action::Pool(pool)) = self.rule_for(&parsed.packet, parsed.realm)? else {
            return None;
        };
        let settings = &self.snapshot.policy.pools.get(pool.index())?.settings;
        match settings.on_exhaustion {
            OnExhaustion::Icmp => by_setting(Refused::Icmp, parsed, IcmpError::HostUnreachable),
            OnExhaustion::IcmpAdmin => by_setting(Refused::Icmp, parsed, IcmpError::Prohibited),
            OnExhaustion::Reset => by_setting(Refused::Reset, parsed, IcmpError::HostUnreachable),
            OnExhaustion::Silent => None,
        }
    }

    /// The MTU of the way that the packet would take.
    fn mtu_towards(&self, parsed: &Parsed, arrival: InterfaceId) -> Option<u16> {
        let mut packet = parsed.packet;
        let mut key = parsed.key;
        let mut overlay = 0;
        // Twice at most: a packet that turns back has two sessions.
        for _ in 0..2 {
            let Some(slot) = key.and_then(|key| self.nat.find_hashed(&key)) else { break };
            packet = packet.rewritten(&self.nat.rewrite(slot));
            overlay = self.nat.overlay_towards(slot);
            if !self.is_public(packet.dst.addr) {
                break;
            }
            let back = packet.flow_key(Realm::External).ok()?;
            key = Some(self.nat.secret().hash_key(&back));
        }
        let journey = Journey { overlay, ..parsed.journey(packet.dst.addr, arrival) };
        self.snapshot.mtu_of(self.snapshot.roads.next_hop(&journey))
    }

    /// Turns the frame of a packet that was counted into `refusal` and sends it, within the limits and where
    /// RFC 1812 allows it.
    pub(crate) fn send_refusal(
        &mut self,
        mut received: Received<I::Frame>,
        parsed: &Parsed,
        refusal: Refusal,
        now: Timestamp,
    ) {
        let written = self.write_refusal(&mut received, parsed, refusal, now);
        if written.is_none() {
            return self.io.release(received.frame);
        }
        if self.transmit_own(received.interface, received.frame, now) {
            match refusal {
                Refusal::Icmp(error, _) => {
                    self.counters().icmp_errors_sent[error as usize].add(1);
                }
                Refusal::Reset => self.counters().resets_sent.add(1),
            }
        }
    }

    fn write_refusal(
        &mut self,
        received: &mut Received<I::Frame>,
        parsed: &Parsed,
        refusal: Refusal,
        now: Timestamp,
    ) -> Option<()> {
        let snapshot = std::sync::Arc::clone(&self.snapshot);
        let interface = snapshot.interfaces.get(received.interface.index())?;
        let frame = self.io.bytes_mut(&mut received.frame);
        let packet = parsed.packet.restore(frame, parsed.arrived()).ok()?;
        let sender = packet.src.addr;
        if !self.may_be_answered(self.io.bytes(&received.frame), parsed, &packet) {
            return None;
        }
        let error = match refusal {
            // RFC 5508 REQ-9.
            Refusal::Icmp(..) if snapshot.policy.answers.muted.contains(&received.interface) => {
                return None;
            }
            Refusal::Icmp(error, mtu) => (error, mtu),
            Refusal::Reset => {
                if !self.reset_limit.allow(now) {
                    self.counters().resets_limited.add(1);
                    return None;
                }
                return answer::reset(&mut self.io, &mut received.frame, &packet, interface).ok();
            }
        };
        let source = self.source_of_errors(parsed, &packet, interface)?;
        let side = if parsed.is_from_inside() { Realm::Internal } else { Realm::External };
        if !self.error_limits.allow(side, sender, now) {
            self.counters().icmp_errors_limited.add(1);
            return None;
        }
        write_error(&mut self.io, &mut received.frame, &packet, error, source, interface)
    }

    /// RFC 1812 4.3.2.4: an address of the interface that the error leaves by. Outside that is the public
    /// address that was addressed: no other is known there.
    fn source_of_errors(
        &self,
        parsed: &Parsed,
        packet: &Packet,
        interface: &Interface,
    ) -> Option<Ipv4Addr> {
        if !parsed.is_from_inside() && self.is_public(packet.dst.addr) {
            Some(packet.dst.addr)
        } else {
            interface.address
        }
    }

    /// Whether outsiders may send there: to a public address, and to a pod that is exempt from translation. Who
    /// tries other addresses of pods learns nothing.
    fn may_be_addressed(&self, parsed: &Parsed) -> bool {
        let exempt =
            || matches!(self.rule_for(&parsed.packet, parsed.realm), Some((_, Action::Exempt)));
        self.is_public(parsed.packet.dst.addr) || exempt()
    }

    /// RFC 1812 4.3.2.7: no errors about errors, later fragments, and impossible sources. What has a bad
    /// header, or is for all, never comes this far: it was not parsed.
    pub(crate) fn may_be_answered(&self, frame: &[u8], parsed: &Parsed, packet: &Packet) -> bool {
        let Some(Ok(ip)) = frame.get(ethernet::HEADER..).map(Ipv4::new_checked) else {
            return false;
        };
        let query = matches!(packet.transport, Transport::Icmp(query) if query.asks());
        let not_an_error = ip.protocol() != 1 || query;
        // Inside, only pods are answered; outside, nobody who has the address of a pod or of natgate.
        let is_pod = self.snapshot.policy.rules.knows_source(packet.src.addr);
        let possible = if parsed.is_from_inside() {
            is_pod
        } else {
            !is_pod && !self.is_public(packet.src.addr) && self.may_be_addressed(parsed)
        };
        not_an_error && ip.fragment().offset() == 0 && possible
    }
}

impl Parsed {
    /// Whether the packet came from a pod; one that turns back did.
    fn is_from_inside(&self) -> bool {
        self.realm == Realm::Internal || self.hairpin.is_some()
    }
}

fn by_setting(setting: Refused, parsed: &Parsed, error: IcmpError) -> Option<Refusal> {
    match (setting, parsed.packet.segment()) {
        (Refused::Silent, _) => None,
        // RFC 9293 section 3.10.7.1: a reset is not answered by a reset.
        (_, Some(segment)) if segment.flags.has(TcpFlags::RST) => None,
        (Refused::Reset, Some(_)) => Some(Refusal::Reset),
        (Refused::Reset | Refused::Icmp, _) => Some(Refusal::Icmp(error, 0)),
    }
}

/// Writes the error over the offender.
pub(crate) fn write_error<I: PacketIo>(
    io: &mut I,
    frame: &mut I::Frame,
    packet: &Packet,
    (error, mtu): (IcmpError, u16),
    source: Ipv4Addr,
    interface: &Interface,
) -> Option<()> {
    let mut quote = [0; QUOTED];
    let offender = packet.ip(io.bytes(frame));
    let len = offender.len().min(QUOTED);
    quote[..len].copy_from_slice(&offender[..len]);
    // The offender may be cut: only its header is sure.
    let tos = *offender.get(ipv4::TOS)?;
    if !io.resize(frame, ethernet::HEADER + ipv4::HEADER + icmp::HEADER + len) {
        return None;
    }
    let bytes = io.bytes_mut(frame);
    let mut ethernet = Ethernet::new_checked(&mut *bytes).ok()?;
    let sender = ethernet.src();
    ethernet.set_addresses(sender, interface.mac);
    let ip = &mut bytes[ethernet::HEADER..];
    icmp::emit_error(&mut ip[ipv4::HEADER..], error.kind(), mtu, &quote[..len]).ok()?;
    ipv4::emit(ip, source, packet.src.addr, 1, (icmp::HEADER + len) as u16).ok()?;
    // RFC 5508 section 7.7: the class of the offender; ECN is not its business (RFC 3168).
    Ipv4::new_checked(ip).ok()?.set_tos(tos & !3);
    Some(())
}
