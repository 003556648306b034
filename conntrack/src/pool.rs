//! What may be given out: address pools, their settings and their addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::directory::Directory;

/// Index of a pool; dense, fixed for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolId(pub u16);

impl PoolId {
    /// The index as `usize`.
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Idle times after which sessions end (`requirements.md`, timers).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timers {
    /// UDP (RFC 4787 REQ-5).
    pub udp: Duration,
    /// UDP by destination port below 1024 (RFC 4787 REQ-5a).
    pub udp_by_port: Vec<(u16, Duration)>,
    /// TCP established or half-closed (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP before the handshake is complete.
    pub tcp_opening: Duration,
    /// TCP after both FINs, until both are acknowledged.
    pub tcp_closing: Duration,
    /// TCP after both FINs were acknowledged.
    pub tcp_time_wait: Duration,
    /// TCP after a reset (RFC 7857 section 2.2).
    pub tcp_reset: Duration,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp_query: Duration,
}

impl Default for Timers {
    /// The `high-density` profile.
    fn default() -> Self {
        const fn secs(s: u64) -> Duration {
            Duration::from_secs(s)
        }
        Self {
            udp: secs(300),
            udp_by_port: vec![(53, secs(10)), (123, secs(10))],
            tcp_established: secs(7440),
            tcp_opening: secs(60),
            tcp_closing: secs(240),
            tcp_time_wait: secs(60),
            tcp_reset: secs(60),
            icmp_query: secs(60),
        }
    }
}

/// Everything that may be set for a pool, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// Ports and ICMP identifiers that may be given out; whole blocks only.
    pub ports: RangeInclusive<u16>,
    /// Ports in a block: a power of two from 16 to 4,096; blocks are aligned to it.
    pub block_size: u16,
    /// Blocks that one subscriber may hold in this pool.
    pub quota_blocks: u32,
    /// Sessions that one subscriber may have in this pool.
    pub quota_sessions: u32,
    /// A released block rests this long before another subscriber gets it (decision D3).
    pub block_rest: Duration,
    /// May a subscriber whose address has no free block use another address (decision D6)?
    pub spill: bool,
    /// Idle times.
    pub timers: Timers,
}

impl Default for PoolSettings {
    /// The `high-density` profile.
    fn default() -> Self {
        Self {
            ports: 1024..=u16::MAX,
            block_size: 64,
            quota_blocks: 32,
            quota_sessions: 65_536,
            block_rest: Duration::from_secs(120),
            spill: true,
            timers: Timers::default(),
        }
    }
}

/// A public address and who holds its port blocks; shared by all workers.
#[derive(Debug)]
pub struct PublicAddress {
    /// The address.
    pub addr: Ipv4Addr,
    /// Its blocks.
    pub directory: Directory,
}

/// Public addresses that are given out under one set of settings.
#[derive(Clone, Debug)]
pub struct Pool {
    /// Its index.
    pub id: PoolId,
    /// Its name.
    pub name: String,
    /// Its settings.
    pub settings: PoolSettings,
    /// Its addresses, in the order given. Shared between snapshots, so that a reload keeps who holds what.
    pub addresses: Vec<Arc<PublicAddress>>,
}

impl Pool {
    /// A pool of `addresses`, all of whose blocks are free.
    pub fn new(
        id: PoolId,
        name: impl Into<String>,
        settings: PoolSettings,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        let addresses = addresses
            .into_iter()
            .map(|addr| {
                let directory = Directory::new(settings.ports.clone(), settings.block_size);
                Arc::new(PublicAddress { addr, directory })
            })
            .collect();
        Self { id, name: name.into(), settings, addresses }
    }
}
