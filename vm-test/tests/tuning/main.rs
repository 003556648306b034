//! Settings change over a configuration that stays (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (`natgate set`, `get`, `reset`; natgate.yaml changes too) ── r ── s1
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::client::{connect, echo, echo_datagram};
use vm_test::rig::{S1, verified};
use vm_test::{Options, Rig, server, wait};

const PORT: u16 = 7;
const LIMIT: Duration = Duration::from_secs(20);
const UDP: &str = "pools.general.timers.udp";

/// Two pools, of which the first one is used.
fn objects(general: &str, second: &str) -> String {
    let address = if second == "second" { "203.0.113.11" } else { "203.0.113.12" };
    format!(
        "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec: {{interfaces: {{internal: [int], external: [ext]}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: general}}
spec: {{addresses: [203.0.113.10]{general}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: {second}}}
spec: {{addresses: [{address}]}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: general}}
"
    )
}

fn options(workers: u16) -> Options {
    let config = Some(objects("", "second"));
    Options { config, workers, queues: workers, ..Options::natgate() }
}

fn reload(rig: &mut Rig, text: &str) -> Result<(i32, String, String)> {
    rig.write_objects(text)?;
    rig.natgate()?.command(&["reload"])
}

/// A command that must be done; what it prints.
fn done(rig: &mut Rig, arguments: &[&str]) -> Result<String> {
    let (code, out, error) = rig.natgate()?.command(arguments)?;
    ensure!(code == 0, "{arguments:?} ended with {code}: {error}");
    Ok(out)
}

/// A command that must be refused, with one error for each of these phrases; nothing changes.
fn refused(rig: &mut Rig, arguments: &[&str], phrases: &[&str]) -> Result<()> {
    let before = (settings(rig)?, generation(rig)?);
    let (code, out, error) = rig.natgate()?.command(arguments)?;
    ensure!(code == 2 && out.is_empty(), "{arguments:?} ended with {code}: {out}{error}");
    let lines: Vec<&str> = error.lines().collect();
    ensure!(lines.len() == phrases.len(), "{arguments:?}: {error}");
    ensure!(lines.iter().all(|line| line.starts_with("error: ")), "{error}");
    for phrase in phrases {
        ensure!(lines.iter().any(|line| line.contains(phrase)), "no {phrase:?} in {error}");
    }
    ensure!((settings(rig)?, generation(rig)?) == before, "a refused setting changed something");
    Ok(())
}

fn settings(rig: &mut Rig) -> Result<Vec<Value>> {
    rig.natgate()?.json(&["get"])
}

fn status(rig: &mut Rig) -> Result<Value> {
    rig.natgate()?.json(&["status"])?.into_iter().next().context("no status")
}

fn generation(rig: &mut Rig) -> Result<u64> {
    status(rig)?["config_generation"].as_u64().context("no generation")
}

/// What is in force for a key, what is written, and whether it is set.
fn value(rig: &mut Rig, key: &str) -> Result<(String, String, bool)> {
    let row = rig.natgate()?.json(&["get", key])?.into_iter().next().context("no setting")?;
    let text = |field: &str| row[field].as_str().unwrap_or("-").to_owned();
    Ok((text("value"), text("written"), row["set"] == true))
}

fn is(rig: &mut Rig, key: &str, wanted: (&str, &str, bool)) -> Result<()> {
    let (value, written, set) = value(rig, key)?;
    ensure!((&value[..], &written[..], set) == wanted, "{key}: {value} {written} {set}");
    Ok(())
}

/// How long the only UDP session lives without packets, in seconds.
fn patience(rig: &mut Rig) -> Result<u64> {
    let rows = rig.natgate()?.json(&["sessions", "--protocol", "udp"])?;
    let row = rows.first().context("no session")?;
    let of = |field: &str| row[field].as_u64().context("no number");
    Ok((of("idle_ms")? + of("expires_in_ms")?).div_ceil(1000))
}

fn lifetime_of_live_sessions(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut stream = rig.pods[0].run(|| connect((S1[0], PORT)))??;
    let socket = rig.pods[0].run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(5)))?;
        echo_datagram(&socket, b"first")?;
        Ok(socket)
    })??;
    ensure!(patience(rig)? == 300, "{}", patience(rig)?);
    let said = done(rig, &["set", UDP, "120", "log", "natgate=debug"])?;
    ensure!(said.contains(&format!("{UDP}: 300 -> 120")), "{said}");
    ensure!(said.contains("log: info -> natgate=debug"), "{said}");
    ensure!(patience(rig)? == 120, "{}", patience(rig)?);
    is(rig, UDP, ("120", "300", true))?;
    is(rig, "pools.second.timers.udp", ("300", "300", false))?;
    // Who, what, old and new, in the log and in the status.
    let log = rig.natgate()?.log();
    let line = log.lines().find(|line| line.contains(UDP)).context("not in the log")?;
    for part in ["old=\"300\"", "new=\"120\"", "user 0, process "] {
        ensure!(line.contains(part), "no {part} in {line}");
    }
    let shown = status(rig)?["settings"].clone();
    ensure!(shown.as_array().is_some_and(|rows| rows.len() == 2), "{shown}");
    let text = done(rig, &["status"])?;
    ensure!(text.contains(&format!("{UDP} 120 (written: 300)")), "{text}");
    // A short one ends the session; the connection, of which nobody spoke, lives.
    let said = done(rig, &["set", UDP, "2"]);
    ensure!(said.is_ok(), "{said:?}");
    wait::until("the session to end", LIMIT, || {
        let rows = rig.natgate()?.json(&["sessions", "--protocol", "udp"])?;
        Ok(rows.is_empty().then_some(()))
    })?;
    echo(&mut stream, b"still here")?;
    // Back, as it is written; and the socket goes on with a new session.
    let said = done(rig, &["reset", UDP])?;
    ensure!(said.contains(&format!("{UDP}: 2 -> 300, as it is written")), "{said}");
    echo_datagram(&socket, b"second")?;
    ensure!(patience(rig)? == 300, "{}", patience(rig)?);
    done(rig, &["reset", "--all"])?;
    ensure!(status(rig)?["settings"] == Value::Array(Vec::new()), "{}", status(rig)?);
    is(rig, "log", ("info", "info", false))
}

