//! Three network namespaces: where do the tests' frames come from and go to?
//!
//! ```text
//!   in: in0 10.1.0.2 ---- int0 10.1.0.1 [gw, the test itself] ext0 192.0.2.1 ---- out0 192.0.2.2 :out
//! ```
//!
//! A test calls [`in_gateway`], which makes the namespaces and runs the same test again in `gw`.
//! Helper processes are the test binary too, with a [role](role).

use std::env;
use std::io::{BufRead, BufReader, Read};
use std::net::{Ipv4Addr, SocketAddrV4, UdpSocket};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use dataplane::interface::{InterfaceId, Mac, Roles};
use dataplane::xsk::{
    InterfaceLock, OpenConfig, OpenInterface, Opened, Steering, SteeringTables, open,
};

pub(crate) const INTERNAL: InterfaceId = InterfaceId(0);
pub(crate) const EXTERNAL: InterfaceId = InterfaceId(1);
pub(crate) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
pub(crate) const OUT_MAC: Mac = Mac([2, 0, 0, 0, 1, 2]);
pub(crate) const OUT: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 2), 9000);
pub(crate) const POOL: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(192, 0, 2, 100), 9000);
pub(crate) const POD: SocketAddrV4 = SocketAddrV4::new(Ipv4Addr::new(10, 1, 0, 2), 9000);

const PREFIX: &str = "NGX_PREFIX";
const ROLE: &str = "NGX_ROLE";

/// The namespaces of one test; removed when dropped.
struct Rig(String);

impl Drop for Rig {
    fn drop(&mut self) {
        for side in ["in", "gw", "out"] {
            let _ =
                Command::new("ip").args(["netns", "del", &format!("{}{side}", self.0)]).output();
        }
    }
}

fn sh(script: &str) -> String {
    let result = Command::new("sh").args(["-euc", script]).output().unwrap();
    assert!(result.status.success(), "{script}\n{}", String::from_utf8_lossy(&result.stderr));
    String::from_utf8_lossy(&result.stdout).into()
}

impl Rig {
    fn new(internal_queues: u32, external_queues: u32) -> Self {
        let rig = Self(format!("ngx-{}-", std::process::id()));
        let (p, i, e) = (&rig.0, internal_queues, external_queues);
        sh(&format!(
            "for n in in gw out; do ip netns add {p}$n; ip -n {p}$n link set lo up; done
             ip -n {p}gw link add int0 numrxqueues {i} numtxqueues {i} type veth \
                 peer name in0 netns {p}in numrxqueues {i} numtxqueues {i}
             ip -n {p}gw link add ext0 address {GATEWAY_MAC} numrxqueues {e} numtxqueues {e} type veth \
                 peer name out0 address {OUT_MAC} netns {p}out numrxqueues {e} numtxqueues {e}
             ip -n {p}in addr add 10.1.0.2/24 dev in0
             ip -n {p}gw addr add 10.1.0.1/24 dev int0
             ip -n {p}gw addr add 192.0.2.1/24 dev ext0
             ip -n {p}out addr add 192.0.2.2/24 dev out0
             ip -n {p}in link set in0 up; ip -n {p}gw link set int0 up
             ip -n {p}gw link set ext0 up; ip -n {p}out link set out0 up
             ip -n {p}in route add default via 10.1.0.1
             ip -n {p}out route add 10.1.0.0/24 via 192.0.2.1
             ip netns exec {p}in ethtool -K in0 tx off >/dev/null
             ip netns exec {p}gw sysctl -qw net.ipv4.ip_forward=1"
        ));
        rig
    }
}

/// Runs `body` in the gateway's namespace, in a process of its own. `test` is the test's name.
pub(crate) fn in_gateway(
    test: &str,
    internal_queues: u32,
    external_queues: u32,
    body: impl FnOnce(),
) {
    if env::var(PREFIX).is_ok() {
        return body();
    }
    let rig = Rig::new(internal_queues, external_queues);
    let status = again(&rig.0, "gw", test, "").status().unwrap();
    assert!(status.success(), "{test} failed in the gateway's namespace");
}

/// This binary, running `test` in the namespace `side` as `role`.
fn again(prefix: &str, side: &str, test: &str, role: &str) -> Command {
    let mut command = Command::new("ip");
    command.args(["netns", "exec", &format!("{prefix}{side}")]);
    command.arg(env::current_exe().unwrap()).args(["--exact", test, "--nocapture"]);
    command.env(PREFIX, prefix).env(ROLE, role);
    command
}

