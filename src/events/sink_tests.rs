//! Sinks under random traffic: disks that are full, files that go, processes that end, and what can be read afterwards.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use conntrack::Protocol;

use super::entry::Row;
use super::journal::Journal;
use super::json_lines::JsonLines;
use super::sink::{Running, Sink};
use super::tests::{Rig, Table, held, replay};
use super::who::{Attribution, Question, then};

pub(super) struct Scratch(pub(super) PathBuf);

impl Scratch {
    pub(super) fn new() -> Self {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("nge-{}-{number}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Lets a sink take all there is, as its thread does; how often it failed.
fn pump(sink: &mut impl Sink, journal: &Journal, next: &mut u64, lost: &mut u64) -> u64 {
    let mut failures = 0;
    loop {
        let batch = journal.read(*next, 50);
        if batch.is_empty() {
            return failures;
        }
        match sink.take(batch, journal) {
            Ok(taken) => {
                *next = taken.next;
                *lost += taken.lost;
            }
            Err(why) => {
                assert!(why.contains("cannot be written") && why.contains("; see that"), "{why}");
                failures += 1;
                if failures > 3 {
                    return failures;
                }
            }
        }
    }
}

/// What the lines of some files come to, and every number that they have, or say is missing.
#[derive(Debug, Default)]
struct Reader {
    table: Table,
    last: u64,
    gaps: u64,
    /// The table is not known until the next state.
    unsure: bool,
    states: usize,
    left: u64,
}

impl Reader {
    fn read(&mut self, text: &str) {
        for line in text.lines() {
            let row: Row = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
            self.take(&row);
        }
    }

    fn take(&mut self, row: &Row) {
        match row.kind.as_str() {
            "gap" => {
                assert!(row.from.unwrap() <= self.last + 1, "{row:?} after {}", self.last);
                self.gaps += row.to.unwrap().saturating_sub(self.last);
                self.last = self.last.max(row.to.unwrap());
                self.unsure = true;
            }
            "state" => {
                assert_eq!(row.as_of.unwrap(), self.last);
                let before = std::mem::take(&mut self.table);
                self.left = row.count.unwrap();
                self.states += 1;
                if !self.unsure {
                    assert_eq!(before.len() as u64, self.left);
                }
                self.unsure = false;
            }
            "block-held" => {
                assert_ne!(self.left, 0);
                self.left -= 1;
                replay(&Row { kind: "block-allotted".into(), ..row.clone() }, &mut self.table);
            }
            _ => {
                let seq = row.seq.unwrap();
                // A number that came before says nothing new.
                if seq <= self.last {
                    return;
                }
                assert_eq!((seq, self.left), (self.last + 1, 0), "{row:?}");
                self.last = seq;
                if row.kind == "started" {
                    self.table.clear();
                }
                if !self.unsure {
                    replay(row, &mut self.table);
                }
            }
        }
    }
}

fn lines_of(path: &Path, keep: u32) -> Vec<String> {
    let rotated = (1..=keep).rev().map(|number| format!("{}.{number}", path.display()));
    let all = rotated.map(PathBuf::from).chain([path.to_owned()]);
    all.filter_map(|path| std::fs::read_to_string(path).ok()).collect()
}

#[test]
fn bug_a_pipe_that_nobody_read_held_up_the_end() {
    let scratch = Scratch::new();
    let path = scratch.0.join("events.json");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let mut rig = Rig::new(1, 64, 1 << 10, 29);
    for _ in 0..20 {
        let now = rig.step();
        rig.collect(now);
    }
    let mut sink = JsonLines::new(&path, 10_000, 1);
    let (mut next, mut lost) = (1, 0);
    assert!(pump(&mut sink, &rig.journal, &mut next, &mut lost) > 0, "it was written to");
}

// Proves: 8158-S1
#[test]
fn the_lines_of_all_files_and_of_each_alone_give_the_block_table() {
    let scratch = Scratch::new();
    let path = scratch.0.join("log/events.json");
    let mut rig = Rig::new(2, 4096, 1 << 16, 21);
    let mut sink = JsonLines::new(&path, 10_000, 100);
    let (mut next, mut lost) = (1, 0);
    for step in 0..9_000 {
        let now = rig.step();
        rig.collect(now);
        if step % 7 == 0 {
            assert_eq!(pump(&mut sink, &rig.journal, &mut next, &mut lost), 0);
        }
    }
    pump(&mut sink, &rig.journal, &mut next, &mut lost);
    let files = lines_of(&path, 100);
    assert!(files.len() > 5, "{} files", files.len());
    let mut all = Reader::default();
    for text in &files {
        assert!(text.len() < 60_000);
        all.read(text);
        // From the state at its beginning on, a file alone says the same.
        let mut alone = Reader { unsure: true, ..Reader::default() };
        let first: Row = serde_json::from_str(text.lines().next().unwrap()).unwrap();
        alone.last = first.as_of.unwrap_or(0);
        alone.unsure = first.as_of.is_some();
        alone.read(text);
        assert_eq!(alone.table, all.table);
    }
    assert_eq!((all.table, all.last), (held(&rig.pool), rig.journal.newest()));
    assert_eq!((all.gaps, lost), (0, 0));
}

#[test]
fn files_that_are_moved_and_directories_that_are_deleted_lose_nothing() {
    let scratch = Scratch::new();
    let path = scratch.0.join("log/events.json");
    let mut rig = Rig::new(2, 4096, 1 << 16, 22);
    let mut sink = JsonLines::new(&path, 1 << 30, 0);
    let (mut next, mut lost) = (1, 0);
    let mut reader = Reader::default();
    let mut moved = 0;
    for step in 1..6_000 {
        let now = rig.step();
        rig.collect(now);
        pump(&mut sink, &rig.journal, &mut next, &mut lost);
        if step % 500 == 0 {
            // It is not there if nothing has happened since.
            let Ok(text) = std::fs::read_to_string(&path) else { continue };
            reader.read(&text);
            assert_eq!(reader.table, held(&rig.pool), "step {step}");
            match step / 500 % 3 {
                0 => std::fs::remove_dir_all(path.parent().unwrap()).unwrap(),
                1 => std::fs::rename(&path, path.with_extension("old")).unwrap(),
                _ => std::fs::remove_file(&path).unwrap(),
            }
            moved += 1;
        }
    }
    pump(&mut sink, &rig.journal, &mut next, &mut lost);
    if let Ok(text) = std::fs::read_to_string(&path) {
        reader.read(&text);
    }
    assert_eq!((reader.table, reader.gaps, lost), (held(&rig.pool), 0, 0));
    assert!(moved > 3 && reader.states > 3, "{moved} {}", reader.states);
}

/// In a mount namespace of its own, with a disk of 256 KiB: full in between, for longer than the journal keeps.
#[test]
fn a_full_disk_leaves_a_numbered_gap_and_the_right_table() {
    let scratch = Scratch::new();
    let disk = scratch.0.join("disk");
    std::fs::create_dir(&disk).unwrap();
    let test = move || {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS).unwrap();
        let run = |words: &[&str]| {
            assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success());
        };
        run(&["mount", "--make-rprivate", "/"]);
        run(&["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", disk.to_str().unwrap()]);
        let path = disk.join("events.json");
        let mut rig = Rig::new(2, 4096, 60, 23);
        let mut file = JsonLines::new(&path, 1 << 30, 0);
        let mut who = Attribution::new(&disk.join("who"), 1 << 20, Duration::from_secs(86_400));
        let mut places = [(1, 0), (1, 0)];
        let mut failures = [0, 0];
        let (mut text, mut full_at) = (String::new(), 0);
        for step in 1..9_000 {
            let now = rig.step();
            rig.collect(now);
            if step % 5 == 0 {
                let [(next, lost), (who_next, who_lost)] = &mut places;
                failures[0] += pump(&mut file, &rig.journal, next, lost);
                failures[1] += pump(&mut who, &rig.journal, who_next, who_lost);
            }
            match step {
                1_000 => {
                    // dd fills what is left.
                    let fill = format!(
                        "dd if=/dev/zero of={} bs=4k 2>/dev/null; true",
                        disk.join("fill").display()
                    );
                    run(&["sh", "-c", &fill]);
                    full_at = rig.journal.newest();
                }
                7_000 => std::fs::remove_file(disk.join("fill")).unwrap(),
                _ => {}
            }
        }
        let [(next, lost), (who_next, who_lost)] = &mut places;
        pump(&mut file, &rig.journal, next, lost);
        pump(&mut who, &rig.journal, who_next, who_lost);
        text.push_str(&std::fs::read_to_string(&path).unwrap());
        let mut reader = Reader::default();
        reader.read(&text);
        assert_eq!((reader.table, reader.last), (held(&rig.pool), rig.journal.newest()));
        assert!(full_at > 10 && reader.gaps > 50, "{full_at} {}", reader.gaps);
        assert_eq!(reader.gaps, *lost);
        assert!(failures.into_iter().all(|failures| failures > 100), "{failures:?}");
        assert!(*who_lost > 50, "{who_lost}");
        // What is held now is right there too, and the gap is said.
        let place = held(&rig.pool).into_iter().next().unwrap();
        let question = question(&place.0);
        let at = Rig::unix_ms(rig.step());
        let answer = then(&disk.join("who"), question, at, u64::MAX).unwrap();
        assert_eq!(answer.holders.len(), 1, "{answer:?}");
        assert_eq!(answer.holders[0].subscriber, place.1.0);
    };
    std::thread::spawn(test).join().unwrap();
}

fn question((public, first, ..): &(String, u16, u16, String)) -> Question {
    let public: Ipv4Addr = public.parse().unwrap();
    Question { public, port: first + 5, protocol: Protocol::Udp }
}

/// The time of day, and who held what then.
type History = BTreeMap<u64, Table>;

#[test]
fn who_knows_every_holder_of_every_sampled_moment() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("who");
    let mut rig = Rig::new(3, 4096, 1 << 16, 24);
    let mut sink = Attribution::new(&directory, 40_000, Duration::from_secs(86_400));
    let (mut next, mut lost) = (1, 0);
    let mut history = History::new();
    for step in 0..9_000 {
        let now = rig.step();
        rig.collect(now);
        pump(&mut sink, &rig.journal, &mut next, &mut lost);
        if step % 250 == 3 {
            // A moment later, so that what changed in this one has changed.
            history.insert(Rig::unix_ms(now) + 50, held(&rig.pool));
        }
    }
    let segments = std::fs::read_dir(&directory).unwrap().count();
    assert!((4..=11).contains(&segments), "{segments} segments and a lock");
    let everything: std::collections::BTreeSet<_> =
        history.values().flat_map(|table| table.keys().cloned()).collect();
    let (mut asked, mut held_then) = (0, 0);
    for (at, table) in &history {
        for place in everything.iter().step_by(5) {
            let answer = then(&directory, question(place), *at, u64::MAX).unwrap();
            let told: Vec<_> = answer.holders.iter().map(|it| it.subscriber.clone()).collect();
            if answer.notes.iter().any(|note| note.contains("begin later than the time that")) {
                continue;
            }
            let expected: Vec<_> = table.get(place).map(|it| it.0.clone()).into_iter().collect();
            assert_eq!(told, expected, "{place:?} at {at}: {answer:?}");
            asked += 1;
            held_then += expected.len();
        }
    }
    assert!(asked > 100 && held_then > 20, "{asked} {held_then}");
}

