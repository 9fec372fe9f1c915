//! Products of example gradients with given matrices: scores, and the gradients themselves.

use rayon::prelude::*;

use crate::contraction::low_rank::{LowRank, Vectors};
use crate::contraction::rotated::{LayerRows, RowBuffers, TILE_ROWS};
use crate::contraction::route::{LowRankRoute, ScoreRoute, Shape};
use crate::contraction::rows::Rows;
use crate::error::Error;
use crate::estimate::eigenbasis::Eigenbasis;
use crate::linalg::dot::sum_over;
use crate::linalg::gemm::{self, Packed, Products, Real, Threads, View, ViewMut};
use crate::network::layer::LayerSpec;
use crate::network::slices::with_slice;
use crate::network::tap::Tap;

/// Rows of a batch that one task turns by a query's matrix.
const ROWS: usize = 512;

/// Reads taps of plain gradients: inner products with query vectors, or the gradients as matrices.
#[derive(Debug, Default)]
pub struct GradientProducts<T> {
    buffers: RowBuffers<T>,
    /// Inputs of a batch's examples, while gradients are formed in blocks.
    packed: Vec<Packed>,
}

impl<T: Real> GradientProducts<T> {
    /// Sets the arithmetic that gradients are formed in; their products with vectors are not rounded.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.buffers.products = products;
        self
    }

    /// Adds `<Z_q, G_m>` of one layer to `scores[m · Q + q]` for every example `m` of the batch. Vectors that lie in
    /// several places, as those of several methods do, meet the same gradients: `Q` counts them all, in order.
    ///
    /// # Shapes
    /// `scores: [B, Q]`.
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// `docs/method.md`, Score.
    pub fn add_scores(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        vectors: &[Vectors<'_, T>],
        scores: &mut [f64],
    ) -> Result<(), Error> {
        self.add_scores_to_each(tap, layer, vectors, &mut [scores])
    }

    /// As [`add_scores`](Self::add_scores) into each of several arrays: products are computed once, and every array
    /// gets the bits that it would get alone.
    ///
    /// # Shapes
    /// `sums`: each `[B, Q]`.
    /// # Errors
    /// As there.
    pub fn add_scores_to_each(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        vectors: &[Vectors<'_, T>],
        sums: &mut [&mut [f64]],
    ) -> Result<(), Error> {
        let size = layer.parameters();
        let counts = || vectors.iter().map(|vectors| vectors.count(layer));
        let (queries, b) = (counts().sum::<usize>(), tap.positions.examples());
        if queries == 0 || b == 0 {
            return Ok(());
        }
        let full: Vec<&[T]> = vectors.iter().filter_map(|vectors| vectors.full()).collect();
        let low_rank: Vec<LowRank<'_, T>> = vectors.iter().filter_map(|vectors| vectors.low_rank()).collect();
        let packed = &mut self.packed;
        with_rows(tap, layer, self.buffers.products, |rows: Rows<'_, T>| {
            if low_rank.is_empty() {
                return rows.by_cheapest(&full, queries, sums, packed);
            }
            if full.is_empty() {
                return rows.low_rank_by_cheapest(&low_rank, queries, sums, packed);
            }
            // both kinds: each by itself, then into its columns
            let n: usize = full.iter().map(|vectors| vectors.len() / size).sum();
            let mut parts = [vec![0.0; b * n], vec![0.0; b * (queries - n)]];
            rows.by_cheapest(&full, n, &mut [&mut parts[0]], packed);
            rows.low_rank_by_cheapest(&low_rank, queries - n, &mut [&mut parts[1]], packed);
            let kinds = vectors.iter().zip(counts());
            let kinds: Vec<usize> =
                kinds.flat_map(|(v, n)| std::iter::repeat_n(usize::from(v.full().is_none()), n)).collect();
            for scores in sums {
                for (m, scores) in scores.chunks_exact_mut(queries).enumerate() {
                    let mut at = [m * n, m * (queries - n)];
                    for (score, &kind) in scores.iter_mut().zip(&kinds) {
                        *score += parts[kind][at[kind]];
                        at[kind] += 1;
                    }
                }
            }
        })
    }

    /// As [`add_scores`](Self::add_scores), with vectors in the coordinates of an eigenbasis: `<Z_q, U_Sᵀ G_m U_A>`. The
    /// batch's rows are rotated, and no vector is.
    ///
    /// # Shapes
    /// `vectors: [Q, O, columns]`, `scores: [B, Q]`.
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// `docs/method.md`, Subspace solves.
    pub fn add_scores_in_basis(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        basis: Option<&Eigenbasis<T>>,
        vectors: &[T],
        scores: &mut [f64],
    ) -> Result<(), Error> {
        let queries = vectors.len() / layer.parameters();
        if queries == 0 || tap.positions.examples() == 0 {
            return Ok(());
        }
        let rows = LayerRows::of(tap, layer, basis, None);
        let rows = self.buffers.rotated_rows(rows)?;
        rows.by_cheapest(&[vectors], queries, &mut [scores], &mut self.packed);
        Ok(())
    }

    /// The batch's rows in the coordinates of an eigenbasis: inputs `[R, columns]`, the column of ones among them, and
    /// output gradients `[R, O]`.
    ///
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// `docs/method.md`, Gradients.
    pub fn rows_in_basis(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        basis: Option<&Eigenbasis<T>>,
    ) -> Result<[Vec<T>; 2], Error> {
        let rows = self.buffers.rotated_rows(LayerRows::of(tap, layer, basis, None))?;
        Ok([rows.a.to_vec(), rows.s.to_vec()])
    }

    /// The gradient of every example of the batch, `[B, O, columns]`.
    ///
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    /// # Source
    /// `docs/method.md`, Gradients.
    pub fn gradients(&mut self, tap: Tap<'_>, layer: &LayerSpec) -> Result<Vec<T>, Error> {
        let size = layer.outputs * layer.columns();
        let mut gradients = vec![T::of(0.0); tap.positions.examples() * size];
        with_rows(tap, layer, self.buffers.products, |rows: Rows<'_, T>| {
            gradients.par_chunks_mut(size).enumerate().for_each(|(m, gradient)| {
                rows.example(m, None).form(gradient, 0, layer.outputs);
            });
        })?;
        Ok(gradients)
    }
}

