//! What may be given out: address pools, their settings and their addresses.

use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use crate::address::{PublicAddress, REMOTE_DNS};
use crate::endpoint::Protocol;

/// Index of a pool; dense, fixed for the life of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
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
    /// UDP (RFC 4787 REQ-5, REQ-5c).
    pub udp: Duration,
    /// UDP by destination port below 1024 (RFC 4787 REQ-5a).
    pub udp_by_port: Vec<(u16, Duration)>,
    /// The same, once the only packet out has got one back: one question and one answer is all there is.
    pub udp_answered: Vec<(u16, Duration)>,
    /// TCP established or half-closed (RFC 5382 REQ-5).
    pub tcp_established: Duration,
    /// TCP before the handshake is complete (RFC 7857 section 2.1).
    pub tcp_opening: Duration,
    /// TCP after both FINs, until both are acknowledged.
    pub tcp_closing: Duration,
    /// TCP after both FINs were acknowledged.
    pub tcp_time_wait: Duration,
    /// TCP after a reset (RFC 7857 section 2.2).
    pub tcp_reset: Duration,
    /// ICMP queries (RFC 5508 REQ-2).
    pub icmp_query: Duration,
    /// An unsolicited SYN is held this long before it is answered (RFC 5382 REQ-4).
    pub tcp_incoming_syn: Duration,
    /// Protocols other than TCP, UDP and ICMP.
    pub other: Duration,
    /// Fragment contexts, from the first fragment on.
    pub fragment: Duration,
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
            udp_answered: vec![(53, secs(2))],
            tcp_established: secs(7440),
            tcp_opening: secs(60),
            tcp_closing: secs(240),
            tcp_time_wait: secs(60),
            tcp_reset: secs(60),
            icmp_query: secs(60),
            tcp_incoming_syn: secs(6),
            other: secs(300),
            fragment: secs(2),
        }
    }
}

/// How far a mapping, or a filter, depends on the remote (RFC 4787 sections 4.1 and 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Behavior {
    /// Not at all.
    EndpointIndependent,
    /// On the remote's address.
    AddressDependent,
    /// On the remote's address and port.
    AddressAndPortDependent,
}

/// Is a subscriber always seen under one address (RFC 4787 REQ-2)?
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Under one, as long as it has room.
    Paired,
    /// Each block may be on any address.
    Arbitrary,
}

/// What tells sessions that share a public endpoint apart (RFC 7857 section 3; decision D1).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Overlap {
    /// The remote's address and port.
    Endpoint,
    /// The remote's address: the literal rule of the RFC.
    Address,
}

/// Which inbound packets renew a session (RFC 4787 REQ-6a).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum InboundRefresh {
    /// Those from remotes that the internal endpoint has addressed itself.
    Peers,
    /// None.
    None,
}

/// What happens to a SYN from outside that no mapping admits (RFC 5382 REQ-4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum UnsolicitedSyn {
    /// It is dropped.
    Drop,
    /// It is held for [`Timers::tcp_incoming_syn`], then answered by ICMP 3/3.
    Delayed,
}

/// What happens when an established TCP session has been idle for too long (RFC 5382 section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnExpiry {
    /// Both ends get a reset.
    Reset,
    /// Nothing.
    Silent,
}

/// How a pod learns that there is no port for its flow (decision D2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OnExhaustion {
    /// ICMP 3/1 (RFC 6888 REQ-11).
    Icmp,
    /// ICMP 3/13 (RFC 5508 REQ-8).
    IcmpAdmin,
    /// A TCP reset; ICMP 3/1 for other protocols.
    Reset,
    /// Not at all.
    Silent,
}

/// What a TCP segment from inside gets that belongs to no session and opens none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum MidStream {
    /// A reset, so that the pod does not wait.
    Reset,
    /// Nothing.
    Drop,
}

