//! Several pools and rules from objects: priority, longest prefix, exempt destinations
//! (topology: `vm_test::rig`).
//!
//! ```text
//!  c1 ─┐                      pool general 203.0.113.10-11   ┌─ s1 .10, .11
//!      ├─ node ── gw ── r     pool second  203.0.113.12      ┤
//!  c2 ─┘                      pool routed  198.51.100.0/28   └─ s2 (exempt)
//! ```

use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use vm_test::client::{connect, echo, echo_datagram, udp};
use vm_test::rig::{PODS, S1, S2, verified};
use vm_test::server::Peers;
use vm_test::{Namespace, Options, Rig, server};

const PORT: u16 = 7;

const OBJECTS: &str = "\
apiVersion: natgate.dev/v1alpha1
kind: Gateway
metadata: {name: gateway}
spec: {interfaces: {internal: [int], external: [ext]}}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {name: general}
spec: {addresses: [203.0.113.10-203.0.113.11]}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {name: second}
spec: {addresses: [203.0.113.12]}
---
apiVersion: natgate.dev/v1alpha1
kind: AddressPool
metadata: {name: routed}
spec: {addresses: [198.51.100.0/28]}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {name: untranslated}
spec: {priority: 100, from: [10.244.0.0/16], to: [192.0.2.64/26], exempt: true}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {name: first}
spec: {priority: 50, from: [10.244.1.0/24], to: [192.0.2.11/32], pool: routed}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {name: everyone}
spec: {from: [10.244.0.0/16], pool: general}
---
apiVersion: natgate.dev/v1alpha1
kind: NatRule
metadata: {name: one-pod}
spec: {from: [10.244.1.12/32], pool: second}
";

fn options() -> Options {
    Options {
        config: Some(OBJECTS.to_owned()),
        exempt: vec!["192.0.2.64/26".to_owned()],
        ..Options::natgate()
    }
}

fn talk(pod: &Namespace, server: Ipv4Addr) -> Result<()> {
    pod.run(move || -> Result<()> {
        echo(&mut connect((server, PORT))?, b"stream")?;
        echo_datagram(&udp((server, PORT))?, b"datagram")
    })?
}

fn expect(peers: &[Peers], what: &str, allowed: &[(Ipv4Addr, Ipv4Addr)]) -> Result<()> {
    for peers in peers {
        let mut seen = [false; 8];
        for peer in peers.all() {
            let IpAddr::V4(address) = peer.ip() else { anyhow::bail!("{peer} is not IPv4") };
            let range =
                allowed.iter().position(|(first, last)| (*first..=*last).contains(&address));
            let Some(range) = range else { anyhow::bail!("{what}: the server saw {peer}") };
            seen[range] = true;
        }
        let all = seen.iter().filter(|seen| **seen).count() == allowed.len();
        ensure!(all, "{what}: the server saw only {:?}", peers.all());
    }
    Ok(())
}

fn rules(rig: &Rig) -> Result<()> {
    let serve = |host, address| -> Result<[Peers; 2]> {
        Ok([server::tcp_echo(host, address, PORT)?, server::udp_echo(host, address, PORT)?])
    };
    let longest = serve(&rig.s1, S1[0])?;
    let priority = serve(&rig.s1, S1[1])?;
    let exempt = serve(&rig.s2, S2)?;
    for pod in &rig.pods {
        for address in [S1[0], S1[1], S2] {
            talk(pod, address)?;
        }
    }
    let general = (Ipv4Addr::new(203, 0, 113, 10), Ipv4Addr::new(203, 0, 113, 11));
    let second = (Ipv4Addr::new(203, 0, 113, 12), Ipv4Addr::new(203, 0, 113, 12));
    let routed = (Ipv4Addr::new(198, 51, 100, 0), Ipv4Addr::new(198, 51, 100, 15));
    expect(&longest, "longest prefix", &[general, second])?;
    expect(&priority, "priority", &[routed])?;
    expect(&exempt, "exempt", &[(PODS[0], PODS[0]), (PODS[1], PODS[1])])
}

#[test]
fn each_flow_gets_the_pool_of_its_rule() {
    verified(options(), |rig| rules(rig));
}

#[test]
fn four_workers_keep_the_rules() {
    let mut rig = Rig::start(Options { queues: 4, workers: 4, ..options() }).unwrap();
    rig.must(rules(&rig));
    let verified = rig.verify();
    rig.must(verified);
}

/// Exempt destinations from flags; Linux's NAT can do this too.
// Proves: 6888-REQ-6
#[test]
fn an_exempt_destination_sees_the_pod() {
    let exempt = vec!["192.0.2.64/26".to_owned()];
    verified(Options { exempt, ..Options::default() }, |rig| {
        let untranslated = server::tcp_echo(&rig.s2, S2, PORT)?;
        let translated = server::tcp_echo(&rig.s1, S1[0], PORT)?;
        server::udp_echo(&rig.s2, S2, PORT)?;
        server::udp_echo(&rig.s1, S1[0], PORT)?;
        talk(&rig.pods[0], S2)?;
        talk(&rig.pods[0], S1[0])?;
        expect(&[untranslated], "exempt", &[(PODS[0], PODS[0])])?;
        expect(&[translated], "translated", &[rig.options().pool.range()])
    });
}

/// The negative control.
#[test]
fn no_rule_holds_without_translation() {
    let options = Options { exempt: options().exempt, ..Options::untranslated() };
    let rig = Rig::start(options).unwrap();
    rules(&rig).unwrap_err();
}
