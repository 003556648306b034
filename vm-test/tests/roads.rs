//! natgate finds the next hop as the kernel does, and follows it (topology: `vm_test::rig`).
//!
//! ```text
//!                      ┌ 203.0.113.1 down
//!  c1 ── node ── gw ── r ── s1
//!                      └ 203.0.113.3 second (a macvlan of `down`, with an address of its own)
//! ```

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Result, ensure};
use vm_test::client::{echo_datagram, udp};
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{S1, verified};
use vm_test::{Namespace, Options, Rig, server, wait};

const PORT: u16 = 7;

fn serve(rig: &Rig) -> Result<()> {
    server::udp_echo(&rig.s1, S1[0], PORT).map(|_| ())
}

/// One datagram, sent once, must be answered.
fn one_datagram(pod: &Namespace, mark: &'static str) -> Result<()> {
    pod.run(move || echo_datagram(&udp((S1[0], PORT))?, mark.as_bytes()))?
}

fn forget_neighbours(rig: &Rig) -> Result<()> {
    rig.node.ip("neigh flush all")?;
    rig.r.ip("neigh flush all")?;
    rig.gw.ip("neigh flush dev int\nneigh flush dev ext")
}

/// Every neighbour is forgotten, then one packet is sent, once.
fn first_packets(rig: &Rig) -> Result<()> {
    serve(rig)?;
    for _ in 0..5 {
        forget_neighbours(rig)?;
        one_datagram(&rig.pods[0], "first")?;
        forget_neighbours(rig)?;
        rig.pods[1].exec(&format!("ping -n -q -c 1 -W 10 {}", S1[0]))?;
    }
    Ok(())
}

#[test]
fn first_packets_wait_for_the_neighbour() {
    verified(Options::default(), |rig| first_packets(rig));
}

#[test]
fn four_workers_keep_first_packets() {
    // A handful of packets need not meet several workers: only loss is looked at.
    let mut rig = Rig::start(Options::four()).unwrap();
    rig.must(first_packets(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

/// Datagrams until one is answered: the kernel's news takes its time.
fn answered_soon(pod: &Namespace, mark: &'static str) -> Result<()> {
    pod.run(move || {
        let socket = udp((S1[0], PORT))?;
        socket.set_read_timeout(Some(Duration::from_millis(100)))?;
        wait::until("an answer", Duration::from_secs(15), || {
            Ok(echo_datagram(&socket, mark.as_bytes()).ok())
        })
    })?
}

/// Changes a route, and waits until natgate has seen it.
fn reroute(rig: &Rig, command: &str) -> Result<()> {
    let generation = || match &rig.natgate {
        Some(natgate) => Ok(natgate.json(&["status"])?[0]["roads_generation"].as_u64()),
        None => anyhow::Ok(None),
    };
    let before = generation()?;
    rig.gw.ip(command)?;
    if before.is_none() {
        return Ok(());
    }
    wait::until("the mirror to follow", Duration::from_secs(15), || {
        Ok((generation()? != before).then_some(()))
    })
}

fn another_router(rig: &mut Rig) -> Result<()> {
    serve(rig)?;
    rig.r.ip("link add link down name second type macvlan mode bridge\n\
              link set dev second up\naddr add 203.0.113.3/32 dev second")?;
    // Each address answers ARP by its own interface only.
    rig.r.sysctl("net.ipv4.conf.all.arp_ignore", 1)?;
    one_datagram(&rig.pods[0], "by the first")?;
    reroute(rig, "route replace default via 203.0.113.3")?;
    answered_soon(&rig.pods[0], "by the second")?;
    if rig.natgate.is_some() {
        reroute(rig, "route del default")?;
        wait::until("no route", Duration::from_secs(15), || {
            // Unanswered is what is expected; the counter tells why.
            let _ = rig.pods[0].exec(&format!("ping -n -q -c 1 -W 0.1 {}", S1[0]));
            let dropped = rig.natgate.as_ref().map_or(Ok(0), |it| it.dropped("no-route"))?;
            Ok((dropped > 0).then_some(()))
        })?;
    }
    reroute(rig, "route replace default via 203.0.113.1")?;
    answered_soon(&rig.pods[0], "by the first again")
}

#[test]
fn a_change_of_route_is_followed() {
    let mut rig = Rig::start(Options::default()).unwrap();
    let done = another_router(&mut rig);
    rig.must(done);
    let macs = [rig.r.mac("down").unwrap(), rig.r.mac("second").unwrap()];
    let ended = rig.end_captures();
    let [_, external] = rig.must(ended);
    for (mark, mac) in
        [("by the first", macs[0]), ("by the second", macs[1]), ("by the first again", macs[0])]
    {
        let trace = rig.must(Trace::read(&external));
        let sent: Vec<_> = trace
            .packets()
            .filter(|packet| match &packet.kind {
                Kind::Ipv4(ip) => {
                    ip.destination() == S1[0] && ip.body.get(8..) == Some(mark.as_bytes())
                }
                _ => false,
            })
            .map(|packet| packet.destination_mac)
            .collect();
        assert_eq!(sent.last(), Some(&mac), "{mark}: {sent:x?}");
    }
}

fn new_hardware_address(rig: &mut Rig) -> Result<()> {
    serve(rig)?;
    one_datagram(&rig.pods[0], "before")?;
    // The new owner of the address announces itself.
    rig.r.sysctl("net.ipv4.conf.down.arp_notify", 1)?;
    rig.gw.sysctl("net.ipv4.neigh.ext.locktime", 0)?;
    rig.r.ip("link set dev down address 02:00:00:00:00:99")?;
    wait::until("the kernel to see the new address", Duration::from_secs(15), || {
        let neighbours = rig.gw.sh("ip neigh show dev ext")?;
        Ok(neighbours.contains("02:00:00:00:00:99").then_some(()))
    })?;
    answered_soon(&rig.pods[0], "after")
}

#[test]
fn a_neighbours_new_hardware_address_is_followed() {
    let mut rig = Rig::start(Options::default()).unwrap();
    let done = new_hardware_address(&mut rig);
    rig.must(done);
}

#[test]
fn public_addresses_answer_arp_and_others_do_not() {
    let rig = Rig::start(Options::default()).unwrap();
    let (first, last) = rig.options().pool.range();
    for address in [first, last] {
        rig.must(rig.r.exec(&format!("arping -c 2 -i down {address}")));
    }
    for silent in [Ipv4Addr::new(203, 0, 113, 9), Ipv4Addr::new(203, 0, 113, 14)] {
        rig.r.exec(&format!("arping -c 2 -i down {silent}")).unwrap_err();
    }
}

#[test]
fn public_addresses_are_announced_at_start() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let announced = announced(&mut rig);
    rig.must(announced);
}

fn announced(rig: &mut Rig) -> Result<()> {
    let gateway = rig.gateway_macs()[1];
    let (first, last) = rig.options().pool.range();
    let [_, external] = rig.end_captures()?;
    let trace = Trace::read(&external)?;
    for address in (u32::from(first)..=u32::from(last)).map(Ipv4Addr::from) {
        let seen = trace.packets().any(|packet| {
            let own = matches!(packet.kind, Kind::Arp { sender, target }
                if sender == address && target == address);
            own && packet.source_mac == gateway && packet.destination_mac == [0xff; 6]
        });
        ensure!(seen, "{address} was not announced");
    }
    Ok(())
}

/// The negative control.
#[test]
fn no_first_packet_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    first_packets(&rig).unwrap_err();
}
