//! All settings of a pool as they are in force, in the words of the objects.

use conntrack::{
    Behavior, InboundRefresh, IpId, MidStream, OnExhaustion, OnExpiry, Overlap, PoolSettings,
    Pooling, Removal, UnsolicitedSyn,
};
use serde::Serialize;
use std::collections::BTreeMap;
use std::ops::RangeInclusive;

/// The `spec` of an `AddressPool` in which nothing is left out; times in seconds.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Spec {
    mapping: &'static str,
    filtering: Filtering,
    overlap: &'static str,
    pooling: PoolingSpec,
    spill: bool,
    ports: Ports,
    block_size: u16,
    parity: bool,
    preserve: bool,
    /// `null`: none.
    scatter: Option<Scatter>,
    quota: Quota,
    hold_down: HoldDown,
    inbound_refresh: &'static str,
    unsolicited_syn: &'static str,
    on_expiry: &'static str,
    on_exhaustion: &'static str,
    mid_stream: &'static str,
    ip_id: &'static str,
    removal: &'static str,
    timers: Timers,
}

#[derive(Serialize)]
struct Filtering {
    tcp: &'static str,
    udp: &'static str,
}

#[derive(Serialize)]
struct PoolingSpec {
    kind: &'static str,
    linger: u64,
}

#[derive(Serialize)]
struct Ports {
    range: String,
    low: Option<String>,
    except: Vec<String>,
}

#[derive(Serialize)]
struct Scatter {
    ports: String,
    seconds: u64,
    log: bool,
}

/// `null`: no limit.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Quota {
    blocks: u32,
    blocks_soft: Option<u32>,
    sessions: u32,
    sessions_soft: Option<u32>,
    sessions_per_mapping: Option<u32>,
    half_open: u32,
    tcp: Option<u32>,
    udp: Option<u32>,
    icmp: Option<u32>,
    new_per_second: Option<u32>,
    burst: Option<u32>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HoldDown {
    seconds: u64,
    block_seconds: u64,
    max_ports: u64,
    after_restart: u64,
}

/// Times for one destination port.
#[derive(Serialize)]
struct ByPort {
    idle: u64,
    answered: Option<u64>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Timers {
    udp: u64,
    udp_by_port: BTreeMap<u16, ByPort>,
    tcp_established: u64,
    tcp_opening: u64,
    tcp_closing: u64,
    tcp_time_wait: u64,
    tcp_reset: u64,
    tcp_incoming_syn: u64,
    icmp_query: u64,
    other: u64,
    fragment: u64,
}

impl Spec {
    /// The settings of a pool of so many addresses.
    pub(super) fn new(settings: &PoolSettings, addresses: u64) -> Self {
        Self {
            mapping: behavior(settings.mapping),
            filtering: Filtering {
                tcp: behavior(settings.filtering_tcp),
                udp: behavior(settings.filtering_udp),
            },
            overlap: overlap(settings.overlap),
            pooling: PoolingSpec {
                kind: pooling(settings.pooling),
                linger: settings.linger.as_secs(),
            },
            spill: settings.spill,
            ports: Ports {
                range: range(&settings.ports),
                low: settings.low_ports.as_ref().map(range),
                except: settings.except.iter().map(range).collect(),
            },
            block_size: settings.block_size,
            parity: settings.parity,
            preserve: settings.preserve,
            scatter: settings.scatter.as_ref().map(|scatter| Scatter {
                ports: range(&scatter.ports),
                seconds: scatter.rest.as_secs(),
                log: settings.log_scattered,
            }),
            quota: Quota::from(&settings.quota),
            hold_down: HoldDown::new(settings, addresses),
            inbound_refresh: inbound_refresh(settings.inbound_refresh),
            unsolicited_syn: unsolicited_syn(settings.unsolicited_syn),
            on_expiry: on_expiry(settings.on_expiry),
            on_exhaustion: on_exhaustion(settings.on_exhaustion),
            mid_stream: mid_stream(settings.mid_stream),
            ip_id: ip_id(settings.ip_id),
            removal: removal(settings.removal),
            timers: Timers::from(&settings.timers),
        }
    }

