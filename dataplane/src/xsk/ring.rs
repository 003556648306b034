//! How do frames get into a transmit ring that begin elsewhere than they were received?
//!
//! xsk-rs makes the ring, but its descriptors can only be copied. So the ring is mapped a second time, and this is its
//! one producer; xsk-rs is still asked whether the kernel wants to be woken.

use std::io;
use std::os::fd::RawFd;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::{self, xdp_desc, xdp_mmap_offsets};

/// The producer's side of the transmit ring of a socket.
pub(super) struct TransmitRing {
    map: *mut libc::c_void,
    len: usize,
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    descriptors: *mut xdp_desc,
    /// Entries, a power of two, less one.
    mask: u32,
    /// Descriptors ever shown to the kernel, modulo 2^32.
    produced: u32,
}

// SAFETY: the mapping belongs to this value alone, and may be used and unmapped by any thread; the kernel's end is
// met through atomics.
unsafe impl Send for TransmitRing {}

impl TransmitRing {
    /// Maps the transmit ring of `socket`, which has `entries`, a power of two.
    ///
    /// # Errors
    /// What the kernel says.
    pub(super) fn map(socket: RawFd, entries: u32) -> io::Result<Self> {
        let mut offsets = std::mem::MaybeUninit::<xdp_mmap_offsets>::zeroed();
        let mut size = size_of_val(&offsets) as libc::socklen_t;
        let option = libc::XDP_MMAP_OFFSETS;
        let value = offsets.as_mut_ptr().cast();
        // SAFETY: the option's value is this struct, and `size` is its size.
        let code = unsafe { libc::getsockopt(socket, libc::SOL_XDP, option, value, &raw mut size) };
        if code != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: zeroes, or what the kernel wrote; both are numbers.
        let offsets = unsafe { offsets.assume_init() }.tx;
        let at = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let (producer, consumer) = (at(offsets.producer)?, at(offsets.consumer)?);
        let descriptors = at(offsets.desc)?;
        let len = descriptors + entries as usize * size_of::<xdp_desc>();
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED);
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let map = unsafe {
            let ring = libc::XDP_PGOFF_TX_RING;
            libc::mmap(ptr::null_mut(), len, access, flags | libc::MAP_POPULATE, socket, ring)
        };
        if map == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        // Where the kernel has laid these out in the mapping, aligned, before and as far as `len`.
        let producer = map.wrapping_byte_add(producer).cast_const().cast();
        let consumer = map.wrapping_byte_add(consumer).cast_const().cast();
        let descriptors = map.wrapping_byte_add(descriptors).cast();
        let mut ring =
            Self { map, len, producer, consumer, descriptors, mask: entries - 1, produced: 0 };
        ring.produced = ring.producer().load(Ordering::Relaxed);
        Ok(ring)
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, which lives as long as `self`; the kernel accesses it atomically.
        unsafe { &*self.producer }
    }

    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as above.
        unsafe { &*self.consumer }
    }

    /// Shows `frames` to the kernel, for which the ring must have room.
    ///
    /// # Safety
    /// The frames are of the socket's UMEM, and nothing touches them until the completion ring returns them.
    pub(super) unsafe fn produce(&mut self, frames: &[xdp_desc]) {
        for frame in frames {
            let index = (self.produced & self.mask) as usize;
            // SAFETY: below the number of entries, so in the mapping. The kernel does not read it before `producer`
            // says so, and has read what was there before, since there is room.
            unsafe { self.descriptors.wrapping_add(index).write(*frame) };
            self.produced = self.produced.wrapping_add(1);
        }
        self.producer().store(self.produced, Ordering::Release);
    }

    /// Descriptors that the kernel has not looked at.
    pub(super) fn waiting(&self) -> usize {
        self.produced.wrapping_sub(self.consumer().load(Ordering::Acquire)) as usize
    }
}

impl Drop for TransmitRing {
    fn drop(&mut self) {
        // SAFETY: mapped by `map`, with this length; nothing refers to it any more.
        unsafe { libc::munmap(self.map, self.len) };
    }
}
