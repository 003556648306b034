//! In which slot is the session with this hash? A cache line away.
//!
//! Buckets of one cache line hold ten tags of 16 bits and ten slots of 32 bits. A key may be in two
//! buckets; the second one is read only if the first says that something like it overflowed. The table grows
//! by linear hashing: each insertion splits a bucket or two while it is too full, so that no packet
//! waits for a rebuild. Memory for the largest size is reserved at start and touched as it is needed.

use std::ops::Range;

/// Tags and slots in a bucket.
const WAYS: usize = 10;
/// Ways whose tags are compared side by side.
const SIDE_BY_SIDE: usize = 8;
/// Split all buckets, one after the other, when more than this many of ten ways are taken on average. So the two keys
/// of a session take 16 to 32 bytes.
const FULL_WAYS: usize = 8;
/// The same for the largest size: there some key may find both its buckets full and nobody there who can move.
const FULL_WAYS_AT_LAST: usize = 7;
/// Buckets split by one insertion.
const SPLITS: usize = 2;
const EMPTY: u16 = 0;
/// The most that a count of overflowed keys can say.
const MANY: u32 = 3;
const FIRST_BUCKETS: usize = 1 << 10;

/// A cache line of the index.
#[repr(C, align(64))]
#[derive(Clone, Copy, Debug)]
struct Bucket {
    tags: [u16; WAYS],
    slots: [u32; WAYS],
    /// At least the number of keys whose first bucket this is and that live in their second one: 16 counts of two
    /// bits, by tag. One that was ever 3 stays so, and only costs a look.
    overflowed: u32,
}

impl Bucket {
    const EMPTY: Self = Self { tags: [EMPTY; WAYS], slots: [0; WAYS], overflowed: 0 };

    /// A way with this tag.
    #[inline]
    fn way_of(&self, tag: u16) -> Option<usize> {
        // Four tags side by side in a word. A lane is 0 where they are equal; then subtraction sets its highest bit, and
        // maybe those above it by its borrow, but never one below: so the lowest bit of each word is right.
        const ONES: u64 = 0x0001_0001_0001_0001;
        let wanted = ONES * u64::from(tag);
        let equal = |first: usize| {
            let lane = |at: usize| u64::from(self.tags[first + at]) << (16 * at);
            let other = (lane(0) | lane(1) | lane(2) | lane(3)) ^ wanted;
            other.wrapping_sub(ONES) & !other & ONES << 15
        };
        let matches = equal(0) >> 15 | equal(4) >> 14;
        if matches != 0 {
            let bit = matches.trailing_zeros() as usize;
            return Some((bit / 16 + bit % 2 * 4) % SIDE_BY_SIDE);
        }
        (SIDE_BY_SIDE..WAYS).find(|&way| self.tags[way] == tag)
    }

    /// Whether a way has this tag. Quicker than to find it, where mostly none has.
    #[inline]
    fn has(&self, tag: u16) -> bool {
        let side_by_side = self.tags[..SIDE_BY_SIDE].iter();
        side_by_side.fold(0, |any, other| any | u16::from(*other == tag)) != 0
            || self.tags[SIDE_BY_SIDE..].contains(&tag)
    }

    /// The slot in a way with this tag.
    #[inline]
    fn guess(&self, tag: u16) -> Option<u32> {
        self.way_of(tag).map(|way| self.slots[way])
    }

    /// Whether a key with this tag may live in its second bucket.
    #[inline]
    fn may_overflow(&self, tag: u16) -> bool {
        self.overflowed >> count_of(tag) & MANY != 0
    }

    /// A key with this tag goes to live in its second bucket.
    fn count_overflow(&mut self, tag: u16) {
        let count = self.overflowed >> count_of(tag) & MANY;
        self.overflowed += u32::from(count < MANY) << count_of(tag);
    }

    /// A key with this tag lives there no more.
    fn uncount_overflow(&mut self, tag: u16) {
        let count = self.overflowed >> count_of(tag) & MANY;
        self.overflowed -= u32::from(count > 0 && count < MANY) << count_of(tag);
    }

    fn vacant_way(&self) -> Option<usize> {
        self.tags.iter().position(|&tag| tag == EMPTY)
    }

    fn put(&mut self, tag: u16, slot: u32) -> bool {
        let Some(way) = self.vacant_way() else { return false };
        self.tags[way] = tag;
        self.slots[way] = slot;
        true
    }

