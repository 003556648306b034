//! What is known of exempt traffic says what rules and routes say, and no longer than they do.

use super::fixed_rig::{RANGE, plain};
use super::rig::policy;
use super::*;
use crate::roads::{Member, Way};
use crate::rule::{Action, RuleSet};
use crate::snapshot::Policy;

/// From the pod's port; what left for it.
fn from_port(rig: &mut Rig, port: u16) -> Vec<u8> {
    let packet = udp((pod(1), port), (EXEMPT_SERVER, 53), b"question");
    rig.one(INSIDE, &packet).expect("it is forwarded").1
}

fn source(frame: &[u8]) -> Ipv4Addr {
    Ipv4Addr::new(frame[26], frame[27], frame[28], frame[29])
}

fn publish(rig: &Rig, policy: Policy, roads: crate::roads::Roads) {
    let interfaces = vec![interface("in0", true), interface("out0", false)];
    rig.snapshot.publish(Snapshot { interfaces, policy: policy.into(), roads: roads.into() });
}

fn without_exempt() -> Policy {
    let policy = policy(PoolSettings::default());
    let rules = policy.rules.rules().iter().filter(|rule| rule.action != Action::Exempt);
    Policy { rules: RuleSet::new(rules.cloned().collect()), ..policy }
}

#[test]
fn rules_are_asked_once_about_a_pod_and_a_port_of_a_server() {
    let mut rig = Rig::new(1);
    let first = from_port(&mut rig, 4000);
    let asked = rig.sum(|c| c.slow_path.get());
    for port in 4001..4010 {
        let next = from_port(&mut rig, port);
        assert_eq!(next[..34], first[..34], "the same but for the port");
        assert_eq!(next[34..36], port.to_be_bytes());
        let reply = udp((EXEMPT_SERVER, 53), (pod(1), port), b"answer");
        let (interface, reply) = rig.one(OUTSIDE, &reply).unwrap();
        assert_eq!((interface, &reply[..6], reply[22]), (INSIDE, &NODE_MAC[..], 63));
    }
    // Once more for the replies.
    assert_eq!(rig.sum(|c| c.slow_path.get()), asked + 1);
    let other = udp((pod(1), 4000), (EXEMPT_SERVER, 54), b"question");
    rig.one(INSIDE, &other).unwrap();
    assert_eq!(rig.sum(|c| c.slow_path.get()), asked + 2);
    assert_eq!(rig.sum(|c| c.sessions_created.get()), 0);
}

#[test]
fn where_replies_are_known_connections_are_not_opened() {
    let mut rig = Rig::new(1);
    for _ in 0..2 {
        let reply = tcp((EXEMPT_SERVER, 443), (pod(1), 4000), "A", b"data");
        assert!(rig.one(OUTSIDE, &reply).is_some());
        let syn = tcp((EXEMPT_SERVER, 443), (pod(1), 4000), "S", b"");
        assert_eq!(rig.one(OUTSIDE, &syn), None);
    }
    assert_eq!(rig.dropped(DropReason::Spoofed), 2);
}

#[test]
fn what_is_known_ends_with_the_rule_that_said_so() {
    let mut rig = Rig::new(1);
    for port in [4000, 4001] {
        assert_eq!(source(&from_port(&mut rig, port)), pod(1));
    }
    publish(&rig, without_exempt(), roads(Some(Mac(ROUTER_MAC))));
    assert_ne!(source(&from_port(&mut rig, 4001)), pod(1));
    publish(&rig, policy(PoolSettings::default()), roads(Some(Mac([2, 0, 0, 0, 0, 77]))));
    for port in [4002, 4003] {
        let exempt = from_port(&mut rig, port);
        assert_eq!((source(&exempt), exempt[5]), (pod(1), 77), "by the router as it is now");
    }
    // The session that was opened meanwhile goes on.
    assert_ne!(source(&from_port(&mut rig, 4001)), pod(1));
}

