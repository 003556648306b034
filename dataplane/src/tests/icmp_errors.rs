//! ICMP errors through the gateway: every byte of them, both ways.

use std::net::Ipv4Addr as Addr;

use conntrack::{Endpoint, FlowKey, PoolId, Realm};

use super::icmp::{ROUTER, change, forwarded, icmp, seal, with_options};
use super::*;
use crate::forward::{Forwards, StaticNat};
use crate::snapshot::Policy;

/// A packet from a pod, as the pod has sent it and as it left.
struct Flow {
    sent: Vec<u8>,
    out: Vec<u8>,
}

/// A flow of each protocol; payloads of odd and even length.
fn flows(rig: &mut Rig, n: u8) -> Vec<Flow> {
    let sent = vec![
        udp((pod(n), 4000), (SERVER, 53), &[7; 41]),
        tcp((pod(n), 4000), (SERVER, 80), "S", &[7; 40]),
        ping(pod(n), SERVER, 4000, &[7; 56]),
    ];
    let out = |packet: &Vec<u8>| rig.one(INSIDE, packet).expect("forwarded").1;
    let outs: Vec<_> = sent.iter().map(out).collect();
    sent.into_iter().zip(outs).map(|(sent, out)| Flow { sent, out }).collect()
}

/// The public address in a packet that left.
fn public(out: &[u8]) -> Addr {
    Addr::new(out[26], out[27], out[28], out[29])
}

/// An error of `kind` from `router` about `out`, of which it quotes `len` bytes; and what the pod must get.
fn error_about(flow: &Flow, router: Addr, kind: (u8, u8), len: usize) -> (Vec<u8>, Vec<u8>) {
    let word = [0, 0, 5, 0];
    let (out, sent) = (&flow.out[14..], forwarded(&flow.sent));
    let len = len.min(out.len());
    let from_router = icmp((router, public(&flow.out)), kind, word, &out[..len]);
    let pod = Addr::new(sent[12], sent[13], sent[14], sent[15]);
    (from_router, forwarded(&icmp((router, pod), kind, word, &sent[..len])))
}

fn kinds() -> impl Iterator<Item = (u8, u8)> {
    [(3, 16), (11, 2), (12, 3)]
        .into_iter()
        .flat_map(|(kind, codes)| (0..codes).map(move |c| (kind, c)))
}

// Proves: 4787-REQ-12a, 4787-S9a, 5382-REQ-9, 5508-REQ-4a, 5508-REQ-4b, 5508-REQ-4c, 5508-REQ-10a.1, 5508-REQ-10a.2, 5508-REQ-10b.5, 5508-S7.1.2, 5508-S10
// Museum: C17, C23, C24
#[test]
fn errors_from_outside_reach_the_pod_with_its_own_packet_quoted() {
    for workers in [1, 2, 4] {
        let mut rig = Rig::new(workers);
        for flow in flows(&mut rig, 1) {
            for (kind, router) in kinds().zip([SERVER, ROUTER].into_iter().cycle()) {
                for len in [28, 29, 35, 36, 38, 40, 47, 1500] {
                    // Any worker may be the one where it arrives.
                    let (error, want) = error_about(&flow, router, kind, len);
                    let (interface, back) = rig.one(OUTSIDE, &error).expect("translated");
                    assert_eq!((interface, &back[14..]), (INSIDE, &want[..]), "{kind:?} {len}");
                }
            }
        }
    }
}

/// RFC 768: a checksum of zero is none, in a quote as well.
// Museum: C31
#[test]
fn a_quoted_checksum_of_zero_stays_zero() {
    let mut rig = Rig::new(2);
    let mut sent = udp((pod(1), 4000), (SERVER, 53), b"unchecked");
    sent[40..42].fill(0);
    let out = rig.one(INSIDE, &sent).expect("forwarded").1;
    assert_eq!(out[40..42], [0, 0]);
    let flow = Flow { sent, out };
    for (kind, len) in kinds().flat_map(|kind| [28, 35, 1500].map(|len| (kind, len))) {
        let (error, want) = error_about(&flow, ROUTER, kind, len);
        let back = rig.one(OUTSIDE, &error).expect("translated").1;
        assert_eq!(back[14..], want, "{kind:?} {len}");
        assert_eq!(back[14 + 28 + 26..][..2], [0, 0]);
    }
}

