//! What is said in the end: how long things took, and how much memory natgate had.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hdrhistogram::Histogram;

use crate::traffic::Total;

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
    totals: Vec<Total>,
    /// natgate's own latency: when, and of what.
    latency: Vec<(&'static str, Vec<OwnLatency>)>,
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
            println!("{minutes} of {}, {events} events", self::minutes(all.as_secs() / 60));
        }
    }

    /// What the traffic came to.
    pub(crate) fn traffic(&mut self, totals: Vec<Total>) {
        self.totals = totals;
    }

    /// What natgate says of its latency since its start.
    pub(crate) fn latency(&mut self, life: &'static str, metrics: &str) -> Result<()> {
        self.latency.push((life, OwnLatency::of(metrics)?));
        Ok(())
    }

    /// Prints everything.
    pub(crate) fn print(&self, memory: &Memory) {
        println!(
            "\nunanswered, broken: while nothing is forwarded, and by kill -9 or another program; both are allowed"
        );
        println!("{:<26} {:>8} {HEAD} {:>10} {:>7}", "traffic", "count", "unanswered", "broken");
        for Total { kind, times, unanswered, broken } in &self.totals {
            println!("{kind:<26} {:>8} {} {unanswered:>10} {broken:>7}", times.len(), line(times));
        }
        println!("\n{:<26} {:>8} {HEAD}", "event: back after it", "count");
        for (name, (event, count)) in &self.events {
            println!("{name:<26} {count:>8} {}", line(&event.back));
        }
        println!("\n{:<26} {:>8} {HEAD}", "event: how long it takes", "count");
        for (name, (event, count)) in &self.events {
            println!("{name:<26} {count:>8} {}", line(&event.lasted));
        }
        println!("\n{:<26} {:>8} {OWN_HEAD}", "latency in natgate, under", "packets");
        for (life, workers) in &self.latency {
            for worker in workers {
                println!("{:<26} {worker}", format!("{life}, worker {}", worker.name));
            }
        }
        println!("\nmemory in the first life: {memory}");
    }
}

/// In words.
pub(crate) fn minutes(count: u64) -> String {
    format!("{count} minute{}", if count == 1 { "" } else { "s" })
}

const HEAD: &str = "       p50        p90        p99      p99.9        max";
const OWN_HEAD: &str = "       p50        p90        p99      p99.9";
/// The percentiles that the columns are named after.
const QUANTILES: [f64; 4] = [0.5, 0.9, 0.99, 0.999];

fn line(times: &Times) -> String {
    let at = |quantile| milliseconds(times.value_at_quantile(quantile));
    let quantiles = QUANTILES.map(at).join(" ");
    format!("{quantiles} {}", milliseconds(times.max()))
}

fn milliseconds(microseconds: u64) -> String {
    format!("{:>7.2} ms", microseconds as f64 / 1000.0)
}

/// One worker's histogram of how long packets stay, as the metrics have it: up to how many seconds, and how many packets.
struct OwnLatency {
    name: String,
    buckets: Vec<(f64, u64)>,
}

impl OwnLatency {
    /// Those of all workers.
    fn of(metrics: &str) -> Result<Vec<Self>> {
        let mut all: Vec<Self> = Vec::new();
        for line in metrics.lines() {
            let Some(rest) = line.strip_prefix("natgate_latency_seconds_bucket{") else { continue };
            let (labels, count) = rest.split_once("} ").context("no value")?;
            let label = |name: &str| {
                let found = labels.split(',').find_map(|it| it.strip_prefix(&format!("{name}=\"")));
                found.map(|value| value.trim_end_matches('"')).context("no label")
            };
            let name = label("worker")?.to_owned();
            let bucket = (label("le")?.replace("+Inf", "inf").parse()?, count.parse()?);
            match all.iter_mut().find(|it| it.name == name) {
                Some(worker) => worker.buckets.push(bucket),
                None => all.push(Self { name, buckets: vec![bucket] }),
            }
        }
        ensure!(!all.is_empty(), "the metrics tell no latency");
        Ok(all)
    }

    /// So many packets were timed.
    fn packets(&self) -> u64 {
        self.buckets.last().map_or(0, |(_, count)| *count)
    }

    /// The end of the bucket, in seconds, in which this share of them lies.
    fn at(&self, quantile: f64) -> Option<f64> {
        let wanted = (self.packets() as f64 * quantile).ceil() as u64;
        self.buckets.iter().find(|(_, count)| *count >= wanted.max(1)).map(|(end, _)| *end)
    }
}

impl std::fmt::Display for OwnLatency {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:>8}", self.packets())?;
        for quantile in QUANTILES {
            let microseconds = self.at(quantile).map_or(f64::NAN, |seconds| seconds * 1e6);
            write!(f, " {microseconds:>7.1} µs")?;
        }
        Ok(())
    }
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
        }?;
        let most = self.0.iter().map(|(_, kib)| kib / 1024).max().unwrap_or(0);
        write!(f, "; at most {most} MiB")
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
    fn the_metrics_latency_is_read_as_percentiles() {
        let line = |le: &str, count| {
            format!("natgate_latency_seconds_bucket{{le=\"{le}\",worker=\"1\"}} {count}\n")
        };
        let text = line("0.000001", 10) + &line("0.000002", 98) + &line("+Inf", 100);
        let all = OwnLatency::of(&text).unwrap();
        let [worker] = &all[..] else { panic!("{} workers", all.len()) };
        assert_eq!((worker.name.as_str(), worker.packets()), ("1", 100));
        assert_eq!([0.05, 0.5, 0.98].map(|it| worker.at(it)), [1e-6, 2e-6, 2e-6].map(Some));
        assert_eq!(worker.at(0.99), Some(f64::INFINITY));
        assert!(OwnLatency::of("natgate_up 1").is_err());
    }

    #[test]
    fn growth_is_found_and_a_warm_up_is_none() {
        memory(|_| 50_000).unwrap();
        memory(|second| 50_000 + second.min(40) * 1000).unwrap();
        memory(|second| 50_000 + second * 1000).unwrap_err();
        Memory::default().is_flat(Duration::from_secs(1)).unwrap_err();
    }
}
