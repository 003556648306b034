//! A configuration takes the place of another one while traffic flows (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate.yaml changes; SIGHUP, the file itself, `natgate reload`) ── r ── s1
//! ```

mod large;

use std::collections::BTreeSet;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;
use vm_test::client::{connect, connect_from, echo, echo_datagram};
use vm_test::rig::{PODS, S1, STATIC, verified};
use vm_test::{Options, Rig, server, wait};

const PORT: u16 = 7;
const LIMIT: Duration = Duration::from_secs(20);
const ADDRESSES: [&str; 2] = ["203.0.113.10", "203.0.113.11"];

/// One pool, one rule, and `more` objects.
fn objects(addresses: &str, settings: &str, more: &str) -> String {
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
spec: {{addresses: [{addresses}], timers: {{tcpTimeWait: 1, tcpReset: 1, tcpClosing: 240}}{settings}}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: general}}
{more}"
    )
}

fn options(workers: u16) -> Options {
    let config = Some(objects(&ADDRESSES.join(", "), "", ""));
    Options { config, workers, queues: workers, ..Options::natgate() }
}

fn status(rig: &mut Rig) -> Result<Value> {
    rig.natgate()?.json(&["status"])?.into_iter().next().context("no status")
}

fn generation(rig: &mut Rig) -> Result<u64> {
    status(rig)?["config_generation"].as_u64().context("no generation")
}

/// Writes the objects and has them read by the command, which must succeed.
fn reload(rig: &mut Rig, text: &str) -> Result<Value> {
    rig.write_objects(text)?;
    let (code, out, error) = rig.natgate()?.command(&["reload", "--json"])?;
    ensure!(code == 0, "natgate reload ended with {code}: {error}");
    let reloaded: Value = serde_json::from_str(&out)?;
    Ok(reloaded)
}

/// The same, which must be refused with errors that have these phrases; nothing changes.
fn refused(rig: &mut Rig, text: &str, phrases: &[&str]) -> Result<()> {
    let before = generation(rig)?;
    rig.write_objects(text)?;
    let (code, out, error) = rig.natgate()?.command(&["reload"])?;
    ensure!(code == 2, "natgate reload ended with {code}: {out}{error}");
    let shown = status(rig)?["last_reload"].clone();
    ensure!(shown["ok"] == false && shown["trigger"] != "", "{shown}");
    for phrase in phrases {
        let line = error.lines().find(|line| line.contains(phrase));
        let line = line.with_context(|| format!("no {phrase:?} in {error}"))?;
        ensure!(line.starts_with("error: "), "{line}");
        ensure!(shown["problems"].to_string().contains(phrase), "{shown}");
        ensure!(rig.natgate()?.log().contains(phrase), "the log does not say {phrase:?}");
    }
    ensure!(generation(rig)? == before, "the generation changed");
    Ok(())
}

/// A pod's connection, and how the server sees it.
struct Held {
    stream: TcpStream,
    public: Ipv4Addr,
}

impl Held {
    fn open(rig: &Rig, pod: usize) -> Result<Self> {
        let stream = rig.pods[pod].run(|| connect((S1[0], PORT)))??;
        let mut held = Self { stream, public: Ipv4Addr::UNSPECIFIED };
        held.works()?;
        let (local, natgate) = (held.stream.local_addr()?.to_string(), rig.natgate.as_ref());
        let sessions = natgate.context("natgate runs")?.json(&["sessions", "--protocol", "tcp"])?;
        let row = sessions.iter().find(|row| row["internal"] == local.as_str());
        let public = row.and_then(|row| row["public"].as_str()).context("no session")?;
        held.public = public.split(':').next().context("no address")?.parse()?;
        Ok(held)
    }

    fn works(&mut self) -> Result<()> {
        echo(&mut self.stream, b"still here")
    }
}

