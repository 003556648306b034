//! The seam between the pipeline and packet I/O: AF_XDP ([`crate::xsk`]) or memory
//! ([`crate::memory`]); DPDK later.
//!
//! A worker owns one [`PacketIo`]. It serves the worker's queues of every interface. Frames are tokens:
//! not `Clone`, and whoever holds one holds its bytes. A frame may be handed to another worker and
//! transmitted or released there; backends bring frames home by themselves.

use std::time::Duration;

use crate::interface::InterfaceId;
use crate::waker::Waker;
use crate::xsk::fetch_to_write;

/// Packets moved per call at most.
pub const BURST: usize = 64;

/// A packet that arrived, and the interface it came in by.
#[must_use = "a frame that is dropped without release is lost to its pool"]
#[derive(Debug)]
pub struct Received<F> {
    /// The token; its bytes start at the Ethernet header, of the inner packet if it came through a tunnel.
    pub frame: F,
    /// Where it arrived; a tunnel, once it was taken out of that.
    pub interface: InterfaceId,
}

/// What a backend counts about itself; all monotonic, except `frames_*`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoStats {
    /// Frames that could not be queued because the transmit ring was full (dropped, counted).
    pub transmit_ring_full: u64,
    /// Wake-up system calls for transmission.
    pub transmit_wakeups: u64,
    /// Wake-up system calls for reception.
    pub receive_wakeups: u64,
    /// Packets that the kernel dropped because a receive ring was full.
    pub receive_ring_full: u64,
    /// Times that the kernel found the fill ring empty.
    pub fill_ring_empty: u64,
    /// Packets that the kernel dropped for other reasons.
    pub receive_dropped: u64,
    /// Descriptors that the kernel refused.
    pub invalid_descriptors: u64,
    /// Frames now in this worker's free list.
    pub frames_free: u64,
    /// Frames now with the kernel (fill and transmit rings).
    pub frames_in_kernel: u64,
}

/// A source and sink of Ethernet frames, owned by one worker.
pub trait PacketIo {
    /// The token of one frame. Not `Clone`: holding it is holding the bytes.
    type Frame: Send + 'static;

    /// Appends at most `room` arrived packets to `into`, taken from the worker's queues in turn, and
    /// returns how many. Never blocks.
    fn receive(&mut self, room: usize, into: &mut Vec<Received<Self::Frame>>) -> usize;

    /// The packet of `frame`, from its Ethernet header on.
    fn bytes<'a>(&'a self, frame: &'a Self::Frame) -> &'a [u8];

    /// The packet of `frame`, to be changed in place.
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Self::Frame) -> &'a mut [u8];

    /// Sets the length of the packet in `frame` to `len` bytes (new bytes have any content). False, and
    /// nothing changes, if the frame has no room for it.
    #[must_use]
    fn resize(&mut self, frame: &mut Self::Frame, len: usize) -> bool;

    /// Puts `header` before the packet of `frame`. False, and nothing changes, if there is no room for it: there is for
    /// the headers of a tunnel wherever a packet has arrived or is written by natgate.
    #[must_use]
    fn prepend<const N: usize>(&mut self, frame: &mut Self::Frame, header: &[u8; N]) -> bool;

    /// Takes the first `len` bytes away from the packet of `frame`. False, and nothing changes, if it has fewer.
    #[must_use]
    fn strip(&mut self, frame: &mut Self::Frame, len: usize) -> bool;

    /// A free frame, of length 0, or `None` when the pool is empty.
    fn allocate(&mut self) -> Option<Self::Frame>;

    /// Gives a frame back.
    fn release(&mut self, frame: Self::Frame);

    /// Queues `frame` for transmission through `interface`. It leaves with the next
    /// [`flush`](Self::flush). False if there is no room or the interface is down: the frame is then
    /// released, and counted by the caller.
    #[must_use]
    fn transmit(&mut self, interface: InterfaceId, frame: Self::Frame) -> bool;

    /// Ends a burst: hands what was queued to the kernel, collects completions, refills receive rings;
    /// at most one wake-up for each ring.
    fn flush(&mut self);

    /// Sleeps until a packet arrives, the worker's [`Waker`] is woken, or `timeout` is over; does not sleep if
    /// it was woken since the last call.
    fn wait(&mut self, timeout: Duration);

    /// What wakes the worker from [`wait`](Self::wait).
    fn waker(&self) -> &Waker;

    /// What the backend counts about itself.
    fn stats(&self) -> IoStats;
}

/// Reads a byte of the IPv4 header of every packet in `burst`. The reads don't wait for each other, so the
/// lines that another core or the NIC has written arrive side by side, before they are needed one by one.
pub fn touch_headers<I: PacketIo>(io: &I, burst: &[Received<I::Frame>]) {
    const IN_THE_HEADER: usize = 23;
    for received in burst {
        std::hint::black_box(io.bytes(&received.frame).get(IN_THE_HEADER).copied());
    }
}

/// The same for packets that another core has just read: it gives the lines away at once.
pub(crate) fn fetch_headers<I: PacketIo>(io: &I, burst: &[Received<I::Frame>]) {
    for received in burst {
        fetch_to_write(io.bytes(&received.frame));
    }
}
