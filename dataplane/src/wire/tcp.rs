//! TCP (RFC 9293).

use super::{Malformed, checksum, read_u16, read_u32, write_u16, write_u32};
use std::net::Ipv4Addr;

use conntrack::{ChecksumDelta, TcpFlags};

/// Length of a header without options.
pub const HEADER: usize = 20;

mod field {
    pub(super) const SRC: usize = 0;
    pub(super) const DST: usize = 2;
    pub(super) const SEQ: usize = 4;
    pub(super) const ACK: usize = 8;
    pub(super) const OFFSET: usize = 12;
    pub(super) const FLAGS: usize = 13;
    pub(super) const CHECKSUM: usize = 16;
}

/// Offset of the checksum, for [`super::super::packet`].
pub(crate) const CHECKSUM: usize = field::CHECKSUM;

/// A TCP segment.
#[derive(Debug)]
pub struct Tcp<B>(B);

impl<B: AsRef<[u8]>> Tcp<B> {
    /// A view of `bytes`, the whole IP payload; the data offset fits it.
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        let header = b.get(field::OFFSET).map_or(0, |offset| usize::from(offset >> 4) * 4);
        if header < HEADER || b.len() < header { Err(Malformed) } else { Ok(Self(bytes)) }
    }

    /// Source port.
    pub fn src_port(&self) -> u16 {
        read_u16(self.0.as_ref(), field::SRC)
    }

    /// Destination port.
    pub fn dst_port(&self) -> u16 {
        read_u16(self.0.as_ref(), field::DST)
    }

    /// Sequence number.
    pub fn seq(&self) -> u32 {
        read_u32(self.0.as_ref(), field::SEQ)
    }

    /// Acknowledgement number.
    pub fn ack(&self) -> u32 {
        read_u32(self.0.as_ref(), field::ACK)
    }

    /// Flags.
    pub fn flags(&self) -> TcpFlags {
        TcpFlags(self.0.as_ref()[field::FLAGS])
    }

    /// Length of the segment in sequence space: data, SYN and FIN.
    pub fn sequence_len(&self) -> u32 {
        let b = self.0.as_ref();
        let data = b.len() - usize::from(b[field::OFFSET] >> 4) * 4;
        let flags = self.flags();
        data as u32 + u32::from(flags.has(TcpFlags::SYN)) + u32::from(flags.has(TcpFlags::FIN))
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Tcp<B> {
    /// Replaces both ports; `delta` is the change of the checksum that this and the new addresses make.
    pub fn set_ports(&mut self, src: u16, dst: u16, delta: ChecksumDelta) {
        let b = self.0.as_mut();
        write_u16(b, field::SRC, src);
        write_u16(b, field::DST, dst);
        let old = read_u16(b, field::CHECKSUM);
        write_u16(b, field::CHECKSUM, checksum::update(old, delta));
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
            let ack = segment.seq().wrapping_add(segment.sequence_len());
            Self { ports, seq: 0, ack: Some(ack) }
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
