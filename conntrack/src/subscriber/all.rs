//! Where is the subscriber with this address?

use std::net::Ipv4Addr;

use ahash::RandomState;

use super::{Holding, Host, Rare, Subscriber};
use crate::block::PortBlock;
use crate::chunks::Slab;
use crate::index::{IN_SECOND, Index};
use crate::session::Owner;
use crate::time::Timestamp;

/// All subscribers of one worker.
#[derive(Debug)]
pub(crate) struct Subscribers {
    by_host: Index,
    all: Slab<Subscriber>,
    hasher: RandomState,
    /// The highest overlay of any so far; they are numbered from 0 on.
    overlays: u16,
}

impl Subscribers {
    /// Room for as many as can be told apart, or four for each of `max` sessions, whose memory is touched as it
    /// is needed: whoever has no session is remembered for a while.
    pub(crate) fn new(max: usize) -> Self {
        let max = (4 * max).clamp(1 << 16, Owner::SUBSCRIBERS);
        Self {
            by_host: Index::new(max),
            all: Slab::default(),
            hasher: RandomState::new(),
            overlays: 0,
        }
    }

    /// The number of the subscriber at `addr` in `overlay`, if known.
    pub(crate) fn find(&self, addr: Ipv4Addr, overlay: u16) -> Option<u32> {
        let host = Host::new(addr, overlay);
        let is_it = |number| self.all.get(number).is_some_and(|it: &Subscriber| it.host() == host);
        self.by_host.find(self.hasher.hash_one(host), is_it)
    }

    /// The numbers of all subscribers at `addr`, whatever their overlay.
    pub(crate) fn at(&self, addr: Ipv4Addr) -> Vec<u32> {
        (0..=self.overlays).filter_map(|overlay| self.find(addr, overlay)).collect()
    }

    /// The number of the subscriber at an address in an overlay, who is made known if new; `None` if there are too many.
    pub(crate) fn get_or_insert(
        &mut self,
        (addr, overlay): (Ipv4Addr, u16),
        now: Timestamp,
    ) -> Option<u32> {
        let host = Host::new(addr, overlay);
        if let Some(number) = self.find(addr, overlay) {
            return Some(number);
        }
        self.overlays = self.overlays.max(overlay);
        let number = self.all.insert(Subscriber {
            addr,
            host,
            holdings: Vec::new(),
            sessions: 0,
            created: 0,
            refused: 0,
            idle_since: now,
            settle_at: Timestamp::NEVER,
        });
        let (all, hasher) = (&self.all, &self.hasher);
        let hash_of = |number| all.get(number).map_or(0, |it| hasher.hash_one(it.host()));
        let added = self.by_host.insert(hasher.hash_one(host), number, hash_of);
        if added.is_err() || number as usize >= Owner::SUBSCRIBERS {
            self.forget(number);
            return None;
        }
        Some(number)
    }

    /// The number is of a subscriber that is known.
    pub(crate) fn get(&self, number: u32) -> &Subscriber {
        &self.all[number]
    }

    /// The number is of a subscriber that is known.
    pub(crate) fn get_mut(&mut self, number: u32) -> &mut Subscriber {
        &mut self.all[number]
    }

    /// The number that the subscriber `host` probably has, by the index alone; one that nobody has if none.
    pub(crate) fn guess(&self, host: Host) -> u32 {
        let hash = self.hasher.hash_one(host);
        match self.by_host.guess(hash, self.by_host.touch(hash)) {
            IN_SECOND => self.by_host.guess_second(hash),
            number => number,
        }
    }

    /// Reads what sessions that begin or end need of the subscribers with these numbers, on which port if that is known:
    /// one place after the other, each for all of them.
    pub(crate) fn touch(&self, needs: impl Iterator<Item = (u32, Option<u16>)> + Clone) {
        let subscribers = needs.filter_map(|(number, port)| Some((self.all.get(number)?, port)));
        let holdings =
            subscribers.clone().filter_map(|(it, port)| Some((it.holdings.first()?, port)));
        let blocks = holdings.clone().filter_map(|(holding, port)| {
            let has_it = |block: &&PortBlock| port.is_none_or(|port| block.holds(port));
            holding.blocks.iter().rev().find(has_it)
        });
        for (subscriber, _) in subscribers {
            std::hint::black_box((subscriber.addr, subscriber.holdings.len()));
        }
        for (holding, _) in holdings {
            std::hint::black_box((holding.sessions, holding.blocks.len()));
        }
        for block in blocks.clone() {
            std::hint::black_box(block.is_empty());
        }
        for block in blocks {
            std::hint::black_box(block.touch());
        }
    }

    pub(crate) fn forget(&mut self, number: u32) {
        if let Some(subscriber) = self.all.remove(number) {
            self.by_host.remove(self.hasher.hash_one(subscriber.host()), number);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.all.len()
    }

    /// Numbers in use are below this.
    pub(crate) fn end(&self) -> usize {
        self.all.end()
    }

    pub(crate) fn live(&self, number: usize) -> Option<&Subscriber> {
        self.all.get(number as u32)
    }

    /// Bytes of all of it, without what the allocator adds. Walks over all subscribers.
    pub(crate) fn bytes(&self) -> usize {
        let live = (0..self.end()).filter_map(|number| self.live(number));
        let held = live.flat_map(|subscriber| &subscriber.holdings).map(|holding| {
            let blocks = holding.blocks.iter().map(|block| size_of_val(block) + block.bytes());
            let rare = holding.rare.as_ref().map_or(0, |_| size_of::<Rare>());
            size_of::<Holding>() + rare + blocks.sum::<usize>()
        });
        self.by_host.bytes() + self.all.bytes() + held.sum::<usize>()
    }
}
