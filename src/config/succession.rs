//! What becomes of a running gateway's pools, rules and mappings when its configuration changes?
//!
//! Sessions know their pool and their rule by number, and their address by its place in the pool. So names keep their
//! numbers, addresses keep their places, and what is taken away stays behind until nobody has it any more: an address
//! that leaves its pool, a mapping whose sessions are still to be found, a source whose packets must not become the
//! kernel's.

use std::collections::{HashMap, HashSet};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use conntrack::{Pool, PoolId, PoolSettings, PublicAddress, Removal, Standing, Timestamp};
use dataplane::forward::{Forwards, PortForward, StaticNat};
use dataplane::rule::{Action, Rule, RuleSet};
use dataplane::snapshot::Policy;
use ipnet::Ipv4Net;

use super::problem::{Origin, Place, Problem};
use super::whole::MAX_PREFIXES;
use super::{Config, PoolConfig, STATIC_POOL};

/// Pools, addresses in a pool, and rules that can be told apart.
const MAX_NUMBERS: usize = u16::MAX as usize;
/// What to do about what a running gateway can't do.
const RESTART: &str = "restart natgate, or take the change back";

/// A policy that takes the place of another one.
#[derive(Debug)]
pub(crate) struct Succession {
    /// The policy, but for mappings that have to wait.
    pub(crate) policy: Policy,
    /// Port forwards whose ports live sessions of others may have: they are to come once there is none.
    pub(crate) waiting: Vec<PortForward>,
    /// What can't be, while the gateway runs; at least one: the policy is not to be used.
    pub(crate) problems: Vec<Problem>,
}

/// What is built on.
struct Ground<'a> {
    config: &'a Config,
    before: &'a Policy,
    now: Timestamp,
    /// Numbers of the configured pools, and of that of the 1:1 addresses.
    ids: Vec<PoolId>,
    /// Ports that are not given out, by address.
    reserved: HashMap<Ipv4Addr, Vec<RangeInclusive<u16>>>,
    /// Who has an address that is not free: the name of its pool.
    taken: HashMap<Ipv4Addr, String>,
    problems: Vec<Problem>,
}

impl Succession {
    /// The policy of `config` after `before`, at the time `now` of the directories' clock.
    pub(crate) fn new(config: &Config, before: &Policy, now: Timestamp) -> Self {
        let fresh = before.pools.is_empty();
        let (former_forwards, former_statics) = former(config, before);
        let mut ground = Ground::new(config, before, &former_forwards, now);
        let pools = ground.pools();
        let rules = ground.rules();
        let of = |pool: PoolId| ground.ids.get(pool.index()).copied().unwrap_or(pool);
        let moved = |f: &PortForward| PortForward { pool: of(f.pool), ..f.clone() };
        let forwards: Vec<PortForward> = config.forwards.iter().map(moved).collect();
        let statics: Vec<StaticNat> = (config.statics.iter())
            .map(|one| StaticNat { pool: of(one.pool), ..one.clone() })
            .collect();
        let known: Vec<&PortForward> =
            before.forwards.forwards().iter().chain(&former_forwards).collect();
        let (waiting, forwards): (Vec<_>, Vec<_>) =
            forwards.into_iter().partition(|f| !fresh && !is_covered(f, &known));
        let is_gone = |address: Ipv4Addr| gone(&pools, address);
        let reassigned =
            former_forwards.iter().any(|old| forwards.iter().any(|new| clashes(old, new)))
                || former_statics
                    .iter()
                    .any(|old| statics.iter().any(|new| new.address == old.address));
        let former_forwards = former_forwards.into_iter().filter(|f| !is_gone(f.address)).collect();
        let former_statics: Vec<_> =
            former_statics.into_iter().filter(|one| !is_gone(one.address)).collect();
        let forwards =
            Forwards::new(forwards, &statics).with_former(former_forwards, &former_statics);
        let cut = reassigned || newly_gone(&before.pools, &pools);
        let answers = config.gateway.answers();
        let mut policy = Policy::new(before.generation + 1, pools, rules, forwards, answers);
        policy.cuts = before.cuts + u32::from(cut);
        policy.mss_clamp = config.gateway.mss_clamp;
        policy.slow_path_budget = config.gateway.slow_path_budget;
        policy.latency_sample = config.gateway.latency_sample;
        policy.record_sessions = config.gateway.events.sessions;
        Self { policy, waiting, problems: ground.problems }
    }

