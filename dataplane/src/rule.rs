//! Which flow goes where: the rules, ready for look-up.
//!
//! Of the rules that match a flow the one with the lowest `priority` number decides, then the
//! longest `from` prefix, then the longest `to` prefix. Configuration refuses ties.

use std::collections::{BTreeMap, HashMap};
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use conntrack::{PoolId, Protocol};
use ipnet::Ipv4Net;

use crate::lpm::Lpm;

/// What a rule does with a flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// Translate to an address of this pool.
    Pool(PoolId),
    /// Forward untranslated, without state.
    Exempt,
}

/// A protocol and the destination ports meant; for ICMP the ports are ignored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// The protocol.
    pub protocol: Protocol,
    /// Destination ports.
    pub ports: RangeInclusive<u16>,
}

/// One rule, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// Its name.
    pub name: String,
    /// Lower numbers first.
    pub priority: u32,
    /// Source prefixes; at least one.
    pub from: Vec<Ipv4Net>,
    /// Destination prefixes; at least one.
    pub to: Vec<Ipv4Net>,
    /// Destinations that this rule does not mean.
    pub except: Vec<Ipv4Net>,
    /// Protocols and ports; empty: all.
    pub services: Vec<Service>,
    /// What to do.
    pub action: Action,
}

/// Index of a rule in [`RuleSet::rules`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u16);

/// A `from` prefix.
#[derive(Clone, Copy, Debug)]
struct Source {
    len: u8,
    /// The next shorter `from` prefix that holds it.
    parent: Option<u32>,
    /// The destinations of the rules that name it.
    destinations: u32,
}

/// A `to` prefix, among those of some rules.
#[derive(Clone, Debug)]
struct Destination {
    len: u8,
    /// The next shorter `to` prefix of these rules that holds it.
    parent: Option<u32>,
    /// Those of the rules that name it, best first.
    rules: Vec<RuleId>,
}

/// The destinations of some rules.
#[derive(Clone, Debug, Default)]
struct Destinations {
    by_prefix: Lpm<u32>,
    all: Vec<Destination>,
}

/// All rules, ready for look-up.
///
/// A flow is looked up by the longest `from` prefix that holds its source, then by the longest `to` prefix of the
/// rules that name this one; from there on by those that hold them. So the cost follows how deep prefixes are nested, and
/// how many rules name the same two, not how many rules there are. `from` prefixes that the same rules name share
/// their destinations, so a rule is compiled in as many steps as it has prefixes.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// By [`RuleId`]; `None`: no exceptions.
    exceptions: Vec<Option<Lpm<()>>>,
    by_source: Lpm<u32>,
    sources: Vec<Source>,
    destinations: Vec<Destinations>,
    former: Vec<Ipv4Net>,
}

/// Of two rules that match, the lesser decides: priority, bits that `from` and `to` leave open, place in the list.
type Order = (u32, u8, u8, RuleId);

impl RuleSet {
    /// Compiles `rules`.
    pub fn new(rules: Vec<Rule>) -> Self {
        Self::with_former(rules, Vec::new())
    }

    /// The same, beside prefixes of sources that rules spoke of before: they are pods still, though nothing is allowed
    /// to them.
    pub fn with_former(rules: Vec<Rule>, former: Vec<Ipv4Net>) -> Self {
        let numbered = || (0..).map(RuleId).zip(&rules);
        let mut naming: BTreeMap<Ipv4Net, Vec<RuleId>> =
            former.iter().map(|from| (from.trunc(), Vec::new())).collect();
        for (id, rule) in numbered() {
            for from in &rule.from {
                let ids = naming.entry(from.trunc()).or_default();
                if ids.last() != Some(&id) {
                    ids.push(id);
                }
            }
        }
        let parents = parents(naming.keys().copied());
        let mut known: HashMap<Vec<RuleId>, u32> = HashMap::new();
        let mut set = Self::default();
        for ((from, ids), parent) in naming.iter().zip(parents) {
            let destinations = *known.entry(ids.clone()).or_insert_with(|| {
                set.destinations.push(Destinations::new(&rules, ids));
                set.destinations.len() as u32 - 1
            });
            set.sources.push(Source { len: from.prefix_len(), parent, destinations });
        }
        set.by_source = naming.into_keys().zip(0..).collect();
        let exceptions = |rule: &Rule| {
            let excepted = || rule.except.iter().map(|net| (*net, ())).collect();
            (!rule.except.is_empty()).then(excepted)
        };
        set.exceptions = rules.iter().map(exceptions).collect();
        Self { rules, former, ..set }
    }

