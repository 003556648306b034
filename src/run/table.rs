//! The start-up table: what runs, how, and what may go wrong.

use std::net::SocketAddr;

use dataplane::rule::Action;

use crate::api::Shared;
use crate::config::Config;

use super::world::World;

/// Prints the table to standard output.
pub(crate) fn print(config: &Config, world: &World, shared: &Shared, metrics: Option<SocketAddr>) {
    println!("natgate {}", env!("CARGO_PKG_VERSION"));
    println!("  interfaces");
    for ((link, roles), facts) in world.links.iter().zip(&world.roles).zip(&shared.interfaces) {
        let role = match (roles.internal, roles.external) {
            (true, true) => "internal + external",
            (true, false) => "internal",
            _ => "external",
        };
        let state = if link.up { "" } else { ", link down" };
        println!(
            "    {:<15} {role:<9} {} · {} · {} queue{} · MTU {} · {}{state}",
            link.name,
            facts.driver,
            facts.mode,
            facts.queues,
            if facts.queues == 1 { "" } else { "s" },
            link.mtu,
            link.mac,
        );
    }
    println!("  workers");
    for (id, worker) in shared.workers.iter().enumerate() {
        let core = worker.core.map_or_else(|| "any core".into(), |core| format!("core {core}"));
        println!("    {id:<15} {core:<9} {}", worker.queues.join(" "));
    }
    println!("  pools");
    for pool in &config.pools {
        let addresses: u64 = pool.ranges.iter().map(|range| range.len()).sum();
        let ranges: Vec<String> = pool.ranges.iter().map(ToString::to_string).collect();
        let plural = if addresses == 1 { "" } else { "es" };
        println!(
            "    {:<15} {addresses} address{plural} · blocks of {} ports, {} a pod at most · {}",
            pool.name,
            pool.settings.block_size,
            pool.settings.quota_blocks,
            ranges.join(", "),
        );
    }
    println!("  rules");
    for rule in &config.rules {
        let list = |nets: &[ipnet::Ipv4Net]| {
            nets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
        };
        let action = match rule.action {
            Action::Pool(pool) => format!("pool {}", config.pools[pool.index()].name),
            Action::Exempt => "exempt".to_owned(),
        };
        println!("    {:<15} {} to {} · {action}", rule.name, list(&rule.from), list(&rule.to));
    }
    println!("  stats socket      {}", config.gateway.socket.display());
    if let Some(metrics) = metrics {
        println!("  metrics           http://{metrics}/metrics");
    }
    let of_interfaces = shared.interfaces.iter().flat_map(|facts| &facts.warnings);
    for warning in shared.warnings.iter().chain(of_interfaces) {
        println!("  {warning}");
    }
    println!("ready");
}
