//! Datagrams in pieces: a sender that fragments, and a receiver that puts together. Neither shares code with
//! what it tests.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;

use etherparse::{IpFragOffset, Ipv4HeaderSlice};

use super::packets::{seen, udp};
use super::rig::{INSIDE, Rig, SERVER, pod};

/// The IPv4 header of a frame, whose checksum is right, and its payload.
pub(super) fn ip(frame: &[u8]) -> (etherparse::Ipv4Header, &[u8]) {
    let header = Ipv4HeaderSlice::from_slice(&frame[14..]).expect("an IPv4 header").to_header();
    assert_eq!(header.calc_header_checksum(), header.header_checksum, "header checksum");
    let start = 14 + header.header_len();
    (header.clone(), &frame[start..14 + usize::from(header.total_len)])
}

fn frame(like: &[u8], mut header: etherparse::Ipv4Header, payload: &[u8]) -> Vec<u8> {
    header.set_payload_len(payload.len()).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = like[..14].to_vec();
    header.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    frame
}

/// The packet with another identification, DF as given.
pub(super) fn with_id(packet: &[u8], id: u16, dont_fragment: bool) -> Vec<u8> {
    let (mut header, payload) = ip(packet);
    (header.identification, header.dont_fragment) = (id, dont_fragment);
    frame(packet, header, payload)
}

/// What a sender makes of `packet`: pieces of `size` bytes (a multiple of 8) of its payload.
pub(super) fn pieces(packet: &[u8], id: u16, size: usize) -> Vec<Vec<u8>> {
    let (mut header, payload) = ip(packet);
    (header.identification, header.dont_fragment) = (id, false);
    let count = payload.len().div_ceil(size);
    let piece = |(n, part): (usize, &[u8])| {
        let mut header = header.clone();
        header.fragment_offset = IpFragOffset::try_new((n * size / 8) as u16).unwrap();
        header.more_fragments = n + 1 < count;
        frame(packet, header, part)
    };
    payload.chunks(size).enumerate().map(piece).collect()
}

/// What tells datagrams apart.
type Key = ([u8; 4], [u8; 4], u8, u16);

/// A receiver: keeps pieces until a datagram is whole.
#[derive(Default)]
pub(super) struct Receiver {
    open: HashMap<Key, BTreeMap<usize, (Vec<u8>, bool)>>,
}

impl Receiver {
    /// Takes a frame; returns the packet that it makes whole, as one frame.
    pub(super) fn take(&mut self, piece: &[u8]) -> Option<Vec<u8>> {
        let (mut header, payload) = ip(piece);
        let key = (header.source, header.destination, header.protocol.0, header.identification);
        let start = usize::from(header.fragment_offset.value()) * 8;
        let parts = self.open.entry(key).or_default();
        let part = (payload.to_vec(), header.more_fragments);
        if let Some(before) = parts.insert(start, part.clone()) {
            assert_eq!(before, part, "two datagrams are mixed, or a copy was changed");
        }
        let mut whole = Vec::new();
        for (start, (bytes, more)) in parts.iter() {
            assert!(*start >= whole.len(), "pieces overlap");
            if *start > whole.len() {
                return None;
            }
            whole.extend_from_slice(bytes);
            if !more {
                self.open.remove(&key);
                header.more_fragments = false;
                header.fragment_offset = IpFragOffset::ZERO;
                return Some(frame(piece, header, &whole));
            }
        }
        None
    }

    /// The packets that some frames make whole.
    pub(super) fn take_all(&mut self, frames: &[Vec<u8>]) -> Vec<Vec<u8>> {
        frames.iter().filter_map(|frame| self.take(frame)).collect()
    }

    /// Datagrams of which some pieces have come, but not all.
    pub(super) fn unfinished(&self) -> usize {
        self.open.len()
    }
}

/// All orders of `0..n`.
pub(super) fn orders(n: usize) -> Vec<Vec<usize>> {
    if n == 0 {
        return vec![Vec::new()];
    }
    let shorter = orders(n - 1);
    let insert = |order: &Vec<usize>, at: usize| {
        let mut order = order.clone();
        order.insert(at, n - 1);
        order
    };
    shorter.iter().flat_map(|order| (0..n).map(move |at| insert(order, at))).collect()
}

/// Endpoints by which pod 1 reaches pod 2 through their public addresses: where pod 1 sends from, what pod 2
/// sees, and where pod 1 sends to. Pod 2 listens at port 6000.
pub(super) fn turning_back(workers: u16) -> (Rig, [(Ipv4Addr, u16); 3]) {
    let mut rig = Rig::new(workers);
    let mut public = |n: u8| {
        let request = udp((pod(n), 6000), (SERVER, 5300), b"q");
        seen(&rig.one(INSIDE, &request).unwrap().1).src
    };
    let (caller, called) = (public(1), public(2));
    let block = |port: u16| port & !63..=port | 63;
    // Pod 2 lets everything in that pod 1 may look like: it has a session to it.
    for port in block(caller.1) {
        rig.one(INSIDE, &udp((pod(2), 6000), (caller.0, port), b"come"));
    }
    for own in 6001..6100 {
        for port in block(called.1) {
            let (from, to) = ((pod(1), own), (called.0, port));
            if let Some((interface, packet)) = rig.one(INSIDE, &udp(from, to, b"here")) {
                assert_eq!((interface, seen(&packet).dst), (INSIDE, (pod(2), 6000)));
                return (rig, [from, seen(&packet).src, to]);
            }
        }
    }
    panic!("pod 1 never looked like what pod 2 lets in");
}
