//! New sessions through the whole pipeline, while as many expire as begin.
//!
//! The clock is warped: it goes on by as much as keeps the number of live sessions where it is, so a timer of 300 s
//! passes in as many turns as it needs. Every burst is of new flows, of pods chosen at random; only the turns
//! of the worker are timed.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::ValueEnum;
use conntrack::{PoolSettings, Record};
use dataplane::forward::Forwards;
use dataplane::interface::InterfaceId;
use dataplane::io::BURST;
use dataplane::snapshot::{Answers, Policy, Snapshot};
use rtrb::{Consumer, RingBuffer};
use serde::{Deserialize, Serialize};

use crate::frame::{Ip, Party, tcp, udp};
use crate::gateway::{Gateway, INSIDE, OUTSIDE, OWN_MAC, PODS, Setup};

/// Sessions of each pod that are live at once, on average.
const SESSIONS_PER_POD: u32 = 50;
/// Connections that are opened side by side.
const SIDE_BY_SIDE: usize = 16 * BURST;
/// Records that may wait to be taken, as in natgate.
const RING: usize = 1 << 14;
const SYN: u8 = 0x02;
const FIN: u8 = 0x01;
const ACK: u8 = 0x10;

/// What a session consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Story {
    /// One UDP datagram out, then the idle time.
    Udp,
    /// SYN, SYN-ACK, ACK, FIN, FIN, ACK, then TIME_WAIT.
    Tcp,
}

impl Story {
    /// How long a session of it lives after its last packet, in the default profile.
    fn lifetime(self) -> Duration {
        let timers = PoolSettings::default().timers;
        match self {
            Self::Udp => timers.udp,
            Self::Tcp => timers.tcp_time_wait,
        }
    }

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP: create, first packet, expire",
            Self::Tcp => "TCP: handshake, close, expire",
        }
    }
}

/// What is recorded meanwhile, for somebody who takes it between the turns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Recorded {
    /// Nothing.
    #[default]
    Nothing,
    /// Port blocks.
    Blocks,
    /// Port blocks, and each session twice.
    Sessions,
}

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Rate {
    /// What a session consists of.
    pub story: Story,
    /// Sessions that were live all the time.
    pub live: u32,
    /// Sessions that began and ended while it was measured.
    pub sessions: u64,
    /// Records that were taken meanwhile.
    #[serde(default)]
    pub records: u64,
    /// Time for one session, from the first packet to the end, nanoseconds.
    pub nanoseconds: f64,
    /// The longest turn while the table was filled, microseconds.
    pub longest_fill_turn: f64,
    /// The longest turn afterwards, microseconds.
    pub longest_turn: f64,
}

impl Rate {
    /// Sessions a second.
    pub fn per_second(&self) -> f64 {
        1e9 / self.nanoseconds
    }
}

/// A flow, and how the outside sees it.
#[derive(Clone, Copy, Debug)]
struct Flow {
    pod: Party,
    server: Party,
    public: Party,
}

/// A number that looks random (splitmix64).
fn mix(n: u64) -> u64 {
    let z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ z >> 31
}

impl Flow {
    /// The flow with the number `n`, of one of `pods`: no two are alike.
    fn new(n: u64, pods: u32) -> Self {
        let random = mix(n);
        let pod = (u32::from(PODS) << 24) + 0x1_0000 + (random % u64::from(pods)) as u32;
        let port = 1_024 + (n % 60_000) as u16;
        let server =
            Ipv4Addr::from(0x2d00_0000 + ((n / 60_000) as u32) * 64 + (random >> 58) as u32);
        Self {
            pod: (Ipv4Addr::from(pod), port),
            server: (server, 4433),
            public: (Ipv4Addr::UNSPECIFIED, 0),
        }
    }
}

