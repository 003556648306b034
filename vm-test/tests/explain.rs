//! What `natgate explain` says of a flow is what then happens to it (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 ── node ── gw (natgate explain, then the packet) ── r ── s1 (in a rule), s2 (in none)
//! ```

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use vm_test::client::{PATIENCE, connect_from, echo, echo_datagram};
use vm_test::rig::{GATEWAY, Overlay, PODS, S1, S2};
use vm_test::server::{self, Peers};
use vm_test::{Namespace, Options, Rig, Translator, wait};

const OBJECTS: &str = include_str!("objects/explained.yaml");
const PORT: u16 = 7;
const SHARED: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 10);

fn start(overlay: Overlay, workers: u16) -> Result<Rig> {
    let config = Some(OBJECTS.to_owned());
    let translator = Translator::Natgate;
    Rig::start(Options {
        config,
        overlay,
        workers,
        queues: workers,
        translator,
        ..Options::default()
    })
}

/// Who saw whom.
struct Servers {
    tcp: Peers,
    udp: Peers,
    pod: Peers,
}

fn serve(rig: &Rig) -> Result<Servers> {
    Ok(Servers {
        tcp: server::tcp_echo(&rig.s1, S1[0], PORT)?,
        udp: server::udp_echo(&rig.s1, S1[0], PORT)?,
        pod: server::udp_echo(&rig.pods[1], PODS[1], 7003)?,
    })
}

fn explain(rig: &mut Rig, from: &str, to: &str) -> Result<Value> {
    let rows = rig.natgate()?.json(&["explain", "--from", from, "--to", to])?;
    rows.into_iter().next().context("no explanation")
}

fn text<'a>(value: &'a Value, path: &str) -> Result<&'a str> {
    value.pointer(path).and_then(Value::as_str).with_context(|| format!("no {path} in {value:#}"))
}

/// Whether the flow may be seen as `peer` by what was said of one leg.
fn admits(leg: &Value, peer: SocketAddr) -> bool {
    if leg["public"].is_string() {
        return leg["public"] == peer.to_string();
    }
    leg["places"].as_array().is_some_and(|places| {
        places.iter().any(|place| {
            let ports = place["first"].as_u64()..=place["last"].as_u64();
            place["address"] == peer.ip().to_string() && ports.contains(&Some(peer.port().into()))
        })
    })
}

/// The one that a server has seen since.
fn newcomer(peers: &Peers, before: &BTreeSet<SocketAddr>) -> Result<SocketAddr> {
    wait::until("the server to see the flow", PATIENCE, || {
        Ok(peers.all().difference(before).next().copied())
    })
}

/// Sends a datagram and, if it is to be answered, expects it back; the socket stays what it is.
fn datagram(
    pod: &Namespace,
    from: (Ipv4Addr, u16),
    to: (Ipv4Addr, u16),
    passes: bool,
) -> Result<()> {
    pod.run(move || -> Result<()> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        socket.set_read_timeout(Some(PATIENCE))?;
        if passes {
            return echo_datagram(&socket, b"explained");
        }
        socket.send(b"explained")?;
        Ok(())
    })?
}

/// The way out is by the router, the way back as the kernel has it, with the MTU of each.
fn ways(rig: &Rig, leg: &Value) -> Result<()> {
    ensure!(text(leg, "/there/interface")? == "ext", "{leg:#}");
    ensure!(text(leg, "/there/next_hop/state")? == "known", "{leg:#}");
    ensure!(leg["there"]["mtu"] == 1500, "{leg:#}");
    ensure!(text(leg, "/back/interface")? == "int", "{leg:#}");
    let tunnel = &leg["back"]["tunnel"];
    if rig.options().overlay == Overlay::Plain {
        ensure!(tunnel.is_null() && leg["back"]["mtu"] == 1500, "{leg:#}");
    } else {
        ensure!(tunnel["remote"] == vm_test::rig::UNDER[0].to_string(), "{leg:#}");
        ensure!(tunnel["local"] == vm_test::rig::UNDER[1].to_string(), "{leg:#}");
        ensure!(tunnel["underlay"] == "under", "{leg:#}");
    }
    Ok(())
}

/// The first packet of a pod's flow is dropped for `reason`.
fn is_refused(
    rig: &mut Rig,
    pod: usize,
    (from, to): ((Ipv4Addr, u16), (Ipv4Addr, u16)),
    tcp: bool,
    reason: &str,
) -> Result<()> {
    let before = rig.natgate()?.dropped(reason)?;
    if tcp {
        rig.pods[pod].run(move || connect_from(from, to).is_err())?;
    } else {
        datagram(&rig.pods[pod], from, to, false)?;
    }
    let natgate = rig.natgate()?;
    wait::until("the drop", PATIENCE, || Ok((natgate.dropped(reason)? > before).then_some(())))
}

