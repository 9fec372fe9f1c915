//! Dense products on borrowed slices: the one place where matrix products of this project are called, but for those of
//! eigendecompositions, which are `faer`'s.
//!
//! A [`View`] is a slice with rows, columns and strides, checked when it is made. [`matmul`] is the
//! general product, [`add_gram`] the symmetric rank-k update that covariances need (half the work), summed in `f64`.
//!
//! In `f32`, on a processor with AVX-512, products are computed here; else by `gemm`. Which of the two follows from the
//! shape alone.
#![allow(unsafe_code)] // product kernels take pointers

use candle_core::WithDType;
use faer::Par;
use rayon::prelude::*;

use crate::linalg::triangle;

#[cfg_attr(not(target_arch = "x86_64"), path = "elsewhere.rs")]
mod avx512;
mod library;
mod packed;
mod tasks;
#[cfg(test)]
mod tests;

#[doc(hidden)]
pub use library::{add_gram as library_add_gram, product as library_product};
pub use packed::{Packed, matmul_packed};

/// The floating-point types that products run in: `f32` and `f64`.
pub trait Real:
    WithDType + faer::traits::ComplexField + faer::traits::RealField + Default + std::iter::Sum<Self>
{
    /// Nearest value of this type.
    fn of(x: f64) -> Self;
    /// The value as `f64`.
    fn wide(self) -> f64;
    /// The view, if its numbers are `f32`.
    #[doc(hidden)]
    fn single(_: View<'_, Self>) -> Option<View<'_, f32>> {
        None
    }
}

impl Real for f32 {
    fn of(x: f64) -> Self {
        x as f32
    }
    fn wide(self) -> f64 {
        f64::from(self)
    }
    fn single(view: View<'_, Self>) -> Option<View<'_, f32>> {
        Some(view)
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

/// Most rows and columns of a result that are summed in registers together.
const TILE_ROWS: usize = 14;
const TILE_COLUMNS: usize = 32;

/// Fewest rows and columns of a result that is computed here: filling up panels would cost more than the libraries.
pub(crate) const LEAST_SIDE: usize = TILE_ROWS;

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

/// In which arithmetic products of `f32` run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Products {
    /// In the type of their inputs.
    #[default]
    Exact,
    /// Inputs are rounded to bf16 (8 bits of precision), to the nearest and halves to even; products are exact and
    /// their sums in `f32`. Numbers below the normal range count as zero. Products of `f64` take no notice.
    Bf16,
}

impl Products {
    /// Whether this processor has the instructions.
    pub fn run_here(self) -> bool {
        self == Self::Exact || avx512::runs(self)
    }

    /// Rounded if either is.
    fn or(self, other: Self) -> Self {
        if self == Self::Exact { other } else { self }
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
    products: Products,
}

impl<'a, T> View<'a, T> {
    /// Row-major `[rows, columns]` with rows `stride` apart.
    ///
    /// # Panics
    /// If an element would lie outside `data`.
    pub fn new(data: &'a [T], rows: usize, columns: usize, stride: usize) -> Self {
        check(data.len(), rows, columns, stride);
        Self { data, rows, columns, row_stride: stride, column_stride: 1, products: Products::Exact }
    }

    /// Row-major and dense.
    pub fn dense(data: &'a [T], rows: usize, columns: usize) -> Self {
        Self::new(data, rows, columns, columns)
    }

    /// The same numbers for products in this arithmetic; one of a product's two sides is enough to say it.
    #[must_use]
    pub fn to(self, products: Products) -> Self {
        Self { products, ..self }
    }

    /// Rows and columns.
    pub fn shape(&self) -> (usize, usize) {
        (self.rows, self.columns)
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
    multiply(c, into, factor, a, b, None, threads);
}

/// The same, from the right side's panels if they were packed.
fn multiply<T: Real>(
    c: ViewMut<'_, T>,
    into: Into,
    factor: T,
    a: View<'_, T>,
    b: View<'_, T>,
    panels: Option<&avx512::Panels>,
    threads: Threads,
) {
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
    let (c, stride) = (c.data.as_mut_ptr(), c.stride);
    // SAFETY: `ViewMut::new` checked that `c` has m rows inside its slice, and it is borrowed mutably, so it
    // overlaps neither input; the inner sizes are equal.
    unsafe {
        match own_product(c, stride, into, factor, a, b, panels, m) {
            Some(product) => tasks::blocks(m, n, threads, |rows, columns| product.compute(rows, columns)),
            None => library::call(c, stride, into, factor, a, b, threads),
        }
    }
}

/// The product in the kernels of this project, where type, processor and the whole result's shape allow; `rows` are
/// the whole result's.
fn own_product<T: Real>(
    c: *mut T,
    stride: usize,
    into: Into,
    factor: T,
    a: View<'_, T>,
    b: View<'_, T>,
    panels: Option<&avx512::Panels>,
    rows: usize,
) -> Option<avx512::Product> {
    let (a, b) = (T::single(a)?, T::single(b)?);
    let products = a.products.or(b.products);
    // what is rounded does not depend on the shape
    let suits = products == Products::Bf16 || rows >= LEAST_SIDE && b.columns >= LEAST_SIDE;
    if !suits || !avx512::runs(products) {
        return None;
    }
    let product = avx512::Product::new(c.cast(), stride, into, factor.wide() as f32, a, b);
    Some(match panels.filter(|panels| panels.are_of(b, products)) {
        Some(panels) => product.with_panels(panels),
        None => product,
    })
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
            let (c, one) = (y.as_mut_ptr().cast(), T::of(1.0));
            match own_product(c, n, Into::Replace, one, a, b, None, m) {
                Some(product) => product.compute(0..a.rows, 0..n),
                None => library::call(c, n, Into::Replace, one, a, b, Threads::One),
            }
            std::slice::from_raw_parts_mut(y.as_mut_ptr().cast::<T>(), y.len())
        };
        finish(y);
    });
    // SAFETY: the parts cover the first m · n places, and each was written.
    unsafe { y.set_len(m * n) };
    y
}

/// Adds `xᵀ x` to the lower triangle of a symmetric matrix in `f64`.
///
/// Products run in the type and arithmetic of `x`; a few hundred rows of it at a time are summed there, and their sums
/// are added in `f64`.
///
/// # Shapes
/// `x: [rows, n]`; `triangle`: row by row, as in [`SymmetricMatrix`](crate::SymmetricMatrix).
/// # Panics
/// If `triangle` has another size.
pub fn add_gram<T: Real>(triangle: &mut [f64], x: View<'_, T>, threads: Threads) {
    let n = x.columns;
    assert_eq!(triangle.len(), triangle::numbers(n), "size of the Gram matrix");
    if n == 0 || x.rows == 0 {
        return;
    }
    let single = T::single(x).filter(|x| (n >= LEAST_SIDE || x.products == Products::Bf16) && avx512::runs(x.products));
    let Some(x) = single else { return library::add_gram(triangle, x, threads) };
    // SAFETY: the processor was asked.
    unsafe { avx512::add_gram(triangle, x, threads) };
}