/// A gateway whose worker is fed with bursts, and the time that its turns took.
pub(crate) struct Rig {
    pub(crate) gateway: Gateway,
    pods: u32,
    next: u64,
    pub(crate) spent: Duration,
    pub(crate) longest: Duration,
    /// How far the clock goes on for each session.
    step: Duration,
    owed: Duration,
    /// Where records come out, and how many did.
    taker: Option<Consumer<Record>>,
    taken: u64,
}

impl Rig {
    pub(crate) fn new(story: Story, live: u32) -> Result<Self> {
        let pods = live / SESSIONS_PER_POD;
        let gateway = Gateway::new(&Setup {
            workers: 1,
            sessions: live as usize * 9 / 8 + 65_536,
            frames: 4 * BURST,
            // Two blocks for each pod fit.
            addresses: (pods / 400 + 4) as u16,
            pool: PoolSettings::default(),
            forwards: Forwards::default(),
            answers: Answers::default(),
            mtu: [1500; 2],
            tunnel: false,
        })?;
        Ok(Self {
            gateway,
            pods,
            next: 0,
            spent: Duration::ZERO,
            longest: Duration::ZERO,
            step: story.lifetime() / live,
            owed: Duration::ZERO,
            taker: None,
            taken: 0,
        })
    }

    /// From now on, this is recorded.
    fn record(&mut self, recorded: Recorded) {
        if recorded == Recorded::Nothing {
            return;
        }
        let snapshot = self.gateway.snapshot.get();
        let record_sessions = recorded == Recorded::Sessions;
        let policy = Arc::new(Policy { record_sessions, ..Policy::clone(&snapshot.policy) });
        self.gateway.snapshot.publish(Snapshot { policy, ..Snapshot::clone(&snapshot) });
        let (producer, consumer) = RingBuffer::new(RING);
        self.gateway.workers[0].record_to(producer);
        self.taker = Some(consumer);
    }

    /// One turn with a burst of packets; what was sent for each, in order.
    fn burst(&mut self, from: InterfaceId, packets: &[Ip]) -> Result<Vec<Vec<u8>>> {
        for packet in packets {
            ensure!(self.gateway.inject(from, &packet.frame(OWN_MAC)), "no free frame");
        }
        let start = Instant::now();
        let taken = turn_that_is_counted(&mut self.gateway);
        let took = start.elapsed();
        self.spent += took;
        self.longest = self.longest.max(took);
        if let Some(taker) = &mut self.taker {
            while taker.pop().is_ok() {
                self.taken += 1;
            }
        }
        ensure!(taken == packets.len(), "a turn took {taken} packets");
        let io = self.gateway.workers[0].io_mut();
        let sent: Vec<_> = std::iter::from_fn(|| io.take_sent()).map(|(_, frame)| frame).collect();
        if sent.len() != packets.len() {
            let ends = self.gateway.ends().into_iter().filter(|&(_, count)| count > 0);
            bail!(
                "of {taken} packets {} were forwarded: {:?}",
                sent.len(),
                ends.collect::<Vec<_>>()
            );
        }
        Ok(sent)
    }

    /// Lets the time of so many sessions pass.
    fn pass(&mut self, sessions: usize) {
        self.owed += self.step * sessions as u32;
        let whole = Duration::from_millis(self.owed.as_millis() as u64);
        self.owed -= whole;
        self.gateway.now = self.gateway.now + whole;
    }

    fn udp(&mut self) -> Result<usize> {
        let packets: Vec<Ip> = (0..BURST as u64)
            .map(|i| Flow::new(self.next + i, self.pods))
            .map(|flow| udp(flow.pod, flow.server, &[7; 26]))
            .collect();
        self.next += BURST as u64;
        self.burst(INSIDE, &packets)?;
        Ok(BURST)
    }

