//! Who gets what of a state? Each worker its subscribers, under the pools and rules that there are now.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use conntrack::{
    Claimant, Origin, Pool, PoolId, Records, Restored, Secret, SessionRecord, SubscriberRecord,
    Timestamp, claim_blocks,
};
use dataplane::home::Homes;
use dataplane::snapshot::{Policy, Snapshot};

use super::file::{PoolShape, State};

/// Stands for the rule of sessions that came in by no rule.
const NO_RULE: u16 = u16::MAX;

/// Sessions that do not live on, by the reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Lost {
    /// Their pool is gone, or shares ports in another way.
    pub(crate) pool: u64,
    /// Their rule is gone.
    pub(crate) rule: u64,
    /// Their public address is not of their pool any more.
    pub(crate) address: u64,
    /// Their public endpoint is not that of their pod any more.
    pub(crate) endpoint: u64,
    /// Pods whose address others have too, in another overlay: those are numbered anew.
    pub(crate) overlay: u64,
}

/// What each worker gets.
#[derive(Debug)]
pub(crate) struct Heirs {
    /// By worker; each takes its own.
    pub(crate) shares: Vec<Records>,
    /// What nobody gets.
    pub(crate) lost: Lost,
    /// Sessions that there were.
    pub(crate) sessions: u64,
}

impl Heirs {
    /// Divides `state` among `workers` by `homes`: who has none yet stays at the worker where they were, if there are as
    /// many as before. Has its blocks held and at rest as they were.
    pub(crate) fn of(
        state: State,
        snapshot: &Snapshot,
        homes: &Homes,
        secret: &Secret,
        workers: u16,
        now: Timestamp,
    ) -> Self {
        let (sessions, policy) = (state.sessions(), &snapshot.policy);
        let numbers = Numbers::new(&state, policy);
        let mut shares: Vec<Records> = vec![Records::default(); workers.into()];
        let mut lost = Lost::default();
        let as_many = state.workers.len() == usize::from(workers);
        for (before, records) in state.workers.into_iter().enumerate() {
            let here = as_many.then_some(before as u16);
            let home = |pod| usize::from(homes.of(pod, secret, workers, here));
            for subscriber in records.subscribers {
                let Some(subscriber) = numbers.subscriber(subscriber) else { continue };
                let worker = home(subscriber.addr);
                for pool in &policy.pools {
                    claim_blocks(pool, &subscriber, pool.id, worker as u16, now);
                }
                shares[worker].subscribers.push(subscriber);
            }
            for session in records.sessions {
                if let Some(session) = numbers.session(session, snapshot, &mut lost) {
                    shares[home(session.internal.addr)].sessions.push(session);
                }
            }
            for mut rest in records.rests {
                let Some(pool) = numbers.pools.get(&rest.pool).filter(|_| rest.overlay == 0) else {
                    continue;
                };
                rest.pool = *pool;
                shares[home(rest.addr)].rests.push(rest);
            }
            // Tuples belong to workers by a hash of what is not in the record: to be safe, all let them rest.
            let all = 0..shares.len();
            for worker in all.filter(|worker| !as_many || *worker == before) {
                shares[worker].tuples.extend_from_slice(&records.tuples);
            }
        }
        for rest in state.block_rests {
            let Some(address) = policy.addresses.get(&rest.address) else { continue };
            for directory in [&address.low, &address.directory] {
                let block = directory.block_of(rest.first);
                if *directory.ports(block).start() == rest.first {
                    directory.rest_as(block, rest.subscriber, rest.until);
                }
            }
        }
        Self { shares, lost, sessions }
    }
}

/// Numbers of before, and what they are now.
pub(super) struct Numbers {
    pools: HashMap<PoolId, PoolId>,
    rules: Vec<Option<u16>>,
    /// The pools of the addresses that there are now.
    addresses: HashMap<Ipv4Addr, PoolId>,
}

