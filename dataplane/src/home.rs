//! Whose packet is it, and how does it get there? The worker where its subscriber lives, found by its ends alone.

mod seats;
mod sync {
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

use std::net::Ipv4Addr;

use conntrack::{Realm, Secret};

use self::seats::Seats;
use crate::drop_reason::DropReason;
use crate::hand_off::Known;
use crate::io::{PacketIo, Received};
use crate::pipeline::Parsed;
use crate::plain::Ends;
use crate::worker::Worker;

/// Places in the table of homes: pods whose addresses have one hash share one.
const SEATS: usize = 1 << 16;

/// Where pods live. All workers agree, and it never changes.
#[derive(Clone, Debug)]
pub struct Homes {
    /// The worker where a pod arrived first, by a keyed hash of its address; without: the hash tells the worker.
    seats: Option<Seats>,
}

impl Homes {
    /// Each where a keyed hash of its address says: even, however packets arrive.
    pub fn by_hash() -> Self {
        Self { seats: None }
    }

    /// Each at the worker where its first packet arrives. As even as the interfaces spread pods; nothing is handed over
    /// where they spread them by source address alone.
    pub fn by_arrival() -> Self {
        Self { seats: Some(Seats::new(SEATS)) }
    }

    /// The worker, of `workers`, where the pod with the address `pod` lives; if it has no home yet, `here`, or where the
    /// hash says.
    #[inline]
    pub fn of(&self, pod: Ipv4Addr, secret: &Secret, workers: u16, here: Option<u16>) -> u16 {
        let Some(seats) = &self.seats else { return secret.home(pod, workers) };
        let wish = || here.unwrap_or_else(|| secret.home(pod, workers));
        seats.of(seat_of(pod, secret), wish)
    }

    /// Whether the pod's home is known before its first packet arrives.
    fn is_known(&self, pod: Ipv4Addr, secret: &Secret) -> bool {
        self.seats.as_ref().is_none_or(|seats| seats.is_taken(seat_of(pod, secret)))
    }
}

#[inline]
fn seat_of(pod: Ipv4Addr, secret: &Secret) -> usize {
    secret.scramble(u32::from(pod)) as usize % SEATS
}

impl<I: PacketIo> Worker<I> {
    /// The worker where the pod that sent a packet lives: the packet is here, and the pod had no home before it.
    #[inline]
    fn home_of_sender(&self, pod: Ipv4Addr) -> u16 {
        let workers = self.hand_off.workers();
        self.shared.homes.of(pod, self.nat.secret(), workers, Some(self.id))
    }

    /// The worker that owns the packet's subscriber: a hash from inside, one array look-up from outside.
    pub(crate) fn home_of(&self, parsed: &Parsed) -> Result<u16, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Ok(self.home_of_sender(packet.own_end(realm).addr));
        }
        // A reply to exempt traffic has no state, so any worker will do.
        let Some(address) = self.snapshot.policy.addresses.get(&packet.dst.addr) else {
            return Ok(self.id);
        };
        let key = packet.flow_key(realm)?;
        if let Some(fixed) = self.snapshot.policy.forwards.owner(key.protocol, key.dst) {
            return Ok(self.shared.homes.of(fixed.internal.addr, secret, workers, None));
        }
        let home = address.home_of(key.protocol, key.dst.port, key.src, secret, workers);
        home.ok_or_else(|| packet.no_session())
    }

    /// The same, to be told and nothing else: a pod without home might as well come here.
    pub(crate) fn likely_home_of(&self, parsed: &Parsed) -> Result<u16, DropReason> {
        let pod = parsed.packet.own_end(parsed.realm).addr;
        if parsed.realm == Realm::Internal && !self.shared.homes.is_known(pod, self.nat.secret()) {
            return Ok(self.id);
        }
        self.home_of(parsed)
    }

    /// The same for a plain packet of which no more than its ends is known; `None`: [`home_of`](Self::home_of) must tell.
    #[inline]
    pub(crate) fn home_of_ends(&self, ends: &Ends) -> Option<u16> {
        let &Ends { src, dst, protocol, realm } = ends;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Some(self.home_of_sender(src.addr));
        }
        let policy = &self.snapshot.policy;
        let address = policy.addresses.get(&dst.addr)?;
        // Sessions that are older than the fixed mapping of their port may live elsewhere than it says.
        if policy.forwards.owner(protocol, dst).is_some() {
            return None;
        }
        address.home_of(protocol, dst.port, src, secret, workers)
    }

    /// Gives a packet to the worker where its subscriber lives.
    pub(crate) fn hand_over(&mut self, received: Received<I::Frame>, parsed: &Parsed, home: u16) {
        if parsed.is_in_its_bytes() {
            return self.let_arrive_at(home, received);
        }
        match self.hand_off.give(home, Known { received, parsed: *parsed }) {
            Ok(()) => self.counters().handed_over.add(1),
            Err(back) => self.drop_frame(back.received.frame, DropReason::HandOffFull),
        }
    }

    /// Lets a packet arrive at another worker.
    pub(crate) fn let_arrive_at(&mut self, worker: u16, received: Received<I::Frame>) {
        let given = self.give_to(worker, received);
        self.counters().handed_over.add(given);
    }

    /// The same, to be counted with others as handed over: 1, or 0 if it was dropped.
    #[inline]
    pub(crate) fn give_to(&mut self, worker: u16, received: Received<I::Frame>) -> u64 {
        match self.hand_off.forward(worker, received) {
            Ok(()) => 1,
            Err(back) => {
                self.drop_frame(back.frame, DropReason::HandOffFull);
                0
            }
        }
    }
}
