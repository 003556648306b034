//! Does this TCP segment belong to the connection, and what does it change?
//!
//! Windows are followed in both directions (decision D9). A segment outside them is translated as any
//! other, but changes nothing: whoever does not see the connection can't move its state (RFC 5382
//! section 9, RFC 7857 section 2.2). What a side expects next, and how much it takes, is known from its
//! own acknowledgements alone, so that a packet of an established connection reads and writes one line.
//!
//! Timers: every segment from inside renews the timer (RFC 4787 REQ-6, by RFC 5382), resets excepted; so
//! does every segment from outside that could belong to the connection. SYN, FIN and RST from outside
//! that lie outside the window renew nothing, as if they had not come. Other segments from outside renew
//! it whatever their numbers are: too strict a check would end a live connection, while who forges them
//! gains no more than a session that lives on.

use crate::session::Direction;
use crate::tcp::{Segment, State, TcpFlags};

/// Sequence numbers that a side may use beyond the window: one for a probe of a closed window, one for a
/// FIN.
const SLACK: u32 = 2;
/// A SYN had no window scale option.
const NO_SCALE: u8 = 15;

/// What one side of a connection has told about itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub(crate) struct Side {
    /// The highest acknowledgement that it has sent: what it expects next. Until it has sent one, the
    /// lowest that it may send.
    acked: u32,
    /// What it takes beyond `acked`, in units of `1 << shift`. The right edge never moves left, since
    /// what was allowed once may be on its way.
    window: u16,
    shift: u8,
    /// Low four bits: the window scale that it offered, or [`NO_SCALE`].
    flags: u8,
}

impl Side {
    /// It has sent a SYN; the other side's `acked` is known since.
    const SYN: u8 = 0x10;
    /// It has acknowledged the other side's SYN.
    const CONFIRMED: u8 = 0x20;

    /// What it is made of, for a record.
    pub(crate) const fn parts(self) -> (u32, u16, u8, u8) {
        (self.acked, self.window, self.shift, self.flags)
    }

    /// A side of these parts, if there can be one (RFC 7323 section 2.3: no shift above 14).
    pub(crate) fn of((acked, window, shift, flags): (u32, u16, u8, u8)) -> Option<Self> {
        let known = Self::SYN | Self::CONFIRMED | 15;
        (shift <= 15 && flags & !known == 0).then_some(Self { acked, window, shift, flags })
    }

    const fn has(self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// What it expects next.
    pub(crate) const fn expects(self) -> u32 {
        self.acked
    }

    const fn room(self) -> u32 {
        (self.window as u32) << self.shift
    }

    /// Whether the other side may use the sequence number `seq` now.
    const fn takes(self, seq: u32) -> bool {
        seq.wrapping_sub(self.acked) <= self.room() + SLACK
    }

    /// Follows an acknowledgement of this side, if the other one may have sent so much; so nobody who
    /// guesses can move what is expected next.
    #[inline]
    pub(crate) fn acknowledge(&mut self, ack: u32, window: u16) -> bool {
        let advance = ack.wrapping_sub(self.acked);
        let room = self.room();
        if advance > room + SLACK {
            return false;
        }
        self.acked = ack;
        self.window = window.max(in_units(room.saturating_sub(advance), self.shift));
        true
    }

    /// Follows the first acknowledgement.
    fn confirm(&mut self, segment: &Segment, trusted: bool) -> bool {
        let fits = segment.ack.wrapping_sub(self.acked) <= self.room();
        if !fits && !trusted {
            return false;
        }
        self.acked = segment.ack;
        self.flags |= Self::CONFIRMED;
        true
    }

    /// Changes the unit of the window, and not the window.
    fn set_shift(&mut self, shift: u8) {
        (self.window, self.shift) = (in_units(self.room(), shift), shift);
    }

    /// The window scale that it has offered, if the other side has as well (RFC 7323 section 2.2).
    const fn agreed_shift(self, other: Self) -> u8 {
        let (offered, others) = (self.flags & 15, other.flags & 15);
        if offered == NO_SCALE || others == NO_SCALE { 0 } else { offered }
    }
}

/// `bytes` in units of `1 << shift`, rounded up.
fn in_units(bytes: u32, shift: u8) -> u16 {
    ((bytes + (1 << shift) - 1) >> shift).min(u32::from(u16::MAX)) as u16
}

/// A SYN on a connection that is not over: maybe the first of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pending {
    from: Direction,
    segment: Segment,
}

/// What is needed of a connection only when it opens or closes; apart from the lines that packets touch.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tail {
    /// The sequence numbers after the SYNs, from inside and from outside.
    pub(crate) first: [u32; 2],
    pub(crate) closing: Closing,
}

/// What is needed of a connection only when it closes, or may begin anew.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Closing {
    /// The sequence numbers after the FINs, from inside and from outside.
    fin: [Option<u32>; 2],
    pending: Option<Pending>,
}

impl Closing {
    /// The sequence numbers after the FINs, for a record. A SYN that may begin anew comes again.
    pub(crate) const fn fins(self) -> [Option<u32>; 2] {
        self.fin
    }

