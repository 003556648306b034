//! Does a packet allocate? It must not, whichever way it goes.

#![allow(clippy::unwrap_used)] // what fails here, fails the test

use std::time::Duration;

use allocation_counter::measure;
use bench::gateway::{Gateway, Setup};
use bench::packets::Kind;
use bench::packets::traffic::{Traffic, prepare};
use conntrack::PoolSettings;
use dataplane::forward::Forwards;
use dataplane::io::BURST;
use dataplane::snapshot::Answers;

const PACKETS: usize = 100_000;
const FLOWS: u32 = 1_000;
/// Packets made beforehand; they are sent again and again.
const MADE: usize = 50 * BURST;

fn gateway(workers: u16, sessions: usize) -> Gateway {
    Gateway::new(&Setup {
        workers,
        sessions,
        frames: 4 * BURST,
        addresses: 4,
        pool: PoolSettings::default(),
        forwards: Forwards::default(),
        answers: Answers::default(),
        mtu: [1500; 2],
        tunnel: false,
    })
    .unwrap()
}

/// Sends `traffic` until `packets` packets have come; the allocations in all turns of all workers together.
fn allocations(gateway: &mut Gateway, traffic: &Traffic, packets: usize) -> u64 {
    let mut frames = traffic.frames.iter().cycle();
    let mut allocations = 0;
    for _ in 0..packets.div_ceil(BURST) {
        for frame in frames.by_ref().take(BURST) {
            assert!(gateway.inject(traffic.interface, frame));
        }
        gateway.now = gateway.now + Duration::from_millis(1);
        let now = gateway.now;
        // What is handed over is taken in the next turn.
        for _ in 0..2 {
            for worker in &mut gateway.workers {
                allocations += measure(|| {
                    worker.turn(now);
                })
                .count_total;
                worker.io_mut().recycle();
            }
        }
    }
    allocations
}

/// Allocations of `PACKETS` packets of a kind, once queues have the size that they need.
fn steady(gateway: &mut Gateway, kind: Kind) -> u64 {
    let traffic = prepare(gateway, kind, FLOWS, MADE).unwrap();
    allocations(gateway, &traffic, MADE);
    allocations(gateway, &traffic, PACKETS)
}

#[test]
fn an_established_packet_allocates_nothing() {
    for kind in [
        Kind::TcpOut,
        Kind::TcpIn,
        Kind::TcpOutDf,
        Kind::TcpInDf,
        Kind::UdpOut,
        Kind::UdpIn,
        Kind::PingOut,
        Kind::PingIn,
        Kind::ExemptOut,
        Kind::ExemptIn,
        Kind::FragmentOut,
        Kind::FragmentIn,
        Kind::Foreign,
    ] {
        let mut gateway = gateway(1, 1 << 14);
        assert_eq!(steady(&mut gateway, kind), 0, "{kind:?}");
        let end = if kind == Kind::Foreign { "not-for-us" } else { "forwarded" };
        let ended = |(name, count): &(&str, u64)| *name == end && *count >= PACKETS as u64;
        assert!(gateway.ends().iter().any(ended), "{kind:?}");
    }
}

#[test]
fn a_packet_that_is_handed_over_allocates_nothing() {
    for kind in [Kind::TcpOut, Kind::TcpIn, Kind::UdpOut, Kind::UdpIn, Kind::Hairpin] {
        let mut gateway = gateway(4, 1 << 14);
        assert_eq!(steady(&mut gateway, kind), 0, "{kind:?}");
        // Three of four arrive at another worker than their subscriber's.
        let given = gateway.sum(|counters| counters.handed_over.get());
        assert!(given >= PACKETS as u64 / 2, "{kind:?}: {given} of {PACKETS} were handed over");
    }
}

#[test]
fn a_refused_packet_allocates_nothing() {
    for (kind, reason) in [(Kind::Scan, "no-session"), (Kind::Foreign, "not-for-us")] {
        let mut gateway = gateway(1, 1 << 14);
        assert_eq!(steady(&mut gateway, kind), 0, "{kind:?}");
        let ends = gateway.ends();
        let refused = ends.iter().find(|(name, _)| *name == reason).unwrap().1;
        assert!(refused >= PACKETS as u64, "{kind:?}: {ends:?}");
    }
}

#[test]
fn a_new_flow_without_room_allocates_nothing() {
    // Room for the sessions of the flows that are opened first, and for no more.
    let mut gateway = gateway(1, FLOWS as usize);
    let before = gateway.sum(|counters| counters.forwarded.get());
    assert_eq!(steady(&mut gateway, Kind::NewUdp), 0);
    let opening = 2 * u64::from(FLOWS);
    assert_eq!(gateway.sum(|counters| counters.forwarded.get()) - before, opening, "refused");
}
