//! A gateway with port forwards and 1:1 addresses.
//!
//! ```text
//! 203.0.113.10 tcp 8080        → pod 2, 80       203.0.113.14 ⇄ pod 13
//!              tcp 443         → pod 3, 8443     203.0.113.15 ⇄ pod 14
//!              udp 6000–6010   → pod 2, 7000–7010
//! ```

use conntrack::{Pool, PoolId};

use super::icmp::{GATE, change};
use super::*;
use crate::forward::{Forwards, PortForward, StaticNat};
use crate::rule::RuleSet;
use crate::snapshot::{Answers, Policy};

/// The public endpoints of [`WEB`], its secure sibling, and the first of the range.
pub(super) const WEB: (Ipv4Addr, u16) = (PUBLIC, 8080);
pub(super) const SECURE: (Ipv4Addr, u16) = (PUBLIC, 443);
pub(super) const RANGE: (Ipv4Addr, u16) = (PUBLIC, 6000);
/// 1:1 addresses of pods 13 and 14.
pub(super) const OWN: [Ipv4Addr; 2] =
    [Ipv4Addr::new(203, 0, 113, 14), Ipv4Addr::new(203, 0, 113, 15)];
pub(super) const HOSTS: [Ipv4Addr; 2] =
    [Ipv4Addr::new(10, 244, 1, 13), Ipv4Addr::new(10, 244, 1, 14)];
/// Pods without any fixed mapping; with two workers and with four, some share a worker with pod 2.
pub(super) const CLIENTS: [u8; 5] = [1, 4, 5, 6, 7];

fn forwards() -> Forwards {
    let forward = |name: &str, protocol, (address, port): (_, u16), ports: u16, to: (u8, u16)| {
        let (name, ports) = (name.into(), port..=port + ports - 1);
        let (target, pool) = (pod(to.0), PoolId(0));
        PortForward { name, address, protocol, ports, target, target_port: to.1, vni: None, pool }
    };
    let one = |n: usize| StaticNat {
        name: format!("one-{n}"),
        address: OWN[n],
        target: HOSTS[n],
        vni: None,
        pool: PoolId(1),
    };
    let all = vec![
        forward("web", Protocol::Tcp, WEB, 1, (2, 80)),
        forward("secure", Protocol::Tcp, SECURE, 1, (3, 8443)),
        forward("range", Protocol::Udp, RANGE, 11, (2, 7000)),
    ];
    Forwards::new(all, &[one(0), one(1)])
}

/// Such a gateway, which says `answers`.
pub(super) fn fixed_rig(workers: u16, settings: PoolSettings, answers: Answers) -> Rig {
    let rig = Rig::with(workers, settings.clone(), Some(Mac(ROUTER_MAC)));
    change(&rig, |snapshot| {
        let reserved = vec![8080..=8080, 443..=443, 6000..=6010];
        let addresses = [(PUBLIC, reserved), (Ipv4Addr::new(203, 0, 113, 11), vec![])];
        let shared = Pool::with_reserved(PoolId(0), "default", settings.clone(), addresses);
        let fixed = Pool::fixed(PoolId(1), "fixed", settings, OWN);
        let rules = RuleSet::new(snapshot.policy.rules.rules().to_vec());
        let pools = vec![Arc::new(shared), Arc::new(fixed)];
        snapshot.policy = Arc::new(Policy::new(2, pools, rules, forwards(), answers));
        snapshot.interfaces[INSIDE.index()].address = Some(GATE);
    });
    rig
}

pub(super) fn plain(workers: u16, settings: PoolSettings) -> Rig {
    fixed_rig(workers, settings, Answers::default())
}

/// Both profiles, on one worker and on several.
pub(super) fn every_rig() -> impl Iterator<Item = Rig> {
    let profiles = [PoolSettings::high_density(), PoolSettings::rfc4787()];
    profiles.into_iter().flat_map(|settings| [1, 2, 4].map(|n| plain(n, settings.clone())))
}

/// The packet arrives by `interface` and leaves by `out`, one hop further; what it says then.
#[track_caller]
pub(super) fn pass(
    rig: &mut Rig,
    interface: crate::interface::InterfaceId,
    packet: &[u8],
    out: crate::interface::InterfaceId,
) -> packets::Seen {
    let (by, sent) = rig.one(interface, packet).expect("passed on");
    let (before, after) = (seen(packet), seen(&sent));
    assert_eq!(by, out);
    let next = if out == INSIDE { NODE_MAC } else { ROUTER_MAC };
    assert_eq!(after.macs, (GATE_MAC, next));
    assert_eq!(after.ttl, before.ttl - 1, "one hop, once");
    assert_eq!(after.payload, before.payload);
    after
}

/// The packet turns back to the pods.
#[track_caller]
pub(super) fn turns(rig: &mut Rig, packet: &[u8]) -> packets::Seen {
    pass(rig, INSIDE, packet, INSIDE)
}

/// Whether two pods live on one worker.
pub(super) fn neighbours(rig: &Rig, a: Ipv4Addr, b: Ipv4Addr) -> bool {
    let secret = rig.workers[0].nat.secret();
    let home = |addr| secret.home(addr, rig.workers.len() as u16);
    home(a) == home(b)
}

/// Sessions of all workers.
pub(super) fn sessions(rig: &Rig) -> u64 {
    rig.workers.iter().map(|worker| worker.nat.stats().sessions).sum()
}
