//! The lane for nearly every packet: UDP or TCP, whole, of a session that it does not change, to a neighbour that is
//! known. All it needs is in two lines of memory, which are read for a whole burst side by side.
//!
//! A packet that is not plain leaves the lane before anything has changed, and takes the way in
//! [`pipeline`](crate::pipeline) at its own turn. Both do the same to a plain one, which `tests/plain.rs` proves.

use conntrack::{Acknowledgement, Endpoint, HashedKey, Protocol, Realm, Secret, Side, Timestamp};

use crate::follow::Changed;
use crate::identify::kind;
use crate::interface::InterfaceId;
use crate::io::{PacketIo, Received};
use crate::roads::{AdjacencyId, NextHop};
use crate::snapshot::Snapshot;
use crate::tunnel::{TunnelId, Tunnels};
use crate::wire::ethernet;
use crate::wire::plain::{self, Headers, MacWord};
use crate::worker::Worker;

/// What is known of a packet before its session is.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Glance {
    /// Of its session, if it can have one.
    pub(crate) key: HashedKey,
    /// `None`: it is not plain, and was parsed.
    pub(crate) plain: Option<Plain>,
}

/// What else is known of a plain one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plain {
    pub(crate) realm: Realm,
    protocol: Protocol,
    /// Of the IP packet, in bytes.
    len: u16,
    /// It keeps its identification.
    atomic: bool,
}

impl Glance {
    /// Whether it may open a session and change nothing else by that: a plain datagram from inside, of no session that
    /// was there when it came.
    #[inline]
    pub(crate) fn opens_alone(&self) -> bool {
        let datagram = |it: &Plain| it.realm == Realm::Internal && it.protocol == Protocol::Udp;
        !self.key.is_probable() && self.plain.as_ref().is_some_and(datagram)
    }
}

/// What is known of a packet of the plain shape that is not looked at any further.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ends {
    pub(crate) src: Endpoint,
    pub(crate) dst: Endpoint,
    pub(crate) protocol: Protocol,
    pub(crate) realm: Realm,
}

/// Where packets come in.
#[derive(Clone, Copy, Debug)]
struct Entrance {
    own: MacWord,
    realm: Realm,
    side: Side,
    partial_checksums: bool,
}

/// By which way they leave: what an adjacency means, ready to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Exit {
    addresses: plain::Addresses,
    interface: InterfaceId,
    /// The longest frame that may leave, by the side it came from; 0: none.
    room: [u16; 2],
    /// The tunnel that it goes through on `interface`.
    tunnel: Option<TunnelId>,
}

/// What the lane needs of a snapshot.
#[derive(Debug, Default)]
pub(crate) struct Lane {
    /// By interface; `None`: nothing that comes in there is plain.
    entrances: Vec<Option<Entrance>>,
    /// By adjacency.
    exits: Vec<Exit>,
    /// The lowest public address, and how far the highest is from there.
    public: (u32, u32),
    /// The MTU of all ways, if that is one.
    pub(crate) only_mtu: Option<u16>,
    /// Nothing is plain.
    #[cfg(test)]
    pub(crate) closed: bool,
}

impl Lane {
    /// Takes over what a new snapshot says.
    pub(crate) fn follow(&mut self, snapshot: &Snapshot, tunnels: &Tunnels, changed: &Changed) {
        let entrances = snapshot.interfaces.iter().map(|interface| {
            // On a one-armed interface the rules say which side a packet is from.
            let realm = match (interface.roles.internal, interface.roles.external) {
                (true, true) => return None,
                (true, false) => Realm::Internal,
                (false, _) => Realm::External,
            };
            let (own, partial_checksums) = (interface.mac.into(), interface.repair_checksums);
            let overlay = if realm == Realm::Internal { interface.overlay } else { 0 };
            let side = Side::new(realm, overlay);
            Some(Entrance { own, realm, side, partial_checksums })
        });
        self.entrances = entrances.collect();
        let count = snapshot.roads.adjacencies.len();
        let exit = |id: AdjacencyId| exit(snapshot, id, tunnels.of(id));
        match changed {
            Changed::All => self.exits = (0..count as u32).map(AdjacencyId).map(exit).collect(),
            Changed::These(ids) => {
                self.exits.resize(count, Exit::NOWHERE);
                for &id in ids {
                    self.exits[id.0 as usize] = exit(id);
                }
            }
        }
        self.public = snapshot.policy.addresses.span();
        let mut mtus = snapshot.interfaces.iter().map(|interface| interface.mtu);
        let first = mtus.next().filter(|_| !tunnels.any() && !snapshot.roads.narrowed);
        self.only_mtu = first.filter(|first| mtus.all(|mtu| mtu == *first));
    }

