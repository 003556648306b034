//! Links that go and come, change, and serve both sides (topology: `vm_test::rig`, but for the one-armed gateway).
//!
//! ```text
//!  one arm:  node 10.0.0.2, pod 10.244.1.11 ─┐
//!            gw 10.0.0.1, 203.0.113.2 "arm" ─┼ a bridge
//!            r 203.0.113.1, server 192.0.2.10┘
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::client::{echo_datagram, udp};
use vm_test::namespace::link;
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{PODS, S1};
use vm_test::{Capture, Gateway, Host, Namespace, Options, Rig, server, wait};

const PORT: u16 = 7;

/// Waits until datagrams are answered, for as long as the links may take.
fn answered(pod: &Namespace, what: &str) -> Result<()> {
    let what = what.to_owned();
    pod.run(move || {
        let socket = udp((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        wait::until(&what, Duration::from_secs(3), || Ok(echo_datagram(&socket, b"q").ok()))
    })?
}

fn unanswered(pod: &Namespace) -> Result<()> {
    pod.run(move || {
        let socket = udp((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(300)))?;
        ensure!(echo_datagram(&socket, b"q").is_err(), "it was answered");
        Ok(())
    })?
}

/// The field of an interface in `natgate interfaces`.
fn shown(rig: &mut Rig, interface: &str, field: &str) -> Result<String> {
    let rows = rig.natgate()?.json(&["interfaces"])?;
    let row = rows.iter().find(|row| row["interface"] == interface);
    Ok(row.map_or_else(String::new, |row| row[field].to_string()))
}

fn show(rig: &mut Rig, interface: &str, field: &str, wanted: &str) -> Result<()> {
    wait::until(&format!("{field} {wanted}"), Duration::from_secs(2), || {
        Ok((shown(rig, interface, field)? == wanted).then_some(()))
    })
}

fn down_and_up(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    answered(&rig.pods[0], "an answer")?;
    // Without a carrier the routes stay, and work again with it.
    rig.carrier_outside(false)?;
    show(rig, "ext", "up", "false")?;
    unanswered(&rig.pods[0])?;
    rig.carrier_outside(true)?;
    answered(&rig.pods[0], "an answer with the carrier")?;
    show(rig, "ext", "up", "true")?;
    // Links that are set down lose their routes.
    for (link, route) in [("ext", "default via 203.0.113.1"), ("int", "10.244.0.0/16 via 10.0.0.2")]
    {
        rig.gw.ip(&format!("link set dev {link} down"))?;
        show(rig, link, "up", "false")?;
        unanswered(&rig.pods[0])?;
        rig.gw.ip(&format!("link set dev {link} up\nroute add {route}"))?;
        answered(&rig.pods[0], &format!("an answer after {link} came up"))?;
    }
    Ok(())
}

#[test]
fn traffic_recovers_when_a_link_is_back() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = down_and_up(&mut rig);
    rig.must(done);
}

fn other_mtu(rig: &mut Rig) -> Result<()> {
    let ping = |rig: &Rig| {
        let mut command = rig.pods[0].command("ping");
        let arguments = ["-n", "-c", "1", "-W", "2", "-M", "do", "-s", "1400"];
        let done = command.args(arguments).arg(S1[0].to_string()).output()?;
        anyhow::Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    };
    ensure!(ping(rig)?.contains("1 received"), "1,428 bytes do not pass");
    rig.gw.ip("link set ext mtu 1300")?;
    show(rig, "ext", "mtu", "1300")?;
    let told = ping(rig)?;
    ensure!(told.contains("Frag needed and DF set (mtu = 1300)"), "{told}");
    rig.gw.ip("link set ext mtu 1500")?;
    show(rig, "ext", "mtu", "1500")?;
    rig.pods[0].ip("route flush cache")?;
    ensure!(ping(rig)?.contains("1 received"), "1,428 bytes do not pass again");
    Ok(())
}

#[test]
fn a_change_of_mtu_is_followed() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = other_mtu(&mut rig);
    rig.must(done);
}

fn other_hardware_addresses(rig: &mut Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    answered(&rig.pods[0], "an answer")?;
    for (link, neighbour, its) in [("int", "node", "gw0"), ("ext", "r", "down")] {
        rig.gw.sysctl(&format!("net.ipv4.conf.{link}.arp_notify"), 1)?;
        rig.gw.ip(&format!("link set dev {link} address 02:00:00:00:00:77"))?;
        let neighbour = if neighbour == "node" { &rig.node } else { &rig.r };
        // Pool addresses are natgate's: who asked for them asks again.
        neighbour.ip(&format!("neigh flush dev {its}"))?;
        answered(&rig.pods[0], &format!("an answer after {link} has another address"))?;
    }
    Ok(())
}

