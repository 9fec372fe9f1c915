//! Dense products on borrowed slices: the one place where matrix products of this project are called.
//!
//! A [`View`] is a slice with rows, columns and strides, checked when it is made. [`matmul`] is the
//! general product, [`add_gram`] the symmetric rank-k update that covariances need (half the work).
#![allow(unsafe_code)] // the product kernels of `gemm` and `faer` take pointers

use candle_core::WithDType;
use faer::linalg::matmul::triangular::{self, BlockStructure};
use faer::{Accum, MatMut, MatRef, Par};
use rayon::prelude::*;

/// The floating-point types that products run in: `f32` and `f64`.
pub trait Real:
    WithDType + faer::traits::ComplexField + faer::traits::RealField + Default + std::iter::Sum<Self>
{
    /// Nearest value of this type.
    fn of(x: f64) -> Self;
    /// The value as `f64`.
    fn wide(self) -> f64;
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
}

impl Real for f64 {
    fn of(x: f64) -> Self {
        x
    }
    fn wide(self) -> f64 {
        self
    }
}

/// Whether a product may use the thread pool. Inside a task of the pool it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Threads {
    /// This thread alone.
    One,
    /// rayon's current pool.
    Pool,
}

impl Threads {
    fn gemm(self) -> gemm::Parallelism {
        match (self, rayon::current_num_threads()) {
            (Self::Pool, n) if n > 1 => gemm::Parallelism::Rayon(n),
            _ => gemm::Parallelism::None,
        }
    }

    /// The same choice for `faer`.
    pub(crate) fn faer(self) -> Par {
        match (self, rayon::current_num_threads()) {
            (Self::Pool, n) if n > 1 => Par::rayon(n),
            _ => Par::Seq,
        }
    }
}

/// A strided matrix in a slice: element `(r, c)` is `data[r · row_stride + c · column_stride]`.
#[derive(Debug, Clone, Copy)]
pub struct View<'a, T> {
    data: &'a [T],
    rows: usize,
    columns: usize,
    row_stride: usize,
    column_stride: usize,
}

impl<'a, T> View<'a, T> {
    /// Row-major `[rows, columns]` with rows `stride` apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data, rows, columns, row_stride: stride, column_stride: 1 }
    }

    /// Row-major and dense.
    pub fn dense(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(data, rows, columns, columns)
    }

    /// The transpose, without moving anything.
    pub fn t(self) -> Self {
        Self {
            rows: self.columns,
            columns: self.rows,
            row_stride: self.column_stride,
            column_stride: self.row_stride,
            ..self
        }
    }
}

/// The same as [`View`], to write to; always row-major.
#[derive(Debug)]
pub struct ViewMut<'a, T> {
    data: &'a mut [T],
    rows: usize,
    columns: usize,
    stride: usize,
}

impl<'a, T> ViewMut<'a, T> {
    /// Row-major `[rows, columns]` with rows `stride` apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a mut [T], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data, rows, columns, stride }
    }

    /// Row-major and dense.
    pub fn dense(data: &'a mut [T], rows: usize, columns: usize) -> Self {
        Self::new(data, rows, columns, columns)
    }
}

fn check(length: usize, rows: usize, columns: usize, stride: usize) {
    assert!(columns <= stride || rows <= 1, "rows of {columns} columns overlap at stride {stride}");
    if rows > 0 && columns > 0 {
        let end = (rows - 1).checked_mul(stride).and_then(|start| start.checked_add(columns));
        assert!(
            end.is_some_and(|end| end <= length),
            "{rows} x {columns} at stride {stride} does not fit {length} elements"
        );
    }
}

/// What happens to the destination of a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Into {
    /// `C = a b`; what `C` held does not matter.
    Replace,
    /// `C += a b`.
    Add,
}

