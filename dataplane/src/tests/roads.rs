//! Next hops, one-armed gateways, changes of route.

use ipnet::Ipv4Net;

use super::*;
use crate::roads::{Member, Way};

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
    roads.note_change(Ipv4Net::default());
    for adjacency in Arc::make_mut(&mut roads.adjacencies) {
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
    let mac = Some(Mac([2, 0, 0, 0, 0, 3]));
    let second = Adjacency::new(OUTSIDE, Ipv4Addr::new(203, 0, 113, 2), mac);
    Arc::make_mut(&mut roads.adjacencies).push(second);
    let changed = "192.0.2.0/24".parse().unwrap();
    roads.tables[0].insert(changed, Route::Via(AdjacencyId(2)));
    roads.note_change(changed);
    rig.snapshot.publish(Snapshot { roads: Arc::new(roads), ..(*old).clone() });
    assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, [2, 0, 0, 0, 0, 3]);
}

/// Publishes roads that `change` makes of the present ones.
fn change_roads(rig: &Rig, change: impl FnOnce(&mut crate::roads::Roads)) {
    let old = rig.snapshot.get();
    let mut roads = (*old.roads).clone();
    change(&mut roads);
    rig.snapshot.publish(Snapshot { roads: Arc::new(roads), ..(*old).clone() });
}

fn own_addresses(rig: &Rig) {
    let mut snapshot = (*rig.snapshot.get()).clone();
    snapshot.interfaces[INSIDE.index()].address = Some(Ipv4Addr::new(10, 0, 0, 254));
    rig.snapshot.publish(snapshot);
}

#[test]
fn routes_that_refuse_are_answered_as_they_say() {
    let mut rig = Rig::new(1);
    own_addresses(&rig);
    for (last, reason, answer) in [
        (1, DropReason::NoRoute, Some((3, 0))),
        (65, DropReason::RouteProhibited, Some((3, 13))),
        (129, DropReason::RouteBlackhole, None),
        (193, DropReason::RouteUnreachable, Some((3, 1))),
    ] {
        let to = Ipv4Addr::new(198, 51, 100, last);
        let sent = rig.one(INSIDE, &udp((pod(1), 4000), (to, 53), b"q"));
        let kind = sent.map(|(interface, packet)| {
            assert_eq!(interface, INSIDE);
            (packet[34], packet[35])
        });
        assert_eq!((kind, rig.dropped(reason)), (answer, 1), "{reason:?}");
    }
}

#[test]
fn what_waits_is_refused_when_the_neighbour_fails_and_what_follows_waits_again() {
    let mut rig = Rig::with(1, PoolSettings::default(), None);
    own_addresses(&rig);
    let packet = udp((pod(1), 4000), (SERVER, 53), b"q");
    assert_eq!(rig.one(INSIDE, &packet), None);
    rig.advance(Duration::from_millis(600));
    let fail = |roads: &mut crate::roads::Roads| {
        let router = &mut Arc::make_mut(&mut roads.adjacencies)[1];
        (router.failed, router.failures) = (true, router.failures + 1);
    };
    change_roads(&rig, fail);
    let told = rig.run();
    assert_eq!(told.len(), 1);
    assert_eq!((told[0].0, &told[0].1[34..36]), (INSIDE, &[3, 1][..]));
    assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 1);
    // The kernel is asked again, and what it says of others changes nothing.
    rig.notices.try_iter().for_each(drop);
    assert_eq!(rig.one(INSIDE, &packet), None);
    assert_eq!(rig.notices.try_iter().count(), 1);
    change_roads(&rig, |roads| Arc::make_mut(&mut roads.adjacencies)[0].failures += 1);
    assert!(rig.run().is_empty());
    change_roads(&rig, |roads| {
        let router = &mut Arc::make_mut(&mut roads.adjacencies)[1];
        (router.failed, router.mac) = (false, Some(Mac(ROUTER_MAC)));
    });
    assert_eq!(rig.run().len(), 1);
}

#[test]
fn flows_keep_their_router_until_it_fails() {
    let mut rig = Rig::new(1);
    let mac = |n: u8| [2, 0, 0, 0, 1, n];
    let servers: Ipv4Net = "192.0.2.0/24".parse().unwrap();
    let members = |count: u32| {
        let member = |id| Member { way: Way::Via(AdjacencyId(id)), weight: 1 };
        Route::Several((2..2 + count).map(member).collect())
    };
    change_roads(&rig, |roads| {
        for n in 1..=3 {
            let router = Ipv4Addr::new(203, 0, 113, 100 + n);
            let router = Adjacency::new(OUTSIDE, router, Some(Mac(mac(n))));
            Arc::make_mut(&mut roads.adjacencies).push(router);
        }
        roads.tables[0].insert(servers, members(2));
        roads.note_change(servers);
    });
    let snapshot = Arc::clone(&rig.snapshot);
    let mut by = || -> Vec<[u8; 6]> {
        let packets = (1..=64).map(|n| udp((pod(n), 4000), (SERVER, 53), &[n]));
        packets.map(|packet| seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1).collect()
    };
    let first = by();
    assert!(first.contains(&mac(1)) && first.contains(&mac(2)));
    let change = |change: &dyn Fn(&mut crate::roads::Roads)| {
        let old = snapshot.get();
        let mut roads = (*old.roads).clone();
        change(&mut roads);
        roads.note_change(servers);
        snapshot.publish(Snapshot { roads: Arc::new(roads), ..(*old).clone() });
    };
    change(&|roads| drop(roads.tables[0].insert(servers, members(3))));
    assert_eq!(by(), first, "a third router takes none of the old flows");
    change(&|roads| {
        let router = &mut Arc::make_mut(&mut roads.adjacencies)[2];
        (router.failed, router.mac) = (true, None);
    });
    let after = by();
    for (before, after) in first.iter().zip(&after) {
        assert!(*after != mac(1) && (*before == mac(1) || before == after));
    }
}

#[test]
fn rules_choose_the_table_by_the_pod() {
    let mut rig = Rig::new(1);
    let other = [2, 0, 0, 0, 1, 9];
    change_roads(&rig, |roads| {
        let router = Adjacency::new(OUTSIDE, Ipv4Addr::new(203, 0, 113, 9), Some(Mac(other)));
        Arc::make_mut(&mut roads.adjacencies).push(router);
        let table = [(Ipv4Net::default(), Route::Via(AdjacencyId(2)))];
        roads.tables.push(table.into_iter().collect());
        let main = roads.signposts[0].clone();
        let from = Ipv4Net::new_assert(pod(1), 32);
        roads.signposts =
            [crate::roads::Signpost { from, ..crate::roads::Signpost::to_table(1) }, main].into();
        roads.note_change(Ipv4Net::default());
    });
    for (n, router) in [(1, other), (2, ROUTER_MAC)] {
        let packet = udp((pod(n), 4000), (SERVER, 53), b"q");
        assert_eq!(seen(&rig.one(INSIDE, &packet).unwrap().1).macs.1, router, "pod {n}");
    }
}
