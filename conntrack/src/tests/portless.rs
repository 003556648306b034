//! Protocols without ports: told apart by addresses alone.

use super::*;

const GRE: Protocol = Protocol::Other(47);
const ESP: Protocol = Protocol::Other(50);

fn tunnel(protocol: Protocol, n: u8, server: u8) -> FlowKey {
    key(protocol, (pod(n), 0), remote(server, 0))
}

#[test]
fn out_and_back_without_a_block() {
    let (mut nat, pool) = nat_with(tiny_settings(), 2, 100);
    let public = send(&mut nat, &tunnel(GRE, 1, 1), secs(1)).unwrap();
    assert_eq!(public.port, 0);
    let reply = inbound(GRE, remote(1, 0), public);
    assert_eq!(receive(&mut nat, &reply, secs(1)), Ok(Endpoint::new(pod(1), 0)));
    let stranger = inbound(GRE, remote(2, 0), public);
    assert_eq!(receive(&mut nat, &stranger, secs(1)), Err(Refusal::NoMapping));
    assert!(pool.addresses.iter().all(|a| a.directory.held() == 0));
    let address = pool.addresses.iter().find(|a| a.addr == public.addr).unwrap();
    assert_eq!(address.claims.worker_of(47, remote(1, 0).addr), Some(0));
    assert_eq!(address.claims.worker_of(50, remote(1, 0).addr), None);
    assert_eq!(address.claims.worker_of(47, remote(2, 0).addr), None);
}

// Proves: 6888-S3a
#[test]
fn one_address_for_all_protocols() {
    for portless_first in [true, false] {
        let (mut nat, _) = nat_with(PoolSettings::default(), 4, 1_000);
        for n in 1..=20 {
            let mut flows = [
                tunnel(GRE, n, n),
                key(Protocol::Udp, (pod(n), 5000), remote(1, 443)),
                key(Protocol::Icmp, (pod(n), 7), remote(1, 0)),
                tunnel(ESP, n, n),
            ];
            if !portless_first {
                flows.reverse();
                flows.swap(0, 1);
            }
            let publics = flows.map(|flow| send(&mut nat, &flow, secs(1)).unwrap().addr);
            assert!(publics.iter().all(|&addr| addr == publics[0]), "{publics:?}");
        }
    }
}

/// Two workers, one address.
#[test]
fn a_remote_is_one_subscribers() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 100);
    let mut other = Nat::new(1, 100, Secret::from_seed(1), secs(0));
    other.adopt(&[Arc::clone(&pool)]);
    send(&mut nat, &tunnel(GRE, 1, 1), secs(1)).unwrap();
    assert_eq!(send(&mut nat, &tunnel(GRE, 2, 1), secs(1)), Err(Refusal::ProtocolClash));
    assert_eq!(send(&mut other, &tunnel(GRE, 3, 1), secs(1)), Err(Refusal::ProtocolClash));
    assert_eq!((nat.stats().subscribers, other.stats().subscribers), (1, 0));
    send(&mut other, &tunnel(GRE, 3, 2), secs(1)).unwrap();
    send(&mut other, &tunnel(ESP, 3, 1), secs(1)).unwrap();
    let claims = &pool.addresses[0].claims;
    assert_eq!(claims.worker_of(47, remote(1, 0).addr), Some(0));
    assert_eq!(claims.worker_of(47, remote(2, 0).addr), Some(1));
    assert_eq!(claims.worker_of(50, remote(1, 0).addr), Some(1));

    nat.expire(secs(302), 100);
    assert_eq!(claims.worker_of(47, remote(1, 0).addr), None);
    send(&mut other, &tunnel(GRE, 3, 1), secs(302)).unwrap();
    other.expire(secs(700), 100);
    assert!(claims.is_empty());
    for nat in [&mut nat, &mut other] {
        nat.expire(secs(1_400), 100);
        assert_eq!((nat.stats().sessions, nat.stats().subscribers), (0, 0));
    }
}

/// Who has no address yet gets one from where he can talk to that remote; he keeps it then.
#[test]
fn a_newcomer_is_paired_with_an_address_that_is_free_towards_the_remote() {
    let (mut nat, _) = nat_with(tiny_settings(), 4, 100);
    let mut addresses = HashSet::new();
    for n in 1..=4 {
        addresses.insert(send(&mut nat, &tunnel(GRE, n, 1), secs(1)).unwrap().addr);
    }
    assert_eq!(addresses.len(), 4);
    assert_eq!(send(&mut nat, &tunnel(GRE, 5, 1), secs(1)), Err(Refusal::ProtocolClash));
    // The second pod's address is taken towards the second remote, and it gets no other.
    let own = send(&mut nat, &tunnel(GRE, 2, 3), secs(1)).unwrap().addr;
    let mut others = 6..;
    while send(&mut nat, &tunnel(GRE, others.next().unwrap(), 2), secs(1)).unwrap().addr != own {}
    assert_eq!(send(&mut nat, &tunnel(GRE, 2, 2), secs(1)), Err(Refusal::ProtocolClash));
}

#[test]
fn a_refusal_claims_nothing() {
    let (mut nat, pool) = nat_with(tiny_settings(), 1, 1);
    send(&mut nat, &tunnel(GRE, 1, 1), secs(1)).unwrap();
    assert_eq!(send(&mut nat, &tunnel(GRE, 1, 2), secs(1)), Err(Refusal::TableFull));
    let nobody: [Ipv4Addr; 0] = [];
    let empty = Arc::new(Pool::new(PoolId(0), "p", tiny_settings(), nobody));
    let mut without = Nat::new(0, 10, Secret::from_seed(1), secs(0));
    without.adopt(&[empty]);
    assert_eq!(send(&mut without, &tunnel(GRE, 1, 1), secs(1)), Err(Refusal::PoolExhausted));
    nat.expire(secs(302), 100);
    assert!(pool.addresses[0].claims.is_empty());
}
