//! Which port blocks had somebody when the last process ended?
//!
//! The state of a gateway dies with its process, and peers do not know. A block that is given to another pod
//! at once would lead their packets to that pod, where the filter does not ask who sends. So blocks that were
//! busy rest after a start (RFC 6888 REQ-8.2), in pools whose `holdDown.afterRestart` is not 0.
//!
//! The journal is a text file: a line with its version, then an address and a range of ports on each line. It
//! is replaced by renaming, when something has changed since the last look; nothing is flushed to the disk,
//! because a host that crashes is away for longer. A gateway without a readable journal warns, and serves.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use conntrack::{Directory, Pool, Timestamp};
use dataplane::snapshot::Policy;
use tracing::{info, warn};

/// Its name in the state directory.
const NAME: &str = "blocks";
/// Its first line.
const VERSION: &str = "natgate blocks 1";

/// The journal of a running gateway.
#[derive(Debug)]
pub(super) struct Journal {
    file: PathBuf,
    written: String,
    /// The last attempt to write it failed, and that was said.
    failed: bool,
}

/// Ports of an address that were busy.
type Busy = (Ipv4Addr, RangeInclusive<u16>);

/// The pools that have a journal.
fn journaled(policy: &Policy) -> impl Iterator<Item = &Pool> {
    let pools = policy.pools.iter().map(AsRef::as_ref);
    pools.filter(|pool: &&Pool| !pool.settings.hold_down.after_restart.is_zero())
}

