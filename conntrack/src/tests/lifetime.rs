//! How long does a mapping live, and what keeps it alive?

use super::*;

const X: u8 = 66;

fn millis(ms: u64) -> Timestamp {
    Timestamp::from_millis(ms)
}

fn peer_to_peer() -> PoolSettings {
    class(Behavior::EndpointIndependent, Behavior::EndpointIndependent)
}

fn flow() -> FlowKey {
    key(Protocol::Udp, (pod(1), 5000), remote(1, 443))
}

// Proves: 4787-REQ-5, 4787-REQ-5b, 4787-REQ-5c
#[test]
fn a_udp_mapping_lives_as_long_as_the_timer_says() {
    for udp in [120, 300, 600] {
        for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
            let mut settings = class(mapping, filtering);
            settings.timers.udp = Duration::from_secs(udp);
            for (at, alive) in
                [(119_900, true), (udp * 1000 - 100, true), (udp * 1000 + 1100, false)]
            {
                let (mut nat, _) = nat_with(settings.clone(), 1, 10);
                let public = send(&mut nat, &flow(), secs(0)).unwrap();
                nat.expire(millis(at), 100);
                let reply =
                    receive(&mut nat, &inbound(Protocol::Udp, flow().dst, public), millis(at));
                assert_eq!(reply.is_ok(), alive, "{mapping:?} {filtering:?} {udp} s at {at} ms");
            }
        }
    }
}

// Proves: 5508-REQ-2, 5508-REQ-2a, 7857-S11
#[test]
fn a_query_mapping_ends_with_its_last_session() {
    for icmp in [60, 90] {
        let mut settings = peer_to_peer();
        settings.timers.icmp_query = Duration::from_secs(icmp);
        let (mut nat, _) = nat_with(settings, 1, 10);
        let ping = |server| key(Protocol::Icmp, (pod(1), 7), remote(server, 0));
        let public = send(&mut nat, &ping(1), secs(0)).unwrap();
        assert_eq!(send(&mut nat, &ping(2), secs(30)), Ok(public));
        let reply = |server| inbound(Protocol::Icmp, remote(server, 0), public);
        nat.expire(millis(icmp * 1000 - 100), 100);
        assert!(nat.find(&reply(1)).is_some());
        nat.expire(secs(icmp + 2), 100);
        assert!(nat.find(&reply(1)).is_none() && nat.find(&reply(2)).is_some());
        assert_eq!(nat.stats().mappings, 1);
        nat.expire(secs(icmp + 32), 100);
        assert_eq!((nat.stats().sessions, nat.stats().mappings), (0, 0));
        assert_eq!(receive(&mut nat, &reply(2), secs(icmp + 32)), Err(Refusal::NoMapping));
    }
}

/// c1 only sends, each 100 s.
// Proves: 4787-REQ-6
#[test]
fn outbound_packets_renew_a_mapping() {
    for refresh in [InboundRefresh::Peers, InboundRefresh::None] {
        let settings = PoolSettings { inbound_refresh: refresh, ..peer_to_peer() };
        let (mut nat, _) = nat_with(settings, 1, 10);
        let public = send(&mut nat, &flow(), secs(0)).unwrap();
        for at in (100..=1_000).step_by(100) {
            nat.expire(secs(at), 100);
            assert_eq!(send(&mut nat, &flow(), secs(at)), Ok(public));
        }
        nat.expire(secs(1_299), 100);
        let reply = inbound(Protocol::Udp, flow().dst, public);
        assert_eq!(receive(&mut nat, &reply, secs(1_299)), Ok(flow().src));
    }
}

/// `from` sends each 100 s, c1 does not answer: when is the mapping gone?
fn gone_after(settings: PoolSettings, from: Endpoint) -> Option<u64> {
    let (mut nat, _) = nat_with(settings, 1, 10);
    let public = send(&mut nat, &flow(), secs(0)).unwrap();
    (1..20).map(|i| i * 100).find(|&at| {
        nat.expire(secs(at + 2), 100);
        receive(&mut nat, &inbound(Protocol::Udp, from, public), secs(at + 2)).is_err()
    })
}

