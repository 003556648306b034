//! The largest configuration is read while traffic flows: no packet of it is lost.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::UdpSocket;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{PODS, S1};
use vm_test::{Rig, server};

use super::{PORT, objects, options, reload};

const RULES: usize = 10_000;

/// `RULES` rules, and 256 addresses behind the router.
fn large(version: usize) -> String {
    let mut text = objects("198.51.100.0/24", "", "");
    for number in 0..RULES {
        let (a, b) = (number / 250, number % 250);
        // In each version another tenth is different.
        let port = if number % 10 == version % 10 { 8000 + version } else { 80 };
        let _ = write!(
            text,
            "---\n{{apiVersion: natgate.dev/v1alpha1, kind: NatRule, metadata: {{name: r{number}}}, \
             spec: {{priority: 500, from: [10.244.0.0/16], to: [172.16.{a}.{b}/32], services: [{{protocol: tcp, ports: [{port}]}}], pool: general}}}}\n"
        );
    }
    text
}

/// How often each datagram of the test was seen in a capture on its way to the server, and on its way back.
fn seen(file: &std::path::Path) -> Result<[HashMap<Vec<u8>, usize>; 2]> {
    let mut seen = [HashMap::new(), HashMap::new()];
    for packet in Trace::read(file)?.packets() {
        let Kind::Ipv4(ip) = &packet.kind else { continue };
        if ip.protocol() == 17 && ip.body.len() > 20 && ip.body[8..].starts_with(b"datagram number")
        {
            let back = usize::from(ip.source() == S1[0]);
            *seen[back].entry(ip.body[8..].to_vec()).or_default() += 1;
        }
    }
    Ok(seen)
}

/// Sends datagrams in 16 flows, 2,000 a second, until told to stop: how many went, and how many came back.
fn chatter(stop: &AtomicBool) -> Result<(usize, usize)> {
    let flow = |_| -> std::io::Result<UdpSocket> {
        let socket = UdpSocket::bind((PODS[0], 0))?;
        socket.connect((S1[0], PORT))?;
        socket.set_nonblocking(true)?;
        Ok(socket)
    };
    let flows: Vec<UdpSocket> = (0..16).map(flow).collect::<Result<_, _>>()?;
    let (mut sent, mut back, begin) = (0_usize, 0_usize, Instant::now());
    let mut answer = [0; 128];
    let mut collect = || {
        flows
            .iter()
            .map(|it| std::iter::from_fn(|| it.recv(&mut answer).ok()).count())
            .sum::<usize>()
    };
    while !stop.load(Ordering::Relaxed) {
        let due = (begin.elapsed().as_micros() / 500) as usize;
        // A sender that was held up does not catch up in one go.
        let until = due.min(sent + 16);
        for number in sent..until {
            flows[number % 16].send(format!("datagram number {number:>12}").as_bytes())?;
        }
        sent = sent.max(until);
        back += collect();
        std::thread::sleep(Duration::from_millis(1));
    }
    let until = Instant::now() + Duration::from_secs(3);
    while back < sent && Instant::now() < until {
        back += collect();
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok((sent, back))
}

/// The largest configuration is read three times beside traffic.
fn under_load(rig: &mut Rig) -> Result<()> {
    rig.r.ip("route add 198.51.100.0/24 via 203.0.113.2")?;
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    reload(rig, &large(0))?;
    let pool = rig.natgate()?.json(&["pools"])?.swap_remove(0);
    ensure!(pool["addresses"] == 256, "{pool}");
    let stop = Arc::new(AtomicBool::new(false));
    let ended = Arc::clone(&stop);
    let sender = rig.pods[0].spawn(move || chatter(&ended))?;
    std::thread::sleep(Duration::from_millis(500));
    let mut took = Vec::new();
    for version in 1..=20 {
        let told = reload(rig, &large(version))?;
        // The watch may have been faster.
        if told["changed"] == true {
            took.push(told["took_ms"].as_u64().context("took_ms")?);
        }
        if took.len() == 3 {
            break;
        }
    }
    ensure!(took.len() == 3, "{took:?}");
    std::thread::sleep(Duration::from_millis(500));
    stop.store(true, Ordering::Relaxed);
    let (sent, back) = sender.join().expect("the sender panicked")?;
    println!("{RULES} rules and 256 addresses: reloaded in {took:?} ms beside {sent} datagrams");
    ensure!(sent > 1000 && back > 1000, "of {sent} datagrams {back} came back");
    // Without optimisation the machine of the tests takes longer.
    let most = if cfg!(debug_assertions) { 60_000 } else { 1_000 };
    ensure!(took.iter().all(|ms| *ms < most), "it took {took:?} ms");
    let [internal, external] = rig.end_captures()?;
    // What came to the gateway left it, once, both ways; a server or a pod that is held up is not its business.
    for (way, (inside, outside)) in seen(&internal)?.into_iter().zip(seen(&external)?).enumerate() {
        ensure!(inside.len() >= back, "{} of {back} datagrams in the capture inside", inside.len());
        let lost = inside.len().abs_diff(outside.len());
        ensure!(inside == outside, "way {way}: {lost} datagrams are missing on one side");
    }
    Ok(())
}

#[test]
fn the_largest_configuration_is_reloaded_without_a_lost_packet() {
    let mut rig = Rig::start(options(1)).unwrap();
    let done = under_load(&mut rig);
    rig.must(done);
}
