//! The one table: everything that was asked for and what was reached, then every figure.

use std::fmt::Write as _;

use super::report::Report;
use super::row::Row;
use crate::report::Spread;

/// The tables of a run, in Markdown: figures to reach first.
pub fn show(report: &Report) -> String {
    let mut out = format!("{}\n\n## Asked for and reached\n\n", report.machine.line());
    out.push_str(
        "| level | what | reached | asked for | verdict |\n| ---: | --- | --- | --- | --- |\n",
    );
    for (level, row) in report.rows() {
        for (bound, by, of) in row.bounds() {
            let verdict = if bound.is_met(by) { "met" } else { "**missed**" };
            let unit = of.map_or(row.quantity.unit().to_owned(), |of| format!("times {of}"));
            let (name, reached, bound) = (row.name(), spread(by), bound.show());
            // Writing to a string can't fail.
            let _ = writeln!(
                out,
                "| {} | {name} | {reached} {unit} | {bound} {unit} | {verdict} |",
                level.number()
            );
        }
    }
    for level in &report.levels {
        let (title, seconds) = (level.level.title(), level.seconds);
        let _ = writeln!(out, "\n## {title}\n\n{seconds:.0} s.");
        if let Some(failure) = &level.failure {
            let _ = writeln!(out, "**Not measured:** {failure}");
        }
        if level.rows.is_empty() {
            continue;
        }
        out.push_str("\n| what | figure | beside others |\n| --- | --- | --- |\n");
        for row in &level.rows {
            let (name, unit) = (row.name(), row.quantity.unit());
            let _ = writeln!(out, "| {name} | {} {unit} | {} |", spread(row.figure), beside(row));
        }
    }
    out
}

fn beside(row: &Row) -> String {
    let ratios = row.ratios.iter().map(|r| format!("{} times {}", spread(r.value), r.of));
    ratios.collect::<Vec<_>>().join("; ")
}

/// Median, and minimum and maximum if they differ.
fn spread(spread: Spread) -> String {
    let Spread { median, least, most } = spread;
    if least >= most {
        return number(median);
    }
    format!("{} ({}–{})", number(median), number(least), number(most))
}

/// Three figures that count.
fn number(value: f64) -> String {
    let digits = match value.abs() {
        0.0 => 0,
        small if small < 1.0 => 3,
        small if small < 10.0 => 2,
        small if small < 100.0 => 1,
        _ => return super::row::grouped(value.round()),
    };
    format!("{value:.digits$}")
}