// Proves: 4787-REQ-6a
#[test]
fn only_peers_renew_a_mapping_from_outside() {
    assert_eq!(gone_after(peer_to_peer(), flow().dst), None, "s1 alone keeps it alive");
    assert_eq!(gone_after(peer_to_peer(), remote(X, 9)), Some(300), "x does not");
    let silent = PoolSettings { inbound_refresh: InboundRefresh::None, ..peer_to_peer() };
    assert_eq!(gone_after(silent.clone(), flow().dst), Some(300));
    assert_eq!(gone_after(silent, remote(X, 9)), Some(300));
    // Without mappings of their own, sessions are renewed by the same rule.
    let high_density = Behavior::AddressAndPortDependent;
    let settings = class(high_density, high_density);
    assert_eq!(gone_after(settings.clone(), flow().dst), None);
    let silent = PoolSettings { inbound_refresh: InboundRefresh::None, ..settings };
    assert_eq!(gone_after(silent, flow().dst), Some(300));
}

/// A connection is not idle while its remote sends (RFC 5382 REQ-5), whatever holds for datagrams.
// Proves: 5382-REQ-5.2
#[test]
fn a_download_keeps_its_connection() {
    let settings = PoolSettings { inbound_refresh: InboundRefresh::None, ..peer_to_peer() };
    let (mut nat, _) = nat_with(settings, 1, 10);
    let flow = key(Protocol::Tcp, (pod(1), 5000), remote(1, 443));
    send(&mut nat, &flow, secs(0)).unwrap();
    let (out, back) = (nat.find(&flow).unwrap(), nat.find(&reply_to(&nat, &flow)).unwrap());
    let both = numbered(TcpFlags::SYN | TcpFlags::ACK, 0);
    nat.commit(back, secs(0), 60, Some(&both));
    nat.commit(out, secs(0), 60, ACK);
    nat.commit(back, secs(7_000), 1500, ACK);
    nat.expire(secs(14_000), 100);
    assert_eq!(nat.find(&flow), Some(out));
    nat.expire(secs(14_442), 100);
    assert_eq!(nat.find(&flow), None);
}

/// x probes each 60 s and is refused: the mapping dies on time.
// Proves: 7857-S7a, 7857-S7b
#[test]
fn refused_probes_renew_nothing() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        if filtering == Behavior::EndpointIndependent {
            continue;
        }
        for (protocol, timer) in [(Protocol::Udp, 300), (Protocol::Tcp, 7_440)] {
            let (mut nat, _) = nat_with(class(mapping, filtering), 1, 10);
            let flow = key(protocol, (pod(1), 5000), remote(1, 443));
            let public = send(&mut nat, &flow, secs(0)).unwrap();
            if protocol == Protocol::Tcp {
                let back = nat.find(&reply_to(&nat, &flow)).unwrap();
                let both = numbered(TcpFlags::SYN | TcpFlags::ACK, 0);
                nat.commit(back, secs(0), 60, Some(&both));
                nat.commit(nat.find(&flow).unwrap(), secs(0), 60, ACK);
            }
            for at in (60..timer).step_by(60) {
                let probe = inbound(protocol, remote(X, 9), public);
                assert!(receive(&mut nat, &probe, secs(at)).is_err());
                nat.expire(secs(at), 100);
                assert!(nat.find(&flow).is_some());
            }
            nat.expire(secs(timer + 2), 100);
            assert_eq!((nat.stats().sessions, nat.stats().mappings), (0, 0));
        }
    }
}

