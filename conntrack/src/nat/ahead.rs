//! What will the packets of a burst need that open sessions? It lies far apart, and each place says where the next one
//! is; read stage by stage for all of them, they wait once for each stage.

use super::Nat;
use crate::directory::Holder;
use crate::endpoint::{Endpoint, FlowKey, Realm};
use crate::key::HashedKey;
use crate::lease::Search;
use crate::mapping::Class;
use crate::session::reply_key;
use crate::subscriber::Host;
use crate::time::Timestamp;

/// Openers that are looked at together.
const TOGETHER: usize = 64;

impl Nat {
    /// Reads what new sessions need of the subscribers that send packets with `keys`, which no session probably has,
    /// and where such a session will be found by its answers. Call it for a burst before the first of them opens one.
    #[cold]
    pub fn touch_openers<'a>(
        &self,
        keys: impl Iterator<Item = &'a HashedKey> + Clone,
        now: Timestamp,
    ) {
        let mut numbers = [u32::MAX; TOGETHER];
        let mut count = 0;
        for (number, key) in numbers.iter_mut().zip(keys.clone()) {
            *number = self.subscribers.guess(Host::new(key.key.src().addr, key.key.overlay()));
            count += 1;
        }
        let numbers = &numbers[..count];
        self.subscribers.touch(numbers.iter().map(|&number| (number, None)));
        let mut answers = [HashedKey::default(); TOGETHER];
        let (mut created, mut count) = (self.created, 0);
        for (&number, key) in numbers.iter().zip(keys) {
            let key = key.key.unpack();
            if key.realm == Realm::External {
                continue;
            }
            if let Some(public) = self.foresee(number, &key, created, now) {
                answers[count] = self.table.touch_key(&reply_key(&key, public));
                count += 1;
            }
            created += 1;
        }
        for answer in &mut answers[..count] {
            self.table.guess(answer);
        }
    }

    /// The public endpoint of the session of `key`, if it opens as the `created`th one by a block that its subscriber
    /// has: the port is drawn as it will be drawn then. If it comes otherwise, a line was read in vain.
    fn foresee(
        &self,
        number: u32,
        key: &FlowKey,
        created: u64,
        now: Timestamp,
    ) -> Option<Endpoint> {
        let subscriber = self.subscribers.live(number as usize)?;
        let holding = subscriber.holdings.first()?;
        let pool = self.pool(holding.pool)?;
        let class = Class::of(&pool.settings, key.protocol);
        if subscriber.host() != Host::new(key.src.addr, key.overlay) || class.keeps_mappings() {
            return None;
        }
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
            random: pool.lean(self.draw(key, created, now), self.worker, self.workers),
            now,
            secret: &self.secret,
            workers: self.workers,
            scatter_rests: &self.scatter_rests,
        };
        search.unused(holding)
    }

    /// What decides about the port of a flow that opens as the `created`th one (RFC 6056 section 3.3): the endpoints,
    /// the secret, and what differs from flow to flow.
    pub(super) fn draw(&self, key: &FlowKey, created: u64, now: Timestamp) -> u64 {
        self.secret.scramble_key(key, (now.as_millis(), created))
    }
}
