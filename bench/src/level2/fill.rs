//! What does a port cost, by how much of the pool is taken?
//!
//! Other pods hold a share of the port blocks, a session in each. Then new pods open as many sessions to one server as
//! a block has ports: one claim of a block, and ports of it from the first to the last. Sessions without a port (exempt
//! from translation) make up the difference, so that the tables have the same number of sessions at every fill.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conntrack::PoolSettings;
use dataplane::forward::Forwards;
use dataplane::io::BURST;
use dataplane::snapshot::Answers;
use serde::{Deserialize, Serialize};

use crate::frame::{Party, udp};
use crate::gateway::{EXEMPT, Gateway, INSIDE, OWN_MAC, PODS, Setup};

/// Ports of a block.
const BLOCK: u32 = 64;
/// Ports of an address that are in no block: those below 1,024, and the region for DNS.
const OTHERS: u32 = 1_024 + 8_192;
const BLOCKS: u32 = (65_536 - OTHERS) / BLOCK;
const SERVER: Party = (Ipv4Addr::new(192, 0, 2, 1), 4433);

/// How much was taken, and what a session cost then.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// Blocks taken, per cent, when the measurement begins.
    pub fill: u32,
    /// Public addresses.
    pub addresses: u32,
    /// A new session with its block and port, nanoseconds.
    pub nanoseconds: f64,
}

/// A pod's address.
fn pod(n: u32) -> Ipv4Addr {
    Ipv4Addr::from((u32::from(PODS) << 24) + 0x1_0000 + n)
}

/// A gateway with `addresses` public addresses, of whose blocks `taken` are held.
fn gateway(addresses: u32, taken: u32, more: u32) -> Result<Gateway> {
    let blocks = addresses * BLOCKS;
    let mut gateway = Gateway::new(&Setup {
        workers: 1,
        sessions: (blocks + more) as usize + 1,
        frames: BURST,
        addresses: u16::try_from(addresses).context("too many addresses")?,
        pool: PoolSettings::default(),
        forwards: Forwards::default(),
        answers: Answers::default(),
        mtu: [1500; 2],
        tunnel: false,
    })?;
    let others =
        (0..blocks).map(|n| ((pod(n), 1_024), if n < taken { SERVER } else { (EXEMPT, 4433) }));
    send(&mut gateway, others, Served::All)?;
    Ok(gateway)
}

/// Measures new sessions with `addresses` public addresses, of whose blocks `fill` per cent are taken (at most 99);
/// `sessions` of them at least.
pub fn measure(addresses: u32, fill: u32, sessions: u32) -> Result<Cost> {
    ensure!(fill < 100, "error: fill ({fill}): no block would be left; give 99 or less");
    let blocks = addresses * BLOCKS;
    let pods = (blocks / 100).max(1);
    let (mut spent, mut measured) = (Duration::ZERO, 0);
    while measured < sessions {
        let taken = (u64::from(blocks) * u64::from(fill) / 100) as u32;
        let mut gateway = gateway(addresses, taken, pods * BLOCK)?;
        // Of one pod after the other, as when each starts its work.
        let new = (0..pods * BLOCK)
            .map(|n| ((pod(blocks + n / BLOCK), (1_024 + n % BLOCK) as u16), SERVER));
        spent += send(&mut gateway, new, Served::All)?;
        measured += pods * BLOCK;
    }
    let nanoseconds = spent.as_nanos() as f64 / f64::from(measured);
    Ok(Cost { fill, addresses, nanoseconds })
}

/// Measures flows of new pods that find no port, `flows` of them, with `addresses` public addresses.
pub fn refused(addresses: u32, flows: u32) -> Result<Cost> {
    let blocks = addresses * BLOCKS;
    let mut gateway = gateway(addresses, blocks, 0)?;
    let new = (0..flows).map(|n| ((pod(blocks + n), 1_024), SERVER));
    let spent = send(&mut gateway, new, Served::None)?;
    let nanoseconds = spent.as_nanos() as f64 / f64::from(flows);
    Ok(Cost { fill: 100, addresses, nanoseconds })
}

/// Who gets a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Served {
    All,
    None,
}

/// Sends a packet of each flow, burst by burst; how long the worker's turns took.
fn send(
    gateway: &mut Gateway,
    mut flows: impl Iterator<Item = (Party, Party)>,
    who: Served,
) -> Result<Duration> {
    let mut spent = Duration::ZERO;
    loop {
        let mut packets = 0u64;
        for (from, to) in flows.by_ref().take(BURST) {
            ensure!(gateway.inject(INSIDE, &udp(from, to, &[7; 26]).frame(OWN_MAC)), "no frame");
            packets += 1;
        }
        if packets == 0 {
            return Ok(spent);
        }
        let forwarded = gateway.sum(|counters| counters.forwarded.get());
        let start = Instant::now();
        turn_that_is_counted(gateway);
        spent += start.elapsed();
        gateway.workers[0].io_mut().recycle();
        let sent = gateway.sum(|counters| counters.forwarded.get()) - forwarded;
        let ends = || gateway.ends().into_iter().filter(|end| end.1 > 0).collect::<Vec<_>>();
        let right = if who == Served::All { packets } else { 0 };
        ensure!(sent == right, "of {packets} new flows {sent} were forwarded: {:?}", ends());
    }
}

/// A function of its own, so that callgrind can count what happens inside it and nothing else.
#[inline(never)]
fn turn_that_is_counted(gateway: &mut Gateway) {
    let now = gateway.now;
    std::hint::black_box(gateway.workers[0].turn(now));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_gets_a_port_of_a_full_pool() {
        let cost = refused(1, 200).unwrap();
        assert!(cost.nanoseconds > 0.0);
    }

    #[test]
    fn the_last_block_is_found() {
        let cost = measure(1, 99, 1).unwrap();
        assert!(cost.nanoseconds > 0.0);
    }
}
