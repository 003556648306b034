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

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use ahash::RandomState;
use conntrack::Timestamp;

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
    source: Source,
    /// Destination, identification and protocol.
    rest: u64,
}

impl DatagramKey {
    /// The key of the datagram that a packet is a part of; `None` for protocols that aren't translated.
    pub(crate) fn of(parsed: &Parsed) -> Option<Self> {
        let &Parsed { ref packet, realm, overlay, .. } = parsed;
        let side = u64::from(overlay) << 8 | realm as u64;
        let source = Source(side << 32 | u64::from(u32::from(packet.src.addr)));
        let name = u64::from(packet.id) << 8 | u64::from(packet.protocol()?.number());
        Some(Self { source, rest: name << 32 | u64::from(u32::from(packet.dst.addr)) })
    }
}

/// Who sends: an address, and the side and overlay it is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Source(u64);

/// A datagram that is kept: good until it ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DatagramId(u32);

/// What a source has now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Share {
    datagrams: u16,
    waiting: u16,
}

/// What is to be done with a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It goes on, with the ports of this datagram.
    Pass(DatagramId),
    /// It is to [wait](Fragments::wait) for the first one of this.
    Wait(DatagramId),
    /// It is dropped.
    Refuse(DropReason),
}

/// A fragment, what is in it, and where it arrived.
type Part<F> = (Received<F>, Parsed);

/// The datagrams that one worker keeps.
#[derive(Debug)]
pub(crate) struct Fragments<F> {
    numbers: HashMap<DatagramKey, DatagramId, RandomState>,
    /// By [`DatagramId`]; those that have ended keep their room for others.
    datagrams: Vec<Datagram<F>>,
    free: Vec<DatagramId>,
    /// In the order in which they were first seen; some have ended since.
    ages: VecDeque<(Timestamp, DatagramId, u64)>,
    shares: HashMap<Source, Share, RandomState>,
    waiting: usize,
    /// What waited for datagrams that had to make room; taken at once.
    displaced: Vec<F>,
    /// Tells datagrams with one number apart.
    serial: u64,
    lifetime: Duration,
}

