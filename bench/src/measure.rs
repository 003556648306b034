//! How is one gateway measured? With sessions made beforehand, once with all that the generator can
//! send, once at the highest rate that loses next to nothing.

use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use core_affinity::CoreId;
use serde::{Deserialize, Serialize};
use tools::generator::{BATCH, CATCH_UP, Until};
use tools::interface::{index, parse_mac};
use tools::sink::Watch;
use tools::{Generator, Plan, Sink, cpu};

use crate::contestant::{Contestant, Given, Held};
use crate::rig::{self, Rig};

/// Probes for the highest rate; each halves the range in which it is.
const PROBES: usize = 5;
const PROBE: Duration = Duration::from_millis(400);
/// Sent before and after a figure is measured.
const MARGIN: Duration = Duration::from_millis(100);
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

/// A measurement on one gateway.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Case {
    /// Which.
    pub contestant: Contestant,
    /// Flows sent.
    pub flows: u64,
    /// Of each source address.
    pub ports_per_source: u32,
    /// Public addresses that it may use.
    pub addresses: u8,
    /// Whether pods' packets arrive in VXLAN.
    pub tunnel: bool,
}

impl Case {
    /// With as many public addresses as the flows need.
    pub const fn new(contestant: Contestant, flows: u64) -> Self {
        let addresses = if flows > 150_000 { 32 } else { 4 };
        Self { contestant, flows, ports_per_source: 50, addresses, tunnel: false }
    }
}

/// A figure at one rate of the generator.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Figure {
    /// Packets a second at the sink.
    pub rate: f64,
    /// Packets a second sent.
    #[serde(default)]
    pub offered: f64,
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

/// Measures the rates of `contestant` with `flows` flows.
pub fn trial(
    settings: &Settings,
    contestant: Contestant,
    flows: u64,
    repetition: usize,
) -> Result<Trial> {
    trial_of(settings, Case::new(contestant, flows), repetition)
}

/// The same of any case.
pub fn trial_of(settings: &Settings, case: Case, repetition: usize) -> Result<Trial> {
    let Case { contestant, flows, .. } = case;
    let mut field = Field::open(settings, case, |_| ())?;
    field.warm_up()?;
    let unpaced = field.figure(0, settings.length)?;
    let best = field.highest(unpaced.rate)?;
    let paced = field.figure(best, settings.length)?;
    field.check()?;
    Ok(Trial { contestant, flows, repetition, paced, unpaced })
}

/// What is sent if nobody wants it otherwise. To be called in the generator's namespace.
pub(crate) fn plan(case: Case) -> Result<Plan> {
    Ok(Plan {
        interface: index("gen0")?,
        mac: (parse_mac(rig::GATEWAY_INTERNAL)?, parse_mac(rig::GENERATOR)?),
        flows: case.flows,
        source: "10.10.0.1".parse()?,
        source_port: 1024,
        ports_per_source: case.ports_per_source,
        destination: (rig::SINK_ADDRESS.parse()?, 1),
        destination_port: (9, 1),
        size: 60,
        checksum: true,
        stamped: false,
        batch: BATCH,
        catch_up: CATCH_UP,
        flood: None,
        tunnel: case.tunnel.then(rig::tunnel).transpose()?,
    })
}

/// A gateway between a generator and a sink, ready to be measured.
pub(crate) struct Field {
    pub(crate) rig: Rig,
    pub(crate) case: Case,
    pub(crate) held: Held,
    sink: Sink,
    generator: Generator,
}

impl Field {
    /// Starts the gateway and waits for its first packet; `watch` changes what the sink looks at.
    pub(crate) fn open(
        settings: &Settings,
        case: Case,
        watch: impl FnOnce(&mut Watch),
    ) -> Result<Self> {
        let mut rig = Rig::new()?;
        if case.tunnel {
            rig.lay_tunnel()?;
        }
        let mut watched = Watch::new(case.contestant.sources());
        watch(&mut watched);
        let sink = rig.within("sink", || Sink::attach("sink0", &watched))?;
        let given = Given {
            programs: &settings.programs,
            results: &settings.results,
            addresses: case.addresses,
            flows: case.flows,
        };
        let held = case.contestant.start(&mut rig, &given)?;
        let generator = rig.within("gen", || Generator::new(&plan(case)?))?;
        let field = Self { rig, case, held, sink, generator };
        field.await_first().with_context(|| {
            format!(
                "error: {}: nothing came through; see the logs in {}",
                case.contestant.name(),
                settings.results.display()
            )
        })?;
        Ok(field)
    }

