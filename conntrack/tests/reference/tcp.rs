//! The reference's TCP connection: what each side has said, kept in full, and nothing packed.
//!
//! RFC 7857 section 2 gives the states, RFC 5382 section 9 and decision D9 say that SYN, FIN and RST count
//! only inside the window. What natgate adds is a rule each, below, with its reason.

use conntrack::{Direction, Segment, State, TcpFlags};

/// Beyond the window: one for a probe of a closed window, one for a FIN.
const SLACK: u32 = 2;

/// What one side has said.
#[derive(Clone, Copy, Debug, Default)]
pub struct Side {
    /// The number after its SYN.
    pub first: Option<u32>,
    /// It has acknowledged the other side's SYN.
    confirmed: bool,
    /// What it expects next, and how many bytes beyond that it has ever allowed.
    pub next: u32,
    pub room: u32,
    scale: Option<u8>,
    /// The number after its FIN.
    fin: Option<u32>,
    /// The end of what it has sent; only the generator asks.
    pub sent: u32,
}

impl Side {
    fn takes(&self, seq: u32) -> bool {
        seq.wrapping_sub(self.next) <= self.room + SLACK
    }

    /// Whether `ack` acknowledges what may have been sent with the other side's SYN.
    fn could_confirm(&self, ack: u32) -> bool {
        ack.wrapping_sub(self.next) <= self.room
    }
}

#[derive(Clone, Copy, Debug)]
pub struct Tcp {
    /// From inside, from outside.
    pub sides: [Side; 2],
    pub state: State,
    /// A SYN amid a connection: who sent it. If the other side answers it, it was a new connection.
    doubt: Option<(Direction, Segment)>,
}

impl Tcp {
    pub fn new(state: State) -> Self {
        Self { sides: [Side::default(); 2], state, doubt: None }
    }

    pub fn over(&self) -> bool {
        matches!(self.state, State::TimeWait | State::Reset)
    }

    pub fn opening(&self) -> bool {
        matches!(self.state, State::SynSent | State::SynExternal | State::SynReceived)
    }

    fn was_reset(&self) -> bool {
        matches!(self.state, State::Reset | State::ResetExternal)
    }

    /// Follows a segment; whether it renews the timer.
    pub fn follow(&mut self, from: Direction, segment: &Segment) -> bool {
        let (flags, inside) = (segment.flags, from == Direction::Outbound);
        let renews = if flags.has(TcpFlags::RST) {
            self.reset(from, segment)
        } else if flags.has(TcpFlags::SYN) {
            self.syn(from, segment)
        } else {
            self.data(from, segment)
        };
        let own = &mut self.sides[from as usize];
        let end = segment.end();
        if own.first.is_some() && renews && end.wrapping_sub(own.sent) < 1 << 31 {
            own.sent = end;
        }
        // RFC 4787 REQ-6: what comes from inside renews, only a reset does not (RFC 7857 section 7.1).
        renews || (inside && !flags.has(TcpFlags::RST) && !flags.has(TcpFlags::SYN))
    }

    /// RFC 7857 section 2.2: a reset counts if it lies in the window.
    fn reset(&mut self, from: Direction, segment: &Segment) -> bool {
        let (own, peer) = (&self.sides[from as usize], &self.sides[1 - from as usize]);
        // Who has not sent a SYN can refuse one, by acknowledging it (RFC 9293 section 3.10.7.1).
        let refuses = own.first.is_none()
            && segment.flags.has(TcpFlags::ACK)
            && own.could_confirm(segment.ack);
        let in_window = own.first.is_some() && peer.takes(segment.seq);
        if !refuses && !in_window {
            return false;
        }
        // One from outside that only falls into the window may be a guess: the pod's tuple is not given
        // away for it.
        let sure = refuses || from == Direction::Outbound || segment.seq == peer.next;
        let (was, reset) = (self.state, if sure { State::Reset } else { State::ResetExternal });
        if !self.over() {
            self.state = reset;
        }
        !matches!(was, State::TimeWait | State::Reset | State::ResetExternal)
    }

    fn syn(&mut self, from: Direction, segment: &Segment) -> bool {
        let inside = from == Direction::Outbound;
        // No stack opens and closes at once.
        if segment.flags.has(TcpFlags::FIN) {
            return inside;
        }
        let pure = segment.flags.opens();
        let first = Some(segment.seq.wrapping_add(1));
        let own_first = self.sides[from as usize].first;
        // A SYN after the end begins anew ("what no RFC settles").
        if pure && (self.over() || (inside && self.state == State::ResetExternal)) {
            self.begin_anew(from, segment);
            return true;
        }
        if self.opening() || self.continues_handshake(from, segment) {
            // The pod has given its first try up.
            if pure && inside && own_first.is_some() && own_first != first {
                (self.sides, self.doubt) = Default::default();
            }
            let fits = self.handshake(from, segment);
            self.state = self.derived();
            return fits || inside;
        }
        if own_first.is_some() && own_first == first {
            return inside;
        }
        let inner = matches!(self.doubt, Some((Direction::Outbound, _)));
        if pure && (inside || !inner) {
            self.doubt = Some((from, *segment));
        } else if let Some((opener, syn)) = self.doubt.filter(|(who, _)| *who != from)
            && segment.flags.has(TcpFlags::ACK)
            && segment.ack.wrapping_sub(syn.seq.wrapping_add(1)) <= u32::from(syn.len)
        {
            self.begin_anew(opener, &syn);
            self.handshake(from, segment);
            self.state = self.derived();
            return true;
        }
        inside
    }

