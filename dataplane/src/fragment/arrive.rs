//! The way of a fragment, from its arrival to where it is treated like any packet.

use conntrack::{Realm, Timestamp};

use super::{DatagramId, DatagramKey, Verdict};
use crate::drop_reason::DropReason;
use crate::io::{PacketIo, Received};
use crate::packet::Transport;
use crate::pipeline::Parsed;
use crate::rule::Action;
use crate::worker::Worker;

impl<I: PacketIo> Worker<I> {
    /// A fragment has arrived, at this worker or at another one that is not its keeper.
    #[cold]
    pub(crate) fn fragment_arrives(
        &mut self,
        mut received: Received<I::Frame>,
        mut parsed: Parsed,
        now: Timestamp,
    ) {
        // Before it waits, or goes around by other workers.
        if parsed.packet.ttl <= 1 {
            return self.finish(received, &parsed, Err(DropReason::TtlExpired), now);
        }
        self.drop_overdue_fragments(now);
        let key = DatagramKey::of(&parsed).map(|key| (key, self.fragments.find(&key)));
        // What is kept already was found to need them.
        let needs_ports =
            |(_, found): &(_, Option<_>)| found.is_some() || !self.needs_no_ports(&parsed);
        let Some(key) = key.filter(needs_ports) else {
            let fate = self.at_home(&mut received, &mut parsed, now);
            return self.finish(received, &parsed, fate, now);
        };
        match self.keeper_of(key.0, &parsed) {
            Ok(keeper) if keeper == self.id => self.keep_fragment(received, parsed, key, now),
            Ok(keeper) => self.let_arrive_at(keeper, received),
            Err(reason) => self.finish(received, &parsed, Err(reason), now),
        }
    }

    /// Whether its ports change nothing: it is not translated, and would not be whatever they were.
    fn needs_no_ports(&self, parsed: &Parsed) -> bool {
        let &Parsed { ref packet, realm, .. } = parsed;
        if matches!(packet.transport, Transport::Refused(_)) {
            return true;
        }
        let (pod, remote) = match realm {
            // Its session says more than the rules do now, and is known at its home.
            Realm::Internal if self.find(parsed).is_some() => return false,
            Realm::Internal if self.home_of(parsed) != Ok(self.id) => return false,
            Realm::Internal => (packet.src.addr, packet.dst.addr),
            Realm::External if self.is_public(packet.dst.addr) => return false,
            Realm::External => (packet.dst.addr, packet.src.addr),
        };
        let rule = self.snapshot.policy.rules.decide_any_port(pod, remote, packet.protocol());
        rule.is_some_and(|rule| rule.action == Action::Exempt)
    }

    /// The worker that all fragments of the datagram go to. A first fragment that has no home is refused
    /// here, before it takes a place.
    fn keeper_of(&self, key: DatagramKey, parsed: &Parsed) -> Result<u16, DropReason> {
        if parsed.realm == Realm::Internal {
            return self.home_of(parsed);
        }
        if parsed.packet.ports().is_some() {
            self.believe_sender(parsed)?;
            self.home_of(parsed)?;
        }
        Ok(self.nat.secret().worker_for(key, self.hand_off.workers()))
    }

    /// A fragment has arrived at its keeper.
    fn keep_fragment(
        &mut self,
        received: Received<I::Frame>,
        parsed: Parsed,
        key: (DatagramKey, Option<DatagramId>),
        now: Timestamp,
    ) {
        match self.fragments.see(key, &parsed.packet, now) {
            Verdict::Pass(id) => {
                self.pass_fragment(received, parsed, id, now);
                while let Some((received, parsed)) = self.fragments.next_waiting(id) {
                    self.pass_fragment(received, parsed, id, now);
                }
                self.fragments.end_if_complete(id);
            }
            Verdict::Wait(id) => self.fragments.wait(id, (received, parsed)),
            Verdict::Refuse(reason) => self.finish(received, &parsed, Err(reason), now),
        }
        while let Some(frame) = self.fragments.next_displaced() {
            self.drop_frame(frame, DropReason::FragmentLimit);
        }
        self.count_held();
    }

    /// Gives a fragment what is known of its datagram, and sends it on its way.
    fn pass_fragment(
        &mut self,
        mut received: Received<I::Frame>,
        mut parsed: Parsed,
        id: DatagramId,
        now: Timestamp,
    ) {
        let (ports, fresh_id) = self.fragments.known(id);
        if let (Some(ports), None) = (ports, parsed.packet.ports()) {
            parsed.packet.resolve(ports);
            let flow = parsed.flow_key().ok();
            parsed.key = flow.map(|flow| self.nat.secret().hash_key(&flow));
        }
        parsed.fresh_id = fresh_id.or_else(|| self.inbound_id(id, &parsed, now));
        let fate = self.at_home(&mut received, &mut parsed, now);
        self.finish(received, &parsed, fate, now);
    }

    /// Drops fragments whose first one has not come in time.
    pub(crate) fn drop_overdue_fragments(&mut self, now: Timestamp) {
        for frame in self.fragments.take_overdue(now) {
            self.drop_frame(frame, DropReason::FragmentTimeout);
        }
    }
}
