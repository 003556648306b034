//! How does one follow what happens? Entries of the journal, a line each, as they come.
//!
//! A client that reads too slowly finds a gap with its numbers; one that reads nothing for long is given up.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::response::Response;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use crate::events::{Batch, Journal, Row, unix_ms};

use super::routes::{App, Refusal, bad_query, bad_value, lines};

/// Entries in a piece of the answer.
const SLICE: usize = 256;
/// A follower that reads nothing for this long is given up.
const PATIENCE: Duration = Duration::from_secs(30);

/// `?since=` and the like.
#[derive(Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let number = |name: &str, text: Option<String>| {
        text.map(|text| {
            text.parse().map_err(|_| bad_value(name, &text, "it is no whole number; give one"))
        })
        .transpose()
    };
    let (since, last): (Option<u64>, Option<u64>) =
        (number("since", query.since)?, number("last", query.last)?);
    let follow = match query.follow.as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            return Err(bad_value("follow", other, "it is no truth; write true or false"));
        }
    };
    let permit = app.follower()?;
    let journal = Arc::clone(&app.shared.journal);
    let newest = journal.newest();
    // Of a natgate before this one: what its reader has missed nobody knows, and must not be taken for nothing.
    if let Some(since) = since.filter(|since| *since > newest) {
        let why = format!(
            "the newest event is {newest}, and numbers begin anew when natgate starts; give that or less, 0 for all since then"
        );
        return Err(bad_value("since", &since.to_string(), why));
    }
    let next = match (since, last) {
        (Some(since), _) => since.saturating_add(1),
        (None, Some(last)) => newest.saturating_sub(last) + 1,
        (None, None) => newest + 1,
    };
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use crate::api::tests::Fake;

    #[test]
    fn events_are_followed_from_a_number_on() {
        let fake = Fake::new(0);
        fake.run(async || {
            assert_eq!(fake.get("/v1/events?follow=false&since=0").await, (200, String::new()));
            let rows = |body: &str| -> Vec<(u64, String)> {
                let row = |line| serde_json::from_str::<crate::events::Row>(line).unwrap();
                body.lines().map(row).map(|row| (row.seq.unwrap(), row.kind)).collect()
            };
            let expected: Vec<(u64, String)> = ["started", "block-allotted", "stopped"]
                .into_iter()
                .zip(1..)
                .map(|(kind, seq)| (seq, kind.to_owned()))
                .collect();
            // A follower sees what comes, and ends with the journal.
            let (followed, ()) = tokio::join!(fake.get("/v1/events"), async {
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                crate::api::tests::stop_journal(&fake);
            });
            assert_eq!((followed.0, rows(&followed.1)), (200, expected.clone()));
            for (query, from) in [("since=0", 0), ("since=2", 2), ("since=3", 3), ("last=1", 2)] {
                let (_, body) = fake.get(&format!("/v1/events?follow=false&{query}")).await;
                assert_eq!(rows(&body), expected[from..], "{query}");
            }
            let (status, body) = fake.get("/v1/events?follow=false&since=4").await;
            assert!(status == 400 && body.contains("the newest event is 3"), "{status} {body}");
            for query in ["since=x", "last=-1", "follow=yes", "until=3"] {
                assert_eq!(fake.get(&format!("/v1/events?{query}")).await.0, 400, "{query}");
            }
        });
    }

    #[test]
    fn followers_are_few_and_take_no_room_of_lists() {
        let fake = Fake::new(1);
        fake.run(async || {
            let mut silent = Vec::new();
            for _ in 0..16 {
                let mut stream = UnixStream::connect(&fake.socket).await.unwrap();
                stream.write_all(b"GET /v1/events HTTP/1.1\r\nhost: n\r\n\r\n").await.unwrap();
                let mut first = [0; 1];
                stream.read_exact(&mut first).await.unwrap();
                silent.push(stream);
            }
            let (status, body) = fake.get("/v1/events").await;
            assert!(status == 503 && body.contains("follow them already"), "{body}");
            assert_eq!(fake.get("/v1/sessions").await.0, 200);
            silent.clear();
            // The server learns that they are gone.
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            assert_eq!(fake.get("/v1/events?follow=false").await.0, 200);
        });
    }
}
