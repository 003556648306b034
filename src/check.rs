//! What would this configuration do? (`natgate check`)

use std::fmt::Write as _;
use std::io::{self, Write};

use conntrack::{Behavior, PoolSettings, Pooling};
use dataplane::forward::{PortForward, StaticNat};
use dataplane::rule::{Action, Rule, Service};
use dataplane::snapshot::Refused;
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::config::{self, Config, Gateway, LogFormat, Mode, OnExit, Problem};

/// Validates and prints; changes nothing.
///
/// # Errors
/// An invalid configuration, or a closed standard output.
pub(crate) fn check(args: &CheckArgs) -> anyhow::Result<()> {
    let config = Config::load(&args.gateway, &config::host_addresses()?)?;
    let plan = Plan::new(&config);
    let mut out = io::stdout().lock();
    if args.json {
        serde_json::to_writer_pretty(&mut out, &plan)?;
        writeln!(out)?;
        return Ok(());
    }
    plan.print(&mut out)?;
    Ok(())
}

/// Everything that would be programmed, in words.
#[derive(Serialize)]
struct Plan {
    gateway: Vec<Setting>,
    pools: Vec<PoolRow>,
    rules: Vec<RuleRow>,
    port_forwards: Vec<ForwardRow>,
    static_nat: Vec<StaticRow>,
    warnings: Vec<String>,
}

#[derive(Serialize)]
struct Setting {
    name: &'static str,
    value: String,
}

#[derive(Serialize)]
struct PoolRow {
    pool: String,
    ranges: Vec<String>,
    addresses: u64,
    ports: String,
    block_size: u16,
    blocks: u64,
    quota_blocks: u32,
    quota_sessions: u32,
    /// Subscribers that can hold their whole quota at once.
    subscribers_at_quota: u64,
    behavior: String,
    timers: String,
}

/// Public ports that lead to a pod.
#[derive(Serialize)]
struct ForwardRow {
    name: String,
    protocol: String,
    public: String,
    target: String,
}

/// A public address that is a pod's.
#[derive(Serialize)]
struct StaticRow {
    name: String,
    public: String,
    target: String,
}

/// A rule for one pair of prefixes.
#[derive(Serialize)]
struct RuleRow {
    priority: u32,
    from: String,
    to: String,
    except: String,
    services: String,
    action: String,
    rule: String,
}

impl Plan {
    fn new(config: &Config) -> Self {
        let policy = config.policy(1);
        let pools = config.pools.iter().zip(&policy.pools).map(|(config, pool)| {
            let blocks =
                pool.addresses.iter().map(|a| u64::from(a.directory.blocks())).sum::<u64>();
            let settings = &config.settings;
            PoolRow {
                pool: config.name.clone(),
                ranges: config.ranges.iter().map(ToString::to_string).collect(),
                addresses: pool.addresses.len() as u64,
                ports: format!("{}-{}", settings.ports.start(), settings.ports.end()),
                block_size: settings.block_size,
                blocks,
                quota_blocks: settings.quota.blocks,
                quota_sessions: settings.quota.sessions,
                subscribers_at_quota: blocks / u64::from(settings.quota.blocks),
                behavior: behavior(settings),
                timers: timers(settings),
            }
        });
        Self {
            gateway: settings(&config.gateway),
            pools: pools.collect(),
            rules: rule_rows(config),
            port_forwards: config.forwards.iter().map(ForwardRow::from).collect(),
            static_nat: config.statics.iter().map(StaticRow::from).collect(),
            warnings: config.warnings.iter().map(Problem::to_string).collect(),
        }
    }

    fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(out, "The configuration is valid. Nothing was changed.\n\nGateway")?;
        for Setting { name, value } in &self.gateway {
            writeln!(out, "  {name:<12} {value}")?;
        }
        writeln!(out, "\nPools")?;
        let mut rows = vec![
            ["POOL", "ADDRESSES", "PORTS", "BLOCKS", "BLOCK SIZE", "QUOTA", "SUBSCRIBERS AT QUOTA"]
                .map(str::to_owned),
        ];
        rows.extend(self.pools.iter().map(|pool| {
            let quota = format!("{} blocks, {} sessions", pool.quota_blocks, pool.quota_sessions);
            [
                pool.pool.clone(),
                pool.addresses.to_string(),
                pool.ports.clone(),
                pool.blocks.to_string(),
                pool.block_size.to_string(),
                quota,
                pool.subscribers_at_quota.to_string(),
            ]
        }));
        print_table(out, &rows)?;
        for pool in &self.pools {
            writeln!(out, "  {}: {}", pool.pool, pool.ranges.join(", "))?;
            writeln!(out, "  {}: {}", pool.pool, pool.behavior)?;
            writeln!(out, "  {}: timers {}", pool.pool, pool.timers)?;
        }
        self.print_fixed(out)?;
        writeln!(out, "\nRules, in order of precedence")?;
        let mut rows = vec![
            ["PRIORITY", "FROM", "TO", "EXCEPT", "SERVICES", "ACTION", "RULE"].map(str::to_owned),
        ];
        rows.extend(self.rules.iter().map(RuleRow::cells));
        print_table(out, &rows)?;
        for (index, warning) in self.warnings.iter().enumerate() {
            let gap = if index == 0 { "\n" } else { "" };
            writeln!(out, "{gap}warning: {warning}")?;
        }
        Ok(())
    }
}

