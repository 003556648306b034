//! The ICMP errors that natgate sends itself: to whom, about what, how often.

use std::net::Ipv4Addr as Addr;

use conntrack::{OnExhaustion, Pool, PoolId, Quota};

use super::icmp::{GATE, answering, change, icmp, seal};
use super::*;
use crate::interface::InterfaceId;
use crate::refuse::IcmpError;
use crate::snapshot::{Answers, Policy, Refused};

fn rig(workers: u16) -> Rig {
    answering(workers, PoolSettings::default(), Answers::default())
}

fn with_ttl(packet: &[u8], ttl: u8) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[22] = ttl;
    seal(&mut packet[14..]);
    packet
}

fn with_df(packet: &[u8]) -> Vec<u8> {
    let mut packet = packet.to_vec();
    packet[20] = 0x40;
    seal(&mut packet[14..]);
    packet
}

/// The error that must answer `offender`, byte for byte, sent from `source`.
fn expected(offender: &[u8], source: Addr, kind: (u8, u8), mtu: u16) -> Vec<u8> {
    let quote = &offender[14..offender.len().min(14 + 548)];
    let dst = Addr::new(offender[26], offender[27], offender[28], offender[29]);
    let [high, low] = mtu.to_be_bytes();
    // etherparse: TTL 64, DF, identification 0, as natgate's.
    let mut error = icmp((source, dst), kind, [0, 0, high, low], quote);
    error.copy_within(6..12, 0);
    error[..6].copy_from_slice(&offender[6..12]);
    error[6..12].copy_from_slice(&GATE_MAC);
    error[15] = offender[15] & 0xfc;
    seal(&mut error[14..]);
    error
}

/// `packet` is dropped for `reason` and answered so, or not at all.
#[track_caller]
fn expect(
    rig: &mut Rig,
    interface: InterfaceId,
    packet: &[u8],
    reason: DropReason,
    answer: Option<(Addr, (u8, u8), u16)>,
) {
    let before = rig.dropped(reason);
    let got = rig.one(interface, packet);
    let want = answer.map(|(from, kind, mtu)| (interface, expected(packet, from, kind, mtu)));
    assert_eq!(got, want, "{reason}");
    assert_eq!(rig.dropped(reason), before + 1, "{reason}");
}

fn sent(rig: &Rig) -> u64 {
    rig.sum(|c| c.icmp_errors_sent.iter().map(crate::counters::Counter::get).sum())
}

fn query() -> Vec<u8> {
    udp((pod(1), 4000), (SERVER, 53), b"query")
}

// Proves: 1812-S5.3.1, 1812-S4.3.2.2, 1812-S4.3.2.3a, 1812-S4.3.2.3b, 1812-S4.3.2.4, 5508-S7.2a, 5508-S7.2c, 5508-S7.7a, 5508-REQ-10d
#[test]
fn an_expired_packet_is_answered_to_either_side_with_itself_quoted() {
    for workers in [1, 4] {
        let mut rig = rig(workers);
        for len in [0, 1, 300, 519, 520, 521, 1400] {
            for tos in [0, 46 << 2, 46 << 2 | 3] {
                rig.advance(Duration::from_secs(1));
                let mut offender = with_ttl(&udp((pod(1), 9), (SERVER, 53), &vec![1; len]), 1);
                offender[15] = tos;
                seal(&mut offender[14..]);
                let answer = Some((GATE, (11, 0), 0));
                expect(&mut rig, INSIDE, &offender, DropReason::TtlExpired, answer);
            }
        }
        let out = rig.one(INSIDE, &query()).unwrap().1;
        let at = seen(&out).src;
        let offender = with_ttl(&udp((SERVER, 53), at, b"answer"), 1);
        // Outside, nobody knows another address than the one that was addressed.
        expect(&mut rig, OUTSIDE, &offender, DropReason::TtlExpired, Some((at.0, (11, 0), 0)));
        assert_eq!(sent(&rig), 22);
        // Found by fuzzing: who tries a pod's own address from outside learned that a gateway is there.
        let stranger = with_ttl(&udp((SERVER, 53), (pod(1), 4000), b"are you there"), 1);
        expect(&mut rig, OUTSIDE, &stranger, DropReason::TtlExpired, None);
        let exempt = with_ttl(&udp((EXEMPT_SERVER, 53), (pod(1), 4000), b"answer"), 1);
        let router = Addr::new(203, 0, 113, 2);
        change(&rig, |snapshot| snapshot.interfaces[OUTSIDE.index()].address = Some(router));
        expect(&mut rig, OUTSIDE, &exempt, DropReason::TtlExpired, Some((router, (11, 0), 0)));
    }
}