/// Starts `test` as a helper in the namespace `side`.
pub(crate) fn helper(side: &str, test: &str, role: &str) -> Child {
    let prefix = env::var(PREFIX).unwrap();
    let mut command = again(&prefix, side, test, role);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap()
}

/// What this process is to do; empty for the test itself.
pub(crate) fn role() -> String {
    env::var(ROLE).unwrap_or_default()
}

/// Waits until a helper prints a line that contains `text`.
pub(crate) fn await_line(child: &mut Child, text: &str) -> String {
    let mut lines = BufReader::new(child.stdout.as_mut().unwrap()).lines();
    lines.find_map(|line| Some(line.unwrap()).filter(|line| line.contains(text))).unwrap()
}

/// Blocks until the parent closes our input or dies.
pub(crate) fn await_parent() {
    let _ = std::io::stdin().read(&mut [0]);
}

/// Sends `count` datagrams from the pod to `to`.
pub(crate) fn pod_sends(to: SocketAddrV4, count: u32) {
    send_from("10.1.0.2:5000", to, count);
}

/// Sends `count` datagrams, resting after each hundred.
pub(crate) fn send_from(from: &str, to: SocketAddrV4, count: u32) {
    let socket = UdpSocket::bind(from).unwrap();
    for sequence in 1..=count {
        socket.send_to(&[0; 64], to).unwrap();
        if sequence % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1)); // the pace of the load
        }
    }
}

/// Runs a command line in the namespace `side`.
pub(crate) fn in_side(side: &str, line: &str) {
    said_in_side(side, line);
}

/// The same; what it printed.
pub(crate) fn said_in_side(side: &str, line: &str) -> String {
    sh(&format!("ip netns exec {}{side} sh -euc '{line}'", env::var(PREFIX).unwrap()))
}

pub(crate) fn ping(side: &str, address: &str) -> bool {
    let name = format!("{}{side}", env::var(PREFIX).unwrap());
    let args = ["netns", "exec", &name, "ping", "-c", "2", "-i", "0.2", "-W", "2", address];
    Command::new("ip").args(args).output().unwrap().status.success()
}

pub(crate) fn ifindex(name: &str) -> u32 {
    let text = std::fs::read_to_string(format!("/sys/class/net/{name}/ifindex")).unwrap();
    text.trim().parse().unwrap()
}

pub(crate) fn tables() -> SteeringTables {
    let nets = |list: &[&str]| list.iter().map(|net| net.parse().unwrap()).collect();
    SteeringTables {
        internal: nets(&["10.1.0.0/24"]),
        kernel_destinations: nets(&["10.1.0.0/24", "192.0.2.1/32"]),
        pools: nets(&["192.0.2.100/32"]),
        exempt: nets(&["198.51.100.0/24"]),
    }
}

const INSIDE: Roles = Roles { internal: true, external: false };
const OUTSIDE: Roles = Roles { internal: false, external: true };

pub(crate) fn config(workers: usize) -> OpenConfig {
    let interface = |id, name: &str, roles| OpenInterface {
        id,
        name: name.into(),
        ifindex: ifindex(name),
        roles,
        queues: None,
        mtu: 1500,
        underlay: false,
        closed: false,
    };
    OpenConfig::new(
        vec![interface(INTERNAL, "int0", INSIDE), interface(EXTERNAL, "ext0", OUTSIDE)],
        workers,
    )
}

/// A whole start, as natgate does it.
pub(crate) struct Gateway {
    pub(crate) opened: Opened,
    pub(crate) steering: Steering,
    pub(crate) took_over: bool,
    _locks: Vec<InterfaceLock>,
}

pub(crate) fn start(config: &OpenConfig) -> Gateway {
    let interfaces = &config.interfaces;
    let lock = |i: &OpenInterface| InterfaceLock::acquire(i.ifindex, &i.name).unwrap();
    let locks = interfaces.iter().map(lock).collect();
    let opened = open(config).unwrap();
    let mut steering = Steering::load().unwrap();
    opened.register(&mut steering).unwrap();
    steering.apply(&tables()).unwrap();
    let mut took_over = false;
    for (interface, report) in interfaces.iter().zip(&opened.reports) {
        took_over |= steering.attach(interface.ifindex, &interface.name, report.attach).unwrap();
    }
    Gateway { opened, steering, took_over, _locks: locks }
}

pub(crate) fn drops(steering: &Steering, cause: &str) -> u64 {
    let all = steering.drops().unwrap();
    all.into_iter().find(|(name, _)| *name == cause).unwrap().1
}
