//! Fixed mappings of pods with one address in two networks, and their exempt traffic.

use conntrack::{Pool, PoolId};

use super::icmp::{change, icmp};
use super::overlays::*;
use super::*;
use crate::forward::{Forwards, PortForward, StaticNat};
use crate::rule::RuleSet;
use crate::snapshot::Policy;

/// An address that is all the pod 9's of the second network.
const OWN: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 14);

fn forward(port: u16, n: u8, vni: Option<u32>) -> PortForward {
    PortForward {
        name: format!("to-{port}"),
        address: PUBLIC,
        protocol: Protocol::Udp,
        ports: port..=port,
        target: pod(n),
        target_port: 80,
        vni,
        pool: PoolId(0),
    }
}

fn map(rig: &Rig, forwards: Vec<PortForward>) {
    change(rig, |snapshot| {
        let settings = PoolSettings::default();
        let reserved = forwards.iter().map(|it| it.ports.clone()).collect();
        let addresses = [(PUBLIC, reserved), (Ipv4Addr::new(203, 0, 113, 11), vec![])];
        let shared = Pool::with_reserved(PoolId(0), "default", settings.clone(), addresses);
        let fixed = Pool::fixed(PoolId(1), "fixed", settings, [OWN]);
        let one = StaticNat {
            name: "one".into(),
            address: OWN,
            target: pod(9),
            vni: Some(2),
            pool: PoolId(1),
        };
        let old = &snapshot.policy;
        let rules = RuleSet::new(old.rules.rules().to_vec());
        let (pools, answers) = (vec![Arc::new(shared), Arc::new(fixed)], old.answers.clone());
        let cuts = old.cuts + 1;
        let forwards = Forwards::new(forwards, &[one]);
        let policy = Policy::new(old.generation + 1, pools, rules, forwards, answers);
        snapshot.policy = Arc::new(Policy { cuts, ..policy });
    });
}

fn rig(workers: u16) -> Rig {
    let rig = overlapping(workers);
    let (red, blue) = (forward(8001, 1, Some(1)), forward(8002, 1, Some(2)));
    map(&rig, vec![red, blue, forward(8003, 3, None), forward(8004, 4, Some(77))]);
    rig
}

/// A call from outside to a public endpoint: VNI and pod that hear it.
fn called(rig: &mut Rig, public: (Ipv4Addr, u16)) -> Option<(u32, (Ipv4Addr, u16))> {
    let (outer, frame) = back(rig, &udp((SERVER, 5000), public, b"call"))?;
    Some((outer.vni, seen(&frame).dst))
}

/// Under which endpoint a pod of a network is seen by a server.
fn leaves(rig: &mut Rig, vni: u32, from: (Ipv4Addr, u16), port: u16) -> (Ipv4Addr, u16) {
    seen(&out(rig, vni, &udp(from, (SERVER, port), b"answer")).unwrap()).src
}

#[test]
fn a_forward_names_the_network_of_its_pod() {
    for workers in [1, 2] {
        let mut rig = rig(workers);
        for (vni, port) in [(1, 8001), (2, 8002)] {
            for _ in 0..2 {
                assert_eq!(called(&mut rig, (PUBLIC, port)), Some((vni, (pod(1), 80))));
                // Answers, and what the pod begins itself.
                assert_eq!(leaves(&mut rig, vni, (pod(1), 80), 5000), (PUBLIC, port));
                assert_eq!(leaves(&mut rig, vni, (pod(1), 80), 6000), (PUBLIC, port));
            }
            // Other ports of the pod are seen under the same address.
            assert_eq!(leaves(&mut rig, vni, (pod(1), 81), 443).0, PUBLIC);
        }
        // Without a network, the host's routes tell: they lead to the first.
        assert_eq!(called(&mut rig, (PUBLIC, 8003)), Some((1, (pod(3), 80))));
        assert_eq!(leaves(&mut rig, 1, (pod(3), 80), 6000), (PUBLIC, 8003));
        assert_ne!(leaves(&mut rig, 2, (pod(3), 80), 6000), (PUBLIC, 8003));
        // Nobody has the network: the caller is told that there is no way.
        let told = rig.one(OUTSIDE, &udp((SERVER, 5000), (PUBLIC, 8004), b"call"));
        assert_eq!(told.map(|(interface, error)| (interface, error[34])), Some((OUTSIDE, 3)));
        assert_eq!(rig.dropped(DropReason::NoRoute), 1);
    }
}

#[test]
fn an_address_of_its_own_belongs_to_the_pod_of_one_network() {
    let mut rig = rig(2);
    assert_eq!(called(&mut rig, (OWN, 7777)), Some((2, (pod(9), 7777))));
    assert_eq!(leaves(&mut rig, 2, (pod(9), 4444), 443), (OWN, 4444));
    assert_ne!(leaves(&mut rig, 1, (pod(9), 4444), 443).0, OWN);
}

#[test]
fn a_forward_that_leads_into_another_network_now_ends_its_sessions() {
    let mut rig = rig(1);
    assert_eq!(called(&mut rig, (PUBLIC, 8001)), Some((1, (pod(1), 80))));
    map(&rig, vec![forward(8001, 1, Some(2))]);
    rig.run();
    assert_eq!(called(&mut rig, (PUBLIC, 8001)), Some((2, (pod(1), 80))));
    assert_eq!(leaves(&mut rig, 2, (pod(1), 80), 5000), (PUBLIC, 8001));
}

#[test]
fn exempt_traffic_needs_routes_that_lead_its_replies_back() {
    let mut rig = rig(2);
    let query = udp((pod(5), 4000), (EXEMPT_SERVER, 53), b"q");
    assert_eq!(seen(&out(&mut rig, 1, &query).unwrap()).src, (pod(5), 4000));
    let reply = udp((EXEMPT_SERVER, 53), (pod(5), 4000), b"a");
    assert_eq!(back(&mut rig, &reply).unwrap().0.vni, 1);
    // The other network's pod would never hear: its neighbour of the same address would.
    assert_eq!(rig.one(INSIDE, &arriving(2, &query)), None);
    assert_eq!(rig.dropped(DropReason::ExemptOverlay), 1);
    // Nor does it say that they can't be delivered.
    let refuses = icmp((pod(5), EXEMPT_SERVER), (3, 3), [0; 4], &reply[14..]);
    assert!(out(&mut rig, 1, &refuses).is_some());
    assert_eq!(rig.one(INSIDE, &arriving(2, &refuses)), None);
    assert_eq!(rig.dropped(DropReason::ExemptOverlay), 2);
}
