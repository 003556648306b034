//! In and out of tunnels.

use std::collections::HashSet;

use super::icmp::{change, icmp, seal};
use super::overlays::*;
use super::pieces::{Receiver, pieces, with_id};
use super::*;
use crate::interface::{InterfaceId, OuterDf};
use crate::roads::Journey;

fn with_tos(frame: &[u8], tos: u8) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[15] = tos;
    seal(&mut frame[14..]);
    frame
}

fn query(n: u8, port: u16) -> Vec<u8> {
    udp((pod(n), port), (SERVER, 53), b"question")
}

fn answer(public: (Ipv4Addr, u16)) -> Vec<u8> {
    udp((SERVER, 53), public, b"answer")
}

#[test]
fn pods_in_tunnels_are_translated_and_answered_byte_for_byte() {
    for workers in [1, 2, 3] {
        let mut rig = overlays(workers);
        for n in 1..=30 {
            // The first packet opens, the others are plain.
            for _ in 0..3 {
                let sent = out(&mut rig, 1, &query(n, 4000)).unwrap();
                let view = seen(&sent);
                assert_eq!(view.macs, (GATE_MAC, ROUTER_MAC));
                assert_eq!((view.dst, view.ttl), ((SERVER, 53), 63));
                let (outer, frame) = back(&mut rig, &answer(view.src)).unwrap();
                let like = Outer { id: outer.id, port: outer.port, ..Outer::leaving(1) };
                assert_eq!(outer, like);
                let inner = seen(&frame);
                assert_eq!(inner.macs, (OWN_MACS[0], PEER_MACS[0]));
                assert_eq!((inner.src, inner.dst), ((SERVER, 53), (pod(n), 4000)));
                assert_eq!((inner.ttl, &inner.payload[..]), (63, &b"answer"[..]));
            }
        }
        let of = |c: &crate::counters::WorkerCounters, id: InterfaceId| {
            let it = &c.interfaces[id.index()];
            it.received_packets.get() + it.transmitted_packets.get()
        };
        assert_eq!(rig.sum(|c| of(c, VXLAN_1)), 180, "counted where the kernel has the device");
        assert_eq!(rig.sum(|c| of(c, INSIDE)), 0);
    }
}

#[test]
fn arrival_by_a_tunnel_and_reply_by_a_plain_route_and_the_other_way_round() {
    let mut rig = overlays(2);
    // 10.244.3.0/24 has a plain route; its packets may come by a tunnel all the same.
    let pod = Ipv4Addr::new(10, 244, 3, 7);
    let sent = out(&mut rig, 1, &udp((pod, 4000), (SERVER, 53), b"q")).unwrap();
    let (interface, back) = rig.one(OUTSIDE, &answer(seen(&sent).src)).unwrap();
    let back = seen(&back);
    assert_eq!((interface, back.macs), (INSIDE, (GATE_MAC, NODE_MAC)));
    assert_eq!(back.dst, (pod, 4000));
    // One subscriber, whichever way it comes: the same session.
    let (_, again) = rig.one(INSIDE, &udp((pod, 4000), (SERVER, 53), b"q")).unwrap();
    assert_eq!(seen(&again).src, seen(&sent).src);
    // A pod that comes by a plain route, and is answered by the tunnel.
    let (_, sent) = rig.one(INSIDE, &query(5, 4000)).unwrap();
    let (_, frame) = super::overlays::back(&mut rig, &answer(seen(&sent).src)).unwrap();
    assert_eq!(seen(&frame).dst, (super::pod(5), 4000));
}

#[test]
fn congestion_bits_come_out_as_rfc_6040_says() {
    // Section 4.2, figure 4: rows inner, columns outer; Not-ECT, ECT(0), ECT(1), CE. 4: dropped.
    const FIELD: [u8; 4] = [0b00, 0b10, 0b01, 0b11];
    const OUT: [[usize; 4]; 4] = [[0, 0, 0, 4], [1, 1, 2, 3], [2, 2, 2, 3], [3, 3, 3, 3]];
    for (inner_row, row) in OUT.iter().enumerate() {
        for (outer_column, want) in row.iter().enumerate() {
            let mut rig = overlays(1);
            let tos = |ecn: u8| 0b1010_0000 | ecn;
            let frame = inner(1, &with_tos(&query(1, 4000), tos(FIELD[inner_row])));
            let outer = Outer { tos: 0b0100_0000 | FIELD[outer_column], ..Outer::arriving(1) };
            // Twice: as the first packet, and as a plain one.
            for n in 1..=2 {
                let sent = rig.one(INSIDE, &outer.around(&frame));
                if *want == 4 {
                    assert_eq!(sent, None);
                    assert_eq!(rig.dropped(DropReason::TunnelCongestion), n);
                    continue;
                }
                let (_, sent) = sent.unwrap();
                seen(&sent); // its checksums are right
                assert_eq!(sent[15], tos(FIELD[*want]), "{inner_row} in {outer_column}");
            }
        }
    }
}

