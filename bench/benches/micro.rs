//! What do the single steps cost: parsing, look-up, rewrite, account, port and session, timer wheel,
//! hand-off?
//!
//! `cargo bench -p natgate-bench` prints instructions, counted by callgrind and repeatable, and time, which is
//! not. Everything is in the cache.

#![forbid(unsafe_code)]

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bench::callgrind;
use bench::frame::udp;
use bench::gateway::{Gateway, INSIDE, OWN_MAC, Setup};
use bench::report::Spread;
use conntrack::{
    Admission, FlowKey, HashedKey, Nat, Pool, PoolId, PoolSettings, Realm, Secret, Slot, Timestamp,
};
use dataplane::forward::Forwards;
use dataplane::interface::Mac;
use dataplane::packet::{Content, Packet};
use dataplane::snapshot::Answers;

/// Steps of one kind that are done in a row.
const BATCH: usize = 64;
/// Flows that exist beforehand.
const FLOWS: usize = 1024;
/// Batches of the runs whose instructions are compared.
const COUNTED: (usize, usize) = (50, 150);
/// Batches of a timed run.
const TIMED: usize = 2_000;
const FRAME: usize = 60;

const STEPS: [&str; 8] = [
    "parse",
    "look-up",
    "rewrite",
    "account",
    "port-and-session",
    "timer-wheel",
    "turn-at-home",
    "turn-handed-over",
];

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    if let Some(at) = arguments.iter().position(|argument| argument == "--counted") {
        let (name, batches) =
            arguments.get(at + 1).zip(arguments.get(at + 2)).context("--counted STEP BATCHES")?;
        run(name, batches.parse()?)?;
        return Ok(());
    }
    println!("| step | instructions | ns |\n| --- | ---: | ---: |");
    for name in STEPS {
        let arguments =
            |batches: usize| vec!["--counted".to_owned(), name.to_owned(), batches.to_string()];
        let count = callgrind::instructions("batch_that_is_counted", COUNTED, arguments)?;
        let times: Result<Vec<f64>> = (0..5).map(|_| run(name, TIMED)).collect();
        let Spread { median, least, most } = Spread::of(times?).context("no times")?;
        let count = count / BATCH as f64;
        println!("| {name} | {count:.0} | {median:.1} ({least:.1}–{most:.1}) |");
    }
    Ok(())
}

/// Does `batches` batches of a step; the nanoseconds of one step in the median batch.
fn run(name: &str, batches: usize) -> Result<f64> {
    let mut bed = Bed::new()?;
    let mut times = Vec::with_capacity(batches);
    for batch in 0..batches {
        let step = bed.prepare(name, batch)?;
        times.push(batch_that_is_counted(&mut bed, step, batch % (FLOWS / BATCH) * BATCH));
        bed.clear(step);
    }
    Ok(Spread::of(times).context("no batches")?.median / BATCH as f64)
}

#[derive(Clone, Copy)]
enum Step {
    Parse,
    LookUp,
    Rewrite,
    Account,
    Open,
    Expire,
    /// Of both workers; the packets arrived at this one.
    Turn(usize),
}

/// A function of its own, so that callgrind can count what happens inside it and nothing else.
#[inline(never)]
#[allow(clippy::disallowed_methods)] // a benchmark reads the time
fn batch_that_is_counted(bed: &mut Bed, step: Step, first: usize) -> f64 {
    let start = Instant::now();
    bed.batch(step, first);
    start.elapsed().as_nanos() as f64
}

/// What the steps are done with.
struct Bed {
    nat: Nat,
    now: Timestamp,
    secret: Secret,
    frames: Vec<[u8; FRAME]>,
    packets: Vec<Packet>,
    slots: Vec<Slot>,
    gateway: Gateway,
}

impl Bed {
    fn new() -> Result<Self> {
        let (secret, now) = (Secret::from_seed(3), Timestamp::from_millis(12_000));
        let mut nat = Nat::new(0, 1 << 14, secret.clone(), now);
        let addresses = (0..4).map(|n| Ipv4Addr::new(203, 0, 113, 10 + n));
        nat.adopt(&[Arc::new(Pool::new(PoolId(0), "default", PoolSettings::default(), addresses))]);
        let gateway = Gateway::new(&Setup {
            workers: 2,
            sessions: 1 << 14,
            frames: 4 * BATCH,
            addresses: 4,
            pool: PoolSettings::default(),
            forwards: Forwards::default(),
            answers: Answers::default(),
            mtu: [1500; 2],
            tunnel: false,
        })?;
        let (frames, packets, slots) = (Vec::new(), Vec::new(), Vec::new());
        let mut bed = Self { nat, now, secret, frames, packets, slots, gateway };
        for n in 0..FLOWS {
            let frame = frame(n)?;
            let packet = parse(&frame)?;
            let slot = bed.open(&packet)?;
            bed.slots.push(slot);
            bed.frames.push(frame);
            bed.packets.push(packet);
        }
        Ok(bed)
    }

