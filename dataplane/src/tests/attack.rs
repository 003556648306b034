//! What strangers, and pods with bad intentions, must not achieve.

use conntrack::PoolId;

use super::fixed_rig::{CLIENTS, plain};
use super::icmp::{answering, change, seal};
use super::*;
use crate::rule::{Action, Rule, RuleSet};
use crate::snapshot::{Answers, Policy};

fn stranger(n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(192, 0, 2, 100)) + n)
}

/// More rules for the rig.
fn with_rules(rig: &Rig, more: impl IntoIterator<Item = (&'static str, &'static str, Action)>) {
    change(rig, |snapshot| {
        let mut rules = snapshot.policy.rules.rules().to_vec();
        for (from, to, action) in more {
            rules.push(Rule {
                name: "more".into(),
                priority: 1,
                from: vec![from.parse().unwrap()],
                to: vec![to.parse().unwrap()],
                except: vec![],
                services: vec![],
                action,
            });
        }
        let rules = RuleSet::new(rules);
        snapshot.policy = Arc::new(Policy { rules, ..Policy::clone(&snapshot.policy) });
    });
}

#[test]
fn strangers_do_not_use_up_the_sessions_of_a_pod() {
    let mut settings = PoolSettings::rfc4787();
    settings.quota.sessions = 100;
    let mut rig = plain(2, settings);
    let (_, out) = rig.one(INSIDE, &udp((pod(9), 5000), (SERVER, 443), b"q")).unwrap();
    let public = seen(&out).src;
    for n in 0..200 {
        rig.one(OUTSIDE, &udp((stranger(n), 7), public, b"let me in"));
    }
    let (by, _) = rig.one(INSIDE, &udp((pod(9), 5001), (SERVER, 443), b"q")).unwrap();
    assert_eq!(by, OUTSIDE, "no error");
    // Whom the pod answers is no stranger, and makes room for another.
    rig.one(INSIDE, &udp((pod(9), 5000), (stranger(0), 7), b"come in"));
    let more = [stranger(300), stranger(301)];
    let let_in = more.map(|addr| rig.one(OUTSIDE, &udp((addr, 7), public, b"me")).is_some());
    assert_eq!(let_in, [true, false]);
}

#[test]
fn errors_to_strangers_leave_errors_for_pods() {
    let mut rig = answering(1, PoolSettings::default(), Answers::default());
    let (_, out) = rig.one(INSIDE, &udp((pod(9), 5000), (SERVER, 443), b"q")).unwrap();
    let public = seen(&out).src;
    for n in 0..3_000 {
        let mut last = udp((stranger(n), 7), public, b"");
        last[22] = 1;
        seal(&mut last[14..]);
        rig.one(OUTSIDE, &last);
    }
    for n in CLIENTS {
        let mut last = udp((pod(n), 5000), (SERVER, 443), b"");
        last[22] = 1;
        seal(&mut last[14..]);
        let (by, error) = rig.one(INSIDE, &last).expect("11/0");
        assert_eq!((by, error[34]), (INSIDE, 11));
    }
}

#[test]
fn nobody_outside_sends_in_the_name_of_a_pod_to_exempt_pods() {
    let mut rig = Rig::new(2);
    with_rules(&rig, [("10.244.0.0/16", "10.0.0.0/8", Action::Exempt)]);
    for make in [|a, b, p: &[u8]| tcp(a, b, "RA", p), udp] {
        let forged = make((pod(5), 80), (pod(7), 5000), b"");
        assert_eq!(rig.one(OUTSIDE, &forged), None);
    }
    assert_eq!(rig.dropped(DropReason::Spoofed), 2);
    let reply = udp((EXEMPT_SERVER, 80), (pod(7), 5000), b"");
    assert_eq!(rig.one(OUTSIDE, &reply).expect("a reply").0, INSIDE);
}

#[test]
fn a_pod_with_a_public_address_turns_nothing_round_for_ever() {
    let mut settings = PoolSettings::rfc4787();
    settings.preserve = true;
    let mut rig = Rig::with(1, settings, Some(Mac(ROUTER_MAC)));
    with_rules(&rig, [("203.0.113.0/24", "0.0.0.0/0", Action::Pool(PoolId(0)))]);
    for address in [PUBLIC, Ipv4Addr::new(203, 0, 113, 11)] {
        let (_, out) = rig.one(INSIDE, &udp((address, 5000), (SERVER, 443), b"q")).unwrap();
        let public = seen(&out).src;
        let (by, error) = rig.one(OUTSIDE, &udp((SERVER, 443), public, b"a")).expect("3/0");
        assert_eq!((by, &error[34..36]), (OUTSIDE, &[3, 0][..]));
    }
    assert_eq!(rig.dropped(DropReason::NoRoute), 2);
}
