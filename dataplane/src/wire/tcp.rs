//! TCP (RFC 9293).

use super::{Malformed, checksum, read_u16, read_u32, write_u16, write_u32};
use std::net::Ipv4Addr;

use conntrack::{ChecksumDelta, Segment, TcpFlags};

/// Length of a header without options.
pub const HEADER: usize = 20;

mod field {
    pub(super) const SRC: usize = 0;
    pub(super) const DST: usize = 2;
    pub(super) const SEQ: usize = 4;
    pub(super) const ACK: usize = 8;
    pub(super) const OFFSET: usize = 12;
    pub(super) const FLAGS: usize = 13;
    pub(super) const WINDOW: usize = 14;
    pub(super) const CHECKSUM: usize = 16;
}

/// Kinds of options: end of the list, no operation, maximum segment size, window scale.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;
const MAXIMUM_SEGMENT_SIZE: u8 = 2;
const WINDOW_SCALE: u8 = 3;

/// Offset of the checksum, for [`super::super::packet`].
pub(crate) const CHECKSUM: usize = field::CHECKSUM;

/// A TCP segment.
#[derive(Debug)]
pub struct Tcp<B>(B);

impl<B: AsRef<[u8]>> Tcp<B> {
    /// A view of `bytes`, the whole IP payload; the data offset fits it.
    #[inline]
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        let header = b.get(field::OFFSET).map_or(0, |offset| usize::from(offset >> 4) * 4);
        if header < HEADER || b.len() < header { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// A view of `bytes` that were checked before.
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

    /// Sequence number.
    #[inline]
    pub fn seq(&self) -> u32 {
        read_u32(self.0.as_ref(), field::SEQ)
    }

    /// Acknowledgement number.
    #[inline]
    pub fn ack(&self) -> u32 {
        read_u32(self.0.as_ref(), field::ACK)
    }

    /// Flags.
    #[inline]
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.0.as_ref()[field::FLAGS])
    }

    #[inline]
    fn header_len(&self) -> usize {
        usize::from(self.0.as_ref()[field::OFFSET] >> 4) * 4
    }

    /// What a NAT must follow of the segment.
    #[inline]
    pub fn segment(&self) -> Segment {
        let (b, flags) = (self.0.as_ref(), self.flags());
        Segment {
            flags,
            window_scale: if flags.has(TcpFlags::SYN) { self.window_scale() } else { None },
            window: read_u16(b, field::WINDOW),
            len: (b.len() - self.header_len()) as u16,
            seq: self.seq(),
            ack: self.ack(),
        }
    }

    /// The window scale option (RFC 7323 section 2.2), at most 14.
    #[cold]
    fn window_scale(&self) -> Option<u8> {
        let at = self.option(WINDOW_SCALE, 3)?;
        Some(14.min(*self.0.as_ref().get(at + 2)?))
    }

    /// Where the first option of this kind begins; it has this length, and lies in the header as a whole.
    fn option(&self, wanted: u8, length: u8) -> Option<usize> {
        let header = &self.0.as_ref()[..self.header_len()];
        let mut at = HEADER;
        loop {
            match header.get(at..)? {
                [NO_OPERATION, ..] => at += 1,
                [kind, len, ..] if *kind == wanted && *len == length => {
                    return (at + usize::from(length) <= header.len()).then_some(at);
                }
                [kind, len, ..] if *kind != END && *len >= 2 => at += usize::from(*len),
                _ => return None,
            }
        }
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Tcp<B> {
    /// Replaces both ports; `delta` is the change of the checksum that this and the new addresses make.
    #[inline]
    pub fn set_ports(&mut self, src: u16, dst: u16, delta: ChecksumDelta) {
        let b = self.0.as_mut();
        write_u16(b, field::SRC, src);
        write_u16(b, field::DST, dst);
        let old = read_u16(b, field::CHECKSUM);
        write_u16(b, field::CHECKSUM, checksum::update(old, delta));
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Tcp<B> {
    /// Lowers the maximum segment size that is announced (RFC 9293 section 3.7.1) to `most`, if it is more.
    pub fn lower_mss(&mut self, most: u16) {
        let Some(at) = self.option(MAXIMUM_SEGMENT_SIZE, 4).map(|option| option + 2) else {
            return;
        };
        let b = self.0.as_mut();
        let old = read_u16(b, at);
        if old <= most {
            return;
        }
        write_u16(b, at, most);
        // At an odd place its bytes stand the other way round in the words of the sum (RFC 1071, 2B).
        let [old, new] = [old, most].map(|it| if at % 2 == 0 { it } else { it.swap_bytes() });
        let delta = checksum::fold(u64::from(!old) + u64::from(new));
        let checksum = read_u16(b, field::CHECKSUM);
        write_u16(b, field::CHECKSUM, checksum::update(checksum, ChecksumDelta(delta)));
    }
}

/// What a reset says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reset {
    /// Source and destination ports.
    pub ports: (u16, u16),
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number, if it acknowledges.
    pub ack: Option<u32>,
}

impl Reset {
    /// The reset that answers a segment without connection (RFC 9293 section 3.5.2).
    pub fn answering<B: AsRef<[u8]>>(segment: &Tcp<B>) -> Self {
        let ports = (segment.dst_port(), segment.src_port());
        if segment.flags().has(TcpFlags::ACK) {
            Self { ports, seq: segment.ack(), ack: None }
        } else {
            Self { ports, seq: 0, ack: Some(segment.segment().end()) }
        }
    }

    /// Writes the segment to the first [`HEADER`] bytes of `bytes`.
    pub fn emit(self, bytes: &mut [u8], src: Ipv4Addr, dst: Ipv4Addr) -> Result<(), Malformed> {
        let b = bytes.get_mut(..HEADER).ok_or(Malformed)?;
        b.fill(0);
        write_u16(b, field::SRC, self.ports.0);
        write_u16(b, field::DST, self.ports.1);
        write_u32(b, field::SEQ, self.seq);
        write_u32(b, field::ACK, self.ack.unwrap_or(0));
        b[field::OFFSET] = 5 << 4;
        b[field::FLAGS] = TcpFlags::RST | if self.ack.is_some() { TcpFlags::ACK } else { 0 };
        let sum = checksum::pseudo_header(src, dst, 6, HEADER as u16) + checksum::sum(b);
        write_u16(b, field::CHECKSUM, !checksum::fold(sum));
        Ok(())
    }
}
