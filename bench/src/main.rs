//! `natgate-bench`: measures natgate, its limit and its peers end to end, and prints one table.

#![forbid(unsafe_code)]

use std::fs;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use bench::contestant::Contestant;
use bench::level2::sessions::Story;
use bench::level4;
use bench::measure::{Settings, trial};
use bench::report::Run;
use bench::veth::command::{self as veth, Veth};
use bench::{memory, packets};
use clap::{Args, Parser, Subcommand, ValueEnum as _};

/// Measures natgate, its limit and its peers on veth pairs, interleaved, and prints one table.
///
/// Example: tools/bench --quick --only forwarder,nftables
#[derive(Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Cli {
    #[command(subcommand)]
    command: Option<Measurement>,
    /// Two repetitions of one second instead of five of three.
    #[arg(long)]
    quick: bool,
    /// Repetitions.
    #[arg(long, value_name = "N")]
    repetitions: Option<usize>,
    /// Length of each figure.
    #[arg(long, value_name = "S")]
    seconds: Option<f64>,
    /// Numbers of flows.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1000, 50_000])]
    flows: Vec<u64>,
    /// Who takes part.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Contestant::ALL)]
    only: Vec<Contestant>,
    /// Say what changed since this run.
    #[arg(long, value_name = "BASE.json")]
    compare: Option<PathBuf>,
    /// Where the release programs are.
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    programs: PathBuf,
    /// Where results and logs go.
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    results: PathBuf,
}

/// Anything but the end-to-end measurement.
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
    tools::exit(run())
}

fn run() -> Result<()> {
    let cli = Cli::parse();
    match cli.command {
        Some(Measurement::Packets(arguments)) => return run_packets(arguments),
        Some(Measurement::Memory(arguments)) => return run_memory(arguments),
        Some(Measurement::Setup(arguments)) => return run_setup(&arguments),
        Some(Measurement::Scale(arguments)) => return run_scale(&arguments),
        Some(Measurement::Veth(arguments)) => {
            let results = veth::run(&arguments, &machine().join("; "))?;
            println!("{}\n\n{}", results.machine.join("\n"), results.tables()?);
            return Ok(());
        }
        None => {}
    }
    let base = cli.compare.as_deref().map(Run::read).transpose()?;
    fs::create_dir_all(&cli.results)?;
    let seconds = cli.seconds.unwrap_or(if cli.quick { 1.0 } else { 3.0 });
    let repetitions = cli.repetitions.unwrap_or(if cli.quick { 2 } else { 5 });
    ensure!(repetitions > 0, "error: --repetitions (0): nothing would be measured; give 1 or more");
    let settings = Settings {
        programs: cli.programs,
        results: fs::canonicalize(&cli.results)?,
        length: Duration::try_from_secs_f64(seconds)
            .context("error: --seconds: not a length of time; give such as 3")?,
    };
    let mut run = Run { machine: machine(), trials: Vec::new() };
    for repetition in 0..repetitions {
        for &flows in &cli.flows {
            for &contestant in &cli.only {
                let trial = trial(&settings, contestant, flows, repetition)?;
                eprintln!(
                    "{}/{repetitions}  {flows:>7} flows  {:<32} {:.3} Mpps paced, {:.3} not",
                    repetition + 1,
                    contestant.name(),
                    trial.paced.rate / 1e6,
                    trial.unpaced.rate / 1e6
                );
                run.trials.push(trial);
            }
        }
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let path = settings.results.join(format!("{now}.json"));
    fs::write(&path, serde_json::to_string_pretty(&run)?)?;
    println!("{}\n\n{}\nwritten to {}", run.machine.join("; "), run.table()?, path.display());
    if let Some(base) = base {
        println!("\n{}", run.compare(&base)?);
    }
    Ok(())
}

fn run_setup(arguments: &Setup) -> Result<()> {
    for &live in &arguments.live {
        for &story in &arguments.only {
            let rate = bench::level2::sessions::measure(story, live, arguments.sessions)?;
            println!(
                "{:<36} {:>9} live {:>8.0} ns {:>10.0}/s  longest turn {:.0} us, filling {:.0} us",
                story.name(),
                rate.live,
                rate.nanoseconds,
                rate.per_second(),
                rate.longest_turn,
                rate.longest_fill_turn
            );
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

fn run_packets(arguments: Packets) -> Result<()> {
    if let Some(bursts) = arguments.bursts {
        for (&kind, &flows) in arguments.only.iter().zip(arguments.flows.iter().cycle()) {
            packets::cost::run(kind, flows, bursts)?;
        }
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
    let table = packets::Table { machine: machine(), costs };
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
    let run = memory::Memory::new(machine(), dont_fragment, figures);
    println!("{}\n\n{}", run.machine.join("; "), run.show()?);
    if let Some(path) = arguments.json {
        fs::write(&path, serde_json::to_string_pretty(&run)? + "\n")
            .with_context(|| format!("error: --json ({}): cannot write it", path.display()))?;
        println!("written to {}", path.display());
    }
    Ok(())
}

/// Processor, cores, kernel, commit and command: what stands beside every published figure.
fn machine() -> Vec<String> {
    let output = |program: &str, arguments: &[&str]| {
        let output = Command::new(program).args(arguments).output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("?");
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    vec![
        format!("{}, {cores} cores", model.trim_start_matches([' ', '\t', ':'])),
        format!("Linux {}", output("uname", &["-r"]).unwrap_or_default()),
        format!(
            "commit {}",
            output("git", &["describe", "--always", "--dirty"]).unwrap_or_default()
        ),
        std::env::args().skip(1).collect::<Vec<_>>().join(" "),
    ]
}
