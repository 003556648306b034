//! In which state is a TCP connection? What both directions' flags say.
//!
//! The states of RFC 7857 section 2, plus TIME_WAIT split off once both FINs are acknowledged.

/// The flags of a TCP segment that matter here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpFlags(pub u8);

impl TcpFlags {
    /// FIN.
    pub const FIN: u8 = 0x01;
    /// SYN.
    pub const SYN: u8 = 0x02;
    /// RST.
    pub const RST: u8 = 0x04;
    /// ACK.
    pub const ACK: u8 = 0x10;

    /// Whether any flag of `mask` is set.
    pub const fn has(self, mask: u8) -> bool {
        self.0 & mask != 0
    }

    /// A SYN that opens a connection: no ACK, RST or FIN beside it.
    pub const fn opens(self) -> bool {
        self.0 & (Self::SYN | Self::ACK | Self::RST | Self::FIN) == Self::SYN
    }
}

/// What a TCP segment says that a NAT must follow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Segment {
    /// Flags.
    pub flags: TcpFlags,
    /// The window scale option of a SYN that has one (RFC 7323).
    pub window_scale: Option<u8>,
    /// Window, not scaled.
    pub window: u16,
    /// Bytes of data.
    pub len: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number; meaningful with ACK.
    pub ack: u32,
}

impl Segment {
    /// A segment without data, of which only the flags matter.
    pub const fn bare(flags: u8) -> Self {
        Self { flags: TcpFlags(flags), window_scale: None, window: 0, len: 0, seq: 0, ack: 0 }
    }

    /// The sequence number after this segment: data, SYN and FIN count.
    pub const fn end(&self) -> u32 {
        let flags = self.flags.has(TcpFlags::SYN) as u32 + self.flags.has(TcpFlags::FIN) as u32;
        self.seq.wrapping_add(self.len as u32).wrapping_add(flags)
    }
}

/// The state of a session. TCP has states of its own; other protocols are [`State::Open`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    /// UDP and ICMP queries.
    Open,
    /// TCP: a SYN from inside.
    SynSent,
    /// TCP: SYNs from both sides, the last acknowledgement is missing.
    SynReceived,
    /// TCP: established.
    Established,
    /// TCP: a FIN from inside.
    FinInternal,
    /// TCP: a FIN from outside.
    FinExternal,
    /// TCP: FINs from both sides; the last one came from inside.
    ClosingInternal,
    /// TCP: FINs from both sides; the last one came from outside.
    ClosingExternal,
    /// TCP: both FINs acknowledged.
    TimeWait,
    /// TCP: reset from inside after it was established.
    Reset,
    /// TCP: reset from outside after it was established; maybe by somebody who guessed.
    ResetExternal,
    /// TCP: reset from either side before it was established.
    ResetOpening,
}

impl State {
    /// All states.
    pub const ALL: [Self; 12] = [
        Self::Open,
        Self::SynSent,
        Self::SynReceived,
        Self::Established,
        Self::FinInternal,
        Self::FinExternal,
        Self::ClosingInternal,
        Self::ClosingExternal,
        Self::TimeWait,
        Self::Reset,
        Self::ResetExternal,
        Self::ResetOpening,
    ];

