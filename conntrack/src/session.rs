//! What is remembered of a session: both directions in one object.

use std::time::Duration;

use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::key::PackedKey;
use crate::pool::{InboundRefresh, PoolId, PoolSettings};
use crate::rewrite::{ChecksumDelta, Rewrite};
use crate::tcp::{Segment, State, TcpFlags};
use crate::time::Timestamp;
use crate::track::{Connection, Side, Tail, Verdict};

/// Which way a packet of a session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the pod.
    Outbound,
    /// To the pod.
    Inbound,
}

/// A session and a direction, found in the table; valid until the session ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Slot(pub(crate) u32);

impl Slot {
    pub(crate) const fn new(session: u32, direction: Direction) -> Self {
        Self(session << 1 | direction as u32)
    }

    pub(crate) const fn session(self) -> usize {
        (self.0 >> 1) as usize
    }

    pub(crate) const fn number(self) -> u32 {
        self.0 >> 1
    }

    /// Which way packets of this slot go.
    pub const fn direction(self) -> Direction {
        if self.0 & 1 == 0 { Direction::Outbound } else { Direction::Inbound }
    }
}

/// A next hop that a session keeps, and the generation of the mirror it is from. Opaque numbers here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CachedHop {
    /// Adjacency number.
    pub adjacency: u32,
    /// Generation of the mirror.
    pub generation: u32,
}

impl CachedHop {
    /// Nothing kept.
    pub const NONE: Self = Self { adjacency: u32::MAX, generation: u32::MAX };
}

/// One direction: all that a hit reads and writes, in one cache line.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub(crate) struct Half {
    pub(crate) key: PackedKey,
    /// What takes the place of the pod's endpoint, or of the public one. The remote's never changes: it is in the key.
    changed: Endpoint,
    header: ChecksumDelta,
    payload: ChecksumDelta,
    /// A part of what the slow path knows of the session: see [`Owner`].
    notes: [u16; 3],
    pub(crate) hop: CachedHop,
    /// [`Timestamp::stored`] of the last packet.
    pub(crate) last_seen: u32,
    /// What this side of a TCP connection has told.
    pub(crate) side: Side,
    /// Both halves carry the state, so that a packet that changes nothing reads only its own.
    pub(crate) state: State,
    /// Packets beyond the 16 bits in `counts`.
    more_packets: [u8; 3],
    /// Bytes, the lower 48 bits, and packets above them: one addition counts both.
    counts: u64,
}

/// One packet in [`Half::counts`].
const ONE_PACKET: u64 = 1 << 48;

const _: () = assert!(size_of::<Half>() == 64, "a half is a cache line");

impl Half {
    /// Packets with `key`, where `from` becomes `changed`.
    fn new(
        key: PackedKey,
        (from, changed): (Endpoint, Endpoint),
        state: State,
        now: Timestamp,
    ) -> Self {
        let (header, payload) = ChecksumDelta::of_change(key.protocol(), from, changed);
        Self {
            key,
            changed,
            header,
            payload,
            notes: [0; 3],
            hop: CachedHop::NONE,
            last_seen: now.stored(),
            side: Side::default(),
            state,
            more_packets: [0; 3],
            counts: 0,
        }
    }

    /// How packets of this half, which is that of `direction`, are rewritten.
    #[inline]
    pub(crate) fn rewrite(&self, direction: Direction) -> Rewrite {
        let (src, dst) = match direction {
            Direction::Outbound => (self.changed, self.key.dst()),
            Direction::Inbound => (self.key.src(), self.changed),
        };
        Rewrite { src, dst, header: self.header, payload: self.payload }
    }

    pub(crate) fn packets(&self) -> u64 {
        let [a, b, c] = self.more_packets;
        u64::from(u32::from_le_bytes([a, b, c, 0])) << 16 | self.counts >> 48
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.counts & (ONE_PACKET - 1)
    }

    /// Counts so many packets with so many bytes, and nothing else.
    pub(crate) fn set_counts(&mut self, (packets, bytes): (u64, u64)) {
        self.counts = (packets & 0xffff) << 48 | bytes & (ONE_PACKET - 1);
        let more = ((packets >> 16) as u32).to_le_bytes();
        self.more_packets.copy_from_slice(&more[..3]);
    }

