//! What does a pod hold? Its blocks, its sessions, its quota.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::time::Duration;

use ahash::RandomState;

use crate::block::PortBlock;
use crate::directory::{BlockNumber, Holder};
use crate::endpoint::{Endpoint, FlowKey, Protocol};
use crate::pool::{Pool, PoolId};
use crate::time::Timestamp;

/// Blocks given back lately that a subscriber asks for first, so that a flow count that swings about a
/// block boundary doesn't spread rests over the pool.
const RECENT_BLOCKS: usize = 4;

/// Why a subscriber gets no further block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoBlock {
    Quota,
    Exhausted,
}

/// Remotes that a subscriber was refused a port for, and that are remembered at once.
const REFUSED_REMOTES: usize = 8;
/// For this long, no port is looked for again after there was none.
const REFUSED_FOR: Duration = Duration::from_millis(100);

/// No port of a holding was left for this remote.
#[derive(Clone, Copy, Debug)]
struct RefusedLately {
    protocol: Protocol,
    remote: Endpoint,
    until: Timestamp,
    why: NoBlock,
}

/// What one subscriber holds in one pool.
#[derive(Debug)]
pub(crate) struct Holding {
    pub(crate) pool: PoolId,
    /// Index of the address that the subscriber is paired with (RFC 4787 REQ-2).
    anchor: Option<u16>,
    pub(crate) blocks: Vec<PortBlock>,
    pub(crate) sessions: u32,
    /// When the last session ended; meaningful while there is none.
    pub(crate) idle_since: Timestamp,
    recent: VecDeque<(u16, BlockNumber)>,
    /// Remotes for which no port was found lately.
    refused: VecDeque<RefusedLately>,
}

impl Holding {
    fn new(pool: PoolId) -> Self {
        Self {
            pool,
            anchor: None,
            blocks: Vec::new(),
            sessions: 0,
            idle_since: Timestamp::default(),
            recent: VecDeque::new(),
            refused: VecDeque::new(),
        }
    }

    /// Whether there is nothing to remember.
    pub(crate) fn is_bare(&self) -> bool {
        self.sessions == 0 && self.blocks.is_empty() && self.anchor.is_none()
    }

    /// Why a flow like `key` was refused lately, if it was and no port has become free since.
    pub(crate) fn refused_lately(&self, key: &FlowKey, now: Timestamp) -> Option<NoBlock> {
        let same =
            |r: &&RefusedLately| now < r.until && r.remote == key.dst && r.protocol == key.protocol;
        self.refused.iter().find(same).map(|r| r.why)
    }

    /// Remembers for a moment that flows like `key` are refused: the search for a port that is not there
    /// is the longest.
    pub(crate) fn refuse(&mut self, key: &FlowKey, why: NoBlock, now: Timestamp) {
        if self.refused.len() == REFUSED_REMOTES {
            self.refused.pop_front();
        }
        let until = now + REFUSED_FOR;
        let (protocol, remote) = (key.protocol, key.dst);
        self.refused.push_back(RefusedLately { protocol, remote, until, why });
    }

