//! How do frames get into a transmit ring that begin elsewhere than they were received?
//!
//! xsk-rs makes the ring, but its descriptors can only be copied. So the ring is written where xsk-rs has mapped it, and this
//! is its one producer; xsk-rs is still asked whether the kernel wants to be woken. A second mapping would do on newer
//! kernels, but before Linux 6.4 none can be made once a socket is bound (`EBUSY`).

use std::io;
use std::os::fd::RawFd;
use std::os::unix::fs::MetadataExt;
use std::ptr;
use std::sync::atomic::{AtomicU32, Ordering};

use nix::libc::{self, xdp_desc, xdp_mmap_offsets};

/// The producer's side of the transmit ring of a socket.
pub(super) struct TransmitRing {
    producer: *const AtomicU32,
    consumer: *const AtomicU32,
    descriptors: *mut xdp_desc,
    /// Entries, a power of two, less one.
    mask: u32,
    /// Descriptors ever shown to the kernel, modulo 2^32.
    produced: u32,
}

// SAFETY: nobody else writes to the ring, which may be used by any thread; the kernel's end is met through atomics.
unsafe impl Send for TransmitRing {}

impl TransmitRing {
    /// The transmit ring of `socket`, which has `entries`, a power of two.
    ///
    /// # Safety
    /// xsk-rs has mapped it, and keeps it mapped for longer than this value lives.
    ///
    /// # Errors
    /// What the kernel says; or the ring is mapped nowhere.
    pub(super) unsafe fn find(socket: RawFd, entries: u32) -> io::Result<Self> {
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
        let map: *mut libc::c_void = ptr::with_exposed_provenance_mut(mapped(socket, len)?);
        // Where the kernel has laid these out in the mapping, aligned, before and as far as `len`.
        let producer = map.wrapping_byte_add(producer).cast_const().cast();
        let consumer = map.wrapping_byte_add(consumer).cast_const().cast();
        let descriptors = map.wrapping_byte_add(descriptors).cast();
        // SAFETY: there, as long as the mapping is, which lives longer than the ring.
        Ok(unsafe { Self::over(producer, consumer, descriptors, entries) })
    }

    /// The ring of `entries` descriptors, a power of two, whose parts lie there.
    ///
    /// # Safety
    /// They are valid for longer than this value lives, and only the other end of the ring touches them, by its rules.
    unsafe fn over(
        producer: *const AtomicU32,
        consumer: *const AtomicU32,
        descriptors: *mut xdp_desc,
        entries: u32,
    ) -> Self {
        let mut ring = Self { producer, consumer, descriptors, mask: entries - 1, produced: 0 };
        ring.produced = ring.producer().load(Ordering::Relaxed);
        ring
    }

    fn producer(&self) -> &AtomicU32 {
        // SAFETY: in the mapping, which lives longer than `self`; the kernel accesses it atomically.
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

/// Where the transmit ring of `socket` is mapped, with at least `len` bytes.
fn mapped(socket: RawFd, len: usize) -> io::Result<usize> {
    let inode = std::fs::metadata(format!("/proc/self/fd/{socket}"))?.ino();
    let maps = std::fs::read_to_string("/proc/self/maps")?;
    let found = maps.lines().filter_map(|line| is_ring(line, inode)).find(|(_, size)| *size >= len);
    found.map(|(start, _)| start).ok_or_else(|| io::Error::other("it is not in /proc/self/maps"))
}

/// Start and size of a mapping, by a line of `/proc/self/maps`, if that is the transmit ring of the socket `inode`.
fn is_ring(line: &str, inode: u64) -> Option<(usize, usize)> {
    let mut words = line.split_whitespace();
    let (start, end) = words.next()?.split_once('-')?;
    let (_rights, offset, _device) = (words.next()?, words.next()?, words.next()?);
    let is_transmit = i64::from_str_radix(offset, 16) == Ok(libc::XDP_PGOFF_TX_RING);
    let is_ours = words.next()?.parse() == Ok(inode);
    let number = |text| usize::from_str_radix(text, 16).ok();
    let (start, end) = (number(start)?, number(end)?);
    (is_transmit && is_ours).then_some((start, end.checked_sub(start)?))
}

#[cfg(test)]
mod tests {
    use std::cell::UnsafeCell;

    use super::*;

    /// A ring as the kernel lays it out, in memory of the test.
    struct Laid {
        producer: AtomicU32,
        consumer: AtomicU32,
        descriptors: [UnsafeCell<xdp_desc>; 4],
    }

    // SAFETY: who may touch a descriptor, the two indices say.
    unsafe impl Sync for Laid {}

    impl Laid {
        /// The kernel's end: waits for a descriptor and takes it.
        fn consume(&self) -> u64 {
            let read = self.consumer.load(Ordering::Relaxed);
            while self.producer.load(Ordering::Acquire) == read {
                std::thread::yield_now();
            }
            // SAFETY: the producer has written it and will not touch it before `consumer` says that it was read.
            let frame = unsafe { *self.descriptors[read as usize % 4].get() };
            self.consumer.store(read.wrapping_add(1), Ordering::Release);
            frame.addr
        }
    }

    /// Both ends at once. ThreadSanitizer (`tools/sanitize thread`) sees whether their order is made by the indices alone.
    #[test]
    fn the_kernel_reads_what_was_written_before_it_was_shown() {
        const FRAMES: u64 = 1000;
        let first = u32::MAX - 3; // the indices pass their end
        let descriptors = std::array::from_fn(|_| {
            UnsafeCell::new(xdp_desc { addr: u64::MAX, len: 0, options: 0 })
        });
        let (producer, consumer) = (AtomicU32::new(first), AtomicU32::new(first));
        let laid = Laid { producer, consumer, descriptors };
        // SAFETY: `laid` outlives the ring; the kernel's part is the thread's.
        let mut ring = unsafe {
            let descriptors = laid.descriptors.as_ptr().cast_mut().cast();
            TransmitRing::over(&raw const laid.producer, &raw const laid.consumer, descriptors, 4)
        };
        std::thread::scope(|scope| {
            let kernel = scope.spawn(|| (0..FRAMES).map(|_| laid.consume()).collect::<Vec<_>>());
            let mut next = 0;
            while next < FRAMES {
                let room = 4 - ring.waiting() as u64;
                let frames: Vec<_> = (next..FRAMES.min(next + room))
                    .map(|addr| xdp_desc { addr, len: 60, options: 0 })
                    .collect();
                // SAFETY: there are no frames, only their numbers.
                unsafe { ring.produce(&frames) };
                next += frames.len() as u64;
                std::thread::yield_now();
            }
            assert!(kernel.join().unwrap().into_iter().eq(0..FRAMES));
        });
        assert_eq!(ring.waiting(), 0);
    }

    #[test]
    fn the_ring_is_known_by_socket_and_offset() {
        let line = "7f0000002000-7f0000007000 rw-s 80000000 00:08 4711                       socket:[4711]";
        assert_eq!(is_ring(line, 4711), Some((0x7f00_0000_2000, 0x5000)));
        assert_eq!(is_ring(line, 4712), None);
        assert_eq!(is_ring(&line.replace("80000000", "00000000"), 4711), None, "the receive ring");
        assert_eq!(is_ring("", 4711), None);
    }
}
