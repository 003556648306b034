//! Datagrams in fragments: both ways, in any order, to nobody else.

use super::pieces::{Receiver, ip, orders, pieces, turning_back, with_id};
use super::*;
use crate::interface::InterfaceId;
use crate::tests::rig::policy;

/// A payload in which no two places look alike.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * 31 + i / 251) as u8).collect()
}

/// Lets frames arrive one after the other; what was sent by `out`.
fn pass(rig: &mut Rig, by: InterfaceId, frames: &[Vec<u8>], out: InterfaceId) -> Vec<Vec<u8>> {
    let mut sent = Vec::new();
    for frame in frames {
        rig.inject(by, frame);
        sent.extend(rig.run());
    }
    assert!(sent.iter().all(|(interface, _)| *interface == out));
    sent.into_iter().map(|(_, frame)| frame).collect()
}

/// The one packet that fragments become on the other side.
fn whole(rig: &mut Rig, by: InterfaceId, frames: &[Vec<u8>]) -> Vec<u8> {
    let out = if by == INSIDE { OUTSIDE } else { INSIDE };
    let sent = pass(rig, by, frames, out);
    assert_eq!(sent.len(), frames.len(), "each fragment leaves once");
    let mut receiver = Receiver::default();
    let mut packets = receiver.take_all(&sent);
    assert_eq!(packets.len(), 1);
    packets.pop().unwrap()
}

fn reordered(frames: &[Vec<u8>], order: &[usize]) -> Vec<Vec<u8>> {
    order.iter().map(|&at| frames[at].clone()).collect()
}

// Proves: 4787-REQ-14
// Museum: C29
#[test]
fn udp_in_three_fragments_passes_both_ways_in_all_orders() {
    let data = pattern(3000);
    for workers in [1, 2, 5] {
        let mut rig = Rig::new(workers);
        for (n, order) in orders(3).into_iter().enumerate() {
            let (n, id) = (n as u8 + 1, 7);
            let request = udp((pod(n), 5000), (SERVER, 53), &data);
            let sent = whole(&mut rig, INSIDE, &reordered(&pieces(&request, id, 1480), &order));
            let out = seen(&sent);
            assert_eq!((out.dst, out.ttl, &out.payload), ((SERVER, 53), 63, &data), "{order:?}");
            assert_eq!(out.src.0.octets()[..3], [203, 0, 113]);
            let reply = udp((SERVER, 53), out.src, &data);
            let back = whole(&mut rig, OUTSIDE, &reordered(&pieces(&reply, id, 1480), &order));
            let back = seen(&back);
            assert_eq!((back.src, back.dst), ((SERVER, 53), (pod(n), 5000)));
            assert_eq!((back.ttl, &back.payload), (63, &data), "{order:?}");
        }
        rig.advance(Duration::from_secs(3));
        rig.run();
        let drops: u64 = DropReason::ALL.iter().map(|&reason| rig.dropped(reason)).sum();
        assert_eq!(drops, 0);
        assert_eq!(rig.sum(|c| c.fragmented_datagrams.get()), 0, "complete, and forgotten");
    }
}

// Proves: 5508-REQ-1
// Museum: C28
#[test]
fn a_ping_of_four_kilobytes_passes_both_ways() {
    let data = pattern(4096);
    for workers in [1, 2] {
        for order in orders(3) {
            let mut rig = Rig::new(workers);
            let frames = pieces(&ping(pod(1), SERVER, 77, &data), 9, 1480);
            let sent = whole(&mut rig, INSIDE, &reordered(&frames, &order));
            let out = seen(&sent);
            assert_eq!((out.dst.0, &out.payload), (SERVER, &data));
            let frames = pieces(&pong(SERVER, out.src.0, out.src.1, &data), 9, 1480);
            let back = seen(&whole(&mut rig, OUTSIDE, &reordered(&frames, &order)));
            assert_eq!((back.src.0, back.dst, &back.payload), (SERVER, (pod(1), 77), &data));
        }
    }
}

