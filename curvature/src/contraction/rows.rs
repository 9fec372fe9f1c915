//! A layer's rows in a batch, and each example's gradient from them.

use rayon::prelude::*;

use crate::linalg::gemm::{self, Packed, Products, Real, Threads, View, ViewMut};
use crate::network::tap::Positions;

/// Output rows that the trailing column sums at a time.
const ROWS: usize = 64;

/// Fewest blocks of a gradient for which its inputs are packed.
const PACKED_FROM: usize = 3;

/// One layer's part of a batch.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Rows<'a, T> {
    /// `[R, n]`, without the column of ones.
    pub a: &'a [T],
    pub n: usize,
    /// Whether a 1 trails every row of `a`.
    pub bias: bool,
    /// `[R, o]`.
    pub s: &'a [T],
    pub o: usize,
    pub positions: &'a Positions,
    /// How gradients are formed.
    pub products: Products,
}

impl<'a, T: Real> Rows<'a, T> {
    /// I, with the column of ones if there is one.
    pub(crate) fn columns(self) -> usize {
        self.n + usize::from(self.bias)
    }

    /// Packs every example's inputs, if gradients are to be formed in so many blocks that it gains.
    pub(crate) fn pack(self, packed: &mut Vec<Packed>, blocks: usize) -> Option<&[Packed]> {
        if blocks < PACKED_FROM {
            return None;
        }
        let examples = self.positions.examples();
        packed.resize_with(packed.len().max(examples), Packed::default);
        let packed = &mut packed[..examples];
        packed.par_iter_mut().enumerate().for_each(|(m, packed)| {
            packed.pack(self.example(m, None).inputs().to(self.products));
        });
        Some(packed)
    }

    /// Example `m`'s rows, with what was packed of every example's.
    pub(crate) fn example(self, m: usize, packed: Option<&'a [Packed]>) -> ExampleRows<'a, T> {
        let (range, Self { n, o, .. }) = (self.positions.example(m), self);
        ExampleRows {
            a: &self.a[range.start * n..range.end * n],
            n,
            bias: self.bias,
            s: &self.s[range.start * o..range.end * o],
            o,
            products: self.products,
            packed: packed.map(|packed| &packed[m]),
        }
    }
}

/// As many of `n` columns as a product with packed panels takes: vector registers hold whole ones, and a single column
/// left over would cost as much as sixteen.
pub(crate) fn even_columns(n: usize) -> usize {
    if n % 16 == 1 && n > 16 { n - 1 } else { n }
}

/// What one example's gradient `Σ_t s_t a_tᵀ` is formed of: its part of [`Rows`].
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExampleRows<'a, T> {
    a: &'a [T],
    n: usize,
    bias: bool,
    s: &'a [T],
    o: usize,
    products: Products,
    packed: Option<&'a Packed>,
}

impl<'a, T: Real> ExampleRows<'a, T> {
    /// The columns that a product takes.
    fn inputs(self) -> View<'a, T> {
        View::new(self.a, self.a.len() / self.n.max(1), even_columns(self.n), self.n)
    }

    /// Output rows `start..start + rows` of the gradient; with a bias a last column `Σ_t s_t` stands after the others.
    ///
    /// # Shapes
    /// `tile: [rows, n]`, with a bias `[rows, n + 1]`.
    pub(crate) fn form(self, tile: &mut [T], start: usize, rows: usize) {
        let (n, o, size) = (self.n, self.o, self.n + usize::from(self.bias));
        if self.s.is_empty() {
            tile.fill(T::of(0.0));
            return;
        }
        let inputs = self.inputs();
        let (t, even) = inputs.shape();
        let gradients = View::new(&self.s[start..], t, rows, o).t().to(self.products);
        let product = ViewMut::new(tile, rows, even, size);
        let (replace, one) = (gemm::Into::Replace, T::of(1.0));
        match self.packed {
            Some(packed) => gemm::matmul_packed(product, replace, one, gradients, inputs, packed, Threads::One),
            None => gemm::matmul(product, replace, one, gradients, inputs, Threads::One),
        }
        for column in even..size {
            let mut sums = [T::of(0.0); ROWS];
            for first in (0..rows).step_by(ROWS) {
                let sums = &mut sums[..ROWS.min(rows - first)];
                sums.fill(T::of(0.0));
                for (s, a) in self.s.chunks_exact(o).zip(self.a.chunks_exact(n)) {
                    let (s, a) = (&s[start + first..][..sums.len()], a.get(column).copied().unwrap_or(one));
                    sums.iter_mut().zip(s).for_each(|(sum, s)| *sum += *s * a);
                }
                for (row, sum) in sums.iter().enumerate() {
                    tile[(first + row) * size + column] = *sum;
                }
            }
        }
    }
}
