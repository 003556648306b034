//! What natgate says by itself about TCP: resets of what expired, answers to SYNs that nobody wanted.

use conntrack::{MidStream, OnExpiry, PoolSettings};
use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};

use super::*;
use crate::io::PacketIo;

/// A segment with numbers.
fn numbered(
    src: (Ipv4Addr, u16),
    dst: (Ipv4Addr, u16),
    flags: &str,
    (seq, ack): (u32, u32),
    payload: &[u8],
) -> Vec<u8> {
    let step = PacketBuilder::ethernet2([2, 9, 9, 9, 9, 9], GATE_MAC);
    let mut step = step.ipv4(src.0.octets(), dst.0.octets(), 64).tcp(src.1, dst.1, seq, 1000);
    for flag in flags.chars() {
        step = match flag {
            'S' => step.syn(),
            'A' => step.ack(ack),
            'F' => step.fin(),
            'R' => step.rst(),
            other => panic!("no flag {other}"),
        };
    }
    let mut packet = Vec::new();
    step.write(&mut packet, payload).unwrap();
    packet
}

/// Flags, sequence and acknowledgement number of a segment.
fn numbers(packet: &[u8]) -> (bool, u32, u32) {
    let sliced = SlicedPacket::from_ethernet(packet).unwrap();
    let Some(TransportSlice::Tcp(tcp)) = sliced.transport else { panic!("no TCP") };
    (tcp.rst(), tcp.sequence_number(), tcp.acknowledgment_number())
}

const POD_PORT: u16 = 4000;

/// Opens a connection and sends 5 bytes out and 7 back; returns the public endpoint.
fn connect(rig: &mut Rig, pod_number: u8) -> (Ipv4Addr, u16) {
    let (client, server) = ((pod(pod_number), POD_PORT), (SERVER, 80));
    let syn = numbered(client, server, "S", (1000, 0), b"");
    let public = seen(&rig.one(INSIDE, &syn).unwrap().1).src;
    for (interface, packet) in [
        (OUTSIDE, numbered(server, public, "SA", (9000, 1001), b"")),
        (INSIDE, numbered(client, server, "A", (1001, 9001), b"hello")),
        (OUTSIDE, numbered(server, public, "A", (9001, 1006), b"welcome")),
        (INSIDE, numbered(client, server, "A", (1006, 9008), b"")),
    ] {
        rig.one(interface, &packet).expect("forwarded");
    }
    public
}

// Proves: 5382-S5b, 5382-REQ-5.2
#[test]
fn s_5382_5b_both_ends_of_an_idle_connection_are_reset() {
    for workers in [1, 3] {
        let mut rig = Rig::new(workers);
        let public = connect(&mut rig, 1);
        rig.advance(Duration::from_secs(7_439));
        assert!(rig.run().is_empty());
        rig.advance(Duration::from_secs(3));
        let sent = rig.run();
        assert_eq!(sent.len(), 2, "{sent:?}");
        for (interface, packet) in sent {
            let (view, reset) = (seen(&packet), numbers(&packet));
            if interface == INSIDE {
                assert_eq!((view.src, view.dst), ((SERVER, 80), (pod(1), POD_PORT)));
                assert_eq!((view.macs, reset), ((GATE_MAC, NODE_MAC), (true, 9008, 1006)));
            } else {
                assert_eq!((view.src, view.dst), (public, (SERVER, 80)));
                assert_eq!((view.macs, reset), ((GATE_MAC, ROUTER_MAC), (true, 1006, 9008)));
            }
        }
        assert_eq!(rig.sum(|c| c.resets_sent.get()), 2);
        rig.advance(Duration::from_secs(60));
        assert!(rig.run().is_empty(), "once");
    }
}

// Proves: 5382-S5b
#[test]
fn s_5382_5b_silence_where_the_pool_wants_it() {
    let settings = PoolSettings { on_expiry: OnExpiry::Silent, ..PoolSettings::default() };
    let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
    connect(&mut rig, 1);
    rig.advance(Duration::from_secs(7_442));
    assert!(rig.run().is_empty());
    assert_eq!(rig.workers[0].nat.stats().sessions, 0);
}

