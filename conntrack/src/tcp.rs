//! What does a TCP segment say, and in which states may a connection be?
//!
//! The states of RFC 7857 section 2, plus TIME_WAIT split off once both FINs are acknowledged. How a
//! segment moves them: [`track`](crate::track).

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
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub enum State {
    /// UDP and ICMP queries.
    Open,
    /// TCP: a SYN from inside.
    SynSent,
    /// TCP: a SYN from outside.
    SynExternal,
    /// TCP: SYNs from both sides, not both acknowledged.
    SynReceived,
    /// TCP: established.
    Established,
    /// TCP: a FIN from inside.
    FinInternal,
    /// TCP: a FIN from outside.
    FinExternal,
    /// TCP: FINs from both sides, not both acknowledged.
    Closing,
    /// TCP: both FINs acknowledged.
    TimeWait,
    /// TCP: reset from inside, or from outside with exactly the sequence number that the pod expects.
    Reset,
    /// TCP: reset from outside, somewhere in the window: maybe by somebody who guessed.
    ResetExternal,
}

impl State {
    /// All states.
    pub const ALL: [Self; 11] = [
        Self::Open,
        Self::SynSent,
        Self::SynExternal,
        Self::SynReceived,
        Self::Established,
        Self::FinInternal,
        Self::FinExternal,
        Self::Closing,
        Self::TimeWait,
        Self::Reset,
        Self::ResetExternal,
    ];

    /// The name that people see.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::SynSent => "syn-sent",
            Self::SynExternal => "syn-external",
            Self::SynReceived => "syn-received",
            Self::Established => "established",
            Self::FinInternal => "fin-internal",
            Self::FinExternal => "fin-external",
            Self::Closing => "closing",
            Self::TimeWait => "time-wait",
            Self::Reset | Self::ResetExternal => "reset",
        }
    }

    /// Whether the connection is over: its ports may serve the same remote again when no other is left
    /// (RFC 6888 REQ-8a), and a SYN from either side begins a new one.
    ///
    /// Not after a reset from outside that only fell into the window: a window may be large enough to be
    /// hit, and a live connection's tuple would go to another one.
    pub(crate) const fn is_over(self) -> bool {
        matches!(self, Self::TimeWait | Self::Reset)
    }

    /// Whether the handshake is not complete.
    pub(crate) const fn is_opening(self) -> bool {
        matches!(self, Self::SynSent | Self::SynExternal | Self::SynReceived)
    }

    /// Whether the connection is established and at least one side may still send.
    pub(crate) const fn is_established(self) -> bool {
        matches!(self, Self::Established | Self::FinInternal | Self::FinExternal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_states_are_listed_once_in_order() {
        assert!(State::ALL.iter().enumerate().all(|(i, &state)| state as usize == i));
    }
}
