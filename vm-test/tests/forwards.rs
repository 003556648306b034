//! Forwarded ports and one-to-one addresses, from outside, from inside (hairpin), and by their own
//! hosts (topology: `vm_test::rig`).
//!
//! ```text
//!  c1  10.244.1.11             203.0.113.10:8080 tcp, :9000-9003 tcp, :6000-6010 udp → c2
//!      10.244.1.13 ⇄ 203.0.113.14                                             ┌─ s1
//!  c2  10.244.1.12             ── node ── gw ── r ────────────────────────────┤
//!      10.244.1.14 ⇄ 203.0.113.15                                             └─ s2
//! ```

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{PATIENCE, connect_from, echo_bulk, echo_datagram, pattern};
use vm_test::rig::{FROM, PODS, S1, S2, STATIC, verified};
use vm_test::server::{self, Peers};
use vm_test::{Namespace, Options, Rig, Translator};

const OBJECTS: &str = include_str!("objects/forwards.yaml");
/// The address with the forwarded ports.
const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);
/// The one-to-one hosts: on c1, on c2.
const HOSTS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 244, 1, 13), Ipv4Addr::new(10, 244, 1, 14)];
const WEB: u16 = 8080;
const MIB: usize = 1 << 20;

/// The servers of both pods.
struct Servers {
    web: Peers,
    range: Vec<(u16, Peers)>,
    datagrams: Vec<(u16, Peers)>,
    hosts: [Peers; 2],
}

fn start() -> Result<Rig> {
    let rig = Rig::start(Options { config: Some(OBJECTS.to_owned()), ..Options::default() })?;
    prepare(&rig)?;
    Ok(rig)
}

fn prepare(rig: &Rig) -> Result<()> {
    for (pod, host) in rig.pods.iter().zip(HOSTS) {
        pod.ip(&format!("addr add {host}/24 dev eth0"))?;
    }
    if rig.options().translator == Translator::KernelNat { linux(rig) } else { Ok(()) }
}

/// The same objects as rules of nftables.
fn linux(rig: &Rig) -> Result<()> {
    let gw = &rig.gw;
    let (first, last) = rig.options().pool.range();
    gw.exec(&format!(
        "nft add rule ip natgate out ip saddr {FROM} ip daddr {FROM} snat to {first}-{last} persistent"
    ))?;
    gw.exec("nft add chain ip natgate in { type nat hook prerouting priority dstnat ; }")?;
    let mut maps = vec![("tcp", WEB, 80)];
    maps.extend((0..4).map(|port| ("tcp", 9000 + port, 9100 + port)));
    maps.extend((0..11).map(|port| ("udp", 6000 + port, 7000 + port)));
    for (protocol, from, to) in maps {
        gw.exec(&format!(
            "nft add rule ip natgate in ip daddr {SHARED} {protocol} dport {from} dnat to {}:{to}",
            PODS[1]
        ))?;
    }
    for (public, host) in STATIC.iter().zip(HOSTS) {
        gw.ip(&format!("addr add {public}/32 dev ext"))?;
        gw.exec(&format!("nft add rule ip natgate in ip daddr {public} dnat to {host}"))?;
        gw.exec(&format!("nft insert rule ip natgate out ip saddr {host} snat to {public}"))?;
    }
    Ok(())
}

fn serve(rig: &Rig) -> Result<Servers> {
    let c2 = &rig.pods[1];
    let tcp = |port| Ok((port, server::tcp_echo(c2, PODS[1], port)?));
    let udp = |port| Ok((port, server::udp_echo(c2, PODS[1], port)?));
    let host = |number: usize| -> Result<Peers> {
        server::udp_echo(&rig.pods[number], HOSTS[number], 5353)?;
        server::tcp_echo(&rig.pods[number], HOSTS[number], 5555)
    };
    Ok(Servers {
        web: server::tcp_echo(c2, PODS[1], 80)?,
        range: (9100..9104).map(tcp).collect::<Result<_>>()?,
        datagrams: (7000..7011).map(udp).collect::<Result<_>>()?,
        hosts: [host(0)?, host(1)?],
    })
}

/// A connection from `source` to `target` that carries `bytes` there and back; its own address.
fn stream(
    host: &Namespace,
    source: Ipv4Addr,
    target: (Ipv4Addr, u16),
    bytes: usize,
) -> Result<SocketAddr> {
    host.run(move || -> Result<SocketAddr> {
        let mut stream: TcpStream = connect_from((source, 0), target)?;
        echo_bulk(&mut stream, pattern(u64::from(target.1), bytes))?;
        Ok(stream.local_addr()?)
    })?
    .with_context(|| format!("TCP from {source} to {target:?}"))
}

