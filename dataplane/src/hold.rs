//! Packets that wait until the kernel has resolved their next hop.
//!
//! They are translated already; only the Ethernet addresses are missing. Few wait, and not for long.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::time::Duration;

use ahash::RandomState;
use conntrack::Timestamp;

use crate::interface::InterfaceId;

/// Packets that may wait for one neighbour.
const PER_NEIGHBOUR: usize = 64;
/// Packets that may wait in all.
const TOTAL: usize = 512;
/// How long a packet waits: the kernel asks three times, a second apart.
const PATIENCE: Duration = Duration::from_secs(3);
/// How often the kernel is asked for one neighbour at most.
const ASK_AGAIN: Duration = Duration::from_millis(500);

/// A neighbour on one of the gateway's links.
pub(crate) type Neighbour = (InterfaceId, Ipv4Addr);

#[derive(Debug)]
struct Waiting<F> {
    frames: Vec<(Timestamp, F)>,
    /// When the kernel was asked last.
    asked: Option<Timestamp>,
    /// How often the kernel had failed to resolve the neighbour when the first packet came.
    failures: u32,
}

impl<F> Waiting<F> {
    fn asked_lately(&self, now: Timestamp) -> bool {
        self.asked.is_some_and(|asked| now.since(asked) < ASK_AGAIN)
    }
}

/// The packets of one worker that wait.
#[derive(Debug)]
pub(crate) struct Hold<F> {
    neighbours: HashMap<Neighbour, Waiting<F>, RandomState>,
    len: usize,
}

impl<F> Hold<F> {
    pub(crate) fn new() -> Self {
        Self { neighbours: HashMap::with_hasher(RandomState::new()), len: 0 }
    }

    /// How many packets wait.
    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Lets a packet wait for a neighbour that has failed `failures` times so far; gives it back if too many wait
    /// already. The flag says whether the kernel should be asked (again).
    pub(crate) fn push(
        &mut self,
        neighbour: Neighbour,
        failures: u32,
        frame: F,
        now: Timestamp,
    ) -> (bool, Option<F>) {
        // Before anything is made: a flood to many neighbours must not fill the map either.
        if self.len >= TOTAL {
            return (false, Some(frame));
        }
        let waiting = self.neighbours.entry(neighbour).or_insert_with(|| Waiting {
            frames: Vec::new(),
            asked: None,
            failures,
        });
        if waiting.frames.is_empty() {
            waiting.failures = failures;
        }
        let ask = !waiting.asked_lately(now);
        if ask {
            waiting.asked = Some(now);
        }
        if waiting.frames.len() >= PER_NEIGHBOUR {
            return (ask, Some(frame));
        }
        waiting.frames.push((now, frame));
        self.len += 1;
        (ask, None)
    }

    /// The neighbours that packets wait for and that the kernel was not asked for lately: an answer that came too early
    /// for them, or a question that was too early to be passed on, must not leave them without one.
    pub(crate) fn ask_again(&mut self, now: Timestamp) -> Vec<Neighbour> {
        let waiting = self.neighbours.iter_mut().filter(|(_, it)| !it.frames.is_empty());
        let due = waiting.filter(|(_, it)| !it.asked_lately(now)).map(|(neighbour, it)| {
            it.asked = Some(now);
            *neighbour
        });
        due.collect()
    }

    /// Takes out the packets of the first neighbour that is `decided`, given how often it had failed when they came.
    pub(crate) fn take(
        &mut self,
        mut decided: impl FnMut(Neighbour, u32) -> bool,
    ) -> Option<(Neighbour, Vec<F>)> {
        let waiting = self.neighbours.iter().filter(|(_, waiting)| !waiting.frames.is_empty());
        let mut found = waiting.filter(|(neighbour, it)| decided(**neighbour, it.failures));
        let neighbour = found.next().map(|(neighbour, _)| *neighbour)?;
        // When the kernel was asked stays: a neighbour that fails at once is not asked for at once again.
        let waiting = self.neighbours.get_mut(&neighbour)?;
        let frames = std::mem::take(&mut waiting.frames);
        self.len -= frames.len();
        Some((neighbour, frames.into_iter().map(|(_, frame)| frame).collect()))
    }

