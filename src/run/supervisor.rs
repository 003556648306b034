//! What does the service manager hear? By sd_notify(3): ready, a line of status, and that all is well.

use std::time::Duration;

use sd_notify::NotifyState;
use tokio::time::{Interval, MissedTickBehavior};
use tracing::{error, warn};

use crate::api::Shared;
use crate::view::counted;

/// How often the manager hears the status, if no watchdog wants to hear more.
const STATUS: Duration = Duration::from_secs(5);
/// It takes no longer to stop, once it has begun.
const STOPPING: Duration = Duration::from_secs(20);
/// Signs of life in a watchdog's time; one may come late.
const SIGNS: u32 = 3;

/// Speaks to the service manager, if there is one.
#[derive(Debug, Default)]
pub(super) struct Supervisor {
    /// Loops of each worker when the manager last heard.
    loops: Vec<u64>,
    /// The workers that made no progress then.
    stuck: Vec<usize>,
    /// The manager could not be reached then.
    is_mute: bool,
}

impl Supervisor {
    /// When to call [`sign`](Self::sign).
    pub(super) fn interval() -> Interval {
        let period = sd_notify::watchdog_enabled().map_or(STATUS, |time| time / SIGNS);
        // A manager that asks for a sign in no time gets as many as make sense.
        let mut interval = tokio::time::interval(period.max(Duration::from_millis(10)));
        // Two signs right after each other would find that nobody has gone on between them.
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        interval
    }

    /// Traffic flows.
    pub(super) fn ready(&mut self, shared: &Shared) {
        self.say(&[NotifyState::Ready, NotifyState::Status(&status(shared, &[]))]);
    }

    /// The end has begun, and may take so long.
    pub(super) fn draining(&mut self, grace: Duration) {
        let more = (grace + STOPPING).as_micros();
        let more = u32::try_from(more).unwrap_or(u32::MAX);
        self.say(&[
            NotifyState::Stopping,
            NotifyState::ExtendTimeoutUsec(more),
            NotifyState::Status("stopping: draining"),
        ]);
    }

    /// The end has begun.
    pub(super) fn stopping(&mut self) {
        self.say(&[NotifyState::Stopping, NotifyState::Status("stopping")]);
    }

    /// Says how things are; that all is well only if every worker went on since the last time.
    pub(super) fn sign(&mut self, shared: &Shared) {
        let worker = shared.counters.iter();
        let loops: Vec<u64> =
            worker.map(|worker| worker.busy_loops.get() + worker.idle_loops.get()).collect();
        let stuck = stuck(&self.loops, &loops);
        if stuck != self.stuck && !stuck.is_empty() {
            error!(workers = ?stuck, "workers make no progress; a watchdog will end this process");
        }
        let status = status(shared, &stuck);
        let well = stuck.is_empty().then_some(NotifyState::Watchdog);
        let states: Vec<NotifyState<'_>> =
            well.into_iter().chain([NotifyState::Status(&status)]).collect();
        self.say(&states);
        (self.loops, self.stuck) = (loops, stuck);
        // Whoever sleeps looks up, and will have gone on by the next time.
        for worker in &shared.workers {
            (worker.wake)();
        }
    }

    fn say(&mut self, states: &[NotifyState<'_>]) {
        let outcome = sd_notify::notify(states);
        if let (Err(error), false) = (&outcome, self.is_mute) {
            warn!("the service manager does not hear ($NOTIFY_SOCKET): {error}");
        }
        self.is_mute = outcome.is_err();
    }
}

/// The workers that did no loop between two looks.
fn stuck(before: &[u64], now: &[u64]) -> Vec<usize> {
    let pairs = before.iter().zip(now).enumerate();
    pairs.filter(|(_, (before, now))| before == now).map(|(worker, _)| worker).collect()
}

/// One line for `systemctl status`.
fn status(shared: &Shared, stuck: &[usize]) -> String {
    if !stuck.is_empty() {
        let names: Vec<String> = stuck.iter().map(ToString::to_string).collect();
        return format!("no progress: worker {}", names.join(", "));
    }
    if !shared.is_ready() {
        return "an interface is gone".to_owned();
    }
    let draining = match (shared.drained_since(), shared.stopping_in_s()) {
        (None, _) => String::new(),
        (Some(_), None) => "draining, ".to_owned(),
        (Some(_), Some(left)) => format!("stopping in {left} s, "),
    };
    let sessions = shared.sum(|worker| &worker.sessions);
    let subscribers = shared.sum(|worker| &worker.subscribers);
    let workers = shared.workers.len();
    let parts = [
        counted(workers as u64, "worker"),
        counted(subscribers, "subscriber"),
        counted(sessions, "session"),
    ];
    format!("{draining}{}", parts.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_whose_loops_stand_still_is_stuck() {
        assert_eq!(stuck(&[], &[0, 0]), [0_usize; 0], "nobody is judged by one look");
        assert_eq!(stuck(&[5, 7, 9], &[6, 7, 9]), [1, 2]);
        assert_eq!(stuck(&[5, 7], &[6, 8]), [0_usize; 0]);
    }
}