#[test]
fn congestion_bits_and_class_go_in_by_the_policy_of_the_device() {
    for (policy, tos, want) in [
        (None, 0b1010_0011, 0b1010_0011),
        (None, 0b0000_0010, 0b0000_0010),
        (Some(0b0110_0011), 0b1010_0000, 0b0110_0000),
        (Some(0b0110_0000), 0b1010_0001, 0b0110_0001),
        (Some(0), 0b1010_0011, 0b0000_0011),
    ] {
        let mut rig = overlays(1);
        set_tunnel(&rig, |tunnel| tunnel.tos = policy);
        let public = seen(&out(&mut rig, 1, &query(1, 4000)).unwrap()).src;
        for _ in 0..2 {
            let (outer, frame) = back(&mut rig, &with_tos(&answer(public), tos)).unwrap();
            assert_eq!((outer.tos, frame[15]), (want, tos), "{policy:?}");
        }
    }
}

#[test]
fn time_to_live_df_and_checksum_follow_the_device() {
    for (ttl, df, checksum) in [
        (Some(64), OuterDf::Unset, false),
        (Some(7), OuterDf::Set, true),
        (None, OuterDf::Inherit, true),
        (None, OuterDf::Inherit, false),
    ] {
        let mut rig = overlays(1);
        set_tunnel(&rig, |tunnel| (tunnel.ttl, tunnel.df, tunnel.checksum) = (ttl, df, checksum));
        let public = seen(&out(&mut rig, 1, &query(1, 4000)).unwrap()).src;
        for inner_df in [false, true, false, true] {
            let answer = with_id(&answer(public), 9, inner_df);
            // `Outer::of` compares every byte, the checksum's among them.
            let (outer, frame) = back(&mut rig, &answer).unwrap();
            assert_eq!(seen(&frame).ttl, 63);
            assert_eq!((outer.ttl, outer.checksum), (ttl.unwrap_or(63), checksum));
            let want = match df {
                OuterDf::Unset => false,
                OuterDf::Set => true,
                OuterDf::Inherit => inner_df,
            };
            assert_eq!(outer.df, want);
        }
    }
}

#[test]
fn source_ports_are_spread_over_the_range_and_stay_with_their_flow() {
    let mut rig = overlays(2);
    set_tunnel(&rig, |tunnel| tunnel.source_ports = (1000, 1009));
    let (mut ports, mut ids) = (HashSet::new(), HashSet::new());
    for port in 4000..4200 {
        let public = seen(&out(&mut rig, 1, &query(1, port)).unwrap()).src;
        let outer = [(); 3].map(|()| back(&mut rig, &answer(public)).unwrap().0);
        assert!(outer.iter().all(|it| it.port == outer[0].port), "one flow, one port");
        ports.insert(outer[0].port);
        ids.extend(outer.iter().map(|it| it.id));
    }
    assert_eq!(ports, (1000..=1009).collect(), "all of the range, and nothing else");
    assert_eq!(ids.len(), 600, "no identification comes again soon");
}

