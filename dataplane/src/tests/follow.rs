//! Following a change of neighbours leads to where a fresh start does.

use proptest::prelude::*;

use super::rig::policy;
use super::*;
use crate::follow::Changed;
use crate::interface::{Interface, InterfaceId, OuterDf, Tunnel};
use crate::plain::Lane;
use crate::roads::{Roads, TunnelTo};
use crate::tunnel::Tunnels;

/// A tunnel's interface, beside the two of every rig.
const DEVICE: InterfaceId = InterfaceId(2);

#[derive(Clone, Copy, Debug)]
enum Change {
    /// The Ethernet address of a neighbour; 0: it is not known.
    Mac(usize, u8),
    /// By which neighbour one behind the tunnel is reached.
    Outer(usize, Option<u32>),
    /// Another neighbour, behind the tunnel or not.
    New(bool),
    /// The MTU of an interface.
    Mtu(usize, u16),
    /// There is no neighbour any more.
    Restart,
    /// Something else: all neighbours are as they were.
    Nothing,
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0usize..12, 0u8..3).prop_map(|(which, mac)| Change::Mac(which, mac)),
        4 => (0usize..12, prop::option::of(0u32..12)).prop_map(|(which, to)| Change::Outer(which, to)),
        3 => any::<bool>().prop_map(Change::New),
        1 => (0usize..3, 1_300u16..1_302).prop_map(|(which, mtu)| Change::Mtu(which, mtu)),
        1 => Just(Change::Restart),
        1 => Just(Change::Nothing),
    ]
}

fn device() -> Interface {
    let tunnel = Tunnel {
        vni: 1,
        port: 8472,
        local: [10, 0, 0, 9].into(),
        source_ports: (32_768, 60_999),
        ttl: None,
        tos: None,
        df: OuterDf::Unset,
        checksum: false,
    };
    Interface { tunnel: Some(tunnel), mtu: 1450, ..interface("vxlan1", true) }
}

fn changed(before: &Snapshot, change: Change) -> Snapshot {
    let mut interfaces = before.interfaces.clone();
    let mut roads = Roads::clone(&before.roads);
    let some = |mac: u8| (mac > 0).then_some(Mac([2, 0, 0, 0, 0, mac]));
    let mut set = |which: usize, change: &dyn Fn(&mut Adjacency)| {
        let all = Arc::make_mut(&mut roads.adjacencies);
        let count = all.len().max(1);
        all.get_mut(which % count).into_iter().for_each(change);
    };
    match change {
        Change::Mac(which, mac) => set(which, &|it| it.mac = some(mac)),
        Change::Outer(which, outer) => set(which, &|it| {
            let to = |outer| TunnelTo {
                remote: [10, 0, 0, 1].into(),
                outer: AdjacencyId(outer),
                path_mtu: None,
            };
            it.tunnel = outer.map(to);
        }),
        Change::New(behind) => {
            let link = if behind { DEVICE } else { INSIDE };
            let adjacency = Adjacency::new(link, [10, 0, 0, 1].into(), some(1));
            Arc::make_mut(&mut roads.adjacencies).push(adjacency);
        }
        Change::Mtu(which, mtu) => interfaces[which].mtu = mtu,
        Change::Restart => roads.adjacencies = Arc::default(),
        Change::Nothing => {}
    }
    Snapshot { interfaces, policy: Arc::clone(&before.policy), roads: Arc::new(roads) }
}

proptest! {
    #[test]
    fn following_each_change_is_as_good_as_starting_anew(
        changes in prop::collection::vec(change(), 1..60),
        tunnels in any::<bool>(),
    ) {
        let mut snapshot = Snapshot {
            interfaces: vec![interface("in0", true), interface("out0", false), device()],
            policy: Arc::new(policy(PoolSettings::default())),
            roads: Arc::new(Roads::default()),
        };
        if !tunnels {
            snapshot.interfaces[2].tunnel = None;
        }
        let (mut lane, mut followed) = (Lane::default(), Tunnels::new(0, 1));
        followed.follow(&snapshot, &Changed::All);
        lane.follow(&snapshot, &followed, &Changed::All);
        for change in changes {
            let next = changed(&snapshot, change);
            let what = Changed::between(&snapshot, &next);
            followed.follow(&next, &what);
            lane.follow(&next, &followed, &what);
            snapshot = next;
            let (mut fresh, mut anew) = (Lane::default(), Tunnels::new(0, 1));
            anew.follow(&snapshot, &Changed::All);
            fresh.follow(&snapshot, &anew, &Changed::All);
            prop_assert_eq!(format!("{followed:?}"), format!("{anew:?}"), "{:?}", change);
            prop_assert_eq!(format!("{lane:?}"), format!("{fresh:?}"), "{:?}", change);
        }
    }
}

/// What has not changed is not looked at.
#[test]
fn a_change_of_routes_concerns_no_neighbour_and_one_of_a_neighbour_only_that() {
    let rig = Rig::new(1);
    let before = rig.snapshot.get();
    let mut roads = Roads::clone(&before.roads);
    roads.tables[0].insert("192.0.2.0/24".parse().unwrap(), Route::Via(AdjacencyId(1)));
    let routed = Snapshot { roads: Arc::new(roads), ..(*before).clone() };
    assert_eq!(Changed::between(&before, &routed), Changed::These(vec![]));
    let moved = changed(&routed, Change::Mac(1, 7));
    assert_eq!(Changed::between(&routed, &moved), Changed::These(vec![AdjacencyId(1)]));
    assert_eq!(Changed::between(&moved, &changed(&moved, Change::Mtu(0, 9_000))), Changed::All);
}
