//! `natgate-bench`: measures natgate, its limit and its peers, and prints one table.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use bench::level2::fill;
use bench::level2::sessions::{self, Recorded, Story};
use bench::level4;
use bench::machine::Machine;
use bench::suite::{Level, Options, Report, compare, table};
use bench::veth::command::{self as veth, Veth};
use bench::{memory, packets, scaling};
use clap::{Args, Parser, Subcommand, ValueEnum as _};

/// Measures natgate, its limit and its peers, and prints what was asked for and what was reached.
///
/// Example: tools/bench --quick --only scale
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Measurement>,
    /// Levels to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Level::value_variants().to_vec())]
    only: Vec<Level>,
    /// Fewer and shorter: a first look, in four minutes.
    #[arg(long)]
    quick: bool,
    /// Repetitions, if not as many as each level takes by itself.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: Option<u16>,
    /// Say what changed since this run.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Changes of so many per cent are told; one for the worse ends in failure.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    threshold: f64,
    /// Measure nothing: show this run again, and draw its plots.
    #[arg(long, value_name = "RUN.json", conflicts_with_all = ["only", "quick"])]
    plot: Option<PathBuf>,
    /// Where the release programs are.
    #[arg(long, value_name = "DIR", env = "NATGATE_PROGRAMS", default_value = "target/release")]
    programs: PathBuf,
    /// Where run.json, table.md, plots and logs go.
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    results: PathBuf,
}

/// One measurement alone, in detail.
#[derive(Subcommand)]
enum Measurement {
    /// Measures gateways between a generator and a sink, on veth pairs.
    Veth(Veth),
    /// Measures what each kind of packet costs without the kernel: instructions (by callgrind) and time.
    Packets(Packets),
    /// Measures established sessions in random order without the kernel, beside touch and forward.
    Memory(Memory),
    /// Measures how fast sessions begin and end, in memory.
    Setup(Setup),
    /// Measures what changes with size, in memory: bytes a session, the longest turn while the table grows, rules.
    Scale(Scale),
    /// Measures what a listing of all sessions takes from established traffic, in memory.
    Listing(Listing),
    /// Measures two workers or more, in memory: packets that arrive at their home, and packets that are handed over.
    Workers(Workers),
}

#[derive(Args)]
struct Listing {
    /// Sessions.
    #[arg(long, value_name = "N", default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..))]
    sessions: u32,
    /// Times that all are listed.
    #[arg(long, value_name = "N", default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..))]
    repetitions: u16,
}

#[derive(Args)]
struct Workers {
    /// Live flows of each worker.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1 << 10, 1 << 16])]
    flows: Vec<u32>,
    /// Numbers of workers, each of which has a core.
    #[arg(long = "workers", value_name = "N", value_delimiter = ',', default_values_t = [2])]
    counts: Vec<u16>,
    /// Repetitions.
    #[arg(long, value_name = "N", default_value_t = 7)]
    repetitions: usize,
    /// Packets of each worker in a repetition.
    #[arg(long, value_name = "N", default_value_t = 1 << 22)]
    packets: usize,
}

#[derive(Args)]
struct Scale {
    /// Live sessions.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1 << 20, 1 << 24])]
    live: Vec<u32>,
    /// What a session consists of.
    #[arg(long, value_enum, default_value_t = Story::Udp)]
    story: Story,
    /// Numbers of rules.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1, 100, 10_000])]
    rules: Vec<u32>,
    /// Numbers of neighbours, for the turn that follows a change of one.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [100, 10_000])]
    neighbours: Vec<u32>,
}

#[derive(Args)]
struct Setup {
    /// What a session consists of.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Story::value_variants().to_vec())]
    only: Vec<Story>,
    /// Live sessions.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [65_536, 1 << 20])]
    live: Vec<u32>,
    /// Sessions that are measured.
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    sessions: u64,
    /// What is recorded meanwhile.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Recorded::Nothing])]
    record: Vec<Recorded>,
    /// Instead: what a new session with its port costs when so many per cent of the port blocks are taken; with 100,
    /// what its refusal costs.
    #[arg(long, value_name = "PERCENT", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(0..=100))]
    fill: Vec<u32>,
    /// Public addresses, for that.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [16], requires = "fill",
        value_parser = clap::value_parser!(u32).range(1..=4096))]
    addresses: Vec<u32>,
}

