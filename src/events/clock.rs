//! What time is it, when somebody may set the clock? Events happen on a clock that only goes forward; the time of day is
//! what the system says, and where it is set, the journal says so.

use std::time::{Duration, SystemTime};

use conntrack::Timestamp;

/// The time of day runs away from the monotonic clock by less than this between two looks, unless somebody sets it.
const SLEW: u64 = 500;

/// The system's time of day was set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClockSet {
    /// What it would have been, in milliseconds since 1970.
    pub(crate) from_ms: u64,
    /// What it is.
    pub(crate) to_ms: u64,
}

/// Ties the monotonic clock of the workers to the time of day.
#[derive(Debug)]
pub(super) struct WallClock {
    at: Timestamp,
    unix_ms: u64,
}

impl WallClock {
    pub(super) fn new(at: Timestamp, unix_ms: u64) -> Self {
        Self { at, unix_ms }
    }

    /// The time of day of something that happened at `at`.
    pub(super) fn of(&self, at: Timestamp) -> u64 {
        let (at, anchor) = (at.as_millis(), self.at.as_millis());
        if at >= anchor {
            self.unix_ms.saturating_add(at - anchor)
        } else {
            self.unix_ms.saturating_sub(anchor - at)
        }
    }

    /// Takes a new look at both clocks; whether the time of day was set since the last one.
    pub(super) fn look(&mut self, at: Timestamp, unix_ms: u64) -> Option<ClockSet> {
        let expected = self.of(at);
        *self = Self::new(at, unix_ms);
        (expected.abs_diff(unix_ms) > SLEW)
            .then_some(ClockSet { from_ms: expected, to_ms: unix_ms })
    }
}

/// Milliseconds since 1970, as the system says.
pub(crate) fn unix_ms() -> u64 {
    let since = SystemTime::UNIX_EPOCH.elapsed().unwrap_or(Duration::ZERO);
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_that_is_set_is_noticed_and_one_that_drifts_is_followed() {
        let at = Timestamp::from_millis;
        let day = 86_400_000;
        let mut clock = WallClock::new(at(1_000), 10 * day);
        assert_eq!(clock.of(at(3_500)), 10 * day + 2_500);
        assert_eq!(clock.of(at(500)), 10 * day - 500);
        for second in 1..1_000 {
            // A tenth of a second a second is more than any clock drifts.
            assert_eq!(clock.look(at(1_000 + second * 1_000), 10 * day + second * 1_100), None);
        }
        let now = at(2_000_000);
        let expected = clock.of(now);
        let set = clock.look(now, expected - day);
        assert_eq!(set, Some(ClockSet { from_ms: expected, to_ms: expected - day }));
        assert_eq!(clock.of(at(2_000_010)), expected - day + 10);
        let set = clock.look(at(2_000_010), expected + 10);
        assert_eq!(set.map(|set| set.to_ms - set.from_ms), Some(day));
        assert_eq!(clock.look(at(2_000_020), expected + 20), None);
    }
}
