//! How is it said who had a public endpoint?

use std::fmt::Write as _;
use std::path::Path;

use super::{ViewError, client};
use crate::events::{Answer, Holding};

/// Prints who has, or had, `endpoint`, as the natgate that listens on `socket` knows: JSON if `json`, else for people.
/// Must be called within a tokio runtime.
pub(crate) async fn who(
    socket: &Path,
    endpoint: &str,
    at: Option<&str>,
    json: bool,
) -> Result<(), ViewError> {
    crate::say(&answer(socket, endpoint, at, json).await?);
    Ok(())
}

pub(super) async fn answer(
    socket: &Path,
    endpoint: &str,
    at: Option<&str>,
    json: bool,
) -> Result<String, ViewError> {
    let fields: Vec<(&str, &str)> =
        std::iter::once(("endpoint", endpoint)).chain(at.map(|at| ("at", at))).collect();
    let query = serde_urlencoded::to_string(fields)
        .map_err(|error| ViewError::Refused(format!("bad question: {error}")))?;
    let body = client::fetch(socket, &format!("/v1/who?{query}")).await?;
    if json {
        return Ok(format!("{}\n", String::from_utf8_lossy(&body)));
    }
    let answer = serde_json::from_slice::<Answer>(&body)
        .map_err(|error| ViewError::Answer { path: socket.to_owned(), why: error.to_string() })?;
    Ok(sentences(&answer))
}

fn sentences(answer: &Answer) -> String {
    let Answer { public, protocol, at, holders, records_since, notes } = answer;
    let mut text = String::new();
    // Writing to a string does not fail.
    if holders.is_empty() {
        let _ = writeln!(text, "{public}/{protocol} at {at}: nobody");
    }
    for holder in holders {
        let Holding { subscriber, subscriber_port, vni, by, first, last, from, to, .. } = holder;
        let port = subscriber_port.map_or_else(String::new, |port| format!(":{port}"));
        let vni = vni.map_or_else(String::new, |vni| format!(" (VNI {vni})"));
        let by = match by.as_str() {
            "block" => format!("port block {first}-{last}"),
            "fixed" => format!("configuration, ports {first}-{last}"),
            _ => "session".to_owned(),
        };
        let to = to.as_ref().map_or_else(|| "until now".to_owned(), |to| format!("to {to}"));
        let doubt = holder.at_most_to.as_ref();
        let doubt = doubt.map_or_else(String::new, |until| format!(", or {until} at most"));
        let _ = writeln!(text, "{public}/{protocol} at {at}: {subscriber}{port}{vni}");
        let _ = writeln!(text, "  by {by}, from {from} {to}{doubt}");
    }
    if let Some(since) = records_since {
        let _ = writeln!(text, "records begin at {since}");
    }
    for note in notes {
        let _ = writeln!(text, "note: {note}");
    }
    text
}
