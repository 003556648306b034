//! Level 3 as rows: what was measured on veth pairs, beside the forwarder and the kernel's NAT.

use anyhow::Result;
use clap::ValueEnum as _;

use super::levels::Options;
use super::row::{Axis, Bound, Quantity, Row};
use crate::contestant::Contestant;
use crate::report::{self, Run, Spread};
use crate::veth::command::{self, Part, Veth};
use crate::veth::flood::What;
use crate::veth::{Results, exhaustion, latency, streams, vxlan};

/// The kernel's NAT where one arrangement of it is enough.
const KERNEL: Contestant = Contestant::Nftables;
/// The kernel's NAT where it has to share its core with whatever else runs, as natgate has.
const KERNEL_APART: Contestant = Contestant::NftablesThreaded;
const OURS: Contestant = Contestant::Natgate;

/// Measures all parts: rates in more repetitions than the others, and with the kernel's NAT in each arrangement, so
/// that its best one is known. Whatever natgate is compared with is measured in the same repetition.
pub fn measure(options: &Options) -> Result<Vec<Row>> {
    let part = |part: Vec<Part>, flows: &[u64], repetitions: usize, more: &[Contestant]| {
        let arguments = Veth {
            part,
            repetitions: options.repetitions.unwrap_or(repetitions),
            seconds: 1.0,
            flows: flows.to_vec(),
            only: [&[Contestant::Forwarder, OURS, KERNEL], more].concat(),
            floods: What::ALL.to_vec(),
            into: None,
            programs: options.programs.clone(),
            results: options.results.clone(),
        };
        command::run(&arguments, "")
    };
    if options.quick {
        return Ok(rows(&part(vec![Part::Rates, Part::Latency], &[1_000], 2, &[])?));
    }
    let others_of_kernel = [KERNEL_APART, Contestant::NftablesRps];
    let flows = [1_000, 50_000, 100_000, 1_000_000];
    let rates = part(vec![Part::Rates], &flows, 5, &others_of_kernel)?;
    let waits = part(vec![Part::Latency, Part::Idle], &[1_000], 3, &others_of_kernel)?;
    let seen = [Part::Rates, Part::Latency, Part::Idle];
    let others = Part::value_variants().iter().copied().filter(|part| !seen.contains(part));
    let others = part(others.collect(), &[1_000], 3, &[])?;
    Ok(rows(&Results {
        rates: rates.rates,
        latencies: waits.latencies,
        idles: waits.idles,
        ..others
    }))
}

/// All rows.
pub fn rows(results: &Results) -> Vec<Row> {
    let run = Run { machine: Vec::new(), trials: results.rates.clone() };
    let mut rows = report::rows(&run);
    rows.extend(latencies(results));
    rows.extend(loads(results));
    rows.extend(exhaustion(results));
    rows.extend(idleness(results));
    rows.extend(streams(results));
    rows.extend(tunnels(results));
    rows
}

/// Per cent of the latencies, and below which latency they lie.
type Percentile = (f64, fn(&latency::Load) -> f64);

/// A row of the values, unless there are none.
fn row(
    what: String,
    quantity: Quantity,
    values: impl Iterator<Item = f64>,
    target: Option<Bound>,
) -> Option<Row> {
    let row = Row::new(what, quantity, Spread::of(values)?);
    Some(Row { target, ..row })
}

/// What was measured of whom, in which repetition.
type Value = (Contestant, usize, f64);

/// A row of `who`'s values; of natgate's also as a multiple of the kernel's in the same repetition.
fn beside_kernel(
    what: String,
    quantity: Quantity,
    who: Contestant,
    values: &[Value],
    target: Option<Bound>,
) -> Option<Row> {
    let of = |who| values.iter().filter(move |(it, ..)| *it == who);
    let row = row(what, quantity, of(who).map(|(.., value)| *value), target)?;
    let ratios = of(who).filter_map(|(_, repetition, value)| {
        let (.., peer) = of(KERNEL).find(|(_, other, _)| other == repetition)?;
        (*peer > 0.0).then_some(value / peer)
    });
    match Spread::of(ratios) {
        Some(ratio) if who == OURS => Some(row.times(KERNEL.name(), ratio, None)),
        _ => Some(row),
    }
}

