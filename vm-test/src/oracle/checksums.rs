//! Oracle (a): is every checksum right in what the gateway sent?

use super::packet::{ICMP, TCP, UDP};
use super::{Faults, Ipv4, Kind, Scope, Trace};

/// The oracle's name in [`Faults`].
pub const NAME: &str = "a: checksums";

/// Checks translated packets from `gateway`. Others may be unfinished: on a virtual link the
/// sender's kernel leaves transport checksums to a card that does not exist.
pub fn check(trace: &Trace, gateway: [u8; 6], scope: &Scope, faults: &mut Faults) {
    for packet in trace.packets() {
        let from_gateway = packet.source_mac == gateway;
        match &packet.kind {
            Kind::Ipv4(ip) if from_gateway && is_ours(ip, scope) => match fault(ip) {
                Some(QUOTED) if quotes_a_sender(trace, gateway, ip) => {}
                Some(what) => faults.add(NAME, || format!("{what}: {ip}")),
                None => {}
            },
            Kind::Malformed => faults.add(NAME, || "malformed".to_owned()),
            _ => {}
        }
    }
}

/// Whether an error quotes, to the byte, a packet that came to the gateway on the same link: its
/// sender may have left the checksum to a card that does not exist.
fn quotes_a_sender(trace: &Trace, gateway: [u8; 6], error: &Ipv4<'_>) -> bool {
    let Some(quote) = error.body.get(8..) else { return false };
    trace.packets().filter(|packet| packet.source_mac != gateway).any(|packet| {
        matches!(packet.kind, Kind::Ipv4(ip) if {
            let header = ip.header.slice();
            quote.strip_prefix(header).is_some_and(|body| ip.body.starts_with(body))
        })
    })
}

/// Packets that left natgate: from a public address, or untranslated ones between pod and
/// remote. The gateway's own traffic is its kernel's.
fn is_ours(ip: &Ipv4<'_>, scope: &Scope) -> bool {
    let between = |pod, remote| scope.is_internal(pod) && !scope.is_internal(remote);
    scope.is_public(ip.source())
        || between(ip.source(), ip.destination())
        || between(ip.destination(), ip.source())
}

/// The fault of a quoted packet.
pub const QUOTED: &str = "quoted checksum";

/// The first wrong checksum of a packet, the quoted ones included.
pub fn fault(ip: &Ipv4<'_>) -> Option<&'static str> {
    if sum(ip.header.slice()) != 0xffff {
        return Some("IPv4 header checksum");
    }
    if !ip.complete || ip.is_fragment() {
        return None;
    }
    let pseudo = [
        u32::from(sum(&ip.header.source())),
        u32::from(sum(&ip.header.destination())),
        u32::from(ip.protocol()),
        ip.body.len() as u32,
    ];
    let with_pseudo = || fold(pseudo.iter().sum::<u32>() + u32::from(sum(ip.body))) == 0xffff;
    match ip.protocol() {
        TCP if !with_pseudo() => Some("TCP checksum"),
        UDP if ip.word(6) != Some(0) && !with_pseudo() => Some("UDP checksum"),
        ICMP if sum(ip.body) != 0xffff => Some("ICMP checksum"),
        ICMP => ip.quoted().and_then(|quoted| fault(&quoted)).map(|_| QUOTED),
        _ => None,
    }
}

/// Ones' complement sum (RFC 1071).
pub fn sum(bytes: &[u8]) -> u16 {
    let mut words = bytes.chunks_exact(2);
    let mut total: u64 =
        words.by_ref().map(|word| u64::from(u16::from_be_bytes([word[0], word[1]]))).sum();
    if let [last] = words.remainder() {
        total += u64::from(*last) << 8;
    }
    fold(
        (total % 0xffff) as u32
            + if total > 0 && total.is_multiple_of(0xffff) { 0xffff } else { 0 },
    )
}

fn fold(mut total: u32) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}