// Proves: 5508-REQ-5a, 5508-REQ-5b, 5508-S4.2.2, 5508-REQ-5c.2
#[test]
fn errors_from_inside_reach_the_remote_with_its_own_packet_quoted() {
    let inner_router = Addr::new(10, 77, 0, 1);
    for workers in [1, 2, 4] {
        for n in 1..5 {
            let mut rig = Rig::new(workers);
            for flow in flows(&mut rig, n) {
                let at = seen(&flow.out).src;
                let answer = match flow.out[23] {
                    17 => udp((SERVER, 53), at, &[8; 33]),
                    6 => tcp((SERVER, 80), at, "SA", b""),
                    _ => pong(SERVER, at.0, u16::from_be_bytes([flow.out[38], flow.out[39]]), b"x"),
                };
                let got = rig.one(OUTSIDE, &answer).expect("mapped back").1;
                for (kind, sender) in kinds().zip([pod(n), inner_router].into_iter().cycle()) {
                    for len in [28, 29, 35, 36, 38, 1500] {
                        let (got, sent) = (&got[14..], forwarded(&answer));
                        let len = len.min(got.len());
                        let error = icmp((sender, SERVER), kind, [0; 4], &got[..len]);
                        let (interface, out) = rig.one(INSIDE, &error).expect("translated");
                        // From the session's public address, whoever inside has sent it.
                        let want = forwarded(&icmp((at.0, SERVER), kind, [0; 4], &sent[..len]));
                        assert_eq!((interface, &out[14..]), (OUTSIDE, &want[..]), "{kind:?} {len}");
                    }
                }
            }
        }
    }
}

// Proves: 5508-REQ-5c.1
#[test]
fn a_sender_with_an_address_of_its_own_keeps_it_in_its_errors() {
    let mut rig = Rig::new(2);
    let own = Addr::new(203, 0, 113, 14);
    let one =
        StaticNat { name: "one".into(), address: own, target: pod(9), vni: None, pool: PoolId(0) };
    change(&rig, |snapshot| {
        let forwards = Forwards::new(vec![], &[one]);
        snapshot.policy = Arc::new(Policy { forwards, ..Policy::clone(&snapshot.policy) });
    });
    let flow = &flows(&mut rig, 1)[0];
    let answer = udp((SERVER, 53), seen(&flow.out).src, b"answer");
    let got = rig.one(OUTSIDE, &answer).unwrap().1;
    let error = icmp((pod(9), SERVER), (3, 3), [0; 4], &got[14..]);
    let (_, out) = rig.one(INSIDE, &error).unwrap();
    let want = icmp((own, SERVER), (3, 3), [0; 4], &forwarded(&answer));
    assert_eq!(out[14..], forwarded(&want));
}

// Proves: 5508-REQ-3b
#[test]
fn options_in_the_quote_are_stepped_over() {
    let mut rig = Rig::new(2);
    for length in (4..=40).step_by(4) {
        let mut options = vec![222, length as u8];
        options.resize(length, 3);
        let sent = with_options(&udp((pod(1), 4000), (SERVER, 53), b"query"), &options);
        let out = rig.one(INSIDE, &sent).unwrap().1;
        let flow = Flow { sent, out };
        for len in [28 + length, 1500] {
            let (error, want) = error_about(&flow, ROUTER, (3, 1), len);
            assert_eq!(rig.one(OUTSIDE, &error).expect("translated").1[14..], want);
        }
        // One byte less than eight of the transport header.
        let (error, _) = error_about(&flow, ROUTER, (3, 1), 27 + length);
        assert_eq!(rig.one(OUTSIDE, &error), None);
    }
    assert_eq!(rig.dropped(DropReason::IcmpQuote), 10);
}

