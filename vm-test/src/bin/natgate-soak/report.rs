//! What is said in the end: how long things took, and how much memory natgate had.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::traffic::Totals;

/// Times of one kind, in microseconds.
pub(crate) type Times = Histogram<u64>;

/// An empty histogram.
pub(crate) fn times() -> Times {
    Histogram::new(3).expect("three digits are possible")
}

/// Notes a time.
pub(crate) fn note(times: &mut Times, time: Duration) {
    let microseconds = time.as_micros().try_into().unwrap_or(u64::MAX);
    times.record(microseconds).expect("it grows by itself");
}

/// Everything that was measured.
#[derive(Default)]
pub(crate) struct Report {
    events: BTreeMap<&'static str, (Event, u64)>,
    totals: Option<Totals>,
    shown: u64,
}

/// How long an event lasted, and how long after it traffic was back.
struct Event {
    lasted: Times,
    back: Times,
}

impl Report {
    /// An event.
    pub(crate) fn event(&mut self, name: &'static str, lasted: Duration, back: Duration) {
        let empty = || (Event { lasted: times(), back: times() }, 0);
        let (event, count) = self.events.entry(name).or_insert_with(empty);
        note(&mut event.lasted, lasted);
        note(&mut event.back, back);
        *count += 1;
    }

    /// A line each minute.
    pub(crate) fn progress(&mut self, passed: Duration, all: Duration) {
        let minutes = passed.as_secs() / 60;
        if minutes > self.shown {
            self.shown = minutes;
            let events: u64 = self.events.values().map(|(_, count)| count).sum();
            println!("{minutes} of {} minutes, {events} events", all.as_secs() / 60);
        }
    }

    /// What the traffic came to.
    pub(crate) fn traffic(&mut self, totals: &Totals) {
        self.totals = Some(totals.clone());
    }

    /// Prints everything.
    pub(crate) fn print(&self, memory: &Memory, metrics: &str) {
        println!("\n{:<26} {:>8} {}", "traffic", "count", HEAD);
        let totals = self.totals.iter().flat_map(|totals| &totals.times);
        for (name, times) in totals {
            println!("{name:<26} {:>8} {}", times.len(), line(times));
        }
        if let Some(totals) = &self.totals {
            println!(
                "without an answer: {}; broken connections: {}",
                totals.unanswered, totals.broken
            );
        }
        println!("\n{:<26} {:>8} {}", "event: back after it", "count", HEAD);
        for (name, (event, count)) in &self.events {
            println!("{name:<26} {count:>8} {}", line(&event.back));
        }
        println!("\n{:<26} {:>8} {}", "event: how long it takes", "count", HEAD);
        for (name, (event, count)) in &self.events {
            println!("{name:<26} {count:>8} {}", line(&event.lasted));
        }
        println!("\nmemory in one life: {memory}");
        println!("\nnatgate's own latency (last life):");
        // Without buckets that nothing fell into.
        let latency =
            |line: &&str| line.starts_with("natgate_latency_seconds") && !line.ends_with(" 0");
        metrics.lines().filter(latency).for_each(|line| println!("  {line}"));
    }
}

const HEAD: &str = "      p50        p90        p99      p99.9        max";

fn line(times: &Times) -> String {
    let at = |quantile| milliseconds(times.value_at_quantile(quantile));
    let quantiles = [0.5, 0.9, 0.99, 0.999].map(at).join(" ");
    format!("{quantiles} {}", milliseconds(times.max()))
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:>7.2} ms", microseconds as f64 / 1000.0)
}

/// Memory of one life of natgate: when, and KiB.
#[derive(Default)]
pub(crate) struct Memory(Vec<(Duration, u64)>);

/// Growth that is none: what allocators and tables do not give back at once, KiB.
const SLACK: u64 = 4096;

impl Memory {
    /// Notes what natgate has.
    pub(crate) fn note(&mut self, at: Duration, kib: u64) {
        self.0.push((at, kib));
    }

    /// It has no more in the second half of `time` than at the most in the first, but for a twentieth.
    pub(crate) fn is_flat(&self, time: Duration) -> Result<()> {
        let half = time / 2;
        let most = |later: bool| {
            let part = self.0.iter().filter(|(at, _)| (*at > half) == later);
            part.map(|(_, kib)| *kib).max().context("too few looks at the memory")
        };
        let (first, second) = (most(false)?, most(true)?);
        ensure!(
            second <= first + first / 20 + SLACK,
            "memory grows: {first} KiB in the first half of a life, {second} KiB in the second"
        );
        Ok(())
    }
}

impl std::fmt::Display for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let step = self.0.len().div_ceil(8).max(1);
        for (at, kib) in self.0.iter().step_by(step) {
            write!(f, "{} s {} MiB, ", at.as_secs(), kib / 1024)?;
        }
        match self.0.last() {
            Some((at, kib)) => write!(f, "{} s {} MiB", at.as_secs(), kib / 1024),
            None => write!(f, "never looked at"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memory(kib: impl Fn(u64) -> u64) -> Result<()> {
        let mut memory = Memory::default();
        (0..100).for_each(|second| memory.note(Duration::from_secs(second), kib(second)));
        memory.is_flat(Duration::from_secs(100))
    }

    #[test]
    fn times_are_kept_as_long_as_they_are() {
        let mut times = times();
        for time in [1, 20, 3000] {
            note(&mut times, Duration::from_millis(time));
        }
        assert!(times.max() >= 2_990_000, "{}", times.max());
        assert!(times.value_at_quantile(0.3) <= 1010);
    }

    #[test]
    fn growth_is_found_and_a_warm_up_is_none() {
        memory(|_| 50_000).unwrap();
        memory(|second| 50_000 + second.min(40) * 1000).unwrap();
        memory(|second| 50_000 + second * 1000).unwrap_err();
        Memory::default().is_flat(Duration::from_secs(1)).unwrap_err();
    }
}