/// Flows of both pods to both servers, in no particular order, some again: told first, then sent.
fn flows(rig: &mut Rig, servers: &Servers) -> Result<()> {
    let mut random = 12_345_u64;
    let mut draw = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (random >> 33) % below
    };
    let (mut refused, mut kept) = (0, 0);
    for _ in 0..60 {
        let pod = draw(2) as usize;
        let from = (PODS[pod], 20_000 + draw(25) as u16);
        let (kind, tcp) = (draw(4), draw(4) == 0);
        let target = if kind == 0 { S2 } else { S1[0] };
        let name = if tcp { "tcp" } else { "udp" };
        let (asked, to) = (format!("{}:{}", from.0, from.1), format!("{target}:{PORT}/{name}"));
        let sessions = rig.natgate()?.json(&["sessions"])?.len();
        let told = explain(rig, &asked, &to)?;
        ensure!(
            rig.natgate()?.json(&["sessions"])?.len() == sessions,
            "explaining opened a session"
        );
        let said = || format!("{asked} → {to}: {told:#}");
        let verdict = text(&told, "/verdict")?.to_owned();
        let leg = told["legs"][0].clone();
        if verdict == "refused" {
            refused += 1;
            let reason = text(&told, "/reason")?;
            is_refused(rig, pod, (from, (target, PORT)), tcp, reason).with_context(said)?;
            continue;
        }
        ensure!(kind != 0, "{}", said());
        ensure!(text(&leg, "/rule")? == "first-server" && text(&leg, "/pool")? == "general");
        ensure!(text(&leg, "/profile")? == "high-density", "{}", said());
        ways(rig, &leg)?;
        let peers = if tcp { &servers.tcp } else { &servers.udp };
        let before = peers.all();
        if tcp {
            if verdict == "session" {
                continue; // What is left of a connection is not asked to begin again.
            }
            rig.pods[pod].run(move || -> Result<()> {
                echo(&mut connect_from(from, (S1[0], PORT))?, b"explained")
            })??;
        } else {
            datagram(&rig.pods[pod], from, (S1[0], PORT), true).with_context(said)?;
        }
        if verdict == "session" {
            kept += 1;
            ensure!(peers.all() == before, "{}", said());
            ensure!(before.iter().any(|peer| leg["public"] == peer.to_string()), "{}", said());
        } else {
            let peer = newcomer(peers, &before).with_context(said)?;
            ensure!(admits(&leg, peer), "the server saw {peer}: {}", said());
        }
    }
    ensure!(refused > 5 && kept > 2, "{refused} refused, {kept} kept: too few to tell");
    Ok(())
}

/// Port forwards from inside and outside, pings, and what is the kernel's.
fn others(rig: &mut Rig, servers: &Servers) -> Result<()> {
    let inside = explain(rig, &format!("{}:4000", PODS[0]), &format!("{SHARED}:6003/udp"))?;
    ensure!(text(&inside, "/verdict")? == "opens" && inside["legs"][0]["turns_back"] == true);
    ensure!(text(&inside, "/legs/1/internal")? == format!("{}:7003", PODS[1]), "{inside:#}");
    datagram(&rig.pods[0], (PODS[0], 4000), (SHARED, 6003), true)?;
    let peer = newcomer(&servers.pod, &BTreeSet::new())?;
    ensure!(admits(&inside["legs"][0], peer), "the pod saw {peer}: {inside:#}");

    let s1 = format!("{}:4000", S1[0]);
    let outside = explain(rig, &s1, &format!("{SHARED}:6003/udp"))?;
    ensure!(text(&outside, "/legs/0/internal")? == format!("{}:7003", PODS[1]), "{outside:#}");
    ensure!(text(&outside, "/legs/0/there/interface")? == "int", "{outside:#}");
    let before = servers.pod.all();
    datagram(&rig.s1, (S1[0], 4000), (SHARED, 6003), true)?;
    ensure!(newcomer(&servers.pod, &before)?.to_string() == s1, "{:?}", servers.pod.all());

    let stranger = explain(rig, &s1, &format!("{SHARED}:6011/udp"))?;
    ensure!(text(&stranger, "/reason")? == "no-session", "{stranger:#}");
    let ping = explain(rig, &PODS[0].to_string(), &SHARED.to_string())?;
    ensure!(text(&ping, "/verdict")? == "answered", "{ping:#}");
    rig.pods[0].exec(&format!("ping -c 1 -W 3 {SHARED}"))?;
    for own in [GATEWAY[0], PODS[1]] {
        let kernel = explain(rig, &PODS[0].to_string(), &format!("{own}:22"))?;
        ensure!(text(&kernel, "/verdict")? == "kernel", "{kernel:#}");
    }
    Ok(())
}

