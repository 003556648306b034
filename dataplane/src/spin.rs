//! How long does a worker look for packets before it sleeps?
//!
//! A sleep costs the one who ends it a wake-up, and the packet that ended it some ten microseconds. So it pays to look
//! around a little longer if the next packet is near, and only then. The sleeps before tell: one that was over
//! at once should not have been begun.

use std::time::Duration;

/// Empty turns before a sleep: at least, and at most (some 100 µs, twice what a sleep and a wake-up cost, or more in a
/// virtual machine).
const TURNS: (u32, u32) = (8, 1024);
/// A sleep shorter than this was not worth it; one longer than that was.
const SHORT: Duration = Duration::from_micros(50);
const LONG: Duration = Duration::from_micros(250);

/// The patience of one worker.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spin {
    patience: u32,
    empty: u32,
}

impl Spin {
    pub(crate) const fn new() -> Self {
        Self { patience: TURNS.0, empty: 0 }
    }

    /// There was something to do.
    pub(crate) const fn found(&mut self) {
        self.empty = 0;
    }

    /// There was nothing to do: whether to look again rather than sleep.
    pub(crate) const fn again(&mut self) -> bool {
        self.empty += 1;
        self.empty <= self.patience
    }

    /// The worker slept for so long.
    pub(crate) fn slept(&mut self, time: Duration) {
        self.empty = 0;
        if time < SHORT {
            self.patience = (self.patience * 2).min(TURNS.1);
        } else if time > LONG {
            self.patience = (self.patience / 2).max(TURNS.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Empty turns until the next sleep.
    fn turns(spin: &mut Spin) -> u32 {
        let mut turns = 0;
        while spin.again() {
            turns += 1;
        }
        turns
    }

    #[test]
    fn short_sleeps_make_patient_and_long_ones_do_not() {
        let mut spin = Spin::new();
        assert_eq!(turns(&mut spin), TURNS.0);
        spin.slept(Duration::from_micros(20));
        assert_eq!(turns(&mut spin), 2 * TURNS.0);
        for _ in 0..20 {
            spin.slept(Duration::from_micros(20));
        }
        assert_eq!(turns(&mut spin), TURNS.1);
        spin.slept(Duration::from_micros(100));
        assert_eq!(turns(&mut spin), TURNS.1, "neither short nor long");
        for _ in 0..20 {
            spin.slept(Duration::from_millis(500));
        }
        assert_eq!(turns(&mut spin), TURNS.0);
    }

    #[test]
    fn a_packet_begins_the_patience_anew() {
        let mut spin = Spin::new();
        assert!((0..TURNS.0).all(|_| spin.again()));
        spin.found();
        assert_eq!(turns(&mut spin), TURNS.0);
    }
}
