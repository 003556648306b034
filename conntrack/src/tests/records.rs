//! Do the records say which block was whose? Replayed, they give what the directories say.

use std::collections::BTreeMap;

use super::*;
use crate::key::Secret;
use crate::{BlockChange, SessionChange, What};

type Table = BTreeMap<(Ipv4Addr, u16), (u16, Ipv4Addr, u16)>;

/// Takes the records over; panics where one contradicts the table.
fn replay(nat: &mut Nat, table: &mut Table) {
    while let Some(record) = nat.take_record() {
        let What::Block(change) = record.what else { continue };
        let BlockChange { public, first, last, holder, .. } = change;
        let whose = (last, holder.subscriber, holder.overlay);
        let before = if change.allotted {
            table.insert((public, first), whose)
        } else {
            table.remove(&(public, first))
        };
        let expected = (!change.allotted).then_some(whose);
        assert_eq!(before, expected, "{record:?}");
    }
}

fn held(pool: &Pool) -> Table {
    let mut table = Table::new();
    for address in &pool.addresses {
        for directory in [&address.low, &address.directory] {
            for (number, holder) in directory.held_blocks() {
                let (first, last) = directory.ports(number).into_inner();
                table.insert((address.addr, first), (last, holder.subscriber, holder.overlay));
            }
        }
    }
    table
}

#[test]
fn records_replayed_give_the_blocks_at_any_time() {
    let low = PoolSettings { ports: 512..=1663, ..PoolSettings::default() };
    let settings = [
        PoolSettings { quota: quota(4, 10_000), ports: 1024..=2047, ..PoolSettings::default() },
        PoolSettings { hold_down: HoldDown { block: Duration::ZERO, ..low.hold_down }, ..low },
        PoolSettings { pooling: Pooling::Arbitrary, preserve: true, ..tiny_settings() },
    ];
    for (n, settings) in settings.into_iter().enumerate() {
        let (mut nat, pool) = nat_with(settings, 3, 3_000);
        let secret = Secret::from_seed(n as u64);
        let mut table = Table::new();
        let (mut most, mut changes) = (0, 0);
        for step in 0..20_000_u64 {
            let random = secret.scramble((step, n));
            let now = secs(step / 10);
            let protocol = Protocol::ALL[(random % 3) as usize];
            let (host, port) = ((random >> 8) as u8 % 40, (random >> 16) as u16);
            // Waves, so that blocks are given back.
            if step % 4_000 < 1_500 {
                let to = remote((random >> 40) as u8 % 3, 443);
                let key = FlowKey {
                    overlay: (random >> 50) as u16 % 2,
                    ..key(protocol, (pod(host), port), to)
                };
                let _ = nat.open(&key, POOL, opening(protocol), now);
            }
            nat.expire(now, 200);
            let before = table.clone();
            replay(&mut nat, &mut table);
            changes += usize::from(before != table);
            most = most.max(table.len());
            if step % 16 == 0 {
                assert_eq!(table, held(&pool), "pool {n}, step {step}");
            }
        }
        assert!(most > 5 && changes >= 10, "pool {n}: {most} blocks, {changes} changes");
        nat.expire(secs(90_000), 1_000_000);
        nat.expire(secs(95_000), 1_000_000);
        replay(&mut nat, &mut table);
        assert_eq!((table, held(&pool)), Default::default());
    }
}

#[test]
fn sessions_are_recorded_when_asked_for_and_only_then() {
    let (mut nat, _) = nat_with(tiny_settings(), 1, 100);
    let sessions = |nat: &mut Nat| -> Vec<SessionChange> {
        let all = std::iter::from_fn(|| nat.take_record());
        all.filter_map(|record| match record.what {
            What::Session(change) => Some(change),
            _ => None,
        })
        .collect()
    };
    let open = |nat: &mut Nat, port, at| {
        let key = key(Protocol::Udp, (pod(1), port), remote(1, 443));
        let slot = nat.open(&key, POOL, None, at).unwrap();
        nat.rewrite(slot).src
    };
    open(&mut nat, 1, secs(0));
    assert_eq!(sessions(&mut nat), []);
    nat.record_sessions(true);
    let public = open(&mut nat, 2, secs(1));
    let begun = sessions(&mut nat);
    assert_eq!(begun.len(), 1);
    assert_eq!((begun[0].began, begun[0].internal.port, begun[0].public), (true, 2, public));
    assert_eq!((begun[0].remote, begun[0].protocol), (remote(1, 443), Protocol::Udp));
    nat.expire(secs(400), 1_000);
    let ended = sessions(&mut nat);
    assert_eq!(ended.len(), 2);
    assert!(ended.contains(&SessionChange { began: false, ..begun[0] }));
    nat.record_sessions(false);
    open(&mut nat, 3, secs(401));
    assert_eq!(sessions(&mut nat), []);
}