    /// Whether no packet of this direction was counted yet.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        // No packet has no bytes, so bytes without packets are those of 65,536 of them.
        self.counts == 0
    }

    /// Of an outbound half: whether the pod opened the session.
    pub(crate) fn is_opened_inside(&self) -> bool {
        self.notes[1] & (Owner::EXTERNAL >> 16) as u16 == 0
    }

    /// Counts a packet of `bytes`, which are not 0; whether it is the first one.
    #[inline]
    pub(crate) fn count(&mut self, bytes: u64) -> bool {
        let first = self.is_fresh();
        let (counts, carry) = self.counts.overflowing_add(bytes + ONE_PACKET);
        self.counts = counts;
        if carry {
            self.count_many();
        }
        first
    }

    #[cold]
    fn count_many(&mut self) {
        let [a, b, c] = self.more_packets;
        let more = u32::from_le_bytes([a, b, c, 0]) + 1;
        self.more_packets.copy_from_slice(&more.to_le_bytes()[..3]);
    }

    /// Follows a segment of an established connection that changes no state, which is nearly every one;
    /// false, and nothing has changed, if it may be another.
    #[inline]
    pub(crate) fn follow_plain(&mut self, segment: &Segment) -> bool {
        let plain = self.is_plain(segment.flags);
        if plain {
            self.side.acknowledge(segment.ack, segment.window);
        }
        plain
    }
}

impl Half {
    /// Whether a segment with these flags changes no state.
    #[inline]
    pub(crate) fn is_plain(&self, flags: TcpFlags) -> bool {
        const ALL: u8 = TcpFlags::SYN | TcpFlags::FIN | TcpFlags::RST | TcpFlags::ACK;
        self.state == State::Established && flags.0 & ALL == TcpFlags::ACK
    }
}

/// A mapping and a remote, both directions: one allocation, two keys, one free.
#[repr(C)]
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) outbound: Half,
    pub(crate) inbound: Half,
}

/// No tail. Sessions that are no TCP connections never have one, and keep there when they began.
const NO_TAIL: u32 = u32::MAX;

/// Where a session's public endpoint is from, and so what returns when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// A port of one of the subscriber's blocks.
    Block,
    /// The same, and the session belongs to a mapping: [`Mappings::of`](crate::mapping::Mappings::of).
    Mapping,
    /// An address of the pool alone: the protocol has no ports.
    Address,
    /// Configuration: nothing was taken, nothing returns.
    Fixed,
}

/// What the slow path knows of a session. It lies in the six bytes of each half that the fast path leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Less than [`Owner::SUBSCRIBERS`].
    pub(crate) subscriber: u32,
    pub(crate) pool: PoolId,
    pub(crate) rule: u16,
    pub(crate) via: Via,
    /// The side whose packet opened the session.
    pub(crate) opened_by: Realm,
    /// Whether the internal endpoint has addressed the remote itself: opened the session, or answered
    /// otherwise than by a reset (RFC 7857 section 7.1).
    pub(crate) addressed: bool,
}

impl Owner {
    /// Subscribers that can be told apart: more than there are sessions.
    pub(crate) const SUBSCRIBERS: usize = 1 << Self::FLAGS;
    /// Where the flags begin: addressed (1 bit), opened from outside (1), via (2).
    const FLAGS: u32 = 28;
    const ADDRESSED: u32 = 1 << Self::FLAGS;
    const EXTERNAL: u32 = 2 << Self::FLAGS;

    fn pack(self) -> [u16; 4] {
        let external = self.opened_by == Realm::External;
        let word = self.subscriber
            | if self.addressed { Self::ADDRESSED } else { 0 }
            | if external { Self::EXTERNAL } else { 0 }
            | (self.via as u32) << (Self::FLAGS + 2);
        [word as u16, (word >> 16) as u16, self.pool.0, self.rule]
    }

    fn unpack([low, high, pool, rule]: [u16; 4]) -> Self {
        let word = u32::from(high) << 16 | u32::from(low);
        Self {
            subscriber: word & (Self::ADDRESSED - 1),
            pool: PoolId(pool),
            rule,
            via: match word >> (Self::FLAGS + 2) {
                0 => Via::Block,
                1 => Via::Mapping,
                2 => Via::Address,
                _ => Via::Fixed,
            },
            opened_by: if word & Self::EXTERNAL == 0 { Realm::Internal } else { Realm::External },
            addressed: word & Self::ADDRESSED != 0,
        }
    }
}

