//! Who may touch which bytes of the packet memory?
//!
//! All frames live in one UMEM, and a [`Frame`] token stands for one of them. Reading and writing its
//! bytes is safe because:
//!
//! - a token is made only from a descriptor that has just left the receive ring or a free list, both of
//!   which the holder of the `&mut` worker owns, so there is one token per frame at most;
//! - it can't be cloned, and the kernel gets the frame (fill ring, transmit ring) only when the token is
//!   given up by value, so no reference into it can be alive then;
//! - slices into it borrow the token, exclusively if they are for writing;
//! - its packet lies in its frame, wherever that begins: it moves within it ([`Memory::prepend`], [`Memory::strip`]);
//! - it carries the number of its UMEM, which every access compares (a token outlives its worker's
//!   borrow, and a process may open several UMEMs); the slice also borrows the worker, which keeps the
//!   memory mapped.
//!
//! Debug builds keep a ledger of where each frame is, and stop at the first one that is in two places.

mod pool;
mod sync {
    pub(super) use crossbeam::queue::ArrayQueue;
    pub(super) use std::sync::atomic::{AtomicU8, Ordering};
}

use std::ptr::NonNull;
use std::slice;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::xdp_desc;
use xsk_rs::{FrameDesc, Umem};

pub(super) use self::pool::Place;
use self::pool::{Ledger, Pool};
use super::io::XskIo;

/// Frames that move between a worker and the common pool at once.
pub(super) const BATCH: usize = 64;

/// The token of one frame. Holding it is holding the bytes.
#[must_use = "a frame that is dropped without release is lost to its pool"]
#[derive(Debug)]
pub struct Frame {
    /// The kernel's name for it, which says where the packet began when it came.
    desc: FrameDesc,
    umem: u32,
    /// Where in the frame the packet begins now.
    start: u16,
    len: u16,
}

/// A packet that was given up for transmission.
#[derive(Clone, Copy)]
pub(super) struct Outgoing {
    /// Its frame.
    pub(super) frame: FrameDesc,
    /// The packet.
    pub(super) packet: xdp_desc,
}

/// The UMEM, and the pool that all workers have in common.
pub(super) struct Memory {
    /// Keeps the memory mapped.
    _umem: Umem,
    /// The first of its bytes.
    base: NonNull<u8>,
    id: u32,
    /// A power of two, at most 4,096.
    frame_size: usize,
    frames: usize,
    pool: Pool<FrameDesc, BATCH>,
    /// Empty in release builds.
    ledger: Ledger,
}

// SAFETY: `base` is the start of the UMEM, which may be used by any thread; who may touch which bytes is said above.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

/// Where a packet begins that natgate writes itself: there is as much room before it as the kernel keeps
/// (`XDP_PACKET_HEADROOM`).
const HEADROOM: u16 = 256;

impl Memory {
    pub(super) fn new(umem: Umem, frames: usize, frame_size: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        assert!(frame_size.is_power_of_two() && frame_size <= 4096, "frames of {frame_size} bytes");
        let mut first = FrameDesc::default();
        // SAFETY: no token was made yet, and no ring has a frame. The default descriptor is that of address 0, where
        // the one mapping begins in which all frames lie; only its address is kept.
        let mut data = unsafe { umem.data_mut(&mut first) };
        let base = NonNull::from(data.contents_mut()).cast();
        let ledger = if cfg!(debug_assertions) { frames } else { 0 };
        Self {
            _umem: umem,
            base,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            frame_size,
            frames,
            pool: Pool::of(frames),
            ledger: Ledger::of(ledger),
        }
    }

    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    pub(super) fn pooled(&self) -> usize {
        self.pool.frames()
    }

    /// Debug builds: the frame was at `from`, and is at `to` from now on.
    pub(super) fn moved(&self, desc: &FrameDesc, from: Place, to: Place) {
        if cfg!(debug_assertions) {
            self.ledger.moved(desc.addr() / self.frame_size, from, to);
        }
    }

    /// The descriptor of a packet that has arrived becomes a token.
    pub(super) fn receive(&self, desc: FrameDesc) -> Frame {
        self.moved(&desc, Place::Receiving, Place::Hand);
        let start = desc.addr() & (self.frame_size - 1);
        // The kernel writes no further than the frame's end; and the bytes of others are not read even if it says so.
        let len = desc.lengths().data().min(self.frame_size - start);
        Frame { desc, umem: self.id, start: start as u16, len: len as u16 }
    }

    /// The descriptor of a free frame becomes a token, without packet.
    pub(super) fn take(&self, desc: FrameDesc) -> Frame {
        self.moved(&desc, Place::Free, Place::Hand);
        Frame { desc, umem: self.id, start: HEADROOM, len: 0 }
    }

    /// The token becomes a descriptor of a free frame.
    #[expect(clippy::needless_pass_by_value, reason = "the token ends here")]
    pub(super) fn take_back(&self, frame: Frame) -> FrameDesc {
        self.check(&frame);
        self.moved(&frame.desc, Place::Hand, Place::Free);
        frame.desc
    }

