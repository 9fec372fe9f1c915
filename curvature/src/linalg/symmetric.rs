//! Symmetric matrices as their lower triangles.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::linalg::gemm::{self, Real, Threads, View};
use crate::linalg::matrix::{Matrix, Numbers};
use crate::linalg::triangle;

/// A symmetric matrix in `f64`: its lower triangle, which may be owned or lie in a memory map; cloning shares it.
///
/// Rows lie one behind the other: row `r` holds columns 0 to `r`, and the first `r` rows are the triangle of the first
/// `r` coordinates.
#[derive(Clone)]
pub struct SymmetricMatrix {
    triangle: Arc<dyn Numbers<f64>>,
    size: usize,
}

impl SymmetricMatrix {
    /// Numbers in the lower triangle of `[n, n]`, which are also those before row `n`.
    pub const fn numbers(n: usize) -> usize {
        triangle::numbers(n)
    }

    /// From its lower triangle.
    ///
    /// # Panics
    /// If there are not [`SymmetricMatrix::numbers`] of them.
    pub fn new(triangle: Vec<f64>, size: usize) -> Self {
        Self::shared(Arc::new(triangle), size)
    }

    /// The number of each row and column, asked for in the lower triangle.
    pub fn from_fn(size: usize, mut f: impl FnMut(usize, usize) -> f64) -> Self {
        let mut triangle = Vec::with_capacity(Self::numbers(size));
        for r in 0..size {
            triangle.extend((0..=r).map(|c| f(r, c)));
        }
        Self::new(triangle, size)
    }

    /// `xᵀ x`.
    pub fn gram<T: Real>(x: View<'_, T>, threads: Threads) -> Self {
        let (_, n) = x.shape();
        let mut triangle = vec![0.0; Self::numbers(n)];
        gemm::add_gram(&mut triangle, x, threads);
        Self::new(triangle, n)
    }

    /// From numbers that somebody else keeps alive, a memory map for instance.
    ///
    /// # Panics
    /// If there are not [`SymmetricMatrix::numbers`] of them.
    pub fn shared(triangle: Arc<dyn Numbers<f64>>, size: usize) -> Self {
        assert_eq!((*triangle).as_ref().len(), Self::numbers(size), "the lower triangle of {size} x {size}");
        Self { triangle, size }
    }

    /// The lower triangle, shared.
    pub(crate) fn into_shared(self) -> Arc<dyn Numbers<f64>> {
        self.triangle
    }

    /// Number of rows, and of columns.
    pub fn size(&self) -> usize {
        self.size
    }

    /// The lower triangle.
    pub fn as_slice(&self) -> &[f64] {
        (*self.triangle).as_ref()
    }

    /// Columns 0 to `r` of a row.
    pub fn row(&self, r: usize) -> &[f64] {
        &self.as_slice()[Self::numbers(r)..Self::numbers(r + 1)]
    }

    /// The number in row `r` and column `c`, of either triangle. Of many, [`SymmetricMatrix::as_slice`] is faster.
    pub fn at(&self, r: usize, c: usize) -> f64 {
        self.row(r.max(c))[r.min(c)]
    }

    /// The rows and columns of a range. The whole range shares the numbers; a part of it is copied.
    #[must_use]
    pub fn diagonal_block(&self, range: Range<usize>) -> Self {
        if range == (0..self.size) {
            return self.clone();
        }
        let (numbers, start) = (self.as_slice(), range.start);
        Self::from_fn(range.len(), |r, c| numbers[Self::numbers(start + r) + start + c])
    }

    /// A function of every number of the lower triangle and of its row and column.
    #[must_use]
    pub fn map(&self, f: impl Fn(f64, usize, usize) -> f64) -> Self {
        let numbers = self.as_slice();
        Self::from_fn(self.size, |r, c| f(numbers[Self::numbers(r) + c], r, c))
    }

    /// Says that the numbers are not needed for a while ([`Numbers::forget`]).
    pub fn forget(&self) {
        self.triangle.forget();
    }

    /// Both triangles.
    pub fn to_dense(&self) -> Matrix<f64> {
        let n = self.size;
        Matrix::new((0..n * n).map(|k| self.at(k / n, k % n)).collect(), n, n)
    }
}

impl fmt::Debug for SymmetricMatrix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SymmetricMatrix[{}]", self.size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_functions_keep_rows_and_columns() {
        let matrix = SymmetricMatrix::new((0..10).map(f64::from).collect(), 4);
        assert_eq!(
            matrix.to_dense().to_rows(),
            [[0.0, 1.0, 3.0, 6.0], [1.0, 2.0, 4.0, 7.0], [3.0, 4.0, 5.0, 8.0], [6.0, 7.0, 8.0, 9.0]]
        );
        assert_eq!(matrix.diagonal_block(1..3).to_dense().to_rows(), [[2.0, 4.0], [4.0, 5.0]]);
        assert_eq!(matrix.diagonal_block(0..0).size(), 0);
        let places = matrix.map(|x, r, c| x + 100.0 * r as f64 + 10.0 * c as f64);
        assert_eq!(places.row(2), [203.0, 214.0, 225.0]);
    }
}
