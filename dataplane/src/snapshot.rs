//! The only way in which configuration reaches a worker.
//!
//! The control thread builds a [`Snapshot`] and publishes it; every worker looks once per burst
//! whether there is a new one ([`Published`]), which costs one relaxed load when there is not.

mod published;
mod sync {
    pub(super) use std::sync::Mutex;
    pub(super) use std::sync::atomic::{AtomicU64, Ordering};
}

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ahash::RandomState;
use conntrack::{Claimant, Pool, PublicAddress, Standing, Timers};

use crate::forward::{Fixed, Forwards};
use crate::interface::{Interface, InterfaceId};
use crate::load::LatencySample;
use crate::roads::{Journey, Roads};
use crate::rule::RuleSet;

pub use published::Published;

/// Everything that workers know of the world.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// By [`InterfaceId`].
    pub interfaces: Vec<Interface>,
    /// What the administrator wants.
    pub policy: Arc<Policy>,
    /// What the kernel knows.
    pub roads: Arc<Roads>,
}

/// What the administrator wants: validated objects, ready for look-up.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Raised by every change of configuration.
    pub generation: u32,
    /// Raised by every change that takes a public endpoint from whoever has it: then workers look for sessions that
    /// are to end.
    pub cuts: u32,
    /// By [`PoolId`](conntrack::PoolId).
    pub pools: Vec<Arc<Pool>>,
    /// Which flow goes where.
    pub rules: RuleSet,
    /// Finds a pool address.
    pub addresses: Addresses,
    /// Finds a fixed mapping.
    pub forwards: Forwards,
    /// What natgate says by itself.
    pub answers: Answers,
    /// What becomes of the segment sizes that the ends of TCP connections announce.
    pub mss_clamp: MssClamp,
    /// What new flows get while there is overload.
    pub slow_path_budget: SlowPathBudget,
    /// Of how many turns packets' stay is timed.
    pub latency_sample: LatencySample,
    /// No session is opened any more; those that there are go on.
    pub draining: bool,
    /// Sessions are recorded, too.
    pub record_sessions: bool,
}

/// Packets in a turn that may open a session while receive rings overflow.
///
/// 4 in a burst of 64 is about a sixth of the time of a worker that needs 200 ns for a packet, and some 250,000 new
/// sessions a second.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SlowPathBudget(pub u32);

impl Default for SlowPathBudget {
    fn default() -> Self {
        Self(4)
    }
}

/// Whether the maximum segment size that a SYN or SYN-ACK announces is lowered; it is never raised, nor added.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MssClamp {
    /// To what the connection's way through this gateway carries on both sides, where that may be less than the ends
    /// think: with tunnels, or links of different MTU.
    #[default]
    Auto,
    /// Never.
    Off,
    /// To this many bytes.
    Bytes(u16),
}

/// The pools' addresses. Most of the addresses that are looked up are nobody's here, and far from all of these:
/// a comparison or two tells.
#[derive(Clone, Debug, Default)]
pub struct Addresses {
    all: HashMap<Ipv4Addr, Arc<PublicAddress>, RandomState>,
    /// The lowest, and how far the highest is from there.
    lowest: u32,
    extent: u32,
    /// By distance from the lowest, unless the highest is too far away.
    near: Box<[Option<Arc<PublicAddress>>]>,
}

/// Addresses that are no farther apart than this are found by their distance.
const NEAR: u32 = 1 << 12;

impl Addresses {
    /// The address object of `addr`, if it is a pool's.
    #[inline]
    pub fn get(&self, addr: &Ipv4Addr) -> Option<&Arc<PublicAddress>> {
        let distance = u32::from(*addr).wrapping_sub(self.lowest);
        if distance > self.extent {
            return None;
        }
        if let Some(near) = self.near.get(distance as usize) {
            return near.as_ref();
        }
        self.all.get(addr)
    }

    /// Whether `addr` is a pool's.
    #[inline]
    pub fn contains_key(&self, addr: &Ipv4Addr) -> bool {
        self.get(addr).is_some()
    }

    /// The lowest, and how far the highest is from there; without any, only 0.0.0.0 lies between them.
    pub(crate) fn span(&self) -> (u32, u32) {
        (self.lowest, self.extent)
    }

    /// All of them.
    pub fn keys(&self) -> impl Iterator<Item = &Ipv4Addr> {
        self.all.keys()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.all.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }
}

impl FromIterator<Arc<PublicAddress>> for Addresses {
    fn from_iter<T: IntoIterator<Item = Arc<PublicAddress>>>(addresses: T) -> Self {
        let all: HashMap<_, _, _> = addresses.into_iter().map(|it| (it.addr, it)).collect();
        let numbers = || all.keys().map(|&addr| u32::from(addr));
        let (lowest, highest) = (numbers().min().unwrap_or(0), numbers().max().unwrap_or(0));
        let extent = highest - lowest;
        let count = if extent < NEAR && !all.is_empty() { extent + 1 } else { 0 };
        let near = (0..count).map(|n| all.get(&Ipv4Addr::from(lowest + n)).cloned()).collect();
        Self { all, lowest, extent, near }
    }
}

