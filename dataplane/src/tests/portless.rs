//! Protocols without ports, which only addresses tell apart; and frames that are odd in other ways.

use conntrack::Timers;

use super::fixed_rig::{CLIENTS, HOSTS, OWN, every_rig, plain, sessions};
use super::icmp::{ROUTER, forwarded, icmp, seal, with_options};
use super::pieces::{ip, pieces};
use super::*;
use crate::interface::InterfaceId;

const GRE: u8 = 47;
const ESP: u8 = 50;
const SCTP: u8 = 132;
/// For experiments (RFC 3692): nobody knows what follows the IP header.
const UNKNOWN: u8 = 253;
const ALL: [u8; 4] = [GRE, ESP, SCTP, UNKNOWN];

/// A packet of another protocol.
fn other(protocol: u8, src: Ipv4Addr, dst: Ipv4Addr, payload: &[u8]) -> Vec<u8> {
    let mut packet = udp((src, 1), (dst, 1), b"");
    packet.truncate(34);
    packet.extend_from_slice(payload);
    packet[23] = protocol;
    packet[16..18].copy_from_slice(&(20 + payload.len() as u16).to_be_bytes());
    seal(&mut packet[14..]);
    packet
}

/// It passes with other addresses, a TTL of one less and nothing else; returns them.
#[track_caller]
fn pass(rig: &mut Rig, by: InterfaceId, packet: &[u8], out: InterfaceId) -> (Ipv4Addr, Ipv4Addr) {
    let (interface, sent) = rig.one(by, packet).expect("passed on");
    assert_eq!(interface, out);
    let (header, payload) = ip(&sent);
    let (src, dst) = (header.source.into(), header.destination.into());
    let mut want = packet.to_vec();
    want[26..30].copy_from_slice(&header.source);
    want[30..34].copy_from_slice(&header.destination);
    assert_eq!(payload.len() + header.header_len() + 14, packet.len());
    assert_eq!(sent[14..], forwarded(&want), "only addresses and the TTL change");
    (src, dst)
}

#[test]
fn one_pod_for_each_protocol_address_and_remote() {
    for mut rig in every_rig() {
        for protocol in ALL {
            for payload in [&b"odd"[..], b"even", b""] {
                let sent = other(protocol, pod(1), SERVER, payload);
                let (public, _) = pass(&mut rig, INSIDE, &sent, OUTSIDE);
                assert_eq!(public.octets()[..3], [203, 0, 113]);
                // At whichever worker the reply arrives.
                for _ in 0..4 {
                    let reply = other(protocol, SERVER, public, payload);
                    assert_eq!(pass(&mut rig, OUTSIDE, &reply, INSIDE), (SERVER, pod(1)));
                }
                assert_eq!(rig.one(OUTSIDE, &other(protocol, ROUTER, public, payload)), None);
            }
        }
        assert_eq!(rig.dropped(DropReason::NoSession), 12, "strangers");
        assert_eq!(sessions(&rig), 4);
    }
}

#[test]
fn a_second_pod_towards_the_same_remote_has_another_address_or_is_refused_by_name() {
    for mut rig in every_rig() {
        for protocol in ALL {
            let before = rig.dropped(DropReason::ProtocolClash);
            let mut publics = std::collections::HashMap::new();
            for n in 20..30 {
                let packet = other(protocol, pod(n), SERVER, b"hello");
                match rig.one(INSIDE, &packet) {
                    Some((OUTSIDE, out)) => {
                        let public = Ipv4Addr::from(ip(&out).0.source);
                        assert_eq!(publics.insert(public, pod(n)), None, "one for each address");
                    }
                    // Exhausted, for this remote (RFC 6888 REQ-11b).
                    Some((_, error)) => assert_eq!(error[34..36], [3, 1]),
                    None => panic!("an answer is missing"),
                }
            }
            assert_eq!(
                publics.len() as u64,
                10 - (rig.dropped(DropReason::ProtocolClash) - before)
            );
            assert!(!publics.is_empty());
            for (public, owner) in publics {
                let reply = other(protocol, SERVER, public, b"hello");
                assert_eq!(pass(&mut rig, OUTSIDE, &reply, INSIDE), (SERVER, owner));
                // Another protocol of the same remote is not the pod's.
                let stray = other(protocol ^ 0x80, SERVER, public, b"hello");
                assert_eq!(rig.one(OUTSIDE, &stray), None);
            }
        }
    }
}

