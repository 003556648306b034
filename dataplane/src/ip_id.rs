//! Which identification does a DF-clear packet leave with (RFC 6864 section 5.3.1)?
//!
//! A NAT is the source of what it rewrites: packets of many pods leave with one address, and nobody else
//! can see to it that two of their datagrams don't carry one identification to the same remote.
//!
//! The identifications are split between the workers by their remainder, so that no two workers ever give
//! out the same one. Each worker counts up, from a random start, in one of a few thousand counters that a keyed
//! hash of addresses and protocol chooses. Flows that share a counter share its identifications: they
//! repeat sooner, but never by chance.
//!
//! Above 65,536 datagrams in 120 s identifications repeat (RFC 6864 4.3a and 5.2a are not met, on purpose),
//! counted, unless the pool is strict. Nothing else in natgate looks at the identification, but to tell
//! fragments of different datagrams apart (RFC 6864 4.1a).

use conntrack::{Secret, Timestamp};

/// Counters of one worker: a power of two.
const COUNTERS: usize = 2048;
/// Parts of a counter's cycle for which it is known when they were used last.
const SEGMENTS: u32 = 64;
/// Tenths of a second in which no identification should repeat (RFC 6864 4.3a: the maximum lifetime
/// of a datagram is 120 s), and one more because times are cut to tenths.
const LIFETIME: u32 = 1200 + 1;

/// An identification for one datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct FreshId {
    pub(crate) id: u16,
    /// It may have been given out less than 120 s ago.
    pub(crate) reused: bool,
}

/// One counter: all that most packets need of it, and small, so that all of them stay near.
#[derive(Clone, Debug)]
struct Counter {
    /// The first identification of a cycle.
    start: u16,
    /// Identifications given out, modulo how many there are.
    next: u16,
    /// When it last left the segment where it is now, in tenths of a second, plus one.
    left: u32,
}

/// The identifications that one worker gives out.
#[derive(Debug)]
pub(crate) struct IpIds {
    worker: u16,
    workers: u16,
    /// How many identifications this worker has for each counter.
    span: u32,
    /// A counter's segment is its value shifted right by so much.
    shift: u32,
    secret: Secret,
    counters: Vec<Counter>,
    /// By counter, when it last left each of its segments; read when it enters one.
    left: Vec<[u32; SEGMENTS as usize]>,
}

impl IpIds {
    /// The identifications of `worker`, which is one of `workers`; `secret` says where they start.
    pub(crate) fn new(worker: u16, workers: u16, secret: &Secret) -> Self {
        let workers = workers.max(1);
        let span = (1 << 16) / u32::from(workers);
        let counter = |index: usize| {
            let start = (secret.scramble((worker, index)) as u32 % span) as u16;
            Counter { start, next: 0, left: 0 }
        };
        Self {
            worker,
            workers,
            span,
            shift: span.div_ceil(SEGMENTS).next_power_of_two().ilog2(),
            secret: secret.clone(),
            counters: (0..COUNTERS).map(counter).collect(),
            left: vec![[0; SEGMENTS as usize]; COUNTERS],
        }
    }

    /// The next identification for datagrams of one kind: `flow` is what they must differ in. `None` if
    /// every one may be in use and `strict` forbids to repeat any.
    #[inline]
    pub(crate) fn issue(
        &mut self,
        flow: impl std::hash::Hash,
        strict: bool,
        now: Timestamp,
    ) -> Option<FreshId> {
        let index = self.secret.scramble(flow) as usize % COUNTERS;
        let now = (now.as_millis() / 100) as u32 + 1;
        let (span, counter) = (self.span, &mut self.counters[index]);
        let reused = counter.left != 0 && now.saturating_sub(counter.left) < LIFETIME;
        if reused && strict {
            return None;
        }
        let within = |number: u32| if number < span { number } else { number - span };
        let number = u32::from(counter.next);
        let next = within(number + 1);
        counter.next = next as u16;
        let (from, to) = (number >> self.shift, next >> self.shift);
        if from != to {
            let left = &mut self.left[index];
            left[from as usize] = now;
            counter.left = left[to as usize];
        }
        let number = within(u32::from(counter.start) + number);
        let id = (number * u32::from(self.workers) + u32::from(self.worker)) as u16;
        Some(FreshId { id, reused })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    fn at(secs: u64) -> Timestamp {
        Timestamp::from_millis(secs * 1000)
    }

    // Proves: 6864-S5.3.1
    #[test]
    fn workers_never_give_out_the_same() {
        let secret = Secret::from_seed(1);
        for workers in [1, 2, 3, 5, 64] {
            let span = (1 << 16) / u32::from(workers);
            let mut all = HashSet::new();
            for worker in 0..workers {
                let mut ids = IpIds::new(worker, workers, &secret);
                for _ in 0..span {
                    let fresh = ids.issue("flow", false, at(10)).unwrap();
                    assert!(!fresh.reused && all.insert(fresh.id), "{workers} workers");
                }
                assert!(ids.issue("flow", false, at(10)).unwrap().reused);
            }
            assert_eq!(all.len() as u32, span * u32::from(workers));
        }
    }

    // Proves: 6864-S4.3a, 6864-S5.2a
    #[test]
    fn what_is_not_called_reused_was_not_given_out_for_120_seconds() {
        let secret = Secret::from_seed(2);
        for strict in [false, true] {
            for per_second in [100, 535, 547, 900, 20_000] {
                let mut ids = IpIds::new(0, 1, &secret);
                let mut last: Vec<Option<u64>> = vec![None; 1 << 16];
                let (mut refused, mut reused) = (0, 0);
                for millis in (0..600 * per_second).map(|n| n * 1000 / per_second) {
                    let now = Timestamp::from_millis(millis);
                    let Some(fresh) = ids.issue(7, strict, now) else {
                        refused += 1;
                        continue;
                    };
                    let before = last[usize::from(fresh.id)].replace(millis);
                    let lately = before.is_some_and(|before| millis - before < 120_000);
                    assert!(fresh.reused || !lately, "{} at {millis} ms", fresh.id);
                    reused += u32::from(fresh.reused);
                }
                assert_eq!(refused > 0, strict && per_second > 546, "{per_second} a second");
                assert_eq!(reused > 0, !strict && per_second > 546, "{per_second} a second");
            }
        }
    }

    #[test]
    fn flows_start_at_different_places() {
        let secret = Secret::from_seed(3);
        let mut ids = IpIds::new(0, 1, &secret);
        let firsts: HashSet<u16> =
            (0..100).map(|flow| ids.issue(flow, false, at(1)).unwrap().id).collect();
        assert!(firsts.len() > 90);
    }
}
