//! `natgate-traffic`: makes UDP traffic, and counts what arrives.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use ipnet::Ipv4Net;
use serde_json::json;
use tools::generator::Until;
use tools::sink::{Accept, Watch};
use tools::{Flood, Generator, Percentiles, Plan, Sink, Totals, flood, generator, interface};

/// Makes UDP traffic at the rate of the driver, and counts what arrives.
///
/// Both ends of a test of a gateway: `generate` on one side of it, `sink` on the other. Needs root.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Sends UDP packets out of an interface.
    ///
    /// Example: natgate-traffic generate --interface eth0 --to-mac 02:00:00:00:00:01
    /// --source 10.1.0.1 --destination 192.0.2.1 --flows 50000 --rate 500000 --seconds 10
    #[command(after_long_help = "\
More examples:
  as fast as the machine can, 1 million flows, 50 of each source:
    natgate-traffic generate --interface eth0 --to-mac 02:00:00:00:00:01 --source 10.1.0.1 \\
      --destination 192.0.2.1 --flows 1000000
  beside these flows a SYN flood of random sources, one packet in five:
    natgate-traffic generate … --flood syn --flood-share 0.2 --flood-source 10.64.0.0/10
  new UDP flows from one source to random destinations, as a scanning pod would:
    natgate-traffic generate … --flood scan --flood-source 10.1.0.9/32 --flood-destination 192.0.2.0/24
  latency at 100,000 packets a second (the sink: natgate-traffic sink … --latency):
    natgate-traffic generate … --rate 100000 --stamp --batch 8")]
    Generate(Generate),
    /// Counts UDP packets that arrive at an interface, and drops them; all else goes to the kernel.
    ///
    /// Example: natgate-traffic sink --interface eth1 --expect 198.51.100.0/24 --seconds 10
    Sink(Count),
    /// Lets a veth interface take redirected frames, which it does only while it has an XDP program.
    ///
    /// Example: natgate-traffic accept --interface veth1 --seconds 60
    Accept(Accepting),
}

