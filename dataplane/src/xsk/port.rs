//! The four rings of one queue of one interface.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, RawFd};

use nix::libc::xdp_desc;
use nix::sys::socket::{MsgFlags, recv};
use xsk_rs::socket::XdpStatistics;
use xsk_rs::{CompQueue, FillQueue, FrameDesc, RxQueue, TxQueue};

use super::frame::{Memory, Place};
use super::ring::TransmitRing;
use crate::interface::InterfaceId;

/// Frames that a copy-mode socket sends per system call.
const KERNEL_BATCH: usize = 32;

/// One AF_XDP socket, with the fill and completion ring of its queue.
pub(super) struct Port {
    pub(super) interface: InterfaceId,
    /// What `transmit` is to the kernel, but for wake-ups; it ends before the socket is closed.
    outgoing: TransmitRing,
    receive: RxQueue,
    transmit: TxQueue,
    fill: FillQueue,
    completion: CompQueue,
    /// Entries of the transmit and the completion ring.
    ring: usize,
    /// Frames that the kernel should have for reception.
    quota: usize,
    /// Of these, how many it has.
    receiving: usize,
    /// Given to the transmit ring and not yet completed.
    transmitting: usize,
    /// To be given to the transmit ring with the next flush.
    staged: Vec<xdp_desc>,
    /// Was the fill ring filled since the last wake-up?
    refilled: bool,
    busy_poll: bool,
    pub(super) transmit_wakeups: u64,
    pub(super) receive_wakeups: u64,
}

/// The rings as xsk-rs makes them.
pub(super) type Rings = (TxQueue, RxQueue, FillQueue, CompQueue);

impl Port {
    /// # Errors
    /// If the transmit ring can't be found.
    pub(super) fn new(
        interface: InterfaceId,
        rings: Rings,
        ring: usize,
        busy_poll: bool,
    ) -> io::Result<Self> {
        let (transmit, receive, fill, completion) = rings;
        // SAFETY: the socket was made by xsk-rs, which unmaps the ring when the last of its queues is dropped: `transmit`
        // lives as long as the port.
        let outgoing = unsafe { TransmitRing::find(receive.fd().as_raw_fd(), ring as u32)? };
        Ok(Self {
            interface,
            outgoing,
            receive,
            transmit,
            fill,
            completion,
            ring,
            quota: fill_ring(ring),
            receiving: 0,
            transmitting: 0,
            staged: Vec::with_capacity(ring),
            refilled: false,
            busy_poll,
            transmit_wakeups: 0,
            receive_wakeups: 0,
        })
    }

    /// Takes at most `into.len()` packets; returns how many.
    pub(super) fn receive(&mut self, into: &mut [FrameDesc]) -> usize {
        // SAFETY: the ring was made with the UMEM of all our descriptors; those in `into` are
        // overwritten copies that stand for nothing.
        let count = unsafe { self.receive.consume(into) };
        self.receiving -= count;
        if count == 0 && self.busy_poll {
            self.kick_receive();
        }
        count
    }

    /// Is there room for one more frame to transmit?
    pub(super) fn has_room(&self) -> bool {
        self.transmitting + self.staged.len() < self.ring
    }

    /// Queues a packet for the next flush. Only when there [is room](Self::has_room).
    pub(super) fn stage(&mut self, packet: xdp_desc) {
        self.staged.push(packet);
    }

    /// Takes back frames that the kernel has sent.
    pub(super) fn collect(&mut self, memory: &Memory, free: &mut Vec<FrameDesc>) {
        let mut sent = [FrameDesc::default(); KERNEL_BATCH];
        while self.transmitting > 0 {
            // SAFETY: as in `receive`.
            let count = unsafe { self.completion.consume(&mut sent) };
            for desc in &sent[..count] {
                memory.moved(desc, Place::Transmitting, Place::Free);
            }
            free.extend_from_slice(&sent[..count]);
            self.transmitting -= count;
            if count < sent.len() {
                return;
            }
        }
    }

    /// Gives staged frames to the kernel and wakes it as often as it takes to empty the ring, while
    /// that helps; what remains goes with a later flush.
    pub(super) fn send(&mut self) {
        if !self.staged.is_empty() {
            // There is room, since no more than `ring` are under way.
            // SAFETY: these frames are of the ring's UMEM, their tokens were given up, and nothing
            // touches them until the completion ring returns them.
            unsafe { self.outgoing.produce(&self.staged) };
            self.transmitting += self.staged.len();
            self.staged.clear();
        }
        if self.transmitting == 0 {
            return;
        }
        let mut unsent = self.unsent();
        let mut stuck = 0;
        while unsent > 0 && stuck < 2 && (self.busy_poll || self.transmit.needs_wakeup()) {
            self.transmit_wakeups += 1;
            // An error is the interface's state (down, gone): the frames wait in the ring.
            if self.transmit.wakeup().is_err() {
                return;
            }
            let now = self.unsent();
            stuck = if now < unsent { 0 } else { stuck + 1 };
            unsent = now;
        }
    }

    /// Frames in the transmit ring that the kernel has not looked at.
    pub(super) fn unsent(&self) -> usize {
        if self.transmitting == 0 {
            return 0;
        }
        self.outgoing.waiting()
    }

    /// Tops the fill ring up from `free`.
    pub(super) fn refill(&mut self, memory: &Memory, free: &mut Vec<FrameDesc>) {
        let wanted = self.quota - self.receiving;
        if wanted > 0 {
            memory.top_up(free, wanted);
            let count = wanted.min(free.len());
            let frames = &free[free.len() - count..];
            // SAFETY: these frames are of the ring's UMEM and were free: nobody holds their tokens.
            let produced = unsafe { self.fill.produce(frames) };
            // All or nothing. Nothing when the kernel has shown us packets and not yet that it took
            // their frames from the fill ring (`xsk_flush` publishes the one before the other): the
            // next flush finds the room.
            for desc in &frames[..produced] {
                memory.moved(desc, Place::Free, Place::Receiving);
            }
            free.truncate(free.len() - produced);
            self.receiving += produced;
            self.refilled |= produced > 0;
        }
        if self.refilled && self.fill.needs_wakeup() {
            self.kick_receive();
        }
    }

    /// At most once for each refill (or empty look, when busy polling), so that an idle worker makes
    /// no system calls.
    fn kick_receive(&mut self) {
        self.refilled = false;
        self.receive_wakeups += 1;
        // No data comes this way; an error is the interface's state.
        let _ = recv(self.raw_fd(), &mut [], MsgFlags::MSG_DONTWAIT);
    }

    pub(super) fn receiving(&self) -> usize {
        self.receiving
    }

    pub(super) fn transmitting(&self) -> usize {
        self.transmitting + self.staged.len()
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.receive.fd().as_raw_fd()
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        // SAFETY: the descriptor is open as long as the rings, which the result borrows.
        unsafe { BorrowedFd::borrow_raw(self.raw_fd()) }
    }

    /// Zeroes if the kernel doesn't say.
    pub(super) fn statistics(&self) -> XdpStatistics {
        self.receive.fd().xdp_statistics().unwrap_or_default()
    }
}

/// Entries of the fill ring: frames in the receive ring have left it, and it must not run dry then.
pub(super) const fn fill_ring(ring: usize) -> usize {
    2 * ring
}
