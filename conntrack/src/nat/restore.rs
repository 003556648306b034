//! How does a NAT take the place of another one? Everything that it had is handed over as records, and added as if it
//! came from packets: what does not fit together, or has nothing to stand on, is left out and counted.

use std::net::Ipv4Addr;

use super::Nat;
use crate::address::PortClass;
use crate::directory::{BlockNumber, BlockState, Holder};
use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::mapping::{Class, NewMapping};
use crate::pool::{Pool, PoolId};
use crate::record::{
    HoldingRecord, Origin, Records, RestRecord, Restored, SessionRecord, SubscriberRecord,
    TcpRecord,
};
use crate::rest::Rest;
use crate::session::{Direction, Owner, Slot, Via};
use crate::tcp::State;
use crate::time::Timestamp;
use crate::track::{Closing, Side, Tail};

impl Nat {
    /// Everything that there is at `now`. The NAT should do nothing more after that.
    pub fn records(&self, now: Timestamp) -> Records {
        let subscribers = (0..self.subscribers.end()).filter_map(|n| self.subscriber_record(n));
        let sessions = (0..self.table.end()).filter_map(|n| self.session_record(n, now));
        Records {
            subscribers: subscribers.collect(),
            sessions: sessions.collect(),
            rests: self.rest_records(now).collect(),
            tuples: self.scatter_rests.all(now).collect(),
        }
    }

    fn subscriber_record(&self, number: usize) -> Option<SubscriberRecord> {
        let subscriber = self.subscribers.live(number)?;
        let holdings = subscriber.holdings.iter().filter_map(|holding| {
            let pool = self.pool(holding.pool)?;
            let addr = |index: u16| pool.addresses.get(usize::from(index)).map(|it| it.addr);
            let blocks = holding.blocks.iter();
            Some(HoldingRecord {
                pool: holding.pool,
                anchor: holding.home(pool).and_then(addr),
                idle_since: holding.idle_since,
                blocks: blocks.filter_map(|b| Some((addr(b.address)?, b.first_port()))).collect(),
            })
        });
        Some(SubscriberRecord {
            addr: subscriber.addr,
            overlay: subscriber.overlay(),
            created: subscriber.created,
            refused: subscriber.refused,
            idle_since: subscriber.idle_since,
            holdings: holdings.collect(),
        })
    }

    fn session_record(&self, number: usize, now: Timestamp) -> Option<SessionRecord> {
        let (session, owner) = self.table.live(number)?;
        let halves = [&session.outbound, &session.inbound];
        let origin = match owner.via {
            Via::Block => Origin::Port,
            Via::Address => Origin::Address,
            Via::Fixed => Origin::Fixed,
            Via::Mapping => {
                let mapping = self.mappings.get(self.mappings.of(number as u32));
                // Its sessions are about to end.
                let made_for = mapping.made_for(session.remote().addr)?;
                Origin::Mapping { made_for, rule: mapping.rule }
            }
        };
        let tcp = session.tail().map(|tail| {
            let Tail { first, closing } = self.tails.get(tail);
            TcpRecord { sides: halves.map(|half| half.side.parts()), first, fin: closing.fins() }
        });
        Some(SessionRecord {
            protocol: session.protocol(),
            internal: session.internal(),
            public: session.public(),
            remote: session.remote(),
            overlay: session.overlay(),
            pool: owner.pool,
            rule: owner.rule,
            origin,
            opened_by: owner.opened_by,
            addressed: owner.addressed,
            state: session.state(),
            idle_ms: halves.map(|half| now.since_stored(half.last_seen)),
            age_s: self.age(session, now),
            counts: halves.map(|half| (half.packets(), half.bytes())),
            tcp,
        })
    }

