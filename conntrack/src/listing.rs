//! What can be seen of a NAT from outside: its sessions and subscribers, in slices.

use std::net::Ipv4Addr;

use crate::endpoint::{Endpoint, Protocol, Realm};
use crate::nat::Nat;
use crate::pool::PoolId;
use crate::session::Session;
use crate::tcp::State;
use crate::time::Timestamp;

/// One session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionView {
    /// Protocol.
    pub protocol: Protocol,
    /// The pod's endpoint.
    pub internal: Endpoint,
    /// The pod's overlay ([`FlowKey::overlay`](crate::FlowKey::overlay)).
    pub overlay: u16,
    /// The public endpoint.
    pub public: Endpoint,
    /// The peer.
    pub remote: Endpoint,
    /// The side whose packet opened it.
    pub opened_by: Realm,
    /// State.
    pub state: State,
    /// Pool.
    pub pool: PoolId,
    /// Rule, as given at admission.
    pub rule: u16,
    /// Milliseconds since the last packet.
    pub idle_ms: u32,
    /// Seconds since it began.
    pub age_s: u32,
    /// Milliseconds until it ends if nothing comes; 0: due.
    pub expires_in_ms: u32,
    /// Packets and bytes (IP length) from the pod.
    pub outbound: (u64, u64),
    /// Packets and bytes (IP length) to the pod.
    pub inbound: (u64, u64),
}

/// One subscriber.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SubscriberView {
    /// The internal address.
    pub addr: Ipv4Addr,
    /// The overlay in which that is its own.
    pub overlay: u16,
    /// Sessions now.
    pub sessions: u32,
    /// Sessions ever created.
    pub created: u64,
    /// New flows refused.
    pub refused: u64,
    /// By pool: public addresses and the number of blocks held on each.
    pub holdings: Vec<(PoolId, Vec<(Ipv4Addr, u32)>)>,
}

impl Nat {
    /// The live sessions among the next `count` places from `*cursor` on, which moves; `None` at the end.
    pub fn sessions(
        &self,
        cursor: &mut usize,
        count: usize,
        now: Timestamp,
    ) -> Option<impl Iterator<Item = SessionView>> {
        let start = *cursor;
        let end = (start + count).min(self.table.end());
        *cursor = end;
        (start < end).then(|| (start..end).filter_map(move |number| self.session_view(number, now)))
    }

    pub(crate) fn session_view(&self, number: usize, now: Timestamp) -> Option<SessionView> {
        let (session, owner) = self.table.live(number)?;
        let expires_in_ms = self.pool(owner.pool).map_or(0, |pool| {
            let settings = &pool.settings;
            let timeout = session.timeout(settings).as_millis() as u32;
            timeout.saturating_sub(session.unrenewed(&owner, settings.inbound_refresh, now))
        });
        Some(SessionView {
            protocol: session.protocol(),
            internal: session.internal(),
            overlay: session.overlay(),
            public: session.public(),
            remote: session.remote(),
            opened_by: owner.opened_by,
            state: session.state(),
            pool: owner.pool,
            rule: owner.rule,
            idle_ms: session.idle(now),
            age_s: self.age(session, now),
            expires_in_ms,
            outbound: (session.outbound.packets(), session.outbound.bytes()),
            inbound: (session.inbound.packets(), session.inbound.bytes()),
        })
    }

    /// Seconds since a session began, at `now`.
    pub(crate) fn age(&self, session: &Session, now: Timestamp) -> u32 {
        let of_tail = || session.tail().and_then(|tail| self.tails.born(tail));
        let now = now.as_secs() as u32;
        session.born().or_else(of_tail).map_or(0, |born| now.saturating_sub(born))
    }

    /// The subscribers among the next `count` places from `*cursor` on, which moves; `None` at the end.
    pub fn subscribers(
        &self,
        cursor: &mut usize,
        count: usize,
    ) -> Option<impl Iterator<Item = SubscriberView>> {
        let start = *cursor;
        let end = (start + count).min(self.subscribers.end());
        *cursor = end;
        (start < end).then(|| (start..end).filter_map(|number| self.subscriber_view(number)))
    }

    fn subscriber_view(&self, number: usize) -> Option<SubscriberView> {
        let subscriber = self.subscribers.live(number)?;
        let holdings = subscriber.holdings.iter().map(|holding| {
            let mut blocks: Vec<(Ipv4Addr, u32)> = Vec::new();
            for block in &holding.blocks {
                let address = self.pool(holding.pool).and_then(|pool| {
                    pool.addresses.get(usize::from(block.address)).map(|a| a.addr)
                });
                let Some(address) = address else { continue };
                match blocks.iter_mut().find(|(addr, _)| *addr == address) {
                    Some((_, count)) => *count += 1,
                    None => blocks.push((address, 1)),
                }
            }
            (holding.pool, blocks)
        });
        Some(SubscriberView {
            addr: subscriber.addr,
            overlay: subscriber.overlay(),
            sessions: subscriber.sessions,
            created: subscriber.created,
            refused: subscriber.refused,
            holdings: holdings.collect(),
        })
    }
}
