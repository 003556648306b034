//! Who sends what to whom, and when: generators that like to hit the same few hosts, ports and moments.

use std::time::Duration;

use conntrack::{
    Behavior, HoldDown, InboundRefresh, Overlap, PoolSettings, Pooling, Quota, Scatter,
};
use proptest::prelude::*;
use proptest::sample::select;

/// What one step does. Numbers are taken modulo the number of things there are.
#[derive(Clone, Copy, Debug)]
pub enum Act {
    /// Pods open flows: this many internal ports in a row.
    Open { pod: u8, port: u8, remote: u8, protocol: u8, count: u8, say: Say },
    /// The pod speaks on a session that there is.
    Speak { session: u8, say: Say },
    /// Its remote answers.
    Answer { session: u8, say: Say },
    /// Both, as hosts do: the rest of the handshake.
    Shake { session: u8 },
    /// Both, as hosts do: two FINs and their acknowledgements.
    Close { session: u8 },
    /// Somebody sends to a public endpoint that was given out, now or before.
    Stray { public: u8, remote: u8, say: Say },
    /// A pod sends to one.
    Hairpin { pod: u8, port: u8, public: u8, say: Say },
}

/// What a TCP segment says, in terms of what its sender knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Say {
    Syn,
    /// A SYN of another connection.
    OtherSyn(u32),
    SynAck,
    /// Acknowledges all, and carries this many bytes.
    Data(u16),
    /// Acknowledges nothing new.
    OldAck,
    Fin,
    /// A reset: exactly what is expected, or in the window.
    Reset,
    ResetInWindow,
    /// A reset that refuses a SYN.
    Refuse,
    /// Guesses: far outside the window.
    WildReset(u32),
    WildFin(u32),
    WildAck(u32),
    /// Any flags, any numbers.
    Junk(u8, u32),
}

#[derive(Clone, Copy, Debug)]
pub enum Wait {
    None,
    Millis(u64),
    /// Until a session is due, or its second full, and this many milliseconds more or less.
    Due {
        session: u8,
        full: bool,
        off: i8,
    },
    /// Until so long after a port was last freed.
    Rested {
        seconds: u64,
        off: i8,
    },
}

#[derive(Clone, Debug)]
pub struct Step {
    pub wait: Wait,
    pub act: Act,
}

#[derive(Clone, Debug)]
pub struct Scenario {
    pub seed: u64,
    pub settings: PoolSettings,
    pub addresses: u8,
    pub max_sessions: usize,
    pub steps: Vec<Step>,
}

fn say() -> impl Strategy<Value = Say> {
    prop_oneof![
        4 => Just(Say::Syn),
        2 => any::<u32>().prop_map(Say::OtherSyn),
        3 => Just(Say::SynAck),
        5 => select(vec![0, 1, 100, 1400]).prop_map(Say::Data),
        1 => Just(Say::OldAck),
        3 => Just(Say::Fin),
        2 => Just(Say::Reset),
        1 => Just(Say::ResetInWindow),
        1 => Just(Say::Refuse),
        1 => any::<u32>().prop_map(Say::WildReset),
        1 => any::<u32>().prop_map(Say::WildFin),
        1 => any::<u32>().prop_map(Say::WildAck),
        1 => (any::<u8>(), any::<u32>()).prop_map(|(flags, seq)| Say::Junk(flags, seq)),
    ]
}

/// The first segment of a flow: nearly always a SYN.
fn first() -> impl Strategy<Value = Say> {
    prop_oneof![8 => Just(Say::Syn), 1 => say()]
}

fn act() -> impl Strategy<Value = Act> {
    let byte = any::<u8>;
    let count = prop_oneof![6 => Just(1u8), 1 => 2u8..40];
    prop_oneof![
        6 => (byte(), byte(), byte(), byte(), count, first()).prop_map(
            |(pod, port, remote, protocol, count, say)| {
                Act::Open { pod, port, remote, protocol, count, say }
            }
        ),
        4 => (byte(), say()).prop_map(|(session, say)| Act::Speak { session, say }),
        4 => (byte(), say()).prop_map(|(session, say)| Act::Answer { session, say }),
        3 => byte().prop_map(|session| Act::Shake { session }),
        2 => byte().prop_map(|session| Act::Close { session }),
        2 => (byte(), byte(), first())
            .prop_map(|(public, remote, say)| Act::Stray { public, remote, say }),
        1 => (byte(), byte(), byte(), first())
            .prop_map(|(pod, port, public, say)| Act::Hairpin { pod, port, public, say }),
    ]
}

