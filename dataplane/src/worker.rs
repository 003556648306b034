//! The loop of a worker: receive a burst, process each packet to its end, transmit.

use std::sync::Arc;
use std::time::{Duration, Instant};

use conntrack::{HashedKey, Nat, Record, Records, Restored, Secret, Timestamp};
use crossbeam::channel::{Receiver, Sender};
use rtrb::Producer;

use crate::answer::{self, RateLimit};
use crate::capture::Tap;
use crate::counters::{AllCounters, WorkerCounters};
use crate::drop_reason::DropReason;
use crate::error_limit::ErrorLimits;
use crate::exempt::Exempt;
use crate::fragment::Fragments;
use crate::hand_off::{HandOff, Known};
use crate::held::Held;
use crate::hold::Hold;
use crate::home::Homes;
use crate::interface::{Interface, InterfaceId};
use crate::io::{BURST, PacketIo, Received};
use crate::ip_id::IpIds;
use crate::listing::Listings;
use crate::load::Load;
use crate::overload::Overload;
use crate::pipeline::{Arrival, Fate, Parsed};
use crate::plain::{Glance, Lane};
use crate::request::{Notice, Request};
use crate::roads::NextHop;
use crate::snapshot::{Published, Snapshot};
use crate::spin::Spin;
use crate::tunnel::{Exit, Out, Tunnels};
use crate::unsolicited::Unsolicited;
use crate::wire::{Ethernet, ethernet};
use crate::xsk::ask_for_huge_pages;

/// Timer-wheel items looked at in a busy burst, beside two for each new session, and in an idle one.
const EXPIRE_BUDGET: (u32, u32) = (32, 1024);

/// What all workers share.
#[derive(Clone, Debug)]
pub struct Shared {
    /// Configuration and mirror.
    pub snapshot: Arc<Published<Snapshot>>,
    /// Counters of all workers.
    pub counters: Arc<AllCounters>,
    /// The secret of this start.
    pub secret: Secret,
    /// Where pods live.
    pub homes: Homes,
    /// What workers tell the control thread.
    pub notices: Sender<Notice>,
    /// The clock's epoch.
    pub clock: Clock,
    /// Sessions that each worker has room for.
    pub sessions_per_worker: usize,
}

/// The one place where time is read.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    begun: Instant,
    /// What it showed then.
    shown: Duration,
}

impl Clock {
    /// A clock whose epoch is now.
    pub fn start() -> Self {
        Self::start_at(Duration::ZERO)
    }

    /// A clock that shows `shown` now, and goes on from there: that of the process before.
    #[allow(clippy::disallowed_methods)] // this is where `now` is read
    pub fn start_at(shown: Duration) -> Self {
        Self { begun: Instant::now(), shown }
    }

    /// Milliseconds since the epoch.
    pub fn now(self) -> Timestamp {
        Timestamp::from_millis(self.elapsed().as_millis() as u64)
    }

    /// Time since the epoch.
    #[allow(clippy::disallowed_methods)] // this is where `now` is read
    pub fn elapsed(self) -> Duration {
        Instant::now().duration_since(self.begun) + self.shown
    }
}

