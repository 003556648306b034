//! How does a pool treat flows? Profile, mapping, filtering, and what happens in special cases.

use std::ops::RangeInclusive;
use std::time::Duration;

use conntrack::{
    Behavior, InboundRefresh, IpId, MidStream, OnExhaustion, OnExpiry, Overlap, PoolSettings,
    Pooling, Removal, Scatter, UnsolicitedSyn,
};

use super::profile::Profile;
use super::{MAX_SECONDS, blocks_in, port_range};
use crate::config::field::{Field, Group, Schema};
use crate::config::problem::Problems;

const BEHAVIORS: [(&str, Behavior); 3] = [
    ("endpoint-independent", Behavior::EndpointIndependent),
    ("address-dependent", Behavior::AddressDependent),
    ("address-and-port-dependent", Behavior::AddressAndPortDependent),
];
const FILTERING: Schema = Schema { of: "filtering", known: &["tcp", "udp"], later: &[] };
const POOLING: Schema = Schema { of: "pooling", known: &["kind", "linger"], later: &[] };
const POOLINGS: [(&str, Pooling); 2] =
    [("paired", Pooling::Paired), ("arbitrary", Pooling::Arbitrary)];
const SCATTER: Schema = Schema { of: "scatter", known: &["ports", "seconds", "log"], later: &[] };

/// The profile that the pool begins with.
pub(super) fn profile(group: &Group<'_>, problems: &mut Problems) -> Profile {
    let choices = [("high-density", Profile::HighDensity), ("rfc4787", Profile::Rfc4787)];
    let field = group.get("profile");
    field.and_then(|f| f.choice(&choices, problems)).unwrap_or(Profile::HighDensity)
}

/// Sets `target` to what the field `name` says, if it is there.
fn set<T: Copy>(
    group: &Group<'_>,
    name: &str,
    choices: &[(&str, T)],
    target: &mut T,
    problems: &mut Problems,
) {
    if let Some(value) = group.get(name).and_then(|f| f.choice(choices, problems)) {
        *target = value;
    }
}

fn set_truth(group: &Group<'_>, name: &str, target: &mut bool, problems: &mut Problems) {
    if let Some(value) = group.get(name).and_then(|f| f.truth(problems)) {
        *target = value;
    }
}

/// Reads everything that chooses between kinds of behaviour.
pub(super) fn read(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    set(group, "mapping", &BEHAVIORS, &mut settings.mapping, problems);
    if let Some(field) = group.get("filtering") {
        read_filtering(field, settings, problems);
    }
    read_overlap(group, settings, problems);
    if let Some(field) = group.get("pooling") {
        read_pooling(field, settings, problems);
    }
    set_truth(group, "spill", &mut settings.spill, problems);
    set_truth(group, "parity", &mut settings.parity, problems);
    set_truth(group, "preserve", &mut settings.preserve, problems);
    read_special_cases(group, settings, problems);
}

fn read_special_cases(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    let refresh = [("peers", InboundRefresh::Peers), ("none", InboundRefresh::None)];
    set(group, "inboundRefresh", &refresh, &mut settings.inbound_refresh, problems);
    let syn = [("drop", UnsolicitedSyn::Drop), ("delayed", UnsolicitedSyn::Delayed)];
    set(group, "unsolicitedSyn", &syn, &mut settings.unsolicited_syn, problems);
    let expiry = [("reset", OnExpiry::Reset), ("silent", OnExpiry::Silent)];
    set(group, "onExpiry", &expiry, &mut settings.on_expiry, problems);
    let exhaustion = [
        ("icmp", OnExhaustion::Icmp),
        ("icmp-admin", OnExhaustion::IcmpAdmin),
        ("reset", OnExhaustion::Reset),
        ("silent", OnExhaustion::Silent),
    ];
    set(group, "onExhaustion", &exhaustion, &mut settings.on_exhaustion, problems);
    let mid_stream = [("reset", MidStream::Reset), ("drop", MidStream::Drop)];
    set(group, "midStream", &mid_stream, &mut settings.mid_stream, problems);
    let ip_id = [("best-effort", IpId::BestEffort), ("strict", IpId::Strict)];
    set(group, "ipId", &ip_id, &mut settings.ip_id, problems);
    let removal = [("drain", Removal::Drain), ("cut", Removal::Cut)];
    set(group, "removal", &removal, &mut settings.removal, problems);
}

/// One word for both, or one for each protocol (RFC 5382 REQ-3b).
fn read_filtering(field: &Field<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if field.is_text() {
        if let Some(both) = field.choice(&BEHAVIORS, problems) {
            (settings.filtering_tcp, settings.filtering_udp) = (both, both);
        }
    } else if let Some(group) = field.group(&FILTERING, problems) {
        set(&group, "tcp", &BEHAVIORS, &mut settings.filtering_tcp, problems);
        set(&group, "udp", &BEHAVIORS, &mut settings.filtering_udp, problems);
    }
}

