//! Datagrams: names from a real resolver, every size, without checksum (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 (clients) ── node ── gw ── r ── s1 (unbound, UDP echo)
//! ```

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{PATIENCE, echo_datagram, pattern, resolve, udp};
use vm_test::craft;
use vm_test::inject::OUTSIDE;
use vm_test::oracle::packet::UDP;
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{S1, verified};
use vm_test::{Lab, Options, Pool, Rig, Wire, server, wait};

const PORT: u16 = 7;
const THREADS: usize = 8;
const SOCKETS: usize = 60;

/// Both pods together ask `number` different names over 960 sockets.
fn names(rig: &Rig, number: usize) -> Result<()> {
    let _unbound = server::unbound(&rig.s1, S1[0], rig.directory())?;
    let mut clients = Vec::new();
    for (pod_number, pod) in rig.pods.iter().enumerate() {
        for thread in 0..THREADS {
            let first = pod_number * THREADS + thread;
            clients.push(pod.spawn(move || -> Result<usize> {
                let sockets = (0..SOCKETS).map(|_| udp((S1[0], 53))).collect::<Result<Vec<_>>>()?;
                let mut answered = 0;
                for index in (first..number).step_by(2 * THREADS) {
                    let name = format!("name-{index}.example.test");
                    resolve(&sockets[answered % SOCKETS], index as u16, &name)?;
                    answered += 1;
                }
                Ok(answered)
            })?);
        }
    }
    let mut answered = 0;
    for client in clients {
        answered += client.join().expect("a client thread panicked")?;
    }
    ensure!(answered == number, "{answered} of {number} queries were answered");
    Ok(())
}

/// Both pods send a datagram of every size and get it back.
fn sizes(rig: &Rig, largest: usize) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], PORT)?;
    let mut clients = Vec::new();
    for (number, pod) in rig.pods.iter().enumerate() {
        clients.push(pod.spawn(move || -> Result<()> {
            let socket = udp((S1[0], PORT))?;
            for size in 0..=largest {
                echo_datagram(&socket, &pattern((size * 2 + number) as u64, size))?;
            }
            Ok(())
        })?);
    }
    for client in clients {
        client.join().expect("a client thread panicked")?;
    }
    for peer in peers.all() {
        let SocketAddr::V4(peer) = peer else { anyhow::bail!("{peer} is not IPv4") };
        ensure!(rig.options().pool.holds(*peer.ip()), "the server saw {peer}");
    }
    ensure!(peers.all().len() == 2, "the server saw {:?}", peers.all());
    Ok(())
}

/// Datagrams without checksum, to and fro.
fn without_checksum(rig: &Rig) -> Result<()> {
    let _server = server::udp_echo_without_checksum(&rig.s1, S1[0], PORT, rig.directory())?;
    let program = format!(
        "import socket\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\n\
         s.setsockopt(socket.SOL_SOCKET,11,1)\ns.settimeout(3)\ns.connect(('{}',{PORT}))\n\
         for n in range(0,1473,23):\n d=bytes((n+i)%256 for i in range(n))\n s.send(d)\n \
         assert s.recv(2048)==d,n\n",
        S1[0]
    );
    let mut command = rig.pods[0].command("python3");
    command.args(["-c", &program]);
    vm_test::namespace::output(&mut command).context("datagrams without checksum")?;
    Ok(())
}

#[test]
fn ten_thousand_names_are_resolved() {
    verified(Options::default(), |rig| names(rig, 10_000));
}

#[test]
fn four_workers_resolve_ten_thousand_names() {
    verified(Options::four(), |rig| names(rig, 10_000));
}

// Museum: C42
#[test]
fn every_size_is_echoed() {
    verified(Options::default(), |rig| sizes(rig, server::LARGEST_DATAGRAM));
}

#[test]
fn every_size_is_echoed_with_whole_checksums() {
    let options = Options { sender_checksum_offload: false, ..Options::default() };
    verified(options, |rig| sizes(rig, server::LARGEST_DATAGRAM));
}

#[test]
fn every_size_is_echoed_by_four_workers_and_a_routed_pool() {
    let options = Options { pool: Pool::Routed, ..Options::four() };
    verified(options, |rig| sizes(rig, server::LARGEST_DATAGRAM));
}