    /// What a packet is that came in by `interface`, if it is plain so far.
    #[inline]
    pub(crate) fn look(
        &self,
        frame: &[u8],
        interface: InterfaceId,
        secret: &Secret,
    ) -> Option<Glance> {
        #[cfg(test)]
        if self.closed {
            return None;
        }
        let entrance = self.entrances.get(interface.index())?.as_ref()?;
        let Headers { addresses, ports, protocol, len, atomic } =
            plain::look(frame, entrance.own, entrance.partial_checksums)?;
        let realm = entrance.realm;
        if realm == Realm::External && self.is_among_public(addresses) {
            return None;
        }
        let key = secret.hash_words(addresses, ports, protocol, entrance.side);
        Some(Glance { key, plain: Some(Plain { realm, protocol, len, atomic }) })
    }
}

impl Lane {
    /// The ends of a packet that came in by `interface`, if it may be plain. Whoever goes on with it looks at it whole.
    #[inline]
    pub(crate) fn peek(&self, frame: &[u8], interface: InterfaceId) -> Option<Ends> {
        #[cfg(test)]
        if self.closed {
            return None;
        }
        let entrance = self.entrances.get(interface.index())?.as_ref()?;
        let (addresses, ports, protocol) = plain::peek(frame, entrance.own)?;
        let realm = entrance.realm;
        if realm == Realm::External && self.is_among_public(addresses) {
            return None;
        }
        let end = |addr: u64, port: u32| Endpoint::new((addr as u32).into(), port as u16);
        let (src, dst) = (end(addresses >> 32, ports >> 16), end(addresses, ports));
        Some(Ends { src, dst, protocol, realm })
    }

    /// Whether a frame that came in by `interface` holds an IPv4 packet that was sent to somebody else on the link.
    #[inline]
    pub(crate) fn is_foreign(&self, frame: &[u8], interface: InterfaceId) -> bool {
        let entrance = self.entrances.get(interface.index()).and_then(Option::as_ref);
        entrance.is_some_and(|entrance| plain::is_foreign(frame, entrance.own))
    }

    /// Whether the source may be a public address: nobody outside sends in the name of one.
    #[inline]
    fn is_among_public(&self, addresses: u64) -> bool {
        ((addresses >> 32) as u32).wrapping_sub(self.public.0) <= self.public.1
    }
}

impl Exit {
    /// Nothing leaves by it.
    const NOWHERE: Self =
        Self { addresses: [0; 12], interface: InterfaceId(0), room: [0; 2], tunnel: None };
}

fn exit(snapshot: &Snapshot, id: AdjacencyId, tunnel: Option<TunnelId>) -> Exit {
    let nowhere = Exit { tunnel, ..Exit::NOWHERE };
    let Some(adjacency) = snapshot.roads.adjacency(id) else { return nowhere };
    let interface = snapshot.interfaces.get(adjacency.interface.index());
    let (Some(to), Some(interface)) = (adjacency.mac, interface) else { return nowhere };
    if interface.tunnel.is_some() && tunnel.is_none() {
        return nowhere;
    }
    let mut addresses = [0; 12];
    addresses[..6].copy_from_slice(&to.0);
    addresses[6..].copy_from_slice(&interface.mac.0);
    let mtu = snapshot.mtu_of(NextHop::Adjacency(id)).unwrap_or(0);
    let room = mtu.saturating_add(ethernet::HEADER as u16);
    let mut exit = Exit { addresses, interface: adjacency.interface, ..nowhere };
    for (from, may) in
        [(Realm::Internal, interface.roles.external), (Realm::External, interface.roles.internal)]
    {
        exit.room[from as usize] = if may { room } else { 0 };
    }
    exit
}

/// Packets and bytes of a run of packets by one interface, not counted yet.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) interface: InterfaceId,
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

impl Run {
    pub(crate) const NONE: Self = Self { interface: InterfaceId(0), packets: 0, bytes: 0 };

    /// Adds a frame of `len` bytes; returns the run before it if that was another interface's.
    #[inline]
    pub(crate) fn add(&mut self, interface: InterfaceId, len: usize) -> Option<Self> {
        let before = (interface != self.interface)
            .then(|| std::mem::replace(self, Self { interface, ..Self::NONE }));
        self.packets += 1;
        self.bytes += len as u64;
        before
    }
}

