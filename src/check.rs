//! What would this configuration do? (`natgate check`)

mod spec;

use std::io::{self, Write};

use dataplane::forward::{PortForward, StaticNat};
use dataplane::rule::{Action, Rule, Service};
use dataplane::snapshot::{MssClamp, Refused};
use ipnet::Ipv4Net;
use serde::Serialize;

use crate::cli::CheckArgs;
use crate::config::{self, Config, Gateway, LogFormat, Mode, OnExit, Problem};
use crate::view::{counted, table, terminal_width, wrap};
use spec::Spec;

/// Columns of the names of settings.
const NAMES: usize = 15;

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
    out.write_all(plan.text(terminal_width()).as_bytes())?;
    Ok(())
}

/// Everything that would be programmed, in the words of the objects.
#[derive(Serialize)]
struct Plan {
    gateway: GatewaySpec,
    pools: Vec<PoolRow>,
    rules: Vec<RuleRow>,
    port_forwards: Vec<ForwardRow>,
    static_nat: Vec<StaticRow>,
    warnings: Vec<String>,
}

/// The `spec` of a `Gateway` in which nothing is left out; `null`: automatic, or nowhere.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct GatewaySpec {
    internal: Vec<String>,
    external: Vec<String>,
    workers: Option<u16>,
    queues: Option<u16>,
    mode: &'static str,
    busy_poll: bool,
    tunnels: &'static str,
    receive_steering: &'static str,
    socket: String,
    state_dir: String,
    state_file: Option<String>,
    metrics: Option<String>,
    log: String,
    log_format: &'static str,
    on_exit: &'static str,
    sessions: u32,
    answer_ping: bool,
    on_deny: &'static str,
    on_unmapped: &'static str,
    icmp_errors: IcmpErrors,
    /// Seconds.
    grace: u64,
    mss_clamp: serde_json::Value,
    slow_path_budget: u32,
    latency_sample: u32,
    drain: Drain,
    events: serde_json::Value,
    #[serde(skip)]
    events_line: String,
}

#[derive(Serialize)]
struct Drain {
    /// Seconds.
    grace: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct IcmpErrors {
    rate: u32,
    per_subscriber: u32,
    /// `null`: all.
    interfaces: Option<Vec<String>>,
}

#[derive(Serialize)]
struct PoolRow {
    pool: String,
    ranges: Vec<String>,
    addresses: u64,
    /// Blocks of all its addresses.
    blocks: u64,
    /// Subscribers that can hold their whole quota of blocks at once.
    subscribers_at_quota: u64,
    #[serde(skip)]
    quota_blocks: u32,
    #[serde(skip)]
    ports: String,
    #[serde(skip)]
    block_size: u16,
    /// All settings in force.
    spec: Spec,
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
    rule: String,
    priority: u32,
    from: String,
    to: String,
    except: Vec<String>,
    /// Empty: all.
    services: Vec<String>,
    /// `null`: exempt.
    pool: Option<String>,
}

impl Plan {
    fn new(config: &Config) -> Self {
        let policy = config.policy(1);
        let pools = config.pools.iter().zip(&policy.pools).map(|(config, pool)| {
            let blocks =
                pool.addresses.iter().map(|a| u64::from(a.directory.blocks())).sum::<u64>();
            let (settings, addresses) = (&config.settings, pool.addresses.len() as u64);
            PoolRow {
                pool: config.name.clone(),
                ranges: config.ranges.iter().map(ToString::to_string).collect(),
                addresses,
                blocks,
                subscribers_at_quota: blocks / u64::from(settings.quota.blocks),
                quota_blocks: settings.quota.blocks,
                ports: format!("{}-{}", settings.ports.start(), settings.ports.end()),
                block_size: settings.block_size,
                spec: Spec::new(settings, addresses),
            }
        });
        Self {
            gateway: GatewaySpec::from(&config.gateway),
            pools: pools.collect(),
            rules: rule_rows(config),
            port_forwards: config.forwards.iter().map(ForwardRow::from).collect(),
            static_nat: config.statics.iter().map(StaticRow::from).collect(),
            warnings: config.warnings.iter().map(Problem::to_string).collect(),
        }
    }