// Proves: 5508-REQ-3d, 4884-S4, 4884-S6
// Museum: C30
#[test]
fn length_attribute_padding_and_extensions_pass_bit_for_bit() {
    let mut rig = Rig::new(2);
    // RFC 4884 and RFC 4950: version 2, an MPLS label stack object.
    let extension = [0x20, 0, 0x8f, 0x0d, 0, 8, 1, 1, 0x12, 0x34, 0x51, 0xff];
    for (words, payload) in [(32u8, 300), (33, 300), (32, 4), (0, 300)] {
        let sent = [
            udp((pod(1), 4000), (SERVER, 53), &vec![9; payload]),
            tcp((pod(1), 4000), (SERVER, 80), "S", &vec![9; payload]),
        ];
        for (sent, kind) in
            sent.into_iter().flat_map(|s| [(s.clone(), 3), (s.clone(), 11), (s, 12)])
        {
            let out = rig.one(INSIDE, &sent).unwrap().1;
            let quote = |ip: &[u8]| {
                let mut quote = ip.to_vec();
                quote.resize(if words == 0 { 128 } else { usize::from(words) * 4 }, 0);
                quote.extend(extension);
                quote
            };
            let word = [0, words, 0, 0];
            let error = icmp((ROUTER, public(&out)), (kind, 0), word, &quote(&out[14..]));
            let want = icmp((ROUTER, pod(1)), (kind, 0), word, &quote(&forwarded(&sent)));
            let back = rig.one(OUTSIDE, &error).expect("translated").1;
            assert_eq!(back[14..], forwarded(&want), "{words} words, {payload} bytes");
        }
    }
    // A length that ends before the ports do.
    let out = rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"query")).unwrap().1;
    let error = icmp((ROUTER, public(&out)), (3, 0), [0, 6, 0, 0], &out[14..]);
    assert_eq!(rig.one(OUTSIDE, &error), None);
    assert_eq!(rig.dropped(DropReason::IcmpQuote), 1);
}

// Proves: 5508-REQ-3, 5508-REQ-3a
#[test]
fn wrong_checksums_of_the_error_and_of_the_quoted_header_are_dropped() {
    let mut rig = Rig::new(2);
    for flow in flows(&mut rig, 1) {
        let (good, _) = error_about(&flow, ROUTER, (3, 1), 1500);
        for at in [36, 40, 60, good.len() - 1] {
            let mut bad = good.clone();
            bad[at] ^= 4;
            let before = rig.dropped(DropReason::IcmpChecksum);
            assert_eq!(rig.one(OUTSIDE, &bad), None);
            assert_eq!(rig.dropped(DropReason::IcmpChecksum), before + 1);
        }
        let mut quote = flow.out[14..].to_vec();
        quote[10] ^= 1;
        let before = rig.dropped(DropReason::IcmpQuote);
        let bad = icmp((ROUTER, public(&flow.out)), (3, 1), [0; 4], &quote);
        assert_eq!(rig.one(OUTSIDE, &bad), None);
        assert_eq!(rig.dropped(DropReason::IcmpQuote), before + 1);
    }
}

// Proves: 5508-REQ-3c
#[test]
fn a_wrong_quoted_transport_checksum_stays_wrong_and_none_stays_none() {
    let mut rig = Rig::new(2);
    let sent = udp((pod(1), 4000), (SERVER, 53), b"query");
    let out = rig.one(INSIDE, &sent).unwrap().1;
    let sum = |bytes: &[u8]| u16::from_be_bytes([bytes[40], bytes[41]]);
    let back = |rig: &mut Rig, checksum: u16| {
        let mut quote = out[14..].to_vec();
        quote[26..28].copy_from_slice(&checksum.to_be_bytes());
        let error = icmp((ROUTER, public(&out)), (3, 1), [0; 4], &quote);
        let back = rig.one(OUTSIDE, &error).expect("translated").1;
        seen(&back);
        sum(&back[28..])
    };
    assert_eq!(back(&mut rig, sum(&out)), sum(&sent));
    let off = |a: u16, b: u16| (u32::from(a) + 0xffff - u32::from(b)) % 0xffff;
    for wrong in [1, 77, 0x1234, 0xfffe] {
        assert_eq!(off(back(&mut rig, wrong), wrong), off(sum(&sent), sum(&out)));
    }
    assert_eq!(back(&mut rig, 0), 0);
}