impl Plan {
    /// What configuration maps, if anything.
    fn print_fixed(&self, out: &mut impl Write) -> io::Result<()> {
        if !self.port_forwards.is_empty() {
            writeln!(out, "\nPort forwards")?;
            let mut rows = vec![["NAME", "PROTOCOL", "PUBLIC", "TARGET"].map(str::to_owned)];
            rows.extend(
                self.port_forwards.iter().map(|row| {
                    [&row.name, &row.protocol, &row.public, &row.target].map(Clone::clone)
                }),
            );
            print_table(out, &rows)?;
        }
        if !self.static_nat.is_empty() {
            writeln!(out, "\n1:1 addresses")?;
            let mut rows = vec![["NAME", "PUBLIC", "TARGET"].map(str::to_owned)];
            let cells = |row: &StaticRow| [&row.name, &row.public, &row.target].map(Clone::clone);
            rows.extend(self.static_nat.iter().map(cells));
            print_table(out, &rows)?;
        }
        Ok(())
    }
}

impl From<&PortForward> for ForwardRow {
    fn from(forward: &PortForward) -> Self {
        let ports = |first: u16, count: usize| match count {
            1 => first.to_string(),
            _ => format!("{first}-{}", usize::from(first) + count - 1),
        };
        let count = forward.ports.len();
        Self {
            name: forward.name.clone(),
            protocol: forward.protocol.to_string(),
            public: format!("{}:{}", forward.address, ports(*forward.ports.start(), count)),
            target: format!("{}:{}", forward.target, ports(forward.target_port, count)),
        }
    }
}

impl From<&StaticNat> for StaticRow {
    fn from(one: &StaticNat) -> Self {
        let (public, target) = (one.address.to_string(), one.target.to_string());
        Self { name: one.name.clone(), public, target }
    }
}

impl RuleRow {
    fn cells(&self) -> [String; 7] {
        let Self { priority, from, to, except, services, action, rule } = self;
        [&priority.to_string(), from, to, except, services, action, rule].map(Clone::clone)
    }
}

fn refused(how: Refused) -> &'static str {
    match how {
        Refused::Icmp => "icmp",
        Refused::Reset => "reset",
        Refused::Silent => "silent",
    }
}

fn icmp_errors(gateway: &Gateway) -> String {
    let (all, each) = (gateway.answers.errors_per_second, gateway.answers.errors_per_subscriber);
    let where_ = gateway.error_interfaces.as_ref();
    let by = where_.map_or_else(|| "all interfaces".to_owned(), |names| names.join(", "));
    format!("{all}/s, {each}/s a subscriber, by {by}")
}

fn settings(gateway: &Gateway) -> Vec<Setting> {
    let answers = &gateway.answers;
    let automatic = |count: Option<u16>| count.map_or("automatic".to_owned(), |n| n.to_string());
    let mode = match gateway.mode {
        Mode::Auto => "auto",
        Mode::ZeroCopy => "zerocopy",
        Mode::Copy => "copy",
        Mode::Generic => "generic",
    };
    let log_format = match gateway.log_format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    let on_exit = match gateway.on_exit {
        OnExit::Block => "block",
        OnExit::Pass => "pass",
    };
    [
        ("internal", gateway.internal.join(", ")),
        ("external", gateway.external.join(", ")),
        ("workers", automatic(gateway.workers)),
        ("queues", automatic(gateway.queues)),
        ("mode", mode.to_owned()),
        ("busyPoll", gateway.busy_poll.to_string()),
        ("socket", gateway.socket.display().to_string()),
        ("metrics", gateway.metrics.map_or("off".to_owned(), |address| address.to_string())),
        ("log", gateway.log.clone()),
        ("logFormat", log_format.to_owned()),
        ("onExit", on_exit.to_owned()),
        ("sessions", gateway.sessions.to_string()),
        ("answerPing", answers.ping.to_string()),
        ("onDeny", refused(answers.denied).to_owned()),
        ("onUnmapped", refused(answers.unmapped).to_owned()),
        ("icmpErrors", icmp_errors(gateway)),
        ("grace", format!("{} s", answers.grace.as_secs())),
    ]
    .into_iter()
    .map(|(name, value)| Setting { name, value })
    .collect()
}

