//! How busy are the workers now, and how long do packets stay in them? Counters say it since the start, so their values of
//! some seconds ago are kept.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use dataplane::counters::{AllCounters, Counter, WorkerCounters};
use dataplane::load::Latency;

use super::model::LatencyRow;

/// How often counters are looked at.
pub(super) const INTERVAL: Duration = Duration::from_secs(1);
/// Looks that are kept.
const KEPT: usize = 10;

/// What one worker had counted.
#[derive(Clone, Debug)]
struct Look {
    busy_nanos: u64,
    buckets: Vec<u64>,
}

/// The counters of the last seconds, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct Loads(Mutex<VecDeque<(Instant, Vec<Look>)>>);

fn look(counters: &WorkerCounters) -> Look {
    Look {
        busy_nanos: counters.busy_nanos.get(),
        buckets: counters.latency.buckets.iter().map(Counter::get).collect(),
    }
}

impl Loads {
    /// Looks at the counters; to be called every [`INTERVAL`].
    pub(crate) fn observe(&self, counters: &AllCounters, now: Instant) {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.push_back((now, counters.iter().map(|worker| look(worker)).collect()));
        while looks.len() > KEPT {
            looks.pop_front();
        }
    }

    /// The share of time since the last look but one that `worker` was busy, and how long packets stayed since the
    /// first that is kept. Before there is one: since the start.
    pub(crate) fn of(
        &self,
        worker: usize,
        counters: &WorkerCounters,
        (started, now): (Instant, Instant),
    ) -> (f64, LatencyRow) {
        let looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let current = look(counters);
        let recent = looks.iter().rev().find(|(at, _)| now.duration_since(*at) >= INTERVAL / 2);
        let (since, busy) = match recent {
            Some((at, all)) => (*at, all.get(worker).map_or(0, |look| look.busy_nanos)),
            None => (started, 0),
        };
        let time = now.duration_since(since).as_nanos().max(1) as f64;
        let load = (current.busy_nanos.saturating_sub(busy) as f64 / time).min(1.0);
        let first = looks.front().and_then(|(_, all)| all.get(worker));
        let since = |bucket: usize| first.map_or(0, |look| look.buckets[bucket]);
        let buckets = current.buckets.iter().enumerate();
        let counts: Vec<u64> = buckets.map(|(i, count)| count.saturating_sub(since(i))).collect();
        (load, latency(&counts))
    }
}

/// Percentiles of what was counted in the buckets of [`Latency`].
fn latency(counts: &[u64]) -> LatencyRow {
    let packets: u64 = counts.iter().sum();
    let percentile = |share: f64| {
        let wanted = (packets as f64 * share).ceil().max(1.0) as u64;
        let mut below = 0;
        let bucket = counts.iter().position(|count| {
            below += count;
            below >= wanted
        });
        bucket.map(Latency::upper)
    };
    LatencyRow {
        packets,
        p50_ns: percentile(0.5),
        p99_ns: percentile(0.99),
        p999_ns: percentile(0.999),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn load_is_of_now_and_percentiles_of_the_last_seconds() {
        let counters: AllCounters = vec![crossbeam::utils::CachePadded::default()];
        let (loads, start) = (Loads::default(), Instant::now());
        let at = |tenths: u64| start + Duration::from_millis(100 * tenths);
        counters[0].busy_nanos.add(500_000_000);
        let (load, none) = loads.of(0, &counters[0], (start, at(10)));
        assert!((load - 0.5).abs() < 0.01 && none == LatencyRow::default(), "{load} {none:?}");
        counters[0].latency.buckets[3].add(1_000);
        loads.observe(&counters, at(10));
        counters[0].busy_nanos.add(900_000_000);
        counters[0].latency.buckets[0].add(980);
        counters[0].latency.buckets[40].add(20);
        let (load, row) = loads.of(0, &counters[0], (start, at(20)));
        assert!((load - 0.9).abs() < 0.01, "{load}");
        assert_eq!((row.packets, row.p50_ns), (1_000, Some(Latency::upper(0))));
        assert_eq!(row.p99_ns, Some(Latency::upper(40)));
        for tenths in (20..200).step_by(10) {
            loads.observe(&counters, at(tenths));
        }
        let (load, row) = loads.of(0, &counters[0], (start, at(200)));
        assert_eq!((load, row), (0.0, LatencyRow::default()), "nothing for a while");
    }
}
