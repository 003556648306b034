//! Which public endpoint a flow gets, and who may answer.

use super::*;

#[test]
fn out_and_back() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 4, 100);
    let flow = key(Protocol::Udp, (pod(1), 5000), remote(1, 443));
    let slot = nat.open(&flow, POOL, None, secs(1)).unwrap();
    let out = nat.rewrite(slot);
    assert_eq!(out.dst, flow.dst);
    assert!(out.src.addr.octets()[0] == 203 && out.src.port >= 1024);
    let reply = reply_to(&nat, &flow);
    let back = nat.find(&reply).unwrap();
    assert_eq!(back.direction(), Direction::Inbound);
    assert_eq!(nat.rewrite(back).src, flow.dst);
    assert_eq!(nat.rewrite(back).dst, flow.src);
    // 4787-REQ-8, high-density: nobody but the addressed remote.
    let stranger = FlowKey { src: remote(2, 443), ..reply };
    assert_eq!(nat.find(&stranger), None);
    assert_eq!(nat.find(&FlowKey { src: remote(1, 444), ..reply }), None);
}

// Proves: 4787-REQ-2, 6888-S3a
#[test]
fn req_6888_3_paired_pooling() {
    let (mut nat, _) = nat_with(PoolSettings::default(), 4, 5_000);
    let mut seen = HashSet::new();
    for port in 0..1_000 {
        for protocol in Protocol::ALL {
            let flow = key(protocol, (pod(1), 2000 + port), remote(1, 80));
            let tcp = if protocol == Protocol::Tcp { SYN } else { None };
            let slot = nat.open(&flow, POOL, tcp, secs(1)).unwrap();
            seen.insert(nat.rewrite(slot).src.addr);
        }
    }
    assert_eq!(seen.len(), 1);
}

// Proves: 7857-S3a
#[test]
fn req_7857_3a_ports_serve_many_remotes_and_replies_never_cross() {
    let settings = PoolSettings { quota: quota(1, 65_536), ..tiny_settings() };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let mut taken = HashMap::new();
    for server in 1..=4 {
        for port in 0..64 {
            let flow = key(Protocol::Tcp, (pod(1), 3000 + port), remote(server, 80));
            nat.open(&flow, POOL, SYN, secs(1)).unwrap();
            let reply = reply_to(&nat, &flow);
            assert_eq!(taken.insert(reply, flow), None, "two sessions on one tuple");
        }
        let flow = key(Protocol::Tcp, (pod(1), 9999), remote(server, 80));
        assert_eq!(nat.open(&flow, POOL, SYN, secs(1)), Err(Refusal::QuotaBlocks));
    }
    for (reply, flow) in taken {
        assert_eq!(nat.rewrite(nat.find(&reply).unwrap()).dst, flow.src);
    }
}

// Proves: 7857-S4a, 7857-S4b
#[test]
fn req_7857_4b_spills_to_another_address_only_where_the_pool_says_so() {
    for spill in [true, false] {
        let settings = PoolSettings {
            ports: 1024..=1087,
            quota: quota(4, 65_536),
            spill,
            ..PoolSettings::default()
        };
        let (mut nat, _) = nat_with(settings, 2, 1_000);
        let opened: Vec<_> = (0..128)
            .filter_map(|i| {
                let flow = key(Protocol::Udp, (pod(1), 1 + i), remote(1, 80));
                nat.open(&flow, POOL, None, secs(1)).ok().map(|slot| nat.rewrite(slot).src.addr)
            })
            .collect();
        assert_eq!(opened.len(), if spill { 128 } else { 64 });
        assert_eq!(opened.iter().collect::<HashSet<_>>().len(), if spill { 2 } else { 1 });
    }
}

