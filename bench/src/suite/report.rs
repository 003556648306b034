//! A run of the suite: measured, written, read again.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::levels::{Level, Options};
use super::row::Row;
use super::{plot, table};
use crate::machine::Machine;

/// What one level showed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LevelResult {
    /// Which.
    pub level: Level,
    /// How long it took, in seconds.
    pub seconds: f64,
    /// Its figures.
    pub rows: Vec<Row>,
    /// Why it ended early.
    pub failure: Option<String>,
}

/// A whole run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Report {
    /// Where and of what.
    pub machine: Machine,
    /// Level by level.
    pub levels: Vec<LevelResult>,
}

impl Report {
    /// Measures `levels`, one after the other. A level that fails says why, and the next one begins.
    #[allow(clippy::disallowed_methods)] // a benchmark reads the time
    pub fn measure(levels: &[Level], options: &Options) -> Self {
        let machine = Machine::here();
        let measure = |&level: &Level| {
            eprintln!("== {}", level.title());
            let start = Instant::now();
            let (rows, failure) = match level.measure(options) {
                Ok(rows) => (rows, None),
                Err(error) => (Vec::new(), Some(format!("{error:#}"))),
            };
            if let Some(failure) = &failure {
                eprintln!("{failure}");
            }
            LevelResult { level, seconds: start.elapsed().as_secs_f64(), rows, failure }
        };
        Self { machine, levels: levels.iter().map(measure).collect() }
    }

    /// Every row with its level.
    pub fn rows(&self) -> impl Iterator<Item = (Level, &Row)> {
        self.levels.iter().flat_map(|level| level.rows.iter().map(|row| (level.level, row)))
    }

    /// Did every level come to its end?
    pub fn is_complete(&self) -> bool {
        self.levels.iter().all(|level| level.failure.is_none())
    }

    /// Writes `run.json`, `table.md` and the plots into `directory`.
    pub fn write(&self, directory: &Path) -> Result<()> {
        fs::create_dir_all(directory)?;
        fs::write(directory.join("run.json"), serde_json::to_string_pretty(self)? + "\n")?;
        let mut text = table::show(self);
        text.push_str("\n## Plots\n");
        for drawn in plot::draw(self, directory)? {
            writeln!(text, "\n![{}]({})", drawn.title, drawn.file)?;
        }
        fs::write(directory.join("table.md"), text)?;
        Ok(())
    }

    /// Reads a run that was written before.
    pub fn read(path: &Path) -> Result<Self> {
        let what = || {
            format!(
                "error: the earlier run ({}): it can't be read; give a run.json of tools/bench",
                path.display()
            )
        };
        let text = fs::read_to_string(path).with_context(what)?;
        serde_json::from_str(&text).with_context(what)
    }
}
