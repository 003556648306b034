//! The newest entries, numbered, and what they come to: who has which ports now.

use std::collections::{BTreeMap, VecDeque};
use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use conntrack::{Protocol, Timestamp};
use tokio::sync::watch;

use super::clock::{WallClock, unix_ms};
use super::entry::{Entry, Fixed, Happening, Place};

/// Entries that are kept for followers: what a collector that is away for a while does not miss.
const KEPT: usize = 1 << 16;

/// Who has some ports now.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Held {
    /// Which ports.
    pub(crate) place: Place,
    /// The pod.
    pub(crate) subscriber: Ipv4Addr,
    /// The overlay in which the address is the pod's.
    pub(crate) overlay: u16,
    /// The entry by which it got them.
    pub(crate) entry: Arc<Entry>,
}

impl Held {
    /// The object that gives them to it; `None`: a port block.
    pub(crate) fn fixed(&self) -> Option<&Fixed> {
        match &self.entry.what {
            Happening::Fixed { fixed, .. } => Some(fixed),
            _ => None,
        }
    }

    /// Whether this is an answer for a port of `protocol`.
    pub(crate) fn covers(&self, public: Ipv4Addr, port: u16, protocol: Protocol) -> bool {
        let same = self.fixed().and_then(|fixed| fixed.protocol).is_none_or(|it| it == protocol);
        let ports = self.place.first..=self.place.last;
        same && self.place.public == public && ports.contains(&port)
    }
}

/// What tells two holdings apart: the place, and for what a configuration gives away its protocol.
type Key = (Place, Option<Option<u8>>);

fn key(place: Place, fixed: Option<&Fixed>) -> Key {
    (place, fixed.map(|fixed| fixed.protocol.map(Protocol::number)))
}

/// What a follower reads at a time.
#[derive(Clone, Debug, Default)]
pub(crate) struct Batch {
    /// Numbers that are not kept any more, first and last.
    pub(crate) gap: Option<(u64, u64)>,
    /// What follows.
    pub(crate) entries: Vec<Arc<Entry>>,
    /// Where to go on.
    pub(crate) next: u64,
    /// Nothing comes any more.
    pub(crate) closed: bool,
}

impl Batch {
    /// Whether there is nothing in it.
    pub(crate) fn is_empty(&self) -> bool {
        self.gap.is_none() && self.entries.is_empty()
    }
}

/// What became of a change of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// It is in the journal.
    New,
    /// It was there already.
    Known,
    /// Somebody else has the block, as far as is known: the record of its end is still on its way.
    Early,
}

/// The journal of one process.
#[derive(Debug)]
pub(crate) struct Journal {
    inner: Mutex<Inner>,
    grown: Condvar,
    newest: watch::Sender<u64>,
    counts: [AtomicU64; Happening::COUNT],
    kept: usize,
}

#[derive(Debug)]
struct Inner {
    entries: VecDeque<Arc<Entry>>,
    /// The number of the next entry.
    next: u64,
    table: BTreeMap<Key, Held>,
    clock: WallClock,
    closed: bool,
}

impl Journal {
    /// An empty journal; `now` on the workers' clock.
    pub(crate) fn new(now: Timestamp) -> Self {
        Self::with_room(now, KEPT)
    }