/// Towards four remotes, again and again while the pool fills up, and when it is full.
// Proves: 4787-REQ-1, 4787-REQ-11, 5382-REQ-1, 5508-REQ-1a
#[test]
fn endpoint_independent_mapping_at_any_fill() {
    let settings = PoolSettings {
        quota: quota(1, 65_536),
        ..class(Behavior::EndpointIndependent, Behavior::EndpointIndependent)
    };
    for protocol in Protocol::ALL {
        let (mut nat, _) = nat_with(settings.clone(), 1, 5_000);
        let remotes = |i: u8| match protocol {
            Protocol::Icmp => remote(i, 0),
            _ => remote(1 + i / 2, 1000 + u16::from(i % 2)),
        };
        let mut publics = Vec::new();
        for socket in 0..64 {
            let flow = |n: u16, i| key(protocol, (pod(1), 100 + n), remotes(i));
            publics.push(send(&mut nat, &flow(socket, 0), secs(1)).unwrap());
            // Each socket so far, towards the four remotes: 0, 50, 99 and 100 % full among others.
            for (n, &public) in (0..).zip(&publics) {
                for i in 0..4 {
                    assert_eq!(send(&mut nat, &flow(n, i), secs(1)), Ok(public));
                }
            }
        }
        assert_eq!(publics.iter().collect::<HashSet<_>>().len(), 64, "shared by nobody");
        // Full: no other class comes to help, towards whatever remote.
        for i in 0..6 {
            let late = key(protocol, (pod(1), 999), remotes(i));
            assert_eq!(
                nat.open(&late, POOL, opening(protocol), secs(1)),
                Err(Refusal::QuotaBlocks)
            );
        }
        assert_eq!(
            send(&mut nat, &key(protocol, (pod(1), 100), remotes(7)), secs(1)),
            Ok(publics[0])
        );
    }
}

// Proves: 4787-REQ-11
#[test]
fn address_dependent_mapping_at_any_fill() {
    for filtering in CLASSES {
        let settings = PoolSettings {
            quota: quota(1, 65_536),
            ..class(Behavior::AddressDependent, filtering)
        };
        let (mut nat, _) = nat_with(settings, 1, 5_000);
        let flow = |socket: u16, server, port| {
            key(Protocol::Udp, (pod(1), 100 + socket), remote(server, port))
        };
        let shared = filtering != Behavior::EndpointIndependent;
        let sockets = if shared { 64 } else { 32 };
        let mut publics = HashMap::new();
        for socket in 0..sockets {
            for server in [1, 2] {
                let public = send(&mut nat, &flow(socket, server, 1), secs(1)).unwrap();
                publics.insert((socket, server), public);
                for (&(socket, server), &public) in &publics {
                    assert_eq!(send(&mut nat, &flow(socket, server, 2), secs(1)), Ok(public));
                }
            }
        }
        let distinct = publics.values().collect::<HashSet<_>>().len();
        assert_eq!(distinct, 64, "all ports are in use");
        for server in [1, 2] {
            let late = flow(999, server, 3);
            assert_eq!(nat.open(&late, POOL, None, secs(1)), Err(Refusal::QuotaBlocks));
        }
        // Towards another address, another mapping: where filters tell remotes apart, on a used port.
        assert_eq!(send(&mut nat, &flow(999, 3, 1), secs(1)).is_ok(), shared);
    }
}

/// Two pods with the same source port, and then all ports.
// Proves: 4787-REQ-3, 5382-REQ-7
#[test]
fn no_two_subscribers_share_a_public_endpoint() {
    for (mapping, filtering) in CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))) {
        let (mut nat, _) = nat_with(class(mapping, filtering), 1, 5_000);
        for protocol in Protocol::ALL {
            let server = if protocol == Protocol::Icmp { remote(1, 0) } else { remote(1, 53) };
            let mut owners = HashMap::new();
            for (port, n) in (5000..5064).flat_map(|port| [(port, 1), (port, 2)]) {
                let flow = key(protocol, (pod(n), port), server);
                let public = send(&mut nat, &flow, secs(1)).unwrap();
                assert_eq!(owners.insert(public, flow.src), None, "{mapping:?} {filtering:?}");
                let reply = receive(&mut nat, &inbound(protocol, server, public), secs(1));
                assert_eq!(reply, Ok(flow.src));
            }
            assert_eq!(owners.len(), 128);
        }
    }
}

/// The literal rule of RFC 7857 section 3: two ports of one address are one destination.
// Proves: 7857-S3b
#[test]
fn overlap_by_address_shares_ports_between_destination_addresses_only() {
    let high_density = Behavior::AddressAndPortDependent;
    let settings = PoolSettings {
        overlap: Overlap::Address,
        quota: quota(1, 65_536),
        ..class(high_density, high_density)
    };
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let (mut nat, _) = nat_with(settings.clone(), 1, 5_000);
        for server in 1..=3 {
            let mut used = HashSet::new();
            for i in 0..64 {
                // The same socket to all ports, and other sockets to the same port.
                let flow = key(protocol, (pod(1), 100 + i / 8), remote(server, 1000 + i % 8));
                assert!(used.insert(send(&mut nat, &flow, secs(1)).unwrap()), "a port twice");
            }
            let late = key(protocol, (pod(1), 99), remote(server, 2000));
            assert_eq!(send(&mut nat, &late, secs(1)), Err(Refusal::QuotaBlocks));
        }
        assert_eq!(nat.stats().sessions, 3 * 64);
        // Without the switch, another port is another destination (decision D1).
        let (mut nat, _) =
            nat_with(PoolSettings { overlap: Overlap::Endpoint, ..settings.clone() }, 1, 5_000);
        for i in 0..128 {
            let flow = key(protocol, (pod(1), 100 + i / 2), remote(1, 1000 + i % 2));
            send(&mut nat, &flow, secs(1)).unwrap();
        }
    }
}

