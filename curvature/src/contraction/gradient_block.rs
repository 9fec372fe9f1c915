//! Products with gradients that are formed a block of output rows at a time.

use std::ops::Range;

use rayon::prelude::*;

use crate::contraction::rows::Rows;
use crate::linalg::gemm::{self, Packed, Real, Threads, View, ViewMut};

/// Bytes of gradients that are formed at a time: with as many rows of the queries they stay in the second-level cache.
const BYTES: usize = 1 << 19;

/// Most output rows of a block; a multiple of [`LEAST_ROWS`].
const MOST_ROWS: usize = 56;

/// Fewest output rows of a block, even where these take more: with fewer a product would be a library's, which would
/// pack an example's inputs for each block anew.
const LEAST_ROWS: usize = gemm::LEAST_SIDE;

/// Examples and queries whose products one call computes: up to 256 dot products run without packing either side.
const EXAMPLES: usize = 8;
pub(crate) const QUERIES: usize = 32;

/// Some output rows of every example's gradient, and where their products with the same rows of queries' vectors go.
#[derive(Debug)]
pub(crate) struct GradientBlock<'a, T> {
    /// Which of the layer's output rows these are.
    pub rows: Range<usize>,
    columns: usize,
    /// `[B, rows, columns]`.
    gradients: &'a [T],
    queries: usize,
    /// `[B, Q]`, of these rows alone.
    products: &'a mut [T],
}

impl<T: Real> GradientBlock<'_, T> {
    /// Products with `n` queries of which `first` is the first. Their vectors are `stride` numbers apart, and
    /// `vectors` begins at this block's rows of the first one.
    pub(crate) fn multiply(&mut self, first: usize, n: usize, vectors: &[T], stride: usize) {
        let size = self.rows.len() * self.columns;
        for query in (0..n).step_by(QUERIES) {
            let n = QUERIES.min(n - query);
            let vectors = View::new(&vectors[query * stride..], n, size, stride);
            let gradients = self.gradients.chunks(EXAMPLES * size);
            for (gradients, products) in gradients.zip(self.products.chunks_mut(EXAMPLES * self.queries)) {
                let examples = gradients.len() / size;
                let product = ViewMut::new(&mut products[first + query..], examples, n, self.queries);
                let gradients = View::dense(gradients, examples, size);
                gemm::matmul(product, gemm::Into::Replace, T::of(1.0), gradients, vectors.t(), Threads::One);
            }
        }
    }
}

impl<T: Real> Rows<'_, T> {
    /// Route F: `multiply` finds the products of each block of all gradients, and their sums over the blocks are
    /// added to each array of `sums`. What `multiply` needs room for it keeps in the buffer that it is given: the
    /// same rows of `formed` vectors, for which blocks leave as much room as for gradients.
    ///
    /// # Shapes
    /// `sums`: each `[B, Q]`.
    pub(crate) fn by_block(
        self,
        queries: usize,
        formed: usize,
        sums: &mut [&mut [f64]],
        packed: &mut Vec<Packed>,
        multiply: impl Fn(&mut GradientBlock<'_, T>, &mut Vec<T>) + Sync,
    ) {
        let (o, columns, b) = (self.o, self.columns(), self.positions.examples());
        let fitting = BYTES / (b.max(formed) * columns * size_of::<T>());
        let at_a_time = (fitting / LEAST_ROWS * LEAST_ROWS).clamp(LEAST_ROWS, MOST_ROWS);
        let blocks = o.div_ceil(at_a_time);
        let packed = self.pack(packed, blocks);
        let parts: Vec<Vec<T>> = (0..blocks)
            .into_par_iter()
            .with_max_len(1)
            .map_init(
                || (vec![T::of(0.0); b * at_a_time * columns], vec![]),
                |(gradients, buffer), block| {
                    let start = block * at_a_time;
                    let rows = start..o.min(start + at_a_time);
                    let gradients = &mut gradients[..b * rows.len() * columns];
                    for (m, gradient) in gradients.chunks_exact_mut(rows.len() * columns).enumerate() {
                        self.example(m, packed).form(gradient, start, rows.len());
                    }
                    let mut products = vec![T::of(0.0); b * queries];
                    multiply(&mut GradientBlock { rows, columns, gradients, queries, products: &mut products }, buffer);
                    products
                },
            )
            .collect();
        // in order of blocks, whoever computed them
        for part in parts {
            for scores in sums.iter_mut() {
                scores.iter_mut().zip(&part).for_each(|(score, x)| *score += x.wide());
            }
        }
    }
}
