//! What does an operator see? The stats socket's answers, as tables for people or JSON for programs.

mod client;
mod columns;
pub(crate) mod drain;
mod events;
mod human;
mod lists;
mod screen;
pub(crate) mod settings;
mod state;
mod tables;
#[cfg(test)]
pub(crate) mod tests;
mod watch;
mod who;

pub(crate) use events::{Which, events};
pub(crate) use who::who;

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use hyper::Method;
use hyper::body::Bytes;

pub(crate) use client::get;
pub(crate) use columns::shorten;
pub(crate) use human::{count, counted, millis, nanos};
pub(crate) use lists::fetch_rows;
pub(crate) use screen::{terminal_width, wrap};
pub(crate) use state::state;
pub(crate) use tables::table;
pub(crate) use watch::watch;

use self::screen::Screen;
use crate::api::model::{DropRow, InterfaceRow, PoolRow, Reloaded, Status, WorkerRow};

/// What to show.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The whole at a glance.
    Status,
    /// Address pools.
    Pools,
    /// Subscribers.
    Subscribers(Filter),
    /// Sessions.
    Sessions(Filter),
    /// Drops by reason; `all`: also those that never happened.
    Drops {
        /// Show rows of zero packets too.
        all: bool,
    },
    /// Workers.
    Workers,
    /// Interfaces.
    Interfaces,
}

impl What {
    /// The same, with so many rows of a list at most.
    fn at_most(&self, rows: usize) -> Self {
        let mut what = self.clone();
        if let Self::Sessions(filter) | Self::Subscribers(filter) = &mut what {
            let rows = rows as u64;
            filter.limit = Some(filter.limit.map_or(rows, |limit| limit.min(rows)));
        }
        what
    }
}

/// Which rows of a list to show; `None` means any. The server checks the values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    /// Any address of the row.
    pub(crate) address: Option<String>,
    /// Pool by name.
    pub(crate) pool: Option<String>,
    /// Protocol (sessions only).
    pub(crate) protocol: Option<String>,
    /// State (sessions only).
    pub(crate) state: Option<String>,
    /// Rows at most.
    pub(crate) limit: Option<u64>,
}

/// Why nothing is shown.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ViewError {
    /// Nobody answers.
    #[error(
        "cannot reach natgate ({path}): {why}; is 'natgate run' running, and with the same --socket?"
    )]
    Unreachable {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The socket answers, but not as natgate does.
    #[error("cannot read natgate's answer ({path}): {why}; is it a natgate of this version?")]
    Answer {
        /// The socket.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// natgate refuses, and says why.
    #[error("{0}")]
    Refused(String),
    /// What was asked for, or a configuration, is wrong: every mistake, a line each.
    #[error("{0}")]
    Invalid(String),
    /// Sessions are left when the time to wait is over.
    #[error(
        "not empty ({}): not all have ended in time; wait on, or see natgate sessions", counted(*.left, "session")
    )]
    NotEmpty {
        /// How many.
        left: u64,
    },
    /// Whoever was followed has ended without a word.
    #[error("natgate is gone ({path}): it ended without a word; see its log, and start it again")]
    Gone {
        /// The socket.
        path: PathBuf,
    },
    /// The output failed.
    #[error("cannot write the output: {0}; see that there is room")]
    Output(io::Error),
    /// A file can't be made.
    #[error("cannot write the file ({path}): {why}; see that its directory is there, and writable")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

// Not as its source: it is told already.
impl From<io::Error> for ViewError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

/// Has the natgate that listens on `socket` read its configuration again, and prints what came of it. Must be called
/// within a tokio runtime.
pub(crate) async fn reload(socket: &Path, json: bool) -> Result<(), ViewError> {
    let body = client::order(socket, Method::POST, "/v1/reload", Bytes::new()).await?;
    if json {
        crate::say(&format!("{}\n", String::from_utf8_lossy(&body)));
        return Ok(());
    }
    let reloaded = serde_json::from_slice::<Reloaded>(&body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })?;
    crate::say(&tables::reloaded(&reloaded));
    Ok(())
}

/// Has the natgate that listens on `socket` tell what would become of a flow, and prints it. Must be called within a tokio
/// runtime.
pub(crate) async fn explain(
    socket: &Path,
    query: &[(&str, String)],
    json: bool,
) -> Result<(), ViewError> {
    let query = serde_urlencoded::to_string(query)
        .map_err(|error| ViewError::Refused(format!("bad query: {error}")))?;
    let body = client::fetch(socket, &format!("/v1/explain?{query}")).await?;
    if json {
        crate::say(&format!("{}\n", String::from_utf8_lossy(&body)));
        return Ok(());
    }
    let explained = serde_json::from_slice(&body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })?;
    crate::say(&crate::explain::text(&explained, Screen::of_stdout().width));
    Ok(())
}

