//! What happens when the card takes frames, and never says that it has sent them?

use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::namespace::output;
use vm_test::rig::S1;
use vm_test::{Rig, wait};

use crate::load::Load;

/// Bytes that are under way behind the card, at most.
pub(crate) const BUFFER: u32 = 64 * 1024;
/// Frames of a transmit ring of natgate's.
const RING: u64 = 1024;
/// How long nothing is sent at all.
const STUCK: Duration = Duration::from_secs(3);

/// Packets count as the tap's until they leave the bridge: netfilter makes orphans of those that it sees there. And the
/// gateway's kernel asks nobody for the router's address, since it could not when nothing is sent: natgate would have
/// no way out before its rings are full.
pub(crate) fn held_to_account(rig: &Rig) -> Result<()> {
    let netfilter = "/proc/sys/net/bridge/bridge-nf-call-iptables";
    let off = format!("[ ! -e {netfilter} ] || echo 0 > {netfilter}");
    output(rig.gw.namespace.command("sh").args(["-c", &off]))?;
    let mac = rig.r.mac("down")?.map(|byte| format!("{byte:02x}")).join(":");
    let neighbour = format!("203.0.113.1 lladdr {mac} dev ext nud permanent");
    rig.gw.sh(&format!("/usr/local/bin/ip neigh replace {neighbour}")).map(drop)
}

/// How many datagrams each pod sends beside the load, until it is told to stop.
fn flood(stop: &AtomicBool) -> Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    while !stop.load(Ordering::Relaxed) {
        for _ in 0..16 {
            // What the link has no room for is not needed.
            let _ = socket.send_to(&[0; 1000], (S1[0], 9));
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Behind the tap of the external card packets wait for a queue that lets through next to nothing, and count as taken by
/// the tap as long. Then QEMU can't write more, completes no descriptor, and the kernel in the guest keeps natgate's frames.
pub(crate) fn sends_nothing(rig: &mut Rig, _: &Load) -> Result<()> {
    // Under load some are being sent; the least of several looks has none of those.
    let mut before = u64::MAX;
    for _ in 0..20 {
        before = before.min(rig.natgate()?.workers_total("frames_in_kernel")?);
        std::thread::sleep(Duration::from_millis(20));
    }
    let stop = Arc::new(AtomicBool::new(false));
    let mut floods = Vec::new();
    for pod in &rig.pods {
        let stop = Arc::clone(&stop);
        floods.push(pod.spawn(move || flood(&stop))?);
    }
    rig.gw.namespace.exec("tc qdisc add dev ext root tbf rate 8kbit burst 1600 limit 100000000")?;
    let stuck = stays_stuck(rig, before);
    rig.gw.namespace.exec("tc qdisc del dev ext root")?;
    stop.store(true, Ordering::Relaxed);
    for flood in floods {
        flood.join().expect("a flood panicked")?;
    }
    stuck
}

fn stays_stuck(rig: &mut Rig, before: u64) -> Result<()> {
    wait::until("a full transmit ring", Duration::from_secs(60), || {
        Ok((rig.natgate()?.dropped("transmit-full")? > 0).then_some(()))
    })?;
    let kept = wait::until("frames that stay in the kernel", Duration::from_secs(20), || {
        let kept = rig.natgate()?.workers_total("frames_in_kernel")?;
        Ok((kept >= before + RING).then_some(kept))
    })?;
    let seen = |rig: &mut Rig| -> Result<[u64; 2]> {
        let natgate = rig.natgate()?;
        Ok([natgate.workers_total("received")?, natgate.dropped("transmit-full")?])
    };
    let begun = seen(rig)?;
    std::thread::sleep(STUCK);
    // What goes out by the other card does.
    let mut ping = rig.pods[0].command("ping");
    let said = ping.args("-c 3 -i 0.2 -W 5 -t 2".split(' ')).arg(S1[0].to_string()).output()?;
    let said = String::from_utf8_lossy(&said.stdout);
    ensure!(said.contains("Time to live exceeded"), "inside there are no answers either: {said}");
    let ended = seen(rig)?;
    println!("received, transmit-full: {begun:?}, after {STUCK:?} {ended:?}; kept {kept}");
    ensure!(ended.iter().zip(&begun).all(|(ended, begun)| ended > begun), "it stands still");
    let still = rig.natgate()?.workers_total("frames_in_kernel")?;
    ensure!(still >= before + RING, "frames came back: {still} are kept");
    Ok(())
}
