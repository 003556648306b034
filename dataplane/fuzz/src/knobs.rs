//! The gateways of stories: small in everything, so that everything runs out.

use std::net::Ipv4Addr;
use std::time::Duration;

use conntrack::{
    Behavior, MidStream, OnExhaustion, OnExpiry, PoolId, PoolSettings, Pooling, Protocol, Quota,
    Scatter, UnsolicitedSyn,
};
use dataplane::forward::{Forwards, PortForward, StaticNat};
use dataplane::snapshot::{Answers, Refused};

use crate::gateway::{PODS, Setup};
use crate::story::Knobs;

/// The address that is all one pod's.
pub const STATIC: Ipv4Addr = Ipv4Addr::new(203, 0, 113, 20);

impl Knobs {
    /// What the gateway is made with.
    pub fn setup(&self) -> Setup {
        Setup {
            workers: if self.two_workers { 2 } else { 1 },
            sessions: 16,
            frames: 96,
            addresses: if self.one_address { 1 } else { 2 },
            pool: self.pool(),
            forwards: if self.fixed { fixed() } else { Forwards::default() },
            answers: Answers {
                denied: refused(self.refusals[1]),
                unmapped: refused(self.refusals[2]),
                ..Answers::default()
            },
            mtu: [1500, if self.narrow { 1280 } else { 1500 }],
            tunnel: false,
        }
    }

    fn set(&self, bit: u8) -> bool {
        self.settings >> bit & 1 != 0
    }

    fn pool(&self) -> PoolSettings {
        let base =
            if self.rfc4787 { PoolSettings::rfc4787() } else { PoolSettings::high_density() };
        let behavior = |knob: u8, otherwise| match knob % 4 {
            0 => Behavior::EndpointIndependent,
            1 => Behavior::AddressDependent,
            2 => Behavior::AddressAndPortDependent,
            _ => otherwise,
        };
        let rest = Duration::from_secs(5);
        PoolSettings {
            mapping: behavior(self.behaviors[0], base.mapping),
            filtering_tcp: behavior(self.behaviors[1], base.filtering_tcp),
            filtering_udp: behavior(self.behaviors[2], base.filtering_udp),
            // Three blocks on each address, for six pods.
            ports: 1024..=1071,
            block_size: 16,
            quota: Quota { blocks: 1, sessions: 6, ..base.quota },
            pooling: if self.set(0) { Pooling::Arbitrary } else { base.pooling },
            spill: self.set(1),
            parity: self.set(2),
            preserve: self.set(3),
            scatter: self.set(4).then_some(Scatter { ports: 1056..=1071, rest }),
            unsolicited_syn: if self.set(5) {
                UnsolicitedSyn::Delayed
            } else {
                UnsolicitedSyn::Drop
            },
            on_expiry: if self.set(6) { OnExpiry::Reset } else { OnExpiry::Silent },
            mid_stream: if self.set(7) { MidStream::Reset } else { MidStream::Drop },
            on_exhaustion: match self.refusals[0] % 4 {
                0 => OnExhaustion::Icmp,
                1 => OnExhaustion::IcmpAdmin,
                2 => OnExhaustion::Reset,
                _ => OnExhaustion::Silent,
            },
            ..base
        }
    }
}

fn refused(knob: u8) -> Refused {
    match knob % 3 {
        0 => Refused::Icmp,
        1 => Refused::Reset,
        _ => Refused::Silent,
    }
}

/// Ports of the first address lead to the first pod, and the last pod has an address of its own.
fn fixed() -> Forwards {
    let pod = |n| Ipv4Addr::new(PODS, 0, 0, n);
    let forward = |name: &str, protocol| PortForward {
        name: name.into(),
        address: Ipv4Addr::new(203, 0, 113, 10),
        protocol,
        ports: 6000..=6003,
        target: pod(1),
        target_port: 5000,
        vni: None,
        pool: PoolId(0),
    };
    let one = StaticNat {
        name: "one".into(),
        address: STATIC,
        target: pod(6),
        vni: None,
        pool: PoolId(0),
    };
    Forwards::new(vec![forward("tcp", Protocol::Tcp), forward("udp", Protocol::Udp)], &[one])
}