/// The rules with another prefix that is exempt.
fn exempt_elsewhere(to: &str) -> Policy {
    let policy = policy(PoolSettings::default());
    let mut rules = policy.rules.rules().to_vec();
    for rule in rules.iter_mut().filter(|rule| rule.action == Action::Exempt) {
        rule.to = vec![to.parse().unwrap()];
    }
    Policy { rules: RuleSet::new(rules), ..policy }
}

#[test]
fn what_is_known_by_older_rules_is_not_believed_beside_what_newer_ones_said() {
    let mut rig = Rig::new(1);
    for port in [4000, 4001] {
        assert_eq!(source(&from_port(&mut rig, port)), pod(1));
    }
    publish(&rig, exempt_elsewhere("192.0.2.0/24"), roads(Some(Mac(ROUTER_MAC))));
    for port in [4000, 4001] {
        let elsewhere = udp((pod(1), port), (SERVER, 53), b"question");
        assert_eq!(source(&rig.one(INSIDE, &elsewhere).unwrap().1), pod(1));
    }
    assert_ne!(source(&from_port(&mut rig, 4002)), pod(1), "by a rule that is gone");
}

/// A session that begins in a burst goes before what is known of its ends.
#[test]
fn a_session_of_the_same_burst_goes_before_what_is_known() {
    let mut rig = plain(1, PoolSettings::high_density());
    let (client, server) = ((EXEMPT_SERVER, 53), (pod(2), 7000));
    for port in [4000, 4001] {
        let sent = rig.one(INSIDE, &udp((pod(2), port), client, b"question")).unwrap().1;
        assert_eq!(source(&sent), pod(2), "exempt");
    }
    rig.inject(OUTSIDE, &udp(client, RANGE, b"query"));
    rig.inject(INSIDE, &udp(server, client, b"answer"));
    let sent = rig.run();
    assert_eq!(sent.iter().map(|(interface, _)| *interface).collect::<Vec<_>>(), [INSIDE, OUTSIDE]);
    assert_eq!((source(&sent[1].1), &sent[1].1[34..36]), (RANGE.0, &RANGE.1.to_be_bytes()[..]));
}

#[test]
fn of_several_ways_each_flow_keeps_its_own() {
    let mut rig = Rig::new(1);
    let second = Adjacency::new(OUTSIDE, [203, 0, 113, 2].into(), Some(Mac([2, 0, 0, 0, 0, 3])));
    let mut two = roads(Some(Mac(ROUTER_MAC)));
    let members = [1, 2].map(|id| Member { way: Way::Via(AdjacencyId(id)), weight: 1 });
    Arc::make_mut(&mut two.adjacencies).push(second);
    two.tables[0].insert("192.0.3.0/24".parse().unwrap(), Route::Several(members.into()));
    publish(&rig, policy(PoolSettings::default()), two);
    let mut ways = || (4000..4040).map(|port| from_port(&mut rig, port)[5]).collect::<Vec<_>>();
    let (first, again) = (ways(), ways());
    assert_eq!(first, again);
    assert!([2, 3].iter().all(|router| first.contains(router)), "{first:?}");
}

#[test]
fn what_was_sent_to_others_on_the_link_is_dropped_and_its_neighbours_pass() {
    let mut rig = Rig::new(1);
    let mine = udp((pod(1), 4000), (SERVER, 53), b"question");
    let mut foreign = mine.clone();
    foreign[5] ^= 1;
    let ping = ping(pod(1), SERVER, 7, b"echo");
    for packet in [&foreign, &ping, &mine, &foreign, &foreign, &mine] {
        rig.inject(INSIDE, packet);
    }
    let sent = rig.run();
    assert_eq!(sent.iter().map(|(_, frame)| frame[23]).collect::<Vec<_>>(), [1, 17, 17]);
    assert_eq!(rig.dropped(DropReason::NotForUs), 3);
}
