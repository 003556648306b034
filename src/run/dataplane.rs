//! The workers, their sockets and the steering program, from start to stop.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::Context;
use conntrack::{BlockChange, Nat, Restored, Secret, Timestamp};
use core_affinity::CoreId;
use crossbeam::channel::{Receiver, Sender, bounded};
use crossbeam::utils::CachePadded;
use dataplane::Worker;
use dataplane::counters::WorkerCounters;
use dataplane::hand_off::{HandOff, RING_SIZE};
use dataplane::home::Homes;
use dataplane::interface::InterfaceId;
use dataplane::request::{Notice, Request};
use dataplane::snapshot::{Published, Snapshot};
use dataplane::waker::Waker;
use dataplane::worker::{self, Clock};
use dataplane::xsk::{
    self, Audit, Inspection, InterfaceEntry, InterfaceLock, InterfaceReport, OpenConfig,
    OpenInterface, Opened, Steering, XskError, XskIo,
};
use tracing::{error, info};

use crate::api::{InterfaceFacts, Loads, Orders, Shared, WorkerFacts};
use crate::cli::Seccomp;
use crate::config::{Config, Gateway, Mode, Succession};
use crate::events::{Rings, held_blocks};
use crate::explain::Facts;
use crate::mirror::MirrorState;
use crate::receive::{Addresses, Receive, Side};

use super::confine;
use super::journal::Journal;
use super::left::WorkerDoor;
use super::links::{Faces, StartAgain, queues_added};
use super::recording::Recording;
use super::state::{self, Heirs, State};
use super::tunnel_hooks::{self, TunnelHooks};
use super::world::{World, host_warnings};

/// Requests that may wait for a worker.
const REQUESTS: usize = 64;
/// Frames for each worker that may wait for next hops and for first fragments, and in bursts.
const WAITING_FRAMES: u32 = 1536;

/// What moves packets.
pub(crate) struct Dataplane {
    steering: Arc<std::sync::Mutex<Steering>>,
    interfaces: Vec<(u32, String)>,
    reports: Vec<InterfaceReport>,
    wakers: Vec<Waker>,
    requests: Vec<Sender<Request>>,
    receivers: Vec<Receiver<Request>>,
    shared: worker::Shared,
    journal: Option<Journal>,
    state_dir: PathBuf,
    /// Taken when the workers start.
    io: Vec<XskIo>,
    threads: Vec<JoinHandle<(XskIo, Nat)>>,
    /// What the secret is made of.
    seeds: [u64; 4],
    /// Through which sessions come from the natgate before, and go to the next one.
    state_file: Option<PathBuf>,
    /// What the natgate before has left, until it is known where pods live.
    left: Option<State>,
    /// What workers get of it, until they have it.
    heirs: Option<Heirs>,
    /// What became of the sessions of the natgate before, if there was one.
    restored: Option<String>,
    /// At the last look, every interface was there.
    tunnels: TunnelHooks,
    faces: Faces,
    /// Serve at most so many queues of an interface.
    queues: Option<u32>,
    _locks: Vec<InterfaceLock>,
}