    /// The best rule for flows between these two addresses that is `meant`.
    fn best(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        meant: impl Fn(&Rule) -> bool,
    ) -> Option<(RuleId, &Rule)> {
        let mut best: Option<Order> = None;
        let mut from = self.by_source.get(src);
        while let Some(source) = from.and_then(|&number| self.sources.get(number as usize)) {
            let destinations = &self.destinations[source.destinations as usize];
            let mut to = destinations.by_prefix.get(dst);
            while let Some(node) = to.and_then(|&number| destinations.all.get(number as usize)) {
                for &id in &node.rules {
                    let rule = &self.rules[usize::from(id.0)];
                    let order = (rule.priority, 32 - source.len, 32 - node.len, id);
                    if best.is_some_and(|best| best <= order) {
                        break;
                    }
                    if meant(rule) && !self.excepts(id, dst) {
                        best = Some(order);
                        break;
                    }
                }
                to = node.parent.as_ref();
            }
            from = source.parent.as_ref();
        }
        let (.., id) = best?;
        Some((id, &self.rules[usize::from(id.0)]))
    }

    fn excepts(&self, id: RuleId, dst: Ipv4Addr) -> bool {
        self.exceptions[usize::from(id.0)].as_ref().is_some_and(|except| except.contains(dst))
    }

    /// The rule that decides about a flow, if any.
    pub fn decide(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: Option<Protocol>,
        dst_port: u16,
    ) -> Option<(RuleId, &Rule)> {
        self.best(src, dst, |rule| rule.means(protocol, dst_port))
    }

    /// The rule that decides about a flow of any port; `None` if the ports matter, or no rule matches.
    pub fn decide_any_port(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: Option<Protocol>,
    ) -> Option<&Rule> {
        let (_, rule) = self.best(src, dst, |rule| rule.could_mean(protocol))?;
        let any_port = rule.services.is_empty() || protocol == Some(Protocol::Icmp);
        any_port.then_some(rule)
    }

    /// Prefixes of sources that rules spoke of before.
    pub fn former_sources(&self) -> &[Ipv4Net] {
        &self.former
    }

    /// Whether some rule speaks of this source address, or did.
    pub fn knows_source(&self, src: Ipv4Addr) -> bool {
        self.by_source.contains(src)
    }

    /// The rules, by [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Destinations {
    /// Those of the rules `ids`.
    fn new(rules: &[Rule], ids: &[RuleId]) -> Self {
        let mut naming: BTreeMap<Ipv4Net, Vec<RuleId>> = BTreeMap::new();
        for &id in ids {
            for to in &rules[usize::from(id.0)].to {
                let named = naming.entry(to.trunc()).or_default();
                if named.last() != Some(&id) {
                    named.push(id);
                }
            }
        }
        let parents = parents(naming.keys().copied());
        let by_prefix = naming.keys().copied().zip(0..).collect();
        let all = naming.into_iter().zip(parents).map(|((to, mut ids), parent)| {
            ids.sort_by_key(|id| rules[usize::from(id.0)].priority);
            Destination { len: to.prefix_len(), parent, rules: ids }
        });
        Self { by_prefix, all: all.collect() }
    }
}

