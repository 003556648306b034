//! How does a gateway live? Start in order, follow the world, stop in order.

mod alive;
pub(crate) mod confine;
mod dataplane;
mod ending;
mod journal;
mod left;
mod links;
mod log;
mod pods;
mod recording;
mod reload;
mod state;
mod supervisor;
mod table;
mod tune;
mod tunnel_hooks;
mod watch;
mod world;

use std::os::unix::process::CommandExt;
use std::pin::Pin;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::dataplane::request::Notice;
use anyhow::{Context, bail};
use crossbeam::channel::Receiver;
use futures_util::FutureExt;
use nix::sys::stat::{Mode, umask};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::{info, warn};

use crate::api::{Server, Shared, orders, refusal};
use crate::cli::GatewayArgs;
use crate::config::{self, Config, OnExit, Tuning, Written};
use crate::events::{Before, Crash};
use crate::mirror::{Mirror, MirrorState, Resolver};
use crate::receive::Receive;

use self::alive::Alive;
use self::dataplane::Dataplane;
use self::ending::Ending;
use self::links::StartAgain;
use self::log::Log;
use self::recording::Recording;
use self::reload::{Reload, Wish, Wishes};
use self::supervisor::Supervisor;
use self::world::{Overlaps, World};

/// Notices of workers that may wait for the control thread.
const NOTICES: usize = 1024;

/// How often the hooks of the interfaces are looked at.
const WATCH: Duration = Duration::from_millis(250);
/// The same while an interface is gone: until natgate's program is on the one that comes, that is the kernel's.
const WATCH_GONE: Duration = Duration::from_millis(5);

/// How often workers are asked whether somebody still has what was taken away.
const SURVEY: Duration = Duration::from_secs(1);

/// So long at the end clients may read what was begun for them.
const FAREWELL: Duration = Duration::from_millis(500);

/// Runs a gateway until SIGTERM or SIGINT.
pub(crate) fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    keep_from_others();
    confine::process(args.seccomp)?;
    let written = Written::read(args);
    let config = written.config(&config::host_addresses()?, &Tuning::default())?;
    let log = Log::start(&config.gateway.log, config.gateway.log_format);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ended = runtime.block_on(live(args, (written, config), &log));
    drop(runtime);
    match ended {
        Err(error) if error.is::<StartAgain>() => {
            warn!("{error:#}; doing so");
            Err(start_again().context(error))
        }
        ended => ended,
    }
}

/// Who had which address is nobody else's to read, whatever starts natgate.
fn keep_from_others() {
    let strict = Mode::from_bits_truncate(0o027);
    let before = umask(strict);
    umask(before | strict);
}

/// Becomes a new natgate with the same arguments. Returns only if that fails: why.
fn start_again() -> anyhow::Error {
    let itself = std::env::current_exe().ok().filter(|path| path.exists());
    let mut arguments = std::env::args_os();
    let mut command = Command::new(itself.unwrap_or_else(|| "/proc/self/exe".into()));
    if let Some(name) = arguments.next() {
        command.arg0(name);
    }
    anyhow::Error::new(command.args(arguments).exec()).context("cannot start again")
}

async fn live(
    args: &GatewayArgs,
    (written, config): (Written, Config),
    log: &Log,
) -> anyhow::Result<()> {
    // Before anything is started, so that a signal during the start is not lost.
    let signals = [
        signal(SignalKind::terminate())?,
        signal(SignalKind::interrupt())?,
        signal(SignalKind::hangup())?,
    ];
    let mut world = World::discover(&config).await?;
    let mirror = Mirror::start(&world.ids(), &world.underlays()).await?;
    let (notices, incoming) = crossbeam::channel::bounded(NOTICES);
    let state = mirror.state();
    world.refuse_taken_addresses(&state)?;
    let mut dataplane = Dataplane::prepare(&config, &mut world, &state, notices)?;
    let mut receive = dataplane.steer(&config, &world, &state).await;
    let started = Started { world, mirror, dataplane, incoming };
    let ended = Box::pin(serve(args, (written, config), log, started, &receive, signals)).await;
    receive.undo().await;
    ended
}

