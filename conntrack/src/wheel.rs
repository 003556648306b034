//! Which sessions are due? A two-level timer wheel of 1 s ticks.
//!
//! Items are small integers (session numbers). The wheel is lazy: packets never touch it. When an item
//! pops, the caller looks when it was last seen and re-arms or ends it. Arming and popping take constant time;
//! moving a far slot to the near level is part of the popping budget.
//!
//! A slot is a list of pages of items, so that an item costs 4 bytes, and those that are due next are known beforehand.
//! An item is armed by its earliest entry. Arming it for later adds none: it pops early, and the caller re-arms
//! it. Arming it for earlier leaves an entry behind, which is passed over when its time comes. So between two pops an
//! item gets no more entries than its timers have lengths.

use crate::chunks::Chunks;

/// One for each second: the timers of short-lived sessions (300 s and less) end where they were armed.
const NEAR_SLOTS: u32 = 1 << 10;
/// One for each round of the near ones.
const FAR_SLOTS: u32 = 1 << 7;
const NIL: u32 = u32::MAX;
/// Items in a page: with its header it is four cache lines.
const PAGE: usize = 62;
/// The slot of an item without entry.
const UNARMED: u16 = u16::MAX;

#[derive(Clone, Debug)]
struct Page {
    items: [u32; PAGE],
    len: u32,
    /// The next page of the slot, or of the free ones.
    next: u32,
}

/// A timer wheel for items 0, 1, 2 …
#[derive(Debug)]
pub(crate) struct Wheel {
    /// By item, the slot of its earliest entry.
    armed: Chunks<u16>,
    pages: Chunks<Page>,
    /// Pages that no slot uses.
    free: u32,
    /// By slot, the page that is being filled.
    heads: Box<[u32]>,
    /// The tick whose slot is being emptied.
    current: u32,
    /// The far slot of `current` was moved to the near level.
    cascaded: bool,
}

impl Wheel {
    /// A wheel that starts at tick `now`.
    pub(crate) fn new(now: u32) -> Self {
        Self {
            armed: Chunks::default(),
            pages: Chunks::default(),
            free: NIL,
            heads: vec![NIL; (NEAR_SLOTS + FAR_SLOTS) as usize].into(),
            current: now,
            cascaded: true,
        }
    }

    /// Arms `item` to pop at `tick` or before; a tick that is past pops next.
    /// Ticks farther than the wheel reaches (36 hours) pop early, and the caller re-arms them.
    pub(crate) fn arm(&mut self, item: u32, tick: u32) {
        let ahead = tick.saturating_sub(self.current).min((FAR_SLOTS - 1) * NEAR_SLOTS);
        let tick = self.current + ahead;
        self.armed.grow(item as usize + 1, &UNARMED);
        if self.pops_at(self.armed[item as usize]).is_some_and(|at| at <= tick) {
            return;
        }
        let slot = if ahead < NEAR_SLOTS {
            tick % NEAR_SLOTS
        } else {
            NEAR_SLOTS + tick / NEAR_SLOTS % FAR_SLOTS
        };
        self.push(slot, item);
    }

    /// The tick at which the items of a slot pop.
    fn pops_at(&self, slot: u16) -> Option<u32> {
        let slot = u32::from(slot);
        if slot < NEAR_SLOTS {
            Some(self.current + (slot.wrapping_sub(self.current) % NEAR_SLOTS))
        } else if slot < NEAR_SLOTS + FAR_SLOTS {
            let turn = self.current / NEAR_SLOTS;
            let turns = (slot - NEAR_SLOTS).wrapping_sub(turn) % FAR_SLOTS;
            Some(if turns == 0 { self.current } else { (turn + turns) * NEAR_SLOTS })
        } else {
            None
        }
    }

    fn push(&mut self, slot: u32, item: u32) {
        self.armed[item as usize] = slot as u16;
        let head = self.heads[slot as usize];
        if let Some(page) = self.pages.get_mut(head as usize)
            && (page.len as usize) < PAGE
        {
            page.items[page.len as usize] = item;
            page.len += 1;
            return;
        }
        let mut page = Page { items: [0; PAGE], len: 1, next: head };
        page.items[0] = item;
        self.heads[slot as usize] = self.free;
        if let Some(free) = self.pages.get_mut(self.free as usize) {
            self.free = std::mem::replace(free, page).next;
        } else {
            self.pages.push(page);
            self.heads[slot as usize] = self.pages.len() as u32 - 1;
        }
    }

