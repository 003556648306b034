//! Path MTU: what is too big is told to its sender, by routers and by natgate; what may be cut is
//! cut; and traceroute sees every hop (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 ──── node ──── gw ──── r ──── s1
//!      pods    inside  outside  server   ← MTU of each link
//! ```

use std::net::{Ipv4Addr, SocketAddrV4};

use anyhow::{Context, Result, ensure};
use vm_test::client::{connect, echo_bulk, echo_datagram, pattern, udp};
use vm_test::craft::{self, Ip};
use vm_test::inject::{INSIDE, OUTSIDE};
use vm_test::oracle::packet::{ICMP, UDP};
use vm_test::oracle::reassembly::Reassembly;
use vm_test::oracle::{Ipv4, checksums};
use vm_test::rig::{GATEWAY, Mtus, S1, verified};
use vm_test::{Lab, Namespace, Options, Rig, Wire, server, wait};

const PORT: u16 = 7;
/// The largest MTU with which the kernel lets a veth link have an XDP program. The frames of
/// natgate's memory set its own limit: 3,822 bytes, of which it warns. 50 bytes are left for a tunnel.
const LARGEST: u16 = 3506 - 50;

/// TCP is to find out by itself: its segment sizes are not lowered beforehand.
fn mtus(mtus: Mtus) -> Options {
    let flags = ["--mss-clamp", "off"].map(str::to_owned).to_vec();
    Options { mtus, flags, ..Options::default() }
}

/// The MTU that `host` has learnt for a destination.
fn learnt(host: &Namespace, destination: Ipv4Addr) -> Result<Option<u16>> {
    let route = host.exec(&format!("ip route get {destination}"))?;
    let mut words = route.split_whitespace();
    let mtu = words.by_ref().find(|word| *word == "mtu").and_then(|_| words.next());
    mtu.map(|mtu| mtu.parse().context("a number")).transpose()
}

fn forget(rig: &Rig) -> Result<()> {
    [&rig.pods[0], &rig.pods[1], &rig.s1].iter().try_for_each(|host| host.ip("route flush cache"))
}

/// `host` learns that the way to `address` takes `mtu` only: by ping, by UDP, by TCP.
fn learns(rig: &Rig, mtu: u16, router: Ipv4Addr) -> Result<()> {
    let pod = &rig.pods[0];
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    forget(rig)?;
    let mut ping = pod.command("ping");
    ping.args(["-n", "-M", "do", "-s", "1400", "-c", "1", "-W", "5", &S1[0].to_string()]);
    let said = String::from_utf8(ping.output()?.stdout)?;
    ensure!(said.contains(&format!("mtu = {mtu}")), "ping: {said}");
    ensure!(said.contains(&format!("From {router} ")), "ping: {said}");
    ensure!(learnt(pod, S1[0])? == Some(mtu), "ping: {:?}", learnt(pod, S1[0])?);
    pod.exec(&format!("ping -n -q -M do -s {} -c 1 -W 10 {}", mtu - 28, S1[0]))?;

    forget(rig)?;
    pod.run(|| -> Result<()> {
        // The first is lost, and tells the kernel; the next is cut by the kernel itself.
        let socket = udp((S1[0], PORT))?;
        socket.set_read_timeout(Some(std::time::Duration::from_millis(200)))?;
        wait::until("an echo", std::time::Duration::from_secs(15), || {
            Ok(echo_datagram(&socket, &pattern(1, 1400)).ok())
        })
    })??;
    ensure!(learnt(pod, S1[0])? == Some(mtu), "UDP: {:?}", learnt(pod, S1[0])?);

    forget(rig)?;
    pod.run(|| echo_bulk(&mut connect((S1[0], PORT))?, pattern(2, 2 << 20)))?
        .context("a bulk transfer")?;
    // TCP says its MSS by its own link: only a narrow link further on makes it learn.
    let narrow_further_on = rig.options().mtus.server == 1500;
    if narrow_further_on {
        ensure!(learnt(pod, S1[0])? == Some(mtu), "TCP: {:?}", learnt(pod, S1[0])?);
    }
    Ok(())
}

