//! How busy is a worker, and how long do packets stay in it?
//!
//! Time is read once for each turn of the loop anyway: what passes until the next turn counts as busy if there were packets. Of one
//! turn with packets in so many ([`LatencySample`]) the time from before its bursts were received until they were handed to the
//! interfaces is counted, for all of its packets.

use std::time::Duration;

use crate::counters::Counter;

/// One busy turn in so many is timed; 0: none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LatencySample(pub u32);

impl Default for LatencySample {
    fn default() -> Self {
        Self(64)
    }
}

/// Buckets for each doubling of the time: what a percentile says is right to an eighth.
const PER_OCTAVE: usize = 4;
/// The first octave, of 2^7 = 128 ns: less is in its first bucket.
const FIRST_OCTAVE: u32 = 7;
/// The last octave ends at 2^30 ns, a second: more is in its last bucket.
const OCTAVES: usize = 23;

/// Times that packets took, in buckets that grow with the time; one writer.
#[derive(Debug)]
pub struct Latency {
    /// Packets by bucket.
    pub buckets: [Counter; Self::BUCKETS],
    /// Nanoseconds, all packets together.
    pub sum: Counter,
}

impl Default for Latency {
    fn default() -> Self {
        Self { buckets: std::array::from_fn(|_| Counter::default()), sum: Counter::default() }
    }
}

impl Latency {
    /// How many buckets there are.
    pub const BUCKETS: usize = OCTAVES * PER_OCTAVE;

    /// The bucket of a time in nanoseconds.
    fn bucket(nanos: u64) -> usize {
        let octave = nanos.checked_ilog2().unwrap_or(0);
        if octave < FIRST_OCTAVE {
            return 0;
        }
        let within = (nanos >> (octave - 2)) as usize & (PER_OCTAVE - 1);
        let bucket = (octave - FIRST_OCTAVE) as usize * PER_OCTAVE + within;
        bucket.min(Self::BUCKETS - 1)
    }

    /// The time, in nanoseconds, below which all of `bucket` and of those before it lie; of the last one, what it would be.
    pub const fn upper(bucket: usize) -> u64 {
        let octave = FIRST_OCTAVE + (bucket / PER_OCTAVE) as u32;
        (1 << octave) + ((bucket % PER_OCTAVE) as u64 + 1) * (1 << (octave - 2))
    }

    /// Counts `packets` that took this long.
    fn record(&self, time: Duration, packets: u64) {
        let nanos = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[Self::bucket(nanos)].add(packets);
        self.sum.add(nanos.saturating_mul(packets));
    }
}

/// What a worker remembers from turn to turn.
#[derive(Debug, Default)]
pub(crate) struct Load {
    sample: LatencySample,
    /// Busy turns until one is timed.
    left: u32,
    /// When the last turn began, if it found packets.
    busy_since: Option<Duration>,
}

impl Load {
    /// From now on, so many turns are timed.
    pub(crate) fn set_sample(&mut self, sample: LatencySample) {
        self.sample = sample;
        self.left = self.left.min(sample.0);
    }

    /// A turn begins at `now`, since the epoch of the clock: how long the one before it was busy.
    pub(crate) fn turn(&mut self, now: Duration) -> Duration {
        self.busy_since.take().map_or(Duration::ZERO, |since| now.saturating_sub(since))
    }

    /// The turn that began at `now` found packets.
    pub(crate) fn found(&mut self, now: Duration) {
        self.busy_since = Some(now);
    }

    /// Whether this turn is to be timed, if it finds packets.
    #[inline]
    pub(crate) fn is_timed(&self) -> bool {
        self.left == 0 && self.sample.0 > 0
    }

    /// A turn that was not timed found packets.
    #[inline]
    pub(crate) fn pass(&mut self) {
        self.left = self.left.saturating_sub(1);
    }

    /// One was timed.
    pub(crate) fn timed(&mut self, latency: &Latency, time: Duration, packets: usize) {
        self.left = self.sample.0.saturating_sub(1);
        latency.record(time, packets as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_time_is_below_the_end_of_its_bucket_and_not_below_that_of_the_one_before() {
        for nanos in (0..40_000).chain((1..34).map(|n| (1 << n) - 1)).chain((1..30).map(|n| 1 << n))
        {
            let bucket = Latency::bucket(nanos);
            assert!(nanos < Latency::upper(bucket) || bucket == Latency::BUCKETS - 1, "{nanos}");
            assert!(bucket == 0 || nanos >= Latency::upper(bucket - 1), "{nanos} in {bucket}");
        }
        let upper: Vec<u64> = (0..Latency::BUCKETS).map(Latency::upper).collect();
        assert!(upper.is_sorted(), "{upper:?}");
        assert_eq!((upper[0], *upper.last().unwrap()), (160, 1 << 30));
        // A bucket is no wider than a quarter of what it begins with.
        assert!(upper.windows(2).all(|pair| pair[1] - pair[0] <= pair[0] / 4 + 1), "{upper:?}");
    }

    /// How many of 640 busy turns are timed.
    fn timed(load: &mut Load, latency: &Latency) -> u32 {
        let mut timed = 0;
        for _ in 0..640 {
            if load.is_timed() {
                load.timed(latency, Duration::from_micros(1), 3);
                timed += 1;
            } else {
                load.pass();
            }
        }
        timed
    }

    #[test]
    fn one_busy_turn_in_64_is_timed_and_all_of_its_packets_count() {
        let (mut load, latency) = (Load::default(), Latency::default());
        assert_eq!(timed(&mut load, &latency), 10);
        assert_eq!(latency.buckets[Latency::bucket(1_000)].get(), 30);
        assert_eq!(latency.sum.get(), 30_000);
    }

    #[test]
    fn as_many_turns_are_timed_as_is_set_also_none() {
        let (mut load, latency) = (Load::default(), Latency::default());
        for (every, wanted) in [(1, 640), (0, 0), (10, 64), (640, 1), (0, 0), (64, 10)] {
            load.set_sample(LatencySample(every));
            assert_eq!(timed(&mut load, &latency), wanted, "one in {every}");
        }
    }

    #[test]
    fn only_turns_with_packets_are_busy_time() {
        let mut load = Load::default();
        let at = Duration::from_micros;
        let mut busy = Duration::ZERO;
        for (now, found) in
            [(0, true), (10, true), (30, false), (100, true), (105, false), (500, false)]
        {
            busy += load.turn(at(now));
            if found {
                load.found(at(now));
            }
        }
        assert_eq!(busy, at(35));
    }
}
