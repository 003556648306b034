//! The journal under random traffic of several NATs, with rings too small and clocks that jump.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use conntrack::{
    Admission, BlockChange, Endpoint, FlowKey, HoldDown, Nat, Pool, PoolId, PoolSettings, Protocol,
    Quota, Realm, Record, Secret, Timestamp, What,
};
use dataplane::forward::{Forwards, PortForward, StaticNat};
use dataplane::rule::RuleSet;
use dataplane::snapshot::{Answers, Policy, Published, Snapshot};
use rtrb::Producer;

use super::collect::{Before, Rings, Take, held_blocks};
use super::entry::{Crash, Row};
use super::journal::Journal;

const POOL: Admission = Admission { pool: PoolId(0), rule: 0 };
const UNIX_MS: u64 = 1_772_373_720_000;

/// Public address, first and last port, protocol of what is configured; and whose.
pub(super) type Table = BTreeMap<(String, u16, u16, String), (String, u16)>;

/// Takes a row over. What is contradictory panics.
pub(super) fn replay(row: &Row, table: &mut Table) {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let protocol = match row.kind.as_str() {
        "fixed-added" | "fixed-removed" => row.protocol.clone().unwrap_or("all".into()),
        "block-allotted" | "block-released" => String::new(),
        _ => return,
    };
    let place = (text(&row.public), row.first.unwrap(), row.last.unwrap(), protocol);
    let whose = (text(&row.subscriber), row.overlay.unwrap_or_default());
    if row.kind.ends_with("ed") && (row.kind == "block-allotted" || row.kind == "fixed-added") {
        let before = table.insert(place, whose);
        assert_eq!(before, None, "{row:?}");
    } else {
        assert_eq!(table.remove(&place).as_ref(), Some(&whose), "{row:?}");
    }
}

/// What the directories of `pool` say.
pub(super) fn held(pool: &Pool) -> Table {
    let mut table = Table::new();
    for address in &pool.addresses {
        for directory in [&address.low, &address.directory] {
            for (number, holder) in directory.held_blocks() {
                let (first, last) = directory.ports(number).into_inner();
                let place = (address.addr.to_string(), first, last, String::new());
                table.insert(place, (holder.subscriber.to_string(), holder.overlay));
            }
        }
    }
    table
}

/// Several NATs with one pool, and the journal of what they do.
pub(super) struct Rig {
    pub(super) pool: Arc<Pool>,
    pub(super) journal: Arc<Journal>,
    pub(super) take: Take,
    pub(super) snapshot: Arc<Published<Snapshot>>,
    nats: Vec<(Nat, Producer<Record>)>,
    secret: Secret,
    step: u64,
}

pub(super) fn policy(pool: &Arc<Pool>, forwards: Forwards) -> Snapshot {
    let rules = RuleSet::new(Vec::new());
    let policy = Policy::new(1, vec![Arc::clone(pool)], rules, forwards, Answers::default());
    Snapshot { interfaces: Vec::new(), policy: Arc::new(policy), roads: Arc::default() }
}

impl Rig {
    /// Rings of `room` records, a journal of `kept`.
    pub(super) fn new(workers: u16, room: usize, kept: usize, seed: u64) -> Self {
        let hold_down = HoldDown { block: Duration::ZERO, ..PoolSettings::default().hold_down };
        let quota = Quota { blocks: 6, ..PoolSettings::default().quota };
        let ports = 1024..=3071;
        let settings = PoolSettings { hold_down, quota, ports, ..PoolSettings::default() };
        let addresses = (1..=3).map(|n| Ipv4Addr::new(203, 0, 113, n));
        let pool = Arc::new(Pool::new(PoolId(0), "main", settings, addresses));
        let secret = Secret::from_seed(seed);
        let (rings, producers) = Rings::with_room(usize::from(workers), room);
        let nats = producers.into_iter().enumerate().map(|(number, producer)| {
            let nat = Nat::new(number as u16, 5_000, secret.clone(), Timestamp::default());
            let mut nat = nat.with_workers(workers);
            nat.adopt(&[Arc::clone(&pool)]);
            (nat, producer)
        });
        let snapshot = Arc::new(Published::new(policy(&pool, Forwards::default())));
        let journal = Arc::new(Journal::with_room(Timestamp::default(), kept));
        let mut take = Take::new(Arc::clone(&journal), rings, Arc::clone(&snapshot), false);
        take.begin(Before::default(), Timestamp::default());
        let nats = nats.collect();
        Self { pool, journal, take, snapshot, nats, secret, step: 0 }
    }