/// A worker: everything that one thread owns.
#[derive(Debug)]
pub struct Worker<I: PacketIo> {
    pub(crate) id: u16,
    pub(crate) io: I,
    pub(crate) nat: Nat,
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) hand_off: HandOff<I::Frame>,
    pub(crate) reset_limit: RateLimit,
    pub(crate) echo_limit: RateLimit,
    pub(crate) error_limits: ErrorLimits,
    pub(crate) unsolicited: Unsolicited,
    pub(crate) started: Timestamp,
    pub(crate) fragments: Fragments<I::Frame>,
    pub(crate) ip_ids: IpIds,
    pub(crate) overload: Overload,
    pub(crate) load: Load,
    /// Packets are copied for somebody.
    pub(crate) tap: Option<Box<Tap>>,
    /// Sessions that had been created at the end of the last turn.
    created: u64,
    /// A packet that is being cut into pieces.
    pub(crate) datagram: Vec<u8>,
    pub(crate) shared: Shared,
    pub(crate) snapshot_version: u64,
    pub(crate) hold: Hold<Held<I::Frame>>,
    /// How many of those that wait are natgate's own.
    pub(crate) own_held: usize,
    pub(crate) requests: Receiver<Request>,
    pub(crate) listings: Listings,
    /// [`Policy::cuts`](crate::snapshot::Policy::cuts) that are done, or under way.
    pub(crate) cuts: u32,
    /// Where the search for sessions that are to end goes on.
    pub(crate) cutting: Option<usize>,
    pub(crate) announcements: Vec<(InterfaceId, std::net::Ipv4Addr)>,
    pub(crate) burst: Vec<Received<I::Frame>>,
    pub(crate) glances: Vec<Glance>,
    pub(crate) odd: Vec<Arrival>,
    /// What stays of a burst.
    pub(crate) staying: Vec<Received<I::Frame>>,
    /// Many packets of the last burst live at other workers.
    pub(crate) many_elsewhere: bool,
    pub(crate) lane: Lane,
    pub(crate) exempt: Exempt,
    pub(crate) tunnels: Tunnels,
    pub(crate) taken_over: Vec<Known<I::Frame>>,
    next_housekeeping: Timestamp,
    /// Where its records go.
    pub(crate) records: Option<Producer<Record>>,
    /// Something besides packets is left to do at once: the worker must not sleep.
    pub(crate) unfinished: bool,
    pub(crate) stopping: bool,
}

impl<I: PacketIo> Worker<I> {
    /// A worker with the number `id` whose packets come and go by `io`.
    pub fn new(
        id: u16,
        io: I,
        hand_off: HandOff<I::Frame>,
        requests: Receiver<Request>,
        shared: Shared,
        now: Timestamp,
    ) -> Self {
        let snapshot = shared.snapshot.get();
        let mut nat = Nat::new(id, shared.sessions_per_worker, shared.secret.clone(), now);
        nat = nat.with_workers(hand_off.workers());
        nat.adopt(&snapshot.policy.pools);
        for table in nat.reserved() {
            // Without, it is slower: `huge_pages` tells why.
            let _ = ask_for_huge_pages(table);
        }
        let lifetime = snapshot.policy.fragment_lifetime();
        let hand_off_workers = hand_off.workers().max(1);
        let share = u64::from(hand_off_workers);
        Self {
            id,
            io,
            nat,
            snapshot,
            reset_limit: RateLimit::new(answer::RESET_RATE.div_ceil(share)),
            echo_limit: RateLimit::new(answer::ECHO_RATE.div_ceil(share)),
            error_limits: ErrorLimits::new(0, 0),
            unsolicited: Unsolicited::default(),
            fragments: Fragments::new(lifetime),
            ip_ids: IpIds::new(id, hand_off.workers(), &shared.secret),
            overload: Overload::default(),
            load: Load::default(),
            tap: None,
            created: 0,
            datagram: Vec::new(),
            hand_off,
            started: now,
            snapshot_version: 0,
            hold: Hold::new(),
            own_held: 0,
            requests,
            listings: Listings::default(),
            cuts: 0,
            cutting: None,
            announcements: Vec::new(),
            burst: Vec::with_capacity(BURST),
            glances: Vec::with_capacity(BURST),
            odd: Vec::with_capacity(BURST),
            staying: Vec::with_capacity(BURST),
            many_elsewhere: false,
            lane: Lane::default(),
            exempt: Exempt::default(),
            tunnels: Tunnels::new(id, hand_off_workers),
            taken_over: Vec::with_capacity(BURST),
            next_housekeeping: now,
            records: None,
            unfinished: false,
            stopping: false,
            shared,
        }
    }

    /// Takes over what another worker has left, before the first packet; what became of it.
    pub fn restore(&mut self, records: &Records, now: Timestamp) -> Restored {
        self.nat.restore(records, now)
    }

