//! How does one follow what happens? Entries of the journal, a line each, as they come.
//!
//! A client that reads too slowly finds a gap with its numbers; one that reads nothing for long is given up.

use std::sync::Arc;
use std::time::Duration;

use axum::Json;
use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::events::{Answer, Batch, Journal, Row, parse_question, parse_time, unix_ms};

use super::routes::{App, Refusal, bad, bad_value, lines};

/// Entries in a piece of the answer.
const SLICE: usize = 256;
/// A follower that reads nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// `?since=` and the like.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct EventQuery {
    /// Begin after the entry of this number.
    since: Option<String>,
    /// Begin with so many entries that are there already.
    last: Option<String>,
    /// Go on when the newest is told.
    follow: Option<String>,
}

/// `GET /v1/events`.
pub(super) async fn follow(
    State(app): State<App>,
    query: Result<Query<EventQuery>, QueryRejection>,
) -> Result<Response, Refusal> {
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let number = |name: &str, text: Option<String>| {
        text.map(|text| text.parse().map_err(|_| bad_value(name, &text, "give a number")))
            .transpose()
    };
    let (since, last): (Option<u64>, Option<u64>) =
        (number("since", query.since)?, number("last", query.last)?);
    let follow = match query.follow.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => return Err(bad_value("follow", other, "write true or false")),
    };
    let permit = app.follower()?;
    let journal = Arc::clone(&app.shared.journal);
    let newest = journal.newest();
    let next = match (since, last) {
        (Some(since), _) => since.saturating_add(1),
        (None, Some(last)) => newest.saturating_sub(last) + 1,
        (None, None) => newest + 1,
    };
    // A number from before a restart: everything is new.
    let next = if next > newest + 1 { 1 } else { next };
    let until = (!follow).then_some(newest);
    Ok(lines(stream(Follower { journal, next, until, _permit: permit })))
}

struct Follower {
    journal: Arc<Journal>,
    next: u64,
    /// The last one to tell; `None`: for ever.
    until: Option<u64>,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    /// The next lines; `None` at the end.
    async fn more(&mut self) -> Option<Vec<u8>> {
        let mut newest = self.journal.follow();
        loop {
            if self.until.is_some_and(|until| self.next > until) {
                return None;
            }
            // Before the look, so that nothing that comes after it is missed.
            newest.borrow_and_update();
            let batch = self.journal.read(self.next, SLICE);
            self.next = batch.next;
            if !batch.is_empty() {
                return Some(rows(&batch));
            }
            if batch.closed || newest.changed().await.is_err() {
                return None;
            }
        }
    }
}

fn rows(batch: &Batch) -> Vec<u8> {
    let gap = batch.gap.map(|(from, to)| Row::gap(from, to, unix_ms()));
    let entries = batch.entries.iter().map(|entry| Row::from(&**entry));
    let mut text = Vec::new();
    for row in gap.into_iter().chain(entries) {
        // Writing to memory does not fail.
        let _ = serde_json::to_writer(&mut text, &row);
        text.push(b'\n');
    }
    text
}

/// Pieces wait in a channel of one place, so that a client that does not read is noticed.
fn stream(mut follower: Follower) -> Body {
    let (to_client, from_journal) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let lines = tokio::select! {
                lines = follower.more() => lines,
                () = to_client.closed() => None,
            };
            let Some(lines) = lines else { return };
            let sent = tokio::time::timeout(PATIENCE, to_client.send(Bytes::from(lines))).await;
            if !matches!(sent, Ok(Ok(()))) {
                return;
            }
        }
    });
    let pieces = futures_util::stream::unfold(from_journal, async |mut from_journal| {
        let lines = from_journal.recv().await?;
        Some((Ok::<_, std::convert::Infallible>(lines), from_journal))
    });
    Body::from_stream(pieces)
}

/// `?endpoint=` and `?at=`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct WhoQuery {
    endpoint: String,
    at: Option<String>,
}

/// `GET /v1/who`.
pub(super) async fn who(
    State(app): State<App>,
    query: Result<Query<WhoQuery>, QueryRejection>,
) -> Result<Json<Answer>, Refusal> {
    let Query(query) = query.map_err(|rejection| bad(rejection.body_text()))?;
    let question = parse_question(&query.endpoint).map_err(bad)?;
    let at = query.at.map(|text| parse_time(&text, unix_ms())).transpose().map_err(bad)?;
    let who = Arc::clone(&app.shared.who);
    let permit = app.searcher()?;
    let answer = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        who.answer(question, at)
    });
    let failed = |error: String| Refusal(StatusCode::CONFLICT, error);
    let answer = answer.await.map_err(|error| failed(error.to_string()))?;
    answer.map(Json).map_err(failed)
}
