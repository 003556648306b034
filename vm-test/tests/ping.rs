//! Pings from pods, and to public addresses (topology: `vm_test::rig`).
//!
//! ```text
//!  c1, c2 (ping) ── node ── gw ── r (ping to the pool) ── s1
//! ```

use anyhow::{Context, Result, ensure};
use vm_test::client::ping;
use vm_test::oracle::{Kind, Trace};
use vm_test::rig::{PODS, S1, S2, verified};
use vm_test::{Options, Rig};

/// Both pods ping at once with the same identifier, in several sizes.
fn same_identifier(rig: &Rig) -> Result<()> {
    for size in [0, 1, 55, 56, 1471, 1472] {
        let mut clients = Vec::new();
        for (seed, pod) in (1..).zip(&rig.pods) {
            clients.push(pod.spawn(move || ping(S1[1], 77, 20, size, seed))?);
        }
        for client in clients {
            client.join().expect("a client thread panicked")?;
        }
    }
    rig.pods[0].exec(&format!("ping -n -q -c 2 -i 0.1 -W 1 {S2}")).map(|_| ())
}

#[test]
fn two_pods_ping_with_the_same_identifier() {
    verified(Options::default(), |rig| same_identifier(rig));
}

#[test]
fn four_workers_ping_with_the_same_identifier() {
    verified(Options::four(), |rig| same_identifier(rig));
}

#[test]
fn whole_checksums_ping_with_the_same_identifier() {
    verified(Options { sender_checksum_offload: false, ..Options::default() }, |rig| {
        same_identifier(rig)
    });
}

#[test]
fn public_addresses_answer_pings() {
    let mut rig = Rig::start(Options::default()).unwrap();
    let (first, last) = rig.options().pool.range();
    for address in [first, last] {
        rig.must(rig.s1.exec(&format!("ping -n -q -c 5 -i 0.2 -W 1 {address}")));
    }
    rig.must(same_identifier(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

const MANY: u32 = 2000;

#[test]
fn a_flood_of_pings_to_public_addresses_is_limited() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    let (first, _) = rig.options().pool.range();
    let received = flood(&rig, first);
    let received = rig.must(received);
    assert!(received > 0 && received < MANY, "{received} of {MANY} were answered");
    let dropped = rig.natgate().unwrap().dropped("echo-limited");
    assert_eq!(rig.must(dropped), u64::from(MANY - received));
}

/// Pings an address a thousand times a second; yields how many answers came.
fn flood(rig: &Rig, address: std::net::Ipv4Addr) -> Result<u32> {
    let line = format!("-n -q -i 0.001 -W 1 -c {MANY} {address}");
    // Lost answers are the point, and `ping` itself may call them a failure.
    let done = rig.s1.command("ping").args(line.split_whitespace()).output()?;
    let said = String::from_utf8(done.stdout)?;
    ensure!(said.contains(&format!("{MANY} packets transmitted")), "{said}");
    let received = said.split(", ").find_map(|part| part.strip_suffix(" received"));
    Ok(received.context("no summary from ping")?.parse()?)
}

#[test]
fn an_expiring_packet_is_dropped_and_counted() {
    let mut rig = Rig::start(Options::natgate()).unwrap();
    // The node takes the first hop, so that natgate receives a TTL of 1.
    rig.pods[0].exec(&format!("ping -n -q -t 2 -c 3 -i 0.1 -W 1 {}", S1[0])).unwrap_err();
    let dropped = rig.natgate().unwrap().dropped("ttl-expired");
    assert_eq!(rig.must(dropped), 3);
    rig.must(rig.pods[0].exec(&format!("ping -n -q -t 10 -c 3 -i 0.1 -W 1 {}", S1[0])));
    let ended = rig.end_captures();
    let [_, external] = rig.must(ended);
    let mut pings = 0;
    for packet in rig.must(Trace::read(&external)).packets() {
        let Kind::Ipv4(ip) = packet.kind else { continue };
        if ip.protocol() == 1 && ip.destination() == S1[0] {
            assert_eq!(ip.header.ttl(), 8, "{ip}");
            assert_ne!(ip.source(), PODS[0]);
            pings += 1;
        }
    }
    assert_eq!(pings, 3);
}

/// The negative control.
#[test]
fn no_pong_without_translation() {
    let rig = Rig::start(Options::untranslated()).unwrap();
    same_identifier(&rig).unwrap_err();
}