/// `C = factor · a b` or `C += factor · a b`.
///
/// # Shapes
/// `a: [m, k]`, `b: [k, n]`, `c: [m, n]`.
/// # Panics
/// If the shapes do not fit.
pub fn matmul<T: Real>(c: ViewMut<'_, T>, into: Into, factor: T, a: View<'_, T>, b: View<'_, T>, threads: Threads) {
    assert_eq!(a.columns, b.rows, "inner sizes of the product");
    assert_eq!((c.rows, c.columns), (a.rows, b.columns), "shape of the product");
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 {
        return;
    }
    if k == 0 {
        if into == Into::Replace {
            for row in 0..m {
                c.data[row * c.stride..row * c.stride + n].fill(T::of(0.0));
            }
        }
        return;
    }
    // SAFETY: `ViewMut::new` checked that `c` has m rows inside its slice, and it is borrowed mutably, so it
    // overlaps neither input; the inner sizes are equal.
    unsafe { call(c.data.as_mut_ptr(), c.stride, into == Into::Add, factor, a, b, threads.gemm()) };
}

/// Fewest rows that [`rows_product`] gives a thread: enough that no thread's part is computed another way.
const PART_ROWS: usize = 128;

/// `a b` in new memory, each thread computing some rows and giving them to `finish` while they are in its cache.
///
/// How many threads there are changes no number: a row is computed alike in every part.
///
/// # Shapes
/// `a: [m, k]` row-major, `b: [k, n]`; the result is `[m, n]`, and `finish` gets whole rows of it.
/// # Panics
/// If the shapes do not fit.
pub fn rows_product<T: Real>(a: View<'_, T>, b: View<'_, T>, finish: impl Fn(&mut [T]) + Sync) -> Vec<T> {
    assert_eq!(a.columns, b.rows, "inner sizes of the product");
    let (m, n, k) = (a.rows, b.columns, a.columns);
    if m == 0 || n == 0 || k == 0 {
        let mut y = vec![T::of(0.0); m * n];
        finish(&mut y);
        return y;
    }
    let mut y: Vec<T> = Vec::with_capacity(m * n);
    let parts = (m / PART_ROWS).clamp(1, rayon::current_num_threads());
    let rows = m.div_ceil(parts);
    let whole = &mut y.spare_capacity_mut()[..m * n];
    whole.par_chunks_mut(rows * n).with_max_len(1).enumerate().for_each(|(part, y)| {
        let first = part * rows;
        let a = View { data: &a.data[first * a.row_stride..], rows: y.len() / n, ..a };
        // SAFETY: the views were checked when they were made, and this part of `a` begins `first` rows later;
        // `y` has `a.rows · n` places that nobody else writes. The product replaces: it reads none of them, and
        // with k > 0 it writes every one, so all are numbers when `finish` gets them.
        let y = unsafe {
            call(y.as_mut_ptr().cast(), n, false, T::of(1.0), a, b, gemm::Parallelism::None);
            std::slice::from_raw_parts_mut(y.as_mut_ptr().cast::<T>(), y.len())
        };
        finish(y);
    });
    // SAFETY: the parts cover the first m · n places, and each was written.
    unsafe { y.set_len(m * n) };
    y
}

/// Calls the product kernel.
///
/// # Safety
/// `c` must have room for `a.rows` rows, `stride` apart, that nobody else uses, and hold numbers if `add`; the inner
/// sizes of `a` and `b` must be equal.
unsafe fn call<T: Real>(
    c: *mut T,
    stride: usize,
    add: bool,
    factor: T,
    a: View<'_, T>,
    b: View<'_, T>,
    parallelism: gemm::Parallelism,
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
            add,
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
            parallelism,
        );
    }
}

