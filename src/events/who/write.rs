//! How the log is written: appended to, begun anew when a segment is large or old, and cut at its old end.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use tracing::warn;

use super::record::{Kind, LEN, Record};
use super::{segment_name, segments};
use crate::events::clock::unix_ms;
use crate::events::journal::{Batch, Journal};
use crate::events::sink::{LAST_PATIENCE, Sink, Taken, up_to_state};

/// Segments that retention is counted in.
const SEGMENTS: u64 = 8;
/// A sign of life comes so often: if natgate ends without a word, this is how exactly one knows when.
const ALIVE_MS: u64 = 10_000;

/// The sink that keeps the log.
#[derive(Debug)]
pub(crate) struct Attribution {
    directory: PathBuf,
    max_bytes: u64,
    keep: Duration,
    open: Option<Segment>,
    /// Held as long as the process lives: one log has one writer.
    lock: Option<File>,
    /// Another natgate holds the lock.
    taken: bool,
    /// The last record of what is written, and of what was when that failed.
    last: u64,
    broken_since: Option<u64>,
    /// The process has said in the log that it began.
    introduced: bool,
    next_number: u64,
}

#[derive(Debug)]
struct Segment {
    file: File,
    path: PathBuf,
    len: u64,
    begun: SystemTime,
}

impl Segment {
    fn is_there(&self) -> bool {
        let same = || -> io::Result<bool> {
            let (mine, there) = (self.file.metadata()?, std::fs::metadata(&self.path)?);
            Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino()))
        };
        same().unwrap_or(false)
    }
}

impl Attribution {
    /// In `directory`, with so many bytes at most, for so long.
    pub(crate) fn new(directory: &Path, max_bytes: u64, keep: Duration) -> Self {
        Self {
            directory: directory.to_owned(),
            max_bytes,
            keep,
            open: None,
            lock: None,
            taken: false,
            last: 0,
            broken_since: None,
            introduced: false,
            next_number: 1,
        }
    }

    /// Makes this the writer of the log, and finds where the one before it ended.
    fn prepare(&mut self) -> io::Result<()> {
        std::fs::create_dir_all(&self.directory)?;
        if self.lock.is_some() {
            return Ok(());
        }
        let path = self.directory.join("lock");
        let lock = OpenOptions::new().append(true).create(true).open(path)?;
        if lock.try_lock().is_err() {
            self.taken = true;
            return Err(io::Error::other("another natgate writes there"));
        }
        let found = segments(&self.directory)?;
        self.next_number = found.last().map_or(1, |(number, _)| number + 1);
        for (_, path) in found.iter().rev() {
            if let Some(last) = last_record(path)? {
                self.last = last;
                break;
            }
        }
        self.lock = Some(lock);
        self.taken = false;
        Ok(())
    }

    /// Begins a segment with `records`.
    fn begin(&mut self, records: &[Record]) -> io::Result<()> {
        self.prepare()?;
        // The clock of the records: the system's may have been set meanwhile.
        let now = records.first().map_or_else(unix_ms, |record| record.at);
        let mut bytes = Record::bare(Kind::Segment, now, 0).bytes().to_vec();
        if !self.introduced {
            bytes.extend(Record::bare(Kind::Started, now, self.last).bytes());
        } else if let Some(since) = self.broken_since {
            bytes.extend(Record::bare(Kind::Gap, now, since).bytes());
        }
        bytes.extend(records.iter().flat_map(Record::bytes));
        let path = self.directory.join(segment_name(self.next_number));
        self.next_number += 1;
        let mut file = OpenOptions::new().append(true).create_new(true).open(&path)?;
        if let Err(error) = file.write_all(&bytes) {
            let _ = std::fs::remove_file(&path);
            return Err(error);
        }
        let (len, begun) = (bytes.len() as u64, SystemTime::now());
        self.open = Some(Segment { file, path, len, begun });
        self.introduced = true;
        self.broken_since = None;
        self.last = last_of(records).unwrap_or(now);
        self.forget_old();
        Ok(())
    }

    /// Removes what is too old, and what is too much.
    fn forget_old(&self) {
        let Ok(found) = segments(&self.directory) else { return };
        let facts = |(_, path): (u64, PathBuf)| {
            let metadata = std::fs::metadata(&path).ok()?;
            Some((path, metadata.len(), metadata.modified().ok()?))
        };
        let mut found: Vec<_> = found.into_iter().filter_map(facts).collect();
        // The newest is being written.
        found.pop();
        let mut room = self.max_bytes - self.max_bytes / SEGMENTS;
        for (path, len, modified) in found.into_iter().rev() {
            let is_old = modified.elapsed().is_ok_and(|age| age > self.keep);
            if is_old || len > room {
                room = 0;
                // If it stays, it is tried again with the next segment.
                let _ = std::fs::remove_file(path);
            } else {
                room -= len;
            }
        }
    }