/// Every way to have the configuration read, each with something new in it; connections live through all of them.
fn every_trigger(rig: &mut Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut held = vec![Held::open(rig, 0)?, Held::open(rig, 1)?];
    let seen: BTreeSet<_> = peers.all();
    let reached = |rig: &mut Rig, wanted: u64| {
        wait::until("the new configuration", LIMIT, || {
            Ok((generation(rig)? >= wanted).then_some(()))
        })
    };
    // The file changes, and nobody says anything.
    rig.write_objects(&objects("203.0.113.10-203.0.113.12", "", ""))?;
    reached(rig, 2)?;
    ensure!(status(rig)?["last_reload"]["trigger"] == "changed files", "{}", status(rig)?);
    // A signal: nothing has changed, and that is said.
    rig.natgate()?.signal(Signal::SIGHUP)?;
    wait::until("an answer in the log", LIMIT, || {
        Ok(rig.natgate()?.log().contains("SIGHUP: nothing has changed").then_some(()))
    })?;
    ensure!(generation(rig)? == 2, "a reload of the same changed the generation");
    // The command tells what is different.
    reload(rig, &objects("203.0.113.10-203.0.113.13", ", quota: {blocks: 4}", ""))?;
    // The command tells what is different, unless the watch was faster; the log does in any case.
    let change = "pool general: 1 more address, settings changed";
    ensure!(rig.natgate()?.log().contains(change), "the log does not tell what is different");
    reached(rig, 3)?;
    for held in &mut held {
        held.works()?;
    }
    ensure!(peers.all() == seen, "connections were seen anew: {:?}", peers.all());
    let pools = rig.natgate()?.json(&["pools"])?;
    ensure!(pools[0]["addresses"] == 4, "{pools:?}");
    // The watch may have read the last change once more.
    let metrics = rig.natgate()?.metrics()?;
    let done = metrics
        .lines()
        .find_map(|it| it.strip_prefix("natgate_config_reloads_total{result=\"done\"} "));
    ensure!(done.and_then(|it| it.parse().ok()).is_some_and(|count: u64| count >= 3), "{done:?}");
    Ok(())
}

// Proves: 6888-REQ-10.1
#[test]
fn every_trigger_brings_a_new_configuration_in_and_connections_live() {
    verified(options(1), every_trigger);
}

#[test]
fn four_workers_reload_as_one() {
    let mut rig = Rig::start(options(4)).unwrap();
    let done = every_trigger(&mut rig);
    rig.must(done);
    let verified = rig.verify();
    rig.must(verified);
}

/// The negative control: without natgate there is nothing to reload.
#[test]
fn nothing_is_reloaded_without_natgate() {
    let mut rig =
        Rig::start(Options { config: options(1).config, ..Options::untranslated() }).unwrap();
    every_trigger(&mut rig).unwrap_err();
}

fn wrong_ones(rig: &mut Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut held = Held::open(rig, 0)?;
    let whole = |addresses: &str, settings: &str| objects(addresses, settings, "");
    let all = &ADDRESSES.join(", ");
    // Mistakes, all of them at once; a good part in the same file changes nothing either.
    refused(
        rig,
        &whole("203.0.113.10-203.0.113.13", ", blocksize: 3, spill: maybe"),
        &["unknown field", "spec.spill"],
    )?;
    refused(rig, "kind: [", &["natgate.yaml"])?;
    // What a running gateway can't do, by name.
    refused(
        rig,
        &whole(all, ", blockSize: 128"),
        &["needs a restart (AddressPool general: spec.blockSize)"],
    )?;
    let workers = whole(all, "").replace("external: [ext]}", "external: [ext, lo]}, queues: 1");
    refused(
        rig,
        &workers,
        &[
            "needs a restart (Gateway: spec.interfaces.external)",
            "needs a restart (Gateway: spec.queues)",
        ],
    )?;
    // An address that the host has, or its router.
    refused(rig, &whole("203.0.113.1", ""), &["203.0.113.1"])?;
    refused(rig, &whole("203.0.113.2", ""), &["203.0.113.2"])?;
    ensure!(rig.natgate()?.metrics()?.contains("result=\"refused\""), "metrics");
    held.works()?;
    let done = reload(rig, &whole("203.0.113.10-203.0.113.13", ""))?;
    ensure!(done["changed"] == true && status(rig)?["last_reload"]["ok"] == true, "{done}");
    held.works()
}