    /// Runs until [`Request::Stop`]; gives the backend back, with every frame released, and all that the NAT knows.
    pub fn run(mut self) -> (I, Nat) {
        let mut spin = Spin::new();
        while !self.stopping {
            let begin = self.shared.clock.elapsed();
            let busy = self.load.turn(begin);
            self.counters().busy_nanos.add(busy.as_nanos() as u64);
            let packets = self.turn(Timestamp::from_millis(begin.as_millis() as u64));
            if packets > 0 {
                self.load.found(begin);
            }
            if packets > 0 || self.unfinished {
                spin.found();
            } else if spin.again() || self.stopping {
                std::hint::spin_loop();
            } else {
                let begin = self.shared.clock.elapsed();
                self.sleep();
                spin.slept(self.shared.clock.elapsed().saturating_sub(begin));
            }
        }
        self.release_all();
        (self.io, self.nat)
    }

    /// One turn of the loop at the time `now`: a burst from the interfaces, one from each other worker,
    /// and a slice of everything else. Returns the packets processed.
    pub fn turn(&mut self, now: Timestamp) -> usize {
        self.follow_snapshot(now);
        let began = self.listings.are_timed().then(|| self.shared.clock.elapsed());
        self.overload.begin(now, self.snapshot.policy.slow_path_budget);
        let timed = self.load.is_timed().then(|| self.shared.clock.elapsed());
        let arrived = self.take_burst(now);
        self.hand_off.wake();
        let packets = arrived + self.take_hand_offs(now);
        self.hand_off.wake();
        self.overload.end(packets);
        if packets > 0 && (timed.is_some() || now >= self.next_housekeeping) {
            // It is always due when a packet ends a long silence, which must not wait for it.
            self.io.flush();
        }
        if packets > 0 {
            self.note_time(timed, packets);
        }
        let listing = self.serve_requests(packets, began, now);
        let expiring = self.expire(now, packets > 0);
        self.unfinished = self.say_farewell(now) || expiring || listing;
        self.pass_records_on();
        if now >= self.next_housekeeping {
            self.keep_house(now);
        }
        self.announce(now);
        self.io.flush();
        let counters = self.counters();
        let loops = if packets > 0 { &counters.busy_loops } else { &counters.idle_loops };
        loops.add(1);
        packets
    }

    /// Ends what has been idle for too long, within a budget; whether more may be due.
    fn expire(&mut self, now: Timestamp, busy: bool) -> bool {
        let created = self.nat.created();
        // As many as begin must be able to end, however fast they come.
        let new = (created - self.created) as u32;
        self.created = created;
        let budget = if busy { EXPIRE_BUDGET.0 + 2 * new } else { EXPIRE_BUDGET.1 };
        self.cut(now, budget as usize) | self.nat.expire(now, budget)
    }

    /// Looks at some sessions, whether a change of configuration has ended them; whether there are more to look at.
    fn cut(&mut self, now: Timestamp, count: usize) -> bool {
        // Not faster than their ends are told.
        if let Some(at) = self.cutting.filter(|_| !self.nat.mourns()) {
            let snapshot = &self.snapshot;
            self.cutting = self.nat.sweep(at, count, now, |claimant| !snapshot.stands(claimant));
        }
        self.cutting.is_some()
    }

    /// Counts how long the packets of this turn stayed, if it is timed.
    #[inline]
    fn note_time(&mut self, begin: Option<Duration>, packets: usize) {
        match begin {
            None => self.load.pass(),
            Some(begin) => {
                let time = self.shared.clock.elapsed().saturating_sub(begin);
                let counters = &self.shared.counters[usize::from(self.id)];
                self.load.timed(&counters.latency, time, packets);
            }
        }
    }

    /// This worker's counters.
    pub(crate) fn counters(&self) -> &WorkerCounters {
        &self.shared.counters[usize::from(self.id)]
    }

    #[inline]
    pub(crate) fn interface(&self, id: InterfaceId) -> Option<&Interface> {
        self.snapshot.interfaces.get(id.index())
    }