    /// From now on, sessions are recorded too.
    pub(super) fn record_sessions(&mut self) {
        self.nats.iter_mut().for_each(|(nat, _)| nat.record_sessions(true));
    }

    /// The time of day, if nobody sets it.
    pub(super) fn unix_ms(now: Timestamp) -> u64 {
        UNIX_MS + now.as_millis()
    }

    /// A tenth of a second of traffic in waves; the time then.
    pub(super) fn step(&mut self) -> Timestamp {
        self.step += 1;
        let now = Timestamp::from_millis(self.step * 100);
        for flow in 0..3_u8 {
            let random = self.secret.scramble((self.step, flow));
            let host = (random >> 8) as u8 % 60;
            let worker = usize::from(host) % self.nats.len();
            let (nat, _) = &mut self.nats[worker];
            let src = Endpoint::new(Ipv4Addr::new(10, 0, 0, host), (random >> 16) as u16);
            let dst = Endpoint::new(Ipv4Addr::new(192, 0, 2, 1), 443);
            let (protocol, realm) = (Protocol::Icmp, Realm::Internal);
            let key = FlowKey { src, dst, protocol, realm, overlay: u16::from(host % 2) };
            if self.step % 2_500 < 900 {
                let _ = nat.open(&key, POOL, None, now);
            }
        }
        for (nat, producer) in &mut self.nats {
            nat.expire(now, 500);
            while producer.slots() > 0
                && let Some(record) = nat.take_record()
            {
                producer.push(record).unwrap();
            }
        }
        now
    }

    /// Takes all that is there.
    pub(super) fn collect(&mut self, now: Timestamp) {
        while self.take.round(now, Self::unix_ms(now)) > 0 {}
    }
}

/// Reads from `next` on, and checks that no number is left out.
fn follow(rig: &Rig, next: &mut u64, mut each: impl FnMut(&Row)) {
    loop {
        let batch = rig.journal.read(*next, 100);
        assert_eq!(batch.gap, None);
        for entry in &batch.entries {
            assert_eq!(entry.seq, *next);
            *next += 1;
            let text = serde_json::to_string(&Row::from(&**entry)).unwrap();
            each(&serde_json::from_str(&text).unwrap());
        }
        if batch.entries.is_empty() {
            return;
        }
    }
}

#[test]
fn the_rows_replayed_give_the_block_table_at_any_time() {
    for (workers, seed) in [(1, 1), (2, 2), (3, 3)] {
        let mut rig = Rig::new(workers, 4096, 1 << 16, seed);
        let (mut table, mut next, mut most, mut rows) = (Table::new(), 1, 0, 0);
        for step in 0..10_000 {
            let now = rig.step();
            if step % 3 == 0 {
                rig.collect(now);
                follow(&rig, &mut next, |row| {
                    replay(row, &mut table);
                    rows += 1;
                });
                assert_eq!(table, held(&rig.pool), "step {step}");
                let (as_of, state) = rig.journal.state();
                assert_eq!((as_of, state.len()), (next - 1, table.len()));
                most = most.max(table.len());
            }
        }
        assert!(most > 30 && rows > 200, "{most} blocks, {rows} rows");
    }
}

