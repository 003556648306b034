//! Does a gateway forward less when more is offered than it can carry?

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::contestant::Contestant;
use crate::measure::{Case, Field, Figure, Settings};

/// Offered rates, as multiples of what comes through with all that the generator can send.
const OFFERED: [f64; 5] = [0.7, 0.9, 1.1, 1.5, 2.0];

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Flows sent.
    pub flows: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// By offered rate; the last one is all that the generator can send.
    pub figures: Vec<Figure>,
}

impl Trial {
    /// The highest rate at the sink.
    pub fn peak(&self) -> f64 {
        self.figures.iter().map(|figure| figure.rate).fold(0.0, f64::max)
    }

    /// What came through of all that the generator can send, as a share of the peak.
    pub fn kept(&self) -> f64 {
        self.figures.last().map_or(0.0, |figure| figure.rate / self.peak())
    }

    /// All that the generator can send, as a multiple of the peak.
    pub fn offered(&self) -> f64 {
        self.figures.last().map_or(0.0, |figure| figure.offered / self.peak())
    }
}

/// Measures `contestant` with `flows` flows.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    repetition: usize,
) -> Result<Trial> {
    let mut field = Field::open(settings, Case::new(contestant, flows), |_| ())?;
    field.warm_up()?;
    let all = field.figure(0, settings.length)?;
    let mut figures = Vec::new();
    for times in OFFERED {
        figures.push(field.figure((times * all.rate) as u64, settings.length)?);
    }
    figures.push(field.figure(0, settings.length)?);
    field.check()?;
    Ok(Trial { contestant, flows, repetition, figures })
}