    /// The last step of every packet: exactly one counter.
    #[inline]
    pub(crate) fn finish(
        &mut self,
        received: Received<I::Frame>,
        parsed: &Parsed,
        fate: Result<Fate, DropReason>,
        now: Timestamp,
    ) {
        match fate {
            Ok(Fate::Forward(hop)) => self.forward(received, parsed, hop, now),
            Ok(Fate::Answer) => self.return_answer(received, now),
            Ok(Fate::HandOver(worker)) => self.hand_over(received, parsed, worker),
            Err(reason) => self.refuse(received, Some(parsed), reason, now),
        }
    }

    /// Sends a packet that was turned into an answer back to where it came from.
    #[cold]
    pub(crate) fn return_answer(&mut self, received: Received<I::Frame>, now: Timestamp) {
        if self.transmit(received.interface, received.frame, now) {
            self.counters().answered.add(1);
        }
    }

    #[cold]
    pub(crate) fn drop_frame(&mut self, frame: I::Frame, reason: DropReason) {
        self.io.release(frame);
        self.counters().drop_packet(reason);
    }

    #[inline]
    pub(crate) fn forward(
        &mut self,
        received: Received<I::Frame>,
        parsed: &Parsed,
        hop: NextHop,
        now: Timestamp,
    ) {
        match self.plain_way(hop) {
            Some(way) => self.send(received.frame, way, 0),
            None => self.forward_by(received, parsed, hop, now),
        }
    }

    /// The same by any way.
    #[cold]
    fn forward_by(
        &mut self,
        received: Received<I::Frame>,
        parsed: &Parsed,
        hop: NextHop,
        now: Timestamp,
    ) {
        let flow = parsed.key.as_ref().map_or(0, HashedKey::flow);
        match self.exit_by(hop) {
            Exit::Open(way) => self.send(received.frame, way, flow),
            Exit::Waits(neighbour) => {
                self.hold_back(Held::Passing { received, parsed: *parsed, hop }, neighbour, now);
            }
            Exit::Closed(reason) => self.refuse(received, Some(parsed), reason, now),
        }
    }

    #[inline]
    fn send(&mut self, frame: I::Frame, way: Out, flow: u64) {
        match self.send_by(frame, way, flow) {
            Ok(()) => self.counters().forwarded.add(1),
            Err(reason) => self.counters().drop_packet(reason),
        }
    }

    /// Sends a frame with its Ethernet addresses, in pieces if it is too long. What is not sent is released.
    #[inline]
    pub(crate) fn send_by(
        &mut self,
        mut frame: I::Frame,
        way: Out,
        flow: u64,
    ) -> Result<(), DropReason> {
        let bytes = self.io.bytes_mut(&mut frame);
        let len = bytes.len();
        match Ethernet::new_checked(bytes) {
            Ok(mut ethernet) => ethernet.set_addresses(way.to, way.from),
            Err(malformed) => {
                self.io.release(frame);
                return Err(malformed.into());
            }
        }
        if len > ethernet::HEADER + usize::from(way.mtu) {
            self.send_oversized(frame, way, flow)
        } else if self.transmit_by(frame, way, flow) {
            Ok(())
        } else {
            Err(DropReason::TransmitFull)
        }
    }

    /// Hands a frame to the interface, or into the tunnel; counts it there.
    #[inline]
    pub(crate) fn transmit_by(&mut self, mut frame: I::Frame, way: Out, flow: u64) -> bool {
        let len = self.io.bytes(&frame).len() as u64;
        self.note_sent(way.interface, &frame);
        let by = match way.tunnel {
            None => Some(way.interface),
            Some(tunnel) => self.put_into_tunnel(tunnel, &mut frame, flow),
        };
        let Some(by) = by else {
            self.io.release(frame);
            return false;
        };
        let sent = self.io.transmit(by, frame);
        if sent {
            let counters = self.counters().interface(way.interface);
            counters.transmitted_packets.add(1);
            counters.transmitted_bytes.add(len);
        }
        sent
    }

