//! How much faster are more workers, when every packet arrives at its home, and when none does?
//!
//! Workers on memory backends, each pinned to a core. A thread makes a burst of packets arrive at its worker,
//! lets it take a turn, and takes back what it sent; only the turns are timed, idle ones included. In the
//! case without hand-off each worker gets packets of its own subscribers only; handed over, packets of the
//! next worker's subscribers only, so that every packet crosses a ring.

use std::net::Ipv4Addr;
use std::sync::Barrier;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use conntrack::{PoolSettings, Timestamp};
use core_affinity::CoreId;
use dataplane::forward::Forwards;
use dataplane::interface::InterfaceId;
use dataplane::io::BURST;
use dataplane::memory::MemoryIo;
use dataplane::snapshot::Answers;
use dataplane::{PacketIo as _, Worker};

use crate::frame::udp;
use crate::gateway::{Gateway, INSIDE, OUTSIDE, OWN_MAC, PODS, Setup};
use crate::report::Spread;
use crate::suite::{Axis, Bound, Quantity, Row};

/// Flows of each pod.
const FLOWS_PER_POD: u32 = 64;
/// Bytes of a frame: Ethernet, IPv4, UDP and payload, without the check sequence.
const FRAME: usize = 60;
const PAYLOAD: [u8; FRAME - 42] = [7; FRAME - 42];
/// Frames of each worker: fewer than a ring holds, so that no packet is lost, and no more than fit the cache.
const FRAMES: usize = 8 * BURST;
/// Bursts before the clock runs.
const WARM_UP: usize = 200;

type Frame = [u8; FRAME];

/// What is measured, and how often.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Live flows of each worker.
    pub flows: Vec<u32>,
    /// Numbers of workers besides one.
    pub workers: Vec<u16>,
    /// Repetitions.
    pub repetitions: usize,
    /// Packets of each worker in a repetition.
    pub packets: usize,
}

impl Settings {
    /// One to as many workers as there are cores.
    pub fn new(quick: bool) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get) as u16;
        let workers = (1..=cores).filter(|n| n.is_power_of_two() || *n == cores);
        let (repetitions, packets) = if quick { (3, 1 << 20) } else { (7, 1 << 22) };
        let flows = vec![1 << 10, 1 << 16];
        Self { flows, workers: workers.filter(|n| *n > 1).collect(), repetitions, packets }
    }
}

/// Where packets arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrive {
    /// At the home of their subscriber.
    AtHome,
    /// At the worker before it.
    NextDoor,
}

impl Arrive {
    const fn name(self) -> &'static str {
        match self {
            Self::AtHome => "workers, no hand-off",
            Self::NextDoor => "workers, every packet handed over",
        }
    }

    const fn target(self) -> f64 {
        match self {
            Self::AtHome => 1.9,
            Self::NextDoor => 1.4,
        }
    }
}

/// All rows of the measurement.
pub fn rows(settings: &Settings) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    for &flows in &settings.flows {
        let mut one = Vec::new();
        let mut more: Vec<_> = settings
            .workers
            .iter()
            .flat_map(|&n| [(n, Arrive::AtHome), (n, Arrive::NextDoor)])
            .map(|case| (case, Vec::new()))
            .collect();
        for repetition in 0..settings.repetitions {
            one.push(rate(1, flows, Arrive::AtHome, settings.packets)?);
            for ((workers, arrive), rates) in &mut more {
                rates.push(rate(*workers, flows, *arrive, settings.packets)?);
            }
            eprintln!("workers, {flows} flows each: {}/{}", repetition + 1, settings.repetitions);
        }
        let spread = |rates: &[f64]| Spread::of(rates.iter().copied()).context("no repetitions");
        let what = |arrive: Arrive| format!("{}, {flows} flows each", arrive.name());
        for arrive in [Arrive::AtHome, Arrive::NextDoor] {
            rows.push(Row::new(what(arrive), Quantity::Mpps, spread(&one)?).at(Axis::Workers, 1.0));
        }
        for ((workers, arrive), rates) in more {
            let ratios = Spread::of(rates.iter().zip(&one).map(|(rate, one)| rate / one))
                .context("no repetitions")?;
            let target = (workers == 2).then_some(Bound::AtLeast(arrive.target()));
            let row = Row::new(what(arrive), Quantity::Mpps, spread(&rates)?);
            rows.push(row.at(Axis::Workers, f64::from(workers)).times(
                "one worker",
                ratios,
                target,
            ));
        }
    }
    Ok(rows)
}

