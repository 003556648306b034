//! Sessions through mappings that configuration made.

use super::*;

const RULE: u16 = 9;

fn public(port: u16) -> Endpoint {
    Endpoint::new(Ipv4Addr::new(203, 0, 113, 10), port)
}

/// 203.0.113.10:`port` leads to port 80 of the first pod.
fn forward(port: u16) -> FixedMapping {
    FixedMapping {
        internal: Endpoint::new(pod(1), 80),
        public: public(port),
        pool: PoolId(0),
        rule: RULE,
        overlay: 0,
    }
}

fn call(protocol: Protocol, caller: Endpoint, port: u16) -> FlowKey {
    inbound(protocol, caller, public(port))
}

#[test]
fn a_forward_is_used_from_outside_and_from_inside() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (mut nat, pool) = nat_with(tiny_settings(), 1, 100);
        let caller = call(protocol, remote(1, 7), 6000);
        let slot = nat.open_fixed(&caller, forward(6000), opening(protocol), secs(1)).unwrap();
        assert_eq!((slot.direction(), nat.find(&caller)), (Direction::Inbound, Some(slot)));
        assert_eq!(nat.rewrite(slot).dst, Endpoint::new(pod(1), 80));
        let answer = key(protocol, (pod(1), 80), caller.src);
        assert_eq!(nat.rewrite(nat.find(&answer).unwrap()).src, public(6000));

        let own = key(protocol, (pod(1), 80), remote(2, 443));
        let slot = nat.open_fixed(&own, forward(6000), opening(protocol), secs(1)).unwrap();
        assert_eq!((slot.direction(), nat.rewrite(slot).src), (Direction::Outbound, public(6000)));

        let sessions = all_sessions(&nat, secs(1));
        assert!(sessions.iter().all(|s| s.rule == RULE && s.public == public(6000)));
        assert_eq!(pool.addresses[0].directory.held(), 0, "no block");
        nat.expire(secs(400), 100);
        nat.expire(secs(1_100), 100);
        assert_eq!((nat.stats().sessions, nat.stats().subscribers), (0, 0));
    }
}

/// The port lies in a block that the same pod holds: its uses are not touched.
#[test]
fn a_fixed_session_returns_no_port_of_a_block() {
    let (mut nat, _) = nat_with(tiny_settings(), 1, 100);
    let flow = key(Protocol::Udp, (pod(1), 5000), remote(1, 443));
    let port = send(&mut nat, &flow, secs(200)).unwrap().port;
    let caller = call(Protocol::Udp, remote(3, 7), port);
    nat.open_fixed(&caller, forward(port), None, secs(0)).unwrap();
    nat.expire(secs(302), 100);
    assert_eq!((nat.find(&caller), nat.stats().sessions), (None, 1));
    // The port is still the flow's: 64 others fill the block, and none of them gets it.
    for n in 0..63 {
        let other = key(Protocol::Udp, (pod(1), 6000 + n), remote(1, 443));
        assert_ne!(send(&mut nat, &other, secs(302)).unwrap().port, port);
    }
}

#[test]
fn a_fixed_session_counts_for_its_subscriber() {
    let settings = PoolSettings { quota: quota(1, 3), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 100);
    let open = |nat: &mut Nat, port| {
        nat.open_fixed(&call(Protocol::Udp, remote(1, port), 6000), forward(6000), None, secs(1))
    };
    for port in 1..=3 {
        // Unanswered callers may have two of the three; the pod answers each.
        open(&mut nat, port).unwrap();
        let back = call(Protocol::Udp, remote(1, port), 6000);
        let answer = nat.find(&FlowKey {
            realm: Realm::Internal,
            src: nat.rewrite(nat.find(&back).unwrap()).dst,
            dst: back.src,
            ..back
        });
        nat.commit(answer.unwrap(), secs(1), 60, None);
    }
    assert_eq!(open(&mut nat, 4), Err(Refusal::QuotaSessions));
    let flow = |n| key(Protocol::Udp, (pod(n), 5000), remote(1, 443));
    assert_eq!(send(&mut nat, &flow(1), secs(1)), Err(Refusal::QuotaSessions));
    send(&mut nat, &flow(2), secs(1)).unwrap();
}

#[test]
fn only_a_syn_opens_a_forwarded_connection() {
    let (mut nat, _) = nat_with(tiny_settings(), 1, 100);
    let caller = call(Protocol::Tcp, remote(1, 7), 6000);
    for first in [ACK, Some(&Segment::bare(TcpFlags::RST)), None] {
        assert_eq!(nat.open_fixed(&caller, forward(6000), first, secs(1)), Err(Refusal::NotSyn));
    }
    assert_eq!((nat.stats().sessions, nat.stats().subscribers), (0, 0));
}