    fn rest_records(&self, now: Timestamp) -> impl Iterator<Item = RestRecord> + '_ {
        let resting = self.rests.all().filter(move |(_, rest)| rest.until > now);
        resting.filter_map(|(pool, rest)| {
            let subscriber = self.subscribers.live(rest.subscriber as usize)?;
            Some(RestRecord {
                addr: subscriber.addr,
                overlay: subscriber.overlay(),
                pool,
                protocol: rest.protocol,
                public: rest.public,
                until: rest.until,
            })
        })
    }

    /// Takes over `records` of subscribers whose home this is, under the pools that were adopted. Their blocks must be
    /// held for them in the directories already, under this worker's number, or are lost. A session is added if its
    /// pool, its public endpoint and its keys are to be had, and the protocol allows its state.
    pub fn restore(&mut self, records: &Records, now: Timestamp) -> Restored {
        let mut done = Restored::default();
        for record in &records.subscribers {
            self.restore_subscriber(record, now, &mut done);
        }
        for record in &records.sessions {
            let added = self.restore_session(record, now).is_some();
            done.sessions += u64::from(added);
            done.sessions_lost += u64::from(!added);
        }
        for rest in &records.rests {
            self.restore_rest(rest, now);
        }
        for &(reply, until) in &records.tuples {
            self.scatter_rests.push(reply, until, now);
        }
        for record in &records.subscribers {
            let Some(number) = self.subscribers.find(record.addr, record.overlay) else { continue };
            for held in &record.holdings {
                let holding = self.subscribers.get_mut(number).holding_mut(held.pool);
                holding.idle_since = held.idle_since;
            }
            let subscriber = self.subscribers.get_mut(number);
            (subscriber.created, subscriber.refused) = (record.created, record.refused);
            subscriber.idle_since = record.idle_since;
            // What it does not need is found at the next look.
            self.arm_idle(number, now);
        }
        done
    }

    fn restore_subscriber(
        &mut self,
        record: &SubscriberRecord,
        now: Timestamp,
        done: &mut Restored,
    ) {
        let host = (record.addr, record.overlay);
        let holder =
            Holder { subscriber: record.addr, worker: self.worker, overlay: record.overlay };
        let Some(number) = self.subscribers.get_or_insert(host, now) else {
            // Nobody would ever give them back.
            return record.holdings.iter().for_each(|held| {
                done.blocks_lost += held.blocks.len() as u64;
                self.pool(held.pool).inspect(|pool| release_blocks(pool, held, holder, now));
            });
        };
        for held in &record.holdings {
            let Some(pool) = self.pool(held.pool).cloned() else {
                done.blocks_lost += held.blocks.len() as u64;
                continue;
            };
            let index = |addr: Ipv4Addr| {
                pool.addresses.iter().position(|it| it.addr == addr).map(|index| index as u16)
            };
            let holding = self.subscribers.get_mut(number).holding_mut(held.pool);
            if let Some(anchor) = held.anchor.and_then(index).filter(|&it| pool.serves(it)) {
                holding.pair_with(&pool, anchor, now);
            }
            for &(addr, first) in &held.blocks {
                let place = index(addr).and_then(|at| place_of(&pool, at, first, holder));
                let is_new = place.is_some_and(|place| holding.restore_block(&pool, place));
                done.blocks += u64::from(is_new);
                done.blocks_lost += u64::from(!is_new);
            }
        }
    }

    fn restore_session(&mut self, record: &SessionRecord, now: Timestamp) -> Option<Slot> {
        let &SessionRecord { protocol, internal, public, remote, overlay, .. } = record;
        let pool = self.pool(record.pool).cloned()?;
        if (protocol == Protocol::Tcp) != (record.state != State::Open)
            || (protocol == Protocol::Tcp) != record.tcp.is_some()
        {
            return None;
        }
        let sides = match &record.tcp {
            Some(tcp) => Some([Side::of(tcp.sides[0])?, Side::of(tcp.sides[1])?]),
            None => None,
        };
        let number = self.subscribers.find(internal.addr, overlay)?;
        let key = FlowKey { src: internal, dst: remote, protocol, realm: Realm::Internal, overlay };
        let (via, mapping, is_new) = self.restore_origin(number, record, &key, &pool)?;
        let owner = Owner {
            subscriber: number,
            pool: record.pool,
            rule: record.rule,
            via,
            opened_by: record.opened_by,
            addressed: record.addressed,
        };
        let added = self.add((&key, public), record.state, owner, mapping, now);
        let Ok(slot) = added else {
            if let (Some(mapping), true) = (mapping, is_new) {
                self.mappings.remove(mapping);
            }
            if via == Via::Address {
                pool.release_claim(protocol, public.addr, remote.addr);
            }
            return None;
        };
        let born = (now.as_secs() as u32).saturating_sub(record.age_s);
        let tail = sides.map(|_| self.tails.insert(born));
        if let (Some(tail), Some(tcp)) = (tail, &record.tcp) {
            let closing = Closing::of_fins(tcp.fin);
            self.tails.set(tail, &Tail { first: tcp.first, closing });
        }
        let session = self.table.get_mut(slot);
        match tail {
            Some(_) => session.set_tail(tail),
            None => session.set_born(born),
        }
        for (at, direction) in [Direction::Outbound, Direction::Inbound].into_iter().enumerate() {
            let half = session.half_mut(direction);
            half.last_seen = now.stored().wrapping_sub(record.idle_ms[at]);
            half.set_counts(record.counts[at]);
            half.side = sides.map_or_else(Side::default, |sides| sides[at]);
        }
        let subscriber = self.subscribers.get_mut(number);
        subscriber.sessions += 1;
        if record.opened_by == Realm::External && record.addressed {
            let holding = subscriber.holding_mut(record.pool);
            holding.strangers = holding.strangers.saturating_sub(1);
        }
        self.arm(slot, now);
        Some(slot)
    }

    /// By what a session has its public endpoint, if it can have it: the mapping if there is one, and whether it is new.
    fn restore_origin(
        &mut self,
        number: u32,
        record: &SessionRecord,
        key: &FlowKey,
        pool: &Pool,
    ) -> Option<(Via, Option<u32>, bool)> {
        let &SessionRecord { protocol, public, remote, .. } = record;
        let index = pool.addresses.iter().position(|it| it.addr == public.addr)?;
        let address = &pool.addresses[index];
        let scattered = protocol == Protocol::Udp
            && address
                .scatter_worker(public.port, remote, &self.secret, self.workers())
                .is_some_and(|worker| worker == self.worker);
        let holding = self.subscribers.get_mut(number).holding_mut(pool.id);
        let holds = holding.block_of(pool, public).is_some();
        match record.origin {
            Origin::Fixed => Some((Via::Fixed, None, false)),
            Origin::Address => {
                let Protocol::Other(protocol) = protocol else { return None };
                let won = address.claims.claim(protocol, remote.addr, self.worker);
                won.then_some((Via::Address, None, false))
            }
            Origin::Port => {
                // Who else has a mapping there would get its packets.
                let class = Class::of(&pool.settings, protocol);
                let free = self.mappings.at_public(protocol, public, remote.addr).is_none();
                let fits = (holds || scattered) && free && !class.keeps_mappings();
                fits.then_some((Via::Block, None, false))
            }
            Origin::Mapping { made_for, rule } => {
                let class = Class::of(&pool.settings, protocol);
                if !holds || !class.keeps_mappings() {
                    return None;
                }
                if let Some(there) = self.mappings.at_public(protocol, public, made_for) {
                    let mapping = self.mappings.get(there);
                    let same = (mapping.internal, mapping.overlay, mapping.pool)
                        == (key.src, key.overlay, pool.id);
                    return same.then_some((Via::Mapping, Some(there), false));
                }
                let dst = Endpoint::new(made_for, remote.port);
                let made = FlowKey { dst, ..*key };
                if self.mappings.for_flow(class, &made, pool.id).is_some() {
                    return None;
                }
                let new = NewMapping { key: &made, public, pool: pool.id, rule, class };
                Some((Via::Mapping, Some(self.mappings.add(new)), true))
            }
        }
    }

    fn restore_rest(&mut self, record: &RestRecord, now: Timestamp) {
        let &RestRecord { addr, overlay, pool: id, protocol, public, until } = record;
        let Some(number) = self.subscribers.find(addr, overlay).filter(|_| until > now) else {
            return;
        };
        let Some(pool) = self.pool(id).cloned() else { return };
        let holding = self.subscribers.get_mut(number).holding_mut(id);
        let Some(block) = holding.block_of(&pool, public) else { return };
        let until = Timestamp::from_millis(until.as_millis().div_ceil(1000) * 1000);
        if holding.blocks[block].rest_port(protocol, public.port, until) {
            self.rest_port(id, Rest { subscriber: number, protocol, public, until }, now);
        }
    }
}

