//! Three nodes of three pods each around natgate, in overlays and without.
//!
//! ```text
//!  node 1  10.0.0.11, .21   pods 10.244.1.11-13   VXLAN "red", VNI 1 ──────────┐
//!  node 2  10.0.0.12        pods 10.244.1.11-13   VXLAN "blue", VNI 2 ─────────┼ sw ── int gw ext ── r, 192.0.2.10
//!  node 3  10.0.0.13        pods 10.244.3.11      out by VXLAN "green", VNI 3, ┤
//!                                                 back by a plain route        │
//!                           pods 10.244.4.11-12   plain both ways ─────────────┘
//! ```
//! Each node's kernel is the other end of its tunnels. Pods are addresses of their node.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::echo_datagram;
use vm_test::namespace::{directory, link};
use vm_test::oracle::packet::UDP;
use vm_test::oracle::{Ipv4, Kind, Trace};
use vm_test::{Capture, Commands, Gateway, Host, Namespace, server, wait};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PORT: u16 = 7;
/// UDP port of all tunnels.
const VXLAN: u16 = 8472;
/// The port that all pods send from.
const SAME: u16 = 5000;
/// The gateway in the overlays.
const ROUTER: &str = "10.244.255.1";

struct Cluster {
    natgate: Gateway,
    capture: Capture,
    nodes: [Namespace; 3],
    gw: Host,
    r: Namespace,
    _sw: Namespace,
    directory: tempfile::TempDir,
}

/// Node and address of each pod.
fn pods() -> Vec<(usize, Ipv4Addr)> {
    let of = |node, net, last: &[u8]| {
        last.iter().map(move |&last| (node, Ipv4Addr::new(10, 244, net, last))).collect::<Vec<_>>()
    };
    [of(0, 1, &[11, 12, 13]), of(1, 1, &[11, 12, 13]), of(2, 3, &[11]), of(2, 4, &[11, 12])]
        .concat()
}

fn arguments() -> Vec<String> {
    let words =
        "--internal int --external ext --from 10.244.0.0/16 --pool 203.0.113.10-203.0.113.13";
    words.split(' ').map(str::to_owned).collect()
}

/// A VXLAN device above `under` as flannel makes it.
fn device(host: &impl Commands, name: &str, vni: u32, under: &str, local: &str) -> Result<String> {
    host.ip(&format!(
        "link add {name} type vxlan id {vni} dev {under} local {local} dstport {VXLAN} nolearning\n\
         link set {name} up"
    ))?;
    Ok(host.mac(name)?.map(|byte| format!("{byte:02x}")).join(":"))
}

/// What is needed to send to `address` behind the other end `remote` of a tunnel.
fn peer(host: &impl Commands, name: &str, address: &str, mac: &str, remote: &str) -> Result<()> {
    host.ip(&format!("neigh add {address} lladdr {mac} dev {name} nud permanent"))?;
    host.exec(&format!("bridge fdb add {mac} dev {name} dst {remote}")).map(drop)
}

impl Cluster {
    fn start() -> Result<Self> {
        let directory = directory()?;
        let mut gw = Host::new("gw")?;
        let [sw, r, n1, n2, n3] = ["sw", "r", "n1", "n2", "n3"].map(Namespace::new);
        let (sw, r, nodes) = (sw?, r?, [n1?, n2?, n3?]);
        sw.ip("link add sw0 type bridge forward_delay 0 mcast_snooping 0\nlink set sw0 up")?;
        for (host, interface, port) in [
            (&gw.namespace, "int", "gw"),
            (&nodes[0], "eth0", "n1"),
            (&nodes[1], "eth0", "n2"),
            (&nodes[2], "eth0", "n3"),
        ] {
            link((&sw, port), (host, interface), 1)?;
            sw.ip(&format!("link set {port} master sw0"))?;
        }
        link((&gw.namespace, "ext"), (&r, "down"), 1)?;
        gw.move_if_asked(&["int", "ext"], directory.path())?;
        gw.ip("addr add 10.0.0.1/24 dev int\naddr add 203.0.113.2/24 dev ext\nroute add default via 203.0.113.1")?;
        gw.sysctl("net.ipv4.ip_forward", 1)?;
        r.ip(&format!("addr add 203.0.113.1/24 dev down\naddr add {SERVER}/32 dev lo"))?;
        for (node, (address, also)) in nodes.iter().zip([(11, Some(21)), (12, None), (13, None)]) {
            node.ip(&format!("addr add 10.0.0.{address}/24 dev eth0"))?;
            if let Some(also) = also {
                node.ip(&format!("addr add 10.0.0.{also}/24 dev eth0"))?;
            }
        }
        for (node, pod) in pods() {
            nodes[node].ip(&format!("addr add {pod}/32 dev lo"))?;
        }
        lay_tunnels(&nodes, &gw)?;
        let capture = Capture::start(&sw, "gw", directory.path())?;
        let natgate = gw.start(directory.path(), &arguments())?;
        Ok(Self { natgate, capture, nodes, gw, r, _sw: sw, directory })
    }

