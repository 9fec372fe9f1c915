//! Products of example gradients with given matrices: scores, and the gradients themselves.

use rayon::prelude::*;

use crate::contraction::{ScoreRoute, Shape};
use crate::gemm::{self, Real, Threads, View, ViewMut};
use crate::rotated::{augmented, form};
use crate::{Error, LayerSpec, Tap, with_slice};

/// Output rows for which gradients are formed at a time: with a batch of examples they stay in the cache.
const BLOCK_ROWS: usize = 16;

/// Reads taps of plain gradients: inner products with query vectors, or the gradients as matrices.
#[derive(Debug, Default)]
pub struct GradientProducts<T> {
    inputs: Vec<T>,
}

impl<T: Real> GradientProducts<T> {
    /// Adds `<Z_q, G_m>` of one layer to `scores[m · Q + q]` for every example `m` of the batch. Vectors that lie in
    /// several places, as those of several methods do, meet the same gradients: `Q` counts them all, in order.
    ///
    /// # Shapes
    /// Each of `vectors: [_, O, columns]`, `scores: [B, Q]`.
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// METHOD (7), §8.6.
    pub fn add_scores(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        vectors: &[&[T]],
        scores: &mut [f64],
    ) -> Result<(), Error> {
        let (o, i) = (layer.outputs, layer.columns());
        let queries = vectors.iter().map(|vectors| vectors.len() / (o * i)).sum();
        let b = tap.positions.examples();
        if queries == 0 || b == 0 {
            return Ok(());
        }
        self.load(tap, layer)?;
        let a = &self.inputs;
        with_slice(tap.output_gradient, |s: &[T]| {
            let shape = Shape::of(tap.positions, o, i);
            match ScoreRoute::cheapest(shape, queries) {
                ScoreRoute::Gradient => by_gradient(a, s, tap, o, i, vectors, queries, scores),
                ScoreRoute::Rows => by_rows(a, s, tap, o, i, vectors, queries, scores),
            }
        })?;
        Ok(())
    }

    /// The gradient of every example of the batch, `[B, O, columns]`.
    ///
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// METHOD (1).
    pub fn gradients(&mut self, tap: Tap<'_>, layer: &LayerSpec) -> Result<Vec<T>, Error> {
        let (o, i) = (layer.outputs, layer.columns());
        self.load(tap, layer)?;
        let a = &self.inputs;
        let mut gradients = vec![T::of(0.0); tap.positions.examples() * o * i];
        with_slice(tap.output_gradient, |s: &[T]| {
            gradients.par_chunks_mut(o * i).enumerate().for_each(|(m, gradient)| {
                form(gradient, a, s, tap.positions.example(m), o, i, 0, o);
            });
        })?;
        Ok(gradients)
    }

    fn load(&mut self, tap: Tap<'_>, layer: &LayerSpec) -> Result<(), Error> {
        with_slice(tap.input, |a: &[T]| augmented(&mut self.inputs, a, layer.inputs, layer.bias, None))?;
        Ok(())
    }
}

/// Route F: gradients of the whole batch in blocks of output rows, each block multiplied with the same
/// rows of all queries.
fn by_gradient<T: Real>(
    a: &[T],
    s: &[T],
    tap: Tap<'_>,
    o: usize,
    i: usize,
    vectors: &[&[T]],
    queries: usize,
    scores: &mut [f64],
) {
    let b = tap.positions.examples();
    let parts: Vec<Vec<T>> = (0..o.div_ceil(BLOCK_ROWS))
        .into_par_iter()
        .map_init(
            || vec![T::of(0.0); b * BLOCK_ROWS * i],
            |gradients, block| {
                let start = block * BLOCK_ROWS;
                let rows = BLOCK_ROWS.min(o - start);
                for (gradient, range) in gradients.chunks_exact_mut(rows * i).zip(tap.positions.iter()) {
                    form(gradient, a, s, range, o, i, start, rows);
                }
                let mut part = vec![T::of(0.0); b * queries];
                let gradients = View::dense(&gradients[..b * rows * i], b, rows * i);
                let mut column = 0;
                for vectors in vectors.iter().filter(|vectors| !vectors.is_empty()) {
                    let n = vectors.len() / (o * i);
                    gemm::matmul(
                        ViewMut::new(&mut part[column..], b, n, queries),
                        gemm::Into::Replace,
                        T::of(1.0),
                        gradients,
                        View::new(&vectors[start * i..], n, rows * i, o * i).t(),
                        Threads::One,
                    );
                    column += n;
                }
                part
            },
        )
        .collect();
    // in order of blocks, whoever computed them
    for part in parts {
        scores.iter_mut().zip(part).for_each(|(score, x)| *score += x.wide());
    }
}

/// Route W: `s_tᵀ Z_q a_t` for every row, one query at a time.
fn by_rows<T: Real>(
    a: &[T],
    s: &[T],
    tap: Tap<'_>,
    o: usize,
    i: usize,
    vectors: &[&[T]],
    queries: usize,
    scores: &mut [f64],
) {
    let rows = tap.positions.rows();
    let each: Vec<&[T]> = vectors.iter().flat_map(|vectors| vectors.chunks_exact(o * i)).collect();
    let columns: Vec<Vec<f64>> = each
        .into_par_iter()
        .map_init(
            || vec![T::of(0.0); rows * o],
            |turned, vector| {
                let vector = View::dense(vector, o, i);
                let a = View::dense(&a[..rows * i], rows, i);
                gemm::matmul(
                    ViewMut::dense(turned, rows, o),
                    gemm::Into::Replace,
                    T::of(1.0),
                    a,
                    vector.t(),
                    Threads::One,
                );
                let dot = |r: usize| -> f64 {
                    let (s, y) = (&s[r * o..(r + 1) * o], &turned[r * o..(r + 1) * o]);
                    s.iter().zip(y).map(|(s, y)| (*s * *y).wide()).sum()
                };
                tap.positions.iter().map(|range| range.map(dot).sum()).collect()
            },
        )
        .collect();
    for (q, column) in columns.into_iter().enumerate() {
        for (m, score) in column.into_iter().enumerate() {
            scores[m * queries + q] += score;
        }
    }
}
