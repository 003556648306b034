//! How much may a subscriber hold, and for how long? Quotas, rests and timers.

use std::time::Duration;

use conntrack::{HoldDown, PoolSettings, Quota, Timers};

use super::MAX_SECONDS;
use crate::config::ask::TIMED_PORT;
use crate::config::field::{Field, Group, Schema};
use crate::config::problem::Problems;
use crate::config::tree::Value;

const QUOTA: Schema = Schema {
    of: "quota",
    known: &[
        "blocks",
        "blocksSoft",
        "sessions",
        "sessionsSoft",
        "sessionsPerMapping",
        "halfOpen",
        "tcp",
        "udp",
        "icmp",
        "newPerSecond",
        "burst",
    ],
    later: &[],
};
const HOLD_DOWN: Schema = Schema {
    of: "holdDown",
    known: &["seconds", "blockSeconds", "maxPorts", "afterRestart"],
    later: &[],
};
const BY_PORT: Schema = Schema { of: "a timer by port", known: &["idle", "answered"], later: &[] };
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
        "tcpIncomingSyn",
        "icmpQuery",
        "other",
        "fragment",
    ],
    later: &[],
};

/// Reads quotas, rests and timers.
pub(super) fn read(group: &Group<'_>, settings: &mut PoolSettings, problems: &mut Problems) {
    if let Some(quota) = group.get("quota").and_then(|f| f.group(&QUOTA, problems)) {
        read_quota(&quota, &mut settings.quota, problems);
    }
    if let Some(rests) = group.get("holdDown").and_then(|f| f.group(&HOLD_DOWN, problems)) {
        read_hold_down(&rests, &mut settings.hold_down, problems);
    }
    if let Some(timers) = group.get("timers").and_then(|f| f.group(&TIMERS, problems)) {
        read_timers(&timers, &mut settings.timers, problems);
    }
}

fn read_quota(group: &Group<'_>, quota: &mut Quota, problems: &mut Problems) {
    const MOST: u32 = 16_777_216;
    let fixed: [(&str, u32, &mut u32); 4] = [
        ("blocks", 65_536, &mut quota.blocks),
        ("sessions", MOST, &mut quota.sessions),
        ("halfOpen", MOST, &mut quota.half_open),
        ("burst", MOST, &mut quota.burst),
    ];
    for (name, most, target) in fixed {
        if let Some(number) = group.get(name).and_then(|f| f.number(1..=most, problems)) {
            *target = number;
        }
    }
    let optional: [(&str, &mut Option<u32>); 7] = [
        ("blocksSoft", &mut quota.blocks_soft),
        ("sessionsSoft", &mut quota.sessions_soft),
        ("sessionsPerMapping", &mut quota.sessions_per_mapping),
        ("tcp", &mut quota.tcp),
        ("udp", &mut quota.udp),
        ("icmp", &mut quota.icmp),
        ("newPerSecond", &mut quota.new_per_second),
    ];
    for (name, target) in optional {
        if let Some(number) = group.get(name).and_then(|f| f.number(1..=MOST, problems)) {
            *target = Some(number);
        }
    }
    // A rate without a burst lets a second's worth come at once.
    if let (Some(rate), None) = (quota.new_per_second, group.get("burst")) {
        quota.burst = rate;
    }
    let pairs = [
        ("blocksSoft", quota.blocks_soft, quota.blocks),
        ("sessionsSoft", quota.sessions_soft, quota.sessions),
    ];
    for (name, soft, hard) in pairs {
        if let (Some(soft), Some(field)) = (soft.filter(|soft| *soft > hard), group.get(name)) {
            let why = format!("{soft} is above the hard limit of {hard}, which comes first");
            problems.error(&field.place(), "soft limit too high", why, "write a lower number");
        }
    }
}

fn read_hold_down(group: &Group<'_>, rests: &mut HoldDown, problems: &mut Problems) {
    let rows: [(&str, &mut Duration); 3] = [
        ("seconds", &mut rests.port),
        ("blockSeconds", &mut rests.block),
        ("afterRestart", &mut rests.after_restart),
    ];
    for (name, target) in rows {
        if let Some(seconds) = group.get(name).and_then(|f| f.number(0..=MAX_SECONDS, problems)) {
            *target = Duration::from_secs(seconds.into());
        }
    }
    if let Some(most) = group.get("maxPorts").and_then(|f| f.number(0..=u32::MAX, problems)) {
        rests.max_ports = Some(most);
    }
}

fn read_timers(group: &Group<'_>, timers: &mut Timers, problems: &mut Problems) {
    let rows: [(&str, &mut Duration); 10] = [
        ("udp", &mut timers.udp),
        ("tcpEstablished", &mut timers.tcp_established),
        ("tcpOpening", &mut timers.tcp_opening),
        ("tcpClosing", &mut timers.tcp_closing),
        ("tcpTimeWait", &mut timers.tcp_time_wait),
        ("tcpReset", &mut timers.tcp_reset),
        ("tcpIncomingSyn", &mut timers.tcp_incoming_syn),
        ("icmpQuery", &mut timers.icmp_query),
        ("other", &mut timers.other),
        ("fragment", &mut timers.fragment),
    ];
    for (name, target) in rows {
        if let Some(seconds) = group.get(name).and_then(|f| f.number(1..=MAX_SECONDS, problems)) {
            *target = Duration::from_secs(seconds.into());
        }
    }
    if let Some(field) = group.get("udpByPort") {
        udp_by_port(field, timers, problems);
    }
}

/// Timers by destination port; only registered ports, whose protocols are one question and one
/// answer, may have shorter ones (RFC 4787 REQ-5a), and QUIC's never.
fn udp_by_port(field: &Field<'_>, timers: &mut Timers, problems: &mut Problems) {
    (timers.udp_by_port, timers.udp_answered) = (Vec::new(), Vec::new());
    for (key, value, place) in field.map(&TIMED_PORT, problems).unwrap_or_default() {
        let port = key.parse::<u16>().ok().filter(|port| (1..1024).contains(port) && *port != 443);
        if port.is_none() {
            let why = format!("{key:?} is not a port from 1 to 1023 other than 443");
            let remedy = "use spec.timers.udp for all other ports";
            problems.error(&place, "bad port", why, remedy);
        }
        let (idle, answered) = by_port_times(&value, problems);
        timers.udp_by_port.extend(port.zip(idle));
        timers.udp_answered.extend(port.zip(answered));
    }
}

/// A number, or a group with the time once the only question is answered.
fn by_port_times(
    value: &Field<'_>,
    problems: &mut Problems,
) -> (Option<Duration>, Option<Duration>) {
    let seconds = |field: &Field<'_>, problems: &mut Problems| {
        field.number(1..=MAX_SECONDS, problems).map(u64::from).map(Duration::from_secs)
    };
    if !matches!(value.node().value, Value::Map(_)) {
        return (seconds(value, problems), None);
    }
    let Some(group) = value.group(&BY_PORT, problems) else { return (None, None) };
    let remedy = "write for example {idle: 10, answered: 2}";
    let idle = group.required("idle", remedy, problems).and_then(|f| seconds(f, problems));
    (idle, group.get("answered").and_then(|f| seconds(f, problems)))
}
