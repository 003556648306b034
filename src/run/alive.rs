//! Did the natgate before end in order? A file in the state directory says that one runs, and when it last did. Who ends in
//! order takes it away, so who finds it knows that somebody did not.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use crate::events::{Crash, unix_ms};

use super::state::boot;

/// Its name below the state directory.
const NAME: &str = "running";
/// How often there is a sign of life.
const SIGN: Duration = Duration::from_secs(2);
/// Bytes of the file. It is always as long, and so it is overwritten where it lies: that needs no room on a full disk.
const LEN: usize = 512;

/// What the file says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Sign {
    pid: u32,
    version: String,
    /// Which boot of the machine it is.
    boot: String,
    /// When it was written, in milliseconds since 1970.
    seen_ms: u64,
    sessions: u64,
    /// The number of the newest entry of the journal.
    newest: u64,
}

/// Says that this natgate runs.
#[derive(Debug)]
pub(super) struct Alive {
    path: PathBuf,
    /// Locked, as long as it is this natgate's.
    file: Option<File>,
    boot: String,
    last: Option<Instant>,
    /// It could not be written, and that was said.
    failed: bool,
}

impl Alive {
    /// Begins to say so below `state_dir`; who said so before, and did not end in order.
    pub(super) fn begin(state_dir: &Path) -> (Self, Option<Crash>) {
        let path = state_dir.join(NAME);
        let mut alive = Self { path, file: None, boot: boot(), last: None, failed: false };
        let found = alive.open();
        let crash = found.as_ref().ok().and_then(|text| alive.read(text));
        alive.tell(found.map(drop));
        alive.sign(0, 0);
        (alive, crash)
    }

    /// Opens the file and makes it this natgate's; what it says.
    fn open(&mut self) -> io::Result<String> {
        if let Some(directory) = self.path.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut options = OpenOptions::new();
        let mut file =
            options.read(true).write(true).create(true).truncate(false).open(&self.path)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(io::Error::other("another natgate has it; give each its own stateDir"));
            }
            Err(TryLockError::Error(error)) => return Err(error),
        }
        let mut bytes = Vec::new();
        file.by_ref().take(LEN as u64).read_to_end(&mut bytes)?;
        self.file = Some(file);
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// What `text` says of a natgate before.
    fn read(&self, text: &str) -> Option<Crash> {
        // It could be made, and nothing was written: there was no room.
        if text.is_empty() {
            return None;
        }
        let Ok(sign) = serde_json::from_str::<Sign>(text.trim_end()) else {
            let who = "the natgate before ended without a word (crash, kill -9, power)".to_owned();
            return Some(Crash { seen_ms: None, sessions: 0, newest: 0, who });
        };
        let how = if sign.boot == self.boot { "crash, kill -9" } else { "with the machine" };
        let who = format!(
            "the natgate before (process {}, version {}) ended without a word ({how})",
            sign.pid, sign.version
        );
        let Sign { seen_ms, sessions, newest, .. } = sign;
        Some(Crash { seen_ms: Some(seen_ms), sessions, newest, who })
    }

    /// To be called again and again: gives a sign of life when it is time.
    pub(super) fn sign(&mut self, sessions: u64, newest: u64) {
        if self.last.is_some_and(|last| last.elapsed() < SIGN) {
            return;
        }
        self.last = Some(Instant::now());
        let written = self.write(sessions, newest);
        self.tell(written);
    }

    fn write(&mut self, sessions: u64, newest: u64) -> io::Result<()> {
        if !self.file.as_ref().is_some_and(|file| is_at(file, &self.path)) {
            self.file = None;
            self.open()?;
        }
        let sign = Sign {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot: self.boot.clone(),
            seen_ms: unix_ms(),
            sessions,
            newest,
        };
        let text = serde_json::to_string(&sign).map_err(io::Error::other)?;
        let Some(file) = &self.file else { return Err(io::Error::other("no file")) };
        file.write_all_at(format!("{text:<width$}\n", width = LEN - 1).as_bytes(), 0)
    }

    /// Says once that it fails, and once that it works again.
    fn tell(&mut self, outcome: io::Result<()>) {
        let failed = outcome.is_err();
        if let (Err(error), false) = (outcome, self.failed) {
            warn!(
                "no sign of life can be left in {}: {error}; the next start would not tell of a crash of this one",
                self.path.display()
            );
        } else if self.failed && !failed {
            info!("signs of life are left again in {}", self.path.display());
        }
        self.failed = failed;
    }

    /// This natgate ends in order.
    pub(super) fn end(&mut self) {
        // One that is not there any more, or is another's, is not this natgate's to remove.
        if let Some(file) = self.file.take()
            && is_at(&file, &self.path)
            && let Err(error) = std::fs::remove_file(&self.path)
        {
            warn!(
                "{} cannot be removed: {error}; the next start will take this end for a crash",
                self.path.display()
            );
        }
    }
}