// Proves: 4787-REQ-14
#[test]
fn a_tcp_syn_in_fragments_opens_a_connection() {
    let data = pattern(2000);
    let mut rig = Rig::new(2);
    for order in orders(2) {
        let syn = tcp((pod(3), 5000 + order[0] as u16), (SERVER, 80), "S", &data);
        let sent = whole(&mut rig, INSIDE, &reordered(&pieces(&syn, 1, 1480), &order));
        let out = seen(&sent);
        assert_eq!((out.dst, &out.payload), ((SERVER, 80), &data));
        let answer = pieces(&tcp((SERVER, 80), out.src, "SA", &data), 1, 1480);
        let back = whole(&mut rig, OUTSIDE, &reordered(&answer, &order));
        assert_eq!(seen(&back).dst, (pod(3), 5000 + order[0] as u16));
    }
}

// Proves: 4787-REQ-14
#[test]
fn copies_of_fragments_pass_and_change_nothing() {
    let data = pattern(4000);
    let mut rig = Rig::new(2);
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &data), 7, 1480);
    for (n, order) in [[0, 0, 1, 1, 2], [1, 1, 0, 0, 2], [2, 1, 2, 1, 0]].iter().enumerate() {
        let sent = pass(&mut rig, INSIDE, &reordered(&frames, order), OUTSIDE);
        assert_eq!(sent.len(), 5);
        let packets = Receiver::default().take_all(&sent);
        assert_eq!(packets.len(), 1, "order {n}");
        assert_eq!(seen(&packets[0]).payload, data);
    }
}

#[test]
fn only_addresses_change_in_later_fragments() {
    let mut rig = Rig::new(2);
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &pattern(4000)), 7, 1480);
    let sent = pass(&mut rig, INSIDE, &frames, OUTSIDE);
    for (before, after) in frames.iter().zip(&sent).skip(1) {
        let ((old, old_payload), (new, new_payload)) = (ip(before), ip(after));
        assert_eq!(old_payload, new_payload, "no byte behind the IP header");
        let mut expected = old.clone();
        expected.time_to_live -= 1;
        expected.source = new.source;
        expected.identification = new.identification;
        expected.header_checksum = expected.calc_header_checksum();
        assert_eq!(expected, new);
    }
}

// Proves: 4787-REQ-9, 5508-S7.1.1c
#[test]
fn fragments_turn_back_to_another_pod() {
    let data = pattern(3000);
    for workers in [1, 2, 5] {
        let (mut rig, [from, caller, called]) = turning_back(workers);
        for order in orders(3) {
            let request = udp(from, called, &data);
            let frames = reordered(&pieces(&request, 7, 1480), &order);
            let sent = pass(&mut rig, INSIDE, &frames, INSIDE);
            let packets = Receiver::default().take_all(&sent);
            assert_eq!(packets.len(), 1, "{order:?}");
            let view = seen(&packets[0]);
            assert_eq!((view.src, view.dst), (caller, (pod(2), 6000)));
            assert_eq!((view.ttl, &view.payload), (63, &data));
        }
    }
}

#[test]
fn exempt_fragments_pass_alone_in_any_order() {
    let mut rig = Rig::new(2);
    let data = pattern(4000);
    let out = pieces(&udp((pod(1), 5000), (EXEMPT_SERVER, 53), &data), 7, 1480);
    for frame in [&out[2], &out[0], &out[1]] {
        let (interface, sent) = rig.one(INSIDE, frame).expect("at once, without its first one");
        assert_eq!((interface, ip(&sent).1), (OUTSIDE, ip(frame).1));
        assert_eq!(ip(&sent).0.identification, 7, "not ours to change");
    }
    let back = pieces(&udp((EXEMPT_SERVER, 53), (pod(1), 5000), &data), 7, 1480);
    assert!(rig.one(OUTSIDE, &back[1]).is_some());
    assert_eq!(rig.sum(|c| c.sessions_created.get() + c.fragmented_datagrams.get()), 0);
}

/// Wherever they arrive.
#[test]
fn fragments_of_a_session_that_is_older_than_its_exemption_are_translated() {
    let mut rig = Rig::new(3);
    let publish = |rig: &Rig, exempt: bool| {
        let mut policy = policy(PoolSettings::default());
        let rules = policy.rules.rules().iter();
        let rules = rules.filter(|it| exempt || it.action != crate::rule::Action::Exempt);
        policy.rules = crate::rule::RuleSet::new(rules.cloned().collect());
        let snapshot = Snapshot::clone(&rig.snapshot.get());
        rig.snapshot.publish(Snapshot { policy: Arc::new(policy), ..snapshot });
    };
    publish(&rig, false);
    let ends = ((pod(1), 5000), (EXEMPT_SERVER, 53));
    let first = rig.one(INSIDE, &udp(ends.0, ends.1, b"question")).unwrap().1;
    publish(&rig, true);
    for id in 1..10 {
        let sent = whole(&mut rig, INSIDE, &pieces(&udp(ends.0, ends.1, &pattern(4000)), id, 1480));
        assert_eq!(seen(&sent).src, seen(&first).src);
    }
}

