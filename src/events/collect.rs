//! Who takes what workers record? One thread, which looks at their rings a hundred times a second.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use conntrack::{BlockChange, Event, PoolId, Protocol, Record, SessionChange, Timestamp, What};
use dataplane::forward::Forwards;
use dataplane::snapshot::{Policy, Published, Snapshot};
use dataplane::worker::Clock;
use rtrb::{Consumer, Producer, RingBuffer};
use tracing::{info, warn};

use crate::run::confine;

use super::clock::unix_ms;
use super::entry::{Crash, Fixed, Happening, Known, Place, limit_of};
use super::journal::{Journal, Noted};

/// Records that a ring holds: what a worker may record between two looks.
const RING: usize = 1 << 14;
/// Records taken from a ring before the others have their turn.
const TURN: usize = 4096;
/// How often the rings are looked at.
const LOOK: Duration = Duration::from_millis(10);
/// The record of the end of a block is waited for so long before its next holder is noted without.
const PATIENCE: Duration = Duration::from_secs(2);
/// How often the clock is looked at.
const CLOCK: Duration = Duration::from_millis(250);

/// A ring for each worker.
#[derive(Debug)]
pub(crate) struct Rings(Vec<Consumer<Record>>);

impl Rings {
    /// Rings for so many workers, and the workers' ends.
    pub(crate) fn new(workers: usize) -> (Self, Vec<Producer<Record>>) {
        Self::with_room(workers, RING)
    }

    /// The same, for so many records each.
    pub(super) fn with_room(workers: usize, room: usize) -> (Self, Vec<Producer<Record>>) {
        let (producers, consumers) = (0..workers).map(|_| RingBuffer::new(room)).unzip();
        (Self(consumers), producers)
    }
}

/// A record that has to wait for another one: when it is too late, whose it is, and what it says.
type Early = (Timestamp, u16, BlockChange, Timestamp);
/// What a configuration gives away: where, by which object and protocol, and to whom.
type Given = BTreeMap<(Place, Option<u8>), (Ipv4Addr, Fixed)>;

/// What the natgate before has to do with this one.
#[derive(Debug, Default)]
pub(crate) struct Before {
    /// Blocks that it recorded, and left to this one.
    pub(crate) restored: Vec<BlockChange>,
    /// It ended without a word.
    pub(crate) crash: Option<Crash>,
}

/// All blocks that are held under `policy`.
pub(crate) fn held_blocks(policy: &Policy) -> Vec<BlockChange> {
    let mut held = Vec::new();
    for pool in &policy.pools {
        for address in &pool.addresses {
            for directory in [&address.low, &address.directory] {
                held.extend(directory.held_blocks().map(|(number, holder)| {
                    let ports = (address.addr, directory.ports(number));
                    BlockChange::new(true, pool.id, ports, holder)
                }));
            }
        }
    }
    held
}

/// The thread that takes records.
#[derive(Debug)]
pub(crate) struct Collector {
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Collector {
    /// Starts it. What there is from `before` is noted at once.
    pub(crate) fn start(
        journal: Arc<Journal>,
        rings: Rings,
        snapshot: Arc<Published<Snapshot>>,
        clock: Clock,
        destinations: bool,
        before: Before,
    ) -> std::io::Result<Self> {
        let mut take = Take::new(journal, rings, snapshot, destinations);
        take.begin(before, clock.now());
        let stop = Arc::new(AtomicBool::new(false));
        let stopping = Arc::clone(&stop);
        let body = move || {
            confine::powerless();
            loop {
                // Read before the rings are, so that nothing comes after the last look.
                let last = stopping.load(Ordering::Acquire);
                let taken = take.round(clock.now(), unix_ms());
                if taken == 0 {
                    if last {
                        break take.end(clock.now());
                    }
                    std::thread::sleep(LOOK);
                }
            }
        };
        let thread = std::thread::Builder::new().name("natgate-events".into()).spawn(body)?;
        Ok(Self { stop, thread: Some(thread) })
    }

    /// Takes what is left, and ends the journal. To be called when the workers have ended.
    pub(crate) fn stop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            // If it has panicked, the process is about to end.
            let _ = thread.join();
        }
    }
}

/// What the thread has in its hands.
#[derive(Debug)]
pub(super) struct Take {
    journal: Arc<Journal>,
    rings: Vec<Consumer<Record>>,
    snapshot: Arc<Published<Snapshot>>,
    /// Peers are noted with sessions.
    destinations: bool,
    /// As of this version of the snapshot.
    version: u64,
    pools: Vec<Arc<str>>,
    vnis: HashMap<u16, u32>,
    given: Given,
    early: Vec<Early>,
    next_clock: Timestamp,
}

impl Take {
    pub(super) fn new(
        journal: Arc<Journal>,
        Rings(rings): Rings,
        snapshot: Arc<Published<Snapshot>>,
        destinations: bool,
    ) -> Self {
        Self {
            journal,
            rings,
            snapshot,
            destinations,
            version: 0,
            pools: Vec::new(),
            vnis: HashMap::new(),
            given: Given::new(),
            early: Vec::new(),
            next_clock: Timestamp::default(),
        }
    }

