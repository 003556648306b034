//! Who has, or had, a public endpoint? What the journal and its records know; and where they can't know, that is said.

use std::collections::HashSet;
use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use conntrack::Protocol;
use crossbeam::channel::Sender;
use dataplane::request::{Request, SessionFilter, SessionRow};
use dataplane::snapshot::Snapshot;
use serde::Deserialize;

use crate::events::{Answer, Question, SessionNow, parse_question, parse_time, unix_ms};

use super::routes::{App, Refusal, bad, bad_query, bad_value};
use super::shared::Shared;
use super::stream::relay;

/// Sessions that are named, where many pods share an endpoint.
const SESSIONS: usize = 64;

/// `?endpoint=` and `?at=`.
#[derive(Debug, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct WhoQuery {
    /// A.B.C.D:PORT, or A.B.C.D:PORT/udp.
    endpoint: String,
    /// When: RFC 3339, or so long ago as in -2h; now without.
    at: Option<String>,
}

/// `GET /v1/who`.
pub(super) async fn who(
    State(app): State<App>,
    query: Result<Query<WhoQuery>, QueryRejection>,
) -> Result<Json<Answer>, Refusal> {
    let Query(query) = query.map_err(|rejection| bad_query(&rejection))?;
    let question = parse_question(&query.endpoint).map_err(bad)?;
    let at = query.at.map(|text| past(&text, unix_ms())).transpose()?;
    let permit = app.searcher()?;
    let answer = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        let mut answer = app.shared.who.answer(question, at)?;
        explain(&app.shared, question, at.is_none(), &mut answer);
        Ok::<_, String>(answer)
    });
    let failed = |error: String| Refusal(StatusCode::CONFLICT, error);
    let answer = answer.await.map_err(|error| failed(error.to_string()))?;
    answer.map(Json).map_err(failed)
}

/// A time that has come.
fn past(text: &str, now: u64) -> Result<u64, Refusal> {
    let at = parse_time(text, now).map_err(bad)?;
    if at <= now {
        return Ok(at);
    }
    Err(bad_value("at", text, "it is in the future; give a time that has come, or none for now"))
}

/// Adds what one should know of an endpoint that no block, and nothing else, is an answer for.
fn explain(shared: &Shared, question: Question, is_now: bool, answer: &mut Answer) {
    let snapshot = shared.snapshot.get();
    if let Some(note) = sharing(&snapshot, question) {
        answer.notes.push(note);
        if is_now {
            answer.sessions = sessions(shared, question);
        }
    } else if answer.holders.is_empty() && !snapshot.policy.addresses.contains_key(&question.public)
    {
        let note = format!("{} is no public address of this gateway now", question.public);
        answer.notes.push(note);
    }
}

/// What there is to say of a port that several pods use at a time.
fn sharing(snapshot: &Snapshot, Question { public, port, protocol }: Question) -> Option<String> {
    let mut pools = snapshot.policy.pools.iter().filter(|pool| pool.has(public));
    let (pool, region) = pools.find_map(|pool| {
        let region = pool.settings.scatter_region()?;
        (protocol == Protocol::Udp && region.contains(&port)).then_some((pool, region))
    })?;
    Some(format!(
        "port {port} is in the region {}-{} that the pods of pool {} share for DNS queries: one port is several pods', each \
         towards another server, for seconds; no port block tells whose it was, only records of sessions do (events: \
         {{sessions: true}} in the Gateway object, and {{destinations: true}} to tell them apart)",
        region.start(),
        region.end(),
        pool.name,
    ))
}

/// The sessions that have the endpoint now, as far as workers answer.
fn sessions(shared: &Shared, Question { public, port, protocol }: Question) -> Vec<SessionNow> {
    let filter = SessionFilter {
        protocol: Some(protocol),
        public: Some((Arc::new(HashSet::from([public])), port..=port)),
        ..SessionFilter::default()
    };
    let ask = |rows: Sender<Vec<SessionRow>>| Request::Sessions(filter.clone(), rows);
    let mut found = Vec::new();
    for number in 0..shared.workers.len() {
        // Who does not answer is left out: the list is an aid beside the answer.
        let _ = relay(shared, number, &ask, |rows, _| {
            found.extend(rows.iter().map(|row| SessionNow {
                subscriber: row.internal.addr.to_string(),
                subscriber_port: row.internal.port,
                overlay: Some(row.overlay).filter(|overlay| *overlay != 0),
                remote: row.remote.to_string(),
            }));
            found.len() < SESSIONS
        });
    }
    found.truncate(SESSIONS);
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::Fake;

    #[test]
    fn a_port_that_pods_share_is_explained() {
        let fake = Fake::new(20);
        let pool = Arc::clone(&fake.shared.snapshot.get().policy.pools[0]);
        let region = pool.settings.scatter_region().unwrap();
        fake.run(async || {
            let in_region = format!("203.0.113.7:{}", region.start());
            let answer = fake.json(&format!("/v1/who?endpoint={in_region}/udp")).await;
            let note = answer["notes"][0].as_str().unwrap();
            assert!(note.contains("share for DNS") && note.contains("pool main"), "{answer:#}");
            let remote = answer["sessions"][0]["remote"].as_str();
            assert_eq!(remote, Some("198.51.100.1:443"), "{answer:#}");
            // TCP has no such region, and past sessions are not in the table.
            let other = fake.json(&format!("/v1/who?endpoint={in_region}/tcp")).await;
            assert!(other["notes"] == serde_json::json!([]) && other["sessions"].is_null());
            let stranger = fake.json("/v1/who?endpoint=203.0.113.8:5000/udp").await;
            let note = stranger["notes"][0].as_str().unwrap();
            assert!(note.contains("203.0.113.8 is no public address"), "{note}");
        });
    }

    #[test]
    fn the_future_is_refused() {
        let now = 1_772_373_720_123;
        assert_eq!(past("-2h", now).ok(), Some(now - 7_200_000));
        assert_eq!(past("2026-03-01T14:02:00.123Z", now).ok(), Some(now));
        let refused = past("2026-03-01T14:02:00.124Z", now).err();
        assert!(refused.is_some_and(|it| it.1.contains("(at): it is in the future; give")));
    }
}