impl<T: Real> GradientProducts<T> {
    /// The gradient of every example of the batch in an eigenbasis, `U_Sᵀ G U_A`, `[B, O, columns]`: each side is
    /// rotated before gradients are formed or after, whichever costs less ([`RotationRoute`](crate::contraction::RotationRoute)).
    ///
    /// # Errors
    /// If the tap is not of this layer's shape or type.
    pub fn rotated_gradients(
        &mut self,
        tap: Tap<'_>,
        layer: &LayerSpec,
        basis: &Eigenbasis<T>,
    ) -> Result<Vec<T>, Error> {
        let (size, i) = (layer.parameters(), layer.columns());
        let mut gradients = vec![T::of(0.0); tap.positions.examples() * size];
        // by block of output rows, the place of every example's
        let mut blocks: Vec<Vec<&mut [T]>> = (0..layer.outputs.div_ceil(TILE_ROWS)).map(|_| vec![]).collect();
        for gradient in gradients.chunks_exact_mut(size) {
            blocks.iter_mut().zip(gradient.chunks_mut(TILE_ROWS * i)).for_each(|(block, rows)| block.push(rows));
        }
        let rows = LayerRows::of(tap, layer, Some(basis), None);
        self.buffers.for_each_tile(rows, &mut blocks, |block, m, tile| block[m].copy_from_slice(tile))?;
        Ok(gradients)
    }
}

