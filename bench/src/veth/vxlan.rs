//! What do tunnels take? Pods' packets out of VXLAN, and the same without.

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::contestant::Contestant;
use crate::measure::{self, Case, Settings};

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Flows sent.
    pub flows: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// Pods' packets as they are.
    pub plain: measure::Trial,
    /// In VXLAN.
    pub tunnel: measure::Trial,
}

impl Trial {
    /// The highest rate through tunnels, as a share of that without.
    pub fn share(&self) -> f64 {
        self.tunnel.paced.rate / self.plain.paced.rate
    }
}

/// Measures `contestant` with `flows` flows, plain and in a tunnel right after.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    repetition: usize,
) -> Result<Trial> {
    let plain = Case::new(contestant, flows);
    let of = |case| measure::trial_of(settings, case, repetition);
    let (plain, tunnel) = (of(plain)?, of(Case { tunnel: true, ..plain })?);
    Ok(Trial { contestant, flows, repetition, plain, tunnel })
}
