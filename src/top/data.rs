//! What is shown: the answers of the stats socket, and how fast their counts rise.

use std::collections::HashMap;
use std::path::Path;
use std::time::Instant;

use crate::api::model::{DropRow, InterfaceRow, PoolRow, Status, SubscriberRow, WorkerRow};
use crate::view::{ViewError, fetch_json, fetch_rows};

/// Subscribers that are looked at, at most.
const SUBSCRIBERS: usize = 20_000;

/// Everything, at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) at: Instant,
    pub(crate) status: Status,
    pub(crate) pools: Vec<PoolRow>,
    pub(crate) drops: Vec<DropRow>,
    pub(crate) workers: Vec<WorkerRow>,
    pub(crate) interfaces: Vec<InterfaceRow>,
    pub(crate) subscribers: Vec<SubscriberRow>,
}

/// Asks for everything.
pub(super) async fn fetch(socket: &Path, at: Instant) -> Result<Seen, ViewError> {
    Ok(Seen {
        at,
        status: fetch_json(socket, "/v1/status").await?,
        pools: fetch_json(socket, "/v1/pools").await?,
        drops: fetch_json(socket, "/v1/drops").await?,
        workers: fetch_json(socket, "/v1/workers").await?,
        interfaces: fetch_json(socket, "/v1/interfaces").await?,
        subscribers: fetch_rows(socket, "/v1/subscribers", SUBSCRIBERS).await?,
    })
}

/// The last two looks, and whether natgate answers.
#[derive(Debug, Default)]
pub(crate) struct Data {
    pub(super) now: Option<Seen>,
    before: Option<Seen>,
    /// Why there is no answer.
    pub(super) error: Option<String>,
}

impl Data {
    /// Takes over an answer. Counts of another process tell nothing about this one's.
    pub(crate) fn take(&mut self, answer: Result<Seen, String>) {
        match answer {
            Ok(seen) => {
                self.error = None;
                let last = self.now.replace(seen);
                let pid = self.now.as_ref().map(|seen| seen.status.pid);
                self.before = last.filter(|last| Some(last.status.pid) == pid);
            }
            Err(error) => {
                self.error = Some(error);
                self.before = None;
            }
        }
    }

    /// How much a count rises in a second.
    pub(super) fn rate(&self, count: impl Fn(&Seen) -> Option<u64>) -> u64 {
        let (Some(now), Some(before)) = (&self.now, &self.before) else { return 0 };
        let (Some(new), Some(old)) = (count(now), count(before)) else { return 0 };
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        (new.saturating_sub(old) as f64 / seconds).round() as u64
    }

    /// New sessions and refusals in a second, by the addresses of subscribers.
    pub(super) fn subscriber_rates(&self) -> HashMap<&str, (u64, u64)> {
        let (Some(now), Some(before)) = (&self.now, &self.before) else { return HashMap::new() };
        let seconds = now.at.duration_since(before.at).as_secs_f64().max(0.001);
        let old: HashMap<&str, &SubscriberRow> =
            before.subscribers.iter().map(|row| (row.address.as_str(), row)).collect();
        let rate = |new: u64, old: u64| (new.saturating_sub(old) as f64 / seconds).round() as u64;
        let rates = now.subscribers.iter().filter_map(|row| {
            let old = old.get(row.address.as_str())?;
            let rates = (rate(row.created, old.created), rate(row.refused, old.refused));
            Some((row.address.as_str(), rates))
        });
        rates.collect()
    }
}
