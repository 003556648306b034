//! How are the rounds timed?

use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use dataplane::io::BURST;
use dataplane::request::Request;
use serde::{Deserialize, Serialize};

use super::Way;
use super::floor::Floor;
use super::limit::Limit;
use super::sessions::Sessions;
use crate::frame::udp;
use crate::gateway::{INSIDE, OUTSIDE, OWN_MAC};
use crate::report::Spread;

/// Buffers of the ring, and packets of a round: their headers come from the second-level cache and beyond.
pub const RING: usize = 4096;

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Numbers of sessions.
    pub sessions: Vec<u32>,
    /// Directions.
    pub ways: Vec<Way>,
    /// Repetitions of each figure.
    pub repetitions: usize,
    /// Rounds of [`RING`] packets in a repetition, of which the median counts.
    pub rounds: usize,
    /// Whether packets have DF, as UDP of hosts has; without it those from pods get another identification.
    pub dont_fragment: bool,
}

/// Nanoseconds a packet with so many sessions in one direction.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Sessions.
    pub sessions: u32,
    /// Direction.
    pub way: Way,
    /// Of the whole pipeline: median of the repetitions, least and most.
    pub nanoseconds: Spread,
    /// Of touch and forward, in the same rounds.
    pub limit: Spread,
    /// The pipeline as a multiple of the limit: of the ratios within each repetition.
    pub of_limit: Spread,
    /// Of [two lines a packet](super::floor), in the same rounds.
    pub floor: Spread,
    /// The pipeline as a multiple of that.
    pub of_floor: Spread,
}

/// Clocks a packet of VPP's nat44-ed, all nodes but the generator, with 2 MB pages, out and in; TSC 2.596 GHz.
const VPP: [(u32, f64, f64); 3] =
    [(1_000, 148.0, 162.0), (65_536, 435.0, 637.0), (1_048_576, 495.0, 863.0)];

impl Figure {
    /// How many times VPP's rate this is, on a machine whose TSC has so many GHz; `None` if VPP's cost with so many
    /// sessions is not known.
    pub fn against_vpp(&self, tsc_ghz: f64) -> Option<f64> {
        let (_, out, inward) = VPP.iter().find(|row| row.0 == self.sessions)?;
        let vpp = if self.way == Way::Out { out } else { inward };
        Some(vpp / (self.nanoseconds.median * tsc_ghz))
    }
}

/// Measures everything.
pub fn measure(settings: &Settings) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for &count in &settings.sessions {
        ensure!(count > 0, "error: --sessions (0): packets of no session; give 1 or more");
        let mut bench = Bench::new(count, settings.dont_fragment)?;
        let mut values = vec![[const { Vec::new() }; 5]; settings.ways.len()];
        for repetition in 0..settings.repetitions {
            eprintln!("{count} sessions: {}/{}", repetition + 1, settings.repetitions);
            for (&way, values) in settings.ways.iter().zip(&mut values) {
                let [nat, limit, floor] = bench.repetition(way, settings.rounds)?;
                let all = [nat, limit, nat / limit, floor, nat / floor];
                for (values, value) in values.iter_mut().zip(all) {
                    values.push(value);
                }
            }
        }
        for (&way, values) in settings.ways.iter().zip(values) {
            let spreads = values.map(Spread::of);
            let [Some(nanoseconds), Some(limit), Some(of_limit), Some(floor), Some(of_floor)] =
                spreads
            else {
                bail!("no repetitions")
            };
            let sessions = count;
            figures.push(Figure { sessions, way, nanoseconds, limit, of_limit, floor, of_floor });
        }
    }
    Ok(figures)
}

/// Runs `rounds` rounds of one kind: what callgrind looks at.
pub fn run(count: u32, way: Way, rounds: usize, dont_fragment: bool) -> Result<()> {
    let mut bench = Bench::new(count, dont_fragment)?;
    for _ in 0..rounds {
        bench.round(way)?;
    }
    Ok(())
}

/// Sessions, and what they are measured beside.
#[derive(Debug)]
pub(super) struct Bench {
    sessions: Sessions,
    limit: Limit,
    floor: Floor,
    random: u64,
}