    /// Takes out the packets that have waited too long.
    pub(crate) fn take_overdue(&mut self, now: Timestamp) -> Vec<F> {
        let mut overdue = Vec::new();
        self.neighbours.retain(|_, waiting| {
            let count = waiting
                .frames
                .iter()
                .take_while(|(since, _)| now.since(*since) >= PATIENCE)
                .count();
            overdue.extend(waiting.frames.drain(..count).map(|(_, frame)| frame));
            // An entry outlives its packets until the kernel may be asked again, to remember that.
            !waiting.frames.is_empty() || waiting.asked_lately(now)
        });
        self.len -= overdue.len();
        overdue
    }

    /// Takes out everything.
    pub(crate) fn take_all(&mut self) -> Vec<F> {
        self.len = 0;
        let all = std::mem::take(&mut self.neighbours).into_values();
        all.flat_map(|waiting| waiting.frames.into_iter().map(|(_, frame)| frame)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const N: Neighbour = (InterfaceId(0), Ipv4Addr::LOCALHOST);

    fn at(millis: u64) -> Timestamp {
        Timestamp::from_millis(millis)
    }

    #[test]
    fn bounded_and_impatient() {
        let mut hold = Hold::new();
        for i in 0..PER_NEIGHBOUR {
            assert_eq!(hold.push(N, 0, i, at(10)), (i == 0, None));
        }
        assert_eq!(hold.push(N, 0, 99, at(11)), (false, Some(99)));
        assert_eq!(hold.push(N, 0, 99, at(600)), (true, Some(99)), "asks again");
        assert!(hold.take_overdue(at(3_009)).is_empty());
        assert_eq!(hold.take_overdue(at(3_010)).len(), PER_NEIGHBOUR);
        assert_eq!(hold.len(), 0);
        assert_eq!(hold.push(N, 0, 1, at(4_000)), (true, None));
        assert!(hold.take(|_, _| false).is_none());
        assert_eq!(hold.take(|n, failures| n == N && failures == 0), Some((N, vec![1])));
        assert!(hold.take(|_, _| true).is_none(), "none waits");
        assert_eq!(hold.len(), 0);
    }

    #[test]
    fn a_full_hold_asks_nothing_and_makes_no_entries() {
        let mut hold = Hold::new();
        let neighbour = |i: u32| (InterfaceId(0), Ipv4Addr::from(i));
        let asked = (0..2_000).filter(|&i| hold.push(neighbour(i), 0, i, at(10)).0).count();
        assert_eq!(
            (asked, hold.neighbours.len()),
            (TOTAL, TOTAL),
            "one question for each that waits"
        );
        assert_eq!(hold.push(neighbour(0), 0, 0, at(2_000)), (false, Some(0)));
    }

    #[test]
    fn a_neighbour_is_asked_for_at_most_every_500_ms() {
        let mut hold = Hold::new();
        for i in 0..PER_NEIGHBOUR {
            assert_eq!(hold.push(N, 0, i, at(10)), (i == 0, None));
        }
        assert_eq!(hold.push(N, 0, 99, at(2_900)), (true, Some(99)));
        assert_eq!(hold.take_overdue(at(3_010)).len(), PER_NEIGHBOUR);
        assert_eq!(hold.push(N, 0, 1, at(3_011)), (false, None), "first to wait, but asked lately");
        assert_eq!(hold.push(N, 0, 2, at(3_400)), (true, None));
        hold.take_overdue(at(60_000));
        assert!(hold.neighbours.is_empty());
    }

    #[test]
    fn a_neighbour_that_packets_wait_for_is_asked_for_again() {
        let mut hold = Hold::new();
        assert_eq!(hold.push(N, 0, 1, at(10)), (true, None));
        assert!(hold.take(|_, _| true).is_some(), "told that it failed");
        assert_eq!(hold.push(N, 1, 2, at(20)), (false, None), "asked lately");
        assert_eq!(hold.ask_again(at(509)), []);
        assert_eq!(hold.ask_again(at(510)), [N]);
        assert_eq!(hold.ask_again(at(511)), []);
        hold.take_all();
        assert_eq!(hold.ask_again(at(5_000)), [], "none waits");
    }

    #[test]
    fn all_neighbours_together_are_bounded() {
        let mut hold = Hold::new();
        let fits = |i: usize| (InterfaceId(0), Ipv4Addr::from(i as u32 / 8));
        let refused = (0..1_000).filter(|&i| hold.push(fits(i), 0, i, at(10)).1.is_some()).count();
        assert_eq!((hold.len(), refused), (TOTAL, 1_000 - TOTAL));
        assert_eq!(hold.take_all().len(), TOTAL);
    }
}
