//! A column-major matrix whose columns begin where lines of the cache do.

use std::ops::Range;

use faer::{MatMut, MatRef};

/// Numbers in a line of the cache, and in a register of the widest kind.
pub(super) const LANES: usize = 8;

/// A dense column-major matrix; each column begins at a line of the cache and is filled up with zeros to whole lines.
#[derive(Debug)]
pub(super) struct Columns {
    data: Vec<f64>,
    first: usize,
    rows: usize,
    columns: usize,
    stride: usize,
}

impl Columns {
    /// Zeros.
    pub(super) fn zeros(rows: usize, columns: usize) -> Self {
        let lines = rows.div_ceil(LANES);
        // an odd number of lines: neighbours in a row do not displace each other in the first-level cache
        let stride = (lines + usize::from(lines.is_multiple_of(2))) * LANES;
        let data = vec![0.0; stride * columns + LANES];
        let first = data.as_ptr().align_offset(LANES * size_of::<f64>()).min(LANES);
        Self { data, first, rows, columns, stride }
    }

    pub(super) fn rows(&self) -> usize {
        self.rows
    }

    /// Numbers from one column to the next, a multiple of [`LANES`].
    pub(super) fn stride(&self) -> usize {
        self.stride
    }

    /// All numbers: `(r, c)` is `c · stride + r`.
    pub(super) fn numbers(&self) -> &[f64] {
        &self.data[self.first..self.first + self.stride * self.columns]
    }

    pub(super) fn numbers_mut(&mut self) -> &mut [f64] {
        &mut self.data[self.first..self.first + self.stride * self.columns]
    }

    /// One column with the zeros that fill it up.
    pub(super) fn column(&self, c: usize) -> &[f64] {
        &self.numbers()[c * self.stride..(c + 1) * self.stride]
    }

    pub(super) fn column_mut(&mut self, c: usize) -> &mut [f64] {
        let stride = self.stride;
        &mut self.numbers_mut()[c * stride..(c + 1) * stride]
    }

    /// Some rows and columns, for products.
    pub(super) fn part(&self, rows: Range<usize>, columns: Range<usize>) -> MatRef<'_, f64> {
        let whole = MatRef::from_column_major_slice_with_stride(self.numbers(), self.rows, self.columns, self.stride);
        whole.get(rows, columns)
    }

    pub(super) fn part_mut(&mut self, rows: Range<usize>, columns: Range<usize>) -> MatMut<'_, f64> {
        let (n_rows, n_columns, stride) = (self.rows, self.columns, self.stride);
        let whole = MatMut::from_column_major_slice_with_stride_mut(self.numbers_mut(), n_rows, n_columns, stride);
        whole.get_mut(rows, columns)
    }
}
