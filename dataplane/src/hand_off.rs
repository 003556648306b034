//! How does a packet reach the worker that owns its subscriber?
//!
//! Between every two workers there is a bounded ring for each direction, with one producer and one
//! consumer. The frame's token moves, its bytes don't. A full ring drops and counts; it never blocks.
//!
//! Packets for a worker are collected while a burst is processed and shown to it together, and it takes them
//! together: each side writes its index once a burst, not once a packet, and two workers share no other line
//! that is written.

use crossbeam::utils::CachePadded;
use rtrb::{Consumer, Producer, RingBuffer};

use crate::io::{BURST, Received};
use crate::pipeline::Parsed;
use crate::waker::Waker;

/// Packets that a ring holds.
pub const RING_SIZE: usize = 1024;

/// What another worker is to do with a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Errand {
    /// Translate it: its subscriber lives there.
    Translate,
    /// Keep what is known of its datagram: it is a fragment.
    Keep,
}

/// A packet on its way to another worker: already parsed.
#[derive(Debug)]
pub struct HandedOver<F> {
    /// The frame, and where it arrived.
    pub(crate) received: Received<F>,
    /// What is in it.
    pub(crate) parsed: Parsed,
    /// Why it is given.
    pub(crate) errand: Errand,
}

/// The way to one other worker.
#[derive(Debug)]
struct Outlet<F> {
    ring: Producer<HandedOver<F>>,
    /// Packets that the other worker does not see yet; the ring has room for them.
    collected: Vec<HandedOver<F>>,
    waker: Waker,
}

/// One worker's ends of the rings; index: the other worker.
#[derive(Debug)]
pub struct HandOff<F> {
    // On lines of its own: the ends of different workers are made side by side.
    to: Vec<CachePadded<Outlet<F>>>,
    from: Vec<CachePadded<Consumer<HandedOver<F>>>>,
}

impl<F> HandOff<F> {
    /// The rings between as many workers as there are `wakers`, in order.
    pub fn between(wakers: &[Waker]) -> Vec<Self> {
        let mut ends: Vec<Self> =
            wakers.iter().map(|_| Self { to: Vec::new(), from: Vec::new() }).collect();
        for giver in 0..wakers.len() {
            for (taker, waker) in wakers.iter().enumerate() {
                let (ring, other_end) = RingBuffer::new(RING_SIZE);
                let (collected, waker) = (Vec::with_capacity(BURST), waker.clone());
                ends[giver].to.push(CachePadded::new(Outlet { ring, collected, waker }));
                ends[taker].from.push(CachePadded::new(other_end));
            }
        }
        ends
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.to.len() as u16
    }

    /// Gives a packet to `worker`, which sees it after [`HandOff::wake`] at the latest; a full ring gives it
    /// back.
    pub(crate) fn give(&mut self, worker: u16, packet: HandedOver<F>) -> Result<(), HandedOver<F>> {
        match self.to.get_mut(usize::from(worker)) {
            Some(outlet) if outlet.has_room() => {
                outlet.collected.push(packet);
                if outlet.collected.len() == BURST {
                    outlet.show();
                }
                Ok(())
            }
            _ => Err(packet),
        }
    }

    /// Takes what `worker` gave us, a burst at most, puts it behind what is in `into`, and returns how many
    /// packets these are.
    pub(crate) fn take(&mut self, worker: u16, into: &mut Vec<HandedOver<F>>) -> usize {
        let Some(ring) = self.from.get_mut(usize::from(worker)) else { return 0 };
        let count = ring.slots().min(BURST);
        if count > 0
            && let Ok(burst) = ring.read_chunk(count)
        {
            into.extend(burst);
        }
        count
    }

    /// Shows the other workers what they were given, and wakes those of them that sleep.
    pub(crate) fn wake(&mut self) {
        for outlet in &mut self.to {
            if !outlet.collected.is_empty() {
                outlet.show();
            }
        }
    }
}

impl<F> Outlet<F> {
    /// Is there room for one more than was collected?
    fn has_room(&self) -> bool {
        let wanted = self.collected.len() + 1;
        // The other worker's index is read only when the last look at it does not suffice.
        self.ring.cached_slots() >= wanted || self.ring.slots() >= wanted
    }

    /// Shows the other worker what was collected.
    fn show(&mut self) {
        if let Ok(room) = self.ring.write_chunk_uninit(self.collected.len()) {
            room.fill_from_iter(self.collected.drain(..));
        }
        self.waker.wake();
    }
}