#[test]
fn a_claim_ends_with_its_timer() {
    let timers = Timers { other: Duration::from_secs(30), ..Timers::default() };
    let settings = PoolSettings { timers, ..PoolSettings::default() };
    for workers in [1, 4] {
        let mut rig = plain(workers, settings.clone());
        let (public, _) = pass(&mut rig, INSIDE, &other(GRE, pod(1), SERVER, b"x"), OUTSIDE);
        rig.advance(Duration::from_millis(29_500));
        rig.run();
        let reply = other(GRE, SERVER, public, b"x");
        assert_eq!(pass(&mut rig, OUTSIDE, &reply, INSIDE).1, pod(1));
        // The reply has renewed it.
        rig.advance(Duration::from_millis(29_500));
        rig.run();
        assert_eq!(sessions(&rig), 1);
        for _ in 0..3 {
            rig.advance(Duration::from_secs(1));
            rig.run();
        }
        assert_eq!((rig.one(OUTSIDE, &reply), sessions(&rig)), (None, 0));
    }
}

// Proves: 7857-S12a
#[test]
fn a_host_with_an_address_of_its_own_has_every_protocol_and_remote() {
    for mut rig in every_rig() {
        for protocol in ALL {
            for remote in [SERVER, ROUTER] {
                for (host, public) in HOSTS.into_iter().zip(OWN) {
                    let asked = other(protocol, remote, public, b"from outside first");
                    assert_eq!(pass(&mut rig, OUTSIDE, &asked, INSIDE), (remote, host));
                    let answer = other(protocol, host, remote, b"and back");
                    assert_eq!(pass(&mut rig, INSIDE, &answer, OUTSIDE), (public, remote));
                }
            }
            // From a pod to a host and back; and between hosts.
            let n = CLIENTS[0];
            let (sender, host) =
                pass(&mut rig, INSIDE, &other(protocol, pod(n), OWN[0], b"x"), INSIDE);
            assert_eq!((&sender.octets()[..3], host), (&[203, 0, 113][..], HOSTS[0]));
            let back = other(protocol, HOSTS[0], sender, b"tunnel");
            assert_eq!(pass(&mut rig, INSIDE, &back, INSIDE), (OWN[0], pod(n)));
            let between = other(protocol, HOSTS[0], OWN[1], b"tunnel");
            assert_eq!(pass(&mut rig, INSIDE, &between, INSIDE), (OWN[0], HOSTS[1]));
            let back = other(protocol, HOSTS[1], OWN[0], b"tunnel");
            assert_eq!(pass(&mut rig, INSIDE, &back, INSIDE), (OWN[1], HOSTS[0]));
        }
    }
}

// Proves: 5508-REQ-4a, 4787-REQ-14
#[test]
fn errors_and_fragments_of_other_protocols_find_their_pod() {
    for mut rig in every_rig() {
        for protocol in ALL {
            let sent = other(protocol, pod(1), SERVER, &[5; 40]);
            let (_, out) = rig.one(INSIDE, &sent).unwrap();
            let public = Ipv4Addr::from(ip(&out).0.source);
            for len in [28, 60] {
                let error = icmp((ROUTER, public), (3, 1), [0; 4], &out[14..14 + len]);
                let (interface, back) = rig.one(OUTSIDE, &error).expect("translated");
                let want = icmp((ROUTER, pod(1)), (3, 1), [0; 4], &forwarded(&sent)[..len]);
                assert_eq!((interface, &back[14..]), (INSIDE, &forwarded(&want)[..]));
            }
            let mut parts = pieces(&other(protocol, SERVER, public, &[9; 3000]), 7, 1480);
            parts.reverse();
            let mut back = Vec::new();
            for part in &parts {
                rig.inject(OUTSIDE, part);
                back.extend(rig.run());
            }
            assert_eq!(back.len(), parts.len());
            for (interface, part) in back {
                assert_eq!((interface, ip(&part).0.destination), (INSIDE, pod(1).octets()));
            }
        }
    }
}

