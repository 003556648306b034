//! How is it said who had a public endpoint?

use std::fmt::Write as _;
use std::path::Path;

use super::{ViewError, client, wrap};
use crate::events::{Answer, Holding, SessionNow};

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
    Ok(sentences(&answer, super::terminal_width()))
}

fn sentences(answer: &Answer, width: usize) -> String {
    let Answer { public, protocol, at, holders, records_since, sessions, notes } = answer;
    let mut text = String::new();
    // Writing to a string does not fail.
    if holders.is_empty() && sessions.is_empty() {
        let _ = writeln!(text, "{public}/{protocol} at {at}: nobody that is known");
    }
    for holder in holders {
        let Holding { subscriber, subscriber_port, vni, by, first, last, from, to, .. } = holder;
        let port = subscriber_port.map_or_else(String::new, |port| format!(":{port}"));
        let vni = vni.map_or_else(String::new, |vni| format!(" (VNI {vni})"));
        let by = match by.as_str() {
            "block" => format!("port block {first}-{last}"),
            "fixed" if first == last => format!("configuration, port {first}"),
            "fixed" => format!("configuration, ports {first}-{last}"),
            _ => "session".to_owned(),
        };
        let to = to.as_ref().map_or_else(|| "until now".to_owned(), |to| format!("to {to}"));
        let doubt = holder.at_most_to.as_ref();
        let doubt = doubt.map_or_else(String::new, |until| format!(", or {until} at most"));
        let _ = writeln!(text, "{public}/{protocol} at {at}: {subscriber}{port}{vni}");
        wrap(&mut text, &format!("  by {by}, from {from} {to}{doubt}"), 4, width);
    }
    for SessionNow { subscriber, subscriber_port, overlay, remote } in sessions {
        let overlay = overlay.map_or_else(String::new, |overlay| format!(" (overlay {overlay})"));
        let whose = format!("{subscriber}:{subscriber_port}{overlay}");
        let _ = writeln!(text, "{public}/{protocol} at {at}: {whose}");
        let _ = writeln!(text, "  by a session with {remote}, among others");
    }
    if let Some(since) = records_since {
        let _ = writeln!(text, "records begin at {since}");
    }
    for note in notes {
        wrap(&mut text, &format!("note: {note}"), 2, width);
    }
    text
}