impl Dataplane {
    /// Opens sockets and loads the program; nothing is attached yet, and the host is unchanged.
    pub(crate) fn prepare(
        config: &Config,
        world: &mut World,
        state: &MirrorState,
        notices: Sender<Notice>,
    ) -> anyhow::Result<Self> {
        let interfaces: Vec<(u32, String)> = (world.links.iter())
            .filter(|link| !link.is_vxlan())
            .map(|link| (link.ifindex, link.name.clone()))
            .collect();
        let locks = interfaces
            .iter()
            .map(|(ifindex, name)| InterfaceLock::acquire(*ifindex, name))
            .collect::<Result<_, _>>()?;
        refuse_foreign_programs(&interfaces)?;
        let mut steering = Steering::load()?;
        let open = open_config(&config.gateway, world)?;
        let Opened { workers, wakers, reports, .. } = {
            let opened = xsk::open(&open)?;
            opened.register(&mut steering)?;
            opened
        };
        world.longest = reports.iter().map(|it| it.longest).min().unwrap_or(world.longest);
        steering.apply(&world.steering_tables(state))?;
        let (requests, receivers) = wakers.iter().map(|_| bounded(REQUESTS)).unzip();
        let count = wakers.len();
        // Not before the locks are had: there is no natgate any more that could still write it.
        let state_file = config.gateway.state_file.clone();
        let (left, restored) = state_file.as_deref().map_or((None, None), state::read);
        world.follow_left(left.as_ref(), state, &mut steering);
        let seeds = left.as_ref().map_or_else(Secret::random_seeds, |left| left.seeds);
        let clock =
            left.as_ref().map_or_else(Clock::start, |left| Clock::start_at(left.clock_now()));
        let shared = worker::Shared {
            snapshot: Arc::new(Published::new(world.snapshot(state))),
            counters: Arc::new(
                (0..count).map(|_| CachePadded::new(WorkerCounters::default())).collect(),
            ),
            secret: Secret::from_seeds(seeds),
            homes: Homes::by_hash(),
            notices,
            clock,
            sessions_per_worker: (config.gateway.sessions as usize).div_ceil(count),
        };
        Ok(Self {
            steering: Arc::new(std::sync::Mutex::new(steering)),
            interfaces,
            reports,
            wakers,
            requests,
            receivers,
            shared,
            journal: None,
            state_dir: config.gateway.state_dir.clone(),
            io: workers,
            threads: Vec::new(),
            seeds,
            state_file,
            left,
            heirs: None,
            restored,
            tunnels: TunnelHooks::default(),
            faces: Faces::new(state),
            queues: open.interfaces.first().and_then(|it| it.queues),
            _locks: locks,
        })
    }

    /// Notes which port blocks are busy, if that is to survive this process.
    fn keep_journal(&mut self) {
        let policy = &self.shared.snapshot.get().policy;
        if self.journal.is_none() {
            self.journal = Journal::begin(&self.state_dir, policy);
        }
        if let Some(journal) = &mut self.journal {
            journal.keep(policy, self.shared.clock.now());
        }
    }

    /// Has the interfaces bring packets to the worker that needs them, as far as they can and `config` says so; then it is
    /// known who inherits what. Before the workers start.
    pub(crate) async fn steer(
        &mut self,
        config: &Config,
        world: &World,
        state: &MirrorState,
    ) -> Receive {
        let workers = self.wakers.len() as u16;
        let has_tunnels =
            |id| state.links.iter().any(|link| link.tunnel.is_some_and(|it| it.underlay == id));
        let side = |report: &InterfaceReport| Side {
            interface: report.name.clone(),
            driver: report.driver.clone(),
            internal: world.roles[report.id.index()].internal,
            external: world.roles[report.id.index()].external,
            tunnels: has_tunnels(report.id),
            queues: report.queues,
        };
        let sides: Vec<Side> = self.reports.iter().map(side).collect();
        let policy = &self.shared.snapshot.get().policy;
        let addresses = Addresses::of(policy.pools.iter().map(|pool| &**pool), workers);
        let mode = config.gateway.receive_steering;
        let receive = Receive::prepare(mode, &sides, workers, &addresses).await;
        self.shared.homes = receive.homes();
        self.inherit();
        receive
    }

    /// Tunnels that are not served because their devices can't be closed, a line each.
    pub(crate) fn unclosed(&self) -> &[String] {
        self.tunnels.failed()
    }

    /// Divides what the natgate before has left among the workers where pods live from now on.
    fn inherit(&mut self) {
        let (snapshot, now) = (self.shared.snapshot.get(), self.shared.clock.now());
        let workers = self.wakers.len() as u16;
        let (homes, secret) = (&self.shared.homes, &self.shared.secret);
        let left = self.left.take();
        self.heirs = left.map(|left| Heirs::of(left, &snapshot, homes, secret, workers, now));
        // Not before: what is held by now does not rest.
        self.journal = Journal::open(&self.state_dir, &snapshot.policy, now);
    }