// Proves: 6888-REQ-1d
// Museum: C40
#[test]
fn what_protects_its_addresses_is_refused_by_name() {
    const DCCP: u8 = 33;
    const AH: u8 = 51;
    const UDP_LITE: u8 = 136;
    for mut rig in every_rig() {
        for (count, protocol) in (1..).zip([DCCP, AH, UDP_LITE]) {
            let packet = other(protocol, pod(1), SERVER, &[1; 24]);
            let (interface, error) = rig.one(INSIDE, &packet).expect("an error");
            assert_eq!((interface, &error[34..36]), (INSIDE, &[3, 2][..]));
            assert_eq!(error[42..], packet[14..]);
            assert_eq!(rig.one(OUTSIDE, &other(protocol, SERVER, PUBLIC, &[1; 24])), None);
            assert_eq!(rig.one(OUTSIDE, &other(protocol, SERVER, OWN[0], &[1; 24])), None);
            assert_eq!(rig.dropped(DropReason::UnsupportedProtocol), 3 * count);
        }
        // IGMP goes to groups, and no router forwards those.
        let group = Ipv4Addr::new(224, 0, 0, 22);
        assert_eq!(rig.one(INSIDE, &other(2, pod(1), group, &[0x22; 8])), None);
        assert_eq!(rig.dropped(DropReason::BadAddress), 1);
        assert_eq!(sessions(&rig), 0);
    }
}

// Museum: C20, C42
#[test]
fn trailers_minimum_frames_options_and_odd_lengths_pass() {
    for mut rig in every_rig() {
        for (n, len) in CLIENTS.into_iter().cycle().zip(0..40) {
            let payload = vec![0xa5; len];
            let flow = (pod(n), 5000);
            for packet in [
                udp(flow, (SERVER, 443), &payload),
                tcp(flow, (SERVER, 443), "S", &payload),
                ping(pod(n), SERVER, 9, &payload),
            ] {
                let (_, bare) = rig.one(INSIDE, &packet).expect("passed");
                // Padding up to the shortest frame of Ethernet, and a trailer that is no part of the packet.
                for padded in [packet.len().max(60), packet.len() + 7] {
                    let mut frame = packet.clone();
                    frame.resize(padded, 0xee);
                    let (_, out) = rig.one(INSIDE, &frame).expect("passed");
                    assert_eq!(out[..bare.len()], bare, "the packet is the same");
                    assert!(out[bare.len()..].iter().all(|&byte| byte == 0xee));
                }
                let options = with_options(&packet, &[148, 4, 0, 0, 1, 1, 1, 0]);
                let (_, out) = rig.one(INSIDE, &options).expect("router alert passes");
                assert_eq!(out[34..42], [148, 4, 0, 0, 1, 1, 1, 0]);
                assert_eq!(out[42..], bare[34..]);
            }
            let gre = other(GRE, pod(1), SERVER, &payload);
            let mut frame = gre.clone();
            frame.resize(gre.len().max(60), 0);
            let (_, out) = rig.one(INSIDE, &frame).expect("passed");
            assert_eq!(ip(&out).1, payload);
        }
    }
}

#[test]
fn tagged_frames_are_not_ipv4() {
    for mut rig in every_rig() {
        let packet = udp((pod(1), 5000), (SERVER, 443), b"query");
        let mut count = 0;
        for tag in [[0x81, 0x00], [0x88, 0xa8], [0x86, 0xdd], [0x88, 0x47]] {
            for interface in [INSIDE, OUTSIDE] {
                let mut tagged = packet.clone();
                tagged.splice(12..12, [tag[0], tag[1], 0, 7]);
                assert_eq!(rig.one(interface, &tagged), None);
                count += 1;
            }
        }
        assert_eq!(rig.dropped(DropReason::NotIpv4), count);
    }
}