/// A day forward, two back, and five minutes back, so that the same times of day come again: whoever had a port then is
/// named, and where a time was only once nobody else is.
#[test]
fn who_answers_for_each_time_of_day_however_the_clock_is_set() {
    // 300 s.
    const PERIOD: usize = 3_000;
    let day = 86_400_000_i64;
    let again = -day - 300_000;
    let scratch = Scratch::new();
    let (directory, path) = (scratch.0.join("who"), scratch.0.join("events.json"));
    let mut rig = Rig::new(3, 4096, 1 << 16, 28);
    let mut sink = Attribution::new(&directory, 1 << 20, Duration::from_secs(30 * 86_400));
    let mut file = JsonLines::new(&path, 1 << 30, 0);
    let (mut places, mut lost) = ([1, 1], 0);
    let mut history = Vec::new();
    for step in 0..4 * PERIOD {
        let now = rig.step();
        let period = step / PERIOD;
        let offset = [0, day, -day, again][period];
        let unix_ms = Rig::unix_ms(now).checked_add_signed(offset).unwrap();
        while rig.take.round(now, unix_ms) > 0 {}
        pump(&mut sink, &rig.journal, &mut places[0], &mut lost);
        pump(&mut file, &rig.journal, &mut places[1], &mut lost);
        if step % 250 == 123 {
            history.push((unix_ms + 50, period < 2, held(&rig.pool)));
        }
    }
    let everything: std::collections::BTreeSet<_> =
        history.iter().flat_map(|(.., table)| table.keys().cloned()).collect();
    let end = Rig::unix_ms(rig.step()).checked_add_signed(again).unwrap();
    let (mut several, mut held_then) = (0, 0);
    for (at, once, table) in &history {
        for place in everything.iter().step_by(5) {
            let answer = then(&directory, question(place), *at, end).unwrap();
            let told: Vec<_> = answer.holders.iter().map(|it| it.subscriber.clone()).collect();
            let expected: Vec<_> = table.get(place).map(|it| it.0.clone()).into_iter().collect();
            if *once {
                assert_eq!(told, expected, "{place:?} at {at}: {answer:?}");
            } else {
                assert!(
                    expected.iter().all(|it| told.contains(it)),
                    "{place:?} at {at}: {answer:?}"
                );
                several += usize::from(told.len() > expected.len());
            }
            held_then += expected.len();
        }
    }
    assert!(several > 5 && held_then > 20, "{several} {held_then}");
    let mut reader = Reader::default();
    let text = std::fs::read_to_string(&path).unwrap();
    reader.read(&text);
    assert_eq!((reader.table, reader.gaps, lost), (held(&rig.pool), 0, 0));
    // The first is that of the rig's own time.
    assert_eq!(text.matches("\"clock-set\"").count(), 4);
}