#[test]
fn a_timer_that_is_set_counts_for_live_sessions() {
    verified(options(1), lifetime_of_live_sessions);
}

#[test]
fn four_workers_follow_a_setting() {
    verified(options(4), lifetime_of_live_sessions);
}

/// The negative control: without natgate there is nothing to set.
#[test]
fn nothing_is_set_without_natgate() {
    let config = options(1).config;
    let mut rig = Rig::start(Options { config, ..Options::untranslated() }).unwrap();
    lifetime_of_live_sessions(&mut rig).unwrap_err();
}

/// Opens connections until one is refused; how many were not.
fn most_connections(rig: &Rig) -> Result<usize> {
    let mut held = Vec::new();
    rig.pods[1].run(move || {
        for _ in 0..20 {
            match connect((S1[0], PORT)) {
                Ok(stream) => held.push(stream),
                Err(_) => break,
            }
        }
        held.len()
    })
}

fn quotas(rig: &mut Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    done(rig, &["set", "pools.general.timers.tcpTimeWait", "1"])?;
    done(rig, &["set", "pools.general.quota.sessions", "5"])?;
    let few = most_connections(rig)?;
    ensure!(few == 5, "{few} connections");
    ensure!(rig.natgate()?.dropped("quota-sessions")? > 0, "no drop");
    done(rig, &["reset", "pools.general.quota.sessions"])?;
    ensure!(most_connections(rig)? == 20, "the quota is still there");
    // A limit that is written is taken away, and comes back.
    let (code, _, error) =
        reload(rig, &objects(", quota: {sessions: 7}, timers: {tcpTimeWait: 1}", "second"))?;
    ensure!(code == 0, "{error}");
    is(rig, "pools.general.quota.sessions", ("7", "7", false))?;
    done(rig, &["set", "pools.general.quota.newPerSecond", "1000"])?;
    is(rig, "pools.general.quota.newPerSecond", ("1000", "none", true))?;
    done(rig, &["set", "pools.general.quota.newPerSecond", "none"])?;
    is(rig, "pools.general.quota.newPerSecond", ("none", "none", true))
}

#[test]
fn a_quota_is_set_and_reset() {
    verified(options(1), quotas);
}

fn wrong_ones(rig: &mut Rig) -> Result<()> {
    // One error with what is near; nothing of a set with a mistake is done.
    refused(rig, &["set", "pools.general.timers.upd", "9"], &[UDP])?;
    refused(rig, &["set", "pools.genral.timers.udp", "9"], &[UDP])?;
    refused(rig, &["set", "udp", "9"], &["pools.second.timers.udp"])?;
    refused(rig, &["set", "workers", "2"], &["unknown key (natgate set workers)"])?;
    refused(rig, &["reset", "timers"], &["unknown key"])?;
    refused(rig, &["get", "nothing"], &["unknown key (nothing)"])?;
    refused(rig, &["set", UDP], &["value missing"]).or_else(|_| {
        let (code, ..) = rig.natgate()?.command(&["set", UDP])?;
        ensure!(code == 2, "a key without value ended with {code}");
        Ok(())
    })?;
    let several = ["set", UDP, "200", "log", "=,=", "icmpErrors.rate", "-1", "answerPing", "maybe"];
    let wanted = ["natgate set log", "natgate set icmpErrors.rate", "natgate set answerPing"];
    refused(rig, &several, &wanted)?;
    refused(rig, &["set", "pools.general.quota.blocksSoft", "64"], &["soft limit too high"])?;
    refused(rig, &["set", UDP, "0"], &["natgate set pools.general.timers.udp"])?;
    // A reload leaves what is set, shows what is written, and is refused if they contradict each other.
    done(rig, &["set", "pools.general.quota.blocksSoft", "20", "pools.second.timers.udp", "250"])?;
    let (code, _, error) = reload(rig, &objects(", timers: {udp: 400}", "second"))?;
    ensure!(code == 0, "{error}");
    is(rig, UDP, ("400", "400", false))?;
    is(rig, "pools.general.quota.blocksSoft", ("20", "none", true))?;
    is(rig, "pools.second.timers.udp", ("250", "300", true))?;
    let (code, _, error) = reload(rig, &objects(", quota: {blocks: 8}", "second"))?;
    ensure!(code == 2 && error.contains("natgate set pools.general.quota.blocksSoft"), "{error}");
    is(rig, "pools.general.quota.blocks", ("32", "32", false))?;
    // What is written can be wrong: that is no reason not to set something.
    done(rig, &["set", UDP, "500"])?;
    is(rig, UDP, ("500", "400", true))?;
    // A setting ends with its pool.
    let (code, _, error) = reload(rig, &objects("", "third"))?;
    ensure!(code == 0, "{error}");
    ensure!(rig.natgate()?.log().contains("is forgotten"), "{}", rig.natgate()?.log());
    let (code, ..) = rig.natgate()?.command(&["get", "pools.second"])?;
    ensure!(code == 2, "a pool that is gone has settings");
    is(rig, "pools.third.timers.udp", ("300", "300", false))?;
    is(rig, UDP, ("500", "300", true))?;
    // A restart forgets everything.
    rig.natgate()?.terminate()?;
    rig.start_translator()?;
    is(rig, UDP, ("300", "300", false))
}

