//! Which mappings of the gateway before have sessions, though the objects have them no more? They go on as after a reload:
//! who is in stays until the end, and nobody new comes in.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use conntrack::{Origin, Pool, PoolId, PoolSettings, Protocol, PublicAddress, Standing};
use dataplane::forward::{Forwards, PortForward, StaticNat};
use dataplane::snapshot::Policy;
use serde::{Deserialize, Serialize};
use tracing::info;

use super::divide::Numbers;
use super::file::State;
use crate::config::STATIC_POOL;

/// A port forward.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ForwardRecord {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) protocol: Protocol,
    /// The first and the last one.
    pub(crate) ports: (u16, u16),
    pub(crate) target: Ipv4Addr,
    pub(crate) target_port: u16,
    pub(crate) vni: Option<u32>,
    pub(crate) pool: PoolId,
}

/// A 1:1 address.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StaticRecord {
    pub(crate) name: String,
    pub(crate) address: Ipv4Addr,
    pub(crate) target: Ipv4Addr,
    pub(crate) vni: Option<u32>,
}

/// Mappings that sessions may have.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FixedRecords {
    pub(crate) forwards: Vec<ForwardRecord>,
    pub(crate) statics: Vec<StaticRecord>,
}

impl FixedRecords {
    /// Those of `forwards`, and those that open nothing any more.
    pub(super) fn of(forwards: &Forwards) -> Self {
        let levels = || [Some(forwards), forwards.former()].into_iter().flatten();
        let forward = |it: &PortForward| ForwardRecord {
            name: it.name.clone(),
            address: it.address,
            protocol: it.protocol,
            ports: (*it.ports.start(), *it.ports.end()),
            target: it.target,
            target_port: it.target_port,
            vni: it.vni,
            pool: it.pool,
        };
        let one = |it: &StaticNat| {
            let StaticNat { name, address, target, vni, .. } = it.clone();
            StaticRecord { name, address, target, vni }
        };
        Self {
            forwards: levels().flat_map(Forwards::forwards).map(forward).collect(),
            statics: levels().flat_map(Forwards::statics).map(one).collect(),
        }
    }
}

/// `policy` with those mappings, if there are any. Addresses that are natgate's no more stay so for them, unless `owner`
/// knows an owner.
pub(super) fn with_former(
    state: &State,
    policy: &Policy,
    owner: impl Fn(Ipv4Addr) -> Option<String>,
) -> Option<Policy> {
    let used = Used::of(state);
    let forwards = former_forwards(state, policy, &used);
    let statics = former_statics(state, policy, &used, owner);
    if forwards.is_empty() && statics.is_empty() {
        return None;
    }
    info!(
        forwards = forwards.len(),
        addresses = statics.len(),
        "mappings that were taken out of the objects stay until their sessions end; nobody new comes in by them"
    );
    let mut pools = policy.pools.clone();
    reserve(&mut pools, policy.forwards.forwards(), &forwards);
    let statics = take_back(&mut pools, statics);
    let now = Forwards::new(policy.forwards.forwards().to_vec(), policy.forwards.statics());
    let policy = policy.with_pools(pools);
    Some(Policy { forwards: now.with_former(forwards, &statics), ..policy })
}

/// By which public endpoints there are sessions of mappings, and whose.
struct Used(HashMap<(Ipv4Addr, Ipv4Addr), HashSet<(Protocol, u16)>>);

impl Used {
    fn of(state: &State) -> Self {
        let mut used: HashMap<_, HashSet<_>> = HashMap::new();
        let sessions = state.workers.iter().flat_map(|worker| &worker.sessions);
        for it in sessions.filter(|it| it.origin == Origin::Fixed && it.overlay == 0) {
            let ends = (it.public.addr, it.internal.addr);
            used.entry(ends).or_default().insert((it.protocol, it.public.port));
        }
        Self(used)
    }

    /// Whether there is one between a public address and a pod; `its`: by an endpoint of the mapping.
    fn any(
        &self,
        address: Ipv4Addr,
        target: Ipv4Addr,
        its: impl Fn(&(Protocol, u16)) -> bool,
    ) -> bool {
        self.0.get(&(address, target)).is_some_and(|endpoints| endpoints.iter().any(its))
    }
}

