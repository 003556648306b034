//! How do the packets of a burst go through the stages together?
//!
//! A burst comes from the interfaces, or from another worker. Its packets are looked at, their sessions are read side
//! by side, and then each is finished, in order.

use conntrack::{HashedKey, Realm, Timestamp};

use crate::drop_reason::DropReason;
use crate::interface::InterfaceId;
use crate::io::{self, BURST, PacketIo, Received};
use crate::pipeline::{Arrival, Fate, Parsed};
use crate::plain::{Glance, Run};
use crate::slow_path::Admitted;
use crate::tunnel::TunnelId;
use crate::worker::Worker;

/// Where more than one in so many packets was handed over in the last burst, homes are looked for before sessions.
const MANY: usize = 8;

/// How a packet came to this worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Came {
    /// By an interface.
    ByInterface,
    /// By another worker, which found this one to be its home.
    ByHandOff,
}

impl<I: PacketIo> Worker<I> {
    /// A burst from the interfaces.
    pub(crate) fn take_burst(&mut self, now: Timestamp) -> usize {
        let mut burst = std::mem::take(&mut self.burst);
        let packets = self.io.receive(BURST, &mut burst);
        if self.tunnels.any() {
            self.take_out_of_tunnels(&mut burst);
        }
        if packets > 0 {
            self.counters().bursts.add(1);
            let given = self.counters().handed_over.get();
            if self.hand_off.workers() > 1 && self.many_elsewhere && self.tap.is_none() {
                self.send_home(&mut burst);
            }
            self.process(&mut burst, Came::ByInterface, now);
            let given = self.counters().handed_over.get() - given;
            self.many_elsewhere = given as usize > packets / MANY;
        }
        self.burst = burst;
        packets
    }

    /// Before anything else is done with a burst: lets those packets that live elsewhere arrive there. They are looked
    /// at no further than that takes. What is not plainly anybody's stays, and all that came after it: a flow's packets
    /// keep their order.
    #[inline(never)] // with registers of its own
    fn send_home(&mut self, burst: &mut Vec<Received<I::Frame>>) {
        io::touch_headers(&self.io, burst);
        let (mut came, mut given) = (Run::NONE, 0);
        let mut staying = std::mem::take(&mut self.staying);
        let mut packets = burst.drain(..);
        for received in packets.by_ref() {
            let frame = self.io.bytes(&received.frame);
            let home =
                self.lane.peek(frame, received.interface).and_then(|ends| self.home_of_ends(&ends));
            match home {
                Some(home) if home != self.id => {
                    if let Some(run) = came.add(received.interface, frame.len()) {
                        self.count_received(run);
                    }
                    given += self.give_to(home, received);
                }
                Some(_) => staying.push(received),
                None => {
                    staying.push(received);
                    break;
                }
            }
        }
        staying.extend(packets);
        self.count_received(came);
        self.counters().handed_over.add(given);
        std::mem::swap(burst, &mut staying);
        self.staying = staying;
    }

    /// A burst, stage by stage. A stage's reads of memory don't wait for each other.
    #[inline]
    fn process(&mut self, burst: &mut Vec<Received<I::Frame>>, by: Came, now: Timestamp) {
        if self.tap.is_some() {
            return self.process_captured(burst, by, now);
        }
        let mut glances = std::mem::take(&mut self.glances);
        let mut odd = std::mem::take(&mut self.odd);
        match by {
            Came::ByInterface => io::touch_headers(&self.io, burst),
            Came::ByHandOff => io::fetch_headers(&self.io, burst),
        }
        if self.look_at_burst(burst, &mut glances, &mut odd) > 0 {
            self.drop_foreign(burst, &mut glances, by);
        }
        self.find_sessions(&mut glances, now);
        self.finish_burst(burst, (&glances, &mut odd), by, now);
        glances.clear();
        odd.clear();
        (self.glances, self.odd) = (glances, odd);
    }

    /// Second stage: what are they? Returns how many are foreign.
    #[inline(never)] // with registers of its own
    fn look_at_burst(
        &self,
        burst: &[Received<I::Frame>],
        glances: &mut Vec<Glance>,
        odd: &mut Vec<Arrival>,
    ) -> usize {
        let mut foreign = 0;
        glances.extend(burst.iter().map(|received| self.look(received, odd, &mut foreign)));
        foreign
    }

