//! How does a table grow without a pause? A piece at a time; nothing that is there moves.

use std::collections::VecDeque;

/// Items in a piece.
const PIECE: usize = 1 << 10;

/// A list that grows in pieces of [`PIECE`] items. A `Vec` that doubles would copy everything once in a while, and
/// all packets of the worker would wait for it.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    /// All full but the last; each with room for [`PIECE`], touched as it is filled.
    pieces: Vec<Vec<T>>,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self { pieces: Vec::new() }
    }
}

impl<T> Chunks<T> {
    pub(crate) fn len(&self) -> usize {
        self.pieces.last().map_or(0, |last| (self.pieces.len() - 1) * PIECE + last.len())
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.pieces.last_mut() {
            Some(last) if last.len() < PIECE => last.push(item),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(item);
                self.pieces.push(piece);
            }
        }
    }

    #[inline]
    pub(crate) fn get(&self, index: usize) -> Option<&T> {
        self.pieces.get(index / PIECE)?.get(index % PIECE)
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: usize) -> Option<&mut T> {
        self.pieces.get_mut(index / PIECE)?.get_mut(index % PIECE)
    }

    /// Bytes of the pieces, full or not.
    pub(crate) fn bytes(&self) -> usize {
        self.pieces.len() * (PIECE * size_of::<T>() + size_of::<Vec<T>>())
    }
}

impl<T: Clone> Chunks<T> {
    /// Appends copies of `item` until there are `len`, a piece at most each time that one more is needed.
    pub(crate) fn grow(&mut self, len: usize, item: &T) {
        while self.len() < len {
            self.push(item.clone());
        }
    }
}

impl<T> std::ops::Index<usize> for Chunks<T> {
    type Output = T;

    #[inline]
    fn index(&self, index: usize) -> &T {
        &self.pieces[index / PIECE][index % PIECE]
    }
}

impl<T> std::ops::IndexMut<usize> for Chunks<T> {
    #[inline]
    fn index_mut(&mut self, index: usize) -> &mut T {
        &mut self.pieces[index / PIECE][index % PIECE]
    }
}

/// Items with numbers that are used again.
#[derive(Debug)]
pub(crate) struct Slab<T> {
    all: Chunks<Place<T>>,
    /// The place that became free last.
    free: Option<u32>,
    len: usize,
}

#[derive(Debug)]
enum Place<T> {
    Taken(T),
    /// The place that became free before.
    Free(Option<u32>),
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { all: Chunks::default(), free: None, len: 0 }
    }
}

impl<T> Slab<T> {
    /// The number of `item` until it is removed.
    pub(crate) fn insert(&mut self, item: T) -> u32 {
        self.len += 1;
        if let Some(number) = self.free
            && let Place::Free(next) = self.all[number as usize]
        {
            self.free = next;
            self.all[number as usize] = Place::Taken(item);
            return number;
        }
        self.all.push(Place::Taken(item));
        self.all.len() as u32 - 1
    }

    pub(crate) fn remove(&mut self, number: u32) -> Option<T> {
        let place = self.all.get_mut(number as usize)?;
        if matches!(place, Place::Free(_)) {
            return None;
        }
        let before = std::mem::replace(place, Place::Free(self.free));
        (self.free, self.len) = (Some(number), self.len - 1);
        match before {
            Place::Taken(item) => Some(item),
            Place::Free(_) => None,
        }
    }