/// The server's packets are too big for the pods' link: natgate tells the server.
fn server_learns(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    for size in [1253, 1472] {
        let ip = Ip { tos: 46 << 2, ..Ip::new(OUTSIDE, *flow.public.ip(), UDP) };
        let sent = ip.packet(&craft::datagram(flow.remote, flow.public, &pattern(1, size)));
        lab.outside.send(&sent)?;
        let got = lab.outside.expect("3/4", |ip| ip.protocol() == ICMP)?;
        let ip = got.ip();
        ensure!(ip.body[..2] == [3, 4] && ip.word(6) == Some(1280), "{ip}: {:02x?}", &ip.body[..8]);
        ensure!(rig.natgate.is_none() || ip.source() == *flow.public.ip(), "{ip}");
        ensure!(
            ip.header.dcp().value() == 46 || rig.natgate.is_none(),
            "its class is not the packet's"
        );
        ensure!(checksums::fault(&ip).is_none(), "{:?}", checksums::fault(&ip));
        let quote = ip.quoted().context("no quote")?;
        ensure!(quote.endpoints() == Some((flow.remote, flow.public)), "{quote}");
        // As much as fits 576 bytes (RFC 1812 4.3.2.3).
        ensure!((568..=576).contains(&ip.header.total_len()), "{ip}");
    }
    lab.nothing_inside("what was too big")?;
    let ip = Ip { id: 1, dont_fragment: false, ..Ip::new(OUTSIDE, *flow.public.ip(), UDP) };
    let sent = ip.packet(&craft::datagram(flow.remote, flow.public, &pattern(2, 1472)));
    lab.outside.send(&sent)?;
    let payload = pattern(2, 1472);
    fragments(&lab.came_inside()?, &payload, 2, 1280)?;
    // And a real transfer in that direction: the pod's MSS lets s1 send too much if it is raised.
    rig.pods[0].run(|| echo_bulk(&mut connect((S1[0], PORT))?, pattern(3, 1 << 20)))?
}

/// `came` are `number` fragments in order, none larger than `mtu`, that make a datagram of `payload`.
fn fragments(
    came: &[vm_test::inject::Received],
    payload: &[u8],
    number: usize,
    mtu: u16,
) -> Result<()> {
    ensure!(came.len() == number, "{} fragments instead of {number}", came.len());
    let mut reassembly = Reassembly::default();
    let mut whole = None;
    let mut offset = 0;
    for packet in came {
        let ip = packet.ip();
        ensure!(ip.header.total_len() <= mtu, "{ip} is too big");
        ensure!(ip.offset() == offset, "{ip} is out of order");
        ensure!(!ip.header.dont_fragment(), "{ip} says DF");
        offset += ip.body.len();
        whole = reassembly.push(&ip);
    }
    let whole = whole.context("the fragments are not a datagram")?;
    let ip = Ipv4::parse(&whole).context("no packet")?;
    ensure!(ip.body[8..] == *payload, "other data");
    ensure!(checksums::fault(&ip).is_none(), "{:?}", checksums::fault(&ip));
    Ok(())
}

/// natgate cuts what may be cut: whole datagrams and fragments, outbound.
fn own_fragmentation(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    for (size, number) in [(1252, 1), (1253, 2), (1400, 2), (1472, 2)] {
        let ip = Ip { id: 7, dont_fragment: false, ..Ip::new(INSIDE, OUTSIDE, UDP) };
        let payload = pattern(1, size);
        lab.inside.send(&ip.packet(&craft::datagram(flow.local, flow.remote, &payload)))?;
        fragments(&lab.came_outside()?, &payload, number, 1280)
            .with_context(|| format!("{size} bytes"))?;
    }
    // Fragments that came in are cut again.
    let payload = pattern(2, 2952);
    let ip = Ip { id: 8, ..Ip::new(INSIDE, OUTSIDE, UDP) };
    let body = craft::datagram(flow.local, flow.remote, &payload);
    for part in ip.fragments(&body, &[1480]) {
        lab.inside.send(&part)?;
    }
    // Linux puts them together first, and needs one less.
    let number = if rig.natgate.is_some() { 4 } else { 3 };
    fragments(&lab.came_outside()?, &payload, number, 1280).context("fragments cut again")?;
    let pod = &rig.pods[0];
    forget(rig)?;
    // The server's kernel may learn its own way's MTU by the first answer.
    wait::until("an echo", std::time::Duration::from_secs(15), || {
        let line = format!("ping -n -q -M dont -s 4096 -c 1 -W 0.5 {}", S1[0]);
        Ok(pod.exec(&line).ok())
    })?;
    pod.exec(&format!("ping -n -q -M dont -s 4096 -c 5 -i 0.1 -W 1 {}", S1[0])).map(|_| ())
}

