//! How does a packet reach the worker that owns its subscriber?
//!
//! Between every two workers there is a bounded ring for each direction, with one producer and one
//! consumer. The frame's token moves, its bytes don't. A full ring drops and counts; it never blocks.

use std::sync::Arc;

use crossbeam::queue::ArrayQueue;

use crate::io::Received;
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

type Ring<F> = Arc<ArrayQueue<HandedOver<F>>>;

/// One worker's ends of the rings; index: the other worker.
#[derive(Debug)]
pub struct HandOff<F> {
    to: Vec<Ring<F>>,
    from: Vec<Ring<F>>,
    wakers: Vec<Waker>,
    /// Workers that were given packets since the last [`HandOff::wake`].
    given: Vec<bool>,
}

impl<F> HandOff<F> {
    /// The rings between as many workers as there are `wakers`, in order.
    pub fn between(wakers: &[Waker]) -> Vec<Self> {
        let count = wakers.len();
        let ring = |_| Arc::new(ArrayQueue::new(RING_SIZE));
        let rings: Vec<Vec<Ring<F>>> = (0..count).map(|_| (0..count).map(ring).collect()).collect();
        (0..count)
            .map(|worker| Self {
                to: rings[worker].clone(),
                from: rings.iter().map(|row| Arc::clone(&row[worker])).collect(),
                wakers: wakers.to_vec(),
                given: vec![false; count],
            })
            .collect()
    }

    /// How many workers there are.
    pub fn workers(&self) -> u16 {
        self.to.len() as u16
    }

    /// Gives a packet to `worker`; a full ring gives it back.
    pub(crate) fn give(&mut self, worker: u16, packet: HandedOver<F>) -> Result<(), HandedOver<F>> {
        let worker = usize::from(worker);
        let Some(ring) = self.to.get(worker) else { return Err(packet) };
        ring.push(packet)?;
        self.given[worker] = true;
        Ok(())
    }

    /// The next packet that `worker` gave us.
    pub(crate) fn take(&self, worker: u16) -> Option<HandedOver<F>> {
        self.from.get(usize::from(worker))?.pop()
    }

    /// Wakes the workers that were given packets and sleep.
    pub(crate) fn wake(&mut self) {
        for (given, waker) in self.given.iter_mut().zip(&self.wakers) {
            if std::mem::take(given) {
                waker.wake();
            }
        }
    }
}