    #[inline]
    pub(crate) fn get(&self, number: u32) -> Option<&T> {
        match self.all.get(number as usize) {
            Some(Place::Taken(item)) => Some(item),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, number: u32) -> Option<&mut T> {
        match self.all.get_mut(number as usize) {
            Some(Place::Taken(item)) => Some(item),
            _ => None,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    /// Numbers in use are below this.
    pub(crate) fn end(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn bytes(&self) -> usize {
        self.all.bytes()
    }
}

impl<T> std::ops::Index<u32> for Slab<T> {
    type Output = T;

    /// Panics if nobody has the number, as indexing beyond a slice does.
    #[inline]
    fn index(&self, number: u32) -> &T {
        match &self.all[number as usize] {
            Place::Taken(item) => item,
            Place::Free(_) => panic!("nothing has the number {number}"),
        }
    }
}

impl<T> std::ops::IndexMut<u32> for Slab<T> {
    #[inline]
    fn index_mut(&mut self, number: u32) -> &mut T {
        match &mut self.all[number as usize] {
            Place::Taken(item) => item,
            Place::Free(_) => panic!("nothing has the number {number}"),
        }
    }
}

/// First in, first out; grows and shrinks in pieces.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    pieces: VecDeque<Vec<T>>,
    /// Items of the first piece that are gone.
    gone: usize,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self { pieces: VecDeque::new(), gone: 0 }
    }
}

impl<T: Copy> Queue<T> {
    pub(crate) fn len(&self) -> usize {
        let last = self.pieces.back().map_or(0, Vec::len);
        (self.pieces.len() * PIECE + last).saturating_sub(PIECE + self.gone)
    }

    pub(crate) fn push(&mut self, item: T) {
        match self.pieces.back_mut() {
            Some(last) if last.len() < PIECE => last.push(item),
            _ => {
                let mut piece = Vec::with_capacity(PIECE);
                piece.push(item);
                self.pieces.push_back(piece);
            }
        }
    }

    /// The item with this place in the queue; the oldest has 0.
    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        let at = self.gone + place;
        self.pieces.get(at / PIECE)?.get(at % PIECE)
    }

    pub(crate) fn front(&self) -> Option<&T> {
        self.get(0)
    }

    pub(crate) fn pop(&mut self) -> Option<T> {
        let item = *self.front()?;
        self.gone += 1;
        if self.gone == PIECE {
            self.pieces.pop_front();
            self.gone = 0;
        }
        Some(item)
    }

    pub(crate) fn bytes(&self) -> usize {
        self.pieces.len() * (PIECE * size_of::<T>() + size_of::<Vec<T>>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    #[test]
    fn nothing_moves_when_it_grows() {
        let mut chunks = Chunks::default();
        chunks.push(0usize);
        let first = std::ptr::from_ref(&chunks[0]);
        for item in 1..10 * PIECE {
            chunks.push(item);
        }
        assert_eq!(std::ptr::from_ref(&chunks[0]), first);
        assert!((0..10 * PIECE).all(|item| chunks[item] == item));
        assert_eq!((chunks.len(), chunks.get(10 * PIECE)), (10 * PIECE, None));
    }

    proptest! {
        #[test]
        fn a_queue_agrees_with_a_deque(steps in prop::collection::vec((0usize..700, 0usize..700), 1..30)) {
            let mut queue = Queue::default();
            let mut twin = VecDeque::new();
            for (step, (pushes, pops)) in steps.into_iter().enumerate() {
                for push in 0..pushes {
                    queue.push((step, push));
                    twin.push_back((step, push));
                }
                for _ in 0..pops {
                    prop_assert_eq!(queue.pop(), twin.pop_front());
                }
                prop_assert_eq!(queue.len(), twin.len());
                prop_assert_eq!(queue.get(twin.len() / 2), twin.get(twin.len() / 2));
                prop_assert!(queue.pieces.len() <= twin.len() / PIECE + 2);
            }
        }

        #[test]
        fn a_slab_agrees_with_a_map(steps in prop::collection::vec((any::<bool>(), 0u32..40), 1..400)) {
            let mut slab = Slab::default();
            let mut twin = BTreeMap::new();
            for (step, (add, number)) in steps.into_iter().enumerate() {
                if add {
                    let number = slab.insert(step);
                    prop_assert_eq!(twin.insert(number, step), None);
                } else {
                    prop_assert_eq!(slab.remove(number), twin.remove(&number));
                }
                prop_assert_eq!(slab.len(), twin.len());
                prop_assert!((0..40).all(|n| slab.get(n) == twin.get(&n)));
            }
            prop_assert!(slab.end() <= 400);
        }
    }
}
