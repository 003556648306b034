//! Which internal endpoint has a public endpoint, and towards whom?
//!
//! A pool's mapping, its filter and its overlap together say who may share a public endpoint
//! ([`Class`]). That is a constant of the settings: it depends neither on how full the pool is nor on who
//! came first (RFC 4787 REQ-11). Where everything depends on the remote's address and port, a session is
//! a mapping of its own and the session table says it all; nothing is kept here then.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::Ipv4Addr;

use ahash::RandomState;

use crate::chunks::Chunks;
use crate::endpoint::{Endpoint, FlowKey, Protocol};
use crate::pool::{Behavior, Overlap, PoolId, PoolSettings};

/// Who may use a public endpoint at the same time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// One mapping.
    Nobody,
    /// One mapping for each address of a remote.
    ByAddress,
    /// One session for each endpoint of a remote.
    ByEndpoint,
}

/// How a pool maps and filters a protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Class {
    pub(crate) mapping: Behavior,
    pub(crate) filtering: Behavior,
    pub(crate) sharing: Sharing,
}

impl Class {
    /// TCP may be filtered otherwise than UDP (RFC 5382 REQ-3b); ICMP queries are filtered as UDP.
    pub(crate) fn of(settings: &PoolSettings, protocol: Protocol) -> Self {
        let mapping = settings.mapping;
        let filtering = match protocol {
            Protocol::Tcp => settings.filtering_tcp,
            Protocol::Udp | Protocol::Icmp | Protocol::Other(_) => settings.filtering_udp,
        };
        let any = |behavior| mapping == behavior || filtering == behavior;
        // A packet from a remote that is admitted must lead to one internal endpoint.
        let sharing = if any(Behavior::EndpointIndependent) {
            Sharing::Nobody
        } else if any(Behavior::AddressDependent) || settings.overlap == Overlap::Address {
            // RFC 7857 section 3: endpoints overlap only if the destination addresses differ.
            Sharing::ByAddress
        } else {
            Sharing::ByEndpoint
        };
        Self { mapping, filtering, sharing }
    }

    /// Whether sessions of this class belong to a [`Mapping`].
    pub(crate) fn keeps_mappings(self) -> bool {
        self.sharing != Sharing::ByEndpoint
    }
}

/// Towards whom: an address, or everybody.
type Reach = Option<Ipv4Addr>;

/// An internal endpoint, a public endpoint, and the sessions between the two and remotes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mapping {
    pub(crate) protocol: Protocol,
    pub(crate) internal: Endpoint,
    pub(crate) overlay: u16,
    pub(crate) public: Endpoint,
    pub(crate) pool: PoolId,
    /// The rule of the first flow.
    pub(crate) rule: u16,
    /// Sessions.
    pub(crate) sessions: u32,
    /// Sessions whose remote the internal endpoint has addressed itself.
    addressed: u32,
    /// New flows from inside that use it: those to this reach; `None`: none but the first.
    inner: Option<Reach>,
    /// Packets from outside that may belong to it.
    outer: Reach,
    /// Whether `peers` is kept for it.
    keeps_peers: bool,
    /// Nobody wants it any more, and the last of its sessions are about to end.
    stranded: bool,
    /// The session that came last.
    newest: u32,
}

/// How a flow from inside finds its mapping: the internal endpoint and its overlay tell whose it is.
type InnerKey = (Protocol, (Endpoint, u16), PoolId, Reach);

impl Mapping {
    /// The remote of the flow that made it, as far as that matters; `remote` where it does not. `None` if nobody wants
    /// it any more.
    pub(crate) fn made_for(&self, remote: Ipv4Addr) -> Option<Ipv4Addr> {
        let known = self.inner.flatten().or(self.outer);
        (!self.stranded).then(|| known.unwrap_or(remote))
    }

    fn inner_key(&self, reach: Reach) -> InnerKey {
        (self.protocol, (self.internal, self.overlay), self.pool, reach)
    }
}

/// A mapping that is to be.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewMapping<'a> {
    pub(crate) key: &'a FlowKey,
    pub(crate) public: Endpoint,
    pub(crate) pool: PoolId,
    pub(crate) rule: u16,
    pub(crate) class: Class,
}

/// The end of the list of a mapping's sessions.
const NONE: u32 = u32::MAX;

