//! How are packets made at the rate of the driver?
//!
//! The kernel runs an XDP program over live frames (`BPF_PROG_RUN`), and the program redirects each to
//! a device. A run of so many frames as a plan's `batch` says ends with one flush, as a driver's receive loop does.

use std::net::Ipv4Addr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use aya::Ebpf;
use aya::maps::{Array, DevMap, MapData};
use aya::programs::{TestRun, TestRunAttrs, TestRunOptions, Xdp};
use serde::Serialize;

use crate::flood::Flood;
use crate::interface::Mac;
use crate::{cpu, object};

/// Runs of the program in the first call of the kernel, which shows how fast they are.
const FIRST_CALL: u64 = 1 << 14;
/// A call takes at most about so many seconds; between calls the kernel pauses for some 20 ms.
const LONGEST_CALL: f64 = 2.0;
/// Places in `struct pace` of the program.
const GENERATED: usize = 0;
const RUNS: usize = 1;
const WAITED: usize = 2;
const START: usize = 3;
const INTERVAL: usize = 5;
/// Devices of the program: of the flows, of the flood.
const WAYS: [u32; 2] = [0, 1];
/// Ethernet, IPv4 and UDP headers.
const HEADERS: usize = 14 + 20 + 8;
/// A time in the payload.
const STAMP: usize = 8;
/// The kernel's limit for live frames: a page less its own bookkeeping, rounded to an Ethernet frame.
const LONGEST: usize = 1514;

/// What is sent, and where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The device it leaves by, in the network namespace of the caller.
    pub interface: u32,
    /// Next hop's Ethernet address, and the one that is sent as source.
    pub mac: (Mac, Mac),
    /// How many different flows, met in an order without locality.
    pub flows: u64,
    /// First source address; further ones follow it.
    pub source: Ipv4Addr,
    /// First source port.
    pub source_port: u16,
    /// Flows of each source address, one source port each.
    pub ports_per_source: u32,
    /// First destination address, and how many follow, itself included.
    pub destination: (Ipv4Addr, u32),
    /// First destination port, and how many follow, itself included.
    pub destination_port: (u16, u32),
    /// Length of a frame in bytes, without its check sequence: 42 to 1,514.
    pub size: usize,
    /// Real UDP checksums; else zero, which means none.
    pub checksum: bool,
    /// Write into each packet when it was due, for a sink that measures latencies.
    pub stamped: bool,
    /// Packets that are due together and leave together: a power of two.
    pub batch: u32,
    /// A generator that was held up longer goes on as if it had not been.
    pub catch_up: Duration,
    /// Packets of new flows in between.
    pub flood: Option<Flood>,
    /// What all packets are put into.
    pub tunnel: Option<Tunnel>,
}

/// A VXLAN tunnel (RFC 7348), without outer checksum.
#[derive(Clone, Copy, Debug)]
pub struct Tunnel {
    /// This end, and the other one.
    pub ends: (Ipv4Addr, Ipv4Addr),
    /// The network's number.
    pub vni: u32,
    /// UDP port of the other end.
    pub port: u16,
    /// Ethernet address that inner packets are for.
    pub to: Mac,
}

impl Tunnel {
    /// The program's constants.
    fn words(&self) -> [(&'static str, u32); 5] {
        let (from, to) = self.ends;
        [
            ("TUNNEL", 1),
            ("TUNNEL_FROM", from.into()),
            ("TUNNEL_TO", to.into()),
            ("TUNNEL_VNI", self.vni),
            ("TUNNEL_PORT", u32::from(self.port)),
        ]
    }
}

/// Bytes of a tunnel's headers.
const TUNNEL: usize = 50;

/// Packets that leave together if nobody wants it otherwise: as in a driver's receive loop.
pub const BATCH: u32 = 64;
/// How much is caught up if nobody wants it otherwise.
pub const CATCH_UP: Duration = Duration::from_millis(1);

impl Plan {
    fn check(&self) -> Result<()> {
        let sources = self.flows.div_ceil(u64::from(self.ports_per_source.max(1)));
        let least = if self.stamped { HEADERS + STAMP } else { HEADERS };
        if let Some(flood) = &self.flood {
            flood.check(self.size)?;
        }
        ensure!(
            self.batch.is_power_of_two() && self.batch <= 256,
            "error: --batch ({}): it is no power of two up to 256; give such as 8",
            self.batch
        );
        let longest = if self.tunnel.is_some() { LONGEST - TUNNEL } else { LONGEST };
        ensure!(
            (least..=longest).contains(&self.size),
            "error: --size ({}): a frame has {least} to {longest} bytes; choose one of these",
            self.size
        );
        ensure!(
            self.flows > 0 && self.ports_per_source > 0,
            "error: --flows, --ports-per-source: they start at 1; choose more than 0"
        );
        ensure!(
            self.destination.1 > 0 && self.destination_port.1 > 0,
            "error: --destinations, --destination-ports: they start at 1; choose more than 0"
        );
        let fits = |first: u16, count: u32| u64::from(first) + u64::from(count) <= 1 << 16;
        ensure!(
            fits(self.source_port, self.ports_per_source)
                && fits(self.destination_port.0, self.destination_port.1),
            "error: the ports (source {} + {}, destination {} + {}): they pass 65,535; use fewer or start lower",
            self.source_port,
            self.ports_per_source,
            self.destination_port.0,
            self.destination_port.1
        );
        ensure!(
            u64::from(u32::from(self.source)) + sources <= 1 << 32,
            "error: --source ({} + {sources}): the addresses pass 255.255.255.255; start lower",
            self.source
        );
        Ok(())
    }
}

/// What a run sent, and what that took.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Sent {
    /// Packets handed to the device (it may have dropped some).
    pub packets: u64,
    /// From the first to the last, in seconds.
    pub seconds: f64,
    /// Packets per second.
    pub rate: f64,
    /// Processor seconds of this process, the receiving driver's work on this core
    /// included, waiting for the next packet to be due not.
    pub cpu_seconds: f64,
}

