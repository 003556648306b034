//! From a pod to a pod by public endpoints: every packet turns back, twice translated.

use super::fixed_rig::{
    CLIENTS, HOSTS, OWN, RANGE, SECURE, WEB, every_rig, fixed_rig, neighbours, plain, sessions,
    turns,
};
use super::icmp::{GATE, change, forwarded, icmp, seal};
use super::*;
use crate::rule::{Action, Rule, RuleSet};
use crate::snapshot::{Answers, Policy, Refused};

fn is_public(addr: Ipv4Addr) -> bool {
    addr.octets()[..3] == [203, 0, 113]
}

// Proves: 4787-REQ-9, 4787-REQ-9a, 5382-REQ-8, 5382-REQ-8a
// Museum: C15
#[test]
fn a_connection_to_a_forwarded_port_lives_from_syn_to_fin() {
    let mut together = [0, 0];
    for mut rig in every_rig() {
        for n in CLIENTS {
            for (public, server) in [(WEB, (pod(2), 80)), (SECURE, (pod(3), 8443))] {
                together[usize::from(neighbours(&rig, pod(n), server.0))] += 1;
                let client = (pod(n), 5000);
                let syn = turns(&mut rig, &tcp(client, public, "S", b""));
                assert_eq!(syn.dst, server);
                assert!(is_public(syn.src.0), "the sender's own address shows");
                let view = turns(&mut rig, &tcp(server, syn.src, "SA", b""));
                assert_eq!((view.src, view.dst), (public, client));
                for (flags, payload) in [("A", &b""[..]), ("A", b"request"), ("FA", b"")] {
                    let there = turns(&mut rig, &tcp(client, public, flags, payload));
                    assert_eq!((there.src, there.dst), (syn.src, server));
                    let back = turns(&mut rig, &tcp(server, syn.src, flags, payload));
                    assert_eq!((back.src, back.dst), (public, client));
                }
            }
        }
        assert_eq!(sessions(&rig), 4 * CLIENTS.len() as u64, "two for each connection");
    }
    assert!(together[0] > 0 && together[1] > 0, "pods on one worker, and on two");
}

// Proves: 4787-REQ-9, 4787-REQ-9a
#[test]
fn datagrams_to_every_port_of_a_forwarded_range_turn_back() {
    for mut rig in every_rig() {
        for (n, offset) in CLIENTS.into_iter().cycle().zip(0..=10) {
            let (client, public) = ((pod(n), 5000 + offset), (RANGE.0, RANGE.1 + offset));
            let server = (pod(2), 7000 + offset);
            let query = turns(&mut rig, &udp(client, public, b"query"));
            assert_eq!(query.dst, server);
            assert!(is_public(query.src.0));
            let reply = turns(&mut rig, &udp(server, query.src, b"an answer"));
            assert_eq!((reply.src, reply.dst), (public, client));
        }
        for port in [RANGE.1 - 1, RANGE.1 + 11] {
            let beside = udp((pod(1), 5000), (RANGE.0, port), b"");
            assert_eq!(rig.one(INSIDE, &beside), None, "beside the range");
        }
    }
}

// Proves: 5508-REQ-7.1, 7857-S12a
#[test]
fn pods_ping_and_address_hosts_with_addresses_of_their_own() {
    for mut rig in every_rig() {
        let callers = CLIENTS.map(pod).into_iter().chain([HOSTS[1]]);
        for (id, client) in (1..).zip(callers) {
            let asked = turns(&mut rig, &ping(client, OWN[0], id, b"anyone?"));
            assert_eq!(asked.dst.0, HOSTS[0]);
            assert!(is_public(asked.src.0));
            let answer = pong(HOSTS[0], asked.src.0, asked.src.1, b"me");
            let reply = turns(&mut rig, &answer);
            assert_eq!((reply.src.0, reply.dst), (OWN[0], (client, id)));
            // Any port, also a low one.
            for port in [1, 22, 53, 1023, 1024, 65_535] {
                for make in [|a, b, p: &[u8]| tcp(a, b, "S", p), udp] {
                    let there = turns(&mut rig, &make((client, 5000), (OWN[0], port), b""));
                    assert_eq!(there.dst, (HOSTS[0], port));
                    if client == HOSTS[1] {
                        assert_eq!(there.src, (OWN[1], 5000), "its own address and port");
                    }
                }
                let from = turns(&mut rig, &udp((client, 5001), (OWN[0], port), b"q")).src;
                let back = turns(&mut rig, &udp((HOSTS[0], port), from, b"a"));
                assert_eq!((back.src, back.dst), ((OWN[0], port), (client, 5001)));
            }
        }
    }
}