    /// Starts a thread for each worker, pinned to a core. What they record comes out of the rings; and the blocks that they
    /// have from the natgate before.
    pub(crate) fn start_workers(
        &mut self,
        seccomp: Seccomp,
    ) -> anyhow::Result<(Rings, Vec<BlockChange>)> {
        let now = self.shared.clock.now();
        let held = held_blocks(&self.shared.snapshot.get().policy);
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let hand_offs = HandOff::between(&self.wakers);
        let (rings, records) = Rings::new(self.wakers.len());
        let ends = self.io.drain(..).zip(hand_offs).zip(self.receivers.drain(..)).zip(records);
        let (mut shares, lost, sessions) = match self.heirs.take() {
            Some(Heirs { shares, lost, sessions }) => (shares.into_iter(), Some(lost), sessions),
            None => (Vec::new().into_iter(), None, 0),
        };
        let (tell, told) = bounded(self.wakers.len());
        for (id, (((io, hand_off), requests), records)) in ends.enumerate() {
            let shared = self.shared.clone();
            let (share, tell) = (shares.next(), tell.clone());
            let core = core_of(id, &cores);
            let body = move || {
                if let Some(core) = core
                    && !core_affinity::set_for_current(core)
                {
                    error!(worker = id, core = core.id, "cannot pin the worker to its core");
                }
                confine::worker(seccomp);
                let mut worker = Worker::new(id as u16, io, hand_off, requests, shared, now);
                if let Some(share) = share {
                    // Who waits for it is there until all have told.
                    let _ = tell.send(worker.restore(&share, now));
                }
                drop(tell);
                worker.record_to(records);
                worker.run()
            };
            let thread = std::thread::Builder::new().name(format!("natgate-w{id}"));
            self.threads.push(thread.spawn(body).context("cannot start a worker thread")?);
        }
        drop(tell);
        if let Some(lost) = lost {
            // Packets come only when every worker has what is its own.
            let restored = told.iter().fold(Restored::default(), Restored::and);
            let line = state::line(&lost, sessions, &restored);
            info!("{line}");
            self.restored = Some(line);
        }
        Ok((rings, held))
    }

    /// What workers know of the world, as it is published to them.
    pub(crate) fn snapshot(&self) -> Arc<Published<Snapshot>> {
        Arc::clone(&self.shared.snapshot)
    }

    /// The clock of workers and directories.
    pub(crate) fn clock(&self) -> Clock {
        self.shared.clock
    }

    /// Leaves what the workers knew, which have stopped, to the next natgate.
    fn leave_state(&self, nats: &[Nat]) {
        let Some(path) = &self.state_file else { return };
        let policy = &self.shared.snapshot.get().policy;
        let now = self.shared.clock.now();
        if let Some(left) = state::collect(nats, policy, self.seeds, now) {
            state::leave(&left, path);
        }
    }