/// Adds `xᵀ x` to the lower triangle of `c`; the upper triangle is left as it is.
///
/// # Shapes
/// `x: [rows, n]`, row-major and dense; `c: [n, n]` with rows `stride` apart.
/// # Panics
/// If `c` is not `[n, n]`.
pub fn add_gram<T: Real>(c: ViewMut<'_, T>, x: View<'_, T>, threads: Threads) {
    let n = x.columns;
    assert_eq!((c.rows, c.columns), (n, n), "shape of the Gram matrix");
    if n == 0 || x.rows == 0 {
        return;
    }
    // SAFETY: both views were checked against their slices when they were made, and `c` is borrowed
    // mutably.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers<T: Real>(n: usize, seed: u64) -> Vec<T> {
        (0..n as u64).map(|i| T::of(((i * 2_654_435_761 + seed * 97) % 1009) as f64 / 504.5 - 1.0)).collect()
    }

    fn check_matmul<T: Real>(m: usize, k: usize, n: usize, tolerance: f64) {
        // `a` is given as the transpose of a [k, m] matrix with a wider stride, `c` has a wider stride.
        let a: Vec<T> = numbers(k * (m + 3), 1);
        let b: Vec<T> = numbers(k * n, 2);
        let mut c: Vec<T> = numbers(m * (n + 2), 3);
        let before = c.clone();
        let (va, vb) = (View::new(&a, k, m, m + 3).t(), View::dense(&b, k, n));
        matmul(ViewMut::new(&mut c, m, n, n + 2), Into::Add, T::of(0.5), va, vb, Threads::Pool);
        for i in 0..m {
            for j in 0..n + 2 {
                let mut want = before[i * (n + 2) + j].wide();
                if j < n {
                    want += 0.5 * (0..k).map(|l| a[l * (m + 3) + i].wide() * b[l * n + j].wide()).sum::<f64>();
                }
                assert!((c[i * (n + 2) + j].wide() - want).abs() <= tolerance * k as f64, "[{i}, {j}]");
            }
        }
    }

    #[test]
    fn product_equals_its_definition_at_odd_shapes() {
        for (m, k, n) in [(1, 1, 1), (3, 5, 7), (17, 33, 65), (130, 67, 31)] {
            check_matmul::<f64>(m, k, n, 1e-15);
            check_matmul::<f32>(m, k, n, 1e-6);
        }
    }

    #[test]
    fn products_by_rows_are_the_product_for_any_number_of_threads() {
        for (m, k, n) in [(1, 3, 2), (300, 40, 70), (257, 600, 5), (129, 513, 64), (3, 0, 2), (0, 3, 2)] {
            let (a, b): (Vec<f32>, Vec<f32>) = (numbers(m * k, 5), numbers(k * n, 6));
            let (a, b) = (View::dense(&a, m, k), View::dense(&b, k, n));
            let mut want = vec![0.0; m * n];
            matmul(ViewMut::dense(&mut want, m, n), Into::Replace, 1.0, a, b, Threads::One);
            want.iter_mut().for_each(|x| *x += 1.0);
            for threads in [1, 2, 5] {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
                let found = pool.install(|| rows_product(a, b, |y| y.iter_mut().for_each(|x| *x += 1.0)));
                assert_eq!(found, want, "{m} {k} {n} on {threads}");
            }
        }
    }

    #[test]
    fn gram_adds_to_the_lower_triangle_only() {
        let (rows, n, stride) = (37, 19, 21);
        let x: Vec<f64> = numbers(rows * n, 4);
        let mut c = vec![2.0f64; n * stride];
        add_gram(ViewMut::new(&mut c, n, n, stride), View::dense(&x, rows, n), Threads::Pool);
        for i in 0..n {
            for j in 0..stride {
                let dot: f64 = if j <= i { (0..rows).map(|r| x[r * n + i] * x[r * n + j]).sum() } else { 0.0 };
                assert!((c[i * stride + j] - 2.0 - dot).abs() < 1e-13, "[{i}, {j}]");
            }
        }
    }

    #[test]
    fn empty_products_are_defined() {
        let mut c = [7.0f32; 4];
        matmul(
            ViewMut::dense(&mut c, 2, 2),
            Into::Replace,
            1.0,
            View::dense(&[], 2, 0),
            View::dense(&[], 0, 2),
            Threads::One,
        );
        assert_eq!(c, [0.0; 4]);
    }

    #[test]
    #[should_panic(expected = "does not fit")]
    fn a_view_outside_its_slice_is_refused() {
        View::new(&[0.0f32; 10], 3, 4, 4);
    }
}