#[derive(Args)]
struct Packets {
    /// Kinds of packets.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = packets::Kind::value_variants().to_vec())]
    only: Vec<packets::Kind>,
    /// Numbers of flows, for the time.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1000, 50_000])]
    flows: Vec<u32>,
    /// Number of flows, for the instructions; 0 counts none.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    counted_flows: u32,
    /// Repetitions of the time.
    #[arg(long, value_name = "N", default_value_t = 7)]
    repetitions: usize,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Put the figures of this earlier run in front.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Only count the instructions of the kinds in this earlier run, and fail if one got dearer.
    #[arg(long, value_name = "BAR.json")]
    check: Option<PathBuf>,
    /// By how many per cent it may get dearer.
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0, requires = "check")]
    tolerance: f64,
    /// Only send so many bursts of each kind: what runs under callgrind.
    #[arg(long, hide = true)]
    bursts: Option<usize>,
}

#[derive(Args)]
struct Memory {
    /// Numbers of sessions.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1_000, 65_536, 1_048_576])]
    sessions: Vec<u32>,
    /// Directions.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = memory::Way::value_variants().to_vec())]
    only: Vec<memory::Way>,
    /// Repetitions.
    #[arg(long, value_name = "N", default_value_t = 7)]
    repetitions: usize,
    /// Rounds of 4,096 packets in each repetition.
    #[arg(long, value_name = "N", default_value_t = 50)]
    rounds: usize,
    /// Packets without DF: those from pods get another identification (RFC 6864).
    #[arg(long)]
    df_clear: bool,
    /// Write the figures to this file.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only run so many rounds of each figure: what runs under callgrind.
    #[arg(long, hide = true)]
    only_rounds: Option<usize>,
}

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => tools::exit(Err(error)),
    }
}

fn run() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Some(Measurement::Packets(arguments)) => run_packets(arguments)?,
        Some(Measurement::Memory(arguments)) => run_memory(arguments)?,
        Some(Measurement::Setup(arguments)) => run_setup(&arguments)?,
        Some(Measurement::Scale(arguments)) => run_scale(&arguments)?,
        Some(Measurement::Listing(arguments)) => run_listing(&arguments)?,
        Some(Measurement::Workers(arguments)) => run_workers(arguments)?,
        Some(Measurement::Veth(arguments)) => {
            let results = veth::run(&arguments, &Machine::here().line())?;
            println!("{}\n\n{}", results.machine.join("\n"), results.tables()?);
        }
        None => return run_suite(&cli),
    }
    Ok(ExitCode::SUCCESS)
}

