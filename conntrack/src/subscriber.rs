//! What does a pod hold? Its blocks, its sessions, its quota.

mod all;
mod prospect;

use std::collections::VecDeque;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

pub(crate) use all::Subscribers;
pub(crate) use prospect::Claimable;

use crate::address::PortClass;
use crate::block::{Parity, PortBlock, Returned};
use crate::directory::{BlockNumber, Holder};
use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::events::{Events, Told};
use crate::limits::Bucket;
use crate::occurrence::BlockChange;
use crate::pool::{Pool, PoolId, Pooling};
use crate::session::Owner;
use crate::tcp::State;
use crate::time::Timestamp;

/// A subscriber without sessions in a pool gives its last block there back after this time.
pub(crate) const KEEP_LAST_BLOCK: Duration = Duration::from_secs(60);

/// Blocks given back lately that a subscriber asks for first, so that a flow count that swings about a
/// block boundary doesn't spread rests over the pool.
const RECENT_BLOCKS: usize = 4;

/// Why a subscriber gets no further block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlock {
    /// It has as many as it may have.
    Quota,
    /// It has as many ports of the protocol in use as it may have.
    Ports,
    /// There is none.
    Exhausted,
}

/// A block that a subscriber took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Claimed {
    /// Index of its address in the pool.
    pub(crate) address: u16,
    /// The subscriber is paired with another address.
    pub(crate) spilled: bool,
}

/// What of a holding is still needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Something, until this time at least.
    Keep(Timestamp),
    /// Nothing.
    Forget,
}

/// A session as it ends.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ended {
    pub(crate) protocol: Protocol,
    pub(crate) public: Endpoint,
    pub(crate) state: State,
    /// Another one is about to take its place.
    pub(crate) replaced: bool,
}

/// Who a subscriber is: its address, and the overlay in which that is its own ([`FlowKey::overlay`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Host(u64);

impl Host {
    /// The one at `addr` in `overlay`.
    pub(crate) fn new(addr: Ipv4Addr, overlay: u16) -> Self {
        Self(u64::from(u32::from(addr)) << 16 | u64::from(overlay))
    }
}

type Place = (u16, BlockNumber, PortClass);

/// Remotes that a subscriber was refused a port for, and that are remembered at once.
const REFUSED_REMOTES: usize = 8;
/// For this long, no port is looked for again after there was none.
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// Searches in vain for a port, of the longest kind, that a subscriber may cause in one pool each second.
const VAIN_SEARCHES: u32 = 100;
/// Those at once.
const VAIN_AT_ONCE: u32 = 8;

/// Which ports would have done.
pub(crate) type Kind = (PortClass, Parity);

/// No port of a holding was left for this remote.
#[derive(Clone, Copy, Debug)]
struct RefusedLately {
    protocol: Protocol,
    kind: Kind,
    remote: Endpoint,
    until: Timestamp,
    why: NoBlock,
}

/// What one subscriber holds in one pool.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) pool: PoolId,
    /// Index of the address that the subscriber is paired with (RFC 4787 REQ-2).
    anchor: Option<u16>,
    pub(crate) blocks: Vec<PortBlock>,
    pub(crate) sessions: u32,
    /// TCP sessions before the handshake is complete, by the realm of who opened them: strangers use up
    /// nothing of what the pod may open.
    pub(crate) half_open: [u32; 2],
    /// Sessions whose remote the pod has not addressed.
    pub(crate) strangers: u32,
    /// Ports in use, by protocol.
    pub(crate) ports: [u32; 3],
    /// New sessions a second, by the same.
    pub(crate) buckets: [Bucket; 2],
    /// When the last session ended; meaningful while there is none.
    pub(crate) idle_since: Timestamp,
    /// What most holdings have nothing to say about.
    rare: Option<Box<Rare>>,
}

/// What is remembered of a holding that gave blocks back, or met a limit.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rare {
    /// Events about soft and hard limits.
    pub(crate) told_soft: Told,
    pub(crate) told_hard: Told,
    recent: VecDeque<Place>,
    /// Remotes for which no port was found lately.
    refused: VecDeque<RefusedLately>,
    /// Long searches in vain.
    vain: Bucket,
}

