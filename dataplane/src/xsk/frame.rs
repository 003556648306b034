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
//! - it carries the number of its UMEM, which every access compares (a token outlives its worker's
//!   borrow, and a process may open several UMEMs); the slice also borrows the worker, which keeps the
//!   memory mapped.
//!
//! Debug builds keep a ledger of where each frame is, and stop at the first one that is in two places.

use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};

use crossbeam::queue::ArrayQueue;
use xsk_rs::{FrameDesc, Umem};

use super::io::XskIo;

/// Frames that move between a worker and the common pool at once.
pub(super) const BATCH: usize = 64;

/// The token of one frame. Holding it is holding the bytes.
#[must_use = "a frame that is dropped without release is lost to its pool"]
#[derive(Debug)]
pub struct Frame {
    desc: FrameDesc,
    umem: u32,
}

/// Where a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Place {
    Free,
    Pool,
    Receiving,
    Transmitting,
    Relay,
    Hand,
}

/// The UMEM, and the pool that all workers have in common.
pub(super) struct Memory {
    umem: Umem,
    id: u32,
    frame_size: usize,
    frames: usize,
    pool: ArrayQueue<[FrameDesc; BATCH]>,
    /// By frame, its [`Place`]; empty in release builds.
    ledger: Vec<AtomicU8>,
}

impl Memory {
    pub(super) fn new(umem: Umem, frames: usize, frame_size: usize) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let ledger = if cfg!(debug_assertions) { frames } else { 0 };
        Self {
            umem,
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            frame_size,
            frames,
            pool: ArrayQueue::new(frames / BATCH + 1),
            ledger: (0..ledger).map(|_| AtomicU8::new(Place::Free as u8)).collect(),
        }
    }

    pub(super) fn frames(&self) -> usize {
        self.frames
    }

    pub(super) fn pooled(&self) -> usize {
        self.pool.len() * BATCH
    }

    /// Debug builds: the frame was at `from`, and is at `to` from now on.
    pub(super) fn moved(&self, desc: &FrameDesc, from: Place, to: Place) {
        if cfg!(debug_assertions) {
            let index = desc.addr() / self.frame_size;
            let was = self.ledger[index].swap(to as u8, Ordering::Relaxed);
            assert_eq!(was, from as u8, "frame {index} was not at {from:?} on its way to {to:?}");
        }
    }

    /// The descriptor becomes a token; it was at `from`.
    pub(super) fn hand_out(&self, desc: FrameDesc, from: Place) -> Frame {
        self.moved(&desc, from, Place::Hand);
        Frame { desc, umem: self.id }
    }

    /// The token becomes a descriptor, which goes to `to`.
    #[expect(clippy::needless_pass_by_value, reason = "the token ends here")]
    pub(super) fn take_back(&self, frame: Frame, to: Place) -> FrameDesc {
        self.check(&frame);
        let Frame { desc, .. } = frame;
        self.moved(&desc, Place::Hand, to);
        desc
    }

    /// Takes frames from the pool if `free` has fewer than `wanted`.
    pub(super) fn top_up(&self, free: &mut Vec<FrameDesc>, wanted: usize) {
        while free.len() < wanted {
            let Some(batch) = self.pool.pop() else { return };
            for desc in &batch {
                self.moved(desc, Place::Pool, Place::Free);
            }
            free.extend_from_slice(&batch);
        }
    }

    /// Gives frames beyond `most` to the pool.
    pub(super) fn give_surplus(&self, free: &mut Vec<FrameDesc>, most: usize) {
        while free.len() >= most + BATCH {
            let Some(batch) = free.last_chunk::<BATCH>().copied() else { return };
            for desc in &batch {
                self.moved(desc, Place::Free, Place::Pool);
            }
            if self.pool.push(batch).is_err() {
                // Can't be: the pool has room for every frame there is.
                for desc in &batch {
                    self.moved(desc, Place::Pool, Place::Free);
                }
                return;
            }
            free.truncate(free.len() - BATCH);
        }
    }

    pub(super) fn bytes<'a>(&'a self, frame: &'a Frame) -> &'a [u8] {
        self.check(frame);
        // SAFETY: the token is of this UMEM (checked), and excludes all other access but reading
        // through other borrows of itself (see the module's text).
        let data = unsafe { self.umem.data(&frame.desc) };
        data.contents()
    }

    pub(super) fn bytes_mut<'a>(&'a self, frame: &'a mut Frame) -> &'a mut [u8] {
        self.check(frame);
        // SAFETY: as above, and the token is borrowed exclusively.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        let bytes = data.contents_mut();
        let (start, length) = (bytes.as_mut_ptr(), bytes.len());
        // SAFETY: the same slice, for as long as the exclusive borrow of the token lasts: the guard that
        // it came from holds nothing but references for that long, and is gone.
        unsafe { std::slice::from_raw_parts_mut(start, length) }
    }

    /// False, and nothing changes, if the frame has no room for `length` bytes.
    pub(super) fn resize(&self, frame: &mut Frame, length: usize) -> bool {
        self.check(frame);
        // SAFETY: as in `bytes_mut`.
        let mut data = unsafe { self.umem.data_mut(&mut frame.desc) };
        let mut cursor = data.cursor();
        let fits = length <= cursor.buf_len();
        if fits {
            cursor.set_pos(length);
        }
        fits
    }

    fn check(&self, frame: &Frame) {
        assert!(frame.umem == self.id, "a frame of another packet memory");
    }

    fn ledger_count(&self, places: &[Place]) -> usize {
        let at =
            |place: &AtomicU8| places.iter().any(|p| *p as u8 == place.load(Ordering::Relaxed));
        self.ledger.iter().filter(|place| at(place)).count()
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
                assert_eq!(audit.free, memory.ledger_count(&[Place::Free]), "free lists");
                assert_eq!(audit.pooled, memory.ledger_count(&[Place::Pool]), "common pool");
                assert_eq!(audit.receiving, memory.ledger_count(&[Place::Receiving]), "reception");
                assert_eq!(audit.in_hand, memory.ledger_count(&[Place::Hand]), "tokens");
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
