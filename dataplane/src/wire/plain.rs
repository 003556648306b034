//! Frames of the commonest shape: Ethernet, IPv4 without options, not a fragment, UDP or TCP. Each word of the
//! headers is read once, and written once.
//!
//! What [`look`] accepts, [`Content::parse`](crate::packet::Content::parse) accepts with the same meaning; what it
//! refuses may be anything.

use conntrack::{ChecksumDelta, Protocol, Rewrite, TcpFlags};

use super::checksum;
use crate::interface::Mac;

/// Ethernet, IPv4 without options, and the part of a transport header that TCP and UDP share with the checksum of UDP.
pub(crate) const UDP: usize = 14 + 20 + 8;
/// The same with a TCP header.
pub(crate) const TCP: usize = 14 + 20 + 20;
const UDP_NUMBER: u8 = 17;
const TCP_NUMBER: u8 = 6;

mod at {
    pub(super) const TYPE: usize = 12;
    pub(super) const IP: usize = 14;
    pub(super) const TOTAL_LEN: usize = 16;
    pub(super) const ID: usize = 18;
    pub(super) const FRAGMENT: usize = 20;
    pub(super) const TTL: usize = 22;
    pub(super) const PROTOCOL: usize = 23;
    pub(super) const CHECKSUM: usize = 24;
    pub(super) const SRC: usize = 26;
    pub(super) const DST: usize = 30;
    pub(super) const L4: usize = 34;
    pub(super) const UDP_LEN: usize = 38;
    pub(super) const UDP_CHECKSUM: usize = 40;
    pub(super) const TCP_ACK: usize = 42;
    pub(super) const TCP_OFFSET: usize = 46;
    pub(super) const TCP_FLAGS: usize = 47;
    pub(super) const TCP_WINDOW: usize = 48;
    pub(super) const TCP_CHECKSUM: usize = 50;
}

/// The bytes at `at`, which is a constant within the array: no check is left of it.
#[inline(always)]
#[allow(clippy::inline_always)] // the constant must meet the array's length
fn part<const N: usize, const ALL: usize>(bytes: &[u8; ALL], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[inline(always)]
#[allow(clippy::inline_always)] // as above
fn put<const N: usize, const ALL: usize>(bytes: &mut [u8; ALL], at: usize, part: [u8; N]) {
    bytes[at..at + N].copy_from_slice(&part);
}

/// An Ethernet address as [`look`] compares it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct MacWord(u64);

impl From<Mac> for MacWord {
    fn from(Mac([a, b, c, d, e, f]): Mac) -> Self {
        Self(u64::from_le_bytes([a, b, c, d, e, f, 0, 0]))
    }
}

impl MacWord {
    /// Whether a frame that begins with `head` is sent to it.
    #[inline]
    pub(crate) fn is_destination(self, head: [u8; 8]) -> bool {
        u64::from_le_bytes(head) & 0xffff_ffff_ffff == self.0
    }
}

/// What the headers say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Headers {
    /// Source and destination address, in network order.
    pub(crate) addresses: u64,
    /// Source and destination port, in network order.
    pub(crate) ports: u32,
    /// TCP or UDP.
    pub(crate) protocol: Protocol,
    /// Length of the IP packet, in bytes.
    pub(crate) len: u16,
    /// DF: it keeps its identification (RFC 6864 section 4).
    pub(crate) atomic: bool,
}

/// What a frame to `own` holds, if its shape is the common one, its header checksum is right, and it may be
/// forwarded one hop further; if `partial`, its transport checksum must not look like one that was left to an
/// offload.
#[inline]
pub(crate) fn look(frame: &[u8], own: MacWord, partial: bool) -> Option<Headers> {
    let head: &[u8; UDP] = frame.first_chunk()?;
    let fragment = u16::from_be_bytes(part(head, at::FRAGMENT));
    if !is_common(head, own) || head[at::TTL] <= 1 {
        return None;
    }
    let word = |at| u64::from(u32::from_ne_bytes(part(head, at)));
    let (src, dst) = (word(at::SRC), word(at::DST));
    let sum = word(at::IP) + word(at::ID) + word(at::TTL) + src + dst;
    let total = u16::from_be_bytes(part(head, at::TOTAL_LEN));
    let len = usize::from(total);
    if checksum::fold(sum) != 0xffff || frame.len() < at::IP + len || len < 20 + 8 {
        return None;
    }
    let payload = total - 20;
    let number = head[at::PROTOCOL];
    let (protocol, found) = match number {
        UDP_NUMBER => {
            let udp_len = u16::from_be_bytes(part(head, at::UDP_LEN));
            if udp_len < 8 || udp_len > payload {
                return None;
            }
            (Protocol::Udp, part(head, at::UDP_CHECKSUM))
        }
        TCP_NUMBER => {
            let head: &[u8; TCP] = frame.first_chunk()?;
            let header = u16::from(head[at::TCP_OFFSET] >> 4) * 4;
            if header < 20 || header > payload {
                return None;
            }
            (Protocol::Tcp, part(head, at::TCP_CHECKSUM))
        }
        _ => return None,
    };
    if partial {
        let rest = [[0, number], payload.to_be_bytes()].map(u16::from_ne_bytes).map(u64::from);
        if checksum::fold(src + dst + rest[0] + rest[1]) == u16::from_ne_bytes(found) {
            return None;
        }
    }
    Some(Headers {
        addresses: u64::from_be_bytes(part(head, at::SRC)),
        ports: u32::from_be_bytes(part(head, at::L4)),
        protocol,
        len: total,
        atomic: fragment & 0x4000 != 0,
    })
}