    /// The same, back.
    pub(crate) const fn of_fins(fin: [Option<u32>; 2]) -> Self {
        Self { fin, pending: None }
    }
}

/// What a segment does to its session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Verdict {
    pub(crate) state: State,
    /// It renews the timer.
    pub(crate) renews: bool,
}

/// A connection at the moment when a segment of `direction` passes.
pub(crate) struct Connection<'a> {
    /// The sender.
    pub(crate) own: &'a mut Side,
    /// The receiver.
    pub(crate) peer: &'a mut Side,
    pub(crate) tail: &'a mut Tail,
    pub(crate) state: State,
    pub(crate) direction: Direction,
}

impl Connection<'_> {
    /// Follows a segment.
    pub(crate) fn follow(mut self, segment: &Segment) -> Verdict {
        let (state, renews) = if segment.flags.has(TcpFlags::RST) {
            self.reset(segment)
        } else if segment.flags.has(TcpFlags::SYN) {
            self.syn(segment)
        } else {
            self.other(segment)
        };
        Verdict { state, renews }
    }

    fn outbound(&self) -> bool {
        self.direction == Direction::Outbound
    }

    /// RFC 7857 section 2.2: does the reset belong to the connection? If so it shortens the timer; what
    /// follows revives the session ([`other`](Self::other)).
    fn reset(&self, segment: &Segment) -> (State, bool) {
        let refuses = !self.own.has(Side::SYN)
            && segment.flags.has(TcpFlags::ACK)
            && segment.ack.wrapping_sub(self.own.acked) <= self.own.room();
        let in_window = self.own.has(Side::SYN) && self.peer.takes(segment.seq);
        if !refuses && !in_window {
            return (self.state, false);
        }
        let exact = refuses || segment.seq == self.peer.acked;
        let reset = if self.outbound() || exact { State::Reset } else { State::ResetExternal };
        match self.state {
            State::TimeWait | State::Reset => (self.state, false),
            State::ResetExternal => (reset, false),
            _ => (reset, true),
        }
    }

    fn syn(&mut self, segment: &Segment) -> (State, bool) {
        if segment.flags.has(TcpFlags::FIN) {
            // No stack opens and closes at once.
            return (self.state, self.outbound());
        }
        let opens = segment.flags.opens();
        let next = segment.seq.wrapping_add(1);
        // Whoever has sent a SYN in the pod's name is the pod: it knows no connection any more.
        let over = self.state.is_over() || (self.outbound() && self.state == State::ResetExternal);
        if opens && over {
            self.forget();
            self.handshake(segment);
            return (self.derive(), true);
        }
        if self.state.is_opening() || self.revived_by(segment) {
            if opens && self.outbound() && self.own.has(Side::SYN) && self.first() != next {
                self.forget();
            }
            let fits = self.handshake(segment);
            return (self.derive(), fits || self.outbound());
        }
        if self.own.has(Side::SYN) && self.first() == next {
            // A copy of the one that opened this connection.
            return (self.state, self.outbound());
        }
        // From outside anybody may have sent it: it takes no place from one from inside.
        let inner = self.tail.closing.pending.is_some_and(|p| p.from == Direction::Outbound);
        if opens && (self.outbound() || !inner) {
            self.tail.closing.pending = Some(Pending { from: self.direction, segment: *segment });
        } else if let Some(opener) = self.answered(segment) {
            // The other side has answered a SYN, so it knows no older connection.
            self.forget();
            let mut turned = Connection {
                own: &mut *self.peer,
                peer: &mut *self.own,
                tail: &mut *self.tail,
                state: self.state,
                direction: opener.from,
            };
            turned.handshake(&opener.segment);
            self.handshake(segment);
            return (self.derive(), true);
        }
        (self.state, self.outbound())
    }

    /// Whether a SYN-ACK goes on with a handshake that a reset had ended.
    fn revived_by(&self, segment: &Segment) -> bool {
        let reset = matches!(self.state, State::Reset | State::ResetExternal);
        let fits = segment.ack.wrapping_sub(self.own.acked) <= self.own.room();
        reset && self.derive().is_opening() && segment.flags.has(TcpFlags::ACK) && fits
    }

    /// The SYN from the other side that this SYN-ACK answers.
    fn answered(&self, segment: &Segment) -> Option<Pending> {
        let pending = self.tail.closing.pending.filter(|p| p.from != self.direction)?;
        let beyond = segment.ack.wrapping_sub(pending.segment.seq.wrapping_add(1));
        let answers = segment.flags.has(TcpFlags::ACK) && beyond <= u32::from(pending.segment.len);
        answers.then_some(pending)
    }

    /// Forgets the connection: a new one begins on the same tuple.
    fn forget(&mut self) {
        (*self.own, *self.peer, *self.tail) = (Side::default(), Side::default(), Tail::default());
    }

    /// Follows a SYN or SYN-ACK of a handshake; whether it could belong to it.
    fn handshake(&mut self, segment: &Segment) -> bool {
        let next = segment.seq.wrapping_add(1);
        let again = self.own.has(Side::SYN) && self.first() == next;
        if again && (self.own.has(Side::CONFIRMED) || !segment.flags.has(TcpFlags::ACK)) {
            self.widen(segment.len);
            return true;
        }
        // Acknowledges the other side's SYN. The pod knows which one it has taken; from outside it must be
        // the right one.
        let answers = segment.flags.has(TcpFlags::ACK);
        let outbound = self.outbound();
        let fits = answers
            && self.peer.has(Side::SYN)
            && self.answers_again(segment)
            && self.own.confirm(segment, outbound);
        if answers && !fits {
            return false;
        }
        if again {
            return true;
        }
        // Another SYN than before is only believed while neither side has acknowledged anything.
        let answered = self.own.has(Side::CONFIRMED) || self.peer.has(Side::CONFIRMED);
        if self.own.has(Side::SYN) && !answers && answered {
            return false;
        }
        let confirmed = if answers { Side::CONFIRMED } else { 0 };
        self.own.flags =
            Side::SYN | confirmed | segment.window_scale.unwrap_or(NO_SCALE).min(NO_SCALE);
        (self.own.window, self.own.shift) = (segment.window, 0);
        self.tail.first[self.direction as usize] = next;
        self.tail.closing.fin[self.direction as usize] = None;
        self.peer.acked = next;
        self.peer.flags &= !Side::CONFIRMED;
        self.widen(segment.len);
        if self.peer.has(Side::SYN) {
            let shifts = (self.own.agreed_shift(*self.peer), self.peer.agreed_shift(*self.own));
            self.own.set_shift(shifts.0);
            self.peer.set_shift(shifts.1);
        }
        true
    }

    /// A second SYN-ACK from outside acknowledges what the first one did.
    fn answers_again(&self, segment: &Segment) -> bool {
        let first = self.tail.first[1 - self.direction as usize];
        self.outbound() || !self.own.has(Side::CONFIRMED) || segment.ack == first
    }

    /// The first acknowledgement of the receiver may cover the data on the SYN (RFC 7413).
    fn widen(&mut self, len: u16) {
        if !self.peer.has(Side::SYN) {
            self.peer.window = self.peer.window.max(len);
        }
    }

    /// The sequence number after the sender's SYN.
    fn first(&self) -> u32 {
        self.tail.first[self.direction as usize]
    }

    /// A segment without SYN and RST.
    fn other(&mut self, segment: &Segment) -> (State, bool) {
        let fits = segment.flags.has(TcpFlags::ACK) && self.acknowledge(segment);
        let reset = matches!(self.state, State::Reset | State::ResetExternal);
        // RFC 7857 section 2.2: the session lives on, in the state that it was in. Whoever forges an
        // answer to a reset must know the connection.
        if reset && !fits && !self.outbound() {
            return (self.state, false);
        }
        let fin = segment.flags.has(TcpFlags::FIN) && segment.flags.has(TcpFlags::ACK);
        let closes = fin && self.fin(segment);
        (self.derive(), self.outbound() || !segment.flags.has(TcpFlags::FIN) || closes)
    }

    fn acknowledge(&mut self, segment: &Segment) -> bool {
        if !self.own.has(Side::SYN) || !self.peer.has(Side::SYN) {
            return false;
        }
        if !self.own.has(Side::CONFIRMED) && !self.own.confirm(segment, false) {
            return false;
        }
        self.own.acknowledge(segment.ack, segment.window)
    }

    /// Remembers a FIN, if it lies in the window; whether it does, or is known.
    fn fin(&mut self, segment: &Segment) -> bool {
        let end = segment.end();
        let known = &mut self.tail.closing.fin[self.direction as usize];
        if *known == Some(end) {
            return true;
        }
        let synchronized = self.own.has(Side::SYN) && self.peer.has(Side::SYN);
        let takes =
            synchronized && self.state != State::TimeWait && self.peer.takes(end.wrapping_sub(1));
        if takes {
            *known = Some(end);
        }
        takes
    }

    /// The state that follows from what both sides have said, without resets.
    fn derive(&self) -> State {
        let (internal, external) =
            if self.outbound() { (&*self.own, &*self.peer) } else { (&*self.peer, &*self.own) };
        if !internal.has(Side::SYN) {
            return State::SynExternal;
        }
        if !external.has(Side::SYN) {
            return State::SynSent;
        }
        if !internal.has(Side::CONFIRMED) || !external.has(Side::CONFIRMED) {
            return State::SynReceived;
        }
        let reached = |side: &Side, fin: u32| side.acked.wrapping_sub(fin) < 1 << 31;
        match self.tail.closing.fin {
            [None, None] => State::Established,
            [Some(_), None] => State::FinInternal,
            [None, Some(_)] => State::FinExternal,
            // A challenge ACK does not acknowledge a FIN: it is not the last one.
            [Some(inner), Some(outer)] => {
                if reached(external, inner) && reached(internal, outer) {
                    State::TimeWait
                } else {
                    State::Closing
                }
            }
        }
    }
}