// Proves: 5508-REQ-4, 5508-REQ-5
// Museum: C18, C36
#[test]
fn forged_quotes_are_dropped_and_make_no_session() {
    let mut rig = Rig::new(3);
    let flow = &flows(&mut rig, 1)[0];
    let sessions = |rig: &mut Rig| {
        rig.advance(Duration::from_secs(1));
        rig.run();
        rig.sum(|c| c.sessions_created.get())
    };
    assert_eq!(sessions(&mut rig), 3);
    let mut expect = |interface, packet: &[u8], reason| {
        let before = rig.dropped(reason);
        assert_eq!(rig.one(interface, packet), None, "{reason}");
        assert_eq!(rig.dropped(reason), before + 1, "{reason}");
    };
    let quoting = |at: usize, value: u8| {
        let mut quote = flow.out[14..].to_vec();
        quote[at] ^= value;
        seal(&mut quote);
        icmp((SERVER, public(&flow.out)), (3, 3), [0; 4], &quote)
    };
    expect(OUTSIDE, &quoting(19, 1), DropReason::IcmpNoSession); // another remote
    expect(OUTSIDE, &quoting(23, 1), DropReason::IcmpNoSession); // another remote port
    expect(OUTSIDE, &quoting(9, 0x11 ^ 0x06), DropReason::IcmpNoSession); // another protocol
    expect(OUTSIDE, &quoting(9, 0x11 ^ 0x84), DropReason::IcmpNoSession);
    // From inside, about a packet that was never delivered.
    let never = udp((SERVER, 53), (pod(1), 4001), b"answer");
    expect(
        INSIDE,
        &icmp((pod(1), SERVER), (3, 3), [0; 4], &never[14..]),
        DropReason::IcmpNoSession,
    );
    // The quoted source is not whom the error is for: another pool address, another server, a pod.
    let other = Addr::new(203, 0, 113, if public(&flow.out).octets()[3] == 10 { 11 } else { 10 });
    let error = icmp((SERVER, other), (3, 3), [0; 4], &flow.out[14..]);
    expect(OUTSIDE, &error, DropReason::IcmpMismatch);
    let got = udp((SERVER, 53), (pod(1), 4000), b"answer");
    let error = icmp((pod(1), ROUTER), (3, 3), [0; 4], &got[14..]);
    expect(INSIDE, &error, DropReason::IcmpMismatch);
    // From a source that can't be outside.
    let error = icmp((PUBLIC, public(&flow.out)), (3, 3), [0; 4], &flow.out[14..]);
    expect(OUTSIDE, &error, DropReason::Spoofed);
    let error = icmp((pod(2), public(&flow.out)), (3, 3), [0; 4], &flow.out[14..]);
    expect(OUTSIDE, &error, DropReason::Spoofed);
    assert_eq!(sessions(&mut rig), 3, "no error has made one");
}