    /// Hands what natgate answers to the interface that the question came by; counts it there, or as dropped.
    #[inline]
    fn transmit(&mut self, interface: InterfaceId, frame: I::Frame, now: Timestamp) -> bool {
        let sent = self.transmit_own(interface, frame, now);
        if !sent {
            self.counters().drop_packet(DropReason::TransmitFull);
        }
        sent
    }

    /// The same for what natgate sends by itself: no packet that came in is lost with it. Back into a tunnel, it goes
    /// by the routes: they know the way to whom it is for.
    #[inline]
    pub(crate) fn transmit_own(
        &mut self,
        interface: InterfaceId,
        frame: I::Frame,
        now: Timestamp,
    ) -> bool {
        if self.interface(interface).is_some_and(|it| it.tunnel.is_some()) {
            return self.send_back(interface, frame, now);
        }
        let len = self.io.bytes(&frame).len() as u64;
        self.note_sent(interface, &frame);
        let sent = self.io.transmit(interface, frame);
        if sent {
            let counters = self.counters().interface(interface);
            counters.transmitted_packets.add(1);
            counters.transmitted_bytes.add(len);
        }
        sent
    }

    /// What need not be done in every turn: ten times a second.
    fn keep_house(&mut self, now: Timestamp) {
        self.next_housekeeping = now + Duration::from_millis(100);
        self.drop_overdue(now);
        self.end_capture(now);
        for neighbour in self.hold.ask_again(now) {
            self.ask_for(neighbour);
        }
        self.answer_held(now);
        self.drop_overdue_fragments(now);
        self.count_held();
        let (nat, io) = (self.nat.stats(), self.io.stats());
        self.overload.observe(io.receive_ring_full, now);
        let counters = self.counters();
        counters.sessions.set(nat.sessions);
        counters.sessions_created.set(nat.created);
        counters.sessions_ended.set(nat.ended);
        counters.sessions_unannounced.set(nat.unannounced);
        counters.subscribers.set(nat.subscribers);
        counters.rests_cut_short.set(nat.rests_cut_short);
        counters.records_lost.set(nat.records_lost);
        for (counter, happened) in counters.events.iter().zip(nat.events) {
            counter.set(happened);
        }
        counters.fragmented_datagrams.set(self.fragments.len() as u64);
        counters.frames_free.set(io.frames_free);
        counters.frames_in_kernel.set(io.frames_in_kernel);
        counters.transmit_ring_full.set(io.transmit_ring_full);
        counters.receive_ring_full.set(io.receive_ring_full);
        counters.fill_ring_empty.set(io.fill_ring_empty);
        counters.wakeups.set(io.transmit_wakeups + io.receive_wakeups);
    }

    fn sleep(&mut self) {
        if !self.announcements.is_empty() {
            return;
        }
        self.counters().sleeps.add(1);
        // A listing whose reader is slow, and packets that wait, are looked at again soon.
        let waiting = self.hold.len() + self.fragments.waiting();
        let busy = !self.listings.is_empty() || waiting > 0;
        // A SYN that is held is answered in time.
        let idle = if self.unsolicited.is_empty() { 500 } else { 50 };
        self.io.wait(Duration::from_millis(if busy { 5 } else { idle }));
    }

    /// Gives every frame back.
    fn release_all(&mut self) {
        self.drop_held();
        for frame in self.fragments.take_all() {
            self.drop_frame(frame, DropReason::FragmentTimeout);
        }
        for other in 0..self.hand_off.workers() {
            let (mut arrivals, mut known) = (Vec::new(), Vec::new());
            while self.hand_off.take_arrivals(other, &mut arrivals) > 0 {}
            while self.hand_off.take_known(other, &mut known) > 0 {}
            arrivals.extend(known.into_iter().map(|known| known.received));
            for received in arrivals {
                self.drop_frame(received.frame, DropReason::HandOffFull);
            }
        }
        self.pass_records_on();
        self.keep_house(self.shared.clock.now());
        self.io.flush();
    }

    /// Its sessions, and what belongs to them.
    pub fn nat(&self) -> &Nat {
        &self.nat
    }

    /// The packet I/O backend.
    pub fn io_mut(&mut self) -> &mut I {
        &mut self.io
    }
}
