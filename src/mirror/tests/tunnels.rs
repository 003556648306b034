//! VXLAN devices as flannel sets them up.

use dataplane::interface::Tunnel;
use dataplane::roads::{Adjacency, TunnelTo};

use super::*;

/// The first VXLAN device.
const FIRST: InterfaceId = InterfaceId(1);
/// The node's end in the overlay, and its Ethernet address there.
const NODE: &str = "10.244.1.0";
const NODE_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);

/// A device with a route to a node's pods, its neighbour and its forwarding database.
fn flannel(rig: &Rig, name: &str, vni: u32) {
    rig.ip(&format!(
        "link add {name} type vxlan id {vni} dev in0 local 10.0.0.1 dstport 8472 nolearning"
    ));
    rig.ip(&format!("link set {name} up"));
    rig.ip(&format!("neigh add {NODE} lladdr {NODE_MAC} dev {name} nud permanent"));
    fdb(rig, &format!("add {NODE_MAC} dev {name} dst 10.0.0.2"));
    rig.ip(&format!("route add 10.244.1.0/24 via {NODE} dev {name} onlink metric {vni}"));
}

fn fdb(rig: &Rig, arguments: &str) {
    run(&format!("bridge -n {} fdb {arguments}", rig.here));
}

fn road(state: &MirrorState, to: &str) -> Option<Adjacency> {
    match hop(state, to) {
        NextHop::Adjacency(id) => state.roads.adjacency(id).copied(),
        _ => None,
    }
}

/// The tunnel that packets to a pod take.
fn tunnel_to(state: &MirrorState, pod: &str) -> Option<TunnelTo> {
    road(state, pod)?.tunnel
}

/// The remote, and the Ethernet address of the neighbour by which it is reached.
fn way(state: &MirrorState, pod: &str) -> Option<(String, Option<Mac>)> {
    let tunnel = tunnel_to(state, pod)?;
    Some((tunnel.remote.to_string(), state.roads.adjacency(tunnel.outer)?.mac))
}

fn leads(state: &MirrorState, remote: &str) -> bool {
    way(state, "10.244.1.5") == Some((remote.to_owned(), Some(PEER)))
}

fn device(state: &MirrorState, id: InterfaceId) -> Option<Tunnel> {
    state.links.get(id.index())?.tunnel.map(|it| it.tunnel)
}

#[test]
fn the_way_to_a_pod_behind_a_tunnel_is_that_of_the_device() {
    let rig = Rig::new();
    flannel(&rig, "flannel.1", 1);
    rig.run(async |mut follow| {
        let first = follow.until("the tunnel", |state| leads(state, "10.0.0.2")).await;
        let road = road(&first, "10.244.1.5").unwrap();
        assert_eq!((road.interface, road.mac), (FIRST, Some(NODE_MAC)));
        let tunnel = device(&first, FIRST).unwrap();
        assert_eq!((tunnel.vni, tunnel.port, tunnel.local), (1, 8472, [10, 0, 0, 1].into()));
        assert_eq!(first.links[1].mtu, 1450);
        assert!(first.links[1].up && first.overlays.is_empty() && first.refused.is_empty());
        // The forwarding database, and the route to the other end.
        rig.ip("route add 10.9.0.0/24 via 10.0.0.2");
        fdb(&rig, &format!("replace {NODE_MAC} dev flannel.1 dst 10.9.0.9"));
        follow.until("another remote", |state| leads(state, "10.9.0.9")).await;
        rig.ip("route del 10.9.0.0/24");
        follow.until("no route", |state| tunnel_to(state, "10.244.1.5").is_none()).await;
        fdb(&rig, &format!("replace {NODE_MAC} dev flannel.1 dst 10.0.0.2"));
        follow.until("the first remote", |state| leads(state, "10.0.0.2")).await;
        rig.ip(&format!(
            "neigh replace {NODE} lladdr 02:00:00:00:01:99 dev flannel.1 nud permanent"
        ));
        follow.until("no entry", |state| tunnel_to(state, "10.244.1.5").is_none()).await;
        fdb(&rig, "add 02:00:00:00:01:99 dev flannel.1 dst 10.0.0.2");
        follow.until("its entry", |state| leads(state, "10.0.0.2")).await;
        fdb(&rig, "del 02:00:00:00:01:99 dev flannel.1");
        follow.until("deleted", |state| tunnel_to(state, "10.244.1.5").is_none()).await;
        fdb(&rig, "add 00:00:00:00:00:00 dev flannel.1 dst 10.0.0.2");
        follow.until("the default", |state| leads(state, "10.0.0.2")).await;
        fdb(&rig, "append 00:00:00:00:00:00 dev flannel.1 dst 10.0.0.3");
        let several = follow.until("several", |state| !state.refused.is_empty()).await;
        assert!(
            several.refused[0].starts_with("flannel.1 (VXLAN): it has several default remotes")
        );
        assert_eq!(tunnel_to(&several, "10.244.1.5"), None);
    });
}

