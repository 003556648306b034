//! ICMP (RFC 792): echo.

use conntrack::ChecksumDelta;

use super::{Malformed, checksum, read_u16, write_u16};

/// Length of an echo header.
pub const HEADER: usize = 8;
/// Type of an echo reply.
pub const ECHO_REPLY: u8 = 0;
/// Type of an echo request.
pub const ECHO_REQUEST: u8 = 8;

mod field {
    pub(super) const TYPE: usize = 0;
    pub(super) const CODE: usize = 1;
    pub(super) const CHECKSUM: usize = 2;
    pub(super) const IDENTIFIER: usize = 4;
}

/// An ICMP message of at least eight bytes.
#[derive(Debug)]
pub struct Icmp<B>(B);

impl<B: AsRef<[u8]>> Icmp<B> {
    /// A view of `bytes`, the whole IP payload.
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// Type and code.
    pub fn kind(&self) -> (u8, u8) {
        (self.0.as_ref()[field::TYPE], self.0.as_ref()[field::CODE])
    }

    /// Identifier of a query.
    pub fn identifier(&self) -> u16 {
        read_u16(self.0.as_ref(), field::IDENTIFIER)
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Icmp<B> {
    fn update_checksum(&mut self, delta: ChecksumDelta) {
        let old = read_u16(self.0.as_ref(), field::CHECKSUM);
        write_u16(self.0.as_mut(), field::CHECKSUM, checksum::update(old, delta));
    }

    /// Replaces the identifier; `delta` is the change of the checksum that this makes.
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
