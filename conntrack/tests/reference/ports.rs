//! Which ports may a new flow get, and which must be had?
//!
//! Two questions that differ by what only natgate's clock decides: a port is *allowed* from the millisecond
//! on at which its rest is over, and *owed* from the next full second but one.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use conntrack::{Behavior, Endpoint, FlowKey, PoolSettings, Pooling, Protocol, Realm};

use crate::nat::{Rate, Session, Sharing};

/// Low ports come in blocks of 16 (decision 0007).
const LOW_BLOCK: u16 = 16;
/// After a refusal, natgate may give the same answer again for this long.
pub const REMEMBERED: u64 = 100;
/// Blocks of a pod without sessions return within this time: natgate keeps the last one for a minute, and
/// time passes in strides of 20 s here.
const IDLE_BLOCKS: u64 = 105_000;

/// A new flow that needs a port.
pub struct Wish<'a> {
    pub key: &'a FlowKey,
    pub sharing: Sharing,
    pub full: bool,
}

#[derive(Clone, Debug)]
pub struct Block {
    pub address: Ipv4Addr,
    pub first: u16,
    pub size: u16,
    /// Below 1024 (4787-REQ-3a).
    pub low: bool,
    pub holder: Option<Ipv4Addr>,
    /// Who gave it back last, and when.
    pub rests: Option<(Ipv4Addr, u64)>,
}

impl Block {
    pub fn has(&self, public: Endpoint) -> bool {
        self.address == public.addr
            && (u32::from(self.first)..u32::from(self.first) + u32::from(self.size))
                .contains(&u32::from(public.port))
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Pod {
    pub anchor: Option<Ipv4Addr>,
    /// When its last session ended.
    pub idle_since: u64,
    /// Since when natgate has known it without a break.
    known_since: u64,
    /// When the next session fits the rate, in microseconds, by opener: by all attempts, by admitted ones.
    next: [[u64; 2]; 2],
}

#[derive(Clone, Copy, Debug)]
struct Rest {
    protocol: Protocol,
    public: Endpoint,
    until: u64,
    /// The worker whose it is.
    home: u16,
    /// Too many rested beside it, so that its rest was cut short: maybe, surely.
    cut_short: [bool; 2],
}

struct Home(Box<dyn Fn(Ipv4Addr) -> u16>);

impl std::fmt::Debug for Home {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("home")
    }
}

#[derive(Debug)]
pub struct Ports {
    pub settings: PoolSettings,
    pub addresses: Vec<Ipv4Addr>,
    pub blocks: Vec<Block>,
    rests: Vec<Rest>,
    /// Rests of ports that others still use.
    asked: Vec<(Protocol, Endpoint, u64)>,
    /// Tuples of the region for DNS, and when they became free.
    pub tuples: Vec<(Endpoint, Endpoint, u64)>,
    pub pods: HashMap<Ipv4Addr, Pod>,
    /// How many workers share the limit of ports at rest, and whose a pod is.
    workers: usize,
    home: Home,
    pub refused: Vec<(FlowKey, u64)>,
}

/// The next full second.
fn up(millis: u64) -> u64 {
    millis.div_ceil(1000) * 1000
}

/// The region for DNS (D5), which many pods share: not where more than the addressed remote may send in.
pub fn region(settings: &PoolSettings) -> Option<RangeInclusive<u16>> {
    let shared = settings.mapping == Behavior::AddressAndPortDependent
        && settings.filtering_udp == Behavior::AddressAndPortDependent;
    settings.scatter.as_ref().filter(|_| shared).map(|scatter| scatter.ports.clone())
}

impl Ports {
    pub fn new(settings: PoolSettings, addresses: Vec<Ipv4Addr>) -> Self {
        let mut blocks = Vec::new();
        let region = region(&settings);
        for &address in &addresses {
            let high = (settings.ports.clone(), settings.block_size, false);
            let low = settings.low_ports.clone().map(|ports| (ports, LOW_BLOCK, true));
            for (ports, size, low) in std::iter::once(high).chain(low) {
                for first in (0..=u16::MAX - (size - 1)).step_by(size.into()) {
                    let last = first + (size - 1);
                    let in_region =
                        region.as_ref().is_some_and(|r| first <= *r.end() && *r.start() <= last);
                    if ports.contains(&first) && ports.contains(&last) && !in_region {
                        let (holder, rests) = (None, None);
                        blocks.push(Block { address, first, size, low, holder, rests });
                    }
                }
            }
        }
        Self {
            settings,
            addresses,
            blocks,
            rests: Vec::new(),
            asked: Vec::new(),
            tuples: Vec::new(),
            pods: HashMap::new(),
            workers: 1,
            home: Home(Box::new(|_| 0)),
            refused: Vec::new(),
        }
    }

