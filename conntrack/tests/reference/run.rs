//! natgate and the reference side by side.

use std::fmt::Write;
use std::net::Ipv4Addr;

use conntrack::{
    BlockNumber, BlockState, Direction, Endpoint, FlowKey, Pool, Protocol, Realm, Segment,
    Timestamp,
};

use crate::nat::{Reference, Seen, Session};
use crate::scenario::{Act, Say, Scenario, Wait};
use crate::speech;

const PROTOCOLS: [Protocol; 6] = [
    Protocol::Tcp,
    Protocol::Udp,
    Protocol::Tcp,
    Protocol::Udp,
    Protocol::Icmp,
    Protocol::Other(47),
];
/// Milliseconds between looks at the clock at most.
const STRIDE: u64 = 20_000;
/// Public endpoints that strangers remember.
const REMEMBERED: usize = 64;

/// What natgate says about one of its sessions.
#[derive(Clone, Debug)]
pub struct View {
    pub protocol: Protocol,
    pub internal: Endpoint,
    pub public: Endpoint,
    pub remote: Endpoint,
    pub state: &'static str,
    /// Where it can be seen: the state exactly, and the side that opened it.
    pub exact: Option<(conntrack::State, Realm)>,
    pub expires_in_ms: u64,
}

/// natgate, or a part of it, that the reference is compared with.
pub trait Subject {
    fn new(scenario: &Scenario, now: Timestamp) -> Self;
    /// The reference that knows what this subject lets through.
    fn reference(&self, scenario: &Scenario) -> Reference;
    fn pool(&self) -> &Pool;
    fn pass(&mut self, now: Timestamp);
    fn packet(&mut self, key: &FlowKey, segment: Option<&Segment>, now: Timestamp) -> Outcome;
    fn views(&mut self, now: Timestamp) -> Vec<View>;
    /// Whether packets come from this side with this source; nobody forges the pool's own addresses.
    fn carries(&self, key: &FlowKey) -> bool;
}

/// What became of a packet, and what went on as if from outside if it turned back to the pods.
pub struct Outcome {
    pub seen: Seen,
    pub turned: Option<(FlowKey, Seen)>,
    /// What is wrong by itself, whatever the reference says.
    pub wrong: Option<String>,
}

pub fn addresses(scenario: &Scenario) -> Vec<Ipv4Addr> {
    (0..scenario.addresses).map(|n| Ipv4Addr::new(203, 0, 113, 10 + n)).collect()
}

pub struct Run<S> {
    subject: S,
    reference: Reference,
    now: u64,
    /// When a session ended last.
    freed: u64,
    given: Vec<(Protocol, Endpoint)>,
    /// What happened, if somebody wants to know.
    story: Option<String>,
    pub packets: u64,
}

/// A pod's address.
fn pod(n: u8) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, 1, 1 + n % 4)
}

/// An internal port: some below 1024.
fn internal_port(n: u8) -> u16 {
    let n = u16::from(n % 48);
    if n < 8 { 500 + n } else { 5_000 + n }
}

fn remote(n: u8, protocol: Protocol) -> Endpoint {
    let port = match protocol {
        Protocol::Tcp | Protocol::Udp => [443, 53][usize::from(n / 3 % 2)],
        Protocol::Icmp | Protocol::Other(_) => 0,
    };
    Endpoint::new(Ipv4Addr::new(192, 0, 2, 1 + n % 3), port)
}

impl<S: Subject> Run<S> {
    pub fn new(scenario: &Scenario, story: bool) -> Self {
        let now = 1_000_000;
        let subject = S::new(scenario, Timestamp::from_millis(now));
        Self {
            reference: subject.reference(scenario),
            subject,
            now,
            freed: now,
            given: Vec::new(),
            story: story.then(String::new),
            packets: 0,
        }
    }

    /// Runs all steps; the first difference.
    pub fn run(&mut self, scenario: &Scenario) -> Result<(), String> {
        for step in &scenario.steps {
            self.wait(step.wait)?;
            self.act(step.act)?;
            self.compare()?;
        }
        // In the end everything returns.
        self.pass(self.now + 8_000_000)?;
        self.compare()?;
        self.pass(self.now + 1_000_000)?;
        let held: u32 =
            self.subject.pool().addresses.iter().map(|a| a.directory.held() + a.low.held()).sum();
        if held == 0 { Ok(()) } else { Err(format!("{held} blocks never returned")) }
    }

    pub fn story(self) -> String {
        self.story.unwrap_or_default()
    }

    fn tell(&mut self, what: impl FnOnce() -> String) {
        let now = self.now - 1_000_000;
        if let Some(story) = &mut self.story {
            let _ = writeln!(story, "{:>10}.{:03} s  {}", now / 1000, now % 1000, what());
        }
    }