/// Each once, in the order in which they come.
fn each<T: PartialEq>(keys: impl Iterator<Item = T>) -> Vec<T> {
    let mut found = Vec::new();
    for key in keys {
        if !found.contains(&key) {
            found.push(key);
        }
    }
    found
}

fn latencies(results: &Results) -> Vec<Row> {
    let trials = &results.latencies;
    let mut rows = Vec::new();
    for who in each(trials.iter().map(|trial| trial.contestant)) {
        for (index, load) in latency::LOADS.into_iter().enumerate() {
            let percentiles: [Percentile; 4] = [
                (50.0, |load| load.latency.p50),
                (90.0, |load| load.latency.p90),
                (99.0, |load| load.latency.p99),
                (99.9, |load| load.latency.p999),
            ];
            for (percentile, get) in percentiles {
                let of = |who, repetition: Option<usize>| {
                    let mut mine = trials.iter().filter(move |trial| {
                        trial.contestant == who
                            && repetition.is_none_or(|repetition| trial.repetition == repetition)
                    });
                    std::iter::from_fn(move || Some((mine.next()?, index))).filter_map(
                        move |(trial, index)| {
                            Some((trial.repetition, get(trial.loads.get(index)?)))
                        },
                    )
                };
                let what = format!("{}, {:.0} % load", who.name(), load * 100.0);
                let values = of(who, None).map(|(_, value)| value);
                let Some(mut row) = row(what, Quantity::Latency, values, None) else { continue };
                row = row.at(Axis::Percentile, percentile);
                let half = (load - 0.5).abs() < 1e-9 && (percentile - 99.0).abs() < 1e-9;
                if who == OURS && half {
                    let asked = [(KERNEL, Some(Bound::AtMost(1.0))), (KERNEL_APART, None)];
                    for (peer, target) in asked {
                        let ratios = of(who, None).filter_map(|(repetition, value)| {
                            Some(value / of(peer, Some(repetition)).next()?.1)
                        });
                        if let Some(ratio) = Spread::of(ratios) {
                            row = row.times(peer.name(), ratio, target);
                        }
                    }
                }
                rows.push(row);
            }
        }
    }
    rows
}

/// Overload, and floods of new flows beside established ones.
fn loads(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    let trials = results.overloads.iter();
    let kept = trials.map(|it| (it.contestant, it.repetition, it.kept() * 100.0));
    let kept: Vec<Value> = kept.collect();
    for who in each(results.overloads.iter().map(|trial| trial.contestant)) {
        let what = format!("{}: of the peak, with all that can be sent", who.name());
        let target = (who == OURS).then_some(Bound::AtLeast(95.0));
        rows.extend(beside_kernel(what, Quantity::Percent, who, &kept, target));
    }
    for (flood, who) in each(results.floods.iter().map(|trial| (trial.what, trial.contestant))) {
        let trials: Vec<_> = results.floods.iter().filter(|trial| trial.what == flood).collect();
        for index in 0..trials.first().map_or(0, |trial| trial.beside.len()) {
            let share = trials[0].beside[index].share * 100.0;
            let kept = trials.iter().filter_map(|it| {
                let kept = it.beside.get(index)?.rate / it.alone * 100.0;
                Some((it.contestant, it.repetition, kept))
            });
            let kept: Vec<Value> = kept.collect();
            let (name, flood) = (who.name(), flood.name());
            let what = format!(
                "{name}: of the rate of established flows, beside {flood}, {share:.0} % of all"
            );
            let target = (who == OURS).then_some(Bound::AtLeast(80.0));
            rows.extend(beside_kernel(what, Quantity::Percent, who, &kept, target));
        }
    }
    rows
}