/// What may repeat in the IPv4 identification of DF-clear packets (RFC 6864; decision D14).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum IpId {
    /// Identifications are used again when there are no others, and counted.
    BestEffort,
    /// Packets are dropped instead.
    Strict,
}

/// What becomes of sessions whose address is taken out of the pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Removal {
    /// They keep it until they end.
    Drain,
    /// They end.
    Cut,
}

/// Limits for one subscriber in one pool (RFC 6888 REQ-4 and 5). `None`: no limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Blocks.
    pub blocks: u32,
    /// An event is raised at this number of blocks.
    pub blocks_soft: Option<u32>,
    /// Sessions.
    pub sessions: u32,
    /// An event is raised at this number of sessions.
    pub sessions_soft: Option<u32>,
    /// Sessions of one mapping (endpoint-independent mapping).
    pub sessions_per_mapping: Option<u32>,
    /// TCP sessions before the handshake is complete.
    pub half_open: u32,
    /// Public TCP ports in use.
    pub tcp: Option<u32>,
    /// Public UDP ports in use.
    pub udp: Option<u32>,
    /// Public ICMP identifiers in use.
    pub icmp: Option<u32>,
    /// New sessions a second.
    pub new_per_second: Option<u32>,
    /// New sessions at once, beyond the rate; at least 1.
    pub burst: u32,
}

/// How long what was freed rests (RFC 6888 REQ-8; decision D3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HoldDown {
    /// A port, before a new mapping of the same subscriber gets it; zero: the oldest first, at once.
    pub port: Duration,
    /// A block, before another subscriber gets it.
    pub block: Duration,
    /// Ports that rest at once at most, in the whole pool; `None`: a quarter of its ports.
    pub max_ports: Option<u32>,
    /// Blocks that were live when the state was lost.
    pub after_restart: Duration,
}

/// A region of ports that all subscribers share for UDP to port 53 (decision D5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scatter {
    /// The region, on every address of the pool; no blocks are given out of it.
    pub ports: RangeInclusive<u16>,
    /// A tuple rests this long.
    pub rest: Duration,
}

/// Everything that may be set for a pool, validated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolSettings {
    /// How far mappings depend on the remote.
    pub mapping: Behavior,
    /// Who may send in by a TCP mapping.
    pub filtering_tcp: Behavior,
    /// Who may send in by a UDP or ICMP mapping.
    pub filtering_udp: Behavior,
    /// What tells sessions on one public endpoint apart; meaningless with endpoint-independent mapping.
    pub overlap: Overlap,
    /// One address for a subscriber, or any.
    pub pooling: Pooling,
    /// May a paired subscriber whose address has no free block use another address (decision D6)?
    pub spill: bool,
    /// A subscriber without sessions keeps its address for this long.
    pub linger: Duration,
    /// Ports and ICMP identifiers that may be given out, whole blocks only (RFC 6056 section 3.2a).
    pub ports: RangeInclusive<u16>,
    /// Ports below 1024 for internal ports below 1024 (RFC 4787 REQ-3a).
    pub low_ports: Option<RangeInclusive<u16>>,
    /// Ports that are never given out.
    pub except: Vec<RangeInclusive<u16>>,
    /// Ports in a block: a power of two from 16 to 4,096; blocks are aligned to it.
    pub block_size: u16,
    /// Keep odd ports odd and even ports even (RFC 4787 REQ-4).
    pub parity: bool,
    /// Keep the internal port where it is free (RFC 6056 section 4).
    pub preserve: bool,
    /// The shared region for DNS.
    pub scatter: Option<Scatter>,
    /// Sessions there are recorded, also where no others are: ports of the region are nobody's.
    pub log_scattered: bool,
    /// Limits for one subscriber.
    pub quota: Quota,
    /// Rests.
    pub hold_down: HoldDown,
    /// Which inbound packets renew a session.
    pub inbound_refresh: InboundRefresh,
    /// Unsolicited SYNs from outside.
    pub unsolicited_syn: UnsolicitedSyn,
    /// Idle established TCP sessions.
    pub on_expiry: OnExpiry,
    /// Refusals for want of ports, quota or memory.
    pub on_exhaustion: OnExhaustion,
    /// Segments without session.
    pub mid_stream: MidStream,
    /// Identifications of DF-clear packets.
    pub ip_id: IpId,
    /// Addresses that are taken out of the pool.
    pub removal: Removal,
    /// Idle times.
    pub timers: Timers,
}

