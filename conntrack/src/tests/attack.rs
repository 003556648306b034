//! What costs much is had seldom.

use super::*;

/// Each of the pod's ports is used towards most remotes: a search for another one walks them all, and a pod
/// must not keep its worker busy with that.
#[test]
fn searches_in_vain_are_limited_in_time() {
    const PORTS: u16 = 8 * 64;
    const REMOTES: u8 = 21;
    let quota = quota(8, 65_536);
    let settings = PoolSettings { quota, scatter: None, ..PoolSettings::default() };
    let (mut nat, _) = nat_with(settings, 1, 20_000);
    let flow = |port, n| key(Protocol::Udp, (pod(1), port), remote(n, 443));
    for n in 0..REMOTES {
        // One port is left towards the last one.
        for port in 0..PORTS - u16::from(n + 1 == REMOTES) {
            send(&mut nat, &flow(1024 + port, n), secs(1)).unwrap();
        }
    }
    for port in 0..200 {
        let n = (port % u16::from(REMOTES - 1)) as u8;
        let refused = send(&mut nat, &flow(40_000 + port, n), secs(2));
        assert_eq!(refused, Err(Refusal::QuotaBlocks));
    }
    let last = flow(50_000, REMOTES - 1);
    assert_eq!(send(&mut nat, &last, secs(2)), Err(Refusal::QuotaBlocks), "not looked for");
    let later = secs(2) + Duration::from_millis(200);
    assert!(send(&mut nat, &last, later).is_ok(), "and found");
}