/// What there is before anything is attached.
struct Started {
    world: World,
    mirror: Mirror,
    dataplane: Dataplane,
    incoming: Receiver<Notice>,
}

async fn serve(
    args: &GatewayArgs,
    (written, config): (Written, Config),
    log: &Log,
    started: Started,
    receive: &Receive,
    [mut terminate, mut interrupt, hang_up]: [Signal; 3],
) -> anyhow::Result<()> {
    let gateway = config.gateway.clone();
    let Started { world, mirror, mut dataplane, incoming } = started;
    let state = mirror.state();
    let server = Server::bind(&gateway.socket, gateway.metrics).await?;
    let metrics = server.metrics_address();
    let mut overlaps = Overlaps::default();
    overlaps.follow(&world, &state);
    let (rings, restored) = dataplane.start_workers(args.seccomp)?;
    let (mut alive, crash) = Alive::begin(&gateway.state_dir);
    let lost = crash.as_ref().map(Crash::line);
    let before = Before { restored, crash };
    let mut recording = Recording::start(&gateway, &dataplane, rings, before)?;
    let source = args.config.clone().unwrap_or_else(|| "flags".to_owned());
    let (to_us, orders) = orders();
    let mut shared = dataplane.shown(&config, source, to_us, receive, &recording);
    if let Some(lost) = lost {
        warn!("{lost}");
        shared.restored.get_or_insert(format!("nothing: {lost}"));
    }
    let shared = Arc::new(shared);
    shared.follow_kernel(&state);
    let mut serving = std::pin::pin!(server.serve(Arc::clone(&shared)).fuse());
    follow_notices(incoming, mirror.resolver())?;
    let told =
        [&mut terminate, &mut interrupt].into_iter().any(|s| s.recv().now_or_never().is_some());
    let attached = if told {
        Ok(())
    } else {
        let used = gateway.state_file.as_deref().map_or(Ok(()), state::used);
        used.and_then(|()| dataplane.attach(&state).map_err(Into::into))
    };
    if told || attached.is_err() {
        if told {
            info!("told to stop before anything was attached");
        }
        // What was taken over from the natgate before is left to the next one.
        dataplane.stop_workers();
        alive.end();
        recording.stop();
        return attached;
    }
    // The worker has just started, and was asked nothing yet.
    dataplane.announce();
    shared.ready.store(true, Ordering::Release);
    table::print(&config, &shared, metrics);
    info!(pid = std::process::id(), "ready");
    let wishes = Wishes::new(hang_up, orders, args.config.as_deref());
    let running = Running { world, dataplane, shared: Arc::clone(&shared), log, overlaps, alive };
    let ended = [terminate, interrupt];
    let reload = Reload::new(args.clone(), written, config);
    reload.show_settings(&running.shared);
    let ended = follow(running, mirror, reload, wishes, ended, serving.as_mut()).await;
    recording.stop();
    // Who follows events or captures hears the end; who does not read is not waited for.
    shared.ending.send_replace(true);
    let _ = tokio::time::timeout(FAREWELL, serving).await;
    ended
}

/// Follows the world until it is told to end, or can't go on, and ends in order.
async fn follow(
    mut running: Running<'_>,
    mirror: Mirror,
    mut reload: Reload,
    wishes: Wishes,
    signals: [Signal; 2],
    serving: Pin<&mut impl Future<Output = ()>>,
) -> anyhow::Result<()> {
    let mut supervisor = Supervisor::default();
    supervisor.ready(&running.shared);
    let about = (mirror, wishes, signals, serving);
    let outcome = until_the_end(&mut running, &mut reload, &mut supervisor, about).await;
    running.shared.ready.store(false, Ordering::Release);
    supervisor.stopping();
    // Whatever has failed, nothing gets by untranslated.
    let on_exit = if outcome.is_ok() { reload.config().gateway.on_exit } else { OnExit::Block };
    let stopped = stop(&mut running.dataplane, on_exit);
    running.alive.end();
    outcome.and(stopped)
}

/// Everybody who may have something to say.
type About<'a, F> = (Mirror, Wishes, [Signal; 2], Pin<&'a mut F>);