fn with_rows<T: Real, R>(
    tap: Tap<'_>,
    layer: &LayerSpec,
    products: Products,
    f: impl FnOnce(Rows<'_, T>) -> R,
) -> Result<R, Error> {
    let (n, bias, o, positions) = (layer.inputs, layer.bias, layer.outputs, tap.positions);
    Ok(with_slice(tap.input, |a: &[T]| {
        with_slice(tap.output_gradient, |s: &[T]| f(Rows { a, n, bias, s, o, positions, products }))
    })??)
}

impl<T: Real> Rows<'_, T> {
    fn by_cheapest(self, vectors: &[&[T]], queries: usize, sums: &mut [&mut [f64]], packed: &mut Vec<Packed>) {
        match ScoreRoute::cheapest(Shape::of(self.positions, self.o, self.columns()), queries) {
            ScoreRoute::Gradient => self.by_gradient(vectors, queries, sums, packed),
            ScoreRoute::Rows => self.by_rows(vectors, queries, sums),
        }
    }

    fn low_rank_by_cheapest(
        self,
        vectors: &[LowRank<'_, T>],
        queries: usize,
        sums: &mut [&mut [f64]],
        packed: &mut Vec<Packed>,
    ) {
        let rank = vectors.iter().map(|vectors| vectors.rank).max().unwrap_or(0);
        match LowRankRoute::cheapest(Shape::of(self.positions, self.o, self.columns()), queries, rank) {
            LowRankRoute::Factors => self.by_factors(vectors, queries, sums),
            LowRankRoute::Gradient => self.by_expansion(vectors, queries, sums, packed),
        }
    }

    /// Route F.
    fn by_gradient(self, vectors: &[&[T]], queries: usize, sums: &mut [&mut [f64]], packed: &mut Vec<Packed>) {
        let (columns, size) = (self.columns(), self.o * self.columns());
        self.by_block(queries, 0, sums, packed, |block, _| {
            let mut first = 0;
            for vectors in vectors.iter().filter(|vectors| !vectors.is_empty()) {
                let n = vectors.len() / size;
                block.multiply(first, n, &vectors[block.rows.start * columns..], size);
                first += n;
            }
        });
    }

    /// Route W: `s_tᵀ Z_q a_t` for every row, one query at a time.
    fn by_rows(self, vectors: &[&[T]], queries: usize, sums: &mut [&mut [f64]]) {
        let (rows, o, i, n) = (self.positions.rows(), self.o, self.columns(), self.n);
        let each: Vec<&[T]> = vectors.iter().flat_map(|vectors| vectors.chunks_exact(o * i)).collect();
        let columns: Vec<Vec<f64>> = each
            .into_par_iter()
            .with_max_len(1)
            .map_init(
                || (vec![T::of(0.0); rows.min(ROWS) * o], vec![0.0; rows]),
                |(turned, values), vector| {
                    // what the column of ones adds
                    let ones: Vec<T> = match self.bias {
                        true => vector.iter().skip(n).step_by(i).copied().collect(),
                        false => vec![T::of(0.0); o],
                    };
                    let blocks = self.a.chunks(ROWS * n).zip(self.s.chunks(ROWS * o)).zip(values.chunks_mut(ROWS));
                    for ((a, s), values) in blocks {
                        let rows = values.len();
                        gemm::matmul(
                            ViewMut::dense(turned, rows, o),
                            gemm::Into::Replace,
                            T::of(1.0),
                            View::dense(a, rows, n),
                            View::new(vector, o, n, i).t(),
                            Threads::One,
                        );
                        let rows = s.chunks_exact(o).zip(turned.chunks_exact_mut(o));
                        for (value, (s, turned)) in values.iter_mut().zip(rows) {
                            turned.iter_mut().zip(&ones).for_each(|(y, one)| *y += *one);
                            *value = sum_over(s, turned, |s, y| s.wide() * y.wide());
                        }
                    }
                    self.positions.iter().map(|range| values[range].iter().sum()).collect()
                },
            )
            .collect();
        for (q, column) in columns.into_iter().enumerate() {
            for (m, score) in column.into_iter().enumerate() {
                sums.iter_mut().for_each(|scores| scores[m * queries + q] += score);
            }
        }
    }
}
