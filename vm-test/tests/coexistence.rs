//! What is not natgate's business works untouched while it runs (topology: `vm_test::rig`).
//!
//! ```text
//!  other ── node ── gw (own services; forwards `other`) ── r ── s1
//! ```

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{connect, echo, echo_datagram, pattern, udp};
use vm_test::oracle::{Faults, Scope, Trace, fidelity};
use vm_test::rig::{GATEWAY, OTHER, S1};
use vm_test::{Namespace, Options, Rig, server, wait};

const SERVICE: u16 = 22;
const PORT: u16 = 7;

fn options() -> Options {
    Options { other: true, gateway_forwards: true, ..Options::default() }
}

fn other(rig: &Rig) -> Result<&Namespace> {
    rig.other.as_ref().context("this rig has no other host")
}

fn reach(host: &Namespace, address: Ipv4Addr) -> Result<()> {
    host.run(move || {
        let mut stream = connect((address, SERVICE))?;
        (0..100).try_for_each(|round| echo(&mut stream, &pattern(round, 1200)))
    })?
}

fn own_services(rig: &Rig) -> Result<()> {
    rig.gw.echo(SERVICE)?;
    reach(&rig.node, GATEWAY[0]).context("from the node")?;
    reach(other(rig)?, GATEWAY[0]).context("from the other host")?;
    reach(&rig.pods[0], GATEWAY[0]).context("from a pod")?;
    reach(&rig.r, GATEWAY[1]).context("from the router")?;
    reach(&rig.s1, GATEWAY[1]).context("from a server")?;
    rig.node.exec(&format!("arping -c 2 -i gw0 {}", GATEWAY[0])).context("ARP inside")?;
    rig.r.exec(&format!("arping -c 2 -i down {}", GATEWAY[1])).context("ARP outside")?;
    rig.s1.exec(&format!("ping -n -q -c 3 -i 0.1 -W 1 {}", GATEWAY[1])).context("ping")?;
    Ok(())
}

/// A conversation of `other` with the server, counted in rounds, that goes on until told to stop.
fn converse(
    host: &Namespace,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) -> Result<std::thread::JoinHandle<Result<()>>> {
    host.spawn(move || {
        let mut stream = connect((S1[0], PORT))?;
        let socket = udp((S1[0], PORT))?;
        while !stop.load(Ordering::Relaxed) {
            let rounds = done.load(Ordering::Relaxed);
            exchange(&mut stream, &pattern(rounds, 1200))?;
            echo_datagram(&socket, &pattern(rounds, (rounds % 1400) as usize))?;
            done.store(rounds + 1, Ordering::Relaxed);
            // A few hundred rounds a second are enough to see a gap.
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    })
}

fn exchange(stream: &mut TcpStream, bytes: &[u8]) -> Result<()> {
    stream.write_all(bytes)?;
    let mut answer = vec![0; bytes.len()];
    stream.read_exact(&mut answer).context("the other host's stream")?;
    ensure!(answer == bytes, "another echo");
    Ok(())
}

#[test]
fn the_gateways_own_services_are_reached() {
    let mut rig = Rig::start(options()).unwrap();
    // The gateway's own kernel sends here too, and its checksums would stay unfinished on the wire.
    for interface in ["int", "ext"] {
        let off = rig.gw.sh(&format!("ethtool -K {interface} tx off"));
        rig.must(off);
    }
    rig.must(own_services(&rig));
    rig.must(translated_too(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

fn translated_too(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[1], PORT)?;
    rig.pods[0].run(|| {
        let mut stream = connect((S1[1], PORT))?;
        (0..100).try_for_each(|round| echo(&mut stream, &pattern(round, 1200)))
    })?
}

#[test]
fn forwarding_that_is_not_ours_is_untouched() {
    let mut rig = Rig::start(options()).unwrap();
    let done = uninterrupted(&mut rig);
    rig.must(done);
    let ended = rig.end_captures();
    let [internal, external] = rig.must(ended);
    // The same oracle as for translated traffic, told that nothing may change at all.
    let scope = Scope {
        internal: vec!["10.9.0.0/24".parse().unwrap()],
        public: vec![(OTHER, OTHER)],
        ..rig.scope().unwrap()
    };
    let (internal, external) = (Trace::read(&internal).unwrap(), Trace::read(&external).unwrap());
    let mut faults = Faults::default();
    let end = internal.end().min(external.end());
    let found = fidelity::check(&internal, &external, end, &scope, &mut faults);
    assert!(faults.is_empty(), "{faults}");
    assert!(found.len() > 100, "only {} packets", found.len());
    for packet in found {
        assert!(packet.internal.is_none_or(|it| it == packet.public), "{packet:?}");
    }
}

/// The other host talks on while the pods do, and while natgate stops and starts again.
fn uninterrupted(rig: &mut Rig) -> Result<()> {
    let peers = server::tcp_echo(&rig.s1, S1[0], PORT)?;
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    let stop = Arc::new(AtomicBool::new(false));
    let rounds = Arc::new(AtomicU64::new(0));
    let conversation = converse(other(rig)?, Arc::clone(&stop), Arc::clone(&rounds))?;
    // It must get on by a hundred rounds before, and again after the restart.
    let get_on = || {
        let from = rounds.load(Ordering::Relaxed);
        wait::until("the other host's conversation", Duration::from_secs(10), || {
            let on = rounds.load(Ordering::Relaxed) >= from + 100 || conversation.is_finished();
            Ok(on.then_some(()))
        })
    };
    translated_too(rig)?;
    get_on()?;
    if let Ok(natgate) = rig.natgate() {
        natgate.terminate()?;
        rig.start_translator()?;
    }
    rig.pods[1].run(|| echo(&mut connect((S1[1], PORT))?, b"after the restart"))??;
    get_on()?;
    stop.store(true, Ordering::Relaxed);
    conversation.join().expect("the conversation panicked")?;
    ensure!(peers.all().iter().all(|peer| peer.ip() == OTHER), "the server saw {:?}", peers.all());
    Ok(())
}

/// The negative control: a gateway that does not forward cuts the other host off.
#[test]
fn the_other_host_needs_the_kernel() {
    let rig = Rig::start(Options { gateway_forwards: false, ..options_untranslated() }).unwrap();
    server::tcp_echo(&rig.s1, S1[0], SERVICE).unwrap();
    reach(other(&rig).unwrap(), S1[0]).unwrap_err();
}

fn options_untranslated() -> Options {
    Options { other: true, ..Options::untranslated() }
}