/// Millions of packets a second of `workers` workers together, each with `flows` flows and as many packets
/// as `packets`, half of them from each side.
pub fn rate(workers: u16, flows: u32, arrive: Arrive, packets: usize) -> Result<f64> {
    let mut gateway = Gateway::new(&Setup {
        workers,
        sessions: 2 * flows as usize,
        frames: FRAMES,
        addresses: 32,
        pool: PoolSettings::default(),
        forwards: Forwards::default(),
        answers: Answers::default(),
        mtu: [1500; 2],
        tunnel: false,
    })?;
    let mut frames = open(&mut gateway, flows)?;
    if arrive == Arrive::NextDoor {
        frames.rotate_left(1);
    }
    let now = gateway.now;
    let threads = std::mem::take(&mut gateway.workers).into_iter().zip(&frames).zip(0..);
    let (barrier, running) = (Barrier::new(workers.into()), AtomicUsize::new(workers.into()));
    let rates: Vec<Result<f64>> = std::thread::scope(|scope| {
        let run = |worker, frames, core| {
            let (barrier, running) = (&barrier, &running);
            scope.spawn(move || {
                let pinned = core_affinity::set_for_current(CoreId { id: core });
                ensure!(pinned, "error: core {core}: it can't be used");
                drive(worker, frames, packets, now, barrier, running)
            })
        };
        let threads: Vec<_> =
            threads.map(|((worker, frames), core)| run(worker, frames, core)).collect();
        let join = |thread: std::thread::ScopedJoinHandle<'_, _>| {
            thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        };
        threads.into_iter().map(join).collect()
    });
    let rates: Vec<f64> = rates.into_iter().collect::<Result<_>>()?;
    let lost: u64 =
        gateway.ends().iter().filter(|(name, _)| *name != "forwarded").map(|end| end.1).sum();
    ensure!(lost == 0, "{lost} packets were not forwarded: {:?}", gateway.ends());
    let given = gateway.sum(|counters| counters.handed_over.get());
    let want = if arrive == Arrive::NextDoor { packets as u64 * u64::from(workers) } else { 0 };
    ensure!(
        given >= want && (want > 0 || given == opened_away(&gateway)),
        "{given} packets were handed over"
    );
    Ok(rates.iter().sum())
}

/// Packets handed over while the flows were opened.
fn opened_away(gateway: &Gateway) -> u64 {
    gateway.sum(|counters| counters.taken_over.get())
}