#[test]
fn what_is_wrong_changes_nothing_and_is_named_everywhere() {
    verified(options(1), wrong_ones);
}

/// Everything that is left of an address after its removal is gone: natgate does not answer for it.
fn await_gone(rig: &mut Rig, address: Ipv4Addr) -> Result<()> {
    wait::until("the address to be gone", LIMIT, || {
        let row = rig.natgate()?.json(&["pools"])?.swap_remove(0);
        Ok((row["leaving"] == 0).then_some(()))
    })?;
    let log = rig.natgate()?.log();
    ensure!(log.contains(&format!("address={address}")), "the log does not name {address}: {log}");
    rig.r.ip(&format!("neigh del {address} dev down"))?;
    let ping = rig.r.exec(&format!("ping -n -q -c 1 -W 1 {address}"));
    ensure!(ping.is_err(), "natgate still answers for {address}");
    Ok(())
}

fn shrink_by_drain(rig: &mut Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut held = Held::open(rig, 0)?;
    let left = held.public;
    let rest = ADDRESSES.iter().find(|other| **other != left.to_string()).context("another")?;
    reload(rig, &objects(rest, "", ""))?;
    // What is there stays, what is new goes elsewhere.
    held.works()?;
    for pod in [0, 1, 0, 1] {
        let mut new = Held::open(rig, pod)?;
        ensure!(new.public != left, "a new connection got {left}, which is leaving");
        new.works()?;
    }
    let row = rig.natgate()?.json(&["pools"])?.swap_remove(0);
    ensure!(row["leaving"] == 1 && row["addresses"] == 1, "{row}");
    let named = &row["leaving_addresses"][0];
    ensure!(named["address"] == left.to_string() && named["blocks"].as_u64() > Some(0), "{row}");
    ensure!(named["first_subscribers"].as_array().is_some_and(|it| !it.is_empty()), "{row}");
    ensure!(
        status(rig)?["transitions"].to_string().contains(&left.to_string()),
        "{}",
        status(rig)?
    );
    // It comes back, and goes again.
    reload(rig, &objects(&ADDRESSES.join(", "), "", ""))?;
    held.works()?;
    reload(rig, &objects(rest, "", ""))?;
    held.works()?;
    let seen = peers.all();
    ensure!(seen.iter().filter(|peer| peer.ip() == IpAddr::V4(left)).count() == 1, "{seen:?}");
    drop(held);
    await_gone(rig, left)
}

#[test]
fn an_address_that_is_removed_drains() {
    verified(options(1), shrink_by_drain);
}

#[test]
fn an_address_that_is_removed_drains_from_four_workers() {
    let mut rig = Rig::start(options(4)).unwrap();
    let done = shrink_by_drain(&mut rig);
    rig.must(done);
    let verified = rig.verify();
    rig.must(verified);
}

fn shrink_by_cut(rig: &mut Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut held = Vec::new();
    // Until both addresses have somebody.
    for _ in 0..50 {
        held.push(Held::open(rig, held.len() % 2)?);
        if held.iter().any(|it| it.public != held[0].public) {
            break;
        }
    }
    let left = held[0].public;
    let rest = ADDRESSES.iter().find(|other| **other != left.to_string()).context("another")?;
    reload(rig, &objects(rest, ", removal: cut", ""))?;
    for mut held in held {
        if held.public != left {
            held.works()?;
            continue;
        }
        // The pod learns it by a reset.
        let ended = held.stream.read(&mut [0; 16]);
        let kind = ended.as_ref().err().map(std::io::Error::kind);
        ensure!(kind == Some(std::io::ErrorKind::ConnectionReset), "the pod got {ended:?}");
    }
    let rows = rig.natgate()?.json(&["sessions", "--address", &left.to_string()])?;
    ensure!(rows.is_empty(), "{rows:?}");
    Held::open(rig, 0)?.works()
}