/// The mapping of a session, and its neighbours in that mapping's list.
#[derive(Clone, Copy, Debug)]
struct Link {
    mapping: u32,
    newer: u32,
    older: u32,
}

/// What is left of a mapping when one of its sessions has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Left {
    /// A mapping.
    Mapping,
    /// Nothing.
    Nothing,
    /// Sessions that only remotes wanted: they must end as well.
    Strangers,
}

/// All mappings of one worker.
#[derive(Debug, Default)]
pub(crate) struct Mappings {
    all: Vec<Mapping>,
    free: Vec<u32>,
    by_internal: HashMap<InnerKey, u32, RandomState>,
    by_public: HashMap<(Protocol, Endpoint, Reach), u32, RandomState>,
    /// Only where the filter asks and `outer` does not say it.
    peers: Peers,
    /// By session number; as long as mappings ever needed it.
    links: Chunks<Link>,
}

/// Sessions whose remote the internal endpoint has addressed itself, by mapping and remote address.
type Peers = HashMap<(u32, Ipv4Addr), u32, RandomState>;

fn forget_peer(peers: &mut Peers, key: (u32, Ipv4Addr)) {
    if let Entry::Occupied(mut peer) = peers.entry(key) {
        *peer.get_mut() -= 1;
        if *peer.get() == 0 {
            peer.remove();
        }
    }
}

/// Towards whom a mapping of `behavior` that was made for `remote` serves.
fn reach(behavior: Behavior, remote: Ipv4Addr) -> Option<Reach> {
    match behavior {
        Behavior::EndpointIndependent => Some(None),
        Behavior::AddressDependent => Some(Some(remote)),
        Behavior::AddressAndPortDependent => None,
    }
}

impl Mappings {
    /// How many mappings there are.
    pub(crate) fn len(&self) -> usize {
        self.all.len() - self.free.len()
    }

    /// The mapping of a session that has one.
    pub(crate) fn of(&self, session: u32) -> u32 {
        self.links[session as usize].mapping
    }

    /// Bytes that it uses, roughly: maps are counted by their room.
    pub(crate) fn bytes(&self) -> usize {
        let entry = |capacity: usize, size: usize| capacity * (size + 1);
        self.all.capacity() * size_of::<Mapping>()
            + self.links.bytes()
            + entry(self.by_internal.capacity(), size_of::<(InnerKey, u32)>())
            + entry(self.by_public.capacity(), size_of::<((Protocol, Endpoint, Reach), u32)>())
            + entry(self.peers.capacity(), size_of::<((u32, Ipv4Addr), u32)>())
    }

    pub(crate) fn get(&self, number: u32) -> &Mapping {
        &self.all[number as usize]
    }

    /// The mapping that a new flow from inside must use (RFC 4787 REQ-1).
    pub(crate) fn for_flow(&self, class: Class, key: &FlowKey, pool: PoolId) -> Option<u32> {
        let reach = reach(class.mapping, key.dst.addr)?;
        self.by_internal.get(&(key.protocol, (key.src, key.overlay), pool, reach)).copied()
    }

    /// The mapping that a packet from `remote` to `public` may belong to, subject to the filter.
    pub(crate) fn at_public(
        &self,
        protocol: Protocol,
        public: Endpoint,
        remote: Ipv4Addr,
    ) -> Option<u32> {
        if self.by_public.is_empty() {
            return None;
        }
        let at = |reach| self.by_public.get(&(protocol, public, reach));
        at(None).or_else(|| at(Some(remote))).copied()
    }

    /// Whether `filtering` lets packets from any port of `remote` in by mapping `number` (RFC 4787 REQ-8).
    pub(crate) fn admits(&self, number: u32, filtering: Behavior, remote: Ipv4Addr) -> bool {
        match filtering {
            _ if self.get(number).stranded => false,
            Behavior::EndpointIndependent => true,
            Behavior::AddressDependent => {
                self.get(number).outer == Some(remote) || self.peers.contains_key(&(number, remote))
            }
            // The addressed endpoint itself has a session.
            Behavior::AddressAndPortDependent => false,
        }
    }