impl<F> Fragments<F> {
    /// Follows datagrams for `lifetime` from their first fragment on.
    pub(crate) fn new(lifetime: Duration) -> Self {
        Self {
            numbers: HashMap::with_hasher(RandomState::new()),
            datagrams: Vec::new(),
            free: Vec::new(),
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
        self.numbers.len()
    }

    /// The datagram with this key, if it is followed.
    pub(crate) fn find(&self, key: &DatagramKey) -> Option<DatagramId> {
        self.numbers.get(key).copied()
    }

    /// Looks at a fragment of the datagram with `key`, which was [found](Self::find) or not, and remembers it.
    pub(crate) fn see(
        &mut self,
        (key, found): (DatagramKey, Option<DatagramId>),
        packet: &Packet,
        now: Timestamp,
    ) -> Verdict {
        let ports = packet.ports();
        let Some(id) = found.or_else(|| self.begin(key, ports.is_some(), now)) else {
            return Verdict::Refuse(DropReason::FragmentLimit);
        };
        let Some(datagram) = self.datagrams.get_mut(id.index()) else {
            return Verdict::Refuse(DropReason::FragmentLimit);
        };
        if !datagram.agrees(ports) {
            return Verdict::Refuse(DropReason::FragmentOverlap);
        }
        let passes = datagram.ports.is_some();
        if !passes && !self.has_waiting_room(key.source) {
            return Verdict::Refuse(DropReason::FragmentLimit);
        }
        match self.datagrams[id.index()].seen.add(Extent::of(packet)) {
            Fit::Overlap => Verdict::Refuse(DropReason::FragmentOverlap),
            Fit::TooMany => Verdict::Refuse(DropReason::FragmentTooMany),
            Fit::New | Fit::Again if passes => Verdict::Pass(id),
            Fit::New | Fit::Again => Verdict::Wait(id),
        }
    }

    /// Starts to follow a datagram, if there is room. One whose first fragment is here may take the place of
    /// the oldest; one without may not: orphans disturb nobody (RFC 4787 REQ-14a).
    fn begin(&mut self, key: DatagramKey, has_first: bool, now: Timestamp) -> Option<DatagramId> {
        let full = self.len() >= MAX_DATAGRAMS;
        let share = self.shares.get(&key.source).copied().unwrap_or_default();
        let orphan_fits = has_first || !full && self.has_room(share);
        if !orphan_fits || share.datagrams >= MAX_DATAGRAMS_PER_SOURCE {
            return None;
        }
        if full {
            self.end_oldest();
        }
        self.serial += 1;
        let id = self.free.pop().unwrap_or_else(|| {
            self.datagrams.push(Datagram::new(key));
            DatagramId(self.datagrams.len() as u32 - 1)
        });
        self.datagrams[id.index()].begin(key, self.serial);
        self.numbers.insert(key, id);
        self.shares.entry(key.source).or_default().datagrams += 1;
        self.ages.push_back((now, id, self.serial));
        Some(id)
    }

    /// Whether the datagram with this number is still the one with this serial.
    fn lives(&self, id: DatagramId, serial: u64) -> bool {
        self.datagrams[id.index()].serial == serial
    }

    fn end_oldest(&mut self) {
        while let Some((_, id, serial)) = self.ages.pop_front() {
            if self.lives(id, serial) {
                let waiting = self.end(id).into_iter().map(|(received, _)| received.frame);
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
        self.has_room(self.shares.get(&source).copied().unwrap_or_default())
    }

    fn has_room(&self, share: Share) -> bool {
        self.waiting < MAX_WAITING && share.waiting < MAX_WAITING_PER_SOURCE
    }

    /// Lets a fragment wait for the first one of its datagram.
    pub(crate) fn wait(&mut self, id: DatagramId, part: Part<F>) {
        let datagram = &mut self.datagrams[id.index()];
        datagram.waiting.push_back(part);
        self.waiting += 1;
        self.shares.entry(datagram.key.source).or_default().waiting += 1;
    }

    /// The next fragment that has waited for the first one of its datagram, in the order of arrival.
    pub(crate) fn next_waiting(&mut self, id: DatagramId) -> Option<Part<F>> {
        let datagram = &mut self.datagrams[id.index()];
        let part = datagram.waiting.pop_front()?;
        self.waiting -= 1;
        if let Some(share) = self.shares.get_mut(&datagram.key.source) {
            share.waiting -= 1;
        }
        Some(part)
    }

    /// The ports of a datagram, and its identification where it is sent on, as far as they are known.
    pub(crate) fn known(&self, id: DatagramId) -> (Option<(u16, u16)>, Option<FreshId>) {
        let datagram = &self.datagrams[id.index()];
        (datagram.ports, datagram.fresh_id)
    }

    /// Keeps the identification that a datagram is sent on with.
    pub(crate) fn keep_id(&mut self, id: DatagramId, fresh_id: FreshId) {
        self.datagrams[id.index()].fresh_id = Some(fresh_id);
    }

    /// Ends a datagram that is complete: its identification may come again for another one at once.
    pub(crate) fn end_if_complete(&mut self, id: DatagramId) {
        let datagram = &self.datagrams[id.index()];
        if datagram.seen.is_complete() && datagram.waiting.is_empty() {
            self.end(id);
        }
    }

    fn end(&mut self, id: DatagramId) -> VecDeque<Part<F>> {
        let datagram = &mut self.datagrams[id.index()];
        let (key, waiting) = (datagram.key, datagram.end());
        self.numbers.remove(&key);
        self.free.push(id);
        self.waiting -= waiting.len();
        if let Entry::Occupied(mut share) = self.shares.entry(key.source) {
            share.get_mut().datagrams -= 1;
            share.get_mut().waiting -= waiting.len() as u16;
            if *share.get() == Share::default() {
                share.remove();
            }
        }
        // Those that have ended leave their age behind; not many of them.
        if self.ages.len() > 2 * MAX_DATAGRAMS {
            let datagrams = &self.datagrams;
            self.ages.retain(|(_, id, serial)| datagrams[id.index()].serial == *serial);
        }
        waiting
    }

    /// Ends what is too old; returns what has waited in vain.
    pub(crate) fn take_overdue(&mut self, now: Timestamp) -> Vec<F> {
        let mut overdue = Vec::new();
        while let Some(&(since, id, serial)) = self.ages.front() {
            let lives = self.lives(id, serial);
            if lives && now.since(since) < self.lifetime {
                break;
            }
            self.ages.pop_front();
            if lives {
                overdue.extend(self.end(id).into_iter().map(|(received, _)| received.frame));
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

impl DatagramId {
    fn index(self) -> usize {
        self.0 as usize
    }
}
