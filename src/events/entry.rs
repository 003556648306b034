//! What stands in the journal? One structure, whatever form it leaves in.

use std::net::Ipv4Addr;
use std::sync::Arc;

use conntrack::{Endpoint, EventKind, Limit, Protocol};
use serde::{Deserialize, Serialize};

use super::clock::ClockSet;
use super::journal::Held;
use super::time::rfc3339;

/// One entry of the journal.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Entry {
    /// Its number: one more than that of the entry before. The first of a process is 1.
    pub(crate) seq: u64,
    /// When it happened, in milliseconds since 1970, as the system's clock said then.
    pub(crate) unix_ms: u64,
    /// When it happened, in milliseconds since natgate started, on a clock that nobody sets.
    pub(crate) clock_ms: u64,
    /// On which worker, if on one.
    pub(crate) worker: Option<u16>,
    /// What.
    pub(crate) what: Happening,
}

/// Some ports of a public address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Place {
    /// The public address.
    pub(crate) public: Ipv4Addr,
    /// Its first port.
    pub(crate) first: u16,
    /// Its last port.
    pub(crate) last: u16,
}

/// Ports that a configuration gives to a pod: of a port forward, or all those of a 1:1 address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fixed {
    /// The name of the object.
    pub(crate) name: Arc<str>,
    /// Its protocol; `None`: every one.
    pub(crate) protocol: Option<Protocol>,
    /// The pod's port for the first public port.
    pub(crate) target_port: u16,
    /// The VNI of the pod's network, if the object or the routes name one.
    pub(crate) vni: Option<u32>,
}

/// How a change of a block became known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Known {
    /// It was recorded when it happened.
    #[default]
    Recorded,
    /// Nobody recorded it when it happened; it was seen later.
    Found,
    /// It was so before the start: the natgate before recorded it, and left it to this one.
    Restored,
}

/// A natgate that ended without a word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Crash {
    /// Its last sign of life, in milliseconds since 1970, if that can be read.
    pub(crate) seen_ms: Option<u64>,
    /// Sessions that it had then.
    pub(crate) sessions: u64,
    /// The number of the newest entry of its journal then.
    pub(crate) newest: u64,
    /// Who it was, and how it may have ended, for people.
    pub(crate) who: String,
}

impl Crash {
    /// For the log and the status.
    pub(crate) fn line(&self) -> String {
        let Self { seen_ms, sessions, newest, who } = self;
        match seen_ms {
            Some(at) => {
                let had = match sessions {
                    0 => String::new(),
                    1 => "the session that it had then, and ".to_owned(),
                    many => format!("the {many} sessions that it had then, and "),
                };
                format!(
                    "{who}; its last sign of life was at {}; lost: {had}records of what happened after that (entry \
                     {newest} of its journal)",
                    rfc3339(*at)
                )
            }
            None => format!("{who}; what it had is not known, and lost"),
        }
    }
}

/// What has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    /// natgate has started.
    Started,
    /// natgate ends in order.
    Stopped,
    /// A subscriber got a port block, or gave it back.
    Block {
        /// It got it.
        allotted: bool,
        /// Where.
        place: Place,
        /// Who.
        subscriber: Ipv4Addr,
        /// The overlay in which the address is the subscriber's.
        overlay: u16,
        /// The VNI of that overlay, unless it is 0.
        vni: Option<u32>,
        /// The name of the pool.
        pool: Arc<str>,
        /// The number of the pool.
        pool_id: u16,
        /// How that is known.
        known: Known,
    },
    /// A configuration gives ports to a pod, or takes them back.
    Fixed {
        /// It gives them.
        added: bool,
        /// Where.
        place: Place,
        /// Who.
        subscriber: Ipv4Addr,
        /// By what.
        fixed: Fixed,
    },
    /// A session began or ended.
    Session {
        /// It began.
        began: bool,
        /// Its protocol.
        protocol: Protocol,
        /// The pod's endpoint.
        internal: Endpoint,
        /// The overlay of the pod.
        overlay: u16,
        /// The VNI of that overlay, unless it is 0.
        vni: Option<u32>,
        /// The public endpoint.
        public: Endpoint,
        /// The peer, if those are recorded (RFC 6888 REQ-12: they should not).
        remote: Option<Endpoint>,
        /// The name of the pool.
        pool: Arc<str>,
    },
    /// A limit is near or reached.
    Limit {
        /// What.
        kind: EventKind,
        /// In which pool: name and number.
        pool: Option<(Arc<str>, u16)>,
        /// Whose flow brought it about.
        subscriber: Option<Ipv4Addr>,
        /// How much there is.
        used: u64,
        /// How much there may be.
        limit: u64,
    },
    /// A worker had no room for so many records.
    Missing(u64),
    /// The system's clock was set.
    ClockSet(ClockSet),
    /// The natgate before ended without a word.
    Crashed(Crash),
}

