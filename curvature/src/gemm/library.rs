//! The products of the `gemm` and `faer` crates: for `f64`, and where this project's kernels do not run.

use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef};

use super::{Into, Real, Threads, View, ViewMut};

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

/// [`add_gram`](super::add_gram) by the library.
#[doc(hidden)]
pub fn gram<T: Real>(c: ViewMut<'_, T>, x: View<'_, T>, threads: Threads) {
    let n = x.columns;
    // SAFETY: both views were checked against their slices when they were made, and `c` is borrowed mutably.
    let (x, c) = unsafe {
        (
            MatRef::from_raw_parts(x.data.as_ptr(), x.rows, n, x.row_stride as isize, x.column_stride as isize),
            MatMut::from_raw_parts_mut(c.data.as_mut_ptr(), n, n, c.stride as isize, 1),
        )
    };
    triangular::matmul(
        c,
        BlockStructure::TriangularLower,
        Accum::Add,
        x.transpose(),
        BlockStructure::Rectangular,
        x,
        BlockStructure::Rectangular,
        T::of(1.0),
        threads.faer(),
    );
}
