//! How full are the pools, without a count at every question?
//!
//! The count walks every block of every address: a tenth of a second and more for the largest pools, on
//! the thread that also follows the kernel's tables. So it is kept for a while.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::model::PoolRow;
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

/// How long a count that took `time` is kept.
fn validity(time: Duration) -> Duration {
    AT_LEAST.max(time * TIMES)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::tests::Fake;

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
