//! What natgate answers itself for the addresses of its pools.

use super::fixed_rig::fixed_rig;
use super::*;
use crate::snapshot::Answers;

#[test]
fn pings_to_pool_addresses_are_answered_within_limits() {
    let mut rig = Rig::new(1);
    for interface in [INSIDE, OUTSIDE] {
        let (back, reply) = rig.one(interface, &ping(SERVER, PUBLIC, 9, b"hello")).unwrap();
        let reply = seen(&reply);
        assert_eq!(back, interface);
        assert_eq!((reply.src.0, reply.dst, reply.ttl), (PUBLIC, (SERVER, 9), 64));
        assert_eq!(reply.payload, b"hello");
    }
    let mut answered = 0;
    for _ in 0..30 {
        for _ in 0..60 {
            rig.inject(OUTSIDE, &ping(SERVER, PUBLIC, 9, b""));
        }
        answered += rig.run().len();
    }
    assert_eq!(answered, 98, "100 a second, two used above");
    assert_eq!(rig.dropped(DropReason::EchoLimited), 1_800 - 98);
}

#[test]
fn pings_that_are_not_to_be_answered_are_not_counted_as_too_many() {
    let answers = Answers { ping: false, ..Answers::default() };
    let mut rig = fixed_rig(1, PoolSettings::default(), answers);
    for interface in [INSIDE, OUTSIDE] {
        assert_eq!(rig.one(interface, &ping(SERVER, PUBLIC, 9, b"hello")), None);
    }
    assert_eq!(rig.dropped(DropReason::EchoRefused), 2);
    assert_eq!(rig.dropped(DropReason::EchoLimited), 0);
}

// Proves: 1812-S5.3.7
#[test]
fn a_ping_in_the_name_of_a_pool_address_is_not_answered_on_either_side() {
    let mut rig = Rig::new(2);
    for (count, interface) in [(1, INSIDE), (2, OUTSIDE)] {
        assert_eq!(rig.one(interface, &ping(PUBLIC, PUBLIC, 9, b"hello")), None);
        assert_eq!(rig.dropped(DropReason::Spoofed), count);
    }
}

#[test]
fn a_ping_from_outside_with_an_internal_source_is_not_answered() {
    let mut rig = Rig::new(2);
    for (count, source) in [(1, pod(1)), (2, PUBLIC)] {
        assert_eq!(rig.one(OUTSIDE, &ping(source, PUBLIC, 9, b"hello")), None);
        assert_eq!(rig.dropped(DropReason::Spoofed), count);
    }
    assert!(rig.one(INSIDE, &ping(pod(1), PUBLIC, 9, b"hello")).is_some(), "pods may ask");
}

#[test]
fn arp_is_answered_for_pool_addresses_outside_and_announced() {
    use crate::wire::arp::{self, Operation, Party};
    let ask = |target: Ipv4Addr| {
        let mut packet = vec![0; 42];
        packet[..6].fill(0xff);
        packet[6..12].copy_from_slice(&ROUTER_MAC);
        packet[12..14].copy_from_slice(&[8, 6]);
        let sender = Party { mac: Mac(ROUTER_MAC), ip: Ipv4Addr::new(203, 0, 113, 1) };
        arp::emit(
            &mut packet[14..],
            Operation::Request,
            sender,
            Party { mac: Mac::default(), ip: target },
        )
        .unwrap();
        packet
    };
    let mut rig = Rig::new(2);
    let (interface, reply) = rig.one(OUTSIDE, &ask(PUBLIC)).unwrap();
    assert_eq!(interface, OUTSIDE);
    assert_eq!((&reply[..6], &reply[6..12]), (&ROUTER_MAC[..], &GATE_MAC[..]));
    let arp = crate::wire::Arp::new_checked(&reply[14..]).unwrap();
    assert_eq!(arp.operation(), Some(Operation::Reply));
    assert_eq!(arp.sender(), Party { mac: Mac(GATE_MAC), ip: PUBLIC });
    assert_eq!(rig.one(OUTSIDE, &ask(Ipv4Addr::new(203, 0, 113, 77))), None);
    assert_eq!(rig.one(INSIDE, &ask(PUBLIC)), None);
    assert_eq!(rig.dropped(DropReason::ArpIgnored), 2);
    rig.requests[0].send(Request::Announce).unwrap();
    let announced = rig.run();
    assert_eq!(announced.len(), 2, "both addresses are on the link");
    for (interface, packet) in announced {
        let arp = crate::wire::Arp::new_checked(&packet[14..]).unwrap();
        assert_eq!((interface, &packet[..6]), (OUTSIDE, &[0xff; 6][..]));
        assert_eq!(arp.sender().ip, arp.target().ip);
    }
}
