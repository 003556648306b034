//! What does a gateway cost that has nothing to do, and how late is the first packet after that?

use std::fs;
use std::net::UdpSocket;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};
use tools::Percentiles;

use crate::contestant::Contestant;
use crate::measure::{Case, Field, Settings};
use crate::rig;

/// Without a packet before each of the first ones.
const SILENCE: Duration = Duration::from_millis(1100);
/// First packets in each trial.
const PACKETS: usize = 8;

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Per cent of a core that its process used in silence; none for the kernel, whose work has no process.
    pub cpu_percent: Option<f64>,
    /// From the pod's system call to the sink, for single packets after a second of silence.
    pub first: Percentiles,
}

/// Measures `contestant`.
pub fn trial(settings: &Settings, contestant: Contestant, repetition: usize) -> Result<Trial> {
    let case = Case::new(contestant, 64);
    let mut field = Field::open(settings, case, |watch| watch.stamped = true)?;
    let process = field.held.process;
    let cpu = || process.map(cpu_of).transpose();
    thread::sleep(SILENCE);
    let before = cpu()?;
    thread::sleep(2 * settings.length);
    let used = cpu()?.zip(before).map(|(after, before)| after.saturating_sub(before));
    let cpu_percent =
        used.map(|used| 100.0 * used.as_secs_f64() / (2.0 * settings.length.as_secs_f64()));
    let none = field.sink().latency_counts()?;
    field.on_last_core(|| {
        let socket = UdpSocket::bind((rig::POD, 4000))?;
        for _ in 0..PACKETS {
            thread::sleep(SILENCE);
            let mut payload = [0; 18];
            let now = clock_gettime(ClockId::CLOCK_MONOTONIC)?;
            payload[..8].copy_from_slice(&(Duration::from(now).as_nanos() as u64).to_be_bytes());
            socket.send_to(&payload, (rig::SINK_ADDRESS, 9))?;
        }
        thread::sleep(Duration::from_millis(100));
        Ok(())
    })?;
    let first = Percentiles::of(&field.sink().latencies_since(&none)?)
        .with_context(|| format!("error: {}: no first packet arrives", contestant.name()))?;
    ensure!(
        first.packets == PACKETS as u64,
        "error: {}: {} of {PACKETS} first packets arrived",
        contestant.name(),
        first.packets
    );
    field.check()?;
    Ok(Trial { contestant, repetition, cpu_percent, first })
}

/// Processor time of all threads of a process so far.
fn cpu_of(process: u32) -> Result<Duration> {
    let mut all = Duration::ZERO;
    for thread in fs::read_dir(format!("/proc/{process}/task"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        let nanos = text.split_whitespace().next().and_then(|word| word.parse().ok());
        all += Duration::from_nanos(nanos.context("error: schedstat: the kernel keeps none")?);
    }
    Ok(all)
}
