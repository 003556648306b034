//! What is known of datagrams that come in fragments?
//!
//! Fragments are translated one by one, in any order (RFC 4787 REQ-14): they are not put together (decision
//! D14). Only the
//! first one has ports. It tells them to the others by way of a [`Datagram`], which lives until the last
//! missing byte has come, or for two seconds. Those that come before the first one wait for it.
//!
//! ```text
//! fragment ─► keeper? ─► agrees with those before? ─► ports known? ──no──► wait for the first one
//!                                   │ no: drop              │ yes
//!                                                     home worker, like any packet
//! ```
//!
//! All fragments of a datagram go to one worker, its keeper. From inside that is the sender's home. From
//! outside the home hangs on the port, so a keyed hash chooses the keeper, which gives each fragment, ports
//! filled in, to the home.
//!
//! Floods (RFC 4787 REQ-14a) cost bounded memory: a fragment without first one is only remembered as long as
//! it waits, few may wait, and no source may have all the room.

mod arrive;
mod datagram;
mod seen;
mod send;
mod split;
#[cfg(test)]
mod tests;

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::Ipv4Addr;
use std::time::Duration;

use ahash::RandomState;
use conntrack::{Realm, Timestamp};

use self::datagram::Datagram;
use self::seen::{Extent, Fit};
use crate::drop_reason::DropReason;
use crate::io::Received;
use crate::ip_id::FreshId;
use crate::packet::Packet;
use crate::pipeline::Parsed;

/// Offsets of fragments are multiples of this.
const EIGHT: usize = 8;
/// Datagrams followed at once, by one worker.
pub(crate) const MAX_DATAGRAMS: usize = 4096;
/// Datagrams of one source.
pub(crate) const MAX_DATAGRAMS_PER_SOURCE: u16 = 1024;
/// Fragments that wait at once: each keeps a frame, so this is far below what a worker has.
pub(crate) const MAX_WAITING: usize = 256;
/// Waiting fragments of one source: a datagram of 64 KiB is 45.
pub(crate) const MAX_WAITING_PER_SOURCE: u16 = 64;

/// What tells datagrams apart (RFC 791), and the side they came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct DatagramKey {
    src: Ipv4Addr,
    dst: Ipv4Addr,
    protocol: u8,
    id: u16,
    realm: Realm,
    overlay: u16,
}

impl DatagramKey {
    /// The key of the datagram that a packet is a part of; `None` for protocols that aren't translated.
    pub(crate) fn of(parsed: &Parsed) -> Option<Self> {
        let &Parsed { ref packet, realm, overlay, .. } = parsed;
        let protocol = packet.protocol()?.number();
        let (src, dst) = (packet.src.addr, packet.dst.addr);
        Some(Self { src, dst, protocol, id: packet.id, realm, overlay })
    }

    fn source(&self) -> Source {
        (self.realm, self.overlay, self.src)
    }
}

/// Who sends: an address, and the side and overlay it is in.
type Source = (Realm, u16, Ipv4Addr);

/// What a source has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    datagrams: u16,
    waiting: u16,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on, with the ports of its datagram.
    Pass,
    /// It waits for the first one.
    Wait,
    /// It is dropped.
    Refuse(DropReason),
}

/// A fragment, what is in it, and where it arrived.
type Part<F> = (Received<F>, Parsed);

/// The datagrams that one worker keeps.
#[derive(Debug)]
pub(crate) struct Fragments<F> {
    datagrams: HashMap<DatagramKey, Datagram<F>, RandomState>,
    /// In the order in which they were first seen; some have ended since.
    ages: VecDeque<(Timestamp, DatagramKey, u64)>,
    shares: HashMap<Source, Share, RandomState>,
    waiting: usize,
    /// What waited for datagrams that had to make room; taken at once.
    displaced: Vec<F>,
    /// Tells datagrams of one key apart.
    serial: u64,
    lifetime: Duration,
}

