//! Asking for a line of memory before it is needed.

/// Asks for the line where `bytes` begin, to be written. A line that another core has written comes over once, and
/// not once to be read and once more to be written.
#[inline]
pub(crate) fn fetch_to_write(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    // SAFETY: a hint, which changes no memory, register or flag, whatever the address; processors that do not know it
    // take it for no operation.
    unsafe {
        std::arch::asm!(
            "prefetchw [{}]",
            in(reg) bytes.as_ptr(),
            options(nostack, preserves_flags, readonly)
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    std::hint::black_box(bytes.first().copied());
}