#[test]
fn farewells_are_bounded_in_a_turn_and_missed_without_a_way() {
    let mut rig = Rig::new(1);
    for n in 1..=40 {
        connect(&mut rig, n);
    }
    rig.advance(Duration::from_secs(7_442));
    rig.workers[0].turn(rig.now);
    assert!(rig.workers[0].unfinished, "there are more to tell");
    assert_eq!(rig.sum(|c| c.resets_sent.get()), 32);
    rig.run();
    assert_eq!(rig.sum(|c| c.resets_sent.get()), 80);
    let mut rig = Rig::new(1);
    connect(&mut rig, 1);
    let old = rig.snapshot.get();
    rig.snapshot.publish(Snapshot { roads: Arc::new(roads(None)), ..(*old).clone() });
    rig.advance(Duration::from_secs(7_442));
    assert_eq!(rig.run().len(), 1, "the pod");
    assert_eq!(rig.sum(|c| c.resets_missed.get()), 1);
    // A worker without frames skips the resets and goes on.
    let mut rig = Rig::new(1);
    connect(&mut rig, 1);
    let worker = &mut rig.workers[0];
    let taken: Vec<_> = std::iter::from_fn(|| worker.io_mut().allocate()).collect();
    worker.turn(rig.now + Duration::from_secs(7_442));
    assert_eq!(worker.nat.stats().sessions, 0);
    for frame in taken {
        worker.io_mut().release(frame);
    }
    assert_eq!(rig.sum(|c| c.resets_missed.get()), 2);
}

#[test]
fn mid_stream_segments_are_dropped_in_silence_where_the_pool_wants_it() {
    let settings = PoolSettings { mid_stream: MidStream::Drop, ..PoolSettings::default() };
    let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
    rig.advance(Duration::from_secs(60));
    assert_eq!(rig.one(INSIDE, &tcp((pod(1), 4000), (SERVER, 80), "A", b"x")), None);
    assert_eq!(rig.dropped(DropReason::TcpNotSyn), 1);
    let mut rig = Rig::new(1);
    rig.advance(Duration::from_secs(60));
    assert!(rig.one(INSIDE, &tcp((pod(1), 4000), (SERVER, 80), "A", b"x")).is_some());
    assert_eq!(rig.one(OUTSIDE, &tcp((SERVER, 80), (PUBLIC, 4000), "A", b"x")), None, "outside");
}

// Proves: 5382-S9a, 7857-S2.2a
// Museum: C4
#[test]
fn museum_4_a_segment_outside_the_window_is_translated_all_the_same() {
    let mut rig = Rig::new(1);
    let public = connect(&mut rig, 1);
    for flags in ["R", "FA", "SA", "A"] {
        let forged = numbered((SERVER, 80), public, flags, (77_777, 55_555), b"");
        let (interface, packet) = rig.one(OUTSIDE, &forged).expect("forwarded");
        assert_eq!((interface, seen(&packet).dst), (INSIDE, (pod(1), POD_PORT)), "{flags}");
    }
    rig.advance(Duration::from_secs(7_430));
    rig.run();
    assert_eq!(rig.workers[0].nat.stats().sessions, 1);
}

fn strict(workers: u16) -> Rig {
    let mut rig = Rig::with(workers, PoolSettings::rfc4787(), Some(Mac(ROUTER_MAC)));
    rig.advance(Duration::from_secs(1));
    rig
}

/// The ICMP error in a frame: type and code, destination, quote.
fn error(packet: &[u8]) -> ((u8, u8), Ipv4Addr, Vec<u8>) {
    let view = seen(packet);
    ((packet[34], packet[35]), view.dst.0, packet[42..].to_vec())
}

// Proves: 5382-REQ-4.1, 5382-REQ-4.3
#[test]
fn req_5382_4_an_unsolicited_syn_is_answered_after_six_seconds() {
    for workers in [1, 3] {
        let mut rig = strict(workers);
        let syn = numbered((SERVER, 80), (PUBLIC, 5000), "S", (1000, 0), b"");
        assert_eq!(rig.one(OUTSIDE, &syn), None);
        // A copy, a second later, is not answered by itself (at the same worker).
        rig.advance(Duration::from_secs(1));
        rig.arrivals -= 1;
        assert_eq!(rig.one(OUTSIDE, &syn), None);
        for _ in 0..49 {
            rig.advance(Duration::from_millis(100));
            assert!(rig.run().is_empty(), "5.9 s");
        }
        rig.advance(Duration::from_millis(200));
        let sent = rig.run();
        assert_eq!(sent.len(), 1, "6.1 s");
        let (kind, to, quote) = error(&sent[0].1);
        assert_eq!((sent[0].0, kind, to), (OUTSIDE, (3, 3), SERVER));
        assert_eq!(quote, syn[14..], "the SYN as it was received");
        assert_eq!(seen(&sent[0].1).src.0, PUBLIC);
        rig.advance(Duration::from_secs(20));
        assert!(rig.run().is_empty(), "once");
    }
}

