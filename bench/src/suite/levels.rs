//! The levels, and how each is measured.

use std::path::PathBuf;

use anyhow::Result;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::row::Row;
use super::{end_to_end, in_memory};
use crate::scaling;

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
    /// Repetitions, if not as many as each level takes by itself.
    pub repetitions: Option<usize>,
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
            Self::Memory => in_memory::hits(options),
            Self::SetUp => {
                let mut rows = in_memory::new_sessions(options)?;
                rows.extend(in_memory::ports(options)?);
                Ok(rows)
            }
            Self::EndToEnd => end_to_end::measure(options),
            Self::Scale => {
                let mut settings = scaling::Settings::new(options.quick);
                settings.repetitions = options.repetitions.unwrap_or(settings.repetitions);
                let mut rows = scaling::rows(&settings)?;
                rows.extend(in_memory::size(options)?);
                Ok(rows)
            }
        }
    }
}
