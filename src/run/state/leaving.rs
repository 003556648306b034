//! Which public addresses have sessions of the gateway before, though their pool has them no more? They leave it as after
//! a reload: who is there stays until the end, and nobody new comes.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;

use conntrack::{Origin, Pool, PoolId, PublicAddress, Removal, Standing};
use dataplane::snapshot::Policy;
use tracing::{info, warn};

use super::divide::Numbers;
use super::file::State;
use super::fixed::with_former;
use crate::config::STATIC_POOL;

/// Addresses that a pool can tell apart.
const MOST: usize = u16::MAX as usize;

/// `policy` with all that sessions of the gateway before are left on, if there is any that it does not have.
pub(in crate::run) fn with_left(
    state: &State,
    policy: &Policy,
    owner: impl Fn(Ipv4Addr) -> Option<String>,
) -> Option<Policy> {
    let wider = with_leaving(state, policy, &owner);
    with_former(state, wider.as_ref().unwrap_or(policy), owner).or(wider)
}

/// `policy` with those addresses behind the others of their pools, if there are any. Pools with `removal: cut` take none;
/// nor are those taken of which `owner` knows an owner.
fn with_leaving(
    state: &State,
    policy: &Policy,
    owner: impl Fn(Ipv4Addr) -> Option<String>,
) -> Option<Policy> {
    let mut by_pool: BTreeMap<PoolId, Vec<Ipv4Addr>> = BTreeMap::new();
    for (address, pool) in left_over(state, policy) {
        match owner(address) {
            None => by_pool.entry(pool).or_default().push(address),
            Some(owner) => warn!(
                %address,
                "sessions of the natgate before on an address that was taken out of its pool end: it is {owner} now"
            ),
        }
    }
    if by_pool.is_empty() {
        return None;
    }
    let mut pools = policy.pools.clone();
    for (id, addresses) in by_pool {
        let Some(pool) = pools.get_mut(id.index()) else { continue };
        info!(
            pool = pool.name,
            addresses = addresses.len(),
            "addresses that were taken out of the pool stay natgate's until sessions there end"
        );
        *pool = Arc::new(widened(pool, &addresses));
    }
    Some(policy.with_pools(pools))
}

/// Addresses with sessions that no pool has now, and the pool that they were of.
fn left_over(state: &State, policy: &Policy) -> BTreeMap<Ipv4Addr, PoolId> {
    let numbers = Numbers::new(state, policy);
    let mut found = BTreeMap::new();
    // Nobody else may have those for a while: see `with_former`.
    let fixed = state.pools.iter().find(|pool| pool.name == STATIC_POOL).map(|pool| pool.id);
    for session in state.workers.iter().flat_map(|worker| &worker.sessions) {
        let address = session.public.addr;
        if session.origin == Origin::Fixed && Some(session.pool) == fixed
            || session.overlay != 0
            || policy.addresses.contains_key(&address)
        {
            continue;
        }
        let pool = numbers.pool(session.pool).and_then(|id| policy.pools.get(id.index()));
        let Some(pool) = pool.filter(|pool| pool.settings.removal == Removal::Drain) else {
            continue;
        };
        if numbers.rule(session.rule).is_some() {
            found.entry(address).or_insert(pool.id);
        }
    }
    found
}

