//! How long are packets under way, at a tenth, half and nine tenths of what the gateway can carry?

use std::time::Duration;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};
use tools::Percentiles;

use crate::contestant::Contestant;
use crate::measure::{Case, Field, Settings};

/// Shares of the gateway's own peak.
pub const LOADS: [f64; 3] = [0.1, 0.5, 0.9];
/// Packets that are due together: a batch of 64 would wait for its last one.
const BATCH: u32 = 8;

/// Latencies at one load.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Load {
    /// Share of the peak.
    pub load: f64,
    /// Packets a second sent.
    pub offered: f64,
    /// Share of packets lost.
    pub loss: f64,
    /// From the time at which a packet was due to the sink.
    pub latency: Percentiles,
}

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Flows sent.
    pub flows: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Packets a second at the sink with all that the generator can send.
    pub peak: f64,
    /// By load.
    pub loads: Vec<Load>,
}

/// Measures `contestant` with `flows` flows.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    repetition: usize,
) -> Result<Trial> {
    let case = Case::new(contestant, flows);
    let mut field = Field::open(settings, case, |watch| watch.stamped = true)?;
    field.warm_up()?;
    let peak = field.figure(0, settings.length)?.rate;
    let generator = field.generator(|plan| {
        plan.stamped = true;
        plan.batch = BATCH;
        plan.catch_up = Duration::from_secs(1);
    })?;
    let mut loads = Vec::new();
    for load in LOADS {
        let before = field.sink().latency_counts()?;
        let figure = field.figure_of(&generator, (load * peak) as u64, settings.length)?;
        let latencies = field.sink().latencies_since(&before)?;
        let latency = Percentiles::of(&latencies)
            .with_context(|| format!("error: {}: nothing arrives", contestant.name()))?;
        loads.push(Load { load, offered: figure.offered, loss: figure.loss, latency });
    }
    field.check()?;
    Ok(Trial { contestant, flows, repetition, peak, loads })
}
