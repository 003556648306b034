//! What may a `PortForward` and a `StaticNat` say, and do they fit the other objects?

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use conntrack::{PoolId, Protocol};
use dataplane::forward::{PortForward, StaticNat};

use super::address::{self, AddressRange};
use super::ask::ADDRESS;
use super::field::{Field, Placed, Schema};
use super::problem::{Place, Problems};
use super::whole::{NamedPool, NamedRule, ranges, readable};

/// A port forward as read.
#[derive(Debug)]
pub(super) struct ForwardSpec {
    address: Placed<Ipv4Addr>,
    protocol: Protocol,
    ports: Placed<RangeInclusive<u16>>,
    target: Placed<Ipv4Addr>,
    target_port: u16,
    vni: Option<u32>,
}

/// A 1:1 mapping as read.
#[derive(Debug)]
pub(super) struct StaticSpec {
    address: Placed<Ipv4Addr>,
    target: Placed<Ipv4Addr>,
    vni: Option<u32>,
}

pub(super) type NamedForward = (Placed<String>, Option<ForwardSpec>);
pub(super) type NamedStatic = (Placed<String>, Option<StaticSpec>);

const FORWARD: Schema = Schema {
    of: "PortForward",
    known: &["address", "protocol", "ports", "target", "vni"],
    later: &["from", "log"],
};
const TARGET: Schema = Schema { of: "target", known: &["address", "ports"], later: &[] };
const STATIC: Schema =
    Schema { of: "StaticNat", known: &["address", "target", "vni"], later: &["timers", "log"] };

/// VXLAN network identifiers have 24 bits.
const MAX_VNI: u32 = (1 << 24) - 1;

/// Reads the `spec` of a `PortForward`.
pub(super) fn read_forward(spec: &Field<'_>, problems: &mut Problems) -> Option<ForwardSpec> {
    let group = spec.group(&FORWARD, problems)?;
    let remedy = "name an address of an AddressPool";
    let public = group.required("address", remedy, problems).and_then(|f| unicast(f, problems));
    let protocols = [("tcp", Protocol::Tcp), ("udp", Protocol::Udp)];
    let protocol = group
        .required("protocol", "write tcp or udp", problems)
        .and_then(|field| field.choice(&protocols, problems));
    let remedy = "write the public port (8080) or ports (\"8000-8010\")";
    let ports = group.required("ports", remedy, problems).and_then(|f| ports(f, problems));
    let remedy = "write target: {address: POD, ports: PORT}";
    let target = group.required("target", remedy, problems);
    let vni = group.get("vni").and_then(|field| field.number(0..=MAX_VNI, problems));
    let target = target.and_then(|field| field.group(&TARGET, problems))?;
    let remedy = "name the address of the pod";
    let pod = target.required("address", remedy, problems).and_then(|f| unicast(f, problems));
    let target_ports = target.get("ports").and_then(|f| self::ports(f, problems));
    let ports = ports?;
    if let Some(theirs) = &target_ports
        && theirs.value.len() != ports.value.len()
    {
        let (public, internal) = (ports.value.len(), theirs.value.len());
        let s = |count| if count == 1 { "" } else { "s" };
        let (theirs_s, ours_s) = (s(internal), s(public));
        let why = format!(
            "{public} public port{ours_s} can't lead to {internal} port{theirs_s} of the pod"
        );
        let remedy =
            "write ranges of the same length, or leave target.ports out for the same ports";
        problems.error(&theirs.place, "ranges of different length", why, remedy);
    }
    let target_port = target_ports.map_or(*ports.value.start(), |theirs| *theirs.value.start());
    let (address, protocol, target) = (public?, protocol?, pod?);
    Some(ForwardSpec { address, protocol, ports, target, target_port, vni })
}

/// Reads the `spec` of a `StaticNat`.
pub(super) fn read_static(spec: &Field<'_>, problems: &mut Problems) -> Option<StaticSpec> {
    let group = spec.group(&STATIC, problems)?;
    let remedy = "name a public address that no AddressPool has";
    let address = group.required("address", remedy, problems).and_then(|f| unicast(f, problems));
    let remedy = "name the address of the pod";
    let target = group.required("target", remedy, problems).and_then(|f| unicast(f, problems));
    let vni = group.get("vni").and_then(|field| field.number(0..=MAX_VNI, problems));
    Some(StaticSpec { address: address?, target: target?, vni })
}