/// As few fragments as can be (1812-S4.2.2.7), from a datagram that only a large link carries.
fn fewest_fragments(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let flow = lab.udp(3000, 7, b"open")?;
    let payload = pattern(1, 3000);
    let ip = Ip { id: 7, dont_fragment: false, ..Ip::new(INSIDE, OUTSIDE, UDP) };
    lab.inside.send(&ip.packet(&craft::datagram(flow.local, flow.remote, &payload)))?;
    fragments(&lab.came_outside()?, &payload, 3, 1500)
}

/// Bulk both ways between large links, over a link of 1,500 bytes in between.
fn bulk(rig: &Rig) -> Result<()> {
    server::tcp_echo(&rig.s1, S1[0], PORT)?;
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    let transfer = || echo_bulk(&mut connect((S1[0], PORT))?, pattern(9, 8 << 20));
    let both: Vec<_> = rig.pods.iter().map(|pod| pod.spawn(transfer)).collect::<Result<_>>()?;
    for pod in both {
        pod.join().expect("a client thread panicked")?;
    }
    ensure!(learnt(&rig.pods[0], S1[0])? == Some(1500), "{:?}", learnt(&rig.pods[0], S1[0])?);
    rig.pods[0].run(|| echo_datagram(&udp((S1[0], PORT))?, &pattern(4, 8000)))?
}

/// What `traceroute` with `flags` shows, hop by hop.
fn hops(rig: &Rig, flags: &str) -> Result<Vec<String>> {
    let line = format!("traceroute -n -q 1 -w 2 -N 1 -m 6 {flags} {}", S1[0]);
    let said = rig.pods[0].exec(&line)?;
    let addresses = said.lines().skip(1).filter_map(|line| line.split_whitespace().nth(1));
    Ok(addresses.map(str::to_owned).collect())
}

fn every_hop(rig: &Rig) -> Result<()> {
    let expected = [
        "10.244.1.1".to_owned(),
        GATEWAY[0].to_string(),
        "203.0.113.1".to_owned(),
        S1[0].to_string(),
    ];
    for flags in ["-U -p 33434", "-I", "-T -p 80"] {
        let seen = hops(rig, flags)?;
        ensure!(seen == expected, "traceroute {flags}: {seen:?}");
    }
    Ok(())
}

/// TTL 1 from both sides: one error each, that quotes the packet as it came.
fn expired(rig: &Rig) -> Result<()> {
    let lab = Lab::open(rig)?;
    let (node, router) = (Wire::node(rig)?, Wire::router(rig)?);
    let flow = lab.udp(3000, 7, b"open")?;
    let body = craft::datagram(flow.local, flow.remote, b"expires");
    let ip = Ip { ttl: 1, tos: (46 << 2) | 1, ..Ip::new(INSIDE, OUTSIDE, UDP) };
    let sent = ip.packet(&body);
    node.send(&sent)?;
    let got = node.expect("11/0 inside", |ip| ip.protocol() == ICMP && ip.body[0] == 11)?;
    own_error(&got.ip(), (GATEWAY[0], INSIDE), &sent, rig)?;
    let body = craft::datagram(flow.remote, flow.public, b"expires");
    let ip = Ip { ttl: 1, tos: (46 << 2) | 1, ..Ip::new(OUTSIDE, *flow.public.ip(), UDP) };
    let sent = ip.packet(&body);
    router.send(&sent)?;
    let got = router.expect("11/0 outside", |ip| ip.protocol() == ICMP && ip.body[0] == 11)?;
    own_error(&got.ip(), (*flow.public.ip(), OUTSIDE), &sent, rig)?;
    // Never about an error, nor about a later fragment (RFC 1812 4.3.2.7).
    let error = craft::icmp(3, 3, [0; 4], &lab.datagram_in(&flow, b"in")?.0);
    node.send(&Ip { ttl: 1, ..Ip::new(INSIDE, OUTSIDE, ICMP) }.packet(&error))?;
    let later = Ip { ttl: 1, offset: 1480, dont_fragment: false, ..Ip::new(INSIDE, OUTSIDE, UDP) };
    node.send(&later.packet(&[0; 64]))?;
    // Nor about what went to many, or came from nowhere, or is broken.
    let many = Ipv4Addr::new(224, 0, 0, 5);
    let datagram = |from: Ipv4Addr, to: Ipv4Addr| {
        let ends = (SocketAddrV4::new(from, 3000), SocketAddrV4::new(to, 7));
        Ip { ttl: 1, ..Ip::new(from, to, UDP) }.packet(&craft::datagram(ends.0, ends.1, b"no"))
    };
    let mut broken = datagram(INSIDE, OUTSIDE);
    broken[10] ^= 1;
    for packet in [datagram(INSIDE, many), datagram(Ipv4Addr::LOCALHOST, OUTSIDE), broken] {
        node.send(&packet)?;
    }
    let everybody = Wire::open(&rig.node, "gw0", [0xff; 6])?;
    everybody.send(&datagram(INSIDE, OUTSIDE))?;
    lab.nothing_inside("an error about what must not have one")
}

