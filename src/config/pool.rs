//! What may an `AddressPool` say?

use std::time::Duration;

use conntrack::{PoolSettings, Timers};

use super::address::{self, AddressRange};
use super::field::{Field, Group, Placed, Schema};
use super::problem::{Place, Problems};

/// A pool as read, before it is compared with the other objects.
#[derive(Debug)]
pub(super) struct PoolSpec {
    pub(super) settings: PoolSettings,
    pub(super) ranges: Vec<Placed<AddressRange>>,
}

const SPEC: Schema = Schema {
    of: "AddressPool",
    known: &[
        "addresses",
        "profile",
        "ports",
        "blockSize",
        "quota",
        "holdDown",
        "spill",
        "timers",
        "shared",
    ],
    later: &[
        "mapping",
        "filtering",
        "pooling",
        "parity",
        "preserve",
        "scatter",
        "unsolicitedSyn",
        "onExpiry",
        "onExhaustion",
        "onDeny",
        "overlap",
        "inboundRefresh",
        "icmpErrors",
        "ipId",
        "log",
        "grace",
        "removal",
        "subscriberPrefix",
        "trafficClass",
    ],
};
const PORTS: Schema = Schema { of: "ports", known: &["range"], later: &["low", "except"] };
const QUOTA: Schema = Schema {
    of: "quota",
    known: &["blocks", "sessions"],
    later: &["tcp", "udp", "icmp", "sessionsPerMapping", "newPerSecond"],
};
const HOLD_DOWN: Schema = Schema {
    of: "holdDown",
    known: &["blockSeconds"],
    later: &["seconds", "maxPorts", "afterRestart"],
};
const TIMERS: Schema = Schema {
    of: "timers",
    known: &[
        "udp",
        "udpByPort",
        "tcpEstablished",
        "tcpOpening",
        "tcpClosing",
        "tcpTimeWait",
        "tcpReset",
        "icmpQuery",
    ],
    later: &["tcpIncomingSyn", "other", "fragment"],
};

/// Longest timer, in seconds (`requirements.md`, timers).
const MAX_SECONDS: u64 = 86_400;

/// Reads the `spec` of an `AddressPool`.
pub(super) fn read(spec: &Field<'_>, problems: &mut Problems) -> Option<PoolSpec> {
    let group = spec.group(&SPEC, problems)?;
    read_profile(&group, problems);
    read_shared(&group, problems);
    let mut settings = PoolSettings::default();
    read_ports(&group, &mut settings, problems);
    read_limits(&group, &mut settings, problems);
    if let Some(timers) = group.get("timers").and_then(|f| f.group(&TIMERS, problems)) {
        read_timers(&timers, &mut settings.timers, problems);
    }
    let remedy = "list addresses, ranges or prefixes in spec.addresses";
    let ranges = group
        .required("addresses", remedy, problems)
        .map_or_else(Vec::new, |field| read_addresses(field, problems));
    Some(PoolSpec { settings, ranges })
}

fn read_profile(group: &Group<'_>, problems: &mut Problems) {
    let Some(field) = group.get("profile") else { return };
    if field.text(problems) == Some("rfc4787") {
        let why = "the profile \"rfc4787\" is not in this version of natgate";
        let remedy = "write high-density, or remove the field";
        problems.error(&field.place(), "unsupported profile", why, remedy);
    } else if field.is_text() {
        field.choice(&[("high-density", ())], problems);
    }
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
        let Some(text) = item.text(problems) else { continue };
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
    let remedy = "write for example range: \"1024-65535\"";
    let Some(range) = field.required("range", remedy, problems) else { return };
    let Some(text) = range.text_or_number(problems) else { return };
    let size = settings.block_size;
    match address::ports(&text) {
        Err(refusal) => {
            problems.error(&range.place(), "bad port range", refusal.why, refusal.remedy);
        }
        Ok(ports) if *ports.start() < 1024 => {
            let why = format!("{text} reaches below 1024, where services of the system live");
            problems.error(&range.place(), "bad port range", why, "begin at 1024 or above");
        }
        Ok(ports) if blocks_in(&ports, size) == 0 => {
            let why = format!("{text} holds no whole block of {size} ports");
            let remedy =
                "widen the range or lower spec.blockSize (blocks begin at multiples of it)";
            problems.error(&range.place(), "bad port range", why, remedy);
        }
        Ok(ports) => settings.ports = ports,
    }
}