/// How the sender of a packet that may not pass learns it (decision D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// By ICMP.
    Icmp,
    /// By a TCP reset; by ICMP where there is no TCP.
    Reset,
    /// Not at all.
    Silent,
}

/// What natgate says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// Answer pings to pool addresses.
    pub ping: bool,
    /// Pods' flows that no rule allows: ICMP 3/13.
    pub denied: Refused,
    /// From outside to a port of a pool address that nobody has: ICMP 3/3.
    pub unmapped: Refused,
    /// ICMP errors a second, all workers together (RFC 1812 4.3.2.8).
    pub errors_per_second: u32,
    /// ICMP errors a second to one subscriber.
    pub errors_per_subscriber: u32,
    /// Interfaces that no ICMP error leaves by (RFC 5508 REQ-9).
    pub muted: Vec<InterfaceId>,
    /// Segments without session get no reset until the process is this old.
    pub grace: Duration,
}

impl Default for Answers {
    fn default() -> Self {
        Self {
            ping: true,
            denied: Refused::Icmp,
            unmapped: Refused::Silent,
            errors_per_second: 1_000,
            errors_per_subscriber: 10,
            muted: Vec::new(),
            grace: Duration::from_secs(10),
        }
    }
}

impl Policy {
    /// A policy of `pools`, `rules` and fixed mappings; pools are indexed by their id.
    pub fn new(
        generation: u32,
        pools: Vec<Arc<Pool>>,
        rules: RuleSet,
        forwards: Forwards,
        answers: Answers,
    ) -> Self {
        let addresses = addresses(&pools);
        let mss_clamp = MssClamp::default();
        let slow_path_budget = SlowPathBudget::default();
        Self {
            generation,
            cuts: 0,
            pools,
            rules,
            addresses,
            forwards,
            answers,
            mss_clamp,
            slow_path_budget,
            latency_sample: LatencySample::default(),
            draining: false,
            record_sessions: false,
        }
    }

    /// The same policy with `pools`, indexed by their id, in place of its own.
    #[must_use]
    pub fn with_pools(&self, pools: Vec<Arc<Pool>>) -> Self {
        Self { addresses: addresses(&pools), pools, ..self.clone() }
    }

    /// Whether the public endpoint of a session is still that of its pod.
    pub fn stands(&self, claimant: &Claimant) -> bool {
        let owner = || self.forwards.owner(claimant.protocol, claimant.public);
        self.addresses.contains_key(&claimant.public.addr)
            && (!claimant.fixed || owner().is_some_and(|owner| owner.internal == claimant.internal))
    }

    /// How long fragments of a datagram are followed: which pool it is for shows only when its first
    /// fragment has come, so the most patient pool decides for all.
    pub fn fragment_lifetime(&self) -> Duration {
        let lifetimes = self.pools.iter().map(|pool| pool.settings.timers.fragment);
        lifetimes.max().unwrap_or(Timers::default().fragment)
    }
}

/// The public addresses of `pools` that somebody may have sessions on.
fn addresses(pools: &[Arc<Pool>]) -> Addresses {
    let kept = [Standing::Serving, Standing::Leaving];
    let kept = pools.iter().flat_map(|pool| kept.map(|standing| pool.with_standing(standing)));
    kept.flatten().cloned().collect()
}

impl Snapshot {
    /// The [overlay](Interface::overlay) of the pod with the address `pod` in the VXLAN network with this VNI; without
    /// one, of the pod that the host's routes lead to. `None`: there is no such network.
    pub fn overlay_of(&self, pod: Ipv4Addr, vni: Option<u32>) -> Option<u16> {
        let interface = match vni {
            Some(vni) => {
                let of = |it: &&Interface| it.tunnel.is_some_and(|tunnel| tunnel.vni == vni);
                return self.interfaces.iter().find(of).map(|it| it.overlay);
            }
            // Nobody has a number.
            None if self.roads.overlays.is_empty() => None,
            None => self.roads.interface_of(self.roads.next_hop(&Journey::to(pod))),
        };
        let interface = interface.and_then(|id| self.interfaces.get(id.index()));
        Some(interface.map_or(0, |it| it.overlay))
    }

    /// Whether the public endpoint of a session is still that of its pod.
    pub fn stands(&self, claimant: &Claimant) -> bool {
        let is_its = |fixed: Fixed| {
            self.overlay_of(fixed.internal.addr, fixed.vni) == Some(claimant.overlay)
        };
        let owner = || self.policy.forwards.owner(claimant.protocol, claimant.public);
        self.policy.stands(claimant) && (!claimant.fixed || owner().is_some_and(is_its))
    }
}
