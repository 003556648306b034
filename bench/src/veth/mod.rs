//! Everything that is measured end to end, on veth pairs: rates, latency, overload, floods, exhaustion, idleness,
//! streams.

pub mod command;
pub mod exhaustion;
pub mod flood;
pub mod idle;
pub mod latency;
pub mod overload;
pub mod streams;
pub mod table;
pub mod vxlan;

use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use crate::measure;

/// What was measured, trial by trial; parts that were not are empty.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    /// Processor, kernel, commit and command of each part of the run.
    pub machine: Vec<String>,
    /// Rates, by flows.
    pub rates: Vec<measure::Trial>,
    /// Latencies, by load.
    pub latencies: Vec<latency::Trial>,
    /// Rates, by offered load.
    pub overloads: Vec<overload::Trial>,
    /// Established flows beside floods.
    pub floods: Vec<flood::Trial>,
    /// Established flows when ports are exhausted.
    pub exhaustions: Vec<exhaustion::Trial>,
    /// Idle gateways.
    pub idles: Vec<idle::Trial>,
    /// Streams of TCP.
    pub streams: Vec<streams::Trial>,
    /// Rates in VXLAN and without.
    #[serde(default)]
    pub tunnels: Vec<vxlan::Trial>,
}

impl Results {
    /// Reads what was written before; nothing if there is no such file.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || format!("error: the results ({}): they can't be read", path.display());
        match std::fs::read_to_string(path) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Self::default()),
            text => serde_json::from_str(&text.with_context(what)?).with_context(what),
        }
    }

    /// Writes all of it.
    pub fn write(&self, path: &Path) -> Result<()> {
        std::fs::write(path, serde_json::to_string_pretty(self)?).with_context(|| {
            format!("error: the results ({}): they can't be written", path.display())
        })
    }
}
