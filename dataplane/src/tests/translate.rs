//! What passes: both ways, to the right peer, with nothing else changed.

use super::*;

#[test]
fn every_protocol_goes_out_and_comes_back_at_any_number_of_workers() {
    for workers in [1, 2, 4, 7] {
        let mut rig = Rig::new(workers);
        for n in 1..30 {
            let request = udp((pod(n), 5000), (SERVER, 53), b"question");
            round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, b"longer answer"));
            let request = tcp((pod(n), 5000), (SERVER, 80), "S", b"");
            round_trip(&mut rig, &request, |public| tcp((SERVER, 80), public, "SA", b""));
            let request = ping(pod(n), SERVER, 5000, b"abc");
            round_trip(&mut rig, &request, |(addr, id)| pong(SERVER, addr, id, b"abc"));
        }
        assert_eq!(rig.sum(|c| c.handed_over.get()) > 0, workers > 1);
        assert_eq!(rig.sum(|c| c.forwarded.get()), 29 * 6);
    }
}

// Proves: 4787-REQ-3
#[test]
fn two_pods_with_one_source_port_are_told_apart() {
    let mut rig = Rig::new(2);
    let mut owners = HashMap::new();
    for n in 1..60 {
        let request = udp((pod(n), 4000), (SERVER, 53), &[n]);
        let public = round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, &[n]));
        assert_eq!(owners.insert(public, n), None);
    }
}

// Museum: C22
#[test]
fn udp_without_checksum_stays_without() {
    let mut rig = Rig::new(1);
    let mut request = udp((pod(1), 4000), (SERVER, 53), b"x");
    request[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, out) = rig.one(INSIDE, &request).unwrap();
    assert_eq!(out[14 + 20 + 6..14 + 20 + 8], [0, 0]);
    let public = seen(&out).src;
    assert_ne!(public, (pod(1), 4000));
    let mut reply = udp((SERVER, 53), public, b"y");
    reply[14 + 20 + 6..14 + 20 + 8].fill(0);
    let (_, back) = rig.one(OUTSIDE, &reply).unwrap();
    assert_eq!(back[14 + 20 + 6..14 + 20 + 8], [0, 0]);
    assert_eq!(seen(&back).dst, (pod(1), 4000));
}

// Museum: C25
#[test]
fn partial_checksums_are_computed_and_wrong_ones_stay_wrong() {
    let mut rig = Rig::new(1);
    for (mut request, offset, protocol) in [
        (udp((pod(1), 4000), (SERVER, 53), b"odd"), 6, 17u8),
        (tcp((pod(1), 4000), (SERVER, 80), "S", b""), 16, 6),
    ] {
        let len = (request.len() - 34) as u16;
        let pseudo = crate::wire::checksum::pseudo_header(pod(1), SERVER, protocol, len);
        let partial = crate::wire::checksum::fold(pseudo).to_be_bytes();
        request[34 + offset..36 + offset].copy_from_slice(&partial);
        let (_, out) = rig.one(INSIDE, &request).unwrap();
        seen(&out);
    }
    assert_eq!(rig.sum(|c| c.checksums_repaired.get()), 2);
    let good = udp((pod(1), 4000), (SERVER, 53), b"odd");
    let mut wrong = good.clone();
    wrong[34 + 6] ^= 0x10;
    let field = |packet: &[u8]| u32::from(u16::from_be_bytes([packet[40], packet[41]]));
    let difference = |a: &[u8], b: &[u8]| (field(a) + 0xffff - field(b)) % 0xffff;
    let (_, good_out) = rig.one(INSIDE, &good).unwrap();
    let (_, wrong_out) = rig.one(INSIDE, &wrong).unwrap();
    assert_eq!(difference(&wrong_out, &good_out), difference(&wrong, &good));
    assert_eq!(rig.sum(|c| c.checksums_repaired.get()), 2);
}

#[test]
fn replies_only_from_the_addressed_remote() {
    let mut rig = Rig::new(2);
    let request = udp((pod(1), 4000), (SERVER, 53), b"q");
    let public = round_trip(&mut rig, &request, |public| udp((SERVER, 53), public, b"a"));
    assert_eq!(rig.one(OUTSIDE, &udp((SERVER, 54), public, b"other port")), None);
    assert_eq!(
        rig.one(OUTSIDE, &udp((Ipv4Addr::new(192, 0, 2, 81), 53), public, b"other host")),
        None
    );
    assert_eq!(rig.dropped(DropReason::NoSession), 2);
}

#[test]
fn exempt_traffic_passes_untranslated_both_ways() {
    let mut rig = Rig::new(2);
    let (interface, out) =
        rig.one(INSIDE, &udp((pod(1), 4000), (EXEMPT_SERVER, 53), b"q")).unwrap();
    let out = seen(&out);
    assert_eq!((interface, out.src, out.ttl), (OUTSIDE, (pod(1), 4000), 63));
    let (interface, back) =
        rig.one(OUTSIDE, &udp((EXEMPT_SERVER, 53), (pod(1), 4000), b"a")).unwrap();
    let back = seen(&back);
    assert_eq!((interface, back.src, back.dst), (INSIDE, (EXEMPT_SERVER, 53), (pod(1), 4000)));
    assert_eq!(rig.sum(|c| c.sessions_created.get()), 0);
}

/// Replies in protocols without ports were looked for by a port, and dropped.
// Proves: 4787-REQ-2
#[test]
fn bug_replies_without_ports_found_no_worker() {
    for workers in [1, 3] {
        let mut rig = Rig::new(workers);
        let gre = |src: Ipv4Addr, dst: Ipv4Addr| {
            let mut packet = Vec::new();
            let number = etherparse::IpNumber(47);
            packets::ether(src, dst, 64).write(&mut packet, number, b"tunnelled").unwrap();
            packet
        };
        for n in 1..=2 {
            let server = Ipv4Addr::new(192, 0, 2, 80 + n);
            let (_, out) = rig.one(INSIDE, &gre(pod(n), server)).unwrap();
            let public = Ipv4Addr::new(out[26], out[27], out[28], out[29]);
            assert_ne!(public, pod(n));
            let (interface, back) = rig.one(OUTSIDE, &gre(server, public)).unwrap();
            assert_eq!((interface, &back[30..34]), (INSIDE, &pod(n).octets()[..]));
            assert_eq!(&back[34..43], b"tunnelled");
            // Nobody else may answer.
            assert!(rig.one(OUTSIDE, &gre(Ipv4Addr::new(192, 0, 2, 99), public)).is_none());
        }
    }
}