impl Numbers {
    pub(super) fn new(state: &State, policy: &Policy) -> Self {
        let now: HashMap<String, (PoolId, String)> = (policy.pools.iter())
            .map(|pool: &Arc<Pool>| {
                let PoolShape { id, name, shape } = PoolShape::of(pool);
                (name, (id, shape))
            })
            .collect();
        let same = |before: &PoolShape| {
            let (id, shape) = now.get(&before.name)?;
            (*shape == before.shape).then_some((before.id, *id))
        };
        let rules: HashMap<&str, u16> =
            (policy.rules.rules().iter().zip(0..)).map(|(rule, at)| (&*rule.name, at)).collect();
        let owned = |pool: &Arc<Pool>| {
            let id = pool.id;
            pool.addresses.iter().map(move |it| (it.addr, id)).collect::<Vec<_>>()
        };
        Self {
            pools: state.pools.iter().filter_map(same).collect(),
            rules: state.rules.iter().map(|name| rules.get(&**name).copied()).collect(),
            addresses: policy.pools.iter().flat_map(owned).collect(),
        }
    }

    /// The pool that this one is now, if it shares ports as before.
    pub(super) fn pool(&self, before: PoolId) -> Option<PoolId> {
        self.pools.get(&before).copied()
    }

    /// The rule that this one is now.
    pub(super) fn rule(&self, before: u16) -> Option<u16> {
        if before == NO_RULE { Some(before) } else { *self.rules.get(usize::from(before))? }
    }

    fn subscriber(&self, mut record: SubscriberRecord) -> Option<SubscriberRecord> {
        record.holdings.retain_mut(|holding| match self.pools.get(&holding.pool) {
            Some(pool) => {
                holding.pool = *pool;
                true
            }
            None => false,
        });
        (record.overlay == 0).then_some(record)
    }

    fn session(
        &self,
        mut record: SessionRecord,
        snapshot: &Snapshot,
        lost: &mut Lost,
    ) -> Option<SessionRecord> {
        let Some(pool) = self.pool(record.pool) else {
            lost.pool += 1;
            return None;
        };
        let first = match &mut record.origin {
            Origin::Mapping { rule, .. } => Some(rule),
            _ => None,
        };
        // The mapping's own rule only names it.
        if let Some(rule) = first {
            *rule = self.rule(*rule).unwrap_or(NO_RULE);
        }
        let Some(rule) = self.rule(record.rule) else {
            lost.rule += 1;
            return None;
        };
        if record.overlay != 0 {
            lost.overlay += 1;
            return None;
        }
        if self.addresses.get(&record.public.addr) != Some(&pool) {
            lost.address += 1;
            return None;
        }
        let fixed = record.origin == Origin::Fixed;
        let claimant = Claimant {
            protocol: record.protocol,
            internal: record.internal,
            overlay: record.overlay,
            public: record.public,
            fixed,
        };
        let owner = snapshot.policy.forwards.owner(record.protocol, record.public);
        if !snapshot.stands(&claimant) || (!fixed && owner.is_some()) {
            lost.endpoint += 1;
            return None;
        }
        Some(SessionRecord { pool, rule, ..record })
    }
}

