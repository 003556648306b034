//! IPv4 (RFC 791).

use std::fmt;
use std::net::Ipv4Addr;

use conntrack::ChecksumDelta;

use super::{Malformed, checksum, read_u16, read_u32, write_u16, write_u32};

/// Length of a header without options.
pub const HEADER: usize = 20;

/// Offset of the type of service.
pub(crate) const TOS: usize = field::TOS;

/// Time to live of packets that natgate sends itself.
const OWN_TTL: u8 = 64;

/// The word of TTL and protocol falls by 0x0100: !old + new is !0x0100.
const ONE_HOP: ChecksumDelta = ChecksumDelta(!0x0100);

mod field {
    pub(super) const VERSION_IHL: usize = 0;
    pub(super) const TOS: usize = 1;
    pub(super) const TOTAL_LEN: usize = 2;
    pub(super) const ID: usize = 4;
    pub(super) const FRAGMENT: usize = 6;
    pub(super) const TTL: usize = 8;
    pub(super) const PROTOCOL: usize = 9;
    pub(super) const CHECKSUM: usize = 10;
    pub(super) const SRC: usize = 12;
    pub(super) const DST: usize = 16;
}

/// The flags and the fragment offset of a header, as they stand there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FragmentField(u16);

impl FragmentField {
    const DONT_FRAGMENT: u16 = 0x4000;
    const MORE: u16 = 0x2000;
    const OFFSET: u16 = 0x1fff;

    /// DF: no router may fragment this.
    pub const fn dont_fragment(self) -> bool {
        self.0 & Self::DONT_FRAGMENT != 0
    }

    /// MF: this is not the end of its datagram.
    pub const fn more(self) -> bool {
        self.0 & Self::MORE != 0
    }

    /// Where in its datagram's payload this begins, in bytes.
    pub const fn offset(self) -> u16 {
        (self.0 & Self::OFFSET) << 3
    }

    /// Whether this is a part of a datagram: more follow, or an offset is set.
    pub const fn is_fragment(self) -> bool {
        self.0 & (Self::MORE | Self::OFFSET) != 0
    }

    /// Whether this is no fragment and never will be (RFC 6864 section 4).
    pub const fn is_atomic(self) -> bool {
        self.0 & (Self::DONT_FRAGMENT | Self::MORE | Self::OFFSET) == Self::DONT_FRAGMENT
    }

    /// The field of a part of this packet that begins `offset` bytes (a multiple of 8) behind its start.
    pub(crate) const fn part(self, offset: u16, more: bool) -> Self {
        let units = (self.0 & Self::OFFSET) + (offset >> 3);
        let more = if more { Self::MORE } else { self.0 & Self::MORE };
        Self(self.0 & !(Self::OFFSET | Self::MORE) | more | units & Self::OFFSET)
    }
}

/// An IPv4 packet; bytes behind its total length (Ethernet padding) are not part of it.
#[derive(Debug)]
pub struct Ipv4<B>(B);

impl<B: AsRef<[u8]>> Ipv4<B> {
    /// A view of `bytes`: version, header length and total length fit them (RFC 1812 5.2.2). The
    /// checksum is not looked at, see [`checksum_is_right`](Self::checksum_is_right).
    #[inline]
    pub fn new_checked(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER || b[field::VERSION_IHL] >> 4 != 4 {
            return Err(Malformed);
        }
        let (header, total) =
            (usize::from(b[0] & 0xf) * 4, usize::from(read_u16(b, field::TOTAL_LEN)));
        if header < HEADER || total < header || b.len() < total {
            Err(Malformed)
        } else {
            Ok(Self(bytes))
        }
    }

    /// The same for the head of a packet that an ICMP error quotes: it may be cut behind its header.
    pub fn new_quoted(bytes: B) -> Result<Self, Malformed> {
        let b = bytes.as_ref();
        if b.len() < HEADER || b[field::VERSION_IHL] >> 4 != 4 {
            return Err(Malformed);
        }
        let header = usize::from(b[field::VERSION_IHL] & 0xf) * 4;
        let total = usize::from(read_u16(b, field::TOTAL_LEN));
        if header < HEADER || total < header || b.len() < header {
            Err(Malformed)
        } else {
            Ok(Self(bytes))
        }
    }