    /// Lets what is not given out any more, or is again, take effect in the directories that all policies share.
    pub(crate) fn settle(policy: &Policy) {
        for address in policy.pools.iter().flat_map(|pool| &pool.addresses) {
            address.settle();
        }
    }
}

/// What was mapped before and is not now, or to another pod.
fn former(config: &Config, before: &Policy) -> (Vec<PortForward>, Vec<StaticNat>) {
    let stays = |old: &PortForward| {
        config.forwards.iter().any(|new| {
            (new.address, new.protocol, &new.ports, new.target, new.target_port, new.vni)
                == (old.address, old.protocol, &old.ports, old.target, old.target_port, old.vni)
        })
    };
    let levels = || [Some(&before.forwards), before.forwards.former()].into_iter().flatten();
    let forwards = levels().flat_map(Forwards::forwards).filter(|old| !stays(old)).cloned();
    let remains = |old: &StaticNat| {
        config
            .statics
            .iter()
            .any(|new| (new.address, new.target, new.vni) == (old.address, old.target, old.vni))
    };
    let statics = levels().flat_map(Forwards::statics).filter(|old| !remains(old)).cloned();
    (forwards.collect(), statics.collect())
}

/// Whether sessions of `old` have a public endpoint that `new` gives to another pod.
fn clashes(old: &PortForward, new: &PortForward) -> bool {
    let meet = |a: &RangeInclusive<u16>, b: &RangeInclusive<u16>| {
        a.start() <= b.end() && b.start() <= a.end()
    };
    (old.address, old.protocol) == (new.address, new.protocol) && meet(&old.ports, &new.ports)
}

/// Whether all ports of `forward` were kept from everybody before, in every protocol.
fn is_covered(forward: &PortForward, known: &[&PortForward]) -> bool {
    let mut on_it = known.iter().filter(|other| other.address == forward.address);
    on_it.clone().any(|other| other.ports == forward.ports)
        || forward.ports.clone().all(|port| on_it.clone().any(|f| f.ports.contains(&port)))
        || forward.ports.is_empty() && on_it.next().is_some()
}

fn gone(pools: &[Arc<Pool>], address: Ipv4Addr) -> bool {
    let kept = |standing| {
        pools.iter().flat_map(move |pool| pool.with_standing(standing)).any(|it| it.addr == address)
    };
    !kept(Standing::Serving) && !kept(Standing::Leaving)
}

/// Whether an address is gone that was not before.
fn newly_gone(before: &[Arc<Pool>], after: &[Arc<Pool>]) -> bool {
    before.iter().zip(after).any(|(before, after)| {
        (0..before.addresses.len())
            .any(|i| before.standing(i) != Standing::Gone && after.standing(i) == Standing::Gone)
    })
}

/// A place of no file: an object by its kind and name, and a field of it.
fn place(kind: &str, name: &str, field: &str) -> Place {
    let field = if field.is_empty() { String::new() } else { format!("spec.{field}") };
    Place { origin: Origin::Path(Arc::from(format!("{kind} {name}"))), field }
}

impl<'a> Ground<'a> {
    fn new(config: &'a Config, before: &'a Policy, former: &[PortForward], now: Timestamp) -> Self {
        let mut reserved: HashMap<Ipv4Addr, Vec<RangeInclusive<u16>>> = HashMap::new();
        for forward in config.forwards.iter().chain(former) {
            let ports = reserved.entry(forward.address).or_default();
            if !ports.contains(&forward.ports) {
                ports.push(forward.ports.clone());
            }
        }
        let known: HashMap<&str, PoolId> =
            before.pools.iter().map(|pool| (pool.name.as_str(), pool.id)).collect();
        let mut next = before.pools.len();
        let names = config.pools.iter().map(|pool| pool.name.as_str());
        let names = names.chain((!config.statics.is_empty()).then_some(STATIC_POOL));
        let ids = names.map(|name| {
            known.get(name).copied().unwrap_or_else(|| {
                next += 1;
                PoolId((next - 1) as u16)
            })
        });
        let ids: Vec<PoolId> = ids.collect();
        let mut problems = Vec::new();
        if next > MAX_NUMBERS {
            let why =
                format!("there were {next} pools since the start, {MAX_NUMBERS} can be told apart");
            let place = place("AddressPool", "*", "");
            problems.push(Problem {
                what: "too many pools".into(),
                place,
                why,
                remedy: RESTART.into(),
            });
        }
        let mut taken = HashMap::new();
        for pool in &before.pools {
            for (index, address) in pool.addresses.iter().enumerate() {
                if pool.standing(index) != Standing::Gone || !address.is_vacant(now) {
                    taken.insert(address.addr, pool.name.clone());
                }
            }
        }
        Self { config, before, now, ids, reserved, taken, problems }
    }

