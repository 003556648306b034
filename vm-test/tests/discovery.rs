//! Which NAT do programs find that look for one: RFC 5780 by coturn, and by hand (topology:
//! `vm_test::rig`).
//!
//! ```text
//!  c1 turnutils_natdiscovery ─┐                       ┌─ s1 turnserver on .10 and .11
//!                             ├─ node ── gw ── r ─────┼─ s2
//!  c2 ────────────────────────┘   (both profiles)     └─ x
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use vm_test::inject::SILENCE;
use vm_test::rig::{S1, S2, verified};
use vm_test::server::{self, Peers};
use vm_test::{Namespace, Options, Process, Rig, Translator, wait};

const X: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 130);

const INDEPENDENT: &str = "Endpoint Independent";
const ADDRESS_AND_PORT: &str = "Address and Port Dependent";

fn strict() -> Options {
    Options {
        config: Some(include_str!("objects/rfc4787.yaml").to_owned()),
        translator: Translator::Natgate,
        ..Options::default()
    }
}

/// coturn as a STUN server with two addresses and two ports.
fn turnserver(rig: &Rig) -> Result<Process> {
    let directory = rig.directory();
    let mut command = rig.s1.command("turnserver");
    command.args(["-n", "-S", "--no-tls", "--no-dtls", "--no-cli", "--simple-log", "-l", "stdout"]);
    command.args(["-L", &S1[0].to_string(), "-L", &S1[1].to_string()]);
    command.arg("--pidfile").arg(directory.join("turnserver.pid"));
    command.arg("-b").arg(directory.join("turnserver.db"));
    let server = Process::start(command, "turnserver", directory)?;
    wait::until("turnserver", Duration::from_secs(10), || {
        Ok(server.stdout().contains("Total General servers").then_some(()))
    })
    .with_context(|| server.stdout() + &server.stderr())?;
    Ok(server)
}

/// What coturn's client finds, with `flag` -m for mapping and -f for filtering.
fn found(rig: &Rig, flag: &str) -> Result<String> {
    rig.pods[0].exec(&format!("timeout 30 turnutils_natdiscovery {flag} {}", S1[0]))
}

fn discovery(rig: &Rig, mapping: &str, filtering: &str) -> Result<()> {
    let _server = turnserver(rig)?;
    let said = found(rig, "-m")?;
    ensure!(said.contains(&format!("NAT with {mapping} Mapping")), "{said}");
    ensure!(said.contains("No ALG"), "{said}");
    let said = found(rig, "-f")?;
    ensure!(said.contains(&format!("NAT with {filtering} Filtering")), "{said}");
    Ok(())
}

/// What each place saw of one socket of a pod, and what of theirs reached it.
struct Probe {
    /// A socket of c1 that has sent to the first of the places only, or to all.
    pod: UdpSocket,
    public: SocketAddrV4,
}