    fn take(&mut self, tag: u16, slot: u32) -> bool {
        let way = (0..WAYS).find(|&way| self.tags[way] == tag && self.slots[way] == slot);
        way.is_some_and(|way| {
            self.tags[way] = EMPTY;
            true
        })
    }
}

/// In place of a slot: there is none.
pub(crate) const NOWHERE: u32 = u32::MAX;
/// In place of a slot: it is in its second bucket, if anywhere.
pub(crate) const IN_SECOND: u32 = u32::MAX - 1;

/// The index is at its maximum and both buckets of the key are full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct IndexFull;

/// A hash index from keys, which it does not store, to slots, which the caller knows.
#[derive(Debug)]
pub(crate) struct Index {
    buckets: Vec<Bucket>,
    /// Buckets at the start of this doubling, a power of two; `buckets.len() - base` are split already.
    base: usize,
    limit: usize,
    entries: usize,
}

#[inline]
fn tag_of(hash: u64) -> u16 {
    ((hash >> 48) as u16).max(1)
}

/// How far the count for a tag is from the lowest bit of [`Bucket::overflowed`].
#[inline]
fn count_of(tag: u16) -> u32 {
    u32::from(tag % 16) * 2
}

/// The two places where a hash may live, before the fold to the number of buckets.
#[inline]
fn places(hash: u64) -> [usize; 2] {
    let second = (hash ^ hash >> 29).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    [hash as u32 as usize, (second >> 32) as usize]
}

impl Index {
    /// An index for at most `max_entries` keys.
    pub(crate) fn new(max_entries: usize) -> Self {
        let limit = max_entries.div_ceil(FULL_WAYS_AT_LAST).next_power_of_two().max(FIRST_BUCKETS);
        let mut buckets = Vec::with_capacity(limit);
        buckets.resize(FIRST_BUCKETS, Bucket::EMPTY);
        Self { buckets, base: FIRST_BUCKETS, limit, entries: 0 }
    }

    /// The bucket of a place: linear hashing, where the first buckets are split already.
    #[inline]
    fn bucket_of(&self, place: usize) -> usize {
        let wide = place & (2 * self.base - 1);
        if wide < self.buckets.len() { wide } else { wide & (self.base - 1) }
    }

    /// Reads the line of the first bucket of `hash`, so that it is near when it is needed; its number.
    #[inline]
    pub(crate) fn touch(&self, hash: u64) -> u32 {
        let bucket = self.bucket_of(places(hash)[0]);
        std::hint::black_box(self.buckets[bucket].overflowed);
        bucket as u32
    }

    /// The slot that `hash`, whose first bucket is `bucket`, has if no other key has its tag: the caller must compare
    /// the keys. [`NOWHERE`], or [`IN_SECOND`]: that one's line is on its way after this.
    #[inline(always)]
    #[allow(clippy::inline_always)] // beside the passes over bursts, slower ones call it
    pub(crate) fn guess(&self, hash: u64, bucket: u32) -> u32 {
        let tag = tag_of(hash);
        let Some(bucket) = self.buckets.get(bucket as usize) else { return NOWHERE };
        match bucket.guess(tag) {
            Some(slot) => slot,
            None if bucket.may_overflow(tag) => {
                std::hint::black_box(self.second(hash).overflowed);
                IN_SECOND
            }
            None => NOWHERE,
        }
    }

    /// The slot that `hash` has in its second bucket, in the same way.
    pub(crate) fn guess_second(&self, hash: u64) -> u32 {
        self.second(hash).guess(tag_of(hash)).unwrap_or(NOWHERE)
    }

    #[inline]
    fn second(&self, hash: u64) -> &Bucket {
        &self.buckets[self.bucket_of(places(hash)[1])]
    }

    /// Whether no key has `hash`: no tag is like its own where it may be.
    #[inline]
    pub(crate) fn lacks(&self, hash: u64) -> bool {
        let tag = tag_of(hash);
        let bucket = &self.buckets[self.bucket_of(places(hash)[0])];
        !(bucket.has(tag) || bucket.may_overflow(tag) && self.second(hash).has(tag))
    }