#[test]
fn what_is_wrong_is_named_and_what_is_set_lies_over_what_is_written() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = wrong_ones(&mut rig);
    rig.must(done);
}

/// DNS has a timer of its own, which is a group of fields; `{}` leaves none.
fn a_group(rig: &mut Rig) -> Result<()> {
    const KEY: &str = "pools.general.timers.udpByPort";
    const WRITTEN: &str = "{53: {idle: 10, answered: 2}, 123: 10}";
    server::udp_echo(&rig.s1, S1[0], 53)?;
    let socket = rig.pods[0].run(|| vm_test::client::udp((S1[0], 53)))??;
    is(rig, KEY, (WRITTEN, WRITTEN, false))?;
    let said = done(rig, &["set", KEY, "{53: {idle: 40, answered: 30}, 123: 20}"])?;
    ensure!(said.contains("-> {53: {idle: 40, answered: 30}, 123: 20}"), "{said}");
    echo_datagram(&socket, b"who is it?")?;
    ensure!(patience(rig)? == 30, "{}", patience(rig)?);
    done(rig, &["set", KEY, "{}"])?;
    is(rig, KEY, ("{}", WRITTEN, true))?;
    ensure!(patience(rig)? == 300, "{}", patience(rig)?);
    refused(
        rig,
        &["set", KEY, "{443: 10}"],
        &["bad port (natgate set pools.general.timers.udpByPort"],
    )?;
    refused(
        rig,
        &["set", KEY, "{53: {idle: 10}"],
        &["natgate set pools.general.timers.udpByPort"],
    )?;
    done(rig, &["reset", KEY])?;
    is(rig, KEY, (WRITTEN, WRITTEN, false))
}

#[test]
fn timers_by_port_are_set_as_they_are_written() {
    verified(options(1), a_group);
}

/// Packets whose stay was measured.
fn measured(rig: &mut Rig) -> Result<u64> {
    let text = rig.natgate()?.metrics()?;
    let counts = text.lines().filter(|line| line.starts_with("natgate_latency_seconds_count"));
    let count = |line: &str| line.rsplit(' ').next().and_then(|number| number.parse::<u64>().ok());
    Ok(counts.filter_map(count).sum())
}

fn samples(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    let socket = rig.pods[0].run(|| vm_test::client::udp((S1[0], PORT)))??;
    let traffic = || (0..50).try_for_each(|_| echo_datagram(&socket, b"how long?"));
    done(rig, &["set", "latencySample", "0"])?;
    let before = measured(rig)?;
    traffic()?;
    ensure!(measured(rig)? == before, "measured, though nothing was to be");
    done(rig, &["set", "latencySample", "1"])?;
    traffic()?;
    let all = measured(rig)? - before;
    ensure!(all >= 100, "only {all} of 100 packets were measured");
    refused(rig, &["set", "latencySample", "-1"], &["natgate set latencySample"])?;
    done(rig, &["reset", "latencySample"])?;
    is(rig, "latencySample", ("64", "64", false))
}

#[test]
fn as_many_packets_are_measured_as_is_set() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = samples(&mut rig);
    rig.must(done);
}

fn pings(rig: &mut Rig) -> Result<()> {
    let ping = |rig: &Rig| {
        let address = Ipv4Addr::new(203, 0, 113, 10);
        rig.r.exec(&format!("ping -n -q -c 1 -W 1 {address}")).is_ok()
    };
    ensure!(ping(rig), "no answer");
    done(rig, &["set", "answerPing", "false"])?;
    ensure!(!ping(rig), "an answer");
    done(rig, &["reset", "answerPing"])?;
    ensure!(ping(rig), "no answer any more");
    Ok(())
}

#[test]
fn pings_are_answered_as_it_is_set() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = pings(&mut rig);
    rig.must(done);
}