    fn open(&mut self, packet: &Packet) -> Result<Slot> {
        let key = key_of(packet)?;
        let admission = Admission { pool: PoolId(0), rule: 0 };
        self.nat.open(&key, admission, None, self.now).ok().context("a flow was refused")
    }

    /// What precedes a batch and is not measured.
    fn prepare(&mut self, name: &str, batch: usize) -> Result<Step> {
        Ok(match name {
            "parse" => Step::Parse,
            "look-up" => Step::LookUp,
            "rewrite" => Step::Rewrite,
            "account" => Step::Account,
            "port-and-session" => {
                self.packets = fresh(batch)?;
                Step::Open
            }
            "timer-wheel" => {
                for packet in fresh(batch)? {
                    self.open(&packet)?;
                }
                self.now = self.now + Duration::from_secs(3600);
                Step::Expire
            }
            "turn-at-home" => self.let_arrive(batch, false)?,
            "turn-handed-over" => self.let_arrive(batch, true)?,
            _ => bail!("error: step ({name}): it is not known; there are {}", STEPS.join(", ")),
        })
    }

    /// A batch of packets of one worker's subscribers arrives there, or at the other worker; the two change
    /// places every time, because frames stay where they are sent.
    fn let_arrive(&mut self, batch: usize, away: bool) -> Result<Step> {
        let home = batch % 2;
        let at = if away { 1 - home } else { home };
        let is_of_home = |frame: &&[u8; FRAME]| {
            let pod = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
            usize::from(self.secret.home(pod, 2)) == home
        };
        let frames = self.frames.iter().filter(is_of_home).cycle().skip(batch % 100).take(BATCH);
        for frame in frames {
            if !self.gateway.workers[at].io_mut().inject(INSIDE, frame) {
                bail!("no free frame");
            }
        }
        Ok(Step::Turn(at))
    }

    fn batch(&mut self, step: Step, first: usize) {
        let (all, some) = (first..first + BATCH, 0..BATCH);
        match step {
            Step::Parse => self.frames[all].iter().for_each(|frame| {
                black_box(Content::parse(black_box(frame), Mac(OWN_MAC)).is_ok());
            }),
            Step::LookUp => self.packets[all].iter().for_each(|packet| {
                black_box(hashed(&self.secret, packet).and_then(|key| self.nat.find_hashed(&key)));
            }),
            Step::Rewrite => all.for_each(|n| {
                let rewrite = self.nat.rewrite(self.slots[n]);
                black_box(self.packets[n].translate(&mut self.frames[n], &rewrite, false).is_ok());
            }),
            Step::Account => self.slots[all].iter().for_each(|slot| {
                self.nat.commit(black_box(*slot), self.now, 60, None);
            }),
            Step::Open => some.for_each(|n| {
                let packet = self.packets[n];
                black_box(self.open(&packet).is_ok());
            }),
            Step::Expire => {
                black_box(self.nat.expire(self.now, u32::MAX));
            }
            Step::Turn(at) => {
                let now = self.gateway.now;
                for worker in [at, 1 - at] {
                    black_box(self.gateway.workers[worker].turn(now));
                }
            }
        }
    }

    /// What follows a batch and is not measured.
    fn clear(&mut self, step: Step) {
        match step {
            Step::Open => {
                self.now = self.now + Duration::from_secs(3600);
                self.nat.expire(self.now, u32::MAX);
            }
            Step::Turn(_) => {
                for worker in &mut self.gateway.workers {
                    worker.io_mut().recycle();
                }
            }
            _ => {}
        }
    }
}

fn frame(n: usize) -> Result<[u8; FRAME]> {
    let pod = Ipv4Addr::from(0x0a01_0000 + (n / 32) as u32);
    let server = Ipv4Addr::new(192, 0, 2, 1 + (n % 200) as u8);
    let mut packet = udp((pod, 20_000 + (n % 32) as u16), (server, 4433), &[7; FRAME - 42]);
    packet.fragment = 0x4000;
    packet.frame(OWN_MAC).try_into().ok().context("a frame of another length")
}

fn parse(frame: &[u8]) -> Result<Packet> {
    match Content::parse(frame, Mac(OWN_MAC)) {
        Ok(Content::Packet(packet)) => Ok(packet),
        other => bail!("not a packet: {other:?}"),
    }
}

/// Packets of a batch of flows that have no session.
fn fresh(batch: usize) -> Result<Vec<Packet>> {
    (0..BATCH).map(|n| parse(&frame(FLOWS + batch % 1000 * BATCH + n)?)).collect()
}

fn key_of(packet: &Packet) -> Result<FlowKey> {
    packet.flow_key(Realm::Internal).ok().context("a packet without flow")
}

fn hashed(secret: &Secret, packet: &Packet) -> Option<HashedKey> {
    packet.flow_key(Realm::Internal).ok().map(|key| secret.hash_key(&key))
}
