//! Port forwards and 1:1 addresses, seen from outside, and by their own pods.

use conntrack::Quota;

use super::fixed_rig::{HOSTS, OWN, RANGE, SECURE, WEB, every_rig, pass, plain, sessions};
use super::icmp::{ROUTER, forwarded, icmp};
use super::pieces::{Receiver, pieces};
use super::*;

fn stranger(n: u16) -> (Ipv4Addr, u16) {
    (Ipv4Addr::from(u32::from(SERVER) & !0xff | u32::from(n / 200)), 1024 + n)
}

// Proves: 6888-REQ-8b
#[test]
fn anybody_connects_to_forwarded_ports_at_once() {
    // Nothing has been sent before: neither state nor time is needed.
    for mut rig in every_rig() {
        for n in 0..8 {
            for (public, server) in [(WEB, (pod(2), 80)), (SECURE, (pod(3), 8443))] {
                let client = stranger(n);
                for (flags, payload) in [("S", &b""[..]), ("A", b""), ("A", b"data"), ("FA", b"")] {
                    let there =
                        pass(&mut rig, OUTSIDE, &tcp(client, public, flags, payload), INSIDE);
                    assert_eq!((there.src, there.dst), (client, server), "the source stays");
                    let flags = if flags == "S" { "SA" } else { flags };
                    let answer = tcp(server, client, flags, payload);
                    let back = pass(&mut rig, INSIDE, &answer, OUTSIDE);
                    assert_eq!((back.src, back.dst), (public, client));
                }
            }
            for offset in 0..=10 {
                let (client, public) = (stranger(n), (RANGE.0, RANGE.1 + offset));
                let server = (pod(2), 7000 + offset);
                let there = pass(&mut rig, OUTSIDE, &udp(client, public, b"query"), INSIDE);
                assert_eq!((there.src, there.dst), (client, server));
                let back = pass(&mut rig, INSIDE, &udp(server, client, b"answer"), OUTSIDE);
                assert_eq!((back.src, back.dst), (public, client));
            }
        }
    }
}

#[test]
fn nothing_but_the_forwarded_ports_is_open() {
    for mut rig in every_rig() {
        let closed: [Vec<u8>; 8] = [
            udp(stranger(1), WEB, b"not this protocol"),
            tcp(stranger(1), RANGE, "S", b""),
            udp(stranger(1), (RANGE.0, RANGE.1 - 1), b""),
            udp(stranger(1), (RANGE.0, RANGE.1 + 11), b""),
            tcp(stranger(1), (PUBLIC, 80), "S", b""),
            tcp(stranger(1), (Ipv4Addr::new(203, 0, 113, 11), WEB.1), "S", b""),
            tcp(stranger(1), WEB, "A", b"no connection"),
            tcp(stranger(1), WEB, "SA", b""),
        ];
        for packet in &closed {
            assert_eq!(rig.one(OUTSIDE, packet), None);
        }
        assert_eq!(rig.dropped(DropReason::NoSession), closed.len() as u64);
        assert_eq!(sessions(&rig), 0);
    }
}

// Museum: C34
#[test]
fn a_source_inside_from_does_not_come_from_outside() {
    for mut rig in every_rig() {
        let forged = [
            udp((pod(1), 5000), RANGE, b""),
            tcp((pod(2), 5000), WEB, "S", b""),
            udp((HOSTS[1], 5000), (OWN[0], 53), b""),
            udp((PUBLIC, 5000), RANGE, b""),
            udp((OWN[0], 5000), (OWN[1], 53), b""),
            ping(pod(1), OWN[0], 1, b""),
        ];
        for packet in &forged {
            assert_eq!(rig.one(OUTSIDE, packet), None);
        }
        assert_eq!(rig.dropped(DropReason::Spoofed), forged.len() as u64);
        assert_eq!(sessions(&rig), 0);
    }
}

// Proves: 4787-REQ-1, 4787-REQ-2, 6888-S3a
#[test]
fn a_forwarded_pod_is_seen_under_one_address_and_its_forwarded_endpoints() {
    for mut rig in every_rig() {
        // Before and after somebody has called it.
        for called in [false, true] {
            if called {
                pass(&mut rig, OUTSIDE, &udp(stranger(1), RANGE, b"query"), INSIDE);
            }
            for remote in [(SERVER, 443), (ROUTER, 123)] {
                for offset in 0..=10 {
                    let own = udp((pod(2), 7000 + offset), remote, b"from the forwarded port");
                    let seen = pass(&mut rig, INSIDE, &own, OUTSIDE);
                    assert_eq!(seen.src, (RANGE.0, RANGE.1 + offset));
                }
                for port in [80, 6999, 7011, 40_000] {
                    let other = udp((pod(2), port), remote, b"from another one");
                    let seen = pass(&mut rig, INSIDE, &other, OUTSIDE);
                    assert_eq!(seen.src.0, PUBLIC, "the same address");
                    assert!(!(RANGE.1..=RANGE.1 + 10).contains(&seen.src.1));
                }
                let seen = pass(&mut rig, INSIDE, &ping(pod(2), remote.0, 9, b""), OUTSIDE);
                assert_eq!(seen.src.0, PUBLIC);
            }
        }
    }
}