impl Journal {
    /// Lets the blocks in the journal of the last process rest. `None`: no pool asks for it.
    pub(super) fn open(directory: &Path, policy: &Policy, now: Timestamp) -> Option<Self> {
        journaled(policy).next()?;
        let file = directory.join(NAME);
        match std::fs::read_to_string(&file).map(|text| parse(&text)) {
            Ok(Ok(busy)) => {
                let blocks = rest(policy, &busy, now);
                info!(blocks, "blocks of the last process rest");
            }
            Ok(Err(line)) => warn!(
                "the block journal {} is damaged in line {line}; ports that were in use may be given \
                 out again at once",
                file.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => warn!(
                "no block journal {}; if a natgate ran here before, ports that were in use may be \
                 given out again at once",
                file.display()
            ),
            Err(error) => {
                warn!("the block journal {} cannot be read: {error}", file.display());
            }
        }
        let mut journal = Self { file, written: String::new(), failed: false };
        journal.keep(policy, now);
        Some(journal)
    }

    /// A journal that begins now, after a change of configuration, if a pool asks for one.
    pub(super) fn begin(directory: &Path, policy: &Policy) -> Option<Self> {
        journaled(policy).next()?;
        Some(Self { file: directory.join(NAME), written: String::new(), failed: false })
    }

    /// Writes the journal, if it has changed.
    pub(super) fn keep(&mut self, policy: &Policy, now: Timestamp) {
        let text = text(policy, now);
        if text == self.written {
            return;
        }
        match self.replace(&text) {
            Ok(()) => {
                if std::mem::take(&mut self.failed) {
                    info!("the block journal is written again");
                }
                self.written = text;
            }
            // Said once; it is tried again at the next look.
            Err(error) if !self.failed => {
                self.failed = true;
                warn!(
                    "the block journal {} cannot be written: {error}; see that the state directory \
                     exists and is writable",
                    self.file.display()
                );
            }
            Err(_) => {}
        }
    }

    /// A reader finds the old journal or the new one, whenever this process ends.
    fn replace(&self, text: &str) -> std::io::Result<()> {
        if let Some(directory) = self.file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let new = self.file.with_extension("new");
        std::fs::write(&new, text)?;
        std::fs::rename(&new, &self.file)
    }
}

/// The journal of all blocks that are busy now; adjacent ones are one range.
fn text(policy: &Policy, now: Timestamp) -> String {
    let mut text = format!("{VERSION}\n");
    for address in journaled(policy).flat_map(|pool| &pool.addresses) {
        for directory in [&address.low, &address.directory] {
            for ports in ranges(directory, now) {
                // Writing to a string does not fail.
                let _ = writeln!(text, "{} {}-{}", address.addr, ports.start(), ports.end());
            }
        }
    }
    text
}

fn ranges(directory: &Directory, now: Timestamp) -> Vec<RangeInclusive<u16>> {
    let mut ranges: Vec<RangeInclusive<u16>> = Vec::new();
    for ports in directory.busy_blocks(now).map(|block| directory.ports(block)) {
        match ranges.last_mut() {
            Some(last) if last.end().checked_add(1) == Some(*ports.start()) => {
                *last = *last.start()..=*ports.end();
            }
            _ => ranges.push(ports),
        }
    }
    ranges
}

/// What a journal says, or the line that it does not say it in.
fn parse(text: &str) -> Result<Vec<Busy>, usize> {
    let mut lines = text.lines();
    if lines.next() != Some(VERSION) || !text.ends_with('\n') {
        return Err(1);
    }
    let busy = |line: &str| -> Option<Busy> {
        let (address, ports) = line.split_once(' ')?;
        let (first, last) = ports.split_once('-')?;
        let (first, last) = (first.parse().ok()?, last.parse().ok()?);
        (first <= last).then_some((address.parse().ok()?, first..=last))
    };
    lines.enumerate().map(|(index, line)| busy(line).ok_or(index + 2)).collect()
}

/// Lets all blocks rest that have one of these ports; how many there were. The blocks may have had another
/// size then.
fn rest(policy: &Policy, busy: &[Busy], now: Timestamp) -> u32 {
    let mut by_address: HashMap<Ipv4Addr, Vec<&RangeInclusive<u16>>> = HashMap::new();
    for (address, ports) in busy {
        by_address.entry(*address).or_default().push(ports);
    }
    let mut count = 0;
    for pool in journaled(policy) {
        let after_restart = pool.settings.hold_down.after_restart;
        for address in &pool.addresses {
            for ports in by_address.get(&address.addr).into_iter().flatten() {
                for directory in [&address.low, &address.directory] {
                    let (first, last) =
                        (directory.block_of(*ports.start()), directory.block_of(*ports.end()));
                    let blocks = (first.0..=last.0).map(conntrack::BlockNumber);
                    count += directory.rest_all(blocks, after_restart, now);
                }
            }
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use conntrack::{Holder, PoolId, PoolSettings};
    use dataplane::forward::Forwards;
    use dataplane::rule::RuleSet;
    use dataplane::snapshot::Answers;

    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

    fn policy(settings: PoolSettings) -> Policy {
        let pool = Pool::new(PoolId(0), "p", settings, [PUBLIC, Ipv4Addr::new(203, 0, 113, 11)]);
        let (rules, answers) = (RuleSet::new(vec![]), Answers::default());
        Policy::new(1, vec![Arc::new(pool)], rules, Forwards::default(), answers)
    }

    fn claim(policy: &Policy, port: u16) {
        let address = &policy.pools[0].addresses[0];
        let holder = Holder { subscriber: Ipv4Addr::new(10, 244, 1, 1), worker: 0, overlay: 0 };
        let directory = if port < 1024 { &address.low } else { &address.directory };
        assert!(directory.claim_block(directory.block_of(port), holder, NOW));
    }

    fn resting(policy: &Policy) -> Vec<(Ipv4Addr, RangeInclusive<u16>)> {
        parse(&text(policy, NOW)).unwrap()
    }

    /// A directory that is gone when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            Self(std::env::temp_dir().join(format!("natgate-journal-{name}-{id}")))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            // One that was never made needs no removal.
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    // Proves: 6888-REQ-8.2
    #[test]
    fn what_was_busy_rests_in_the_next_life_and_the_one_after() {
        let directory = Scratch::new("lives");
        let first = policy(PoolSettings::rfc4787());
        let mut journal = Journal::open(&directory.0.join("deep"), &first, NOW).unwrap();
        for port in [520, 2048, 2560, 65_535] {
            claim(&first, port);
        }
        journal.keep(&first, NOW);
        let want = [512..=527, 2048..=3071, 65_024..=65_535].map(|ports| (PUBLIC, ports));
        for _ in 0..2 {
            let next = policy(PoolSettings::rfc4787());
            assert!(Journal::open(&directory.0.join("deep"), &next, NOW).is_some());
            assert_eq!(resting(&next), want);
        }
        // Blocks of another size: those that have one of the ports.
        let settings = PoolSettings { block_size: 2048, ..PoolSettings::rfc4787() };
        let next = policy(settings);
        Journal::open(&directory.0.join("deep"), &next, NOW);
        let want = [512..=527, 2048..=4095, 63_488..=65_535].map(|ports| (PUBLIC, ports));
        assert_eq!(resting(&next), want);
        let until = NOW + Duration::from_secs(122);
        assert_eq!(text(&next, until), format!("{VERSION}\n"), "not for ever");
    }

    // Proves: 6888-REQ-8c
    #[test]
    fn without_a_rest_there_is_no_journal() {
        let directory = Scratch::new("none");
        let policy = policy(PoolSettings::high_density());
        assert!(Journal::open(&directory.0, &policy, NOW).is_none());
        assert!(!directory.0.exists());
    }

    #[test]
    fn a_damaged_journal_is_named_and_nothing_rests() {
        for (bad, line) in [
            ("", 1),
            ("natgate blocks 2\n", 1),
            ("natgate blocks 1\n203.0.113.10 1024-1535", 1),
            ("natgate blocks 1\n203.0.113.10 1024-1535\n203.0.113.10 1535-1024\n", 3),
            ("natgate blocks 1\n203.0.113 1-2\n", 2),
            ("natgate blocks 1\n\0\0\0\n", 2),
            ("natgate blocks 1\n203.0.113.10 1024-70000\n", 2),
        ] {
            assert_eq!(parse(bad), Err(line), "{bad:?}");
            let directory = Scratch::new("bad");
            std::fs::create_dir_all(&directory.0).unwrap();
            std::fs::write(directory.0.join(NAME), bad).unwrap();
            let policy = policy(PoolSettings::rfc4787());
            assert!(Journal::open(&directory.0, &policy, NOW).is_some(), "it goes on");
            assert_eq!(resting(&policy), []);
        }
    }

    #[test]
    fn what_cannot_be_written_is_tried_again() {
        let directory = Scratch::new("blocked");
        std::fs::write(&directory.0, "a file where the directory should be").unwrap();
        let policy = policy(PoolSettings::rfc4787());
        let mut journal = Journal::open(&directory.0, &policy, NOW).unwrap();
        assert!(journal.failed);
        std::fs::remove_file(&directory.0).unwrap();
        journal.keep(&policy, NOW);
        assert!(!journal.failed && directory.0.join(NAME).exists());
    }
}