impl Holding {
    pub(crate) fn new(pool: PoolId) -> Self {
        Self {
            pool,
            anchor: None,
            blocks: Vec::new(),
            sessions: 0,
            half_open: [0; 2],
            strangers: 0,
            ports: [0; 3],
            buckets: [Bucket::default(); 2],
            idle_since: Timestamp::default(),
            rare: None,
        }
    }

    pub(crate) fn rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    fn forget_refused(&mut self) {
        if let Some(rare) = &mut self.rare {
            rare.refused.clear();
        }
    }

    /// Whether there is nothing to remember.
    fn is_bare(&self) -> bool {
        self.sessions == 0 && self.blocks.is_empty() && self.anchor.is_none()
    }

    /// Why a flow like `key` was refused lately, if it was and no port has become free since.
    pub(crate) fn refused_lately(
        &self,
        key: &FlowKey,
        kind: Kind,
        now: Timestamp,
    ) -> Option<NoBlock> {
        let same = |r: &&RefusedLately| {
            now < r.until && r.remote == key.dst && r.protocol == key.protocol && r.kind == kind
        };
        self.rare.as_ref()?.refused.iter().find(same).map(|r| r.why)
    }

    /// Whether a long search for a port may begin: whoever is refused towards more remotes than are remembered
    /// may not have all the time of a worker.
    pub(crate) fn may_search(&self, now: Timestamp) -> bool {
        let mut vain = self.rare.as_ref().map_or(Bucket::default(), |rare| rare.vain);
        vain.take(VAIN_SEARCHES, VAIN_AT_ONCE, now)
    }

    /// Remembers for a moment that flows like `key` are refused: the search for a port that is not there
    /// is the longest.
    pub(crate) fn refuse(&mut self, key: &FlowKey, kind: Kind, why: NoBlock, now: Timestamp) {
        let rare = self.rare();
        if rare.refused.len() == REFUSED_REMOTES {
            rare.refused.pop_front();
        }
        rare.vain.take(VAIN_SEARCHES, VAIN_AT_ONCE, now);
        let until = now + REFUSED_FOR;
        let (protocol, remote) = (key.protocol, key.dst);
        rare.refused.push_back(RefusedLately { protocol, kind, remote, until, why });
    }

    /// Index of the address that the subscriber is paired with, if it serves.
    pub(crate) fn home(&self, pool: &Pool) -> Option<u16> {
        self.anchor.filter(|&anchor| pool.serves(anchor))
    }

    /// Pairs the subscriber with an address, if it is not paired yet (RFC 4787 REQ-2, RFC 6888 REQ-2: one
    /// address for all protocols).
    pub(crate) fn pair_with(&mut self, pool: &Pool, address: u16, now: Timestamp) {
        if pool.settings.pooling == Pooling::Paired && self.home(pool).is_none() {
            self.anchor = Some(address);
            self.idle_since = now;
        }
    }

    fn may_claim(&self, pool: &Pool, class: PortClass) -> bool {
        // Low blocks are counted apart: they are too small to be worth a block each.
        self.blocks_of(pool, class) < pool.settings.quota.blocks
    }