    /// What the stats socket shows of the data plane.
    pub(crate) fn shown(
        &self,
        config: &Config,
        source: String,
        orders: Orders,
        receive: &Receive,
        recording: &Recording,
    ) -> Shared {
        let cores = core_affinity::get_core_ids().unwrap_or_default();
        let count = self.wakers.len();
        let workers = self.wakers.iter().zip(&self.requests).enumerate();
        let facts = workers.map(|(id, (waker, requests))| {
            let waker = waker.clone();
            WorkerFacts {
                core: core_of(id, &cores).map(|core| core.id),
                queues: self.reports.iter().flat_map(|r| queues_of(r, id, count)).collect(),
                requests: requests.clone(),
                wake: Box::new(move || waker.wake()),
            }
        });
        let mut interfaces = Vec::new();
        for report in &self.reports {
            interfaces.resize_with(report.id.index() + 1, InterfaceFacts::default);
            interfaces[report.id.index()] = receive.facts_of(report);
        }
        let (steering, asked) = (Arc::clone(&self.steering), Arc::clone(&self.steering));
        let explain =
            Facts::new(Box::new(move |roles, src, dst| lock(&asked).takes(roles, src, dst)));
        explain.set_profiles(config.profiles());
        let clock = self.shared.clock;
        Shared {
            counters: Arc::clone(&self.shared.counters),
            workers: facts.collect(),
            snapshot: Arc::clone(&self.shared.snapshot),
            interfaces,
            started: Instant::now(),
            config: source,
            warnings: std::sync::Mutex::new(
                config.warnings.iter().map(ToString::to_string).collect(),
            ),
            host_warnings: host_warnings(),
            restored: self.restored.clone(),
            orders,
            journal: Arc::clone(&recording.journal),
            who: Arc::clone(&recording.who),
            sinks: recording.counts(),
            reloads: std::sync::Mutex::default(),
            settings: std::sync::Mutex::default(),
            sessions_maximum: config.gateway.sessions.into(),
            now: Box::new(move || clock.now()),
            steering_drops: Box::new(move || steering_drops(&steering)),
            loads: Loads::default(),
            explain,
            ready: AtomicBool::new(false),
            drained_since: AtomicU64::new(0),
            stops_at: std::sync::OnceLock::new(),
            mirror_resyncs: AtomicU64::new(0),
            mirror_lag_nanos: AtomicU64::new(0),
            kernel: std::sync::Mutex::default(),
            ending: tokio::sync::watch::Sender::new(false),
        }
    }

    /// Attaches the program to every interface, or to none; then to the tunnels' devices. The kernel refuses it beneath
    /// a device that has one. What comes in tunnels is the workers' before, so that it takes nothing out meanwhile.
    pub(crate) fn attach(&mut self, state: &MirrorState) -> Result<(), XskError> {
        let mut steering = lock(&self.steering);
        steering.set_tunnels(&tunnel_hooks::entries(state))?;
        tunnel_hooks::lift_left(&state.above)?;
        let mut added: Vec<&(u32, String)> = Vec::new();
        for (interface, report) in self.interfaces.iter().zip(&self.reports) {
            match steering.attach(interface.0, &interface.1, report.attach) {
                Ok(true) => info!(interface = interface.1, "took over from the natgate before"),
                Ok(false) => added.push(interface),
                Err(error) => {
                    for (ifindex, name) in added {
                        if let Err(error) = xsk::detach(*ifindex, name) {
                            error!("{error}");
                        }
                    }
                    return Err(error);
                }
            }
        }
        self.tunnels.follow(&mut steering, state);
        self.tunnels.open(&mut steering)
    }

    /// Removes the program from every interface that is there: the kernel gets everything. Fails with the
    /// first failure, after all were tried.
    pub(crate) fn detach(&self) -> Result<(), XskError> {
        let detach = |(ifindex, name): &(u32, String)| match xsk::detach(*ifindex, name) {
            Err(XskError::UnknownInterface { .. }) | Ok(_) => Ok(()),
            Err(error) => Err(error),
        };
        // The kernel changes nothing beneath a device that has a program.
        let all = self.tunnels.devices().chain(&self.interfaces);
        let results: Vec<_> = all.map(detach).collect();
        results.into_iter().collect()
    }