impl Default for PoolSettings {
    fn default() -> Self {
        Self::high_density()
    }
}

impl PoolSettings {
    /// The region that DNS queries are scattered over, if the settings have one that makes sense: mappings
    /// depend on the remote, and beside the region there is room for a block.
    pub fn scatter_region(&self) -> Option<RangeInclusive<u16>> {
        let region = &self.scatter.as_ref()?.ports;
        let within = self.ports.contains(region.start()) && self.ports.contains(region.end());
        let size = u32::from(self.block_size);
        // Whether a whole block lies from the one port up to, and without, the other.
        let has_block = |from: u16, to: u32| to / size > u32::from(from).div_ceil(size);
        let above = region.end().checked_add(1);
        let beside = has_block(*self.ports.start(), u32::from(*region.start()))
            || above.is_some_and(|from| has_block(from, u32::from(*self.ports.end()) + 1));
        // Who is not the addressed server has no session, so no worker would know whom he means.
        let behaviors = [self.mapping, self.filtering_udp];
        let dependent = behaviors == [Behavior::AddressAndPortDependent; 2];
        let sensible = dependent && within && beside;
        sensible.then(|| region.clone())
    }

    /// Whether flows of `protocol` to port `remote` are scattered, where there is a region.
    pub(crate) fn scatters(&self, protocol: Protocol, remote: u16) -> bool {
        self.scatter.is_some() && protocol == Protocol::Udp && remote == REMOTE_DNS
    }

    /// Whether addresses of these settings may pass to `other` with who holds what: the blocks are the same, but for
    /// ports that are never given out. The region for DNS may be given up: addresses that have one keep it to
    /// themselves.
    pub fn shapes_as(&self, other: &Self) -> bool {
        let shape = |it: &Self| (it.block_size, it.ports.clone(), it.low_ports.clone());
        let region = other.scatter_region();
        shape(self) == shape(other) && (region.is_none() || region == self.scatter_region())
    }

    /// How many ports at rest a pool of `addresses` has at most (RFC 6888 REQ-8.1).
    pub fn max_resting(&self, addresses: usize) -> u64 {
        let quarter = addresses as u64 * self.ports.len() as u64 / 4;
        self.hold_down.max_ports.map_or(quarter, u64::from)
    }
}

impl PoolSettings {
    /// The default profile: few addresses carry many flows; nobody but the addressed remote can send in.
    pub fn high_density() -> Self {
        const fn secs(s: u64) -> Duration {
            Duration::from_secs(s)
        }
        Self {
            mapping: Behavior::AddressAndPortDependent,
            filtering_tcp: Behavior::AddressAndPortDependent,
            filtering_udp: Behavior::AddressAndPortDependent,
            overlap: Overlap::Endpoint,
            pooling: Pooling::Paired,
            spill: true,
            linger: secs(600),
            ports: 1024..=u16::MAX,
            low_ports: None,
            except: Vec::new(),
            block_size: 64,
            parity: false,
            preserve: false,
            scatter: Some(Scatter { ports: 57_344..=u16::MAX, rest: secs(2) }),
            log_scattered: false,
            quota: Quota {
                blocks: 32,
                blocks_soft: None,
                sessions: 65_536,
                sessions_soft: None,
                sessions_per_mapping: None,
                half_open: 4_096,
                tcp: None,
                udp: None,
                icmp: None,
                new_per_second: None,
                burst: 1,
            },
            hold_down: HoldDown {
                port: secs(0),
                block: secs(120),
                max_ports: None,
                after_restart: secs(0),
            },
            inbound_refresh: InboundRefresh::Peers,
            unsolicited_syn: UnsolicitedSyn::Drop,
            on_expiry: OnExpiry::Reset,
            on_exhaustion: OnExhaustion::Icmp,
            mid_stream: MidStream::Reset,
            ip_id: IpId::BestEffort,
            removal: Removal::Drain,
            timers: Timers::default(),
        }
    }

