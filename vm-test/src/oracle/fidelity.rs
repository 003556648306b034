//! Oracle (d): is what should not change bit-identical, and the TTL one less?
//!
//! Each packet that left the gateway must have an original that entered it before: on the other
//! link, or on the same one if it was turned round there (hairpin). Both are reduced to what
//! translation must keep: everything but the pod's address and port, the checksums, one hop of TTL,
//! and outbound the identification where it may count (RFC 6864 5.3.1). Of an ICMP error the quoted
//! packet is reduced in the same way. Since the reduced forms are equal, a difference in any other
//! bit shows as a packet without original.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddrV4;
use std::ops::Range;
use std::time::Duration;

use super::packet::{ECHO_REPLY, ICMP, TCP, UDP};
use super::{Faults, Ipv4, Kind, Packet, Scope, Trace};

/// The oracle's name in [`Faults`].
pub const NAME: &str = "d: fidelity";

const RST: u8 = 4;

/// A translated packet and the endpoints that its two forms show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// When the packet left the gateway.
    pub time: Duration,
    /// Protocol number; of an ICMP error that of the quoted packet.
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
    /// From a pod to a public address: the pod is the source before, the destination after.
    Hairpin,
}

struct Original {
    time: Duration,
    local: SocketAddrV4,
}

type Originals = HashMap<u64, Vec<Original>>;

/// Checks all directions and yields the pairs that were found. Nothing is said about what left the
/// gateway after `end`, when one of the captures may have ended.
pub fn check(
    internal: &Trace,
    external: &Trace,
    end: Duration,
    scope: &Scope,
    faults: &mut Faults,
) -> Vec<Translated> {
    let mut out = originals(internal, Way::Out, scope);
    let mut back = originals(external, Way::Back, scope);
    let mut hairpin = originals(internal, Way::Hairpin, scope);
    let mut translated = Vec::new();
    for (trace, gateway) in
        [(external, scope.gateway_external_mac), (internal, scope.gateway_internal_mac)]
    {
        let left = |packet: &Packet<'_>| packet.source_mac == gateway && packet.time <= end;
        for packet in trace.packets().filter(left) {
            let Kind::Ipv4(ip) = &packet.kind else { continue };
            let (way, originals) = if gateway == scope.gateway_external_mac {
                (Way::Out, &mut out)
            } else if scope.is_public(ip.source()) {
                (Way::Hairpin, &mut hairpin)
            } else {
                (Way::Back, &mut back)
            };
            let Some((local, remote)) = ends(ip, way) else { continue };
            if !is_ours(way, local, remote, scope) {
                continue;
            }
            let Some(original) = take(originals, key(ip, way, 0), packet.time) else {
                if !is_answer(ip, way) && !is_own_error(ip, trace, gateway) {
                    faults.add(NAME, || format!("no original for {ip}"));
                }
                continue;
            };
            let (inside, public) = match (way, original) {
                (Way::Out, Found::Endpoint(inside)) => (Some(inside), local),
                (Way::Out, Found::Lookalikes) => (None, local),
                // The sender, whom the receiver sees under its public endpoint.
                (Way::Hairpin, Found::Endpoint(inside)) => (Some(inside), remote),
                (Way::Hairpin, Found::Lookalikes) => (None, remote),
                (Way::Back, Found::Endpoint(public)) => (Some(local), public),
                (Way::Back, Found::Lookalikes) => continue,
            };
            translated.push(Translated {
                time: packet.time,
                protocol: ip.quoted().map_or(ip.protocol(), |quoted| quoted.protocol()),
                internal: inside,
                public,
                remote: if way == Way::Hairpin { local } else { remote },
                opens: way == Way::Out && ip.tcp_flags().is_some_and(|flags| flags & 0x12 == 2),
            });
        }
    }
    translated.sort_by_key(|it| it.time);
    translated
}

fn is_ours(way: Way, local: SocketAddrV4, remote: SocketAddrV4, scope: &Scope) -> bool {
    let ours = match way {
        Way::Out => scope.is_public(*local.ip()),
        Way::Back => scope.is_internal(*local.ip()) && !scope.is_internal(*remote.ip()),
        Way::Hairpin => scope.is_internal(*local.ip()),
    };
    ours && !scope.is_exempt(*remote.ip())
}

/// Packets that the gateway makes itself: a reset that ends a connection, a pong of a public
/// address.
fn is_answer(ip: &Ipv4<'_>, way: Way) -> bool {
    let reset = ip.tcp_flags().is_some_and(|flags| flags & RST != 0);
    let pong = ip.protocol() == ICMP && ip.body.first() == Some(&ECHO_REPLY);
    reset || (way != Way::Back && pong)
}