#[test]
fn pods_with_one_address_in_two_overlays_are_told_apart() {
    for workers in [1, 3] {
        let mut rig = overlapping(workers);
        for n in 1..10 {
            let publics = [1, 2].map(|vni| {
                let first = seen(&out(&mut rig, vni, &query(n, 4000)).unwrap()).src;
                let again = seen(&out(&mut rig, vni, &query(n, 4000)).unwrap()).src;
                assert_eq!(first, again);
                first
            });
            assert_ne!(publics[0], publics[1]);
            for (vni, public) in [(1, publics[0]), (2, publics[1])] {
                for _ in 0..2 {
                    let (outer, frame) = back(&mut rig, &answer(public)).unwrap();
                    assert_eq!(outer.vni, vni);
                    let inner = seen(&frame);
                    assert_eq!(inner.macs.1, PEER_MACS[vni as usize - 1]);
                    assert_eq!(inner.dst, (pod(n), 4000));
                }
                // An error about what the pod sent goes to that pod.
                let quoted = udp(public, (SERVER, 53), b"question");
                let error = icmp((SERVER, public.0), (3, 3), [0; 4], &quoted[14..]);
                let (outer, frame) = back(&mut rig, &error).unwrap();
                assert_eq!((outer.vni, seen(&frame).dst.0), (vni, pod(n)));
            }
        }
        rig.advance(Duration::from_millis(200));
        rig.run();
        assert_eq!(rig.sum(|c| c.subscribers.get()), 18);
    }
}

#[test]
fn fragments_of_one_identification_in_two_overlays_are_not_mixed() {
    for workers in [1, 2] {
        let mut rig = overlapping(workers);
        let datagrams = [(1, 0x11), (2, 0x22)].map(|(vni, byte)| {
            let whole = udp((pod(1), 4000), (SERVER, 53), &[byte; 2000]);
            (vni, pieces(&whole, 7, 1024))
        });
        let mut sent = Vec::new();
        for at in 0..2 {
            for (vni, pieces) in &datagrams {
                sent.push(out(&mut rig, *vni, &pieces[at]).unwrap());
            }
        }
        let whole = Receiver::default().take_all(&sent);
        assert_eq!(whole.len(), 2);
        let views: Vec<_> = whole.iter().map(|frame| seen(frame)).collect();
        assert_ne!(views[0].src, views[1].src);
        for view in views {
            assert!(view.payload == [0x11; 2000] || view.payload == [0x22; 2000]);
            // And back, in pieces of its own tunnel.
            let reply = udp((SERVER, 53), view.src, &view.payload);
            let frames: Vec<_> = pieces(&reply, 9, 1024)
                .iter()
                .map(|piece| {
                    let (outer, frame) = back(&mut rig, piece).unwrap();
                    assert_eq!(outer.vni, u32::from(view.payload[0] & 3));
                    frame
                })
                .collect();
            let whole = Receiver::default().take_all(&frames);
            assert_eq!(seen(&whole[0]).payload, view.payload);
        }
    }
}

#[test]
fn what_is_no_tunnel_of_ours_is_not_opened() {
    let mut rig = overlays(1);
    let frame = inner(1, &query(1, 4000));
    let good = Outer::arriving(1).around(&frame);
    let changed = |at: usize, byte: u8| {
        let mut packet = good.clone();
        packet[at] = byte;
        seal(&mut packet[14..34]);
        packet
    };
    let others = [
        Outer { vni: 3, ..Outer::arriving(1) }.around(&frame),
        Outer { dst: Ipv4Addr::new(10, 0, 0, 8), ..Outer::arriving(1) }.around(&frame),
        changed(37, 0x17), // another port
        changed(42, 0x88), // another flag
        changed(43, 1),    // a reserved bit
        changed(49, 1),    // another one
        changed(20, 0x20), // a fragment
        changed(21, 1),    // a later one
        changed(0, 0x0a),  // to another host
        super::icmp::with_options(&good, &[1, 1, 1, 0]),
    ];
    for packet in others {
        assert_eq!(rig.one(INSIDE, &packet), None);
    }
    assert_eq!(rig.sum(|c| c.sessions_created.get() + c.forwarded.get()), 0);
    // The same on an interface that is no underlay.
    assert_eq!(rig.one(OUTSIDE, &good), None);
    // Lengths that contradict each other.
    let malformed = rig.dropped(DropReason::Malformed);
    for (at, byte) in [(39, 7), (39, 0xff), (17, 0xff)] {
        assert_eq!(rig.one(INSIDE, &changed(at, byte)), None);
    }
    assert_eq!(rig.dropped(DropReason::Malformed), malformed + 3);
    assert!(rig.one(INSIDE, &good).is_some(), "and the right one is");
    // A trailer of the outer frame is none of the inner one's.
    let mut padded = good.clone();
    padded.extend([0xaa; 9]);
    let (_, sent) = rig.one(INSIDE, &padded).unwrap();
    assert_eq!(sent.len(), frame.len());
}