// Proves: 4787-REQ-13, 5508-S7.1.1a, 5508-S7.1.1b, 1812-S5.2.7.1b
#[test]
fn too_big_with_df_is_answered_by_the_mtu_of_the_next_link() {
    for workers in [1, 4] {
        let mut rig = rig(workers);
        let flow = (pod(1), 4000);
        let out = rig.one(INSIDE, &tcp(flow, (SERVER, 80), "S", b"")).unwrap().1;
        let at = seen(&out).src;
        change(&rig, |snapshot| {
            snapshot.interfaces[INSIDE.index()].mtu = 1450;
            snapshot.interfaces[OUTSIDE.index()].mtu = 1280;
        });
        let offenders = [
            udp((pod(2), 4000), (SERVER, 53), &[3; 1400]),
            tcp(flow, (SERVER, 80), "A", &[3; 1300]),
            ping(pod(3), SERVER, 7, &[3; 1300]),
        ];
        for offender in offenders {
            let answer = Some((GATE, (3, 4), 1280));
            expect(&mut rig, INSIDE, &with_df(&offender), DropReason::TooBig, answer);
        }
        let offender = with_df(&tcp((SERVER, 80), at, "SA", &[4; 1440]));
        expect(&mut rig, OUTSIDE, &offender, DropReason::TooBig, Some((at.0, (3, 4), 1450)));
    }
}

// Proves: 1812-S5.2.7.1a, 1812-S4.3.3.1, 6146-S3.4g
#[test]
fn every_cause_has_its_code() {
    let mut rig = rig(2);
    let denied = udp((pod(1), 4000), (Addr::new(192, 0, 2, 99), 53), b"q");
    expect(&mut rig, INSIDE, &denied, DropReason::NoRule, Some((GATE, (3, 13), 0)));
    let nowhere = udp((pod(1), 4000), (Addr::new(198, 51, 100, 1), 53), b"q");
    expect(&mut rig, INSIDE, &nowhere, DropReason::NoRoute, Some((GATE, (3, 0), 0)));
    let mut dccp = query();
    dccp[23] = 33;
    seal(&mut dccp[14..]);
    let reason = DropReason::UnsupportedProtocol;
    expect(&mut rig, INSIDE, &dccp, reason, Some((GATE, (3, 2), 0)));
    dccp[26..34].copy_from_slice(&[192, 0, 2, 80, 203, 0, 113, 10]);
    seal(&mut dccp[14..]);
    expect(&mut rig, OUTSIDE, &dccp, reason, None);
}

// Proves: 1812-S4.3.3.1, 1812-S4.3.2.3a
#[test]
fn a_dead_next_hop_is_told_with_the_packet_as_the_pod_has_sent_it() {
    for workers in [1, 3] {
        let mut rig = rig(workers);
        change(&rig, |snapshot| snapshot.roads = Arc::new(roads(None)));
        let offenders = [
            query(),
            tcp((pod(2), 4000), (SERVER, 80), "S", b""),
            ping(pod(3), SERVER, 7, b"hello"),
        ];
        for offender in &offenders {
            assert_eq!(rig.one(INSIDE, offender), None, "it waits");
        }
        rig.advance(Duration::from_secs(4));
        let mut told: Vec<_> = rig.run();
        told.sort_by_key(|(_, error)| error[33]);
        let want = offenders.map(|o| (INSIDE, expected(&o, GATE, (3, 1), 0)));
        assert_eq!(told, want);
        assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 3);
    }
}

/// What a pod gets that may have no further session.
#[derive(Debug, PartialEq, Eq)]
enum Told {
    Nothing,
    Reset,
    Unreachable(u8),
}

fn refused_with(on_exhaustion: OnExhaustion, is_tcp: bool) -> Told {
    let quota = Quota { sessions: 1, ..PoolSettings::default().quota };
    let settings = PoolSettings { on_exhaustion, quota, ..PoolSettings::default() };
    let mut rig = answering(2, settings, Answers::default());
    rig.one(INSIDE, &query()).unwrap();
    let offender = if is_tcp {
        tcp((pod(1), 5000), (SERVER, 80), "S", b"")
    } else {
        udp((pod(1), 5000), (SERVER, 53), b"query")
    };
    let answer = rig.one(INSIDE, &offender);
    assert_eq!(rig.dropped(DropReason::QuotaSessions), 1);
    let Some((interface, answer)) = answer else { return Told::Nothing };
    if answer[23] == 6 {
        let view = seen(&answer);
        assert_eq!((view.src, view.dst), ((SERVER, 80), (pod(1), 5000)));
        assert_eq!((answer[47], rig.sum(|c| c.resets_sent.get())), (0x14, 1), "RST and ACK");
        return Told::Reset;
    }
    let code = answer[35];
    assert_eq!((interface, answer), (INSIDE, expected(&offender, GATE, (3, code), 0)));
    Told::Unreachable(code)
}

