//! One example's rows of a layer, and its gradient from them.

use rayon::prelude::*;

use crate::Positions;
use crate::gemm::{self, Packed, Products, Real, Threads, View, ViewMut};

/// Output rows that the trailing column sums at a time.
const ROWS: usize = 64;

/// Fewest blocks of a gradient for which its inputs are packed.
const PACKED_FROM: usize = 3;

/// What one example's gradient `Σ_t s_t a_tᵀ` is formed of.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ExampleRows<'a, T> {
    /// `[T, n]`.
    pub a: &'a [T],
    pub n: usize,
    /// Whether a 1 trails every `a_t`.
    pub bias: bool,
    /// `[T, o]`.
    pub s: &'a [T],
    pub o: usize,
    /// How the gradient is formed.
    pub products: Products,
    /// The inputs as [`pack`] left them.
    pub packed: Option<&'a Packed>,
}

/// Packs every example's inputs, if gradients are to be formed in so many blocks that it gains.
///
/// # Shapes
/// `a: [R, n]`.
pub(crate) fn pack<'p, T: Real>(
    packed: &'p mut Vec<Packed>,
    a: &[T],
    n: usize,
    positions: &Positions,
    products: Products,
    blocks: usize,
) -> Option<&'p [Packed]> {
    if blocks < PACKED_FROM {
        return None;
    }
    let examples = positions.examples();
    packed.resize_with(packed.len().max(examples), Packed::default);
    let packed = &mut packed[..examples];
    packed.par_iter_mut().enumerate().for_each(|(m, packed)| {
        let range = positions.example(m);
        packed.pack(inputs(&a[range.start * n..range.end * n], n).to(products));
    });
    Some(packed)
}

/// Vector registers hold whole columns of inputs; a single one left over would cost as much as sixteen.
fn inputs<T: Real>(a: &[T], n: usize) -> View<'_, T> {
    let even = if n % 16 == 1 && n > 16 { n - 1 } else { n };
    View::new(a, a.len() / n.max(1), even, n)
}

impl<T: Real> ExampleRows<'_, T> {
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
        let inputs = inputs(self.a, n);
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
