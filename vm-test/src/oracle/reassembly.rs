//! How do the oracles look at datagrams that travel in fragments?
//!
//! What came to the gateway in fragments may leave it in others, or whole; so both captures are put
//! together before they are compared. Only a whole datagram has a transport checksum.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use super::Ipv4;
use super::checksums::sum;

/// What fragments of one datagram share (RFC 791).
type Name = (Ipv4Addr, Ipv4Addr, u8, u16);

/// The fragments of one datagram so far.
#[derive(Debug, Default)]
struct Parts {
    header: Option<Vec<u8>>,
    data: BTreeMap<usize, Vec<u8>>,
    end: Option<usize>,
}

/// Puts datagrams together.
#[derive(Debug, Default)]
pub struct Reassembly {
    pending: HashMap<Name, Parts>,
}

impl Reassembly {
    /// Takes one packet; yields the datagram that it completes, or itself if it is no fragment.
    pub fn push(&mut self, packet: &Ipv4<'_>) -> Option<Vec<u8>> {
        if !packet.is_fragment() {
            return Some([packet.header.slice(), packet.body].concat());
        }
        let id = packet.header.identification();
        let name = (packet.source(), packet.destination(), packet.protocol(), id);
        let parts = self.pending.entry(name).or_default();
        let offset = packet.offset();
        if offset == 0 {
            parts.header = Some(packet.header.slice().to_vec());
        }
        if !packet.header.more_fragments() {
            parts.end = Some(offset + packet.body.len());
        }
        parts.data.insert(offset, packet.body.to_vec());
        let whole = parts.whole()?;
        self.pending.remove(&name);
        Some(whole)
    }

    /// How many datagrams lack fragments.
    pub fn incomplete(&self) -> usize {
        self.pending.len()
    }
}

impl Parts {
    fn whole(&self) -> Option<Vec<u8>> {
        let (header, end) = (self.header.as_ref()?, self.end?);
        let mut body: Vec<u8> = Vec::with_capacity(end);
        for (offset, data) in &self.data {
            let known = body.len().checked_sub(*offset)?;
            body.extend(data.get(known..).unwrap_or_default());
        }
        if body.len() != end {
            return None;
        }
        let mut whole = header.clone();
        whole[2..4].copy_from_slice(&u16::try_from(header.len() + end).ok()?.to_be_bytes());
        if whole[6] & 0x40 != 0 {
            // A fragment is never atomic: its identification may change, though DF says otherwise.
            whole[4..6].fill(0);
        }
        // Neither more fragments nor an offset; DF as it was.
        whole[6] &= 0xc0;
        whole[7] = 0;
        whole[10..12].fill(0);
        let checksum = !sum(&whole);
        whole[10..12].copy_from_slice(&checksum.to_be_bytes());
        whole.extend(body);
        Some(whole)
    }
}