/// A closed connection makes room on its own tuple only; the mapping goes with it.
#[test]
fn with_overlap_by_address_a_closed_connection_makes_room() {
    let high_density = Behavior::AddressAndPortDependent;
    let settings = PoolSettings {
        overlap: Overlap::Address,
        quota: quota(1, 65_536),
        ..class(high_density, high_density)
    };
    let (mut nat, _) = nat_with(settings, 1, 5_000);
    let flow = |port| key(Protocol::Tcp, (pod(1), port), remote(1, 80));
    for port in 0..64 {
        send(&mut nat, &flow(port), secs(1)).unwrap();
    }
    assert_eq!(send(&mut nat, &flow(64), secs(1)), Err(Refusal::QuotaBlocks));
    let slot = nat.find(&flow(7)).unwrap();
    let public = nat.rewrite(slot).src;
    nat.commit(slot, secs(2), 40, RST);
    assert_eq!(send(&mut nat, &flow(64), secs(3)), Ok(public));
    assert_eq!((nat.find(&flow(7)), nat.stats().mappings), (None, 64));
}

/// The remote has called back by the mapping of a connection that is over: what it opened still has the
/// endpoint towards its address, so nobody else gets it.
#[test]
fn a_closed_connection_makes_no_room_while_its_mapping_has_another_session() {
    let settings = PoolSettings {
        quota: quota(1, 65_536),
        ..class(Behavior::AddressAndPortDependent, Behavior::AddressDependent)
    };
    let (mut nat, _) = nat_with(settings, 1, 5_000);
    let flow = |port| key(Protocol::Tcp, (pod(1), port), remote(1, 80));
    let publics: Vec<_> =
        (0..64).map(|port| send(&mut nat, &flow(port), secs(1)).unwrap()).collect();
    receive(&mut nat, &inbound(Protocol::Tcp, remote(1, 7), publics[7]), secs(1)).unwrap();
    for port in [7, 9] {
        let slot = nat.find(&flow(port)).unwrap();
        nat.commit(slot, secs(u64::from(port)), 40, RST);
    }
    // The seventh is over for longer.
    assert_eq!(send(&mut nat, &flow(64), secs(20)), Ok(publics[9]));
    assert_eq!(send(&mut nat, &flow(65), secs(20)), Err(Refusal::QuotaBlocks));
}

/// TCP and UDP from one internal endpoint: two mappings with lives of their own.
// Proves: 7857-S5a, 7857-S5c
#[test]
fn mappings_are_per_protocol() {
    let settings = class(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    let (mut nat, _) = nat_with(settings, 1, 100);
    let mut publics = HashMap::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        let flow = key(protocol, (pod(1), 5000), remote(1, 443));
        publics.insert(protocol, send(&mut nat, &flow, secs(0)).unwrap());
    }
    assert_eq!(nat.stats().mappings, 2);
    // The connection is never answered and ends; so does its mapping, and not the other.
    nat.expire(secs(100), 1_000);
    assert_eq!(nat.stats().mappings, 1);
    let probe = |protocol| inbound(protocol, remote(2, 1), publics[&protocol]);
    assert_eq!(receive(&mut nat, &probe(Protocol::Tcp), secs(100)), Err(Refusal::NoMapping));
    let pods = Endpoint::new(pod(1), 5000);
    assert_eq!(receive(&mut nat, &probe(Protocol::Udp), secs(100)), Ok(pods));
}

// Proves: 6888-REQ-5
#[test]
fn a_mapping_has_as_many_sessions_as_it_may() {
    let settings = PoolSettings {
        quota: Quota { sessions_per_mapping: Some(5), ..PoolSettings::default().quota },
        ..class(Behavior::EndpointIndependent, Behavior::EndpointIndependent)
    };
    let (mut nat, _) = nat_with(settings, 1, 100);
    let flow = |port, server| key(Protocol::Udp, (pod(1), port), remote(server, 443));
    let public = send(&mut nat, &flow(1, 1), secs(1)).unwrap();
    for server in 2..=3 {
        send(&mut nat, &flow(1, server), secs(1)).unwrap();
        receive(&mut nat, &inbound(Protocol::Udp, remote(server, 7), public), secs(1)).unwrap();
    }
    assert_eq!(send(&mut nat, &flow(1, 4), secs(1)), Err(Refusal::QuotaSessions));
    let probe = inbound(Protocol::Udp, remote(4, 7), public);
    assert_eq!(receive(&mut nat, &probe, secs(1)), Err(Refusal::QuotaSessions));
    send(&mut nat, &flow(2, 4), secs(1)).unwrap();
}

