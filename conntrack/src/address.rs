//! A public address: its blocks, its ports that nobody gets, its region for DNS.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;

use crate::block::PortBlock;
use crate::claims::Claims;
use crate::directory::{BlockNumber, Directory};
use crate::endpoint::{Endpoint, Protocol};
use crate::key::Secret;
use crate::pool::PoolSettings;
use crate::time::Timestamp;

/// Queries to this port are scattered.
pub(crate) const REMOTE_DNS: u16 = 53;
/// The first port that is not low (RFC 4787 REQ-3a).
const FIRST_HIGH: u16 = 1024;
/// Ports in a block of low ports: small, so that one address serves many subscribers.
const LOW_BLOCK: u16 = 16;

/// The two ranges of ports that RFC 4787 REQ-3a keeps apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PortClass {
    /// Below 1024, where the pool has such ports.
    Low,
    /// All others.
    High,
}

/// A public address and who holds its port blocks; shared by all workers.
#[derive(Debug)]
pub struct PublicAddress {
    /// The address.
    pub addr: Ipv4Addr,
    /// Its blocks of ports from 1024 on.
    pub directory: Directory,
    /// Its small blocks of ports below 1024.
    pub low: Directory,
    /// Who uses it in protocols without ports.
    pub claims: Arc<Claims>,
    /// Ports in these directories that are never given out.
    never: Box<[RangeInclusive<u16>]>,
    /// The ports that DNS queries are scattered over.
    scatter: Option<RangeInclusive<u16>>,
}

impl PublicAddress {
    /// An address under `settings`, all of whose blocks are free. Ports in `reserved` are never given out.
    pub fn new(addr: Ipv4Addr, settings: &PoolSettings, reserved: &[RangeInclusive<u16>]) -> Self {
        let never: Box<[_]> = settings.except.iter().chain(reserved).cloned().collect();
        let scatter = settings.scatter_region();
        let closed = |ports| is_closed(ports, &never, scatter.as_ref());
        let low = settings.low_ports.clone().unwrap_or(RangeInclusive::new(1, 0));
        let low = *low.start()..=(*low.end()).min(FIRST_HIGH - 1);
        Self {
            addr,
            directory: Directory::with_closed(settings.ports.clone(), settings.block_size, closed),
            low: Directory::with_closed(low, LOW_BLOCK, closed),
            claims: Arc::default(),
            never,
            scatter,
        }
    }

    /// The same address, with the same holders, under settings that shape it as those before do
    /// ([`PoolSettings::shapes_as`]). Ports in `reserved`, and nothing else than they and `settings.except`, are never
    /// given out; who has one keeps it. Call [`settle`](Self::settle) when it takes effect.
    #[must_use]
    pub fn reserving(&self, settings: &PoolSettings, reserved: &[RangeInclusive<u16>]) -> Self {
        Self {
            addr: self.addr,
            directory: self.directory.clone(),
            low: self.low.clone(),
            claims: Arc::clone(&self.claims),
            never: settings.except.iter().chain(reserved).cloned().collect(),
            scatter: self.scatter.clone(),
        }
    }

    /// Gives out the blocks that have a port to give, and no others.
    pub fn settle(&self) {
        for directory in [&self.directory, &self.low] {
            directory.close_only(|ports| self.is_closed(ports));
        }
    }

    /// The ports that are never given out.
    pub fn never(&self) -> &[RangeInclusive<u16>] {
        &self.never
    }

    /// Whether nobody holds a block, none rests at `now`, and nobody has a claim.
    pub fn is_vacant(&self, now: Timestamp) -> bool {
        let vacant = |directory: &Directory| directory.held() == 0 && directory.resting(now) == 0;
        vacant(&self.directory) && vacant(&self.low) && self.claims.is_empty()
    }

    /// Whether a block of these ports is nobody's: it has no port to give, or reaches into the region for DNS.
    fn is_closed(&self, ports: RangeInclusive<u16>) -> bool {
        is_closed(ports, &self.never, self.scatter.as_ref())
    }