    fn begin_anew(&mut self, from: Direction, syn: &Segment) {
        (self.sides, self.doubt) = Default::default();
        self.handshake(from, syn);
        self.state = self.derived();
    }

    /// A SYN-ACK after a reset that lay in the window of a handshake.
    fn continues_handshake(&self, from: Direction, segment: &Segment) -> bool {
        let own = &self.sides[from as usize];
        self.was_reset()
            && [State::SynSent, State::SynExternal, State::SynReceived].contains(&self.derived())
            && segment.flags.has(TcpFlags::ACK)
            && own.could_confirm(segment.ack)
    }

    fn handshake(&mut self, from: Direction, segment: &Segment) -> bool {
        let inside = from == Direction::Outbound;
        let first = segment.seq.wrapping_add(1);
        let answers = segment.flags.has(TcpFlags::ACK);
        let [mut own, mut peer] = self.sides;
        if !inside {
            std::mem::swap(&mut own, &mut peer);
        }
        let again = own.first == Some(first);
        if answers && !(again && own.confirmed) {
            // From outside it must answer the pod's SYN; the pod knows what it answers.
            let right = match peer.first {
                Some(seq) => !own.confirmed || inside || segment.ack == seq,
                None => false,
            };
            if !right || !(inside || own.could_confirm(segment.ack)) {
                return false;
            }
            own.next = segment.ack;
            own.confirmed = true;
        } else if again && peer.first.is_none() {
            // Data on the SYN (RFC 7413).
            peer.room = peer.room.max(u32::from(segment.len));
        }
        if !again {
            if own.first.is_some() && !answers && (own.confirmed || peer.confirmed) {
                return false;
            }
            let expects = own.next;
            own = Side {
                first: Some(first),
                confirmed: answers,
                next: expects,
                room: u32::from(segment.window),
                scale: segment.window_scale,
                fin: None,
                sent: segment.end(),
            };
            (peer.next, peer.confirmed) = (first, false);
            if peer.first.is_none() {
                peer.room = peer.room.max(u32::from(segment.len));
            }
        }
        self.sides = if inside { [own, peer] } else { [peer, own] };
        true
    }

    fn data(&mut self, from: Direction, segment: &Segment) -> bool {
        let inside = from == Direction::Outbound;
        let acks = segment.flags.has(TcpFlags::ACK);
        let fits = acks && self.acknowledge(from, segment);
        // Who answers a reset from outside must know the connection (RFC 7857 section 2.2).
        if self.was_reset() && !fits && !inside {
            return false;
        }
        let fin = segment.flags.has(TcpFlags::FIN);
        let counts = fin && acks && self.fin(from, segment);
        self.state = self.derived();
        // A forged FIN renews nothing; other segments are not checked so narrowly (5382-REQ-2).
        inside || !fin || counts
    }

    fn acknowledge(&mut self, from: Direction, segment: &Segment) -> bool {
        let [own, peer] = [from as usize, 1 - from as usize].map(|side| self.sides[side]);
        if own.first.is_none() || peer.first.is_none() {
            return false;
        }
        let mut own = own;
        if !own.confirmed {
            if !own.could_confirm(segment.ack) {
                return false;
            }
            (own.next, own.confirmed) = (segment.ack, true);
        }
        let advance = segment.ack.wrapping_sub(own.next);
        let fits = advance <= own.room + SLACK;
        if fits {
            let shift = own.scale.and(peer.scale).and(own.scale).unwrap_or(0);
            own.next = segment.ack;
            own.room = own.room.saturating_sub(advance).max(u32::from(segment.window) << shift);
        }
        self.sides[from as usize] = own;
        fits
    }

    fn fin(&mut self, from: Direction, segment: &Segment) -> bool {
        let synchronized = self.sides.iter().all(|side| side.first.is_some());
        let time_wait = self.state == State::TimeWait;
        let takes = self.sides[1 - from as usize].takes(segment.end().wrapping_sub(1));
        let known = &mut self.sides[from as usize].fin;
        if *known == Some(segment.end()) {
            return true;
        }
        if synchronized && takes && !time_wait {
            *known = Some(segment.end());
            return true;
        }
        false
    }

    /// RFC 7857 section 2: the state that what both sides said amounts to, resets aside.
    fn derived(&self) -> State {
        let [inner, outer] = &self.sides;
        let acknowledged = |fin: u32, by: &Side| by.next.wrapping_sub(fin) < 1 << 31;
        match (inner.first, outer.first, inner.fin, outer.fin) {
            (None, ..) => State::SynExternal,
            (_, None, ..) => State::SynSent,
            _ if !inner.confirmed || !outer.confirmed => State::SynReceived,
            (.., None, None) => State::Established,
            (.., Some(_), None) => State::FinInternal,
            (.., None, Some(_)) => State::FinExternal,
            (.., Some(a), Some(b)) if acknowledged(a, outer) && acknowledged(b, inner) => {
                State::TimeWait
            }
            _ => State::Closing,
        }
    }
}
