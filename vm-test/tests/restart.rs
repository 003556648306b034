//! What is remembered over `kill -9`: which ports had somebody (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (one address, few blocks; natgate killed) ── r ── s1
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::Result;
use vm_test::client::{PATIENCE, echo, echo_datagram};
use vm_test::rig::{PODS, S1};
use vm_test::server::{self};
use vm_test::{Options, Rig, wait};

const PORT: u16 = 7;
const PUBLIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

/// A gateway with one address, a pool of these settings, and a port that leads to c2.
fn start(pool: &str) -> Rig {
    let objects = format!(
        "apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {{name: gateway}}
spec: {{interfaces: {{internal: [int], external: [ext]}}}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {{name: one}}
spec: {{addresses: [{PUBLIC}], {pool}}}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {{name: everyone}}
spec: {{from: [10.244.0.0/16], pool: one}}
---
apiVersion: natgate.dev/v1alpha1
kind: PortForward
metadata: {{name: web}}
spec: {{address: {PUBLIC}, protocol: tcp, ports: \"8080\", target: {{address: {}, ports: \"80\"}}}}
",
        PODS[1]
    );
    Rig::start(Options { config: Some(objects), ..Options::natgate() }).expect("the rig")
}

/// Each pod sends a datagram from a socket of its own; the ports that the server sees. A server lives as
/// long as the test: each `round` has its own.
fn ports_of_both(rig: &Rig, round: u16) -> Result<Vec<u16>> {
    Ok(rig.seen_by_server(1000 + 2 * round)?.iter().map(std::net::SocketAddr::port).collect())
}

fn journal(rig: &Rig) -> std::path::PathBuf {
    rig.directory().join("state/blocks")
}

/// Waits until the journal has `ports`.
fn written(rig: &Rig, ports: &[u16]) -> Result<()> {
    wait::until("the journal", Duration::from_secs(15), || {
        let text = rig.gw.read(&journal(rig)).unwrap_or_default();
        let ranges: Vec<(u16, u16)> = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{PUBLIC} "))?.split_once('-'))
            .filter_map(|(first, last)| Some((first.parse().ok()?, last.parse().ok()?)))
            .collect();
        let has = |port: &u16| ranges.iter().any(|(first, last)| (first..=last).contains(&port));
        Ok(ports.iter().all(has).then_some(()))
    })
}

fn restart(rig: &mut Rig) -> Result<()> {
    rig.natgate()?.kill9()?;
    rig.start_translator()
}

// Proves: 6888-REQ-8.2, 6888-REQ-8b
#[test]
fn blocks_of_a_killed_gateway_rest_and_its_forwards_do_not() {
    // Four blocks of 512 ports, of which two pods have two.
    let mut rig = start("profile: rfc4787, ports: {range: \"1024-3071\"}");
    rig.must(server::tcp_echo(&rig.pods[1], PODS[1], 80));
    let before = rig.must(ports_of_both(&rig, 0));
    let blocks = |ports: &[u16]| ports.iter().map(|port| port / 512).collect::<BTreeSet<_>>();
    assert_eq!(blocks(&before).len(), 2);
    rig.must(written(&rig, &before));
    let restarted = restart(&mut rig);
    rig.must(restarted);
    // Nothing has been sent by c2 since: the forwarded port needs no state.
    let connected = rig.x.run(|| -> Result<()> {
        let address = (PUBLIC, 8080).into();
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        echo(&mut stream, b"at once")
    });
    rig.must(connected.and_then(|done| done));
    let after = rig.must(ports_of_both(&rig, 1));
    assert!(blocks(&after).is_disjoint(&blocks(&before)), "{after:?} and before {before:?}");
    // And once more: all four blocks rest now, so nobody gets any.
    rig.must(written(&rig, &after));
    let restarted = restart(&mut rig);
    rig.must(restarted);
    assert!(!rig.must(is_served(&rig)), "a block was given out too early");
    let exhausted = rig.natgate().and_then(|natgate| natgate.dropped("pool-exhausted"));
    assert!(rig.must(exhausted) > 0);
}

/// Whether c1 is served by the server of the first round.
fn is_served(rig: &Rig) -> Result<bool> {
    rig.pods[0].run(|| -> Result<bool> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((S1[0], 1000))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        Ok(echo_datagram(&socket, b"anybody?").is_ok())
    })?
}

// Proves: 6888-REQ-8c
#[test]
fn in_high_density_the_same_ports_serve_at_once() {
    // Two blocks in all: both pods need both.
    let mut rig = start("ports: {range: \"1024-1151\"}");
    for round in 0..2 {
        let ports = rig.must(ports_of_both(&rig, round));
        let blocks: BTreeSet<u16> = ports.iter().map(|port| port / 64).collect();
        assert_eq!(blocks.len(), 2);
        let restarted = restart(&mut rig);
        rig.must(restarted);
    }
    assert!(!rig.must(rig.gw.has(&journal(&rig))), "no pool asked for a journal");
}

// Proves: 6888-REQ-8.2
#[test]
fn a_gateway_without_a_readable_journal_warns_and_serves() {
    let mut rig = start("profile: rfc4787, ports: {range: \"1024-3071\"}");
    let damages = [&b"natgate blocks 1\nno ports\n"[..], b"\xff\xfe", b""];
    for (round, damage) in (0..).zip(damages) {
        let killed = rig.natgate().and_then(vm_test::Gateway::kill9);
        rig.must(killed);
        rig.must(rig.gw.write(&journal(&rig), damage));
        let started = rig.start_translator();
        rig.must(started);
        let said = rig.natgate().map(|natgate| natgate.output());
        let said = rig.must(said);
        assert!(said.contains("block journal"), "{said}");
        rig.must(ports_of_both(&rig, round));
    }
}

// Proves: 4787-REQ-7
#[test]
fn a_prefix_of_pods_learnt_by_the_external_link_is_warned_about_and_not_used() {
    let mut rig = start("profile: rfc4787");
    rig.must(server::udp_echo(&rig.s1, S1[0], PORT));
    let socket = rig.pods[0].run(|| -> Result<UdpSocket> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect((S1[0], PORT))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        echo_datagram(&socket, b"before")?;
        Ok(socket)
    });
    let socket = rig.must(socket.and_then(|socket| socket));
    rig.must(rig.gw.ip("addr add 10.244.1.200/24 dev ext"));
    let warned = wait::until("the warning", Duration::from_secs(15), || {
        let said = rig.natgate()?.output();
        Ok(said.contains("10.244.1.0/24").then_some(()))
    });
    rig.must(warned);
    // Its old flow, new ones, and connections from outside.
    for n in 0..20 {
        rig.must(echo_datagram(&socket, format!("after {n}").as_bytes()));
    }
    rig.must(rig.pods[0].exec(&format!("ping -n -q -c 2 -i 0.1 -W 1 {}", S1[0])));
    rig.must(server::tcp_echo(&rig.pods[1], PODS[1], 80));
    let connected = rig.x.run(|| -> Result<()> {
        let mut stream = TcpStream::connect_timeout(&(PUBLIC, 8080).into(), PATIENCE)?;
        echo(&mut stream, b"from outside")
    });
    rig.must(connected.and_then(|done| done));
    let wrong = rig.natgate().and_then(|natgate| natgate.dropped("wrong-interface"));
    assert_eq!(rig.must(wrong), 0);
}