fn former_forwards(state: &State, policy: &Policy, used: &Used) -> Vec<PortForward> {
    let numbers = Numbers::new(state, policy);
    let left = |it: &ForwardRecord| {
        let (first, last) = it.ports;
        let pool = numbers.pool(it.pool)?;
        let forward = PortForward {
            name: it.name.clone(),
            address: it.address,
            protocol: it.protocol,
            ports: first..=last,
            target: it.target,
            target_port: it.target_port,
            vni: it.vni,
            pool,
        };
        let same = |new: &PortForward| {
            let (name, pool) = (forward.name.clone(), forward.pool);
            PortForward { name, pool, ..new.clone() } == forward
        };
        let is_now = policy.forwards.forwards().iter().any(same);
        let has_address = policy.pools.get(pool.index()).is_some_and(|pool| pool.has(it.address));
        let is_used = used.any(it.address, it.target, |(protocol, port)| {
            *protocol == it.protocol && forward.ports.contains(port)
        });
        (!is_now && has_address && is_used).then_some(forward)
    };
    state.fixed.forwards.iter().filter_map(left).collect()
}

fn former_statics(
    state: &State,
    policy: &Policy,
    used: &Used,
    owner: impl Fn(Ipv4Addr) -> Option<String>,
) -> Vec<StaticRecord> {
    let is_left = |it: &&StaticRecord| {
        used.any(it.address, it.target, |_| true)
            && !policy.addresses.contains_key(&it.address)
            && owner(it.address).is_none()
    };
    state.fixed.statics.iter().filter(is_left).cloned().collect()
}

/// Keeps the ports of `former` from everybody, beside those of mappings that there are `now`.
fn reserve(pools: &mut [Arc<Pool>], now: &[PortForward], former: &[PortForward]) {
    let mut reserved: HashMap<Ipv4Addr, Vec<RangeInclusive<u16>>> = HashMap::new();
    for forward in now.iter().chain(former) {
        let ports = reserved.entry(forward.address).or_default();
        if !ports.contains(&forward.ports) {
            ports.push(forward.ports.clone());
        }
    }
    for pool in pools.iter_mut().filter(|pool| former.iter().any(|it| it.pool == pool.id)) {
        let kept = |address: &Arc<PublicAddress>| match reserved.get(&address.addr) {
            Some(ports) => {
                let kept = address.reserving(&pool.settings, ports);
                kept.settle();
                Arc::new(kept)
            }
            None => Arc::clone(address),
        };
        let addresses: Vec<_> = pool.addresses.iter().map(kept).collect();
        let standings = (0..addresses.len()).map(|index| pool.standing(index)).collect();
        let same = Pool::of(pool.id, pool.name.clone(), pool.settings.clone(), addresses);
        *pool = Arc::new(same.with_standings(standings));
    }
}