    /// Unwraps `result`; a failure prints what natgate wrote and dropped.
    fn must<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            panic!("{error:#}\n{}\ndrops: {}", self.natgate.output(), self.natgate.drops())
        })
    }

    /// A socket of the pod, always of the same port.
    fn socket(&self, (node, pod): (usize, Ipv4Addr)) -> Result<UdpSocket> {
        self.nodes[node].run(move || {
            let socket = UdpSocket::bind((pod, SAME))?;
            socket.connect((SERVER, PORT))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            anyhow::Ok(socket)
        })?
    }
}

fn lay_tunnels(nodes: &[Namespace; 3], gw: &Host) -> Result<()> {
    for (index, (name, remote)) in
        [("red", "10.0.0.11"), ("blue", "10.0.0.12"), ("green", "10.0.0.13")]
            .into_iter()
            .enumerate()
    {
        let (node, vni) = (&nodes[index], index as u32 + 1);
        let there = device(node, name, vni, "eth0", remote)?;
        let here = device(gw, name, vni, "int", "10.0.0.1")?;
        peer(node, name, ROUTER, &here, "10.0.0.1")?;
        peer(gw, name, "10.244.1.0", &there, remote)?;
    }
    for (node, name) in [(&nodes[0], "red"), (&nodes[1], "blue")] {
        node.ip(&format!("route add default via {ROUTER} dev {name} onlink"))?;
    }
    nodes[2].ip(&format!(
        "route add default via 10.0.0.1\nroute add default via {ROUTER} dev green onlink table 3\n\
         rule add from 10.244.3.0/24 lookup 3"
    ))?;
    gw.ip("route add 10.244.1.0/24 via 10.244.1.0 dev red onlink metric 10\n\
           route add 10.244.1.0/24 via 10.244.1.0 dev blue onlink metric 20\n\
           route add 10.244.3.0/24 via 10.0.0.13\nroute add 10.244.4.0/24 via 10.0.0.13")
}

/// Each pod must hear what it said itself, `rounds` times; one that hears another's words fails.
fn each_hears_itself(cluster: &Cluster, rounds: u32) -> Result<()> {
    let sockets: Vec<(String, UdpSocket)> = pods()
        .into_iter()
        .map(|pod| Ok((format!("{} of node {}", pod.1, pod.0 + 1), cluster.socket(pod)?)))
        .collect::<Result<_>>()?;
    for round in 0..rounds {
        // All of them are on their way at once.
        for (name, socket) in &sockets {
            socket.send(format!("{name}, {round}").as_bytes())?;
        }
        for (name, socket) in &sockets {
            let mut bytes = [0; 100];
            let length =
                socket.recv(&mut bytes).with_context(|| format!("{name} hears nothing"))?;
            let heard = String::from_utf8_lossy(&bytes[..length]);
            ensure!(heard == format!("{name}, {round}"), "{name} hears {heard}");
        }
    }
    Ok(())
}

/// The VNI, and the inner packet.
fn inside<'a>(outer: &Ipv4<'a>) -> Option<(u32, Ipv4<'a>)> {
    if outer.protocol() != UDP || outer.word(2) != Some(VXLAN) {
        return None;
    }
    let vxlan = outer.body.get(8..)?;
    let vni = u32::from_be_bytes([0, *vxlan.get(4)?, *vxlan.get(5)?, *vxlan.get(6)?]);
    (*vxlan.get(20..22)? == [8, 0]).then_some(())?;
    Some((vni, Ipv4::parse(vxlan.get(22..)?)?))
}

/// How many packets of the gateway to pods went by each way: VNI (0: none) and destination underneath. Replies of the
/// server only.
fn ways(cluster: Cluster) -> Result<BTreeMap<(u32, Ipv4Addr), usize>> {
    let gateway = cluster.gw.mac("int")?;
    let third = cluster.nodes[2].mac("eth0")?;
    let file = cluster.capture.stop(&cluster.nodes[1], Ipv4Addr::new(10, 0, 0, 1))?;
    let trace = Trace::read(&file)?;
    let mut ways = BTreeMap::new();
    for packet in trace.packets().filter(|packet| packet.source_mac == gateway) {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        if let Some((vni, inner)) = inside(ip) {
            if inner.source() == SERVER {
                *ways.entry((vni, ip.destination())).or_default() += 1;
            }
        } else if ip.source() == SERVER {
            ensure!(packet.destination_mac == third, "{ip} went to another node");
            *ways.entry((0, ip.destination())).or_default() += 1;
        }
    }
    drop(cluster.directory);
    Ok(ways)
}