    /// What workers have given back of `before` since they have it is in their rings.
    pub(super) fn begin(&mut self, before: Before, now: Timestamp) {
        self.journal.note(None, now, Happening::Started);
        if let Some(crash) = before.crash {
            self.journal.note(None, now, Happening::Crashed(crash));
        }
        self.follow_snapshot(now);
        for change in before.restored {
            self.note_block(change.holder.worker, change, now, Known::Restored);
        }
        self.journal.show();
    }

    fn end(&mut self, now: Timestamp) {
        self.resolve_early(Timestamp::from_millis(u64::MAX));
        self.journal.note(None, now, Happening::Stopped);
        self.journal.show();
        self.journal.close();
    }

    /// Takes what the rings have; how many records there were.
    pub(super) fn round(&mut self, now: Timestamp, unix_ms: u64) -> usize {
        if now >= self.next_clock {
            self.next_clock = now + CLOCK;
            self.journal.look_at_clock(now, unix_ms);
        }
        self.follow_snapshot(now);
        let before = self.journal.newest();
        let (mut taken, mut missing) = (0, false);
        for worker in 0..self.rings.len() {
            for _ in 0..TURN {
                let Ok(record) = self.rings[worker].pop() else { break };
                taken += 1;
                missing |= matches!(record.what, What::Missing(_));
                self.take(worker as u16, record, now);
            }
        }
        self.resolve_early(now);
        if missing {
            self.compare(now);
        }
        if self.journal.newest() != before {
            self.journal.show();
        }
        taken
    }

    fn take(&mut self, worker: u16, record: Record, now: Timestamp) {
        let at = record.at;
        let what = match record.what {
            What::Block(change) => return self.take_block(worker, change, at, now),
            What::Session(change) => self.session(&change),
            What::Limit(event) => {
                let limit = self.limit(&event);
                report(&limit);
                limit
            }
            What::Missing(count) => {
                warn!(worker, count, "records of events were lost: the control thread was slow");
                Happening::Missing(count)
            }
        };
        self.journal.note(Some(worker), at, what);
    }

    /// Between two workers, the record of a block's end may come after that of its next beginning.
    fn take_block(&mut self, worker: u16, change: BlockChange, at: Timestamp, now: Timestamp) {
        let same = |it: &BlockChange| (it.public, it.first) == (change.public, change.first);
        let behind = change.allotted && self.early.iter().any(|(.., it, _)| same(it));
        let own = |it: &BlockChange| same(it) && it.holder == change.holder;
        let behind = behind || self.early.iter().any(|(.., it, _)| own(it));
        if behind || self.note_block(worker, change, at, Known::Recorded) == Noted::Early {
            self.early.push((now + PATIENCE, worker, change, at));
        }
    }

    fn note_block(&self, worker: u16, change: BlockChange, at: Timestamp, known: Known) -> Noted {
        let happening = self.block(&change, known);
        self.journal.note(Some(worker), at, happening)
    }

    /// Notes what had to wait, as far as it has waited enough.
    fn resolve_early(&mut self, now: Timestamp) {
        let mut waiting = std::mem::take(&mut self.early);
        let mut blocked = HashSet::new();
        waiting.retain(|(until, worker, change, at)| {
            let place = (change.public, change.first);
            // In the order in which they came.
            if blocked.contains(&place) {
                return true;
            }
            if self.note_block(*worker, *change, *at, Known::Recorded) != Noted::Early {
                return false;
            }
            if now < *until {
                blocked.insert(place);
                return true;
            }
            // Its end was never recorded: it has ended when the next one began.
            let held = self.journal.holders(change.public, change.first, Protocol::Tcp);
            for held in held.iter().filter(|held| held.fixed().is_none()) {
                let holder = conntrack::Holder {
                    subscriber: held.subscriber,
                    overlay: held.overlay,
                    worker: *worker,
                };
                let ended = BlockChange { allotted: false, holder, ..*change };
                self.note_block(*worker, ended, *at, Known::Found);
            }
            self.note_block(*worker, *change, *at, Known::Recorded);
            false
        });
        self.early = waiting;
    }

    /// Brings the journal up to what the directories say, where records are missing.
    fn compare(&mut self, now: Timestamp) {
        let held = held_blocks(&self.snapshot.get().policy).into_iter();
        let held: HashMap<_, _> = held.map(|it| ((it.public, it.first), it)).collect();
        let (_, known) = self.journal.state();
        let mut found = 0_u64;
        for known in known.iter().filter(|known| known.fixed().is_none()) {
            let Happening::Block { pool_id, .. } = known.entry.what else { continue };
            let now_held = held.get(&(known.place.public, known.place.first));
            let who = (known.subscriber, known.overlay);
            if now_held.is_none_or(|it| (it.holder.subscriber, it.holder.overlay) != who) {
                let holder =
                    conntrack::Holder { subscriber: who.0, overlay: who.1, worker: u16::MAX };
                let ports = (known.place.public, known.place.first..=known.place.last);
                let change = BlockChange::new(false, PoolId(pool_id), ports, holder);
                self.journal.note(known.entry.worker, now, self.block(&change, Known::Found));
                found += 1;
            }
        }
        for change in held.values() {
            let noted = self.note_block(change.holder.worker, *change, now, Known::Found);
            found += u64::from(noted == Noted::New);
        }
        if found > 0 {
            info!(
                changes = found,
                "port blocks that changed hands unrecorded are in the journal now"
            );
        }
    }