impl Session {
    /// A session of the flow from inside with the first of `keys`, answered by packets with the second.
    pub(crate) fn new(keys: [PackedKey; 2], owner: Owner, state: State, now: Timestamp) -> Self {
        let (internal, public) = (keys[0].src(), keys[1].dst());
        let [low, high, pool, rule] = owner.pack();
        let mut session = Self {
            outbound: Half::new(keys[0], (internal, public), state, now),
            inbound: Half::new(keys[1], (public, internal), state, now),
        };
        session.outbound.notes = [low, high, pool];
        session.inbound.notes[0] = rule;
        session.set_tail(None);
        session.set_born(now.as_secs() as u32);
        session
    }

    /// How packets of `direction` are rewritten.
    #[inline]
    pub(crate) fn rewrite(&self, direction: Direction) -> Rewrite {
        self.half(direction).rewrite(direction)
    }

    /// What the slow path knows of it.
    pub(crate) fn owner(&self) -> Owner {
        let [low, high, pool] = self.outbound.notes;
        Owner::unpack([low, high, pool, self.inbound.notes[0]])
    }

    /// Notes that the internal endpoint has addressed the remote.
    pub(crate) fn set_addressed(&mut self) {
        self.outbound.notes[1] |= (Owner::ADDRESSED >> 16) as u16;
    }

    /// The number of its [`Tail`], if it has one.
    pub(crate) fn tail(&self) -> Option<u32> {
        let number = self.beside();
        (self.protocol() == Protocol::Tcp && number != NO_TAIL).then_some(number)
    }

    /// Of a TCP connection.
    pub(crate) fn set_tail(&mut self, number: Option<u32>) {
        self.set_beside(number.unwrap_or(NO_TAIL));
    }

    /// The second when it began; `None`: its [`Tail`] knows.
    pub(crate) fn born(&self) -> Option<u32> {
        (self.protocol() != Protocol::Tcp).then(|| self.beside())
    }

    /// Notes the second when it began, if there is no [`Tail`] to know it.
    pub(crate) fn set_born(&mut self, second: u32) {
        if self.protocol() != Protocol::Tcp {
            self.set_beside(second);
        }
    }

    fn beside(&self) -> u32 {
        let [_, low, high] = self.inbound.notes;
        u32::from(high) << 16 | u32::from(low)
    }

    fn set_beside(&mut self, number: u32) {
        (self.inbound.notes[1], self.inbound.notes[2]) = (number as u16, (number >> 16) as u16);
    }

    #[inline]
    pub(crate) fn half(&self, direction: Direction) -> &Half {
        match direction {
            Direction::Outbound => &self.outbound,
            Direction::Inbound => &self.inbound,
        }
    }

    #[inline]
    pub(crate) fn half_mut(&mut self, direction: Direction) -> &mut Half {
        match direction {
            Direction::Outbound => &mut self.outbound,
            Direction::Inbound => &mut self.inbound,
        }
    }

    pub(crate) fn set_state(&mut self, state: State) {
        self.outbound.state = state;
        self.inbound.state = state;
    }

    pub(crate) fn state(&self) -> State {
        self.outbound.state
    }

    /// Follows any TCP segment of this direction.
    pub(crate) fn follow(
        &mut self,
        direction: Direction,
        tail: &mut Tail,
        segment: &Segment,
    ) -> Verdict {
        let state = self.state();
        let (internal, external) = (&mut self.outbound.side, &mut self.inbound.side);
        let (own, peer) = match direction {
            Direction::Outbound => (internal, external),
            Direction::Inbound => (external, internal),
        };
        Connection { own, peer, tail, state, direction }.follow(segment)
    }

    pub(crate) fn internal(&self) -> Endpoint {
        self.outbound.key.src()
    }

    pub(crate) fn overlay(&self) -> u16 {
        self.outbound.key.overlay()
    }

    pub(crate) fn public(&self) -> Endpoint {
        self.inbound.key.dst()
    }

    pub(crate) fn remote(&self) -> Endpoint {
        self.outbound.key.dst()
    }

    pub(crate) fn protocol(&self) -> Protocol {
        self.outbound.key.protocol()
    }

    /// Milliseconds since the last packet of either direction.
    pub(crate) fn idle(&self, now: Timestamp) -> u32 {
        now.since_stored(self.outbound.last_seen).min(now.since_stored(self.inbound.last_seen))
    }