    /// The token is given up, and its packet goes to `to`.
    #[expect(clippy::needless_pass_by_value, reason = "as above")]
    pub(super) fn give_up(&self, frame: Frame, to: Place) -> Outgoing {
        self.check(&frame);
        self.moved(&frame.desc, Place::Hand, to);
        let (addr, len) = (self.offset(&frame) as u64, frame.len.into());
        Outgoing { frame: frame.desc, packet: xdp_desc { addr, len, options: 0 } }
    }

    fn start(&self, frame: &Frame) -> *mut u8 {
        self.base.as_ptr().wrapping_add(self.offset(frame))
    }

    /// Where the packet begins, from the start of the memory.
    fn offset(&self, frame: &Frame) -> usize {
        (frame.desc.addr() & !(self.frame_size - 1)) + usize::from(frame.start)
    }

    /// Takes frames from the pool if `free` has fewer than `wanted`.
    pub(super) fn top_up(&self, free: &mut Vec<FrameDesc>, wanted: usize) {
        self.pool.top_up(free, wanted, |desc, from, to| self.moved(desc, from, to));
    }

    /// Gives frames beyond `most` to the pool.
    pub(super) fn give_surplus(&self, free: &mut Vec<FrameDesc>, most: usize) {
        self.pool.give_surplus(free, most, |desc, from, to| self.moved(desc, from, to));
    }

    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.check(frame);
        // SAFETY: the token is of this UMEM (checked), its packet lies in its frame, and it excludes all other access
        // but reading through other borrows of itself (see the module's text).
        unsafe { slice::from_raw_parts(self.start(frame), frame.len.into()) }
    }

    #[allow(
        clippy::mut_from_ref,
        reason = "the bytes are the token's, which is borrowed exclusively"
    )]
    pub(super) fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.check(frame);
        // SAFETY: as above, and the token is borrowed exclusively.
        unsafe { slice::from_raw_parts_mut(self.start(frame), frame.len.into()) }
    }

    /// False, and nothing changes, if the frame has no room for `length` bytes.
    pub(super) fn resize(&self, frame: &mut Frame, length: usize) -> bool {
        let fits = length <= self.frame_size - usize::from(frame.start);
        if fits {
            frame.len = length as u16;
        }
        fits
    }

    /// Puts `header` before the packet. False, and nothing changes, if the frame has no room for it.
    pub(super) fn prepend(&self, frame: &mut Frame, header: &[u8]) -> bool {
        let fits = header.len() <= usize::from(frame.start);
        if fits {
            frame.start -= header.len() as u16;
            frame.len += header.len() as u16;
            self.bytes_mut(frame)[..header.len()].copy_from_slice(header);
        }
        fits
    }

    /// Takes the first `length` bytes away from the packet. False, and nothing changes, if it has fewer.
    #[allow(clippy::unused_self, reason = "as its kin")]
    pub(super) fn strip(&self, frame: &mut Frame, length: usize) -> bool {
        let fits = length <= usize::from(frame.len);
        if fits {
            frame.start += length as u16;
            frame.len -= length as u16;
        }
        fits
    }

    fn check(&self, frame: &Frame) {
        assert!(frame.umem == self.id, "a frame of another packet memory");
    }
}

/// Where all frames of a UMEM are, at a moment when no worker runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audit {
    /// Frames of the UMEM.
    pub total: usize,
    /// In free lists of workers.
    pub free: usize,
    /// In the common pool.
    pub pooled: usize,
    /// With the kernel for reception: fill rings, receive rings, between.
    pub receiving: usize,
    /// Queued for transmission, or not yet completed.
    pub transmitting: usize,
    /// On their way to the worker that transmits for another.
    pub relayed: usize,
    /// Tokens in hand: given out and not taken back.
    pub in_hand: usize,
}

impl Audit {
    /// Counts the frames of all `workers` of one [`open`](super::open).
    pub fn of(workers: &[XskIo]) -> Self {
        let mut audit = Self::default();
        let mut in_hand = 0;
        for worker in workers {
            in_hand += worker.add_to(&mut audit);
        }
        audit.in_hand = usize::try_from(in_hand).unwrap_or(usize::MAX);
        if let Some(memory) = workers.first().map(XskIo::memory) {
            audit.total = memory.frames();
            audit.pooled = memory.pooled();
            if cfg!(debug_assertions) {
                assert_eq!(audit.free, memory.ledger.count(Place::Free), "free lists");
                assert_eq!(audit.pooled, memory.ledger.count(Place::Pool), "common pool");
                assert_eq!(audit.receiving, memory.ledger.count(Place::Receiving), "reception");
                assert_eq!(audit.in_hand, memory.ledger.count(Place::Hand), "tokens");
            }
        }
        audit
    }

    /// Is every frame in exactly one place?
    pub fn is_conserved(&self) -> bool {
        let places = [self.free, self.pooled, self.receiving, self.transmitting, self.relayed];
        places.iter().fold(self.in_hand, |sum, place| sum.saturating_add(*place)) == self.total
    }
}