// Proves: 5382-REQ-4.2
#[test]
fn req_5382_4_2_an_outbound_syn_to_the_sender_ends_the_wait() {
    let probe = numbered((pod(1), 4000), (SERVER, 81), "S", (1, 0), b"");
    // Nobody but the addressed remote may send in, so the SYN waits.
    let settings = PoolSettings {
        filtering_tcp: conntrack::Behavior::AddressAndPortDependent,
        ..PoolSettings::rfc4787()
    };
    let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
    let public = seen(&rig.one(INSIDE, &probe).unwrap().1).src;
    let syn = numbered((SERVER, 80), public, "S", (1000, 0), b"");
    assert_eq!(rig.one(OUTSIDE, &syn), None);
    rig.advance(Duration::from_secs(3));
    let out = numbered((pod(1), 4000), (SERVER, 80), "S", (5000, 0), b"");
    assert_eq!(seen(&rig.one(INSIDE, &out).unwrap().1).src, public);
    assert!(rig.workers[0].unsolicited.is_empty(), "its place is free for others");
    let back = numbered((SERVER, 80), public, "S", (1000, 0), b"");
    assert!(rig.one(OUTSIDE, &back).is_some(), "sent again, it passes");
    for _ in 0..100 {
        rig.advance(Duration::from_millis(100));
        assert!(rig.run().is_empty());
    }
}

/// The SYN waits where it arrived, the pod lives elsewhere: whoever holds the SYN asks the directory.
// Proves: 5382-REQ-4.2
#[test]
fn req_5382_4_2_the_wait_ends_at_workers_that_do_not_know_the_pod() {
    let out = numbered((pod(1), 4000), (SERVER, 80), "S", (5000, 0), b"");
    // What the pod will get, in a gateway that is the same.
    let mut twin = strict(3);
    twin.advance(Duration::from_secs(3));
    let public = seen(&twin.one(INSIDE, &out).unwrap().1).src;
    let mut rig = strict(3);
    let syn = numbered((SERVER, 80), public, "S", (1000, 0), b"");
    for _ in 0..3 {
        assert_eq!(rig.one(OUTSIDE, &syn), None);
    }
    assert!(rig.workers.iter().all(|worker| worker.unsolicited.len() == 1));
    rig.advance(Duration::from_secs(3));
    assert_eq!(seen(&rig.one(INSIDE, &out).unwrap().1).src, public);
    for _ in 0..100 {
        rig.advance(Duration::from_millis(100));
        assert!(rig.run().is_empty(), "an answer would end the connection");
    }
    assert!(rig.workers.iter().all(|worker| worker.unsolicited.is_empty()));
}

// Proves: 5382-REQ-4a
#[test]
fn req_5382_4a_high_density_is_silent() {
    let mut rig = Rig::new(1);
    assert_eq!(rig.one(OUTSIDE, &tcp((SERVER, 80), (PUBLIC, 5000), "S", b"")), None);
    for _ in 0..60 {
        rig.advance(Duration::from_secs(1));
        assert!(rig.run().is_empty());
    }
    // And so is the strict profile about what is not a SYN, or comes from natgate's own addresses.
    let mut rig = strict(1);
    for flags in ["A", "SA", "R", "FA", "SF"] {
        assert_eq!(rig.one(OUTSIDE, &tcp((SERVER, 80), (PUBLIC, 5000), flags, b"")), None);
    }
    assert_eq!(rig.one(OUTSIDE, &tcp((pod(3), 80), (PUBLIC, 5000), "S", b"")), None);
    rig.advance(Duration::from_secs(10));
    assert!(rig.run().is_empty());
}

// Proves: 5382-REQ-4.3
#[test]
fn req_5382_4_3_a_flood_of_syns_is_held_in_bounds() {
    let mut rig = strict(1);
    for n in 0..5_000u32 {
        let from = Ipv4Addr::from(0xc633_6400 + n);
        rig.inject(OUTSIDE, &tcp((from, 80), (PUBLIC, 5000), "S", &[7; 300]));
        if n % 64 == 63 {
            assert!(rig.run().is_empty());
        }
    }
    rig.run();
    assert_eq!(rig.workers[0].unsolicited.len(), 1_024);
    rig.advance(Duration::from_millis(6_100));
    let answered = rig.run().len();
    assert!((1..=512).contains(&answered), "{answered}: within frames and the limit");
    assert!(rig.workers[0].unsolicited.is_empty());
}
