//! How is one gateway measured? With sessions made beforehand, once with all that the generator can
//! send, once at the highest rate that loses next to nothing.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use tools::generator::Until;
use tools::interface::{index, parse_mac};
use tools::{Generator, Plan, Sink, cpu};

use crate::contestant::Contestant;
use crate::rig::{self, Rig};

/// Probes for the highest rate; each halves the range in which it is.
const PROBES: usize = 6;
const PROBE: Duration = Duration::from_millis(700);
/// Share of packets that may be lost at the highest rate.
const LOSS: f64 = 0.005;
/// Packets a second while sessions are made.
const WARM_RATE: u64 = 100_000;

/// What all trials share.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where the release programs are.
    pub programs: PathBuf,
    /// Where logs go.
    pub results: PathBuf,
    /// How long each figure is measured.
    pub length: Duration,
}

/// A figure at one rate of the generator.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Packets a second at the sink.
    pub rate: f64,
    /// Share of packets lost on the way.
    pub loss: f64,
    /// Processor microseconds for each packet at the sink: all cores, generator and sink included, the
    /// generator's waiting not.
    pub cpu_micros: f64,
}

/// One gateway, measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Trial {
    /// Which.
    pub contestant: Contestant,
    /// Flows sent.
    pub flows: u64,
    /// Which repetition, from 0.
    pub repetition: usize,
    /// At the highest rate without loss to speak of.
    pub paced: Figure,
    /// With all that the generator can send.
    pub unpaced: Figure,
}

/// Measures `contestant` with `flows` flows.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    repetition: usize,
) -> Result<Trial> {
    let mut rig = Rig::new()?;
    let sink = rig.within("sink", || Sink::attach("sink0", contestant.sources()))?;
    let _held = contestant.start(&mut rig, &settings.programs, &settings.results)?;
    let generator = rig.within("gen", || Generator::new(&plan(flows)?))?;
    let path = Path { rig: &rig, generator: &generator, sink: &sink };
    path.await_first().with_context(|| {
        format!(
            "error: {}: nothing came through; see the logs in {}",
            contestant.name(),
            settings.results.display()
        )
    })?;
    path.send(WARM_RATE, Until::Packets(3 * flows))?;
    let unpaced = path.figure(0, settings.length)?;
    let best = path.highest(unpaced.rate)?;
    let paced = path.figure(best, settings.length)?;
    let unexpected = sink.totals()?.unexpected;
    rig.check().with_context(|| format!("error: {}", contestant.name()))?;
    ensure!(
        unexpected == 0,
        "error: {}: {unexpected} packets left with a wrong source",
        contestant.name()
    );
    Ok(Trial { contestant, flows, repetition, paced, unpaced })
}

fn plan(flows: u64) -> Result<Plan> {
    Ok(Plan {
        interface: index("gen0")?,
        mac: (parse_mac(rig::GATEWAY_INTERNAL)?, parse_mac(rig::GENERATOR)?),
        flows,
        source: "10.10.0.1".parse()?,
        source_port: 1024,
        ports_per_source: 50,
        destination: (rig::SINK_ADDRESS.parse()?, 1),
        destination_port: (9, 1),
        size: 60,
        checksum: true,
    })
}

/// From the generator to the sink.
struct Path<'a> {
    rig: &'a Rig,
    generator: &'a Generator,
    sink: &'a Sink,
}

/// What the counters said at one moment.
struct Sample {
    at: Instant,
    sent: u64,
    waited: Duration,
    arrived: u64,
    busy: Duration,
}

impl Path<'_> {
    /// Sends until something arrives: the gateway is up, its neighbours are known.
    fn await_first(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.sink.totals()?.packets == 0 {
            ensure!(Instant::now() < deadline, "15 s have passed");
            self.send(1000, Until::Packets(64))?;
        }
        Ok(())
    }

    /// Sends from the last core, away from the gateway, which begins at core 0.
    fn send(&self, rate: u64, until: Until) -> Result<()> {
        self.rig.within("gen", || {
            let last = thread::available_parallelism()?.get() - 1;
            ensure!(
                core_affinity::set_for_current(CoreId { id: last }),
                "error: core {last}: it can't be used"
            );
            self.generator.run(rate, until).map(|_| ())
        })
    }

    /// Sends at `rate` for `length` and a little around it, and measures meanwhile.
    fn figure(&self, rate: u64, length: Duration) -> Result<Figure> {
        let margin = Duration::from_millis(200);
        let (before, after) = thread::scope(|scope| {
            let sending = scope.spawn(|| self.send(rate, Until::Elapsed(length + 2 * margin)));
            thread::sleep(margin);
            let before = self.sample()?;
            thread::sleep(length);
            let after = self.sample()?;
            sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, anyhow::Error>((before, after))
        })?;
        let arrived = (after.arrived - before.arrived) as f64;
        let sent = (after.sent - before.sent) as f64;
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let waited = after.waited.saturating_sub(before.waited);
        let used = after.busy.saturating_sub(before.busy).saturating_sub(waited).as_secs_f64();
        ensure!(arrived > 0.0, "error: the path: nothing arrives any more");
        let loss = (1.0 - arrived / sent).max(0.0);
        Ok(Figure { rate: arrived / seconds, loss, cpu_micros: used * 1e6 / arrived })
    }

    fn sample(&self) -> Result<Sample> {
        let progress = self.generator.progress()?;
        Ok(Sample {
            at: Instant::now(),
            sent: progress.packets,
            waited: progress.waited,
            arrived: self.sink.totals()?.packets,
            busy: cpu::of_machine()?,
        })
    }

    /// The highest rate with less loss than [`LOSS`], within half and one and a half times `about`.
    fn highest(&self, about: f64) -> Result<u64> {
        let (mut low, mut high) = (0.5 * about, 1.5 * about);
        for _ in 0..PROBES {
            let middle = f64::midpoint(low, high);
            if self.figure(middle as u64, PROBE)?.loss < LOSS {
                low = middle;
            } else {
                high = middle;
            }
        }
        Ok(low as u64)
    }
}
