//! natgate takes the way that the kernel's routes and rules say (topology: `vm_test::rig`).
//!
//! ```text
//!                        ┌ 203.0.113.1 down
//!  c1, c2 ── node ── gw ─┤                                        r ── s1 192.0.2.10, .11
//!                        └ 203.0.113.3 second (a macvlan of `down`, with an address of its own)
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::client::{echo_datagram, udp};
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{PODS, S1, S2};
use vm_test::{Namespace, Options, Rig, server, wait};

const PORT: u16 = 7;
const PATIENCE: Duration = Duration::from_secs(10);

/// A rig with a second router and an echo server on both of s1's addresses.
fn rig(options: Options) -> Rig {
    let mut rig = Rig::start(options).expect("the rig starts");
    let made = second_router(&mut rig);
    rig.must(made);
    rig
}

fn second_router(rig: &mut Rig) -> Result<()> {
    rig.r.ip("link add link down name second type macvlan mode bridge\n\
              link set dev second up\naddr add 203.0.113.3/32 dev second")?;
    // Each address answers ARP by its own interface only.
    rig.r.sysctl("net.ipv4.conf.all.arp_ignore", 1)?;
    S1.iter().try_for_each(|address| server::udp_echo(&rig.s1, *address, PORT).map(drop))
}

/// Changes routes or rules, and waits until natgate has seen it.
fn reroute(rig: &mut Rig, commands: &str) -> Result<()> {
    let generation = |rig: &mut Rig| -> Result<Option<u64>> {
        Ok(rig.natgate()?.json(&["status"])?[0]["roads_generation"].as_u64())
    };
    for command in commands.lines() {
        let before = generation(rig)?;
        rig.gw.ip(command)?;
        wait::until("the mirror to follow", PATIENCE, || {
            Ok((generation(rig)? != before).then_some(()))
        })?;
    }
    Ok(())
}

/// `count` flows of a few datagrams each, all of which must be answered.
fn flows(pod: &Namespace, server: Ipv4Addr, count: usize) -> Result<()> {
    pod.run(move || {
        let sockets = (0..count).map(|_| udp((server, PORT))).collect::<Result<Vec<_>>>()?;
        for round in 0..3u8 {
            for socket in &sockets {
                echo_datagram(socket, &[round])?;
            }
        }
        Ok(())
    })?
}

/// The hardware addresses to which the packets of each flow went, by its ends.
type Ways = BTreeMap<(SocketAddrV4, SocketAddrV4), BTreeSet<[u8; 6]>>;

/// The ways of all flows to s1.
fn ways(rig: &mut Rig) -> Result<Ways> {
    let [_, external] = rig.end_captures()?;
    let trace = Trace::read(&external)?;
    let mut ways = Ways::new();
    for packet in trace.packets() {
        if let Kind::Ipv4(ip) = &packet.kind
            && let Some(ends) = ip.endpoints()
            && S1.contains(ends.1.ip())
        {
            ways.entry(ends).or_default().insert(packet.destination_mac);
        }
    }
    Ok(ways)
}

fn macs(rig: &Rig) -> [[u8; 6]; 2] {
    ["down", "second"].map(|interface| rig.must(rig.r.mac(interface)))
}

#[test]
fn flows_are_shared_among_routers_and_each_keeps_its_own() {
    let mut rig = rig(Options::natgate());
    let both = "route replace default nexthop via 203.0.113.1 nexthop via 203.0.113.3";
    let done = reroute(&mut rig, both);
    rig.must(done);
    rig.must(flows(&rig.pods[0], S1[0], 40));
    let [first, second] = macs(&rig);
    let ways = ways(&mut rig);
    let ways = rig.must(ways);
    assert!(ways.values().all(|macs| macs.len() == 1), "a flow took both ways: {ways:x?}");
    for mac in [first, second] {
        let flows = ways.values().filter(|macs| macs.contains(&mac)).count();
        assert!((5..=35).contains(&flows), "{flows} of {} flows by {mac:x?}", ways.len());
    }
}

#[test]
fn a_rule_sends_one_pods_packets_another_way() {
    let mut rig = rig(Options::natgate());
    let commands = format!(
        "route add default via 203.0.113.3 table 100\nrule add from {} lookup 100",
        PODS[0]
    );
    let done = reroute(&mut rig, &commands);
    rig.must(done);
    rig.must(flows(&rig.pods[0], S1[0], 3));
    rig.must(flows(&rig.pods[1], S1[1], 3));
    let [first, second] = macs(&rig);
    let ways = ways(&mut rig);
    for ((_, to), macs) in rig.must(ways) {
        let wanted = if *to.ip() == S1[0] { second } else { first };
        assert_eq!(macs, BTreeSet::from([wanted]), "to {to}");
    }
}

fn warned(rig: &mut Rig) -> Result<bool> {
    let status = rig.natgate()?.json(&["status"])?.remove(0).to_string();
    Ok(status.contains("routing rule 77 (ip rule) is not followed: it asks for a protocol"))
}

#[test]
fn rules_that_cannot_be_followed_are_named_at_start_and_later() {
    let mut rig = Rig::without_translator(Options::natgate()).unwrap();
    rig.gw.ip("rule add ipproto 17 lookup 100 pref 77").unwrap();
    rig.start_translator().unwrap();
    let at_start = rig.natgate().unwrap().output();
    assert!(at_start.contains("warning: routing rule 77 (ip rule) is not followed"), "{at_start}");
    let mut follow = |command: &str, wanted| {
        rig.gw.ip(command)?;
        wait::until(command, PATIENCE, || Ok((warned(&mut rig)? == wanted).then_some(())))
    };
    follow("rule del pref 77", false).unwrap();
    follow("rule add ipproto 17 lookup 100 pref 77", true).unwrap();
}

