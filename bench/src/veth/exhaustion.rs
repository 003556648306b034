//! What becomes of established flows when no port is left?

use anyhow::Result;
use serde::{Deserialize, Serialize};
use tools::generator::Until;

use super::flood::What;
use crate::contestant::Contestant;
use crate::measure::{Case, Field, Settings};

/// Packets a second at which it is asked who is served: what every contestant carries with ease.
const EASY: u64 = 200_000;
/// Established flows are sent at this share of the gateway's own peak.
const ESTABLISHED: f64 = 0.5;
/// Share of flows that find no port in all packets.
const REFUSED: f64 = 0.3;

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Flows, all to one destination.
    pub flows: u64,
    /// Public addresses.
    pub addresses: u8,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Share of the flows' packets that come through, at a rate that is easy.
    pub served: f64,
    /// Packets a second at the sink with all that the generator can send.
    pub peak: f64,
    /// Packets of established flows a second at the sink, before the ports are exhausted.
    pub before: f64,
    /// The same while flows that find no port are refused.
    pub exhausted: f64,
}

/// Measures `contestant` with 64 flows of each source, and as many addresses as `addresses` says.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    addresses: u8,
    repetition: usize,
) -> Result<Trial> {
    // As many of each source as there are ports in a block: none is left over in it.
    let case = Case { ports_per_source: 64, addresses, ..Case::new(contestant, flows) };
    let mut field = Field::open(settings, case, |watch| watch.drop_all = true)?;
    field.warm_up()?;
    let served = 1.0 - field.figure(EASY, settings.length)?.loss;
    let peak = field.figure(0, settings.length)?.rate;
    let rate = ESTABLISHED * peak;
    let before = field.figure(rate as u64, settings.length)?.rate;
    let generator = What::Sources.generator(&field, REFUSED)?;
    let all = (rate / (1.0 - REFUSED)).max(1000.0) as u64;
    // Long enough to take what is left.
    field.send(&generator, all, Until::Packets(100_000))?;
    let exhausted = field.figure_of(&generator, all, settings.length)?.rate;
    field.check()?;
    Ok(Trial { contestant, flows, addresses, repetition, served, peak, before, exhausted })
}
