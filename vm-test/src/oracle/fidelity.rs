//! Oracle (d): is what should not change bit-identical, and the TTL one less?
//!
//! Each packet that left the gateway on one link must have an original that entered on the other
//! link before. Both are reduced to what translation must keep: everything but the pod's address
//! and port, the checksums and one hop of TTL. Since the reduced forms are equal, a difference in
//! any other bit shows as a packet without original.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddrV4;
use std::time::Duration;

use super::packet::{ECHO_REPLY, ICMP, TCP, UDP};
use super::{Faults, Ipv4, Kind, Scope, Trace};

/// The oracle's name in [`Faults`].
pub const NAME: &str = "d: fidelity";

const RST: u8 = 4;

/// A translated packet and the endpoints that its two forms show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// When the packet left the gateway.
    pub time: Duration,
    /// Protocol number.
    pub protocol: u8,
    /// The pod's endpoint; none if packets of several pods look the same.
    pub internal: Option<SocketAddrV4>,
    /// What stands for it outside.
    pub public: SocketAddrV4,
    /// The other side.
    pub remote: SocketAddrV4,
    /// Whether it opens a TCP connection (a SYN from the pod).
    pub opens: bool,
}

/// Which end of a packet is the pod (or stands for it).
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Out,
    Back,
}

struct Original {
    time: Duration,
    local: SocketAddrV4,
}

/// Checks both directions and yields the pairs that were found.
pub fn check(
    internal: &Trace,
    external: &Trace,
    scope: &Scope,
    faults: &mut Faults,
) -> Vec<Translated> {
    let mut translated = Vec::new();
    let to_gateway = |trace, way| originals(trace, way, scope);
    let mut out = to_gateway(internal, Way::Out);
    let mut back = to_gateway(external, Way::Back);
    for (trace, way, originals) in
        [(external, Way::Out, &mut out), (internal, Way::Back, &mut back)]
    {
        let gateway = match way {
            Way::Out => scope.gateway_external_mac,
            Way::Back => scope.gateway_internal_mac,
        };
        for packet in trace.packets().filter(|packet| packet.source_mac == gateway) {
            let Kind::Ipv4(ip) = &packet.kind else { continue };
            let Some((local, remote)) = ends(ip, way) else { continue };
            let ours = match way {
                Way::Out => scope.is_public(*local.ip()),
                Way::Back => scope.is_internal(*local.ip()) && !scope.is_internal(*remote.ip()),
            };
            if !ours || scope.is_exempt(*remote.ip()) || is_answer(ip, way) {
                continue;
            }
            let Some(original) = take(originals, key(ip, way, 0), packet.time) else {
                faults.add(NAME, || format!("no original for {ip}"));
                continue;
            };
            let (inside, public) = match (way, original) {
                (Way::Out, Found::Endpoint(inside)) => (Some(inside), local),
                (Way::Out, Found::Lookalikes) => (None, local),
                (Way::Back, Found::Endpoint(public)) => (Some(local), public),
                (Way::Back, Found::Lookalikes) => continue,
            };
            translated.push(Translated {
                time: packet.time,
                protocol: ip.protocol(),
                internal: inside,
                public,
                remote,
                opens: way == Way::Out && ip.tcp_flags().is_some_and(|flags| flags & 0x12 == 2),
            });
        }
    }
    translated.sort_by_key(|it| it.time);
    translated
}

/// Packets that the gateway makes itself: a reset that ends a connection, a pong of a public
/// address.
fn is_answer(ip: &Ipv4<'_>, way: Way) -> bool {
    let reset = ip.tcp_flags().is_some_and(|flags| flags & RST != 0);
    let pong = ip.protocol() == ICMP && ip.body.first() == Some(&ECHO_REPLY);
    reset || (way == Way::Out && pong)
}

fn originals(trace: &Trace, way: Way, scope: &Scope) -> HashMap<u64, Vec<Original>> {
    let gateway = match way {
        Way::Out => scope.gateway_internal_mac,
        Way::Back => scope.gateway_external_mac,
    };
    let mut found: HashMap<u64, Vec<Original>> = HashMap::new();
    for packet in trace.packets().filter(|packet| packet.source_mac != gateway) {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        let Some((local, _)) = ends(ip, way) else { continue };
        let original = Original { time: packet.time, local };
        found.entry(key(ip, way, 1)).or_default().push(original);
    }
    found
}

/// The local endpoint of the original of a packet, as far as it is known.
enum Found {
    Endpoint(SocketAddrV4),
    /// Packets of several endpoints look the same.
    Lookalikes,
}

/// Takes the oldest original of a packet that left at `time`.
fn take(originals: &mut HashMap<u64, Vec<Original>>, key: u64, time: Duration) -> Option<Found> {
    let same = originals.get_mut(&key)?;
    let at = same.iter().position(|original| original.time <= time)?;
    let local = same[at].local;
    if same.iter().any(|original| original.local != local) {
        // Forget none: which of them this was is unknown.
        return Some(Found::Lookalikes);
    }
    same.remove(at);
    Some(Found::Endpoint(local))
}

/// (the pod's end, the remote's end).
fn ends(ip: &Ipv4<'_>, way: Way) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let (source, destination) = ip.endpoints()?;
    let (local, mut remote) = match way {
        Way::Out => (source, destination),
        Way::Back => (destination, source),
    };
    if ip.protocol() == ICMP {
        remote.set_port(0);
    }
    Some((local, remote))
}

/// What translation must keep, `hops` of TTL less.
fn key(ip: &Ipv4<'_>, way: Way, hops: u8) -> u64 {
    let mut kept = DefaultHasher::new();
    let header = ip.header.slice();
    // Version, header length, type of service, total length, identification, flags and offset.
    header[..8].hash(&mut kept);
    ip.header.ttl().wrapping_sub(hops).hash(&mut kept);
    ip.protocol().hash(&mut kept);
    ip.header.options().hash(&mut kept);
    let remote = if way == Way::Out { ip.destination() } else { ip.source() };
    (remote, way == Way::Out).hash(&mut kept);
    let body = ip.body;
    // Byte ranges of the body that translation may change: the pod's port (or identifier) and
    // the checksum.
    let port = if way == Way::Out { 0..2 } else { 2..4 };
    let changed = match ip.protocol() {
        TCP => [port, 16..18],
        UDP => [port, 6..8],
        _ => [2..4, 4..6],
    };
    let mut from = 0;
    for range in changed {
        body[from.min(body.len())..range.start.min(body.len())].hash(&mut kept);
        from = range.end;
    }
    body[from.min(body.len())..].hash(&mut kept);
    if ip.protocol() == UDP {
        (ip.word(6) == Some(0)).hash(&mut kept);
    }
    kept.finish()
}