/// What became of all of it, in a line.
pub(crate) fn line(lost: &Lost, sessions: u64, restored: &Restored) -> String {
    let mut parts = Vec::new();
    for (count, why) in [
        (lost.pool, "whose pool is gone or shares ports otherwise"),
        (lost.rule, "whose rule is gone"),
        (lost.address, "whose public address was taken out of their pool"),
        (lost.endpoint, "whose public endpoint is not their pod's any more"),
        (lost.overlay, "of pods in overlays with the same addresses"),
        (restored.sessions_lost, "without a block, a home or room"),
    ] {
        if count > 0 {
            parts.push(format!("{count} {why}"));
        }
    }
    let lost =
        if parts.is_empty() { String::new() } else { format!("; lost: {}", parts.join(", ")) };
    let (noun, verb) = match (sessions, restored.sessions) {
        (1, 1) => ("session", "lives"),
        (1, _) => ("session", "live"),
        _ => ("sessions", "live"),
    };
    format!("{} of {sessions} {noun} of the natgate before {verb} on{lost}", restored.sessions)
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use conntrack::{HoldingRecord, PoolSettings};
    use dataplane::forward::Forwards;
    use dataplane::rule::RuleSet;
    use dataplane::snapshot::Answers;

    use super::super::fixed::FixedRecords;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const PODS: u8 = 32;

    fn snapshot() -> Snapshot {
        let pool = Pool::new(PoolId(0), "p", PoolSettings::default(), [PUBLIC]);
        let (rules, answers) = (RuleSet::new(vec![]), Answers::default());
        let policy = Policy::new(1, vec![Arc::new(pool)], rules, Forwards::default(), answers);
        Snapshot { interfaces: Vec::new(), policy: Arc::new(policy), roads: Arc::default() }
    }

    fn pod(number: u8) -> Ipv4Addr {
        Ipv4Addr::new(10, 244, 1, number)
    }

    /// Two workers; each pod has a block. All of them lived at the second one.
    fn state(snapshot: &Snapshot) -> State {
        let directory = &snapshot.policy.pools[0].addresses[0].directory;
        let mut free = (1024..=u16::MAX).step_by(usize::from(directory.block_size()));
        let mut subscriber = |number| SubscriberRecord {
            addr: pod(number),
            overlay: 0,
            created: 0,
            refused: 0,
            idle_since: NOW,
            holdings: vec![HoldingRecord {
                pool: PoolId(0),
                anchor: Some(PUBLIC),
                idle_since: NOW,
                blocks: vec![(PUBLIC, free.next().unwrap())],
            }],
        };
        let subscribers = (0..PODS).map(&mut subscriber).collect();
        State {
            version: String::new(),
            boot: String::new(),
            saved_at: std::time::Duration::ZERO,
            clock: NOW,
            seeds: [1, 2, 3, 4],
            pools: vec![PoolShape::of(&snapshot.policy.pools[0])],
            rules: Vec::new(),
            fixed: FixedRecords::default(),
            block_rests: Vec::new(),
            workers: vec![Records::default(), Records { subscribers, ..Records::default() }],
        }
    }

    /// Where pods are inherited. Workers that look for them, and replies to their ports, find them there.
    fn inherited(homes: &Homes, workers: u16) -> Vec<u16> {
        let (snapshot, secret) = (snapshot(), Secret::from_seeds([1, 2, 3, 4]));
        let heirs = Heirs::of(state(&snapshot), &snapshot, homes, &secret, workers, NOW);
        let mut at = vec![None; PODS.into()];
        for (worker, share) in (0..).zip(&heirs.shares) {
            for subscriber in &share.subscribers {
                let pod = subscriber.addr;
                assert_eq!(at[usize::from(pod.octets()[3])].replace(worker), None, "{pod} twice");
                for here in 0..workers {
                    assert_eq!(homes.of(pod, &secret, workers, Some(here)), worker, "{pod}");
                }
                let port = subscriber.holdings[0].blocks[0].1;
                let directory = &snapshot.policy.pools[0].addresses[0].directory;
                assert_eq!(directory.worker_of(port), Some(worker), "{pod}");
            }
        }
        at.into_iter().map(Option::unwrap).collect()
    }

    #[test]
    fn pods_are_inherited_where_they_live() {
        let by_hash = inherited(&Homes::by_hash(), 2);
        assert_eq!(HashSet::<u16>::from_iter(by_hash).len(), 2);
        // They arrive where they arrived before.
        assert_eq!(inherited(&Homes::by_arrival(), 2), [1; PODS as usize]);
        // Nobody knows where they arrive now.
        let others = inherited(&Homes::by_arrival(), 3);
        assert_eq!(others, inherited(&Homes::by_hash(), 3));
    }
}