impl<F> Fragments<F> {
    /// Follows datagrams for `lifetime` from their first fragment on.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            datagrams: HashMap::with_hasher(RandomState::new()),
            ages: VecDeque::new(),
            shares: HashMap::with_hasher(RandomState::new()),
            waiting: 0,
            displaced: Vec::new(),
            serial: 0,
            lifetime,
        }
    }

    /// Changes the lifetime, of datagrams that are followed already as well.
    pub(crate) fn set_lifetime(&mut self, lifetime: Duration) {
        self.lifetime = lifetime;
    }

    /// How many fragments wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting
    }

    /// How many datagrams are followed.
    pub(crate) fn len(&self) -> usize {
        self.datagrams.len()
    }

    /// Looks at a fragment and remembers it. When it is to wait, [`wait`](Self::wait) must follow.
    pub(crate) fn see(&mut self, key: DatagramKey, packet: &Packet, now: Timestamp) -> Verdict {
        let ports = packet.ports();
        if !self.datagrams.contains_key(&key) && !self.begin(key, ports.is_some(), now) {
            return Verdict::Refuse(DropReason::FragmentLimit);
        }
        let room = self.has_waiting_room(key.source());
        let Some(datagram) = self.datagrams.get_mut(&key) else {
            return Verdict::Refuse(DropReason::FragmentLimit);
        };
        if !datagram.agrees(ports) {
            return Verdict::Refuse(DropReason::FragmentOverlap);
        }
        if datagram.ports.is_none() && !room {
            return Verdict::Refuse(DropReason::FragmentLimit);
        }
        match datagram.seen.add(Extent::of(packet)) {
            Fit::Overlap => Verdict::Refuse(DropReason::FragmentOverlap),
            Fit::TooMany => Verdict::Refuse(DropReason::FragmentTooMany),
            Fit::New | Fit::Again if datagram.ports.is_some() => Verdict::Pass,
            Fit::New | Fit::Again => Verdict::Wait,
        }
    }

    /// Starts to follow a datagram, if there is room. One whose first fragment is here may take the place of
    /// the oldest; one without may not: orphans disturb nobody (RFC 4787 REQ-14a).
    fn begin(&mut self, key: DatagramKey, has_first: bool, now: Timestamp) -> bool {
        let full = self.datagrams.len() >= MAX_DATAGRAMS;
        let share = self.shares.get(&key.source()).copied().unwrap_or_default();
        let orphan_fits = has_first || !full && self.has_waiting_room(key.source());
        if !orphan_fits || share.datagrams >= MAX_DATAGRAMS_PER_SOURCE {
            return false;
        }
        if full {
            self.end_oldest();
        }
        self.serial += 1;
        self.datagrams.insert(key, Datagram::new(self.serial));
        self.shares.entry(key.source()).or_default().datagrams += 1;
        self.ages.push_back((now, key, self.serial));
        true
    }

    fn end_oldest(&mut self) {
        while let Some((_, key, serial)) = self.ages.pop_front() {
            if self.datagrams.get(&key).is_some_and(|d| d.serial == serial) {
                let waiting = self.end(key).into_iter().map(|(received, _)| received.frame);
                self.displaced.extend(waiting);
                return;
            }
        }
    }

    /// A fragment that waited for the first one of a datagram that had to make room.
    pub(crate) fn next_displaced(&mut self) -> Option<F> {
        self.displaced.pop()
    }

    fn has_waiting_room(&self, source: Source) -> bool {
        let share = self.shares.get(&source).copied().unwrap_or_default();
        self.waiting < MAX_WAITING && share.waiting < MAX_WAITING_PER_SOURCE
    }

    /// Lets a fragment wait for the first one of its datagram.
    pub(crate) fn wait(&mut self, key: DatagramKey, part: Part<F>) -> Option<F> {
        let Some(datagram) = self.datagrams.get_mut(&key) else { return Some(part.0.frame) };
        datagram.waiting.push_back(part);
        self.waiting += 1;
        self.shares.entry(key.source()).or_default().waiting += 1;
        None
    }

    /// The next fragment that has waited for the first one of its datagram, in the order of arrival.
    pub(crate) fn next_waiting(&mut self, key: DatagramKey) -> Option<Part<F>> {
        let part = self.datagrams.get_mut(&key)?.waiting.pop_front()?;
        self.waiting -= 1;
        if let Some(share) = self.shares.get_mut(&key.source()) {
            share.waiting -= 1;
        }
        Some(part)
    }

    /// The ports of a datagram, and its identification where it is sent on, as far as they are known.
    pub(crate) fn known(&self, key: DatagramKey) -> (Option<(u16, u16)>, Option<FreshId>) {
        self.datagrams.get(&key).map_or((None, None), |d| (d.ports, d.fresh_id))
    }

    /// Keeps the identification that a datagram is sent on with.
    pub(crate) fn keep_id(&mut self, key: DatagramKey, fresh_id: FreshId) {
        if let Some(datagram) = self.datagrams.get_mut(&key) {
            datagram.fresh_id = Some(fresh_id);
        }
    }

    /// Ends a datagram that is complete: its identification may come again for another one at once.
    pub(crate) fn end_if_complete(&mut self, key: DatagramKey) {
        if self.datagrams.get(&key).is_some_and(|d| d.seen.is_complete() && d.waiting.is_empty()) {
            self.end(key);
        }
    }

    fn end(&mut self, key: DatagramKey) -> VecDeque<Part<F>> {
        let waiting = self.datagrams.remove(&key).map_or_else(VecDeque::new, |d| d.waiting);
        self.waiting -= waiting.len();
        if let Some(share) = self.shares.get_mut(&key.source()) {
            share.datagrams -= 1;
            share.waiting -= waiting.len() as u16;
            if *share == Share::default() {
                self.shares.remove(&key.source());
            }
        }
        // Those that have ended leave their age behind; not many of them.
        if self.ages.len() > 2 * MAX_DATAGRAMS {
            let datagrams = &self.datagrams;
            self.ages
                .retain(|(_, key, serial)| datagrams.get(key).is_some_and(|d| d.serial == *serial));
        }
        waiting
    }

    /// Ends what is too old; returns what has waited in vain.
    pub(crate) fn take_overdue(&mut self, now: Timestamp) -> Vec<F> {
        let mut overdue = Vec::new();
        while let Some(&(since, key, serial)) = self.ages.front() {
            let lives = self.datagrams.get(&key).is_some_and(|d| d.serial == serial);
            if lives && now.since(since) < self.lifetime {
                break;
            }
            self.ages.pop_front();
            if lives {
                overdue.extend(self.end(key).into_iter().map(|(received, _)| received.frame));
            }
        }
        overdue
    }

    /// Ends everything; returns all that waited.
    pub(crate) fn take_all(&mut self) -> Vec<F> {
        self.set_lifetime(Duration::ZERO);
        self.take_overdue(Timestamp::default())
    }
}
