//! UDP (RFC 768).

use conntrack::ChecksumDelta;

use super::{Malformed, checksum, read_u16, write_u16};

/// Length of the header.
pub const HEADER: usize = 8;

mod field {
    pub(super) const SRC: usize = 0;
    pub(super) const DST: usize = 2;
    pub(super) const LEN: usize = 4;
    pub(super) const CHECKSUM: usize = 6;
}

/// Offset of the checksum, for [`super::super::packet`].
pub(crate) const CHECKSUM: usize = field::CHECKSUM;

/// A UDP datagram.
#[derive(Debug)]
pub struct Udp<B>(B);

impl<B: AsRef<[u8]>> Udp<B> {
    /// A view of `bytes`, the whole IP payload; the length field fits it.
    #[inline]
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER {
            return Err(Malformed);
        }
        let len = usize::from(read_u16(b, field::LEN));
        if len < HEADER || len > b.len() { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// A view of `bytes` that hold the header at least: the first fragment of a datagram is shorter than
    /// its length field says.
    #[inline]
    pub fn new_header(bytes: B) -> Result<Self, Malformed> {
        if bytes.as_ref().len() < HEADER { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// Source port.
    #[inline]
    pub fn src_port(&self) -> u16 {
        read_u16(self.0.as_ref(), field::SRC)
    }

    /// Destination port.
    #[inline]
    pub fn dst_port(&self) -> u16 {
        read_u16(self.0.as_ref(), field::DST)
    }

    /// Whether the sender has computed a checksum.
    #[inline]
    pub fn has_checksum(&self) -> bool {
        read_u16(self.0.as_ref(), field::CHECKSUM) != 0
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Udp<B> {
    /// Replaces both ports; `delta` is the change of the checksum that this and the new addresses make.
    /// A checksum of 0 (none) stays 0; a computed 0 becomes 0xffff.
    #[inline]
    pub fn set_ports(&mut self, src: u16, dst: u16, delta: ChecksumDelta) {
        let b = self.0.as_mut();
        write_u16(b, field::SRC, src);
        write_u16(b, field::DST, dst);
        let old = read_u16(b, field::CHECKSUM);
        if old != 0 {
            let new = checksum::update(old, delta);
            write_u16(b, field::CHECKSUM, if new == 0 { 0xffff } else { new });
        }
    }
}
