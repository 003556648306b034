//! A NAT that is slow and plain: lists, searched from end to end.
//!
//! Written from the requirements, to be compared with natgate packet by packet. Ports are drawn at random,
//! so that the reference does not foretell them: it is told which one natgate chose, and judges. All else
//! it foretells.

use std::net::Ipv4Addr;
use std::time::Duration;

use conntrack::{
    Behavior, Direction, Endpoint, FlowKey, InboundRefresh, Overlap, PoolSettings, Protocol, Realm,
    Refusal, Segment, State, TcpFlags,
};

use crate::ports::{Ports, Wish};
use crate::tcp::Tcp;

/// What natgate did with a packet: the address that it put in place of the internal (to the outside) or the
/// public one (to the inside).
pub type Seen = Result<Endpoint, Refusal>;

#[derive(Clone, Debug)]
pub struct Session {
    pub protocol: Protocol,
    pub internal: Endpoint,
    pub public: Endpoint,
    pub remote: Endpoint,
    pub opened_by: Realm,
    opened: u64,
    /// The last packets that renewed it, from inside and from outside.
    seen: [u64; 2],
    /// Packets from inside and from outside.
    packets: [u64; 2],
    /// The internal endpoint has spoken to this remote itself.
    addressed: bool,
    /// The remote for which the mapping was made that the session belongs to.
    pub made_for: Ipv4Addr,
    pub tcp: Option<Tcp>,
}

impl Session {
    pub fn state(&self) -> State {
        self.tcp.map_or(State::Open, |tcp| tcp.state)
    }

    /// When it was last renewed.
    pub fn last_seen(&self) -> u64 {
        self.seen[0].max(self.seen[1])
    }

    fn is_opening(&self) -> bool {
        self.tcp.is_some_and(|tcp| tcp.opening())
    }
}

/// Who may share a public endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    Nobody,
    ByAddress,
    ByEndpoint,
}

#[derive(Debug)]
pub struct Reference {
    pub settings: PoolSettings,
    max_sessions: usize,
    pub sessions: Vec<Session>,
    pub ports: Ports,
    /// What it judges are frames: strangers' segments that open nothing are counted as those without a
    /// mapping, and what answers a query can't open anything.
    pub on_the_wire: bool,
}

fn text<T>(what: impl Into<String>) -> Result<T, String> {
    Err(what.into())
}

impl Reference {
    pub fn new(settings: PoolSettings, addresses: Vec<Ipv4Addr>, max_sessions: usize) -> Self {
        let ports = Ports::new(settings.clone(), addresses);
        Self { settings, max_sessions, sessions: Vec::new(), ports, on_the_wire: false }
    }

    /// When a session ends if nothing comes. Requirements: timers.
    pub fn due(&self, session: &Session) -> u64 {
        let timers = &self.settings.timers;
        let idle = match (session.state(), session.protocol) {
            (State::Open, Protocol::Icmp) => timers.icmp_query,
            (State::Open, Protocol::Udp | Protocol::Tcp) => {
                let of_port = |all: &[(u16, Duration)]| {
                    all.iter().find(|(p, _)| *p == session.remote.port).map(|(_, timer)| *timer)
                };
                let [out, back] = session.packets;
                let counts = self.settings.inbound_refresh == InboundRefresh::Peers;
                let answered =
                    (counts && back > 0 && out == 1).then(|| of_port(&timers.udp_answered));
                answered.flatten().or_else(|| of_port(&timers.udp_by_port)).unwrap_or(timers.udp)
            }
            (State::Open, Protocol::Other(_)) => timers.other,
            (State::SynSent | State::SynExternal | State::SynReceived, _) => timers.tcp_opening,
            (State::Established | State::FinInternal | State::FinExternal, _) => {
                timers.tcp_established
            }
            (State::Closing, _) => timers.tcp_closing,
            (State::TimeWait, _) => timers.tcp_time_wait,
            (State::Reset | State::ResetExternal, _) => timers.tcp_reset,
        };
        let [inside, outside] = session.seen;
        let none = self.settings.inbound_refresh == InboundRefresh::None;
        let since = if !session.addressed {
            // RFC 4787 REQ-6a, RFC 7857 section 7.1: a remote that nobody asked for keeps nothing alive.
            session.opened
        } else if none && session.protocol != Protocol::Tcp {
            inside
        } else {
            inside.max(outside)
        };
        since + idle.as_millis() as u64
    }