fn wait() -> impl Strategy<Value = Wait> {
    let near = -1i8..=1;
    prop_oneof![
        10 => Just(Wait::None),
        3 => (1u64..2_000).prop_map(Wait::Millis),
        3 => (1u64..130).prop_map(|s| Wait::Millis(s * 1000)),
        1 => (1u64..8_000).prop_map(|s| Wait::Millis(s * 1000 + 1)),
        3 => (any::<u8>(), any::<bool>(), near.clone())
            .prop_map(|(session, full, off)| Wait::Due { session, full, off }),
        1 => (select(vec![2u64, 10, 60, 120, 121, 600]), near)
            .prop_map(|(seconds, off)| Wait::Rested { seconds, off }),
    ]
}

fn behavior() -> impl Strategy<Value = Behavior> {
    select(vec![
        Behavior::EndpointIndependent,
        Behavior::AddressDependent,
        Behavior::AddressAndPortDependent,
    ])
}

/// One of the two profiles, some of whose settings are others; in all cases the pool is tiny.
pub fn settings() -> impl Strategy<Value = PoolSettings> {
    let profile = select(vec![PoolSettings::high_density(), PoolSettings::rfc4787()]);
    let classes = proptest::option::weighted(0.6, (behavior(), behavior(), behavior()));
    let flags = any::<[bool; 5]>();
    let sizes = (select(vec![16u16, 32, 64]), 1u32..=3, proptest::option::weighted(0.3, 2u32..20));
    let rests = proptest::option::weighted(
        0.5,
        (select(vec![0u64, 2, 10, 120]), select(vec![0u64, 5, 120]), 0u32..40),
    );
    let limits = proptest::option::weighted(0.3, (3u32..30, 1u32..8, 1u32..4, 1u32..6, 1u32..10));
    (profile, classes, flags, sizes, rests, limits).prop_map(
        |(mut settings, classes, flags, (size, blocks, ports), rests, limits)| {
            if let Some((mapping, tcp, udp)) = classes {
                (settings.mapping, settings.filtering_tcp) = (mapping, tcp);
                settings.filtering_udp = udp;
            }
            let [arbitrary, spill, by_address, no_refresh, odd] = flags;
            if arbitrary && odd {
                settings.pooling = Pooling::Arbitrary;
            }
            if odd {
                settings.spill = spill;
                settings.parity = !settings.parity;
            }
            if by_address {
                settings.overlap = Overlap::Address;
            }
            if no_refresh && odd {
                settings.inbound_refresh = InboundRefresh::None;
            }
            settings.block_size = size;
            settings.ports = 1024..=1023 + size * 2;
            settings.low_ports = settings.low_ports.map(|_| 992..=1023);
            settings.scatter = settings.scatter.filter(|_| size == 32).map(|_| Scatter {
                ports: 1024 + size * 2..=1023 + size * 3,
                rest: Duration::from_secs(2),
            });
            if settings.scatter.is_some() {
                settings.ports = 1024..=1023 + size * 3;
            }
            settings.quota = Quota { blocks, tcp: ports, udp: ports, ..settings.quota };
            if let Some((port, block, max)) = rests {
                settings.hold_down = HoldDown {
                    port: Duration::from_secs(port),
                    block: Duration::from_secs(block),
                    max_ports: (max > 10).then_some(max),
                    after_restart: Duration::ZERO,
                };
            }
            limit(&mut settings.quota, limits, odd);
            settings
        },
    )
}

fn limit(quota: &mut Quota, limits: Option<(u32, u32, u32, u32, u32)>, by_rate: bool) {
    let Some((sessions, half_open, per_mapping, rate, burst)) = limits else { return };
    (quota.sessions, quota.half_open, quota.burst) = (sessions, half_open, burst);
    quota.sessions_per_mapping = Some(per_mapping);
    quota.new_per_second = by_rate.then_some(rate);
}

/// Scenarios of `steps` steps at most.
pub fn scenario(steps: usize) -> impl Strategy<Value = Scenario> {
    let step = (wait(), act()).prop_map(|(wait, act)| Step { wait, act });
    let max_sessions = prop_oneof![5 => Just(1_000usize), 1 => 2usize..30];
    let steps = proptest::collection::vec(step, 1..=steps);
    (any::<u64>(), settings(), 1u8..=2, max_sessions, steps).prop_map(
        |(seed, settings, addresses, max_sessions, steps)| Scenario {
            seed,
            settings,
            addresses,
            max_sessions,
            steps,
        },
    )
}
