//! What gives way when packets come faster than they can be processed? New flows, before established ones.
//!
//! A new flow costs as much as several packets of an established one. As long as the receive rings hold what
//! arrives, nobody loses anything by that. Once they overflow, the kernel drops packets of all flows alike, and a
//! flood of new flows would take the time that the established ones need. From then on only so many sessions may be
//! opened in each turn; what would open more is dropped, under its own reason.

use std::time::Duration;

use conntrack::Timestamp;

use crate::snapshot::SlowPathBudget;

/// Overload lasts this long after the last overflow.
const LASTS: Duration = Duration::from_secs(1);

/// Whether a worker is overloaded, and how many sessions it may still open in this turn.
#[derive(Debug, Default)]
pub(crate) struct Overload {
    /// Packets that the kernel had dropped because a receive ring was full, when last looked at.
    overflows: u64,
    until: Timestamp,
    /// Packets of this turn that would open a session.
    new: u32,
    /// How many of them may go on.
    budget: u32,
    /// Packets of the last turns that would open none: each turn counts half of the one after it.
    others: u64,
}

impl Overload {
    /// Looks at the count of packets that the kernel dropped because a receive ring was full.
    pub(crate) fn observe(&mut self, overflows: u64, now: Timestamp) {
        if overflows > self.overflows {
            self.until = now + LASTS;
        }
        self.overflows = overflows;
    }

    /// A turn begins; `budget` is for when there is overload.
    pub(crate) fn begin(&mut self, now: Timestamp, budget: SlowPathBudget) {
        // Where there are new flows only, there is nobody to protect.
        let limited = now < self.until && self.others > 0;
        self.budget = if limited { budget.0 } else { u32::MAX };
        self.new = 0;
    }

    /// Whether one more packet may open a session in this turn.
    pub(crate) fn admits(&mut self) -> bool {
        self.new += 1;
        self.new <= self.budget
    }

    /// A turn with so many packets ends.
    pub(crate) fn end(&mut self, packets: usize) {
        let others = (packets as u64).saturating_sub(u64::from(self.new));
        self.others = self.others / 2 + 16 * others;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUDGET: usize = 5;

    /// How many of `new` flows beside `established` packets may go on in a turn at `ms`.
    fn turn(overload: &mut Overload, new: usize, established: usize, ms: u64) -> usize {
        overload.begin(Timestamp::from_millis(ms), SlowPathBudget(BUDGET as u32));
        let admitted = (0..new).filter(|_| overload.admits()).count();
        overload.end(new + established);
        admitted
    }

    #[test]
    fn new_flows_give_way_only_when_rings_overflow_and_others_need_the_time() {
        let mut overload = Overload::default();
        overload.observe(0, Timestamp::from_millis(0));
        assert_eq!(turn(&mut overload, 60, 4, 1), 60, "nothing is lost");
        overload.observe(7, Timestamp::from_millis(100));
        assert_eq!(turn(&mut overload, 60, 4, 101), BUDGET);
        assert_eq!(turn(&mut overload, 60, 4, 1_099), BUDGET);
        overload.observe(7, Timestamp::from_millis(200));
        assert_eq!(turn(&mut overload, 60, 4, 1_100), 60, "it is over");
        overload.observe(8, Timestamp::from_millis(2_000));
        for _ in 0..20 {
            turn(&mut overload, 64, 0, 2_001);
        }
        assert_eq!(turn(&mut overload, 64, 0, 2_002), 64, "new flows only");
        assert_eq!(turn(&mut overload, 60, 4, 2_003), 60);
        assert_eq!(turn(&mut overload, 60, 4, 2_004), BUDGET, "the first of others");
    }
}