#[test]
fn a_rule_for_some_ports_waits_for_the_first_fragment() {
    use crate::rule::{Action, Rule, RuleSet, Service};
    let mut rig = Rig::new(1);
    let rule = |name: &str, priority, services, action| Rule {
        name: name.into(),
        priority,
        from: vec!["10.244.0.0/16".parse().unwrap()],
        to: vec!["0.0.0.0/0".parse().unwrap()],
        except: vec![],
        services,
        action,
    };
    let dns = Service { protocol: Protocol::Udp, ports: 53..=53 };
    let mut snapshot = Snapshot::clone(&rig.snapshot.get());
    snapshot.policy = Arc::new(crate::snapshot::Policy {
        rules: RuleSet::new(vec![
            rule("dns", 1, vec![dns], Action::Exempt),
            rule("rest", 2, vec![], Action::Pool(conntrack::PoolId(0))),
        ]),
        ..policy(PoolSettings::default())
    });
    rig.snapshot.publish(snapshot);
    for (port, translated) in [(53, false), (54, true)] {
        let frames = pieces(&udp((pod(1), 5000), (SERVER, port), &pattern(2000)), port, 1480);
        let sent = pass(&mut rig, INSIDE, &reordered(&frames, &[1, 0]), OUTSIDE);
        assert_eq!(sent.len(), 2, "port {port}");
        for frame in sent {
            assert_eq!(ip(&frame).0.source != pod(1).octets(), translated, "port {port}");
        }
    }
}

#[test]
fn an_early_fragment_waits_two_seconds() {
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &pattern(2000)), 7, 1480);
    for (wait, arrives) in [(1_999, true), (2_000, false)] {
        let mut rig = Rig::new(2);
        assert_eq!(rig.one(INSIDE, &frames[1]), None);
        assert_eq!(rig.sum(|c| c.held.get()), 1);
        rig.advance(Duration::from_millis(wait));
        let sent = pass(&mut rig, INSIDE, &frames[..1], OUTSIDE);
        assert_eq!(sent.len(), if arrives { 2 } else { 1 }, "after {wait} ms");
        assert_eq!(rig.dropped(DropReason::FragmentTimeout), u64::from(!arrives));
        assert_eq!(rig.sum(|c| c.held.get()), 0);
    }
}

/// One takes the room of another that is complete, and not its age.
#[test]
fn a_datagram_lives_as_long_as_others_wherever_it_is_kept() {
    let mut rig = Rig::new(1);
    let datagram = |id| pieces(&udp((pod(1), 5000), (SERVER, 53), &pattern(2000)), id, 1480);
    whole(&mut rig, INSIDE, &datagram(1));
    rig.advance(Duration::from_millis(1_500));
    let parts = datagram(2);
    assert_eq!(pass(&mut rig, INSIDE, &parts[..1], OUTSIDE).len(), 1);
    // What was complete would be too old by now.
    rig.advance(Duration::from_secs(1));
    rig.run();
    assert_eq!(pass(&mut rig, INSIDE, &parts[1..], OUTSIDE).len(), parts.len() - 1);
    assert_eq!(rig.dropped(DropReason::FragmentTimeout), 0);
}

#[test]
fn the_lifetime_follows_the_setting() {
    let mut settings = PoolSettings::default();
    settings.timers.fragment = Duration::from_secs(5);
    let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &pattern(2000)), 7, 1480);
    assert_eq!(rig.one(INSIDE, &frames[1]), None);
    rig.advance(Duration::from_millis(4_999));
    assert_eq!(pass(&mut rig, INSIDE, &frames[..1], OUTSIDE).len(), 2);
}

