//! Do the objects fit together?

use std::collections::{BTreeSet, HashMap};
use std::net::Ipv4Addr;

use conntrack::PoolId;
use dataplane::rule::{Action, Rule, Service};
use ipnet::Ipv4Net;

use super::address::AddressRange;
use super::field::{Placed, nearest};
use super::nat_rule::{RuleSpec, Target};
use super::pool::PoolSpec;
use super::problem::{Place, Problems};

/// Addresses that all pools may have together.
const MAX_ADDRESSES: u64 = 65_535;
/// Source prefixes, and destinations of exempt rules, that there may be: each map of the steering program
/// holds 65,536, and the one with the sources holds the host's own addresses too.
pub(super) const MAX_PREFIXES: usize = 60_000;
/// Pools, and rules, that there may be.
const MAX_OBJECTS: usize = u16::MAX as usize;

/// A pool and a rule with their names.
pub(super) type NamedPool = (Placed<String>, Option<PoolSpec>);
pub(super) type NamedRule = (Placed<String>, Option<RuleSpec>);

/// Compares all objects with each other and with the addresses of the host.
pub(super) fn check(
    pools: &[NamedPool],
    rules: &[NamedRule],
    host: &[Ipv4Addr],
    problems: &mut Problems,
) {
    refuse_too_many(pools, rules, problems);
    refuse_too_many_prefixes(rules, problems);
    refuse_overlaps(pools, problems);
    refuse_host_addresses(pools, host, problems);
    refuse_internal_pools(pools, rules, problems);
    refuse_ties(rules, problems);
}

/// Every range of every pool with the pool's name.
pub(super) fn ranges(pools: &[NamedPool]) -> impl Iterator<Item = (&str, &Placed<AddressRange>)> {
    pools.iter().flat_map(|(name, spec)| {
        let ranges = spec.as_ref().map_or(&[][..], |spec| &spec.ranges);
        ranges.iter().map(|range| (name.value.as_str(), range))
    })
}

/// Every readable rule with its name.
pub(super) fn readable(rules: &[NamedRule]) -> impl Iterator<Item = (&Placed<String>, &RuleSpec)> {
    rules.iter().filter_map(|(name, spec)| Some((name, spec.as_ref()?)))
}

fn refuse_too_many(pools: &[NamedPool], rules: &[NamedRule], problems: &mut Problems) {
    let pool = pools.get(MAX_OBJECTS).map(|(name, _)| ("pools", name));
    let rule = rules.get(MAX_OBJECTS).map(|(name, _)| ("rules", name));
    for (what, name) in pool.into_iter().chain(rule) {
        let why = format!("there are more than {MAX_OBJECTS} {what}");
        problems.error(&name.place, "too many objects", why, "merge some of them");
    }
    let mut sum = 0;
    for (_, range) in ranges(pools) {
        let before = sum;
        sum += range.value.len();
        if before <= MAX_ADDRESSES && sum > MAX_ADDRESSES {
            let why =
                format!("the pools have {sum} addresses up to here, {MAX_ADDRESSES} are possible");
            problems.error(&range.place, "too many pool addresses", why, "use smaller pools");
        }
    }
}

fn refuse_too_many_prefixes(rules: &[NamedRule], problems: &mut Problems) {
    let sources = readable(rules).flat_map(|(_, rule)| &rule.from);
    bound_prefixes("source", sources.map(|from| (from.value, &from.place)), problems);
    let exempt = readable(rules).filter(|(_, rule)| matches!(rule.target, Some(Target::Exempt)));
    let exempt = exempt.flat_map(|(name, rule)| rule.to.iter().map(|to| (*to, &name.place)));
    bound_prefixes("exempt destination", exempt, problems);
}

/// Refuses the first prefix beyond those that fit. One that several rules name counts once.
fn bound_prefixes<'a>(
    kind: &str,
    prefixes: impl Iterator<Item = (Ipv4Net, &'a Place)>,
    problems: &mut Problems,
) {
    let mut distinct = BTreeSet::new();
    for (prefix, place) in prefixes {
        if distinct.insert(prefix) && distinct.len() > MAX_PREFIXES {
            let why = format!("the rules have more than {MAX_PREFIXES} {kind} prefixes");
            let what = format!("too many {kind} prefixes");
            problems.error(place, what, why, "merge some into shorter prefixes");
            return;
        }
    }
}

fn refuse_overlaps(pools: &[NamedPool], problems: &mut Problems) {
    let mut sorted: Vec<_> = ranges(pools).enumerate().collect();
    sorted.sort_by_key(|(index, (_, range))| (range.value, *index));
    // The range that reaches furthest so far overlaps every later one that overlaps any.
    let mut furthest: Option<usize> = None;
    for (position, (index, (pool, range))) in sorted.iter().enumerate() {
        let Some(previous) = furthest else {
            furthest = Some(position);
            continue;
        };
        let (other_index, (other_pool, other)) = &sorted[previous];
        if let Some(shared) = range.value.overlap(other.value) {
            let (first, first_pool, second) =
                if other_index < index { (other, other_pool, range) } else { (range, pool, other) };
            let (what, owner) = if pool == other_pool {
                ("duplicate pool address", "this pool".to_owned())
            } else {
                ("overlapping pools", format!("pool {first_pool:?}"))
            };
            let why = format!("{shared} is already in {owner} at {}", first.place.origin);
            problems.error(&second.place, what, why, "name each address once");
        }
        if range.value.last() > other.value.last() {
            furthest = Some(position);
        }
    }
}