impl<I: PacketIo> Worker<I> {
    /// Sends a plain packet on, and counts it but as received. Gives back, unchanged, what turns out not to be plain.
    #[inline(always)]
    #[allow(clippy::inline_always)] // into the pass over bursts, though what opens sessions calls it as well
    pub(crate) fn pass(
        &mut self,
        mut received: Received<I::Frame>,
        Glance { key, plain }: &Glance,
        now: Timestamp,
        sent: &mut Run,
    ) -> Result<(), Received<I::Frame>> {
        let Some(&Plain { realm, protocol, len, atomic }) = plain.as_ref() else {
            return Err(received);
        };
        let fresh_id = !atomic && (realm == Realm::Internal || self.nat.has_spread_subscribers());
        if fresh_id && (realm == Realm::External || self.nat.has_any_strict_ids()) {
            return Err(received);
        }
        let Some(hit) = self.nat.hit(key) else { return Err(received) };
        let hop = hit.hop();
        let Some(exit) = self.lane.exits.get(hop.adjacency as usize) else { return Err(received) };
        let frame = self.io.bytes_mut(&mut received.frame);
        let frame_len = frame.len();
        let fits = frame_len <= usize::from(exit.room[realm as usize]);
        let rewrite = hit.rewrite();
        let generation = self.snapshot.roads.generation_of(rewrite.dst.addr);
        if hop.generation != generation || !fits {
            return Err(received);
        }
        let segment = if protocol == Protocol::Tcp { plain::segment(frame) } else { None };
        let is_plain = match segment {
            Some((flags, ..)) => hit.is_plain_segment(flags),
            None => hit.is_plain(),
        };
        if !is_plain {
            return Err(received);
        }
        let id = fresh_id.then(|| {
            let kind = kind(rewrite.src.addr, rewrite.dst.addr, protocol.number());
            self.ip_ids.issue(kind, false, now)
        });
        let id = id.flatten();
        let new_id = id.map(|id| id.id);
        if plain::rewrite(frame, &exit.addresses, new_id, &rewrite, protocol).is_none() {
            return Err(received);
        }
        let segment = segment.map(|(_, number, window)| Acknowledgement { number, window });
        hit.commit(now, len.into(), segment);
        let (interface, tunnel) = (exit.interface, exit.tunnel);
        if id.is_some_and(|id| id.reused) {
            self.counters().ip_id_reused.add(1);
        }
        if let Some(tunnel) = tunnel {
            let of = (frame_len, key.flow());
            self.transmit_tunnelled((interface, tunnel), received.frame, of, sent);
        } else {
            self.transmit_plain(interface, received.frame, frame_len, sent);
        }
        Ok(())
    }

    /// Sends a plain packet on, untranslated, of which is known that it is exempt, and counts it but as received. Gives
    /// back, unchanged, what is to be decided.
    #[inline(never)] // with registers of its own
    pub(crate) fn pass_exempt(
        &mut self,
        mut received: Received<I::Frame>,
        Glance { key, plain }: &Glance,
        sent: &mut Run,
    ) -> Result<(), Received<I::Frame>> {
        let (version, arrival) = (self.snapshot_version, received.interface);
        let known = plain.as_ref().filter(|_| !key.is_probable() && self.exempt.knows_any(version));
        let way = known.and_then(|plain| Some((plain, self.exempt.way(key, arrival, version)?)));
        let Some((&Plain { realm, protocol, .. }, way)) = way else { return Err(received) };
        let Some(exit) = self.lane.exits.get(way.0 as usize) else { return Err(received) };
        let frame = self.io.bytes_mut(&mut received.frame);
        let len = frame.len();
        let segment = if protocol == Protocol::Tcp { plain::segment(frame) } else { None };
        // From outside come replies only; and a session, if there is one by now, goes before what rules say.
        let opens = realm == Realm::External && segment.is_some_and(|(flags, ..)| flags.opens());
        let fits = len <= usize::from(exit.room[realm as usize]);
        if opens || !fits || self.nat.find_hashed(key).is_some() {
            return Err(received);
        }
        if plain::forward(frame, &exit.addresses).is_none() {
            return Err(received);
        }
        match exit.tunnel {
            Some(tunnel) => {
                let of = (len, key.flow());
                self.transmit_tunnelled((exit.interface, tunnel), received.frame, of, sent);
            }
            None => self.transmit_plain(exit.interface, received.frame, len, sent),
        }
        Ok(())
    }
}
