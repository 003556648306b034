//! What does the stats socket know? Filled once by the program, read by every request.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Instant, SystemTime};

use conntrack::{PoolId, Standing, Timestamp};
use crossbeam::channel::Sender;
use crossbeam::utils::CachePadded;
use dataplane::DropReason;
use dataplane::counters::{AllCounters, Counter, WorkerCounters};
use dataplane::interface::{InterfaceId, Roles};
use dataplane::request::Request;
use dataplane::snapshot::{Published, Snapshot};

use tokio::sync::watch;

use crate::events::{Journal, SinkCounts, Who};
use crate::mirror::{Link, MirrorState};

use super::load::Loads;
use super::model::{
    DropRow, InterfaceRow, LastReload, LatencyRow, PoolRow, SettingRow, Status, TunnelRow,
    WorkerRow,
};
use super::orders::Orders;
use super::steering;

/// What is fixed about a worker, and the way to ask it.
pub(crate) struct WorkerFacts {
    /// The core that it is pinned to.
    pub(crate) core: Option<usize>,
    /// Queues that it serves, as `eth0:2`.
    pub(crate) queues: Vec<String>,
    /// Takes questions.
    pub(crate) requests: Sender<Request>,
    /// Wakes the worker, so that it looks at its questions.
    pub(crate) wake: Box<dyn Fn() + Send + Sync>,
}

/// What was found out about an interface at start.
#[derive(Clone, Debug, Default)]
pub(crate) struct InterfaceFacts {
    /// Driver, or kind of a virtual interface.
    pub(crate) driver: String,
    /// `zerocopy`, `copy` or `generic`.
    pub(crate) mode: String,
    /// How the program is attached, if it has one.
    pub(crate) attach: Option<dataplane::xsk::AttachMode>,
    /// Queues served.
    pub(crate) queues: u32,
    /// Longest IP packet that a frame holds, if packets come in frames.
    pub(crate) longest: Option<u32>,
    /// What the operator should know.
    pub(crate) warnings: Vec<String>,
    /// Receive settings that bring packets to the worker that needs them.
    pub(crate) receive_steering: Vec<super::model::ReceiveSteeringRow>,
}

/// Everything that the stats socket shows.
pub(crate) struct Shared {
    /// The workers' counters.
    pub(crate) counters: Arc<AllCounters>,
    /// By worker number.
    pub(crate) workers: Vec<WorkerFacts>,
    /// What workers know of the world.
    pub(crate) snapshot: Arc<Published<Snapshot>>,
    /// By interface id.
    pub(crate) interfaces: Vec<InterfaceFacts>,
    /// When natgate started.
    pub(crate) started: Instant,
    /// Where the configuration came from, in a few words.
    pub(crate) config: String,
    /// What the operator should know of the configuration.
    pub(crate) warnings: Mutex<Vec<String>>,
    /// What the operator should know of the host.
    pub(crate) host_warnings: Vec<String>,
    /// What became of the sessions of the natgate before, if there was one.
    pub(crate) restored: Option<String>,
    /// The way to whoever changes something.
    pub(crate) orders: Orders,
    /// What has happened.
    pub(crate) journal: Arc<Journal>,
    /// Who has, or had, which ports.
    pub(crate) who: Arc<Who>,
    /// What becomes of the entries of those who write the journal down, by name.
    pub(crate) sinks: Vec<(&'static str, Arc<SinkCounts>)>,
    /// What became of the configuration since the start.
    pub(crate) reloads: Mutex<Reloads>,
    /// What can be set at run time.
    pub(crate) settings: Mutex<Vec<SettingRow>>,
    /// Sessions that there may be, all workers together.
    pub(crate) sessions_maximum: u64,
    /// The time on the clock that the port-block directories use.
    pub(crate) now: Box<dyn Fn() -> Timestamp + Send + Sync>,
    /// Drops of the steering program: reason and packets.
    pub(crate) steering_drops: Box<dyn Fn() -> Vec<(String, u64)> + Send + Sync>,
    /// The workers' counters of the last seconds.
    pub(crate) loads: Loads,
    /// What is known of flows.
    pub(crate) explain: crate::explain::Facts,
    /// Set once traffic flows.
    pub(crate) ready: AtomicBool,
    /// Since when no session is opened, in seconds since 1970; 0: sessions are opened.
    pub(crate) drained_since: AtomicU64,
    /// When natgate stops at the latest, once it was told to.
    pub(crate) stops_at: OnceLock<Instant>,
    /// How often the mirror lost netlink messages and read the tables anew.
    pub(crate) mirror_resyncs: AtomicU64,
    /// How long the kernel's last change took from its message to the workers, in nanoseconds.
    pub(crate) mirror_lag_nanos: AtomicU64,
    /// What the kernel's tables say now.
    pub(crate) kernel: Mutex<KernelFacts>,
    /// True once the end has come: what was begun on the socket is told to its end, and nothing more is begun.
    pub(crate) ending: watch::Sender<bool>,
}

/// What the kernel says of a link.
#[derive(Clone, Copy, Debug, Default)]
struct LinkFacts {
    up: bool,
    mtu: u32,
    /// Where the packets of a tunnel arrive: the number of that interface.
    underlay: Option<InterfaceId>,
}

/// What became of the configuration since the start.
#[derive(Debug, Default)]
pub(crate) struct Reloads {
    /// The last time that it was read again.
    last: Option<LastReload>,
    /// How often that succeeded, and failed.
    counts: [u64; 2],
    /// What is configured and not in force yet, a line each.
    waiting: Vec<String>,
    start: Start,
}

/// A second since 1970: when it was made.
#[derive(Clone, Copy, Debug)]
struct Start(u64);

impl Default for Start {
    fn default() -> Self {
        Self(SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()))
    }
}

