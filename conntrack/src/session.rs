//! What is remembered of a session: both directions in one object.

use std::time::Duration;

use crate::endpoint::{Endpoint, FlowKey, Protocol, Realm};
use crate::key::PackedKey;
use crate::pool::{InboundRefresh, PoolId, PoolSettings};
use crate::rewrite::Rewrite;
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
    pub(crate) rewrite: Rewrite,
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
    fn new(key: &FlowKey, to: (Endpoint, Endpoint), state: State, now: Timestamp) -> Self {
        Self {
            key: PackedKey::from(key),
            rewrite: Rewrite::new(key.protocol, (key.src, key.dst), to),
            hop: CachedHop::NONE,
            last_seen: now.stored(),
            side: Side::default(),
            state,
            more_packets: [0; 3],
            counts: 0,
        }
    }

    pub(crate) fn packets(&self) -> u64 {
        let [a, b, c] = self.more_packets;
        u64::from(u32::from_le_bytes([a, b, c, 0])) << 16 | self.counts >> 48
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.counts & (ONE_PACKET - 1)
    }

    /// Whether no packet of this direction was counted yet.
    #[inline]
    pub(crate) fn is_fresh(&self) -> bool {
        // No packet has no bytes, so bytes without packets are those of 65,536 of them.
        self.counts == 0
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

/// Where a session's public endpoint is from, and so what returns when it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Via {
    /// A port of one of the subscriber's blocks.
    Block,
    /// The same, and the session belongs to the mapping with this number.
    Mapping(u32),
    /// An address of the pool alone: the protocol has no ports.
    Address,
    /// Configuration: nothing was taken, nothing returns.
    Fixed,
}

/// What the slow path knows of a session, apart from the lines that packets touch.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Owner {
    pub(crate) subscriber: u32,
    pub(crate) pool: PoolId,
    pub(crate) rule: u16,
    pub(crate) via: Via,
    /// The side whose packet opened the session.
    pub(crate) opened_by: Realm,
    /// [`Timestamp::stored`] of that packet.
    pub(crate) opened: u32,
    /// Whether the internal endpoint has addressed the remote itself: opened the session, or answered
    /// otherwise than by a reset (RFC 7857 section 7.1).
    pub(crate) addressed: bool,
}

impl Session {
    /// A session of the flow `key` from inside, seen outside as `public`.
    pub(crate) fn new(key: &FlowKey, public: Endpoint, state: State, now: Timestamp) -> Self {
        let reply = reply_key(key, public);
        Self {
            outbound: Half::new(key, (public, key.dst), state, now),
            inbound: Half::new(&reply, (key.dst, key.src), state, now),
        }
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
    /// nothing (RFC 7857 section 7.1): until then, the session is as old as its first packet.
    pub(crate) fn unrenewed(&self, owner: &Owner, refresh: InboundRefresh, now: Timestamp) -> u32 {
        if !owner.addressed {
            return now.since_stored(owner.opened);
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
    FlowKey { src: key.dst, dst: public, protocol: key.protocol, realm: Realm::External }
}