/// A socket at `source` connected to `target`: answers from elsewhere do not count.
fn socket(source: Ipv4Addr, target: (Ipv4Addr, u16)) -> Result<UdpSocket> {
    let socket = UdpSocket::bind((source, 0))?;
    socket.connect(target)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

fn datagram(host: &Namespace, source: Ipv4Addr, target: (Ipv4Addr, u16)) -> Result<()> {
    host.run(move || echo_datagram(&socket(source, target)?, &pattern(7, 700)))?
        .with_context(|| format!("UDP from {source} to {target:?}"))
}

/// No answer, not even a refusal.
fn silent(host: &Namespace, source: Ipv4Addr, target: (Ipv4Addr, u16)) -> Result<()> {
    let kind = host.run(move || -> Result<_> {
        let socket = socket(source, target)?;
        socket.set_read_timeout(Some(Duration::from_millis(150)))?;
        socket.send(b"anybody?")?;
        Ok(socket.recv(&mut [0; 16]).map_err(|error| error.kind()))
    })??;
    ensure!(kind == Err(ErrorKind::WouldBlock), "{target:?} answered: {kind:?}");
    Ok(())
}

/// A closed port refuses at once: the error finds its way back.
fn refused(host: &Namespace, source: Ipv4Addr, target: (Ipv4Addr, u16)) -> Result<()> {
    let kind = host.run(move || -> Result<_> {
        let socket = socket(source, target)?;
        socket.send(b"anybody?")?;
        Ok(socket.recv(&mut [0; 16]).map_err(|error| error.kind()))
    })??;
    ensure!(kind == Err(ErrorKind::ConnectionRefused), "UDP from {source} to {target:?}: {kind:?}");
    Ok(())
}

fn ping(host: &Namespace, source: Ipv4Addr, target: Ipv4Addr) -> Result<()> {
    for size in [56, 3000] {
        host.exec(&format!("ping -n -q -I {source} -c 3 -i 0.05 -W 1 -s {size} {target}"))?;
    }
    Ok(())
}

/// Everybody whom a server saw is as `expected`.
fn saw(peers: &Peers, what: &str, expected: impl Fn(Ipv4Addr, u16) -> bool) -> Result<()> {
    ensure!(!peers.all().is_empty(), "{what} saw nobody");
    for peer in peers.all() {
        let IpAddr::V4(address) = peer.ip() else { anyhow::bail!("{peer} is not IPv4") };
        ensure!(expected(address, peer.port()), "{what} saw {peer}");
    }
    Ok(())
}

/// Strangers reach the forwarded ports, are seen as they are, and reach nothing else.
fn from_outside(rig: &Rig) -> Result<()> {
    let servers = serve(rig)?;
    stream(&rig.s1, S1[0], (SHARED, WEB), MIB)?;
    stream(&rig.s2, S2, (SHARED, WEB), 1000)?;
    saw(&servers.web, "the web server", |address, _| address == S1[0] || address == S2)?;
    for (index, (port, peers)) in servers.range.iter().enumerate() {
        stream(&rig.s1, S1[1], (SHARED, 9000 + index as u16), 1000)?;
        ensure!(peers.all().len() == 1, "port {port} saw {:?}", peers.all());
    }
    for (index, (port, peers)) in servers.datagrams.iter().enumerate() {
        datagram(&rig.s1, S1[0], (SHARED, 6000 + index as u16))?;
        ensure!(peers.all().len() == 1, "port {port} saw {:?}", peers.all());
        saw(peers, "the UDP server", |address, _| address == S1[0])?;
    }
    if rig.natgate.is_some() {
        // Linux answers these itself: the address is its own.
        for port in [5999, 6011, WEB] {
            silent(&rig.s1, S1[0], (SHARED, port))?;
        }
    }
    Ok(())
}

/// One-to-one hosts are reached at every port, and go out under their own address and port.
fn one_to_one(rig: &Rig) -> Result<()> {
    let servers = serve(rig)?;
    for (number, public) in STATIC.into_iter().enumerate() {
        stream(&rig.s1, S1[0], (public, 5555), MIB)?;
        datagram(&rig.s1, S1[1], (public, 5353))?;
        ping(&rig.s1, S1[0], public)?;
        refused(&rig.s1, S1[0], (public, 5354))?;
        saw(&servers.hosts[number], "a one-to-one host", |address, _| address == S1[0])?;
    }
    let outside = [server::tcp_echo(&rig.s2, S2, 80)?, server::udp_echo(&rig.s2, S2, 80)?];
    let local = stream(&rig.pods[0], HOSTS[0], (S2, 80), 100_000)?;
    saw(&outside[0], "s2", |address, port| (address, port) == (STATIC[0], local.port()))?;
    datagram(&rig.pods[1], HOSTS[1], (S2, 80))?;
    saw(&outside[1], "s2", |address, _| address == STATIC[1])?;
    ping(&rig.pods[0], HOSTS[0], S1[0])?;
    refused(&rig.pods[0], HOSTS[0], (S1[0], 81))
}

/// Pods reach forwarded ports by the public address, and are seen under theirs.
fn hairpin(rig: &Rig) -> Result<()> {
    let servers = serve(rig)?;
    let pool = rig.options().pool;
    stream(&rig.pods[0], PODS[0], (SHARED, WEB), MIB)?;
    saw(&servers.web, "the web server", |address, _| pool.holds(address))?;
    datagram(&rig.pods[0], PODS[0], (SHARED, 6003))?;
    saw(&servers.datagrams[3].1, "the UDP server", |address, _| pool.holds(address))?;
    // To itself: c2 by its own public endpoint.
    stream(&rig.pods[1], PODS[1], (SHARED, 9001), 10_000)?;
    saw(&servers.range[1].1, "the server behind :9001", |address, _| pool.holds(address))?;
    // To one-to-one hosts, from the pool and from each other (twice NAT).
    ping(&rig.pods[0], PODS[0], STATIC[1])?;
    refused(&rig.pods[0], PODS[0], (STATIC[1], 5354))?;
    ping(&rig.pods[0], HOSTS[0], STATIC[1])?;
    ping(&rig.pods[1], HOSTS[1], STATIC[0])?;
    refused(&rig.pods[0], HOSTS[0], (STATIC[1], 5354))?;
    stream(&rig.pods[0], HOSTS[0], (STATIC[1], 5555), MIB)?;
    saw(&servers.hosts[1], "the host on c2", |address, _| address == STATIC[0])?;
    datagram(&rig.pods[1], HOSTS[1], (STATIC[0], 5353))
}

/// Translation of pods goes on beside it, on the same address.
fn together(rig: &Rig) -> Result<()> {
    let _servers = serve(rig)?;
    let outside = server::tcp_echo(&rig.s1, S1[0], 80)?;
    let mut threads = Vec::new();
    for (pod, address) in rig.pods.iter().zip(PODS) {
        threads.push(pod.spawn(move || -> Result<()> {
            for _ in 0..50 {
                echo_bulk(&mut connect_from((address, 0), (S1[0], 80))?, pattern(1, 2000))?;
            }
            Ok(())
        })?);
    }
    for _ in 0..20 {
        stream(&rig.s1, S1[1], (SHARED, WEB), 2000)?;
        datagram(&rig.s1, S1[1], (SHARED, 6005))?;
    }
    for thread in threads {
        thread.join().expect("a client thread panicked")?;
    }
    let pool = rig.options().pool;
    saw(&outside, "s1", |address, port| pool.holds(address) && (address, port) != (SHARED, WEB))
}

fn scenario(play: fn(&Rig) -> Result<()>) {
    let mut rig = start().expect("the rig starts");
    rig.must(play(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

#[test]
fn forwarded_ports_are_reached_from_outside() {
    scenario(from_outside);
}

// Proves: 7857-S12a, 5508-REQ-5c.1
#[test]
fn one_to_one_hosts_are_reached_and_go_out() {
    scenario(one_to_one);
}

// Proves: 4787-REQ-9, 4787-REQ-9a, 5382-REQ-8, 5382-REQ-8a, 5508-REQ-7.1, 5508-REQ-7.2, 5508-REQ-7a
// Proves: 7857-S12b
// Museum: C15
#[test]
fn pods_reach_public_endpoints() {
    scenario(hairpin);
}

#[test]
fn pods_are_translated_beside_forwarded_ports() {
    scenario(together);
}

#[test]
fn four_workers_forward_and_turn_back() {
    let options = Options { config: Some(OBJECTS.to_owned()), ..Options::four() };
    verified(options, |rig| {
        prepare(rig)?;
        hairpin(rig)
    });
}

/// The negative control.
#[test]
fn nothing_is_forwarded_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    prepare(&rig).unwrap();
    from_outside(&rig).unwrap_err();
    let rig = Rig::start(Options::untranslated()).unwrap();
    prepare(&rig).unwrap();
    hairpin(&rig).unwrap_err();
}
