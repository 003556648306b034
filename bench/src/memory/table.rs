//! The figures as a table.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use super::run::{Figure, RING};

/// A whole run, as it is written.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Memory {
    /// Processor, kernel, commit, command.
    pub machine: Vec<String>,
    /// GHz of the time stamp counter, in which clocks are given.
    pub tsc_ghz: f64,
    /// Buffers of the ring.
    pub ring: usize,
    /// Whether packets had DF.
    pub dont_fragment: bool,
    /// Figure by figure.
    pub figures: Vec<Figure>,
}

impl Memory {
    /// A run that took these figures on this machine.
    pub fn new(machine: Vec<String>, dont_fragment: bool, figures: Vec<Figure>) -> Self {
        let tsc_ghz = tsc_ghz().unwrap_or(f64::NAN);
        Self { machine, tsc_ghz, ring: RING, dont_fragment, figures }
    }

    /// The table, in Markdown.
    pub fn show(&self) -> Result<String> {
        let mut text = String::from(
            "| sessions | way | ns | clocks | touch and forward, ns | of it | two lines, ns | of it | VPP nat44-ed's rate |\n\
             | ---: | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
        );
        for figure in &self.figures {
            let Figure { sessions, way, nanoseconds, limit, of_limit, floor, of_floor } = figure;
            let vpp = figure.against_vpp(self.tsc_ghz);
            writeln!(
                text,
                "| {sessions} | {} | {} | {:.0} | {} | {} | {} | {} | {} |",
                way.name(),
                nanoseconds.show(1.0, 1),
                nanoseconds.median * self.tsc_ghz,
                limit.show(1.0, 1),
                of_limit.show(1.0, 2),
                floor.show(1.0, 1),
                of_floor.show(1.0, 2),
                vpp.map_or("–".into(), |ratio| format!("× {ratio:.2}")),
            )?;
        }
        Ok(text)
    }
}

/// GHz of the time stamp counter: the kernel's BogoMIPS are twice its MHz.
fn tsc_ghz() -> Option<f64> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("bogomips"))?;
    let value: f64 = line.split(':').nth(1)?.trim().parse().ok()?;
    Some(value / 2000.0)
}