/// A new configuration changes the class of new flows; old ones keep what they have, and nobody else gets
/// it.
#[test]
fn a_change_of_class_leaves_no_endpoint_with_two_owners() {
    let all: Vec<_> = CLASSES.iter().flat_map(|&m| CLASSES.map(|f| (m, f))).collect();
    for (&before, &after) in all.iter().flat_map(|b| all.iter().map(move |a| (b, a))) {
        let settings = |(mapping, filtering)| PoolSettings {
            quota: quota(1, 65_536),
            ..class(mapping, filtering)
        };
        let (mut nat, pool) = nat_with(settings(before), 1, 5_000);
        let flow = |port, server| key(Protocol::Udp, (pod(1), port), remote(server, 443));
        for port in 0..40 {
            send(&mut nat, &flow(port, 1), secs(1)).unwrap();
        }
        let settings = settings(after);
        nat.adopt(&[Arc::new(Pool { settings, ..Pool::clone(&pool) })]);
        for port in 0..80 {
            let _ = nat.open(&flow(port, 2), POOL, None, secs(1));
        }
        let mut owners = HashMap::new();
        let sessions = all_sessions(&nat, secs(1));
        let exclusive = before.0 == Behavior::EndpointIndependent;
        for s in sessions.iter().filter(|s| exclusive && s.remote == remote(1, 443)) {
            owners.insert(s.public, s.internal);
        }
        for s in &sessions {
            let owner = owners.get(&s.public).copied().unwrap_or(s.internal);
            assert_eq!(owner, s.internal, "{before:?} to {after:?}");
        }
        nat.expire(secs(400), 10_000);
        assert_eq!(nat.stats().sessions, 0);
        assert!(nat.mappings.is_empty());
    }
}

/// The region for DNS is of all subscribers: where anybody may send in, it would give one public endpoint to
/// two of them.
// Proves: 4787-REQ-3
#[test]
fn bug_dns_of_two_pods_shared_a_port_that_anybody_could_send_to() {
    let settings = PoolSettings {
        ports: 1024..=1151,
        scatter: Some(crate::Scatter { ports: 1136..=1151, rest: Duration::from_secs(2) }),
        ..class(Behavior::AddressAndPortDependent, Behavior::EndpointIndependent)
    };
    let (mut nat, _) = nat_with(settings, 1, 1_000);
    let mut owners = HashMap::new();
    for n in 0..64 {
        let flow = key(Protocol::Udp, (pod(1 + n % 2), 5000), remote(1 + n / 2, 53));
        let public = send(&mut nat, &flow, secs(1)).unwrap();
        assert_eq!(*owners.entry(public).or_insert(flow.src), flow.src);
    }
}

/// A pod that had spilled asked for its block there again, although its own address had blocks by then.
// Proves: 4787-REQ-2, 6888-S3a, 7857-S4b
#[test]
fn bug_a_block_given_back_on_another_address_came_before_the_own_address() {
    let settings =
        PoolSettings { ports: 1024..=1087, quota: quota(4, 65_536), ..PoolSettings::default() };
    let (mut nat, pool) = nat_with(settings, 2, 1_000);
    // Protocols without ports need no block, but pair a pod with an address.
    let gre = |n| key(Protocol::Other(47), (pod(n), 0), remote(n, 0));
    let udp = |n| key(Protocol::Udp, (pod(n), 5000), remote(1, 443));
    let home = send(&mut nat, &gre(1), secs(1)).unwrap().addr;
    let rival = (2..50).find(|&n| send(&mut nat, &gre(n), secs(1)).unwrap().addr == home).unwrap();
    assert_eq!(send(&mut nat, &udp(rival), secs(1)).unwrap().addr, home);
    assert_ne!(send(&mut nat, &udp(1), secs(1)).unwrap().addr, home, "spilled");
    for now in [302, 363, 499] {
        nat.expire(secs(now), u32::MAX);
    }
    assert!(pool.addresses.iter().all(|address| address.directory.held() == 0));
    assert_eq!(send(&mut nat, &udp(1), secs(500)).unwrap().addr, home);
}
