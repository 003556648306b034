//! How does a new configuration come into force? Read, checked as a whole, compared, published between bursts; or
//! nothing changes, and it is said why.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use conntrack::Timestamp;
use dataplane::forward::PortForward;
use dataplane::snapshot::Policy;
use tokio::signal::unix::Signal;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tracing::{error, info};

use crate::api::model::{LastReload, Reloaded, SettingChange};
use crate::api::{Order, Shared, Tune};
use crate::cli::GatewayArgs;
use crate::config::{self, Config, ConfigErrors, Succession, Written, what_changes};
use crate::mirror::MirrorState;

use super::Running;
use super::left::{self, Findings};
use super::tune::{Ground, report as report_tuning};
use super::watch::Watch;

/// A policy that was replaced is kept for so long: workers leave it within a burst, and should not be the ones who
/// take it apart.
const KEEP: Duration = Duration::from_secs(5);

/// What came of it: what is in force now, or every mistake.
type Outcome = Result<Reloaded, Vec<String>>;

/// Who wants the configuration read again.
#[derive(Debug)]
pub(super) enum Trigger {
    /// SIGHUP.
    Signal,
    /// Its files have changed.
    Files,
    /// `natgate reload`, or whoever speaks to the stats socket.
    Command(oneshot::Sender<Outcome>),
    /// `natgate set` or `reset`: what is written is as before, and something else is laid over it.
    Tune(Tune, oneshot::Sender<Result<Vec<SettingChange>, Vec<String>>>),
}

impl Trigger {
    fn name(&self) -> &'static str {
        match self {
            Self::Signal => "SIGHUP",
            Self::Files => "changed files",
            Self::Command(_) => "natgate reload",
            Self::Tune(..) => "natgate set",
        }
    }
}

/// A configuration that was read and found good.
#[derive(Debug)]
pub(super) struct Prepared {
    config: Config,
    /// `None`: it says the same as the one in force.
    succession: Option<Succession>,
    ground: Ground,
}

/// What has come to an end beside the traffic.
#[derive(Debug)]
pub(super) enum Done {
    /// The configuration was read.
    Read(Box<Result<Prepared, ConfigErrors>>),
    /// Workers have answered.
    Surveyed(Findings),
}

/// What somebody wants.
#[derive(Debug)]
pub(super) enum Wish {
    /// The configuration is to be read again, or something to be laid over it.
    Read(Trigger),
    /// No session is to be opened any more, or they are again.
    Drain(bool, oneshot::Sender<Result<(), Vec<String>>>),
}

/// Everybody who may want something.
#[derive(Debug)]
pub(super) struct Wishes {
    hang_up: Signal,
    orders: mpsc::Receiver<Order>,
    files: Option<Watch>,
}

impl Wishes {
    /// `path`: the file or directory of the objects, if there is one.
    pub(super) fn new(hang_up: Signal, orders: mpsc::Receiver<Order>, path: Option<&str>) -> Self {
        Self { hang_up, orders, files: path.and_then(|path| Watch::start(Path::new(path))) }
    }

    /// The next one. Cancel-safe.
    pub(super) async fn next(&mut self) -> Wish {
        let changed = async {
            match &mut self.files {
                Some(files) => files.changed().await,
                None => std::future::pending().await,
            }
        };
        let trigger = tokio::select! {
            _ = self.hang_up.recv() => Trigger::Signal,
            () = changed => Trigger::Files,
            Some(order) = self.orders.recv() => match order {
                Order::Reload(reply) => Trigger::Command(reply),
                Order::Tune(tune, reply) => Trigger::Tune(tune, reply),
                Order::Drain(on, reply) => return Wish::Drain(on, reply),
            },
        };
        Wish::Read(trigger)
    }
}

/// A configuration that is being read.
#[derive(Debug)]
struct Reading {
    trigger: Trigger,
    begun: Instant,
    task: JoinHandle<Result<Prepared, ConfigErrors>>,
}

/// The configuration in force, and what is on its way to take its place.
#[derive(Debug)]
pub(super) struct Reload {
    args: GatewayArgs,
    config: Arc<Config>,
    ground: Ground,
    triggers: VecDeque<Trigger>,
    reading: Option<Reading>,
    /// Port forwards that wait until nobody else has their ports.
    waiting: Vec<PortForward>,
    survey: Option<JoinHandle<Findings>>,
    /// Who is told when the survey has come back.
    answer: Option<(oneshot::Sender<Outcome>, Reloaded)>,
    replaced: VecDeque<(Instant, Arc<Policy>)>,
    /// No session is opened any more, whatever is read.
    draining: bool,
}

impl Reload {
    /// `config` is in force; it was read by `args`, as `written`.
    pub(super) fn new(args: GatewayArgs, written: Written, config: Config) -> Self {
        let config = Arc::new(config);
        let ground = Ground::new(written, Arc::clone(&config));
        Self {
            args,
            config,
            ground,
            triggers: VecDeque::new(),
            reading: None,
            waiting: Vec::new(),
            survey: None,
            answer: None,
            replaced: VecDeque::new(),
            draining: false,
        }
    }