#[test]
fn a_change_of_its_own_hardware_address_is_followed() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = other_hardware_addresses(&mut rig);
    rig.must(done);
}

/// A gateway with one interface.
struct OneArm {
    natgate: Gateway,
    capture: Capture,
    node: Namespace,
    gw: Host,
    r: Namespace,
    _bridge: Namespace,
    directory: tempfile::TempDir,
}

fn one_arm() -> Result<OneArm> {
    let directory = vm_test::namespace::directory()?;
    let mut gw = Host::new("gw")?;
    let [bridge, node, r] = ["bridge", "node", "r"].map(Namespace::new);
    let (bridge, node, r) = (bridge?, node?, r?);
    bridge.ip("link add sw0 type bridge forward_delay 0 mcast_snooping 0\nlink set sw0 up")?;
    for (host, interface) in [(&node, "eth0"), (&gw.namespace, "arm"), (&r, "eth0")] {
        let port = host.name().rsplit('-').next().unwrap_or_default().to_owned();
        link((&bridge, &port), (host, interface), 1)?;
        bridge.ip(&format!("link set {port} master sw0"))?;
    }
    gw.move_if_asked(&["arm"], directory.path())?;
    let pod = PODS[0];
    node.ip(&format!("addr add 10.0.0.2/24 dev eth0\naddr add {pod}/32 dev lo\nroute add default via 10.0.0.1 src {pod}"))?;
    gw.ip("addr add 10.0.0.1/24 dev arm\naddr add 203.0.113.2/24 dev arm\n\
           route add 10.244.0.0/16 via 10.0.0.2\nroute add default via 203.0.113.1")?;
    gw.sysctl("net.ipv4.ip_forward", 0)?;
    r.ip(&format!("addr add 203.0.113.1/24 dev eth0\naddr add {}/32 dev lo", S1[0]))?;
    let capture = Capture::start(&r, "eth0", directory.path())?;
    let words = ["--internal", "arm", "--external", "arm", "--from", "10.244.0.0/16"];
    let mut arguments: Vec<String> = words.map(str::to_owned).to_vec();
    arguments.extend(["--pool".to_owned(), "203.0.113.10-203.0.113.13".to_owned()]);
    let natgate = gw.start(directory.path(), &arguments)?;
    Ok(OneArm { natgate, capture, node, gw, r, _bridge: bridge, directory })
}

#[test]
fn one_interface_serves_both_sides() {
    let mut arm = one_arm().unwrap();
    server::udp_echo(&arm.r, S1[0], PORT).unwrap();
    server::tcp_echo(&arm.r, S1[0], PORT).unwrap();
    let talk = || -> Result<()> {
        for n in 0..20u8 {
            let socket = udp((S1[0], PORT))?;
            echo_datagram(&socket, &[n])?;
            let mut stream = vm_test::client::connect((S1[0], PORT))?;
            vm_test::client::echo(&mut stream, &[n; 3_000])?;
        }
        Ok(())
    };
    let talked = arm.node.run(talk).unwrap();
    let ping = arm.node.exec(&format!("ping -n -q -c 3 -i 0.1 -W 2 {}", S1[0]));
    let said = || arm.natgate.output();
    talked.unwrap_or_else(|error| panic!("{error:#}\n{}", said()));
    ping.unwrap_or_else(|error| panic!("{error:#}\n{}", said()));
    // Nothing came to the server's side in a pod's name.
    let gateway = arm.gw.mac("arm").unwrap();
    let file = arm.capture.stop(&arm.r, Ipv4Addr::new(203, 0, 113, 2)).unwrap();
    let trace = Trace::read(&file).unwrap();
    let mut translated = 0;
    for packet in trace.packets() {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        if packet.source_mac == gateway && ip.destination() == S1[0] {
            assert!(ip.source().octets().starts_with(&[203, 0, 113]), "from {}", ip.source());
            translated += 1;
        }
    }
    assert!(translated >= 40 + 3, "{translated} packets");
    let status = arm.natgate.terminate().unwrap();
    assert_eq!(status.code(), Some(0));
    drop(arm.directory);
}