/// A slow collector loses records; the journal says how many, and is right again at once.
#[test]
fn what_is_lost_is_said_and_made_good() {
    let mut rig = Rig::new(2, 4, 1 << 16, 9);
    let (mut table, mut next, mut missing, mut found) = (Table::new(), 1, 0, 0);
    // The NATs' own queues have room for 4,096 records each, so sessions fill them too.
    rig.record_sessions();
    let mut kinds = BTreeMap::<String, u64>::new();
    for step in 1..=30_000 {
        let now = rig.step();
        if step % 6_000 == 0 {
            // All that waits, in rings of four.
            for _ in 0..5_000 {
                rig.collect(now);
                rig.nats.iter_mut().for_each(|(nat, producer)| {
                    while producer.slots() > 0
                        && let Some(record) = nat.take_record()
                    {
                        producer.push(record).unwrap();
                    }
                });
            }
            rig.collect(now);
            follow(&rig, &mut next, |row| {
                *kinds.entry(row.kind.clone()).or_default() += 1;
                missing += if row.kind == "missing" { row.count.unwrap() } else { 0 };
                found += u64::from(row.found);
                replay(row, &mut table);
            });
            assert_eq!(table, held(&rig.pool), "step {step}");
        }
    }
    let stats: Vec<_> = rig.nats.iter().map(|(nat, _)| nat.stats()).collect();
    let lost: u64 = stats.iter().map(|stats| stats.records_lost).sum();
    assert!(lost > 1_000 && found > 0, "{lost} {found} {kinds:?}");
    assert_eq!(missing, lost);
    // Every session is accounted for: recorded, or among those that are missing.
    let created: u64 = stats.iter().map(|stats| stats.created + stats.ended).sum();
    let recorded = kinds["session-began"] + kinds["session-ended"];
    assert!(recorded < created && recorded + lost >= created, "{recorded} {lost} {created}");
}

#[test]
fn who_reads_too_slowly_finds_a_gap_with_its_numbers() {
    let mut rig = Rig::new(1, 4096, 50, 4);
    for _ in 0..400 {
        let now = rig.step();
        rig.collect(now);
    }
    let newest = rig.journal.newest();
    assert!(newest > 60, "{newest}");
    let batch = rig.journal.read(3, 10);
    assert_eq!((batch.gap, batch.entries.len()), (Some((3, newest - 50)), 10));
    assert_eq!(batch.entries[0].seq, newest - 49);
    assert_eq!(batch.next, newest - 39);
    let row = Row::gap(3, newest - 50, UNIX_MS);
    assert_eq!(row.count, Some(newest - 52));
    assert_eq!(rig.journal.read(newest + 1, 10).gap, None);
}

#[test]
fn what_a_configuration_gives_to_pods_is_told_when_it_changes() {
    let mut rig = Rig::new(1, 64, 1 << 10, 5);
    let target = Ipv4Addr::new(10, 0, 0, 9);
    let forward = |name: &str, target_port: u16| PortForward {
        name: name.into(),
        address: Ipv4Addr::new(203, 0, 113, 1),
        protocol: Protocol::Tcp,
        ports: 8_000..=8_009,
        target,
        target_port,
        vni: Some(42),
        pool: PoolId(0),
    };
    let address = Ipv4Addr::new(203, 0, 113, 77);
    let one = StaticNat { name: "one".into(), address, target, vni: None, pool: PoolId(0) };
    let (mut next, mut table) = (1, Table::new());
    let mut told = |rig: &mut Rig, forwards: Forwards| {
        rig.snapshot.publish(policy(&rig.pool, forwards));
        rig.collect(Timestamp::default());
        let mut rows = Vec::new();
        follow(rig, &mut next, |row| {
            replay(row, &mut table);
            let name = row.name.clone().unwrap_or_default();
            assert_eq!(row.vni, (name == "web").then_some(42), "{row:?}");
            if row.kind != "clock-set" {
                rows.push((row.kind.clone(), name, row.first.unwrap_or(0)));
            }
        });
        rows
    };
    let row = |kind: &str, name: &str, first| (kind.to_owned(), name.to_owned(), first);
    let began = told(&mut rig, Forwards::new(vec![forward("web", 80)], std::slice::from_ref(&one)));
    assert_eq!(
        began,
        [row("started", "", 0), row("fixed-added", "web", 8_000), row("fixed-added", "one", 0)]
    );
    let same = Forwards::new(vec![forward("web", 80)], std::slice::from_ref(&one));
    assert_eq!(told(&mut rig, same), []);
    let other = Forwards::new(vec![forward("web", 81)], &[]);
    assert_eq!(
        told(&mut rig, other),
        [
            row("fixed-removed", "web", 8_000),
            row("fixed-removed", "one", 0),
            row("fixed-added", "web", 8_000)
        ]
    );
    // It opens nothing any more, and still has sessions.
    let former = Forwards::default().with_former(vec![forward("web", 81)], &[]);
    assert_eq!(told(&mut rig, former), []);
    assert_eq!(told(&mut rig, Forwards::default()), [row("fixed-removed", "web", 8_000)]);
    assert_eq!(table, Table::new());
}