    /// One line for each group of settings: its name and its words.
    pub(super) fn lines(&self) -> Vec<(&'static str, String)> {
        let Filtering { tcp, udp } = self.filtering;
        let filtering =
            if tcp == udp { tcp.to_owned() } else { format!("tcp {tcp}, udp and icmp {udp}") };
        let low = self.ports.low.as_ref().map(|low| format!("low {low}"));
        let except = (!self.ports.except.is_empty())
            .then(|| format!("except {}", self.ports.except.join(", ")));
        let ports = [Some(self.ports.range.clone()), low, except];
        let scatter = self.scatter.as_ref().map_or_else(
            || "off".to_owned(),
            |scatter| {
                let log = if scatter.log { ", recorded" } else { "" };
                format!("DNS over {}, rest {}\u{a0}s{log}", scatter.ports, scatter.seconds)
            },
        );
        let pooling = format!(
            "{}, linger {}\u{a0}s, {}",
            self.pooling.kind,
            self.pooling.linger,
            if self.spill { "spills" } else { "no spill" }
        );
        let on = |truth: bool| if truth { "on" } else { "off" };
        let HoldDown { seconds, block_seconds, max_ports, .. } = self.hold_down;
        vec![
            ("mapping", self.mapping.to_owned()),
            ("filtering", filtering),
            ("overlap", self.overlap.to_owned()),
            ("pooling", pooling),
            ("ports", ports.into_iter().flatten().collect::<Vec<_>>().join(", ")),
            ("parity", format!("{}, preserve {}", on(self.parity), on(self.preserve))),
            ("scatter", scatter),
            ("quota", self.quota.words()),
            (
                "holdDown",
                format!(
                    "port {seconds}\u{a0}s, block {block_seconds}\u{a0}s, at most {max_ports} ports"
                ),
            ),
            (
                "inbound",
                format!(
                    "inboundRefresh {}, unsolicitedSyn {}",
                    self.inbound_refresh, self.unsolicited_syn
                ),
            ),
            (
                "answers",
                format!(
                    "onExhaustion {}, onExpiry {}, midStream {}",
                    self.on_exhaustion, self.on_expiry, self.mid_stream
                ),
            ),
            ("ipId", self.ip_id.to_owned()),
            ("removal", self.removal.to_owned()),
            ("timers", self.timers.udp_words()),
            ("", self.timers.tcp_words()),
            ("", self.timers.tcp_end_words()),
            ("", self.timers.other_words()),
        ]
    }
}

impl From<&conntrack::Quota> for Quota {
    fn from(quota: &conntrack::Quota) -> Self {
        Self {
            blocks: quota.blocks,
            blocks_soft: quota.blocks_soft,
            sessions: quota.sessions,
            sessions_soft: quota.sessions_soft,
            sessions_per_mapping: quota.sessions_per_mapping,
            half_open: quota.half_open,
            tcp: quota.tcp,
            udp: quota.udp,
            icmp: quota.icmp,
            new_per_second: quota.new_per_second,
            burst: quota.new_per_second.map(|_| quota.burst),
        }
    }
}

impl Quota {
    fn words(&self) -> String {
        let all = [
            ("blocks", Some(self.blocks)),
            ("blocksSoft", self.blocks_soft),
            ("sessions", Some(self.sessions)),
            ("sessionsSoft", self.sessions_soft),
            ("sessionsPerMapping", self.sessions_per_mapping),
            ("halfOpen", Some(self.half_open)),
            ("tcp", self.tcp),
            ("udp", self.udp),
            ("icmp", self.icmp),
            ("newPerSecond", self.new_per_second),
            ("burst", self.burst),
        ];
        let words = all.iter().filter_map(|(name, value)| Some(format!("{name} {}", (*value)?)));
        words.collect::<Vec<_>>().join(", ")
    }
}

impl HoldDown {
    fn new(settings: &PoolSettings, addresses: u64) -> Self {
        let rests = &settings.hold_down;
        Self {
            seconds: rests.port.as_secs(),
            block_seconds: rests.block.as_secs(),
            max_ports: settings.max_resting(addresses as usize),
            after_restart: rests.after_restart.as_secs(),
        }
    }
}

impl From<&conntrack::Timers> for Timers {
    fn from(timers: &conntrack::Timers) -> Self {
        let answered = |port: u16| {
            let own = timers.udp_answered.iter().find(|(other, _)| *other == port);
            own.map(|(_, time)| time.as_secs())
        };
        let by_port = timers
            .udp_by_port
            .iter()
            .map(|&(port, time)| (port, ByPort { idle: time.as_secs(), answered: answered(port) }));
        Self {
            udp: timers.udp.as_secs(),
            udp_by_port: by_port.collect(),
            tcp_established: timers.tcp_established.as_secs(),
            tcp_opening: timers.tcp_opening.as_secs(),
            tcp_closing: timers.tcp_closing.as_secs(),
            tcp_time_wait: timers.tcp_time_wait.as_secs(),
            tcp_reset: timers.tcp_reset.as_secs(),
            tcp_incoming_syn: timers.tcp_incoming_syn.as_secs(),
            icmp_query: timers.icmp_query.as_secs(),
            other: timers.other.as_secs(),
            fragment: timers.fragment.as_secs(),
        }
    }
}

impl Timers {
    fn udp_words(&self) -> String {
        let word = |(port, time): (&u16, &ByPort)| {
            let answered =
                time.answered.map_or_else(String::new, |s| format!(" ({s}\u{a0}s once answered)"));
            format!(", to port\u{a0}{port}\u{a0}{}\u{a0}s{answered}", time.idle)
        };
        format!("udp {}\u{a0}s{}", self.udp, self.udp_by_port.iter().map(word).collect::<String>())
    }