// Proves: 5508-REQ-8, 6888-REQ-11b
#[test]
fn exhaustion_is_answered_as_the_pool_says() {
    for is_tcp in [false, true] {
        assert_eq!(refused_with(OnExhaustion::Icmp, is_tcp), Told::Unreachable(1));
        assert_eq!(refused_with(OnExhaustion::IcmpAdmin, is_tcp), Told::Unreachable(13));
        assert_eq!(refused_with(OnExhaustion::Silent, is_tcp), Told::Nothing);
        let reset = if is_tcp { Told::Reset } else { Told::Unreachable(1) };
        assert_eq!(refused_with(OnExhaustion::Reset, is_tcp), reset);
    }
}

#[test]
fn denial_and_unmapped_ports_are_answered_as_configured() {
    let denied = tcp((pod(1), 4000), (Addr::new(192, 0, 2, 99), 80), "S", b"");
    let probe = tcp((SERVER, 80), (PUBLIC, 5000), "S", b"");
    let probe_udp = udp((SERVER, 53), (PUBLIC, 5000), b"?");
    for setting in [Refused::Silent, Refused::Icmp, Refused::Reset] {
        let answers = Answers { denied: setting, unmapped: setting, ..Answers::default() };
        let mut rig = answering(2, PoolSettings::default(), answers);
        let icmp = |from, code| (setting == Refused::Icmp).then_some((from, (3, code), 0));
        if setting == Refused::Reset {
            for (interface, offender) in [(INSIDE, &denied), (OUTSIDE, &probe)] {
                let (back, reset) = rig.one(interface, offender).expect("a reset");
                let (asked, view) = (seen(offender), seen(&reset));
                assert_eq!((back, view.src, view.dst), (interface, asked.dst, asked.src));
                assert_eq!((reset[23], reset[47]), (6, 0x14));
            }
            let of_reset = tcp((SERVER, 80), (PUBLIC, 5000), "R", b"");
            expect(&mut rig, OUTSIDE, &of_reset, DropReason::NoSession, None);
        } else {
            expect(&mut rig, INSIDE, &denied, DropReason::NoRule, icmp(GATE, 13));
            expect(&mut rig, OUTSIDE, &probe, DropReason::NoSession, icmp(PUBLIC, 3));
        }
        let answer = (setting != Refused::Silent).then_some((PUBLIC, (3, 3), 0));
        expect(&mut rig, OUTSIDE, &probe_udp, DropReason::NoSession, answer);
    }
}

// Proves: 1812-S4.3.2.3a
#[test]
fn a_packet_that_turned_back_in_vain_is_quoted_as_its_pod_has_sent_it() {
    for workers in [1, 4] {
        let answers = Answers { unmapped: Refused::Icmp, ..Answers::default() };
        let mut rig = answering(workers, PoolSettings::default(), answers);
        // A block that somebody holds, so that the packet goes to another worker, and one that nobody has.
        let held = seen(&rig.one(INSIDE, &query()).unwrap().1).src;
        for n in 2..6 {
            for to in [held, (PUBLIC, 65_000)] {
                let offender = udp((pod(n), 4000), to, b"to nobody");
                let answer = Some((GATE, (3, 3), 0));
                expect(&mut rig, INSIDE, &offender, DropReason::NoSession, answer);
            }
        }
    }
}