// Museum: C22
#[test]
fn a_missing_checksum_stays_missing() {
    let mut rig = Rig::start(Options::default()).unwrap();
    rig.must(without_checksum(&rig));
    let scope = rig.scope().unwrap();
    let ended = rig.end_captures();
    let [internal, external] = rig.must(ended);
    let mut datagrams = [0, 0];
    for packet in rig.must(Trace::read(&external)).packets() {
        let Kind::Ipv4(ip) = packet.kind else { continue };
        let ports = [ip.word(0), ip.word(2)];
        let ours = scope.is_public(ip.source()) || scope.is_public(ip.destination());
        if ip.protocol() == 17 && ours && ports.contains(&Some(PORT)) {
            assert_eq!(ip.word(6), Some(0), "{ip}");
            datagrams[usize::from(scope.is_public(ip.source()))] += 1;
        }
    }
    assert!(datagrams.iter().all(|count| *count >= 60), "{datagrams:?}");
    let oracles = vm_test::oracle::Oracles { internal, external, scope };
    rig.must(oracles.check());
}

/// A host to which the pod did not send can't reach it by the pod's public endpoint.
fn off_path(rig: &mut Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], PORT)?;
    let pod = rig.pods[0].run(|| -> Result<_> {
        let socket = UdpSocket::bind(("0.0.0.0", 0))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        socket.send_to(b"mine", (S1[0], PORT))?;
        let mut answer = [0; 16];
        ensure!(socket.recv(&mut answer)? == 4, "no echo");
        socket.set_read_timeout(Some(Duration::from_millis(500)))?;
        Ok(socket)
    })??;
    let public = *peers.all().first().context("the server saw nobody")?;
    rig.x.run(move || UdpSocket::bind(("0.0.0.0", PORT))?.send_to(b"intruder", public))??;
    ensure!(pod.recv(&mut [0; 16]).is_err(), "a datagram of the off-path host got in");
    if let Ok(natgate) = rig.natgate() {
        ensure!(natgate.dropped("no-session")? == 1, "{:?}", natgate.json(&["drops"])?);
    }
    Ok(())
}

/// Eight datagrams of a flow, of 100 bytes each, close together.
fn train(wire: &Wire, to: SocketAddrV4) -> Result<()> {
    let from = SocketAddrV4::new(OUTSIDE, PORT);
    (0..8).try_for_each(|car| wire.send(&craft::udp(from, to, &[b'a' + car; 100])))
}

/// The kernel merges datagrams of the external link, and does not as long as natgate's program sits there: it
/// takes what comes before they are merged (driver), or keeps the kernel from it (generic mode).
fn merged(rig: &mut Rig, generic: bool) -> Result<()> {
    rig.gw.exec("ethtool -K ext gro on rx-gro-list on")?;
    let wait = "echo 20000000 > /sys/class/net/ext/gro_flush_timeout";
    ensure!(rig.gw.namespace.command("sh").args(["-c", wait]).status()?.success(), "{wait}");
    let (tap, router) =
        (Wire::open(&rig.gw.namespace, "ext", rig.r.mac("down")?)?, Wire::router(rig)?);
    let nobody = SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 99), PORT);
    wait::until("merged datagrams, without natgate", Duration::from_secs(15), || {
        train(&router, nobody)?;
        let whole = tap.receive(Duration::from_millis(50), |ip| {
            ip.protocol() == UDP && usize::from(ip.header.total_len()) > 2 * 128
        })?;
        Ok(whole.map(|_| ()))
    })?;
    rig.start_translator()?;
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, PORT, b"open")?;
    for _ in 0..50 {
        train(&router, flow.public)?;
        for car in 0..8 {
            let got = lab.inside.expect("a datagram", |ip| {
                ip.protocol() == UDP && ip.endpoints().is_some_and(|(_, to)| to == flow.local)
            })?;
            let expected = craft::datagram(flow.remote, flow.local, &[b'a' + car; 100]);
            ensure!(got.ip().body == expected, "{}", got.ip());
        }
    }
    let natgate = rig.natgate()?;
    // What the other end of the veth has not cut is whole already: only a warning can help.
    let warned = natgate.output().contains("(UDP_SEGMENT) as a single one");
    ensure!(warned == generic, "{}", natgate.output());
    vm_test::oracle::balance::settled(natgate)
}

// Museum: C26
#[test]
fn museum_26_datagrams_that_the_kernel_would_merge_stay_apart() {
    for mode in ["generic", "copy"] {
        let flags = vec!["--mode".to_owned(), mode.to_owned()];
        // This is about veths.
        let options = Options { flags, machine: None, ..Options::natgate() };
        let mut rig = Rig::without_translator(options).unwrap();
        let done = merged(&mut rig, mode == "generic");
        rig.must(done.with_context(|| format!("mode {mode}")));
    }
}

#[test]
fn an_off_path_host_does_not_get_in() {
    verified(Options::default(), off_path);
}

/// The negative control.
#[test]
fn no_datagram_comes_back_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    names(&rig, 16).unwrap_err();
    sizes(&rig, 0).unwrap_err();
    without_checksum(&rig).unwrap_err();
}
