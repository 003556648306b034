//! What should somebody be told? Limits that are near or reached, in a bounded queue.

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::time::Duration;

use crate::pool::PoolId;
use crate::time::Timestamp;

/// Events that wait to be taken at most.
const QUEUE: usize = 256;
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
    queue: VecDeque<Event>,
    /// By pool and kind; the first row is for those without pool.
    told: Vec<[Told; EventKind::COUNT]>,
    counts: [u64; EventKind::COUNT],
    lost: u64,
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
            self.keep(event);
        }
    }

    /// The same for an event of one subscriber, who has been told last at `told`: subscribers don't silence
    /// each other.
    pub(crate) fn raise_for(&mut self, told: &mut Told, event: Event, now: Timestamp) {
        self.counts[event.kind.index()] += 1;
        if told.tell(now) {
            self.keep(event);
        }
    }

    fn keep(&mut self, event: Event) {
        if self.queue.len() < QUEUE {
            self.queue.push_back(event);
        } else {
            self.lost += 1;
        }
    }

    pub(crate) fn take(&mut self) -> Option<Event> {
        self.queue.pop_front()
    }

    /// How often each kind has happened, told or not.
    pub(crate) fn counts(&self) -> [u64; EventKind::COUNT] {
        self.counts
    }

    /// Events that found the queue full.
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

    // Proves: 6888-REQ-11c
    #[test]
    fn the_same_is_told_once_a_second_and_counted_always() {
        let mut events = Events::default();
        for ms in (0..3_000).step_by(10) {
            let now = Timestamp::from_millis(ms);
            events.raise(event(EventKind::PoolExhausted, 0), now);
            events.raise(event(EventKind::PoolExhausted, 1), now);
            events.raise(event(EventKind::Spill, 1), now);
        }
        let taken: Vec<Event> = std::iter::from_fn(|| events.take()).collect();
        assert_eq!(taken.len(), 9);
        assert_eq!(events.counts()[EventKind::PoolExhausted.index()], 600);
        assert_eq!((events.counts()[EventKind::Spill.index()], events.lost()), (300, 0));
    }

    #[test]
    fn the_queue_is_bounded() {
        let mut events = Events::default();
        for n in 0..1_000 {
            let now = Timestamp::from_millis(n);
            let soft = event(EventKind::QuotaSoft(Limit::Blocks), 0);
            events.raise_for(&mut Told::default(), soft, now);
        }
        assert_eq!(std::iter::from_fn(|| events.take()).count(), QUEUE);
        assert_eq!(events.lost(), 1_000 - QUEUE as u64);
    }

    #[test]
    fn names_follow_the_index() {
        let names: std::collections::HashSet<_> = EventKind::NAMES.into_iter().collect();
        assert_eq!(names.len(), EventKind::COUNT);
        assert_eq!(EventKind::HoldDownOverflow.name(), "hold-down-overflow");
        assert_eq!(EventKind::QuotaSoft(Limit::Rate).name(), "quota-soft");
    }
}
