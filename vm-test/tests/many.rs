//! Many connections: held open together, and one after the other (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 (clients) ── node ── gw ── r ── s1 (TCP echo)
//! ```

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use vm_test::client::{connect, connect_from, echo, pattern};
use vm_test::rig::{PODS, S1, verified};
use vm_test::{Options, Rig, server};

const PORT: u16 = 7;

/// Connections that each pod holds.
const HELD: usize = 1000;

fn allow_many_files() -> Result<()> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    Ok(setrlimit(Resource::RLIMIT_NOFILE, hard.min(65_536), hard)?)
}

fn hold(rig: &Rig, each: usize, time: Duration) -> Result<()> {
    allow_many_files()?;
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut clients = Vec::new();
    for (number, pod) in rig.pods.iter().enumerate() {
        clients.push(pod.spawn(move || -> Result<()> {
            let mut held = Vec::with_capacity(each);
            for index in 0..each {
                let stream = connect((S1[0], PORT)).with_context(|| format!("number {index}"))?;
                held.push(stream);
            }
            // To stay open in silence is what is tested.
            std::thread::sleep(time);
            for (index, stream) in held.iter_mut().enumerate() {
                echo(stream, &pattern((number * each + index) as u64, 64))
                    .with_context(|| format!("number {index} after {time:?}"))?;
            }
            Ok(())
        })?);
    }
    for client in clients {
        client.join().expect("a client thread panicked")?;
    }
    ensure!(peers.all().len() == 2 * each, "{} endpoints for {each} twice", peers.all().len());
    public_only(rig, &peers.all())
}

fn in_a_row(rig: &Rig, number: usize, ports: u16) -> Result<()> {
    let remotes: Vec<_> = (0..ports).map(|port| (S1[0], PORT + port)).collect();
    for &(address, port) in &remotes {
        server::tcp_echo(&rig.s1, address, port)?;
    }
    rig.pods[0].run(move || -> Result<()> {
        for index in 0..number {
            let mut stream = connect(remotes[index % remotes.len()])
                .with_context(|| format!("connection {index}"))?;
            echo(&mut stream, &pattern(index as u64, 32))
                .with_context(|| format!("connection {index}"))?;
        }
        Ok(())
    })?
}

fn same_port(rig: &Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let mut streams = Vec::new();
    for (index, pod) in rig.pods.iter().enumerate() {
        streams.push(pod.run(move || connect_from((PODS[index], 40_000), (S1[0], PORT)))??);
    }
    for round in 0..50 {
        for (index, stream) in streams.iter_mut().enumerate() {
            echo(stream, &pattern(round * 2 + index as u64, 500))?;
        }
    }
    ensure!(peers.all().len() == 2, "the server saw {:?}", peers.all());
    public_only(rig, &peers.all())
}

fn public_only(rig: &Rig, peers: &BTreeSet<SocketAddr>) -> Result<()> {
    for peer in peers {
        let SocketAddr::V4(peer) = peer else { anyhow::bail!("{peer} is not IPv4") };
        ensure!(rig.options().pool.holds(*peer.ip()), "the server saw {peer}");
    }
    Ok(())
}

#[test]
fn two_thousand_connections_outlive_the_opening_timer() {
    let config = Some(include_str!("objects/short_opening.yaml").to_owned());
    verified(Options { config, ..Options::default() }, |rig| {
        hold(rig, HELD, Duration::from_secs(15))
    });
}

#[test]
fn twenty_thousand_short_connections_in_a_row() {
    verified(Options::default(), |rig| in_a_row(rig, 20_000, 32));
}

/// A pod may have 2,048 ports towards one server: those of closed connections are used again.
// Proves: 6888-REQ-8a
#[test]
fn six_thousand_short_connections_to_one_server() {
    verified(Options::default(), |rig| in_a_row(rig, 6_000, 1));
}

#[test]
fn four_workers_short_connections_in_a_row() {
    verified(Options::four(), |rig| in_a_row(rig, 20_000, 32));
}

#[test]
fn four_workers_hold_connections() {
    verified(Options::four(), |rig| hold(rig, HELD, Duration::from_secs(1)));
}

// Proves: 5382-REQ-7
#[test]
fn two_pods_use_the_same_source_port() {
    verified(Options::default(), |rig| same_port(rig));
}

/// The negative control.
#[test]
fn no_connection_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    hold(&rig, 1, Duration::ZERO).unwrap_err();
    in_a_row(&rig, 1, 1).unwrap_err();
}
