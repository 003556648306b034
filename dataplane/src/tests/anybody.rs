//! Anybody sends anything to anybody, with forwards, 1:1 addresses and turning back; whatever comes out must
//! show nothing that it may not.

use proptest::prelude::*;

use super::fixed_rig::{HOSTS, OWN, fixed_rig};
use super::icmp::icmp;
use super::pieces::ip;
use super::*;
use crate::snapshot::{Answers, Refused};

/// Who may send or be addressed: pods, hosts with addresses of their own, public addresses, strangers.
fn addresses() -> impl Strategy<Value = Ipv4Addr> {
    prop_oneof![
        3 => (1u8..8).prop_map(pod),
        1 => prop::sample::select(HOSTS.to_vec()),
        4 => prop::sample::select(vec![PUBLIC, Ipv4Addr::new(203, 0, 113, 11), OWN[0], OWN[1]]),
        2 => (78u8..82).prop_map(|n| Ipv4Addr::new(192, 0, 2, n)),
    ]
}

/// Ports that mean something here, and those of the whole pool.
fn ports() -> impl Strategy<Value = u16> {
    prop_oneof![
        prop::sample::select(vec![53, 80, 443, 5000, 6000, 6005, 7000, 7005, 8080, 8443]),
        1024u16..1152,
    ]
}

#[derive(Clone, Debug)]
struct Sent {
    inside: bool,
    ends: ((Ipv4Addr, u16), (Ipv4Addr, u16)),
    kind: u8,
    flags: &'static str,
    /// About, or in answer to, what came out last.
    answers: bool,
}

fn sent() -> impl Strategy<Value = Sent> {
    let ends = ((addresses(), ports()), (addresses(), ports()));
    let flags = prop::sample::select(vec!["S", "SA", "A", "FA", "R"]);
    (any::<bool>(), ends, 0u8..6, flags, any::<bool>()).prop_map(
        |(inside, ends, kind, flags, answers)| Sent { inside, ends, kind, flags, answers },
    )
}

impl Sent {
    /// The frame; `last` is what came out last.
    fn frame(&self, last: Option<&Vec<u8>>) -> Vec<u8> {
        let (mut src, mut dst) = self.ends;
        if let Some(last) = last.filter(|_| self.answers && self.kind < 5) {
            let (header, payload) = ip(last);
            let port =
                |at: usize| payload.get(at..at + 2).map_or(1, |p| u16::from_be_bytes([p[0], p[1]]));
            let (from, to) = (header.source.into(), header.destination.into());
            (src, dst) = ((to, port(2).max(1)), (from, port(0).max(1)));
            if self.kind == 4 {
                let quote = &last[14..last.len().min(14 + 60)];
                return icmp((to, from), (3, 3), [0; 4], quote);
            }
        }
        match self.kind {
            0 | 1 => tcp(src, dst, self.flags, b"data"),
            2 => udp(src, dst, b"data"),
            3 => ping(src.0, dst.0, dst.1, b"data"),
            4 => pong(src.0, dst.0, dst.1, b"data"),
            _ => {
                let mut gre = udp(src, dst, b"tunnel");
                gre[23] = 47;
                super::icmp::seal(&mut gre[14..]);
                gre
            }
        }
    }
}

fn is_pod(addr: [u8; 4]) -> bool {
    addr[..2] == [10, 244]
}

fn is_public(addr: [u8; 4]) -> bool {
    addr[..3] == [203, 0, 113]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(100))]

    // Proves: 4787-REQ-9a, 5382-REQ-8a, 6888-REQ-11a
    // Museum: C15, C33
    #[test]
    fn no_pods_address_gets_out_and_nothing_goes_round(
        packets in prop::collection::vec(sent(), 1..120),
        workers in 1u16..4,
        strict: bool,
        told: bool,
    ) {
        let settings = if strict { PoolSettings::rfc4787() } else { PoolSettings::high_density() };
        let settings = PoolSettings {
            ports: 1024..=1151, block_size: 32, scatter: None, low_ports: None, ..settings
        };
        let unmapped = if told { Refused::Icmp } else { Refused::Silent };
        let mut rig = fixed_rig(workers, settings, Answers { unmapped, ..Answers::default() });
        let mut last = None;
        for packet in packets {
            let (by, frame) =
                (if packet.inside { INSIDE } else { OUTSIDE }, packet.frame(last.as_ref()));
            let sender = ip(&frame).0.source;
            // One packet in, at most one out: `one` says so.
            let Some((interface, out)) = rig.one(by, &frame) else { continue };
            let (header, payload) = ip(&out);
            prop_assert!(header.time_to_live > 0);
            if !matches!(header.protocol.0, 47) {
                let quotes = header.protocol.0 == 1 && payload[0] == 3;
                if !quotes {
                    seen(&out);
                }
            }
            // natgate answers the pings of nodes, too.
            let pong = header.protocol.0 == 1 && payload[0] == 0 && header.destination == sender;
            if pong && interface == by {
                prop_assert!(is_public(header.source) && !is_public(sender));
                continue;
            }
            if interface == OUTSIDE {
                prop_assert!(is_public(header.source), "{:?} shows", header.source);
                prop_assert!(!is_pod(header.destination));
                if payload.len() > 28 && header.protocol.0 == 1 && payload[0] == 3 {
                    prop_assert!(!is_pod([payload[20], payload[21], payload[22], payload[23]])
                        && !is_pod([payload[24], payload[25], payload[26], payload[27]]),
                        "a pod's address in a quote");
                }
            } else {
                prop_assert!(is_pod(header.destination), "{:?}", header.destination);
                prop_assert!(!is_pod(header.source) , "a pod sees a pod's own address");
                prop_assert!(by == OUTSIDE || is_pod(sender), "nobody else inside");
            }
            last = Some(out);
        }
    }
}