    fn tcp(&mut self) -> Result<usize> {
        type Step = (InterfaceId, fn(&Flow) -> Ip);
        const STEPS: [Step; 6] = [
            (INSIDE, |f| tcp(f.pod, f.server, SYN, (1000, 0), &[])),
            (OUTSIDE, |f| tcp(f.server, f.public, SYN | ACK, (5000, 1001), &[])),
            (INSIDE, |f| tcp(f.pod, f.server, ACK, (1001, 5001), &[])),
            (INSIDE, |f| tcp(f.pod, f.server, FIN | ACK, (1001, 5001), &[])),
            (OUTSIDE, |f| tcp(f.server, f.public, FIN | ACK, (5001, 1002), &[])),
            (INSIDE, |f| tcp(f.pod, f.server, ACK, (1002, 5002), &[])),
        ];
        let mut flows: Vec<Flow> =
            (0..SIDE_BY_SIDE as u64).map(|i| Flow::new(self.next + i, self.pods)).collect();
        self.next += SIDE_BY_SIDE as u64;
        for (step, (from, packet)) in STEPS.into_iter().enumerate() {
            for flows in flows.chunks_mut(BURST) {
                let packets: Vec<Ip> = flows.iter().map(packet).collect();
                let sent = self.burst(from, &packets)?;
                if step == 0 {
                    for (flow, sent) in flows.iter_mut().zip(&sent) {
                        flow.public = source_of(sent);
                    }
                }
            }
        }
        Ok(SIDE_BY_SIDE)
    }

    fn round(&mut self, story: Story) -> Result<()> {
        let sessions = match story {
            Story::Udp => self.udp(),
            Story::Tcp => self.tcp(),
        }?;
        self.pass(sessions);
        Ok(())
    }

    pub(crate) fn run_until(&mut self, story: Story, flows: u64) -> Result<()> {
        while self.next < flows {
            self.round(story)?;
        }
        Ok(())
    }
}

/// A function of its own, so that callgrind can count what happens inside it and nothing else.
#[inline(never)]
fn turn_that_is_counted(gateway: &mut Gateway) -> usize {
    let now = gateway.now;
    std::hint::black_box(gateway.workers[0].turn(now))
}

/// The source address and port of a frame without IPv4 options.
fn source_of(frame: &[u8]) -> Party {
    let addr = Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29]);
    (addr, u16::from_be_bytes([frame[34], frame[35]]))
}

/// Fills the table with `live` sessions, lets all of them expire once, then measures `sessions` more.
pub fn measure(story: Story, live: u32, sessions: u64, recorded: Recorded) -> Result<Rate> {
    ensure!(live >= 10_000, "error: --live ({live}): too few to be steady; give 10000 or more");
    let mut rig = Rig::new(story, live)?;
    rig.record(recorded);
    rig.run_until(story, u64::from(live))?;
    let longest_fill_turn = rig.longest;
    let first = rig.next + u64::from(live) / 4;
    rig.run_until(story, first)?;
    (rig.spent, rig.longest, rig.taken) = (Duration::ZERO, Duration::ZERO, 0);
    let begun = rig.next;
    rig.run_until(story, begun + sessions)?;
    let sessions = rig.next - begun;
    let nanoseconds = rig.spent.as_nanos() as f64 / sessions as f64;
    let ended = rig.gateway.workers[0].nat().stats();
    let now_live = ended.sessions as f64 / f64::from(live);
    ensure!((0.9..1.1).contains(&now_live), "{} sessions are live, not {live}", ended.sessions);
    // Where nothing is recorded, nobody takes what the NAT has to tell.
    let lost = if recorded == Recorded::Nothing { 0 } else { ended.records_lost };
    ensure!(lost == 0, "{lost} records were lost");
    rig.gateway.balance().map_err(anyhow::Error::msg).context("the gateway lost something")?;
    let micros = |time: Duration| time.as_nanos() as f64 / 1e3;
    Ok(Rate {
        story,
        live,
        sessions,
        records: rig.taken,
        nanoseconds,
        longest_fill_turn: micros(longest_fill_turn),
        longest_turn: micros(rig.longest),
    })
}
