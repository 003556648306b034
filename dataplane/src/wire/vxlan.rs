//! VXLAN over UDP and IPv4 (RFC 7348): a frame in a packet.
//!
//! The congestion bits go in and out by RFC 6040, in normal mode.

use std::net::Ipv4Addr;

use super::plain::MacWord;
use super::{checksum, ethernet, ipv4, read_u16, udp, write_u16};
use crate::interface::{Mac, OuterDf, Tunnel};

/// What stands before the inner frame: Ethernet, IPv4, UDP and VXLAN.
pub(crate) const HEADERS: usize = at::VXLAN + 8;
/// By so much an outer IP packet is longer than the inner one.
pub(crate) const OVERHEAD: u16 = (ipv4::HEADER + udp::HEADER + 8 + ethernet::HEADER) as u16;
/// Where the inner frame begins.
const INNER: usize = HEADERS;
const UDP_NUMBER: u8 = 17;
const DONT_FRAGMENT: u16 = 0x4000;
/// Not congested, and the ends don't care.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
/// Congestion experienced.
const CE: u8 = 3;
/// The bits of these in the octet of DSCP and ECN.
pub(crate) const ECN: u8 = 3;

mod at {
    use super::{ethernet, ipv4, udp};
    pub(super) const TYPE: usize = 12;
    pub(super) const IP: usize = ethernet::HEADER;
    pub(super) const TOS: usize = IP + 1;
    pub(super) const TOTAL_LEN: usize = IP + 2;
    pub(super) const ID: usize = IP + 4;
    pub(super) const FRAGMENT: usize = IP + 6;
    pub(super) const TTL: usize = IP + 8;
    pub(super) const PROTOCOL: usize = IP + 9;
    pub(super) const CHECKSUM: usize = IP + 10;
    pub(super) const SRC: usize = IP + 12;
    pub(super) const DST: usize = IP + 16;
    pub(super) const UDP: usize = IP + ipv4::HEADER;
    pub(super) const UDP_DST: usize = UDP + 2;
    pub(super) const UDP_LEN: usize = UDP + 4;
    pub(super) const UDP_CHECKSUM: usize = UDP + 6;
    pub(super) const VXLAN: usize = UDP + udp::HEADER;
    pub(super) const VNI: usize = VXLAN + 4;
}

/// The number of the network is valid, and nothing else is said.
const FLAGS: u32 = 0x0800_0000;

/// What a packet to one end of a tunnel is put into: all that is the same for all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Envelope {
    headers: [u8; HEADERS],
    /// The sum of the IP header as it stands in `headers`.
    sum: u32,
    /// What is taken over from the inner packet's octet of DSCP and ECN, and from its time to live.
    tos_mask: u8,
    ttl_mask: u8,
    df_mask: u8,
    first_port: u16,
    ports: u32,
    checksum: bool,
}

impl Envelope {
    /// For packets through `tunnel` to `remote`, by the neighbour `to` on the underlay, sent by our `from` there.
    pub(crate) fn new(tunnel: &Tunnel, remote: Ipv4Addr, (from, to): (Mac, Mac)) -> Self {
        let mut headers = [0; HEADERS];
        headers[..6].copy_from_slice(&to.0);
        headers[6..at::TYPE].copy_from_slice(&from.0);
        headers[at::TYPE] = 0x08;
        headers[at::IP] = 0x45;
        headers[at::TOS] = tunnel.tos.unwrap_or(0) & !ECN;
        let df = tunnel.df == OuterDf::Set;
        write_u16(&mut headers, at::FRAGMENT, if df { DONT_FRAGMENT } else { 0 });
        headers[at::TTL] = tunnel.ttl.unwrap_or(0);
        headers[at::PROTOCOL] = UDP_NUMBER;
        headers[at::SRC..at::DST].copy_from_slice(&tunnel.local.octets());
        headers[at::DST..at::UDP].copy_from_slice(&remote.octets());
        write_u16(&mut headers, at::UDP_DST, tunnel.port);
        headers[at::VXLAN..at::VNI].copy_from_slice(&FLAGS.to_be_bytes());
        headers[at::VNI..].copy_from_slice(&(tunnel.vni << 8).to_be_bytes());
        let (first, last) = tunnel.source_ports;
        Self {
            headers,
            sum: u32::from(checksum::fold(checksum::sum(&headers[at::IP..at::UDP]))),
            tos_mask: if tunnel.tos.is_none() { 0xff } else { ECN },
            ttl_mask: if tunnel.ttl.is_none() { 0xff } else { 0 },
            df_mask: if tunnel.df == OuterDf::Inherit { (DONT_FRAGMENT >> 8) as u8 } else { 0 },
            first_port: first,
            ports: u32::from(last.saturating_sub(first)) + 1,
            checksum: tunnel.checksum,
        }
    }

