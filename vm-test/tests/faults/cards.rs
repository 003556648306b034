//! What happens to the gateway's interfaces.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use vm_test::Rig;
use vm_test::rig::FROM;

use crate::load::Load;

/// Both interfaces, and the other ends of their links.
fn links(rig: &Rig) -> [(&str, &vm_test::Namespace, &str); 2] {
    [("int", &rig.node, "gw0"), ("ext", &rig.r, "down")]
}

/// How long the causes last that end by themselves.
fn last() {
    std::thread::sleep(Duration::from_millis(500));
}

fn down_and_up(rig: &Rig, side: &str, route: &str) -> Result<()> {
    rig.gateway_sh(&format!("ip link set {side} down"))?;
    last();
    // Without their interface, routes are gone.
    rig.gateway_sh(&format!("ip link set {side} up && ip route add {route}")).map(drop)
}

pub(crate) fn external_down_and_up(rig: &mut Rig, _: &Load) -> Result<()> {
    down_and_up(rig, "ext", "default via 203.0.113.1")
}

pub(crate) fn internal_down_and_up(rig: &mut Rig, _: &Load) -> Result<()> {
    down_and_up(rig, "int", &format!("{FROM} via 10.0.0.2"))
}

pub(crate) fn other_mtus(rig: &mut Rig, _: &Load) -> Result<()> {
    for side in ["int", "ext"] {
        rig.gateway_sh(&format!("ip link set {side} mtu 1300"))?;
        last();
        rig.gateway_sh(&format!("ip link set {side} mtu 1500"))?;
    }
    Ok(())
}

/// The kernel is asked to announce its own addresses; natgate has to announce those of its pools.
pub(crate) fn other_addresses(rig: &mut Rig, _: &Load) -> Result<()> {
    for (number, (side, ..)) in links(rig).iter().enumerate() {
        rig.gateway_sh(&format!(
            "echo 1 > /proc/sys/net/ipv4/conf/{side}/arp_notify && \
             ip link set {side} address 02:00:00:00:77:0{number}"
        ))?;
    }
    Ok(())
}

/// Has the namespaces' links use two of their four queues.
pub(crate) fn two_queues(rig: &Rig) -> Result<()> {
    for (side, host, interface) in links(rig) {
        host.exec(&format!("ethtool -L {interface} rx 2 tx 2"))?;
        rig.gateway_sh(&format!("ethtool -L {side} rx 2 tx 2"))?;
    }
    Ok(())
}

pub(crate) fn more_queues(rig: &mut Rig, _: &Load) -> Result<()> {
    let workers = rig.natgate()?.json(&["workers"])?.len();
    ensure!(workers == 2, "{workers} workers");
    for (side, host, interface) in links(rig) {
        rig.gateway_sh(&format!("ethtool -L {side} rx 4 tx 4"))?;
        host.exec(&format!("ethtool -L {interface} rx 4 tx 4"))?;
    }
    Ok(())
}

pub(crate) fn made_again(rig: &mut Rig, _: &Load) -> Result<()> {
    rig.remove_inside()?;
    last();
    rig.make_inside_again()
}

pub(crate) fn carrier_lost(rig: &mut Rig, _: &Load) -> Result<()> {
    let guest = rig.guest.as_ref().context("no guest")?;
    for card in ["n0", "n1"] {
        guest.monitor(&format!("set_link {card} off"))?;
        last();
        guest.monitor(&format!("set_link {card} on"))?;
    }
    Ok(())
}

/// Linux lets nobody take queues away that have sockets, and virtio-net changes nothing beneath a program.
pub(crate) fn other_queue_count(rig: &mut Rig, _: &Load) -> Result<()> {
    let guest = rig.guest.as_ref().context("no guest")?;
    for side in ["int", "ext"] {
        let (status, said) = guest.try_sh(&format!("ethtool -L {side} combined 1"))?;
        println!("{side}: {status}: {}", said.trim());
        ensure!(status != 0, "the queues of {side} were taken away");
    }
    Ok(())
}
