//! Two simulated hosts that know the truth, wires that lose, repeat and reorder, and the NAT between them.

use proptest::prelude::*;

use super::*;

const S: u8 = TcpFlags::SYN;
const A: u8 = TcpFlags::ACK;
const F: u8 = TcpFlags::FIN;
const R: u8 = TcpFlags::RST;

/// Whether `a` is not after `b`.
fn before(a: u32, b: u32) -> bool {
    b.wrapping_sub(a) < 1 << 31
}

#[derive(Debug)]
struct Host {
    isn: u32,
    /// Sent up to here, acknowledged up to there, and allowed up to `edge`.
    next: u32,
    acked: u32,
    edge: u32,
    /// What it expects next, once it knows.
    expects: Option<u32>,
    window: u16,
    scale: Option<u8>,
    their_scale: Option<u8>,
    fin: Option<u32>,
    got_fin: bool,
    dead: bool,
    sent: Vec<(u8, u32, u16)>,
}

impl Host {
    fn new(isn: u32, scale: Option<u8>) -> Self {
        Self {
            isn,
            next: isn,
            acked: isn,
            edge: isn,
            expects: None,
            window: 500,
            scale,
            their_scale: None,
            fin: None,
            got_fin: false,
            dead: false,
            sent: Vec::new(),
        }
    }

    fn established(&self) -> bool {
        !self.dead && self.expects.is_some() && self.acked != self.isn
    }

    fn fin_acked(&self) -> bool {
        self.fin.is_some_and(|fin| before(fin, self.acked))
    }

    fn segment(&self, flags: u8, seq: u32, len: u16) -> Segment {
        let ack = if self.expects.is_some() && flags & R == 0 { A } else { 0 };
        let window_scale = self.scale.filter(|_| flags & S != 0);
        let (window, ack_number) = (self.window, self.expects.unwrap_or(0));
        let flags = TcpFlags(flags | ack);
        Segment { flags, window_scale, window, len, seq, ack: ack_number }
    }

    fn emit(&mut self, flags: u8, len: u16) -> Segment {
        let segment = self.segment(flags, self.next, len);
        self.sent.push((flags, self.next, len));
        self.next = segment.end();
        segment
    }

    fn ack(&self) -> Segment {
        self.segment(A, self.next, 0)
    }

    /// Something that the host may do by itself now.
    fn act(&mut self, what: u8, n: u16) -> Option<Segment> {
        if self.dead {
            return None;
        }
        match what {
            0..2 if self.next == self.isn => Some(self.emit(S, 0)),
            0..4 if self.established() && self.fin.is_none() => {
                let room = self.edge.wrapping_sub(self.next).min(300) as u16;
                before(self.next, self.edge).then(|| self.emit(0, n.min(room)))
            }
            4 if self.established() && self.fin.is_none() => {
                let fin = self.emit(F, 0);
                self.fin = Some(self.next);
                Some(fin)
            }
            5..8 => {
                let open: Vec<_> =
                    self.sent.iter().filter(|s| !before(s.1.wrapping_add(1), self.acked)).collect();
                let &&(flags, seq, len) = open.get(usize::from(n) % open.len().max(1))?;
                Some(self.segment(flags, seq, len))
            }
            8 if self.established() => Some(self.segment(A, self.next.wrapping_sub(1), 0)),
            9 if self.established() => {
                self.window = n;
                Some(self.ack())
            }
            10 if self.established() && n < 20 => {
                self.dead = true;
                Some(self.segment(R, self.next, 0))
            }
            11 if self.got_fin && self.fin_acked() && n < 100 => {
                self.dead = true;
                None
            }
            _ => None,
        }
    }

    fn take_window(&mut self, segment: &Segment) {
        let scaled = segment.flags.0 & S == 0;
        let shift = self.scale.and(self.their_scale).filter(|_| scaled).unwrap_or(0);
        let edge = segment.ack.wrapping_add(u32::from(segment.window) << shift);
        if before(self.edge, edge) {
            self.edge = edge;
        }
    }

    fn receive(&mut self, segment: &Segment) -> Option<Segment> {
        let flags = segment.flags.0;
        let Some(expects) = self.expects.filter(|_| !self.dead) else {
            return self.receive_unsynchronized(segment);
        };
        if flags & R != 0 {
            self.dead = segment.seq == expects;
            let near = segment.seq.wrapping_sub(expects) < 1 << 16;
            return (!self.dead && near).then(|| self.ack());
        }
        let acceptable = before(self.acked, segment.ack) && before(segment.ack, self.next);
        if flags & A != 0 && acceptable {
            self.acked = segment.ack;
            self.take_window(segment);
        }
        if flags & S != 0 {
            let again = self.acked == self.isn;
            return Some(if again { self.segment(S, self.isn, 0) } else { self.ack() });
        }
        if segment.seq == expects && segment.end() != segment.seq && self.acked != self.isn {
            self.expects = Some(segment.end());
            self.got_fin |= flags & F != 0;
        }
        (segment.end() != segment.seq || segment.seq != expects).then(|| self.ack())
    }