/// Address-dependent filtering is only unambiguous with overlap by address (decision D1).
fn read_overlap(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    let by_address = [settings.filtering_tcp, settings.filtering_udp]
        .contains(&Behavior::AddressDependent)
        && settings.mapping == Behavior::AddressAndPortDependent;
    if by_address {
        settings.overlap = Overlap::Address;
    }
    let Some(field) = group.get("overlap") else { return };
    let choices = [("endpoint", Overlap::Endpoint), ("address", Overlap::Address)];
    let Some(overlap) = field.choice(&choices, problems) else { return };
    if by_address && overlap == Overlap::Endpoint {
        let why =
            "address-dependent filtering can't tell sessions to two ports of one remote apart";
        let remedy = "write overlap: address, or filtering: address-and-port-dependent";
        problems.error(&field.place(), "contradictory settings", why, remedy);
    } else {
        settings.overlap = overlap;
    }
}

/// One word, or a group with the time for which an address is remembered.
fn read_pooling(field: &Field<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if field.is_text() {
        if let Some(pooling) = field.choice(&POOLINGS, problems) {
            settings.pooling = pooling;
        }
    } else if let Some(group) = field.group(&POOLING, problems) {
        set(&group, "kind", &POOLINGS, &mut settings.pooling, problems);
        if let Some(linger) = group.get("linger").and_then(|f| f.number(0..=MAX_SECONDS, problems))
        {
            settings.linger = Duration::from_secs(linger.into());
        }
    }
}

/// The shared region for DNS (decision D5): `false`, or a group.
pub(super) fn read_scatter(
    group: &Group<'_>,
    settings: &mut PoolSettings,
    problems: &mut Problems,
) {
    let Some(field) = group.get("scatter") else {
        // The default region is for pools that have the ports for it.
        let fits = settings.mapping == Behavior::AddressAndPortDependent
            && settings.scatter.as_ref().is_some_and(|s| leaves_blocks(settings, &s.ports));
        if !fits {
            settings.scatter = None;
        }
        return;
    };
    if field.is_false(problems) {
        settings.scatter = None;
        return;
    }
    let Some(group) = field.group(&SCATTER, problems) else { return };
    let remedy = "write for example ports: \"57344-65535\", or scatter: false";
    let Some(ports) = group.required("ports", remedy, problems) else { return };
    let seconds = group.get("seconds").and_then(|f| f.number(0..=MAX_SECONDS, problems));
    if let Some(log) = group.get("log").and_then(|f| f.truth(problems)) {
        settings.log_scattered = log;
    }
    let Some(region) = port_range(ports, problems) else { return };
    let why = if *region.start() < 1024 {
        "the region reaches below 1024, where services of the system live"
    } else if !leaves_blocks(settings, &region) {
        "the region must lie in spec.ports.range and leave a block of it for other flows"
    } else {
        let rest = Duration::from_secs(seconds.unwrap_or(2).into());
        settings.scatter = Some(Scatter { ports: region, rest });
        return;
    };
    problems.error(&ports.place(), "bad scatter region", why, "choose another region");
}

/// Whether `region` lies in the pool's ports, and leaves blocks below or above it.
fn leaves_blocks(settings: &PoolSettings, region: &RangeInclusive<u16>) -> bool {
    let (size, ports) = (settings.block_size, &settings.ports);
    let inside = region.start() >= ports.start() && region.end() <= ports.end();
    let below = region.start().checked_sub(1).map(|end| *ports.start()..=end);
    let above = region.end().checked_add(1).map(|start| start..=*ports.end());
    let blocks = |part: Option<RangeInclusive<u16>>| {
        part.filter(|part| !part.is_empty()).map_or(0, |part| blocks_in(&part, size))
    };
    inside && blocks(below) + blocks(above) > 0
}

/// Settings that can't both hold.
pub(super) fn refuse_contradictions(
    group: &Group<'_>,
    settings: &PoolSettings,
    problems: &mut Problems,
) {
    use Behavior::{AddressAndPortDependent, EndpointIndependent};
    let place = |name: &str| group.get(name).map_or_else(|| group.place.clone(), Field::place);
    let open = [settings.filtering_tcp, settings.filtering_udp].contains(&EndpointIndependent);
    if open && settings.mapping != EndpointIndependent {
        let field = if group.get("filtering").is_some() { "filtering" } else { "mapping" };
        let why = "endpoint-independent filtering needs public ports that belong to one internal \
                   endpoint, as only endpoint-independent mapping gives them";
        let remedy = "write mapping: endpoint-independent, or filter by address";
        problems.error(&place(field), "contradictory settings", why, remedy);
    }
    if settings.scatter.is_some() && settings.mapping != AddressAndPortDependent {
        let why = "scatter gives each remote another port, which this mapping forbids";
        problems.error(&place("scatter"), "contradictory settings", why, "write scatter: false");
    }
    if settings.quota.sessions_per_mapping.is_some() && settings.mapping == AddressAndPortDependent
    {
        let why = "with this mapping every session has a mapping of its own";
        let remedy = "remove quota.sessionsPerMapping";
        problems.error(&place("quota"), "contradictory settings", why, remedy);
    }
}