// Proves: 4787-REQ-2
#[test]
fn the_first_flow_of_a_forwarded_pod_chooses_no_other_address() {
    for settings in [PoolSettings::high_density(), PoolSettings::rfc4787()] {
        let mut others = std::collections::HashSet::new();
        for port in 40_000..40_024 {
            let mut rig = plain(2, settings.clone());
            let first = udp((pod(2), port), (SERVER, 443), b"");
            assert_eq!(pass(&mut rig, INSIDE, &first, OUTSIDE).src.0, PUBLIC);
            // Pods of both workers: each prefers other addresses.
            for n in [1, 4, 5, 6, 7] {
                let other = udp((pod(n), port), (SERVER, 443), b"");
                others.insert(pass(&mut rig, INSIDE, &other, OUTSIDE).src.0);
            }
        }
        assert_eq!(others.len(), 2, "who has no forward may get either address");
    }
}

// Museum: C34, C35
#[test]
fn no_pod_gets_a_forwarded_port() {
    let one_block = |settings: PoolSettings| PoolSettings {
        ports: 5888..=6399,
        block_size: 64,
        scatter: None,
        low_ports: None,
        quota: Quota { blocks: 8, ..settings.quota },
        ..settings
    };
    for settings in [PoolSettings::high_density(), PoolSettings::rfc4787()] {
        let mut rig = plain(2, one_block(settings));
        let mut taken = std::collections::HashSet::new();
        for n in 20..28 {
            for port in 0..256 {
                // A pod that asks for the port by sending from it gets none either.
                let packet = udp((pod(n), 5900 + port), (SERVER, 443), b"");
                if let Some((OUTSIDE, out)) = rig.one(INSIDE, &packet) {
                    taken.insert(seen(&out).src);
                }
            }
        }
        let free = 2 * 512 - 11;
        assert!(taken.len() > free * 9 / 10, "nearly all were used: {}", taken.len());
        let shadowed = |&(addr, port): &(Ipv4Addr, u16)| {
            addr == PUBLIC && (RANGE.1..=RANGE.1 + 10).contains(&port)
        };
        assert_eq!(taken.iter().find(|at| shadowed(at)), None);
        pass(&mut rig, OUTSIDE, &udp(stranger(3), RANGE, b"still the pod's"), INSIDE);
    }
}

#[test]
fn a_flood_to_a_forwarded_port_is_bounded_and_the_rest_goes_on() {
    let quota = Quota { sessions: 300, half_open: 50, ..PoolSettings::default().quota };
    for workers in [1, 3] {
        let settings = PoolSettings { quota: quota.clone(), ..PoolSettings::default() };
        let mut rig = plain(workers, settings);
        let own = tcp((pod(2), 40_000), (SERVER, 443), "S", b"");
        pass(&mut rig, INSIDE, &own, OUTSIDE);
        for n in 0..200 {
            rig.one(OUTSIDE, &tcp(stranger(n), WEB, "S", b""));
        }
        assert_eq!(rig.dropped(DropReason::QuotaHalfOpen), 150, "strangers' half-open ones");
        let own = tcp((pod(2), 40_001), (SERVER, 443), "S", b"");
        pass(&mut rig, INSIDE, &own, OUTSIDE);
        for n in 0..400 {
            rig.one(OUTSIDE, &udp(stranger(n), RANGE, b""));
        }
        // Strangers whom it does not answer leave the pod half of its sessions.
        assert_eq!(rig.dropped(DropReason::QuotaSessions), 400 - (150 - 50));
        assert_eq!(sessions(&rig), 152);
        pass(&mut rig, INSIDE, &udp((pod(2), 5000), (SERVER, 443), b""), OUTSIDE);
        // Old flows of this pod, and all flows of others.
        pass(&mut rig, INSIDE, &tcp((pod(2), 40_000), (SERVER, 443), "S", b""), OUTSIDE);
        pass(&mut rig, OUTSIDE, &tcp(stranger(1), SECURE, "S", b""), INSIDE);
        pass(&mut rig, INSIDE, &udp((pod(1), 5000), (SERVER, 443), b""), OUTSIDE);
    }
}

