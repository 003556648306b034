//! How is a packet cut into pieces that fit a link?
//!
//! Into as few as possible (RFC 1812 4.2.2.7), in order (RFC 4787 REQ-13a). A fragment is cut like a whole
//! packet: its pieces are fragments of the same datagram.

use super::EIGHT;
use crate::wire::{FragmentField, Ipv4, Malformed, ipv4};

/// Longest IPv4 header.
const MAX_HEADER: usize = 60;
/// Set in the type of an option that every fragment carries (RFC 791 section 3.1).
const COPIED: u8 = 0x80;
/// The options of one byte: end of the list, and no operation.
const END: u8 = 0;
const NO_OPERATION: u8 = 1;

/// The pieces of a packet, in order.
#[derive(Debug)]
pub(crate) struct Pieces<'a> {
    header: &'a [u8],
    payload: &'a [u8],
    later_header: [u8; MAX_HEADER],
    later_len: usize,
    fragment: FragmentField,
    mtu: usize,
    /// Where the next piece begins.
    at: usize,
}

/// One piece: an IP packet that is not put together yet.
#[derive(Debug)]
pub(crate) struct Piece<'a> {
    header: [u8; MAX_HEADER],
    header_len: usize,
    payload: &'a [u8],
    fragment: FragmentField,
}

impl<'a> Pieces<'a> {
    /// The pieces of the IP packet at the start of `bytes` for a link that carries `mtu` bytes, which must
    /// be room for a header and eight bytes.
    pub(crate) fn of(bytes: &'a [u8], mtu: u16) -> Result<Self, Malformed> {
        let ip = Ipv4::new_checked(bytes)?;
        let (header_len, total, fragment) = (ip.header_len(), ip.total_len(), ip.fragment());
        if usize::from(mtu) < header_len + EIGHT {
            return Err(Malformed);
        }
        let header = &bytes[..header_len];
        let (later_header, later_len) = later_header(header);
        Ok(Self {
            header,
            payload: &bytes[header_len..usize::from(total)],
            later_header,
            later_len,
            fragment,
            mtu: mtu.into(),
            at: 0,
        })
    }
}

impl<'a> Iterator for Pieces<'a> {
    type Item = Piece<'a>;

    fn next(&mut self) -> Option<Piece<'a>> {
        let rest = self.payload.get(self.at..).filter(|rest| !rest.is_empty())?;
        let (mut header, mut header_len) = (self.later_header, self.later_len);
        if self.at == 0 {
            header_len = self.header.len();
            header[..header_len].copy_from_slice(self.header);
        }
        let room = self.mtu - header_len;
        let len = if rest.len() <= room { rest.len() } else { room / EIGHT * EIGHT };
        let fragment = self.fragment.part(self.at as u16, len < rest.len());
        self.at += len;
        Some(Piece { header, header_len, payload: &rest[..len], fragment })
    }
}

impl Piece<'_> {
    /// Its length as an IP packet.
    pub(crate) fn len(&self) -> usize {
        self.header_len + self.payload.len()
    }

    /// Writes it to the start of `bytes`.
    pub(crate) fn write(&self, bytes: &mut [u8]) -> Result<(), Malformed> {
        let len = self.len();
        let bytes = bytes.get_mut(..len).ok_or(Malformed)?;
        bytes[..self.header_len].copy_from_slice(&self.header[..self.header_len]);
        bytes[self.header_len..].copy_from_slice(self.payload);
        ipv4::make_fragment(bytes, self.header_len, self.fragment)
    }
}

/// The header of all pieces but the first: only the options that say so are copied.
fn later_header(header: &[u8]) -> ([u8; MAX_HEADER], usize) {
    let mut later = [END; MAX_HEADER];
    later[..ipv4::HEADER].copy_from_slice(&header[..ipv4::HEADER]);
    let mut len = ipv4::HEADER;
    let mut options = &header[ipv4::HEADER..];
    while let [kind, tail @ ..] = options {
        let option_len = match *kind {
            END => break,
            NO_OPERATION => 1,
            _ => tail.first().map_or(0, |len| usize::from(*len)),
        };
        if option_len == 0 || option_len > options.len() {
            break;
        }
        let (option, rest) = options.split_at(option_len);
        if kind & COPIED != 0 {
            later[len..len + option_len].copy_from_slice(option);
            len += option_len;
        }
        options = rest;
    }
    (later, len.next_multiple_of(4))
}
