//! Which ports may a new flow get, and which must be had?
//!
//! Two questions that differ by what only natgate's clock decides: a port is *allowed* from the millisecond
//! on at which its rest is over, and *owed* from the next full second but one.

use std::collections::HashMap;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;

use conntrack::{Behavior, Endpoint, FlowKey, PoolSettings, Pooling, Protocol, Realm, Refusal};

use crate::nat::{Rate, Seen, Session, Sharing, must_refuse};

/// Low ports come in blocks of 16 (decision 0007).
const LOW_BLOCK: u16 = 16;
/// After a refusal, natgate may give the same answer again for this long.
const REMEMBERED: u64 = 100;
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
    low: bool,
    holder: Option<Ipv4Addr>,
    /// Who gave it back last, and when.
    rests: Option<(Ipv4Addr, u64)>,
}

impl Block {
    fn has(&self, public: Endpoint) -> bool {
        self.address == public.addr
            && (u32::from(self.first)..u32::from(self.first) + u32::from(self.size))
                .contains(&u32::from(public.port))
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Pod {
    anchor: Option<Ipv4Addr>,
    /// When its last session ended.
    idle_since: u64,
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
    /// Too many rested beside it, so that its rest was cut short: maybe, surely.
    cut_short: [bool; 2],
}

#[derive(Debug)]
pub struct Ports {
    settings: PoolSettings,
    addresses: Vec<Ipv4Addr>,
    pub blocks: Vec<Block>,
    rests: Vec<Rest>,
    /// Rests of ports that others still use.
    asked: Vec<(Protocol, Endpoint, u64)>,
    /// Tuples of the region for DNS, and when they became free.
    tuples: Vec<(Endpoint, Endpoint, u64)>,
    pods: HashMap<Ipv4Addr, Pod>,
    refused: Vec<(FlowKey, u64)>,
}

/// The next full second.
fn up(millis: u64) -> u64 {
    millis.div_ceil(1000) * 1000
}

/// The region for DNS (D5), which many pods share: not where more than the addressed remote may send in.
fn region(settings: &PoolSettings) -> Option<RangeInclusive<u16>> {
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
            refused: Vec::new(),
        }
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
        self.rests.push(Rest { protocol, public, until, cut_short: [false; 2] });
        // 6888-REQ-8.1: a quarter of the pool at most; the oldest goes early. Those that were freed at once
        // are equally old.
        let all = self.settings.ports.len() * self.addresses.len();
        let max = self.settings.hold_down.max_ports.map_or(all / 4, |max| max as usize);
        let untils: Vec<u64> = self.rests.iter().map(|rest| rest.until).collect();
        for rest in &mut self.rests {
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

    fn scattered(&self, protocol: Protocol, remote: Endpoint) -> bool {
        self.settings.scatter.is_some() && protocol == Protocol::Udp && remote.port == 53
    }

    /// Whether `pod` may take `block` now; `owed`: whether it must be able to.
    fn available(&self, block: &Block, pod: Ipv4Addr, now: u64, owed: bool) -> bool {
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

    fn held(&self, pod: Ipv4Addr, low: bool) -> usize {
        self.blocks.iter().filter(|b| b.holder == Some(pod) && b.low == low).count()
    }

    fn rests(&self, protocol: Protocol, public: Endpoint, owed: bool, now: u64) -> bool {
        let over = |rest: &Rest| !owed && rest.until <= now;
        let here = |rest: &&Rest| rest.protocol == protocol && rest.public == public && !over(rest);
        self.rests.iter().filter(here).any(|rest| !rest.cut_short[usize::from(owed)])
    }

    /// RFC 4787 REQ-3a and REQ-4: is a port of the right kind? Identifiers of queries have no kind.
    fn right_kind(&self, key: &FlowKey, block: &Block, port: u16) -> bool {
        let ports = matches!(key.protocol, Protocol::Tcp | Protocol::Udp);
        let low = ports && self.settings.low_ports.is_some() && key.src.port < 1024;
        let parity = ports && self.settings.parity;
        block.low == low
            && (!parity || port % 2 == key.src.port % 2)
            && !self.settings.except.iter().any(|range| range.contains(&port))
    }

    /// Whether `public` lies in use towards `key`'s remote.
    fn conflicts(&self, wish: &Wish, public: Endpoint, sessions: &[Session]) -> bool {
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
    fn capped(&self, key: &FlowKey, sessions: &[Session]) -> bool {
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
    fn fits(
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
            && !self.conflicts(wish, public, sessions)
            && !self.rests(wish.key.protocol, public, owed, now)
            && !(fresh && self.capped(wish.key, sessions))
    }

    /// Blocks that the pod has or can get, of those on addresses that it may use.
    fn reach(&self, key: &FlowKey, now: u64, owed: bool) -> Vec<&Block> {
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

    /// Judges the port that natgate chose, or that it chose none. The session that was ended for it.
    pub fn judge(
        &mut self,
        wish: &Wish,
        sessions: &[Session],
        reasons: &[Refusal],
        rate: Rate,
        seen: Seen,
        now: u64,
    ) -> Result<Option<usize>, String> {
        let mut reasons = reasons.to_vec();
        reasons.extend((rate == Rate::Exceeded).then_some(Refusal::QuotaRate));
        if !reasons.is_empty() || (rate != Rate::Kept && seen == Err(Refusal::QuotaRate)) {
            reasons.extend(wish.full.then_some(Refusal::TableFull));
            return must_refuse(seen, &reasons, rate != Rate::Kept).map(|()| None);
        }
        if let Protocol::Other(_) = wish.key.protocol {
            return self.judge_portless(wish, sessions, seen, now).map(|()| None);
        }
        let owed = self.reach(wish.key, now, true).into_iter().any(|block| {
            let last = block.first + (block.size - 1);
            (block.first..=last).any(|port| self.fits(wish, (block, port), sessions, true, now))
        });
        let closed = self.recyclable(wish, sessions);
        match seen {
            Ok(public) => self.judge_port(wish, sessions, public, (owed, &closed), now),
            Err(why) => {
                self.judge_refusal(wish, sessions, why, owed || !closed.is_empty(), now)?;
                Ok(None)
            }
        }
    }

    /// Sessions that are over and whose tuple would do (6888-REQ-8a, D3).
    fn recyclable(&self, wish: &Wish, sessions: &[Session]) -> Vec<usize> {
        let pod = wish.key.src.addr;
        let over = |s: &Session| {
            let tcp = wish.key.protocol == Protocol::Tcp && s.protocol == Protocol::Tcp;
            let own = s.internal.addr == pod && s.remote == wish.key.dst;
            let same = |o: &&Session| o.protocol == s.protocol && o.public == s.public;
            let alone = wish.sharing == Sharing::ByEndpoint
                || sessions.iter().filter(same).filter(|o| o.made_for == s.made_for).count() == 1;
            let block = self.blocks.iter().find(|b| b.has(s.public));
            let kind = block.is_some_and(|b| self.right_kind(wish.key, b, s.public.port));
            tcp && own
                && alone
                && kind
                && wish.sharing != Sharing::Nobody
                && s.tcp.is_some_and(|tcp| tcp.over())
        };
        (0..sessions.len()).filter(|&i| over(&sessions[i])).collect()
    }

    fn judge_port(
        &self,
        wish: &Wish,
        sessions: &[Session],
        public: Endpoint,
        (owed, closed): (bool, &[usize]),
        now: u64,
    ) -> Result<Option<usize>, String> {
        let pod = wish.key.src.addr;
        if let Some(&index) = closed.iter().find(|&&i| sessions[i].public == public) {
            let oldest = closed.iter().map(|&i| sessions[i].last_seen()).min();
            return if owed && !wish.full {
                Err("took the tuple of a closed connection while others were free".into())
            } else if oldest != Some(sessions[index].last_seen()) {
                Err("took not the oldest closed connection".into())
            } else {
                Ok(Some(index))
            };
        }
        if wish.full {
            return Err("expected a refusal: the table is full".into());
        }
        if self.scattered(wish.key.protocol, wish.key.dst)
            && region(&self.settings).is_some_and(|region| region.contains(&public.port))
        {
            let free = !self.conflicts(wish, public, sessions)
                && !self.tuples.iter().any(|t| (t.0, t.1) == (public, wish.key.dst));
            return if free { Ok(None) } else { Err("the tuple is used, or rests".into()) };
        }
        let Some(block) = self.reach(wish.key, now, false).into_iter().find(|b| b.has(public))
        else {
            return Err("the port lies in no block that this pod may have".into());
        };
        if !self.fits(wish, (block, public.port), sessions, false, now) {
            return Err("the port is used, rests, is of the wrong kind, or one too many".into());
        }
        // 7857-S4b: another address only if the own one has no block left.
        let anchor = self.pods.get(&pod).and_then(|p| p.anchor.filter(|_| p.idle_since > now));
        let spilled = self.settings.pooling == Pooling::Paired
            && block.holder.is_none()
            && anchor.is_some_and(|anchor| anchor != public.addr);
        let at_home = |b: &&Block| {
            Some(b.address) == anchor && b.low == block.low && self.available(b, pod, now, true)
        };
        if let Some(home) = self.blocks.iter().find(at_home).filter(|_| spilled) {
            return Err(format!("spilled to another address while there was {home:?}"));
        }
        Ok(None)
    }

    fn judge_refusal(
        &mut self,
        wish: &Wish,
        sessions: &[Session],
        why: Refusal,
        owed: bool,
        now: u64,
    ) -> Result<(), String> {
        if wish.full {
            return must_refuse(Err(why), &[Refusal::TableFull], false);
        }
        let key = wish.key;
        let like = |known: &FlowKey| {
            (known.src.addr, known.dst, known.protocol) == (key.src.addr, key.dst, key.protocol)
        };
        let remembered = self.refused.iter().any(|(known, _)| like(known));
        if owed && !remembered {
            return Err("refused though there was a port".into());
        }
        if !remembered {
            self.refused.push((*key, now + REMEMBERED));
        }
        let low = self.settings.low_ports.is_some() && key.src.port < 1024;
        let all = |low| self.held(key.src.addr, low) >= self.settings.quota.blocks as usize;
        let expected = if self.capped(key, sessions) {
            Refusal::QuotaPorts
        } else if all(low && key.protocol != Protocol::Icmp) {
            Refusal::QuotaBlocks
        } else {
            Refusal::PoolExhausted
        };
        if remembered { Ok(()) } else { must_refuse(Err(why), &[expected], false) }
    }

    /// Protocols without ports: one subscriber for each protocol, public address and remote.
    fn judge_portless(
        &self,
        wish: &Wish,
        sessions: &[Session],
        seen: Seen,
        now: u64,
    ) -> Result<(), String> {
        if wish.full {
            return must_refuse(seen, &[Refusal::TableFull], false);
        }
        let pod = self.pods.get(&wish.key.src.addr).copied().unwrap_or_default();
        let linger = self.settings.linger.as_millis() as u64;
        let anchor = pod.anchor.filter(|_| now < pod.idle_since.saturating_add(linger));
        let may: Vec<_> =
            self.addresses.iter().filter(|a| anchor.is_none_or(|anchor| anchor == **a)).collect();
        let clash = |address: Ipv4Addr| {
            sessions.iter().any(|s| {
                s.protocol == wish.key.protocol
                    && s.public.addr == address
                    && s.remote.addr == wish.key.dst.addr
            })
        };
        let legal = match seen {
            Ok(public) => public.port == 0 && may.contains(&&public.addr) && !clash(public.addr),
            Err(Refusal::ProtocolClash) => may.iter().any(|a| clash(**a)),
            Err(_) => false,
        };
        if legal { Ok(()) } else { Err("expected another address, or a clash".into()) }
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

impl Session {
    fn last_seen(&self) -> u64 {
        self.seen[0].max(self.seen[1])
    }
}