/// Whether `file` is the one at `path`.
fn is_at(file: &File, path: &Path) -> bool {
    let same = || -> io::Result<bool> {
        let (mine, there) = (file.metadata()?, std::fs::metadata(path)?);
        Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino()))
    };
    same().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A directory that is gone when dropped.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let id = std::process::id();
            let path = std::env::temp_dir().join(format!("natgate-alive-{name}-{id}"));
            std::fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self) -> &Path {
            &self.0
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    /// As a process that is gone: the lock goes, the file stays.
    fn kill(alive: Alive) {
        drop(alive);
    }

    #[test]
    fn who_ends_without_a_word_is_told_of_once_and_who_ends_in_order_is_not() {
        let scratch = Scratch::new("told");
        let directory = scratch.path().join("deep");
        let begun = unix_ms();
        let (mut first, nobody) = Alive::begin(&directory);
        assert_eq!(nobody, None);
        first.last = None;
        first.sign(2_041, 77);
        kill(first);
        let (mut second, crash) = Alive::begin(&directory);
        let crash = crash.unwrap();
        assert_eq!((crash.sessions, crash.newest), (2_041, 77));
        let seen = crash.seen_ms.unwrap();
        assert!((begun..=unix_ms()).contains(&seen), "{seen}");
        let line = crash.line();
        assert!(line.contains(&format!("process {}", std::process::id())), "{line}");
        assert!(line.contains("without a word (crash, kill -9)"), "{line}");
        assert!(line.contains("2041 sessions") && line.contains("entry 77"), "{line}");
        second.end();
        assert!(!directory.join(NAME).exists());
        assert_eq!(Alive::begin(&directory).1, None);
        // That one is gone already, and had no sessions.
        assert_eq!(Alive::begin(&directory).1.map(|crash| crash.sessions), Some(0));
    }

    #[test]
    fn signs_come_now_and_then_and_say_what_there_is() {
        let scratch = Scratch::new("signs");
        let (mut alive, _) = Alive::begin(scratch.path());
        let text = || std::fs::read_to_string(scratch.path().join(NAME)).unwrap();
        let before = text();
        alive.sign(1, 1);
        assert_eq!(text(), before, "too early");
        alive.last = None;
        alive.sign(12, 34);
        let sign: Sign = serde_json::from_str(&text()).unwrap();
        assert_eq!((sign.sessions, sign.newest, text().len()), (12, 34, LEN));
    }

    #[test]
    fn another_boot_is_told_apart_and_a_damaged_file_is_no_secret() {
        let scratch = Scratch::new("boot");
        let path = scratch.path().join(NAME);
        let other = Sign { boot: "another".into(), sessions: 5, ..Sign::default() };
        std::fs::write(&path, serde_json::to_string(&other).unwrap()).unwrap();
        let (alive, crash) = Alive::begin(scratch.path());
        let line = crash.unwrap().line();
        assert!(line.contains("(with the machine)") && line.contains("5 sessions"), "{line}");
        kill(alive);
        std::fs::write(&path, [0; 100]).unwrap();
        let line = Alive::begin(scratch.path()).1.unwrap().line();
        assert!(line.contains("what it had is not known"), "{line}");
        // It is in order again.
        std::fs::write(&path, "").unwrap();
        assert_eq!(Alive::begin(scratch.path()).1, None);
    }

    #[test]
    fn one_that_lives_is_no_crash_and_a_lost_file_is_made_anew() {
        let scratch = Scratch::new("lives");
        let directory = scratch.path().join("state");
        let (mut first, _) = Alive::begin(&directory);
        let (mut second, crash) = Alive::begin(&directory);
        assert_eq!((crash, second.failed), (None, true));
        second.end();
        assert!(directory.join(NAME).exists(), "it is the first one's");
        std::fs::remove_dir_all(&directory).unwrap();
        first.last = None;
        first.sign(3, 4);
        assert!(!first.failed);
        kill(first);
        assert_eq!(Alive::begin(&directory).1.map(|crash| crash.sessions), Some(3));
    }
}