    /// Takes an entry from a slot that has one; its item, if that is where it is armed.
    fn take(&mut self, slot: u32) -> Option<u32> {
        let head = self.heads[slot as usize];
        let page = self.pages.get_mut(head as usize)?;
        page.len -= 1;
        let item = page.items[page.len as usize];
        if page.len == 0 {
            self.heads[slot as usize] = std::mem::replace(&mut page.next, self.free);
            self.free = head;
        }
        let armed = &mut self.armed[item as usize];
        let valid = u32::from(*armed) == slot;
        if valid {
            *armed = UNARMED;
        }
        valid.then_some(item)
    }

    /// An item that is due at tick `now`, taken off the wheel. `budget` falls by one for every entry looked
    /// at; `None` when it is used up or nothing is due.
    pub(crate) fn pop(&mut self, now: u32, budget: &mut u32) -> Option<u32> {
        loop {
            if !self.cascade(budget) {
                return None;
            }
            let slot = self.current % NEAR_SLOTS;
            if self.heads[slot as usize] != NIL {
                *budget = budget.checked_sub(1)?;
                if let Some(item) = self.take(slot) {
                    return Some(item);
                }
                continue;
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
            // The exact second is not kept: the item pops at the start of its round and is re-armed.
            if let Some(item) = self.take(slot) {
                self.push(self.current % NEAR_SLOTS, item);
            }
        }
        self.cascaded = true;
        true
    }

    /// Bytes that it uses.
    pub(crate) fn bytes(&self) -> usize {
        self.armed.bytes() + self.pages.bytes() + size_of_val(&*self.heads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    /// Entries that wait, valid or not.
    fn entries(wheel: &Wheel) -> usize {
        let mut entries = 0;
        for &head in &wheel.heads {
            let mut next = head;
            while let Some(page) = wheel.pages.get(next as usize) {
                entries += page.len as usize;
                next = page.next;
            }
        }
        entries
    }

    proptest! {
        /// Against a sorted list: nothing pops late, nothing is lost, a caller that re-arms what pops
        /// early sees every item exactly once. An item whose session ends is forgotten by the caller alone,
        /// and its number may be armed again at once.
        // Museum: C16
        #[test]
        fn agrees_with_a_sorted_list(
            start in 0u32..100_000,
            steps in prop::collection::vec((0u32..50, 0u32..140_000, 0u32..400, any::<bool>()), 1..200),
        ) {
            let mut wheel = Wheel::new(start);
            let mut twin: BTreeMap<u32, u32> = BTreeMap::new();
            let mut now = start;
            for (item, ahead, advance, ends) in steps {
                if ends {
                    twin.remove(&item);
                } else {
                    wheel.arm(item, now + ahead);
                    twin.insert(item, now + ahead);
                }
                now += advance;
                let mut budget = u32::MAX;
                while let Some(popped) = wheel.pop(now, &mut budget) {
                    if let Some(due) = twin.remove(&popped).filter(|&due| due > now) {
                        wheel.arm(popped, due);
                        twin.insert(popped, due);
                    }
                }
                prop_assert!(twin.values().all(|&due| due > now), "late: {:?} at {}", twin, now);
            }
            // Nothing is left behind for good.
            let mut budget = u32::MAX;
            while wheel.pop(now + 200_000, &mut budget).is_some() {}
            prop_assert_eq!(entries(&wheel), 0);
        }
    }

    /// A connection that is reset and revived over and over leaves no trail of entries.
    #[test]
    fn entries_are_as_few_as_timers_have_lengths() {
        let mut wheel = Wheel::new(0);
        for now in 0..2 {
            for _ in 0..1_000 {
                for timer in [60, 7_440, 240, 2] {
                    wheel.arm(7, now + timer);
                }
            }
            assert!(entries(&wheel) <= 4, "{} entries", entries(&wheel));
        }
        // Pages are used again.
        for item in 0..10_000 {
            wheel.arm(item, 1_000);
        }
        let pages = wheel.pages.len();
        for round in 1..20 {
            let mut budget = u32::MAX;
            while wheel.pop(1_000 * round, &mut budget).is_some() {}
            for item in 0..10_000 {
                wheel.arm(item, 1_000 * (round + 1));
            }
        }
        assert!(wheel.pages.len() <= 2 * pages, "{} pages, {pages} at first", wheel.pages.len());
    }

    #[test]
    fn the_budget_bounds_the_work() {
        let mut wheel = Wheel::new(0);
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
