//! Which sessions are due? A two-level timer wheel of 1 s ticks.
//!
//! Items are small integers (session numbers). The wheel is lazy: packets never touch it. When an item
//! pops, the caller looks when it was last seen and re-arms or ends it. Arming, disarming and popping
//! take constant time; moving a far slot to the near level is part of the popping budget.

const NEAR_SLOTS: u32 = 256;
const FAR_SLOTS: u32 = 512;
const NIL: u32 = u32::MAX;
/// In `Link::prev`: the item is the first one of the slot in the low bits.
const HEAD: u32 = 1 << 31;

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

const UNLINKED: Link = Link { prev: NIL, next: NIL };

/// A timer wheel for items 0, 1, 2 … (less than 2^31), each armed at most once.
#[derive(Debug)]
pub(crate) struct Wheel {
    links: Vec<Link>,
    heads: Vec<u32>,
    /// The tick whose slot is being emptied.
    current: u32,
    /// The far slot of `current` was moved to the near level.
    cascaded: bool,
}

impl Wheel {
    /// A wheel that starts at tick `now`, with room for `capacity` items before it allocates.
    pub(crate) fn new(now: u32, capacity: usize) -> Self {
        Self {
            links: Vec::with_capacity(capacity),
            heads: vec![NIL; (NEAR_SLOTS + FAR_SLOTS) as usize],
            current: now,
            cascaded: true,
        }
    }

    /// Arms `item` to pop at `tick` or soon after; a tick that is past pops next.
    /// Ticks farther than the wheel reaches (36 hours) pop early, and the caller re-arms them.
    pub(crate) fn arm(&mut self, item: u32, tick: u32) {
        if self.links.len() <= item as usize {
            self.links.resize(item as usize + 1, UNLINKED);
        }
        self.disarm(item);
        let ahead = tick.saturating_sub(self.current).min((FAR_SLOTS - 1) * NEAR_SLOTS);
        let tick = self.current + ahead;
        let slot = if ahead < NEAR_SLOTS {
            tick % NEAR_SLOTS
        } else {
            NEAR_SLOTS + tick / NEAR_SLOTS % FAR_SLOTS
        };
        self.push(slot, item);
    }

    fn push(&mut self, slot: u32, item: u32) {
        let next = self.heads[slot as usize];
        if next != NIL {
            self.links[next as usize].prev = item;
        }
        self.links[item as usize] = Link { prev: HEAD | slot, next };
        self.heads[slot as usize] = item;
    }

    /// Takes `item` off the wheel, if it is on it.
    pub(crate) fn disarm(&mut self, item: u32) {
        let Some(&Link { prev, next }) = self.links.get(item as usize) else { return };
        if prev == NIL {
            return;
        }
        if prev & HEAD != 0 {
            self.heads[(prev & !HEAD) as usize] = next;
        } else {
            self.links[prev as usize].next = next;
        }
        if next != NIL {
            self.links[next as usize].prev = prev;
        }
        self.links[item as usize] = UNLINKED;
    }

    /// An item that is due at tick `now`, taken off the wheel. `budget` falls by one for every item looked
    /// at; `None` when it is used up or nothing is due.
    pub(crate) fn pop(&mut self, now: u32, budget: &mut u32) -> Option<u32> {
        loop {
            if !self.cascade(budget) {
                return None;
            }
            let item = self.heads[(self.current % NEAR_SLOTS) as usize];
            if item != NIL {
                *budget = budget.checked_sub(1)?;
                self.disarm(item);
                return Some(item);
            }
            if self.current >= now {
                return None;
            }
            self.current += 1;
            self.cascaded = !self.current.is_multiple_of(NEAR_SLOTS);
        }
    }

    /// Moves the far slot whose time has come to the near level; false if the budget ran out before.
    fn cascade(&mut self, budget: &mut u32) -> bool {
        if self.cascaded {
            return true;
        }
        let slot = NEAR_SLOTS + self.current / NEAR_SLOTS % FAR_SLOTS;
        while self.heads[slot as usize] != NIL {
            let Some(left) = budget.checked_sub(1) else { return false };
            *budget = left;
            // The exact second is not kept: the item pops at the start of its 256 s and is re-armed.
            let item = self.heads[slot as usize];
            self.disarm(item);
            self.push(self.current % NEAR_SLOTS, item);
        }
        self.cascaded = true;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    proptest! {
        /// Against a sorted list: nothing pops late, nothing is lost, a caller that re-arms what pops
        /// early sees every item exactly once.
        // Museum: C16
        #[test]
        fn agrees_with_a_sorted_list(
            start in 0u32..100_000,
            steps in prop::collection::vec((0u32..50, 0u32..140_000, 0u32..400, any::<bool>()), 1..200),
        ) {
            let mut wheel = Wheel::new(start, 0);
            let mut twin: BTreeMap<u32, u32> = BTreeMap::new();
            let mut now = start;
            for (item, ahead, advance, disarm) in steps {
                if disarm {
                    wheel.disarm(item);
                    twin.remove(&item);
                } else {
                    wheel.arm(item, now + ahead);
                    twin.insert(item, now + ahead);
                }
                now += advance;
                let mut budget = u32::MAX;
                while let Some(popped) = wheel.pop(now, &mut budget) {
                    let due = twin.remove(&popped);
                    prop_assert!(due.is_some(), "popped what was not armed");
                    if let Some(due) = due.filter(|&due| due > now) {
                        wheel.arm(popped, due);
                        twin.insert(popped, due);
                    }
                }
                prop_assert!(twin.values().all(|&due| due > now), "late: {:?} at {}", twin, now);
            }
        }
    }

    #[test]
    fn the_budget_bounds_the_work() {
        let mut wheel = Wheel::new(0, 0);
        for item in 0..1_000 {
            wheel.arm(item, 300);
        }
        let mut popped = 0;
        for _ in 0..1_000 {
            let mut budget = 32;
            let before = popped;
            while wheel.pop(400, &mut budget).is_some() {
                popped += 1;
            }
            assert!(popped - before <= 32);
        }
        assert_eq!(popped, 1_000);
    }
}
