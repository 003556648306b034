//! What becomes of packets that wait for their next hop: [`hold`](crate::hold) keeps them.

use std::sync::Arc;

use conntrack::Timestamp;

use crate::drop_reason::DropReason;
use crate::hold::Neighbour;
use crate::io::{PacketIo, Received};
use crate::pipeline::Parsed;
use crate::request::Notice;
use crate::roads::NextHop;
use crate::tunnel::Exit;
use crate::worker::Worker;

/// A packet that waits for its next hop.
#[derive(Debug)]
pub(crate) enum Held<F> {
    /// One that passes: what it was on arrival tells whom to answer.
    Passing { received: Received<F>, parsed: Parsed, hop: NextHop },
    /// What natgate says itself, counted when it was made.
    Own { frame: F, hop: NextHop },
}

impl<I: PacketIo> Worker<I> {
    /// Lets a packet wait for its next hop.
    #[cold]
    pub(crate) fn hold_back(
        &mut self,
        packet: Held<I::Frame>,
        neighbour: Neighbour,
        now: Timestamp,
    ) {
        let roads = &self.snapshot.roads;
        let known = roads.neighbours.get(&neighbour).and_then(|id| roads.adjacency(*id));
        let failures = known.map_or(0, |it| it.failures);
        self.own_held += usize::from(matches!(packet, Held::Own { .. }));
        let (ask, refused) = self.hold.push(neighbour, failures, packet, now);
        if ask {
            self.ask_for(neighbour);
        }
        match refused {
            Some(Held::Passing { received, .. }) => {
                self.drop_frame(received.frame, DropReason::NeighbourQueueFull);
            }
            Some(Held::Own { frame, .. }) => self.lose_answer(frame),
            None => {}
        }
        self.count_held();
    }

    /// Has the kernel resolve a neighbour.
    pub(crate) fn ask_for(&self, (interface, address): Neighbour) {
        if self.shared.notices.try_send(Notice::Resolve(interface, address)).is_err() {
            self.counters().notices_lost.add(1);
        }
    }

    /// Notes how many packets wait.
    pub(crate) fn count_held(&self) {
        let held = self.hold.len() - self.own_held + self.fragments.waiting();
        let counters = self.counters();
        counters.held.set(held as u64);
        counters.answers_held.set(self.own_held as u64);
    }

    /// Sends the packets whose next hop has been resolved, and refuses those whose next hop does not answer.
    #[cold]
    pub(crate) fn send_ready(&mut self, now: Timestamp) {
        let snapshot = Arc::clone(&self.snapshot);
        let roads = &snapshot.roads;
        let known = |n: Neighbour| roads.neighbours.get(&n).and_then(|id| roads.adjacency(*id));
        let decided =
            |n, failures| known(n).is_some_and(|it| it.mac.is_some() || it.failures != failures);
        while let Some((neighbour, packets)) = self.hold.take(decided) {
            let resolved = known(neighbour).is_some_and(|it| it.mac.is_some());
            for packet in packets {
                if resolved {
                    // It may have to wait for the next one: that of the underlay, behind a tunnel.
                    self.go_on(packet, now);
                } else {
                    self.give_up(packet, now);
                }
            }
        }
        self.drop_overdue(now);
    }

    pub(crate) fn drop_overdue(&mut self, now: Timestamp) {
        for packet in self.hold.take_overdue(now) {
            self.give_up(packet, now);
        }
        self.count_held();
    }

    /// Drops all that wait.
    pub(crate) fn drop_held(&mut self) {
        for packet in self.hold.take_all() {
            match packet {
                Held::Passing { received, .. } => {
                    self.drop_frame(received.frame, DropReason::NeighbourUnresolved);
                }
                Held::Own { frame, .. } => self.lose_answer(frame),
            }
        }
    }

    fn go_on(&mut self, packet: Held<I::Frame>, now: Timestamp) {
        match packet {
            Held::Passing { received, parsed, hop } => self.forward(received, &parsed, hop, now),
            Held::Own { frame, hop } => match self.exit_by(hop) {
                Exit::Open(way) => {
                    self.own_held -= 1;
                    if self.send_by(frame, way, 0).is_err() {
                        self.counters().answers_lost.add(1);
                    }
                }
                Exit::Waits(neighbour) => {
                    self.own_held -= 1;
                    self.hold_back(Held::Own { frame, hop }, neighbour, now);
                }
                Exit::Closed(_) => self.lose_answer(frame),
            },
        }
    }

    fn give_up(&mut self, packet: Held<I::Frame>, now: Timestamp) {
        match packet {
            Held::Passing { received, parsed, .. } => {
                self.refuse(received, Some(&parsed), DropReason::NeighbourUnresolved, now);
            }
            Held::Own { frame, .. } => self.lose_answer(frame),
        }
    }

    /// Drops what natgate wanted to say itself and held.
    fn lose_answer(&mut self, frame: I::Frame) {
        self.own_held -= 1;
        self.io.release(frame);
        self.counters().answers_lost.add(1);
    }
}