/// What the kernel's tables say, for people.
#[derive(Debug, Default)]
pub(crate) struct KernelFacts {
    /// Routing rules and tunnels that are not followed, a line each.
    refused: Vec<String>,
    /// Tunnels that are not served because their devices can't be closed, a line each.
    unclosed: Vec<String>,
    /// Interfaces that were removed and are not back.
    gone: Vec<Gone>,
    /// Interfaces that are there and have no link.
    down: Vec<Down>,
    /// In the order of the interfaces.
    links: Vec<LinkFacts>,
}

/// An interface that was removed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Gone {
    name: String,
    is_tunnel: bool,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = if self.is_tunnel {
            "nothing comes from its pods, and nothing gets to them, until it is made again"
        } else {
            "pods' traffic that needs it is dropped; natgate starts again by itself when an interface of this name is made"
        };
        write!(f, "{} is gone: {what}", self.name)
    }
}

/// An interface whose link is down.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Down(String);

impl fmt::Display for Down {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(name) = self;
        write!(
            f,
            "the link of {name} is down: nothing comes or goes by it, and the kernel takes no route by it; \
             `ip link set {name} up`, or look at its carrier (cable, switch port, the other end)"
        )
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// One number over all workers.
    pub(crate) fn sum(&self, of: impl Fn(&WorkerCounters) -> &Counter) -> u64 {
        self.counters.iter().map(|worker| of(worker).get()).sum()
    }

    /// Whether traffic flows.
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Since when no session is opened any more, in seconds since 1970.
    pub(crate) fn drained_since(&self) -> Option<u64> {
        Some(self.drained_since.load(Ordering::Acquire)).filter(|since| *since > 0)
    }

    /// In how many seconds natgate stops at the latest, if it was told to.
    pub(crate) fn stopping_in_s(&self) -> Option<u64> {
        let left = self.stops_at.get()?.saturating_duration_since(Instant::now());
        // The second that has begun counts.
        Some(left.as_millis().div_ceil(1000) as u64)
    }

    /// Notes whether sessions are opened.
    pub(crate) fn set_draining(&self, draining: bool) {
        let now = SystemTime::UNIX_EPOCH.elapsed().map_or(1, |since| since.as_secs().max(1));
        let since = if draining { self.drained_since().unwrap_or(now) } else { 0 };
        self.drained_since.store(since, Ordering::Release);
    }

    /// What the operator should know: of the start, and of now.
    pub(crate) fn all_warnings(&self) -> Vec<String> {
        let guard = lock(&self.kernel);
        let warnings = lock(&self.warnings);
        let kernel = guard.refused.iter().chain(&guard.unclosed);
        let gone = guard.gone.iter().map(Gone::to_string);
        let down = guard.down.iter().map(Down::to_string);
        gone.chain(down)
            .chain(warnings.iter().chain(&self.host_warnings).chain(kernel).cloned())
            .collect()
    }

    /// Takes over which tunnels can't be served because their devices can't be closed.
    pub(crate) fn set_unclosed(&self, lines: &[String]) {
        lock(&self.kernel).unclosed = lines.to_vec();
    }

    /// Takes over what the operator should know of a new configuration.
    pub(crate) fn set_warnings(&self, warnings: Vec<String>) {
        *lock(&self.warnings) = warnings;
    }

    /// Takes over what is configured and not in force yet.
    pub(crate) fn set_waiting(&self, waiting: Vec<String>) {
        lock(&self.reloads).waiting = waiting;
    }