#[test]
fn damage_to_any_byte_harms_nobody() {
    let mut rig = overlays(2);
    let good = arriving(1, &query(1, 4000));
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut packet = good.clone();
            packet[at] ^= 1 << bit;
            rig.inject(INSIDE, &packet);
            packet.truncate(at);
            rig.inject(INSIDE, &packet);
            rig.run(); // counts every packet and frame
        }
    }
}

/// The neighbour behind the tunnel, and that on the underlay.
fn set_macs(rig: &Rig, inner: Option<[u8; 6]>, outer: Option<[u8; 6]>) {
    change(rig, |snapshot| {
        let roads = Arc::make_mut(&mut snapshot.roads);
        let adjacencies = Arc::make_mut(&mut roads.adjacencies);
        (adjacencies[2].mac, adjacencies[0].mac) = (inner.map(Mac), outer.map(Mac));
        let there = (INSIDE, adjacencies[0].address);
        Arc::make_mut(&mut roads.neighbours).insert(there, AdjacencyId(0));
    });
}

fn expiring(n: u8) -> Vec<u8> {
    let mut last = query(n, 4000);
    last[22] = 1;
    seal(&mut last[14..]);
    last
}

#[test]
fn what_natgate_says_itself_waits_for_both_neighbours_too() {
    let mut rig = overlays(1);
    let asked = |rig: &Rig| rig.notices.try_iter().collect::<Vec<_>>();
    set_macs(&rig, None, None);
    assert_eq!(rig.one(INSIDE, &arriving(1, &expiring(1))), None);
    assert_eq!(asked(&rig), [Notice::Resolve(VXLAN_1, Ipv4Addr::new(10, 244, 1, 0))]);
    set_macs(&rig, Some(PEER_MACS[0]), None);
    assert!(rig.run().is_empty());
    assert_eq!(asked(&rig), [Notice::Resolve(INSIDE, NODE)]);
    set_macs(&rig, Some(PEER_MACS[0]), Some(NODE_MAC));
    let sent = rig.run();
    assert_eq!(sent.len(), 1);
    let (outer, frame) = Outer::of(&sent[0].1);
    assert_eq!((outer.dst, frame[23], frame[34]), (NODE, 1, 11), "time exceeded");
    assert_eq!(rig.sum(|c| c.answers_lost.get()), 0);
    // In vain: no error is sent about it, and no packet that came in is counted twice.
    set_macs(&rig, None, None);
    assert_eq!(rig.one(INSIDE, &arriving(1, &expiring(2))), None);
    rig.advance(Duration::from_secs(4));
    assert!(rig.run().is_empty());
    assert_eq!(rig.sum(|c| c.answers_lost.get()), 1);
    assert_eq!(rig.dropped(DropReason::NeighbourUnresolved), 0);
    assert_eq!(rig.dropped(DropReason::TtlExpired), 2);
}

#[test]
fn packets_wait_for_the_neighbour_behind_the_tunnel_and_for_that_on_the_underlay() {
    let mut rig = overlays(1);
    let public = seen(&out(&mut rig, 1, &query(1, 4000)).unwrap()).src;
    set_macs(&rig, None, None);
    for _ in 0..3 {
        assert_eq!(rig.one(OUTSIDE, &answer(public)), None);
    }
    let asked = |rig: &Rig| rig.notices.try_iter().collect::<Vec<_>>();
    assert_eq!(asked(&rig), [Notice::Resolve(VXLAN_1, Ipv4Addr::new(10, 244, 1, 0))]);
    set_macs(&rig, Some(PEER_MACS[0]), None);
    assert!(rig.run().is_empty());
    assert_eq!(asked(&rig), [Notice::Resolve(INSIDE, NODE)]);
    set_macs(&rig, Some(PEER_MACS[0]), Some(NODE_MAC));
    let sent = rig.run();
    assert_eq!(sent.len(), 3);
    for (_, packet) in sent {
        assert_eq!(seen(&Outer::of(&packet).1).dst, (pod(1), 4000));
    }
    // The other end moves to another MAC: followed at once.
    set_macs(&rig, Some(PEER_MACS[0]), Some([2, 0, 0, 0, 0, 7]));
    assert_eq!(back(&mut rig, &answer(public)).unwrap().0.macs.1, [2, 0, 0, 0, 0, 7]);
}