/// The next process: its blocks are told as those that they were, and what a worker has given back since it has them is an
/// ordinary end.
#[test]
fn blocks_that_live_through_a_restart_are_no_gap() {
    let mut rig = Rig::new(2, 4096, 1 << 16, 7);
    for _ in 0..400 {
        let now = rig.step();
        rig.collect(now);
    }
    let held_before = held(&rig.pool);
    let restored = held_blocks(&rig.snapshot.get().policy);
    assert!(restored.len() > 5 && restored.len() == held_before.len());
    let journal = Arc::new(Journal::with_room(Timestamp::default(), 1 << 10));
    let (rings, mut producers) = Rings::with_room(1, 8);
    let mut take = Take::new(Arc::clone(&journal), rings, Arc::clone(&rig.snapshot), false);
    // It is free again before anybody has looked.
    let end = BlockChange { allotted: false, ..restored[0] };
    let pool = &rig.snapshot.get().policy.pools[0];
    let address = pool.addresses.iter().find(|it| it.addr == end.public).unwrap();
    let block = address.directory.block_of(end.first);
    address.directory.release(block, end.holder, Duration::ZERO, Timestamp::default());
    producers[0].push(Record { at: Timestamp::default(), what: What::Block(end) }).unwrap();
    let crash = Crash { seen_ms: Some(UNIX_MS), sessions: 9, newest: 8, who: String::new() };
    let before = Before { restored: restored.clone(), crash: Some(crash) };
    take.begin(before, Timestamp::default());
    while take.round(Timestamp::default(), UNIX_MS) > 0 {}
    let entries = journal.read(1, usize::MAX).entries;
    let rows: Vec<Row> = entries.iter().map(|entry| Row::from(&**entry)).collect();
    assert_eq!((rows[0].kind.as_str(), rows[1].kind.as_str()), ("started", "crashed"));
    assert_eq!((rows[1].count, &rows[1].last_seen), (Some(9), &Some(super::rfc3339(UNIX_MS))));
    let (mut table, mut told) = (Table::new(), 0);
    for row in &rows {
        replay(row, &mut table);
        assert!(!row.found, "{row:?}");
        told += usize::from(row.restored && row.kind == "block-allotted");
    }
    assert_eq!((told, table), (restored.len(), held(&rig.pool)));
    let ends = rows.iter().filter(|row| row.kind == "block-released").count();
    assert_eq!((ends, held(&rig.pool).len()), (1, held_before.len() - 1));
}

#[test]
fn a_clock_that_is_set_leaves_a_trace() {
    let mut rig = Rig::new(1, 4096, 1 << 16, 6);
    let day = 86_400_000;
    let mut rows = Vec::new();
    let mut next = 1;
    for step in 1..=60 {
        let now = rig.step();
        let set = [0, 1, 0][step / 21] * day;
        rig.take.round(now, UNIX_MS + now.as_millis() - set);
        follow(&rig, &mut next, |row| rows.push(row.clone()));
    }
    // The journal began with the system's own clock, so the first look is one, too.
    let sets: Vec<&Row> = rows.iter().filter(|row| row.kind == "clock-set").collect();
    assert_eq!(sets.len(), 3);
    let moved = |row: &Row| {
        let ms = |text: &str| super::parse_time(text, 0).unwrap();
        ms(&row.time).abs_diff(ms(row.before.as_ref().unwrap()))
    };
    assert_eq!((moved(sets[1]), moved(sets[2])), (day, day));
    let ticks: Vec<u64> = rows.iter().map(|row| row.clock_ms.unwrap()).collect();
    assert!(ticks.len() > 20 && ticks.is_sorted_by(|a, b| a <= &(b + 250)), "{ticks:?}");
}