    fn wait(&mut self, wait: Wait) -> Result<(), String> {
        let until = match wait {
            Wait::None => self.now,
            Wait::Millis(millis) => self.now + millis,
            Wait::Due { session, full, off } => {
                let due = self.pick(session).map_or(self.now, |s| self.reference.due(&s));
                let due = if full { due.div_ceil(1000) * 1000 } else { due };
                due.saturating_add_signed(off.into())
            }
            Wait::Rested { seconds, off } => {
                (self.freed + seconds * 1000).saturating_add_signed(off.into())
            }
        };
        self.pass(until.max(self.now))
    }

    fn pass(&mut self, until: u64) -> Result<(), String> {
        while self.now + STRIDE < until {
            self.stride(self.now + STRIDE)?;
        }
        self.stride(until)
    }

    fn stride(&mut self, until: u64) -> Result<(), String> {
        self.now = until;
        let before = self.reference.sessions.len();
        let time = Timestamp::from_millis(until);
        self.subject.pass(time);
        self.reference.ports.wake(until);
        let due = |s: &Session| self.reference.due(s) <= until;
        let views = if self.reference.sessions.iter().any(due) {
            self.subject.views(time)
        } else {
            Vec::new()
        };
        let lives = |s: &Session| views.iter().any(|view| view.is_of(s));
        self.reference.expire(until, lives);
        if self.reference.sessions.len() < before {
            self.freed = until;
            let ended = before - self.reference.sessions.len();
            self.tell(|| format!("the reference ends {ended} sessions"));
        }
        self.observe()
    }

    fn pick(&self, session: u8) -> Option<Session> {
        let sessions = &self.reference.sessions;
        sessions.get(usize::from(session) % sessions.len().max(1)).cloned()
    }

    fn act(&mut self, act: Act) -> Result<(), String> {
        match act {
            Act::Open { pod: who, port, remote: to, protocol, count, say } => {
                let protocol = PROTOCOLS[usize::from(protocol) % PROTOCOLS.len()];
                for n in 0..count {
                    let src = Endpoint::new(pod(who), internal_port(port.wrapping_add(n)));
                    self.outbound(protocol, src, remote(to, protocol), say)?;
                }
                Ok(())
            }
            Act::Speak { session, say } => self.on_session(session, &[(Direction::Outbound, say)]),
            Act::Answer { session, say } => self.on_session(session, &[(Direction::Inbound, say)]),
            Act::Shake { session } => self.on_session(
                session,
                &[(Direction::Inbound, Say::SynAck), (Direction::Outbound, Say::Data(0))],
            ),
            Act::Close { session } => self.on_session(
                session,
                &[
                    (Direction::Outbound, Say::Fin),
                    (Direction::Inbound, Say::Fin),
                    (Direction::Outbound, Say::Data(0)),
                ],
            ),
            Act::Stray { public, remote: who, say } => {
                let Some((protocol, public)) = self.given(public) else { return Ok(()) };
                self.inbound(protocol, remote(who, protocol), public, say)
            }
            Act::Hairpin { pod: who, port, public, say } => {
                let Some((protocol, public)) = self.given(public) else { return Ok(()) };
                let src = Endpoint::new(pod(who), internal_port(port));
                let dst = match protocol {
                    Protocol::Icmp | Protocol::Other(_) => Endpoint::new(public.addr, 0),
                    Protocol::Tcp | Protocol::Udp => public,
                };
                self.outbound(protocol, src, dst, say)
            }
        }
    }

    fn given(&self, public: u8) -> Option<(Protocol, Endpoint)> {
        self.given.get(usize::from(public) % self.given.len().max(1)).copied()
    }

    fn on_session(&mut self, session: u8, says: &[(Direction, Say)]) -> Result<(), String> {
        let Some(session) = self.pick(session) else { return Ok(()) };
        let Session { protocol, internal, public, remote, .. } = session;
        for &(from, say) in says {
            match from {
                Direction::Outbound => self.outbound(protocol, internal, remote, say)?,
                Direction::Inbound => self.inbound(protocol, remote, public, say)?,
            }
        }
        Ok(())
    }

    fn outbound(
        &mut self,
        protocol: Protocol,
        src: Endpoint,
        dst: Endpoint,
        say: Say,
    ) -> Result<(), String> {
        let src = if protocol.index().is_some() { src } else { Endpoint::new(src.addr, 0) };
        let key = FlowKey { src, dst, protocol, realm: Realm::Internal, overlay: 0 };
        let known =
            |s: &&Session| (s.protocol, s.internal, s.remote) == (key.protocol, key.src, key.dst);
        let tcp = self.reference.sessions.iter().find(known).and_then(|s| s.tcp);
        let segment = speech::segment(say, Direction::Outbound, tcp.as_ref());
        let Some(public) = self.packet(&key, segment)? else { return Ok(()) };
        if !self.given.contains(&(protocol, public)) {
            self.given.push((protocol, public));
            let surplus = self.given.len().saturating_sub(REMEMBERED);
            self.given.drain(..surplus);
        }
        Ok(())
    }