    /// Sees that the program is on every interface. One that somebody removed is attached again. False while
    /// an interface is gone; when one of its name is back, it gets the program, which drops all that is
    /// natgate's, and [`StartAgain`] says that natgate has to start again: its sockets were of the old one.
    pub(crate) fn watch(&mut self, world: &World) -> anyhow::Result<bool> {
        self.keep_journal();
        let mut faces = std::mem::take(&mut self.faces);
        faces.show(|| self.announce());
        self.faces = faces;
        let mut all_there = true;
        for index in 0..self.interfaces.len() {
            let (ifindex, name) = self.interfaces[index].clone();
            match xsk::glance(ifindex, &name) {
                Ok(Inspection::Ours { .. }) => {
                    if let Some(added) = queues_added(&self.reports[index], self.queues) {
                        return Err(added.into());
                    }
                }
                Ok(Inspection::None) => {
                    error!(
                        interface = name,
                        "the steering program was removed; attaching it again"
                    );
                    // It may be beneath them; they get it back below.
                    self.tunnels.lift()?;
                    let attach = self.reports[index].attach;
                    match lock(&self.steering).attach(ifindex, &name, attach) {
                        // It went together with its interface.
                        Err(XskError::UnknownInterface { .. }) => all_there = false,
                        attached => drop(attached?),
                    }
                }
                Ok(Inspection::Foreign { id, name: program }) => {
                    return Err(XskError::HookBusy { interface: name, name: program, id }.into());
                }
                Err(XskError::UnknownInterface { .. }) => {
                    self.shut_the_new(index, world)?;
                    all_there = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.tunnels.watch(&mut lock(&self.steering));
        Ok(all_there)
    }

    /// Whether a link of the gateway's has changed since the last call.
    pub(crate) fn have_links_changed(&mut self) -> bool {
        self.faces.take_changed()
    }

    /// If there is a new interface in place of one that is gone: closes it, and says so by an error.
    fn shut_the_new(&self, index: usize, world: &World) -> anyhow::Result<()> {
        let name = &self.interfaces[index].1;
        let Ok(ifindex) = nix::net::if_::if_nametoindex(name.as_str()) else { return Ok(()) };
        let mut steering = lock(&self.steering);
        let roles = world.roles[self.reports[index].id.index()];
        let entry = InterfaceEntry::without_sockets(ifindex, roles);
        steering.set_interface(entry)?;
        steering.attach(ifindex, name, self.reports[index].attach)?;
        Err(StartAgain::Replaced(name.clone()).into())
    }

    /// Has the pool addresses announced. False if the worker is asked too much at this moment.
    pub(crate) fn announce(&self) -> bool {
        let (Some(requests), Some(waker)) = (self.requests.first(), self.wakers.first()) else {
            return true;
        };
        let asked = requests.try_send(Request::Announce).is_ok();
        waker.wake();
        asked
    }

    /// Follows what the kernel knows now: first the steering program, so that no packet is left to the
    /// kernel a moment longer than its routes allow, then the workers; what arrives in new tunnels is theirs last.
    pub(crate) fn follow(&mut self, world: &World, state: &MirrorState) -> Result<(), XskError> {
        self.faces.follow(state);
        let mut steering = lock(&self.steering);
        self.tunnels.follow(&mut steering, state);
        let applied = steering.apply(&world.steering_tables(state));
        self.shared.snapshot.publish(world.snapshot(state));
        for waker in &self.wakers {
            waker.wake();
        }
        applied.and_then(|()| self.tunnels.open(&mut steering))
    }

    /// Puts the policy of `new` in the place of that of `old`: first the workers, so that they know what to do with
    /// what the steering program gives them from then on. If that can't be, `old` stays.
    pub(crate) fn change(
        &mut self,
        old: &World,
        new: &World,
        state: &MirrorState,
    ) -> Result<(), XskError> {
        self.publish(new, state);
        let applied = lock(&self.steering).apply(&new.steering_tables(state));
        if applied.is_err() {
            self.publish(old, state);
            if let Err(error) = lock(&self.steering).apply(&old.steering_tables(state)) {
                error!("the steering program does not take its old tables back: {error}");
            }
        }
        applied
    }

    fn publish(&self, world: &World, state: &MirrorState) {
        Succession::settle(world.policy());
        self.shared.snapshot.publish(world.snapshot(state));
        for waker in &self.wakers {
            waker.wake();
        }
    }

    /// The ways to the workers.
    pub(crate) fn workers(&self) -> Vec<WorkerDoor> {
        let doors = self.requests.iter().zip(&self.wakers);
        doors
            .map(|(requests, waker)| WorkerDoor {
                requests: requests.clone(),
                waker: waker.clone(),
            })
            .collect()
    }

    /// The time on the clock of the directories.
    pub(crate) fn now(&self) -> Timestamp {
        self.shared.clock.now()
    }

    /// Lets every worker finish its burst and ends it.
    pub(crate) fn stop_workers(&mut self) {
        self.keep_journal();
        for (requests, waker) in self.requests.iter().zip(&self.wakers) {
            // A worker that is gone needs no stop.
            let _ = requests.send(Request::Stop);
            waker.wake();
        }
        let ended = self.threads.drain(..).filter_map(|thread| thread.join().ok());
        let (ended, nats): (Vec<XskIo>, Vec<Nat>) = ended.unzip();
        self.leave_state(&nats);
        let audit = Audit::of(&ended);
        if audit.is_conserved() {
            info!(frames = audit.total, "workers stopped, every frame accounted for");
        } else {
            error!(?audit, "workers stopped, and frames are missing; please report this");
        }
    }
}

fn lock(steering: &std::sync::Mutex<Steering>) -> std::sync::MutexGuard<'_, Steering> {
    steering.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

fn steering_drops(steering: &std::sync::Mutex<Steering>) -> Vec<(String, u64)> {
    let drops = lock(steering).drops().unwrap_or_default();
    drops.into_iter().map(|(reason, packets)| (reason.to_owned(), packets)).collect()
}

fn core_of(worker: usize, cores: &[CoreId]) -> Option<CoreId> {
    cores.get(worker % cores.len().max(1)).copied()
}

fn queues_of(report: &InterfaceReport, worker: usize, workers: usize) -> Vec<String> {
    let queues = (0..report.queues).filter(|queue| *queue as usize % workers == worker);
    queues.map(|queue| format!("{}:{queue}", report.name)).collect()
}

/// Says so before anything is opened.
fn refuse_foreign_programs(interfaces: &[(u32, String)]) -> Result<(), XskError> {
    interfaces.iter().try_for_each(|(ifindex, interface)| match xsk::glance(*ifindex, interface)? {
        xsk::Inspection::Foreign { id, name } => {
            Err(XskError::HookBusy { interface: interface.clone(), name, id })
        }
        xsk::Inspection::None | xsk::Inspection::Ours { .. } => Ok(()),
    })
}

fn open_config(gateway: &Gateway, world: &World) -> anyhow::Result<OpenConfig> {
    let ids = world.ids();
    let ids = ids.iter().enumerate().filter(|(_, (id, _))| !world.is_named_tunnel(*id));
    let interface = |(index, (id, ifindex)): (usize, &(InterfaceId, u32))| OpenInterface {
        id: *id,
        name: world.links[index].name.clone(),
        ifindex: *ifindex,
        roles: world.roles[index],
        queues: gateway.queues.map(u32::from),
        mtu: world.links[index].mtu,
        underlay: world.is_underlay(*id),
        closed: world.underlays().contains(id),
    };
    let interfaces: Vec<OpenInterface> = ids.map(interface).collect();
    let cores = std::thread::available_parallelism().context("cannot count the cores")?.get();
    let workers = match gateway.workers {
        Some(workers) => usize::from(workers),
        None => cores.min(xsk::most_queues(&interfaces)?),
    };
    let mut open = OpenConfig::new(interfaces, workers);
    open.mode = match gateway.mode {
        Mode::Auto => xsk::Mode::Auto,
        Mode::ZeroCopy => xsk::Mode::ZeroCopy,
        Mode::Copy => xsk::Mode::Copy,
        Mode::Generic => xsk::Mode::Generic,
    };
    open.busy_poll = gateway.busy_poll;
    let others = workers.saturating_sub(1) as u32;
    open.spare_frames = WAITING_FRAMES + others * RING_SIZE as u32;
    Ok(open)
}