#[test]
fn devices_come_and_go_and_are_the_same_when_they_are_back() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        assert_eq!(follow.mirror.state().links.len(), 1);
        flannel(&rig, "flannel.1", 1);
        let first = follow.until("the tunnel", |state| leads(state, "10.0.0.2")).await;
        rig.ip("link del flannel.1");
        let gone = |state: &MirrorState| state.links.get(1).is_some_and(|link| !link.up);
        follow.until("its end", |state| gone(state) && road(state, "10.244.1.5").is_none()).await;
        rig.ip("link add other type bridge");
        flannel(&rig, "flannel.1", 1);
        let back = follow.until("its return", |state| leads(state, "10.0.0.2")).await;
        assert_eq!(road(&back, "10.244.1.5").unwrap().interface, FIRST);
        assert_ne!(back.links[1].ifindex, first.links[1].ifindex);
        assert_eq!(back.links.len(), 2);
        rig.ip("link set flannel.1 mtu 1400 address 02:00:00:00:00:77");
        follow.until("changes", |state| state.links[1].mtu == 1400).await;
        assert_eq!(follow.mirror.state().links[1].mac, Mac([2, 0, 0, 0, 0, 0x77]));
    });
}

#[test]
fn devices_that_cannot_be_served_are_named() {
    let rig = Rig::new();
    rig.run(async |mut follow| {
        rig.ip("link add ext.1 type vxlan external dev in0 dstport 8472");
        let refused = follow.until("a refusal", |state| !state.refused.is_empty()).await;
        assert!(refused.refused[0].starts_with("ext.1 (VXLAN) is not served: it is `external`"));
        rig.ip("link del ext.1");
        rig.ip("link add flannel.1 type vxlan id 1 dev in0 local 10.0.0.1 dstport 8472");
        let served = follow.until("a device", |state| state.links.len() == 2).await;
        assert!(served.refused.is_empty(), "{:?}", served.refused);
        rig.ip("link add br0 type bridge");
        rig.ip("link set flannel.1 master br0");
        let bridged = follow.until("a bridge", |state| !state.refused.is_empty()).await;
        assert!(bridged.refused[0].contains("a port of a bridge"), "{:?}", bridged.refused);
        assert!(!bridged.links[1].up);
    });
}

#[test]
fn pods_of_two_networks_with_one_prefix_are_told_apart() {
    let rig = Rig::new();
    flannel(&rig, "red", 1);
    rig.run(async |mut follow| {
        let one = follow.until("one", |state| leads(state, "10.0.0.2")).await;
        assert!(one.overlays.is_empty());
        flannel(&rig, "blue", 2);
        let two = follow.until("two", |state| state.overlays.len() == 3).await;
        let [_, red, blue] = two.overlays[..] else { panic!("{:?}", two.overlays) };
        assert!(red != blue && red > 0 && blue > 0, "{:?}", two.overlays);
        for (overlay, id) in [(red, FIRST), (blue, InterfaceId(2))] {
            let both = |state: &MirrorState| {
                let pod = Journey { overlay, ..Journey::to([10, 244, 1, 5].into()) };
                let NextHop::Adjacency(hop) = state.roads.next_hop(&pod) else { return false };
                let road = state.roads.adjacency(hop).unwrap();
                road.interface == id && road.tunnel.is_some()
            };
            follow.until("its own way", both).await;
        }
        rig.ip("link del red");
        let gone = |state: &MirrorState| !state.links[1].up;
        let without = follow.until("red is gone", gone).await;
        assert_eq!(without.overlays, two.overlays, "numbers are for good");
    });
}
