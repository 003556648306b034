//! Which session does a packet belong to?

use std::ops::Range;

use crate::endpoint::FlowKey;
use crate::index::{IN_SECOND, Index};
use crate::key::{HashedKey, PackedKey, Secret};
use crate::session::{Direction, Half, Owner, Session, Slot};
use crate::tcp::State;
use crate::time::Timestamp;

/// Why a session was not added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NotAdded {
    /// The table is as large as it may be.
    Full,
    /// One of the keys belongs to another session: its packets would go to the wrong end.
    Taken,
}

/// All sessions of one worker. Memory for `max` is reserved at start and touched as it is needed;
/// sessions never move.
#[derive(Debug)]
pub(crate) struct SessionTable {
    index: Index,
    sessions: Vec<Session>,
    free: Vec<u32>,
    max: usize,
    secret: Secret,
}

impl SessionTable {
    pub(crate) fn new(max: usize, secret: Secret) -> Self {
        Self {
            index: Index::new(2 * max),
            sessions: Vec::with_capacity(max),
            free: Vec::with_capacity(max),
            max,
            secret,
        }
    }

    /// The addresses that are reserved for the index and for sessions.
    pub(crate) fn reserved(&self) -> [Range<usize>; 2] {
        let start = self.sessions.as_ptr().expose_provenance();
        let end = start + self.sessions.capacity() * size_of::<Session>();
        [self.index.reserved(), start..end]
    }

    pub(crate) fn find(&self, key: &FlowKey) -> Option<Slot> {
        self.find_hashed(&self.secret.hash_key(key))
    }

    #[inline]
    pub(crate) fn find_hashed(&self, key: &HashedKey) -> Option<Slot> {
        if self.has(Slot(key.probable), key) {
            return Some(Slot(key.probable));
        }
        // Whoever is looked for here mostly is not there.
        if self.index.lacks(key.hash) { None } else { self.search(key) }
    }

    #[inline(never)]
    fn search(&self, key: &HashedKey) -> Option<Slot> {
        self.index.find(key.hash, |slot| self.has(Slot(slot), key)).map(Slot)
    }

    /// Whether `slot` is that of `key`.
    #[inline]
    fn has(&self, slot: Slot, key: &HashedKey) -> bool {
        let session = self.sessions.get(slot.session());
        session.is_some_and(|session| session.half(slot.direction()).key == key.key)
    }

    /// Reads the index line of `key`, and notes in `key` which one it is.
    #[inline]
    pub(crate) fn touch_bucket(&self, key: &mut HashedKey) {
        key.probable = self.index.touch(key.hash);
    }

    /// Notes in `key`, which knows its index line, which slot it probably has.
    #[inline(always)]
    #[allow(clippy::inline_always)] // as in the index
    pub(crate) fn guess(&self, key: &mut HashedKey) {
        key.probable = self.index.guess(key.hash, key.probable);
    }

    /// The same, if it may be found by its second index line only.
    #[inline]
    fn guess_again(&self, key: &mut HashedKey) {
        if key.probable == IN_SECOND {
            key.probable = self.index.guess_second(key.hash);
        }
    }

    /// Reads the line of the session that `key` probably has.
    #[inline]
    pub(crate) fn touch_guessed(&self, key: &mut HashedKey) {
        self.guess_again(key);
        let slot = Slot(key.probable);
        if let Some(session) = self.sessions.get(slot.session()) {
            std::hint::black_box(session.half(slot.direction()).last_seen);
        }
    }

    /// The direction of a session that `key` was guessed to have, if it is that of `key`.
    #[inline]
    pub(crate) fn half_mut(&mut self, key: &HashedKey) -> Option<(&mut Half, Direction)> {
        let slot = Slot(key.probable);
        let direction = slot.direction();
        let half = self.sessions.get_mut(slot.session())?.half_mut(direction);
        (half.key == key.key).then_some((half, direction))
    }

    pub(crate) fn len(&self) -> usize {
        self.sessions.len() - self.free.len()
    }

    /// As many sessions as there may be.
    pub(crate) fn max(&self) -> usize {
        self.max
    }

    pub(crate) fn is_full(&self) -> bool {
        self.len() >= self.max
    }

    #[inline]
    pub(crate) fn get(&self, slot: Slot) -> &Session {
        &self.sessions[slot.session()]
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, slot: Slot) -> &mut Session {
        &mut self.sessions[slot.session()]
    }

    pub(crate) fn owner(&self, slot: Slot) -> Owner {
        self.get(slot).owner()
    }

    /// Reads both lines of the session with this number, so that they are near when they are needed.
    pub(crate) fn touch_number(&self, number: u32) {
        if let Some(session) = self.sessions.get(number as usize) {
            std::hint::black_box((session.outbound.last_seen, session.inbound.last_seen));
        }
    }

    /// The keys of the session with this number.
    pub(crate) fn keys(&self, number: u32) -> [HashedKey; 2] {
        let session = self.sessions.get(number as usize);
        let keys = session.map_or_else(Default::default, |it| [it.outbound.key, it.inbound.key]);
        keys.map(|key| HashedKey { key, hash: self.secret.hash(key), probable: u32::MAX })
    }