    fn refuse(&mut self, place: Place, what: &str, why: String, remedy: &str) {
        let (what, remedy) = (what.to_owned(), remedy.to_owned());
        self.problems.push(Problem { what, place, why, remedy });
    }

    /// All pools, by number: those of before, changed or left, and then new ones.
    fn pools(&mut self) -> Vec<Arc<Pool>> {
        let (config, before) = (self.config, self.before);
        let mut pools: Vec<Arc<Pool>> = before.pools.clone();
        let configured: HashSet<PoolId> = self.ids.iter().copied().collect();
        for pool in pools.iter_mut().filter(|pool| !configured.contains(&pool.id)) {
            *pool = self.left(pool);
        }
        let ids = self.ids.clone();
        for (pool, id) in config.pools.iter().zip(&ids) {
            let new = self.pool(*id, pool);
            put(&mut pools, *id, new);
        }
        if let (Some(id), false) = (ids.get(config.pools.len()), config.statics.is_empty()) {
            let new = self.static_pool(*id);
            put(&mut pools, *id, new);
        }
        pools
    }

    /// A pool that is not configured any more.
    fn left(&self, pool: &Arc<Pool>) -> Arc<Pool> {
        let to = leaving(pool.settings.removal);
        let standings = (0..pool.addresses.len()).map(|index| match pool.standing(index) {
            Standing::Serving => to,
            other => other,
        });
        let standings: Vec<Standing> = standings.collect();
        let addresses = pool.addresses.iter();
        let addresses = addresses.map(|address| self.kept(address, &pool.settings)).collect();
        let left = Pool::of(pool.id, pool.name.clone(), pool.settings.clone(), addresses);
        Arc::new(left.with_standings(standings))
    }

    fn pool(&mut self, id: PoolId, pool: &PoolConfig) -> Arc<Pool> {
        let before = self.before.pools.get(id.index());
        if let Some(before) = before {
            self.refuse_other_shape(before, pool);
        }
        let wanted: Vec<Ipv4Addr> =
            pool.ranges.iter().flat_map(|range| range.addresses()).collect();
        let settings = &pool.settings;
        let make = |ground: &Self, addr| {
            let reserved = ground.reserved.get(&addr).map_or(&[][..], Vec::as_slice);
            Arc::new(PublicAddress::new(addr, settings, reserved))
        };
        self.placed(id, &pool.name, settings, &wanted, make)
    }

    fn static_pool(&mut self, id: PoolId) -> Arc<Pool> {
        let wanted: Vec<Ipv4Addr> = self.config.statics.iter().map(|one| one.address).collect();
        let make = |_: &Self, addr| Arc::new(PublicAddress::fixed(addr));
        self.placed(id, STATIC_POOL, &PoolSettings::default(), &wanted, make)
    }

