//! How a product is divided among threads: blocks of the result, each thread taking the next one when it is done.

use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use rayon::prelude::*;

use super::{TILE_COLUMNS, TILE_ROWS, Threads};

/// Sides of a block that is not divided further: packing both sides would cost more than it gains.
const LEAST: usize = 64;
const SMALL: usize = 128;

/// Blocks for each thread, where they do not get small: so that one that is disturbed holds up nobody.
const EACH: usize = 4;

impl Threads {
    fn count(self) -> usize {
        if self == Self::One { 1 } else { rayon::current_num_threads() }
    }
}

/// Calls `compute` for blocks of rows and columns that cover `m × n`.
pub(super) fn blocks(m: usize, n: usize, threads: Threads, compute: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let threads = threads.count();
    if threads == 1 {
        return compute(0..m, 0..n);
    }
    let (mut rows, mut columns) = (m, n);
    let count = |rows, columns| m.div_ceil(rows) * n.div_ceil(columns);
    while count(rows, columns) < EACH * threads && rows.max(columns) > SMALL
        || count(rows, columns) < threads && rows.max(columns) > LEAST
    {
        if rows > columns { rows = half(rows, TILE_ROWS) } else { columns = half(columns, TILE_COLUMNS) }
    }
    let across = n.div_ceil(columns);
    each(count(rows, columns), threads, |index| {
        let (row, column) = (index / across * rows, index % across * columns);
        compute(row..m.min(row + rows), column..n.min(column + columns));
    });
}

/// Calls `compute` for blocks of rows and columns that cover the lower triangle of `n × n`.
pub(super) fn triangle(n: usize, threads: Threads, compute: impl Fn(Range<usize>, Range<usize>) + Sync) {
    let threads = threads.count();
    if threads == 1 {
        return compute(0..n, 0..n);
    }
    let mut side = n;
    let count = |side| n.div_ceil(side) * (n.div_ceil(side) + 1) / 2;
    while count(side) < EACH * threads && side > 2 * SMALL || count(side) <= threads && side > LEAST {
        side = half(side, TILE_COLUMNS);
    }
    let sides = n.div_ceil(side);
    // squares first: those on the diagonal are half the work and fill the gaps
    let squares = (0..sides).flat_map(|row| (0..row).map(move |column| (row, column)));
    let tasks: Vec<_> = squares.chain((0..sides).map(|place| (place, place))).collect();
    let range = |place: usize| place * side..n.min((place + 1) * side);
    each(tasks.len(), threads, |index| compute(range(tasks[index].0), range(tasks[index].1)));
}

/// Calls `compute` for strips of so many columns that cover `n`.
pub(super) fn strips(n: usize, columns: usize, threads: Threads, compute: impl Fn(Range<usize>) + Sync) {
    each(n.div_ceil(columns), threads.count(), |strip| compute(strip * columns..n.min((strip + 1) * columns)));
}

/// Half, rounded up to a multiple.
fn half(size: usize, of: usize) -> usize {
    size.div_ceil(2).next_multiple_of(of)
}

/// Threads take tasks in order.
fn each(tasks: usize, threads: usize, compute: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    (0..threads.min(tasks)).into_par_iter().with_max_len(1).for_each(|_| {
        loop {
            let task = next.fetch_add(1, Ordering::Relaxed);
            if task >= tasks {
                break;
            }
            compute(task);
        }
    });
}
