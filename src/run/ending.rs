//! How long does a gateway that is told to stop go on? As long as there are sessions, if it is given the time.

use std::time::{Duration, Instant};

use tracing::{error, info};

use crate::api::Shared;
use crate::mirror::MirrorState;

use super::Running;
use super::reload::Reload;
use super::supervisor::Supervisor;

/// How often the sessions that are left are counted.
const LOOK: Duration = Duration::from_millis(100);
/// Workers tell within this time how many sessions they have.
const TOLD: Duration = Duration::from_secs(1);

/// Whether natgate was told to stop, and when it does.
#[derive(Debug, Default)]
pub(super) struct Ending {
    /// Since when, and until when.
    draining: Option<(Instant, Instant)>,
}

impl Ending {
    /// SIGTERM or SIGINT has come; whether it is to stop now. It goes on without new sessions for
    /// [`drain_grace`](crate::config::Gateway::drain_grace), if there is any, and at the second signal it does not.
    pub(super) fn told(
        &mut self,
        reload: &mut Reload,
        running: &mut Running<'_>,
        state: &MirrorState,
        supervisor: &mut Supervisor,
    ) -> bool {
        let grace = reload.config().gateway.drain_grace;
        if self.draining.is_some() {
            info!("told to stop once more: stopping at once");
            return true;
        }
        if grace.is_zero() {
            return true;
        }
        if let Err(error) = reload.drain(true, running, state) {
            error!("stopping at once: it cannot be drained: {error}");
            return true;
        }
        let now = Instant::now();
        self.draining = Some((now, now + grace));
        // It is told once: this is the first time.
        let _ = running.shared.stops_at.set(now + grace);
        supervisor.draining(grace);
        info!(seconds = grace.as_secs(), "told to stop: waiting for sessions to end");
        false
    }

    /// The time that was given is over, or no session is left. Cancel-safe.
    pub(super) async fn over(&self, shared: &Shared) {
        let Some((since, until)) = self.draining else { return std::future::pending().await };
        loop {
            let sessions = shared.sum(|worker| &worker.sessions);
            if sessions == 0 && since.elapsed() > TOLD {
                return info!("no session is left");
            }
            if Instant::now() >= until {
                return info!(sessions, "the time for draining is over");
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}
