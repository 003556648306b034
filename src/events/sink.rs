//! Who writes the journal down? Sinks, each on a thread of its own with a place of its own in the journal: one that fails,
//! or is slow, holds up nobody.
//!
//! What a sink cannot write now it tries again; only what the journal does not keep meanwhile is lost, and the sink says
//! so with its first and last number.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::{info, warn};

use crate::run::confine;

use super::journal::{Batch, Held, Journal};

/// Entries taken at a time.
const SLICE: usize = 1024;
/// How often a sink looks at itself, and how long it waits after a failure.
const TEND: Duration = Duration::from_secs(1);
/// A sink that fails is given so long when natgate ends.
pub(super) const LAST_PATIENCE: Duration = Duration::from_secs(2);

/// What became of a sink's entries.
#[derive(Debug, Default)]
pub(crate) struct SinkCounts {
    /// Entries that it has taken.
    pub(crate) written: AtomicU64,
    /// Entries that it has lost.
    pub(crate) lost: AtomicU64,
    /// Times that it failed.
    pub(crate) failures: AtomicU64,
    /// It fails now.
    pub(crate) failing: AtomicBool,
}

/// What a sink took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Taken {
    /// The number of the next entry that it wants.
    pub(super) next: u64,
    /// Entries that are lost.
    pub(super) lost: u64,
    /// Entries that it took.
    pub(super) written: u64,
}

impl Taken {
    /// All of `batch`.
    pub(super) fn all(batch: &Batch) -> Self {
        let lost = batch.gap.map_or(0, |(from, to)| to + 1 - from);
        Self { next: batch.next, lost, written: batch.entries.len() as u64 }
    }
}

/// Somebody who writes the journal down.
pub(super) trait Sink: Send + 'static {
    /// What it is, for people.
    fn name(&self) -> String;

    /// Takes a batch, and more of the journal if it likes. If it fails, it has taken nothing, and says why and what to do.
    fn take(&mut self, batch: Batch, journal: &Journal) -> Result<Taken, String>;

    /// How long, when natgate ends, it is worth trying what fails.
    fn patience(&self) -> Duration {
        LAST_PATIENCE
    }

    /// Looks at itself, when nothing happens for a second.
    fn tend(&mut self) -> Result<(), String> {
        Ok(())
    }

    /// Nothing comes any more.
    fn end(&mut self) {}
}

/// Reads on from `batch` until the state of the journal is known: everything up to there, and the state after it.
pub(super) fn up_to_state(mut batch: Batch, journal: &Journal) -> (Batch, u64, Vec<Held>) {
    loop {
        let (as_of, state) = journal.state();
        if batch.next > as_of + 1 {
            // What is kept has overtaken it; it can't, but a loop that ends is better than one that does not.
            return (batch, as_of, state);
        }
        let left = usize::try_from(as_of + 1 - batch.next).unwrap_or(usize::MAX);
        let more = journal.read(batch.next, left);
        let overtaken = more.gap.is_some();
        batch.gap = match (batch.gap, more.gap) {
            // What was read lies between two gaps: one gap, which is said first.
            (Some((from, _)), Some((_, to))) => Some((from, to)),
            (gap, new) => gap.or(new),
        };
        if overtaken {
            batch.entries.clear();
        }
        batch.entries.extend(more.entries);
        batch.next = more.next;
        if batch.next == as_of + 1 {
            return (batch, as_of, state);
        }
    }
}

/// A sink's thread.
#[derive(Debug)]
pub(crate) struct Running {
    /// What became of its entries.
    pub(crate) counts: Arc<SinkCounts>,
    thread: Option<JoinHandle<()>>,
}

impl Running {
    pub(super) fn start(
        name: &str,
        sink: impl Sink,
        journal: Arc<Journal>,
    ) -> std::io::Result<Self> {
        let counts = Arc::new(SinkCounts::default());
        let shown = Arc::clone(&counts);
        let thread =
            std::thread::Builder::new().name(format!("natgate-{name}")).spawn(move || {
                confine::writer();
                run(sink, &journal, &shown);
            })?;
        Ok(Self { counts, thread: Some(thread) })
    }

    /// Waits until it has written what there is. To be called when the journal is closed.
    pub(crate) fn stop(&mut self) {
        if let Some(thread) = self.thread.take() {
            // If it has panicked, the process is about to end.
            let _ = thread.join();
        }
    }
}

fn run(mut sink: impl Sink, journal: &Journal, counts: &SinkCounts) {
    let mut next = 1;
    let mut closing: Option<Instant> = None;
    loop {
        let batch = journal.read(next, SLICE);
        if batch.is_empty() && batch.closed {
            sink.end();
            return;
        }
        let idle = batch.is_empty();
        let outcome =
            if idle { sink.tend().map(|()| Taken::all(&batch)) } else { sink.take(batch, journal) };
        match outcome {
            Ok(taken) => {
                if counts.failing.swap(false, Ordering::Relaxed) {
                    info!("{}: works again", sink.name());
                }
                if taken.lost > 0 {
                    let entries = taken.lost;
                    warn!(entries, "{}: entries were lost; the gap is recorded", sink.name());
                }
                counts.lost.fetch_add(taken.lost, Ordering::Relaxed);
                counts.written.fetch_add(taken.written, Ordering::Relaxed);
                next = taken.next;
                if idle {
                    journal.wait(next, TEND);
                }
            }
            Err(why) => {
                counts.failures.fetch_add(1, Ordering::Relaxed);
                if !counts.failing.swap(true, Ordering::Relaxed) {
                    warn!("{}: {why}; it is tried again every second", sink.name());
                }
                if journal.is_closed() {
                    let since = *closing.get_or_insert_with(Instant::now);
                    if since.elapsed() >= sink.patience() {
                        let lost = journal.newest() + 1 - next;
                        counts.lost.fetch_add(lost, Ordering::Relaxed);
                        warn!(entries = lost, "{}: given up; these are lost", sink.name());
                        return;
                    }
                    std::thread::sleep(TEND / 5);
                } else {
                    journal.wait_closed(TEND);
                }
            }
        }
    }
}