#[derive(Args)]
struct Generate {
    /// Interface that packets leave by.
    #[arg(long)]
    interface: String,
    /// Ethernet address of the next hop.
    #[arg(long, value_name = "MAC")]
    to_mac: String,
    /// First source address.
    #[arg(long, value_name = "ADDRESS")]
    source: Ipv4Addr,
    /// First source port.
    #[arg(long, value_name = "PORT", default_value_t = 1024)]
    source_port: u16,
    /// Flows of each source address, one source port each.
    #[arg(long, value_name = "N", default_value_t = 50)]
    ports_per_source: u32,
    /// Different flows in all; source addresses follow from it.
    #[arg(long, value_name = "N", default_value_t = 1000)]
    flows: u64,
    /// First destination address.
    #[arg(long, value_name = "ADDRESS")]
    destination: Ipv4Addr,
    /// Destination addresses, the first included.
    #[arg(long, value_name = "N", default_value_t = 1)]
    destinations: u32,
    /// First destination port.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    destination_port: u16,
    /// Destination ports, the first included.
    #[arg(long, value_name = "N", default_value_t = 1)]
    destination_ports: u32,
    /// Bytes of a frame, Ethernet header included.
    #[arg(long, value_name = "BYTES", default_value_t = 60)]
    size: usize,
    /// Send UDP checksum 0, which means none.
    #[arg(long)]
    no_checksum: bool,
    /// Packets a second; 0 is as fast as possible.
    #[arg(long, value_name = "PPS", default_value_t = 0)]
    rate: u64,
    /// Stop after so many packets.
    #[arg(long, value_name = "N", conflicts_with = "seconds")]
    count: Option<u64>,
    /// Stop after so long.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Write into each packet when it was due, for `sink --latency`.
    #[arg(long)]
    stamp: bool,
    /// Packets that are due together and leave together: a power of two.
    #[arg(long, value_name = "N", default_value_t = generator::BATCH)]
    batch: u32,
    #[command(flatten)]
    flooding: Flooding,
    /// Core to send from.
    #[arg(long)]
    core: Option<usize>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
#[allow(clippy::struct_field_names)] // they are the flags
struct Flooding {
    /// Mix packets of new flows in.
    #[arg(long, value_name = "KIND", value_enum)]
    flood: Option<flood::Kind>,
    /// Their share of all packets.
    #[arg(long, value_name = "SHARE", default_value_t = 0.5)]
    flood_share: f64,
    /// Where they come from.
    #[arg(long, value_name = "CIDR", default_value = "10.64.0.0/10")]
    flood_source: Ipv4Net,
    /// Where they go to; the first destination if not given.
    #[arg(long, value_name = "CIDR")]
    flood_destination: Option<Ipv4Net>,
    /// Destination port of `udp` and `syn`.
    #[arg(long, value_name = "PORT", default_value_t = 80)]
    flood_port: u16,
}

#[derive(Args)]
struct Count {
    /// Interface to count at.
    #[arg(long)]
    interface: String,
    /// Prefix that every source should be in; packets from elsewhere are counted apart and make the
    /// command fail.
    #[arg(long, value_name = "CIDR", default_value = "0.0.0.0/0")]
    expect: Ipv4Net,
    /// Stop after so long.
    #[arg(long, value_name = "S", default_value_t = 10.0)]
    seconds: f64,
    /// Seconds between lines.
    #[arg(long, value_name = "S", default_value_t = 1.0)]
    interval: f64,
    /// Say at the end how long packets were under way that `generate --stamp` sent from this machine.
    #[arg(long)]
    latency: bool,
    /// Destination port of these packets.
    #[arg(long, value_name = "PORT", default_value_t = 9)]
    port: u16,
    /// Drop what is not UDP too.
    #[arg(long)]
    drop_all: bool,
    /// Print one JSON object a line.
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
struct Accepting {
    /// Interface that receives.
    #[arg(long)]
    interface: String,
    /// Stop after so long.
    #[arg(long, value_name = "S", default_value_t = 60.0)]
    seconds: f64,
}

fn main() -> ExitCode {
    tools::exit(run())
}

fn run() -> Result<()> {
    match Cli::parse().command {
        Command::Generate(args) => generate(&args),
        Command::Sink(args) => count(&args),
        Command::Accept(args) => {
            let _accept = Accept::attach(&args.interface)?;
            thread::sleep(Duration::try_from_secs_f64(args.seconds)?);
            Ok(())
        }
    }
}

fn generate(args: &Generate) -> Result<()> {
    if let Some(core) = args.core {
        let pinned = core_affinity::set_for_current(core_affinity::CoreId { id: core });
        anyhow::ensure!(
            pinned,
            "error: --core ({core}): it can't be used; `nproc` says how many there are"
        );
    }
    let mac = (interface::parse_mac(&args.to_mac)?, interface::mac(&args.interface)?);
    let flooding = &args.flooding;
    let flood = flooding.flood.map(|kind| Flood {
        kind,
        share: flooding.flood_share,
        source: flooding.flood_source,
        destination: flooding.flood_destination.unwrap_or_else(|| args.destination.into()),
        port: flooding.flood_port,
        mac,
    });
    let generator = Generator::new(&Plan {
        interface: interface::index(&args.interface)?,
        mac,
        flows: args.flows,
        source: args.source,
        source_port: args.source_port,
        ports_per_source: args.ports_per_source,
        destination: (args.destination, args.destinations),
        destination_port: (args.destination_port, args.destination_ports),
        size: args.size,
        checksum: !args.no_checksum,
        stamped: args.stamp,
        batch: args.batch,
        catch_up: if args.stamp { Duration::from_secs(1) } else { generator::CATCH_UP },
        flood,
        tunnel: None,
    })?;
    let until = match args.count {
        Some(packets) => Until::Packets(packets),
        None => Until::Elapsed(duration("--seconds", args.seconds)?),
    };
    let sent = generator.run(args.rate, until)?;
    if args.json {
        return print(&serde_json::to_string(&sent)?);
    }
    print(&format!(
        "sent {} packets in {:.2} s: {:.0} a second, {:.2} CPU seconds",
        sent.packets, sent.seconds, sent.rate, sent.cpu_seconds
    ))
}

fn count(args: &Count) -> Result<()> {
    let length = duration("--seconds", args.seconds)?;
    let interval = duration("--interval", args.interval)?.max(Duration::from_millis(1));
    let sink = Sink::attach(
        &args.interface,
        &Watch {
            expected: args.expect,
            port: args.port,
            stamped: args.latency,
            drop_all: args.drop_all,
        },
    )?;
    let none = sink.latency_counts()?;
    let start = Instant::now();
    let mut last = (Duration::ZERO, Totals::default());
    while last.0 < length {
        thread::sleep(interval.min(length.saturating_sub(last.0)));
        let now = (start.elapsed(), sink.totals()?);
        let rate =
            (now.1.packets - last.1.packets) as f64 / now.0.saturating_sub(last.0).as_secs_f64();
        print(&line(now.0, rate, now.1, args.json)?)?;
        last = now;
    }
    if args.latency {
        let latencies = Percentiles::of(&sink.latencies_since(&none)?)
            .context("error: --latency: no packet arrived; send with `generate --stamp`")?;
        print(&show(latencies, args.json)?)?;
    }
    let unexpected = last.1.unexpected;
    anyhow::ensure!(
        unexpected == 0,
        "error: the sources ({}): {unexpected} packets came from outside {}; the gateway let them through untranslated",
        args.interface,
        args.expect
    );
    Ok(())
}

fn line(at: Duration, rate: f64, totals: Totals, as_json: bool) -> Result<String> {
    if as_json {
        let seconds = at.as_secs_f64();
        return Ok(serde_json::to_string(
            &json!({ "seconds": seconds, "rate": rate, "totals": totals }),
        )?);
    }
    Ok(format!(
        "{:6.1} s  {rate:>10.0} packets/s  {:>12} packets  {:>14} bytes  {:>8} unexpected  {:>6} other",
        at.as_secs_f64(),
        totals.packets,
        totals.bytes,
        totals.unexpected,
        totals.other
    ))
}

fn show(latencies: Percentiles, as_json: bool) -> Result<String> {
    if as_json {
        return Ok(serde_json::to_string(&json!({ "latencies": latencies }))?);
    }
    let Percentiles { packets, p50, p90, p99, p999, most } = latencies;
    Ok(format!(
        "latency of {packets} packets in µs: {p50:.1} at 50 %, {p90:.1} at 90 %, {p99:.1} at 99 %, \
         {p999:.1} at 99.9 %, {most:.1} at most"
    ))
}

fn duration(flag: &str, seconds: f64) -> Result<Duration> {
    Duration::try_from_secs_f64(seconds).with_context(|| {
        format!("error: {flag} ({seconds}): it is not a length of time; give seconds, such as 10")
    })
}

/// Writes a line; a reader that has gone ends the program quietly.
fn print(line: &str) -> Result<()> {
    let mut out = io::stdout().lock();
    match writeln!(out, "{line}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => std::process::exit(0),
        result => Ok(result?),
    }
}