/// Whole blocks of `size` ports, aligned to it, within `ports`.
pub(super) fn blocks_in(ports: &std::ops::RangeInclusive<u16>, size: u16) -> u32 {
    let (start, end, size) = (*ports.start() as u32, *ports.end() as u32 + 1, size as u32);
    (end / size).saturating_sub(start.div_ceil(size))
}

fn read_limits(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if let Some(quota) = group.get("quota").and_then(|f| f.group(&QUOTA, problems)) {
        let blocks = quota.get("blocks").and_then(|f| f.number(1..=65_536, problems));
        settings.quota.blocks = blocks.unwrap_or(settings.quota.blocks);
        let sessions = quota.get("sessions").and_then(|f| f.number(1..=16_777_216, problems));
        settings.quota.sessions = sessions.unwrap_or(settings.quota.sessions);
    }
    if let Some(spill) = group.get("spill").and_then(|f| f.truth(problems)) {
        settings.spill = spill;
    }
    let hold_down = group.get("holdDown").and_then(|f| f.group(&HOLD_DOWN, problems));
    let Some(field) = hold_down.as_ref().and_then(|g| g.get("blockSeconds")) else { return };
    if let Some(seconds) = field.number(0..=MAX_SECONDS, problems) {
        warn_below(field, seconds, 120, "6888-REQ-8", problems);
        settings.hold_down.block = Duration::from_secs(seconds);
    }
}

fn read_timers(group: &Group<'_>, timers: &mut Timers, problems: &mut Problems) {
    /// The RFC's minimum and the requirement that is lost below it.
    type Minimum = Option<(u64, &'static str)>;
    let rows: [(&str, &mut Duration, Minimum); 7] = [
        ("udp", &mut timers.udp, Some((120, "4787-REQ-5"))),
        ("tcpEstablished", &mut timers.tcp_established, Some((7440, "5382-REQ-5.2"))),
        ("tcpOpening", &mut timers.tcp_opening, None),
        ("tcpClosing", &mut timers.tcp_closing, Some((240, "5382-REQ-5.3"))),
        ("tcpTimeWait", &mut timers.tcp_time_wait, None),
        ("tcpReset", &mut timers.tcp_reset, None),
        ("icmpQuery", &mut timers.icmp_query, Some((60, "5508-REQ-2"))),
    ];
    for (name, target, minimum) in rows {
        let Some(field) = group.get(name) else { continue };
        let Some(seconds) = field.number(1..=MAX_SECONDS, problems) else { continue };
        *target = Duration::from_secs(seconds);
        if let Some((minimum, requirement)) = minimum {
            warn_below(field, seconds, minimum, requirement, problems);
        }
    }
    if let Some(field) = group.get("udpByPort") {
        timers.udp_by_port = udp_by_port(field, problems);
    }
}

fn warn_below(
    field: &Field<'_>,
    seconds: u64,
    minimum: u64,
    requirement: &str,
    problems: &mut Problems,
) {
    if seconds < minimum {
        let why = format!("{seconds} s is below {minimum} s: requirement {requirement} is lost");
        let remedy = format!("write {minimum} or more to keep it");
        problems.warn(&field.place(), "short timer", why, remedy);
    }
}

/// Timers by destination port; only registered ports, whose protocols are one question and one
/// answer, may have shorter ones (RFC 4787 REQ-5a), and QUIC's never.
fn udp_by_port(field: &Field<'_>, problems: &mut Problems) -> Vec<(u16, Duration)> {
    let mut timers = Vec::new();
    for (key, value, place) in field.entries(problems).unwrap_or_default() {
        let port = key.parse::<u16>().ok().filter(|port| (1..1024).contains(port) && *port != 443);
        if port.is_none() {
            let why = format!("{key:?} is not a port from 1 to 1023 other than 443");
            let remedy = "use spec.timers.udp for all other ports";
            problems.error(&place, "bad port", why, remedy);
        }
        let seconds = value.number(1..=MAX_SECONDS, problems);
        timers.extend(port.zip(seconds.map(Duration::from_secs)));
    }
    timers
}