/// `pool` with `addresses`, as far as it can tell them apart.
fn widened(pool: &Pool, addresses: &[Ipv4Addr]) -> Pool {
    let before = pool.addresses.len();
    let new = addresses.iter().take(MOST.saturating_sub(before));
    let new = new.map(|&addr| Arc::new(PublicAddress::new(addr, &pool.settings, &[])));
    let all: Vec<Arc<PublicAddress>> = pool.addresses.iter().cloned().chain(new).collect();
    let standing = |index| if index < before { pool.standing(index) } else { Standing::Leaving };
    let standings = (0..all.len()).map(standing).collect();
    Pool::of(pool.id, pool.name.clone(), pool.settings.clone(), all).with_standings(standings)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use conntrack::{
        Endpoint, HoldingRecord, Nat, PoolSettings, Records, Restored, Secret, SubscriberRecord,
        Timestamp,
    };
    use dataplane::forward::Forwards;
    use dataplane::home::Homes;
    use dataplane::rule::{Action, Rule, RuleSet};
    use dataplane::snapshot::{Answers, Snapshot};

    use super::super::divide::{Heirs, Lost, line};
    use super::super::file::PoolShape;
    use super::super::fixed::FixedRecords;
    use super::super::sample;
    use super::*;

    const NOW: Timestamp = Timestamp::from_millis(1_000);
    const STAYS: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
    const GOES: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 11);
    const SEEDS: [u64; 4] = [1, 2, 3, 4];

    fn policy(removal: Removal, addresses: &[Ipv4Addr]) -> Policy {
        let settings = PoolSettings { removal, ..PoolSettings::default() };
        let pool = Pool::new(PoolId(0), "p", settings, addresses.iter().copied());
        let rule = Rule {
            name: "r".into(),
            priority: 0,
            from: Vec::new(),
            to: Vec::new(),
            except: Vec::new(),
            services: Vec::new(),
            action: Action::Pool(PoolId(0)),
        };
        let rules = RuleSet::new(vec![rule]);
        Policy::new(1, vec![Arc::new(pool)], rules, Forwards::default(), Answers::default())
    }

    /// One pod with a block and a session on each address.
    fn state() -> State {
        let pod = Ipv4Addr::new(10, 244, 1, 1);
        let session = |(port, public)| sample::session(port, Endpoint::new(public, 2_048 + port));
        let holding = HoldingRecord {
            pool: PoolId(0),
            anchor: Some(GOES),
            idle_since: NOW,
            blocks: vec![(STAYS, 2_048), (GOES, 2_048)],
        };
        let subscriber = SubscriberRecord {
            addr: pod,
            overlay: 0,
            created: 2,
            refused: 0,
            idle_since: NOW,
            holdings: vec![holding],
        };
        let sessions = [(1, STAYS), (2, GOES)].map(session).to_vec();
        let records = Records { subscribers: vec![subscriber], sessions, ..Records::default() };
        State {
            version: String::new(),
            boot: String::new(),
            saved_at: Duration::ZERO,
            clock: NOW,
            seeds: SEEDS,
            pools: vec![PoolShape::of(&policy(Removal::Drain, &[STAYS, GOES]).pools[0])],
            rules: vec!["r".into()],
            fixed: FixedRecords::default(),
            block_rests: Vec::new(),
            workers: vec![records],
        }
    }

    /// What becomes of the state under `policy`.
    fn inherited(policy: Policy) -> (Lost, Restored, Nat) {
        let secret = Secret::from_seeds(SEEDS);
        let policy = Arc::new(policy);
        let pools = policy.pools.clone();
        let snapshot = Snapshot { interfaces: Vec::new(), policy, roads: Arc::default() };
        let heirs = Heirs::of(state(), &snapshot, &Homes::by_hash(), &secret, 1, NOW);
        let mut nat = Nat::new(0, 100, secret, NOW);
        nat.adopt(&pools);
        let restored = nat.restore(&heirs.shares[0], NOW);
        (heirs.lost, restored, nat)
    }

    #[test]
    fn sessions_on_an_address_that_drains_live_on_and_nobody_new_comes() {
        let now = policy(Removal::Drain, &[STAYS]);
        let wider = with_left(&state(), &now, |_| None).unwrap();
        let pool = &wider.pools[0];
        let leaving: Vec<_> = pool.with_standing(Standing::Leaving).map(|it| it.addr).collect();
        assert_eq!(leaving, [GOES]);
        assert!(wider.addresses.contains_key(&GOES), "natgate answers for it");
        let (lost, restored, _) = inherited(wider);
        assert_eq!((lost, restored.sessions, restored.blocks), (Lost::default(), 2, 2));
        // Once it is in the objects again, there is nothing to keep.
        assert!(with_left(&state(), &policy(Removal::Drain, &[STAYS, GOES]), |_| None).is_none());
    }

    #[test]
    fn an_address_that_is_cut_or_somebody_elses_is_named_as_the_reason() {
        let cut = policy(Removal::Cut, &[STAYS]);
        assert!(with_left(&state(), &cut, |_| None).is_none());
        let taken = policy(Removal::Drain, &[STAYS]);
        assert!(with_left(&state(), &taken, |_| Some("the host's".into())).is_none());
        for policy in [cut, taken] {
            let (lost, restored, _) = inherited(policy);
            assert_eq!(lost, Lost { address: 1, ..Lost::default() });
            let said = line(&lost, 2, &restored);
            let wanted = "1 of 2 sessions of the natgate before live on; lost: 1 whose public address was taken out of their pool";
            assert_eq!(said, wanted);
        }
    }

    /// An address of another pool now is not theirs.
    #[test]
    fn an_address_that_another_pool_has_is_the_reason_too() {
        let settings = PoolSettings::default();
        let pools = [("p", STAYS), ("q", GOES)].into_iter().zip(0..);
        let pools = pools.map(|((name, address), id)| {
            Arc::new(Pool::new(PoolId(id), name, settings.clone(), [address]))
        });
        let policy = policy(Removal::Drain, &[STAYS]).with_pools(pools.collect());
        assert!(with_left(&state(), &policy, |_| None).is_none());
        let (lost, restored, _) = inherited(policy);
        assert_eq!((lost.address, restored.sessions, restored.sessions_lost), (1, 1, 0));
    }
}