    /// The configuration in force.
    pub(super) fn config(&self) -> &Config {
        &self.config
    }

    /// Opens no session any more, or opens them again.
    pub(super) fn drain(
        &mut self,
        on: bool,
        running: &mut Running<'_>,
        state: &MirrorState,
    ) -> Result<(), String> {
        if on == self.draining {
            return Ok(());
        }
        self.draining = on;
        let policy = Policy::clone(running.world.policy());
        if let Err(error) = self.publish(policy, running, state) {
            self.draining = !on;
            return Err(error);
        }
        running.shared.set_draining(on);
        let sessions = running.shared.sum(|worker| &worker.sessions);
        if on {
            info!(sessions, "draining: no new sessions; those that there are go on");
        } else {
            info!(sessions, "not draining any more: new sessions are opened");
        }
        Ok(())
    }

    /// Has the configuration read again, beside the traffic; after what is read already.
    pub(super) fn want(&mut self, trigger: Trigger, running: &Running<'_>) {
        self.triggers.push_back(trigger);
        self.begin(running);
    }

    fn begin(&mut self, running: &Running<'_>) {
        if self.reading.is_some() || self.answer.is_some() {
            return;
        }
        let Some(trigger) = self.triggers.pop_front() else { return };
        let (args, config) = (self.args.clone(), Arc::clone(&self.config));
        let (before, now) = (running.world.shared_policy(), running.dataplane.now());
        let ground = self.ground.clone();
        let tune = match &trigger {
            Trigger::Tune(tune, _) => Some(tune.clone()),
            _ => None,
        };
        let read = move || {
            let (ground, new) = match tune {
                Some(tune) => ground.tuned(&tune)?,
                None => ground.read_again(&args)?,
            };
            prepare(ground, new, &config, &before, now)
        };
        let task = tokio::task::spawn_blocking(read);
        self.reading = Some(Reading { trigger, begun: Instant::now(), task });
    }

    /// What has come to an end. Cancel-safe.
    pub(super) async fn done(&mut self) -> Done {
        if let Some(Reading { task, .. }) = &mut self.reading {
            let read = task.await.unwrap_or_else(|error| Err(config::failure(&error.to_string())));
            return Done::Read(Box::new(read));
        }
        match &mut self.survey {
            Some(survey) => {
                let findings = survey.await.unwrap_or_default();
                self.survey = None;
                Done::Surveyed(findings)
            }
            None => std::future::pending().await,
        }
    }

    /// Brings into force what is done.
    pub(super) fn take(&mut self, done: Done, running: &mut Running<'_>, state: &MirrorState) {
        match done {
            Done::Read(read) => self.finish(*read, running, state),
            Done::Surveyed(findings) => {
                self.relieve(&findings, running, state);
                if let Some((reply, reloaded)) = self.answer.take() {
                    let waiting = self.waiting_lines();
                    // Who has gone meanwhile finds it in the status.
                    let _ = reply.send(Ok(Reloaded { waiting, ..reloaded }));
                }
            }
        }
        running.shared.set_waiting(self.waiting_lines());
        self.begin(running);
    }

    fn finish(
        &mut self,
        read: Result<Prepared, ConfigErrors>,
        running: &mut Running<'_>,
        state: &MirrorState,
    ) {
        let Some(Reading { trigger, begun, .. }) = self.reading.take() else { return };
        let (name, before) = (trigger.name(), Arc::clone(&self.config));
        let outcome = match read {
            Ok(prepared) => self.enforce(prepared, begun, running, state),
            Err(ConfigErrors(problems)) => Err(problems.iter().map(ToString::to_string).collect()),
        };
        match &trigger {
            Trigger::Tune(tune, _) => report_tuning(tune, &before, &self.config, &outcome),
            _ => report(name, &outcome, running),
        }
        let survey = self.survey(running);
        match (trigger, outcome) {
            (Trigger::Command(reply), Ok(reloaded)) if survey => {
                self.answer = Some((reply, reloaded));
            }
            (Trigger::Command(reply), outcome) => {
                let _ = reply.send(outcome);
            }
            (Trigger::Tune(_, reply), outcome) => {
                let _ = reply.send(outcome.map(|_| self.ground.changes(&before, &self.config)));
            }
            _ => {}
        }
    }

    fn enforce(
        &mut self,
        prepared: Prepared,
        begun: Instant,
        running: &mut Running<'_>,
        state: &MirrorState,
    ) -> Outcome {
        let Prepared { config, succession, ground } = prepared;
        let took_ms = || u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let Some(Succession { policy, waiting, .. }) = succession else {
            self.ground = ground;
            self.show_settings(&running.shared);
            let generation = running.world.policy().generation;
            return Ok(Reloaded { generation, took_ms: took_ms(), ..Reloaded::default() });
        };
        let changes = what_changes(&self.config, &config);
        let generation = policy.generation;
        self.publish(policy, running, state).map_err(|error| vec![error])?;
        self.waiting = waiting;
        if config.gateway.log != self.config.gateway.log && !running.log.change(&config.gateway.log)
        {
            error!("the log goes on as before: its filter could not be changed");
        }
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        running.shared.set_warnings(warnings.clone());
        running.shared.explain.set_profiles(config.profiles());
        (self.config, self.ground) = (Arc::new(config), ground);
        self.show_settings(&running.shared);
        running.dataplane.announce();
        let waiting = self.waiting_lines();
        Ok(Reloaded { generation, changed: true, took_ms: took_ms(), changes, warnings, waiting })
    }

