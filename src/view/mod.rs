//! What does an operator see? The stats socket's answers, as tables for people or JSON for programs.

mod client;
pub(crate) mod drain;
mod human;
mod lists;
pub(crate) mod settings;
mod tables;
#[cfg(test)]
mod tests;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};

use hyper::Method;
use hyper::body::Bytes;

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
    /// natgate refuses a configuration: every mistake, a line each.
    #[error("{0}")]
    Invalid(String),
    /// Sessions are left when the time to wait is over.
    #[error(
        "not empty ({left} sessions): they have not ended in time; wait on, or see natgate sessions"
    )]
    NotEmpty {
        /// How many.
        left: u64,
    },
    /// The output failed.
    #[error("cannot write the output: {0}; see that there is room")]
    Output(#[from] io::Error),
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

/// Fetches `what` from the natgate that listens on `socket` and prints it to standard output: JSON if
/// `json`, else for people. A reader that goes away early (`| head`) is no error. Must be called within a
/// tokio runtime.
pub(crate) async fn show(socket: &Path, what: &What, json: bool) -> Result<(), ViewError> {
    let stdout = io::stdout();
    let colour = stdout.is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
    let mut out = io::BufWriter::new(stdout.lock());
    match show_to(&mut out, colour, socket, what, json).await {
        Err(ViewError::Output(error)) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

async fn show_to(
    out: &mut impl Write,
    colour: bool,
    socket: &Path,
    what: &What,
    json: bool,
) -> Result<(), ViewError> {
    let path = match what {
        What::Sessions(filter) => {
            let rows = lists::open(socket, "/v1/sessions", filter).await?;
            lists::sessions(out, colour, rows, json).await?;
            return Ok(out.flush()?);
        }
        What::Subscribers(filter) => {
            let rows = lists::open(socket, "/v1/subscribers", filter).await?;
            lists::subscribers(out, colour, rows, json).await?;
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
    let text = render(what, &body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })?;
    write_table(out, colour && *what != What::Status, &text)?;
    Ok(out.flush()?)
}

fn render(what: &What, body: &[u8]) -> serde_json::Result<String> {
    Ok(match what {
        What::Pools => tables::pools(&serde_json::from_slice::<Vec<PoolRow>>(body)?),
        What::Drops { all } => tables::drops(serde_json::from_slice::<Vec<DropRow>>(body)?, *all),
        What::Workers => tables::workers(&serde_json::from_slice::<Vec<WorkerRow>>(body)?),
        What::Interfaces => tables::interfaces(&serde_json::from_slice::<Vec<InterfaceRow>>(body)?),
        What::Status | What::Sessions(_) | What::Subscribers(_) => {
            tables::status(&serde_json::from_slice::<Status>(body)?)
        }
    })
}

/// Prints a table; its first line stands out on a terminal.
fn write_table(out: &mut impl Write, colour: bool, text: &str) -> io::Result<()> {
    for (number, line) in text.lines().enumerate() {
        if colour && number == 0 {
            writeln!(out, "\x1b[1m{}\x1b[0m", line.trim_end())?;
        } else {
            writeln!(out, "{}", line.trim_end())?;
        }
    }
    Ok(())
}
