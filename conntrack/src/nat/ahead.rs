//! What will the packets of a burst need that open sessions? It lies far apart, and each place says where the next one
//! is; read stage by stage for all of them, they wait once for each stage.

use super::Nat;
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey};
use crate::key::{HashedKey, PackedKey};
use crate::lease::Search;
use crate::mapping::Class;
use crate::pool::PoolId;
use crate::session::reply_key;
use crate::subscriber::Host;
use crate::time::Timestamp;

/// Openers that are looked at together.
const TOGETHER: usize = 64;

/// The session that a packet of this burst probably opens.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Foreseen {
    /// Of its packets and of their answers.
    keys: [HashedKey; 2],
    /// What decided about its port.
    pub(crate) random: u64,
    pool: PoolId,
    pub(crate) public: Endpoint,
}

/// What was foreseen for a burst, in the order of its packets: what is computed to read ahead is not computed again.
#[derive(Debug, Default)]
pub(super) struct Foresight {
    /// Which subscribers probably send what opens, and by which keys; only while they are read.
    openers: Vec<(u32, HashedKey)>,
    all: Vec<Foreseen>,
    /// Those before were asked for, or passed over.
    next: usize,
}

impl Foresight {
    /// With room for a burst.
    pub(super) fn new() -> Self {
        let (openers, all) = (Vec::with_capacity(TOGETHER), Vec::with_capacity(TOGETHER));
        Self { openers, all, next: 0 }
    }

    /// Forgets all of it.
    pub(super) fn clear(&mut self) {
        self.all.clear();
        self.next = 0;
    }

    /// What was foreseen for a flow from inside that opens in `pool`; once.
    pub(super) fn take(&mut self, key: &FlowKey, pool: PoolId) -> Option<Foreseen> {
        let key = PackedKey::from(key);
        let at = self.all[self.next..].iter().position(|it| it.keys[0].key == key)?;
        self.next += at + 1;
        Some(self.all[self.next - 1]).filter(|it| it.pool == pool)
    }

    /// The keys of a session that opens as foreseen, if it was taken last.
    pub(super) fn keys(&self, outbound: &FlowKey, public: Endpoint) -> Option<[HashedKey; 2]> {
        let last = self.all.get(self.next.checked_sub(1)?)?;
        let same = last.public == public && last.keys[0].key == PackedKey::from(outbound);
        same.then_some(last.keys)
    }
}

impl Nat {
    /// Reads what new sessions need of the subscribers that send packets with `keys`, which [may open](HashedKey::may_open)
    /// one each, and where such a session will be found by its answers. Call it for a burst before the first of them opens one.
    #[cold]
    pub fn touch_openers<'a>(&mut self, keys: impl Iterator<Item = &'a HashedKey>, now: Timestamp) {
        let mut foresight = std::mem::take(&mut self.foresight);
        foresight.clear();
        let sender = |key: &HashedKey| Host::new(key.key.src().addr, key.key.overlay());
        let openers = keys.take(TOGETHER).map(|key| (self.subscribers.guess(sender(key)), *key));
        foresight.openers.extend(openers);
        self.subscribers.touch(foresight.openers.iter().map(|&(number, _)| (number, None)));
        for (number, key) in foresight.openers.drain(..) {
            foresight.all.extend(self.foresee(number, &key, now));
        }
        // Passes of their own: the lines of all are on their way at the same time.
        for foreseen in &mut foresight.all {
            self.table.touch_bucket(&mut foreseen.keys[1]);
        }
        for foreseen in &mut foresight.all {
            self.table.guess(&mut foreseen.keys[1]);
        }
        self.foresight = foresight;
    }

    /// The session of `hashed`, if it opens by a block that its subscriber has. If it comes otherwise, a line was read
    /// in vain.
    fn foresee(&self, number: u32, hashed: &HashedKey, now: Timestamp) -> Option<Foreseen> {
        let key = &hashed.key.unpack();
        let subscriber = self.subscribers.live(number as usize)?;
        let holding = subscriber.holdings.first()?;
        let pool = self.pool(holding.pool)?;
        let class = Class::of(&pool.settings, key.protocol);
        if subscriber.host() != Host::new(key.src.addr, key.overlay) || class.keeps_mappings() {
            return None;
        }
        let random = pool.lean(self.draw(key, now), self.worker, self.workers);
        let search = Search {
            table: &self.table,
            mappings: &self.mappings,
            sharing: class.sharing,
            pool,
            key,
            holder: Holder {
                subscriber: subscriber.addr,
                worker: self.worker,
                overlay: subscriber.overlay(),
            },
            random,
            foreseen: None,
            now,
            secret: &self.secret,
            workers: self.workers,
            scatter_rests: &self.scatter_rests,
        };
        let public = search.unused(holding)?;
        let answers = self.secret.hash_key(&reply_key(key, public));
        Some(Foreseen { keys: [*hashed, answers], random, pool: pool.id, public })
    }

    /// What decides about the port of a flow that opens now (RFC 6056 section 3.3): the endpoints, the secret, and what
    /// differs from time to time.
    pub(super) fn draw(&self, key: &FlowKey, now: Timestamp) -> u64 {
        self.secret.scramble_key(key, (now.as_millis(), self.created))
    }
}
