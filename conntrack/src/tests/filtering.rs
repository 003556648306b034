//! Who may send in by a mapping?

use super::*;

/// c1 has sent to s1a:1; s1a:1, s1a:2, s1b:1 and x send in.
fn admitted(settings: &PoolSettings, protocol: Protocol) -> [Result<Endpoint, Refusal>; 4] {
    let (mut nat, _) = nat_with(settings.clone(), 1, 100);
    let flow = key(protocol, (pod(1), 5000), remote(1, 1));
    let public = send(&mut nat, &flow, secs(1)).unwrap();
    [remote(1, 1), remote(1, 2), remote(2, 1), remote(9, 9)]
        .map(|remote| receive(&mut nat, &inbound(protocol, remote, public), secs(2)))
}

/// What `filtering` lets in of those four. A session of its own has the addressed endpoint only.
fn expected(mapping: Behavior, filtering: Behavior) -> [Result<Endpoint, Refusal>; 4] {
    let yes = Ok(Endpoint::new(pod(1), 5000));
    let no = Err(Refusal::Filtered);
    // A mapping that serves one remote address only does not exist for the others.
    let other = if mapping == Behavior::EndpointIndependent { no } else { Err(Refusal::NoMapping) };
    match filtering {
        Behavior::EndpointIndependent => [yes, yes, yes, yes],
        Behavior::AddressDependent => [yes, yes, other, other],
        Behavior::AddressAndPortDependent => {
            let same = if mapping == Behavior::AddressAndPortDependent { other } else { no };
            [yes, same, other, other]
        }
    }
}

// Proves: 4787-REQ-8, 4787-REQ-8a, 5382-REQ-3, 5382-REQ-3a, 6888-REQ-7.1, 6888-REQ-7.2
#[test]
fn the_admitted_set_is_the_filter() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        for protocol in [Protocol::Tcp, Protocol::Udp] {
            let got = admitted(&class(mapping, filtering), protocol);
            let context = format!("mapping {mapping:?}, filtering {filtering:?}, {protocol}");
            assert_eq!(got, expected(mapping, filtering), "{context}");
        }
    }
}

// Proves: 5382-REQ-3b
#[test]
fn tcp_is_filtered_apart_from_udp() {
    let mapping = Behavior::EndpointIndependent;
    for (tcp, udp) in CLASSES.iter().flat_map(|&tcp| CLASSES.map(|udp| (tcp, udp))) {
        let settings =
            PoolSettings { filtering_tcp: tcp, filtering_udp: udp, ..class(mapping, udp) };
        assert_eq!(admitted(&settings, Protocol::Tcp), expected(mapping, tcp));
        assert_eq!(admitted(&settings, Protocol::Udp), expected(mapping, udp));
    }
}

/// The two profiles as they are.
// Proves: 4787-REQ-8, 5382-REQ-3
#[test]
fn the_profiles_filter_as_they_say() {
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let independent = Behavior::EndpointIndependent;
        let got = admitted(&PoolSettings::rfc4787(), protocol);
        assert_eq!(got, expected(independent, independent));
        let dependent = Behavior::AddressAndPortDependent;
        let got = admitted(&PoolSettings::high_density(), protocol);
        assert_eq!(got, expected(dependent, dependent));
    }
}

// Proves: 7857-S6a, 7857-S6c
#[test]
fn filters_are_per_protocol() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        let (mut nat, _) = nat_with(class(mapping, filtering), 1, 100);
        let flow = key(Protocol::Tcp, (pod(1), 5000), remote(1, 1));
        let public = send(&mut nat, &flow, secs(1)).unwrap();
        for remote in [remote(1, 1), remote(1, 2), remote(2, 1)] {
            let probe = inbound(Protocol::Udp, remote, public);
            assert_eq!(receive(&mut nat, &probe, secs(1)), Err(Refusal::NoMapping));
        }
    }
}

/// With a full pool and a full quota, strangers get what they got before.
// Proves: 4787-REQ-11
#[test]
fn a_filter_is_the_same_at_any_fill() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        let settings = PoolSettings { quota: quota(1, 65_536), ..class(mapping, filtering) };
        let (mut nat, _) = nat_with(settings, 1, 50_000);
        let mut full = 0;
        for port in 0..70 {
            let flow = key(Protocol::Udp, (pod(1), 5000 + port), remote(1, 1));
            let Ok(public) = send(&mut nat, &flow, secs(1)) else {
                full += 1;
                continue;
            };
            let senders = [remote(1, 1), remote(1, 2), remote(2, 1), remote(9, 9)];
            for (sender, expected) in senders.into_iter().zip(expected(mapping, filtering)) {
                // Each probe from a port of its own: one remote, one internal endpoint, one session.
                let sender = if sender == flow.dst {
                    sender
                } else {
                    Endpoint::new(sender.addr, sender.port + 10 * (port + 1))
                };
                let got = receive(&mut nat, &inbound(Protocol::Udp, sender, public), secs(1));
                assert_eq!(got.is_ok(), expected.is_ok(), "{mapping:?} {filtering:?} {port}");
                assert!(got.is_err() || got == Ok(flow.src));
            }
        }
        assert_eq!(full, 6);
    }
}