/// A socket of `pod` that sends to s1's first address and port.
fn probe(pod: &Namespace, peers: &Peers, port: u16) -> Result<Probe> {
    let before = peers.all();
    let socket = pod.run(move || -> Result<UdpSocket> {
        let socket = UdpSocket::bind(("0.0.0.0", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        socket.send_to(b"first", (S1[0], 1001))?;
        ensure!(socket.recv(&mut [0; 16])? == 5, "no echo");
        Ok(socket)
    })??;
    let after = peers.all();
    let new = after.difference(&before).next().context("s1 saw nobody new")?;
    let SocketAddr::V4(public) = *new else { bail!("{new} is not IPv4") };
    Ok(Probe { pod: socket, public })
}

/// The tuples under which s1a:1, s1a:2, s1b:1 and s2:1 see one socket.
fn seen_by_all(rig: &Rig) -> Result<Vec<SocketAddr>> {
    let servers = [
        server::udp_echo(&rig.s1, S1[0], 1001)?,
        server::udp_echo(&rig.s1, S1[0], 1002)?,
        server::udp_echo(&rig.s1, S1[1], 1001)?,
        server::udp_echo(&rig.s2, S2, 1001)?,
    ];
    let socket = probe(&rig.pods[0], &servers[0], 0)?.pod;
    rig.pods[0].run(move || -> Result<()> {
        for place in [(S1[0], 1002), (S1[1], 1001), (S2, 1001)] {
            socket.send_to(b"more", place)?;
            ensure!(socket.recv(&mut [0; 16])? == 4, "no echo from {place:?}");
        }
        Ok(())
    })??;
    Ok(servers.iter().flat_map(Peers::all).collect())
}

/// 4787-REQ-2: one address in either profile; 4787-REQ-1: one port in the strict one.
fn mapping(rig: &Rig, independent: bool) -> Result<()> {
    let seen = seen_by_all(rig)?;
    ensure!(seen.len() == 4, "{seen:?}");
    ensure!(seen.iter().all(|it| it.ip() == seen[0].ip()), "several addresses: {seen:?}");
    let one = seen.iter().all(|it| it.port() == seen[0].port());
    ensure!(one == independent, "endpoint-independent: {independent}; seen: {seen:?}");
    Ok(())
}

/// Which of s1a:1, s1a:2, s1b:1, x reach a socket that has sent to s1a:1 only.
fn filtering(rig: &Rig, accepted: [bool; 4]) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 1001)?;
    let Probe { pod, public } = probe(&rig.pods[0], &peers, 0)?;
    let places = [(&rig.s1, S1[0], 1002), (&rig.s1, S1[1], 1001), (&rig.x, X, 1001)];
    for (number, (host, address, port)) in places.into_iter().enumerate() {
        let mark = [number as u8 + 1];
        host.run(move || UdpSocket::bind((address, port))?.send_to(&mark, public))??;
    }
    // The echo comes last: what did not come before it does not come.
    let came = rig.pods[0].run(move || -> Result<[bool; 4]> {
        pod.send_to(&[0], (S1[0], 1001))?;
        let mut came = [false; 4];
        let mut mark = [0; 8];
        while let Ok((1, _)) = pod.recv_from(&mut mark) {
            came[usize::from(mark[0])] = true;
            if mark[0] == 0 {
                // Two roads, s1's and x's: the echo may overtake x by a little.
                pod.set_read_timeout(Some(SILENCE))?;
            }
        }
        Ok(came)
    })??;
    ensure!(came == accepted, "s1a:1, s1a:2, s1b:1, x: {came:?}, not {accepted:?}");
    Ok(())
}

/// Two pods, one source port, one server: two tuples, and each gets its own answers.
fn one_source_port(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 1001)?;
    let first = probe(&rig.pods[0], &peers, 5555)?;
    let second = probe(&rig.pods[1], &peers, 5555)?;
    ensure!(first.public != second.public, "both are {}", first.public);
    for (pod, probe) in rig.pods.iter().zip([first, second]) {
        let name = pod.name().to_owned();
        pod.run(move || -> Result<()> {
            let mut answer = [0; 64];
            probe.pod.send_to(name.as_bytes(), (S1[0], 1001))?;
            let length = probe.pod.recv(&mut answer)?;
            ensure!(answer[..length] == *name.as_bytes(), "another pod's answer");
            Ok(())
        })??;
    }
    Ok(())
}

/// 4787-REQ-9 in the strict profile: c1 reaches the public endpoint that c2 has for somebody else.
fn hairpin(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 1001)?;
    let first = probe(&rig.pods[0], &peers, 5001)?;
    let second = probe(&rig.pods[1], &peers, 5002)?;
    let target = second.public;
    let source = first.public;
    first.pod.send_to(b"turn", target)?;
    let mut answer = [0; 64];
    let (length, from) = second.pod.recv_from(&mut answer).context("the hairpinned datagram")?;
    ensure!(answer[..length] == *b"turn" && from == SocketAddr::V4(source), "{from}, not {source}");
    second.pod.send_to(b"back", from)?;
    let (length, from) = first.pod.recv_from(&mut answer).context("the answer")?;
    ensure!(answer[..length] == *b"back" && from == SocketAddr::V4(target), "{from}, not {target}");
    // To itself, as ICE does.
    first.pod.send_to(b"self", source)?;
    let (_, from) = first.pod.recv_from(&mut answer).context("a datagram to itself")?;
    ensure!(from == SocketAddr::V4(source), "{from}, not {source}");
    Ok(())
}

