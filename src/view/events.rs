//! How do events look? One line each, as they come.

use std::io::{IsTerminal, Write};
use std::path::Path;

use http_body_util::BodyExt;

use super::{ViewError, client};
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

/// Prints events of the natgate that listens on `socket`: as JSON if `json`, else for people. Must be called within a
/// tokio runtime.
pub(crate) async fn events(socket: &Path, which: Which, json: bool) -> Result<(), ViewError> {
    let stdout = std::io::stdout();
    let live = which.follow || stdout.is_terminal();
    let mut out = std::io::BufWriter::new(stdout.lock());
    match events_to(&mut out, socket, which, json, live).await {
        Err(ViewError::Output(error)) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result,
    }
}

pub(super) async fn events_to(
    out: &mut impl Write,
    socket: &Path,
    which: Which,
    json: bool,
    live: bool,
) -> Result<(), ViewError> {
    let Which { since, last, follow } = which;
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
            if json {
                out.write_all(line)?;
            } else {
                let row: Row =
                    serde_json::from_slice(line).map_err(|error| broken(error.to_string()))?;
                writeln!(out, "{}", sentence(&row))?;
            }
        }
        if live {
            out.flush()?;
        }
    }
    Ok(out.flush()?)
}

/// One event for people.
fn sentence(row: &Row) -> String {
    let word = |text: &Option<String>| text.clone().unwrap_or_default();
    let number = |number: Option<u64>| number.unwrap_or_default();
    let who = match (&row.subscriber, row.vni) {
        (Some(subscriber), Some(vni)) => format!("{subscriber} (VNI {vni})"),
        (Some(subscriber), None) => subscriber.clone(),
        (None, _) => "-".to_owned(),
    };
    let ports = format!(
        "{}:{}-{}",
        word(&row.public),
        row.first.unwrap_or_default(),
        row.last.unwrap_or_default()
    );
    let port = row.subscriber_port.unwrap_or_default();
    let what = match row.kind.as_str() {
        "started" => format!("natgate {}", word(&row.version)),
        "block-allotted" | "block-released" => {
            let found = if row.found { "  (seen later)" } else { "" };
            format!("{ports}  {who}  pool {}{found}", word(&row.pool))
        }
        "fixed-added" | "fixed-removed" => {
            let protocol = row.protocol.as_deref().unwrap_or("all");
            format!("{ports}/{protocol}  {who}:{port}  {}", word(&row.name))
        }
        "session-began" | "session-ended" => {
            let remote = row.remote.as_ref().map_or_else(String::new, |it| format!(" > {it}"));
            format!("{} {who}:{port} as {}{remote}", word(&row.protocol), word(&row.public))
        }
        "missing" => format!("{} records were lost on their way", number(row.count)),
        "gap" => {
            format!("numbers {} to {} were not read in time", number(row.from), number(row.to))
        }
        "clock-set" => format!("it was {}", word(&row.before)),
        _ => {
            let pool = row.pool.as_ref().map_or_else(String::new, |pool| format!("  pool {pool}"));
            let of = row.of.as_ref().map_or_else(String::new, |of| format!("  {of}"));
            let (used, limit) = (row.used.unwrap_or_default(), row.limit.unwrap_or_default());
            format!("{who}{pool}{of}  {used} of {limit}")
        }
    };
    let seq = row.seq.map_or_else(|| "-".to_owned(), |seq| seq.to_string());
    format!("{seq:>8}  {}  {:<18}{what}", row.time, row.kind)
}