    fn tcp_words(&self) -> String {
        format!(
            "tcpEstablished {}\u{a0}s, tcpOpening {}\u{a0}s, tcpIncomingSyn {}\u{a0}s",
            self.tcp_established, self.tcp_opening, self.tcp_incoming_syn
        )
    }

    fn tcp_end_words(&self) -> String {
        let Self { tcp_closing, tcp_time_wait, tcp_reset, .. } = self;
        format!(
            "tcpClosing {tcp_closing}\u{a0}s, tcpTimeWait {tcp_time_wait}\u{a0}s, tcpReset {tcp_reset}\u{a0}s"
        )
    }

    fn other_words(&self) -> String {
        let Self { icmp_query, other, fragment, .. } = self;
        format!("icmpQuery {icmp_query}\u{a0}s, other {other}\u{a0}s, fragment {fragment}\u{a0}s")
    }
}

fn behavior(behavior: Behavior) -> &'static str {
    match behavior {
        Behavior::EndpointIndependent => "endpoint-independent",
        Behavior::AddressDependent => "address-dependent",
        Behavior::AddressAndPortDependent => "address-and-port-dependent",
    }
}

fn overlap(overlap: Overlap) -> &'static str {
    match overlap {
        Overlap::Endpoint => "endpoint",
        Overlap::Address => "address",
    }
}

fn pooling(pooling: Pooling) -> &'static str {
    match pooling {
        Pooling::Paired => "paired",
        Pooling::Arbitrary => "arbitrary",
    }
}

fn inbound_refresh(refresh: InboundRefresh) -> &'static str {
    match refresh {
        InboundRefresh::Peers => "peers",
        InboundRefresh::None => "none",
    }
}

fn unsolicited_syn(what: UnsolicitedSyn) -> &'static str {
    match what {
        UnsolicitedSyn::Drop => "drop",
        UnsolicitedSyn::Delayed => "delayed",
    }
}

fn on_expiry(what: OnExpiry) -> &'static str {
    match what {
        OnExpiry::Reset => "reset",
        OnExpiry::Silent => "silent",
    }
}

fn on_exhaustion(what: OnExhaustion) -> &'static str {
    match what {
        OnExhaustion::Icmp => "icmp",
        OnExhaustion::IcmpAdmin => "icmp-admin",
        OnExhaustion::Reset => "reset",
        OnExhaustion::Silent => "silent",
    }
}

fn mid_stream(what: MidStream) -> &'static str {
    match what {
        MidStream::Reset => "reset",
        MidStream::Drop => "drop",
    }
}

fn removal(what: Removal) -> &'static str {
    match what {
        Removal::Drain => "drain",
        Removal::Cut => "cut",
    }
}

fn ip_id(what: IpId) -> &'static str {
    match what {
        IpId::BestEffort => "best-effort",
        IpId::Strict => "strict",
    }
}

fn range(ports: &RangeInclusive<u16>) -> String {
    let (first, last) = (ports.start(), ports.end());
    if first == last { first.to_string() } else { format!("{first}-{last}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rows of `docs/objects.md` whose first cell begins with `name` give both defaults.
    fn documented(name: &str) -> Option<[String; 2]> {
        let document = include_str!("../../docs/objects.md");
        let row = document.lines().find(|line| line.starts_with(&format!("| `{name}`")))?;
        let mut cells = row.trim_matches('|').split('|').map(|cell| cell.trim().replace(',', ""));
        let first = cells.find(|cell| cell.parse::<u64>().is_ok())?;
        Some([first, cells.next()?])
    }

    #[test]
    fn the_objects_document_gives_the_timers_of_both_profiles() {
        let profiles = [PoolSettings::high_density(), PoolSettings::rfc4787()];
        let timers = profiles.map(|settings| {
            serde_json::to_value(Spec::new(&settings, 1)).unwrap()["timers"].clone()
        });
        let names: Vec<String> = timers[0].as_object().unwrap().keys().cloned().collect();
        assert_eq!(names.len(), 11);
        for name in names.iter().filter(|name| *name != "udpByPort") {
            let values = [&timers[0], &timers[1]].map(|timers| timers[name].to_string());
            assert_eq!(documented(name), Some(values), "{name}");
        }
    }

    #[test]
    fn no_line_is_too_long_to_read() {
        for settings in [PoolSettings::high_density(), PoolSettings::rfc4787()] {
            for (name, text) in Spec::new(&settings, 4).lines() {
                assert!(name.len() <= 12 && text.len() <= 90, "{name}: {text}");
            }
        }
    }
}
