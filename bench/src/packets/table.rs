//! The costs as a table, beside those of an earlier run.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

use super::cost::Cost;
use super::kind::Kind;

/// A whole run, as it is written and compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Table {
    /// Processor, kernel, commit, command.
    pub machine: Vec<String>,
    /// Kind by kind.
    pub costs: Vec<Cost>,
}

impl Table {
    /// Reads an earlier run.
    pub fn read(path: &Path) -> Result<Self> {
        let name = path.display();
        let text = fs::read_to_string(path)
            .with_context(|| format!("error: --compare ({name}): cannot read it"))?;
        serde_json::from_str(&text)
            .with_context(|| format!("error: --compare ({name}): it is not a run of packets"))
    }

    /// Writes the run.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, serde_json::to_string_pretty(self)? + "\n")
            .with_context(|| format!("error: --json ({}): cannot write it", path.display()))
    }

    fn cost(&self, kind: Kind) -> Option<&Cost> {
        self.costs.iter().find(|cost| cost.kind == kind)
    }

    /// The table, in Markdown; with `base`, each figure has a column of what it was before.
    pub fn show(&self, base: Option<&Self>) -> Result<String> {
        let times = self.costs.first().map_or(&[][..], |cost| &cost.times);
        let flows: Vec<u32> = times.iter().map(|time| time.flows).collect();
        let mut figures = vec!["instructions".to_owned()];
        figures.extend(flows.iter().map(|flows| format!("ns, {flows} flows")));
        let mut text = String::from("| packet | end |");
        for figure in &figures {
            let columns = if base.is_some() { ": before | after |" } else { " |" };
            write!(text, " {figure}{columns}")?;
        }
        let columns = figures.len() * if base.is_some() { 2 } else { 1 };
        writeln!(text, "\n| --- | --- |{}", " ---: |".repeat(columns))?;
        for cost in &self.costs {
            let before = base.and_then(|base| base.cost(cost.kind));
            write!(text, "| {} |", cost.kind.name())?;
            match before {
                Some(was) if was.end != cost.end => write!(text, " {} → {} |", was.end, cost.end)?,
                _ => write!(text, " {} |", cost.end)?,
            }
            let was = before.and_then(|before| before.instructions);
            write!(text, " {} |", pair(base.is_some(), was, cost.instructions, 0))?;
            for &flows in &flows {
                let was = before.and_then(|before| before.time(flows));
                write!(text, " {} |", pair(base.is_some(), was, cost.time(flows), 1))?;
            }
            text.push('\n');
        }
        Ok(text)
    }
}

/// A figure; if `compared`, the one before and the change, too.
fn pair(compared: bool, before: Option<f64>, now: Option<f64>, digits: usize) -> String {
    let show = |value: Option<f64>| value.map_or("–".into(), |value| format!("{value:.digits$}"));
    if !compared {
        return show(now);
    }
    let change = before.zip(now).map(|(before, now)| (now / before - 1.0) * 100.0);
    let change = change.map(|change| format!(" ({change:+.0} %)")).unwrap_or_default();
    format!("{} | {}{change}", show(before), show(now))
}
