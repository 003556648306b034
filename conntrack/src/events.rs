//! What should somebody be told? What happened, in order, in a bounded queue: limits that are near or reached, blocks
//! that change hands and, if they are asked for, sessions.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::occurrence::{BlockChange, Record, SessionChange, What};
use crate::pool::{PoolId, PoolSettings};
use crate::time::Timestamp;

/// Records that wait to be taken at most.
const QUEUE: usize = 4096;
/// The same is not told again for this long.
const INTERVAL: Duration = Duration::from_secs(1);

/// A limit for one subscriber.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// Blocks.
    Blocks,
    /// Sessions.
    Sessions,
    /// TCP sessions before the handshake is complete.
    HalfOpen,
    /// Public ports of one protocol in use.
    Ports,
    /// New sessions a second.
    Rate,
}

impl Limit {
    /// The lower-case name, as used in logs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Blocks => "blocks",
            Self::Sessions => "sessions",
            Self::HalfOpen => "half-open",
            Self::Ports => "ports",
            Self::Rate => "rate",
        }
    }
}

/// What has happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EventKind {
    /// A subscriber has reached a soft limit (RFC 6888 REQ-11c: before).
    QuotaSoft(Limit),
    /// A subscriber was refused a flow by a hard limit (RFC 6888 REQ-11c: at exhaustion).
    QuotaExhausted(Limit),
    /// Nine tenths of a pool's blocks are held.
    PoolThreshold,
    /// A flow was refused because no address had a block to give.
    PoolExhausted,
    /// A subscriber got a block on another address than its own (RFC 7857 section 4; decision D6).
    Spill,
    /// No port of the region for DNS was found for a server.
    ScatterFull,
    /// The session table is nine tenths full.
    TableThreshold,
    /// A flow was refused because the session table was full.
    TableFull,
    /// A port rested for less than it should, because too many rest (RFC 6888 REQ-8.1).
    HoldDownOverflow,
}

impl EventKind {
    /// How many kinds [`index`](Self::index) tells apart.
    pub const COUNT: usize = 9;

    /// The names of all kinds, by [`index`](Self::index).
    pub const NAMES: [&'static str; Self::COUNT] = [
        "quota-soft",
        "quota-exhausted",
        "pool-threshold",
        "pool-exhausted",
        "spill",
        "scatter-full",
        "table-threshold",
        "table-full",
        "hold-down-overflow",
    ];

    /// A dense index of the kinds; limits are not told apart.
    pub const fn index(self) -> usize {
        match self {
            Self::QuotaSoft(_) => 0,
            Self::QuotaExhausted(_) => 1,
            Self::PoolThreshold => 2,
            Self::PoolExhausted => 3,
            Self::Spill => 4,
            Self::ScatterFull => 5,
            Self::TableThreshold => 6,
            Self::TableFull => 7,
            Self::HoldDownOverflow => 8,
        }
    }

    /// The name, as used in logs and metrics.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.index()]
    }
}

/// Something that an operator may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// What.
    pub kind: EventKind,
    /// In which pool, unless it concerns the whole table.
    pub pool: Option<PoolId>,
    /// Whose flow brought it about.
    pub subscriber: Option<Ipv4Addr>,
    /// How much there is: blocks, sessions, ports.
    pub used: u64,
    /// How much there may be.
    pub limit: u64,
}

/// When something was told last: never sooner again than after [`INTERVAL`].
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Told(Option<Timestamp>);

impl Told {
    /// Whether it may be told now; then it counts as told.
    pub(crate) fn tell(&mut self, now: Timestamp) -> bool {
        let may = self.0.is_none_or(|last| now.since(last) >= INTERVAL);
        if may {
            self.0 = Some(now);
        }
        may
    }
}

/// The events of one NAT.
#[derive(Debug, Default)]
pub(crate) struct Events {
    queue: VecDeque<Record>,
    /// Sessions are recorded too.
    sessions: bool,
    /// Some pool wants those in its region for DNS recorded.
    scattered: bool,
    /// By pool and kind; the first row is for those without pool.
    told: Vec<[Told; EventKind::COUNT]>,
    counts: [u64; EventKind::COUNT],
    /// Records that found the queue full, ever, and since the last one that did not.
    lost: u64,
    missing: u64,
    /// When the first of those that are missing happened.
    missing_since: Timestamp,
}

impl Events {
    /// Counts `event`, and keeps it to be taken unless one of its kind and pool was kept just now.
    pub(crate) fn raise(&mut self, event: Event, now: Timestamp) {
        let kind = event.kind.index();
        let row = event.pool.map_or(0, |pool| pool.index() + 1);
        if self.told.len() <= row {
            self.told.resize(row + 1, Default::default());
        }
        self.counts[kind] += 1;
        if self.told[row][kind].tell(now) {
            self.keep(What::Limit(event), now);
        }
    }

    /// The same for an event of one subscriber, who has been told last at `told`: subscribers don't silence
    /// each other.
    pub(crate) fn raise_for(&mut self, told: &mut Told, event: Event, now: Timestamp) {
        self.counts[event.kind.index()] += 1;
        if told.tell(now) {
            self.keep(What::Limit(event), now);
        }
    }

    /// Records that a block changes hands.
    pub(crate) fn block(&mut self, change: BlockChange, now: Timestamp) {
        self.keep(What::Block(change), now);
    }

