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

// Proves: 6888-S3a
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
// Museum: C12
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

// Proves: 7857-S4b
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
        let flow = |i: u16| key(Protocol::Udp, (pod(1), 1 + i), remote(1, 80));
        let opened: Vec<_> = (0..128)
            .filter_map(|i| {
                nat.open(&flow(i), POOL, None, secs(1)).ok().map(|slot| nat.rewrite(slot).src.addr)
            })
            .collect();
        let found = (0..128).filter_map(|i| nat.find(&flow(i)));
        let still = found.map(|slot| nat.rewrite(slot).src.addr);
        assert!(still.eq(opened.iter().copied()), "old flows stay where they are");
        assert_eq!(opened.len(), if spill { 128 } else { 64 });
        assert_eq!(opened.iter().collect::<HashSet<_>>().len(), if spill { 2 } else { 1 });
    }
}