/// An error that the gateway makes itself starts with a TTL of 64 (RFC 1812 4.3.2.2) and quotes a
/// packet as it came in on the link where the error leaves (4.3.2.3).
fn is_own_error(error: &Ipv4<'_>, trace: &Trace, gateway: [u8; 6]) -> bool {
    let Some(quoted) = error.quoted() else { return false };
    if error.header.ttl() != 64 {
        return false;
    }
    let quote = &error.body[8..];
    // A fragment is in the capture as a part of its datagram only.
    quoted.is_fragment()
        || trace.packets().filter(|packet| packet.source_mac != gateway).any(|packet| {
            matches!(packet.kind, Kind::Ipv4(ip) if {
                let body = quote.strip_prefix(ip.header.slice());
                body.is_some_and(|body| body.len() >= 8.min(ip.body.len())
                    && ip.body.starts_with(body))
            })
        })
}

fn originals(trace: &Trace, way: Way, scope: &Scope) -> Originals {
    let gateway = match way {
        Way::Out | Way::Hairpin => scope.gateway_internal_mac,
        Way::Back => scope.gateway_external_mac,
    };
    let mut found = Originals::new();
    for packet in trace.packets().filter(|packet| packet.source_mac != gateway) {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        if way == Way::Hairpin && !scope.is_public(ip.destination()) {
            continue;
        }
        // Before it is turned round, the pod is the source of a packet.
        let before = if way == Way::Hairpin { Way::Out } else { way };
        let Some((local, _)) = ends(ip, before) else { continue };
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
fn take(originals: &mut Originals, key: u64, time: Duration) -> Option<Found> {
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

/// (the pod's end, the remote's end). The quoted packet of an error went the other way.
fn ends(ip: &Ipv4<'_>, way: Way) -> Option<(SocketAddrV4, SocketAddrV4)> {
    let quoted = ip.quoted();
    let shown = quoted.as_ref().unwrap_or(ip);
    let (source, destination) = shown.endpoints()?;
    let (local, mut remote) = if (way == Way::Out) == quoted.is_none() {
        (source, destination)
    } else {
        (destination, source)
    };
    if shown.protocol() == ICMP {
        remote.set_port(0);
    }
    Some((local, remote))
}

/// What translation must keep, `hops` of TTL less.
fn key(ip: &Ipv4<'_>, way: Way, hops: u8) -> u64 {
    let mut kept = DefaultHasher::new();
    let atomic = ip.header.dont_fragment() && !ip.is_fragment();
    header(ip, way, atomic || way == Way::Back, &mut kept);
    ip.header.ttl().wrapping_sub(hops).hash(&mut kept);
    match ip.quoted() {
        Some(quoted) => {
            (ip.body[..2].to_vec(), ip.body[4..8].to_vec()).hash(&mut kept);
            let quoted_way = match way {
                Way::Out => Way::Back,
                Way::Back => Way::Out,
                Way::Hairpin => Way::Hairpin,
            };
            header(&quoted, quoted_way, true, &mut kept);
            quoted.header.ttl().hash(&mut kept);
            body(&quoted, quoted_way, &mut kept);
        }
        None => body(ip, way, &mut kept),
    }
    kept.finish()
}

/// Version, header length, type of service, total length, perhaps identification, flags and
/// offset, protocol, options; and the remote's address.
fn header(ip: &Ipv4<'_>, way: Way, identification: bool, kept: &mut DefaultHasher) {
    let header = ip.header.slice();
    (&header[..4], &header[6..8]).hash(kept);
    if identification {
        header[4..6].hash(kept);
    }
    ip.protocol().hash(kept);
    ip.header.options().hash(kept);
    match way {
        Way::Out => (ip.destination(), 1).hash(kept),
        Way::Back => (ip.source(), 2).hash(kept),
        Way::Hairpin => 3.hash(kept),
    }
}

/// Everything but the pod's port (or the identifier) and the checksum.
fn body(ip: &Ipv4<'_>, way: Way, kept: &mut DefaultHasher) {
    let body = ip.body;
    let port = match way {
        Way::Out => 0..2,
        Way::Back => 2..4,
        Way::Hairpin => 0..4,
    };
    let changed: &[Range<usize>] = match ip.protocol() {
        TCP => &[port, 16..18],
        UDP => &[port, 6..8],
        ICMP => &[2..4, 4..6],
        _ => &[],
    };
    let mut from = 0;
    for range in changed {
        body[from.min(body.len())..range.start.min(body.len())].hash(kept);
        from = range.end;
    }
    body[from.min(body.len())..].hash(kept);
    if ip.protocol() == UDP {
        (ip.word(6) == Some(0)).hash(kept);
    }
}