    /// Another generator for the same gateway.
    pub(crate) fn generator(&self, change: impl FnOnce(&mut Plan) + Send) -> Result<Generator> {
        self.rig.within("gen", || {
            let mut plan = plan(self.case)?;
            change(&mut plan);
            Generator::new(&plan)
        })
    }

    /// Sends every flow more than once, so that its session is there.
    pub(crate) fn warm_up(&self) -> Result<()> {
        let flows = self.case.flows;
        let (rate, times) = if flows > 150_000 { (3 * WARM_RATE, 2) } else { (WARM_RATE, 3) };
        self.send(&self.generator, rate, Until::Packets(times * flows))
    }

    /// What arrived at the sink so far.
    pub(crate) fn sink(&self) -> &Sink {
        &self.sink
    }

    /// Fails if the gateway has ended, or if anything left with a wrong source.
    pub(crate) fn check(&mut self) -> Result<()> {
        let name = self.case.contestant.name();
        self.rig.check().with_context(|| format!("error: {name}"))?;
        let unexpected = self.sink.totals()?.unexpected;
        ensure!(unexpected == 0, "error: {name}: {unexpected} packets left with a wrong source");
        Ok(())
    }

    /// Sends until something arrives: the gateway is up, its neighbours are known.
    fn await_first(&self) -> Result<()> {
        let deadline = Instant::now() + Duration::from_secs(15);
        while self.sink.totals()?.packets == 0 {
            ensure!(Instant::now() < deadline, "15 s have passed");
            self.send(&self.generator, 1000, Until::Packets(64))?;
        }
        Ok(())
    }

    /// Runs `work` in the generator's namespace on the last core, away from the gateway, which begins at core 0.
    pub(crate) fn on_last_core<T: Send>(
        &self,
        work: impl FnOnce() -> Result<T> + Send,
    ) -> Result<T> {
        self.rig.within("gen", || {
            let last = thread::available_parallelism()?.get() - 1;
            ensure!(
                core_affinity::set_for_current(CoreId { id: last }),
                "error: core {last}: it can't be used"
            );
            work()
        })
    }

    /// Sends with `generator`.
    pub(crate) fn send(&self, generator: &Generator, rate: u64, until: Until) -> Result<()> {
        self.on_last_core(|| generator.run(rate, until).map(|_| ()))
    }

    /// The flows at `rate` (0: all that the generator can) for `length` and a little around it, measured meanwhile.
    pub(crate) fn figure(&self, rate: u64, length: Duration) -> Result<Figure> {
        self.figure_of(&self.generator, rate, length)
    }

    /// The same with another generator; its flood does not count.
    pub(crate) fn figure_of(
        &self,
        generator: &Generator,
        rate: u64,
        length: Duration,
    ) -> Result<Figure> {
        let (before, after) = thread::scope(|scope| {
            let until = Until::Elapsed(length + 2 * MARGIN);
            let sending = scope.spawn(move || self.send(generator, rate, until));
            thread::sleep(MARGIN);
            let before = self.sample(generator)?;
            thread::sleep(length);
            let after = self.sample(generator)?;
            sending.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
            Ok::<_, anyhow::Error>((before, after))
        })?;
        let arrived = (after.arrived - before.arrived) as f64;
        let sent = (after.sent - before.sent) as f64;
        let seconds = after.at.saturating_duration_since(before.at).as_secs_f64();
        let waited = after.waited.saturating_sub(before.waited);
        let used = after.busy.saturating_sub(before.busy).saturating_sub(waited).as_secs_f64();
        ensure!(sent > 0.0, "error: the generator: it sends nothing");
        Ok(Figure {
            rate: arrived / seconds,
            offered: sent / seconds,
            loss: (1.0 - arrived / sent).max(0.0),
            cpu_micros: used * 1e6 / arrived.max(1.0),
        })
    }

    fn sample(&self, generator: &Generator) -> Result<Sample> {
        let progress = generator.progress()?;
        Ok(Sample {
            at: Instant::now(),
            sent: progress.packets - progress.flood,
            waited: progress.waited,
            arrived: self.sink.totals()?.watched,
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

/// What the counters said at one moment.
struct Sample {
    at: Instant,
    sent: u64,
    waited: Duration,
    arrived: u64,
    busy: Duration,
}
