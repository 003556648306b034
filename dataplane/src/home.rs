//! Whose packet is it, and how does it get there? The worker where its subscriber lives, found by its ends alone.

use conntrack::Realm;

use crate::drop_reason::DropReason;
use crate::hand_off::Known;
use crate::io::{PacketIo, Received};
use crate::pipeline::Parsed;
use crate::plain::Ends;
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// The worker that owns the packet's subscriber: a hash from inside, one array look-up from outside.
    pub(crate) fn home_of(&self, parsed: &Parsed) -> Result<u16, DropReason> {
        let &Parsed { ref packet, realm, .. } = parsed;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Ok(secret.home(packet.own_end(realm).addr, workers));
        }
        // A reply to exempt traffic has no state, so any worker will do.
        let Some(address) = self.snapshot.policy.addresses.get(&packet.dst.addr) else {
            return Ok(self.id);
        };
        let key = packet.flow_key(realm)?;
        if let Some(fixed) = self.snapshot.policy.forwards.owner(key.protocol, key.dst) {
            return Ok(secret.home(fixed.internal.addr, workers));
        }
        let home = address.home_of(key.protocol, key.dst.port, key.src, secret, workers);
        home.ok_or_else(|| packet.no_session())
    }

    /// The same for a plain packet of which no more than its ends is known; `None`: [`home_of`](Self::home_of) must tell.
    #[inline]
    pub(crate) fn home_of_ends(&self, ends: &Ends) -> Option<u16> {
        let &Ends { src, dst, protocol, realm } = ends;
        let (secret, workers) = (self.nat.secret(), self.hand_off.workers());
        if realm == Realm::Internal {
            return Some(secret.home(src.addr, workers));
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