    /// What can be set at run time, and what is.
    pub(crate) fn settings(&self) -> Vec<SettingRow> {
        lock(&self.settings).clone()
    }

    /// Takes over what can be set at run time, and what is.
    pub(crate) fn set_settings(&self, rows: Vec<SettingRow>) {
        *lock(&self.settings) = rows;
    }

    /// Notes what came of reading the configuration again.
    pub(crate) fn note_reload(&self, reload: LastReload) {
        let mut reloads = lock(&self.reloads);
        reloads.counts[usize::from(!reload.ok)] += 1;
        reloads.last = Some(reload);
    }

    /// When natgate started, in seconds since 1970.
    pub(crate) fn started_at(&self) -> u64 {
        lock(&self.reloads).start.0
    }

    /// How often the configuration was read again with success, and in vain.
    pub(crate) fn reload_counts(&self) -> [u64; 2] {
        lock(&self.reloads).counts
    }

    /// What was taken away or is to come, and why it has not come to that, a line each.
    fn transitions(&self, snapshot: &Snapshot) -> Vec<String> {
        let mut lines = lock(&self.reloads).waiting.clone();
        let policy = &snapshot.policy;
        for pool in &policy.pools {
            let leaving = || pool.with_standing(Standing::Leaving);
            let held: u32 = leaving().map(|it| it.directory.held() + it.low.held()).sum();
            if let Some(first) = leaving().next() {
                let more = match leaving().count() {
                    1 => String::new(),
                    count => format!(" and {} more", count - 1),
                };
                lines.push(format!(
                    "pool {}: {}{more} removed, and natgate's until sessions there end; {} held",
                    pool.name,
                    first.addr,
                    blocks_are(held)
                ));
            }
        }
        if let Some(former) = policy.forwards.former() {
            lines.extend(former.forwards().iter().map(|f| {
                format!(
                    "PortForward {} removed or changed: sessions that came by it live on",
                    f.name
                )
            }));
        }
        lines.extend(policy.rules.former_sources().iter().map(|from| {
            format!(
                "{from} is in the `from` of no rule any more; it stays blocked until the next start"
            )
        }));
        lines
    }

    /// Takes over what the kernel's tables say now, and logs what the operator should know of it.
    pub(crate) fn follow_kernel(&self, state: &MirrorState) {
        self.mirror_resyncs.store(state.resyncs, Ordering::Relaxed);
        let mut kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        for refused in state.refused.iter().filter(|it| !kernel.refused.contains(it)) {
            tracing::warn!("{refused}");
        }
        kernel.refused.clone_from(&state.refused);
        let gone = |link: &Link| Gone { name: link.name.clone(), is_tunnel: link.tunnel.is_some() };
        let gone: Vec<Gone> = state.links.iter().filter(|link| link.gone).map(gone).collect();
        for one in gone.iter().filter(|it| !kernel.gone.contains(it)) {
            tracing::error!("{one}");
        }
        for one in kernel.gone.iter().filter(|it| !gone.contains(it)) {
            tracing::info!("{} is back", one.name);
        }
        kernel.gone = gone;
        // A tunnel that can't be served is said to be refused.
        let refused = |link: &Link| link.is_vxlan() && link.tunnel.is_none();
        let down = state.links.iter().filter(|link| !link.up && !link.gone && !refused(link));
        let down: Vec<Down> = down.map(|link| Down(link.name.clone())).collect();
        for one in down.iter().filter(|it| !kernel.down.contains(it)) {
            tracing::warn!("{one}");
        }
        let there = |name: &str| state.links.iter().any(|link| link.name == name && link.up);
        for one in kernel.down.iter().filter(|it| !down.contains(it) && there(&it.0)) {
            tracing::info!("the link of {} is up again", one.0);
        }
        kernel.down = down;
        let links = state.links.iter();
        let facts = |link: &Link| LinkFacts {
            up: link.up,
            mtu: link.mtu,
            underlay: link.tunnel.map(|tunnel| tunnel.underlay),
        };
        let links: Vec<LinkFacts> = links.map(facts).collect();
        // At the start, the table tells.
        if !kernel.links.is_empty() {
            for (index, link) in links.iter().enumerate() {
                let before = kernel.links.get(index).map_or(0, |before| before.mtu);
                let name = state.links[index].name.as_str();
                if let Some(warning) =
                    self.too_long(index, name, link.mtu).filter(|_| link.mtu > before)
                {
                    tracing::warn!("{warning}");
                }
            }
        }
        kernel.links = links;
    }

