//! How long packets stay, and how long workers are busy, as Prometheus wants it.

use std::fmt;

use dataplane::counters::{AllCounters, Counter};
use dataplane::load::Latency;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

/// Buckets of the histogram for people: a doubling each.
const TOGETHER: usize = 4;

/// Encodes `latency_seconds` and `busy_seconds`, by worker.
pub(super) fn encode(counters: &AllCounters, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "How long packets stay, from the receipt of their burst until it is handed to the interfaces; \
                of one busy turn in 64, or in `latencySample`";
    let kind = MetricType::Histogram;
    let mut family = encoder.encode_descriptor("latency_seconds", help, None, kind)?;
    for (number, worker) in counters.iter().enumerate() {
        let counts: Vec<u64> = worker.latency.buckets.iter().map(Counter::get).collect();
        let ends = (1..=counts.len() / TOGETHER).map(|octave| octave * TOGETHER);
        let buckets: Vec<(f64, u64)> = ends
            .map(|end| {
                let count = counts[end - TOGETHER..end].iter().sum();
                let upper = Latency::upper(end - 1) as f64 / 1e9;
                // What is longer than all is in the last one, which has no end.
                (if end == counts.len() { f64::INFINITY } else { upper }, count)
            })
            .collect();
        let sum = worker.latency.sum.get() as f64 / 1e9;
        let labels = [("worker", number.to_string())];
        family.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
            sum,
            counts.iter().sum(),
            &buckets,
            None,
        )?;
    }
    let help = "Time that went into turns of the loop that found packets";
    let mut family = encoder.encode_descriptor("busy_seconds", help, None, MetricType::Counter)?;
    for (number, worker) in counters.iter().enumerate() {
        let seconds = worker.busy_nanos.get() as f64 / 1e9;
        let labels = [("worker", number.to_string())];
        family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(&seconds, None)?;
    }
    Ok(())
}
