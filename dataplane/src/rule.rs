//! Which flow goes where: the rules, ready for look-up.
//!
//! Of the rules that match a flow the one with the lowest `priority` number decides, then the
//! longest `from` prefix, then the longest `to` prefix. Configuration refuses ties.

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

/// One pair of prefixes of a rule.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    to: Ipv4Net,
    rule: RuleId,
}

/// All rules, indexed by source prefix.
#[derive(Clone, Debug, Default)]
pub struct RuleSet {
    rules: Vec<Rule>,
    /// For every `from` prefix: what could match a source whose longest prefix it is, best first.
    candidates: Lpm<Vec<Candidate>>,
}

impl RuleSet {
    /// Compiles `rules`.
    pub fn new(rules: Vec<Rule>) -> Self {
        let mut all: Vec<(Ipv4Net, Candidate)> = Vec::new();
        for (index, rule) in rules.iter().enumerate() {
            let rule_id = RuleId(index as u16);
            let pairs = rule.from.iter().flat_map(|from| rule.to.iter().map(move |to| (from, to)));
            all.extend(pairs.map(|(from, to)| (*from, Candidate { to: *to, rule: rule_id })));
        }
        all.sort_by_key(|(from, candidate)| {
            let priority = rules[candidate.rule.0 as usize].priority;
            (priority, 32 - from.prefix_len(), 32 - candidate.to.prefix_len())
        });
        let mut prefixes: Vec<Ipv4Net> = all.iter().map(|(from, _)| *from).collect();
        prefixes.sort_unstable();
        prefixes.dedup();
        let covering = |prefix: &Ipv4Net| {
            all.iter().filter(|(from, _)| from.contains(prefix)).map(|&(_, c)| c).collect()
        };
        let candidates = prefixes.iter().map(|prefix| (*prefix, covering(prefix))).collect();
        Self { rules, candidates }
    }

    /// The rule that decides about a flow, if any.
    pub fn decide(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: Option<Protocol>,
        dst_port: u16,
    ) -> Option<(RuleId, &Rule)> {
        let candidates = self.candidates.get(src)?;
        candidates.iter().filter(|c| c.to.contains(&dst)).find_map(|candidate| {
            let rule = self.rules.get(candidate.rule.0 as usize)?;
            rule.means(dst, protocol, dst_port).then_some((candidate.rule, rule))
        })
    }

    /// The rule that decides about a flow of any port; `None` if the ports matter, or no rule matches.
    pub fn decide_any_port(
        &self,
        src: Ipv4Addr,
        dst: Ipv4Addr,
        protocol: Option<Protocol>,
    ) -> Option<&Rule> {
        let candidates = self.candidates.get(src)?.iter().filter(|c| c.to.contains(&dst));
        let mut rules = candidates.filter_map(|c| self.rules.get(c.rule.0 as usize));
        let rule = rules.find(|rule| rule.could_mean(dst, protocol))?;
        let any_port = rule.services.is_empty() || protocol == Some(Protocol::Icmp);
        any_port.then_some(rule)
    }

    /// Whether some rule speaks of this source address.
    pub fn knows_source(&self, src: Ipv4Addr) -> bool {
        self.candidates.contains(src)
    }

    /// The rules, by [`RuleId`].
    pub fn rules(&self) -> &[Rule] {
        &self.rules
    }
}

impl Rule {
    /// Whether it means a flow, with some port.
    fn could_mean(&self, dst: Ipv4Addr, protocol: Option<Protocol>) -> bool {
        let mut services = self.services.iter();
        !self.except.iter().any(|net| net.contains(&dst))
            && (self.services.is_empty() || services.any(|s| Some(s.protocol) == protocol))
    }

    fn means(&self, dst: Ipv4Addr, protocol: Option<Protocol>, dst_port: u16) -> bool {
        let service_matches = |service: &Service| {
            Some(service.protocol) == protocol
                && (service.protocol == Protocol::Icmp || service.ports.contains(&dst_port))
        };
        !self.except.iter().any(|net| net.contains(&dst))
            && (self.services.is_empty() || self.services.iter().any(service_matches))
    }
}