    /// The name that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SynSent => "syn-sent",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinInternal => "fin-internal",
            Self::FinExternal => "fin-external",
            Self::ClosingInternal | Self::ClosingExternal => "closing",
            Self::TimeWait => "time-wait",
            Self::Reset | Self::ResetExternal | Self::ResetOpening => "reset",
        }
    }

    /// Whether the connection is over: its ports may serve the same remote again when no other is left.
    ///
    /// Not after a reset from outside: sequence numbers are not checked, so anybody who can forge the
    /// remote's address could hand a live connection's tuple to another one.
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset | Self::ResetOpening)
    }

    /// The state after a segment with `flags` from inside (`outbound`) or outside.
    #[must_use]
    pub(crate) fn after(self, flags: TcpFlags, outbound: bool) -> Self {
        if flags.has(TcpFlags::RST) {
            return self.after_reset(outbound);
        }
        if flags.has(TcpFlags::SYN) {
            return self.after_syn(flags, outbound);
        }
        let next = self.after_ack(flags, outbound);
        if flags.has(TcpFlags::FIN) { next.after_fin(outbound) } else { next }
    }

    fn after_reset(self, outbound: bool) -> Self {
        match (self, outbound) {
            (Self::SynSent | Self::SynReceived, _) => Self::ResetOpening,
            (
                Self::Established | Self::FinInternal | Self::FinExternal | Self::ResetExternal,
                true,
            ) => Self::Reset,
            (Self::Established | Self::FinInternal | Self::FinExternal, false) => {
                Self::ResetExternal
            }
            // Both have closed already: there is nothing to come back to after this.
            (Self::ClosingInternal | Self::ClosingExternal, true) => Self::TimeWait,
            _ => self,
        }
    }

    fn after_syn(self, flags: TcpFlags, outbound: bool) -> Self {
        match (self, outbound) {
            // A new connection on the same tuple (`requirements.md`: SYN on TIME_WAIT or reset reopens).
            (Self::TimeWait | Self::Reset | Self::ResetExternal | Self::ResetOpening, true)
                if flags.opens() =>
            {
                Self::SynSent
            }
            // SYN-ACK, or the other half of a simultaneous open; after a guessed reset as well.
            (Self::SynSent | Self::ResetOpening, false) => Self::SynReceived,
            _ => self,
        }
    }

    fn after_ack(self, flags: TcpFlags, outbound: bool) -> Self {
        if !flags.has(TcpFlags::ACK) {
            return self;
        }
        match (self, outbound) {
            // Both have sent their SYN: any segment that acknowledges completes the handshake. And a later
            // segment revives a session after a reset (RFC 7857 section 2.2), but only to what it was.
            (Self::SynReceived, true) | (Self::Reset | Self::ResetExternal, _) => Self::Established,
            // The remote still talks, so the reset was not its own: the handshake goes on.
            (Self::ResetOpening, false) => Self::SynReceived,
            // The FIN that came last is acknowledged by the other side.
            (Self::ClosingInternal, false) | (Self::ClosingExternal, true) => Self::TimeWait,
            _ => self,
        }
    }

    fn after_fin(self, outbound: bool) -> Self {
        match (self, outbound) {
            (Self::SynReceived | Self::Established, true) => Self::FinInternal,
            (Self::SynReceived | Self::Established, false) => Self::FinExternal,
            (Self::FinInternal, false) => Self::ClosingExternal,
            (Self::FinExternal, true) => Self::ClosingInternal,
            _ => self,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u8 = TcpFlags::SYN;
    const A: u8 = TcpFlags::ACK;
    const F: u8 = TcpFlags::FIN;
    const R: u8 = TcpFlags::RST;

    fn run(steps: &[(bool, u8)]) -> State {
        steps.iter().fold(State::SynSent, |state, &(out, flags)| state.after(TcpFlags(flags), out))
    }

    #[test]
    fn opens_transfers_and_closes() {
        let open = [(false, S | A), (true, A)];
        assert_eq!(run(&open[..1]), State::SynReceived);
        assert_eq!(run(&open), State::Established);
        let close =
            [(false, S | A), (true, A), (false, F | A), (true, A), (true, F | A), (false, A)];
        assert_eq!(run(&close[..3]), State::FinExternal);
        assert_eq!(run(&close[..4]), State::FinExternal, "half-closed");
        assert_eq!(run(&close[..5]), State::ClosingInternal);
        assert_eq!(run(&close), State::TimeWait);
        let other = [(false, S | A), (true, A), (true, F | A), (false, F | A), (true, A)];
        assert_eq!(run(&other), State::TimeWait);
    }

    #[test]
    fn simultaneous_open_and_close() {
        assert_eq!(
            run(&[(false, S), (true, S | A), (false, S | A), (true, A)]),
            State::Established
        );
        let both = [(false, S | A), (true, A), (true, F | A), (false, F | A)];
        assert_eq!(run(&both), State::ClosingExternal);
    }

    #[test]
    fn reset_and_revival() {
        let reset = [(false, S | A), (true, A), (false, R)];
        assert_eq!(run(&reset), State::ResetExternal);
        assert_eq!(run(&[&reset[..], &[(true, R)]].concat()), State::Reset);
        assert_eq!(run(&[&reset[..], &[(true, A)]].concat()), State::Established);
        assert_eq!(run(&[&reset[..], &[(true, S)]].concat()), State::SynSent);
        assert_eq!(run(&[(false, R | A)]), State::ResetOpening, "refused");
    }

    /// All sequences of segments from the pod alone.
    #[test]
    fn a_pod_alone_establishes_nothing() {
        let segments = [0, S, A, F, R, S | A, F | A, R | A, S | F];
        let mut reached = std::collections::HashSet::from([State::SynSent]);
        loop {
            let next = |&state: &State| segments.map(|f| state.after(TcpFlags(f), true));
            let more: Vec<State> = reached.iter().flat_map(next).collect();
            let before = reached.len();
            reached.extend(more);
            if reached.len() == before {
                break;
            }
        }
        let expected = [State::SynSent, State::ResetOpening];
        assert_eq!(reached, expected.into_iter().collect());
    }

    #[test]
    fn a_fin_on_syn_sent_changes_nothing() {
        assert_eq!(run(&[(true, F)]), State::SynSent);
        assert_eq!(run(&[(true, F | A)]), State::SynSent);
        assert_eq!(run(&[(false, F | A)]), State::SynSent);
    }

    #[test]
    fn a_guessed_reset_stops_no_handshake_and_no_connection() {
        let opening = [(false, R), (false, S | A), (true, A)];
        assert_eq!(run(&opening), State::Established);
        let received = [(false, S | A), (false, R), (true, A), (false, A), (true, A)];
        assert_eq!(run(&received[..3]), State::ResetOpening);
        assert_eq!(run(&received), State::Established);
        for state in State::ALL {
            let after = state.after(TcpFlags(R), false);
            let was_open =
                !state.is_over() && state != State::SynSent && state != State::SynReceived;
            assert!(!(was_open && after.is_over()), "{state:?} is over by a reset from outside");
        }
    }

    #[test]
    fn a_reset_while_both_close_revives_to_nothing_longer() {
        let closing =
            [(false, S | A), (true, A), (true, F | A), (false, F | A), (true, R), (true, A)];
        assert_eq!(run(&closing), State::TimeWait);
    }

    #[test]
    fn all_states_are_listed_once_in_order() {
        assert!(State::ALL.iter().enumerate().all(|(i, &state)| state as usize == i));
    }

    #[test]
    fn a_stranger_can_not_open() {
        assert_eq!(State::TimeWait.after(TcpFlags(S), false), State::TimeWait);
    }
}