/// 4787-REQ-3a, REQ-4: class and parity of the source port stay.
fn class_and_parity(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 1001)?;
    for port in [500, 501, 700, 5000, 5001, 40_000, 40_001, 65_535] {
        let public = probe(&rig.pods[0], &peers, port)?.public.port();
        ensure!(public % 2 == port % 2, "{port} became {public}");
        ensure!((public < 1024) == (port < 1024), "{port} became {public}");
    }
    Ok(())
}

/// 4787-REQ-2: a hundred sockets of each pod, one address each.
fn paired(rig: &Rig) -> Result<()> {
    let peers = server::udp_echo(&rig.s1, S1[0], 1001)?;
    for pod in &rig.pods {
        // All stay open: a port that the kernel gave out again would be the old session.
        let probes: Vec<_> = (0..100).map(|_| probe(pod, &peers, 0)).collect::<Result<_>>()?;
        let addresses: BTreeSet<_> = probes.iter().map(|it| *it.public.ip()).collect();
        ensure!(addresses.len() == 1, "one pod was seen as {addresses:?}");
    }
    Ok(())
}

// Proves: 4787-REQ-2, 6888-REQ-2.1
#[test]
fn high_density_depends_on_address_and_port() {
    verified(Options::natgate(), |rig| {
        mapping(rig, false)?;
        discovery(rig, ADDRESS_AND_PORT, ADDRESS_AND_PORT)
    });
}

// Proves: 4787-REQ-3, 4787-REQ-2
#[test]
fn strangers_and_namesakes() {
    verified(Options::default(), |rig| filtering(rig, [true, false, false, false]));
    verified(Options::default(), |rig| {
        one_source_port(rig)?;
        Ok(())
    });
    verified(Options::default(), |rig| paired(rig));
}

// Proves: 4787-REQ-1, 4787-REQ-8, 6888-REQ-7.1
#[test]
fn strict_is_endpoint_independent() {
    verified(strict(), |rig| {
        mapping(rig, true)?;
        discovery(rig, INDEPENDENT, INDEPENDENT)
    });
}

// Proves: 4787-REQ-8
#[test]
fn strict_lets_anybody_answer() {
    verified(strict(), |rig| filtering(rig, [true; 4]));
}

// Proves: 4787-REQ-3, 4787-REQ-2
#[test]
fn strict_keeps_namesakes_apart() {
    verified(strict(), |rig| one_source_port(rig));
}

// Proves: 4787-REQ-9, 4787-REQ-9a
#[test]
fn strict_turns_back_to_mappings() {
    verified(strict(), |rig| hairpin(rig));
}

// Proves: 4787-REQ-3a, 4787-REQ-4, 4787-REQ-2
#[test]
fn strict_keeps_class_and_parity_and_pairs() {
    verified(strict(), |rig| class_and_parity(rig));
    verified(strict(), |rig| paired(rig));
}

/// coturn's client finds Linux's NAT to be what it is known to be: the tools tell the truth.
#[test]
fn the_tools_tell_linux_from_natgate() {
    let options = Options { translator: Translator::KernelNat, ..Options::default() };
    verified(options, |rig| {
        mapping(rig, true)?;
        discovery(rig, INDEPENDENT, ADDRESS_AND_PORT)
    });
}

/// The negative control.
#[test]
fn nothing_is_discovered_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    discovery(&rig, INDEPENDENT, INDEPENDENT).unwrap_err();
    filtering(&rig, [true, false, false, false]).unwrap_err();
}
