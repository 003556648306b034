//! What may a `NatRule` say?

use std::collections::HashSet;

use conntrack::Protocol;
use dataplane::rule::Service;
use ipnet::Ipv4Net;

use super::address;
use super::ask::{ANY, PREFIX};
use super::field::{Field, Group, Placed, Schema};
use super::problem::Problems;

/// A rule as read, before it is compared with the other objects.
#[derive(Debug)]
pub(super) struct RuleSpec {
    pub(super) priority: u32,
    pub(super) from: Vec<Placed<Ipv4Net>>,
    pub(super) to: Vec<Ipv4Net>,
    pub(super) except: Vec<Ipv4Net>,
    pub(super) services: Vec<Service>,
    pub(super) target: Option<Target>,
}

/// What the rule does.
#[derive(Debug)]
pub(super) enum Target {
    /// Translate to this pool.
    Pool(Placed<String>),
    /// Leave untranslated.
    Exempt,
}

/// Priority of a rule that names none.
pub(super) const DEFAULT_PRIORITY: u32 = 1000;

const SPEC: Schema = Schema {
    of: "NatRule",
    known: &["from", "to", "except", "services", "pool", "exempt", "priority"],
    later: &["namespaces", "names", "sni", "onDeny", "log"],
};
const SERVICE: Schema = Schema { of: "a service", known: &["protocol", "ports"], later: &[] };

/// Reads the `spec` of a `NatRule`.
pub(super) fn read(spec: &Field<'_>, problems: &mut Problems) -> Option<RuleSpec> {
    let group = spec.group(&SPEC, problems)?;
    let remedy = "list the pods' prefixes in spec.from";
    let from = group
        .required("from", remedy, problems)
        .map_or_else(Vec::new, |field| sources(field, problems));
    let values = |placed: Vec<Placed<Ipv4Net>>| placed.into_iter().map(|p| p.value).collect();
    let to = group
        .get("to")
        .map_or_else(|| vec![Ipv4Net::default()], |field| values(prefixes(field, problems)));
    let except = group.get("except").map_or_else(Vec::new, |f| values(prefixes(f, problems)));
    let services = group.get("services").map_or_else(Vec::new, |f| services(f, problems));
    let priority = group.get("priority").and_then(|f| f.number(0..=1_000_000, problems));
    let target = target(&group, problems);
    let priority = priority.unwrap_or(DEFAULT_PRIORITY);
    Some(RuleSpec { priority, from, to, except, services, target })
}

fn prefixes(field: &Field<'_>, problems: &mut Problems) -> Vec<Placed<Ipv4Net>> {
    let mut nets: Vec<Placed<Ipv4Net>> = Vec::new();
    let mut known = HashSet::new();
    for item in field.list(problems) {
        let Some(text) = item.text(&PREFIX, problems) else { continue };
        match address::prefix(text) {
            Ok(net) if !known.insert(net) => {
                let why = format!("{net} is already in this list");
                problems.error(&item.place(), "duplicate prefix", why, "name it once");
            }
            Ok(net) => nets.push(Placed { value: net, place: item.place() }),
            Err(refusal) => {
                problems.error(&item.place(), "bad prefix", refusal.why, refusal.remedy);
            }
        }
    }
    nets
}

fn sources(field: &Field<'_>, problems: &mut Problems) -> Vec<Placed<Ipv4Net>> {
    let mut nets = prefixes(field, problems);
    nets.retain(|Placed { value: net, place }| {
        let why = if net.prefix_len() == 0 {
            "0.0.0.0/0 would take every packet, replies from outside included".to_owned()
        } else if let Some((name, reserved)) = address::not_unicast((*net).into()) {
            format!("{net} touches {reserved}, which is {name}")
        } else {
            return true;
        };
        problems.error(place, "unusable source prefix", why, "name the prefixes of the pods");
        false
    });
    nets
}

fn services(field: &Field<'_>, problems: &mut Problems) -> Vec<Service> {
    let mut services = Vec::new();
    for item in field.list(problems) {
        let Some(group) = item.group(&SERVICE, problems) else { continue };
        let names = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp), ("icmp", Protocol::Icmp)];
        let protocol = group
            .required("protocol", "write tcp, udp or icmp", problems)
            .and_then(|field| field.choice(&names, problems));
        let Some(ports) = group.get("ports") else {
            services.extend(protocol.map(|protocol| Service { protocol, ports: 0..=u16::MAX }));
            continue;
        };
        if protocol == Some(Protocol::Icmp) {
            let why = "ICMP has no ports";
            problems.error(&ports.place(), "ports of ICMP", why, "remove the ports");
            continue;
        }
        for item in ports.list(problems) {
            let Some(text) = item.ports_text(problems) else { continue };
            match address::ports(&text) {
                Ok(ports) => services.extend(protocol.map(|protocol| Service { protocol, ports })),
                Err(refusal) => {
                    problems.error(&item.place(), "bad port", refusal.why, refusal.remedy);
                }
            }
        }
    }
    services
}

fn target(group: &Group<'_>, problems: &mut Problems) -> Option<Target> {
    group.needs_one_of(&["pool", "exempt"], problems);
    let exempt = group.get("exempt").map(|field| field.truth(problems));
    let remedy = "write either pool: NAME or exempt: true";
    match (group.get("pool"), exempt) {
        (Some(pool), Some(Some(true))) => {
            let why = "it names a pool and is exempt from translation";
            problems.error(&pool.place(), "contradictory action", why, remedy);
            None
        }
        (Some(pool), _) => {
            let name = pool.text(&ANY, problems)?.to_owned();
            Some(Target::Pool(Placed { value: name, place: pool.place() }))
        }
        (None, Some(Some(true))) => Some(Target::Exempt),
        (None, Some(None)) => None,
        (None, _) => {
            let why = "it says neither which pool to use nor that it is exempt";
            problems.error(&group.place, "missing action", why, remedy);
            None
        }
    }
}