/// What was admitted is answered from the same public endpoint, and reaches nobody else.
#[test]
fn an_admitted_flow_is_a_session_both_ways() {
    let settings = class(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    let (mut nat, _) = nat_with(settings, 1, 100);
    let public =
        send(&mut nat, &key(Protocol::Tcp, (pod(1), 5000), remote(1, 1)), secs(1)).unwrap();
    let caller = inbound(Protocol::Tcp, remote(2, 7), public);
    let slot = nat.open_inbound(&caller, SYN, secs(1)).unwrap();
    assert_eq!(slot.direction(), Direction::Inbound);
    nat.commit(slot, secs(1), 60, SYN);
    let rewrite = nat.rewrite(slot);
    assert_eq!((rewrite.src, rewrite.dst), (caller.src, Endpoint::new(pod(1), 5000)));
    let answer = key(Protocol::Tcp, (pod(1), 5000), caller.src);
    let back = nat.find(&answer).unwrap();
    assert_eq!((nat.rewrite(back).src, nat.rewrite(back).dst), (public, caller.src));
    let both = numbered(TcpFlags::SYN | TcpFlags::ACK, 0);
    nat.commit(back, secs(1), 60, Some(&both));
    nat.commit(slot, secs(1), 60, ACK);
    nat.commit(back, secs(1), 60, ACK);
    let sessions = all_sessions(&nat, secs(1));
    let session = sessions.iter().find(|s| s.remote == caller.src).unwrap();
    assert_eq!((session.state, session.opened_by), (State::Established, Realm::External));
}

#[test]
fn only_a_syn_opens_a_connection_from_outside() {
    let settings = class(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    let (mut nat, _) = nat_with(settings, 1, 100);
    let public =
        send(&mut nat, &key(Protocol::Tcp, (pod(1), 5000), remote(1, 1)), secs(1)).unwrap();
    let caller = inbound(Protocol::Tcp, remote(2, 7), public);
    for flags in [TcpFlags::ACK, TcpFlags::RST, TcpFlags::SYN | TcpFlags::ACK, TcpFlags::FIN, 0] {
        let opened = nat.open_inbound(&caller, Some(&Segment::bare(flags)), secs(1));
        assert_eq!(opened, Err(Refusal::NotSyn));
    }
    assert_eq!(nat.stats().sessions, 1);
}

/// Requests from outside have no identifier that is ours; replies are filtered.
// Proves: 5508-REQ-1
#[test]
fn icmp_replies_are_filtered_and_requests_refused() {
    for filtering in CLASSES {
        let settings = class(Behavior::EndpointIndependent, filtering);
        let (mut nat, _) = nat_with(settings, 1, 100);
        let ping = key(Protocol::Icmp, (pod(1), 77), remote(1, 0));
        let public = send(&mut nat, &ping, secs(1)).unwrap();
        let reply = |from: Endpoint| inbound(Protocol::Icmp, from, public);
        assert_eq!(receive(&mut nat, &reply(remote(1, 0)), secs(1)), Ok(ping.src));
        let stranger = receive(&mut nat, &reply(remote(2, 0)), secs(1));
        assert_eq!(stranger.is_ok(), filtering == Behavior::EndpointIndependent);
        let request = inbound(Protocol::Icmp, remote(1, 77), Endpoint::new(public.addr, 0));
        assert_eq!(receive(&mut nat, &request, secs(1)), Err(Refusal::NoMapping));
    }
}

/// A scan of all ports makes nothing that stays.
#[test]
fn strangers_make_no_state() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        if filtering == Behavior::EndpointIndependent {
            continue;
        }
        let (mut nat, pool) = nat_with(class(mapping, filtering), 1, 10_000);
        send(&mut nat, &key(Protocol::Udp, (pod(1), 5000), remote(1, 1)), secs(1)).unwrap();
        let before = nat.stats();
        for port in 0..=u16::MAX {
            let public = Endpoint::new(pool.addresses[0].addr, port);
            for protocol in Protocol::ALL {
                let probe = inbound(protocol, remote(9, 9), public);
                assert!(nat.open_inbound(&probe, opening(protocol), secs(1)).is_err());
            }
        }
        assert_eq!(nat.stats(), before);
    }
}