/// x connects each 60 s and c1 resets (TCP), or says nothing that is a session's (UDP: ICMP errors are
/// not committed): the mapping dies with what c1 wanted itself.
// Proves: 7857-S7.1a
#[test]
fn a_reset_or_an_error_in_answer_renews_nothing() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let mut settings = peer_to_peer();
        settings.timers.tcp_opening = Duration::from_secs(300);
        settings.timers.tcp_reset = Duration::from_secs(300);
        let (mut nat, _) = nat_with(settings, 1, 100);
        let flow = key(protocol, (pod(1), 5000), remote(1, 443));
        let public = send(&mut nat, &flow, secs(0)).unwrap();
        for at in (60..300).step_by(60) {
            nat.expire(secs(at), 100);
            let probe = inbound(protocol, remote(X, at as u16), public);
            assert_eq!(receive(&mut nat, &probe, secs(at)), Ok(flow.src));
            // And again by the session that the probe has opened.
            let again = inbound(protocol, remote(X, 60), public);
            assert_eq!(receive(&mut nat, &again, secs(at)), Ok(flow.src));
            if protocol == Protocol::Tcp {
                let answer = key(protocol, (pod(1), 5000), probe.src);
                let slot = nat.find(&answer).unwrap();
                let reset = numbered(TcpFlags::RST | TcpFlags::ACK, 0);
                nat.commit(slot, secs(at), 40, Some(&reset));
            }
        }
        assert_eq!(nat.stats().mappings, 1);
        nat.expire(secs(302), 100);
        assert_eq!((nat.stats().sessions, nat.stats().mappings), (0, 0), "{protocol}");
    }
}

/// Many strangers end with the mapping that let them in, a few at a time; meanwhile it lets in nobody, and
/// the internal endpoint gets another one.
// Proves: 4787-REQ-6a
#[test]
fn strangers_end_with_the_mapping_within_the_budget() {
    let (mut nat, pool) = nat_with(peer_to_peer(), 1, 5_000);
    let public = send(&mut nat, &flow(), secs(0)).unwrap();
    let call = |port| inbound(Protocol::Udp, remote(X, port), public);
    for port in 1..=1_000 {
        receive(&mut nat, &call(port), secs(290)).unwrap();
    }
    assert!(nat.expire(secs(302), 100), "there is more to do");
    assert!(nat.find(&flow()).is_none());
    let left = nat.stats().sessions;
    assert!((850..=1_000).contains(&left), "{left}");
    assert_eq!(receive(&mut nat, &call(1_001), secs(302)), Err(Refusal::Filtered));
    // An answer comes too late; what the pod sends to others is a new mapping.
    let open = all_sessions(&nat, secs(302)).iter().map(|s| s.remote.port).min().unwrap();
    let answer = key(Protocol::Udp, (pod(1), 5000), remote(X, open));
    nat.commit(nat.find(&answer).unwrap(), secs(302), 100, None);
    let fresh = send(&mut nat, &key(Protocol::Udp, (pod(1), 5000), remote(2, 443)), secs(302));
    assert_ne!(fresh, Ok(public));
    for _ in 0..20 {
        nat.expire(secs(302), 100);
    }
    assert_eq!((nat.stats().sessions, nat.stats().mappings), (1, 1));
    let own = inbound(Protocol::Udp, remote(X, 1), fresh.unwrap());
    assert_eq!(receive(&mut nat, &own, secs(302)), Ok(flow().src));
    for at in [700, 1_500] {
        nat.expire(secs(at), 10_000);
    }
    assert!(nat.mappings.is_empty());
    assert_eq!((nat.stats().sessions, pool.addresses[0].directory.held()), (0, 0));
}