fn refuse_host_addresses(pools: &[NamedPool], host: &[Ipv4Addr], problems: &mut Problems) {
    for (_, range) in ranges(pools) {
        for address in host.iter().filter(|address| range.value.contains(**address)) {
            let why = format!("{address} belongs to this host, which would lose its own traffic");
            let remedy = "take it from the host or leave it out of the pool";
            problems.error(&range.place, "address of the host", why, remedy);
        }
    }
}

/// RFC 4787 REQ-7: internal and external prefixes must not overlap.
fn refuse_internal_pools(pools: &[NamedPool], rules: &[NamedRule], problems: &mut Problems) {
    for (_, range) in ranges(pools) {
        let inside = readable(rules).find_map(|(name, rule)| {
            let from =
                rule.from.iter().find(|from| range.value.overlap(from.value.into()).is_some())?;
            Some((name, from))
        });
        if let Some((rule, from)) = inside {
            let why = format!(
                "{} lies in the source prefix {} of rule {:?} at {} (4787-REQ-7)",
                range.value, from.value, rule.value, from.place.origin
            );
            problems.error(&range.place, "internal pool address", why, "keep pods and pools apart");
        }
    }
}

fn refuse_unknown_pools(pools: &[NamedPool], rules: &[NamedRule], problems: &mut Problems) {
    let names: Vec<&str> = pools.iter().map(|(name, _)| name.value.as_str()).collect();
    for (_, rule) in readable(rules) {
        let Some(Target::Pool(pool)) = &rule.target else { continue };
        if names.contains(&pool.value.as_str()) {
            continue;
        }
        let remedy = nearest(&pool.value, &names).map_or_else(
            || "add an AddressPool of this name".to_owned(),
            |name| format!("did you mean {name:?}?"),
        );
        let why = format!("there is no AddressPool {:?}", pool.value);
        problems.error(&pool.place, "unknown pool", why, remedy);
    }
}

/// Of two rules with the same priority and the same prefixes no one could say which decides.
fn refuse_ties(rules: &[NamedRule], problems: &mut Problems) {
    type Key = (u32, Ipv4Net, Ipv4Net);
    type Named<'a> = (&'a Placed<String>, &'a RuleSpec);
    let mut seen: HashMap<Key, Vec<Named<'_>>> = HashMap::new();
    for (name, rule) in readable(rules) {
        let mut tied_with: Vec<&Placed<String>> = Vec::new();
        for from in &rule.from {
            for to in &rule.to {
                let others = seen.entry((rule.priority, from.value, *to)).or_default();
                for (other_name, other) in others.iter() {
                    let known = tied_with.iter().any(|tied| std::ptr::eq(*tied, *other_name));
                    if !known && services_overlap(&rule.services, &other.services) {
                        tied_with.push(*other_name);
                        let why = format!(
                            "rule {:?} at {} has the same priority {} and the same prefixes, {} to {to}",
                            other_name.value, other_name.place.origin, rule.priority, from.value
                        );
                        let remedy = "give one of them another priority";
                        problems.error(&name.place, "tied rules", why, remedy);
                    }
                }
                others.push((name, rule));
            }
        }
    }
}

fn services_overlap(a: &[Service], b: &[Service]) -> bool {
    let meet = |x: &Service, y: &Service| {
        x.protocol == y.protocol
            && x.ports.start() <= y.ports.end()
            && y.ports.start() <= x.ports.end()
    };
    a.is_empty() || b.is_empty() || a.iter().any(|x| b.iter().any(|y| meet(x, y)))
}

/// Warns of pools that neither a rule nor one of the `forwarded` addresses uses.
pub(super) fn warn_unused(
    pools: &[NamedPool],
    rules: &[NamedRule],
    forwarded: &[Ipv4Addr],
    problems: &mut Problems,
) {
    for (name, spec) in pools {
        let uses = |rule: &RuleSpec| matches!(&rule.target, Some(Target::Pool(pool)) if pool.value == name.value);
        let ranges = || spec.iter().flat_map(|spec| &spec.ranges);
        let has = |address: &Ipv4Addr| ranges().any(|range| range.value.contains(*address));
        if !readable(rules).any(|(_, rule)| uses(rule)) && !forwarded.iter().any(has) {
            let why = format!("no rule uses pool {:?}", name.value);
            problems.warn(&name.place, "unused pool", why, "name it in a NatRule or remove it");
        }
    }
}

/// Refuses a configuration that lacks something, when all of it could be read as objects.
pub(super) fn refuse_missing(
    pools: &[NamedPool],
    rules: &[NamedRule],
    place: &Place,
    problems: &mut Problems,
) {
    if pools.is_empty() {
        problems.error(place, "no pool", "there is no AddressPool", "add an AddressPool");
    }
    if rules.is_empty() {
        problems.error(place, "no rule", "there is no NatRule", "add a NatRule");
    }
    refuse_unknown_pools(pools, rules, problems);
}

/// The rules as the data plane wants them.
pub(super) fn compile(pools: &[NamedPool], rules: Vec<NamedRule>) -> Vec<Rule> {
    let id_of = |pool: &str| {
        let index = pools.iter().position(|(name, _)| name.value == pool)?;
        Some(PoolId(index as u16))
    };
    let compile_one = |(name, spec): NamedRule| {
        let spec = spec?;
        let action = match spec.target? {
            Target::Pool(pool) => Action::Pool(id_of(&pool.value)?),
            Target::Exempt => Action::Exempt,
        };
        Some(Rule {
            name: name.value,
            priority: spec.priority,
            from: spec.from.into_iter().map(|from| from.value).collect(),
            to: spec.to,
            except: spec.except,
            services: spec.services,
            action,
        })
    };
    rules.into_iter().filter_map(compile_one).collect()
}