/// For each of `prefixes`, which are in order, the place of the longest one before it that holds it.
fn parents(prefixes: impl Iterator<Item = Ipv4Net>) -> Vec<Option<u32>> {
    let mut open: Vec<(Ipv4Net, u32)> = Vec::new();
    let mut parents = Vec::new();
    for (prefix, place) in prefixes.zip(0..) {
        while open.last().is_some_and(|(holder, _)| !holder.contains(&prefix)) {
            open.pop();
        }
        parents.push(open.last().map(|&(_, place)| place));
        open.push((prefix, place));
    }
    parents
}

impl Rule {
    /// Whether its services have a flow, with some port.
    fn could_mean(&self, protocol: Option<Protocol>) -> bool {
        self.services.is_empty() || self.services.iter().any(|s| Some(s.protocol) == protocol)
    }

    /// Whether its services have a flow.
    fn means(&self, protocol: Option<Protocol>, dst_port: u16) -> bool {
        let service_matches = |service: &Service| {
            Some(service.protocol) == protocol
                && (service.protocol == Protocol::Icmp || service.ports.contains(&dst_port))
        };
        self.services.is_empty() || self.services.iter().any(service_matches)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The rules one after the other, as the module's first lines say it.
    fn naive(rules: &[Rule], src: Ipv4Addr, dst: Ipv4Addr, port: u16) -> Option<RuleId> {
        let longest = |nets: &[Ipv4Net], addr: Ipv4Addr| {
            let holding = nets.iter().filter(|net| net.contains(&addr));
            holding.map(Ipv4Net::prefix_len).max()
        };
        let order = |(id, rule): (RuleId, &Rule)| {
            let (from, to) = (longest(&rule.from, src)?, longest(&rule.to, dst)?);
            let excepted = longest(&rule.except, dst).is_some();
            let meant = rule.means(Some(Protocol::Tcp), port) && !excepted;
            meant.then_some((rule.priority, 32 - from, 32 - to, id))
        };
        let (.., id) = (0..).map(RuleId).zip(rules).filter_map(order).min()?;
        Some(id)
    }

    /// Prefixes that nest: from a handful of addresses, of all lengths.
    fn nets(most: usize) -> impl Strategy<Value = Vec<Ipv4Net>> {
        let net = (0u32..16, prop::sample::select(vec![0u8, 8, 28, 29, 30, 31, 32]));
        let net = net.prop_map(|(low, len)| {
            Ipv4Net::new_assert(Ipv4Addr::from(0x0a00_0000 | low), len).trunc()
        });
        prop::collection::vec(net, 1..most)
    }

    fn rule() -> impl Strategy<Value = Rule> {
        let services = prop::collection::vec(
            (0u16..4).prop_map(|port| Service { protocol: Protocol::Tcp, ports: port..=port + 1 }),
            0..2,
        );
        let except = prop_oneof![2 => Just(Vec::new()), 1 => nets(3)];
        (0u32..3, nets(5), nets(5), except, services).prop_map(
            |(priority, from, to, except, services)| Rule {
                name: String::new(),
                priority,
                from,
                to,
                except,
                services,
                action: Action::Exempt,
            },
        )
    }

    proptest! {
        #[test]
        fn agrees_with_looking_at_all_rules(
            rules in prop::collection::vec(rule(), 0..12),
            flows in prop::collection::vec((0u32..16, 0u32..17, 0u16..6), 40),
        ) {
            let set = RuleSet::new(rules.clone());
            for (src, dst, port) in flows {
                let [src, dst] = [src, dst].map(|low| Ipv4Addr::from(0x0a00_0000 | low));
                let decided = set.decide(src, dst, Some(Protocol::Tcp), port).map(|(id, _)| id);
                prop_assert_eq!(decided, naive(&rules, src, dst, port), "{} {} {}", src, dst, port);
                let known = rules.iter().any(|rule| rule.from.iter().any(|net| net.contains(&src)));
                prop_assert_eq!(set.knows_source(src), known);
            }
        }
    }
}
