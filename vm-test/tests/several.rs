//! Several internal interfaces of one gateway: two plain ones and a tunnel.
//!
//! ```text
//!  n1, pod 10.244.1.11 ── 10.0.1.2 ── int1 10.0.1.1 ┐
//!  n2, pod 10.244.2.11 ── 10.0.2.2 ── int2 10.0.2.1 ┼ gw ext 203.0.113.2 ── r 203.0.113.1, server 192.0.2.10
//!  n3, pod 10.244.3.11 ══ vx ═══════ vx (on under)  ┘
//! ```

use std::net::{Ipv4Addr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::client::{connect_from, echo, echo_datagram, pattern};
use vm_test::namespace::{directory, link};
use vm_test::{Commands, Gateway, Host, Namespace, server};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const PORT: u16 = 7;
const SIDES: [&str; 3] = ["int1", "int2", "vx"];

struct Several {
    natgate: Gateway,
    nodes: [Namespace; 3],
    gw: Host,
    r: Namespace,
    _directory: tempfile::TempDir,
}

fn pod(side: usize) -> Ipv4Addr {
    Ipv4Addr::new(10, 244, side as u8 + 1, 11)
}

fn device(host: &impl Commands, under: &str, local: &str) -> Result<String> {
    host.ip(&format!(
        "link add vx type vxlan id 5 dev {under} local {local} dstport 8472 nolearning\nlink set vx up"
    ))?;
    Ok(host.mac("vx")?.map(|byte| format!("{byte:02x}")).join(":"))
}

impl Several {
    fn start() -> Result<Self> {
        let directory = directory()?;
        let mut gw = Host::new("gw")?;
        let [r, n1, n2, n3] = ["r", "n1", "n2", "n3"].map(Namespace::new);
        let (r, nodes) = (r?, [n1?, n2?, n3?]);
        for (node, interface) in nodes.iter().zip(["int1", "int2", "under"]) {
            link((&gw.namespace, interface), (node, "eth0"), 2)?;
        }
        link((&gw.namespace, "ext"), (&r, "down"), 2)?;
        gw.move_if_asked(&["int1", "int2", "under", "ext"], directory.path())?;
        gw.ip("addr add 203.0.113.2/24 dev ext\nroute add default via 203.0.113.1")?;
        gw.sysctl("net.ipv4.ip_forward", 1)?;
        r.ip(&format!("addr add 203.0.113.1/24 dev down\naddr add {SERVER}/32 dev lo"))?;
        for (side, node) in nodes.iter().enumerate() {
            let net = side + 1;
            node.ip(&format!(
                "addr add 10.0.{net}.2/24 dev eth0\naddr add {}/32 dev lo",
                pod(side)
            ))?;
            let interface = ["int1", "int2", "under"][side];
            gw.ip(&format!("addr add 10.0.{net}.1/24 dev {interface}"))?;
            if side < 2 {
                node.ip(&format!("route add default via 10.0.{net}.1"))?;
                gw.ip(&format!("route add 10.244.{net}.0/24 via 10.0.{net}.2"))?;
            }
        }
        let (there, here) =
            (device(&nodes[2], "eth0", "10.0.3.2")?, device(&gw, "under", "10.0.3.1")?);
        nodes[2].ip(&format!(
            "neigh add 10.244.3.1 lladdr {here} dev vx nud permanent\nroute add default via 10.244.3.1 dev vx onlink"
        ))?;
        nodes[2].exec(&format!("bridge fdb add {here} dev vx dst 10.0.3.1"))?;
        gw.ip(&format!(
            "neigh add 10.244.3.0 lladdr {there} dev vx nud permanent\n\
             route add 10.244.3.0/24 via 10.244.3.0 dev vx onlink"
        ))?;
        gw.exec(&format!("bridge fdb add {there} dev vx dst 10.0.3.2"))?;
        let words = "--internal int1 --internal int2 --internal vx --external ext --from 10.244.0.0/16 \
                     --pool 203.0.113.10-203.0.113.13 --workers 2";
        let arguments: Vec<String> = words.split_whitespace().map(str::to_owned).collect();
        let natgate = gw.start(directory.path(), &arguments)?;
        Ok(Self { natgate, nodes, gw, r, _directory: directory })
    }

    /// Unwraps `result`; a failure prints what natgate wrote and dropped.
    fn must<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            panic!("{error:#}\n{}\ndrops: {}", self.natgate.output(), self.natgate.drops())
        })
    }

    fn socket(&self, side: usize, from: u16) -> Result<UdpSocket> {
        self.nodes[side].run(move || {
            let socket = UdpSocket::bind((pod(side), from))?;
            socket.connect((SERVER, PORT))?;
            socket.set_read_timeout(Some(Duration::from_secs(1)))?;
            anyhow::Ok(socket)
        })?
    }

    fn packets(&self, interface: &str, field: &str) -> Result<u64> {
        let rows = self.natgate.json(&["interfaces"])?;
        let row = rows.iter().find(|row| row["interface"] == interface).context("no such row")?;
        row[field].as_u64().context("no such field")
    }
}

fn all_sides(several: &Several) -> Result<()> {
    let peers = server::udp_echo(&several.r, SERVER, PORT)?;
    server::tcp_echo(&several.r, SERVER, PORT)?;
    // All from one port: addresses tell them apart.
    let sockets = [0, 1, 2].map(|side| several.socket(side, 5000));
    for (side, socket) in sockets.iter().enumerate() {
        let socket = socket.as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        for round in 0..50u8 {
            echo_datagram(socket, &[side as u8, round]).with_context(|| SIDES[side])?;
        }
        several.nodes[side].run(move || {
            let mut stream = connect_from((pod(side), 0), (SERVER, PORT))?;
            echo(&mut stream, &pattern(side as u64, 200_000))
        })??;
    }
    ensure!(peers.all().len() == 3, "{:?}", peers.all());
    ensure!(peers.all().iter().all(|peer| peer.ip().to_string().starts_with("203.0.113.1")));
    for side in SIDES {
        for field in ["received_packets", "transmitted_packets"] {
            let packets = several.packets(side, field)?;
            ensure!(packets >= 60, "{packets} {field} of {side}");
        }
    }
    ensure!(several.packets("under", "received_packets")? == 0, "counted twice");
    // What pods say to each other stays with the kernel, across all of them.
    let before = several.natgate.workers_total("received")?;
    for (from, to) in [(0, 1), (1, 2), (2, 0)] {
        server::udp_echo(&several.nodes[to], pod(to), 9)?;
        several.nodes[from].run(move || {
            let socket = UdpSocket::bind((pod(from), 0))?;
            socket.connect((pod(to), 9))?;
            socket.set_read_timeout(Some(Duration::from_secs(3)))?;
            echo_datagram(&socket, b"pod to pod")
        })??;
    }
    let received = several.natgate.workers_total("received")?;
    ensure!(received == before, "natgate took {} packets between pods", received - before);
    // One that is down takes nobody else along.
    several.gw.ip("link set dev int1 down")?;
    for side in [1, 2] {
        let socket = sockets[side].as_ref().map_err(|error| anyhow::anyhow!("{error:#}"))?;
        echo_datagram(socket, b"still here").with_context(|| SIDES[side])?;
    }
    Ok(())
}

#[test]
fn two_plain_interfaces_and_a_tunnel_are_inside_of_one_gateway() {
    let several = Several::start().unwrap();
    let done = all_sides(&several);
    several.must(done);
}