fn unicast(field: &Field<'_>, problems: &mut Problems) -> Option<Placed<Ipv4Addr>> {
    let text = field.text(&ADDRESS, problems)?;
    let Ok(value) = text.parse::<Ipv4Addr>() else {
        let why = format!("{text:?} is not an IPv4 address");
        problems.error(&field.place(), "bad address", why, "write an address such as 192.0.2.1");
        return None;
    };
    let range: AddressRange = ipnet::Ipv4Net::from(value).into();
    if let Some((name, net)) = address::not_unicast(range) {
        let why = format!("{value} lies in {net}, which is {name}");
        problems.error(&field.place(), "unusable address", why, "name a unicast address");
        return None;
    }
    Some(Placed { value, place: field.place() })
}

fn ports(field: &Field<'_>, problems: &mut Problems) -> Option<Placed<RangeInclusive<u16>>> {
    let text = field.ports_text(problems)?;
    match address::ports(&text) {
        Ok(value) => Some(Placed { value, place: field.place() }),
        Err(refusal) => {
            problems.error(&field.place(), "bad port", refusal.why, refusal.remedy);
            None
        }
    }
}

fn specs<T>(named: &[(Placed<String>, Option<T>)]) -> impl Iterator<Item = (&str, &T)> {
    named.iter().filter_map(|(name, spec)| Some((name.value.as_str(), spec.as_ref()?)))
}

/// The public addresses of all port forwards.
pub(super) fn addresses(forwards: &[NamedForward]) -> Vec<Ipv4Addr> {
    specs(forwards).map(|(_, spec)| spec.address.value).collect()
}

/// Compares fixed mappings with each other and with everything else.
pub(super) fn check(
    forwards: &[NamedForward],
    statics: &[NamedStatic],
    (pools, rules): (&[NamedPool], &[NamedRule]),
    host: &[Ipv4Addr],
    problems: &mut Problems,
) {
    for (_, spec) in specs(forwards) {
        refuse_stranger(&spec.target, rules, problems);
        if pool_of(spec.address.value, pools).is_none() {
            let why = format!("no AddressPool has {}", spec.address.value);
            let remedy = "add it to a pool, or use StaticNat for a whole address";
            problems.error(&spec.address.place, "address of no pool", why, remedy);
        }
    }
    refuse_same_ports(forwards, problems);
    refuse_same_targets(forwards, problems);
    check_statics(statics, pools, host, problems);
    for (_, spec) in specs(statics) {
        refuse_stranger(&spec.target, rules, problems);
        refuse_internal(&spec.address, rules, problems);
    }
}

/// The pod's own packets must reach natgate: its address lies in the `from` of a rule.
fn refuse_stranger(target: &Placed<Ipv4Addr>, rules: &[NamedRule], problems: &mut Problems) {
    let mut sources = readable(rules).flat_map(|(_, rule)| &rule.from);
    if !sources.any(|from| from.value.contains(&target.value)) {
        let why = format!("{} lies in the `from` of no rule", target.value);
        let remedy = "name a pod, or widen the `from` of the rule that is to carry its packets";
        problems.error(&target.place, "unknown target", why, remedy);
    }
}

fn refuse_internal(address: &Placed<Ipv4Addr>, rules: &[NamedRule], problems: &mut Problems) {
    let mut sources = readable(rules).flat_map(|(_, rule)| &rule.from);
    if let Some(from) = sources.find(|from| from.value.contains(&address.value)) {
        let why = format!(
            "{} lies in the source prefix {} at {} (4787-REQ-7)",
            address.value, from.value, from.place.origin
        );
        problems.error(
            &address.place,
            "internal address",
            why,
            "keep pods and public addresses apart",
        );
    }
}

fn already(place: &Place) -> String {
    format!("at {}", place.origin)
}

fn refuse_same_ports(forwards: &[NamedForward], problems: &mut Problems) {
    let all: Vec<_> = specs(forwards).collect();
    for (index, (_, spec)) in all.iter().enumerate() {
        let same = all[..index].iter().find(|(_, other)| {
            other.address.value == spec.address.value
                && other.protocol == spec.protocol
                && meet(&other.ports.value, &spec.ports.value)
        });
        if let Some((name, other)) = same {
            let why = format!(
                "forward {name:?} {} has some of these ports of {}",
                already(&other.ports.place),
                spec.address.value
            );
            problems.error(&spec.ports.place, "ports forwarded twice", why, "use other ports");
        }
    }
}

