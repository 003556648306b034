//! Packet I/O in memory: for tests, replay and benchmarks.

use std::collections::VecDeque;
use std::time::Duration;

use crate::interface::InterfaceId;
use crate::io::{IoStats, PacketIo, Received};
use crate::waker::Waker;

/// Room for a packet in a frame, in bytes.
pub const FRAME_SIZE: usize = 2048;
/// Room before a packet that has arrived, or is new.
const HEADROOM: u8 = 192;
/// With what a packet may begin later.
const SIZE: usize = 256 + FRAME_SIZE;

/// Begins a cache line, as frames of a NIC do.
#[derive(Debug)]
#[repr(align(64))]
struct Bytes([u8; SIZE]);

/// A frame: owns its bytes.
#[must_use = "a frame that is dropped without release is lost to its pool"]
#[derive(Debug)]
pub struct Frame {
    bytes: Box<Bytes>,
    /// A byte: it lies in the frame whatever it is.
    start: u8,
    len: u16,
}

impl Frame {
    fn new() -> Self {
        Self { bytes: Box::new(Bytes([0; SIZE])), start: HEADROOM, len: 0 }
    }

    fn set(&mut self, start: u8, len: usize) {
        (self.start, self.len) = (start, len as u16);
    }

    #[inline]
    fn packet(&self) -> &[u8] {
        &self.bytes.0[usize::from(self.start)..][..usize::from(self.len)]
    }

    #[inline]
    fn packet_mut(&mut self) -> &mut [u8] {
        &mut self.bytes.0[usize::from(self.start)..][..usize::from(self.len)]
    }
}

/// A backend whose packets come from [`MemoryIo::inject`] and go to [`MemoryIo::take_sent`].
#[derive(Debug)]
pub struct MemoryIo {
    arriving: VecDeque<Received<Frame>>,
    sent: VecDeque<(InterfaceId, Frame)>,
    free: Vec<Frame>,
    /// Frames that this backend made; frames of other workers may come and go.
    made: usize,
    transmit_room: usize,
    receive_room: usize,
    /// Packets for which the receive ring had no room.
    overflows: u64,
    waker: Waker,
}

impl MemoryIo {
    /// A backend with `frames` frames.
    pub fn new(frames: usize) -> std::io::Result<Self> {
        Ok(Self {
            arriving: VecDeque::new(),
            sent: VecDeque::new(),
            free: (0..frames).map(|_| Frame::new()).collect(),
            made: frames,
            transmit_room: usize::MAX,
            receive_room: usize::MAX,
            overflows: 0,
            waker: Waker::new()?,
        })
    }

    /// Lets at most `room` frames wait in the transmit ring.
    pub fn limit_transmit(&mut self, room: usize) {
        self.transmit_room = room;
    }

    /// Lets at most `room` packets wait in the receive ring.
    pub fn limit_receive(&mut self, room: usize) {
        self.receive_room = room;
    }

    /// Makes a packet arrive by `interface`; false if the receive ring has no room, no frame is free or it is too
    /// long.
    pub fn inject(&mut self, interface: InterfaceId, packet: &[u8]) -> bool {
        if self.arriving.len() >= self.receive_room {
            self.overflows += 1;
            return false;
        }
        if packet.len() > FRAME_SIZE {
            return false;
        }
        let Some(mut frame) = self.free.pop() else { return false };
        frame.set(HEADROOM, packet.len());
        frame.packet_mut().copy_from_slice(packet);
        self.arriving.push_back(Received { frame, interface });
        true
    }

    /// Gives a free frame to `other`, if it has none and this one has several: handed over, frames stay where they went.
    #[cfg(test)]
    pub(crate) fn lend(&mut self, other: &mut Self) {
        if other.free.is_empty() && self.free.len() > 1 {
            other.free.extend(self.free.pop());
        }
    }

    /// The next packet that was sent, and by which interface.
    pub fn take_sent(&mut self) -> Option<(InterfaceId, Vec<u8>)> {
        let (interface, frame) = self.sent.pop_front()?;
        let packet = frame.packet().to_vec();
        self.free.push(frame);
        Some((interface, packet))
    }

    /// Takes back every frame that was sent, unread; returns how many.
    pub fn recycle(&mut self) -> usize {
        let count = self.sent.len();
        self.free.extend(self.sent.drain(..).map(|(_, frame)| frame));
        count
    }

    /// Frames here now, and frames made here: equal sums over all workers when none is in flight or lost.
    pub fn frames(&self) -> (usize, usize) {
        (self.arriving.len() + self.sent.len() + self.free.len(), self.made)
    }
}

impl PacketIo for MemoryIo {
    type Frame = Frame;

    #[inline]
    fn receive(&mut self, room: usize, into: &mut Vec<Received<Frame>>) -> usize {
        let count = room.min(self.arriving.len());
        into.extend(self.arriving.drain(..count));
        count
    }

    #[inline]
    fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        frame.packet()
    }

    #[inline]
    fn bytes_mut<'a>(&'a mut self, frame: &'a mut Frame) -> &'a mut [u8] {
        frame.packet_mut()
    }

    #[inline]
    fn resize(&mut self, frame: &mut Frame, len: usize) -> bool {
        let fits = usize::from(frame.start) + len <= usize::from(HEADROOM) + FRAME_SIZE;
        if fits {
            frame.len = len as u16;
        }
        fits
    }

    #[inline]
    fn prepend<const N: usize>(&mut self, frame: &mut Frame, header: &[u8; N]) -> bool {
        let start = usize::from(frame.start).checked_sub(N);
        if let Some(start) = start {
            frame.set(start as u8, usize::from(frame.len) + N);
            if let Some(room) = frame.bytes.0[start..].first_chunk_mut() {
                *room = *header;
            }
        }
        start.is_some()
    }

    #[inline]
    fn strip(&mut self, frame: &mut Frame, len: usize) -> bool {
        let start = u8::try_from(usize::from(frame.start) + len)
            .ok()
            .filter(|_| len <= usize::from(frame.len));
        if let Some(start) = start {
            frame.set(start, usize::from(frame.len) - len);
        }
        start.is_some()
    }

    fn allocate(&mut self) -> Option<Frame> {
        let mut frame = self.free.pop()?;
        frame.set(HEADROOM, 0);
        Some(frame)
    }

    fn release(&mut self, frame: Frame) {
        self.free.push(frame);
    }

    #[inline]
    fn transmit(&mut self, interface: InterfaceId, frame: Frame) -> bool {
        if self.sent.len() >= self.transmit_room {
            self.free.push(frame);
            return false;
        }
        self.sent.push_back((interface, frame));
        true
    }

    fn flush(&mut self) {}

    fn wait(&mut self, _timeout: Duration) {}

    fn waker(&self) -> &Waker {
        &self.waker
    }

    fn stats(&self) -> IoStats {
        IoStats {
            frames_free: self.free.len() as u64,
            receive_ring_full: self.overflows,
            ..IoStats::default()
        }
    }
}
