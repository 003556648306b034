//! How do millions of rows reach a client, with bounded memory and without a worker that waits?
//!
//! Workers are asked one after the other. Rows go through two bounded channels; when the client does not
//! read, both fill and the worker keeps its rows for later (it never blocks on the channel). A client
//! that reads nothing for [`CLIENT_PATIENCE`] is given up, which ends the worker's answer too.

use std::io;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes};
use conntrack::{PoolId, Protocol};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dataplane::request::{self, Request, SessionFilter, SubscriberFilter};
use dataplane::snapshot::Snapshot;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use super::model::{HeldBlocks, Problem, SessionRow, SubscriberRow};
use super::shared::{Shared, pool_name};

/// Slices of rows that may wait between a worker and the stream, and lines between stream and client.
const SLICES: usize = 4;
/// A worker that says nothing for this long is given up.
const WORKER_PATIENCE: Duration = Duration::from_secs(5);
/// A client that reads nothing for this long is given up.
const CLIENT_PATIENCE: Duration = Duration::from_secs(30);

/// The query of a stream, checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Filter {
    pub(super) address: Option<Ipv4Addr>,
    pub(super) pool: Option<PoolId>,
    pub(super) protocol: Option<Protocol>,
    pub(super) state: Option<String>,
    /// Rows at most.
    pub(super) limit: Option<u64>,
}

/// The stream of sessions.
pub(super) fn sessions(shared: Arc<Shared>, filter: Filter, permit: OwnedSemaphorePermit) -> Body {
    let wanted = SessionFilter {
        address: filter.address,
        pool: filter.pool,
        protocol: filter.protocol,
        state: filter.state,
        public: None,
    };
    let ask = move |rows| Request::Sessions(wanted.clone(), rows);
    let show = |row: request::SessionRow, snapshot: &Snapshot| {
        let rule = snapshot.policy.rules.rules().get(usize::from(row.rule));
        // Who calls a port forward or a 1:1 address comes in by no rule.
        let rule = rule.map_or_else(|| "(from outside)".to_owned(), |rule| rule.name.clone());
        let pool = pool_name(snapshot, row.pool);
        SessionRow::new(&row, pool, rule)
    };
    stream(shared, filter.limit, permit, ask, show)
}

/// The stream of subscribers.
pub(super) fn subscribers(
    shared: Arc<Shared>,
    filter: &Filter,
    permit: OwnedSemaphorePermit,
) -> Body {
    let wanted = SubscriberFilter { address: filter.address, pool: filter.pool };
    let ask = move |rows| Request::Subscribers(wanted.clone(), rows);
    stream(shared, filter.limit, permit, ask, subscriber_row)
}

fn subscriber_row(row: request::SubscriberRow, snapshot: &Snapshot) -> SubscriberRow {
    let mut holdings = Vec::new();
    for holding in row.holdings {
        let pool = pool_name(snapshot, holding.pool);
        holdings.extend(holding.blocks.into_iter().map(|(address, blocks)| HeldBlocks {
            pool: pool.clone(),
            address: address.to_string(),
            blocks,
        }));
    }
    SubscriberRow {
        worker: row.worker,
        address: row.address.to_string(),
        overlay: row.overlay,
        sessions: row.sessions,
        created: row.created,
        refused: row.refused,
        blocks: holdings.iter().map(|held| held.blocks).sum(),
        holdings,
    }
}

fn stream<Row: Send + 'static, Shown: Serialize>(
    shared: Arc<Shared>,
    limit: Option<u64>,
    permit: OwnedSemaphorePermit,
    ask: impl Fn(Sender<Vec<Row>>) -> Request + Send + 'static,
    show: impl Fn(Row, &Snapshot) -> Shown + Send + 'static,
) -> Body {
    let (to_client, from_stream) = mpsc::channel::<Result<Bytes, io::Error>>(SLICES);
    let handle = Handle::current();
    tokio::task::spawn_blocking(move || {
        let client = Client { to_client, handle };
        let mut left = limit.unwrap_or(u64::MAX);
        for number in 0..shared.workers.len() {
            if left == 0 {
                break;
            }
            let end = relay(&shared, number, &ask, |rows, snapshot| {
                let room = usize::try_from(left).unwrap_or(usize::MAX);
                let shown: Vec<Shown> =
                    rows.into_iter().take(room).map(|row| show(row, snapshot)).collect();
                left -= shown.len() as u64;
                client.send(&shown) && left > 0
            });
            if let Err(error) = end {
                client.send(&[Problem { error }]);
                break;
            }
        }
        drop(permit);
    });
    let lines = futures_util::stream::unfold(from_stream, async |mut from_stream| {
        let lines = from_stream.recv().await?;
        Some((lines, from_stream))
    });
    Body::from_stream(lines)
}

/// Asks one worker and passes its rows on, until it has no more or `pass` wants none.
pub(super) fn relay<Row>(
    shared: &Shared,
    number: usize,
    ask: &impl Fn(Sender<Vec<Row>>) -> Request,
    mut pass: impl FnMut(Vec<Row>, &Snapshot) -> bool,
) -> Result<(), String> {
    let worker = &shared.workers[number];
    let (to_stream, rows): (_, Receiver<Vec<Row>>) = bounded(SLICES);
    worker.requests.try_send(ask(to_stream)).map_err(|_| {
        format!("cannot ask (worker {number}): it takes no questions now; try again")
    })?;
    (worker.wake)();
    loop {
        match rows.recv_timeout(WORKER_PATIENCE) {
            Ok(slice) => {
                if !pass(slice, &shared.snapshot.get()) {
                    return Ok(());
                }
                // The worker may sleep with rows in its hands because there was no room.
                (worker.wake)();
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
            Err(RecvTimeoutError::Timeout) => {
                return Err(format!(
                    "no answer (worker {number}): it did not answer in time; see natgate's log"
                ));
            }
        }
    }
}

struct Client {
    to_client: mpsc::Sender<Result<Bytes, io::Error>>,
    handle: Handle,
}

impl Client {
    /// Sends rows as lines. False if the client is gone or does not read.
    fn send<T: Serialize>(&self, rows: &[T]) -> bool {
        if rows.is_empty() {
            return !self.to_client.is_closed();
        }
        let mut lines = Vec::new();
        for row in rows {
            if serde_json::to_writer(&mut lines, row).is_err() {
                return false;
            }
            lines.push(b'\n');
        }
        let send = self.to_client.send(Ok(Bytes::from(lines)));
        let sent =
            self.handle.block_on(async { tokio::time::timeout(CLIENT_PATIENCE, send).await });
        matches!(sent, Ok(Ok(())))
    }
}