    /// Ends what is due. natgate's clock ticks once a second: what is due ends at the next full one at the
    /// latest. Until then `lives` says whether natgate still has it.
    pub fn expire(&mut self, now: u64, lives: impl Fn(&Session) -> bool) {
        loop {
            let over = |session: &Session| {
                let due = self.due(session);
                now >= due.div_ceil(1000) * 1000 || (now >= due && !lives(session))
            };
            // A mapping that only strangers use is nobody's (4787-REQ-6a).
            let stranded = |s: &Session| {
                let mut group = self.sessions.iter().filter(|other| self.together(s, other));
                !s.addressed && !group.any(|other| other.addressed)
            };
            let end = self.sessions.iter().position(over);
            let end = end.or_else(|| self.sessions.iter().position(stranded));
            let Some(index) = end else { return };
            self.end(index, now);
        }
    }

    fn end(&mut self, index: usize, now: u64) {
        let session = self.sessions.remove(index);
        self.ports.ended(&session, &self.sessions, now);
    }

    /// Requirements, D1. A packet from an admitted remote must lead to one internal endpoint.
    pub fn sharing(&self, protocol: Protocol) -> Sharing {
        let classes = [self.settings.mapping, self.filtering(protocol)];
        if classes.contains(&Behavior::EndpointIndependent) {
            Sharing::Nobody
        } else if classes.contains(&Behavior::AddressDependent)
            || self.settings.overlap == Overlap::Address
        {
            Sharing::ByAddress
        } else {
            Sharing::ByEndpoint
        }
    }

    fn filtering(&self, protocol: Protocol) -> Behavior {
        match protocol {
            Protocol::Tcp => self.settings.filtering_tcp,
            _ => self.settings.filtering_udp,
        }
    }

    /// Whether two sessions belong to one mapping.
    fn together(&self, a: &Session, b: &Session) -> bool {
        let same = a.protocol == b.protocol && a.public == b.public && a.internal == b.internal;
        same && match (a.protocol, self.sharing(a.protocol)) {
            (Protocol::Other(_), _) | (_, Sharing::ByEndpoint) => a.remote == b.remote,
            (_, Sharing::ByAddress) => a.made_for == b.made_for,
            (_, Sharing::Nobody) => true,
        }
    }

    /// A packet from inside, with what natgate did.
    pub fn outbound(
        &mut self,
        key: &FlowKey,
        segment: Option<&Segment>,
        now: u64,
        seen: Seen,
    ) -> Result<(), String> {
        let same = |s: &Session| {
            s.protocol == key.protocol && s.internal == key.src && s.remote == key.dst
        };
        if let Some(index) = self.sessions.iter().position(same) {
            let public = self.sessions[index].public;
            self.packet(index, Direction::Outbound, segment, now);
            let expected: Seen = Ok(public);
            return if seen == expected { Ok(()) } else { text(format!("expected {expected:?}")) };
        }
        if key.protocol == Protocol::Tcp && !segment.is_some_and(|s| s.flags.opens()) {
            return must_refuse(seen, &[Refusal::NotSyn], false);
        }
        let pod = key.src.addr;
        let mut reasons = self.over_quota(pod, segment, Realm::Internal);
        let rate = self.ports.rate(pod, Realm::Internal, now, reasons.is_empty());
        // RFC 4787 REQ-1, RFC 5382 REQ-1, RFC 5508 REQ-1a.
        let reused = self.sessions.iter().find(|s| {
            let mine = s.protocol == key.protocol && s.internal == key.src;
            mine && !matches!(s.protocol, Protocol::Other(_))
                && match self.settings.mapping {
                    Behavior::EndpointIndependent => true,
                    Behavior::AddressDependent => s.made_for == key.dst.addr,
                    Behavior::AddressAndPortDependent => false,
                }
        });
        let full = self.sessions.len() >= self.max_sessions;
        let verdict = if let Some((public, made_for)) = reused.map(|s| (s.public, s.made_for)) {
            reasons.extend(self.crowded(reused));
            reasons.extend(full.then_some(Refusal::TableFull));
            must_refuse_or(seen, &reasons, rate, public).map(|()| made_for)
        } else {
            let wish = Wish { key, sharing: self.sharing(key.protocol), full };
            let verdict = self.ports.judge(&wish, &self.sessions, &reasons, rate, seen, now);
            verdict.map(|replaced| {
                if let Some(index) = replaced {
                    self.end(index, now);
                }
                key.dst.addr
            })
        }?;
        if let Ok(public) = seen {
            self.ports.admitted(pod, Realm::Internal, public, now);
            let ends = (key.src, public, key.dst);
            self.open(key.protocol, ends, verdict, Realm::Internal, segment, now);
        }
        Ok(())
    }