impl Happening {
    /// Names of all kinds but those of limits.
    pub(crate) const NAMES: [&'static str; 11] = [
        "started",
        "stopped",
        "block-allotted",
        "block-released",
        "fixed-added",
        "fixed-removed",
        "session-began",
        "session-ended",
        "missing",
        "clock-set",
        "crashed",
    ];

    /// A dense index of the kinds: those of [`NAMES`](Self::NAMES), then those of limits.
    pub(crate) const fn index(&self) -> usize {
        match self {
            Self::Started => 0,
            Self::Stopped => 1,
            Self::Block { allotted, .. } => 3 - *allotted as usize,
            Self::Fixed { added, .. } => 5 - *added as usize,
            Self::Session { began, .. } => 7 - *began as usize,
            Self::Missing(_) => 8,
            Self::ClockSet(_) => 9,
            Self::Crashed(_) => 10,
            Self::Limit { kind, .. } => Self::NAMES.len() + kind.index(),
        }
    }

    /// The name of a kind by its index.
    pub(crate) fn name_of(index: usize) -> &'static str {
        let limits = index.checked_sub(Self::NAMES.len());
        limits.map_or_else(|| Self::NAMES[index], |limit| EventKind::NAMES[limit])
    }

    /// How many kinds there are.
    pub(crate) const COUNT: usize = Self::NAMES.len() + EventKind::COUNT;
}

/// An entry in JSON: `/v1/events`, and the lines of the log. Fields that say nothing are left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(default)]
pub(crate) struct Row {
    /// The number in the journal; without one: of the state at the time of [`as_of`](Self::as_of).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) seq: Option<u64>,
    /// When it happened, in RFC 3339.
    pub(crate) time: String,
    /// Milliseconds since natgate started.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) clock_ms: Option<u64>,
    /// What has happened.
    pub(crate) kind: String,
    /// The worker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) worker: Option<u16>,
    /// The pool.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) pool: Option<String>,
    /// The object that gives ports to a pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) name: Option<String>,
    /// The protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) protocol: Option<String>,
    /// The public address; of a session: with its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) public: Option<String>,
    /// First port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) first: Option<u16>,
    /// Last port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last: Option<u16>,
    /// The pod's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscriber: Option<String>,
    /// Its port.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) subscriber_port: Option<u16>,
    /// Its overlay, unless it is 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) overlay: Option<u16>,
    /// The VNI of its overlay.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) vni: Option<u32>,
    /// The peer outside.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) remote: Option<String>,
    /// The limit that is near or reached.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) of: Option<String>,
    /// How much there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) used: Option<u64>,
    /// How much there may be; or how many entries, records or lines this one stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) limit: Option<u64>,
    /// How many are missing, or follow.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) count: Option<u64>,
    /// Of a gap: the first number that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) from: Option<u64>,
    /// Of a gap: the last number that is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) to: Option<u64>,
    /// The state after the entry of this number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) as_of: Option<u64>,
    /// What the clock would have said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) before: Option<String>,
    /// It was seen later, and not recorded when it happened.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) found: bool,
    /// It was so before the start, and the natgate before recorded it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) restored: bool,
    /// The last sign of life of the natgate before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_seen: Option<String>,
    /// The version of natgate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) version: Option<String>,
}

impl Row {
    /// Numbers that a follower did not get in time.
    pub(crate) fn gap(from: u64, to: u64, unix_ms: u64) -> Self {
        Self {
            time: rfc3339(unix_ms),
            kind: "gap".to_owned(),
            count: Some(to + 1 - from),
            from: Some(from),
            to: Some(to),
            ..Self::default()
        }
    }
}