/// Fetches what is at `path`.
pub(crate) async fn fetch_json<T: serde::de::DeserializeOwned>(
    socket: &Path,
    path: &str,
) -> Result<T, ViewError> {
    let body = client::fetch(socket, path).await?;
    serde_json::from_slice(&body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })
}

/// Fetches `what` from the natgate that listens on `socket` and prints it to standard output: JSON if
/// `json`, else for people. A reader that goes away early (`| head`) is no error. Must be called within a
/// tokio runtime.
pub(crate) async fn show(socket: &Path, what: &What, json: bool) -> Result<(), ViewError> {
    let screen = Screen::of_stdout();
    let mut out = io::BufWriter::new(io::stdout().lock());
    match show_to(&mut out, screen, socket, what, json).await {
        Err(ViewError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

async fn show_to(
    out: &mut impl Write,
    screen: Screen,
    socket: &Path,
    what: &What,
    json: bool,
) -> Result<(), ViewError> {
    let path = match what {
        What::Sessions(filter) => {
            let rows = lists::open(socket, "/v1/sessions", filter).await?;
            lists::sessions(out, screen, rows, json).await?;
            return Ok(out.flush()?);
        }
        What::Subscribers(filter) => {
            let rows = lists::open(socket, "/v1/subscribers", filter).await?;
            lists::subscribers(out, screen, rows, json).await?;
            return Ok(out.flush()?);
        }
        What::Status => "/v1/status",
        What::Pools => "/v1/pools",
        What::Drops { .. } => "/v1/drops",
        What::Workers => "/v1/workers",
        What::Interfaces => "/v1/interfaces",
    };
    let body = client::fetch(socket, path).await?;
    if json {
        out.write_all(&body)?;
        out.write_all(b"\n")?;
        return Ok(out.flush()?);
    }
    let text = render(what, &body, screen.width)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })?;
    write_table(out, screen, what, &text)?;
    Ok(out.flush()?)
}

/// The table of one answer.
pub(crate) fn render(what: &What, body: &[u8], width: usize) -> serde_json::Result<String> {
    Ok(match what {
        What::Pools => tables::pools(&serde_json::from_slice::<Vec<PoolRow>>(body)?, width),
        What::Drops { all } => {
            tables::drops(serde_json::from_slice::<Vec<DropRow>>(body)?, *all, width)
        }
        What::Workers => tables::workers(&serde_json::from_slice::<Vec<WorkerRow>>(body)?, width),
        What::Interfaces => {
            tables::interfaces(&serde_json::from_slice::<Vec<InterfaceRow>>(body)?, width)
        }
        What::Status | What::Sessions(_) | What::Subscribers(_) => {
            tables::status(&serde_json::from_slice::<Status>(body)?, width)
        }
    })
}

/// Prints a table; on a terminal its first line stands out, and so does what should not be.
fn write_table(out: &mut impl Write, screen: Screen, what: &What, text: &str) -> io::Result<()> {
    for (number, line) in text.lines().map(str::trim_end).enumerate() {
        let titles = number == 0 && *what != What::Status;
        match if titles { Some(BOLD) } else { alarm(what, line) } {
            Some(code) => writeln!(out, "{}", screen.paint(code, line))?,
            None => writeln!(out, "{line}")?,
        }
    }
    Ok(())
}

const BOLD: u8 = 1;
const RED: u8 = 31;
const YELLOW: u8 = 33;

/// The colour of a line that says something unusual.
fn alarm(what: &What, line: &str) -> Option<u8> {
    let starts = |word: &str| line.trim_start().starts_with(word);
    let share = |line: &str| {
        let before = line.split_once(" %")?.0.split_whitespace().next_back()?;
        before.parse::<f64>().ok()
    };
    match what {
        What::Interfaces if line.split_whitespace().nth(2) == Some("down") => Some(RED),
        What::Status if line.contains("REFUSED") || line.contains("NOT READY") => Some(RED),
        What::Pools | What::Workers => match share(line) {
            Some(90.0..) => Some(RED),
            Some(75.0..) => Some(YELLOW),
            _ => None,
        },
        _ => (starts("warning") || starts("in transition")).then_some(YELLOW),
    }
}
