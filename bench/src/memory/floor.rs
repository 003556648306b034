//! The floor: what any NAT does at least whose sessions don't fit the cache. A keyed hash of the header's words, one
//! line of an index, one line of a session that the first one leads to, other addresses and ports, and a time and a
//! count in the session's line. No state, no policy, no timer, nothing verified: a NAT it is not.
//!
//! Lines are read for a whole burst side by side, from memory in huge pages, as natgate's are: 16 bytes of index and
//! 128 bytes of session for each session, of which a direction uses half.

use anyhow::{Context, Result};
use dataplane::interface::Mac;
use dataplane::io::{self, BURST, PacketIo, Received};
use dataplane::memory::{Frame, MemoryIo};
use dataplane::wire::Ethernet;
use dataplane::xsk::ask_for_huge_pages;

use super::Way;
use super::limit::other_side;
use crate::gateway::OWN_MAC;

/// Index lines hold four sessions: 16 bytes each.
const SESSIONS_A_LINE: usize = 4;
const KEY: u64 = 0x9e37_79b9_7f4a_7c15;
/// Source address in the frame: then come the destination's, and the ports.
const ADDRESSES: usize = 26;

#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u64; 8]);

/// Two lines a packet.
#[derive(Debug)]
pub struct Floor {
    /// Where packets come from and go to.
    pub io: MemoryIo,
    burst: Vec<Received<Frame>>,
    hashes: Vec<u64>,
    index: Vec<Line>,
    sessions: Vec<Line>,
    /// Makes the time of each turn another one.
    turns: u64,
}

impl Floor {
    /// One with `frames` frames, and as much memory as `sessions` sessions take.
    pub fn new(frames: usize, sessions: u32) -> Result<Self> {
        let sessions = sessions as usize;
        Ok(Self {
            io: MemoryIo::new(frames)?,
            burst: Vec::with_capacity(BURST),
            hashes: Vec::with_capacity(BURST),
            index: lines(sessions.div_ceil(SESSIONS_A_LINE)),
            sessions: lines(2 * sessions),
            turns: 0,
        })
    }

    /// One turn; returns the packets forwarded.
    #[inline(never)]
    pub fn turn(&mut self, way: Way) -> Result<usize> {
        let mut burst = std::mem::take(&mut self.burst);
        let packets = self.io.receive(BURST, &mut burst);
        io::touch_headers(&self.io, &burst);
        self.hashes.clear();
        for received in &burst {
            self.hashes.push(hash(self.io.bytes(&received.frame)).context("a short frame")?);
        }
        // The index line says where the session is: nothing can be read of that before.
        for hash in &mut self.hashes {
            let line = &self.index[scaled(*hash, self.index.len())];
            *hash = hash.rotate_left(32) ^ line.0[*hash as usize % 8];
        }
        let mut seen = 0;
        for hash in &self.hashes {
            seen ^= self.sessions[half(*hash, self.sessions.len(), way)].0[0];
        }
        std::hint::black_box(seen);
        self.turns += 1;
        let places = std::mem::take(&mut self.hashes);
        for (Received { mut frame, interface }, hash) in burst.drain(..).zip(&places) {
            let at = half(*hash, self.sessions.len(), way);
            let line = &mut self.sessions[at].0;
            let (to, mac) = other_side(interface);
            let bytes = self.io.bytes_mut(&mut frame);
            let len = bytes.len() as u64;
            if let Ok(mut ethernet) = Ethernet::new_checked(&mut *bytes) {
                ethernet.set_addresses(mac, Mac(OWN_MAC));
            }
            rewrite(bytes, way, line[1]).context("a short frame")?;
            line[6] = self.turns;
            line[7] = line[7].wrapping_add(len);
            anyhow::ensure!(self.io.transmit(to, frame), "the floor forwards everything");
        }
        (self.burst, self.hashes) = (burst, places);
        self.io.flush();
        Ok(packets)
    }
}

fn lines(count: usize) -> Vec<Line> {
    let mut lines: Vec<Line> = Vec::with_capacity(count);
    let start = lines.as_ptr().expose_provenance();
    // Without huge pages it is slower, as natgate is.
    let _ = ask_for_huge_pages(start..start + count * size_of::<Line>());
    lines.extend((0..count as u64).map(|n| Line([n.wrapping_mul(KEY); 8])));
    lines
}

fn scaled(hash: u64, len: usize) -> usize {
    ((u128::from(hash) * len as u128) >> 64) as usize
}

fn half(hash: u64, len: usize, way: Way) -> usize {
    2 * scaled(hash, len / 2) + usize::from(way == Way::In)
}

/// A folded multiply of the words that tell flows apart.
fn hash(frame: &[u8]) -> Option<u64> {
    let (addresses, rest) = frame.get(ADDRESSES..)?.split_first_chunk()?;
    let ports = u32::from_ne_bytes(*rest.first_chunk()?);
    let product =
        u128::from(u64::from_ne_bytes(*addresses) ^ KEY) * u128::from(u64::from(ports) ^ !KEY);
    Some(product as u64 ^ (product >> 64) as u64)
}

/// Another address and port, a lower time to live, and other checksums.
fn rewrite(frame: &mut [u8], way: Way, word: u64) -> Option<()> {
    let frame: &mut [u8; 42] = frame.first_chunk_mut()?;
    let [a, b, c, d, port @ .., e, f] = word.to_ne_bytes();
    let (address, at) = if way == Way::Out { (26, 34) } else { (30, 36) };
    frame[address..address + 4].copy_from_slice(&[a, b, c, d]);
    frame[at..at + 2].copy_from_slice(&port);
    frame[22] = frame[22].wrapping_sub(1);
    for at in [24, 40] {
        let old = u16::from_ne_bytes([frame[at], frame[at + 1]]);
        let new = old.wrapping_add(u16::from_ne_bytes([e, f])).to_ne_bytes();
        frame[at..at + 2].copy_from_slice(&new);
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::gateway::{INSIDE, OUTSIDE, ROUTER_MAC};

    #[test]
    fn flows_are_spread_over_all_of_the_memory() {
        let frame = |n: u16| {
            let mut frame = [0; 64];
            frame[34..36].copy_from_slice(&n.to_be_bytes());
            frame
        };
        let places = (0..1000).map(|n| half(hash(&frame(n)).unwrap(), 64, Way::In));
        let mut places: Vec<_> = places.collect();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places, (0..32).map(|n| 2 * n + 1).collect::<Vec<_>>());
    }

    #[test]
    fn a_packet_leaves_with_other_addresses() {
        let mut floor = Floor::new(4, 1000).unwrap();
        let frame = [5; 60];
        assert!(floor.io.inject(INSIDE, &frame));
        assert_eq!(floor.turn(Way::Out).unwrap(), 1);
        let (to, sent) = floor.io.take_sent().unwrap();
        assert_eq!((to, &sent[..6]), (OUTSIDE, &ROUTER_MAC[..]));
        assert_ne!(sent[26..30], frame[26..30]);
        assert_eq!(sent[30..34], frame[30..34]);
    }
}