/// The place of the block that begins with `first` on the address at `index`, if it is held for `holder`.
fn place_of(
    pool: &Pool,
    index: u16,
    first: u16,
    holder: Holder,
) -> Option<(u16, BlockNumber, PortClass)> {
    let address = pool.addresses.get(usize::from(index))?;
    let class = address.class_of(first);
    let directory = address.blocks(class);
    let number = directory.block_of(first);
    let held = directory.state(number) == BlockState::Held(holder);
    (held && *directory.ports(number).start() == first).then_some((index, number, class))
}

/// Gives back what was [claimed](claim_blocks) for a holding that nobody takes over; it rests as if it had been returned.
fn release_blocks(pool: &Pool, held: &HoldingRecord, holder: Holder, now: Timestamp) {
    let index = |addr: Ipv4Addr| pool.addresses.iter().position(|it| it.addr == addr);
    for &(addr, first) in &held.blocks {
        let place = index(addr).and_then(|at| place_of(pool, at as u16, first, holder));
        let Some((index, number, class)) = place else { continue };
        let directory = pool.addresses[usize::from(index)].blocks(class);
        directory.release(number, holder, pool.settings.hold_down.block, now);
    }
}

/// Has the blocks of `record` in `pool` held for a subscriber whose home is `worker`, before its NAT takes them over.
/// Nobody else may have them.
pub fn claim_blocks(
    pool: &Pool,
    record: &SubscriberRecord,
    id: PoolId,
    worker: u16,
    now: Timestamp,
) {
    let holder = Holder { subscriber: record.addr, worker, overlay: record.overlay };
    for held in record.holdings.iter().filter(|held| held.pool == id) {
        for &(addr, first) in &held.blocks {
            let Some(address) = pool.addresses.iter().find(|it| it.addr == addr) else { continue };
            let directory = address.blocks(address.class_of(first));
            let number = directory.block_of(first);
            if *directory.ports(number).start() == first {
                directory.inherit(number, holder, now);
            }
        }
    }
}