// Proves: 7857-S12a, 5508-REQ-1, 4787-REQ-3a
#[test]
fn a_host_with_an_address_of_its_own_is_open_and_keeps_every_port() {
    for mut rig in every_rig() {
        for (host, public) in HOSTS.into_iter().zip(OWN) {
            for port in [1, 53, 80, 511, 1023, 1024, 8080, 65_535] {
                let asked =
                    pass(&mut rig, OUTSIDE, &udp(stranger(7), (public, port), b"q"), INSIDE);
                assert_eq!((asked.src, asked.dst), (stranger(7), (host, port)));
                let back = pass(&mut rig, INSIDE, &udp((host, port), stranger(7), b"a"), OUTSIDE);
                assert_eq!((back.src, back.dst), ((public, port), stranger(7)));
                let syn = tcp(stranger(8), (public, port), "S", b"");
                assert_eq!(pass(&mut rig, OUTSIDE, &syn, INSIDE).dst, (host, port));
                let own = pass(&mut rig, INSIDE, &udp((host, port), (SERVER, 443), b"q"), OUTSIDE);
                assert_eq!(own.src, (public, port));
            }
            let asked = pass(&mut rig, OUTSIDE, &ping(SERVER, public, 77, b"there?"), INSIDE);
            assert_eq!((asked.src, asked.dst.0), ((SERVER, 77), host));
            let back = pass(&mut rig, INSIDE, &pong(host, SERVER, 77, b"yes"), OUTSIDE);
            assert_eq!((back.src.0, back.dst), (public, (SERVER, 77)));
            let own = pass(&mut rig, INSIDE, &ping(host, SERVER, 99, b"you?"), OUTSIDE);
            assert_eq!(own.src, (public, 99), "and its identifier");
            let back = pass(&mut rig, OUTSIDE, &pong(SERVER, public, 99, b"yes"), INSIDE);
            assert_eq!(back.dst, (host, 99));
        }
    }
}

// Proves: 5508-REQ-4a, 5508-REQ-5a
#[test]
fn errors_about_flows_that_strangers_opened_pass_both_ways() {
    for mut rig in every_rig() {
        for (public, server) in [(RANGE, (pod(2), 7000)), ((OWN[0], 7), (HOSTS[0], 7))] {
            let query = udp((SERVER, 5000), public, b"query");
            let (_, got) = rig.one(OUTSIDE, &query).unwrap();
            let error = icmp((server.0, SERVER), (3, 3), [0; 4], &got[14..]);
            let (interface, out) = rig.one(INSIDE, &error).expect("to the stranger");
            let want = icmp((public.0, SERVER), (3, 3), [0; 4], &forwarded(&query));
            assert_eq!((interface, &out[14..]), (OUTSIDE, &forwarded(&want)[..]));

            let answer = udp(server, (SERVER, 5000), b"answer");
            let (_, left) = rig.one(INSIDE, &answer).unwrap();
            let error = icmp((ROUTER, public.0), (3, 1), [0; 4], &left[14..]);
            let (interface, out) = rig.one(OUTSIDE, &error).expect("to the pod");
            let want = icmp((ROUTER, server.0), (3, 1), [0; 4], &forwarded(&answer));
            assert_eq!((interface, &out[14..]), (INSIDE, &forwarded(&want)[..]));
        }
    }
}

// Proves: 4787-REQ-14
#[test]
fn fragments_come_in_by_forwards_and_by_own_addresses() {
    for mut rig in every_rig() {
        let data: Vec<u8> = (0..3000).map(|i| (i * 7 + i / 251) as u8).collect();
        for (public, server) in [(RANGE, (pod(2), 7000)), ((OWN[1], 9), (HOSTS[1], 9))] {
            for backwards in [false, true] {
                let mut frames = pieces(&udp((SERVER, 5000), public, &data), 7, 1480);
                if backwards {
                    frames.reverse();
                }
                let mut sent = Vec::new();
                for frame in &frames {
                    rig.inject(OUTSIDE, frame);
                    sent.extend(rig.run().into_iter().map(|(_, frame)| frame));
                }
                let whole = Receiver::default().take_all(&sent);
                assert_eq!((whole.len(), sent.len()), (1, frames.len()));
                let got = seen(&whole[0]);
                assert_eq!((got.src, got.dst, &got.payload), ((SERVER, 5000), server, &data));
            }
        }
    }
}

// Museum: C39
#[test]
fn a_scan_of_a_whole_address_makes_no_state_and_no_answer() {
    for mut rig in every_rig() {
        rig.one(INSIDE, &udp((pod(1), 5000), (SERVER, 443), b"q")).unwrap();
        let before = sessions(&rig);
        let memory = |rig: &Rig| -> Vec<(u64, u64)> {
            let stats = rig.workers.iter().map(|worker| worker.nat.stats());
            stats.map(|stats| (stats.subscribers, stats.table_bytes)).collect()
        };
        let occupied = memory(&rig);
        let address = Ipv4Addr::new(203, 0, 113, 11);
        let mut answers = 0;
        let mut packets = 0;
        for port in (1..=65_535).step_by(13) {
            let probe = match packets % 3 {
                0 => tcp(stranger(packets % 997), (address, port), "S", b""),
                1 => tcp(stranger(packets % 997), (address, port), "A", b""),
                _ => udp(stranger(packets % 997), (address, port), b"?"),
            };
            rig.inject(OUTSIDE, &probe);
            packets += 1;
            if packets % 32 == 0 {
                answers += rig.run().len();
            }
        }
        answers += rig.run().len();
        assert_eq!((answers, sessions(&rig)), (0, before));
        assert_eq!(memory(&rig), occupied);
        let held: usize = rig.workers.iter().map(|worker| worker.unsolicited.len()).sum();
        assert!(held <= 1_024 * rig.workers.len(), "SYNs that wait are bounded");
        let dropped = rig.dropped(DropReason::NoSession) + rig.dropped(DropReason::Filtered);
        assert_eq!(dropped, u64::from(packets));
    }
}
