//! Identifications (RFC 6864 section 5.3.1).

use std::collections::HashSet;

use conntrack::IpId;

use super::pieces::{Receiver, ip, pieces, with_id};
use super::*;

fn id(frame: &[u8]) -> u16 {
    ip(frame).0.identification
}

fn clear(n: u8, port: u16, received: u16) -> Vec<u8> {
    with_id(&udp((pod(n), port), (SERVER, 53), b"q"), received, false)
}

// Proves: 6864-S4.1b, 6864-S4.1c, 6864-S4.3c
#[test]
fn atomic_datagrams_keep_what_they_came_with() {
    let mut rig = Rig::new(2);
    for received in [0, 0, 1, 0xffff] {
        let request = with_id(&udp((pod(1), 4000), (SERVER, 53), b"q"), received, true);
        let (_, out) = rig.one(INSIDE, &request).unwrap();
        let header = ip(&out).0;
        assert_eq!((header.identification, header.dont_fragment), (received, true));
        let reply = with_id(&udp((SERVER, 53), seen(&out).src, b"a"), received, true);
        let (_, back) = rig.one(OUTSIDE, &reply).unwrap();
        assert_eq!((id(&back), ip(&back).0.dont_fragment), (received, true));
    }
}

// Proves: 6864-S5.3.1, 6864-S4.2, 7857-S10
#[test]
fn outbound_identifications_differ_whoever_sends() {
    for workers in [1, 2, 5] {
        let mut rig = Rig::new(workers);
        let mut seen_ids: HashMap<Ipv4Addr, HashSet<u16>> = HashMap::new();
        for round in 0..40 {
            for n in 1..20 {
                // The same identification from all, and copies of one datagram.
                let (_, out) = rig.one(INSIDE, &clear(n, 4000, 7)).unwrap();
                let header = ip(&out).0;
                assert!(!header.dont_fragment, "DF stays clear");
                let ids = seen_ids.entry(seen(&out).src.0).or_default();
                assert!(ids.insert(header.identification), "pod {n}, round {round}");
            }
        }
        assert_eq!(rig.sum(|c| c.ip_id_reused.get()), 0);
    }
}

// Proves: 6864-S5.3.1
#[test]
fn fragments_of_two_pods_with_one_identification_are_not_mixed() {
    for workers in [1, 2, 5] {
        let mut rig = Rig::new(workers);
        let of = |n: u8| pieces(&udp((pod(n), 5000), (SERVER, 53), &[n; 3000]), 7, 1480);
        let mut sent = Vec::new();
        // One piece of each, then the next: they lie in each other's way at the server.
        for piece in 0..3 {
            for n in 1..10 {
                sent.push(rig.one(INSIDE, &of(n)[piece]).unwrap().1);
            }
        }
        let mut receiver = Receiver::default();
        let packets = receiver.take_all(&sent);
        assert_eq!((packets.len(), receiver.unfinished()), (9, 0));
        let mut whole: Vec<u8> = packets
            .iter()
            .map(|packet| {
                let payload = seen(packet).payload;
                assert!(payload.iter().all(|&byte| byte == payload[0]), "mixed");
                payload[0]
            })
            .collect();
        whole.sort_unstable();
        assert_eq!(whole, (1..10).collect::<Vec<u8>>());
    }
}

// Proves: 6864-S5.3.1
#[test]
fn inbound_identifications_stay_for_a_subscriber_with_one_address() {
    let mut rig = Rig::new(2);
    let (_, out) = rig.one(INSIDE, &clear(1, 4000, 7)).unwrap();
    let public = seen(&out).src;
    let (_, back) =
        rig.one(OUTSIDE, &with_id(&udp((SERVER, 53), public, b"a"), 4711, false)).unwrap();
    assert_eq!(id(&back), 4711);
    for (n, piece) in pieces(&udp((SERVER, 53), public, &[1; 2000]), 4712, 1480).iter().enumerate()
    {
        let (_, back) = rig.one(OUTSIDE, piece).unwrap();
        assert_eq!(id(&back), 4712, "fragment {n}");
    }
}

/// A pod that is seen under two addresses: its public endpoints, one on each.
fn two_addresses(rig: &mut Rig) -> [(Ipv4Addr, u16); 2] {
    let mut found: HashMap<Ipv4Addr, u16> = HashMap::new();
    for port in 4000..4400 {
        let (_, out) = rig.one(INSIDE, &udp((pod(1), port), (SERVER, 53), b"q")).unwrap();
        let (addr, port) = seen(&out).src;
        found.insert(addr, port);
        if let [one, two] = found.iter().map(|(a, p)| (*a, *p)).collect::<Vec<_>>()[..] {
            return [one, two];
        }
    }
    panic!("one address only");
}

