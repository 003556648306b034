//! What became slower since an earlier run?

use std::fmt::Write as _;

use super::report::Report;
use super::row::Row;

/// What changed in one figure.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Level and row.
    pub name: String,
    /// Median then.
    pub then: f64,
    /// Median now.
    pub now: f64,
    /// How much better, in per cent of what it was: less than 0 is worse.
    pub better: f64,
}

/// Every figure that both runs have. Machines differ, so ratios are compared where a row has them, and
/// the figure itself where it has none.
pub fn changes(base: &Report, now: &Report) -> Vec<Change> {
    let mut changes = Vec::new();
    for (level, row) in now.rows() {
        let was = base.rows().find(|(l, was)| {
            *l == level && was.name() == row.name() && was.quantity == row.quantity
        });
        let Some((_, was)) = was else { continue };
        let name = format!("{}: {}", level.number(), row.name());
        changes.extend(of_row(&name, was, row));
    }
    changes
}

fn of_row(name: &str, was: &Row, row: &Row) -> Vec<Change> {
    let change = |name: String, then: f64, now: f64, more_is_better: bool| {
        let better = if more_is_better { now / then - 1.0 } else { then / now - 1.0 } * 100.0;
        // Nothing of nothing is no change.
        Change { name, then, now, better: if better.is_nan() { 0.0 } else { better } }
    };
    if row.ratios.is_empty() {
        let more = row.quantity.more_is_better();
        let name = format!("{name} ({})", row.quantity.unit());
        return vec![change(name, was.figure.median, row.figure.median, more)];
    }
    let ratios = row.ratios.iter().filter_map(|ratio| {
        let was = was.ratios.iter().find(|was| was.of == ratio.of)?;
        let name = format!("{name} (times {})", ratio.of);
        Some(change(name, was.value.median, ratio.value.median, ratio.more_is_better))
    });
    ratios.collect()
}

/// The changes of more than `threshold` per cent, in Markdown, worst first, and whether one of them is for
/// the worse.
pub fn show(changes: &[Change], threshold: f64) -> (String, bool) {
    let mut beyond: Vec<&Change> =
        changes.iter().filter(|change| change.better.abs() > threshold).collect();
    beyond.sort_by(|a, b| a.better.total_cmp(&b.better));
    let mut out = format!(
        "{} of {} figures changed by more than {threshold} %\n",
        beyond.len(),
        changes.len()
    );
    if !beyond.is_empty() {
        out.push_str("\n| figure | base | now | change |\n| --- | ---: | ---: | --- |\n");
    }
    for Change { name, then, now, better } in &beyond {
        let word = if *better < 0.0 { "**worse**" } else { "better" };
        // Writing to a string can't fail.
        let _ = writeln!(out, "| {name} | {then:.3} | {now:.3} | {better:+.1} % {word} |");
    }
    (out, beyond.iter().any(|change| change.better < 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Machine;
    use crate::report::Spread;
    use crate::suite::{Level, LevelResult, Quantity};

    fn report(rows: Vec<Row>) -> Report {
        let level = LevelResult { level: Level::Memory, seconds: 1.0, rows, failure: None };
        Report { machine: Machine::default(), levels: vec![level] }
    }

    fn of(value: f64) -> Spread {
        Spread::of([value]).unwrap()
    }

    #[test]
    fn slower_is_worse_whichever_way_the_figure_points() {
        let run = |rate, cost, ratio| {
            report(vec![
                Row::new("rate", Quantity::Mpps, of(rate)),
                Row::new("cost", Quantity::Clocks, of(cost)),
                // The machine is another one: only the ratio says anything.
                Row::new("beside", Quantity::Mpps, of(rate)).times("limit", of(ratio), None),
            ])
        };
        let (base, now) = (run(10.0, 100.0, 0.9), run(5.0, 50.0, 0.9));
        let better: Vec<f64> = changes(&base, &now).iter().map(|change| change.better).collect();
        assert_eq!(better, [-50.0, 100.0, 0.0]);
        let (text, worse) = show(&changes(&base, &now), 20.0);
        assert!(
            worse && text.contains("rate (Mpps) | 10.000 | 5.000 | -50.0 % **worse**"),
            "{text}"
        );
        assert!(!show(&changes(&base, &now), 60.0).1, "within the threshold");
        assert!(!show(&changes(&base, &base), 0.0).1, "the same run");
    }
}