    fn follow_snapshot(&mut self, now: Timestamp) {
        let Some(snapshot) = self.snapshot.newer(&mut self.version) else { return };
        self.pools = snapshot.policy.pools.iter().map(|pool| pool.name.as_str().into()).collect();
        let overlays = snapshot.interfaces.iter().filter(|interface| interface.overlay != 0);
        // Kept when a device goes: records of its pods may still come.
        self.vnis.extend(overlays.filter_map(|it| Some((it.overlay, it.tunnel?.vni))));
        let given = given(&snapshot.policy.forwards, &|pod, vni| {
            let routed = || self.vni(snapshot.overlay_of(pod, None)?);
            vni.or_else(routed)
        });
        let before = std::mem::take(&mut self.given);
        for (key, value) in before.iter().filter(|(key, value)| given.get(key) != Some(value)) {
            self.note_fixed(false, key.0, value, now);
        }
        for (key, value) in given.iter().filter(|(key, value)| before.get(key) != Some(value)) {
            self.note_fixed(true, key.0, value, now);
        }
        self.given = given;
    }

    fn note_fixed(&self, added: bool, place: Place, value: &(Ipv4Addr, Fixed), now: Timestamp) {
        let (subscriber, fixed) = value.clone();
        self.journal.note(None, now, Happening::Fixed { added, place, subscriber, fixed });
    }

    fn pool(&self, id: PoolId) -> Arc<str> {
        let known = self.pools.get(id.index()).cloned();
        known.unwrap_or_else(|| format!("#{}", id.0).into())
    }

    fn vni(&self, overlay: u16) -> Option<u32> {
        self.vnis.get(&overlay).copied()
    }

    fn block(&self, change: &BlockChange, known: Known) -> Happening {
        let BlockChange { allotted, pool, public, first, last, holder } = *change;
        Happening::Block {
            allotted,
            place: Place { public, first, last },
            subscriber: holder.subscriber,
            overlay: holder.overlay,
            vni: self.vni(holder.overlay),
            pool: self.pool(pool),
            pool_id: pool.0,
            known,
        }
    }

    fn session(&self, change: &SessionChange) -> Happening {
        let SessionChange { began, protocol, pool, overlay, internal, public, remote } = *change;
        Happening::Session {
            began,
            protocol,
            internal,
            overlay,
            vni: self.vni(overlay),
            public,
            remote: self.destinations.then_some(remote),
            pool: self.pool(pool),
        }
    }

    fn limit(&self, event: &Event) -> Happening {
        let Event { kind, pool, subscriber, used, limit } = *event;
        let pool = pool.map(|id| (self.pool(id), id.0));
        Happening::Limit { kind, pool, subscriber, used, limit }
    }
}

/// What a configuration gives to pods, and what it gave to those who still have sessions there. `vni` tells the network of
/// a pod from its address and what the object says.
fn given(forwards: &Forwards, vni: &dyn Fn(Ipv4Addr, Option<u32>) -> Option<u32>) -> Given {
    let mut all = forwards.former().map(|it| given(it, vni)).unwrap_or_default();
    let ported = forwards.forwards().iter().map(|forward| {
        let (first, last) = (*forward.ports.start(), *forward.ports.end());
        let place = Place { public: forward.address, first, last };
        let fixed = Fixed {
            name: forward.name.as_str().into(),
            protocol: Some(forward.protocol),
            target_port: forward.target_port,
            vni: vni(forward.target, forward.vni),
        };
        ((place, Some(forward.protocol.number())), (forward.target, fixed))
    });
    let whole = forwards.statics().iter().map(|one| {
        let place = Place { public: one.address, first: 0, last: u16::MAX };
        let fixed = Fixed {
            name: one.name.as_str().into(),
            protocol: None,
            target_port: 0,
            vni: vni(one.target, one.vni),
        };
        ((place, None), (one.target, fixed))
    });
    all.extend(ported.chain(whole));
    all
}

/// One line of the log for a limit that is near or reached (RFC 6888 REQ-11c).
fn report(limit: &Happening) {
    let Happening::Limit { kind, pool, subscriber, used, limit } = limit else { return };
    let pool = pool.as_ref().map_or("-", |(name, _)| name);
    let subscriber = subscriber.map_or_else(|| "-".to_owned(), |addr| addr.to_string());
    let of = limit_of(*kind).map_or("-", |limit| limit.name());
    warn!(kind = kind.name(), pool, subscriber, of, used, limit, "a limit is near or reached");
}