/// What a generator did since it was made.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Packets handed to the device.
    pub packets: u64,
    /// Those of the flood among them.
    pub flood: u64,
    /// Runs of the program, those that only waited included.
    pub runs: u64,
    /// Time that the program spent waiting for a packet to be due, which keeps its core busy.
    pub waited: Duration,
}

/// When a run ends.
#[derive(Clone, Copy, Debug)]
pub enum Until {
    /// After so many packets.
    Packets(u64),
    /// After so long.
    Elapsed(Duration),
}

/// Packets of one [`Plan`], made by the kernel.
pub struct Generator {
    object: Ebpf,
    pace: Mutex<Array<MapData, [u64; 6]>>,
    template: Vec<u8>,
    batch: u32,
    /// Of each 65,536 packets.
    flood: u64,
}

impl Generator {
    /// Loads the program for `plan`. The caller must be in the network namespace of its interface,
    /// now and when it runs.
    pub fn new(plan: &Plan) -> Result<Self> {
        plan.check()?;
        let mut template = vec![0; plan.size];
        for (at, byte) in template.iter_mut().enumerate().skip(HEADERS) {
            *byte = at as u8;
        }
        if plan.stamped {
            template[HEADERS..HEADERS + STAMP].fill(0);
        }
        let payload_sum = sum(&template[HEADERS..]);
        if plan.tunnel.is_some() {
            template.splice(..0, [0; TUNNEL]);
        }
        let length = (plan.size - 14) as u32;
        let words = [
            ("SOURCE", plan.source.into()),
            ("PORTS_PER_SOURCE", plan.ports_per_source),
            ("SOURCE_PORT", u32::from(plan.source_port)),
            ("DESTINATION", plan.destination.0.into()),
            ("DESTINATIONS", plan.destination.1),
            ("DESTINATION_PORT", u32::from(plan.destination_port.0)),
            ("DESTINATION_PORTS", plan.destination_port.1),
            ("IP_LENGTH", length),
            ("PAYLOAD_SUM", payload_sum),
            ("CHECKSUM", u32::from(plan.checksum)),
            ("STAMPED", u32::from(plan.stamped)),
        ];
        let tunnel_words = plan.tunnel.map(|tunnel| tunnel.words());
        let tunnel_mac = plan.tunnel.map_or(plan.mac.0, |tunnel| tunnel.to);
        let flood_words = plan.flood.map(|flood| flood.words());
        let flood_macs = plan.flood.map_or(plan.mac, |flood| flood.mac);
        let (group, catch_up) = (u64::from(plan.batch), plan.catch_up.as_nanos() as u64);
        let mut object = object::load(|loader| {
            let words = words.iter().chain(flood_words.iter().flatten());
            for (name, value) in words.chain(tunnel_words.iter().flatten()) {
                loader.override_global(name, value, true);
            }
            loader.override_global("GROUP", &group, true);
            loader.override_global("CATCH_UP", &catch_up, true);
            loader.override_global("FLOOD_MAC_TO", &flood_macs.0, true);
            loader.override_global("FLOOD_MAC_FROM", &flood_macs.1, true);
            loader.override_global("TUNNEL_MAC_TO", &tunnel_mac, true);
            loader.override_global("FLOWS", &plan.flows, true);
            loader.override_global("MAC_TO", &plan.mac.0, true);
            loader.override_global("MAC_FROM", &plan.mac.1, true);
        })?;
        object::program(&mut object, "generate")?;
        let pace = object
            .take_map("PACE")
            .context("error: the generator (BPF): its pace is missing; rebuild natgate-tools")?;
        let flood = plan.flood.map_or(0, |flood| u64::from(flood.parts()));
        let pace = Mutex::new(Array::try_from(pace)?);
        let mut generator = Self { object, pace, template, batch: plan.batch, flood };
        for way in WAYS {
            generator.set_way(way, plan.interface)?;
        }
        Ok(generator)
    }

