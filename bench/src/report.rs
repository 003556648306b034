//! What came out: medians with minimum and maximum, and ratios within each repetition.

use std::fmt::Write as _;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::contestant::Contestant;
use crate::measure::{Figure, Trial};
use crate::suite::{Axis, Bound, Quantity, Row};

/// A whole run, as it is written and compared.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Run {
    /// Processor, kernel, commit.
    pub machine: Vec<String>,
    /// Everything that was measured, in order.
    pub trials: Vec<Trial>,
}

/// Median, minimum and maximum.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Spread {
    /// Half are below it.
    pub median: f64,
    /// Lowest.
    pub least: f64,
    /// Highest.
    pub most: f64,
}

impl Spread {
    /// Of `values`; `None` if there are none.
    pub fn of(values: impl IntoIterator<Item = f64>) -> Option<Self> {
        let mut values: Vec<f64> = values.into_iter().collect();
        values.sort_by(f64::total_cmp);
        let (least, most) = (*values.first()?, *values.last()?);
        let middle = values.len() / 2;
        let median = f64::midpoint(values[(values.len() - 1) / 2], values[middle]);
        Some(Self { median, least, most })
    }

    /// `median (least–most)`, each times `scale`.
    pub fn show(self, scale: f64, digits: usize) -> String {
        let [median, least, most] = [self.median, self.least, self.most].map(|value| value * scale);
        format!("{median:.digits$} ({least:.digits$}–{most:.digits$})")
    }
}

impl Run {
    fn trials(&self, contestant: Contestant, flows: u64) -> impl Iterator<Item = &Trial> {
        self.trials.iter().filter(move |t| t.contestant == contestant && t.flows == flows)
    }

    fn spread(&self, of: Contestant, flows: u64, get: impl Fn(&Trial) -> f64) -> Option<Spread> {
        Spread::of(self.trials(of, flows).map(get))
    }

    /// Of the rates in the same repetition: `of` as a multiple of `base`.
    fn ratio(
        &self,
        of: Contestant,
        base: Contestant,
        flows: u64,
        get: impl Fn(&Trial) -> f64,
    ) -> Option<Spread> {
        Spread::of(self.trials(of, flows).filter_map(|trial| {
            let peer = self.trials(base, flows).find(|peer| peer.repetition == trial.repetition)?;
            Some(get(trial) / get(peer))
        }))
    }

    /// The same with the best arrangement of the kernel's NAT in each repetition, if several were measured.
    fn ratio_to_best_kernel(
        &self,
        of: Contestant,
        flows: u64,
        get: impl Fn(&Trial) -> f64 + Copy,
    ) -> Option<Spread> {
        let kernels = Contestant::KERNELS.map(|it| self.trials(it, flows).count() > 0);
        if kernels.into_iter().filter(|&measured| measured).count() < 2 {
            return None;
        }
        Spread::of(self.trials(of, flows).filter_map(|trial| {
            let peers = Contestant::KERNELS.into_iter().filter_map(|it| {
                self.trials(it, flows).find(|peer| peer.repetition == trial.repetition).map(get)
            });
            Some(get(trial) / peers.max_by(f64::total_cmp)?)
        }))
    }

    fn rows(&self) -> Vec<(u64, Contestant)> {
        let mut rows = Vec::new();
        for trial in &self.trials {
            if !rows.contains(&(trial.flows, trial.contestant)) {
                rows.push((trial.flows, trial.contestant));
            }
        }
        rows.sort_by_key(|row| row.0);
        rows
    }

    /// One table, in Markdown.
    pub fn table(&self) -> Result<String> {
        let mut out = String::new();
        writeln!(
            out,
            "| flows | gateway | Mpps paced | Mpps not paced | lost, not paced | CPU s a million, paced | not paced | of the forwarder | of nftables |"
        )?;
        writeln!(out, "| ---: | --- | --- | --- | --- | --- | --- | --- | --- |")?;
        for (flows, who) in self.rows() {
            let figure = |get: fn(&Trial) -> f64, scale, digits| {
                self.spread(who, flows, get)
                    .map_or_else(|| "–".to_owned(), |s| s.show(scale, digits))
            };
            let ratio = |base| {
                self.ratio(who, base, flows, |t| t.paced.rate)
                    .map_or_else(|| "–".to_owned(), |s| s.show(1.0, 2))
            };
            writeln!(
                out,
                "| {flows} | {} | {} | {} | {} % | {} | {} | {} | {} |",
                who.name(),
                figure(|t| t.paced.rate, 1e-6, 3),
                figure(|t| t.unpaced.rate, 1e-6, 3),
                figure(|t| t.unpaced.loss, 100.0, 0),
                figure(|t| t.paced.cpu_micros, 1.0, 2),
                figure(|t| t.unpaced.cpu_micros, 1.0, 2),
                ratio(Contestant::Forwarder),
                ratio(Contestant::Nftables),
            )?;
        }
        Ok(out)
    }
}

/// How it was sent, and the figure of that.
type Kind = (&'static str, fn(&Trial) -> Figure);

/// The run as rows of the suite: rates and costs, beside the forwarder and the kernel's NAT. Paced and not: a
/// pause of a core takes more from the first.
pub fn rows(run: &Run) -> Vec<Row> {
    let kinds: [Kind; 2] = [("paced", |trial| trial.paced), ("not paced", |trial| trial.unpaced)];
    let mut rows = Vec::new();
    for (flows, who) in run.rows() {
        for (kind, get) in kinds {
            let rate = |trial: &Trial| get(trial).rate / 1e6;
            let row = |quantity, figure| {
                let what = format!("{}, {kind}", who.name());
                Row::new(what, quantity, figure).at(Axis::Flows, flows as f64)
            };
            if let Some(figure) = run.spread(who, flows, rate) {
                let asked = (who == Contestant::Natgate).then_some(Bound::AtLeast(0.95));
                let peers = [(Contestant::Forwarder, asked), (Contestant::Nftables, None)];
                let peers = peers.into_iter().filter(|(peer, _)| *peer != who);
                let ratios = peers.filter_map(|(peer, bound)| {
                    Some((peer.name(), run.ratio(who, peer, flows, rate)?, bound))
                });
                let best = run.ratio_to_best_kernel(who, flows, rate);
                let best = best.filter(|_| !who.is_kernel());
                let best = best.map(|ratio| ("nftables, best arrangement", ratio, None));
                let row = row(Quantity::Mpps, figure);
                rows.push(
                    ratios
                        .chain(best)
                        .fold(row, |row, (peer, ratio, bound)| row.times(peer, ratio, bound)),
                );
            }
            let cpu = |trial: &Trial| get(trial).cpu_micros;
            let figure = run.spread(who, flows, cpu);
            rows.extend(figure.map(|figure| row(Quantity::CpuMicros, figure)));
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn the_median_is_in_the_middle() {
        assert_eq!(Spread::of([]), None);
        let of = |values: &[f64]| Spread::of(values.iter().copied()).unwrap().median;
        assert!((of(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((of(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
    }
}