    /// Makes `policy` that of all workers and of the steering program, or of none.
    fn publish(
        &mut self,
        policy: Policy,
        running: &mut Running<'_>,
        state: &MirrorState,
    ) -> Result<(), String> {
        let policy = Policy { draining: self.draining, ..policy };
        let world = running.world.with_policy(policy);
        world.refuse_taken_addresses(state).map_err(|error| error.to_string())?;
        running
            .dataplane
            .change(&running.world, &world, state)
            .map_err(|error| format!("{error}; the steering program is as before"))?;
        let old = std::mem::replace(&mut running.world, world);
        self.replaced.push_back((Instant::now(), old.shared_policy()));
        Ok(())
    }

    /// Has workers asked whether anybody still has what was taken away; whether there is anything to ask.
    pub(super) fn survey(&mut self, running: &Running<'_>) -> bool {
        while self.replaced.front().is_some_and(|(since, _)| since.elapsed() > KEEP) {
            self.replaced.pop_front();
        }
        if self.survey.is_some() {
            return true;
        }
        let Some(questions) = left::questions(running.world.policy(), &self.waiting) else {
            return false;
        };
        let workers = running.dataplane.workers();
        self.survey = Some(tokio::task::spawn_blocking(move || questions.ask(&workers)));
        true
    }

    /// Lets go what nobody has, and lets come what was waiting for that.
    fn relieve(&mut self, findings: &Findings, running: &mut Running<'_>, state: &MirrorState) {
        // A survey of what was before says nothing of what is waiting now.
        let coming: Vec<PortForward> =
            findings.free.iter().filter(|f| self.waiting.contains(f)).cloned().collect();
        if findings.unused.is_empty() && findings.ended.is_empty() && coming.is_empty() {
            return;
        }
        let before = running.world.shared_policy();
        let policy = config::relieved(&before, &findings.unused, &findings.ended, &coming);
        if let Err(error) = self.publish(policy, running, state) {
            error!("what is not used any more stays for now: {error}");
            return;
        }
        self.waiting.retain(|forward| !coming.contains(forward));
        for address in &findings.unused {
            info!(%address, "nobody has this address any more; it is not natgate's now");
        }
        for forward in &coming {
            info!(
                forward = forward.name,
                "the port forward is in force: nobody else has its ports now"
            );
        }
    }

    /// Shows what can be set, and what is.
    pub(super) fn show_settings(&self, shared: &Shared) {
        shared.set_settings(self.ground.rows(&self.config));
    }

    fn waiting_lines(&self) -> Vec<String> {
        let line = |f: &PortForward| {
            let (first, last) = (f.ports.start(), f.ports.end());
            format!(
                "PortForward {} waits until sessions of other pods on {} {}:{first}-{last} have ended",
                f.name, f.protocol, f.address
            )
        };
        self.waiting.iter().map(line).collect()
    }
}

/// Says what came of reading the configuration again.
fn report(name: &str, outcome: &Outcome, running: &Running<'_>) {
    match outcome {
        Ok(done) if done.changed => {
            let (generation, took_ms) = (done.generation, done.took_ms);
            info!(generation, took_ms, changes = done.changes.join("; "), "{name}: reloaded");
        }
        Ok(done) => info!(generation = done.generation, "{name}: nothing has changed"),
        Err(lines) => {
            for line in lines {
                error!("{name}: {line}");
            }
            error!(
                mistakes = lines.len(),
                "{name}: nothing was changed; the configuration before stays"
            );
        }
    }
    running.shared.note_reload(LastReload {
        trigger: name.to_owned(),
        at: SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_secs()),
        ok: outcome.is_ok(),
        problems: outcome.as_ref().err().cloned().unwrap_or_default(),
    });
}

/// Finds out what becomes of what is there when `config` takes the place of `current`.
fn prepare(
    ground: Ground,
    config: Config,
    current: &Config,
    before: &Policy,
    now: Timestamp,
) -> Result<Prepared, ConfigErrors> {
    if config == *current {
        return Ok(Prepared { config, succession: None, ground });
    }
    let mut problems = config::needs_restart(&current.gateway, &config.gateway);
    let mut succession = Succession::new(&config, before, now);
    problems.append(&mut succession.problems);
    if problems.is_empty() {
        Ok(Prepared { config, succession: Some(succession), ground })
    } else {
        Err(ConfigErrors(problems))
    }
}
