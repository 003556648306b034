//! What ends when.

use super::*;

/// One question and one answer is all there is; but two questions may be on their way.
// Proves: 4787-REQ-5a
// Museum: C2
#[test]
fn answered_dns_leaves_soon() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 10);
    let flow = |port| key(Protocol::Udp, (pod(1), port), remote(1, 53));
    for (port, questions) in [(1, 1), (2, 2)] {
        let slot = nat.open(&flow(port), POOL, None, secs(0)).unwrap();
        (0..questions).for_each(|_| nat.commit(slot, secs(0), 60, None));
        let back = nat.find(&reply_to(&nat, &flow(port))).unwrap();
        nat.commit(back, secs(1), 60, None);
    }
    nat.expire(secs(2), 100);
    assert!(nat.find(&flow(1)).is_some());
    nat.expire(secs(4), 100);
    assert_eq!(nat.find(&flow(1)), None, "2 s after its answer");
    assert!(nat.find(&flow(2)).is_some(), "the second answer may be late");
    nat.expire(secs(12), 100);
    assert_eq!(nat.find(&flow(2)), None);
}

/// The reference NAT found it: what a stranger opens, the pod answers.
// Proves: 4787-REQ-5a
#[test]
fn bug_a_strangers_session_outlived_its_timer_once_it_was_answered() {
    let open_to_all = class(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    let (mut nat, _) = nat_with(open_to_all, 1, 10);
    let flow = |port| key(Protocol::Udp, (pod(1), 500), remote(1, port));
    let public = send(&mut nat, &flow(443), secs(0)).unwrap();
    receive(&mut nat, &inbound(Protocol::Udp, remote(1, 53), public), secs(1)).unwrap();
    send(&mut nat, &flow(53), secs(1)).unwrap();
    nat.expire(secs(2), 100);
    assert!(nat.find(&flow(53)).is_some());
    nat.expire(secs(4), 100);
    assert_eq!(nat.find(&flow(53)), None, "2 s after the answer");
    assert!(nat.find(&flow(443)).is_some());
}

// Proves: 4787-REQ-5a, 4787-REQ-5c
// Museum: C11
#[test]
fn req_4787_5c_udp_timer_and_refresh() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 10);
    let flow = key(Protocol::Udp, (pod(1), 1), remote(1, 443));
    let dns = key(Protocol::Udp, (pod(1), 2), remote(1, 53));
    nat.open(&flow, POOL, None, secs(0)).unwrap();
    nat.open(&dns, POOL, None, secs(0)).unwrap();
    nat.expire(secs(9), 100);
    assert!(nat.find(&dns).is_some());
    nat.expire(secs(11), 100);
    assert!(nat.find(&dns).is_none(), "4787-REQ-5a: 10 s for DNS");
    // 4787-REQ-6: outbound packets renew; so do replies of the peer (6a).
    nat.commit(nat.find(&flow).unwrap(), secs(250), 100, None);
    nat.expire(secs(500), 100);
    let reply = nat.find(&reply_to(&nat, &flow)).unwrap();
    nat.commit(reply, secs(500), 100, None);
    nat.expire(secs(799), 100);
    assert!(nat.find(&flow).is_some());
    nat.expire(secs(801), 100);
    assert!(nat.find(&flow).is_none());
}

// Proves: 5382-REQ-5.1, 7857-S2.1b
#[test]
fn req_5382_5_tcp_timers_follow_the_state() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 10);
    let open = |nat: &mut Nat, port| {
        let flow = key(Protocol::Tcp, (pod(1), port), remote(1, 80));
        nat.open(&flow, POOL, SYN, secs(0)).unwrap();
        flow
    };
    let opening = open(&mut nat, 1);
    let established = open(&mut nat, 2);
    let closed = open(&mut nat, 3);
    for flow in [established, closed] {
        let (out, back) = (nat.find(&flow).unwrap(), nat.find(&reply_to(&nat, &flow)).unwrap());
        nat.commit(back, secs(0), 60, SYN_ACK);
        nat.commit(out, secs(0), 60, ACK);
    }
    let (out, back) = (nat.find(&closed).unwrap(), nat.find(&reply_to(&nat, &closed)).unwrap());
    let fin = |ack| Segment { ack, ..numbered(TcpFlags::FIN | TcpFlags::ACK, 1) };
    let last = Segment { ack: 2, ..numbered(TcpFlags::ACK, 2) };
    for (slot, segment) in [(out, fin(1)), (back, fin(2)), (out, last)] {
        nat.commit(slot, secs(0), 60, Some(&segment));
    }
    let state = |nat: &Nat, flow: FlowKey, at| {
        all_sessions(nat, secs(at)).iter().find(|s| s.internal == flow.src).map(|s| s.state)
    };
    assert_eq!(state(&nat, opening, 0), Some(State::SynSent));
    assert_eq!(state(&nat, established, 0), Some(State::Established));
    assert_eq!(state(&nat, closed, 0), Some(State::TimeWait));
    nat.expire(secs(59), 100);
    assert_eq!(nat.stats().sessions, 3);
    nat.expire(secs(61), 100);
    assert_eq!(state(&nat, opening, 61), None);
    assert_eq!(state(&nat, closed, 61), None);
    nat.expire(secs(7_439), 100);
    assert_eq!(state(&nat, established, 7_439), Some(State::Established));
    nat.expire(secs(7_442), 100);
    assert_eq!(nat.stats().sessions, 0);
}

#[test]
fn a_segment_that_does_not_open_opens_nothing() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 10);
    let flow = key(Protocol::Tcp, (pod(1), 1), remote(1, 80));
    for flags in [
        TcpFlags::ACK,
        0,
        TcpFlags::SYN | TcpFlags::FIN,
        TcpFlags::SYN | TcpFlags::RST,
        TcpFlags::RST,
    ] {
        assert_eq!(
            nat.open(&flow, POOL, Some(&Segment::bare(flags)), secs(1)),
            Err(Refusal::NotSyn)
        );
    }
    assert_eq!((nat.stats().sessions, nat.stats().subscribers), (0, 0));
}

#[test]
fn expire_says_when_its_budget_is_used_up() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 1, 100);
    for port in 1..=50 {
        let flow = key(Protocol::Udp, (pod(1), port), remote(1, 53));
        nat.open(&flow, POOL, None, secs(0)).unwrap();
    }
    assert!(nat.expire(secs(20), 32));
    assert!(!nat.expire(secs(20), 32));
    assert_eq!(nat.stats().sessions, 0);
}

// Museum: C42
#[test]
fn a_session_outlives_the_wrap_of_its_stored_time() {
    // Sessions store the low 32 bits of milliseconds; these wrap seven seconds from now.
    let start = secs((1 << 32) / 1000 - 7);
    let after = |s| start + Duration::from_secs(s);
    let pool = Pool::new(PoolId(0), "p", PoolSettings::default(), [Ipv4Addr::LOCALHOST]);
    let mut nat = Nat::new(0, 10, Secret::from_seed(1), start);
    nat.adopt(&[Arc::new(pool)]);
    let flow = key(Protocol::Udp, (pod(1), 1), remote(1, 443));
    let slot = nat.open(&flow, POOL, None, start).unwrap();
    nat.commit(slot, after(5), 100, None);
    for s in 5..=304 {
        nat.expire(after(s), 100);
        assert!(nat.find(&flow).is_some(), "ended {s} s after the start");
    }
    nat.expire(after(306), 100);
    assert!(nat.find(&flow).is_none());
}