    /// A packet from outside, with what natgate did.
    pub fn inbound(
        &mut self,
        key: &FlowKey,
        segment: Option<&Segment>,
        now: u64,
        seen: Seen,
    ) -> Result<(), String> {
        let here = |s: &&Session| s.protocol == key.protocol && s.public == key.dst;
        let same = |s: &Session| here(&s) && s.remote == key.src;
        if let Some(index) = self.sessions.iter().position(same) {
            let expected: Seen = Ok(self.sessions[index].internal);
            self.packet(index, Direction::Inbound, segment, now);
            return if seen == expected { Ok(()) } else { text(format!("expected {expected:?}")) };
        }
        let sharing = self.sharing(key.protocol);
        let mut group = self.sessions.iter().filter(here).filter(|s| match (s.protocol, sharing) {
            (Protocol::Other(_), _) | (_, Sharing::ByEndpoint) => false,
            (_, Sharing::ByAddress) => s.made_for == key.src.addr,
            (_, Sharing::Nobody) => true,
        });
        let answers = self.on_the_wire && key.protocol == Protocol::Icmp;
        let Some(mapping) = group.clone().next().filter(|_| !answers).cloned() else {
            return must_refuse(seen, &[Refusal::NoMapping], false);
        };
        // RFC 4787 REQ-8, RFC 5382 REQ-3: whom does the filter admit?
        let admitted = match self.filtering(key.protocol) {
            Behavior::EndpointIndependent => true,
            Behavior::AddressDependent => {
                group.any(|s| s.addressed && s.remote.addr == key.src.addr)
            }
            Behavior::AddressAndPortDependent => false,
        };
        let taken = |s: &Session| {
            s.protocol == key.protocol && s.internal == mapping.internal && s.remote == key.src
        };
        let mut reasons = Vec::new();
        reasons.extend((!admitted).then_some(Refusal::Filtered));
        let opens = segment.is_none_or(|s| s.flags.opens());
        let not_syn = if self.on_the_wire { Refusal::NoMapping } else { Refusal::NotSyn };
        reasons.extend((!opens).then_some(not_syn));
        let pod = mapping.internal.addr;
        if reasons.is_empty() {
            reasons = self.over_quota(pod, segment, Realm::External);
            let rate = self.ports.rate(pod, Realm::External, now, reasons.is_empty());
            reasons.extend(self.crowded(Some(&mapping)));
            reasons.extend(self.sessions.iter().any(taken).then_some(Refusal::TupleTaken));
            let full = self.sessions.len() >= self.max_sessions;
            reasons.extend(full.then_some(Refusal::TableFull));
            must_refuse_or(seen, &reasons, rate, mapping.internal)?;
        } else {
            must_refuse(seen, &reasons, false)?;
        }
        if seen.is_ok() {
            self.ports.admitted(pod, Realm::External, mapping.public, now);
            let ends = (mapping.internal, mapping.public, key.src);
            self.open(key.protocol, ends, mapping.made_for, Realm::External, segment, now);
        }
        Ok(())
    }

