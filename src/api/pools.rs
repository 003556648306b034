//! How full are the pools, without a count at every question?
//!
//! The count walks every block of every address: a tenth of a second and more for the largest pools, on
//! the thread that also follows the kernel's tables. So it is kept for a while.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use conntrack::{Pool, Standing};

use super::model::{LeavingRow, PoolRow};
use super::shared::Shared;

/// A count is kept at least this long.
const AT_LEAST: Duration = Duration::from_secs(1);
/// A count is kept this many times as long as it took: counting takes a twentieth of the thread at most.
const TIMES: u32 = 20;

/// The rows of the pools, not older than [`AT_LEAST`] or [`TIMES`] the time that they took.
#[derive(Debug)]
pub(super) struct PoolRows {
    shared: Arc<Shared>,
    kept: Mutex<Option<Kept>>,
}

#[derive(Debug)]
struct Kept {
    rows: Arc<Vec<PoolRow>>,
    until: Instant,
}

impl PoolRows {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self { shared, kept: Mutex::new(None) }
    }

    pub(super) fn get(&self) -> Arc<Vec<PoolRow>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let start = Instant::now();
        if let Some(kept) = kept.as_ref().filter(|kept| start < kept.until) {
            return Arc::clone(&kept.rows);
        }
        let rows = Arc::new(self.shared.pools());
        let end = Instant::now();
        *kept = Some(Kept { rows: Arc::clone(&rows), until: end + validity(end - start) });
        rows
    }
}

/// Subscribers of an address that are named.
const NAMED: usize = 4;

/// The addresses of `pool` that are leaving, and who holds blocks there.
pub(super) fn leaving(pool: &Pool) -> Vec<LeavingRow> {
    let row = |address: &Arc<conntrack::PublicAddress>| {
        let blocks = || address.low.held_blocks().chain(address.directory.held_blocks());
        let holders: BTreeSet<Ipv4Addr> = blocks().map(|(_, holder)| holder.subscriber).collect();
        LeavingRow {
            address: address.addr.to_string(),
            blocks: blocks().count(),
            subscribers: holders.len(),
            first_subscribers: holders.iter().take(NAMED).map(Ipv4Addr::to_string).collect(),
        }
    };
    pool.with_standing(Standing::Leaving).map(row).collect()
}

/// How long a count that took `time` is kept.
fn validity(time: Duration) -> Duration {
    AT_LEAST.max(time * TIMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::Fake;

    #[test]
    fn an_address_that_leaves_is_named_with_its_holders() {
        let addr = |last| Ipv4Addr::new(203, 0, 113, last);
        let settings = conntrack::PoolSettings::default();
        let pool = Pool::new(conntrack::PoolId(0), "main", settings, [addr(7), addr(8), addr(9)]);
        for pod in [1, 2, 3, 3, 4, 5] {
            let subscriber = Ipv4Addr::new(10, 0, 0, pod);
            let holder = conntrack::Holder { subscriber, worker: 0, overlay: 0 };
            let claimed = pool.addresses[0].directory.claim(
                holder,
                pod.into(),
                conntrack::Timestamp::default(),
            );
            claimed.unwrap();
        }
        let standings = vec![Standing::Leaving, Standing::Serving, Standing::Leaving];
        let rows = leaving(&pool.with_standings(standings));
        assert_eq!(rows.len(), 2, "{rows:?}");
        let first = &rows[0];
        assert_eq!(
            (first.address.as_str(), first.blocks, first.subscribers),
            ("203.0.113.7", 6, 5)
        );
        assert_eq!(first.first_subscribers, ["10.0.0.1", "10.0.0.2", "10.0.0.3", "10.0.0.4"]);
        assert_eq!((rows[1].address.as_str(), rows[1].blocks), ("203.0.113.9", 0));
    }

    #[test]
    fn a_count_is_kept_in_proportion_to_its_cost() {
        assert_eq!(validity(Duration::from_millis(1)), Duration::from_secs(1));
        assert_eq!(validity(Duration::from_millis(180)), Duration::from_millis(3600));
        let pools = PoolRows::new(Fake::new(0).shared);
        let first = pools.get();
        assert!(Arc::ptr_eq(&first, &pools.get()));
        pools.kept.lock().unwrap().as_mut().unwrap().until = Instant::now();
        let second = pools.get();
        assert!(!Arc::ptr_eq(&first, &second) && *first == *second);
    }
}