    /// Takes one more block; the new block is the last of `blocks`.
    pub(crate) fn claim(
        &mut self,
        pool: &Pool,
        class: PortClass,
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> Result<Claimed, NoBlock> {
        if !self.may_claim(pool, class) {
            return Err(NoBlock::Quota);
        }
        let home = self
            .reclaim(pool, (class, self.home(pool)), holder, now)
            .or_else(|| self.claim_fresh(pool, (class, false), holder, random, now));
        // RFC 7857 section 4: another address only if the subscriber's own one has no block left.
        let place = if home.is_none() && self.home(pool).is_some() && pool.settings.spill {
            self.reclaim(pool, (class, None), holder, now)
                .or_else(|| self.claim_fresh(pool, (class, true), holder, random, now))
        } else {
            home
        };
        Ok(self.take(pool, place.ok_or(NoBlock::Exhausted)?, now))
    }

    /// Takes the very block where `port` is, on the subscriber's address, if it can be had.
    pub(crate) fn claim_port(
        &mut self,
        pool: &Pool,
        port: u16,
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> Option<Claimed> {
        let place = self.addresses(pool, random, false).find_map(|address| {
            let public = &pool.addresses[usize::from(address)];
            let class = public.class_of(port);
            let directory = public.blocks(class);
            let number = directory.block_of(port);
            let won = self.may_claim(pool, class)
                && !public.is_reserved(port)
                && directory.claim_block(number, holder, now);
            won.then_some((address, number, class))
        })?;
        Some(self.take(pool, place, now))
    }

    fn take(&mut self, pool: &Pool, (address, number, class): Place, now: Timestamp) -> Claimed {
        self.pair_with(pool, address, now);
        self.idle_since = now;
        self.forget_refused();
        let rests = !pool.settings.hold_down.port.is_zero();
        reserve_few(&mut self.blocks);
        self.blocks.push(pool.addresses[usize::from(address)].block(address, number, class, rests));
        Claimed { address, spilled: self.home(pool).is_some_and(|home| home != address) }
    }

    /// Takes a block that is held for the subscriber already, unless it has it.
    pub(crate) fn restore_block(&mut self, pool: &Pool, (address, number, class): Place) -> bool {
        let known = |block: &PortBlock| {
            (block.address, block.number, block.class) == (address, number, class)
        };
        if self.blocks.iter().any(known) {
            return false;
        }
        let rests = !pool.settings.hold_down.port.is_zero();
        reserve_few(&mut self.blocks);
        self.blocks.push(pool.addresses[usize::from(address)].block(address, number, class, rests));
        true
    }

    /// The addresses where the subscriber may have ports, its own one first. `spills`: others too, where
    /// the pool says so.
    fn addresses<'p>(
        &self,
        pool: &'p Pool,
        random: u64,
        spills: bool,
    ) -> impl Iterator<Item = u16> + use<'p> {
        let home = self.home(pool);
        // Paired pooling: other addresses only for who has none yet, or where the pool spills
        // (RFC 7857 section 4).
        let alone = home.is_some() && !(spills && pool.settings.spill);
        pool.serving(home, alone, random)
    }

    /// A block that the subscriber has given back lately, on that address or any.
    fn reclaim(
        &mut self,
        pool: &Pool,
        (class, on): (PortClass, Option<u16>),
        holder: Holder,
        now: Timestamp,
    ) -> Option<Place> {
        let fits = |place: &Place| {
            place.2 == class && on.is_none_or(|on| on == place.0) && pool.serves(place.0)
        };
        let recent = &mut self.rare.as_mut()?.recent;
        while let Some(at) = recent.iter().rposition(fits) {
            let place = recent.remove(at)?;
            let directory = pool.addresses.get(usize::from(place.0))?.blocks(class);
            if directory.claim_block(place.1, holder, now) {
                return Some(place);
            }
        }
        None
    }