    /// Calls `is_it` with the slots that may belong to `hash` until it says yes.
    pub(crate) fn find(&self, hash: u64, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        let tag = tag_of(hash);
        let [first, second] = places(hash);
        let bucket = &self.buckets[self.bucket_of(first)];
        let mut search = |bucket: &Bucket| {
            let ways = bucket.has(tag).then_some(0..WAYS)?;
            ways.filter(|&way| bucket.tags[way] == tag)
                .map(|way| bucket.slots[way])
                .find(|&slot| is_it(slot))
        };
        if let Some(slot) = search(bucket) {
            return Some(slot);
        }
        if bucket.may_overflow(tag) { search(&self.buckets[self.bucket_of(second)]) } else { None }
    }

    /// Adds `slot` under `hash`. `hash_of` gives the hash of a slot that is in the index already.
    pub(crate) fn insert(
        &mut self,
        hash: u64,
        slot: u32,
        hash_of: impl Fn(u32) -> u64,
    ) -> Result<(), IndexFull> {
        for _ in 0..SPLITS {
            if self.entries >= self.buckets.len() * FULL_WAYS || self.buckets.len() > self.base {
                self.split(&hash_of);
            }
        }
        // A split makes room where both buckets are full by bad luck.
        for _ in 0..4 * WAYS {
            if self.place(hash, slot) || self.displace(hash, slot, &hash_of) {
                self.entries += 1;
                return Ok(());
            }
            if !self.split(&hash_of) {
                break;
            }
        }
        Err(IndexFull)
    }

    fn place(&mut self, hash: u64, slot: u32) -> bool {
        let [first, second] = places(hash).map(|place| self.bucket_of(place));
        if self.buckets[first].put(tag_of(hash), slot) {
            return true;
        }
        if self.buckets[second].put(tag_of(hash), slot) {
            self.buckets[first].count_overflow(tag_of(hash));
            return true;
        }
        false
    }

    /// Moves one key of either bucket to its other bucket, and puts `slot` in its way.
    fn displace(&mut self, hash: u64, slot: u32, hash_of: &impl Fn(u32) -> u64) -> bool {
        let [first, second] = places(hash).map(|place| self.bucket_of(place));
        if self.make_room(first, hash_of) || self.make_room(second, hash_of) {
            return self.place(hash, slot);
        }
        false
    }

    /// Moves one key of the bucket `home` to the other bucket where it may be.
    fn make_room(&mut self, home: usize, hash_of: &impl Fn(u32) -> u64) -> bool {
        for way in 0..WAYS {
            let other = self.buckets[home].slots[way];
            let other_hash = hash_of(other);
            let tag = tag_of(other_hash);
            let [first, second] = places(other_hash).map(|place| self.bucket_of(place));
            let target = if first == home { second } else { first };
            if target == home || !self.buckets[target].put(tag, other) {
                continue;
            }
            self.buckets[home].tags[way] = EMPTY;
            if first == home {
                self.buckets[first].count_overflow(tag);
            } else {
                // It is back in its first bucket.
                self.buckets[first].uncount_overflow(tag);
            }
            return true;
        }
        false
    }

    /// Removes `slot` from under `hash`.
    pub(crate) fn remove(&mut self, hash: u64, slot: u32) {
        let [first, second] = places(hash).map(|place| self.bucket_of(place));
        if self.buckets[first].take(tag_of(hash), slot) {
            self.entries -= 1;
        } else if self.buckets[second].take(tag_of(hash), slot) {
            self.entries -= 1;
            self.buckets[first].uncount_overflow(tag_of(hash));
        }
    }

    /// Splits the next bucket in two; false at the maximum.
    fn split(&mut self, hash_of: &impl Fn(u32) -> u64) -> bool {
        if self.buckets.len() >= self.limit {
            return false;
        }
        let old = self.buckets.len() - self.base;
        let new = self.buckets.len();
        let bucket = self.buckets[old];
        // Who overflowed from here may belong to either half now: both keep the whole counts.
        let empty = Bucket { overflowed: bucket.overflowed, ..Bucket::EMPTY };
        let mut halves = [empty; 2];
        for way in (0..WAYS).filter(|&way| bucket.tags[way] != EMPTY) {
            let wide = |place: usize| place & (2 * self.base - 1);
            let [first, second] = places(hash_of(bucket.slots[way])).map(wide);
            // The key is here by its first place if that folds to this bucket, else by its second.
            let place = if first & (self.base - 1) == old { first } else { second };
            halves[usize::from(place == new)].put(bucket.tags[way], bucket.slots[way]);
        }
        self.buckets[old] = halves[0];
        self.buckets.push(halves[1]);
        if self.buckets.len() == 2 * self.base {
            self.base *= 2;
        }
        true
    }