impl Bench {
    pub(super) fn new(count: u32, dont_fragment: bool) -> Result<Self> {
        let sessions = Sessions::open(count, RING, dont_fragment)?;
        let (limit, floor) = (Limit::new(RING)?, Floor::new(RING, count)?);
        Ok(Self { sessions, limit, floor, random: 0x9e37_79b9_7f4a_7c15 })
    }

    /// Medians of the rounds of pipeline, limit and floor, which take turns.
    fn repetition(&mut self, way: Way, rounds: usize) -> Result<[f64; 3]> {
        let mut all = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            all[0].push(self.round(way)?);
            all[1].push(self.limit_round(way)?);
            all[2].push(self.floor_round(way)?);
        }
        let medians = all.map(|values| Some(Spread::of(values)?.median));
        let [Some(nat), Some(limit), Some(floor)] = medians else { bail!("no rounds") };
        Ok([nat, limit, floor])
    }

    fn next_session(&mut self) -> u32 {
        // Xorshift (Marsaglia 2003), of which the upper half is scaled to the number of sessions.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (((self.random >> 32) * u64::from(self.sessions.count())) >> 32) as u32
    }

    /// Asks the worker something; false: it takes no question now.
    pub(super) fn ask(&self, request: Request) -> bool {
        self.sessions.gateway.ask(0, request)
    }

    /// Nanoseconds a packet of one round.
    pub(super) fn round(&mut self, way: Way) -> Result<f64> {
        for _ in 0..RING {
            let n = self.next_session();
            ensure!(self.sessions.inject(way, n), "no free frame");
        }
        let gateway = &mut self.sessions.gateway;
        gateway.now = gateway.now + Duration::from_millis(1);
        let now = gateway.now;
        let worker = &mut gateway.workers[0];
        let start = Instant::now();
        for _ in 0..RING / BURST {
            turn_that_is_counted(worker, now);
        }
        let time = start.elapsed();
        let sent = std::iter::from_fn(|| worker.io_mut().take_sent()).count();
        ensure!(sent == RING, "only {sent} of {RING} packets passed: {:?}", self.sessions.ends());
        Ok(time.as_nanos() as f64 / RING as f64)
    }

    fn limit_round(&mut self, way: Way) -> Result<f64> {
        let (from, frame) = match way {
            Way::Out => {
                (INSIDE, udp(([10, 1, 0, 1].into(), 1), ([192, 0, 2, 1].into(), 1), &[7; 18]))
            }
            Way::In => {
                (OUTSIDE, udp(([192, 0, 2, 1].into(), 1), ([10, 1, 0, 1].into(), 1), &[7; 18]))
            }
        };
        let frame = frame.frame(OWN_MAC);
        for _ in 0..RING {
            ensure!(self.limit.io.inject(from, &frame), "no free frame");
        }
        let start = Instant::now();
        for _ in 0..RING / BURST {
            std::hint::black_box(self.limit.turn());
        }
        let time = start.elapsed();
        let sent = std::iter::from_fn(|| self.limit.io.take_sent()).count();
        ensure!(sent == RING, "the limit lost packets: {sent} of {RING} left");
        Ok(time.as_nanos() as f64 / RING as f64)
    }

    fn floor_round(&mut self, way: Way) -> Result<f64> {
        for _ in 0..RING {
            let n = self.next_session();
            let (from, frame) = self.sessions.packet(way, n);
            ensure!(self.floor.io.inject(from, &frame), "no free frame");
        }
        let start = Instant::now();
        for _ in 0..RING / BURST {
            std::hint::black_box(self.floor.turn(way)?);
        }
        let time = start.elapsed();
        let sent = std::iter::from_fn(|| self.floor.io.take_sent()).count();
        ensure!(sent == RING, "the floor lost packets: {sent} of {RING} left");
        Ok(time.as_nanos() as f64 / RING as f64)
    }
}

/// A function of its own, so that callgrind can count what happens inside it and nothing else.
#[inline(never)]
fn turn_that_is_counted(
    worker: &mut dataplane::Worker<dataplane::memory::MemoryIo>,
    now: conntrack::Timestamp,
) -> usize {
    std::hint::black_box(worker.turn(now))
}