    /// The names of the interfaces of a side that have no link; those that are gone have none, too.
    pub(crate) fn without_link(&self, side: impl Fn(Roles) -> bool) -> Vec<String> {
        let rows = self.snapshot.get();
        let kernel = lock(&self.kernel);
        let links = rows.interfaces.iter().zip(&kernel.links);
        let down = links.filter(|(interface, link)| !link.up && side(interface.roles));
        down.map(|(interface, _)| interface.name.clone()).collect()
    }

    /// What to say of an interface whose MTU is more than a frame holds.
    fn too_long(&self, index: usize, name: &str, mtu: u32) -> Option<String> {
        let longest = self.interfaces.get(index)?.longest.filter(|longest| *longest < mtu)?;
        let most = dataplane::xsk::LONGEST;
        let more = if longest < most && mtu > longest {
            format!(", or start natgate again for up to {most}")
        } else {
            String::new()
        };
        Some(format!(
            "{name}: its MTU is {mtu}, and packets above {longest} bytes are dropped before natgate can answer them; TCP is \
             told to send none; `ip link set {name} mtu {longest}` here and at the other end{more}"
        ))
    }

    pub(crate) fn status(&self) -> Status {
        let snapshot = self.snapshot.get();
        let received = |worker: &WorkerCounters| -> u64 {
            worker.interfaces.iter().map(|interface| interface.received_packets.get()).sum()
        };
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: std::process::id(),
            uptime_s: self.started.elapsed().as_secs(),
            ready: self.is_ready(),
            drained_since: self.drained_since(),
            stopping_in_s: self.stopping_in_s(),
            config: self.config.clone(),
            config_generation: snapshot.policy.generation,
            roads_generation: snapshot.roads.generation,
            workers: self.workers.len(),
            sessions: self.sum(|worker| &worker.sessions),
            sessions_maximum: self.sessions_maximum,
            sessions_created: self.sum(|worker| &worker.sessions_created),
            subscribers: self.sum(|worker| &worker.subscribers),
            received: self.counters.iter().map(|worker| received(worker)).sum(),
            forwarded: self.sum(|worker| &worker.forwarded),
            answered: self.sum(|worker| &worker.answered),
            dropped: self.counters.iter().map(|worker| dropped(worker)).sum(),
            dropped_by_steering: (self.steering_drops)().iter().map(|(_, packets)| packets).sum(),
            warnings: self.all_warnings(),
            gone: lock(&self.kernel).gone.iter().map(|it| it.name.clone()).collect(),
            transitions: self.transitions(&snapshot),
            restored: self.restored.clone(),
            settings: self.settings().into_iter().filter(|row| row.set).collect(),
            last_reload: lock(&self.reloads).last.clone(),
        }
    }

    /// Counts all blocks, which may take long: see [`PoolRows`](super::pools::PoolRows).
    pub(super) fn pools(&self) -> Vec<PoolRow> {
        let (snapshot, now) = (self.snapshot.get(), (self.now)());
        let row = |pool: &Arc<conntrack::Pool>| {
            let sum = |of: &dyn Fn(&conntrack::Directory) -> u32| {
                let serving = pool.with_standing(Standing::Serving);
                serving.map(|address| u64::from(of(&address.directory))).sum()
            };
            let serving = pool.with_standing(Standing::Serving).count();
            PoolRow {
                pool: pool.name.clone(),
                addresses: serving,
                leaving: pool.with_standing(Standing::Leaving).count(),
                leaving_addresses: super::pools::leaving(pool),
                blocks: sum(&conntrack::Directory::blocks),
                blocks_held: sum(&conntrack::Directory::held),
                blocks_resting: sum(&|directory| directory.resting(now)),
                block_size: pool.settings.block_size,
            }
        };
        let all = snapshot.policy.pools.iter().map(row);
        // Those of before have their names for ever.
        all.filter(|row| row.addresses + row.leaving > 0).collect()
    }

    /// All reasons, also those that never happened.
    pub(crate) fn drops(&self) -> Vec<DropRow> {
        let of_workers = DropReason::ALL.iter().map(|reason| DropRow {
            reason: reason.name().to_owned(),
            packets: self.sum(|worker| &worker.drops[reason.index()]),
            place: "worker".to_owned(),
            remedy: reason.remedy().to_owned(),
        });
        let of_steering = (self.steering_drops)().into_iter().map(|(reason, packets)| DropRow {
            remedy: steering::remedy(&reason).to_owned(),
            reason,
            packets,
            place: "steering".to_owned(),
        });
        of_workers.chain(of_steering).collect()
    }

    pub(crate) fn worker_rows(&self) -> Vec<WorkerRow> {
        let rows = self.workers.iter().zip(self.counters.iter()).enumerate();
        let times = (self.started, Instant::now());
        let row =
            |(number, (facts, counters)): (usize, (&WorkerFacts, &CachePadded<WorkerCounters>))| {
                worker_row(number, facts, counters, self.loads.of(number, counters, times))
            };
        rows.map(row).collect()
    }

    pub(crate) fn interface_rows(&self) -> Vec<InterfaceRow> {
        let snapshot = self.snapshot.get();
        let kernel = self.kernel.lock().unwrap_or_else(PoisonError::into_inner);
        let row = |(index, interface): (usize, &dataplane::interface::Interface)| {
            let facts = self.interfaces.get(index).cloned().unwrap_or_default();
            let sum = |of: fn(&dataplane::counters::InterfaceCounters) -> &Counter| {
                self.sum(|worker| of(&worker.interfaces[index]))
            };
            let roles =
                [("internal", interface.roles.internal), ("external", interface.roles.external)];
            let link = kernel.links.get(index).copied().unwrap_or_default();
            let too_long = self.too_long(index, &interface.name, link.mtu);
            let merging = facts.attach.map(|mode| dataplane::xsk::merging(&interface.name, mode));
            let underlay = link.underlay.and_then(|id| snapshot.interfaces.get(id.index()));
            let tunnel = interface.tunnel.map(|tunnel| TunnelRow {
                vni: tunnel.vni,
                port: tunnel.port,
                local: tunnel.local.to_string(),
                underlay: underlay.map(|it| it.name.clone()).unwrap_or_default(),
                overlay: interface.overlay,
            });
            let (driver, mode) = match tunnel {
                Some(_) => ("vxlan".to_owned(), "tunnel".to_owned()),
                None => (facts.driver, facts.mode),
            };
            InterfaceRow {
                interface: interface.name.clone(),
                roles: roles
                    .iter()
                    .filter(|(_, has)| *has)
                    .map(|(name, _)| (*name).into())
                    .collect(),
                driver,
                mode,
                queues: facts.queues,
                mac: interface.mac.to_string(),
                mtu: interface.mtu,
                up: link.up,
                tunnel,
                received_packets: sum(|interface| &interface.received_packets),
                received_bytes: sum(|interface| &interface.received_bytes),
                transmitted_packets: sum(|interface| &interface.transmitted_packets),
                transmitted_bytes: sum(|interface| &interface.transmitted_bytes),
                warnings: too_long
                    .into_iter()
                    .chain(facts.warnings)
                    .chain(merging.into_iter().flatten())
                    .collect(),
                receive_steering: facts.receive_steering,
            }
        };
        let shown = snapshot.interfaces.iter().take(dataplane::counters::MAX_INTERFACES);
        shown.enumerate().map(row).collect()
    }
}