fn address(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

#[test]
fn pods_of_three_nodes_go_out_and_get_their_own_answers() {
    let cluster = Cluster::start().unwrap();
    let peers = server::udp_echo(&cluster.r, SERVER, PORT).unwrap();
    cluster.must(each_hears_itself(&cluster, 20));
    let seen = peers.all();
    assert_eq!(seen.len(), pods().len(), "public endpoints: {seen:?}");
    let public = |peer: &SocketAddr| peer.ip().to_string().starts_with("203.0.113.1");
    assert!(seen.iter().all(public), "{seen:?}");
    // Two pods with one address are two subscribers.
    let subscribers = cluster.must(cluster.natgate.json(&["subscribers"]));
    assert_eq!(subscribers.len(), pods().len(), "{subscribers:?}");
    let rows = cluster.must(cluster.natgate.json(&["interfaces"]));
    let shown: BTreeMap<_, _> = rows
        .iter()
        .filter(|row| !row["tunnel"].is_null())
        .map(|row| (row["interface"].as_str().unwrap(), &row["tunnel"]))
        .collect();
    assert_eq!(shown.len(), 3, "{rows:?}");
    assert_eq!((&shown["red"]["vni"], &shown["red"]["underlay"]), (&1.into(), &"int".into()));
    assert_ne!(shown["red"]["overlay"], shown["blue"]["overlay"]);
    assert_eq!(shown["green"]["overlay"], 0);
    let ways = ways(cluster).unwrap();
    let expected = BTreeMap::from([
        ((0, address("10.244.3.11")), 20),
        ((0, address("10.244.4.11")), 20),
        ((0, address("10.244.4.12")), 20),
        ((1, address("10.0.0.11")), 60),
        ((2, address("10.0.0.12")), 60),
    ]);
    assert_eq!(ways, expected);
}

#[test]
fn what_pods_send_each_other_stays_with_the_kernel() {
    let cluster = Cluster::start().unwrap();
    // From an overlay to a plain node and back, by the gateway's kernel.
    let (red, plain) = (address("10.244.1.12"), address("10.244.4.12"));
    let peers = server::udp_echo(&cluster.nodes[2], plain, PORT).unwrap();
    let talked = cluster.nodes[0].run(move || {
        let socket = UdpSocket::bind((red, 0))?;
        socket.connect((plain, PORT))?;
        socket.set_read_timeout(Some(Duration::from_secs(3)))?;
        (0..20u8).try_for_each(|round| echo_datagram(&socket, &[round; 700]))
    });
    cluster.must(talked.unwrap());
    assert!(peers.all().iter().all(|peer| peer.ip() == red), "translated: {:?}", peers.all());
    assert_eq!(cluster.must(cluster.natgate.workers_total("received")), 0);
}

/// 100 changes a second: the red tunnel's other end moves to and fro between the node's addresses, as does the route
/// to one of them; entries, neighbours and routes that nobody uses lead into the wrong overlay.
fn churn(gw: &Host, red: &str, seconds: u32) -> Result<u32> {
    let mut changes = 0;
    for round in 0..10 * seconds {
        let ends =
            if round % 2 == 0 { ["10.0.0.21", "10.0.0.11"] } else { ["10.0.0.11", "10.0.0.21"] };
        let [first, second] = ends.map(|end| format!("bridge fdb replace {red} dev red dst {end}"));
        let other =
            format!("bridge fdb replace 02:00:00:00:00:{:02} dev red dst 10.0.0.12", round % 10);
        gw.sh(&format!("{first} && {second} && {other}"))?;
        let route = if round % 4 < 2 { "via 10.0.0.11" } else { "dev int" };
        let lines: String = (0..5)
            .map(|n| match n {
                0 => format!("route replace 10.0.0.21/32 {route}\n"),
                1 => format!(
                    "neigh replace 10.244.1.9 lladdr 02:00:00:00:00:{:02} dev red\n",
                    round % 10
                ),
                2 => format!(
                    "route replace 10.244.200.0/24 via 10.244.1.9 dev red onlink metric {}\n",
                    1 + round % 2
                ),
                3 => format!(
                    "route replace 10.244.1.12/32 via 10.0.0.13 metric {}\n",
                    500 + round % 3
                ),
                _ => format!("route del 10.244.1.12/32 metric {}\n", 500 + round % 3),
            })
            .collect();
        gw.ip(&lines)?;
        changes += 8;
        std::thread::sleep(Duration::from_millis(60));
    }
    Ok(changes)
}

/// Datagrams sent and lost, in the end.
type Load = std::thread::JoinHandle<Result<(u64, u64)>>;

/// Datagrams of each pod until `ended`: how many were sent, and how many were not answered.
fn load(cluster: &Cluster, ended: &Arc<AtomicBool>) -> Result<Vec<Load>> {
    let load = pods().into_iter().map(|pod| {
        let (socket, ended) = (cluster.socket(pod)?, Arc::clone(ended));
        socket.set_read_timeout(Some(Duration::from_secs(1)))?;
        Ok(std::thread::spawn(move || {
            let (mut sent, mut lost) = (0u64, 0);
            while !ended.load(Ordering::Relaxed) {
                sent += 1;
                let words = format!("{pod:?} {sent}");
                socket.send(words.as_bytes())?;
                let mut bytes = [0; 100];
                // One that is late answers an earlier one.
                let heard = loop {
                    let Ok(length) = socket.recv(&mut bytes) else { break false };
                    let heard = String::from_utf8_lossy(&bytes[..length]).into_owned();
                    ensure!(heard.starts_with(&format!("{pod:?} ")), "{pod:?} hears {heard}");
                    if heard == words {
                        break true;
                    }
                };
                lost += u64::from(!heard);
            }
            Ok((sent, lost))
        }))
    });
    load.collect()
}

#[test]
fn a_hundred_changes_a_second_lead_no_packet_into_another_overlay() {
    let cluster = Cluster::start().unwrap();
    server::udp_echo(&cluster.r, SERVER, PORT).unwrap();
    cluster.must(each_hears_itself(&cluster, 1));
    let red = cluster.nodes[0].mac("red").unwrap().map(|byte| format!("{byte:02x}")).join(":");
    let ended = Arc::new(AtomicBool::new(false));
    let load = cluster.must(load(&cluster, &ended));
    let begun = std::time::Instant::now();
    let changes = churn(&cluster.gw, &red, 4);
    let changes =
        cluster.must(changes.map(|changes| f64::from(changes) / begun.elapsed().as_secs_f64()));
    ended.store(true, Ordering::Relaxed);
    let (mut sent, mut lost) = (0, 0);
    for load in load {
        let (of_pod, not_heard) = cluster.must(load.join().expect("the load panicked"));
        sent += of_pod;
        lost += not_heard;
    }
    println!(
        "{sent} datagrams under {changes:.0} changes a second, {lost} lost; drops: {}",
        cluster.natgate.drops()
    );
    let slower = cluster.gw.slower();
    assert!(changes * f64::from(slower) > 30.0, "{changes:.0} changes a second");
    assert!(sent * u64::from(slower) > 500, "{sent} datagrams");
    assert!(lost * 200 <= sent, "{lost} of {sent} datagrams lost: {}", cluster.natgate.drops());
    let metrics = cluster.must(cluster.natgate.metrics());
    assert!(metrics.contains("natgate_mirror_resyncs_total 0"), "messages were lost");
    let ways = ways(cluster).unwrap();
    for ((vni, to), count) in &ways {
        let allowed = match vni {
            0 => ["10.244.3.11", "10.244.4.11", "10.244.4.12"].map(address).to_vec(),
            1 => ["10.0.0.11", "10.0.0.21"].map(address).to_vec(),
            _ => vec![address("10.0.0.12")],
        };
        assert!(*vni < 3 && allowed.contains(to), "{count} packets by VNI {vni} to {to}: {ways:?}");
    }
    assert!(ways.contains_key(&(1, address("10.0.0.21"))), "the other end never moved: {ways:?}");
}

/// The kernel takes no program beneath a device that has one: the next natgate, and one that finds its own removed, have
/// to lift those on the tunnels' devices first.
#[test]
fn a_new_natgate_and_a_removed_program_find_the_tunnels_again() {
    let mut cluster = Cluster::start().unwrap();
    server::udp_echo(&cluster.r, SERVER, PORT).unwrap();
    cluster.must(each_hears_itself(&cluster, 1));
    let programs = |cluster: &Cluster| -> Result<usize> {
        let links = cluster.gw.exec("ip -details link show")?;
        Ok(links.matches("prog/xdp").count())
    };
    assert_eq!(cluster.must(programs(&cluster)), 5);
    let status = cluster.natgate.terminate().unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(cluster.must(programs(&cluster)), 5, "something is open");
    let natgate = cluster.gw.start(cluster.directory.path(), &arguments());
    cluster.natgate = cluster.must(natgate);
    cluster.must(each_hears_itself(&cluster, 1));
    // What is beneath them can be removed only after them.
    cluster.gw.ip("link set dev int xdp off").unwrap_err();
    for device in ["red", "blue", "green"] {
        cluster.gw.ip(&format!("link set dev {device} xdpgeneric off")).unwrap();
    }
    let _ = cluster.gw.ip("link set dev int xdp off");
    let back = wait::until("the program to be back", Duration::from_secs(15), || {
        Ok((programs(&cluster)? == 5).then_some(()))
    });
    cluster.must(back);
    cluster.must(each_hears_itself(&cluster, 1));
    cluster.natgate.kill9().unwrap();
    let natgate = cluster.gw.start(cluster.directory.path(), &arguments());
    cluster.natgate = cluster.must(natgate);
    cluster.must(each_hears_itself(&cluster, 1));
    cluster.natgate.terminate().unwrap();
    let (status, said) = cluster.must(cluster.gw.natgate("", &["detach", "int", "ext"]));
    assert_eq!(status, 0, "{said}");
    assert_eq!(cluster.must(programs(&cluster)), 0);
}

/// flannel makes its device again when its configuration changes.
#[test]
fn a_tunnels_device_that_is_made_again_carries_traffic_again() {
    let cluster = Cluster::start().unwrap();
    server::udp_echo(&cluster.r, SERVER, PORT).unwrap();
    cluster.must(each_hears_itself(&cluster, 1));
    let pod = pods()[3];
    let socket = cluster.must(cluster.socket(pod));
    socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
    cluster.gw.ip("link del blue").unwrap();
    echo_datagram(&socket, b"gone").unwrap_err();
    cluster.must(make_blue_again(&cluster));
    let begun = std::time::Instant::now();
    let back = wait::until("an answer", Duration::from_secs(10), || {
        Ok(echo_datagram(&socket, b"back").ok())
    });
    cluster.must(back);
    println!("answered {:?} after the device was complete", begun.elapsed());
    let limit = Duration::from_secs(3) * cluster.gw.slower();
    assert!(begun.elapsed() < limit, "{:?}", begun.elapsed());
    drop(socket);
    cluster.must(each_hears_itself(&cluster, 1));
}

/// The device `blue`, with its way and its peer, after it was removed.
fn make_blue_again(cluster: &Cluster) -> Result<()> {
    let there = cluster.nodes[1].mac("blue")?.map(|byte| format!("{byte:02x}")).join(":");
    let made = device(&cluster.gw, "blue", 2, "int", "10.0.0.1").and_then(|here| {
        peer(&cluster.gw, "blue", "10.244.1.0", &there, "10.0.0.12")?;
        cluster.gw.ip("route add 10.244.1.0/24 via 10.244.1.0 dev blue onlink metric 20")?;
        cluster.nodes[1]
            .ip(&format!("neigh replace {ROUTER} lladdr {here} dev blue nud permanent"))?;
        cluster.nodes[1].exec(&format!("bridge fdb add {here} dev blue dst 10.0.0.1"))
    });
    made.map(drop)
}

/// There is room for 16 interfaces: those that are gone must leave theirs. Under other names, and of other networks, too.
#[test]
fn devices_may_be_made_again_as_often_as_one_likes() {
    let cluster = Cluster::start().unwrap();
    server::udp_echo(&cluster.r, SERVER, PORT).unwrap();
    for number in 0..20 {
        let passing = device(&cluster.gw, &format!("p{number}"), 100 + number, "int", "10.0.0.1");
        cluster.must(passing);
        let seen = wait::until("the device to be served", Duration::from_secs(5), || {
            let rows = cluster.natgate.json(&["interfaces"])?;
            Ok(rows.iter().any(|row| row["interface"] == format!("p{number}")).then_some(()))
        });
        cluster.must(seen);
        cluster.gw.ip(&format!("link del p{number}\nlink del blue")).unwrap();
        cluster.must(make_blue_again(&cluster));
    }
    let served = wait::until("every pod to be served", Duration::from_secs(20), || {
        Ok(each_hears_itself(&cluster, 1).ok())
    });
    cluster.must(served);
    let status = cluster.natgate.json(&["status"]).unwrap();
    assert!(!status[0]["warnings"].to_string().contains("not served"), "{status:?}");
}
