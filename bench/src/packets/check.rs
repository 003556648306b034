//! Did a kind of packet get dearer than it may?

use std::fmt::Write as _;

use anyhow::{Context, Result, ensure};

use super::cost;
use super::table::Table;

/// Counts the instructions of every kind in `bar` and sets them beside those that it has; fails if one is more
/// than `tolerance` per cent higher. Returns a table, in Markdown.
pub fn check(bar: &Table, flows: u32, tolerance: f64) -> Result<String> {
    let mut table = String::from("| packet | bar | now |\n| --- | ---: | ---: |\n");
    let mut dearer = Vec::new();
    for was in &bar.costs {
        let name = was.kind.name();
        let before = was.instructions.with_context(|| format!("the bar for {name} is missing"))?;
        let now = cost::instructions(was.kind, flows)?;
        let change = (now / before - 1.0) * 100.0;
        writeln!(table, "| {name} | {before:.0} | {now:.0} ({change:+.1} %) |")?;
        if change > tolerance {
            dearer.push(format!("{name} ({change:+.1} %)"));
        }
    }
    ensure!(
        dearer.is_empty(),
        "error: --check: {} got more than {tolerance} % dearer; make it cheaper, or write a new bar with --json \
         and say why\n{table}",
        dearer.join(", ")
    );
    Ok(table)
}
