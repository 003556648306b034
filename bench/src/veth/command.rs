//! `natgate-bench veth`: which parts are measured, and for how long?

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};

use super::{Results, exhaustion, flood, idle, latency, overload, streams, vxlan};
use crate::contestant::Contestant;
use crate::measure::{self, Settings};

/// A part of the end-to-end measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Rates, paced and not, by flows.
    Rates,
    /// Latencies at a tenth, half and nine tenths of the load.
    Latency,
    /// Rates when more is offered than can be carried.
    Overload,
    /// Established flows beside floods of new ones.
    Floods,
    /// Established flows when no port is left.
    Exhaustion,
    /// Idle gateways, and the first packet after silence.
    Idle,
    /// Bulk TCP by iperf3, and short requests.
    Streams,
    /// Rates of packets in VXLAN, beside the same without.
    Vxlan,
}

/// Flags of the measurement.
#[derive(Args, Clone, Debug)]
pub struct Veth {
    /// Parts to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Part::value_variants().to_vec())]
    pub part: Vec<Part>,
    /// Repetitions.
    #[arg(long, value_name = "N", default_value_t = 5)]
    pub repetitions: usize,
    /// Length of each figure.
    #[arg(long, value_name = "S", default_value_t = 2.0)]
    pub seconds: f64,
    /// Numbers of flows: rates are measured with each, latencies, overload and floods with the first.
    #[arg(long, value_name = "N", value_delimiter = ',', default_values_t = [1000, 50_000, 100_000, 1_000_000])]
    pub flows: Vec<u64>,
    /// Who takes part.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = Contestant::ALL)]
    pub only: Vec<Contestant>,
    /// Floods to send.
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = flood::What::ALL)]
    pub floods: Vec<flood::What>,
    /// Add to this file, and show all that is in it: a long measurement in several pieces.
    #[arg(long, value_name = "FILE.json")]
    pub into: Option<PathBuf>,
    /// Where the release programs are.
    #[arg(long, value_name = "DIR", default_value = "target/release")]
    pub programs: PathBuf,
    /// Where results and logs go.
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    pub results: PathBuf,
}

/// Measures, repetition by repetition, and returns what is known then; `machine` describes this one.
pub fn run(arguments: &Veth, machine: &str) -> Result<Results> {
    ensure!(
        arguments.repetitions > 0 && !arguments.flows.is_empty(),
        "error: --repetitions, --flows: nothing would be measured; give 1 or more"
    );
    fs::create_dir_all(&arguments.results)?;
    let settings = Settings {
        programs: arguments.programs.clone(),
        results: fs::canonicalize(&arguments.results)?,
        length: Duration::try_from_secs_f64(arguments.seconds)
            .context("error: --seconds: not a length of time; give such as 3")?,
    };
    let into = arguments.into.as_deref();
    let mut results = into.map(Results::read).transpose()?.unwrap_or_default();
    results.machine.push(machine.to_owned());
    let first = results.next_repetition();
    for repetition in first..first + arguments.repetitions {
        for &part in &arguments.part {
            for &contestant in &arguments.only {
                eprintln!("{repetition:>3}  {part:?}  {}", contestant.name());
                measure(&mut results, arguments, &settings, part, contestant, repetition)?;
            }
        }
        if let Some(path) = into {
            results.write(path)?;
        }
    }
    Ok(results)
}

fn measure(
    results: &mut Results,
    arguments: &Veth,
    settings: &Settings,
    part: Part,
    who: Contestant,
    repetition: usize,
) -> Result<()> {
    let flows = arguments.flows[0];
    let nat = who != Contestant::Forwarder;
    match part {
        Part::Rates => {
            for &flows in &arguments.flows {
                results.rates.push(measure::trial(settings, who, flows, repetition)?);
            }
        }
        Part::Latency => results.latencies.push(latency::trial(settings, who, flows, repetition)?),
        Part::Overload => {
            results.overloads.push(overload::trial(settings, who, flows, repetition)?);
        }
        Part::Floods if nat => {
            let floods = &arguments.floods;
            results.floods.extend(flood::trials(settings, who, flows, floods, repetition)?);
        }
        Part::Exhaustion if nat => {
            for addresses in [2, 1] {
                let trial = exhaustion::trial(settings, who, 100_000, addresses, repetition)?;
                results.exhaustions.push(trial);
            }
        }
        Part::Idle => results.idles.push(idle::trial(settings, who, repetition)?),
        Part::Streams if nat => {
            results.streams.push(streams::trial(settings, who, false, repetition)?);
            if who == Contestant::Nftables {
                results.streams.push(streams::trial(settings, who, true, repetition)?);
            }
        }
        Part::Vxlan if nat => {
            results.tunnels.push(vxlan::trial(settings, who, flows, repetition)?);
        }
        // The forwarder knows neither ports nor a way back, nor tunnels.
        Part::Floods | Part::Exhaustion | Part::Streams | Part::Vxlan => {}
    }
    Ok(())
}

impl Results {
    /// One more than the highest there is.
    fn next_repetition(&self) -> usize {
        let all = [
            self.rates.iter().map(|t| t.repetition).max(),
            self.latencies.iter().map(|t| t.repetition).max(),
            self.overloads.iter().map(|t| t.repetition).max(),
            self.floods.iter().map(|t| t.repetition).max(),
            self.exhaustions.iter().map(|t| t.repetition).max(),
            self.idles.iter().map(|t| t.repetition).max(),
            self.streams.iter().map(|t| t.repetition).max(),
            self.tunnels.iter().map(|t| t.repetition).max(),
        ];
        all.into_iter().flatten().max().map_or(0, |last| last + 1)
    }
}