/// A quote need not hold more than eight bytes of what follows the IP header (RFC 792), so of a timestamp query
/// its times may be missing.
// Proves: 5508-REQ-4a, 5508-REQ-5a, 5508-REQ-10b.2
#[test]
fn bug_errors_about_timestamps_were_dropped_if_they_quoted_eight_bytes() {
    let mut rig = Rig::new(2);
    let sent = icmp((pod(1), SERVER), (13, 0), [0, 77, 0, 1], &[5; 12]);
    let out = rig.one(INSIDE, &sent).expect("forwarded").1;
    let at = public(&out);
    let reply = icmp((SERVER, at), (14, 0), [out[38], out[39], 0, 1], &[6; 12]);
    let got = rig.one(OUTSIDE, &reply).expect("mapped back").1;
    let query = Flow { sent, out };
    for len in [28, 29, 39, 40] {
        let (error, want) = error_about(&query, ROUTER, (11, 0), len);
        let back = rig.one(OUTSIDE, &error).expect("an error from outside").1;
        assert_eq!(back[14..], want, "{len}");
        let error = icmp((pod(1), SERVER), (3, 3), [0; 4], &got[14..14 + len]);
        let out = rig.one(INSIDE, &error).expect("an error from inside").1;
        let want = icmp((at, SERVER), (3, 3), [0; 4], &forwarded(&reply)[..len]);
        assert_eq!(out[14..], forwarded(&want), "{len}");
    }
}

// Proves: 6146-S3.4a
#[test]
fn errors_about_errors_later_fragments_and_short_quotes_are_dropped() {
    let mut rig = Rig::new(2);
    let flow = &flows(&mut rig, 1)[0];
    let to = public(&flow.out);
    let mut quotes = vec![vec![], flow.out[14..34].to_vec(), flow.out[14..41].to_vec()];
    for kind in [3, 4, 5, 11, 12, 40] {
        let inner = icmp((to, SERVER), (kind, 0), [0; 4], &flow.out[14..]);
        quotes.push(inner[14..].to_vec());
    }
    let mut later = flow.out[14..].to_vec();
    later[7] = 3;
    seal(&mut later);
    quotes.push(later);
    let mut version = flow.out[14..].to_vec();
    version[0] = 0x65;
    quotes.push(version);
    for (count, quote) in (1..).zip(quotes) {
        assert_eq!(rig.one(OUTSIDE, &icmp((ROUTER, to), (3, 1), [0; 4], &quote)), None);
        assert_eq!(rig.dropped(DropReason::IcmpQuote), count);
    }
}

// Proves: 5508-S7.3b, 5508-S7.3a
#[test]
fn refused_options_do_not_pass_inside_a_quote_either() {
    let mut rig = Rig::new(2);
    let flow = &flows(&mut rig, 1)[0];
    let to = public(&flow.out);
    for (count, kind) in (1..).zip([7, 68, 131, 137]) {
        let options = [kind, 7, 4, 0, 0, 0, 0, 0];
        let quote = &with_options(&flow.out, &options)[14..];
        assert_eq!(rig.one(OUTSIDE, &icmp((ROUTER, to), (3, 5), [0; 4], quote)), None);
        assert_eq!(rig.dropped(DropReason::IpOption), 2 * count - 1);
        let outer = with_options(&error_about(flow, ROUTER, (3, 5), 1500).0, &options);
        assert_eq!(rig.one(OUTSIDE, &outer), None);
        assert_eq!(rig.dropped(DropReason::IpOption), 2 * count);
    }
}

// Proves: 4787-REQ-12, 5382-REQ-10, 5508-REQ-6, 6146-S3.5c, 7857-S7.1a
#[test]
fn an_error_neither_renews_nor_ends_a_session() {
    let mut rig = Rig::new(2);
    let sent = ping(pod(1), SERVER, 7, b"hello");
    let out = rig.one(INSIDE, &sent).unwrap().1;
    let id = u16::from_be_bytes([out[38], out[39]]);
    let flow = Flow { sent, out };
    let answer = pong(SERVER, public(&flow.out), id, b"hello");
    let tell = |rig: &mut Rig| {
        for kind in kinds() {
            let (error, _) = error_about(&flow, ROUTER, kind, 1500);
            assert!(rig.one(OUTSIDE, &error).is_some());
        }
    };
    rig.advance(Duration::from_secs(30));
    tell(&mut rig);
    let got = rig.one(OUTSIDE, &answer).expect("the errors have ended nothing").1;
    rig.advance(Duration::from_secs(59));
    tell(&mut rig);
    let own = icmp((pod(1), SERVER), (3, 3), [0; 4], &got[14..]);
    assert!(rig.one(INSIDE, &own).is_some(), "outbound errors neither");
    rig.advance(Duration::from_secs(2));
    rig.run();
    assert_eq!(rig.one(OUTSIDE, &answer), None, "the errors have renewed nothing");
    assert_eq!(rig.dropped(DropReason::NoSession), 1);
}