    /// Milliseconds since the last packet that renewed the session.
    ///
    /// What comes from outside renews it only if the internal endpoint has addressed that remote itself
    /// (RFC 4787 REQ-6a, security considerations in section 12), and an answer that is a reset renews
    /// nothing (RFC 7857 section 7.1): until then, the session is as old as its first packet. That is where the
    /// outbound half is left until then (see [`Nat::follow`](crate::nat::Nat)).
    pub(crate) fn unrenewed(&self, owner: &Owner, refresh: InboundRefresh, now: Timestamp) -> u32 {
        if !owner.addressed {
            return now.since_stored(self.outbound.last_seen);
        }
        match (refresh, self.protocol()) {
            // A connection is idle when neither end sends (RFC 5382 REQ-5).
            (InboundRefresh::Peers, _) | (_, Protocol::Tcp) => self.idle(now),
            (InboundRefresh::None, _) => now.since_stored(self.outbound.last_seen),
        }
    }

    /// Whether the only packet out has got one back. A socket may ask two questions at once, as resolvers do
    /// for A and AAAA: there the first answer is not the last.
    fn is_answered(&self) -> bool {
        self.inbound.packets() > 0 && self.outbound.packets() == 1
    }

    /// How long the session may be idle in its state.
    pub(crate) fn timeout(&self, settings: &PoolSettings) -> Duration {
        let timers = &settings.timers;
        match self.state() {
            State::Open => match self.protocol() {
                Protocol::Icmp => timers.icmp_query,
                Protocol::Other(_) => timers.other,
                Protocol::Tcp | Protocol::Udp => {
                    let port = self.remote().port;
                    let of_port = |all: &[(u16, Duration)]| {
                        all.iter().find(|&&(p, _)| p == port).map(|&(_, timeout)| timeout)
                    };
                    // The answer begins the short time only where it renews the session.
                    let counts = settings.inbound_refresh == InboundRefresh::Peers;
                    let answered =
                        (counts && self.is_answered()).then(|| of_port(&timers.udp_answered));
                    answered
                        .flatten()
                        .or_else(|| of_port(&timers.udp_by_port))
                        .unwrap_or(timers.udp)
                }
            },
            // RFC 7857 section 2.1: opening and closing have timers of their own.
            State::SynSent | State::SynExternal | State::SynReceived => timers.tcp_opening,
            // RFC 5382 REQ-5: with one FIN it is still established.
            State::Established | State::FinInternal | State::FinExternal => timers.tcp_established,
            State::Closing => timers.tcp_closing,
            State::TimeWait => timers.tcp_time_wait,
            State::Reset | State::ResetExternal => timers.tcp_reset,
        }
    }
}

/// The key of the packets that answer the flow `key` when it is seen outside as `public`.
pub(crate) fn reply_key(key: &FlowKey, public: Endpoint) -> FlowKey {
    FlowKey {
        src: key.dst,
        dst: public,
        protocol: key.protocol,
        realm: Realm::External,
        overlay: 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_the_slow_path_knows_fits_beside_what_packets_need(
            subscriber in 0..Owner::SUBSCRIBERS as u32,
            pool in any::<u16>(),
            rule in any::<u16>(),
            via in 0..4usize,
            external in any::<bool>(),
            tail in prop::option::of(0..NO_TAIL),
        ) {
            let owner = Owner {
                subscriber,
                pool: PoolId(pool),
                rule,
                via: [Via::Block, Via::Mapping, Via::Address, Via::Fixed][via],
                opened_by: if external { Realm::External } else { Realm::Internal },
                addressed: !external,
            };
            let end = |n: u8| Endpoint::new([n; 4].into(), u16::from(n));
            let protocol = if tail.is_some() { Protocol::Tcp } else { Protocol::Udp };
            let key = FlowKey { src: end(1), dst: end(2), protocol, realm: Realm::Internal, overlay: 0 };
            let keys = [&key, &reply_key(&key, end(3))].map(PackedKey::from);
            let now = Timestamp::from_millis(u64::from(rule) * 1_000);
            let mut session = Session::new(keys, owner, State::Open, now);
            prop_assert_eq!(session.tail(), None);
            prop_assert_eq!(session.born(), tail.is_none().then_some(u32::from(rule)));
            if tail.is_some() {
                session.set_tail(tail);
            }
            prop_assert_eq!((session.owner(), session.tail()), (owner, tail));
            session.set_addressed();
            prop_assert_eq!(session.owner(), Owner { addressed: true, ..owner });
            let there = Rewrite::new(protocol, (end(1), end(2)), (end(3), end(2)));
            let back = Rewrite::new(protocol, (end(2), end(3)), (end(2), end(1)));
            prop_assert_eq!(session.rewrite(Direction::Outbound), there);
            prop_assert_eq!(session.rewrite(Direction::Inbound), back);
        }
    }
}