    /// Whether some sessions are recorded.
    pub(crate) fn has_sessions(&self) -> bool {
        self.sessions || self.scattered
    }

    /// Whether this change of a session is recorded, in a pool of these settings.
    pub(crate) fn wants(&self, change: &SessionChange, settings: Option<&PoolSettings>) -> bool {
        let is_scattered = |settings: &PoolSettings| {
            settings.log_scattered
                && settings.scatters(change.protocol, change.remote.port)
                && settings.scatter_region().is_some_and(|it| it.contains(&change.public.port))
        };
        self.sessions || settings.is_some_and(is_scattered)
    }

    /// From now on, sessions of pools that log those in their region for DNS are recorded, or there is no such pool.
    pub(crate) fn record_scattered(&mut self, scattered: bool) {
        self.scattered = scattered;
    }

    /// From now on, sessions are recorded or not.
    pub(crate) fn record_sessions(&mut self, sessions: bool) {
        self.sessions = sessions;
    }

    /// Records that a session begins or ends.
    pub(crate) fn session(&mut self, change: SessionChange, now: Timestamp) {
        self.keep(What::Session(change), now);
    }

    /// Nothing is left out silently: where records are missing, one says how many.
    fn keep(&mut self, what: What, now: Timestamp) {
        if self.missing > 0 && self.queue.len() + 1 < QUEUE {
            let missing = std::mem::take(&mut self.missing);
            self.queue.push_back(Record { at: self.missing_since, what: What::Missing(missing) });
        }
        if self.missing == 0 && self.queue.len() < QUEUE {
            self.queue.push_back(Record { at: now, what });
        } else {
            if self.missing == 0 {
                self.missing_since = now;
            }
            self.missing += 1;
            self.lost += 1;
        }
    }

    pub(crate) fn take(&mut self) -> Option<Record> {
        let next = self.queue.pop_front();
        if next.is_some() || self.missing == 0 {
            return next;
        }
        let missing = std::mem::take(&mut self.missing);
        Some(Record { at: self.missing_since, what: What::Missing(missing) })
    }

    /// Whether there is nothing to take.
    #[inline]
    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.missing == 0
    }

    /// How often each kind has happened, told or not.
    pub(crate) fn counts(&self) -> [u64; EventKind::COUNT] {
        self.counts
    }

    /// Records that found the queue full.
    pub(crate) fn lost(&self) -> u64 {
        self.lost
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(kind: EventKind, pool: u16) -> Event {
        Event { kind, pool: Some(PoolId(pool)), subscriber: None, used: 1, limit: 1 }
    }

    // Proves: 6888-REQ-11c, 8158-S5.2
    #[test]
    fn the_same_is_told_once_a_second_and_counted_always() {
        let mut events = Events::default();
        for ms in (0..3_000).step_by(10) {
            let now = Timestamp::from_millis(ms);
            events.raise(event(EventKind::PoolExhausted, 0), now);
            events.raise(event(EventKind::PoolExhausted, 1), now);
            events.raise(event(EventKind::Spill, 1), now);
        }
        let taken: Vec<Record> = std::iter::from_fn(|| events.take()).collect();
        assert_eq!(taken.len(), 9);
        assert_eq!(events.counts()[EventKind::PoolExhausted.index()], 600);
        assert_eq!((events.counts()[EventKind::Spill.index()], events.lost()), (300, 0));
    }

    #[test]
    fn the_queue_is_bounded_and_says_what_is_missing_where_it_is() {
        let mut events = Events::default();
        let raise = |events: &mut Events, ms| {
            let soft = event(EventKind::QuotaSoft(Limit::Blocks), 0);
            events.raise_for(&mut Told::default(), soft, Timestamp::from_millis(ms));
        };
        let missing =
            |count, ms| Some(Record { at: Timestamp::from_millis(ms), what: What::Missing(count) });
        let full = QUEUE as u64;
        (0..full + 700).for_each(|ms| raise(&mut events, ms));
        assert_eq!(events.lost(), 700);
        // With room for one alone, nothing can be added: the gap has to come first.
        events.take();
        raise(&mut events, full + 700);
        events.take();
        raise(&mut events, full + 701);
        let taken: Vec<Record> = std::iter::from_fn(|| events.take()).collect();
        assert_eq!(taken.len(), QUEUE);
        assert_eq!(Some(taken[QUEUE - 2]), missing(701, full));
        assert_eq!(taken[QUEUE - 1].at, Timestamp::from_millis(full + 701));
        assert_eq!(events.lost(), 701);
        // It is also said if nothing comes after it.
        (0..full + 3).for_each(|ms| raise(&mut events, ms));
        let last = std::iter::from_fn(|| events.take()).last();
        assert_eq!(last, missing(3, full));
        assert_eq!(events.take(), None);
    }

    #[test]
    fn names_follow_the_index() {
        let names: std::collections::HashSet<_> = EventKind::NAMES.into_iter().collect();
        assert_eq!(names.len(), EventKind::COUNT);
        assert_eq!(EventKind::HoldDownOverflow.name(), "hold-down-overflow");
        assert_eq!(EventKind::QuotaSoft(Limit::Rate).name(), "quota-soft");
    }
}