impl Row {
    /// Says that lines of what is held after the entry `as_of` follow, so many.
    pub(super) fn state(as_of: u64, count: usize, unix_ms: u64) -> Self {
        Self {
            time: rfc3339(unix_ms),
            kind: "state".to_owned(),
            as_of: Some(as_of),
            count: Some(count as u64),
            ..Self::default()
        }
    }

    /// Something that is held after the entry `as_of`.
    pub(super) fn held(as_of: u64, held: &Held) -> Self {
        let kind = if held.fixed().is_some() { "fixed-held" } else { "block-held" };
        let row = Self::from(&*held.entry);
        Self { seq: None, as_of: Some(as_of), kind: kind.to_owned(), clock_ms: None, ..row }
    }
}

fn unless_zero(overlay: u16) -> Option<u16> {
    Some(overlay).filter(|&overlay| overlay != 0)
}

impl From<&Entry> for Row {
    #[allow(clippy::too_many_lines)] // one arm for each kind
    fn from(entry: &Entry) -> Self {
        let row = Self {
            seq: Some(entry.seq),
            time: rfc3339(entry.unix_ms),
            clock_ms: Some(entry.clock_ms),
            kind: Happening::name_of(entry.what.index()).to_owned(),
            worker: entry.worker,
            ..Self::default()
        };
        match &entry.what {
            Happening::Started => {
                Self { version: Some(env!("CARGO_PKG_VERSION").to_owned()), ..row }
            }
            Happening::Stopped => row,
            Happening::Block { place, subscriber, overlay, vni, pool, known, .. } => Self {
                public: Some(place.public.to_string()),
                first: Some(place.first),
                last: Some(place.last),
                subscriber: Some(subscriber.to_string()),
                overlay: unless_zero(*overlay),
                vni: *vni,
                pool: Some(pool.to_string()),
                found: *known == Known::Found,
                restored: *known == Known::Restored,
                ..row
            },
            Happening::Fixed { place, subscriber, fixed, .. } => Self {
                public: Some(place.public.to_string()),
                first: Some(place.first),
                last: Some(place.last),
                subscriber: Some(subscriber.to_string()),
                subscriber_port: Some(fixed.target_port),
                protocol: fixed.protocol.map(|protocol| protocol.name().to_owned()),
                name: Some(fixed.name.to_string()),
                vni: fixed.vni,
                ..row
            },
            Happening::Session {
                protocol, internal, overlay, vni, public, remote, pool, ..
            } => Self {
                protocol: Some(protocol.name().to_owned()),
                public: Some(public.to_string()),
                subscriber: Some(internal.addr.to_string()),
                subscriber_port: Some(internal.port),
                overlay: unless_zero(*overlay),
                vni: *vni,
                remote: remote.map(|remote| remote.to_string()),
                pool: Some(pool.to_string()),
                ..row
            },
            Happening::Limit { kind, pool, subscriber, used, limit } => Self {
                pool: pool.as_ref().map(|(name, _)| name.to_string()),
                subscriber: subscriber.map(|addr| addr.to_string()),
                of: limit_of(*kind).map(|limit| limit.name().to_owned()),
                used: Some(*used),
                limit: Some(*limit),
                ..row
            },
            Happening::Missing(count) => Self { count: Some(*count), ..row },
            Happening::ClockSet(set) => Self { before: Some(rfc3339(set.from_ms)), ..row },
            Happening::Crashed(crash) => {
                Self { last_seen: crash.seen_ms.map(rfc3339), count: Some(crash.sessions), ..row }
            }
        }
    }
}

/// The limit of a subscriber that an event is about.
pub(crate) const fn limit_of(kind: EventKind) -> Option<Limit> {
    match kind {
        EventKind::QuotaSoft(limit) | EventKind::QuotaExhausted(limit) => Some(limit),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_crash_lost_is_counted_in_words() {
        let line = |sessions| {
            let who = "it ended".to_owned();
            Crash { seen_ms: Some(0), sessions, newest: 5, who }.line()
        };
        assert!(line(0).contains("; lost: records of what happened"), "{}", line(0));
        assert!(line(1).contains("; lost: the session that it had then, and"), "{}", line(1));
        assert!(line(2).contains("; lost: the 2 sessions that it had then, and"), "{}", line(2));
    }
}
