//! How are time and instructions taken?

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::ValueEnum as _;
use conntrack::PoolSettings;
use dataplane::forward::Forwards;
use dataplane::io::BURST;
use dataplane::snapshot::Answers;
use serde::{Deserialize, Serialize};

use super::kind::Kind;
use super::traffic::{self, Traffic};
use crate::callgrind;
use crate::gateway::{Gateway, Setup};
use crate::report::Spread;

/// Bursts of a timed run.
const BURSTS: usize = 1_000;
/// Bursts of the two runs whose instructions are compared.
const COUNTED: (usize, usize) = (100, 300);

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Kinds of packets.
    pub kinds: Vec<Kind>,
    /// Numbers of flows.
    pub flows: Vec<u32>,
    /// Number of flows for instructions; none are counted without it.
    pub counted_flows: Option<u32>,
    /// Repetitions.
    pub repetitions: usize,
}

/// What one kind of packet costs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Cost {
    /// The kind.
    pub kind: Kind,
    /// What became of the packets.
    pub end: String,
    /// Instructions a packet, if they were counted.
    pub instructions: Option<f64>,
    /// Time.
    pub times: Vec<Time>,
}

impl Cost {
    /// The median time with so many flows.
    pub fn time(&self, flows: u32) -> Option<f64> {
        self.times.iter().find(|time| time.flows == flows).map(|time| time.median)
    }
}

/// Nanoseconds a packet: of the median burst of each repetition.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Time {
    /// Number of flows.
    pub flows: u32,
    /// Median of the repetitions.
    pub median: f64,
    /// Least.
    pub least: f64,
    /// Most.
    pub most: f64,
}

/// Measures all kinds; repetitions of different kinds are interleaved.
pub fn measure(settings: &Settings) -> Result<Vec<Cost>> {
    let mut values = vec![vec![Vec::new(); settings.flows.len()]; settings.kinds.len()];
    let mut ends = vec![String::new(); settings.kinds.len()];
    for repetition in 0..settings.repetitions {
        eprintln!("time: {}/{}", repetition + 1, settings.repetitions);
        for (&kind, (values, end)) in settings.kinds.iter().zip(values.iter_mut().zip(&mut ends)) {
            for (&flows, values) in settings.flows.iter().zip(values) {
                let run = run(kind, flows, BURSTS)?;
                values.push(run.nanoseconds);
                *end = run.end;
            }
        }
    }
    let mut costs = Vec::new();
    for ((&kind, values), end) in settings.kinds.iter().zip(values).zip(ends) {
        let times = settings.flows.iter().zip(values).filter_map(|(&flows, values)| {
            let Spread { median, least, most } = Spread::of(values)?;
            Some(Time { flows, median, least, most })
        });
        let instructions =
            settings.counted_flows.map(|flows| instructions(kind, flows)).transpose()?;
        costs.push(Cost { kind, end, instructions, times: times.collect() });
    }
    Ok(costs)
}

/// What a run showed.
#[derive(Clone, Debug)]
pub struct Run {
    /// Nanoseconds a packet in the median burst.
    pub nanoseconds: f64,
    /// What became of the packets.
    pub end: String,
}

/// One run of `bursts` bursts of packets of one kind.
pub fn run(kind: Kind, flows: u32, bursts: usize) -> Result<Run> {
    ensure!(flows > 0, "error: --flows (0): packets of no flow; give 1 or more");
    let mut gateway = Gateway::new(&Setup {
        workers: 1,
        sessions: 1 << 18,
        frames: 4 * BURST,
        addresses: 4,
        pool: PoolSettings::default(),
        forwards: Forwards::default(),
        answers: Answers::default(),
        mtu: [1500; 2],
        tunnel: kind.is_tunnelled(),
    })?;
    let Traffic { interface, frames } =
        traffic::prepare(&mut gateway, kind, flows, bursts * BURST)?;
    let before = gateway.ends();
    let mut times = Vec::with_capacity(bursts);
    for burst in frames.chunks_exact(BURST) {
        for frame in burst {
            ensure!(
                gateway.inject(interface, frame),
                "{kind:?}: the gateway keeps too many frames"
            );
        }
        gateway.now = gateway.now + Duration::from_millis(1);
        let start = Instant::now();
        let packets = turn_that_is_counted(&mut gateway);
        times.push(start.elapsed().as_nanos() as f64 / BURST as f64);
        ensure!(packets == BURST, "{kind:?}: a turn took {packets} packets, not {BURST}");
        while gateway.workers[0].io_mut().take_sent().is_some() {}
    }
    let ends = gateway.ends().into_iter().zip(before);
    let ends = ends.map(|((name, after), (_, before))| (after - before, name));
    let (_, end) = ends.max_by_key(|(count, _)| *count).unwrap_or_default();
    let nanoseconds = Spread::of(times).context("no bursts")?.median;
    Ok(Run { nanoseconds, end: end.into() })
}

/// A function of its own, so that callgrind can count what happens inside it and nothing else.
#[inline(never)]
fn turn_that_is_counted(gateway: &mut Gateway) -> usize {
    let now = gateway.now;
    std::hint::black_box(gateway.workers[0].turn(now))
}

/// Instructions a packet, with so many flows.
pub fn instructions(kind: Kind, flows: u32) -> Result<f64> {
    let value = kind.to_possible_value().context("a kind without name")?;
    let arguments = |bursts: usize| {
        let (kind, flows, bursts) = (value.get_name(), flows.to_string(), bursts.to_string());
        ["packets", "--only", kind, "--flows", &flows, "--bursts", &bursts]
            .map(str::to_owned)
            .to_vec()
    };
    let count = callgrind::instructions("turn_that_is_counted", COUNTED, arguments)?;
    eprintln!("instructions: {}", kind.name());
    Ok(count / BURST as f64)
}
