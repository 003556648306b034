//! How does a packet reach the worker that owns its subscriber?
//!
//! Between every two workers there are bounded rings for each direction, with one producer and one
//! consumer. The frame's token moves, its bytes don't. A full ring drops and counts; it never blocks.
//!
//! What crosses is little, because every line that crosses is asked for twice, by the giver to write it and by
//! the taker to read it. So most packets are only tokens: the giver looks at them no further than to see whose they
//! are ([`Worker::send_home`](crate::worker::Worker)), and the taker looks at them as if they had arrived there.
//! What was found out about the others can't be read from their bytes, and goes with them in a second ring.
//! Packets are collected while a burst is processed, shown together and taken together: each side writes
//! its index once a burst, and two workers share no other line that is written.

mod outlet;
mod ring {
    pub(super) use rtrb::{Consumer, Producer, RingBuffer};
}

use crossbeam::utils::CachePadded;
use rtrb::Consumer;

use self::outlet::{Outlet, take};
use crate::io::{BURST, Received};
use crate::pipeline::Parsed;
use crate::waker::Waker;

/// Packets that a ring holds.
pub const RING_SIZE: usize = 1024;
/// The same of those that were parsed before.
const KNOWN_SIZE: usize = 256;

/// A packet on its way to another worker, about which more is known than its bytes say.
#[derive(Debug)]
pub(crate) struct Known<F> {
    /// The frame, and where it arrived.
    pub(crate) received: Received<F>,
    /// What is in it.
    pub(crate) parsed: Parsed,
}

/// The way to one other worker.
#[derive(Debug)]
struct To<F> {
    arrivals: Outlet<Received<F>>,
    known: Outlet<Known<F>>,
    waker: Waker,
}

/// The way from one other worker.
#[derive(Debug)]
struct From<F> {
    arrivals: Consumer<Received<F>>,
    known: Consumer<Known<F>>,
}

/// One worker's ends of the rings; index: the other worker.
#[derive(Debug)]
pub struct HandOff<F> {
    // On lines of their own: the ends of different workers are made side by side.
    to: Vec<CachePadded<To<F>>>,
    from: Vec<CachePadded<From<F>>>,
    /// Some worker was given something that it does not see yet.
    collected: bool,
}

impl<F> Default for HandOff<F> {
    fn default() -> Self {
        Self { to: Vec::new(), from: Vec::new(), collected: false }
    }
}

impl<F> HandOff<F> {
    /// The rings between as many workers as there are `wakers`, in order.
    pub fn between(wakers: &[Waker]) -> Vec<Self> {
        let mut ends: Vec<Self> = wakers.iter().map(|_| Self::default()).collect();
        for giver in 0..wakers.len() {
            for (taker, waker) in wakers.iter().enumerate() {
                let (to_arrivals, arrivals) = Outlet::new(RING_SIZE);
                let (to_known, known) = Outlet::new(KNOWN_SIZE);
                let to = To { arrivals: to_arrivals, known: to_known, waker: waker.clone() };
                ends[giver].to.push(CachePadded::new(to));
                ends[taker].from.push(CachePadded::new(From { arrivals, known }));
            }
        }
        ends
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.to.len() as u16
    }

    /// Lets a packet arrive at `worker`, which sees it after [`HandOff::wake`] at the latest; a full ring gives
    /// it back.
    #[inline]
    pub(crate) fn forward(
        &mut self,
        worker: u16,
        received: Received<F>,
    ) -> Result<(), Received<F>> {
        self.collected = true;
        match self.to.get_mut(usize::from(worker)) {
            Some(to) => to.arrivals.give(received),
            None => Err(received),
        }
    }

    /// Gives a packet and what is known of it to `worker`, in the same way.
    pub(crate) fn give(&mut self, worker: u16, packet: Known<F>) -> Result<(), Known<F>> {
        self.collected = true;
        match self.to.get_mut(usize::from(worker)) {
            Some(to) => to.known.give(packet),
            None => Err(packet),
        }
    }

    /// Shows the other workers what they were given, and wakes those of them that sleep.
    pub(crate) fn wake(&mut self) {
        if !std::mem::take(&mut self.collected) {
            return;
        }
        for to in &mut self.to {
            if to.arrivals.show() | to.known.show() {
                to.waker.wake();
            }
        }
    }

    /// Puts what arrived at `worker` for us, a burst at most, behind what is in `into`; returns how many
    /// packets these are.
    pub(crate) fn take_arrivals(&mut self, worker: u16, into: &mut Vec<Received<F>>) -> usize {
        self.from
            .get_mut(usize::from(worker))
            .map_or(0, |from| take(&mut from.arrivals, BURST, into))
    }

    /// The same with what else `worker` gave us.
    pub(crate) fn take_known(&mut self, worker: u16, into: &mut Vec<Known<F>>) -> usize {
        self.from.get_mut(usize::from(worker)).map_or(0, |from| take(&mut from.known, BURST, into))
    }
}