    /// The same, for so many entries.
    pub(crate) fn with_room(now: Timestamp, kept: usize) -> Self {
        let inner = Inner {
            entries: VecDeque::new(),
            next: 1,
            table: BTreeMap::new(),
            clock: WallClock::new(now, unix_ms()),
            closed: false,
        };
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self {
            inner: Mutex::new(inner),
            grown: Condvar::new(),
            newest: watch::channel(0).0,
            counts,
            kept,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the time of day; an entry if it was set.
    pub(super) fn look_at_clock(&self, now: Timestamp, unix_ms: u64) {
        let set = self.lock().clock.look(now, unix_ms);
        if let Some(set) = set {
            self.note(None, now, Happening::ClockSet(set));
        }
    }

    /// Notes what has happened at `at`.
    pub(super) fn note(&self, worker: Option<u16>, at: Timestamp, what: Happening) -> Noted {
        let mut inner = self.lock();
        let index = what.index();
        if let Some(noted) = inner.contradiction(&what) {
            return noted;
        }
        let entry = Arc::new(Entry {
            seq: inner.next,
            unix_ms: inner.clock.of(at),
            clock_ms: at.as_millis(),
            worker,
            what,
        });
        inner.next += 1;
        inner.apply(&entry);
        if inner.entries.len() == self.kept {
            inner.entries.pop_front();
        }
        inner.entries.push_back(entry);
        self.counts[index].fetch_add(1, Ordering::Relaxed);
        Noted::New
    }

    /// Shows followers what was noted.
    pub(super) fn show(&self) {
        let newest = self.lock().next - 1;
        self.grown.notify_all();
        self.newest.send_if_modified(|shown| std::mem::replace(shown, newest) != newest);
    }

    /// Ends the journal.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.grown.notify_all();
        self.newest.send_modify(|_| {});
    }

    /// `most` entries from number `from` on, as far as they are kept.
    pub(crate) fn read(&self, from: u64, most: usize) -> Batch {
        let inner = self.lock();
        let oldest = inner.next - inner.entries.len() as u64;
        let gap = (from < oldest).then(|| (from, oldest - 1));
        let from = from.max(oldest);
        let skipped = usize::try_from(from - oldest).unwrap_or(usize::MAX);
        let entries: Vec<_> = inner.entries.iter().skip(skipped).take(most).cloned().collect();
        let next = from + entries.len() as u64;
        Batch { gap, next, closed: inner.closed && next >= inner.next, entries }
    }

    /// The number of the newest entry.
    pub(crate) fn newest(&self) -> u64 {
        self.lock().next - 1
    }

    /// Who has what now: the number of the entry that was the last one, and everything that is held.
    pub(crate) fn state(&self) -> (u64, Vec<Held>) {
        let inner = self.lock();
        (inner.next - 1, inner.table.values().cloned().collect())
    }

    /// Who has this port now.
    pub(crate) fn holders(&self, public: Ipv4Addr, port: u16, protocol: Protocol) -> Vec<Held> {
        let inner = self.lock();
        let low = Place { public, first: 0, last: 0 };
        let of_address = inner.table.range((low, None)..).map(|(_, held)| held);
        of_address
            .take_while(|held| held.place.public == public)
            .filter(|held| held.covers(public, port, protocol))
            .cloned()
            .collect()
    }

    /// Waits until there is an entry of number `next`, for `patience` at most.
    pub(crate) fn wait(&self, next: u64, patience: Duration) {
        let nothing = |inner: &mut Inner| inner.next <= next && !inner.closed;
        drop(self.grown.wait_timeout_while(self.lock(), patience, nothing));
    }

    /// Waits until the journal is closed, for `patience` at most.
    pub(crate) fn wait_closed(&self, patience: Duration) {
        drop(self.grown.wait_timeout_while(self.lock(), patience, |inner| !inner.closed));
    }

    /// Whether nothing comes any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// A way to wait for further entries: its value is the newest number.
    pub(crate) fn follow(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }

    /// Entries of every kind so far, by [`Happening::index`].
    pub(crate) fn counts(&self) -> [u64; Happening::COUNT] {
        std::array::from_fn(|index| self.counts[index].load(Ordering::Relaxed))
    }
}

impl Inner {
    /// What speaks against noting a change of who has what; `None`: nothing.
    fn contradiction(&self, what: &Happening) -> Option<Noted> {
        let Happening::Block { allotted, place, subscriber, overlay, .. } = what else {
            return None;
        };
        let held = self.table.get(&key(*place, None));
        let same = held.map(|held| (held.subscriber, held.overlay) == (*subscriber, *overlay));
        match (allotted, same) {
            (true, None) | (false, Some(true)) => None,
            (true, Some(false)) => Some(Noted::Early),
            (true, Some(true)) | (false, None | Some(false)) => Some(Noted::Known),
        }
    }

    fn apply(&mut self, entry: &Arc<Entry>) {
        let (gained, key, subscriber, overlay) = match &entry.what {
            Happening::Block { allotted, place, subscriber, overlay, .. } => {
                (*allotted, key(*place, None), *subscriber, *overlay)
            }
            Happening::Fixed { added, place, subscriber, fixed } => {
                (*added, key(*place, Some(fixed)), *subscriber, 0)
            }
            _ => return,
        };
        if gained {
            let entry = Arc::clone(entry);
            self.table.insert(key, Held { place: key.0, subscriber, overlay, entry });
        } else {
            self.table.remove(&key);
        }
    }
}