    /// What is to stand before an inner frame, not complete yet.
    #[inline]
    pub(crate) fn headers(&self) -> &[u8; HEADERS] {
        &self.headers
    }

    /// Completes the headers of `packet`, before which [`headers`](Self::headers) were put: they are for the frame that
    /// follows, an IPv4 packet of the flow `flow`; `id` is the identification. `None` if that is no such frame, or too
    /// long.
    #[inline]
    pub(crate) fn complete(&self, packet: &mut [u8], flow: u64, id: u16) -> Option<()> {
        let len = u16::try_from(packet.len() - ethernet::HEADER).ok()?;
        let head: &mut [u8; INNER + ethernet::HEADER + ipv4::HEADER] = packet.first_chunk_mut()?;
        let tos = head[INNER + at::TOS] & self.tos_mask;
        let ttl = head[INNER + at::TTL] & self.ttl_mask;
        let df = head[INNER + at::FRAGMENT] & self.df_mask;
        head[at::TOS] |= tos;
        head[at::FRAGMENT] |= df;
        head[at::TTL] |= ttl;
        // As the kernel chooses it: the flow's hash as a fraction of the range.
        let port = ((u64::from(flow as u32) * u64::from(self.ports)) >> 32) as u16;
        let words = [u16::from(tos), len, id, u16::from(df) << 8, u16::from(ttl) << 8];
        let sum = words.into_iter().fold(self.sum, |sum, word| sum + u32::from(word));
        for (at, word) in [
            (at::TOTAL_LEN, len),
            (at::ID, id),
            (at::CHECKSUM, !checksum::fold(sum.into())),
            (at::UDP, self.first_port + port),
            (at::UDP_LEN, len - ipv4::HEADER as u16),
        ] {
            head[at..at + 2].copy_from_slice(&word.to_be_bytes());
        }
        if self.checksum {
            sign(packet);
        }
        Some(())
    }
}

/// Writes the UDP checksum.
#[cold]
fn sign(packet: &mut [u8]) {
    let len = read_u16(packet, at::UDP_LEN);
    let pseudo = checksum::sum(&packet[at::SRC..at::UDP]) + u64::from(UDP_NUMBER) + u64::from(len);
    let sum = !checksum::fold(pseudo + checksum::sum(&packet[at::UDP..]));
    write_u16(packet, at::UDP_CHECKSUM, if sum == 0 { 0xffff } else { sum });
}

/// By which a tunnel is known that ends here, as its headers have it: address and UDP port, and VXLAN header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct End {
    place: u64,
    vxlan: u64,
}

impl End {
    #[inline]
    fn new(address: [u8; 4], port: [u8; 2], vxlan: u64) -> Self {
        let (address, port) = (u32::from_ne_bytes(address), u16::from_ne_bytes(port));
        Self { place: u64::from(address) << 16 | u64::from(port), vxlan }
    }
}

impl From<&Tunnel> for End {
    fn from(tunnel: &Tunnel) -> Self {
        let vxlan = u64::from(FLAGS) << 32 | u64::from(tunnel.vni << 8);
        Self::new(tunnel.local.octets(), tunnel.port.to_be_bytes(), vxlan)
    }
}

