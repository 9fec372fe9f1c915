//! A matrix that owns its numbers or borrows them, from a memory map for instance.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::linalg::gemm::{Real, View};

/// Numbers that a [`Matrix`] borrows.
pub trait Numbers<T>: AsRef<[T]> + Send + Sync {
    /// Says that they are not needed for a while: what lies in a file need not stay in memory.
    fn forget(&self) {}
}

impl<T: Send + Sync> Numbers<T> for Vec<T> {}

/// A dense row-major matrix whose numbers may be owned or lie in a memory map; cloning shares them.
#[derive(Clone)]
pub struct Matrix<T> {
    data: Arc<dyn Numbers<T>>,
    rows: usize,
    columns: usize,
}

impl<T: Real> Matrix<T> {
    /// From numbers row by row.
    ///
    /// # Panics
    /// If there are not `rows · columns` of them.
    pub fn new(data: Vec<T>, rows: usize, columns: usize) -> Self {
        Self::shared(Arc::new(data), rows, columns)
    }

    /// From numbers that somebody else keeps alive, a memory map for instance.
    ///
    /// # Panics
    /// If there are not `rows · columns` of them.
    pub fn shared(data: Arc<dyn Numbers<T>>, rows: usize, columns: usize) -> Self {
        assert_eq!((*data).as_ref().len(), rows * columns, "a {rows} x {columns} matrix");
        Self { data, rows, columns }
    }

    /// The unit matrix.
    pub fn identity(n: usize) -> Self {
        let mut data = vec![T::of(0.0); n * n];
        data.iter_mut().step_by(n + 1).for_each(|x| *x = T::of(1.0));
        Self::new(data, n, n)
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// All numbers, row by row.
    pub fn as_slice(&self) -> &[T] {
        (*self.data).as_ref()
    }

    /// Says that the numbers are not needed for a while ([`Numbers::forget`]).
    pub fn forget(&self) {
        self.data.forget();
    }

    /// One row.
    pub fn row(&self, r: usize) -> &[T] {
        &self.as_slice()[r * self.columns..(r + 1) * self.columns]
    }

    /// The rows and columns of a range. The whole range of a square matrix shares the numbers; a part of it is copied.
    #[must_use]
    pub fn diagonal_block(&self, range: Range<usize>) -> Self {
        if range == (0..self.rows) && self.rows == self.columns {
            return self.clone();
        }
        let numbers = range.clone().flat_map(|r| self.row(r)[range.clone()].iter().copied()).collect();
        Self::new(numbers, range.len(), range.len())
    }

    /// For products.
    pub fn view(&self) -> View<'_, T> {
        View::dense(self.as_slice(), self.rows, self.columns)
    }

    /// The numbers as nested rows in `f64`, for tests and small matrices.
    pub fn to_rows(&self) -> Vec<Vec<f64>> {
        (0..self.rows).map(|r| self.row(r).iter().map(|x| x.wide()).collect()).collect()
    }
}

impl<T> fmt::Debug for Matrix<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Matrix[{}, {}]", self.rows, self.columns)
    }
}