async fn until_the_end<F: Future<Output = ()>>(
    running: &mut Running<'_>,
    reload: &mut Reload,
    supervisor: &mut Supervisor,
    (mut mirror, mut wishes, [mut terminate, mut interrupt], mut serving): About<'_, F>,
) -> anyhow::Result<()> {
    let mut signs = Supervisor::interval();
    let mut watch = tokio::time::interval(WATCH);
    let mut surveys = tokio::time::interval(SURVEY);
    let mut ending = Ending::default();
    loop {
        tokio::select! {
            _ = watch.tick() => if !running.watch()? {
                watch.reset_after(WATCH_GONE);
            },
            changed = mirror.changed() => {
                let state = changed.context("the kernel mirror has ended; see the log above")?;
                running.follow_kernel(&state);
                if running.dataplane.have_links_changed() {
                    watch.reset_immediately();
                }
            }
            _ = signs.tick() => supervisor.sign(&running.shared),
            () = &mut serving => bail!("the stats socket has ended; see the log above"),
            wish = wishes.next() => match wish {
                Wish::Read(trigger) => reload.want(trigger, running),
                Wish::Drain(on, reply) => {
                    let refused = if on { None } else { refusal(&running.shared) };
                    let done = match refused {
                        Some(error) => Err(error),
                        None => reload.drain(on, running, &mirror.state()),
                    };
                    // Who has gone meanwhile finds it in the status.
                    let _ = reply.send(done.map_err(|error| vec![error]));
                }
            },
            done = reload.done() => reload.take(done, running, &mirror.state()),
            _ = surveys.tick() => drop(reload.survey(running)),
            () = async { tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} } } => {
                if ending.told(reload, running, &mirror.state(), supervisor) {
                    return Ok(());
                }
            }
            () = ending.over(&running.shared) => return Ok(()),
        }
    }
}

/// Everything that is changed while a gateway runs.
struct Running<'a> {
    world: World,
    dataplane: Dataplane,
    shared: Arc<Shared>,
    log: &'a Log,
    overlaps: Overlaps,
    alive: Alive,
}

impl Running<'_> {
    /// False while an interface is gone.
    fn watch(&mut self) -> anyhow::Result<bool> {
        let sessions = self.shared.sum(|worker| &worker.sessions);
        self.alive.sign(sessions, self.shared.journal.newest());
        let all_there = self.dataplane.watch(&self.world)?;
        self.shared.ready.store(all_there, Ordering::Release);
        Ok(all_there)
    }

    fn follow_kernel(&mut self, state: &MirrorState) {
        self.shared.follow_kernel(state);
        self.overlaps.follow(&self.world, state);
        if let Err(error) = self.dataplane.follow(&self.world, state) {
            warn!("the steering program keeps its old tables: {error}");
        }
        self.shared.set_unclosed(self.dataplane.unclosed());
        if let Some(changed_at) = state.changed_at {
            let nanos = changed_at.elapsed().as_nanos() as u64;
            self.shared.mirror_lag_nanos.store(nanos, Ordering::Relaxed);
        }
    }
}

/// Stops in order: with `pass` the programs go first, so that nothing is lost between them and the
/// workers; with `block` they stay and drop what is natgate's.
fn stop(dataplane: &mut Dataplane, on_exit: OnExit) -> anyhow::Result<()> {
    info!("stopping");
    let detached = if on_exit == OnExit::Pass { dataplane.detach() } else { Ok(()) };
    dataplane.stop_workers();
    detached?;
    match on_exit {
        OnExit::Pass => info!("stopped; the kernel has the pods' traffic now"),
        OnExit::Block => info!(
            "stopped; the pods' traffic stays blocked until natgate runs again, or until \
             `natgate detach --all` gives it to the kernel"
        ),
    }
    Ok(())
}

/// Passes on what workers ask, on a thread of its own: the channel's receiver blocks.
fn follow_notices(notices: Receiver<Notice>, resolver: Resolver) -> std::io::Result<()> {
    let body = move || {
        confine::powerless();
        for notice in notices {
            let Notice::Resolve(interface, address) = notice;
            resolver.resolve(interface, address);
        }
    };
    std::thread::Builder::new().name("natgate-notices".into()).spawn(body).map(drop)
}
