//! What may an `AddressPool` say?

use std::ops::RangeInclusive;

use conntrack::PoolSettings;

use super::address::{self, AddressRange};
use super::ask::ADDRESSES;
use super::field::{Field, Group, Placed, Schema};
use super::problem::{Place, Problems};

mod behavior;
mod limits;
mod profile;

/// A pool as read, before it is compared with the other objects.
#[derive(Debug)]
pub(super) struct PoolSpec {
    pub(super) profile: &'static str,
    pub(super) settings: PoolSettings,
    pub(super) ranges: Vec<Placed<AddressRange>>,
}

const SPEC: Schema = Schema {
    of: "AddressPool",
    known: &[
        "addresses",
        "profile",
        "mapping",
        "filtering",
        "overlap",
        "pooling",
        "spill",
        "ports",
        "blockSize",
        "parity",
        "preserve",
        "scatter",
        "quota",
        "holdDown",
        "inboundRefresh",
        "unsolicitedSyn",
        "onExpiry",
        "onExhaustion",
        "midStream",
        "ipId",
        "removal",
        "timers",
        "shared",
    ],
    later: &["log", "subscriberPrefix", "trafficClass"],
};
/// Longest time, in seconds (`requirements.md`, timers).
const MAX_SECONDS: u32 = 86_400;
const PORTS: Schema = Schema { of: "ports", known: &["range", "low", "except"], later: &[] };

/// Reads the `spec` of an `AddressPool`.
pub(super) fn read(spec: &Field<'_>, problems: &mut Problems) -> Option<PoolSpec> {
    let group = spec.group(&SPEC, problems)?;
    read_shared(&group, problems);
    let profile = behavior::profile(&group, problems);
    let mut settings = profile.settings();
    behavior::read(&group, &mut settings, problems);
    read_ports(&group, &mut settings, problems);
    behavior::read_scatter(&group, &mut settings, problems);
    limits::read(&group, &mut settings, problems);
    behavior::refuse_contradictions(&group, &settings, problems);
    profile::compare(&group, profile, &settings, problems);
    let remedy = "list addresses, ranges or prefixes in spec.addresses";
    let ranges = group
        .required("addresses", remedy, problems)
        .map_or_else(Vec::new, |field| read_addresses(field, problems));
    Some(PoolSpec { profile: profile.name(), settings, ranges })
}

fn read_shared(group: &Group<'_>, problems: &mut Problems) {
    let Some(field) = group.get("shared") else { return };
    if field.truth(problems) == Some(true) {
        let why = "sharing addresses with the host is not in this version of natgate";
        let remedy = "remove the field and give the pool addresses of its own";
        problems.error(&field.place(), "unsupported setting", why, remedy);
    }
}

fn read_addresses(field: &Field<'_>, problems: &mut Problems) -> Vec<Placed<AddressRange>> {
    let mut ranges = Vec::new();
    for item in field.list(problems) {
        let Some(text) = item.text(&ADDRESSES, problems) else { continue };
        match text.parse::<AddressRange>() {
            Ok(range) => ranges.extend(unicast(range, item.place(), problems)),
            Err(refusal) => {
                problems.error(&item.place(), "bad pool address", refusal.why, refusal.remedy);
            }
        }
    }
    ranges
}

fn unicast(
    range: AddressRange,
    place: Place,
    problems: &mut Problems,
) -> Option<Placed<AddressRange>> {
    if let Some((name, net)) = address::not_unicast(range) {
        let why = format!("{range} touches {net}, which is {name}");
        problems.error(&place, "unusable pool address", why, "name public unicast addresses");
        return None;
    }
    Some(Placed { value: range, place })
}

fn read_ports(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if let Some(field) = group.get("blockSize") {
        field.among((4..=12).map(|bits| 1 << bits), problems);
    }
    if let Some(field) = group.get("blockSize")
        && let Some(size) = field.number(16..=4096_u16, problems)
    {
        if size.is_power_of_two() {
            settings.block_size = size;
        } else {
            let (below, above) = (1 << size.ilog2(), size.next_power_of_two());
            let why = format!("{size} is not a power of two");
            problems.error(
                &field.place(),
                "bad block size",
                why,
                format!("write {below} or {above}"),
            );
        }
    }
    let Some(field) = group.get("ports").and_then(|f| f.group(&PORTS, problems)) else { return };
    if let Some(range) = field.get("range") {
        read_range(range, settings, problems);
    }
    if let Some(low) = field.get("low") {
        read_low(low, settings, problems);
    }
    let Some(except) = field.get("except") else { return };
    for item in except.list(problems) {
        settings.except.extend(port_range(&item, problems));
    }
    let excepted = |port: &u16| settings.except.iter().any(|range| range.contains(port));
    if settings.ports.clone().all(|port| excepted(&port)) {
        let why = "no port of spec.ports.range is left";
        problems.error(&except.place(), "no ports", why, "except fewer ports");
    }
}

/// A port or a range of ports.
pub(super) fn port_range(
    field: &Field<'_>,
    problems: &mut Problems,
) -> Option<RangeInclusive<u16>> {
    let text = field.ports_text(problems)?;
    let ports = address::ports(&text);
    if let Err(refusal) = &ports {
        problems.error(&field.place(), "bad port range", &refusal.why, &refusal.remedy);
    }
    ports.ok()
}

fn read_range(range: &Field<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    let Some(ports) = port_range(range, problems) else { return };
    let (size, text) = (settings.block_size, format!("{}-{}", ports.start(), ports.end()));
    if *ports.start() < 1024 {
        let why = format!("{text} reaches below 1024, where services of the system live");
        problems.error(&range.place(), "bad port range", why, "begin at 1024 or above");
    } else if blocks_in(&ports, size) == 0 {
        let why = format!("{text} holds no whole block of {size} ports");
        let remedy = "widen the range or lower spec.blockSize (blocks begin at multiples of it)";
        problems.error(&range.place(), "bad port range", why, remedy);
    } else {
        settings.ports = ports;
    }
}

/// Ports below 1024 for internal ports below 1024 (RFC 4787 REQ-3a).
fn read_low(field: &Field<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if field.is_word("none", problems) {
        settings.low_ports = None;
        return;
    }
    let Some(ports) = port_range(field, problems) else { return };
    if *ports.end() > 1023 {
        let why = format!("{}-{} reaches above 1023", ports.start(), ports.end());
        problems.error(&field.place(), "bad port range", why, "end at 1023, or write none");
    } else {
        settings.low_ports = Some(ports);
    }
}

/// Whole blocks of `size` ports, aligned to it, within `ports`.
pub(super) fn blocks_in(ports: &std::ops::RangeInclusive<u16>, size: u16) -> u32 {
    let (start, end, size) = (*ports.start() as u32, *ports.end() as u32 + 1, size as u32);
    (end / size).saturating_sub(start.div_ceil(size))
}
