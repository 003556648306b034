//! What changes in a packet, and by how much its checksums change.

use crate::endpoint::{Endpoint, Protocol};

/// A change of a one's-complement sum, to be added to a checksum (RFC 1624 section 3, equation 3):
/// `checksum' = !(!checksum + delta)`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumDelta(pub u16);

impl ChecksumDelta {
    /// The change from replacing the 16-bit words `old` by `new`: the sum of `!old + new`.
    fn of(words: impl IntoIterator<Item = (u16, u16)>) -> Self {
        let sum: u32 = words.into_iter().map(|(old, new)| u32::from(!old) + u32::from(new)).sum();
        let folded = (sum & 0xffff) + (sum >> 16);
        Self(((folded & 0xffff) + (folded >> 16)) as u16)
    }

    /// The changes of the IPv4 header's checksum and of the payload's, where `old` becomes `new` in packets of
    /// `protocol`.
    pub(crate) fn of_change(protocol: Protocol, old: Endpoint, new: Endpoint) -> (Self, Self) {
        let addresses = address_words(old, new);
        let header = Self::of(addresses);
        let payload = match protocol {
            // No pseudo-header; the identifier stands for the port.
            Protocol::Icmp => Self::of([(old.port, new.port)]),
            Protocol::Tcp | Protocol::Udp => {
                let [high, low] = addresses;
                Self::of([high, low, (old.port, new.port)])
            }
            // Nothing is known of what follows the IP header.
            Protocol::Other(_) => Self::default(),
        };
        (header, payload)
    }
}

/// The addresses and ports that a packet of one direction leaves with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Rewrite {
    /// New source.
    pub src: Endpoint,
    /// New destination.
    pub dst: Endpoint,
    /// Change of the IPv4 header checksum from the addresses (not from the TTL).
    pub header: ChecksumDelta,
    /// Change of the TCP, UDP or ICMP checksum.
    pub payload: ChecksumDelta,
}

fn address_words(old: Endpoint, new: Endpoint) -> [(u16, u16); 2] {
    let (old, new) = (u32::from(old.addr), u32::from(new.addr));
    [((old >> 16) as u16, (new >> 16) as u16), (old as u16, new as u16)]
}

impl Rewrite {
    /// The rewrite of packets that arrive as `from` to leave as `to` (source, destination).
    pub fn new(protocol: Protocol, from: (Endpoint, Endpoint), to: (Endpoint, Endpoint)) -> Self {
        let addresses = address_words(from.0, to.0).into_iter().chain(address_words(from.1, to.1));
        let header = ChecksumDelta::of(addresses.clone());
        let ports = [(from.0.port, to.0.port), (from.1.port, to.1.port)];
        let payload = match protocol {
            // No pseudo-header; the identifier stands for the port, the other side's is always 0.
            Protocol::Icmp => ChecksumDelta::of(ports),
            Protocol::Tcp | Protocol::Udp => ChecksumDelta::of(addresses.chain(ports)),
            // Nothing is known of what follows the IP header.
            Protocol::Other(_) => ChecksumDelta::default(),
        };
        Self { src: to.0, dst: to.1, header, payload }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn sum(words: &[u16]) -> u16 {
        let mut sum: u32 = words.iter().map(|&w| u32::from(w)).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }

    fn apply(checksum: u16, delta: ChecksumDelta) -> u16 {
        !sum(&[!checksum, delta.0])
    }

    #[test]
    fn one_word_exhaustively_against_the_full_sum() {
        // All old and new values of one word in steps that are coprime to 2^16, beside a fixed rest.
        for old in (0..=u16::MAX).step_by(251) {
            for new in (0..=u16::MAX).step_by(241) {
                for rest in [0u16, 1, 0x7fff, 0xfffe] {
                    // RFC 1624: a sum of all zero words can't occur in a real packet.
                    if sum(&[old, rest]) == 0 || sum(&[new, rest]) == 0 {
                        continue;
                    }
                    let got = apply(!sum(&[old, rest]), ChecksumDelta::of([(old, new)]));
                    assert_eq!(got, !sum(&[new, rest]), "{old:04x} -> {new:04x}, rest {rest:04x}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn there_and_back_is_the_same(a in any::<[u32; 4]>(), ports in any::<[u16; 4]>(), rest in 1u16..) {
            let e = |addr: u32, port| Endpoint::new(addr.into(), port);
            let from = (e(a[0], ports[0]), e(a[1], ports[1]));
            let to = (e(a[2], ports[2]), e(a[3], ports[3]));
            for protocol in Protocol::ALL {
                let there = Rewrite::new(protocol, from, to);
                let back = Rewrite::new(protocol, to, from);
                let checksum = !rest;
                prop_assert_eq!(apply(apply(checksum, there.header), back.header), checksum);
                prop_assert_eq!(apply(apply(checksum, there.payload), back.payload), checksum);
            }
        }
    }
}