    /// Says that workers share the pool, and which one a pod belongs to.
    pub fn shared_by(&mut self, workers: u16, home: Box<dyn Fn(Ipv4Addr) -> u16>) {
        (self.workers, self.home) = (usize::from(workers), Home(home));
    }

    /// Whether the rate of new sessions (6888-REQ-5b) allows one more now. `counts`: natgate asks.
    pub fn rate(&mut self, pod: Ipv4Addr, opener: Realm, now: u64, counts: bool) -> Rate {
        let quota = &self.settings.quota;
        let Some(rate) = quota.new_per_second else { return Rate::Kept };
        let (now, interval) = (now * 1000, 1_000_000 / u64::from(rate));
        let room = interval * u64::from(quota.burst.max(1) - 1);
        let pod = self.pods.entry(pod).or_default();
        let [attempts, admitted] = &mut pod.next[opener as usize];
        let fits = |next: u64| next.saturating_sub(now) <= room;
        let (sure, possible) = (fits(*attempts), fits(*admitted));
        if counts && sure {
            *attempts = (*attempts).max(now) + interval;
        }
        match (sure, possible) {
            (true, _) => Rate::Kept,
            (false, true) => Rate::Unsure,
            (false, false) => Rate::Exceeded,
        }
    }

    /// Notes that a flow of `pod` was admitted, under `public`.
    pub fn admitted(&mut self, pod: Ipv4Addr, opener: Realm, public: Endpoint, now: u64) {
        let rate = self.settings.quota.new_per_second;
        let linger = self.linger();
        let pod = self.pods.entry(pod).or_default();
        if pod.idle_since.saturating_add(linger) <= now {
            pod.known_since = now;
        }
        if let Some(rate) = rate {
            let next = &mut pod.next[opener as usize][1];
            *next = (*next).max(now * 1000) + 1_000_000 / u64::from(rate);
        }
        if self.settings.pooling == Pooling::Paired {
            if pod.idle_since + self.settings.linger.as_millis() as u64 <= now
                && pod.anchor != Some(public.addr)
            {
                pod.anchor = None;
            }
            pod.anchor.get_or_insert(public.addr);
        }
        // While it has sessions, it is not idle.
        pod.idle_since = u64::MAX / 2;
    }

    /// How long a pod without sessions is remembered.
    fn linger(&self) -> u64 {
        let paired = self.settings.pooling == Pooling::Paired;
        if paired { self.settings.linger.as_millis() as u64 } else { 0 }
    }