#[test]
fn fragments_that_hide_the_transport_header_are_dropped() {
    let tiny = |packet: Vec<u8>, size: usize| {
        let mut rig = Rig::new(1);
        let frames = pieces(&packet, 7, size);
        pass(&mut rig, INSIDE, &frames[..1], OUTSIDE);
        (rig.dropped(DropReason::FragmentTiny), rig.sum(|c| c.forwarded.get()))
    };
    assert_eq!(tiny(tcp((pod(1), 1), (SERVER, 80), "S", b"data"), 8), (1, 0), "RFC 1858");
    assert_eq!(tiny(tcp((pod(1), 1), (SERVER, 80), "S", b"data"), 16), (1, 0));
    assert_eq!(tiny(tcp((pod(1), 1), (SERVER, 80), "S", b"data"), 24), (0, 1), "the whole of it");
    assert_eq!(tiny(udp((pod(1), 1), (SERVER, 80), b"data"), 8), (0, 1));
    assert_eq!(tiny(ping(pod(1), SERVER, 80, b"data"), 8), (0, 1));
    // A fragment with the offset 8 would write over the flags (RFC 3128).
    let mut rig = Rig::new(1);
    let frames = pieces(&tcp((pod(1), 1), (SERVER, 80), "S", b"data"), 7, 8);
    assert_eq!(rig.one(INSIDE, &frames[1]), None);
    assert_eq!(rig.dropped(DropReason::FragmentTiny), 1);
}

#[test]
fn fragments_that_no_sender_makes_are_malformed() {
    let mut rig = Rig::new(1);
    let mut odd = pieces(&udp((pod(1), 1), (SERVER, 80), &pattern(100)), 7, 48);
    // MF set and a length that is no multiple of eight.
    let last = odd.pop().unwrap();
    let (mut header, payload) = ip(&last);
    header.more_fragments = true;
    header.header_checksum = header.calc_header_checksum();
    let mut frame = last[..14].to_vec();
    header.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    assert_eq!(rig.one(INSIDE, &frame), None);
    // Beyond 65,535 bytes: the ping of death.
    header.more_fragments = false;
    header.fragment_offset = etherparse::IpFragOffset::try_new(0x1fff).unwrap();
    header.header_checksum = header.calc_header_checksum();
    let mut frame = last[..14].to_vec();
    header.write(&mut frame).unwrap();
    frame.extend_from_slice(payload);
    assert_eq!(rig.one(INSIDE, &frame), None);
    assert_eq!(rig.dropped(DropReason::Malformed), 2);
}

#[test]
fn a_later_fragment_opens_nothing_and_follows_its_first_ones_fate() {
    let mut rig = Rig::new(2);
    let frames = pieces(&udp((pod(1), 0), (SERVER, 53), &pattern(2000)), 7, 1480);
    for frame in &frames {
        assert_eq!(rig.one(INSIDE, frame), None, "port 0");
    }
    rig.advance(Duration::from_secs(2));
    rig.run();
    rig.advance(Duration::from_secs(1));
    rig.run();
    assert_eq!(
        (rig.dropped(DropReason::PortZero), rig.dropped(DropReason::FragmentTimeout)),
        (1, 1)
    );
    let frames = pieces(&tcp((pod(1), 1), (SERVER, 80), "A", &pattern(2000)), 8, 1480);
    for frame in &frames {
        assert_eq!(rig.one(INSIDE, frame), None, "no session");
    }
    assert_eq!((rig.dropped(DropReason::TcpNotSyn), rig.dropped(DropReason::Fragment)), (1, 1));
    assert_eq!(rig.sum(|c| c.sessions_created.get()), 0);
}