    /// Adds a session of the flow from inside with the first of `keys`, answered by packets with the second, under
    /// both, or changes nothing. Returns the slot of the outbound direction.
    pub(crate) fn insert(
        &mut self,
        keys: &[HashedKey; 2],
        state: State,
        owner: Owner,
        now: Timestamp,
    ) -> Result<Slot, NotAdded> {
        if keys.iter().any(|key| self.find_hashed(key).is_some()) {
            return Err(NotAdded::Taken);
        }
        let session = Session::new([keys[0].key, keys[1].key], owner, state, now);
        let number = match self.free.pop() {
            Some(number) => {
                self.sessions[number as usize] = session;
                number
            }
            None if self.sessions.len() < self.max => {
                self.sessions.push(session);
                self.sessions.len() as u32 - 1
            }
            None => return Err(NotAdded::Full),
        };
        let slots = [Direction::Outbound, Direction::Inbound].map(|d| Slot::new(number, d));
        for (i, slot) in slots.into_iter().enumerate() {
            if self.index_insert(keys[i].hash, slot).is_err() {
                if i == 1 {
                    self.index.remove(keys[0].hash, slots[0].0);
                }
                self.vacate(number);
                return Err(NotAdded::Full);
            }
        }
        Ok(slots[0])
    }

    fn index_insert(&mut self, hash: u64, slot: Slot) -> Result<(), crate::index::IndexFull> {
        let (sessions, secret) = (&self.sessions, &self.secret);
        let hash_of = |slot: u32| {
            let slot = Slot(slot);
            secret.hash(sessions[slot.session()].half(slot.direction()).key)
        };
        self.index.insert(hash, slot.0, hash_of)
    }

    /// Removes a session from under both its keys.
    pub(crate) fn remove(&mut self, slot: Slot, keys: &[HashedKey; 2]) {
        for (key, direction) in keys.iter().zip([Direction::Outbound, Direction::Inbound]) {
            debug_assert_eq!(key.key, self.get(slot).half(direction).key, "not its keys");
            self.index.remove(key.hash, Slot::new(slot.number(), direction).0);
        }
        self.vacate(slot.number());
    }

    /// Frees a session's place: the empty key belongs to nobody, so iteration passes over it.
    fn vacate(&mut self, number: u32) {
        let session = &mut self.sessions[number as usize];
        session.outbound.key = PackedKey::default();
        session.inbound.key = PackedKey::default();
        self.free.push(number);
    }

    /// Session numbers in use are below this.
    pub(crate) fn end(&self) -> usize {
        self.sessions.len()
    }

    /// The session with this number, if it is live.
    pub(crate) fn live(&self, number: usize) -> Option<(&Session, Owner)> {
        let session = self.sessions.get(number)?;
        (session.outbound.key != PackedKey::default()).then(|| (session, session.owner()))
    }

    /// Bytes of the sessions that were ever live at once.
    pub(crate) fn session_bytes(&self) -> usize {
        self.sessions.len() * size_of::<Session>()
    }

    /// Bytes that the table uses now.
    pub(crate) fn bytes(&self) -> usize {
        self.index.bytes() + self.session_bytes()
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::endpoint::{Endpoint, Protocol, Realm};
    use crate::pool::PoolId;
    use crate::session::{Via, reply_key};

    const OWNER: Owner = Owner {
        subscriber: 0,
        pool: PoolId(0),
        rule: 0,
        via: Via::Block,
        opened_by: Realm::Internal,
        addressed: true,
    };

    fn insert(table: &mut SessionTable, n: u32, public: u16) -> Result<Slot, NotAdded> {
        let key = FlowKey {
            src: Endpoint::new(Ipv4Addr::from(0x0a00_0000 + n), 1),
            dst: Endpoint::new(Ipv4Addr::from(0xc000_0200), 80),
            protocol: Protocol::Udp,
            realm: Realm::Internal,
            overlay: 0,
        };
        let public = Endpoint::new(Ipv4Addr::from(0xcb00_7100), public);
        let keys = [&key, &reply_key(&key, public)].map(|key| table.secret.hash_key(key));
        table.insert(&keys, State::Open, OWNER, Timestamp::default())
    }

    #[test]
    fn a_full_index_leaves_no_ghosts() {
        let mut table = SessionTable::new(60_000, Secret::from_seed(1));
        table.index = Index::new(8);
        let fitted = (0..60_000).filter(|&n| insert(&mut table, n, n as u16).is_ok()).count();
        assert!(fitted < 60_000);
        assert_eq!(table.len(), fitted);
        let live = (0..table.end()).filter(|&number| table.live(number).is_some()).count();
        assert_eq!(live, fitted);
    }

    #[test]
    fn a_key_that_exists_is_refused() {
        let mut table = SessionTable::new(10, Secret::from_seed(1));
        insert(&mut table, 1, 5_000).unwrap();
        assert_eq!(insert(&mut table, 2, 5_000), Err(NotAdded::Taken), "outside");
        assert_eq!(insert(&mut table, 1, 5_001), Err(NotAdded::Taken), "inside");
        assert_eq!(table.len(), 1);
    }
}
