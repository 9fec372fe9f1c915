//! The products of the `gemm` crate: for `f64`, and where this project's kernels do not run.

use std::ops::Range;

use rayon::prelude::*;

use super::{Into, Real, Threads, View, ViewMut};
use crate::linalg::triangle;

/// [`matmul`](super::matmul) by the library, for comparison; the inner size must not be 0.
#[doc(hidden)]
pub fn product<T: Real>(c: ViewMut<'_, T>, into: Into, factor: T, a: View<'_, T>, b: View<'_, T>, threads: Threads) {
    assert_eq!((c.rows, c.columns, a.columns), (a.rows, b.columns, b.rows), "shape of the product");
    // SAFETY: `c` is borrowed mutably and was checked when it was made; the inner sizes are equal.
    unsafe { call(c.data.as_mut_ptr(), c.stride, into, factor, a, b, threads) };
}

/// Calls the product kernel.
///
/// # Safety
/// `c` must have room for `a.rows` rows, `stride` apart, that nobody else uses, and hold numbers if they are added
/// to; the inner sizes of `a` and `b` must be equal.
pub(super) unsafe fn call<T: Real>(
    c: *mut T,
    stride: usize,
    into: Into,
    factor: T,
    a: View<'_, T>,
    b: View<'_, T>,
    threads: Threads,
) {
    // SAFETY: `View::new` checked that every element addressed by (rows, columns, strides) lies inside its slice,
    // `t` only swaps the two axes; the rest is the caller's promise. T is f32 or f64, which `gemm` supports.
    unsafe {
        gemm::gemm(
            a.rows,
            b.columns,
            a.columns,
            c,
            1,
            stride as isize,
            into == Into::Add,
            a.data.as_ptr(),
            a.column_stride as isize,
            a.row_stride as isize,
            b.data.as_ptr(),
            b.column_stride as isize,
            b.row_stride as isize,
            T::of(1.0),
            factor,
            false,
            false,
            false,
            threads.gemm(),
        );
    }
}

/// Rows of a triangle that are computed together, and rows of the input that are summed in its type.
const GRAM_ROWS: usize = 128;
const GRAM_DEPTH: usize = 512;

/// [`add_gram`](super::add_gram) by the library: some rows of the triangle at a time, as a product that reaches to the
/// diagonal's last column.
#[doc(hidden)]
pub fn add_gram<T: Real>(triangle: &mut [f64], x: View<'_, T>, threads: Threads) {
    let n = x.columns;
    let mut strips = vec![];
    let mut rest = triangle;
    for first in (0..n).step_by(GRAM_ROWS) {
        let end = n.min(first + GRAM_ROWS);
        let (strip, below) = rest.split_at_mut(triangle::numbers(end) - triangle::numbers(first));
        strips.push((first..end, strip));
        rest = below;
    }
    let add = |(rows, strip): (Range<usize>, &mut [f64])| {
        let mut sums = vec![T::of(0.0); rows.len() * rows.end];
        for first in (0..x.rows).step_by(GRAM_DEPTH) {
            let depth = GRAM_DEPTH.min(x.rows - first);
            let part = |columns: Range<usize>| {
                let start = first * x.row_stride + columns.start * x.column_stride;
                View { data: &x.data[start..], rows: depth, columns: columns.len(), ..x }
            };
            let (left, right) = (part(rows.clone()), part(0..rows.end));
            let c = ViewMut::dense(&mut sums, rows.len(), rows.end);
            product(c, Into::Replace, T::of(1.0), left.t(), right, Threads::One);
            let mut strip = &mut *strip;
            for (row, sums) in rows.clone().zip(sums.chunks_exact(rows.end)) {
                let (own, below) = std::mem::take(&mut strip).split_at_mut(row + 1);
                own.iter_mut().zip(sums).for_each(|(sum, x)| *sum += x.wide());
                strip = below;
            }
        }
    };
    match threads {
        Threads::One => strips.into_iter().for_each(add),
        Threads::Pool => strips.into_par_iter().with_max_len(1).for_each(add),
    }
}
