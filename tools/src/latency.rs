//! How long were packets under way?
//!
//! The generator writes into each packet when it was due, by its schedule, and the sink compares that with the
//! time of arrival. A generator that was held up sends late, and that counts: no latency is left out because the
//! packet before it was slow (coordinated omission). Both must run on the same machine: there is one clock.

use anyhow::{Context, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};

/// Buckets of the program, and the bits that tell those of one power of two apart.
pub(crate) const BUCKETS: u32 = 1280;
const FINE: u32 = 5;
/// Significant digits of the histogram; the buckets are within 3 %.
const DIGITS: u8 = 3;
/// Longest latency that is told from longer ones, in ns: the last bucket of the program.
const LONGEST: u64 = 1 << 41;

/// Percentiles in microseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Percentiles {
    /// Packets.
    pub packets: u64,
    /// Half are below it.
    pub p50: f64,
    /// 90 % are below it.
    pub p90: f64,
    /// 99 % are below it.
    pub p99: f64,
    /// 99.9 % are below it.
    pub p999: f64,
    /// The longest.
    pub most: f64,
}

/// A histogram of how often each bucket was `counted`.
pub(crate) fn histogram(counted: &[u64]) -> Result<Histogram<u64>> {
    let mut all = Histogram::new_with_bounds(1, LONGEST, DIGITS)
        .context("error: the latencies: no histogram holds them")?;
    for (bucket, &count) in (0..).zip(counted).filter(|(_, count)| **count > 0) {
        all.record_n(middle(bucket).max(1), count)
            .context("error: the latencies: one is beyond the histogram")?;
    }
    Ok(all)
}

impl Percentiles {
    /// Of a histogram of nanoseconds; `None` if it is empty.
    pub fn of(all: &Histogram<u64>) -> Option<Self> {
        let micros = |nanos: u64| nanos as f64 / 1e3;
        let at = |quantile| micros(all.value_at_quantile(quantile));
        (!all.is_empty()).then(|| Self {
            packets: all.len(),
            p50: at(0.5),
            p90: at(0.9),
            p99: at(0.99),
            p999: at(0.999),
            most: micros(all.max()),
        })
    }
}

/// The latency, in ns, in the middle of a bucket.
fn middle(bucket: u32) -> u64 {
    let (power, rest) = (bucket >> FINE, u64::from(bucket & ((1 << FINE) - 1)));
    if power == 0 {
        return rest;
    }
    let step = 1 << (power - 1);
    ((1 << FINE) + rest) * step + step / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the program does it.
    fn bucket(latency: u64) -> u32 {
        if latency < 1 << FINE {
            return latency as u32;
        }
        let top = latency.ilog2();
        ((top - FINE + 1) << FINE) + (latency >> (top - FINE) & ((1 << FINE) - 1)) as u32
    }

    #[test]
    fn a_bucket_holds_what_is_within_three_per_cent_of_its_middle() {
        for latency in (0..40).flat_map(|bits| [1 << bits, (1u64 << bits) * 5 / 4 + 1]) {
            let middle = middle(bucket(latency));
            assert!(middle.abs_diff(latency) * 32 <= latency.max(32), "{latency}: {middle}");
            assert!(bucket(latency) < BUCKETS);
        }
    }

    #[test]
    fn percentiles_are_of_what_was_counted() {
        let mut counted = vec![0; BUCKETS as usize];
        counted[bucket(1_000) as usize] = 98;
        counted[bucket(1_000_000) as usize] = 2;
        let found = Percentiles::of(&histogram(&counted).unwrap()).unwrap();
        assert_eq!(found.packets, 100);
        assert!((found.p50 - 1.0).abs() < 0.04 && (found.p99 - 1000.0).abs() < 40.0, "{found:?}");
        assert_eq!(Percentiles::of(&histogram(&[0; 8]).unwrap()), None);
    }
}
