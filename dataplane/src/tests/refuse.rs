//! What does not pass, and under which name.

use super::*;

// Proves: 1812-S5.2.2, 1812-S5.3.7
#[test]
fn what_may_not_pass_is_dropped_under_its_name() {
    let mut rig = Rig::new(2);
    let mut expect = |packet: Vec<u8>, interface, reason| {
        let before = rig.dropped(reason);
        assert_eq!(rig.one(interface, &packet), None, "{reason} was forwarded");
        assert_eq!(rig.dropped(reason), before + 1, "{reason} was not counted");
    };
    let good = udp((pod(1), 4000), (SERVER, 53), b"data");
    let with = |at: usize, value: u8| {
        let mut packet = good.clone();
        packet[at] = value;
        packet[24..26].fill(0);
        let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&packet[14..34]));
        packet[24..26].copy_from_slice(&(!sum).to_be_bytes());
        packet
    };
    expect(good[..20].to_vec(), INSIDE, DropReason::Malformed);
    expect(good[..10].to_vec(), INSIDE, DropReason::Malformed);
    expect(with(14, 0x65), INSIDE, DropReason::Malformed);
    expect(with(14, 0x44), INSIDE, DropReason::Malformed);
    expect(with(17, 200), INSIDE, DropReason::Malformed);
    expect(with(17, 19), INSIDE, DropReason::Malformed);
    expect(with(23, 33), INSIDE, DropReason::UnsupportedProtocol);
    expect(with(20, 0x20), INSIDE, DropReason::Malformed);
    for first_octet in [0, 127, 224, 239, 240, 255] {
        expect(with(26, first_octet), INSIDE, DropReason::BadAddress);
        expect(with(30, first_octet), INSIDE, DropReason::BadAddress);
        expect(with(26, first_octet), OUTSIDE, DropReason::BadAddress);
    }
    expect(with(22, 1), INSIDE, DropReason::TtlExpired);
    expect(with(30, 198), INSIDE, DropReason::NoRoute);
    let mut damaged = good.clone();
    damaged[24] ^= 1;
    expect(damaged, INSIDE, DropReason::BadHeaderChecksum);
    for other in [[0xff; 6], [2, 0, 0, 0, 0, 77]] {
        let mut frame = good.clone();
        frame[..6].copy_from_slice(&other);
        expect(frame, INSIDE, DropReason::NotForUs);
    }
    let mut ipv6 = good.clone();
    ipv6[12..14].copy_from_slice(&[0x86, 0xdd]);
    expect(ipv6, INSIDE, DropReason::NotIpv4);
    expect(udp((pod(1), 0), (SERVER, 53), b""), INSIDE, DropReason::PortZero);
    expect(udp((Ipv4Addr::new(10, 9, 9, 9), 1), (SERVER, 53), b""), INSIDE, DropReason::NoRule);
    expect(udp((pod(1), 1), (Ipv4Addr::new(192, 0, 2, 99), 53), b""), INSIDE, DropReason::NoRule);
    expect(
        udp((pod(1), 1), (Ipv4Addr::new(10, 0, 0, 9), 53), b""),
        INSIDE,
        DropReason::WrongInterface,
    );
    expect(udp((pod(1), 1), (pod(2), 53), b""), INSIDE, DropReason::WrongInterface);
    expect(udp((pod(1), 1), (PUBLIC, 53), b""), INSIDE, DropReason::NoSession);
    expect(tcp((pod(1), 1), (SERVER, 80), "A", b""), INSIDE, DropReason::TcpNotSyn);
    expect(tcp((pod(1), 1), (SERVER, 80), "SF", b""), INSIDE, DropReason::TcpNotSyn);
    expect(pong(pod(1), SERVER, 7, b""), INSIDE, DropReason::NoSession);
    expect(udp((SERVER, 53), (PUBLIC, 5000), b""), OUTSIDE, DropReason::NoSession);
    expect(udp((PUBLIC, 53), (PUBLIC, 5000), b""), OUTSIDE, DropReason::Spoofed);
    expect(udp((SERVER, 53), (pod(1), 5000), b""), OUTSIDE, DropReason::Spoofed);
    expect(udp((pod(1), 4000), (SERVER, 53), &[0; 1473]), INSIDE, DropReason::TooBig);
}

// Proves: 1812-S5.3.13.5
#[test]
fn record_route_does_not_leave() {
    let mut rig = Rig::new(1);
    let mut option = udp((pod(1), 4000), (SERVER, 53), b"data");
    option.splice(34..34, [7, 4, 4, 0]);
    option[14] = 0x46;
    option[17] += 4;
    option[24..26].fill(0);
    let sum = crate::wire::checksum::fold(crate::wire::checksum::sum(&option[14..38]));
    option[24..26].copy_from_slice(&(!sum).to_be_bytes());
    assert_eq!(rig.one(INSIDE, &option), None);
    assert_eq!(rig.dropped(DropReason::IpOption), 1);
}

#[test]
fn a_flow_without_a_way_out_takes_no_port() {
    let mut rig = Rig::new(1);
    let nowhere = Ipv4Addr::new(198, 51, 100, 1);
    assert_eq!(rig.one(INSIDE, &udp((pod(1), 4000), (nowhere, 53), b"q")), None);
    rig.advance(Duration::from_secs(1));
    rig.run();
    assert_eq!(rig.dropped(DropReason::NoRoute), 1);
    assert_eq!(rig.sum(|c| c.sessions_created.get() + c.subscribers.get()), 0);
}

#[test]
fn nobody_outside_opens_a_connection_to_a_pod_by_the_exempt_rule() {
    let mut rig = Rig::new(2);
    let (server, client) = ((EXEMPT_SERVER, 80), (pod(1), 4000));
    for flags in ["SA", "A", "FA", "R"] {
        assert!(rig.one(OUTSIDE, &tcp(server, client, flags, b"")).is_some(), "{flags} is a reply");
    }
    assert!(rig.one(INSIDE, &tcp(client, server, "S", b"")).is_some());
    assert_eq!(rig.dropped(DropReason::Spoofed), 0);
    assert_eq!(rig.one(OUTSIDE, &tcp(server, client, "S", b"")), None);
    assert_eq!(rig.dropped(DropReason::Spoofed), 1);
}

#[test]
fn unknown_segments_from_inside_are_reset_after_the_grace_time() {
    let mut rig = Rig::new(2);
    let packet = tcp((pod(1), 4000), (SERVER, 80), "A", b"data");
    assert_eq!(rig.one(INSIDE, &packet), None);
    rig.advance(Duration::from_secs(10));
    let (interface, reset) = rig.one(INSIDE, &packet).unwrap();
    assert_eq!(interface, INSIDE);
    let view = seen(&reset);
    assert_eq!((view.src, view.dst), ((SERVER, 80), (pod(1), 4000)));
    let sliced = SlicedPacket::from_ethernet(&reset).unwrap();
    let Some(TransportSlice::Tcp(tcp_header)) = sliced.transport else { panic!("no TCP") };
    assert!(tcp_header.rst() && !tcp_header.ack());
    assert_eq!(tcp_header.sequence_number(), 1001, "what the segment acknowledged");
    let reset_in = tcp((pod(1), 4000), (SERVER, 80), "RA", b"");
    assert_eq!(rig.one(INSIDE, &reset_in), None, "no reset in answer to a reset");
}