/// How the pool treats flows, in the words of the objects.
fn behavior(settings: &PoolSettings) -> String {
    let name = |behavior: Behavior| match behavior {
        Behavior::EndpointIndependent => "endpoint-independent",
        Behavior::AddressDependent => "address-dependent",
        Behavior::AddressAndPortDependent => "address-and-port-dependent",
    };
    let (tcp, udp) = (name(settings.filtering_tcp), name(settings.filtering_udp));
    let filtering = if tcp == udp { tcp.to_owned() } else { format!("{tcp} (tcp), {udp} (udp)") };
    let pooling = match (settings.pooling, settings.spill) {
        (Pooling::Arbitrary, _) => "arbitrary",
        (Pooling::Paired, true) => "paired, spills",
        (Pooling::Paired, false) => "paired",
    };
    let mut text =
        format!("mapping {}, filtering {filtering}, pooling {pooling}", name(settings.mapping));
    if let Some(scatter) = &settings.scatter {
        let (first, last) = (scatter.ports.start(), scatter.ports.end());
        let _ = write!(text, ", DNS scattered over {first}-{last}");
    }
    text
}

fn timers(settings: &PoolSettings) -> String {
    let timers = &settings.timers;
    let mut parts: Vec<String> = [
        ("udp", timers.udp),
        ("tcpEstablished", timers.tcp_established),
        ("tcpOpening", timers.tcp_opening),
        ("tcpClosing", timers.tcp_closing),
        ("tcpTimeWait", timers.tcp_time_wait),
        ("tcpReset", timers.tcp_reset),
        ("tcpIncomingSyn", timers.tcp_incoming_syn),
        ("icmpQuery", timers.icmp_query),
        ("other", timers.other),
        ("fragment", timers.fragment),
        ("port rest", settings.hold_down.port),
        ("block rest", settings.hold_down.block),
    ]
    .iter()
    .map(|(name, time)| format!("{name} {} s", time.as_secs()))
    .collect();
    let by_port = timers.udp_by_port.iter();
    parts.extend(by_port.map(|(port, time)| format!("udp/{port} {} s", time.as_secs())));
    parts.join(", ")
}

/// The order in which the data plane asks the rules (see [`dataplane::rule`]).
fn rule_rows(config: &Config) -> Vec<RuleRow> {
    let mut pairs: Vec<(&Rule, &Ipv4Net, &Ipv4Net)> = Vec::new();
    for rule in &config.rules {
        for from in &rule.from {
            pairs.extend(rule.to.iter().map(|to| (rule, from, to)));
        }
    }
    pairs.sort_by_key(|(rule, from, to)| {
        (rule.priority, 32 - from.prefix_len(), 32 - to.prefix_len())
    });
    let row = |(rule, from, to): (&Rule, &Ipv4Net, &Ipv4Net)| RuleRow {
        priority: rule.priority,
        from: from.to_string(),
        to: to.to_string(),
        except: listed(&rule.except, ToString::to_string, "-"),
        services: listed(&rule.services, service, "all"),
        action: match rule.action {
            Action::Exempt => "exempt".to_owned(),
            Action::Pool(id) => format!("pool {}", config.pools[id.index()].name),
        },
        rule: rule.name.clone(),
    };
    pairs.into_iter().map(row).collect()
}

fn service(service: &Service) -> String {
    let (first, last) = (*service.ports.start(), *service.ports.end());
    match (first, last) {
        (0, u16::MAX) => service.protocol.to_string(),
        _ if first == last => format!("{}/{first}", service.protocol),
        _ => format!("{}/{first}-{last}", service.protocol),
    }
}

fn listed<T>(items: &[T], show: impl Fn(&T) -> String, none: &str) -> String {
    if items.is_empty() {
        return none.to_owned();
    }
    items.iter().map(show).collect::<Vec<_>>().join(",")
}

fn print_table<const N: usize>(out: &mut impl Write, rows: &[[String; N]]) -> io::Result<()> {
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: [usize; N] = std::array::from_fn(width);
    for row in rows {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        writeln!(out, "  {}", cells.join("  ").trim_end())?;
    }
    Ok(())
}