#[test]
fn an_address_that_is_cut_ends_its_sessions_only() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = shrink_by_cut(&mut rig);
    rig.must(done);
}

const HOST: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 13);
const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn forward(pod: Ipv4Addr) -> String {
    format!(
        "---
apiVersion: natgate.dev/v1alpha1
kind: PortForward
metadata: {{name: web}}
spec: {{address: {SHARED}, protocol: tcp, ports: 8080, target: {{address: {pod}, ports: {PORT}}}}}
"
    )
}

fn one_to_one() -> String {
    format!(
        "---
apiVersion: natgate.dev/v1alpha1
kind: StaticNat
metadata: {{name: one}}
spec: {{address: {}, target: {HOST}}}
",
        STATIC[0]
    )
}

fn mappings(rig: &mut Rig) -> Result<()> {
    rig.pods[0].ip(&format!("addr add {HOST}/24 dev eth0"))?;
    let web: Vec<_> = (0..2)
        .map(|pod| server::tcp_echo(&rig.pods[pod], PODS[pod], PORT))
        .collect::<Result<_>>()?;
    server::tcp_echo(&rig.pods[0], HOST, PORT)?;
    let all = ADDRESSES.join(", ");
    let call = |rig: &Rig| rig.s1.run(|| connect((SHARED, 8080)))?;
    let call_one = |rig: &Rig| rig.s1.run(|| connect_from((S1[0], 0), (STATIC[0], PORT)))?;
    ensure!(call(rig).is_err(), "a port that nobody forwards");
    // They come.
    let told = reload(rig, &objects(&all, "", &(forward(PODS[0]) + &one_to_one())))?;
    ensure!(told["waiting"].as_array().is_some_and(Vec::is_empty), "{told}");
    let (mut first, mut one) = (call(rig)?, call_one(rig)?);
    echo(&mut first, b"first")?;
    // So many that with several workers not each arrives where its pod lives.
    let mut others = (0..8).map(|_| call(rig)).collect::<Result<Vec<_>>>()?;
    echo(&mut one, b"one")?;
    ensure!(!web[0].all().is_empty(), "another pod was called");
    // Something else changes.
    reload(rig, &objects("203.0.113.10-203.0.113.12", "", &(forward(PODS[0]) + &one_to_one())))?;
    echo(&mut first, b"first again")?;
    echo(&mut one, b"one again")?;
    // They go: what is there stays, nothing new comes in.
    reload(rig, &objects(&all, "", ""))?;
    echo(&mut first, b"first, without its forward")?;
    for other in &mut others {
        echo(other, b"another, without its forward")?;
    }
    echo(&mut one, b"one, without its mapping")?;
    ensure!(
        call(rig).is_err() && call_one(rig).is_err(),
        "a mapping that is gone lets somebody in"
    );
    // So it is over a restart.
    let arguments = rig.natgate_arguments()?;
    ensure!(rig.natgate()?.terminate()?.success(), "it did not end in order");
    rig.natgate = Some(rig.launch_ready(&arguments)?);
    for other in others.iter_mut().chain([&mut first, &mut one]) {
        echo(other, b"without its mapping, after a restart")?;
    }
    ensure!(call(rig).is_err(), "a mapping that is gone lets somebody in after a restart");
    // The forward leads to another pod: new callers reach it, the old one's connection ends.
    reload(rig, &objects(&all, "", &forward(PODS[0])))?;
    let mut second = call(rig)?;
    echo(&mut second, b"second")?;
    reload(rig, &objects(&all, "", &forward(PODS[1])))?;
    let mut third = call(rig)?;
    echo(&mut third, b"third")?;
    ensure!(!web[1].all().is_empty(), "the other pod was not called");
    let ended = second.read(&mut [0; 1]);
    ensure!(matches!(ended, Err(_) | Ok(0)), "the caller of before got {ended:?}");
    // In the end nothing is left, but the 1:1 address for as long as its connection.
    drop((first, third, others));
    reload(rig, &objects(&all, "", ""))?;
    wait::until("no forward to be left", LIMIT, || {
        let transitions = status(rig)?["transitions"].to_string();
        Ok((!transitions.contains("PortForward")).then_some(()))
    })?;
    echo(&mut one, b"one, still")?;
    ensure!(status(rig)?["transitions"].to_string().contains(&STATIC[0].to_string()), "it left");
    Ok(())
}