/// Has the addresses of `statics` leave the pool of 1:1 addresses.
fn take_back(pools: &mut Vec<Arc<Pool>>, statics: Vec<StaticRecord>) -> Vec<StaticNat> {
    if statics.is_empty() {
        return Vec::new();
    }
    let at = pools.iter().position(|pool| pool.name == STATIC_POOL).unwrap_or(pools.len());
    let id = PoolId(at as u16);
    let mut addresses = pools.get(at).map_or_else(Vec::new, |pool| pool.addresses.clone());
    let serving = addresses.len();
    addresses.extend(statics.iter().map(|it| Arc::new(PublicAddress::fixed(it.address))));
    let standing = |index| if index < serving { Standing::Serving } else { Standing::Leaving };
    let standings = (0..addresses.len()).map(standing).collect();
    let pool = Pool::of(id, STATIC_POOL.to_owned(), PoolSettings::default(), addresses);
    let pool = Arc::new(pool.with_standings(standings));
    match pools.get_mut(at) {
        Some(place) => *place = pool,
        None => pools.push(pool),
    }
    let one = |StaticRecord { name, address, target, vni }| StaticNat {
        name,
        address,
        target,
        vni,
        pool: id,
    };
    statics.into_iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conntrack::{
        Endpoint, Nat, Realm, Records, Restored, Secret, SessionRecord, SubscriberRecord, Timestamp,
    };
    use dataplane::home::Homes;
    use dataplane::rule::RuleSet;
    use dataplane::snapshot::{Answers, Snapshot};

    use super::super::divide::{Heirs, Lost};
    use super::super::file::PoolShape;
    use super::super::sample;
    use super::super::with_left;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);
    const POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
    const OTHER: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 2);
    const SEEDS: [u64; 4] = [1, 2, 3, 4];

    fn forward(port: u16, target: Ipv4Addr) -> PortForward {
        PortForward {
            name: format!("to-{port}"),
            address: SHARED,
            protocol: Protocol::Udp,
            ports: port..=port,
            target,
            target_port: 80,
            vni: None,
            pool: PoolId(0),
        }
    }

    /// The pool, these mappings, and [`OWN`] as that of a pod, if it is one's.
    fn policy(forwards: Vec<PortForward>, own: Option<Ipv4Addr>) -> Policy {
        let one = own.map(|target| StaticNat {
            name: "own".into(),
            address: OWN,
            target,
            vni: None,
            pool: PoolId(1),
        });
        let reserved = forwards.iter().map(|it| it.ports.clone()).collect();
        let settings = PoolSettings::default();
        let shared = Pool::with_reserved(PoolId(0), "p", settings.clone(), [(SHARED, reserved)]);
        let fixed = one.is_some().then(|| Pool::fixed(PoolId(1), STATIC_POOL, settings, [OWN]));
        let pools = [Some(shared), fixed].into_iter().flatten().map(Arc::new).collect();
        let statics: Vec<_> = one.into_iter().collect();
        let forwards = Forwards::new(forwards, &statics);
        Policy::new(1, pools, RuleSet::new(Vec::new()), forwards, Answers::default())
    }

    /// Of a pod that was called by a forward, one that nobody calls, and a call to a pod's own address.
    fn state() -> State {
        let before = policy(vec![forward(8080, POD), forward(8081, POD)], Some(POD));
        let session = |public, port, pool| SessionRecord {
            pool: PoolId(pool),
            rule: u16::MAX,
            origin: Origin::Fixed,
            opened_by: Realm::External,
            ..sample::session(port, public)
        };
        let subscriber = SubscriberRecord {
            addr: POD,
            overlay: 0,
            created: 2,
            refused: 0,
            idle_since: NOW,
            holdings: Vec::new(),
        };
        let ends = [(SHARED, 8080, 80, 0), (OWN, 5_000, 5_000, 1)];
        let sessions =
            ends.map(|(addr, public, port, pool)| session(Endpoint::new(addr, public), port, pool));
        State {
            version: String::new(),
            boot: String::new(),
            saved_at: Duration::ZERO,
            clock: NOW,
            seeds: SEEDS,
            pools: before.pools.iter().map(|pool| PoolShape::of(pool)).collect(),
            rules: Vec::new(),
            fixed: FixedRecords::of(&before.forwards),
            block_rests: Vec::new(),
            workers: vec![Records {
                subscribers: vec![subscriber],
                sessions: sessions.to_vec(),
                ..Records::default()
            }],
        }
    }

    /// What becomes of the state under `policy`.
    fn inherited(policy: &Policy) -> (Lost, Restored) {
        let secret = Secret::from_seeds(SEEDS);
        let pools = policy.pools.clone();
        let policy = Arc::new(policy.clone());
        let snapshot = Snapshot { interfaces: Vec::new(), policy, roads: Arc::default() };
        let heirs = Heirs::of(state(), &snapshot, &Homes::by_hash(), &secret, 1, NOW);
        let mut nat = Nat::new(0, 100, secret, NOW);
        nat.adopt(&pools);
        (heirs.lost, nat.restore(&heirs.shares[0], NOW))
    }

    #[test]
    fn who_is_in_by_a_mapping_that_is_gone_stays_and_nobody_new_comes() {
        let wider = with_left(&state(), &policy(Vec::new(), None), |_| None).unwrap();
        let (lost, restored) = inherited(&wider);
        assert_eq!((lost, restored.sessions, restored.sessions_lost), (Lost::default(), 2, 0));
        let called = Endpoint::new(SHARED, 8080);
        assert_eq!(wider.forwards.by_public(Protocol::Udp, called), None, "nobody new");
        assert_eq!(wider.forwards.by_public(Protocol::Udp, Endpoint::new(OWN, 5_000)), None);
        assert!(wider.pools[0].addresses[0].is_reserved(8080), "it may be drawn for others");
        assert!(!wider.pools[0].addresses[0].is_reserved(8081), "nobody has it");
        let leaving = wider.pools[1].with_standing(Standing::Leaving).map(|it| it.addr);
        assert_eq!((leaving.collect::<Vec<_>>(), &*wider.pools[1].name), (vec![OWN], STATIC_POOL));
        // What is left to the next one is the same again.
        let (left, forwards) = (FixedRecords::of(&wider.forwards), state().fixed.forwards);
        assert_eq!((&left.forwards[..], left.statics.len()), (&forwards[..1], 1));
    }

    #[test]
    fn where_nothing_is_gone_nothing_is_kept() {
        let same = policy(vec![forward(8080, POD)], Some(POD));
        assert!(with_left(&state(), &same, |_| None).is_none());
        assert_eq!(inherited(&same).1.sessions, 2);
    }

    #[test]
    fn sessions_of_a_mapping_that_is_another_pods_or_hosts_end() {
        let others = policy(vec![forward(8080, OTHER)], Some(OTHER));
        let wider = with_left(&state(), &others, |_| None).unwrap_or(others);
        let (lost, restored) = inherited(&wider);
        assert_eq!((lost.endpoint, restored.sessions), (2, 0));
        let none = policy(Vec::new(), None);
        let wider = with_left(&state(), &none, |_| Some("the host's".into())).unwrap();
        assert_eq!((inherited(&wider).1.sessions, wider.pools.len()), (1, 1));
    }
}
