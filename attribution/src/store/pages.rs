//! Pages of mapped files that were read and are not needed for a while.

use std::ops::Range;

use memmap2::Mmap;

/// Lets the process forget the pages that hold these bytes of a mapped file, so that what is resident does not grow
/// with the file: the next access finds them in the file again, or in the system's cache of it. Pages that reach out
/// of the range go too. Where the system has no such call, nothing happens.
pub fn forget_pages(map: &Mmap, bytes: Range<usize>) {
    let bytes = bytes.start.min(map.len())..bytes.end.min(map.len());
    if bytes.is_empty() {
        return;
    }
    #[cfg(unix)]
    forget(map, bytes);
}

#[cfg(unix)]
#[allow(unsafe_code)] // advice that drops pages is unsafe for maps that are written to; these are not
fn forget(map: &Mmap, bytes: Range<usize>) {
    // SAFETY: the map is read-only and of a file: its pages hold nothing that the file does not, so an access after
    // this one, also a concurrent one, reads the same bytes.
    let advised = unsafe { map.unchecked_advise_range(memmap2::UncheckedAdvice::DontNeed, bytes.start, bytes.len()) };
    // a system that refuses keeps the pages, which costs memory and nothing else
    advised.unwrap_or(());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(unsafe_code)]
    fn forgotten_pages_hold_the_same_bytes_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let bytes: Vec<u8> = (0..100_000u32).map(|i| (i % 251) as u8).collect();
        std::fs::write(&path, &bytes).unwrap();
        // SAFETY: nobody changes the file.
        let map = unsafe { Mmap::map(&std::fs::File::open(&path).unwrap()) }.unwrap();
        assert_eq!(map[..], bytes[..]);
        for range in [0..100_000, 5_000..5_001, 99_999..300_000, 70_000..70_000] {
            forget_pages(&map, range);
            assert_eq!(map[..], bytes[..]);
        }
    }
}
