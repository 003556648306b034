//! What must hold for every packet that the gateway sends?

use std::collections::HashMap;
use std::net::Ipv4Addr;

use dataplane::interface::InterfaceId;

use crate::gateway::{NODE_MAC, OUTSIDE, OWN_MAC, PODS, ROUTER_MAC, Setup};
use crate::knobs::STATIC;
use crate::look::Look;

/// The Ethernet address that hosts send from.
const SENDER_MAC: [u8; 6] = [2, 9, 9, 9, 9, 9];

/// What is known about the story so far.
#[derive(Debug, Default)]
pub struct Oracle {
    /// Nothing damaged has arrived yet.
    clean: bool,
    /// Datagrams of which fragments were sent.
    parts: HashMap<(InterfaceId, Ipv4Addr, Ipv4Addr, u8, u16), Parts>,
}

/// The fragments of a datagram that were sent, by offset; with the last one comes the length.
#[derive(Debug, Default)]
struct Parts {
    pieces: Vec<(usize, Vec<u8>)>,
    len: Option<usize>,
}

impl Parts {
    /// The whole, if all is there and nothing twice.
    fn whole(&mut self) -> Option<Vec<u8>> {
        let len = self.len?;
        self.pieces.sort();
        self.pieces.dedup();
        let mut bytes = Vec::new();
        for (offset, piece) in &self.pieces {
            if *offset != bytes.len() {
                return None;
            }
            bytes.extend(piece);
        }
        (bytes.len() == len).then_some(bytes)
    }
}

/// Whether the address is one of a pod, or of another host inside.
fn is_internal(addr: Ipv4Addr) -> bool {
    addr.octets()[0] == PODS
}

/// Whether traffic with this remote is not translated.
fn is_exempt(addr: Ipv4Addr) -> bool {
    addr.octets()[..3] == [198, 51, 100]
}

impl Oracle {
    /// Of a story in which nothing has happened yet.
    pub fn new() -> Self {
        Self { clean: true, parts: HashMap::new() }
    }

    /// Something arrives that no host would send: checksums of fragments can't be judged from now on.
    pub fn dirty(&mut self) {
        self.clean = false;
    }

    /// Judges a frame that was sent by `interface` after `arrived` had arrived.
    pub fn judge(&mut self, setup: &Setup, interface: InterfaceId, frame: &[u8], arrived: &[u8]) {
        if frame.get(12..14) == Some(&[0x08, 0x06]) {
            return;
        }
        assert_eq!(frame[6..12], OWN_MAC, "source on Ethernet");
        assert!(
            [NODE_MAC, ROUTER_MAC, SENDER_MAC].iter().any(|mac| frame[..6] == *mac)
                || frame.get(..6) == arrived.get(6..12),
            "destination on Ethernet"
        );
        let look = Look::at(frame).expect("what is sent is IPv4");
        assert!(look.header_is_right(), "header checksum");
        let len = look.header.len() + look.payload.len();
        let mtu = setup.mtu[interface.index()];
        assert!(len <= usize::from(mtu), "{len} bytes do not fit the MTU of {mtu}");
        self.judge_addresses(setup, interface, &look);
        let arrived = Look::at(arrived);
        self.judge_checksum(interface, &look, arrived.as_ref());
        if let Some(arrived) = arrived {
            judge_data(&look, &arrived);
        }
    }

    fn judge_addresses(&self, setup: &Setup, interface: InterfaceId, look: &Look) {
        if interface == OUTSIDE {
            if is_exempt(look.dst()) {
                return;
            }
            let quote = look.quote();
            let quoted = quote.iter().flat_map(|quote| [quote.src(), quote.dst()]);
            for addr in [look.src(), look.dst()].into_iter().chain(quoted) {
                assert!(!is_internal(addr), "{addr} is seen outside: {look:?}");
            }
            let public = look.src().octets();
            let is_pool = public[..3] == [203, 0, 113]
                && (10..10 + setup.addresses).contains(&public[3].into());
            assert!(
                is_pool || look.src() == STATIC || look.protocol() == 1,
                "translated to {}",
                look.src()
            );
        } else if let Some(quote) = look.quote()
            && !is_exempt(look.src())
            && !is_exempt(quote.dst())
            && self.clean
        {
            assert_eq!(quote.src(), look.dst(), "an error is about what its receiver sent");
        }
    }

    fn judge_checksum(&mut self, interface: InterfaceId, look: &Look, arrived: Option<&Look>) {
        let was_right = arrived.and_then(Look::payload_is_right) == Some(true);
        if !look.is_fragment() {
            let right = look.payload_is_right();
            assert!(right != Some(false) || !(self.clean || was_right), "checksum of {look:?}");
            return;
        }
        let key = (interface, look.src(), look.dst(), look.protocol(), look.id());
        let (offset, more) = look.part();
        let parts = self.parts.entry(key).or_default();
        if !more {
            parts.len = Some(offset + look.payload.len());
        }
        parts.pieces.push((offset, look.payload.to_vec()));
        if let Some(whole) = parts.whole() {
            self.parts.remove(&key);
            let right = look.sum_is_right(&whole);
            assert!(right != Some(false) || !self.clean, "checksum over the fragments: {look:?}");
        }
    }
}

/// What TCP and UDP carry is not changed on the way.
fn judge_data(look: &Look, arrived: &Look) {
    let both_whole = !look.is_fragment() && !arrived.is_fragment();
    let answered = look.dst() == arrived.src();
    // A reset that was due at the same time is another segment.
    let same = look.protocol() != 6 || look.payload.get(4..14) == arrived.payload.get(4..14);
    if both_whole && look.protocol() == arrived.protocol() && !answered && same {
        assert_eq!(look.data(), arrived.data(), "what the packet carries");
    }
}
