//! How does a gateway live? Start in order, follow the world, stop in order.

mod dataplane;
mod journal;
mod pods;
mod supervisor;
mod table;
mod tunnel_hooks;
mod world;

use std::io::IsTerminal;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use ::dataplane::request::Notice;
use anyhow::{Context, bail};
use conntrack::{Event, EventKind};
use crossbeam::channel::Receiver;
use futures_util::FutureExt;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::api::Server;
use crate::cli::GatewayArgs;
use crate::config::{self, Config, LogFormat, OnExit};
use crate::mirror::{Mirror, Resolver};

use self::dataplane::Dataplane;
use self::supervisor::Supervisor;
use self::world::{Overlaps, World};

/// Notices of workers that may wait for the control thread.
const NOTICES: usize = 1024;

/// How often the hooks of the interfaces are looked at.
const WATCH: Duration = Duration::from_millis(250);

/// Runs a gateway until SIGTERM or SIGINT.
pub(crate) fn run(args: &GatewayArgs) -> anyhow::Result<()> {
    let config = Config::load(args, &config::host_addresses()?)?;
    start_log(&config.gateway.log, config.gateway.log_format);
    let source = args.config.clone().unwrap_or_else(|| "flags".to_owned());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(live(config, source))
}

fn start_log(filter: &str, format: LogFormat) {
    let log = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        // A reader of the log that goes away must not end the gateway.
        .log_internal_errors(false)
        .with_target(false);
    match format {
        LogFormat::Text => log.init(),
        LogFormat::Json => log.json().init(),
    }
}

async fn live(config: Config, source: String) -> anyhow::Result<()> {
    let gateway = config.gateway.clone();
    // Before anything is started, so that a signal during the start is not lost.
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    let world = World::discover(&config).await?;
    let mut mirror = Mirror::start(&world.ids(), &world.underlays()).await?;
    let (notices, incoming) = crossbeam::channel::bounded(NOTICES);
    let state = mirror.state();
    world.refuse_taken_addresses(&state)?;
    let mut dataplane = Dataplane::prepare(&config, &world, &state, notices)?;
    let server = Server::bind(&gateway.socket, gateway.metrics).await?;
    let metrics = server.metrics_address();
    let mut overlaps = Overlaps::default();
    overlaps.follow(&world, &state);
    dataplane.start_workers()?;
    let shared = Arc::new(dataplane.shown(&config, source));
    shared.follow_kernel(&state);
    let mut serving = std::pin::pin!(server.serve(Arc::clone(&shared)));
    let pools = config.pools.iter().map(|pool| pool.name.clone()).collect();
    follow_notices(incoming, mirror.resolver(), pools)?;
    if [&mut terminate, &mut interrupt].into_iter().any(|s| s.recv().now_or_never().is_some()) {
        info!("told to stop before anything was attached");
        return Ok(());
    }
    dataplane.attach(&state)?;
    dataplane.announce();
    shared.ready.store(true, Ordering::Release);
    table::print(&config, &shared, metrics);
    info!(pid = std::process::id(), "ready");
    let mut supervisor = Supervisor::default();
    supervisor.ready(&shared);
    let mut signs = Supervisor::interval();
    let mut watch = tokio::time::interval(WATCH);
    loop {
        tokio::select! {
            _ = watch.tick() => shared.ready.store(dataplane.watch(&world)?, Ordering::Release),
            changed = mirror.changed() => {
                let state = changed.context("the kernel mirror has ended; see the log above")?;
                shared.follow_kernel(&state);
                overlaps.follow(&world, &state);
                if let Err(error) = dataplane.follow(&world, &state) {
                    warn!("the steering program keeps its old tables: {error}");
                }
            }
            _ = signs.tick() => supervisor.sign(&shared),
            () = &mut serving => bail!("the stats socket has ended; see the log above"),
            _ = hang_up.recv() => {
                warn!("SIGHUP: reload is not in this version; nothing changed; restart to change the configuration");
            }
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    shared.ready.store(false, Ordering::Release);
    supervisor.stopping();
    stop(&mut dataplane, gateway.on_exit)?;
    Ok(())
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
fn follow_notices(
    notices: Receiver<Notice>,
    resolver: Resolver,
    pools: Vec<String>,
) -> std::io::Result<()> {
    let body = move || {
        for notice in notices {
            match notice {
                Notice::Resolve(interface, address) => resolver.resolve(interface, address),
                Notice::Event(event) => report(&event, &pools),
            }
        }
    };
    std::thread::Builder::new().name("natgate-notices".into()).spawn(body).map(drop)
}

/// One line for a limit that is near or reached (RFC 6888 REQ-11c).
fn report(event: &Event, pools: &[String]) {
    let pool = event.pool.and_then(|id| pools.get(id.index())).map_or("-", String::as_str);
    let subscriber = event.subscriber.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
    let of = match event.kind {
        EventKind::QuotaSoft(limit) | EventKind::QuotaExhausted(limit) => limit.name(),
        _ => "-",
    };
    let (kind, used, limit) = (event.kind.name(), event.used, event.limit);
    warn!(kind, pool, subscriber, of, used, limit, "a limit is near or reached");
}