    /// RFC 6888 REQ-4 and 5: what the pod has used up.
    fn over_quota(&self, pod: Ipv4Addr, segment: Option<&Segment>, opener: Realm) -> Vec<Refusal> {
        let quota = &self.settings.quota;
        let own = || self.sessions.iter().filter(|s| s.internal.addr == pod);
        let half_open = own().filter(|s| s.is_opening() && s.opened_by == opener).count();
        let mut reasons = Vec::new();
        reasons
            .extend((own().count() >= quota.sessions as usize).then_some(Refusal::QuotaSessions));
        // 6888-REQ-5: strangers whom the pod has not answered leave it half of the quota.
        let strangers = own().filter(|s| !s.addressed).count();
        let strangers_full = strangers >= quota.sessions.div_ceil(2) as usize;
        reasons.extend(
            (opener == Realm::External && strangers_full).then_some(Refusal::QuotaSessions),
        );
        let too_many = segment.is_some() && half_open >= quota.half_open as usize;
        reasons.extend(too_many.then_some(Refusal::QuotaHalfOpen));
        reasons
    }

    /// RFC 6888 REQ-5: sessions of one mapping.
    fn crowded(&self, mapping: Option<&Session>) -> Option<Refusal> {
        let (limit, mapping) = self.settings.quota.sessions_per_mapping.zip(mapping)?;
        let members = self.sessions.iter().filter(|s| self.together(s, mapping)).count();
        (members >= limit as usize).then_some(Refusal::QuotaSessions)
    }

    fn open(
        &mut self,
        protocol: Protocol,
        (internal, public, remote): (Endpoint, Endpoint, Endpoint),
        made_for: Ipv4Addr,
        opened_by: Realm,
        segment: Option<&Segment>,
        now: u64,
    ) {
        let (first, from) = match opened_by {
            Realm::Internal => (State::SynSent, Direction::Outbound),
            Realm::External => (State::SynExternal, Direction::Inbound),
        };
        self.sessions.push(Session {
            protocol,
            internal,
            public,
            remote,
            opened_by,
            opened: now,
            seen: [now; 2],
            packets: [0; 2],
            addressed: opened_by == Realm::Internal,
            made_for,
            tcp: segment.map(|_| Tcp::new(first)),
        });
        self.packet(self.sessions.len() - 1, from, segment, now);
    }

    fn packet(&mut self, index: usize, from: Direction, segment: Option<&Segment>, now: u64) {
        let session = &mut self.sessions[index];
        let renews = match (&mut session.tcp, segment) {
            (Some(tcp), Some(segment)) => tcp.follow(from, segment),
            _ => true,
        };
        session.packets[from as usize] += 1;
        if renews {
            session.seen[from as usize] = now;
        }
        // 4787-REQ-6a: the pod speaks to the remote itself. In TCP that is a SYN: a reset refuses (RFC 7857
        // section 7.1), and a bare acknowledgement is what an unrelated connection answers to a SYN.
        let speaks = |s: &Segment| s.flags.has(TcpFlags::SYN) && !s.flags.has(TcpFlags::RST);
        session.addressed |= from == Direction::Outbound && segment.is_none_or(speaks);
    }
}

/// `maybe`: the rate of new sessions may be exceeded, or not.
pub fn must_refuse(seen: Seen, reasons: &[Refusal], maybe: bool) -> Result<(), String> {
    match seen {
        Err(why) if reasons.contains(&why) || (maybe && why == Refusal::QuotaRate) => Ok(()),
        _ => text(format!("expected a refusal: {reasons:?}")),
    }
}

/// What the reference knows of a limit on the rate of new sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rate {
    Kept,
    Unsure,
    Exceeded,
}

fn must_refuse_or(seen: Seen, reasons: &[Refusal], rate: Rate, to: Endpoint) -> Result<(), String> {
    let mut reasons = reasons.to_vec();
    reasons.extend((rate == Rate::Exceeded).then_some(Refusal::QuotaRate));
    if !reasons.is_empty() {
        return must_refuse(seen, &reasons, rate != Rate::Kept);
    }
    match seen {
        Ok(seen) if seen == to => Ok(()),
        Err(Refusal::QuotaRate) if rate == Rate::Unsure => Ok(()),
        _ => text(format!("expected {to}")),
    }
}