/// A segment that acknowledges a SYN of [`tcp`].
fn acknowledging(
    src: (Addr, u16),
    dst: (Addr, u16),
    syn: bool,
    seq: u32,
    payload: &[u8],
) -> Vec<u8> {
    let mut packet = Vec::new();
    let step = packets::ether(src.0, dst.0, 64).tcp(src.1, dst.1, seq, 65_000).ack(1001);
    let step = if syn { step.syn() } else { step };
    step.write(&mut packet, payload).unwrap();
    packet
}

// Proves: 5382-REQ-10
#[test]
fn a_connection_outlives_every_error_about_it() {
    let mut rig = Rig::new(2);
    let (client, server) = ((pod(1), 4000), (SERVER, 80));
    let out = rig.one(INSIDE, &tcp(client, server, "S", b"")).unwrap().1;
    let at = seen(&out).src;
    rig.one(OUTSIDE, &acknowledging(server, at, true, 1000, b"")).unwrap();
    let sent = acknowledging(client, server, false, 1001, b"data");
    let flow = Flow { out: rig.one(INSIDE, &sent).unwrap().1, sent };
    for kind in kinds() {
        for router in [SERVER, ROUTER] {
            let (error, want) = error_about(&flow, router, kind, 1500);
            assert_eq!(rig.one(OUTSIDE, &error).unwrap().1[14..], want);
        }
    }
    rig.advance(Duration::from_secs(7_000));
    rig.run();
    assert!(rig.one(OUTSIDE, &acknowledging(server, at, false, 1001, b"late")).is_some());
}

// Museum: C19, C20
#[test]
fn trailers_are_no_part_of_an_error_and_payloads_of_queries_no_quote() {
    let mut rig = Rig::new(2);
    let flow = &flows(&mut rig, 1)[0];
    let (mut error, want) = error_about(flow, ROUTER, (11, 0), 29);
    error.extend([0xaa; 7]);
    assert_eq!(rig.one(OUTSIDE, &error).unwrap().1[14..14 + want.len()], want);
    // A ping whose data look like the quote of a live session.
    let quote = [&[0; 4], &flow.out[14..]].concat();
    round_trip(&mut rig, &ping(pod(1), SERVER, 9, &quote), |to| pong(SERVER, to.0, to.1, &quote));
}

/// The public endpoint of a session of `from` to `to`, wherever it lives.
fn public_of(rig: &Rig, from: (Addr, u16), to: (Addr, u16)) -> (Addr, u16) {
    let end = |(addr, port)| Endpoint::new(addr, port);
    let key = FlowKey {
        src: end(from),
        dst: end(to),
        protocol: Protocol::Udp,
        realm: Realm::Internal,
        overlay: 0,
    };
    let found = rig.workers.iter().find_map(|w| Some(w.nat.rewrite(w.nat.find(&key)?).src));
    let public = found.expect("a session");
    (public.addr, public.port)
}