/// Two public endpoints of one internal endpoint: its own packets could leave under either.
fn refuse_same_targets(forwards: &[NamedForward], problems: &mut Problems) {
    let range = |spec: &ForwardSpec| {
        let count = spec.ports.value.len() as u16;
        spec.target_port..=spec.target_port.saturating_add(count.saturating_sub(1))
    };
    let all: Vec<_> = specs(forwards).collect();
    for (index, (_, spec)) in all.iter().enumerate() {
        let same = all[..index].iter().find(|(_, other)| {
            other.target.value == spec.target.value
                && may_be_one(other.vni, spec.vni)
                && other.protocol == spec.protocol
                && meet(&range(other), &range(spec))
        });
        if let Some((name, other)) = same {
            let why = format!(
                "forward {name:?} {} leads to some of these ports of {} too",
                already(&other.target.place),
                spec.target.value
            );
            let remedy = "lead each port of a pod to one public port; pods in several networks: with a vni each";
            problems.error(&spec.target.place, "target forwarded twice", why, remedy);
        }
    }
}

/// Whether pods with one address in these networks may be one: without a VNI, routes tell, and they change.
fn may_be_one(a: Option<u32>, b: Option<u32>) -> bool {
    a.is_none() || b.is_none() || a == b
}

fn meet(a: &RangeInclusive<u16>, b: &RangeInclusive<u16>) -> bool {
    a.start() <= b.end() && b.start() <= a.end()
}

fn check_statics(
    statics: &[NamedStatic],
    pools: &[NamedPool],
    host: &[Ipv4Addr],
    problems: &mut Problems,
) {
    type Seen<'a> = HashMap<Ipv4Addr, Vec<(Option<u32>, &'a Place)>>;
    let (mut addresses, mut targets) = (Seen::new(), Seen::new());
    for (_, spec) in specs(statics) {
        let StaticSpec { address, target, vni } = spec;
        if let Some(pool) = pool_of(address.value, pools) {
            let why = format!("{} is in pool {:?}", address.value, pools[pool].0.value);
            let remedy = "take it out of the pool, or use PortForward for single ports";
            problems.error(&address.place, "address of a pool", why, remedy);
        }
        if host.contains(&address.value) {
            let why =
                format!("{} belongs to this host, which would lose its own traffic", address.value);
            problems.error(&address.place, "address of the host", why, "name another address");
        }
        for (seen, placed, vni) in [(&mut addresses, address, None), (&mut targets, target, *vni)] {
            let before = seen.entry(placed.value).or_default();
            let first = before.iter().find(|(other, _)| may_be_one(*other, vni)).map(|it| it.1);
            before.push((vni, &placed.place));
            if let Some(first) = first {
                let why = format!("{} is already mapped {}", placed.value, already(first));
                let remedy = "map each address once; pods in several networks: with a vni each";
                problems.error(&placed.place, "mapped twice", why, remedy);
            }
        }
    }
}

/// The pool that has `address`.
fn pool_of(address: Ipv4Addr, pools: &[NamedPool]) -> Option<usize> {
    let (name, _) = ranges(pools).find(|(_, range)| range.value.contains(address))?;
    pools.iter().position(|(pool, _)| pool.value == name)
}

/// The port forwards as the data plane wants them.
pub(super) fn compile_forwards(
    forwards: Vec<NamedForward>,
    pools: &[NamedPool],
) -> Vec<PortForward> {
    let compile = |(name, spec): NamedForward| {
        let spec = spec?;
        Some(PortForward {
            name: name.value,
            address: spec.address.value,
            protocol: spec.protocol,
            ports: spec.ports.value,
            target: spec.target.value,
            target_port: spec.target_port,
            vni: spec.vni,
            pool: PoolId(pool_of(spec.address.value, pools)? as u16),
        })
    };
    forwards.into_iter().filter_map(compile).collect()
}

/// The 1:1 mappings as the data plane wants them; their sessions have the settings of `pool`.
pub(super) fn compile_statics(statics: Vec<NamedStatic>, pool: PoolId) -> Vec<StaticNat> {
    let compile = |(name, spec): NamedStatic| {
        let spec = spec?;
        let (address, target) = (spec.address.value, spec.target.value);
        Some(StaticNat { name: name.value, address, target, vni: spec.vni, pool })
    };
    statics.into_iter().filter_map(compile).collect()
}
