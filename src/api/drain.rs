//! How is a gateway emptied, and what remains meanwhile?

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use crossbeam::channel::Sender;
use dataplane::DropReason;
use dataplane::request::{Request, SessionFilter, SessionRow};
use dataplane::snapshot::Snapshot;

use super::model::{Drain, Remainder};
use super::orders::Order;
use super::routes::{App, Refusal, order, permit};
use super::shared::{Shared, pool_name};
use super::stream::relay;

type Answer = Result<Json<Drain>, Refusal>;

pub(super) async fn show(State(app): State<App>) -> Answer {
    remainder(&app).await
}

pub(super) async fn begin(State(app): State<App>) -> Answer {
    order(&app.shared, |reply| Order::Drain(true, reply)).await?;
    remainder(&app).await
}

pub(super) async fn end(State(app): State<App>) -> Answer {
    if let Some(error) = refusal(&app.shared) {
        return Err(Refusal(StatusCode::CONFLICT, error));
    }
    order(&app.shared, |reply| Order::Drain(false, reply)).await?;
    remainder(&app).await
}

/// Why sessions are not opened again: natgate was told to stop. Whoever told it (systemd, Kubernetes, somebody) takes its
/// end for granted, and ends it after a while if it goes on.
pub(crate) fn refusal(shared: &Shared) -> Option<String> {
    let left = shared.stopping_in_s()?;
    Some(format!(
        "still draining (undrain): natgate was told to stop, and does so in {left} s or with the last session; \
         let it, and start it again"
    ))
}

/// Looks at all sessions, which takes the workers as much as a list of them.
async fn remainder(app: &App) -> Answer {
    let permit = permit(app)?;
    let shared = Arc::clone(&app.shared);
    let looked = tokio::task::spawn_blocking(move || {
        let pools = by_pool(&shared);
        drop(permit);
        pools.map(|pools| Drain {
            drained_since: shared.drained_since(),
            stopping_in_s: shared.stopping_in_s(),
            // Counted now: counters are a moment behind.
            sessions: pools.iter().map(|pool| pool.sessions).sum(),
            refused: shared.sum(|worker| &worker.drops[DropReason::Draining.index()]),
            pools,
        })
    });
    let failed = |error: String| Refusal(StatusCode::SERVICE_UNAVAILABLE, error);
    looked.await.map_err(|error| failed(error.to_string()))?.map(Json).map_err(failed)
}

fn by_pool(shared: &Shared) -> Result<Vec<Remainder>, String> {
    let mut pools: BTreeMap<u16, Remainder> = BTreeMap::new();
    let ask = |rows: Sender<Vec<SessionRow>>| Request::Sessions(SessionFilter::default(), rows);
    for number in 0..shared.workers.len() {
        relay(shared, number, &ask, |rows: Vec<SessionRow>, snapshot| {
            for row in &rows {
                let pool = pools.entry(row.pool.0).or_insert_with(|| nothing(snapshot, row));
                count(pool, row);
            }
            true
        })?;
    }
    Ok(pools.into_values().collect())
}

fn nothing(snapshot: &Snapshot, row: &SessionRow) -> Remainder {
    Remainder {
        pool: pool_name(snapshot, row.pool),
        sessions: 0,
        established: 0,
        oldest_s: 0,
        most_packets: 0,
        longest_idle_ms: 0,
        last_expires_in_ms: 0,
        busiest: String::new(),
    }
}

fn count(pool: &mut Remainder, row: &SessionRow) {
    pool.sessions += 1;
    pool.established += u64::from(row.state == "established");
    pool.oldest_s = pool.oldest_s.max(row.age_s.into());
    pool.longest_idle_ms = pool.longest_idle_ms.max(row.idle_ms.into());
    pool.last_expires_in_ms = pool.last_expires_in_ms.max(row.expires_in_ms.into());
    let packets = row.packets_out + row.packets_in;
    if packets >= pool.most_packets {
        pool.most_packets = packets;
        pool.busiest = format!("{} {} > {}", row.protocol, row.internal, row.remote);
    }
}
