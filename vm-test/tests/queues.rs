//! Several queues: arrivals are spread, packets go to the worker where their pod lives, and one full queue is no matter
//! to the others (topology: `vm_test::rig`; in `guests` the gateway is a virtual machine).
//!
//! ```text
//!  the node's end of "int" (many pods' packets) ── gw ── r ── s1's link (192.0.2.20, of no kernel)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use vm_test::craft;
use vm_test::guest::Machine;
use vm_test::inject::{OUTSIDE, PATIENCE};
use vm_test::oracle::packet::UDP;
use vm_test::oracle::{Ipv4, balance};
use vm_test::{Options, Rig, Wire, wait};

const PORT: u16 = 4000;
/// Pods that send.
const PODS: u8 = 48;
/// How long a queue is full, at least.
const SATURATED: Duration = Duration::from_secs(2);
/// Flows of each.
const FLOWS: u16 = 4;

fn pod(number: u8, flow: u16) -> SocketAddrV4 {
    SocketAddrV4::new(Ipv4Addr::new(10, 244, 1, 100 + number), 5000 + flow)
}

/// A datagram from the pod's flow and its answer; both must arrive.
fn there_and_back(node: &Wire, outside: &Wire, local: SocketAddrV4) -> Result<()> {
    let came = exchange(node, outside, local, PATIENCE)?;
    ensure!(came, "a datagram from {local}, or its answer, did not come");
    Ok(())
}

/// The same; whether both came, each within `limit`.
fn exchange(node: &Wire, outside: &Wire, local: SocketAddrV4, limit: Duration) -> Result<bool> {
    let remote = SocketAddrV4::new(OUTSIDE, PORT);
    let payload = local.to_string().into_bytes();
    node.send(&craft::udp(local, remote, &payload))?;
    let mine = |ip: &Ipv4<'_>| ip.protocol() == UDP && ip.body.get(8..) == Some(&payload[..]);
    let Some(seen) = outside.receive(limit, mine)? else { return Ok(false) };
    let (public, _) = seen.endpoints()?;
    outside.send(&craft::udp(remote, public, &payload))?;
    let to_pod = |ip: &Ipv4<'_>| mine(ip) && ip.endpoints().is_some_and(|(_, to)| to == local);
    Ok(node.receive(limit, to_pod)?.is_some())
}

fn number(row: &Value, field: &str) -> Result<u64> {
    row[field].as_u64().with_context(|| format!("no {field} in {row}"))
}

/// Of each worker.
fn each(rig: &mut Rig, field: &str) -> Result<Vec<u64>> {
    let rows = rig.natgate()?.json(&["workers"])?;
    rows.iter().map(|row| number(row, field)).collect()
}

/// Every queue gets some of the packets of many flows, each worker hands over and takes over, and all that belongs to a pod
/// is at one worker.
fn spread(rig: &mut Rig, workers: usize) -> Result<()> {
    let (node, outside) = (Wire::node(rig)?, Wire::outside(rig)?);
    for flow in 0..FLOWS {
        for number in 0..PODS {
            there_and_back(&node, &outside, pod(number, flow))?;
        }
    }
    for field in ["received", "handed_over", "taken_over"] {
        let counts = each(rig, field)?;
        println!("{field}: {counts:?}");
        let wanted = workers > 1 || field == "received";
        ensure!(counts.len() == workers, "{} workers", counts.len());
        ensure!(counts.iter().all(|count| (*count > 0) == wanted), "{field}: {counts:?}");
    }
    let mut homes = BTreeMap::<String, BTreeSet<u64>>::new();
    for row in rig.natgate()?.json(&["sessions"])? {
        let internal = row["internal"].as_str().context("no internal endpoint")?;
        let address = internal.split(':').next().unwrap_or_default().to_owned();
        homes.entry(address).or_default().insert(number(&row, "worker")?);
    }
    ensure!(homes.len() >= usize::from(PODS), "{} pods have sessions", homes.len());
    for row in rig.natgate()?.json(&["subscribers"])? {
        let address = row["address"].as_str().context("no address")?;
        let Some(of_sessions) = homes.get(address) else { continue };
        let home = BTreeSet::from([number(&row, "worker")?]);
        ensure!(
            *of_sessions == home,
            "{address} lives at {home:?}, its sessions at {of_sessions:?}"
        );
    }
    let lived_at: BTreeSet<u64> = homes.into_values().flatten().collect();
    ensure!(lived_at.len() == workers, "pods live at {lived_at:?} only");
    balance::settled(rig.natgate()?)
}

