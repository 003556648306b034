//! What time is it? Whatever the caller says.

use std::ops::Add;
use std::time::Duration;

/// A point in time, in milliseconds since an epoch that the caller chooses.
///
/// Sessions store the low 32 bits, so two stored times may be at most 24 days apart when compared;
/// every timer is at most 24 hours long (`requirements.md`, timers).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Timestamp(u64);

impl Timestamp {
    /// Later than everything.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The time `millis` milliseconds after the epoch.
    pub const fn from_millis(millis: u64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> u64 {
        self.0
    }

    /// Whole seconds since the epoch.
    pub const fn as_secs(self) -> u64 {
        self.0 / 1000
    }

    /// The low 32 bits of the milliseconds, as sessions store them.
    pub(crate) const fn stored(self) -> u32 {
        self.0 as u32
    }

    /// How long ago `stored` was, in milliseconds (wrapping; see the type's documentation).
    pub(crate) const fn since_stored(self, stored: u32) -> u32 {
        self.stored().wrapping_sub(stored)
    }

    /// The time from `earlier` to `self`, or zero if `earlier` is later.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for Timestamp {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        Self(self.0 + rhs.as_millis() as u64)
    }
}