    /// The addresses that are reserved for buckets.
    pub(crate) fn reserved(&self) -> Range<usize> {
        let start = self.buckets.as_ptr().expose_provenance();
        start..start + self.buckets.capacity() * size_of::<Bucket>()
    }

    /// Bytes of the buckets in use.
    pub(crate) fn bytes(&self) -> usize {
        self.buckets.len() * size_of::<Bucket>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    use proptest::prelude::*;

    const SEEDS: u32 = 8;

    fn hash(slot: u32) -> u64 {
        let mut x = u64::from(slot).wrapping_add(0x9e37_79b9_7f4a_7c15);
        x = (x ^ x >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ x >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ x >> 31
    }

    #[test]
    fn a_bucket_is_a_cache_line() {
        assert_eq!(size_of::<Bucket>(), 64);
    }

    #[test]
    fn grows_to_its_limit_and_finds_everything_on_the_way() {
        let max = 200_000;
        let mut index = Index::new(max);
        for slot in 0..max as u32 {
            index.insert(hash(slot), slot, hash).unwrap();
            let probe = slot / 2;
            assert_eq!(index.find(hash(probe), |s| s == probe), Some(probe));
        }
        for slot in 0..max as u32 {
            assert_eq!(index.find(hash(slot), |s| s == slot), Some(slot));
        }
        assert!(index.buckets.capacity() == index.limit, "the buckets moved");
    }

    proptest! {
        /// Tags that differ by little are told apart, whatever lies beside them.
        #[test]
        fn tags_side_by_side_are_compared_as_one_by_one(
            tags in prop::array::uniform10(prop_oneof![0_u16..4, 0x7ffe_u16..0x8002, 0xfffe_u16..]),
        ) {
            let bucket = Bucket { tags, ..Bucket::EMPTY };
            for tag in (0..5).chain(0x7ffd..0x8003).chain(0xfffd..=0xffff) {
                prop_assert_eq!(bucket.has(tag), tags.contains(&tag));
                match bucket.way_of(tag) {
                    Some(way) => prop_assert_eq!(tags[way], tag, "{:x?}", tags),
                    None => prop_assert!(!tags.contains(&tag), "{:x?} in {:x?}", tag, tags),
                }
            }
        }
    }

    /// At the sizes where the index is fullest: just before a doubling, and at its maximum.
    #[test]
    fn no_key_is_refused_below_the_maximum() {
        for (seed, max) in
            (0..SEEDS).flat_map(|seed| [(seed, FULL_WAYS_AT_LAST << 15), (seed, FULL_WAYS << 15)])
        {
            let hash = |slot: u32| hash(slot ^ seed << 20);
            let mut index = Index::new(max);
            let refused =
                (0..max as u32).find(|&slot| index.insert(hash(slot), slot, hash).is_err());
            assert_eq!(refused, None, "seed {seed}, {max} keys");
        }
    }

    // Museum: C42
    #[test]
    fn a_full_index_refuses_and_changes_nothing() {
        let mut index = Index::new(8);
        // All in one pair of buckets.
        let same = |_| 42u64;
        let mut accepted = 0;
        while index.insert(42, accepted, same).is_ok() {
            accepted += 1;
        }
        assert!(accepted >= 8);
        let found = (0..accepted).filter(|&s| index.find(42, |slot| slot == s).is_some()).count();
        assert_eq!(found, accepted as usize);
        assert_eq!(index.find(42, |slot| slot == accepted), None);
    }

    proptest! {
        #[test]
        fn agrees_with_a_hash_map(steps in prop::collection::vec((any::<bool>(), 0u32..20_000), 1..4_000)) {
            let mut index = Index::new(20_000);
            let mut twin: HashSet<u32> = HashSet::new();
            // Half of the keys share their low hash bits, so that buckets overflow.
            let hash = |slot: u32| if slot.is_multiple_of(2) { hash(slot) & !0xfff } else { hash(slot) };
            for (add, slot) in steps {
                if add && !twin.contains(&slot) {
                    if index.insert(hash(slot), slot, hash).is_ok() {
                        twin.insert(slot);
                    }
                } else if !add && twin.remove(&slot) {
                    index.remove(hash(slot), slot);
                }
            }
            prop_assert_eq!(index.entries, twin.len());
            for slot in 0..20_000 {
                let found = index.find(hash(slot), |s| s == slot).is_some();
                prop_assert_eq!(found, twin.contains(&slot));
            }
        }
    }
}