    fn claim_fresh(
        &self,
        pool: &Pool,
        (class, spills): (PortClass, bool),
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> Option<Place> {
        self.addresses(pool, random, spills).find_map(|address| {
            let directory = pool.addresses[usize::from(address)].blocks(class);
            let number = directory.claim(holder, random, now)?;
            Some((address, number, class))
        })
    }

    pub(crate) fn block_of(&mut self, pool: &Pool, public: Endpoint) -> Option<usize> {
        self.blocks.iter().position(|block| {
            block.holds(public.port)
                && pool.addresses.get(usize::from(block.address)).map(|a| a.addr)
                    == Some(public.addr)
        })
    }

    /// Counts one more session, opened from `opener`.
    pub(crate) fn count_begin(&mut self, state: State, opener: Realm) {
        self.sessions += 1;
        self.strangers += u32::from(opener == Realm::External);
        self.half_open[opener as usize] += u32::from(state.is_opening());
    }

    /// Counts one session less.
    pub(crate) fn count_end(&mut self, state: State, owner: &Owner, now: Timestamp) {
        self.sessions = self.sessions.saturating_sub(1);
        self.strangers = self.strangers.saturating_sub((!owner.addressed).into());
        let half_open = &mut self.half_open[owner.opened_by as usize];
        *half_open = half_open.saturating_sub(state.is_opening().into());
        self.forget_refused();
        self.idle_since = now;
    }

    /// Counts one more session on the port `public`.
    pub(crate) fn use_port(&mut self, pool: &Pool, protocol: Protocol, public: Endpoint) {
        let Some(block) = self.block_of(pool, public) else { return };
        if self.blocks[block].use_port(protocol, public.port)
            && let Some(index) = protocol.index()
        {
            self.ports[index] += 1;
        }
    }

    /// Counts one session less on its port, and gives a block back when two are empty, unless the port is
    /// needed at once. The time until which the port rests, if it does.
    pub(crate) fn return_port(
        &mut self,
        pool: &Pool,
        ended: Ended,
        (holder, events): (Holder, &mut Events),
        now: Timestamp,
    ) -> Option<Timestamp> {
        let index = self.block_of(pool, ended.public)?;
        // RFC 6888 REQ-8a: not after a close that was followed to its end.
        let closed = ended.protocol == Protocol::Tcp && ended.state.is_over();
        let rest = if closed { Duration::ZERO } else { pool.settings.hold_down.port };
        let block = &mut self.blocks[index];
        let returned = block.return_port(ended.protocol, ended.public.port, now + rest, now);
        let empty = block.is_empty();
        if returned != Returned::InUse
            && let Some(protocol) = ended.protocol.index()
        {
            self.ports[protocol] = self.ports[protocol].saturating_sub(1);
        }
        let surplus = empty && !ended.replaced;
        if empty && !pool.serves(self.blocks[index].address) {
            self.release(pool, index, (holder, events), now);
        } else if surplus && self.blocks.iter().filter(|block| block.is_empty()).count() > 1 {
            // Rather one on another address, where the subscriber spilled to.
            let spilled = self.blocks.iter().position(|block| self.is_spare(pool, block));
            self.release(pool, spilled.unwrap_or(index), (holder, events), now);
        }
        match returned {
            Returned::Rests(until) => Some(until),
            Returned::InUse | Returned::Free => None,
        }
    }

    /// Indices of the addresses for a flow that needs no block: the one that the subscriber is paired with, or
    /// all, those that have room for blocks as well first.
    pub(crate) fn addresses_without_block<'p>(
        &self,
        pool: &'p Pool,
        random: u64,
    ) -> impl Iterator<Item = u16> + use<'p> {
        // Without pairing there is no own address.
        let own = self.home(pool).filter(|_| pool.settings.pooling == Pooling::Paired);
        let all = pool.serving(own, own.is_some(), random);
        let has_room = |&index: &u16| {
            let directory = &pool.addresses[usize::from(index)].directory;
            directory.held() < directory.blocks()
        };
        all.clone().filter(has_room).chain(all.filter(move |index| !has_room(index)))
    }

    fn release(
        &mut self,
        pool: &Pool,
        index: usize,
        (holder, events): (Holder, &mut Events),
        now: Timestamp,
    ) {
        let block = self.blocks.swap_remove(index);
        events.block(BlockChange::of(&block, pool, holder, false), now);
        let directory = pool.addresses[usize::from(block.address)].blocks(block.class);
        directory.release(block.number, holder, pool.settings.hold_down.block, now);
        let recent = &mut self.rare().recent;
        if recent.len() == RECENT_BLOCKS {
            recent.pop_front();
        }
        recent.push_back((block.address, block.number, block.class));
    }

    /// Whether a block is empty, and on another address than the subscriber's own.
    fn is_spare(&self, pool: &Pool, block: &PortBlock) -> bool {
        let spilled = || self.home(pool).is_some_and(|home| home != block.address);
        block.is_empty() && (!pool.serves(block.address) || spilled())
    }

    /// Gives empty blocks on the address at `address` back.
    pub(crate) fn leave(
        &mut self,
        pool: &Pool,
        address: u16,
        (holder, events): (Holder, &mut Events),
        now: Timestamp,
    ) {
        let left = |block: &PortBlock| block.address == address && block.is_empty();
        while let Some(index) = self.blocks.iter().position(left) {
            self.release(pool, index, (holder, events), now);
        }
    }

    /// Gives empty blocks back, all but `keep`.
    fn release_empty(
        &mut self,
        pool: &Pool,
        keep: usize,
        (holder, events): (Holder, &mut Events),
        now: Timestamp,
    ) {
        let empty = self.blocks.iter().filter(|block| block.is_empty()).count();
        for _ in keep..empty {
            let spilled = self.blocks.iter().position(|block| self.is_spare(pool, block));
            let any = || self.blocks.iter().rposition(PortBlock::is_empty);
            let Some(index) = spilled.or_else(any) else { return };
            self.release(pool, index, (holder, events), now);
        }
    }

    /// Gives back what has been idle for long. `Keep`: when to look again; a port that rests, or a session
    /// that ends, makes itself heard.
    pub(crate) fn settle(
        &mut self,
        pool: &Pool,
        (holder, events): (Holder, &mut Events),
        now: Timestamp,
    ) -> Settled {
        if self.sessions > 0 {
            self.release_empty(pool, 1, (holder, events), now);
            return Settled::Keep(Timestamp::NEVER);
        }
        let (last_block, linger) =
            (self.idle_since + KEEP_LAST_BLOCK, self.idle_since + pool.settings.linger);
        if now < last_block && !self.blocks.is_empty() {
            return Settled::Keep(last_block);
        }
        self.release_empty(pool, 0, (holder, events), now);
        if !self.blocks.is_empty() {
            Settled::Keep(Timestamp::NEVER)
        } else if now < linger {
            Settled::Keep(linger)
        } else {
            Settled::Forget
        }
    }
}