// Proves: 4787-REQ-9, 4787-REQ-9a, 5382-REQ-8
#[test]
fn a_mapping_is_reached_by_pods_where_strangers_may_send_in() {
    for workers in [1, 2, 4] {
        let mut rig = plain(workers, PoolSettings::rfc4787());
        let server = (pod(9), 5000);
        let (_, out) = rig.one(INSIDE, &udp(server, (SERVER, 443), b"q")).unwrap();
        let public = seen(&out).src;
        for n in CLIENTS {
            let there = turns(&mut rig, &udp((pod(n), 6000), public, b"hello"));
            assert_eq!(there.dst, server);
            let back = turns(&mut rig, &udp(server, there.src, b"hello yourself"));
            assert_eq!((back.src, back.dst), (public, (pod(n), 6000)));
        }
        // To itself: what comes in has its own public endpoint as source.
        let own = turns(&mut rig, &udp(server, public, b"am I there?"));
        assert_eq!((own.src, own.dst), (public, server));
    }
}

// Proves: 4787-REQ-9
#[test]
fn in_high_density_a_mapping_serves_its_remote_only() {
    for workers in [1, 2, 4] {
        let mut rig = plain(workers, PoolSettings::high_density());
        let (_, out) = rig.one(INSIDE, &udp((pod(9), 5000), (SERVER, 443), b"q")).unwrap();
        let public = seen(&out).src;
        for n in CLIENTS {
            assert_eq!(rig.one(INSIDE, &udp((pod(n), 6000), public, b"hello")), None);
            assert_eq!(rig.one(INSIDE, &tcp((pod(n), 6000), public, "S", b"")), None);
        }
        assert_eq!(rig.dropped(DropReason::NoSession), 2 * CLIENTS.len() as u64);
        // A session of its own to the caller admits the caller: pod 2 calls from its forwarded port.
        let called = turns(&mut rig, &udp((pod(9), 5000), RANGE, b"q"));
        let answer = turns(&mut rig, &udp((pod(2), 7000), called.src, b"a"));
        assert_eq!((answer.src, answer.dst), (RANGE, (pod(9), 5000)));
    }
}

#[test]
fn a_pod_reaches_itself_by_its_own_forwarded_ports() {
    for mut rig in every_rig() {
        let there = turns(&mut rig, &tcp((pod(2), 5000), WEB, "S", b""));
        assert_eq!(there.dst, (pod(2), 80));
        assert!(is_public(there.src.0) && there.src != WEB);
        let back = turns(&mut rig, &tcp((pod(2), 80), there.src, "SA", b""));
        assert_eq!((back.src, back.dst), (WEB, (pod(2), 5000)));
        // From the forwarded port to itself, and a 1:1 host to its own address.
        let same = turns(&mut rig, &udp((pod(2), 7000), RANGE, b"me"));
        assert_eq!((same.src, same.dst), (RANGE, (pod(2), 7000)));
        let host = turns(&mut rig, &udp((HOSTS[0], 7), (OWN[0], 9), b"me"));
        assert_eq!((host.src, host.dst), ((OWN[0], 7), (HOSTS[0], 9)));
    }
}

// Museum: C15
#[test]
fn what_finds_nobody_ends_there() {
    for unmapped in [Refused::Silent, Refused::Icmp] {
        for workers in [1, 4] {
            let answers = Answers { unmapped, ..Answers::default() };
            let mut rig = fixed_rig(workers, PoolSettings::default(), answers);
            for n in CLIENTS {
                let lost = udp((pod(n), 5000), (PUBLIC, 60_999), b"to nobody");
                let told = rig.one(INSIDE, &lost);
                if unmapped == Refused::Silent {
                    assert_eq!(told, None);
                    continue;
                }
                let (interface, error) = told.expect("an error");
                assert_eq!((interface, &error[26..30]), (INSIDE, &GATE.octets()[..]));
                assert_eq!((&error[34..36], &error[42..]), (&[3, 3][..], &lost[14..]));
            }
            assert_eq!(rig.dropped(DropReason::NoSession), CLIENTS.len() as u64);
            // Only the address as a whole belongs to a host: natgate answers for the others.
            let (_, reply) = rig.one(INSIDE, &ping(pod(1), PUBLIC, 3, b"x")).unwrap();
            assert_eq!((seen(&reply).src.0, seen(&reply).dst), (PUBLIC, (pod(1), 3)));
        }
    }
}

fn with_rule(rig: &Rig, to: Ipv4Addr, action: Option<Action>) {
    change(rig, |snapshot| {
        let mut rules = snapshot.policy.rules.rules().to_vec();
        match action {
            Some(action) => rules.push(Rule {
                name: "more".into(),
                priority: 1,
                from: vec!["10.244.0.0/16".parse().unwrap()],
                to: vec![to.into()],
                except: vec![],
                services: vec![],
                action,
            }),
            None => rules.iter_mut().for_each(|rule| rule.except.push(to.into())),
        }
        let rules = RuleSet::new(rules);
        snapshot.policy = Arc::new(Policy { rules, ..Policy::clone(&snapshot.policy) });
    });
}

