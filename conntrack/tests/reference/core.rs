//! The core alone: `conntrack::Nat`, called as a worker calls it.

use std::sync::Arc;

use conntrack::{
    Admission, Endpoint, FlowKey, Nat, Pool, PoolId, Protocol, Realm, Secret, Segment, Timestamp,
};

use crate::nat::{Reference, Seen};
use crate::run::{Outcome, Subject, View, addresses};
use crate::scenario::Scenario;

const POOL: Admission = Admission { pool: PoolId(0), rule: 7 };

pub struct Core {
    nat: Nat,
    pool: Arc<Pool>,
}

impl Core {
    fn one(&mut self, key: &FlowKey, segment: Option<&Segment>, now: Timestamp) -> Seen {
        let slot = match (self.nat.find(key), key.realm) {
            (Some(slot), _) => slot,
            (None, Realm::Internal) => self.nat.open(key, POOL, segment, now)?,
            (None, Realm::External) => self.nat.open_inbound(key, segment, now)?,
        };
        self.nat.commit(slot, now, 100, segment);
        let rewrite = self.nat.rewrite(slot);
        Ok(if key.realm == Realm::Internal { rewrite.src } else { rewrite.dst })
    }
}

impl Subject for Core {
    fn new(scenario: &Scenario, now: Timestamp) -> Self {
        let pool = Pool::new(PoolId(0), "p", scenario.settings.clone(), addresses(scenario));
        let pool = Arc::new(pool);
        let mut nat = Nat::new(0, scenario.max_sessions, Secret::from_seed(scenario.seed), now);
        nat.adopt(&[Arc::clone(&pool)]);
        Self { nat, pool }
    }

    fn reference(&self, scenario: &Scenario) -> Reference {
        let (settings, addresses) = (scenario.settings.clone(), addresses(scenario));
        let mut reference = Reference::new(settings, addresses, scenario.max_sessions);
        reference.ports.shared_by(1, Box::new(|_| 0));
        reference
    }

    fn pool(&self) -> &Pool {
        &self.pool
    }

    fn pass(&mut self, now: Timestamp) {
        self.nat.expire(now, u32::MAX);
    }

    fn packet(&mut self, key: &FlowKey, segment: Option<&Segment>, now: Timestamp) -> Outcome {
        let seen = self.one(key, segment, now);
        // Hairpin (RFC 4787 REQ-9): it comes back as from outside, under the sender's public endpoint.
        let to_pool = self.pool.addresses.iter().any(|address| address.addr == key.dst.addr);
        let turned = seen.ok().filter(|_| to_pool && key.realm == Realm::Internal).map(|public| {
            let port = if key.protocol == Protocol::Icmp { 0 } else { public.port };
            let src = Endpoint::new(public.addr, port);
            let key = FlowKey { src, realm: Realm::External, ..*key };
            (key, self.one(&key, segment, now))
        });
        Outcome { seen, turned, wrong: None }
    }

    fn views(&mut self, now: Timestamp) -> Vec<View> {
        let (mut cursor, mut views) = (0, Vec::new());
        while let Some(slice) = self.nat.sessions(&mut cursor, 64, now) {
            views.extend(slice.map(|view| View {
                protocol: view.protocol,
                internal: view.internal,
                public: view.public,
                remote: view.remote,
                state: view.state.name(),
                exact: Some((view.state, view.opened_by)),
                expires_in_ms: u64::from(view.expires_in_ms),
            }));
        }
        views
    }

    fn carries(&self, _: &FlowKey) -> bool {
        true
    }
}