#[test]
fn without_a_remote_it_is_dropped_under_that_name_and_told() {
    let mut rig = overlays(1);
    let public = seen(&out(&mut rig, 1, &query(1, 4000)).unwrap()).src;
    change(&rig, |snapshot| snapshot.interfaces[1].address = Some([203, 0, 113, 2].into()));
    set_way(&rig, |way| way.tunnel = None);
    let (interface, error) = rig.one(OUTSIDE, &answer(public)).unwrap();
    assert_eq!((interface, error[23], &error[34..36]), (OUTSIDE, 1, &[3, 1][..]));
    assert_eq!(rig.dropped(DropReason::TunnelNoRemote), 1);
    // By way of another tunnel it does not go either.
    set_way(&rig, |way| {
        let outer = AdjacencyId(3);
        way.tunnel = Some(crate::roads::TunnelTo { remote: NODE, outer, path_mtu: None });
    });
    rig.one(OUTSIDE, &answer(public));
    assert_eq!(rig.dropped(DropReason::TunnelNoRemote), 2);
}

#[test]
fn what_natgate_answers_itself_goes_back_into_the_tunnel() {
    for workers in [1, 2] {
        let mut rig = overlapping(workers);
        for vni in [1, 2] {
            let (_, pong) = rig
                .one(INSIDE, &arriving(vni, &ping(pod(1), PUBLIC, 7, b"hello")))
                .expect("pings to pool addresses are answered");
            let (outer, frame) = Outer::of(&pong);
            assert_eq!((outer.vni, outer.dst), (vni, NODE));
            let pong = seen(&frame);
            assert_eq!(pong.macs, (OWN_MACS[vni as usize - 1], PEER_MACS[vni as usize - 1]));
            assert_eq!((pong.src.0, pong.dst), (PUBLIC, (pod(1), 7)));
            // The time to live ends here.
            let (_, error) = rig.one(INSIDE, &arriving(vni, &expiring(1))).expect("told");
            let (outer, frame) = Outer::of(&error);
            assert_eq!((outer.vni, frame[23], frame[34]), (vni, 1, 11));
            assert_eq!(&frame[26..30], &[10, 244, vni as u8, 255], "from the device's address");
        }
        assert_eq!(rig.sum(|c| c.answered.get()), 2);
    }
}

#[test]
fn the_plain_lane_does_what_the_general_way_does() {
    let mut rigs = [overlapping(1), overlapping(1)];
    rigs[1].workers[0].lane.closed = true;
    let [open, closed] = rigs.each_mut().map(|rig| {
        let mut all = Vec::new();
        for round in 0..4 {
            for n in 1..20 {
                let vni = u32::from(n % 2) + 1;
                let sent = out(rig, vni, &with_id(&query(n, 4000), 5, n % 3 == 0)).unwrap();
                let reply = with_id(&answer(seen(&sent).src), 6 + round, n % 3 == 0);
                let (_, reply) = rig.one(OUTSIDE, &with_tos(&reply, n & 3)).unwrap();
                all.extend([sent, reply]);
            }
        }
        all
    });
    assert_eq!(open, closed);
}

#[test]
fn the_way_that_is_shown_is_the_way_that_is_taken() {
    let mut rig = overlays(1);
    let sent = out(&mut rig, 1, &query(5, 4000)).unwrap();
    let shown = rig.snapshot.get().passage(&Journey::to(pod(5)));
    let (outer, frame) = back(&mut rig, &answer(seen(&sent).src)).unwrap();
    let through = shown.tunnel.unwrap();
    assert_eq!((through.vni, through.ends), (outer.vni, (outer.src, outer.dst, 8472)));
    assert_eq!(through.outer.mac.map(|mac| mac.0), Some(outer.macs.1));
    let step = shown.step.unwrap();
    assert_eq!((step.interface, step.mac.map(|mac| mac.0)), (VXLAN_1, Some(seen(&frame).macs.1)));
    assert_eq!(shown.mtu, Some(1450));
    // To the outside: no tunnel.
    let outside = rig.snapshot.get().passage(&Journey::to(SERVER));
    assert_eq!((outside.tunnel, outside.mtu), (None, Some(1500)));
    assert_eq!(
        outside.step.map(|step| (step.interface, step.mac)),
        Some((OUTSIDE, Some(Mac(ROUTER_MAC))))
    );
    // No way: none is shown.
    set_way(&rig, |way| way.tunnel = None);
    assert_eq!(rig.snapshot.get().passage(&Journey::to(pod(5))).tunnel, None);
}
