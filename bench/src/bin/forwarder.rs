//! `natgate-forwarder`: forwards between int0 and ext0 over `AF_XDP`, without NAT.

#![forbid(unsafe_code)]

use anyhow::{Context, Result};
use bench::forward::{Hop, forever};
use clap::Parser;
use dataplane::interface::{InterfaceId, Mac, Roles};
use dataplane::xsk::{InterfaceLock, OpenConfig, OpenInterface, Steering, SteeringTables, open};
use tools::interface::{index, parse_mac};

/// Forwards every UDP packet of 10.0.0.0/8 from int0 to ext0 over `AF_XDP`, without NAT.
#[derive(Parser)]
struct Cli {
    /// Where packets go that arrive at int0.
    #[arg(long)]
    sink_mac: String,
    /// Where packets go that arrive at ext0.
    #[arg(long)]
    generator_mac: String,
    /// Address of int0.
    #[arg(long)]
    internal_mac: String,
    /// Address of ext0.
    #[arg(long)]
    external_mac: String,
    /// Core to run on.
    #[arg(long, default_value_t = 0)]
    core: usize,
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    core_affinity::set_for_current(core_affinity::CoreId { id: cli.core });
    let interface = |id: u8, name: &str| -> Result<OpenInterface> {
        Ok(OpenInterface {
            id: InterfaceId(id),
            name: name.to_owned(),
            ifindex: index(name)?,
            roles: Roles { internal: id == 0, external: id == 1 },
            queues: None,
            mtu: 1500,
            underlay: false,
            closed: false,
        })
    };
    let config = OpenConfig::new(vec![interface(0, "int0")?, interface(1, "ext0")?], 1);
    let locks: Vec<_> = config
        .interfaces
        .iter()
        .map(|interface| InterfaceLock::acquire(interface.ifindex, &interface.name))
        .collect::<Result<_, _>>()?;
    let mut opened = open(&config)?;
    let mut steering = Steering::load()?;
    opened.register(&mut steering)?;
    steering.apply(&SteeringTables {
        internal: vec!["10.0.0.0/8".parse()?],
        ..SteeringTables::default()
    })?;
    for (interface, report) in config.interfaces.iter().zip(&opened.reports) {
        steering.attach(interface.ifindex, &interface.name, report.attach)?;
    }
    let hop = |id, to: &str, from: &str| -> Result<Hop> {
        Ok(Hop { interface: InterfaceId(id), to: Mac(parse_mac(to)?), from: Mac(parse_mac(from)?) })
    };
    let hops =
        [hop(1, &cli.sink_mac, &cli.external_mac)?, hop(0, &cli.generator_mac, &cli.internal_mac)?];
    let mut io = opened.workers.pop().context("error: AF_XDP: no worker was opened")?;
    println!("ready, {} locks", locks.len());
    forever(&mut io, &hops)
}