    fn receive_unsynchronized(&mut self, segment: &Segment) -> Option<Segment> {
        let flags = segment.flags.0;
        let answers = flags & A != 0 && segment.ack == self.isn.wrapping_add(1);
        let listens = self.next == self.isn;
        match flags & (S | A | R) {
            _ if self.dead && flags & R == 0 => Some(if flags & A != 0 {
                Segment { seq: segment.ack, ..Segment::bare(R) }
            } else {
                Segment { ack: segment.end(), ..Segment::bare(R | A) }
            }),
            S if !self.dead => {
                (self.expects, self.their_scale) = (Some(segment.end()), segment.window_scale);
                if listens {
                    return Some(self.emit(S, 0));
                }
                Some(self.segment(S, self.isn, 0))
            }
            flags if flags == S | A && answers && !listens && !self.dead => {
                (self.expects, self.their_scale) = (Some(segment.end()), segment.window_scale);
                self.acked = segment.ack;
                self.take_window(segment);
                Some(self.ack())
            }
            _ => None,
        }
    }
}

struct World {
    nat: Nat,
    flow: FlowKey,
    hosts: [Host; 2],
    /// Segments on the way to the NAT, by sender, and from it, by receiver.
    to_nat: [Vec<Segment>; 2],
    to_host: [Vec<Segment>; 2],
}

#[derive(Clone, Debug)]
enum Event {
    Act { host: usize, what: u8, n: u16 },
    Pass { side: usize, pick: usize, again: bool },
    Deliver { side: usize, pick: usize, again: bool },
    Lose { side: usize, pick: usize, inner: bool },
}

fn take(wire: &mut Vec<Segment>, pick: usize, again: bool) -> Option<Segment> {
    // Mostly in order.
    let index = if pick < 12 { 0 } else { pick % wire.len().max(1) };
    let segment = *wire.get(index)?;
    if !again {
        wire.remove(index);
    }
    Some(segment)
}

impl World {
    fn new(scales: [Option<u8>; 2]) -> Self {
        let (nat, _) = nat_with(PoolSettings::rfc4787(), 1, 10);
        let flow = key(Protocol::Tcp, (pod(1), 5000), remote(1, 80));
        let hosts = [Host::new(u32::MAX - 700, scales[0]), Host::new(0x7fff_ff00, scales[1])];
        Self { nat, flow, hosts, to_nat: Default::default(), to_host: Default::default() }
    }

    fn state(&self) -> Option<State> {
        all_sessions(&self.nat, secs(1)).first().map(|view| view.state)
    }

    fn pass(&mut self, side: usize, segment: &Segment) {
        let slot = match self.nat.find(&self.flow) {
            None if side == 1 => return,
            None => self.nat.open(&self.flow, POOL, Some(segment), secs(1)).unwrap(),
            Some(slot) if side == 0 => slot,
            Some(_) => self.nat.find(&reply_to(&self.nat, &self.flow)).unwrap(),
        };
        let earlier = self.state().unwrap();
        self.nat.commit(slot, secs(1), 60, Some(segment));
        let aborts = segment.flags.0 == R && segment.seq == self.hosts[side].next;
        if aborts && earlier != State::TimeWait {
            let reset = [State::Reset, State::ResetExternal];
            assert!(reset.contains(&self.state().unwrap()), "a true reset was not believed");
        }
        self.to_host[1 - side].push(*segment);
    }

    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Act { host, what, n } => {
                // The pod begins.
                if host == 1 && self.nat.find(&self.flow).is_none() {
                    return;
                }
                let segment = self.hosts[host].act(what, n);
                self.to_nat[host].extend(segment);
            }
            Event::Pass { side, pick, again } => {
                if let Some(segment) = take(&mut self.to_nat[side], pick, again) {
                    self.pass(side, &segment);
                }
            }
            Event::Deliver { side, pick, again } => {
                if let Some(segment) = take(&mut self.to_host[side], pick, again) {
                    let answer = self.hosts[side].receive(&segment);
                    self.to_nat[side].extend(answer);
                }
            }
            Event::Lose { side, pick, inner } => {
                let wires = if inner { &mut self.to_nat } else { &mut self.to_host };
                take(&mut wires[side], pick, false);
            }
        }
    }

    /// The timer of the session's state is never shorter than what the hosts know demands.
    fn check(&self) -> Option<State> {
        let [a, b] = &self.hosts;
        let state = self.state()?;
        if !a.established() || !b.established() {
            return Some(state);
        }
        if a.fin.is_none() || b.fin.is_none() {
            assert!(state.is_established(), "{state:?}, and both are established: {a:?} {b:?}");
        } else if !a.got_fin || !b.got_fin {
            let closing = state.is_established() || state == State::Closing;
            assert!(closing, "{state:?}, and not both FINs have arrived: {a:?} {b:?}");
        } else if a.fin_acked() && b.fin_acked() {
            assert_eq!(state, State::TimeWait, "both are done: {a:?} {b:?}");
        }
        Some(state)
    }
}

