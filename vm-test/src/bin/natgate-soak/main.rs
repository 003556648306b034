//! Mixed traffic through natgate for a long time, while configuration, routes and links change and natgate is stopped and
//! killed: does memory stay flat, does every frame come home, does nothing leak? `tools/soak` builds and runs it.

mod ends;
mod events;
mod leaks;
mod report;
mod traffic;

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::Parser;
use vm_test::oracle::balance;
use vm_test::{Options, Rig, Translator};

use events::Events;
use leaks::Leaks;
use report::{Memory, Report};
use traffic::Traffic;

/// Soaks natgate in network namespaces. Needs root.
#[derive(Debug, Parser)]
struct Arguments {
    /// How long, in minutes.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    minutes: u64,
    /// Begins the random choices; a run with the same number makes the same.
    #[arg(long)]
    seed: Option<u64>,
}

/// Traffic must be back so long after an event.
const BACK: Duration = Duration::from_secs(15);
/// Between two events, at most.
const PAUSE_MS: u64 = 3000;

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    let seed = arguments.seed.unwrap_or_else(|| u64::from(std::process::id()) << 16 | 1);
    println!("seed {seed}, {}", report::minutes(arguments.minutes));
    let mut rig = Rig::without_translator(Options {
        translator: Translator::Natgate,
        machine: None,
        queues: 2,
        workers: 2,
        gateway_forwards: true,
        config: Some(events::objects(0)),
        ..Options::natgate()
    })?;
    let soaked = soak(&mut rig, Duration::from_secs(60 * arguments.minutes), seed);
    if soaked.is_err()
        && let Ok(natgate) = rig.natgate()
    {
        eprintln!("{}\n--- natgate's drops\n{}", natgate.output(), natgate.drops());
    }
    soaked
}

fn soak(rig: &mut Rig, time: Duration, seed: u64) -> Result<()> {
    let leaks = Leaks::watch(rig)?;
    rig.start_translator()?;
    let traffic = Traffic::begin(rig)?;
    let mut report = Report::default();
    // The first half is one life, so that memory can be compared; natgate ends and starts in the second.
    let begun = Instant::now();
    let mut memory = Memory::default();
    let mut events = Events::new(seed);
    let mut first_ended = false;
    while begun.elapsed() < time {
        let with_ends = begun.elapsed() > time / 2;
        if with_ends && !first_ended {
            first_ended = true;
            report.latency("first life", &rig.natgate()?.metrics()?)?;
        }
        if !with_ends {
            memory.note(begun.elapsed(), rig.natgate()?.resident_kib()?);
        }
        std::thread::sleep(Duration::from_millis(events.below(PAUSE_MS)));
        let happened = Instant::now();
        let name = events.happen(rig, with_ends)?;
        let over = Instant::now();
        let back = traffic.is_back(over, BACK).with_context(|| format!("after: {name}"))?;
        report.event(name, over - happened, back);
        report.progress(begun.elapsed(), time);
    }
    memory.is_flat(time / 2)?;
    report.latency("last life", &rig.natgate()?.metrics()?)?;
    report.traffic(traffic.end()?);
    balance::settled(rig.natgate()?)?;
    ends::in_order(rig)?;
    let watched = leaks.end(rig)?;
    report.print(&memory);
    println!(
        "leaks: none (control packets seen: {watched})\nevery frame accounted for at all {} stops\n\
         passed: memory is flat, nobody got another's bytes, traffic came back within {} s of every event",
        events.ends() + 1,
        BACK.as_secs()
    );
    Ok(())
}
