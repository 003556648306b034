//! The start-up table: what runs, how, and what may go wrong.

use std::fmt::{self, Write};
use std::net::SocketAddr;

use conntrack::Protocol;
use dataplane::rule::{Action, Rule};

use crate::api::Shared;
use crate::config::Config;

/// Prints the table to standard output. Pods' packets depend on natgate by then, so that a closed
/// standard output is no reason to end.
pub(crate) fn print(config: &Config, shared: &Shared, metrics: Option<SocketAddr>) {
    let mut table = String::new();
    // A `String` takes everything.
    let _ = write_table(&mut table, config, shared, metrics);
    crate::say(&table);
}

fn write_table(
    out: &mut String,
    config: &Config,
    shared: &Shared,
    metrics: Option<SocketAddr>,
) -> fmt::Result {
    writeln!(out, "natgate {}", env!("CARGO_PKG_VERSION"))?;
    interfaces(out, shared)?;
    writeln!(out, "  workers")?;
    for (id, worker) in shared.workers.iter().enumerate() {
        let core = worker.core.map_or_else(|| "any core".into(), |core| format!("core {core}"));
        writeln!(out, "    {id:<15} {core:<9} {}", worker.queues.join(" "))?;
    }
    let huge_pages = match dataplane::xsk::huge_pages().as_deref() {
        Some(choice @ ("always" | "madvise")) => format!("for session tables (kernel: {choice})"),
        Some(choice) => format!(
            "none (kernel: {choice}); for speed: echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"
        ),
        None => "none (the kernel has none)".into(),
    };
    writeln!(out, "  huge pages        {huge_pages}")?;
    pools(out, config)?;
    fixed(out, config)?;
    writeln!(out, "  rules")?;
    for rule in &config.rules {
        write_rule(out, config, rule)?;
    }
    writeln!(out, "  stats socket      {}", config.gateway.socket.display())?;
    if let Some(metrics) = metrics {
        writeln!(out, "  metrics           http://{metrics}/metrics")?;
    }
    let of_interfaces = shared.interface_rows().into_iter().flat_map(|row| row.warnings);
    for warning in shared.all_warnings().into_iter().chain(of_interfaces) {
        writeln!(out, "  warning: {warning}")?;
    }
    writeln!(out, "ready")
}

fn interfaces(out: &mut String, shared: &Shared) -> fmt::Result {
    writeln!(out, "  interfaces")?;
    for row in shared.interface_rows() {
        let role = row.roles.join(" + ");
        let state = if row.up { "" } else { ", link down" };
        write!(out, "    {:<15} {role:<9} ", row.interface)?;
        if let Some(tunnel) = &row.tunnel {
            write!(out, "{tunnel}")?;
        } else {
            let plural = if row.queues == 1 { "" } else { "s" };
            write!(out, "{} · {} · {} queue{plural}", row.driver, row.mode, row.queues)?;
        }
        writeln!(out, " · MTU {} · {}{state}", row.mtu, row.mac)?;
    }
    Ok(())
}

fn pools(out: &mut String, config: &Config) -> fmt::Result {
    writeln!(out, "  pools")?;
    for pool in &config.pools {
        let addresses: u64 = pool.ranges.iter().map(|range| range.len()).sum();
        let ranges: Vec<String> = pool.ranges.iter().map(ToString::to_string).collect();
        let plural = if addresses == 1 { "" } else { "es" };
        writeln!(
            out,
            "    {:<15} {addresses} address{plural} · blocks of {} ports, {} a pod at most · {}",
            pool.name,
            pool.settings.block_size,
            pool.settings.quota.blocks,
            ranges.join(", "),
        )?;
    }
    Ok(())
}

/// What configuration maps.
fn fixed(out: &mut String, config: &Config) -> fmt::Result {
    if !config.forwards.is_empty() {
        writeln!(out, "  port forwards")?;
    }
    for forward in &config.forwards {
        let count = forward.ports.len() as u16;
        writeln!(
            out,
            "    {:<15} {} {}:{} to {}:{}",
            forward.name,
            forward.protocol,
            forward.address,
            ports(*forward.ports.start(), count),
            forward.target,
            ports(forward.target_port, count),
        )?;
    }
    if !config.statics.is_empty() {
        writeln!(out, "  1:1 addresses")?;
    }
    for one in &config.statics {
        writeln!(out, "    {:<15} {} is {}", one.name, one.address, one.target)?;
    }
    Ok(())
}

/// `count` ports from `first` on.
fn ports(first: u16, count: u16) -> String {
    match count {
        1 => first.to_string(),
        _ => format!("{first}-{}", first.saturating_add(count.saturating_sub(1))),
    }
}

fn write_rule(out: &mut String, config: &Config, rule: &Rule) -> fmt::Result {
    let list = |nets: &[ipnet::Ipv4Net]| {
        nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    };
    let action = match rule.action {
        Action::Pool(pool) => format!("pool {}", config.pools[pool.index()].name),
        Action::Exempt => "exempt".to_owned(),
    };
    write!(out, "    {:<15} {} to {}", rule.name, list(&rule.from), list(&rule.to))?;
    if !rule.except.is_empty() {
        write!(out, " except {}", list(&rule.except))?;
    }
    for (index, service) in rule.services.iter().enumerate() {
        write!(out, "{} {}", if index == 0 { " ·" } else { "," }, service.protocol)?;
        let (first, last) = (service.ports.start(), service.ports.end());
        match service.protocol {
            Protocol::Icmp => {}
            _ if first == last => write!(out, " {first}")?,
            _ if (*first, *last) == (0, u16::MAX) || (*first, *last) == (1, u16::MAX) => {}
            _ => write!(out, " {first}-{last}")?,
        }
    }
    writeln!(out, " · {action} · priority {}", rule.priority)
}
