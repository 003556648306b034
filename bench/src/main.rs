//! `natgate-bench`: measures natgate, its limit and its peers, and prints one table.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Result, ensure};
use bench::machine::Machine;
use bench::packets;
use bench::suite::{Level, Options, Report, compare, table};
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
    /// Measures what each kind of packet costs without the kernel: instructions (by callgrind) and time.
    Packets(Packets),
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
        Report::measure(&cli.only, &Options { quick: cli.quick, programs, results })
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
