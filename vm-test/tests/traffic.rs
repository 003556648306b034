//! The traffic generator sends what it says, with right checksums, and the sink counts it and tells
//! whether a source is wrong.
//!
//! ```text
//! gen: natgate-traffic generate ── sink: natgate-traffic sink, or accept with a capture
//! ```

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vm_test::binary::program;
use vm_test::namespace::{link, output};
use vm_test::oracle::{Kind, Trace, checksums};
use vm_test::{Capture, Namespace, Process, wait};

const PACKETS: u64 = 20_000;

struct Rig {
    generator: Namespace,
    sink: Namespace,
    logs: tempfile::TempDir,
}

impl Rig {
    fn new() -> Result<Self> {
        let (generator, sink) = (Namespace::new("gen")?, Namespace::new("sink")?);
        link((&generator, "out"), (&sink, "in"), 1)?;
        generator.ip("link set out up\naddr add 192.0.2.2/24 dev out")?;
        sink.ip("link set in up\naddr add 192.0.2.1/24 dev in")?;
        Ok(Self { generator, sink, logs: tempfile::tempdir()? })
    }

    fn traffic(host: &Namespace, line: &str) -> Result<Command> {
        let mut command = host.command(program("natgate-traffic")?);
        command.args(line.split_whitespace());
        Ok(command)
    }

    fn generate(&self) -> Result<u64> {
        let mac = self.sink.mac("in")?.map(|byte| format!("{byte:02x}")).join(":");
        let line = format!(
            "generate --interface out --to-mac {mac} --source 10.1.0.1 --destination 192.0.2.9 \
             --flows 100 --count {PACKETS} --rate 50000 --json"
        );
        let text = output(&mut Self::traffic(&self.generator, &line)?)?;
        let sent: serde_json::Value = serde_json::from_str(&text)?;
        sent["packets"].as_u64().context("no packets")
    }

    /// Starts a sink that expects sources in `prefix`, and waits until it counts.
    fn sink(&self, prefix: &str, seconds: u32) -> Result<Process> {
        let line = format!(
            "sink --interface in --expect {prefix} --seconds {seconds} --interval 0.2 --json"
        );
        let sink = Process::start(Self::traffic(&self.sink, &line)?, "sink", self.logs.path())?;
        wait::until("the sink", Duration::from_secs(15), || {
            Ok((!sink.stdout().is_empty()).then_some(()))
        })?;
        Ok(sink)
    }
}

fn totals(sink: &Process) -> Result<serde_json::Value> {
    let text = sink.stdout();
    let last = text.lines().last().context("the sink printed nothing")?;
    Ok(serde_json::from_str::<serde_json::Value>(last)?["totals"].clone())
}

/// What the sink counted, and whether it was content.
fn counted(expected: &str) -> Result<(serde_json::Value, bool)> {
    // The generator takes half a second, but on a busy machine it may outlast the sink.
    for seconds in [4, 12, 36] {
        let rig = Rig::new()?;
        let mut sink = rig.sink(expected, seconds)?;
        let sent = rig.generate()?;
        ensure!(sent == PACKETS, "{sent} packets were sent");
        if sink.ended()?.is_some() {
            continue;
        }
        let limit = Duration::from_secs(40);
        let status = wait::until("the end of the sink", limit, || sink.ended())?;
        return Ok((totals(&sink)?, status.success()));
    }
    bail!("the generator outlasts every sink")
}

#[test]
fn every_packet_sent_is_counted() {
    let (totals, success) = counted("10.1.0.0/24").unwrap();
    assert_eq!(totals["packets"], PACKETS, "{totals}");
    assert_eq!(totals["unexpected"], 0, "{totals}");
    assert!(success);
}

#[test]
fn a_wrong_source_is_counted_and_fails_the_command() {
    let (totals, success) = counted("10.9.0.0/24").unwrap();
    assert_eq!(totals["unexpected"], PACKETS, "{totals}");
    assert!(!success);
}

#[test]
fn checksums_are_right_and_flows_are_as_many_as_asked_for() {
    let rig = Rig::new().unwrap();
    // Packets that pass the receiving end go up its stack, where the capture sees them.
    let accepting = Rig::traffic(&rig.sink, "accept --interface in --seconds 20").unwrap();
    let _accepting = Process::start(accepting, "accept", rig.logs.path()).unwrap();
    let capture = Capture::start(&rig.sink, "in", rig.logs.path()).unwrap();
    assert_eq!(rig.generate().unwrap(), PACKETS);
    let file = capture.stop(&rig.generator, "192.0.2.1".parse().unwrap()).unwrap();
    let trace = Trace::read(&file).unwrap();
    let mut flows = std::collections::BTreeSet::new();
    let mut packets = 0;
    for packet in trace.packets() {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        if ip.source().octets()[0] != 10 {
            continue;
        }
        packets += 1;
        assert_eq!(checksums::fault(ip), None, "{ip}");
        flows.insert((ip.source(), ip.body[..2].to_vec()));
    }
    assert!(packets > PACKETS / 2, "{packets} packets captured");
    assert_eq!(flows.len(), 100);
}