/// For people: every line fits 80 columns; what is wrong with a question is said with a remedy.
fn words(rig: &mut Rig, _: &Servers) -> Result<()> {
    let natgate = rig.natgate()?;
    let (from, to) = (PODS[0].to_string(), format!("{}:443", S1[0]));
    let (status, shown, errors) = natgate.command(&["explain", "--from", &from, "--to", &to])?;
    ensure!(status == 0 && errors.is_empty(), "{shown}{errors}");
    for expected in
        ["first-server → pool general (high-density)", "MTU", "verdict   passes: ", "limits"]
    {
        ensure!(shown.contains(expected), "no '{expected}' in\n{shown}");
    }
    ensure!(shown.lines().all(|line| line.chars().count() <= 80), "wider than 80:\n{shown}");
    println!("{shown}");
    let (status, _, errors) = natgate.command(&["explain", "--from", &from, "--to", "nowhere"])?;
    ensure!(
        status == 2 && errors.contains("(--to): it has no IPv4 address; give"),
        "{status} {errors}"
    );
    let (status, _, errors) =
        natgate.command(&["explain", "--from", &from, "--to", &to, "--vni", "77"])?;
    if status != 2 || !errors.contains("no tunnel has this number (77)") {
        bail!("{status} {errors}");
    }
    Ok(())
}

/// A next hop that nobody has: passable until the kernel has asked for it, and then the pod is told what was explained.
fn dead_end(rig: &mut Rig) -> Result<()> {
    const NOBODY: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 40);
    rig.gw.ip(&format!("route add {NOBODY}/32 via 203.0.113.77"))?;
    let to = format!("{NOBODY}:{PORT}");
    let told = wait::until("the route to be followed", Duration::from_secs(20), || {
        let told = explain(rig, &PODS[0].to_string(), &to)?;
        Ok((told["legs"][0]["there"]["next_hop"]["address"] == "203.0.113.77").then_some(told))
    })?;
    ensure!(text(&told, "/verdict")? != "refused", "{told:#}");
    datagram(&rig.pods[0], (PODS[0], 4100), (NOBODY, PORT), false)?;
    let limit = Duration::from_secs(20);
    let told = wait::until("the kernel to give up", limit, || {
        let told = explain(rig, &PODS[0].to_string(), &to)?;
        Ok((text(&told, "/verdict")? == "unreachable").then_some(told))
    })?;
    ensure!(text(&told, "/reason")? == "neighbour-unresolved", "{told:#}");
    ensure!(text(&told, "/why")?.contains("203.0.113.77 on ext did not answer"), "{told:#}");
    let before = rig.natgate()?.dropped("neighbour-unresolved")?;
    datagram(&rig.pods[0], (PODS[0], 4101), (NOBODY, PORT), false)?;
    let natgate = rig.natgate()?;
    wait::until("the drop that was explained", limit, || {
        Ok((natgate.dropped("neighbour-unresolved")? > before).then_some(()))
    })?;
    rig.gw.ip(&format!("route del {NOBODY}/32")).map(drop)
}

fn whole(overlay: Overlay, workers: u16) {
    let mut rig = start(overlay, workers).expect("the rig starts");
    let servers = serve(&rig).expect("servers");
    for scenario in [words, others, flows] {
        let done = scenario(&mut rig, &servers);
        rig.must(done);
    }
}

#[test]
fn flows_fare_as_explained() {
    whole(Overlay::Plain, 1);
}

#[test]
fn a_next_hop_that_does_not_answer_is_explained() {
    let mut rig = start(Overlay::Plain, 1).expect("the rig starts");
    let done = dead_end(&mut rig);
    rig.must(done);
}

#[test]
fn flows_fare_as_explained_with_four_workers() {
    whole(Overlay::Plain, 4);
}

#[test]
fn flows_fare_as_explained_over_an_overlay() {
    whole(Overlay::Flannel, 1);
}

/// The negative control: what passes though it was told to be refused is noticed.
#[test]
fn another_flow_than_the_one_explained_is_noticed() {
    let mut rig = start(Overlay::Plain, 1).expect("the rig starts");
    let servers = serve(&rig).unwrap();
    let from = (PODS[0], 20_000);
    let told = explain(&mut rig, &format!("{}:{}", from.0, from.1), &format!("{SHARED}:6003/udp"));
    let told = told.unwrap();
    datagram(&rig.pods[0], from, (S1[0], PORT), true).unwrap();
    let peer = newcomer(&servers.udp, &BTreeSet::new()).unwrap();
    assert!(!admits(&told["legs"][1], peer));
}