/// Lets `packets` packets arrive at one worker and returns the millions that it sent for each second of its
/// turns. Goes on without packets of its own until all workers are done.
#[allow(clippy::disallowed_methods)] // a benchmark reads the time
fn drive(
    mut worker: Worker<MemoryIo>,
    frames: &[(InterfaceId, Frame)],
    packets: usize,
    now: Timestamp,
    barrier: &Barrier,
    running: &AtomicUsize,
) -> Result<f64> {
    let mut next = frames.iter().cycle();
    let mut arrive = |worker: &mut Worker<MemoryIo>| {
        let io = worker.io_mut();
        let mut arrived = 0;
        while arrived < BURST && io.stats().frames_free > 0 {
            let Some((interface, frame)) = next.next() else { break };
            if !io.inject(*interface, frame) {
                break;
            }
            arrived += 1;
        }
        arrived
    };
    barrier.wait();
    for _ in 0..WARM_UP {
        arrive(&mut worker);
        worker.turn(now);
        worker.io_mut().recycle();
    }
    barrier.wait();
    let (mut arrived, mut sent, mut time) = (0, 0, Duration::ZERO);
    while arrived < packets {
        arrived += arrive(&mut worker);
        let start = Instant::now();
        std::hint::black_box(worker.turn(now));
        time += start.elapsed();
        sent += worker.io_mut().recycle();
    }
    // The others' last packets are sent, too, off the clock.
    running.fetch_sub(1, Ordering::SeqCst);
    let mut quiet = 0;
    while quiet < 100 {
        let done = running.load(Ordering::SeqCst) == 0;
        let packets = worker.turn(now);
        worker.io_mut().recycle();
        quiet = if packets == 0 && done { quiet + 1 } else { 0 };
    }
    ensure!(time > Duration::ZERO, "no time passed");
    Ok(sent as f64 / time.as_secs_f64() / 1e6)
}

/// Opens `flows` flows for each worker, and returns packets of both directions for each, in random order.
fn open(gateway: &mut Gateway, flows: u32) -> Result<Vec<Vec<(InterfaceId, Frame)>>> {
    let mut frames = vec![Vec::new(); gateway.workers.len()];
    let mut pod = 0;
    while frames.iter().any(|frames| frames.len() < 2 * flows as usize) {
        let addr = Ipv4Addr::from((u32::from(PODS) << 24) + 0x1_0000 + pod);
        pod += 1;
        for n in 0..FLOWS_PER_POD {
            let from = (addr, 20_000 + n as u16);
            let server = (Ipv4Addr::new(192, 0, 2, 1 + ((pod + n) % 200) as u8), 4433);
            let out = frame(from, server)?;
            let (home, sent) = pass(gateway, INSIDE, &out)?;
            if frames[home].len() >= 2 * flows as usize {
                break;
            }
            let public = (
                Ipv4Addr::new(sent[26], sent[27], sent[28], sent[29]),
                u16::from_be_bytes([sent[34], sent[35]]),
            );
            let back = frame(server, public)?;
            pass(gateway, OUTSIDE, &back)?;
            frames[home].extend([(INSIDE, out), (OUTSIDE, back)]);
        }
    }
    for frames in &mut frames {
        shuffle(frames);
    }
    Ok(frames)
}

/// A UDP packet with DF set, as hosts send them.
fn frame(from: (Ipv4Addr, u16), to: (Ipv4Addr, u16)) -> Result<Frame> {
    let mut packet = udp(from, to, &PAYLOAD);
    packet.fragment = 0x4000;
    packet.frame(OWN_MAC).try_into().ok().context("a frame of another length")
}

/// Lets a packet through; returns the worker that sent it, and what it sent.
fn pass(gateway: &mut Gateway, from: InterfaceId, frame: &Frame) -> Result<(usize, Vec<u8>)> {
    // Frames stay where they were sent.
    let free = gateway.workers.iter_mut().map(|worker| worker.io_mut().stats().frames_free);
    let (_, at) = free.zip(0_usize..).max().context("no worker")?;
    ensure!(gateway.workers[at].io_mut().inject(from, frame), "no free frame");
    let now = gateway.now;
    for _ in 0..2 {
        for (home, worker) in gateway.workers.iter_mut().enumerate() {
            worker.turn(now);
            if let Some((_, sent)) = worker.io_mut().take_sent() {
                return Ok((home, sent));
            }
        }
    }
    anyhow::bail!("a packet of an opening was not forwarded")
}

/// Puts packets in an order without locality, always the same.
fn shuffle<T>(items: &mut [T]) {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    for i in (1..items.len()).rev() {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        items.swap(i, (state % (i as u64 + 1)) as usize);
    }
}