#[test]
fn a_repeated_identification_sends_no_pods_data_to_another() {
    for workers in [1, 2, 5] {
        let mut rig = Rig::new(workers);
        let public = |rig: &mut Rig, n: u8| {
            let request = udp((pod(n), 6000), (SERVER, 5300), b"q");
            seen(&rig.one(INSIDE, &request).unwrap().1).src
        };
        // Two pods behind one address.
        let mut by_address: HashMap<Ipv4Addr, (u8, u16)> = HashMap::new();
        let (addr, one, two) = (1..20)
            .find_map(|n| {
                let (addr, port) = public(&mut rig, n);
                by_address.insert(addr, (n, port)).map(|before| (addr, before, (n, port)))
            })
            .expect("two pods share an address");
        let reply = |(_, port): (u8, u16), fill: u8| {
            pieces(&udp((SERVER, 5300), (addr, port), &[fill; 2000]), 99, 1480)
        };
        // One after the other: the end of the first datagram frees the identification.
        for (pod_port, fill) in [(one, 1), (two, 2), (one, 3)] {
            let view = seen(&whole(&mut rig, OUTSIDE, &reply(pod_port, fill)));
            assert_eq!((view.dst, view.payload), ((pod(pod_port.0), 6000), vec![fill; 2000]));
        }
        // Both at once: nobody can say whose the second fragment is, so it reaches no one.
        assert_eq!(pass(&mut rig, OUTSIDE, &reply(one, 4)[..1], INSIDE).len(), 1);
        assert_eq!(pass(&mut rig, OUTSIDE, &reply(two, 5), INSIDE).len(), 0);
        assert_eq!(rig.dropped(DropReason::FragmentOverlap), 2);
        rig.advance(Duration::from_secs(2));
        assert_eq!(seen(&whole(&mut rig, OUTSIDE, &reply(two, 6))).payload, vec![6; 2000]);
    }
}

#[test]
fn conflicting_overlaps_are_dropped() {
    let mut rig = Rig::new(2);
    let packet = udp((pod(1), 5000), (SERVER, 53), &pattern(4000));
    let (large, small) = (pieces(&packet, 7, 1480), pieces(&packet, 7, 496));
    let sent = pass(&mut rig, INSIDE, &[&large[..2], &small[1..4], &large[2..]].concat(), OUTSIDE);
    assert_eq!((sent.len(), rig.dropped(DropReason::FragmentOverlap)), (3, 3));
    assert_eq!(seen(&Receiver::default().take_all(&sent)[0]).payload, pattern(4000));
}

#[test]
fn a_datagram_of_64_kilobytes_passes_backwards() {
    let mut rig = Rig::new(2);
    let data = pattern(65_000);
    let mut frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &data), 7, 1480);
    frames.reverse();
    let packet = whole(&mut rig, INSIDE, &frames);
    assert_eq!(seen(&packet).payload, data);
}

#[test]
fn whole_packets_with_the_same_identification_do_not_matter() {
    let mut rig = Rig::new(1);
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &pattern(2000)), 7, 1480);
    let other = with_id(&udp((pod(1), 5000), (SERVER, 53), b"whole"), 7, true);
    let sent = pass(&mut rig, INSIDE, &[frames[0].clone(), other, frames[1].clone()], OUTSIDE);
    assert_eq!(seen(&sent[1]).payload, b"whole");
    let (first, last) = (ip(&sent[0]).0, ip(&sent[2]).0);
    assert_eq!(first.identification, last.identification);
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

    // Proves: 4787-REQ-14, 6864-S5.3.1
    // Museum: C29
    #[test]
    fn many_datagrams_in_any_mixture_arrive_whole_and_apart(
        workers in 1u16..5,
        seed in proptest::prelude::any::<u64>(),
        sizes in proptest::collection::vec((200usize..3000, 8usize..60), 2..8),
    ) {
        let mut rig = Rig::new(workers);
        // Each pod sends one datagram, all with one identification, each in pieces of its own size.
        let mut arriving = Vec::new();
        for (n, &(len, size)) in sizes.iter().enumerate() {
            let n = n as u8 + 1;
            let packet = udp((pod(n), 5000), (SERVER, 80), &vec![n; len]);
            let frames = pieces(&packet, 7, (size * 8).max(len / 40 / 8 * 8));
            arriving.extend(frames);
        }
        let copies = arriving.len() / 3;
        arriving.extend_from_within(..copies);
        let mut state = seed;
        for at in (1..arriving.len()).rev() {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            arriving.swap(at, (state >> 33) as usize % (at + 1));
        }
        let sent = pass(&mut rig, INSIDE, &arriving, OUTSIDE);
        let packets = Receiver::default().take_all(&sent);
        let mut whole: Vec<(u8, usize)> = Vec::new();
        for packet in &packets {
            let payload = seen(packet).payload;
            proptest::prop_assert!(payload.iter().all(|&byte| byte == payload[0]), "mixed");
            whole.push((payload[0], payload.len()));
        }
        whole.sort_unstable();
        whole.dedup();
        let expected: Vec<_> =
            sizes.iter().enumerate().map(|(n, &(len, _))| (n as u8 + 1, len)).collect();
        proptest::prop_assert_eq!(whole, expected);
    }
}