    /// The profile of RFC 4787, 5382 and 5508: peers can find each other.
    pub fn rfc4787() -> Self {
        const fn secs(s: u64) -> Duration {
            Duration::from_secs(s)
        }
        let hd = Self::high_density();
        Self {
            mapping: Behavior::EndpointIndependent,
            filtering_tcp: Behavior::EndpointIndependent,
            filtering_udp: Behavior::EndpointIndependent,
            spill: false,
            low_ports: Some(512..=1023),
            block_size: 512,
            parity: true,
            scatter: None,
            quota: Quota { blocks: 4, ..hd.quota },
            hold_down: HoldDown { port: secs(120), after_restart: secs(120), ..hd.hold_down },
            unsolicited_syn: UnsolicitedSyn::Delayed,
            on_expiry: OnExpiry::Silent,
            timers: Timers {
                udp_by_port: Vec::new(),
                udp_answered: Vec::new(),
                tcp_opening: secs(240),
                tcp_time_wait: secs(240),
                tcp_reset: secs(240),
                ..hd.timers
            },
            ..hd
        }
    }
}

/// What a pool's address is good for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Standing {
    /// New flows get it.
    #[default]
    Serving,
    /// It was taken out of the pool: what has it keeps it, new flows get another one.
    Leaving,
    /// It is not the gateway's any more: sessions that have it end.
    Gone,
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
    ///
    /// An address keeps its place while the process lives, for holders know it by that.
    pub addresses: Vec<Arc<PublicAddress>>,
    /// What each of them is good for; empty: all serve.
    pub(crate) standings: Vec<Standing>,
    /// Indices of those that serve, in order.
    pub(crate) serving: Vec<u16>,
}

impl Pool {
    /// Whether `addr` is one of its addresses.
    pub fn has(&self, addr: Ipv4Addr) -> bool {
        self.addresses.iter().any(|address| address.addr == addr)
    }

    /// A pool of `addresses`, all of whose blocks are free.
    pub fn new(
        id: PoolId,
        name: impl Into<String>,
        settings: PoolSettings,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        let addresses = addresses.into_iter().map(|addr| (addr, Vec::new()));
        Self::with_reserved(id, name, settings, addresses)
    }

    /// The same; beside each address the ports on it that are never given out, because they are forwarded.
    pub fn with_reserved(
        id: PoolId,
        name: impl Into<String>,
        settings: PoolSettings,
        addresses: impl IntoIterator<Item = (Ipv4Addr, Vec<RangeInclusive<u16>>)>,
    ) -> Self {
        let addresses = addresses
            .into_iter()
            .map(|(addr, reserved)| Arc::new(PublicAddress::new(addr, &settings, &reserved)))
            .collect();
        Self::of(id, name.into(), settings, addresses)
    }

    /// A pool whose addresses have no blocks: nothing is given out of it, fixed mappings use it.
    pub fn fixed(
        id: PoolId,
        name: impl Into<String>,
        settings: PoolSettings,
        addresses: impl IntoIterator<Item = Ipv4Addr>,
    ) -> Self {
        let addresses =
            addresses.into_iter().map(|addr| Arc::new(PublicAddress::fixed(addr))).collect();
        Self::of(id, name.into(), settings, addresses)
    }