    /// Drops the packets of a burst that were sent to others, before anything is looked up for them.
    #[cold]
    fn drop_foreign(
        &mut self,
        burst: &mut Vec<Received<I::Frame>>,
        glances: &mut Vec<Glance>,
        by: Came,
    ) {
        let (mut came, mut kept) = (Run::NONE, 0);
        let mut staying = std::mem::take(&mut self.staying);
        for (received, at) in burst.drain(..).zip(0..) {
            let frame = self.io.bytes(&received.frame);
            if !self.lane.is_foreign(frame, received.interface) {
                glances[kept] = glances[at];
                kept += 1;
                staying.push(received);
                continue;
            }
            if by == Came::ByInterface
                && let Some(run) = came.add(received.interface, frame.len())
            {
                self.count_received(run);
            }
            self.io.release(received.frame);
        }
        let dropped = glances.len() - kept;
        self.counters().drops[DropReason::NotForUs.index()].add(dropped as u64);
        self.count_received(came);
        glances.truncate(kept);
        std::mem::swap(burst, &mut staying);
        self.staying = staying;
    }

    /// Third stage: which session does each probably belong to? Their index lines, and then their own, are on their
    /// way at the same time.
    #[inline(never)] // as above
    fn find_sessions(&mut self, glances: &mut [Glance], now: Timestamp) {
        for glance in &mut *glances {
            self.nat.touch_bucket(&mut glance.key);
        }
        for glance in &mut *glances {
            self.nat.guess(&mut glance.key);
        }
        let mut strangers = false;
        for glance in &mut *glances {
            self.nat.touch_guessed(&mut glance.key);
            strangers |= !glance.key.is_probable();
        }
        if strangers {
            self.foresee_openers(glances, now);
        }
    }

    /// Of the packets that no session probably has, some may open one.
    #[cold]
    fn foresee_openers(&mut self, glances: &[Glance], now: Timestamp) {
        let version = self.snapshot_version;
        let exempt = Some(&self.exempt).filter(|exempt| exempt.knows_any(version));
        let openers = glances.iter().map(|glance| &glance.key).filter(|key| {
            key.may_open() && !exempt.is_some_and(|exempt| exempt.knows(key, version))
        });
        self.nat.touch_openers(openers, now);
    }

    /// What is it? What is not plain goes to `odd`, unless it is foreign: that is only counted.
    #[inline]
    fn look(
        &self,
        received: &Received<I::Frame>,
        odd: &mut Vec<Arrival>,
        foreign: &mut usize,
    ) -> Glance {
        let frame = self.io.bytes(&received.frame);
        if let Some(glance) = self.lane.look(frame, received.interface, self.nat.secret()) {
            return glance;
        }
        if self.lane.is_foreign(frame, received.interface) {
            *foreign += 1;
            return Glance::default();
        }
        let arrival = self.parse(received);
        let key = match &arrival {
            Ok(Some(Parsed { key: Some(key), .. })) => *key,
            _ => HashedKey::default(),
        };
        odd.push(arrival);
        Glance { key, plain: None }
    }

    /// Last stage: what becomes of them, in the order in which they came?
    #[inline(never)] // as above
    fn finish_burst(
        &mut self,
        burst: &mut Vec<Received<I::Frame>>,
        (glances, odd): (&[Glance], &mut [Arrival]),
        by: Came,
        now: Timestamp,
    ) {
        let (mut came, mut sent) = (Run::NONE, Run::NONE);
        let mut odd = odd.iter_mut();
        for (received, glance) in burst.drain(..).zip(glances) {
            let len = self.io.bytes(&received.frame).len();
            if by == Came::ByInterface
                && let Some(run) = came.add(received.interface, len)
            {
                self.count_received(run);
            }
            let Err(received) = self.pass(received, glance, now, &mut sent) else { continue };
            let Err(received) = self.pass_exempt(received, glance, &mut sent) else { continue };
            let received = if glance.opens_alone() {
                match self.open_and_pass(received, glance, by, now, &mut sent) {
                    Ok(()) => continue,
                    Err(received) => received,
                }
            } else {
                received
            };
            let before = if glance.plain.is_none() { odd.next() } else { None };
            self.arrive_odd(received, (glance, before), by, now);
        }
        self.count_received(came);
        self.count_passed(sent);
    }