/// Two public ports lead to one target: one caller can use one of them at a time from the same port, since
/// the pod could not tell its two flows apart.
#[test]
fn two_forwards_to_one_target_do_not_cross() {
    let (mut nat, _) = nat_with(tiny_settings(), 1, 100);
    let caller = remote(1, 7);
    let open = |nat: &mut Nat, caller, port| {
        nat.open_fixed(&call(Protocol::Udp, caller, port), forward(port), None, secs(1))
    };
    open(&mut nat, caller, 6000).unwrap();
    assert_eq!(open(&mut nat, caller, 6001), Err(Refusal::TupleTaken));
    open(&mut nat, remote(1, 8), 6001).unwrap();
    assert_eq!(nat.stats().sessions, 2);
}

/// An address that is all one pod's: whatever it is, pings from outside as well.
// Proves: 7857-S12a
#[test]
fn a_static_address_carries_queries_and_other_protocols_both_ways() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 100);
    let one = Ipv4Addr::new(203, 0, 113, 14);
    let at = |port| FixedMapping {
        internal: Endpoint::new(pod(1), port),
        public: Endpoint::new(one, port),
        pool: PoolId(0),
        rule: RULE,
        overlay: 0,
    };
    // An echo request has its identifier at the asking end.
    let asked = inbound(Protocol::Icmp, remote(1, 77), Endpoint::new(one, 0));
    let slot = nat.open_fixed(&asked, at(0), None, secs(1)).unwrap();
    assert_eq!(nat.rewrite(slot).dst, Endpoint::new(pod(1), 0));
    let reply = key(Protocol::Icmp, (pod(1), 0), remote(1, 77));
    assert_eq!(nat.rewrite(nat.find(&reply).unwrap()).src, Endpoint::new(one, 0));
    let asks = key(Protocol::Icmp, (pod(1), 77), remote(1, 0));
    let slot = nat.open_fixed(&asks, at(77), None, secs(1)).unwrap();
    assert_eq!(nat.rewrite(slot).src, Endpoint::new(one, 77));
    let gre = Protocol::Other(47);
    let tunnel = inbound(gre, remote(1, 0), Endpoint::new(one, 0));
    let slot = nat.open_fixed(&tunnel, at(0), None, secs(1)).unwrap();
    assert_eq!(nat.rewrite(slot).dst, Endpoint::new(pod(1), 0));
    assert_eq!(pool.addresses[0].directory.held(), 0);
    assert!(pool.addresses[0].claims.is_empty());
}

/// A change of configuration may leave a forwarded session on a tuple that the NAT would give out.
#[test]
fn a_tuple_that_a_fixed_session_has_is_not_given_out() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        let settings =
            PoolSettings { ports: 1024..=1039, block_size: 16, ..class(mapping, filtering) };
        let (mut nat, pool) = nat_with(settings, 1, 100);
        let caller = remote(1, 443);
        for port in 1024..=1039 {
            let internal = Endpoint::new(pod(1), port);
            let fixed = FixedMapping { internal, ..forward(port) };
            nat.open_fixed(&call(Protocol::Udp, caller, port), fixed, None, secs(1)).unwrap();
        }
        let internal = Endpoint::new(pod(1), 0);
        let one = FixedMapping { internal, public: public(0), ..forward(0) };
        let tunnel = inbound(Protocol::Other(47), remote(1, 0), public(0));
        nat.open_fixed(&tunnel, one, None, secs(1)).unwrap();
        let before = nat.stats();
        let flow = key(Protocol::Udp, (pod(2), 5000), caller);
        let refused = send(&mut nat, &flow, secs(1));
        // The search sees the tuple where it looks for ports that are in use already.
        assert!(matches!(refused, Err(Refusal::TupleTaken | Refusal::PoolExhausted)));
        let tunnel = key(Protocol::Other(47), (pod(2), 0), remote(1, 0));
        assert_eq!(send(&mut nat, &tunnel, secs(1)), Err(Refusal::TupleTaken));
        assert_eq!((nat.stats().sessions, nat.stats().mappings), (before.sessions, 0));
        assert!(nat.mappings.is_empty() && pool.addresses[0].claims.is_empty());
    }
}

/// A caller who is not answered does not keep a session, and comes in again when it has ended.
#[test]
fn an_unanswered_caller_is_held_for_a_timer_at_a_time() {
    let (mut nat, _) = nat_with(tiny_settings(), 1, 100);
    let caller = call(Protocol::Udp, remote(1, 7), 6000);
    nat.open_fixed(&caller, forward(6000), None, secs(0)).unwrap();
    for at in (100..300).step_by(100) {
        nat.commit(nat.find(&caller).unwrap(), secs(at), 100, None);
    }
    nat.expire(secs(302), 100);
    assert_eq!(nat.find(&caller), None);
    nat.open_fixed(&caller, forward(6000), None, secs(302)).unwrap();
}