    /// Lets the flood leave by another device, which may be in another network namespace: that of the caller.
    pub fn flood_through(&mut self, interface: u32) -> Result<()> {
        self.set_way(WAYS[1], interface)
    }

    fn set_way(&mut self, way: u32, interface: u32) -> Result<()> {
        let missing = "error: the generator (BPF): its devices are missing; rebuild natgate-tools";
        let map = self.object.map_mut("WAYS").context(missing)?;
        let mut ways = DevMap::try_from(map)?;
        ways.set(way, interface, None, 0).with_context(|| {
            format!("error: the interface (index {interface}): packets can't leave by it")
        })
    }

    /// What was made and how long the program waited, up to now; also while another thread runs it.
    pub fn progress(&self) -> Result<Progress> {
        let pace = self.pace().get(&0, 0)?;
        Ok(Progress {
            packets: pace[GENERATED],
            flood: (pace[GENERATED] * self.flood) >> 16,
            runs: pace[RUNS],
            waited: Duration::from_nanos(pace[WAITED]),
        })
    }

    /// Sends at `rate` packets a second (0: as fast as possible) until `until`, from the core that the
    /// calling thread is on, and keeps that core busy.
    pub fn run(&self, rate: u64, until: Until) -> Result<Sent> {
        self.set_pace(rate)?;
        let cpu_before = cpu::of_process()?;
        let before = self.progress()?;
        let start = Instant::now();
        let mut runs = FIRST_CALL;
        loop {
            let progress = self.progress()?;
            let seconds = start.elapsed().as_secs_f64();
            let packets = progress.packets - before.packets;
            let done = progress.runs - before.runs;
            let left = match until {
                Until::Packets(bound) => bound.saturating_sub(packets),
                Until::Elapsed(bound) => {
                    let left = (bound.as_secs_f64() - seconds).clamp(0.0, LONGEST_CALL);
                    if done > 0 {
                        runs = (done as f64 / seconds * left) as u64;
                    }
                    runs
                }
            };
            if left == 0 {
                let used = cpu::of_process()?.saturating_sub(cpu_before).as_secs_f64();
                let waited = progress.waited.saturating_sub(before.waited).as_secs_f64();
                let rate = packets as f64 / seconds;
                let cpu_seconds = (used - waited).max(0.0);
                return Ok(Sent { packets, seconds, rate, cpu_seconds });
            }
            self.send(left.min(u64::from(u32::MAX >> 1)) as u32)?;
        }
    }

    fn pace(&self) -> MutexGuard<'_, Array<MapData, [u64; 6]>> {
        self.pace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_pace(&self, rate: u64) -> Result<()> {
        let mut map = self.pace();
        let mut pace = map.get(&0, 0)?;
        pace[START] = 0;
        pace[INTERVAL] = (1_000_000_000u64 << 16).checked_div(rate).unwrap_or(0);
        map.set(0, pace, 0)?;
        Ok(())
    }

    /// One call of the kernel. The schedule begins with it: the pause between two calls is the generator's, and no
    /// packet was due in it.
    fn send(&self, runs: u32) -> Result<()> {
        {
            let mut map = self.pace();
            let mut pace = map.get(&0, 0)?;
            pace[START] = 0;
            map.set(0, pace, 0)?;
        }
        let program: &Xdp = self
            .object
            .program("generate")
            .context("error: the generator (BPF): its program is missing; rebuild natgate-tools")?
            .try_into()?;
        let options = TestRunOptions {
            data_in: Some(&self.template),
            repeat: runs,
            attrs: TestRunAttrs::new().xdp_live_frames(self.batch.min(runs)),
            ..TestRunOptions::default()
        };
        program.test_run(options).context(
            "error: the generator (BPF_PROG_RUN): the kernel refused live frames; \
             run as root, on Linux 5.18 or later",
        )?;
        Ok(())
    }
}

/// Ones' complement sum of `bytes` as 16-bit words, folded to 16 bits.
fn sum(bytes: &[u8]) -> u32 {
    let words = bytes
        .chunks(2)
        .map(|pair| u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |&low| u32::from(low)));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}