/// The name of a pool, or its number if it is gone.
pub(crate) fn pool_name(snapshot: &Snapshot, id: PoolId) -> String {
    let pool = snapshot.policy.pools.get(id.index());
    pool.map_or_else(|| format!("#{}", id.0), |pool| pool.name.clone())
}

fn blocks_are(count: u32) -> String {
    if count == 1 { "1 block is".to_owned() } else { format!("{count} blocks are") }
}

fn dropped(worker: &WorkerCounters) -> u64 {
    worker.drops.iter().map(Counter::get).sum()
}

fn worker_row(
    number: usize,
    facts: &WorkerFacts,
    counters: &WorkerCounters,
    (load, latency): (f64, LatencyRow),
) -> WorkerRow {
    let (busy, idle) = (counters.busy_loops.get(), counters.idle_loops.get());
    WorkerRow {
        worker: number,
        core: facts.core,
        queues: facts.queues.clone(),
        received: counters.interfaces.iter().map(|i| i.received_packets.get()).sum(),
        forwarded: counters.forwarded.get(),
        answered: counters.answered.get(),
        handed_over: counters.handed_over.get(),
        taken_over: counters.taken_over.get(),
        dropped: dropped(counters),
        held: counters.held.get(),
        sessions: counters.sessions.get(),
        subscribers: counters.subscribers.get(),
        slow_path: counters.slow_path.get(),
        load,
        latency,
        busy_ratio: busy as f64 / (busy + idle).max(1) as f64,
        sleeps: counters.sleeps.get(),
        wakeups: counters.wakeups.get(),
        frames_free: counters.frames_free.get(),
        frames_in_kernel: counters.frames_in_kernel.get(),
        transmit_ring_full: counters.transmit_ring_full.get(),
        receive_ring_full: counters.receive_ring_full.get(),
        fill_ring_empty: counters.fill_ring_empty.get(),
        records_lost: counters.records_lost.get(),
    }
}
