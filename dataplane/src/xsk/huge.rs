//! Large tables in huge pages: packets find their sessions at random places, and an address in a page of 4 KiB
//! costs a walk through the page tables nearly each time.

use std::fs;
use std::io;
use std::ops::Range;
use std::ptr;

use nix::libc;

const ENABLED: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// Asks the kernel to back the addresses in `range` with transparent huge pages, as they are touched.
/// Nothing but the speed changes, also if the kernel gives none.
///
/// # Errors
/// What madvise(2) says: `EINVAL` from a kernel without transparent huge pages.
pub fn ask_for_huge_pages(range: Range<usize>) -> io::Result<()> {
    const PAGE: usize = 4096;
    let start = range.start.next_multiple_of(PAGE);
    let Some(len) = range.end.checked_sub(start).filter(|&len| len >= PAGE) else { return Ok(()) };
    let start = ptr::with_exposed_provenance_mut(start);
    // SAFETY: MADV_HUGEPAGE changes neither contents nor rights of any page, whoever owns it; a range that is not
    // mapped is refused with ENOMEM.
    let status = unsafe { libc::madvise(start, len, libc::MADV_HUGEPAGE) };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// What this kernel says of transparent huge pages: `always`, `madvise` or `never`; `None` if it has none.
pub fn huge_pages() -> Option<String> {
    chosen(&fs::read_to_string(ENABLED).ok()?).map(str::to_owned)
}

/// The word in brackets.
fn chosen(words: &str) -> Option<&str> {
    words.split_once('[')?.1.split_once(']').map(|(word, _)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_choice_is_in_brackets() {
        assert_eq!(chosen("always [madvise] never\n"), Some("madvise"));
        assert_eq!(chosen("always madvise never"), None);
    }

    #[test]
    fn contents_stay_and_what_is_too_small_is_left_alone() {
        let mut block = vec![7u8; 8 << 20];
        let start = block.as_ptr().expose_provenance();
        ask_for_huge_pages(start..start + block.len()).unwrap();
        ask_for_huge_pages(start..start + 10).unwrap();
        assert!(block.iter().all(|&byte| byte == 7));
        block[5] = 8;
        assert_eq!(block[5], 8);
    }

    #[test]
    fn a_range_that_is_not_mapped_is_refused() {
        assert!(ask_for_huge_pages(4096..4096 * 4).is_err());
    }
}