    fn append(&mut self, records: &[Record]) -> io::Result<()> {
        let bytes: Vec<u8> = records.iter().flat_map(Record::bytes).collect();
        let Some(segment) = &mut self.open else { return Err(io::Error::other("no segment")) };
        if let Err(error) = segment.file.write_all(&bytes) {
            // No half records; if that fails too, the checksum tells.
            let _ = segment.file.set_len(segment.len);
            return Err(error);
        }
        if !segment.is_there() {
            return Err(io::Error::other("it was moved or deleted"));
        }
        segment.len += bytes.len() as u64;
        self.last = last_of(records).unwrap_or(self.last);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let is_full = |segment: &Segment| segment.len > self.max_bytes / SEGMENTS;
        let is_old = |segment: &Segment| {
            segment.begun.elapsed().is_ok_and(|age| age > self.keep / SEGMENTS as u32)
        };
        self.open.as_ref().is_none_or(|it| is_full(it) || is_old(it) || !it.is_there())
    }

    fn take_batch(&mut self, batch: Batch, journal: &Journal) -> io::Result<Taken> {
        let fresh = !self.introduced && batch.gap.is_none();
        if !fresh && (self.is_due() || batch.gap.is_some()) {
            self.open = None;
            let (batch, _, state) = up_to_state(batch, journal);
            let mut records = records(&batch);
            records.push(Record::bare(Kind::State, unix_ms(), state.len() as u64));
            records.extend(state.iter().map(Record::held));
            self.begin(&records)?;
            return Ok(Taken::all(&batch));
        }
        if fresh {
            // From the first entry on, the log needs no state.
            self.begin(&records(&batch))?;
        } else {
            self.append(&records(&batch))?;
        }
        Ok(Taken::all(&batch))
    }

    /// Whatever failed: the segment is left, and the next one says since when something may be missing.
    fn fail(&mut self, error: &io::Error) -> String {
        self.open = None;
        self.broken_since.get_or_insert(self.last);
        let remedy = if self.taken {
            "give each its own stateDir"
        } else {
            "see that there is room and that natgate may write there"
        };
        format!("cannot be written: {error}; {remedy}")
    }
}

/// The time of the last record that is of its own time.
fn last_of(records: &[Record]) -> Option<u64> {
    records.iter().rev().find(|record| record.kind != Kind::Held).map(|record| record.at)
}

fn records(batch: &Batch) -> Vec<Record> {
    let since = batch.entries.first().map_or_else(unix_ms, |entry| entry.unix_ms);
    let gap = batch.gap.map(|_| Record::bare(Kind::Gap, since, 0));
    gap.into_iter().chain(batch.entries.iter().filter_map(|entry| Record::of(entry))).collect()
}

/// When the last record of a segment was made; says so if the end is torn.
fn last_record(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let whole = len / LEN as u64;
    if len % LEN as u64 != 0 {
        warn!("{}: the last record is torn; it is left out", path.display());
    }
    for number in (0..whole).rev() {
        file.seek(SeekFrom::Start(number * LEN as u64))?;
        let mut bytes = [0; LEN];
        file.read_exact(&mut bytes)?;
        if let Some(record) = Record::parse(&bytes)
            && record.kind != Kind::Held
        {
            return Ok(Some(record.at));
        }
    }
    Ok(None)
}

impl Sink for Attribution {
    fn name(&self) -> String {
        format!("attribution records in {}", self.directory.display())
    }

    /// Another natgate does not go away while this one waits.
    fn patience(&self) -> Duration {
        if self.taken { Duration::ZERO } else { LAST_PATIENCE }
    }

    fn take(&mut self, batch: Batch, journal: &Journal) -> Result<Taken, String> {
        self.take_batch(batch, journal).map_err(|error| self.fail(&error))
    }

    fn tend(&mut self) -> Result<(), String> {
        let now = unix_ms();
        if self.open.is_none() || now.abs_diff(self.last) < ALIVE_MS {
            return Ok(());
        }
        let alive = Record::bare(Kind::Alive, now, 0);
        self.append(&[alive]).map_err(|error| self.fail(&error))
    }
}
