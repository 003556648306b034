//! A tunnel whose way has a link that is smaller than the gateway knows.
//!
//! ```text
//!  node 10.0.2.1, pod 10.244.1.11 ──── 1,400 bytes ──── mid ── int gw ext ── r, 192.0.2.10
//! ```
//! The VXLAN device of the gateway sets DF on what it sends (`df set`), so no router may cut it.

use std::net::Ipv4Addr;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::namespace::{directory, link, output};
use vm_test::{Commands, Gateway, Host, Namespace, Process, server, wait};

const SERVER: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 10);
const BYTES: usize = 300_000;

struct Narrow {
    natgate: Gateway,
    node: Namespace,
    gw: Host,
    mid: Namespace,
    _http: Process,
    _r: Namespace,
    directory: tempfile::TempDir,
}

fn device(host: &impl Commands, line: &str) -> Result<String> {
    host.ip(&format!(
        "link add vx type vxlan id 7 dstport 8472 nolearning {line}\nlink set vx mtu 1450 up"
    ))?;
    Ok(host.mac("vx")?.map(|byte| format!("{byte:02x}")).join(":"))
}

fn peer(host: &impl Commands, address: &str, mac: &str, remote: &str) -> Result<()> {
    host.ip(&format!("neigh add {address} lladdr {mac} dev vx nud permanent"))?;
    host.exec(&format!("bridge fdb add {mac} dev vx dst {remote}")).map(drop)
}

impl Narrow {
    fn start() -> Result<Self> {
        let directory = directory()?;
        let mut gw = Host::new("gw")?;
        let [node, mid, r] = ["node", "mid", "r"].map(Namespace::new);
        let (node, mid, r) = (node?, mid?, r?);
        link((&node, "eth0"), (&mid, "far"), 1)?;
        link((&mid, "near"), (&gw.namespace, "int"), 1)?;
        link((&gw.namespace, "ext"), (&r, "down"), 1)?;
        gw.move_if_asked(&["int", "ext"], directory.path())?;
        mid.ip("addr add 10.0.1.254/24 dev near\naddr add 10.0.2.254/24 dev far\nlink set far mtu 1400")?;
        mid.sysctl("net.ipv4.ip_forward", 1)?;
        node.ip("link set eth0 mtu 1400\naddr add 10.0.2.1/24 dev eth0\naddr add 10.244.1.11/32 dev lo\n\
                 route add 10.0.1.0/24 via 10.0.2.254")?;
        gw.ip("addr add 10.0.1.1/24 dev int\nroute add 10.0.2.0/24 via 10.0.1.254\n\
               addr add 203.0.113.2/24 dev ext\nroute add default via 203.0.113.1")?;
        gw.sysctl("net.ipv4.ip_forward", 1)?;
        r.ip(&format!("addr add 203.0.113.1/24 dev down\naddr add {SERVER}/32 dev lo"))?;
        let there = device(&node, "local 10.0.2.1")?;
        let here = device(&gw, "dev int local 10.0.1.1 df set")?;
        peer(&node, "10.244.255.1", &here, "10.0.1.1")?;
        peer(&gw, "10.244.1.0", &there, "10.0.2.1")?;
        node.ip("route add default via 10.244.255.1 dev vx onlink src 10.244.1.11")?;
        gw.ip("route add 10.244.1.0/24 via 10.244.1.0 dev vx onlink")?;
        std::fs::write(directory.path().join("file"), vec![b'x'; BYTES])?;
        let http = server::http(&r, SERVER, directory.path())?;
        let arguments = "--internal int --external ext --from 10.244.0.0/16 --pool 203.0.113.10";
        let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        let natgate = gw.start(directory.path(), &arguments)?;
        Ok(Self { natgate, node, gw, mid, _http: http, _r: r, directory })
    }

    /// Unwraps `result`; a failure prints what natgate wrote and dropped.
    fn must<T>(&self, result: Result<T>) -> T {
        result.unwrap_or_else(|error| {
            panic!("{error:#}\n{}\ndrops: {}", self.natgate.output(), self.natgate.drops())
        })
    }

    /// How many bytes the pod gets in `seconds`.
    fn fetched(&self, seconds: u32) -> usize {
        let file = self.directory.path().join("fetched");
        let _ = std::fs::remove_file(&file);
        let mut command: Command = self.node.command("curl");
        command.args(["-s", "--max-time", &seconds.to_string(), "--output"]);
        command.arg(&file).arg(format!("http://{SERVER}/file"));
        let _ = output(&mut command);
        std::fs::metadata(&file).map_or(0, |it| it.len() as usize)
    }

    /// The MTU of the way to the pod, as `explain` has it.
    fn explained(&self) -> Result<String> {
        let to = format!("{SERVER}:80");
        let question = ["explain", "--from", "10.244.1.11", "--to", &to, "--vni", "7"];
        // However long the lines are.
        let text = self.natgate.command(&question)?.1;
        Ok(text.split_whitespace().collect::<Vec<_>>().join(" "))
    }
}

fn learned(narrow: &Narrow) -> Result<()> {
    ensure!(narrow.explained()?.contains("MTU 1450"), "{}", narrow.explained()?);
    // The first long packets are lost; their errors reach the gateway's kernel, which natgate asks.
    let got = narrow.fetched(30);
    ensure!(got == BYTES, "{got} bytes of {BYTES}");
    wait::until("the way to be known", Duration::from_secs(10), || {
        Ok(narrow.explained()?.contains("MTU 1350").then_some(()))
    })?;
    // Nobody has to learn it again: connections are told before they begin.
    let before = cut_off(narrow)?;
    ensure!(before > 0, "no packet was too long: the test shows nothing");
    ensure!(narrow.fetched(30) == BYTES);
    ensure!(cut_off(narrow)? == before);
    // What the kernel forgets is forgotten.
    narrow.gw.ip("route flush cache")?;
    wait::until("the way to be forgotten", Duration::from_secs(10), || {
        Ok(narrow.explained()?.contains("MTU 1450").then_some(()))
    })
}

/// Packets that the router in the middle found too long.
fn cut_off(narrow: &Narrow) -> Result<u64> {
    let line = narrow.mid.exec("nstat -asz IpFragFails")?;
    let number =
        line.lines().find_map(|line| line.strip_prefix("IpFragFails")?.split_whitespace().next());
    Ok(number.unwrap_or_default().parse()?)
}

#[test]
fn a_small_link_on_the_way_of_a_tunnel_is_learned() {
    let narrow = Narrow::start().unwrap();
    narrow.must(learned(&narrow));
}