// Proves: 6864-S5.3.1
#[test]
fn inbound_identifications_are_fresh_for_a_subscriber_with_two_addresses() {
    for workers in [1, 2, 5] {
        // One address of the pool has room for two blocks, so the third is on the other.
        let mut settings = PoolSettings { ports: 1024..=1151, ..PoolSettings::high_density() };
        settings.quota.blocks = 4;
        let mut rig = Rig::with(workers, settings, Some(Mac(ROUTER_MAC)));
        let both = two_addresses(&mut rig);
        let mut ids = HashSet::new();
        for _ in 0..50 {
            for public in both {
                let reply = with_id(&udp((SERVER, 53), public, b"a"), 7, false);
                assert!(ids.insert(id(&rig.one(OUTSIDE, &reply).unwrap().1)));
            }
        }
        let replies = both.map(|public| {
            pieces(&udp((SERVER, 53), public, &[public.0.octets()[3]; 3000]), 7, 1480)
        });
        let mut sent = Vec::new();
        for piece in [2, 0, 1] {
            for reply in &replies {
                rig.inject(OUTSIDE, &reply[piece]);
                sent.extend(rig.run().into_iter().map(|(_, frame)| frame));
            }
        }
        let mut receiver = Receiver::default();
        let packets = receiver.take_all(&sent);
        assert_eq!((packets.len(), receiver.unfinished()), (2, 0));
        for packet in packets {
            assert!(ids.insert(id(&packet)), "that of an earlier datagram");
            let payload = seen(&packet).payload;
            assert!(payload.iter().all(|&byte| byte == payload[0]), "mixed");
        }
    }
}

// Proves: 6864-S5.2a, 6864-S4.3a
#[test]
fn identifications_that_run_out_are_counted_or_refused() {
    for (rule, passed, reused) in
        [(IpId::BestEffort, 70_000, 70_000 - 65_536), (IpId::Strict, 65_536, 0)]
    {
        let settings = PoolSettings { ip_id: rule, ..PoolSettings::default() };
        let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
        let packet = clear(1, 4000, 0);
        let mut ids = HashSet::new();
        let mut forwarded = 0;
        for n in 0..70_000 {
            if n % 1_000 == 0 {
                rig.advance(Duration::from_secs(1));
            }
            rig.inject(INSIDE, &packet);
            let worker = &mut rig.workers[0];
            worker.turn(rig.now);
            if let Some((_, out)) = worker.io_mut().take_sent() {
                forwarded += 1;
                ids.insert(u16::from_be_bytes([out[18], out[19]]));
            }
        }
        assert_eq!((forwarded, ids.len()), (passed, 65_536), "{rule:?}");
        assert_eq!(rig.sum(|c| c.ip_id_reused.get()), reused);
        assert_eq!(rig.dropped(DropReason::IpIdExhausted), 70_000 - passed);
        rig.advance(Duration::from_secs(122));
        assert!(rig.one(INSIDE, &packet).is_some());
        assert_eq!(rig.sum(|c| c.ip_id_reused.get()), reused, "old ones are free again");
        let atomic = with_id(&packet, 7, true);
        assert!(rig.one(INSIDE, &atomic).is_some(), "atomic datagrams need none");
    }
}

// Proves: 6864-S4.1a
#[test]
fn replayed_identifications_change_nothing() {
    let mut rig = Rig::new(2);
    let frames = pieces(&udp((pod(1), 5000), (SERVER, 53), &[1; 2000]), 7, 1480);
    for _ in 0..5 {
        let sent: Vec<_> = frames.iter().map(|frame| rig.one(INSIDE, frame).unwrap().1).collect();
        assert_eq!(Receiver::default().take_all(&sent).len(), 1);
    }
    rig.advance(Duration::from_millis(200));
    rig.run();
    assert_eq!(rig.sum(|c| c.sessions_created.get()), 1);
}

// Proves: 6864-S5.3.1
#[test]
fn errors_from_pods_have_fresh_identifications_too() {
    let mut rig = Rig::new(2);
    let mut ids = HashSet::new();
    for n in 1..9 {
        let (_, out) = rig.one(INSIDE, &clear(n, 4000, 7)).unwrap();
        let reply = udp((SERVER, 53), seen(&out).src, b"a");
        let (_, back) = rig.one(OUTSIDE, &reply).unwrap();
        let error = super::icmp::icmp((pod(n), SERVER), (3, 3), [0; 4], &back[14..]);
        for _ in 0..2 {
            let (_, error) = rig.one(INSIDE, &with_id(&error, 7, false)).unwrap();
            let header = ip(&error).0;
            assert!(ids.insert((header.source, header.identification)), "pod {n}");
        }
    }
}
