//! What came out, in Markdown: medians with minimum and maximum.

use std::fmt::Write as _;

use anyhow::Result;

use super::{Results, flood, latency, overload, vxlan};
use crate::report::{Run, Spread};

impl Results {
    /// A table for each part that was measured.
    pub fn tables(&self) -> Result<String> {
        let mut out = String::new();
        if !self.rates.is_empty() {
            let run = Run { machine: Vec::new(), trials: self.rates.clone() };
            writeln!(out, "### Rates\n\n{}", run.table()?)?;
        }
        self.latency_table(&mut out)?;
        self.overload_table(&mut out)?;
        self.flood_table(&mut out)?;
        self.exhaustion_table(&mut out)?;
        self.idle_table(&mut out)?;
        self.stream_table(&mut out)?;
        self.tunnel_table(&mut out)?;
        Ok(out)
    }

    fn tunnel_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.tunnels.is_empty(),
            "Pods' packets in VXLAN, at the highest rate without loss",
            &[
                "flows",
                "gateway",
                "Mpps plain",
                "Mpps in VXLAN",
                "share",
                "CPU µs plain",
                "CPU µs in VXLAN",
            ],
        )?;
        for (flows, who) in in_order(self.tunnels.iter().map(|t| (t.flows, t.contestant))) {
            let of = |get: fn(&vxlan::Trial) -> f64| {
                let trials = self.tunnels.iter();
                trials.filter(|t| (t.flows, t.contestant) == (flows, who)).map(get).collect()
            };
            writeln!(
                out,
                "| {flows} | {} | {} | {} | {} | {} | {} |",
                who.name(),
                show(of(|t| t.plain.paced.rate), 1e-6, 3),
                show(of(|t| t.tunnel.paced.rate), 1e-6, 3),
                show(of(vxlan::Trial::share), 1.0, 2),
                show(of(|t| t.plain.paced.cpu_micros), 1.0, 2),
                show(of(|t| t.tunnel.paced.cpu_micros), 1.0, 2),
            )?;
        }
        Ok(())
    }

    fn latency_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.latencies.is_empty(),
            "Latency in µs, from the time at which a packet was due",
            &["flows", "gateway", "load", "kpps sent", "lost", "p50", "p90", "p99", "p99.9"],
        )?;
        for (flows, who) in in_order(self.latencies.iter().map(|t| (t.flows, t.contestant))) {
            for (index, load) in latency::LOADS.into_iter().enumerate() {
                let at = |get: fn(&latency::Load) -> f64| {
                    self.latencies
                        .iter()
                        .filter(|t| (t.flows, t.contestant) == (flows, who))
                        .filter_map(|t| t.loads.get(index))
                        .map(get)
                        .collect::<Vec<_>>()
                };
                writeln!(
                    out,
                    "| {flows} | {} | {:.0} % | {} | {} % | {} | {} | {} | {} |",
                    who.name(),
                    load * 100.0,
                    show(at(|l| l.offered), 1e-3, 0),
                    show(at(|l| l.loss), 100.0, 1),
                    show(at(|l| l.latency.p50), 1.0, 0),
                    show(at(|l| l.latency.p90), 1.0, 0),
                    show(at(|l| l.latency.p99), 1.0, 0),
                    show(at(|l| l.latency.p999), 1.0, 0),
                )?;
            }
        }
        Ok(())
    }

    fn overload_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.overloads.is_empty(),
            "Overload",
            &[
                "flows",
                "gateway",
                "peak, Mpps",
                "most that was sent, times the peak",
                "of the peak, then",
            ],
        )?;
        for (flows, who) in in_order(self.overloads.iter().map(|t| (t.flows, t.contestant))) {
            let of = |get: fn(&overload::Trial) -> f64| {
                let trials = self.overloads.iter();
                trials.filter(|t| (t.flows, t.contestant) == (flows, who)).map(get).collect()
            };
            let (peak, offered) = (
                show(of(overload::Trial::peak), 1e-6, 3),
                show(of(overload::Trial::offered), 1.0, 1),
            );
            let kept = show(of(overload::Trial::kept), 1.0, 2);
            writeln!(out, "| {flows} | {} | {peak} | {offered} | {kept} |", who.name())?;
        }
        Ok(())
    }

    fn flood_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.floods.is_empty(),
            "Established flows beside floods, at half the peak",
            &[
                "flood",
                "gateway",
                "alone, Mpps",
                "share of the flood",
                "of the rate alone",
                "CPU s a million",
            ],
        )?;
        for (what, who) in in_order(self.floods.iter().map(|t| (t.what, t.contestant))) {
            let trials: Vec<&flood::Trial> =
                self.floods.iter().filter(|t| (t.what, t.contestant) == (what, who)).collect();
            let alone = show(trials.iter().map(|t| t.alone).collect(), 1e-6, 3);
            for index in 0..trials.first().map_or(0, |t| t.beside.len()) {
                let share = trials[0].beside[index].share * 100.0;
                let kept = trials.iter().map(|t| t.beside[index].rate / t.alone).collect();
                let cpu = trials.iter().map(|t| t.beside[index].cpu_micros).collect();
                writeln!(
                    out,
                    "| {} | {} | {alone} | {share:.0} % | {} | {} |",
                    what.name(),
                    who.name(),
                    show(kept, 1.0, 2),
                    show(cpu, 1.0, 2)
                )?;
            }
        }
        Ok(())
    }

    fn exhaustion_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.exhaustions.is_empty(),
            "Exhaustion: flows to one destination",
            &[
                "flows",
                "addresses",
                "gateway",
                "served at 0.2 Mpps",
                "peak, Mpps",
                "established at half of it, Mpps",
                "of that while others are refused",
            ],
        )?;
        let keys = self.exhaustions.iter().map(|t| (t.addresses, t.contestant));
        for (addresses, who) in in_order(keys) {
            let of = |get: fn(&super::exhaustion::Trial) -> f64| {
                let trials = self.exhaustions.iter();
                trials
                    .filter(|t| (t.addresses, t.contestant) == (addresses, who))
                    .map(get)
                    .collect()
            };
            writeln!(
                out,
                "| {} | {addresses} | {} | {} % | {} | {} | {} |",
                self.exhaustions[0].flows,
                who.name(),
                show(of(|t| t.served), 100.0, 1),
                show(of(|t| t.peak), 1e-6, 3),
                show(of(|t| t.before), 1e-6, 3),
                show(of(|t| t.exhausted / t.before), 1.0, 2),
            )?;
        }
        Ok(())
    }

    fn idle_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.idles.is_empty(),
            "Idle, and the first packet after a second of silence",
            &["gateway", "% of a core", "first packet, µs: median", "longest"],
        )?;
        for (who, ()) in in_order(self.idles.iter().map(|t| (t.contestant, ()))) {
            let of = |get: fn(&super::idle::Trial) -> Option<f64>| {
                self.idles.iter().filter(|t| t.contestant == who).filter_map(get).collect()
            };
            let cpu = show(of(|t| t.cpu_percent), 1.0, 2);
            let (median, most) =
                (show(of(|t| Some(t.first.p50)), 1.0, 0), show(of(|t| Some(t.first.most)), 1.0, 0));
            writeln!(out, "| {} | {cpu} | {median} | {most} |", who.name())?;
        }
        Ok(())
    }

    fn stream_table(&self, out: &mut String) -> Result<()> {
        head(
            out,
            !self.streams.is_empty(),
            "Streams",
            &["gateway", "segmentation offload", "iperf3, Gbit/s", "requests a second"],
        )?;
        for (who, offloads) in in_order(self.streams.iter().map(|t| (t.contestant, t.offloads))) {
            let of = |get: fn(&super::streams::Trial) -> f64| {
                let trials = self.streams.iter();
                trials.filter(|t| (t.contestant, t.offloads) == (who, offloads)).map(get).collect()
            };
            let (bulk, requests) =
                (show(of(|t| t.bulk), 1e-9, 2), show(of(|t| t.requests), 1.0, 0));
            let offloads = if offloads { "on" } else { "off" };
            writeln!(out, "| {} | {offloads} | {bulk} | {requests} |", who.name())?;
        }
        Ok(())
    }
}

/// Title and first line of a table, if there is one.
fn head(out: &mut String, any: bool, title: &str, columns: &[&str]) -> Result<()> {
    if any {
        let line = " --- |".repeat(columns.len());
        writeln!(out, "\n### {title}\n\n| {} |\n|{line}", columns.join(" | "))?;
    }
    Ok(())
}

/// Each key once, in the order in which they come.
fn in_order<A: PartialEq, B: PartialEq>(keys: impl Iterator<Item = (A, B)>) -> Vec<(A, B)> {
    let mut found = Vec::new();
    for key in keys {
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

fn show(values: Vec<f64>, scale: f64, digits: usize) -> String {
    Spread::of(values).map_or_else(|| "–".to_owned(), |spread| spread.show(scale, digits))
}