    #[inline]
    fn bytes(&self) -> &[u8] {
        self.0.as_ref()
    }

    /// Length of the header in bytes, options included.
    #[inline]
    pub fn header_len(&self) -> usize {
        usize::from(self.bytes()[field::VERSION_IHL] & 0xf) * 4
    }

    /// Length of header and payload in bytes.
    #[inline]
    pub fn total_len(&self) -> u16 {
        read_u16(self.bytes(), field::TOTAL_LEN)
    }

    /// Identification.
    #[inline]
    pub fn id(&self) -> u16 {
        read_u16(self.bytes(), field::ID)
    }

    /// Flags and fragment offset.
    #[inline]
    pub fn fragment(&self) -> FragmentField {
        FragmentField(read_u16(self.bytes(), field::FRAGMENT))
    }

    /// The octet of DSCP and ECN.
    pub fn tos(&self) -> u8 {
        self.bytes()[field::TOS]
    }

    /// Time to live.
    #[inline]
    pub fn ttl(&self) -> u8 {
        self.bytes()[field::TTL]
    }

    /// Protocol number of the payload.
    #[inline]
    pub fn protocol(&self) -> u8 {
        self.bytes()[field::PROTOCOL]
    }

    /// Source address.
    #[inline]
    pub fn src(&self) -> Ipv4Addr {
        read_u32(self.bytes(), field::SRC).into()
    }

    /// Destination address.
    #[inline]
    pub fn dst(&self) -> Ipv4Addr {
        read_u32(self.bytes(), field::DST).into()
    }

    /// Whether the header checksum is right.
    #[inline]
    pub fn checksum_is_right(&self) -> bool {
        let header = self.bytes()[..self.header_len()].split_first_chunk();
        header.is_some_and(|(fixed, options)| checksum::is_right(fixed, options))
    }

    /// The kinds of the options, up to the end of the list; stops at one that does not fit.
    pub fn options(&self) -> impl Iterator<Item = u8> + '_ {
        let mut rest = &self.bytes()[HEADER..self.header_len()];
        std::iter::from_fn(move || {
            let (&kind, tail) = rest.split_first()?;
            rest = match kind {
                0 => &[],
                1 => tail,
                _ => {
                    let len = usize::from(*tail.first()?);
                    rest.get(len.max(2)..).unwrap_or(&[])
                }
            };
            (kind != 0).then_some(kind)
        })
    }
}

impl<B: AsRef<[u8]> + AsMut<[u8]>> Ipv4<B> {
    fn update_checksum(&mut self, delta: ChecksumDelta) {
        let old = read_u16(self.0.as_ref(), field::CHECKSUM);
        write_u16(self.0.as_mut(), field::CHECKSUM, checksum::update(old, delta));
    }

    /// Lowers the time to live by one; it must not be zero (RFC 1812 5.3.1).
    #[inline]
    pub fn decrement_ttl(&mut self) {
        let ttl = self.ttl();
        self.0.as_mut()[field::TTL] = ttl.saturating_sub(1);
        self.update_checksum(ONE_HOP);
    }

    /// Raises the time to live by one: takes back [`decrement_ttl`](Self::decrement_ttl).
    pub fn restore_ttl(&mut self) {
        let ttl = self.ttl();
        self.0.as_mut()[field::TTL] = ttl.saturating_add(1);
        self.update_checksum(ChecksumDelta(0x0100));
    }

    /// Sets the octet of DSCP and ECN.
    pub fn set_tos(&mut self, tos: u8) {
        let old = std::mem::replace(&mut self.0.as_mut()[field::TOS], tos);
        let delta = checksum::fold(u64::from(!u16::from(old)) + u64::from(tos));
        self.update_checksum(ChecksumDelta(delta));
    }

    /// Replaces both addresses; `delta` is the change of the header checksum that this makes.
    #[inline]
    pub fn set_addresses(&mut self, src: Ipv4Addr, dst: Ipv4Addr, delta: ChecksumDelta) {
        write_u32(self.0.as_mut(), field::SRC, src.into());
        write_u32(self.0.as_mut(), field::DST, dst.into());
        self.update_checksum(delta);
    }