    /// A pool of the addresses that are `wanted`, each in its place: those that it had before stay in theirs.
    fn placed(
        &mut self,
        id: PoolId,
        name: &str,
        settings: &PoolSettings,
        wanted: &[Ipv4Addr],
        make: impl Fn(&Self, Ipv4Addr) -> Arc<PublicAddress>,
    ) -> Arc<Pool> {
        let before = self.before.pools.get(id.index());
        let mut new: HashSet<Ipv4Addr> = wanted.iter().copied().collect();
        let (mut addresses, mut standings, mut free) = (Vec::new(), Vec::new(), Vec::new());
        for (index, address) in before.iter().flat_map(|pool| pool.addresses.iter().enumerate()) {
            let stood = before.map_or(Standing::Gone, |pool| pool.standing(index));
            let standing = match stood {
                _ if new.remove(&address.addr) => Standing::Serving,
                Standing::Serving | Standing::Leaving if settings.removal == Removal::Drain => {
                    Standing::Leaving
                }
                _ => Standing::Gone,
            };
            if stood == Standing::Gone && standing == Standing::Gone && address.is_vacant(self.now)
            {
                free.push(index);
            }
            addresses.push(self.kept(address, settings));
            standings.push(standing);
        }
        for &addr in wanted.iter().filter(|addr| new.contains(addr)) {
            if let Some(owner) = self.taken.get(&addr).filter(|owner| *owner != name).cloned() {
                let why = format!("{addr} was in pool {owner}, and is in use there or rests");
                let remedy = "wait until `natgate pools` does not show it as leaving any more, or restart natgate";
                self.refuse(place("AddressPool", name, "addresses"), "address in use", why, remedy);
            }
            let address = make(self, addr);
            if let Some(index) = free.pop() {
                (addresses[index], standings[index]) = (address, Standing::Serving);
            } else {
                addresses.push(address);
                standings.push(Standing::Serving);
            }
        }
        if addresses.len() > MAX_NUMBERS {
            let why = format!("{} addresses, with those that are leaving", addresses.len());
            self.refuse(
                place("AddressPool", name, "addresses"),
                "too many addresses",
                why,
                RESTART,
            );
        }
        let pool = Pool::of(id, name.to_owned(), settings.clone(), addresses);
        Arc::new(pool.with_standings(standings))
    }

    /// An address that goes on, with the ports that are reserved now.
    fn kept(&self, address: &Arc<PublicAddress>, settings: &PoolSettings) -> Arc<PublicAddress> {
        if address.directory.is_empty() && address.low.is_empty() {
            return Arc::clone(address);
        }
        let reserved = self.reserved.get(&address.addr).map_or(&[][..], Vec::as_slice);
        if settings.except.iter().chain(reserved).eq(address.never()) {
            return Arc::clone(address);
        }
        Arc::new(address.reserving(settings, reserved))
    }

    /// Who holds which block is known by the blocks' size and place.
    fn refuse_other_shape(&mut self, before: &Pool, pool: &PoolConfig) {
        let (old, new) = (&before.settings, &pool.settings);
        if old.shapes_as(new) || before.addresses.is_empty() {
            return;
        }
        let ports = |ports: &RangeInclusive<u16>| format!("{}-{}", ports.start(), ports.end());
        let some = |region: Option<RangeInclusive<u16>>| {
            region.as_ref().map_or_else(|| "none".to_owned(), ports)
        };
        let fields = [
            ("blockSize", old.block_size.to_string(), new.block_size.to_string()),
            ("ports.range", ports(&old.ports), ports(&new.ports)),
            ("ports.low", some(old.low_ports.clone()), some(new.low_ports.clone())),
            ("scatter", some(old.scatter_region()), some(new.scatter_region())),
        ];
        let given_up = |field: &str, new: &str| field == "scatter" && new == "none";
        let differs =
            |(field, old, new): &(&str, String, String)| old != new && !given_up(field, new);
        for (field, old, new) in fields.into_iter().filter(differs) {
            let why = format!("it is {old} in the running gateway and would be {new}");
            let remedy = "restart natgate, or make a pool of another name and other addresses";
            self.refuse(place("AddressPool", &pool.name, field), "needs a restart", why, remedy);
        }
    }

