//! What does a gateway leave to the one that takes its place?
//!
//! At an orderly stop everything that the workers know of sessions goes to a file on tmpfs ([`file`]); the next start
//! reads it, removes it, and gives each worker its share ([`divide`]). The clock goes on where it was, so that timers do
//! too. What can't be read whole is not used at all. Addresses that were on their way out of their pool go on leaving
//! ([`leaving`]), and so do mappings that were taken out of the objects ([`fixed`]).

mod divide;
mod file;
mod fixed;
mod leaving;
#[cfg(test)]
mod sample;

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context;
use conntrack::{Nat, Records, Timestamp};
use dataplane::snapshot::Policy;
use tracing::{info, warn};

pub(super) use divide::{Heirs, line};
pub(super) use file::{State, boot};
pub(super) use leaving::with_left;

use file::{BlockRest, PoolShape};
use fixed::FixedRecords;

/// The state of a gateway whose workers have stopped with these `nats`, under `policy`.
pub(super) fn collect(
    nats: &[Nat],
    policy: &Policy,
    seeds: [u64; 4],
    now: Timestamp,
) -> Option<State> {
    let clock = file::machine_clock().ok()?;
    let pools = policy.pools.iter();
    let mut block_rests = Vec::new();
    for address in policy.pools.iter().flat_map(|pool| &pool.addresses) {
        for directory in [&address.low, &address.directory] {
            block_rests.extend(directory.rests(now).map(|(block, subscriber, until)| BlockRest {
                address: address.addr,
                first: *directory.ports(block).start(),
                subscriber,
                until,
            }));
        }
    }
    Some(State {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        boot: boot(),
        saved_at: clock,
        clock: now,
        seeds,
        pools: pools.map(|pool| PoolShape::of(pool)).collect(),
        rules: policy.rules.rules().iter().map(|rule| rule.name.clone()).collect(),
        fixed: FixedRecords::of(&policy.forwards),
        block_rests,
        workers: nats.iter().map(|nat| nat.records(now)).collect(),
    })
}

/// Leaves `state` in the file `path`. That it can't be is said, and no reason not to stop.
pub(super) fn leave(state: &State, path: &Path) {
    let begun = Instant::now();
    let sessions: usize = state.workers.iter().map(|worker| worker.sessions.len()).sum();
    match file::write(state, path) {
        Ok(bytes) => info!(
            sessions,
            bytes,
            took_ms = begun.elapsed().as_millis() as u64,
            "left to the next natgate: {}",
            path.display()
        ),
        Err(error) => warn!(
            sessions,
            "sessions will not survive: state file {} cannot be written: {error}; see that it is on a tmpfs with room",
            path.display()
        ),
    }
}

/// What the gateway before has left in `path`. What is wrong with it is said. It is there until [`used`]: a start that
/// fails leaves it to the next one.
pub(super) fn read(path: &Path) -> (Option<State>, Option<String>) {
    match file::read(path) {
        Ok(state) => (state, None),
        Err(refused) => {
            let line = format!(
                "state of the natgate before refused ({}): {refused}; its sessions are gone, and it starts without any",
                path.display()
            );
            warn!("{line}");
            (None, Some(line))
        }
    }
}

/// What was in `path` is in force from now on, and nobody may use it once more.
pub(super) fn used(path: &Path) -> anyhow::Result<()> {
    file::remove(path).with_context(|| {
        format!(
            "state file {} cannot be removed, and must not be used twice; see that its directory is writable",
            path.display()
        )
    })
}

impl State {
    /// What the clock of the gateway before shows now.
    pub(super) fn clock_now(&self) -> Duration {
        let gap = file::machine_clock().unwrap_or(self.saved_at).saturating_sub(self.saved_at);
        Duration::from_millis(self.clock.as_millis()) + gap
    }

    /// How many sessions there are.
    pub(super) fn sessions(&self) -> u64 {
        self.workers.iter().map(|worker: &Records| worker.sessions.len() as u64).sum()
    }
}