/// Who is answered is a peer from then on.
#[test]
fn an_answer_makes_a_peer() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (mut nat, _) = nat_with(peer_to_peer(), 1, 100);
        let flow = key(protocol, (pod(1), 5000), remote(1, 443));
        let public = send(&mut nat, &flow, secs(0)).unwrap();
        let caller = inbound(protocol, remote(X, 9), public);
        receive(&mut nat, &caller, secs(10)).unwrap();
        let answer = nat.find(&key(protocol, (pod(1), 5000), caller.src)).unwrap();
        let both = numbered(TcpFlags::SYN | TcpFlags::ACK, 0);
        let tcp = protocol == Protocol::Tcp;
        nat.commit(answer, secs(10), 60, tcp.then_some(&both));
        let back = nat.find(&caller).unwrap();
        nat.commit(back, secs(10), 60, tcp.then_some(&numbered(TcpFlags::ACK, 1)));
        nat.commit(answer, secs(10), 60, tcp.then_some(&numbered(TcpFlags::ACK, 1)));
        nat.commit(back, secs(250), 60, tcp.then_some(&numbered(TcpFlags::ACK, 1)));
        nat.expire(secs(400), 100);
        assert_eq!((nat.find(&flow), nat.find(&caller)), (None, Some(back)), "{protocol}");
        assert_eq!(nat.stats().mappings, 1);
    }
}

/// Address-dependent filter: who was addressed may call from any port, as long as that lasts.
// Proves: 4787-REQ-8
#[test]
fn a_remote_is_a_peer_as_long_as_it_has_a_session() {
    let settings = class(Behavior::EndpointIndependent, Behavior::AddressDependent);
    let (mut nat, _) = nat_with(settings, 1, 100);
    let flow = |server| key(Protocol::Udp, (pod(1), 5000), remote(server, 443));
    let public = send(&mut nat, &flow(1), secs(0)).unwrap();
    let call = |server, port| inbound(Protocol::Udp, remote(server, port), public);
    assert_eq!(receive(&mut nat, &call(2, 1), secs(0)), Err(Refusal::Filtered));
    send(&mut nat, &flow(2), secs(100)).unwrap();
    assert_eq!(receive(&mut nat, &call(2, 1), secs(100)), Ok(flow(2).src));
    assert_eq!(receive(&mut nat, &call(1, 1), secs(290)), Ok(flow(1).src));
    // s1 has not been addressed for 300 s, nor has it answered: its own call does not make it a peer.
    nat.expire(secs(302), 100);
    assert_eq!(receive(&mut nat, &call(1, 2), secs(302)), Err(Refusal::Filtered));
    assert_eq!(receive(&mut nat, &call(2, 2), secs(302)), Ok(flow(2).src));
    // s2 is answered on a session that it opened itself: a peer for longer.
    nat.commit(
        nat.find(&key(Protocol::Udp, (pod(1), 5000), remote(2, 1))).unwrap(),
        secs(302),
        9,
        None,
    );
    nat.expire(secs(402), 100);
    assert_eq!(nat.find(&flow(2)), None);
    assert_eq!(receive(&mut nat, &call(2, 3), secs(402)), Ok(flow(2).src));
    nat.expire(secs(700), 100);
    assert!(nat.mappings.is_empty());
}

/// A stranger's connection that the pod had refused lived on by the stranger's own packets, because the
/// reset had a SYN flag as well.
// Proves: 7857-S7.1a
#[test]
fn bug_a_reset_with_a_syn_flag_counted_as_the_pod_speaking() {
    let (mut nat, _) = nat_with(peer_to_peer(), 1, 100);
    let public =
        send(&mut nat, &key(Protocol::Tcp, (pod(1), 5000), remote(1, 443)), secs(0)).unwrap();
    let stranger = remote(X, 443);
    assert!(receive(&mut nat, &inbound(Protocol::Tcp, stranger, public), secs(0)).is_ok());
    let answer = key(Protocol::Tcp, (pod(1), 5000), stranger);
    let slot = nat.find(&answer).unwrap();
    let odd = numbered(TcpFlags::SYN | TcpFlags::RST | TcpFlags::ACK, 77);
    nat.commit(slot, secs(1), 40, Some(&odd));
    let left = |nat: &Nat| {
        let sessions = all_sessions(nat, secs(30));
        sessions.iter().find(|s| s.remote == stranger).unwrap().expires_in_ms
    };
    let before = left(&nat);
    let slot = nat.find(&inbound(Protocol::Tcp, stranger, public)).unwrap();
    nat.commit(slot, secs(30), 40, ACK);
    assert_eq!(left(&nat), before);
}