    /// Makes this packet an answer: source and destination change places, the time to live is our own
    /// (RFC 1812 4.3.2.2).
    pub fn answer_with_addresses_swapped(&mut self) {
        let (src, dst, header) = (self.src(), self.dst(), self.header_len());
        let b = self.0.as_mut();
        write_u32(b, field::SRC, dst.into());
        write_u32(b, field::DST, src.into());
        b[field::TTL] = OWN_TTL;
        write_u16(b, field::CHECKSUM, 0);
        let sum = checksum::fold(checksum::sum(&b[..header]));
        write_u16(b, field::CHECKSUM, !sum);
    }
}

/// Does to a header that was parsed before all that a translation does, in one step: replaces the addresses, which
/// changes the checksum by `delta`, and lowers the time to live if it `spends` a hop.
#[inline]
pub(crate) fn translate(
    header: &mut [u8; HEADER],
    (src, dst): (Ipv4Addr, Ipv4Addr),
    delta: ChecksumDelta,
    spends: bool,
) {
    let mut delta = delta.0;
    if spends {
        header[field::TTL] = header[field::TTL].saturating_sub(1);
        delta = checksum::add(delta, ONE_HOP.0);
    }
    write_u32(header, field::SRC, src.into());
    write_u32(header, field::DST, dst.into());
    let old = read_u16(header, field::CHECKSUM);
    write_u16(header, field::CHECKSUM, checksum::update(old, ChecksumDelta(delta)));
}

/// Replaces the identification.
#[inline]
pub(crate) fn set_id(header: &mut [u8; HEADER], id: u16) {
    let delta = checksum::add(!read_u16(header, field::ID), id);
    write_u16(header, field::ID, id);
    let old = read_u16(header, field::CHECKSUM);
    write_u16(header, field::CHECKSUM, checksum::update(old, ChecksumDelta(delta)));
}

/// Writes a header without options to the first [`HEADER`] bytes of `bytes`: TTL 64, DF set (such packets are
/// atomic, RFC 6864), identification 0.
pub fn emit(
    bytes: &mut [u8],
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    payload_len: u16,
) -> Result<(), Malformed> {
    let b = bytes.get_mut(..HEADER).ok_or(Malformed)?;
    b.fill(0);
    b[field::VERSION_IHL] = 0x45;
    b[field::TOS] = 0;
    write_u16(b, field::TOTAL_LEN, HEADER as u16 + payload_len);
    write_u16(b, field::FRAGMENT, 0x4000);
    b[field::TTL] = OWN_TTL;
    b[field::PROTOCOL] = protocol;
    write_u32(b, field::SRC, src.into());
    write_u32(b, field::DST, dst.into());
    let sum = checksum::fold(checksum::sum(b));
    write_u16(b, field::CHECKSUM, !sum);
    Ok(())
}

/// Makes `packet`, the copied header of a datagram and some of its payload, a fragment of it.
pub(crate) fn make_fragment(
    packet: &mut [u8],
    header_len: usize,
    fragment: FragmentField,
) -> Result<(), Malformed> {
    let total = u16::try_from(packet.len()).map_err(|_| Malformed)?;
    if header_len < HEADER || header_len > packet.len() {
        return Err(Malformed);
    }
    packet[field::VERSION_IHL] = 0x40 | (header_len / 4) as u8;
    write_u16(packet, field::TOTAL_LEN, total);
    write_u16(packet, field::FRAGMENT, fragment.0);
    write_u16(packet, field::CHECKSUM, 0);
    let sum = checksum::fold(checksum::sum(&packet[..header_len]));
    write_u16(packet, field::CHECKSUM, !sum);
    Ok(())
}

impl<B: AsRef<[u8]>> fmt::Display for Ipv4<B> {
    #[inline]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (src, dst) = (self.src(), self.dst());
        write!(
            f,
            "IP {src} > {dst}: proto {} ttl {} length {}",
            self.protocol(),
            self.ttl(),
            self.total_len()
        )
    }
}