    fn inbound(
        &mut self,
        protocol: Protocol,
        src: Endpoint,
        dst: Endpoint,
        say: Say,
    ) -> Result<(), String> {
        let key = FlowKey { src, dst, protocol, realm: Realm::External, overlay: 0 };
        let known =
            |s: &&Session| (s.protocol, s.public, s.remote) == (key.protocol, key.dst, key.src);
        let tcp = self.reference.sessions.iter().find(known).and_then(|s| s.tcp);
        let segment = speech::segment(say, Direction::Inbound, tcp.as_ref());
        self.packet(&key, segment).map(|_| ())
    }

    /// One packet through both; where it went, if anywhere.
    fn packet(&mut self, key: &FlowKey, segment: Segment) -> Result<Option<Endpoint>, String> {
        if !self.subject.carries(key) {
            return Ok(None);
        }
        let segment = (key.protocol == Protocol::Tcp).then_some(&segment);
        let outcome = self.subject.packet(key, segment, Timestamp::from_millis(self.now));
        self.packets += 1;
        if let Some(wrong) = outcome.wrong {
            let says = segment.map(speech::describe).unwrap_or_default();
            return Err(format!("{key} {says}: {wrong}"));
        }
        self.judge(key, segment, outcome.seen)?;
        if let Some((key, seen)) = outcome.turned {
            self.judge(&key, segment, seen)?;
        }
        self.observe()?;
        Ok(outcome.seen.ok())
    }

    fn judge(
        &mut self,
        key: &FlowKey,
        segment: Option<&Segment>,
        seen: Seen,
    ) -> Result<(), String> {
        self.tell(|| {
            let says = segment.map(speech::describe).unwrap_or_default();
            let from = if key.realm == Realm::Internal { "inside " } else { "outside" };
            match &seen {
                Ok(to) => format!("{from} {key} {says}: natgate puts {to}"),
                Err(why) => format!("{from} {key} {says}: natgate refuses, {why}"),
            }
        });
        let verdict = match key.realm {
            Realm::Internal => self.reference.outbound(key, segment, self.now, seen),
            Realm::External => self.reference.inbound(key, segment, self.now, seen),
        };
        verdict.map_err(|why| format!("{key}: natgate: {seen:?}; reference: {why}"))
    }

    /// Who holds which block now?
    fn observe(&mut self) -> Result<(), String> {
        for index in 0..self.reference.ports.blocks.len() {
            let block = &self.reference.ports.blocks[index];
            let number = BlockNumber(block.first / block.size);
            let Some(address) =
                self.subject.pool().addresses.iter().find(|a| a.addr == block.address)
            else {
                continue;
            };
            let directory = if block.first < 1024 { &address.low } else { &address.directory };
            let holder = match directory.state(number) {
                BlockState::Held(holder) => Some(holder.subscriber),
                _ => None,
            };
            let sessions = &self.reference.sessions;
            self.reference.ports.observe(index, holder, sessions, self.now)?;
        }
        Ok(())
    }

    /// Do both know the same sessions, in the same states, for as long?
    fn compare(&mut self) -> Result<(), String> {
        let views = self.subject.views(Timestamp::from_millis(self.now));
        for view in &views {
            self.compare_one(view)?;
        }
        if views.len() == self.reference.sessions.len() {
            return Ok(());
        }
        let sessions = &self.reference.sessions;
        Err(format!("natgate has {} sessions, the reference {sessions:#?}", views.len()))
    }

    fn compare_one(&self, view: &View) -> Result<(), String> {
        let Some(session) = self.reference.sessions.iter().find(|s| view.is_of(s)) else {
            return Err(format!("the reference does not know {view:?}"));
        };
        let left = self.reference.due(session).saturating_sub(self.now);
        let ours = (session.public, session.state().name(), left);
        let theirs = (view.public, view.state, view.expires_in_ms);
        let exact = view.exact.is_none_or(|exact| exact == (session.state(), session.opened_by));
        if ours == theirs && exact {
            return Ok(());
        }
        Err(format!("natgate has {view:#?}, the reference {session:#?}, due in {left} ms"))
    }
}

impl View {
    fn is_of(&self, s: &Session) -> bool {
        (s.protocol, s.internal, s.remote) == (self.protocol, self.internal, self.remote)
    }
}