/// One flow fills one queue; pods whose packets neither arrive there nor live there are served meanwhile.
fn saturated(rig: &mut Rig) -> Result<()> {
    let (node, outside) = (Wire::node(rig)?, Wire::outside(rig)?);
    for number in 0..PODS {
        there_and_back(&node, &outside, pod(number, 0))?;
    }
    let before = each(rig, "received")?;
    let stop = Arc::new(AtomicBool::new(false));
    let (flooding, flood) = (Wire::node(rig)?, Arc::clone(&stop));
    let flood = std::thread::spawn(move || -> Result<u64> {
        let packet = craft::udp(pod(0, 0), SocketAddrV4::new(OUTSIDE, 9), &[0; 18]);
        let mut sent = 0;
        while !flood.load(Ordering::Relaxed) {
            // A link without room for more is what is wanted.
            sent += u64::from(flooding.send(&packet).is_ok());
        }
        Ok(sent)
    });
    // Of these, most arrive at the full queue or live there, or their answers do.
    let (mut answered, begun) = (0, Instant::now());
    for number in (1..PODS).cycle() {
        if answered >= 8 && begun.elapsed() > SATURATED || begun.elapsed() > 10 * SATURATED {
            break;
        }
        let came = exchange(&node, &outside, pod(number, 0), Duration::from_millis(60))?;
        answered += usize::from(came);
    }
    stop.store(true, Ordering::Relaxed);
    let sent = flood.join().expect("the flood panicked")?;
    balance::settled(rig.natgate()?)?;
    let after = each(rig, "received")?;
    let came: Vec<u64> = after.iter().zip(&before).map(|(after, before)| after - before).collect();
    println!(
        "{sent} sent, received {came:?}; {answered} answers; drops {}",
        rig.natgate()?.drops()
    );
    let most = came.iter().max().copied().unwrap_or_default();
    ensure!(most * 10 > came.iter().sum::<u64>() * 8, "more than one queue was full: {came:?}");
    ensure!(answered >= 8, "{answered} answers to others in {:?}", begun.elapsed());
    // And everything is as before.
    for number in 0..PODS {
        there_and_back(&node, &outside, pod(number, 1))?;
    }
    Ok(())
}

fn options(queues: u16, guest: bool) -> Options {
    let machine = guest.then(|| Machine::with_queues(queues));
    Options { queues, workers: queues, machine, ..Options::natgate() }
}

fn run(queues: u16, guest: bool) {
    let mut rig = Rig::without_translator(options(queues, guest)).expect("the rig");
    let started = rig.start_translator();
    rig.must(started);
    let done = spread(&mut rig, usize::from(queues));
    rig.must(done);
    if queues > 1 {
        let done = saturated(&mut rig);
        rig.must(done);
    }
}

/// virtio-net adds a queue for each processor to those of the card, if it has as many left, when it gets a program; and
/// packets arrive there, too.
fn served_when_added(rig: &mut Rig) -> Result<()> {
    rig.gw.sh("ethtool -L int combined 2 && ethtool -L ext combined 2")?;
    rig.start_translator()?;
    wait::until("four queues to be served", Duration::from_secs(100), || {
        // It starts again, and answers nobody meanwhile.
        let rows = rig.natgate()?.json(&["interfaces"]).unwrap_or_default();
        let ready = rig.natgate()?.get("/readyz").is_ok();
        Ok((ready && rows.len() == 2 && rows.iter().all(|it| it["queues"] == 4)).then_some(()))
    })?;
    spread(rig, 2)
}

#[test]
fn queues_that_virtio_net_adds_for_a_program() {
    let options = Options { workers: 2, ..options(4, true) };
    let mut rig = Rig::without_translator(options).expect("the rig");
    let done = served_when_added(&mut rig);
    rig.must(done);
}

#[test]
fn one_queue_of_a_veth() {
    run(1, false);
}

#[test]
fn two_queues_of_a_veth() {
    run(2, false);
}

#[test]
fn four_queues_of_a_veth() {
    run(4, false);
}

#[test]
fn one_queue_of_virtio_net() {
    run(1, true);
}

#[test]
fn two_queues_of_virtio_net() {
    run(2, true);
}

#[test]
fn four_queues_of_virtio_net() {
    run(4, true);
}