    /// An address without blocks, which belongs to one host as a whole.
    pub fn fixed(addr: Ipv4Addr) -> Self {
        Self {
            addr,
            directory: Directory::empty(),
            low: Directory::empty(),
            claims: Arc::default(),
            never: Box::default(),
            scatter: None,
        }
    }

    /// The worker, of `workers`, whose subscribers prefer this address, so that replies to it can be steered to them.
    pub fn leaning(&self, workers: u16) -> u16 {
        (u32::from(self.addr) % u32::from(workers.max(1))) as u16
    }

    /// Whether `port` is never given out, though it lies in a block.
    pub fn is_reserved(&self, port: u16) -> bool {
        is_in(&self.never, port)
    }

    /// The worker that owns `port`, if its block is held.
    #[inline]
    pub fn worker_of(&self, port: u16) -> Option<u16> {
        self.low.worker_of(port).or_else(|| self.directory.worker_of(port))
    }

    /// The worker, of `workers`, that owns a packet of `protocol` from `remote` to `port`, if anybody does.
    /// Without ports, the remote tells.
    #[inline]
    pub fn home_of(
        &self,
        protocol: Protocol,
        port: u16,
        remote: Endpoint,
        secret: &Secret,
        workers: u16,
    ) -> Option<u16> {
        if let Protocol::Other(number) = protocol {
            return self.claims.worker_of(number, remote.addr);
        }
        if protocol == Protocol::Udp
            && let Some(worker) = self.scatter_worker(port, remote, secret, workers)
        {
            return Some(worker);
        }
        match protocol {
            // Its sessions have no port: the remote tells whose they are.
            Protocol::Other(number) => self.claims.worker_of(number, remote.addr),
            _ => self.worker_of(port),
        }
    }

    /// The worker, of `workers`, whose UDP sessions with `remote` have the public port `port`, if it is one
    /// of the region for DNS and `remote` a server: a keyed hash, so that all workers agree without asking
    /// each other, and nobody else can tell (decision D5).
    #[inline]
    pub fn scatter_worker(
        &self,
        port: u16,
        remote: Endpoint,
        secret: &Secret,
        workers: u16,
    ) -> Option<u16> {
        if remote.port != REMOTE_DNS || !self.scatter.as_ref()?.contains(&port) {
            return None;
        }
        let tuple = (u32::from(self.addr), u32::from(remote.addr), port);
        let hash = secret.scramble(tuple) >> 32;
        Some(((hash * u64::from(workers)) >> 32) as u16)
    }

    /// The region that DNS queries are scattered over.
    pub(crate) fn scatter(&self) -> Option<&RangeInclusive<u16>> {
        self.scatter.as_ref()
    }

    /// The blocks of ports of `class`.
    pub(crate) fn blocks(&self, class: PortClass) -> &Directory {
        match class {
            PortClass::Low => &self.low,
            PortClass::High => &self.directory,
        }
    }

    /// The class that `port` is of, on this address.
    pub(crate) fn class_of(&self, port: u16) -> PortClass {
        if port < FIRST_HIGH && self.low.blocks() > 0 { PortClass::Low } else { PortClass::High }
    }

    /// A block of this address, whose index in the pool is `address`, with all ports unused. `rests`: freed
    /// ports may rest.
    pub(crate) fn block(
        &self,
        address: u16,
        number: BlockNumber,
        class: PortClass,
        rests: bool,
    ) -> PortBlock {
        let directory = self.blocks(class);
        let first = *directory.ports(number).start();
        let ports = (first, directory.block_size());
        PortBlock::new((address, number, class), ports, rests, |port| self.is_reserved(port))
    }
}

fn is_closed(
    mut ports: RangeInclusive<u16>,
    never: &[RangeInclusive<u16>],
    scatter: Option<&RangeInclusive<u16>>,
) -> bool {
    let touches = |region: &RangeInclusive<u16>| {
        region.start() <= ports.end() && ports.start() <= region.end()
    };
    scatter.is_some_and(touches) || ports.all(|port| is_in(never, port))
}

fn is_in(ranges: &[RangeInclusive<u16>], port: u16) -> bool {
    ranges.iter().any(|range| range.contains(&port))
}
