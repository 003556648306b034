//! What is measured without the kernel, as rows: established sessions, new ones, and what changes with size.

use anyhow::{Context, Result};
use clap::ValueEnum as _;

use super::levels::Options;
use super::row::{Axis, Bound, Quantity, Row};
use crate::level2::fill;
use crate::level2::sessions::{self, Recorded, Story};
use crate::level4::{memory as size_of, rules};
use crate::memory::{self, Memory, Way};
use crate::report::Spread;

/// Sessions, and how many times VPP's rate is asked for.
const VPP: [(u32, f64); 3] = [(1_000, 1.5), (65_536, 2.5), (1 << 20, 3.0)];
const MOST: u32 = 1 << 24;
/// Public addresses when ports are taken from them by fill.
const ADDRESSES: u32 = 16;

/// Level 1.
pub fn hits(options: &Options) -> Result<Vec<Row>> {
    // The largest first: later, the memory that smaller ones have given back lies in small pages.
    let mut counts: Vec<u32> = if options.quick { Vec::new() } else { vec![MOST] };
    counts.extend(VPP.iter().rev().map(|(count, _)| *count));
    let (repetitions, rounds) = if options.quick { (3, 10) } else { (5, 20) };
    let figures = memory::measure(&memory::Settings {
        sessions: counts,
        ways: Way::value_variants().to_vec(),
        repetitions: options.repetitions.unwrap_or(repetitions),
        rounds,
        dont_fragment: true,
    })?;
    let mut run = Memory::new(Vec::new(), true, figures);
    run.figures.sort_by_key(|figure| figure.sessions);
    let rows = run.figures.iter().map(|figure| {
        let Spread { median, least, most } = figure.nanoseconds;
        let what = format!("hit, {}, 64-byte UDP", figure.way.name());
        let mut row = Row::new(what, Quantity::Nanoseconds, figure.nanoseconds)
            .at(Axis::Sessions, figure.sessions)
            .times("touch and forward", figure.of_limit, Some(Bound::AtMost(2.0)))
            .times("two lines a packet", figure.of_floor, None);
        let asked = VPP.iter().find(|(count, _)| *count == figure.sessions);
        if let Some((_, asked)) = asked
            && let Some(rate) = figure.against_vpp(run.tsc_ghz)
        {
            let of = |nanoseconds: f64| rate * median / nanoseconds;
            let rate = Spread { median: rate, least: of(most), most: of(least) };
            row = row.times("VPP nat44-ed's rate", rate, Some(Bound::AtLeast(*asked)));
        }
        let near = run.figures.iter().find(|it| it.way == figure.way && it.sessions == 65_536);
        if figure.sessions == MOST
            && let Some(near) = near
        {
            let of = |nanoseconds: f64| near.nanoseconds.median / nanoseconds;
            let rate = Spread { median: of(median), least: of(most), most: of(least) };
            row = row.times("the rate with 65,536", rate, Some(Bound::AtLeast(0.6)));
        }
        row
    });
    Ok(rows.collect())
}

/// Level 2.
pub fn new_sessions(options: &Options) -> Result<Vec<Row>> {
    let repetitions = options.repetitions.unwrap_or(if options.quick { 1 } else { 5 });
    let mut rows = Vec::new();
    for live in [1 << 16, 1 << 20] {
        let mut rates = vec![Vec::new(); Story::value_variants().len()];
        for repetition in 0..repetitions {
            eprintln!("new sessions, {live} live: {}/{repetitions}", repetition + 1);
            for (&story, rates) in Story::value_variants().iter().zip(&mut rates) {
                let rate = sessions::measure(story, live, 1 << 20, Recorded::Nothing)?;
                rates.push(rate.per_second() / 1e3);
            }
        }
        for (&story, rates) in Story::value_variants().iter().zip(rates) {
            let figure = Spread::of(rates).context("no repetitions")?;
            let row = Row::new(story.name(), Quantity::Sessions, figure).at(Axis::Sessions, live);
            let asked = match story {
                Story::Udp => 1_200.0,
                Story::Tcp => 500.0,
            };
            rows.push(if live == 1 << 20 { row.to_be(Bound::AtLeast(asked)) } else { row });
        }
    }
    Ok(rows)
}

/// Level 2: the allocator of ports by fill, and by the number of addresses.
pub fn ports(options: &Options) -> Result<Vec<Row>> {
    let repetitions = options.repetitions.unwrap_or(5);
    let by_fill = [0, 50, 90, 95, 99].map(|fill| (ADDRESSES, fill));
    let by_address = [1, 4, 64, 256].map(|addresses| (addresses, 50));
    let mut costs = [const { Vec::new() }; 9];
    for repetition in 0..repetitions {
        eprintln!("ports by fill: {}/{repetitions}", repetition + 1);
        for (costs, (addresses, fill)) in costs.iter_mut().zip(by_fill.iter().chain(&by_address)) {
            costs.push(fill::measure(*addresses, *fill, 1 << 14)?.nanoseconds);
        }
    }
    let ratios = |costs: &[f64], base: &[f64]| {
        Spread::of(costs.iter().zip(base).map(|(cost, base)| cost / base)).context("no repetitions")
    };
    let (fills, addresses) = costs.split_at(by_fill.len());
    let mut rows = Vec::new();
    for (costs, (_, fill)) in fills.iter().zip(by_fill) {
        let figure = Spread::of(costs.clone()).context("no repetitions")?;
        let asked = (fill == 95).then_some(Bound::AtMost(1.3));
        let row = Row::new("new session with its port", Quantity::Nanoseconds, figure)
            .at(Axis::Fill, fill)
            .times("empty", ratios(costs, &fills[0])?, asked);
        rows.push(row);
    }
    for (costs, (count, _)) in addresses.iter().zip(by_address) {
        let figure = Spread::of(costs.clone()).context("no repetitions")?;
        let row = Row::new("new session with its port, half full", Quantity::Nanoseconds, figure)
            .at(Axis::Addresses, count)
            .times("one address", ratios(costs, &addresses[0])?, None);
        rows.push(row);
    }
    Ok(rows)
}

/// Level 4, but for the workers.
pub fn size(options: &Options) -> Result<Vec<Row>> {
    let mut rows = Vec::new();
    let lives: &[u32] = if options.quick { &[1 << 20] } else { &[1 << 20, 1 << 22, MOST] };
    for &live in lives {
        eprintln!("memory, {live} sessions");
        let memory = size_of::measure(Story::Udp, live)?;
        let row = |what: &str, quantity, value: f64| {
            let figure = Spread { median: value, least: value, most: value };
            Row::new(what, quantity, figure).at(Axis::Sessions, live)
        };
        let bytes = row("memory a session, as the tables count", Quantity::Bytes, memory.counted());
        rows.push(bytes.to_be(Bound::AtMost(160.0)));
        rows.push(row("memory a session, resident", Quantity::Bytes, memory.resident));
        rows.push(row("opening while the table grows", Quantity::Nanoseconds, memory.nanoseconds));
    }
    for shape in rules::Shape::ALL {
        for count in [1, 100, 10_000] {
            let cost = rules::measure(shape, count);
            let value = cost.look_up;
            let figure = Spread { median: value, least: value, most: value };
            let what = format!("decision by rules that differ in {}", shape.name());
            rows.push(Row::new(what, Quantity::Nanoseconds, figure).at(Axis::Rules, count));
        }
    }
    Ok(rows)
}