// Proves: 5508-REQ-7.2, 5508-REQ-7a, 7857-S12b
#[test]
fn an_error_about_a_hairpinned_packet_comes_back_to_its_sender() {
    for workers in [1, 2, 4] {
        let mut rig = Rig::new(workers);
        let (c1, c2) = (pod(1), pod(2));
        rig.one(INSIDE, &udp((c2, 5000), (SERVER, 53), b"q")).unwrap();
        let mut guess = public_of(&rig, (c2, 5000), (SERVER, 53));
        // Ports depend on the remote here: try until each of the two has addressed the other's.
        let mut ports = 10_000..;
        let (a, b) = loop {
            let (a, b) = (ports.next().unwrap(), ports.next().unwrap());
            assert!(a < 60_000, "no pair of ports was found");
            rig.one(INSIDE, &udp((c1, a), guess, b"q"));
            let p1 = public_of(&rig, (c1, a), guess);
            let opened = rig.one(INSIDE, &udp((c2, b), p1, b"q"));
            let p2 = public_of(&rig, (c2, b), p1);
            if p2 == guess {
                assert!(opened.is_some(), "it reaches c1");
                break ((c1, a), (c2, b));
            }
            assert_eq!(rig.dropped(DropReason::QuotaBlocks), 0, "out of ports");
            guess = p2;
        };
        let p1 = public_of(&rig, a, guess);
        let sent = udp(a, guess, b"to a closed port");
        let (interface, got) = rig.one(INSIDE, &sent).expect("turned back");
        assert_eq!((interface, seen(&got).src, seen(&got).dst), (INSIDE, p1, b));
        for kind in kinds() {
            for len in [28, 1500] {
                let len = len.min(got.len() - 14);
                let error = icmp((b.0, p1.0), kind, [0; 4], &got[14..14 + len]);
                let (interface, back) = rig.one(INSIDE, &error).expect("turned back");
                let want = icmp((guess.0, a.0), kind, [0; 4], &forwarded(&sent)[..len]);
                assert_eq!((interface, &back[14..]), (INSIDE, &forwarded(&want)[..]));
            }
        }
    }
}

#[test]
fn errors_about_exempt_flows_pass_untranslated() {
    let mut rig = Rig::new(2);
    let out = rig.one(INSIDE, &udp((pod(1), 4000), (EXEMPT_SERVER, 53), b"q")).unwrap().1;
    let error = icmp((EXEMPT_SERVER, pod(1)), (3, 3), [0; 4], &out[14..]);
    assert_eq!(rig.one(OUTSIDE, &error).unwrap().1[14..], forwarded(&error));
    let got = udp((EXEMPT_SERVER, 53), (pod(1), 4000), b"a");
    let error = icmp((pod(1), EXEMPT_SERVER), (3, 3), [0; 4], &got[14..]);
    assert_eq!(rig.one(INSIDE, &error).unwrap().1[14..], forwarded(&error));
    let elsewhere = icmp((EXEMPT_SERVER, pod(2)), (3, 3), [0; 4], &out[14..]);
    assert_eq!(rig.one(OUTSIDE, &elsewhere), None);
    assert_eq!(rig.dropped(DropReason::IcmpMismatch), 1);
}

proptest::proptest! {
    #[test]
    fn no_damaged_error_panics_the_pipeline_or_is_lost(
        damage in proptest::collection::vec((0usize..100, proptest::prelude::any::<u8>(), 0usize..60), 1..40),
    ) {
        let mut rig = Rig::new(2);
        let all = flows(&mut rig, 1);
        for (i, (at, value, cut)) in damage.into_iter().enumerate() {
            let flow = &all[i % all.len()];
            let mut message = vec![[3, 11, 12][i % 3], 0, 0, 0, 0, 0, 0, 0];
            message.extend(&flow.out[14..]);
            message.truncate(message.len() - cut);
            let at = at % message.len();
            message[at] = value;
            // The quoted header is right again, so that damage gets past the first checks.
            let header = 8 + usize::from(message[8] & 15).max(5) * 4;
            if header <= message.len() {
                seal(&mut message[8..header]);
            }
            let (kind, rest) = ((message[0], message[1]), &message[8..]);
            let word = [message[4], message[5], message[6], message[7]];
            let error = icmp((ROUTER, public(&flow.out)), kind, word, rest);
            if let Some((_, out)) = rig.one(OUTSIDE, &error) {
                let sum = crate::wire::checksum::sum(&out[34..]);
                proptest::prop_assert_eq!(crate::wire::checksum::fold(sum), 0xffff);
            }
        }
    }
}