/// Addresses, ports and protocol, as in [`Headers`], of a frame to `own` whose shape is the common one so far. Whether it
/// is whole and right was not looked at.
#[inline]
pub(crate) fn peek(frame: &[u8], own: MacWord) -> Option<(u64, u32, Protocol)> {
    let head: &[u8; UDP] = frame.first_chunk()?;
    if !is_common(head, own) {
        return None;
    }
    let protocol = match head[at::PROTOCOL] {
        UDP_NUMBER => Protocol::Udp,
        TCP_NUMBER => Protocol::Tcp,
        _ => return None,
    };
    let addresses = u64::from_be_bytes(part(head, at::SRC));
    Some((addresses, u32::from_be_bytes(part(head, at::L4)), protocol))
}

/// Whether a frame holds IPv4 and is sent to somebody else than `own`.
#[inline]
pub(crate) fn is_foreign(frame: &[u8], own: MacWord) -> bool {
    let head: Option<&[u8; at::IP]> = frame.first_chunk();
    head.is_some_and(|head| part(head, at::TYPE) == [8, 0] && !own.is_destination(part(head, 0)))
}

/// To `own`, IPv4 without options, not a fragment.
#[inline]
fn is_common(head: &[u8; UDP], own: MacWord) -> bool {
    let dst = u64::from_le_bytes(part(head, 0)) & 0xffff_ffff_ffff;
    // Type 0x0800, then version 4 and five words of header.
    let shape = u32::from_le_bytes(part(head, at::TYPE)) & 0x00ff_ffff;
    let fragment = u16::from_be_bytes(part(head, at::FRAGMENT)) & 0x3fff;
    dst == own.0 && shape == 0x0045_0008 && fragment == 0
}

/// What a segment says that was looked at: flags, acknowledgement number and window.
#[inline]
pub(crate) fn segment(frame: &[u8]) -> Option<(TcpFlags, u32, u16)> {
    let head: &[u8; TCP] = frame.first_chunk()?;
    let ack = u32::from_be_bytes(part(head, at::TCP_ACK));
    let window = u16::from_be_bytes(part(head, at::TCP_WINDOW));
    Some((TcpFlags(head[at::TCP_FLAGS]), ack, window))
}

/// The Ethernet header's addresses, destination first.
pub(crate) type Addresses = [u8; 12];

/// Does to a frame that was looked at all that a translation and the way out do: Ethernet addresses, identification
/// if it gets another `id`, time to live, addresses, ports, and checksums by the stored changes (RFC 1624). A checksum
/// that was wrong stays wrong by as much.
#[inline(always)]
#[allow(clippy::inline_always)] // as its caller
pub(crate) fn rewrite(
    frame: &mut [u8],
    ethernet: &Addresses,
    id: Option<u16>,
    rewrite: &Rewrite,
    protocol: Protocol,
) -> Option<()> {
    let head: &mut [u8; UDP] = frame.first_chunk_mut()?;
    put(head, 0, *ethernet);
    let mut delta = u32::from(rewrite.header.0) + u32::from(!0x0100_u16);
    if let Some(id) = id {
        let old = u16::from_be_bytes(part(head, at::ID));
        delta += u32::from(!old) + u32::from(id);
        put(head, at::ID, id.to_be_bytes());
    }
    head[at::TTL] -= 1;
    let old = u16::from_be_bytes(part(head, at::CHECKSUM));
    put(head, at::CHECKSUM, (!fold(u32::from(!old) + delta)).to_be_bytes());
    put(head, at::SRC, rewrite.src.addr.octets());
    put(head, at::DST, rewrite.dst.addr.octets());
    let ports = u32::from(rewrite.src.port) << 16 | u32::from(rewrite.dst.port);
    put(head, at::L4, ports.to_be_bytes());
    if protocol == Protocol::Udp {
        let old = u16::from_be_bytes(part(head, at::UDP_CHECKSUM));
        if old != 0 {
            let new = update(old, rewrite.payload);
            put(head, at::UDP_CHECKSUM, if new == 0 { 0xffff } else { new }.to_be_bytes());
        }
        return Some(());
    }
    let head: &mut [u8; TCP] = frame.first_chunk_mut()?;
    let old = u16::from_be_bytes(part(head, at::TCP_CHECKSUM));
    put(head, at::TCP_CHECKSUM, update(old, rewrite.payload).to_be_bytes());
    Some(())
}

/// The same to a frame that is not translated.
#[inline]
pub(crate) fn forward(frame: &mut [u8], ethernet: &Addresses) -> Option<()> {
    let head: &mut [u8; UDP] = frame.first_chunk_mut()?;
    put(head, 0, *ethernet);
    head[at::TTL] -= 1;
    let old = u16::from_be_bytes(part(head, at::CHECKSUM));
    let sum = u32::from(!old) + u32::from(!0x0100_u16);
    put(head, at::CHECKSUM, (!fold(sum)).to_be_bytes());
    Some(())
}

#[inline]
fn update(old: u16, delta: ChecksumDelta) -> u16 {
    !fold(u32::from(!old) + u32::from(delta.0))
}

/// Folds a sum of words, as [`checksum::fold`] does.
#[inline]
fn fold(sum: u32) -> u16 {
    (sum.wrapping_add(sum.rotate_left(16)) >> 16) as u16
}