    /// A session has ended; `others` live on.
    pub fn ended(&mut self, session: &Session, others: &[Session], now: u64) {
        let own = |s: &&Session| s.internal.addr == session.internal.addr;
        if !others.iter().any(|s| own(&s)) {
            self.pods.entry(session.internal.addr).or_default().idle_since = now;
        }
        self.refused.retain(|(key, _)| key.src.addr != session.internal.addr);
        if self.scattered(session.protocol, session.remote) {
            self.tuples.push((session.public, session.remote, now));
        }
        let same = |s: &&Session| s.protocol == session.protocol && s.public == session.public;
        // RFC 6888 REQ-8a: not after a close that was followed to its end.
        let closed = session.tcp.is_some_and(|tcp| tcp.over());
        let rest = self.settings.hold_down.port.as_millis() as u64;
        let in_block = self.blocks.iter().any(|block| block.has(session.public));
        let counted = session.protocol.index().is_some() && in_block;
        if rest == 0 || !counted {
            return;
        }
        let (protocol, public) = (session.protocol, session.public);
        // One that shared the port may have asked for more.
        let asked = |(p, e, _): &(Protocol, Endpoint, u64)| *p == protocol && *e == public;
        let before = self.asked.iter().filter(|a| asked(a)).map(|(.., until)| *until).max();
        let until = before.unwrap_or(0).max(if closed { 0 } else { now + rest });
        self.asked.retain(|a| !asked(a));
        if others.iter().any(|s| same(&s)) {
            self.asked.push((protocol, public, until));
            return;
        }
        if up(until) <= now {
            return;
        }
        let home = (self.home.0)(session.internal.addr);
        self.rests.push(Rest { protocol, public, until, home, cut_short: [false; 2] });
        // 6888-REQ-8.1: a quarter of the pool at most; the oldest goes early. Those that were freed at once
        // are equally old.
        let all = self.settings.ports.len() * self.addresses.len();
        let max = self.settings.hold_down.max_ports.map_or(all / 4, |max| max as usize);
        // Decision 0007: each worker has its share.
        let max = max.div_ceil(self.workers);
        let here = |rest: &&Rest| rest.home == home;
        let untils: Vec<u64> = self.rests.iter().filter(here).map(|rest| rest.until).collect();
        for rest in self.rests.iter_mut().filter(|rest| rest.home == home) {
            let younger = untils.iter().filter(|until| **until > rest.until).count();
            let others = untils.iter().filter(|until| **until >= rest.until).count() - 1;
            rest.cut_short[0] |= others >= max;
            rest.cut_short[1] |= younger >= max;
        }
    }

    /// Forgets rests that are over.
    pub fn wake(&mut self, now: u64) {
        self.rests.retain(|rest| up(rest.until) > now);
        let rest = self.settings.scatter.as_ref().map_or(0, |s| s.rest.as_millis() as u64);
        self.tuples.retain(|(_, _, since)| since + rest > now);
        self.refused.retain(|(_, until)| *until > now);
    }

    pub fn scattered(&self, protocol: Protocol, remote: Endpoint) -> bool {
        self.settings.scatter.is_some() && protocol == Protocol::Udp && remote.port == 53
    }

    /// Whether `pod` may take `block` now; `owed`: whether it must be able to.
    pub fn available(&self, block: &Block, pod: Ipv4Addr, now: u64, owed: bool) -> bool {
        let rest = self.settings.hold_down.block.as_millis() as u64;
        // Nothing has to be known of a pod that was idle for longer than its address is remembered.
        let (linger, state) = (self.linger(), self.pods.get(&pod).copied().unwrap_or_default());
        let known =
            |since| now < state.idle_since.saturating_add(linger) && since > state.known_since;
        block.holder.is_none()
            && block.rests.is_none_or(|(who, since)| {
                let second = if owed { up(since + rest) + 1000 } else { since + rest };
                (who == pod && (known(since) || !owed)) || rest == 0 || now >= second
            })
    }

    pub fn held(&self, pod: Ipv4Addr, low: bool) -> usize {
        self.blocks.iter().filter(|b| b.holder == Some(pod) && b.low == low).count()
    }

    fn rests(&self, protocol: Protocol, public: Endpoint, owed: bool, now: u64) -> bool {
        let over = |rest: &Rest| !owed && rest.until <= now;
        let here = |rest: &&Rest| rest.protocol == protocol && rest.public == public && !over(rest);
        self.rests.iter().filter(here).any(|rest| !rest.cut_short[usize::from(owed)])
    }

    /// RFC 4787 REQ-3a and REQ-4: is a port of the right kind? Identifiers of queries have no kind.
    pub fn right_kind(&self, key: &FlowKey, block: &Block, port: u16) -> bool {
        let ports = matches!(key.protocol, Protocol::Tcp | Protocol::Udp);
        let low = ports && self.settings.low_ports.is_some() && key.src.port < 1024;
        let parity = ports && self.settings.parity;
        block.low == low
            && (!parity || port % 2 == key.src.port % 2)
            && !self.settings.except.iter().any(|range| range.contains(&port))
    }

    /// Whether `public` is in use towards the remote.
    pub fn conflicts(wish: &Wish, public: Endpoint, sessions: &[Session]) -> bool {
        sessions.iter().any(|s| {
            s.protocol == wish.key.protocol
                && s.public == public
                && match wish.sharing {
                    Sharing::Nobody => true,
                    Sharing::ByAddress => s.made_for == wish.key.dst.addr,
                    Sharing::ByEndpoint => s.remote == wish.key.dst,
                }
        })
    }