fn own_error(ip: &Ipv4<'_>, ends: (Ipv4Addr, Ipv4Addr), sent: &[u8], rig: &Rig) -> Result<()> {
    ensure!((ip.source(), ip.destination()) == ends, "{ip}, not {ends:?}");
    ensure!(ip.body[..2] == [11, 0] && ip.header.ttl() == 64, "{ip}");
    ensure!(ip.body[8..] == *sent, "the quote is not what was sent");
    ensure!(checksums::fault(ip).is_none(), "{:?}", checksums::fault(ip));
    // Linux gives its errors a class of their own (RFC 1812 4.3.2.5).
    let class = (ip.header.dcp().value(), ip.header.ecn().value());
    ensure!(class == (46, 0) || rig.natgate.is_none(), "class {class:?}");
    Ok(())
}

// Proves: 5508-S7.1.2, 5382-REQ-9, 5508-REQ-4a
// Museum: C24
#[test]
fn a_narrow_link_behind_the_router_is_learnt() {
    let narrow = Mtus { server: 1280, ..Mtus::default() };
    verified(mtus(narrow), |rig| learns(rig, 1280, Ipv4Addr::new(203, 0, 113, 1)));
}

// Proves: 4787-REQ-13, 5508-S7.1.1a, 5508-S7.1.1b, 1812-S5.2.7.1b, 1812-S4.3.2.4, 6864-S4.3b
#[test]
fn natgate_tells_pods_of_its_own_narrow_link() {
    let narrow = Mtus { outside: 1280, ..Mtus::default() };
    verified(mtus(narrow), |rig| learns(rig, 1280, GATEWAY[0]));
}

// Proves: 5508-S7.1.1b, 5508-S7.1.1c, 1812-S4.3.2.3a, 1812-S4.3.2.3b, 1812-S4.3.2.4, 5508-S7.7a
#[test]
fn natgate_tells_servers_of_its_own_narrow_link() {
    let narrow = Mtus { inside: 1280, ..Mtus::default() };
    verified(mtus(narrow), |rig| server_learns(rig));
}

// Proves: 4787-REQ-13a.1, 4787-REQ-13a.2, 5508-S7.1.1c
#[test]
fn natgate_cuts_what_may_be_cut() {
    let narrow = Mtus { outside: 1280, ..Mtus::default() };
    verified(mtus(narrow), |rig| own_fragmentation(rig));
}

// Proves: 1812-S4.2.2.7, 4787-REQ-13a.1
#[test]
fn fragments_are_as_few_as_can_be() {
    let large = Mtus { pods: LARGEST, inside: LARGEST, ..Mtus::default() };
    verified(mtus(large), |rig| fewest_fragments(rig));
}

// Proves: 4787-REQ-13, 5508-S7.1.1b, 5382-REQ-9
// Museum: C24
#[test]
fn large_links_meet_over_a_small_one() {
    let large = Mtus { pods: 9000, inside: LARGEST, outside: 1500, server: 9000 };
    verified(mtus(large), |rig| bulk(rig));
}

// Proves: 5508-REQ-10a.2, 5508-S7.2a, 5508-S7.2c, 1812-S5.3.1
#[test]
fn traceroute_shows_every_hop() {
    verified(Options::default(), |rig| every_hop(rig));
}

// Proves: 5508-S7.2a, 5508-REQ-10d, 5508-S7.7a, 1812-S4.3.2.2, 1812-S4.3.2.3a, 1812-S4.3.2.4
// Proves: 5508-REQ-10e, 1812-S4.3.2.7
#[test]
fn expired_packets_are_reported_as_they_came() {
    verified(Options::default(), |rig| expired(rig));
}

/// The negative control.
#[test]
fn nothing_is_learnt_without_translation() {
    let options =
        Options { mtus: Mtus { server: 1280, ..Mtus::default() }, ..Options::untranslated() };
    let rig = Rig::start(options).unwrap();
    learns(&rig, 1280, Ipv4Addr::new(203, 0, 113, 1)).unwrap_err();
    every_hop(&rig).unwrap_err();
}