/// All levels, or a run of before; fails if a level did, or if something became slower than allowed.
fn run_suite(cli: &Cli) -> Result<ExitCode> {
    let base = cli.compare.as_deref().map(Report::read).transpose()?;
    let Cli { programs, results, .. } = cli;
    fs::create_dir_all(results)?;
    let report = if let Some(path) = &cli.plot {
        Report::read(path)?
    } else {
        let (programs, results) = (programs.clone(), fs::canonicalize(results)?);
        Report::measure(
            &cli.only,
            &Options {
                quick: cli.quick,
                repetitions: cli.repetitions.map(usize::from),
                programs,
                results,
            },
        )
    };
    report.write(results)?;
    println!("{}\nwritten to {}", table::show(&report), results.display());
    let mut worse = false;
    if let Some(base) = &base {
        let changes = compare::changes(base, &report);
        let (text, is_worse) = compare::show(&changes, cli.threshold);
        println!("\n## Since {}\n\n{text}", base.machine.line());
        worse = is_worse;
    }
    let good = report.is_complete() && !worse;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn run_setup(arguments: &Setup) -> Result<()> {
    for &addresses in &arguments.addresses {
        for &fill in &arguments.fill {
            let (cost, end) = if fill < 100 {
                (fill::measure(addresses, fill, 1 << 14)?, "a session")
            } else {
                (fill::refused(addresses, 1 << 14)?, "a refusal")
            };
            println!("{addresses} addresses, {fill} % taken: {:.0} ns {end}", cost.nanoseconds);
        }
    }
    if !arguments.fill.is_empty() {
        return Ok(());
    }
    for &live in &arguments.live {
        for &story in &arguments.only {
            for &record in &arguments.record {
                let rate = sessions::measure(story, live, arguments.sessions, record)?;
                let records = match record {
                    Recorded::Nothing => String::new(),
                    _ => format!("  {} records", rate.records),
                };
                println!(
                    "{:<36} {:>9} live {:>8.0} ns {:>10.0}/s  longest turn {:.0} us, filling {:.0} us{records}",
                    story.name(),
                    rate.live,
                    rate.nanoseconds,
                    rate.per_second(),
                    rate.longest_turn,
                    rate.longest_fill_turn
                );
            }
        }
    }
    Ok(())
}

fn run_scale(arguments: &Scale) -> Result<()> {
    for &live in &arguments.live {
        let memory = level4::memory::measure(arguments.story, live)?;
        println!(
            "{} sessions: {:.1} bytes each counted, {:.1} resident; {:.0} ns each; longest turn {:.0} us",
            memory.live,
            memory.counted(),
            memory.resident,
            memory.nanoseconds,
            memory.longest_turn
        );
        for (part, bytes) in &memory.parts {
            println!("  {part:<22} {bytes:>7.1}");
        }
    }
    for &neighbours in &arguments.neighbours {
        for change in level4::neighbours::Change::ALL {
            let pause = level4::neighbours::measure(change, neighbours)?;
            let name = change.name();
            println!("{neighbours} neighbours, {name} changes: {} us", pause.show(1.0, 1));
        }
    }
    for shape in level4::rules::Shape::ALL {
        for &count in &arguments.rules {
            let cost = level4::rules::measure(shape, count);
            println!(
                "{shape:?} {count}: ready in {:.1} ms, {:.0} ns a look-up",
                cost.compile, cost.look_up
            );
        }
    }
    Ok(())
}

fn run_listing(arguments: &Listing) -> Result<()> {
    let cost = memory::listing::measure(arguments.sessions, arguments.repetitions.into())?;
    println!("{} sessions, ns a packet: {}", arguments.sessions, cost.plain.show(1.0, 1));
    println!("while all are listed:  {}", cost.listing.show(1.0, 1));
    println!("rate lost, per cent:   {}", cost.loss.show(100.0, 1));
    println!("packets during a list: {:.1} million", cost.packets / 1e6);
    Ok(())
}

fn run_workers(arguments: Workers) -> Result<()> {
    let Workers { flows, counts: workers, repetitions, packets } = arguments;
    for row in scaling::rows(&scaling::Settings { flows, workers, repetitions, packets })? {
        let ratios = row.ratios.iter();
        let ratios = ratios.map(|it| format!(", {} times {}", it.value.show(1.0, 2), it.of));
        let name = row.name();
        println!("{name}: {} Mpps{}", row.figure.show(1.0, 2), ratios.collect::<String>());
    }
    Ok(())
}

fn run_packets(arguments: Packets) -> Result<()> {
    if let Some(bursts) = arguments.bursts {
        for (&kind, &flows) in arguments.only.iter().zip(arguments.flows.iter().cycle()) {
            packets::cost::run(kind, flows, bursts)?;
        }
        return Ok(());
    }
    if let Some(bar) = arguments.check.as_deref().map(packets::Table::read).transpose()? {
        let table = packets::check::check(&bar, arguments.counted_flows, arguments.tolerance)?;
        println!("{table}");
        return Ok(());
    }
    ensure!(
        arguments.repetitions > 0,
        "error: --repetitions (0): nothing would be measured; give 1 or more"
    );
    let base = arguments.compare.as_deref().map(packets::Table::read).transpose()?;
    let costs = packets::measure(&packets::Settings {
        kinds: arguments.only,
        flows: arguments.flows,
        counted_flows: Some(arguments.counted_flows).filter(|&flows| flows > 0),
        repetitions: arguments.repetitions,
    })?;
    let table = packets::Table { machine: vec![Machine::here().line()], costs };
    println!("{}\n\n{}", table.machine.join("; "), table.show(base.as_ref())?);
    if let Some(path) = arguments.json {
        table.write(&path)?;
        println!("written to {}", path.display());
    }
    Ok(())
}

fn run_memory(arguments: Memory) -> Result<()> {
    if let Some(rounds) = arguments.only_rounds {
        for &sessions in &arguments.sessions {
            for &way in &arguments.only {
                memory::run::run(sessions, way, rounds, !arguments.df_clear)?;
            }
        }
        return Ok(());
    }
    let dont_fragment = !arguments.df_clear;
    let figures = memory::measure(&memory::Settings {
        sessions: arguments.sessions,
        ways: arguments.only,
        repetitions: arguments.repetitions,
        rounds: arguments.rounds,
        dont_fragment,
    })?;
    let run = memory::Memory::new(vec![Machine::here().line()], dont_fragment, figures);
    println!("{}\n\n{}", run.machine.join("; "), run.show()?);
    if let Some(path) = arguments.json {
        fs::write(&path, serde_json::to_string_pretty(&run)? + "\n")
            .with_context(|| format!("error: --json ({}): cannot write it", path.display()))?;
        println!("written to {}", path.display());
    }
    Ok(())
}
