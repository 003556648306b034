//! The levels, and how each is measured.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::row::Row;
use crate::contestant::Contestant;
use crate::{measure, report, scaling};

/// A level of the suite.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Level {
    /// The pipeline on the memory backend.
    Memory,
    /// New sessions, ports.
    SetUp,
    /// Network namespaces, kernel, peers.
    EndToEnd,
    /// Workers, sessions, addresses, rules.
    Scale,
}

/// How the levels are measured.
#[derive(Clone, Debug)]
pub struct Options {
    /// Fewer and shorter: a first look.
    pub quick: bool,
    /// Where the release programs are.
    pub programs: PathBuf,
    /// Where logs go.
    pub results: PathBuf,
}

impl Level {
    /// As in the method's list of levels.
    pub const fn number(self) -> u8 {
        match self {
            Self::Memory => 1,
            Self::SetUp => 2,
            Self::EndToEnd => 3,
            Self::Scale => 4,
        }
    }

    /// What the report calls it.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Memory => "Level 1: in memory",
            Self::SetUp => "Level 2: new sessions",
            Self::EndToEnd => "Level 3: end to end",
            Self::Scale => "Level 4: scale",
        }
    }

    /// What its plots are called.
    pub const fn file(self) -> &'static str {
        match self {
            Self::Memory => "memory",
            Self::SetUp => "set-up",
            Self::EndToEnd => "end-to-end",
            Self::Scale => "scale",
        }
    }

    /// Measures it.
    pub fn measure(self, options: &Options) -> Result<Vec<Row>> {
        match self {
            Self::Memory | Self::SetUp => Ok(Vec::new()),
            Self::EndToEnd => end_to_end(options),
            Self::Scale => scaling::rows(&scaling::Settings::new(options.quick)),
        }
    }
}

fn end_to_end(options: &Options) -> Result<Vec<Row>> {
    let length = Duration::from_secs(if options.quick { 1 } else { 2 });
    let settings = measure::Settings {
        programs: options.programs.clone(),
        results: options.results.clone(),
        length,
    };
    let (repetitions, flows): (_, &[u64]) =
        if options.quick { (2, &[1000]) } else { (5, &[1000, 50_000]) };
    let mut run = report::Run { machine: Vec::new(), trials: Vec::new() };
    for repetition in 0..repetitions {
        for &flows in flows {
            for contestant in Contestant::ALL {
                let trial = measure::trial(&settings, contestant, flows, repetition)?;
                let (name, rate) = (contestant.name(), trial.paced.rate / 1e6);
                eprintln!(
                    "{}/{repetitions}  {flows:>7} flows  {name:<32} {rate:.3} Mpps",
                    repetition + 1
                );
                run.trials.push(trial);
            }
        }
    }
    Ok(report::rows(&run))
}
