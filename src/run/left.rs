//! Does anybody still have what was taken away?
//!
//! An address that left its pool stays natgate's as long as there is a session on it, and so does the way to find the
//! sessions of a mapping that is gone. A new port forward waits while others have sessions on its ports. Only workers
//! know, so they are asked now and then, while there is something to ask.

use std::collections::HashSet;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{PublicAddress, Standing};
use crossbeam::channel::{Sender, bounded};
use dataplane::forward::PortForward;
use dataplane::request::{Request, SessionFilter, SessionRow};
use dataplane::snapshot::Policy;
use dataplane::waker::Waker;

/// Slices of rows that may wait.
const SLICES: usize = 4;
/// A worker that says nothing for this long leaves the question open.
const PATIENCE: Duration = Duration::from_secs(5);

/// The way to a worker.
#[derive(Clone, Debug)]
pub(super) struct WorkerDoor {
    pub(super) requests: Sender<Request>,
    pub(super) waker: Waker,
}

/// What to ask.
#[derive(Clone, Debug)]
pub(super) struct Questions {
    /// Addresses that are leaving, and of which no block is held.
    addresses: HashSet<Ipv4Addr>,
    former: Vec<PortForward>,
    waiting: Vec<PortForward>,
}

/// What is not needed any more.
#[derive(Clone, Debug, Default)]
pub(super) struct Findings {
    /// Addresses without sessions.
    pub(super) unused: HashSet<Ipv4Addr>,
    /// Forwards that are gone and have no sessions.
    pub(super) ended: Vec<PortForward>,
    /// Forwards on whose ports nobody else has sessions.
    pub(super) free: Vec<PortForward>,
}

/// What there is to ask about `policy`, if anything.
pub(super) fn questions(policy: &Policy, waiting: &[PortForward]) -> Option<Questions> {
    let leaving = policy.pools.iter().flat_map(|pool| pool.with_standing(Standing::Leaving));
    // A block that rests rests on, whoever has the address.
    let held = |address: &PublicAddress| address.directory.held() + address.low.held() > 0;
    let addresses: HashSet<Ipv4Addr> =
        leaving.filter(|address| !held(address)).map(|address| address.addr).collect();
    let former = policy.forwards.former().map_or_else(Vec::new, |it| it.forwards().to_vec());
    let any = !addresses.is_empty() || !former.is_empty() || !waiting.is_empty();
    any.then(|| Questions { addresses, former, waiting: waiting.to_vec() })
}

impl Questions {
    /// Asks all workers. Blocks.
    pub(super) fn ask(self, workers: &[WorkerDoor]) -> Findings {
        let mut findings = Findings::default();
        if !self.addresses.is_empty() {
            let all = Arc::new(self.addresses);
            let mut unused = HashSet::clone(&all);
            let complete = sessions_on(workers, &all, 0..=u16::MAX, |row| {
                unused.remove(&row.public.addr);
                !unused.is_empty()
            });
            if complete {
                findings.unused = unused;
            }
        }
        let is_free = |forward: &PortForward, counts: &dyn Fn(&SessionRow) -> bool| {
            let address = Arc::new(HashSet::from([forward.address]));
            let mut free = true;
            let complete = sessions_on(workers, &address, forward.ports.clone(), |row| {
                free &= row.protocol != forward.protocol || !counts(row);
                free
            });
            free && complete
        };
        for forward in self.former {
            if is_free(&forward, &|row| row.internal.addr == forward.target) {
                findings.ended.push(forward);
            }
        }
        for forward in self.waiting {
            if is_free(&forward, &|row| row.internal.addr != forward.target) {
                findings.free.push(forward);
            }
        }
        findings
    }
}

/// Shows `look` the sessions on these addresses and ports, until it has seen enough; whether every worker has answered.
fn sessions_on(
    workers: &[WorkerDoor],
    addresses: &Arc<HashSet<Ipv4Addr>>,
    ports: RangeInclusive<u16>,
    mut look: impl FnMut(&SessionRow) -> bool,
) -> bool {
    for worker in workers {
        let (reply, rows) = bounded(SLICES);
        let public = Some((Arc::clone(addresses), ports.clone()));
        let filter = SessionFilter { public, ..SessionFilter::default() };
        if worker.requests.try_send(Request::Sessions(filter, reply)).is_err() {
            return false;
        }
        worker.waker.wake();
        loop {
            match rows.recv_timeout(PATIENCE) {
                Ok(slice) => {
                    if !slice.iter().all(&mut look) {
                        return true;
                    }
                    worker.waker.wake();
                }
                Err(error) if error.is_disconnected() => break,
                Err(_) => return false,
            }
        }
    }
    true
}
