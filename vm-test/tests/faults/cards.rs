//! What happens to the gateway's interfaces.

use std::time::{Duration, Instant};

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
    rig.gw.sh(&format!("ip link set {side} down"))?;
    last();
    // Without their interface, routes are gone.
    rig.gw.sh(&format!("ip link set {side} up && ip route add {route}")).map(drop)
}

pub(crate) fn external_down_and_up(rig: &mut Rig, _: &Load) -> Result<()> {
    down_and_up(rig, "ext", "default via 203.0.113.1")
}

pub(crate) fn internal_down_and_up(rig: &mut Rig, _: &Load) -> Result<()> {
    down_and_up(rig, "int", &format!("{FROM} via 10.0.0.2"))
}

pub(crate) fn other_mtus(rig: &mut Rig, _: &Load) -> Result<()> {
    for side in ["int", "ext"] {
        rig.gw.sh(&format!("ip link set {side} mtu 1300"))?;
        last();
        rig.gw.sh(&format!("ip link set {side} mtu 1500"))?;
    }
    Ok(())
}

/// The kernel is asked to announce its own addresses; natgate has to announce those of its pools.
pub(crate) fn other_addresses(rig: &mut Rig, _: &Load) -> Result<()> {
    for (number, (side, ..)) in links(rig).iter().enumerate() {
        rig.gw.sh(&format!(
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
        rig.gw.sh(&format!("ethtool -L {side} rx 2 tx 2"))?;
    }
    Ok(())
}

pub(crate) fn more_queues(rig: &mut Rig, _: &Load) -> Result<()> {
    let workers = rig.natgate()?.json(&["workers"])?.len();
    ensure!(workers == 2, "{workers} workers");
    for (side, host, interface) in links(rig) {
        rig.gw.sh(&format!("ethtool -L {side} rx 4 tx 4"))?;
        host.exec(&format!("ethtool -L {interface} rx 4 tx 4"))?;
    }
    Ok(())
}

/// What is made anew forwards nothing by itself: natgate may be slow to put its program there.
pub(crate) fn new_ones_forward_nothing(rig: &Rig) -> Result<()> {
    rig.gw.sh("echo 0 > /proc/sys/net/ipv4/conf/default/forwarding").map(drop)
}

pub(crate) fn made_again(rig: &mut Rig, _: &Load) -> Result<()> {
    rig.remove_inside()?;
    last();
    rig.make_inside_again()
}

pub(crate) fn carrier_lost(rig: &mut Rig, _: &Load) -> Result<()> {
    let guest = rig.gw.guest().context("no guest")?;
    for card in ["n0", "n1"] {
        guest.monitor(&format!("set_link {card} off"))?;
        last();
        guest.monitor(&format!("set_link {card} on"))?;
    }
    Ok(())
}

/// Has the guest's cards use three of their four queues: so many that there are not as many left as the guest has
/// processors, and virtio-net adds none for a program.
pub(crate) fn three_of_four(rig: &Rig) -> Result<()> {
    let lines = ["int", "ext"].map(|side| format!("ethtool -L {side} combined 3"));
    rig.gw.sh(&lines.join(" && ")).map(drop)
}

/// virtio-net changes nothing beneath a program, be it to fewer queues or to more. So natgate has to stop; without its
/// program everything would be the kernel's, which must not forward meanwhile.
pub(crate) fn other_queue_count(rig: &mut Rig, load: &Load) -> Result<()> {
    let guest = rig.gw.guest().context("no guest")?;
    let asked = Instant::now();
    for (side, count) in [("int", 1), ("ext", 1), ("int", 4), ("ext", 4)] {
        let (status, said) = guest.try_sh(&format!("ethtool -L {side} combined {count}"))?;
        println!("{side} {count}: {status}: {}", said.trim());
        ensure!(status != 0, "{side} has {count} queues, beneath a program");
    }
    load.flows(asked, Duration::from_secs(20)).context("after attempts that were refused")?;
    ensure!(queues(rig)? == [3, 3], "{:?} queues after attempts that were refused", queues(rig)?);
    rig.gw.sh("echo 0 > /proc/sys/net/ipv4/ip_forward")?;
    let status = rig.natgate()?.terminate()?;
    ensure!(status.success(), "natgate ended with {status}: {}", rig.natgate()?.log());
    rig.gw.sh("natgate detach --all && ethtool -L int combined 4 && ethtool -L ext combined 4")?;
    rig.start_translator()?;
    ensure!(queues(rig)? == [4, 4], "{:?} queues after it was stopped", queues(rig)?);
    rig.let_guest_forward()
}

/// Queues that natgate serves.
fn queues(rig: &mut Rig) -> Result<Vec<u64>> {
    let rows = rig.natgate()?.json(&["interfaces"])?;
    Ok(rows.iter().filter_map(|row| row["queues"].as_u64()).collect())
}