    /// Adds a mapping without sessions.
    pub(crate) fn add(&mut self, new: NewMapping) -> u32 {
        let NewMapping { key, public, pool, rule, class } = new;
        let remote = key.dst.addr;
        let mapping = Mapping {
            protocol: key.protocol,
            internal: key.src,
            overlay: key.overlay,
            public,
            pool,
            rule,
            sessions: 0,
            addressed: 0,
            inner: reach(class.mapping, remote),
            outer: (class.sharing == Sharing::ByAddress).then_some(remote),
            keeps_peers: class.sharing == Sharing::Nobody
                && class.filtering == Behavior::AddressDependent,
            stranded: false,
            newest: NONE,
        };
        let number = if let Some(number) = self.free.pop() {
            self.all[number as usize] = mapping;
            number
        } else {
            self.all.push(mapping);
            self.all.len() as u32 - 1
        };
        if let Some(reach) = mapping.inner {
            self.by_internal.insert(mapping.inner_key(reach), number);
        }
        let before = self.by_public.insert((mapping.protocol, public, mapping.outer), number);
        debug_assert_eq!(before, None, "a public endpoint was given to two mappings");
        number
    }

    /// Removes a mapping that has no sessions.
    pub(crate) fn remove(&mut self, number: u32) {
        self.close(number);
        let mapping = self.all[number as usize];
        self.by_public.remove(&(mapping.protocol, mapping.public, mapping.outer));
        self.free.push(number);
    }

    /// New flows from inside do not find it any more.
    fn close(&mut self, number: u32) {
        let mapping = &mut self.all[number as usize];
        if let Some(reach) = mapping.inner.take() {
            let key = mapping.inner_key(reach);
            self.by_internal.remove(&key);
        }
    }

    /// Counts one more session, with `remote`.
    pub(crate) fn link(&mut self, number: u32, session: u32, remote: Ipv4Addr, addressed: bool) {
        let nowhere = Link { mapping: NONE, newer: NONE, older: NONE };
        self.links.grow(session as usize + 1, &nowhere);
        let mapping = &mut self.all[number as usize];
        mapping.sessions += 1;
        let older = std::mem::replace(&mut mapping.newest, session);
        self.links[session as usize] = Link { mapping: number, newer: NONE, older };
        if let Some(link) = self.links.get_mut(older as usize) {
            link.newer = session;
        }
        if addressed {
            self.address(number, remote);
        }
    }

    /// The internal endpoint has addressed the remote of a session itself.
    pub(crate) fn address(&mut self, number: u32, remote: Ipv4Addr) {
        let mapping = &mut self.all[number as usize];
        mapping.addressed += 1;
        if mapping.keeps_peers {
            *self.peers.entry((number, remote)).or_default() += 1;
        }
    }

    /// Counts one session less. A mapping lives as long as there is a remote that its internal endpoint has
    /// addressed itself: strangers can not keep it alive (RFC 4787 REQ-6a, section 12).
    pub(crate) fn unlink(&mut self, session: u32, remote: Ipv4Addr, addressed: bool) -> Left {
        let Link { mapping: number, newer, older } = self.links[session as usize];
        if let Some(link) = self.links.get_mut(older as usize) {
            link.newer = newer;
        }
        let mapping = &mut self.all[number as usize];
        match self.links.get_mut(newer as usize) {
            Some(link) => link.older = older,
            None => mapping.newest = older,
        }
        mapping.sessions -= 1;
        mapping.addressed -= u32::from(addressed);
        if addressed && mapping.keeps_peers {
            forget_peer(&mut self.peers, (number, remote));
        }
        let left = match (mapping.sessions, mapping.addressed) {
            (0, _) => Left::Nothing,
            (_, 0) if !mapping.stranded => Left::Strangers,
            _ => Left::Mapping,
        };
        match left {
            Left::Mapping => {}
            Left::Nothing => self.remove(number),
            Left::Strangers => {
                mapping.stranded = true;
                self.close(number);
            }
        }
        left
    }

    /// A session of a mapping.
    pub(crate) fn a_session(&self, number: u32) -> Option<u32> {
        let newest = self.get(number).newest;
        (newest != NONE).then_some(newest)
    }

    /// Whether nothing at all is kept.
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.len() == 0
            && self.by_internal.is_empty()
            && self.by_public.is_empty()
            && self.peers.is_empty()
    }
}
