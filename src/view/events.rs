//! How do events look? One line each, as they come.

use std::io::{IsTerminal, Write};
use std::path::Path;

use http_body_util::BodyExt;

use super::{ViewError, client, wrap};
use crate::events::Row;

/// Which events to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Which {
    /// Those after the entry of this number.
    pub(crate) since: Option<u64>,
    /// So many of those that are there.
    pub(crate) last: u64,
    /// And those that come.
    pub(crate) follow: bool,
}

/// Prints events of the natgate that listens on `socket`: as JSON if `json`, else for people. Follows until natgate stops
/// in order, which is said on standard error and no failure. Must be called within a tokio runtime.
pub(crate) async fn events(socket: &Path, which: Which, json: bool) -> Result<(), ViewError> {
    let stdout = std::io::stdout();
    let live = which.follow || stdout.is_terminal();
    let form = if json { Form::Json } else { Form::Lines(super::terminal_width()) };
    let mut out = std::io::BufWriter::new(stdout.lock());
    match events_to(&mut out, socket, which, form, live).await {
        Err(ViewError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        Ok(true) if which.follow => {
            let _ = writeln!(std::io::stderr().lock(), "natgate has stopped");
            Ok(())
        }
        result => result.map(drop),
    }
}

/// How events are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// As they come.
    Json,
    /// For people, in lines of so many columns at most.
    Lines(usize),
}

/// What of the journal was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Seen {
    /// The number of the newest entry.
    last: Option<u64>,
    /// The last entry says that natgate stopped.
    stopped: bool,
}

/// Whether natgate has stopped in order.
pub(super) async fn events_to(
    out: &mut impl Write,
    socket: &Path,
    which: Which,
    form: Form,
    live: bool,
) -> Result<bool, ViewError> {
    let mut seen = Seen::default();
    let mut from = which;
    loop {
        let before = seen;
        let read = read_on(out, socket, from, (form, live), &mut seen).await;
        match read {
            Ok(()) if !which.follow || seen.stopped => return Ok(seen.stopped),
            Err(error @ ViewError::Output(_)) => return Err(error),
            Err(error) if before.last.is_none() && seen == before => return Err(error),
            // natgate ends every connection after some time: go on where this one ended.
            Ok(()) | Err(ViewError::Answer { .. }) if seen != before => {}
            Ok(()) | Err(_) => return Err(ViewError::Gone { path: socket.to_owned() }),
        }
        from.since = seen.last;
    }
}

/// Reads until the connection ends.
async fn read_on(
    out: &mut impl Write,
    socket: &Path,
    Which { since, last, follow }: Which,
    (form, live): (Form, bool),
    seen: &mut Seen,
) -> Result<(), ViewError> {
    let begin = since.map_or_else(|| format!("last={last}"), |since| format!("since={since}"));
    let path = format!("/v1/events?{begin}&follow={follow}");
    let mut body = client::get(socket, &path).await?.into_body();
    let broken = |why: String| ViewError::Answer { path: socket.to_owned(), why };
    let mut received = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| broken(error.to_string()))?;
        received.extend_from_slice(&frame.into_data().unwrap_or_default());
        let whole = received.iter().rposition(|byte| *byte == b'\n').map_or(0, |end| end + 1);
        for line in received.drain(..whole).as_slice().split_inclusive(|byte| *byte == b'\n') {
            let row: Row =
                serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
            *seen = Seen { last: row.seq.or(seen.last), stopped: row.kind == "stopped" };
            match form {
                Form::Json => out.write_all(line)?,
                Form::Lines(width) => {
                    let mut text = String::new();
                    wrap(&mut text, &sentence(&row), NUMBER + 2, width);
                    out.write_all(text.as_bytes())?;
                }
            }
        }
        if live {
            out.flush()?;
        }
    }
    Ok(out.flush()?)
}

/// Columns of the number.
const NUMBER: usize = 6;

/// Ports of an address, as `203.0.113.7:40128-40191`.
fn ports(row: &Row) -> String {
    let public = row.public.as_deref().unwrap_or_default();
    match (row.first.unwrap_or_default(), row.last.unwrap_or_default()) {
        (first, last) if first == last => format!("{public}:{first}"),
        (first, last) => format!("{public}:{first}-{last}"),
    }
}

/// One event for people.
pub(super) fn sentence(row: &Row) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let number = |number: Option<u64>| number.unwrap_or_default();
    let who = match (&row.subscriber, row.vni) {
        (Some(subscriber), Some(vni)) => format!("{subscriber} (VNI {vni})"),
        (Some(subscriber), None) => subscriber.clone(),
        (None, _) => "-".to_owned(),
    };
    let ports = ports(row);
    let port = row.subscriber_port.unwrap_or_default();
    let what = match row.kind.as_str() {
        "started" => format!("natgate {}", word(&row.version)),
        "block-allotted" | "block-released" => {
            let note = match (row.found, row.restored) {
                (true, _) => " (seen later)",
                (_, true) => " (as before the start)",
                _ => "",
            };
            format!("{ports} {who} pool {}{note}", word(&row.pool))
        }
        "fixed-added" | "fixed-removed" => {
            let protocol = row.protocol.as_deref().unwrap_or("all");
            format!("{ports}/{protocol} {who}:{port} {}", word(&row.name))
        }
        "session-began" | "session-ended" => {
            let remote = row.remote.as_ref().map_or_else(String::new, |it| format!(" > {it}"));
            format!("{} {who}:{port} as {}{remote}", word(&row.protocol), word(&row.public))
        }
        "missing" => match number(row.count) {
            1 => "1 record was lost on its way".to_owned(),
            count => format!("{count} records were lost on their way"),
        },
        "gap" => {
            format!("numbers {} to {} were not read in time", number(row.from), number(row.to))
        }
        "crashed" => {
            let seen = row.last_seen.as_deref().unwrap_or("an unknown time");
            let sessions = match number(row.count) {
                1 => "1 session".to_owned(),
                count => format!("{count} sessions"),
            };
            format!("the natgate before, last seen at {seen}, with {sessions}")
        }
        "clock-set" => format!("it was {}", word(&row.before)),
        _ => {
            let pool = row.pool.as_ref().map_or_else(String::new, |pool| format!(" pool {pool}"));
            let of = row.of.as_ref().map_or_else(String::new, |of| format!(" {of}"));
            let (used, limit) = (row.used.unwrap_or_default(), row.limit.unwrap_or_default());
            format!("{who}{pool}{of} {used} of {limit}")
        }
    };
    let seq = row.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    format!("{seq:>NUMBER$}  {} {} {what}", row.time, row.kind).trim_end().to_owned()
}