#[test]
fn rules_decide_about_public_destinations_too() {
    for workers in [1, 4] {
        let mut rig = plain(workers, PoolSettings::default());
        with_rule(&rig, PUBLIC, None);
        let (_, error) = rig.one(INSIDE, &tcp((pod(1), 5000), WEB, "S", b"")).expect("3/13");
        assert_eq!(error[34..36], [3, 13]);
        assert_eq!(rig.dropped(DropReason::NoRule), 1);
        // Untranslated it would leave by the link where natgate itself has the address.
        let mut rig = plain(workers, PoolSettings::default());
        with_rule(&rig, PUBLIC, Some(Action::Exempt));
        let (interface, error) = rig.one(INSIDE, &tcp((pod(1), 5000), WEB, "S", b"")).unwrap();
        assert_eq!((interface, &error[34..36]), (INSIDE, &[3, 0][..]));
        assert_eq!((rig.dropped(DropReason::NoRoute), sessions(&rig)), (1, 0));
    }
}

// Museum: C25
#[test]
fn checksums_are_right_after_two_translations() {
    for workers in [1, 4] {
        let mut rig = plain(workers, PoolSettings::default());
        for (repaired, n) in (1..).zip(CLIENTS) {
            let client = (pod(n), 5000);
            let mut partial = udp(client, RANGE, b"odd length");
            let len = (partial.len() - 34) as u16;
            let pseudo = crate::wire::checksum::pseudo_header(pod(n), RANGE.0, 17, len);
            let sum = crate::wire::checksum::fold(pseudo).to_be_bytes();
            partial[40..42].copy_from_slice(&sum);
            let (_, out) = rig.one(INSIDE, &partial).unwrap();
            assert_eq!(seen(&out).dst, (pod(2), 7000));
            assert_eq!(rig.sum(|c| c.checksums_repaired.get()), repaired);
            let mut none = udp(client, RANGE, b"without");
            none[40..42].fill(0);
            assert_eq!(rig.one(INSIDE, &none).unwrap().1[40..42], [0, 0]);
            let mut wrong = udp(client, RANGE, b"without");
            wrong[40] ^= 1;
            let (_, out) = rig.one(INSIDE, &wrong).unwrap();
            let (_, good) = rig.one(INSIDE, &udp(client, RANGE, b"without")).unwrap();
            assert_ne!(out[40..42], good[40..42], "what was wrong stays wrong");
        }
    }
}

// Proves: 5508-S7.1.1b
#[test]
fn the_mtu_towards_the_pods_counts() {
    for workers in [1, 4] {
        let mut rig = plain(workers, PoolSettings::default());
        change(&rig, |snapshot| snapshot.interfaces[INSIDE.index()].mtu = 1280);
        for n in CLIENTS {
            let mut big = udp((pod(n), 5000), RANGE, &[7; 1300]);
            big[20] = 0x40;
            seal(&mut big[14..]);
            let (_, error) = rig.one(INSIDE, &big).expect("3/4");
            assert_eq!((&error[34..36], &error[40..42]), (&[3, 4][..], &[5, 0][..]));
            assert_eq!(error[42..], big[14..14 + error.len() - 42], "as its pod has sent it");
            // The TTL ends at the first of the two translations or not at all.
            let mut last = udp((pod(n), 5000), RANGE, b"");
            last[22] = 2;
            seal(&mut last[14..]);
            assert_eq!(seen(&rig.one(INSIDE, &last).unwrap().1).ttl, 1);
            last[22] = 1;
            seal(&mut last[14..]);
            assert_eq!(rig.one(INSIDE, &last).expect("11/0").1[34..36], [11, 0]);
        }
    }
}

// Proves: 5508-REQ-7.2, 5508-REQ-7a
#[test]
fn errors_about_forwarded_packets_come_back_to_either_end() {
    for mut rig in every_rig() {
        for n in CLIENTS {
            let client = (pod(n), 5000);
            let query = udp(client, RANGE, b"to a closed port");
            let got = rig.one(INSIDE, &query).unwrap().1;
            let public = seen(&got).src;
            let error = icmp((pod(2), public.0), (3, 3), [0; 4], &got[14..]);
            let back = rig.one(INSIDE, &error).expect("turned back").1;
            let want = icmp((RANGE.0, client.0), (3, 3), [0; 4], &forwarded(&query));
            assert_eq!(back[14..], forwarded(&want));
            // And the other way: the client has closed its port.
            let answer = udp((pod(2), 7000), public, b"late");
            let got = rig.one(INSIDE, &answer).unwrap().1;
            let error = icmp((client.0, RANGE.0), (3, 3), [0; 4], &got[14..]);
            let back = rig.one(INSIDE, &error).expect("turned back").1;
            let want = icmp((public.0, pod(2)), (3, 3), [0; 4], &forwarded(&answer));
            assert_eq!(back[14..], forwarded(&want));
        }
    }
}