/// Room for one more, and not for four at once: most subscribers have one.
fn reserve_few<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 2).max(1));
    }
}

/// One internal address.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) addr: Ipv4Addr,
    host: Host,
    pub(crate) holdings: Vec<Holding>,
    pub(crate) sessions: u32,
    pub(crate) created: u64,
    pub(crate) refused: u64,
    /// When the last session ended; meaningful while there is none.
    pub(crate) idle_since: Timestamp,
    /// When it is looked at for what it does not need.
    pub(crate) settle_at: Timestamp,
}

impl Subscriber {
    /// The overlay in which its address is its own.
    pub(crate) fn overlay(&self) -> u16 {
        self.host.0 as u16
    }

    /// Who it is.
    pub(crate) fn host(&self) -> Host {
        self.host
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_bare(&self) -> bool {
        self.sessions == 0 && self.holdings.iter().all(Holding::is_bare)
    }

    /// What it holds in `pool`; starts empty.
    pub(crate) fn holding_mut(&mut self, pool: PoolId) -> &mut Holding {
        let index = self.holdings.iter().position(|h| h.pool == pool).unwrap_or_else(|| {
            reserve_few(&mut self.holdings);
            self.holdings.push(Holding::new(pool));
            self.holdings.len() - 1
        });
        &mut self.holdings[index]
    }

    /// Whether it holds a block on an address other than `public`.
    pub(crate) fn has_other_address(&self, public: Ipv4Addr, pools: &[Arc<Pool>]) -> bool {
        self.holdings.iter().any(|holding| {
            let addresses = pools.get(holding.pool.index()).map(|pool| &pool.addresses);
            let other = |block: &PortBlock| {
                let address = addresses.and_then(|all| all.get(usize::from(block.address)));
                address.is_some_and(|address| address.addr != public)
            };
            holding.blocks.iter().any(other)
        })
    }
}
