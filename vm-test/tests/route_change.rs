//! How fast does a change of the kernel's routes reach packets, with 100,000 routes and 10,000 neighbours (topology:
//! `vm_test::rig`)?
//!
//! ```text
//!                      ┌ 203.0.113.1 down
//!  c1 ── node ── gw ── r ── s1
//!                      └ 203.0.113.3 second (a macvlan of `down`, with an address of its own)
//! ```

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use vm_test::client::{echo_datagram, udp};
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::S1;
use vm_test::{Options, Rig, server, wait};

const PORT: u16 = 7;
const ROUTES: u32 = 100_000;
const NEIGHBOURS: u32 = 10_000;
/// Changes of the route that packets take.
const CHANGES: usize = 20;
/// What is asked for is 100 ms; beside other tests and without optimisation it may take longer.
const BOUND: Duration = Duration::from_secs(1);

fn generation(rig: &mut Rig) -> Result<u64> {
    let status = rig.natgate()?.json(&["status"])?;
    status[0]["roads_generation"].as_u64().context("no generation")
}

fn load(rig: &mut Rig) -> Result<[Duration; 2]> {
    let mut lines = String::new();
    for n in 0..NEIGHBOURS {
        let (high, low) = (n >> 8, n & 255);
        writeln!(
            lines,
            "neigh add 172.16.{high}.{low} lladdr 02:00:00:00:{high:02x}:{low:02x} dev ext"
        )?;
    }
    for n in 0..ROUTES {
        let (high, middle, low) = (n >> 16, n >> 8 & 255, n & 255);
        writeln!(lines, "route add 100.{high}.{middle}.{low}/32 via 203.0.113.1")?;
    }
    let begun = Instant::now();
    rig.gw.ip(&lines)?;
    let told = begun.elapsed();
    // Nothing has changed for a while.
    let (mut last, mut followed) = (generation(rig)?, begun.elapsed());
    wait::until("the mirror to follow", Duration::from_secs(60), || {
        let now = generation(rig)?;
        if now != last {
            (last, followed) = (now, begun.elapsed());
        }
        Ok((begun.elapsed() > followed + Duration::from_secs(1)).then_some(()))
    })?;
    // Each was followed by itself, unless it was too slow for that and read all of them anew.
    let metrics = rig.natgate()?.metrics()?;
    let one_by_one = metrics.contains("natgate_mirror_resyncs_total 0");
    ensure!(last > u64::from(ROUTES) || !one_by_one, "generation {last}");
    Ok([told, followed])
}

/// Moves the default route to and fro; the times of the changes, right before and right after the kernel had each.
fn change(rig: &Rig) -> Result<Vec<[Duration; 2]>> {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH);
    let mut times = Vec::new();
    for change in 0..CHANGES {
        let via = if change % 2 == 0 { 3 } else { 1 };
        let asked = now()?;
        rig.gw.ip(&format!("route replace default via 203.0.113.{via}"))?;
        times.push([asked, now()?]);
        std::thread::sleep(Duration::from_millis(300));
    }
    Ok(times)
}

fn traffic_and_changes(rig: &mut Rig) -> Result<Vec<[Duration; 2]>> {
    server::udp_echo(&rig.s1, S1[0], PORT)?;
    let ended = Arc::new(AtomicBool::new(false));
    let until = Arc::clone(&ended);
    let load = rig.pods[0].spawn(move || -> Result<u64> {
        let socket = udp((S1[0], PORT))?;
        let mut answered = 0u64;
        while !until.load(Ordering::Relaxed) {
            echo_datagram(&socket, &answered.to_be_bytes())?;
            answered += 1;
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(answered)
    })?;
    let times = change(rig);
    ended.store(true, Ordering::Relaxed);
    let answered = load.join().expect("the load panicked")?;
    ensure!(answered > 1_000, "{answered} datagrams");
    times
}

#[test]
fn a_change_of_route_reaches_packets_at_once() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let made = rig
        .r
        .ip("link add link down name second type macvlan mode bridge\n\
             link set dev second up\naddr add 203.0.113.3/32 dev second")
        .and_then(|()| rig.r.sysctl("net.ipv4.conf.all.arp_ignore", 1));
    rig.must(made);
    let loaded = load(&mut rig);
    let [told, followed] = rig.must(loaded);
    println!(
        "{ROUTES} routes and {NEIGHBOURS} neighbours: in the kernel after {told:?}, followed after {followed:?}"
    );
    // Both routers are resolved before times count.
    for via in [3, 1] {
        let routed = rig.gw.ip(&format!("route replace default via 203.0.113.{via}"));
        rig.must(routed);
        rig.must(rig.pods[0].exec(&format!("ping -n -q -c 5 -i 0.2 -W 2 {}", S1[0])));
    }
    let times = traffic_and_changes(&mut rig);
    let times = rig.must(times);
    let macs = ["down", "second"].map(|interface| rig.r.mac(interface).unwrap());
    let ended = rig.end_captures();
    let [_, external] = rig.must(ended);
    let trace = Trace::read(&external).unwrap();
    let sent: Vec<(Duration, [u8; 6])> = trace
        .packets()
        .filter(|packet| matches!(&packet.kind, Kind::Ipv4(ip) if ip.destination() == S1[0] && ip.word(2) == Some(PORT)))
        .map(|packet| (packet.time, packet.destination_mac))
        .collect();
    let mut delays = Vec::new();
    for (index, [_, time]) in times.iter().enumerate() {
        let (old, new) = (macs[index % 2], macs[(index + 1) % 2]);
        let next = times.get(index + 1).map_or(Duration::MAX, |[asked, _]| *asked);
        // The kernel may be heard before `ip` has ended.
        let since = sent.iter().filter(|(at, _)| (*time..next).contains(at));
        let last_old = since.clone().filter(|(_, mac)| *mac == old).map(|(at, _)| *at).max();
        let first_new = since.clone().find(|(_, mac)| *mac == new).map(|(at, _)| *at);
        let first_new =
            first_new.unwrap_or_else(|| panic!("change {index}: nothing by the new way"));
        assert!(last_old.is_none_or(|old| old <= first_new), "change {index}: back to the old way");
        delays.push(last_old.map_or(Duration::ZERO, |old| old.saturating_sub(*time)));
    }
    delays.sort_unstable();
    let (median, longest) = (delays[CHANGES / 2], delays[CHANGES - 1]);
    println!(
        "after a change packets went by the old way for {median:?} (median), {longest:?} (longest of {CHANGES})"
    );
    assert!(longest < BOUND * rig.gw.slower(), "{delays:?}");
}
