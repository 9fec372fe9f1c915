//! Ranges cut into parts that are as equal as possible.

use std::ops::Range;

/// One of so many contiguous parts of a range, none longer by more than one than another.
pub(crate) fn part(whole: &Range<usize>, parts: usize, index: usize) -> Range<usize> {
    let at = |index: usize| whole.start + index * whole.len() / parts;
    at(index)..at(index + 1)
}