fn event() -> impl Strategy<Value = Event> {
    let again = || prop::bool::weighted(0.1);
    prop_oneof![
        4 => (0usize..2, 0u8..12, 0u16..400).prop_map(|(host, what, n)| Event::Act { host, what, n }),
        5 => (0usize..2, 0usize..16, again())
            .prop_map(|(side, pick, again)| Event::Pass { side, pick, again }),
        5 => (0usize..2, 0usize..16, again())
            .prop_map(|(side, pick, again)| Event::Deliver { side, pick, again }),
        1 => (0usize..2, 0usize..16, any::<bool>())
            .prop_map(|(side, pick, inner)| Event::Lose { side, pick, inner }),
    ]
}

fn scale() -> impl Strategy<Value = Option<u8>> {
    prop::option::of(0u8..8)
}

proptest! {
    // Proves: 5382-REQ-2, 5382-REQ-2a, 5382-REQ-5.2, 5382-REQ-5.3, 7857-S2
    #[test]
    fn no_timer_is_shorter_than_the_truth(
        scales in (scale(), scale()),
        events in prop::collection::vec(event(), 1..400),
    ) {
        let mut world = World::new([scales.0, scales.1]);
        for event in &events {
            world.happen(event);
            world.check();
        }
    }
}

/// The property above says little if its worlds never come far.
#[test]
fn the_worlds_reach_every_state() {
    use proptest::strategy::ValueTree;

    use State::{
        Closing, Established, FinExternal, FinInternal, Reset, SynReceived, SynSent, TimeWait,
    };
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let mut seen = HashSet::new();
    for _ in 0..300 {
        let events = prop::collection::vec(event(), 400).new_tree(&mut runner).unwrap().current();
        let mut world = World::new([Some(3), Some(2)]);
        for event in &events {
            world.happen(event);
            seen.extend(world.check());
        }
    }
    for state in
        [SynSent, SynReceived, Established, FinInternal, FinExternal, Closing, TimeWait, Reset]
    {
        assert!(seen.contains(&state), "{state:?} was not reached: {seen:?}");
    }
}

/// Openings of stories in which somebody off the path may inject.
const SCENES: [&[(bool, u8, u32, u32)]; 6] = [
    &[],
    &[(false, S | A, 0, 1)],
    &[(false, S | A, 0, 1), (true, A, 1, 1)],
    &[(false, S | A, 0, 1), (true, A, 1, 1), (true, F | A, 1, 1)],
    &[(false, S | A, 0, 1), (true, A, 1, 1), (true, F | A, 1, 1), (false, F | A, 1, 1)],
    &[(false, S | A, 0, 1), (true, A, 1, 1), (true, R, 1, 0)],
];

proptest! {
    // Proves: 5382-S9a, 7857-S2.2c
    // Museum: C5
    #[test]
    fn who_does_not_see_the_connection_changes_nothing(
        scene in 0usize..6,
        forged in prop::collection::vec(
            (0u8..64, 3_000u32..u32::MAX - 3_000, 3_000u32..u32::MAX - 3_000, any::<u16>(), 0u16..1460),
            1..60,
        ),
    ) {
        let (mut nat, _) = nat_with(PoolSettings::rfc4787(), 1, 10);
        let flow = key(Protocol::Tcp, (pod(1), 5000), remote(1, 80));
        let of = |flags, seq, ack| Segment { seq, ack, window: 1000, ..Segment::bare(flags) };
        let out = nat.open(&flow, POOL, Some(&of(S, 0, 0)), secs(0)).unwrap();
        let back = nat.find(&reply_to(&nat, &flow)).unwrap();
        for &(outbound, flags, seq, ack) in SCENES[scene] {
            nat.commit(if outbound { out } else { back }, secs(0), 60, Some(&of(flags, seq, ack)));
        }
        let view = |nat: &Nat| all_sessions(nat, secs(200))[0];
        let before = view(&nat);
        for (flags, seq, ack, window, len) in forged {
            // A SYN alone needs no numbers: it opens a connection from the other side, as it may, where
            // none is established.
            let opens = flags & (S | A | F | R) == S;
            if opens && (before.state == State::SynSent || before.state.is_over()) {
                continue;
            }
            let segment = Segment { window, len, ..of(flags, seq, ack) };
            let idle = view(&nat).idle_ms;
            nat.commit(back, secs(200), 60, Some(&segment));
            prop_assert_eq!(view(&nat).state, before.state, "{:?}", segment);
            if flags & (S | F | R) != 0 {
                prop_assert_eq!(view(&nat).idle_ms, idle, "{:?} renews the timer", segment);
            }
        }
        // And what is true is still believed.
        if before.state == State::Established {
            nat.commit(back, secs(200), 60, Some(&of(R, 1, 0)));
            prop_assert_eq!(view(&nat).state, State::Reset);
        }
    }
}