/// The bytes at `at`, which is a constant: no check is left of it.
#[inline(always)]
#[allow(clippy::inline_always)] // the constant must meet the array's length
fn part<const N: usize>(bytes: &[u8; HEADERS], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

/// The tunnel that `frame` to `own` comes by, if it has the shape of VXLAN in a whole IPv4 packet without options, with an
/// intact header.
#[inline]
pub(crate) fn look(frame: &[u8], own: MacWord) -> Option<End> {
    let head: &[u8; HEADERS] = frame.first_chunk()?;
    let vxlan = u64::from_be_bytes(part(head, at::VXLAN));
    let shape = u32::from_le_bytes(part(head, at::TYPE)) & 0x00ff_ffff;
    let fragment = u16::from_be_bytes(part(head, at::FRAGMENT));
    if vxlan >> 32 != u64::from(FLAGS)
        || shape != 0x0045_0008
        || head[at::PROTOCOL] != UDP_NUMBER
        || fragment & !DONT_FRAGMENT != 0
        || !own.is_destination(part(head, 0))
    {
        return None;
    }
    let word = |at| u64::from(u32::from_ne_bytes(part(head, at)));
    let sum = word(at::IP) + word(at::ID) + word(at::TTL) + word(at::SRC) + word(at::DST);
    let end = End::new(part(head, at::DST), part(head, at::UDP_DST), vxlan);
    (checksum::fold(sum) == 0xffff).then_some(end)
}

/// Length of the frame within one that [`look`] has found; `None` if lengths contradict each other, or leave nothing for it.
#[inline]
pub(crate) fn inner_len(frame: &[u8]) -> Option<usize> {
    let head: &[u8; HEADERS] = frame.first_chunk()?;
    let [total, len] =
        [at::TOTAL_LEN, at::UDP_LEN].map(|at| usize::from(u16::from_be_bytes(part(head, at))));
    let fits = at::IP + total <= frame.len() && len + ipv4::HEADER <= total;
    len.checked_sub(HEADERS - at::UDP).filter(|len| fits && *len >= ethernet::HEADER)
}

/// ECN field of the outside.
#[inline]
pub(crate) fn outer_ecn(frame: &[u8]) -> u8 {
    frame.get(at::TOS).map_or(NOT_ECT, |tos| tos & ECN)
}

/// Whether the UDP checksum around an inner frame of `len` bytes is right, or none.
#[inline]
pub(crate) fn is_intact(frame: &[u8], len: usize) -> bool {
    let Some(head): Option<&[u8; HEADERS]> = frame.first_chunk() else { return false };
    if part(head, at::UDP_CHECKSUM) == [0; 2] {
        return true;
    }
    let Some(datagram) = frame.get(at::UDP..HEADERS + len) else { return false };
    let word = |at| u64::from(u32::from_le_bytes(part(head, at)));
    let len = u16::from_le_bytes(part(head, at::UDP_LEN));
    let pseudo = word(at::SRC) + word(at::DST) + (u64::from(UDP_NUMBER) << 8) + u64::from(len);
    checksum::fold(checksum::sum_swapped(pseudo, datagram)) == 0xffff
}

/// Whether the UDP checksum around an inner frame of `len` bytes, which is not right, says nothing: the sender has left it,
/// or that of the packet within, to its (virtual) card.
pub(crate) fn is_left_to_card(frame: &[u8], len: usize) -> bool {
    let addresses = checksum::sum(&frame[at::SRC..at::UDP]);
    let udp_len = u64::from(read_u16(frame, at::UDP_LEN));
    let pseudo = checksum::fold(addresses + u64::from(UDP_NUMBER) + udp_len);
    read_u16(frame, at::UDP_CHECKSUM) == pseudo
        || has_partial_checksum(&frame[INNER..INNER + len]).unwrap_or(false)
}

/// Whether the TCP or UDP checksum of the packet in an Ethernet frame is the sum of its pseudo-header only. The sum
/// around it holds for the packet as it would leave a card.
fn has_partial_checksum(frame: &[u8]) -> Option<bool> {
    let ip = frame.get(ethernet::HEADER..)?;
    let header = usize::from(ip.first()? & 15) * 4;
    let protocol = *ip.get(9)?;
    let at = header
        + match protocol {
            6 => 16,
            UDP_NUMBER => 6,
            _ => return Some(false),
        };
    let (addresses, field) = (ip.get(12..20)?, ip.get(at..at + 2)?);
    let len = usize::from(read_u16(ip, 2)).checked_sub(header)?;
    let sum = checksum::sum(addresses) + u64::from(protocol) + len as u64;
    Some(read_u16(field, 0) == checksum::fold(sum))
}

/// The ECN field of a packet that comes out of a tunnel, by its own and the outer one (RFC 6040 section 4.2).
/// `None`: it must be dropped.
pub(crate) const fn combined_ecn(inner: u8, outer: u8) -> Option<u8> {
    match (inner, outer) {
        (NOT_ECT, CE) => None,
        (ECT_0 | ECT_1, CE) => Some(CE),
        (ECT_0, ECT_1) => Some(ECT_1),
        (inner, _) => Some(inner),
    }
}