fn exhaustion(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    let keys = results.exhaustions.iter().map(|trial| (trial.addresses, trial.contestant));
    for (addresses, who) in each(keys) {
        let trials = || results.exhaustions.iter().filter(|trial| trial.addresses == addresses);
        let values = |get: fn(&exhaustion::Trial) -> f64| {
            trials().map(|it| (it.contestant, it.repetition, get(it))).collect::<Vec<Value>>()
        };
        let flows = trials().next().map_or(0, |trial| trial.flows);
        let place =
            format!("{}: {flows} flows to one destination, {addresses} addresses", who.name());
        // On one address they can't all have a port.
        let served = (who == OURS && addresses > 1).then_some(Bound::AtLeast(99.9));
        let shares = values(|trial| trial.served * 100.0);
        let what = format!("{place}, served");
        rows.extend(beside_kernel(what, Quantity::Percent, who, &shares, served));
        let rates = values(|trial| trial.exhausted / 1e6);
        let what = format!("{place}, established flows while others are refused");
        rows.extend(beside_kernel(what, Quantity::Mpps, who, &rates, None));
        let kept = (who == OURS).then_some(Bound::AtLeast(95.0));
        let shares = values(|trial| trial.exhausted / trial.before * 100.0);
        let what = format!("{place}, of the rate of established flows while others are refused");
        rows.extend(beside_kernel(what, Quantity::Percent, who, &shares, kept));
    }
    rows
}

fn idleness(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    for who in each(results.idles.iter().map(|trial| trial.contestant)) {
        let mine = || results.idles.iter().filter(move |trial| trial.contestant == who);
        let target = (who == OURS).then_some(Bound::AtMost(2.0));
        let cpu = mine().filter_map(|trial| trial.cpu_percent);
        rows.extend(row(
            format!("{}, idle, of a core", who.name()),
            Quantity::Percent,
            cpu,
            target,
        ));
        let first = mine().map(|trial| trial.first.p50);
        let what = format!("{}, first packet after silence", who.name());
        rows.extend(row(what, Quantity::Latency, first, None));
        if who != OURS {
            continue;
        }
        let more = mine().filter_map(|trial| {
            let peer = results
                .idles
                .iter()
                .find(|peer| peer.contestant == KERNEL && peer.repetition == trial.repetition)?;
            Some(trial.first.p50 - peer.first.p50)
        });
        let what = format!("the same, more than {}", KERNEL.name());
        rows.extend(row(what, Quantity::Latency, more, Some(Bound::AtMost(50.0))));
    }
    rows
}

fn streams(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    let keys = results.streams.iter().map(|trial| (trial.contestant, trial.offloads));
    for (who, offloads) in each(keys) {
        let values = |get: fn(&streams::Trial) -> f64| {
            let trials = results.streams.iter().filter(|trial| trial.offloads == offloads);
            trials.map(|it| (it.contestant, it.repetition, get(it))).collect::<Vec<Value>>()
        };
        let with = if offloads { "with" } else { "without" };
        let name = format!("{}, {with} segmentation offload", who.name());
        let bulk = values(|trial| trial.bulk / 1e9);
        let what = format!("bulk TCP, {name}");
        rows.extend(beside_kernel(what, Quantity::Gbps, who, &bulk, None));
        let requests = values(|trial| trial.requests / 1000.0);
        let what = format!("short requests, {name}");
        rows.extend(beside_kernel(what, Quantity::Requests, who, &requests, None));
    }
    rows
}

fn tunnels(results: &Results) -> Vec<Row> {
    let mut rows = Vec::new();
    let keys = results.tunnels.iter().map(|trial| (trial.flows, trial.contestant));
    for (flows, who) in each(keys) {
        let mine = || {
            let trials = results.tunnels.iter();
            trials.filter(move |trial| (trial.flows, trial.contestant) == (flows, who))
        };
        let Some(figure) = Spread::of(mine().map(|trial| trial.tunnel.paced.rate / 1e6)) else {
            continue;
        };
        let what = format!("{}, pods' packets in VXLAN, paced", who.name());
        let mut row = Row::new(what, Quantity::Mpps, figure).at(Axis::Flows, flows as f64);
        if let Some(share) = Spread::of(mine().map(vxlan::Trial::share)) {
            row = row.times("the same without", share, None);
        }
        let of_kernel = mine().filter_map(|trial| {
            let peer = results.tunnels.iter().find(|peer| {
                (peer.flows, peer.contestant, peer.repetition) == (flows, KERNEL, trial.repetition)
            })?;
            Some(trial.tunnel.paced.rate / peer.tunnel.paced.rate)
        });
        if who == OURS
            && let Some(ratio) = Spread::of(of_kernel)
        {
            row = row.times(KERNEL.name(), ratio, None);
        }
        rows.push(row);
    }
    rows
}