/// Killed, with a torn record; the next process knows what was, and does not take it for what is.
#[test]
fn records_survive_the_end_of_a_process_and_a_torn_one_is_left_out() {
    let scratch = Scratch::new();
    let directory = scratch.0.join("who");
    let day = Duration::from_secs(86_400);
    let mut rig = Rig::new(1, 4096, 1 << 16, 25);
    let mut sink = Attribution::new(&directory, 1 << 20, day);
    let (mut next, mut lost) = (1, 0);
    let mut now = rig.step();
    for _ in 0..400 {
        now = rig.step();
        rig.collect(now);
    }
    pump(&mut sink, &rig.journal, &mut next, &mut lost);
    // Another process does not write there as long as this one lives.
    let other = Rig::new(1, 64, 1 << 10, 26);
    let mut second = Attribution::new(&directory, 1 << 20, day);
    let batch = other.journal.read(1, 10);
    let refused = second.take(batch.clone(), &other.journal).unwrap_err();
    let expected = "cannot be written: another natgate writes there; give each its own stateDir";
    assert_eq!(refused, expected);
    assert_eq!(second.patience(), Duration::ZERO, "the end does not wait for it");
    drop(sink);
    let segment = directory.join("0000000001.log");
    let mut bytes = std::fs::read(&segment).unwrap();
    bytes.extend([8; 17]);
    std::fs::write(&segment, &bytes).unwrap();
    second.take(batch, &other.journal).unwrap();
    assert!(second.patience() > Duration::ZERO);
    let at = Rig::unix_ms(now) + 50;
    let held = held(&rig.pool);
    assert!(held.len() > 5);
    for (place, (subscriber, _)) in &held {
        let answer = then(&directory, question(place), at, u64::MAX).unwrap();
        let told: Vec<_> = answer.holders.iter().map(|it| &it.subscriber).collect();
        assert_eq!(told, [subscriber], "{answer:?}");
        // It ended with the process.
        assert!(answer.holders[0].to.is_some(), "{answer:?}");
        let later = then(&directory, question(place), super::unix_ms() + 60_000, u64::MAX).unwrap();
        assert_eq!(later.holders, [], "{later:?}");
    }
    // A damaged record in the middle costs itself only.
    bytes[45] ^= 1;
    std::fs::write(&segment, &bytes).unwrap();
    let place = held.keys().last().unwrap();
    let answer = then(&directory, question(place), at, u64::MAX).unwrap();
    assert!(answer.notes.iter().any(|note| note.contains("1 records are damaged")), "{answer:?}");
}

/// A sink that never takes anything holds up neither the journal nor the end.
#[test]
fn a_sink_that_is_stuck_is_given_up_at_the_end_and_its_entries_are_counted() {
    #[derive(Debug)]
    struct Stuck;
    impl Sink for Stuck {
        fn name(&self) -> String {
            "stuck".into()
        }
        fn take(&mut self, _: super::Batch, _: &Journal) -> Result<super::sink::Taken, String> {
            Err("it is stuck".into())
        }
    }
    let mut rig = Rig::new(1, 4096, 1 << 16, 27);
    let mut running = Running::start("stuck", Stuck, Arc::clone(&rig.journal)).unwrap();
    for _ in 0..500 {
        let now = rig.step();
        rig.collect(now);
    }
    let newest = rig.journal.newest();
    rig.journal.close();
    let begun = Instant::now();
    running.stop();
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(running.counts.lost.load(Ordering::Relaxed), newest);
    assert!(running.counts.failing.load(Ordering::Relaxed));
}