    /// Takes one more block; the new block is the last of `blocks`.
    pub(crate) fn claim(
        &mut self,
        pool: &Pool,
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> Result<(), NoBlock> {
        if self.blocks.len() >= pool.settings.quota.blocks as usize {
            return Err(NoBlock::Quota);
        }
        let (address, number) = self
            .reclaim(pool, holder, now)
            .or_else(|| self.claim_fresh(pool, holder, random, now))
            .ok_or(NoBlock::Exhausted)?;
        self.anchor.get_or_insert(address);
        self.idle_since = now;
        self.refused.clear();
        let directory = &pool.addresses[usize::from(address)].directory;
        let first = *directory.ports(number).start();
        self.blocks.push(PortBlock::new(address, number, first, pool.settings.block_size));
        Ok(())
    }

    fn reclaim(
        &mut self,
        pool: &Pool,
        holder: Holder,
        now: Timestamp,
    ) -> Option<(u16, BlockNumber)> {
        while let Some((address, number)) = self.recent.pop_back() {
            let directory = &pool.addresses.get(usize::from(address))?.directory;
            if directory.claim_block(number, holder, now) {
                return Some((address, number));
            }
        }
        None
    }

    fn claim_fresh(
        &self,
        pool: &Pool,
        holder: Holder,
        random: u64,
        now: Timestamp,
    ) -> Option<(u16, BlockNumber)> {
        let count = pool.addresses.len();
        let start = self.anchor.map_or((random >> 32) as usize % count.max(1), usize::from);
        // Paired pooling: other addresses only for who has none yet, or where the pool spills
        // (RFC 6888 section 3, RFC 7857 section 4).
        let reach = if self.anchor.is_some() && !pool.settings.spill { 1 } else { count };
        (0..reach).map(|i| (start + i) % count).find_map(|address| {
            let directory = &pool.addresses[address].directory;
            directory.claim(holder, random, now).map(|number| (address as u16, number))
        })
    }

    pub(crate) fn block_of(&mut self, pool: &Pool, public: Endpoint) -> Option<usize> {
        self.blocks.iter().position(|block| {
            block.holds(public.port)
                && pool.addresses.get(usize::from(block.address)).map(|a| a.addr)
                    == Some(public.addr)
        })
    }

    /// Counts one session less on `public`, and gives a block back when two are empty.
    pub(crate) fn end_session(
        &mut self,
        pool: &Pool,
        protocol: Protocol,
        public: Endpoint,
        holder: Holder,
        now: Timestamp,
    ) {
        self.count_end(now);
        let Some(index) = self.block_of(pool, public) else { return };
        self.blocks[index].return_port(protocol, public.port);
        if self.blocks[index].is_empty() && self.blocks.iter().filter(|b| b.is_empty()).count() > 1
        {
            self.release(pool, index, holder, now);
        }
    }

    /// Index of the address for a flow that needs no block: the one the subscriber is paired with, or for
    /// who has none yet one that has room for blocks as well.
    pub(crate) fn address_without_block(&self, pool: &Pool, random: u64) -> Option<u16> {
        if self.anchor.is_some() {
            return self.anchor;
        }
        let count = pool.addresses.len();
        let start = (random >> 32) as usize % count.max(1);
        let mut indices = (0..count).map(|i| (start + i) % count);
        let has_room = |&index: &usize| {
            let directory = &pool.addresses[index].directory;
            directory.held() < directory.blocks()
        };
        let found = indices.clone().find(has_room).or_else(|| indices.next());
        found.map(|index| index as u16)
    }

    /// Pairs the subscriber with an address, if it has none yet.
    pub(crate) fn pair(&mut self, address: u16) {
        self.anchor.get_or_insert(address);
    }

    /// Counts one session less.
    pub(crate) fn count_end(&mut self, now: Timestamp) {
        self.sessions = self.sessions.saturating_sub(1);
        self.refused.clear();
        self.idle_since = now;
    }

    fn release(&mut self, pool: &Pool, index: usize, holder: Holder, now: Timestamp) {
        let block = self.blocks.swap_remove(index);
        let directory = &pool.addresses[usize::from(block.address)].directory;
        directory.release(block.number, holder, pool.settings.hold_down.block, now);
        if self.recent.len() == RECENT_BLOCKS {
            self.recent.pop_front();
        }
        self.recent.push_back((block.address, block.number));
    }

    /// Gives every empty block back.
    pub(crate) fn release_empty(&mut self, pool: &Pool, holder: Holder, now: Timestamp) {
        for index in (0..self.blocks.len()).rev() {
            if self.blocks[index].is_empty() {
                self.release(pool, index, holder, now);
            }
        }
    }
}

/// One internal address.
#[derive(Debug)]
pub(crate) struct Subscriber {
    pub(crate) addr: Ipv4Addr,
    pub(crate) holdings: Vec<Holding>,
    pub(crate) sessions: u32,
    pub(crate) created: u64,
    pub(crate) refused: u64,
    /// When the last session ended; meaningful while there is none.
    pub(crate) idle_since: Timestamp,
    /// When it is looked at for what it does not need.
    pub(crate) settle_at: Timestamp,
    live: bool,
}

impl Subscriber {
    /// What it holds in `pool`; starts empty.
    pub(crate) fn holding_mut(&mut self, pool: PoolId) -> &mut Holding {
        let index = self.holdings.iter().position(|h| h.pool == pool).unwrap_or_else(|| {
            self.holdings.push(Holding::new(pool));
            self.holdings.len() - 1
        });
        &mut self.holdings[index]
    }
}

/// All subscribers of one worker.
#[derive(Debug)]
pub(crate) struct Subscribers {
    by_addr: HashMap<Ipv4Addr, u32, RandomState>,
    all: Vec<Subscriber>,
    free: Vec<u32>,
}

impl Subscribers {
    pub(crate) fn new() -> Self {
        Self {
            by_addr: HashMap::with_hasher(RandomState::new()),
            all: Vec::new(),
            free: Vec::new(),
        }
    }

    /// The number of the subscriber at `addr`, if known.
    pub(crate) fn find(&self, addr: Ipv4Addr) -> Option<u32> {
        self.by_addr.get(&addr).copied()
    }

    /// The number of the subscriber at `addr`, who is made known if new.
    pub(crate) fn get_or_insert(&mut self, addr: Ipv4Addr, now: Timestamp) -> u32 {
        if let Some(number) = self.find(addr) {
            return number;
        }
        let subscriber = Subscriber {
            addr,
            holdings: Vec::new(),
            sessions: 0,
            created: 0,
            refused: 0,
            idle_since: now,
            settle_at: Timestamp::NEVER,
            live: true,
        };
        let number = if let Some(number) = self.free.pop() {
            self.all[number as usize] = subscriber;
            number
        } else {
            self.all.push(subscriber);
            self.all.len() as u32 - 1
        };
        self.by_addr.insert(addr, number);
        number
    }

    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Subscriber {
        &mut self.all[number as usize]
    }

    pub(crate) fn forget(&mut self, number: u32) {
        let subscriber = &mut self.all[number as usize];
        subscriber.live = false;
        subscriber.holdings = Vec::new();
        self.by_addr.remove(&subscriber.addr);
        self.free.push(number);
    }

    pub(crate) fn len(&self) -> usize {
        self.by_addr.len()
    }

    /// Numbers in use are below this.
    pub(crate) fn end(&self) -> usize {
        self.all.len()
    }

    pub(crate) fn live(&self, number: usize) -> Option<&Subscriber> {
        self.all.get(number).filter(|s| s.live)
    }
}
