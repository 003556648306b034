//! Next hops, one-armed gateways, changes of route.

use super::*;

#[test]
fn packets_wait_for_their_next_hop_and_none_is_lost() {
    let mut rig = Rig::with(2, PoolSettings::default(), None);
    for n in 1..=20 {
        rig.inject(INSIDE, &udp((pod(n), 4000), (SERVER, 53), &[n]));
    }
    assert!(rig.run().is_empty());
    let asked: Vec<Notice> = rig.notices.try_iter().collect();
    assert!(!asked.is_empty() && asked.len() <= 2, "one question a worker: {asked:?}");
    assert_eq!(asked[0], Notice::Resolve(OUTSIDE, Ipv4Addr::new(203, 0, 113, 1)));
    let old = rig.snapshot.get();
    rig.snapshot
        .publish(Snapshot { roads: Arc::new(roads(Some(Mac(ROUTER_MAC)))), ..(*old).clone() });
    let sent = rig.run();
    assert_eq!(sent.len(), 20);
    assert!(sent.iter().all(|(_, packet)| seen(packet).macs == (GATE_MAC, ROUTER_MAC)));
    // A neighbour that never answers: the packets are dropped under that name.
    let mut rig = Rig::with(1, PoolSettings::default(), None);
    assert_eq!(rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"q")), None);
    rig.advance(Duration::from_millis(3_100));
    rig.run();
    assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 1);
}

#[test]
fn a_one_armed_gateway_tells_the_sides_apart_by_the_source() {
    let mut rig = Rig::new(2);
    let old = rig.snapshot.get();
    let mut one_armed = interface("arm0", true);
    one_armed.roles.external = true;
    let mut roads = (*old.roads).clone();
    roads.generation += 1;
    for adjacency in &mut roads.adjacencies {
        adjacency.interface = INSIDE;
    }
    rig.snapshot.publish(Snapshot {
        interfaces: vec![one_armed],
        roads: Arc::new(roads),
        ..(*old).clone()
    });
    let (interface, out) = rig.one(INSIDE, &udp((pod(1), 4000), (SERVER, 53), b"q")).unwrap();
    let out = seen(&out);
    assert_eq!((interface, out.macs.1), (INSIDE, ROUTER_MAC));
    let (interface, back) = rig.one(INSIDE, &udp((SERVER, 53), out.src, b"a")).unwrap();
    let back = seen(&back);
    assert_eq!((interface, back.macs.1, back.dst), (INSIDE, NODE_MAC, (pod(1), 4000)));
}

#[test]
fn a_route_change_is_followed_by_old_sessions() {
    let mut rig = Rig::new(1);
    let packet = udp((pod(1), 4000), (SERVER, 53), b"q");
    assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, ROUTER_MAC);
    let old = rig.snapshot.get();
    let mut roads = (*old.roads).clone();
    roads.generation += 1;
    roads.adjacencies.push(Adjacency {
        interface: OUTSIDE,
        address: Ipv4Addr::new(203, 0, 113, 2),
        mac: Some(Mac([2, 0, 0, 0, 0, 3])),
    });
    roads.routes =
        [("192.0.2.0/24".parse().unwrap(), Route::Via(AdjacencyId(2)))].into_iter().collect();
    rig.snapshot.publish(Snapshot { roads: Arc::new(roads), ..(*old).clone() });
    assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, [2, 0, 0, 0, 0, 3]);
}