    /// A pod's plain datagram of no session at the beginning of the burst may open one, and then passes as those of a
    /// session do. Gives back what is for others, or has a session by now.
    #[inline(never)] // as above
    fn open_and_pass(
        &mut self,
        mut received: Received<I::Frame>,
        glance: &Glance,
        by: Came,
        now: Timestamp,
        sent: &mut Run,
    ) -> Result<(), Received<I::Frame>> {
        if self.nat.find_hashed(&glance.key).is_some() {
            return Err(received);
        }
        let Ok(Some(parsed)) = self.parse_plain(&received, Realm::Internal, glance.key) else {
            return Err(received);
        };
        if by == Came::ByInterface && self.home_of(&parsed) != Ok(self.id) {
            return Err(received);
        }
        let fate = match self.admit(&mut received, &parsed, now) {
            Ok(Admitted::Session(slot)) => {
                self.forget_syn(slot);
                let glance = Glance { key: glance.key.with_slot(slot), ..*glance };
                return self.pass(received, &glance, now, sent);
            }
            Ok(Admitted::Exempt) => self.forward_exempt(&mut received, &parsed),
            Ok(Admitted::Answered) => Ok(Fate::Answer),
            Err(reason) => Err(reason),
        };
        self.finish(received, &parsed, fate, now);
        Ok(())
    }

    /// What is not plain, or was not parsed yet: its session is not there, or it changes more than times and counts.
    #[inline(never)] // as above
    fn arrive_odd(
        &mut self,
        received: Received<I::Frame>,
        (glance, before): (&Glance, Option<&mut Arrival>),
        by: Came,
        now: Timestamp,
    ) {
        let mut parsed;
        let arrival = match (&glance.plain, before) {
            (Some(plain), _) => {
                parsed = self.parse_plain(&received, plain.realm, glance.key);
                &mut parsed
            }
            (None, Some(arrival)) => arrival,
            (None, None) => {
                parsed = self.parse(&received);
                &mut parsed
            }
        };
        if let Ok(Some(Parsed { key: Some(key), .. })) = arrival {
            *key = glance.key;
        }
        self.arrive(received, arrival, by, now);
    }

    fn count_received(&self, run: Run) {
        let counters = self.counters().interface(run.interface);
        counters.received_packets.add(run.packets);
        counters.received_bytes.add(run.bytes);
    }

    fn count_passed(&self, run: Run) {
        let counters = self.counters();
        counters.forwarded.add(run.packets);
        let counters = counters.interface(run.interface);
        counters.transmitted_packets.add(run.packets);
        counters.transmitted_bytes.add(run.bytes);
    }

    /// Hands a plain packet of `len` bytes to the interface; it is counted with others of its run, or as dropped.
    #[inline(always)]
    #[allow(clippy::inline_always)] // as its caller
    pub(crate) fn transmit_plain(
        &mut self,
        interface: InterfaceId,
        frame: I::Frame,
        len: usize,
        sent: &mut Run,
    ) {
        if !self.io.transmit(interface, frame) {
            self.counters().drop_packet(DropReason::TransmitFull);
        } else if let Some(run) = sent.add(interface, len) {
            self.count_passed(run);
        }
    }

    /// The same through a tunnel: counted with those of the tunnel's interface.
    #[inline(never)] // with registers of its own
    pub(crate) fn transmit_tunnelled(
        &mut self,
        (interface, tunnel): (InterfaceId, TunnelId),
        mut frame: I::Frame,
        (len, flow): (usize, u64),
        sent: &mut Run,
    ) {
        let Some(underlay) = self.put_into_tunnel(tunnel, &mut frame, flow) else {
            return self.drop_frame(frame, DropReason::TooBig);
        };
        if !self.io.transmit(underlay, frame) {
            self.counters().drop_packet(DropReason::TransmitFull);
        } else if let Some(run) = sent.add(interface, len) {
            self.count_passed(run);
        }
    }

    /// Bursts from each other worker.
    pub(crate) fn take_hand_offs(&mut self, now: Timestamp) -> usize {
        let workers = 0..self.hand_off.workers();
        let packets =
            workers.map(|other| self.take_arrivals(other, now) + self.take_known(other, now)).sum();
        self.counters().taken_over.add(packets as u64);
        packets
    }

    /// A burst of packets that arrived at another worker: stage by stage, as those that arrive here.
    fn take_arrivals(&mut self, other: u16, now: Timestamp) -> usize {
        let mut burst = std::mem::take(&mut self.burst);
        let packets = self.hand_off.take_arrivals(other, &mut burst);
        if packets > 0 {
            self.process(&mut burst, Came::ByHandOff, now);
        }
        self.burst = burst;
        packets
    }

    /// A burst of packets about which the other worker knows more than is in their bytes.
    fn take_known(&mut self, other: u16, now: Timestamp) -> usize {
        let mut burst = std::mem::take(&mut self.taken_over);
        let packets = self.hand_off.take_known(other, &mut burst);
        for given in burst.drain(..) {
            self.take_over(given, now);
        }
        self.taken_over = burst;
        packets
    }
}