    /// The rules: each name keeps its number, by which sessions know it.
    fn rules(&mut self) -> RuleSet {
        let old = &self.before.rules;
        let mut slots: Vec<Option<Rule>> = vec![None; old.rules().len()];
        let numbers: HashMap<&str, usize> = old
            .rules()
            .iter()
            .enumerate()
            .map(|(index, rule)| (rule.name.as_str(), index))
            .collect();
        let mut new = Vec::new();
        for rule in &self.config.rules {
            let action = match rule.action {
                Action::Pool(pool) => {
                    Action::Pool(self.ids.get(pool.index()).copied().unwrap_or(pool))
                }
                Action::Exempt => Action::Exempt,
            };
            let rule = Rule { action, ..rule.clone() };
            match numbers.get(rule.name.as_str()) {
                Some(&number) => slots[number] = Some(rule),
                None => new.push(rule),
            }
        }
        // As long as there are numbers, those of rules that are gone go on naming their sessions.
        let mut free: Vec<usize> =
            (0..slots.len()).filter(|&index| slots[index].is_none()).collect();
        free.reverse();
        for rule in new {
            if slots.len() < MAX_NUMBERS {
                slots.push(Some(rule));
            } else if let Some(number) = free.pop() {
                slots[number] = Some(rule);
            }
        }
        let ended =
            |index: usize| Rule { from: Vec::new(), to: Vec::new(), ..old.rules()[index].clone() };
        let slots = slots.into_iter().enumerate();
        let rules: Vec<Rule> =
            slots.map(|(index, rule)| rule.unwrap_or_else(|| ended(index))).collect();
        let former = former_sources(old, &rules);
        let all: HashSet<&Ipv4Net> =
            rules.iter().flat_map(|rule| &rule.from).chain(&former).collect();
        if !self.before.pools.is_empty() && all.len() > MAX_PREFIXES {
            let why = format!(
                "{} source prefixes, with those of before, whose packets stay natgate's; {MAX_PREFIXES} fit",
                all.len()
            );
            self.refuse(place("NatRule", "*", "from"), "too many source prefixes", why, RESTART);
        }
        RuleSet::with_former(rules, former)
    }
}

/// Sources that rules spoke of before and none speaks of now: their packets stay natgate's, so that none becomes the
/// kernel's untranslated.
fn former_sources(before: &RuleSet, rules: &[Rule]) -> Vec<Ipv4Net> {
    let now: Vec<Ipv4Net> = rules.iter().flat_map(|rule| rule.from.iter().copied()).collect();
    let now = Ipv4Net::aggregate(&now);
    let is_covered = |net: &Ipv4Net| {
        let after = now.partition_point(|other| other.network() <= net.network());
        after > 0 && now[after - 1].contains(net)
    };
    let old = before.rules().iter().flat_map(|rule| &rule.from).chain(before.former_sources());
    let left: Vec<Ipv4Net> = old.filter(|net| !is_covered(net)).copied().collect();
    Ipv4Net::aggregate(&left)
}

/// What an address becomes that is taken out of its pool.
fn leaving(removal: Removal) -> Standing {
    match removal {
        Removal::Drain => Standing::Leaving,
        Removal::Cut => Standing::Gone,
    }
}

fn put(pools: &mut Vec<Arc<Pool>>, id: PoolId, pool: Arc<Pool>) {
    match pools.get_mut(id.index()) {
        Some(place) => *place = pool,
        None => pools.push(pool),
    }
}

/// `before` without the addresses that are `unused` and the port forwards that have `ended`, and with those that are
/// `coming`.
pub(crate) fn relieved(
    before: &Policy,
    unused: &HashSet<Ipv4Addr>,
    ended: &[PortForward],
    coming: &[PortForward],
) -> Policy {
    let relieve = |pool: &Arc<Pool>| {
        let goes = |index: usize| {
            pool.standing(index) == Standing::Leaving
                && unused.contains(&pool.addresses[index].addr)
        };
        let all = 0..pool.addresses.len();
        if !all.clone().any(goes) {
            return Arc::clone(pool);
        }
        let standing = |index| if goes(index) { Standing::Gone } else { pool.standing(index) };
        Arc::new(Pool::clone(pool).with_standings(all.map(standing).collect()))
    };
    let pools: Vec<Arc<Pool>> = before.pools.iter().map(relieve).collect();
    let former = before.forwards.former();
    let is_gone = |address: Ipv4Addr| gone(&pools, address);
    let former_forwards = former.iter().flat_map(|it| it.forwards());
    let former_forwards =
        former_forwards.filter(|f| !ended.contains(f) && !is_gone(f.address)).cloned().collect();
    let former_statics = former.iter().flat_map(|it| it.statics());
    let former_statics: Vec<StaticNat> =
        former_statics.filter(|one| !is_gone(one.address)).cloned().collect();
    let forwards = before.forwards.forwards().iter().chain(coming).cloned().collect();
    let forwards = Forwards::new(forwards, before.forwards.statics())
        .with_former(former_forwards, &former_statics);
    Policy { forwards, ..before.with_pools(pools) }
}