#[test]
fn forwards_and_one_to_one_addresses_come_move_and_go() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = mappings(&mut rig);
    rig.must(done);
}

#[test]
fn four_workers_find_the_sessions_of_mappings_that_are_gone() {
    let mut rig = Rig::start(options(4)).unwrap();
    let done = mappings(&mut rig);
    rig.must(done);
}

/// A forward of a port that a pod has waits for the end of its session.
fn a_port_in_use(rig: &mut Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], PORT)?;
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    server::tcp_echo(&rig.pods[1], PODS[1], PORT)?;
    let held = Held::open(rig, 0)?;
    let public = rig.natgate()?.json(&["sessions", "--protocol", "tcp"])?[0]["public"].clone();
    let port: u16 = public.as_str().and_then(|it| it.split(':').nth(1)).context("port")?.parse()?;
    let ports = format!("ports: {port}, target");
    let forward = forward(PODS[1])
        .replace(&format!("address: {SHARED}"), &format!("address: {}", held.public))
        .replace("ports: 8080, target", &ports);
    let all = ADDRESSES.join(", ");
    let told = reload(rig, &objects(&all, "", &forward))?;
    ensure!(told["waiting"].to_string().contains("PortForward web waits"), "{told}");
    let address = held.public;
    let call = move |rig: &Rig| rig.s1.run(move || connect_from((S1[1], 0), (address, port)))?;
    ensure!(call(rig).is_err(), "the forward is in force beside a session on its port");
    let mut held = held;
    held.works()?;
    ensure!(peers.all().is_empty(), "nobody sent datagrams");
    drop(held);
    wait::until("the forward to come", LIMIT, || {
        let transitions = status(rig)?["transitions"].clone();
        Ok(transitions.as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    echo(&mut call(rig)?, b"now")
}

#[test]
fn a_forward_waits_for_who_has_its_port() {
    verified(options(1), a_port_in_use);
}

/// A pod's `from` that no rule has any more: its packets do not become the kernel's.
fn a_source_without_rule(rig: &mut Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], PORT)?;
    let talk = |rig: &Rig, pod: usize| -> Result<UdpSocket> {
        rig.pods[pod].run(move || -> Result<_> {
            let socket = UdpSocket::bind((PODS[pod], 0))?;
            socket.connect((S1[0], PORT))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            echo_datagram(&socket, b"hello")?;
            Ok(socket)
        })?
    };
    let held = talk(rig, 0)?;
    let narrow = objects(&ADDRESSES.join(", "), "", "").replace("10.244.0.0/16", "10.244.1.12/32");
    reload(rig, &narrow)?;
    echo_datagram(&held, b"an old session lives on")?;
    ensure!(talk(rig, 0).is_err(), "a pod of no rule got out");
    talk(rig, 1)?;
    let transitions = status(rig)?["transitions"].to_string();
    ensure!(transitions.contains("10.244.0.0/16"), "{transitions}");
    ensure!(peers.all().iter().all(|peer| peer.ip() != IpAddr::V4(PODS[0])), "{:?}", peers.all());
    Ok(())
}

#[test]
fn a_source_that_no_rule_names_any_more_stays_blocked() {
    let options = Options { gateway_forwards: true, ..options(1) };
    let mut rig = Rig::start(options).unwrap();
    let done = a_source_without_rule(&mut rig);
    rig.must(done);
    let verified = rig.verify();
    rig.must(verified);
}