    /// Whether a pod has all the ports of a protocol that it may have (6888-REQ-4b).
    pub fn capped(&self, key: &FlowKey, sessions: &[Session]) -> bool {
        let quota = &self.settings.quota;
        let limit = match key.protocol {
            Protocol::Tcp => quota.tcp,
            Protocol::Udp => quota.udp,
            Protocol::Icmp => quota.icmp,
            Protocol::Other(_) => None,
        };
        let Some(limit) = limit else { return false };
        let own = |s: &&Session| s.protocol == key.protocol && s.internal.addr == key.src.addr;
        let in_block = |s: &&Session| self.blocks.iter().any(|block| block.has(s.public));
        let mut ports: Vec<_> =
            sessions.iter().filter(own).filter(in_block).map(|s| s.public).collect();
        ports.sort_unstable();
        ports.dedup();
        ports.len() >= limit as usize
    }

    /// Whether the flow may have the port; `owed`: whether natgate must find one like it.
    pub fn fits(
        &self,
        wish: &Wish,
        (block, port): (&Block, u16),
        sessions: &[Session],
        owed: bool,
        now: u64,
    ) -> bool {
        let public = Endpoint::new(block.address, port);
        let used = |s: &Session| s.protocol == wish.key.protocol && s.public == public;
        let fresh = !sessions.iter().any(used);
        self.right_kind(wish.key, block, port)
            && !Self::conflicts(wish, public, sessions)
            && !self.rests(wish.key.protocol, public, owed, now)
            && (!fresh || !self.capped(wish.key, sessions))
    }

    /// Blocks that the pod has or can get, of those on addresses that it may use.
    pub fn reach(&self, key: &FlowKey, now: u64, owed: bool) -> Vec<&Block> {
        let pod = key.src.addr;
        let state = self.pods.get(&pod).copied().unwrap_or_default();
        let linger = self.settings.linger.as_millis() as u64;
        let anchor = state.anchor.filter(|_| owed || now < state.idle_since.saturating_add(linger));
        let bound = self.settings.pooling == Pooling::Paired && !self.settings.spill;
        let on = |b: &&Block| !bound || anchor.is_none_or(|anchor| anchor == b.address);
        let can = |b: &&Block| {
            let more = self.held(pod, b.low) < self.settings.quota.blocks as usize;
            b.holder == Some(pod) || (more && self.available(b, pod, now, owed))
        };
        self.blocks.iter().filter(on).filter(can).collect()
    }

    /// Looks at who holds the block at `index` now.
    pub fn observe(
        &mut self,
        index: usize,
        holder: Option<Ipv4Addr>,
        sessions: &[Session],
        now: u64,
    ) -> Result<(), String> {
        let block = self.blocks[index].clone();
        let name = format!("block {}:{}", block.address, block.first);
        if block.holder != holder {
            let used = |s: &Session| {
                block.has(s.public)
                    && s.protocol.index().is_some()
                    && Some(s.internal.addr) != holder
            };
            if sessions.iter().any(used) {
                return Err(format!("{name} was taken from under a session"));
            }
            let mut before = block.clone();
            if let Some(was) = before.holder.take() {
                before.rests = Some((was, now));
            }
            if let Some(pod) = holder {
                let quota = self.settings.quota.blocks as usize;
                if self.held(pod, block.low) >= quota {
                    return Err(format!("{name} is one more than {pod} may have"));
                }
                if !self.available(&before, pod, now, false) {
                    return Err(format!("{name} went to {pod} before it had rested"));
                }
            }
            self.blocks[index] = Block { holder, ..before };
        }
        let idle = |pod: Ipv4Addr| {
            let since = self.pods.get(&pod).map_or(0, |pod| pod.idle_since);
            let rest = self.settings.hold_down.port.as_millis() as u64;
            now.saturating_sub(since.saturating_add(rest))
        };
        match holder {
            Some(pod) if idle(pod) > IDLE_BLOCKS => Err(format!("{name} never returned")),
            _ => Ok(()),
        }
    }
}