    /// For people, in lines of `width` columns at most.
    fn text(&self, width: usize) -> String {
        let mut text = "The configuration is valid. Nothing was changed.\n\nGateway\n".to_owned();
        named(&mut text, self.gateway.lines(), width);
        let row = |pool: &PoolRow| {
            vec![
                pool.pool.clone(),
                pool.addresses.to_string(),
                pool.ports.clone(),
                pool.block_size.to_string(),
                pool.blocks.to_string(),
                counted(pool.quota_blocks.into(), "block"),
                pool.subscribers_at_quota.to_string(),
            ]
        };
        let titles =
            ["POOL", ">ADDRESSES", "PORTS", ">PORTS/BLOCK", ">BLOCKS", ">QUOTA", ">PODS AT QUOTA"];
        titled(&mut text, "Pools", &titles, self.pools.iter().map(row), width);
        for pool in &self.pools {
            text.extend(["\nPool ", &pool.pool, "\n"]);
            named(&mut text, vec![("addresses", pool.ranges.join(", "))], width);
            named(&mut text, pool.spec.lines(), width);
        }
        let row = |it: &ForwardRow| {
            [&it.name, &it.protocol, &it.public, &it.target].map(Clone::clone).to_vec()
        };
        let titles = ["NAME", "PROTOCOL", "PUBLIC", "TARGET"];
        titled(&mut text, "Port forwards", &titles, self.port_forwards.iter().map(row), width);
        let row = |it: &StaticRow| [&it.name, &it.public, &it.target].map(Clone::clone).to_vec();
        let titles = ["NAME", "PUBLIC", "TARGET"];
        titled(&mut text, "1:1 addresses", &titles, self.static_nat.iter().map(row), width);
        let titles = [">PRIORITY", "FROM", "TO", "EXCEPT", "SERVICES", "ACTION", "RULE"];
        let rows = self.rules.iter().map(RuleRow::cells);
        titled(&mut text, "Rules, in order of precedence", &titles, rows, width);
        for (index, warning) in self.warnings.iter().enumerate() {
            text.push_str(if index == 0 { "\n" } else { "" });
            wrap(&mut text, &format!("warning: {warning}"), 2, width);
        }
        text
    }
}

/// Names at the left, values beside them.
fn named(text: &mut String, lines: Vec<(&'static str, String)>, width: usize) {
    for (name, value) in lines {
        wrap(text, &format!("  {name:<NAMES$} {value}"), NAMES + 3, width);
    }
}

/// A table under a title, unless it is empty.
fn titled(
    text: &mut String,
    title: &str,
    titles: &[&str],
    rows: impl Iterator<Item = Vec<String>>,
    width: usize,
) {
    let mut rows = rows.peekable();
    if rows.peek().is_none() {
        return;
    }
    text.extend(["\n", title, "\n"]);
    for line in table(width - 2, titles, rows).lines() {
        text.extend(["  ", line, "\n"]);
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
    fn cells(&self) -> Vec<String> {
        let Self { rule, priority, from, to, except, services, pool } = self;
        let action = pool.as_ref().map_or("exempt".to_owned(), |pool| format!("pool {pool}"));
        vec![
            priority.to_string(),
            from.clone(),
            to.clone(),
            listed(except, "-"),
            listed(services, "all"),
            action,
            rule.clone(),
        ]
    }
}

fn refused(how: Refused) -> &'static str {
    match how {
        Refused::Icmp => "icmp",
        Refused::Reset => "reset",
        Refused::Silent => "silent",
    }
}

impl From<&Gateway> for GatewaySpec {
    #[allow(clippy::too_many_lines)] // a line for each field
    fn from(gateway: &Gateway) -> Self {
        // Every field, so that none is forgotten.
        let Gateway {
            internal,
            external,
            workers,
            queues,
            mode,
            busy_poll,
            tunnels,
            receive_steering,
            socket,
            state_dir,
            state_file,
            metrics,
            log,
            log_format,
            on_exit,
            sessions,
            answers,
            error_interfaces,
            mss_clamp,
            slow_path_budget,
            latency_sample,
            drain_grace,
            events,
        } = gateway;
        Self {
            internal: internal.clone(),
            external: external.clone(),
            workers: *workers,
            queues: *queues,
            mode: mode_name(*mode),
            busy_poll: *busy_poll,
            tunnels: tunnels.name(),
            receive_steering: receive_steering.name(),
            socket: socket.display().to_string(),
            state_dir: state_dir.display().to_string(),
            state_file: state_file.as_ref().map(|path| path.display().to_string()),
            metrics: metrics.map(|address| address.to_string()),
            log: log.clone(),
            log_format: match log_format {
                LogFormat::Text => "text",
                LogFormat::Json => "json",
            },
            on_exit: match on_exit {
                OnExit::Block => "block",
                OnExit::Pass => "pass",
            },
            sessions: *sessions,
            answer_ping: answers.ping,
            on_deny: refused(answers.denied),
            on_unmapped: refused(answers.unmapped),
            icmp_errors: IcmpErrors {
                rate: answers.errors_per_second,
                per_subscriber: answers.errors_per_subscriber,
                interfaces: error_interfaces.clone(),
            },
            grace: answers.grace.as_secs(),
            mss_clamp: clamp(*mss_clamp),
            slow_path_budget: slow_path_budget.0,
            latency_sample: latency_sample.0,
            drain: Drain { grace: drain_grace.as_secs() },
            events: events.spec(),
            events_line: events.line(),
        }
    }
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::ZeroCopy => "zerocopy",
        Mode::Copy => "copy",
        Mode::Generic => "generic",
    }
}

fn clamp(clamp: MssClamp) -> serde_json::Value {
    match clamp {
        MssClamp::Auto => "auto".into(),
        MssClamp::Off => "off".into(),
        MssClamp::Bytes(bytes) => bytes.into(),
    }
}

impl GatewaySpec {
    fn lines(&self) -> Vec<(&'static str, String)> {
        let automatic =
            |count: Option<u16>| count.map_or("automatic".to_owned(), |n| n.to_string());
        let IcmpErrors { rate, per_subscriber, interfaces } = &self.icmp_errors;
        let by = interfaces.as_ref().map_or("all interfaces".to_owned(), |names| names.join(", "));
        vec![
            ("internal", self.internal.join(", ")),
            ("external", self.external.join(", ")),
            ("workers", automatic(self.workers)),
            ("queues", automatic(self.queues)),
            ("mode", self.mode.to_owned()),
            ("busyPoll", self.busy_poll.to_string()),
            ("tunnels", self.tunnels.to_owned()),
            ("receiveSteering", self.receive_steering.to_owned()),
            ("socket", self.socket.clone()),
            ("stateDir", self.state_dir.clone()),
            ("stateFile", self.state_file.clone().unwrap_or("none".to_owned())),
            ("metrics", self.metrics.clone().unwrap_or("off".to_owned())),
            ("log", self.log.clone()),
            ("logFormat", self.log_format.to_owned()),
            ("onExit", self.on_exit.to_owned()),
            ("sessions", self.sessions.to_string()),
            ("answerPing", self.answer_ping.to_string()),
            ("onDeny", self.on_deny.to_owned()),
            ("onUnmapped", self.on_unmapped.to_owned()),
            ("icmpErrors", format!("{rate}/s, {per_subscriber}/s to one subscriber, by {by}")),
            ("grace", format!("{}\u{a0}s", self.grace)),
            ("mssClamp", self.mss_clamp.to_string().trim_matches('"').to_owned()),
            ("slowPathBudget", self.slow_path_budget.to_string()),
            ("latencySample", self.latency_sample.to_string()),
            ("drain", format!("grace of {}\u{a0}s", self.drain.grace)),
            ("events", self.events_line.clone()),
        ]
    }
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
        rule: rule.name.clone(),
        priority: rule.priority,
        from: from.to_string(),
        to: to.to_string(),
        except: rule.except.iter().map(ToString::to_string).collect(),
        services: rule.services.iter().map(service).collect(),
        pool: match rule.action {
            Action::Exempt => None,
            Action::Pool(id) => Some(config.pools[id.index()].name.clone()),
        },
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

fn listed(items: &[String], none: &str) -> String {
    if items.is_empty() { none.to_owned() } else { items.join(" ") }
}
