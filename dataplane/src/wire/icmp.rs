//! ICMP (RFC 792): queries, and the errors that natgate sends itself.

use conntrack::ChecksumDelta;

use super::{Malformed, checksum, read_u16, write_u16};

/// Length of an echo header.
pub const HEADER: usize = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;

/// Type of a timestamp request.
pub const TIMESTAMP: u8 = 13;
/// Type of a timestamp reply.
pub const TIMESTAMP_REPLY: u8 = 14;
/// Type of destination unreachable.
pub const UNREACHABLE: u8 = 3;
/// Type of time exceeded.
pub const TIME_EXCEEDED: u8 = 11;
/// Type of parameter problem.
pub const PARAMETER_PROBLEM: u8 = 12;
/// Length of a timestamp message.
const TIMESTAMP_LEN: usize = 20;

/// Offsets of fields, for [`super::quote`].
pub(super) const CHECKSUM: usize = field::CHECKSUM;
pub(super) const IDENTIFIER: usize = field::IDENTIFIER;

/// What a query is: something with an identifier that is asked and answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query {
    /// Echo request.
    Echo,
    /// Echo reply.
    EchoReply,
    /// Timestamp request (RFC 5508 REQ-10b).
    Timestamp,
    /// Timestamp reply.
    TimestampReply,
}

impl Query {
    /// Whether it asks; otherwise it answers.
    pub const fn asks(self) -> bool {
        matches!(self, Self::Echo | Self::Timestamp)
    }

    /// Whether it is longer than its header.
    const fn has_timestamps(self) -> bool {
        matches!(self, Self::Timestamp | Self::TimestampReply)
    }
}

mod field {
    pub(super) const TYPE: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const IDENTIFIER: usize = 4;
    pub(super) const WORD: usize = 6;
}

/// An ICMP message of at least eight bytes.
#[derive(Debug)]
pub struct Icmp<B>(B);

impl<B: AsRef<[u8]>> Icmp<B> {
    /// A view of `bytes`, the whole IP payload.
    #[inline]
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// Type and code.
    #[inline]
    pub fn kind(&self) -> (u8, u8) {
        (self.0.as_ref()[field::TYPE], self.0.as_ref()[field::CODE])
    }

    /// Which query this is, if it is one that sessions carry.
    #[inline]
    pub fn query(&self) -> Option<Query> {
        let long = self.0.as_ref().len() >= TIMESTAMP_LEN;
        self.quoted_query().filter(|query| long || !query.has_timestamps())
    }

    /// The same where only the first eight bytes need be there: in a quote (RFC 792).
    #[inline]
    pub fn quoted_query(&self) -> Option<Query> {
        match self.kind() {
            (ECHO_REQUEST, 0) => Some(Query::Echo),
            (ECHO_REPLY, 0) => Some(Query::EchoReply),
            (TIMESTAMP, 0) => Some(Query::Timestamp),
            (TIMESTAMP_REPLY, 0) => Some(Query::TimestampReply),
            _ => None,
        }
    }

    /// Whether this is an error that quotes a packet and is translated with it. Source quench and redirect
    /// are not (RFC 5508 REQ-10).
    #[inline]
    pub fn is_error(&self) -> bool {
        matches!(self.kind().0, UNREACHABLE | TIME_EXCEEDED | PARAMETER_PROBLEM)
    }

    /// Whether the checksum over the whole message is right.
    #[inline]
    pub fn checksum_is_right(&self) -> bool {
        checksum::fold(checksum::sum(self.0.as_ref())) == 0xffff
    }

    /// Identifier of a query.
    #[inline]
    pub fn identifier(&self) -> u16 {
        read_u16(self.0.as_ref(), field::IDENTIFIER)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Icmp<B> {
    pub(super) fn update_checksum(&mut self, delta: ChecksumDelta) {
        let old = read_u16(self.0.as_ref(), field::CHECKSUM);
        write_u16(self.0.as_mut(), field::CHECKSUM, checksum::update(old, delta));
    }

    /// Replaces the identifier; `delta` is the change of the checksum that this makes.
    #[inline]
    pub fn set_identifier(&mut self, identifier: u16, delta: ChecksumDelta) {
        write_u16(self.0.as_mut(), field::IDENTIFIER, identifier);
        self.update_checksum(delta);
    }

    /// Makes an echo request its reply.
    pub fn reply(&mut self) {
        self.0.as_mut()[field::TYPE] = ECHO_REPLY;
        // The first word falls from 0x0800 to 0: !old + new is !0x0800.
        self.update_checksum(ChecksumDelta(!0x0800));
    }
}

/// Writes an error to `bytes`: type and code `kind`, `word` in the second half of the fifth to eighth byte
/// (the MTU of a 3/4), then `quote`.
pub fn emit_error(
    bytes: &mut [u8],
    kind: (u8, u8),
    word: u16,
    quote: &[u8],
) -> Result<(), Malformed> {
    let b = bytes.get_mut(..HEADER + quote.len()).ok_or(Malformed)?;
    b[..HEADER].fill(0);
    (b[field::TYPE], b[field::CODE]) = kind;
    write_u16(b, field::WORD, word);
    b[HEADER..].copy_from_slice(quote);
    let sum = checksum::fold(checksum::sum(b));
    write_u16(b, field::CHECKSUM, !sum);
    Ok(())
}