/// What ping says.
fn ping(pod: &Namespace, to: Ipv4Addr) -> Result<String> {
    let mut command = pod.command("ping");
    let done = command.args(["-n", "-c", "1", "-W", "8", &to.to_string()]).output()?;
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}

fn refusing_routes(rig: &mut Rig) -> Result<()> {
    for (route, said) in [
        ("prohibit", "Packet filtered"),
        ("unreachable", "Destination Host Unreachable"),
        // The main table says nothing, and no other has a route.
        ("throw", "Destination Net Unreachable"),
    ] {
        reroute(rig, &format!("route replace {route} {S2}"))?;
        let told = ping(&rig.pods[0], S2)?;
        ensure!(told.contains(said), "{route}: {told}");
    }
    reroute(rig, &format!("route replace blackhole {S2}"))?;
    let _ = rig.pods[0].exec(&format!("ping -n -c 1 -W 0.2 {S2}"));
    let natgate = rig.natgate()?;
    for reason in ["route-prohibited", "route-unreachable", "route-blackhole"] {
        let dropped = natgate.dropped(reason)?;
        ensure!(dropped == 1, "{reason}: {dropped}");
    }
    reroute(rig, &format!("route del blackhole {S2}\nroute del default"))?;
    let told = ping(&rig.pods[0], S2)?;
    ensure!(told.contains("Destination Net Unreachable"), "no route: {told}");
    Ok(())
}

#[test]
fn refusing_routes_are_answered_as_they_say() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = refusing_routes(&mut rig);
    rig.must(done);
}

fn dead_router(rig: &mut Rig) -> Result<()> {
    rig.r.ip("link set dev down arp off")?;
    rig.gw.ip("neigh flush dev ext")?;
    // Until natgate has heard of that, a packet goes to where the router was, and nobody is told. What the kernel says
    // later is heard later: who knows the route knows that the neighbour is gone.
    reroute(rig, "route add 198.18.0.0/24 via 203.0.113.1")?;
    let told = ping(&rig.pods[0], S1[0])?;
    ensure!(told.contains("Destination Host Unreachable"), "{told}");
    ensure!(rig.natgate()?.dropped("neighbour-unresolved")? == 1, "another reason");
    rig.r.ip("link set dev down arp on")?;
    // The kernel's verdict on the first attempt may reach a packet that asks again.
    wait::until("an answer", Duration::from_secs(10), || {
        Ok(ping(&rig.pods[0], S1[0])?.contains("1 received").then_some(()))
    })
}

#[test]
fn a_router_that_does_not_answer_is_told_and_asked_again() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let done = dead_router(&mut rig);
    rig.must(done);
}

/// 100 changes a second for three seconds: the way to the second address moves to and fro, that to the first stays.
fn churn(rig: &Rig) -> Result<()> {
    for round in 0..30u32 {
        let lines: String = (0..10)
            .map(|n| match n % 5 {
                0 => format!("route replace {} via 203.0.113.{}\n", S1[1], 1 + n / 5 * 2),
                1 => format!("route replace 198.18.{n}.0/24 via 203.0.113.{}\n", 1 + round % 2 * 2),
                2 => format!("route replace 192.0.2.0/28 via 203.0.113.1 metric {}\n", 50 + n),
                3 => format!(
                    "neigh replace 203.0.113.99 lladdr 02:00:00:00:{round:02}:{n:02} dev ext\n"
                ),
                _ => format!(
                    "rule add from 198.18.0.0/16 lookup {} pref {}\n",
                    200 + n,
                    1000 + 10 * round + n
                ),
            })
            .collect();
        rig.gw.ip(&lines)?;
        std::thread::sleep(Duration::from_millis(100));
    }
    Ok(())
}

fn load_under_churn(rig: &mut Rig) -> Result<u64> {
    let ended = Arc::new(AtomicBool::new(false));
    let mut load = Vec::new();
    for (pod, server) in [(0, S1[0]), (1, S1[1]), (0, S1[1])] {
        let ended = Arc::clone(&ended);
        load.push(rig.pods[pod].spawn(move || -> Result<u64> {
            let mut answered = 0u64;
            while !ended.load(Ordering::Relaxed) {
                let socket = udp((server, PORT))?;
                for _ in 0..50 {
                    echo_datagram(&socket, &answered.to_be_bytes())?;
                    answered += 1;
                }
            }
            Ok(answered)
        })?);
    }
    let churned = churn(rig);
    ended.store(true, Ordering::Relaxed);
    let mut answered = 0;
    for load in load {
        answered += load.join().expect("the load panicked")?;
    }
    churned?;
    Ok(answered)
}

#[test]
fn a_hundred_changes_a_second_lead_no_packet_astray() {
    let mut rig = rig(Options::natgate());
    let answered = load_under_churn(&mut rig);
    let answered = rig.must(answered);
    println!("{answered} datagrams, all answered");
    assert!(answered > 300, "little load: {answered}");
    let resyncs = rig.natgate().unwrap().metrics().unwrap();
    assert!(resyncs.contains("natgate_mirror_resyncs_total 0"), "messages were lost");
    let [first, second] = macs(&rig);
    let ways = ways(&mut rig);
    let mut by_second = 0;
    for ((_, to), macs) in rig.must(ways) {
        let allowed = if *to.ip() == S1[0] { vec![first] } else { vec![first, second] };
        assert!(macs.iter().all(|mac| allowed.contains(mac)), "to {to} by {macs:x?}");
        by_second += usize::from(macs.contains(&second));
    }
    assert!(by_second > 0, "nothing went by the second router");
}
