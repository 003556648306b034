//! JSON lines in a file that is rotated by size.
//!
//! A file begins with the state at that time, so that each of them can be replayed alone: a line `state` with the number
//! of lines `block-held` and `fixed-held` that follow. The same comes after a gap. `started` empties the table. A file
//! that was moved or deleted is made anew; what could not be written, or was written to a file that is gone, is written
//! again. A number that came before says nothing new.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::clock::unix_ms;
use super::entry::Row;
use super::journal::{Batch, Held, Journal};
use super::sink::{Sink, Taken, up_to_state};

/// Where the lines go.
#[derive(Debug)]
pub(crate) struct JsonLines {
    path: PathBuf,
    max_bytes: u64,
    keep: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    len: u64,
    /// It does not say yet what the state is.
    begins: bool,
}

impl JsonLines {
    /// At `path`; moved away when it has `max_bytes`, and `keep` of those that were are kept.
    pub(crate) fn new(path: &Path, max_bytes: u64, keep: u32) -> Self {
        Self { path: path.to_owned(), max_bytes, keep, open: None }
    }

    fn rotated(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }

    fn rotate(&mut self) -> io::Result<()> {
        self.open = None;
        if self.keep == 0 {
            return std::fs::remove_file(&self.path);
        }
        for number in (1..self.keep).rev() {
            match std::fs::rename(self.rotated(number), self.rotated(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        std::fs::rename(&self.path, self.rotated(1))
    }

    /// The file as it is at its path now.
    fn open(&mut self) -> io::Result<&mut Open> {
        let stale = self.open.as_ref().is_some_and(|open| !open.is_at(&self.path));
        if stale {
            self.open = None;
        }
        if self.open.is_none() {
            if let Some(directory) = self.path.parent() {
                std::fs::create_dir_all(directory)?;
            }
            let mut options = OpenOptions::new();
            // A pipe that nobody reads would hold up everything, the end of natgate too.
            options.append(true).create(true).custom_flags(nix::libc::O_NONBLOCK);
            let file = options.open(&self.path)?;
            let found = file.metadata()?;
            if !found.is_file() {
                return Err(io::Error::other("it is not a regular file"));
            }
            let len = found.len();
            self.open = Some(Open { file, len, begins: true });
        }
        self.open.as_mut().ok_or_else(|| io::Error::other("no file"))
    }

    fn write(&mut self, text: &[u8], begins: bool) -> io::Result<()> {
        let path = self.path.clone();
        let open = self.open()?;
        if let Err(error) = open.file.write_all(text) {
            // No half lines; if that fails too, the reader finds one.
            let _ = open.file.set_len(open.len);
            return Err(error);
        }
        if !open.is_at(&path) {
            self.open = None;
            return Err(io::Error::other("it was moved or deleted"));
        }
        open.len += text.len() as u64;
        open.begins = begins;
        Ok(())
    }

    fn take_batch(&mut self, batch: Batch, journal: &Journal) -> io::Result<Taken> {
        let (begins, full) = {
            let max = self.max_bytes;
            let open = self.open()?;
            (open.begins, open.len >= max)
        };
        if !full && !begins && batch.gap.is_none() {
            self.write(&rows(&batch), false)?;
            return Ok(Taken::all(&batch));
        }
        let (batch, as_of, state) = up_to_state(batch, journal);
        let mut text = rows(&batch);
        if full {
            self.write(&text, false)?;
            // It is tried again with the next batch, if it fails: the lines are written already.
            if self.rotate().is_ok() {
                self.write(&state_rows(as_of, &state), false)?;
            }
        } else {
            text.extend(state_rows(as_of, &state));
            self.write(&text, false)?;
        }
        Ok(Taken::all(&batch))
    }
}

impl Open {
    /// Whether this is the file at `path`.
    fn is_at(&self, path: &Path) -> bool {
        let same = || -> io::Result<bool> {
            let (mine, there) = (self.file.metadata()?, std::fs::metadata(path)?);
            Ok((mine.dev(), mine.ino()) == (there.dev(), there.ino()))
        };
        same().unwrap_or(false)
    }
}

fn push(text: &mut Vec<u8>, row: &Row) {
    // Writing to memory does not fail.
    let _ = serde_json::to_writer(&mut *text, row);
    text.push(b'\n');
}

fn rows(batch: &Batch) -> Vec<u8> {
    let mut text = Vec::new();
    if let Some((from, to)) = batch.gap {
        push(&mut text, &Row::gap(from, to, unix_ms()));
    }
    for entry in &batch.entries {
        push(&mut text, &Row::from(&**entry));
    }
    text
}

fn state_rows(as_of: u64, state: &[Held]) -> Vec<u8> {
    let mut text = Vec::new();
    push(&mut text, &Row::state(as_of, state.len(), unix_ms()));
    for held in state {
        push(&mut text, &Row::held(as_of, held));
    }
    text
}

impl Sink for JsonLines {
    fn name(&self) -> String {
        format!("event file {}", self.path.display())
    }

    fn take(&mut self, batch: Batch, journal: &Journal) -> Result<Taken, String> {
        self.take_batch(batch, journal).map_err(|error| {
            format!("cannot be written: {error}; see that there is room and that natgate may write there")
        })
    }
}
