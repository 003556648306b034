//! Which requirements does a pool lose by its settings?
//!
//! Every requirement that a setting can lose is a row here, with what keeps it. A pool is compared with its
//! profile: what the profile keeps and the pool does not is named. Minima are refused in the strict profile.

use std::time::Duration;

use conntrack::{Behavior, OnExhaustion, PoolSettings, Pooling, UnsolicitedSyn};

use crate::config::field::{Field, Group};
use crate::config::problem::{Place, Problems};

/// The two named sets of settings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Profile {
    HighDensity,
    Rfc4787,
}

impl Profile {
    /// Its name in objects.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::HighDensity => "high-density",
            Self::Rfc4787 => "rfc4787",
        }
    }

    pub(super) fn settings(self) -> PoolSettings {
        match self {
            Self::HighDensity => PoolSettings::high_density(),
            Self::Rfc4787 => PoolSettings::rfc4787(),
        }
    }
}

/// A least time that an RFC names.
struct Minimum {
    path: &'static [&'static str],
    requirement: &'static str,
    seconds: u64,
    /// MUST level: the strict profile refuses less.
    must: bool,
    value: fn(&PoolSettings) -> Duration,
}

const fn minimum(
    path: &'static [&'static str],
    requirement: &'static str,
    seconds: u64,
    must: bool,
    value: fn(&PoolSettings) -> Duration,
) -> Minimum {
    Minimum { path, requirement, seconds, must, value }
}

const MINIMA: [Minimum; 11] = [
    minimum(&["timers", "udp"], "4787-REQ-5", 120, true, |s| s.timers.udp),
    minimum(&["timers", "tcpEstablished"], "5382-REQ-5.2", 7440, true, |s| {
        s.timers.tcp_established
    }),
    minimum(&["timers", "tcpClosing"], "5382-REQ-5.3", 240, true, |s| s.timers.tcp_closing),
    minimum(&["timers", "tcpOpening"], "7857-S2.1c", 240, false, |s| s.timers.tcp_opening),
    minimum(&["timers", "tcpReset"], "7857-S2.2b", 240, false, |s| s.timers.tcp_reset),
    minimum(&["timers", "tcpIncomingSyn"], "5382-REQ-4.1", 6, true, |s| s.timers.tcp_incoming_syn),
    minimum(&["timers", "icmpQuery"], "5508-REQ-2", 60, true, |s| s.timers.icmp_query),
    minimum(&["timers", "fragment"], "4787-REQ-14", 2, false, |s| s.timers.fragment),
    minimum(&["holdDown", "seconds"], "6888-REQ-8", 120, false, |s| s.hold_down.port),
    minimum(&["holdDown", "blockSeconds"], "6888-REQ-8", 120, false, |s| s.hold_down.block),
    minimum(&["holdDown", "afterRestart"], "6888-REQ-8.2", 120, false, |s| {
        s.hold_down.after_restart
    }),
];

/// A choice that keeps requirements.
type Choice = (&'static str, &'static str, fn(&PoolSettings) -> bool);

const CHOICES: [Choice; 10] = [
    ("mapping", "4787-REQ-1, 5382-REQ-1 and 5508-REQ-1a", |s| {
        s.mapping == Behavior::EndpointIndependent
    }),
    ("filtering", "4787-REQ-8, 5382-REQ-3 and 6888-REQ-7.1", |s| {
        let strict = |filter| filter == Behavior::AddressAndPortDependent;
        !strict(s.filtering_tcp) && !strict(s.filtering_udp)
    }),
    ("pooling", "4787-REQ-2 and 6888-S3a", |s| s.pooling == Pooling::Paired),
    ("spill", "7857-S4a", |s| !s.spill),
    ("parity", "4787-REQ-4", |s| s.parity),
    ("ports", "4787-REQ-3a", |s| s.low_ports.is_some()),
    ("unsolicitedSyn", "5382-REQ-4.3", |s| s.unsolicited_syn == UnsolicitedSyn::Delayed),
    ("onExhaustion", "6888-REQ-11b", |s| s.on_exhaustion != OnExhaustion::Silent),
    ("preserve", "6056-S4a", |s| !s.preserve),
    ("holdDown", "6888-REQ-8", |s| s.hold_down.max_ports != Some(0)),
];

/// Names every requirement that `settings` lose and the profile keeps.
pub(super) fn compare(
    group: &Group<'_>,
    profile: Profile,
    settings: &PoolSettings,
    problems: &mut Problems,
) {
    let base = profile.settings();
    for Minimum { path, requirement, seconds, must, value } in MINIMA {
        let (minimum, value) = (Duration::from_secs(seconds), (value(&base), value(settings)));
        if value.0 < minimum || value.1 >= minimum {
            continue;
        }
        let place = place(group, path);
        let short = value.1.as_secs();
        let why = format!("{short} s is below {seconds} s: requirement {requirement} is lost");
        if must && profile == Profile::Rfc4787 {
            let remedy = format!("write {seconds} or more, or choose profile: high-density");
            problems.error(&place, "time too short for rfc4787", why, remedy);
        } else {
            let remedy = format!("write {seconds} or more to keep it");
            problems.warn(&place, "short time", why, remedy);
        }
    }
    for (field, requirements, keeps) in CHOICES {
        if keeps(&base) && !keeps(settings) {
            let why = format!("it loses {requirements}, which the profile keeps");
            let place = place(group, &[field]);
            problems.warn(&place, "requirement lost", why, "remove the setting, or accept that");
        }
    }
}

/// The place of a field, or of the nearest group around it that is there.
fn place(group: &Group<'_>, path: &[&str]) -> Place {
    let Some(outer) = group.get(path[0]) else { return group.place.clone() };
    let inner = path.get(1).and_then(|name| outer.member(name));
    inner.as_ref().map_or_else(|| outer.place(), Field::place)
}