// Proves: 1812-S4.3.2.7, 1812-S5.3.7, 1812-S5.2.2, 5508-REQ-10e
#[test]
fn nothing_is_sent_about_what_may_not_be_answered() {
    let mut rig = rig(2);
    let out = rig.one(INSIDE, &query()).unwrap().1;
    let at = seen(&out).src;
    // Errors.
    let error = icmp((SERVER, at.0), (3, 1), [0; 4], &out[14..]);
    expect(&mut rig, OUTSIDE, &with_ttl(&error, 1), DropReason::TtlExpired, None);
    let redirect = icmp((pod(1), SERVER), (5, 1), [0; 4], &query()[14..]);
    expect(&mut rig, INSIDE, &with_ttl(&redirect, 1), DropReason::TtlExpired, None);
    // Later fragments.
    let mut later = query();
    later[21] = 9;
    expect(&mut rig, INSIDE, &with_ttl(&later, 1), DropReason::TtlExpired, None);
    // Bad headers.
    let mut bad = with_ttl(&query(), 1);
    bad[24] ^= 1;
    expect(&mut rig, INSIDE, &bad, DropReason::BadHeaderChecksum, None);
    let mut version = query();
    version[14] = 0x55;
    expect(&mut rig, INSIDE, &version, DropReason::Malformed, None);
    // To all on the link, or to a group.
    let mut all = with_ttl(&query(), 1);
    all[..6].fill(0xff);
    expect(&mut rig, INSIDE, &all, DropReason::NotForUs, None);
    for octet in [0, 127, 224, 240, 255] {
        for at in [26, 30] {
            let mut packet = query();
            packet[at] = octet;
            expect(&mut rig, INSIDE, &with_ttl(&packet, 1), DropReason::BadAddress, None);
        }
    }
    // From addresses that can't be there.
    let foreign = udp((Addr::new(10, 9, 9, 9), 1), (SERVER, 53), b"q");
    expect(&mut rig, INSIDE, &with_ttl(&foreign, 1), DropReason::TtlExpired, None);
    let spoofed = udp((pod(2), 53), at, b"a");
    expect(&mut rig, OUTSIDE, &with_ttl(&spoofed, 1), DropReason::TtlExpired, None);
    expect(&mut rig, OUTSIDE, &udp((PUBLIC, 53), at, b"a"), DropReason::Spoofed, None);
    assert_eq!(sent(&rig), 0);
}

// Proves: 1812-S4.3.2.8, 5508-REQ-10f
#[test]
fn errors_are_limited_for_each_sender_and_in_all() {
    let answers =
        Answers { errors_per_second: 40, errors_per_subscriber: 10, ..Answers::default() };
    let mut rig = answering(1, PoolSettings::default(), answers);
    let flood = |rig: &mut Rig, n: u8, packets: usize| {
        let offender = with_ttl(&udp((pod(n), 9), (SERVER, 53), b"q"), 1);
        (0..packets).filter(|_| rig.one(INSIDE, &offender).is_some()).count()
    };
    rig.advance(Duration::from_secs(1));
    assert_eq!(flood(&mut rig, 1, 100), 10);
    assert_eq!((2..20).map(|n| flood(&mut rig, n, 20)).sum::<usize>(), 30, "40 in all");
    let (sent, limited) = (sent(&rig), rig.sum(|c| c.icmp_errors_limited.get()));
    assert_eq!((sent, limited, rig.dropped(DropReason::TtlExpired)), (40, 420, 460));
    let expired = rig.sum(|c| c.icmp_errors_sent[IcmpError::TtlExceeded as usize].get());
    assert_eq!(expired, 40, "under type and code");
    rig.advance(Duration::from_secs(1));
    assert_eq!(flood(&mut rig, 1, 100), 10, "they come back");
}

// Proves: 5508-REQ-9, 5508-S7.2b
#[test]
fn a_muted_interface_sends_no_errors() {
    let answers = Answers { muted: vec![OUTSIDE], ..Answers::default() };
    let mut rig = answering(2, PoolSettings::default(), answers);
    let at = seen(&rig.one(INSIDE, &query()).unwrap().1).src;
    let offender = with_ttl(&udp((SERVER, 53), at, b"answer"), 1);
    expect(&mut rig, OUTSIDE, &offender, DropReason::TtlExpired, None);
    let offender = with_ttl(&query(), 1);
    expect(&mut rig, INSIDE, &offender, DropReason::TtlExpired, Some((GATE, (11, 0), 0)));
}

#[test]
fn an_empty_pool_is_told_and_old_flows_go_on() {
    let settings = PoolSettings::default();
    let mut rig = answering(2, settings.clone(), Answers::default());
    let at = seen(&rig.one(INSIDE, &query()).unwrap().1).src;
    change(&rig, |snapshot| {
        let pool = Pool::new(PoolId(0), "empty", settings, []);
        let old = Policy::clone(&snapshot.policy);
        snapshot.policy = Arc::new(Policy { pools: vec![Arc::new(pool)], ..old });
    });
    let offender = udp((pod(7), 4000), (SERVER, 53), b"query");
    expect(&mut rig, INSIDE, &offender, DropReason::PoolExhausted, Some((GATE, (3, 1), 0)));
    assert!(rig.one(OUTSIDE, &udp((SERVER, 53), at, b"answer")).is_some());
}