    /// A pool of `addresses` that have been others' before, or were made for `settings`; all serve.
    pub fn of(
        id: PoolId,
        name: String,
        settings: PoolSettings,
        addresses: Vec<Arc<PublicAddress>>,
    ) -> Self {
        let serving = (0..addresses.len()).map(|index| index as u16).collect();
        Self { id, name, settings, addresses, standings: Vec::new(), serving }
    }

    /// The same pool, whose addresses are good for `standings`, one for each.
    #[must_use]
    pub fn with_standings(mut self, standings: Vec<Standing>) -> Self {
        self.standings = standings;
        let all = 0..self.addresses.len() as u16;
        self.serving = all.filter(|&index| self.serves(index)).collect();
        self
    }

    /// Indices of the addresses that serve, from `first` on, or from where `random` says; `alone`: only that one.
    pub(crate) fn serving(
        &self,
        first: Option<u16>,
        alone: bool,
        random: u64,
    ) -> impl Iterator<Item = u16> + Clone + use<'_> {
        let count = self.serving.len();
        let place = |first| self.serving.binary_search(&first).unwrap_or_default();
        let start = first.map_or((random >> 32) as usize % count.max(1), place);
        let reach = if alone { count.min(1) } else { count };
        (0..reach).map(move |i| self.serving[(start + i) % count])
    }

    /// A draw by which [`serving`](Self::serving) begins with an address that leans to `worker` of `workers`, if there
    /// is one about where `random` says. It tells as little of the port as `random` does.
    pub(crate) fn lean(&self, random: u64, worker: u16, workers: u16) -> u64 {
        let count = self.serving.len() as u64;
        if workers <= 1 || count <= 1 {
            return random;
        }
        let high = random >> 32;
        let start = high % count;
        let mut near = (0..count.min(2 * u64::from(workers))).map(|step| (start + step) % count);
        let leans = |&at: &u64| {
            self.addresses[usize::from(self.serving[at as usize])].leaning(workers) == worker
        };
        let Some(at) = near.find(leans) else { return random };
        let moved = high - start + at;
        let high = if u32::try_from(moved).is_ok() { moved } else { at };
        high << 32 | random & u64::from(u32::MAX)
    }

    /// Whether each of `workers` has addresses of its own here, so that steering replies by address spreads them.
    pub fn leans_to_all(&self, workers: u16) -> bool {
        let mut leaning: Vec<u16> =
            self.with_standing(Standing::Serving).map(|address| address.leaning(workers)).collect();
        leaning.sort_unstable();
        leaning.dedup();
        leaning.len() == usize::from(workers)
    }

    /// What the address at `index` is good for.
    pub fn standing(&self, index: usize) -> Standing {
        self.standings.get(index).copied().unwrap_or_default()
    }

    /// Whether new flows may get the address at `index`.
    pub(crate) fn serves(&self, index: u16) -> bool {
        self.standing(index.into()) == Standing::Serving
    }

    /// The addresses that are good for `standing`.
    pub fn with_standing(&self, standing: Standing) -> impl Iterator<Item = &Arc<PublicAddress>> {
        let all = self.addresses.iter().enumerate();
        all.filter(move |(index, _)| self.standing(*index) == standing).map(|(_, address)| address)
    }

    /// Blocks held now, and blocks, of ports from 1024 on, on the addresses that serve.
    pub fn fill(&self) -> (u64, u64) {
        let count = |(held, all): (u64, u64), address: &Arc<PublicAddress>| {
            let directory = &address.directory;
            (held + u64::from(directory.held()), all + u64::from(directory.blocks()))
        };
        self.with_standing(Standing::Serving).fold((0, 0), count)
    }

    /// Gives back the claim of a session without ports that has ended.
    pub(crate) fn release_claim(&self, protocol: Protocol, public: Ipv4Addr, remote: Ipv4Addr) {
        if let Some(address) = self.addresses.iter().find(|address| address.addr == public) {
            address.claims.release(protocol.number(), remote);
        }
    }
}
