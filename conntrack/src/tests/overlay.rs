//! Pods with one address in several overlays are different subscribers.

use super::*;

/// What a pod sends that has the address of `key`'s, in `overlay`.
fn within(overlay: u16, key: &FlowKey) -> FlowKey {
    FlowKey { overlay, ..*key }
}

#[test]
fn equal_addresses_in_different_overlays_share_nothing() {
    for mapping in CLASSES {
        let now = secs(1);
        let settings = class(mapping, Behavior::AddressAndPortDependent);
        let (mut nat, _) = nat_with(settings, 4, 100);
        let flow = key(Protocol::Udp, (pod(1), 5000), remote(1, 53));
        let flows = [0, 1, 2].map(|overlay| within(overlay, &flow));
        let seen = flows.map(|flow| send(&mut nat, &flow, now).unwrap());
        assert_eq!(nat.stats().subscribers, 3, "{mapping:?}");
        assert_eq!(nat.stats().sessions, 3, "{mapping:?}");
        // Each has a block of its own, so no two can ever use the same port.
        let mut blocks = seen.map(|public| (public.addr, public.port / 64));
        blocks.sort_unstable();
        assert!(blocks.windows(2).all(|two| two[0] != two[1]), "{mapping:?}: {seen:?}");
        for (flow, public) in flows.iter().zip(seen) {
            let reply = nat.find(&inbound(Protocol::Udp, flow.dst, public)).unwrap();
            assert_eq!(nat.rewrite(reply).dst, flow.src);
            assert_eq!(nat.overlay_towards(reply), flow.overlay);
            assert_eq!(nat.overlay_towards(nat.find(flow).unwrap()), 0, "outside is none");
            // A second flow of the same endpoint keeps to its own mapping (RFC 4787 REQ-1).
            let other = FlowKey { dst: remote(1, 54), ..*flow };
            let again = send(&mut nat, &other, now).unwrap();
            assert_eq!(again.port / 64, public.port / 64);
            if mapping == Behavior::EndpointIndependent {
                assert_eq!(again, public);
            }
        }
    }
}

#[test]
fn what_comes_from_outside_by_a_mapping_reaches_its_overlay() {
    let now = secs(1);
    let settings = class(Behavior::EndpointIndependent, Behavior::EndpointIndependent);
    let (mut nat, _) = nat_with(settings, 4, 100);
    let flow = key(Protocol::Udp, (pod(1), 5000), remote(1, 53));
    for overlay in [3, 4] {
        let public = send(&mut nat, &within(overlay, &flow), now).unwrap();
        let call = inbound(Protocol::Udp, remote(9, 9), public);
        let slot = nat.open_inbound(&call, None, now).unwrap();
        assert_eq!((nat.rewrite(slot).dst, nat.overlay_towards(slot)), (flow.src, overlay));
    }
}
