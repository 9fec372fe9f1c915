//! Several vectors in the space of all tracked weights, and the arithmetic that joint solves need of them.

use ascribe_curvature::LayerSpec;
use ascribe_curvature::gemm::{self, Real, Threads, View, ViewMut};
use rayon::prelude::*;

/// Columns of a dot product in the vectors' own type; their sums are added in f64.
const COLUMNS: usize = 1 << 14;

/// Vectors in the space of all tracked weights: for each layer `[count, O, columns]`.
#[derive(Debug, Clone)]
pub(super) struct Block<T> {
    pub(super) count: usize,
    pub(super) layers: Vec<Vec<T>>,
}

impl<T: Real> Block<T> {
    pub(super) fn zeros(specs: &[LayerSpec], count: usize) -> Self {
        Self { count, layers: specs.iter().map(|spec| vec![T::of(0.0); count * spec.parameters()]).collect() }
    }

    /// Squared norms.
    pub(super) fn squares(&self) -> Vec<f64> {
        let mut sums = vec![0.0; self.count];
        for layer in self.layers.iter().filter(|_| self.count > 0) {
            let squares: Vec<f64> = layer
                .par_chunks_exact(layer.len() / self.count)
                .map(|vector| vector.iter().map(|x| x.wide() * x.wide()).sum())
                .collect();
            sums.iter_mut().zip(squares).for_each(|(sum, square)| *sum += square);
        }
        sums
    }

    /// Multiplies each vector.
    pub(super) fn scale(&mut self, factors: &[f64]) {
        for layer in self.layers.iter_mut().filter(|_| self.count > 0) {
            let size = layer.len() / self.count;
            for (vector, factor) in layer.chunks_exact_mut(size).zip(factors) {
                vector.iter_mut().for_each(|x| *x = T::of(x.wide() * factor));
            }
        }
    }

    /// `Σ_layers weight · <a_i, b_j>`, `[count, other's count]`.
    pub(super) fn products(&self, other: &Self, weights: impl Fn(usize) -> f64) -> Vec<f64> {
        let (m, n) = (self.count, other.count);
        let mut sum = vec![0.0; m * n];
        let mut part = vec![T::of(0.0); m * n];
        for (l, (a, b)) in self.layers.iter().zip(&other.layers).enumerate().filter(|_| m * n > 0) {
            let (size, weight) = (a.len() / m, weights(l));
            for start in (0..size).step_by(COLUMNS) {
                let columns = COLUMNS.min(size - start);
                let (a, b) = (View::new(&a[start..], m, columns, size), View::new(&b[start..], n, columns, size));
                gemm::matmul(ViewMut::dense(&mut part, m, n), gemm::Into::Replace, T::of(1.0), a, b.t(), Threads::Pool);
                sum.iter_mut().zip(&part).for_each(|(sum, part)| *sum += weight * part.wide());
            }
        }
        sum
    }

    /// Adds `weight · coefficients · other`, `coefficients: [count, other's count]`, the weight that of each layer.
    pub(super) fn add(&mut self, coefficients: &[f64], other: &Self, weight: impl Fn(usize) -> f64) {
        let (m, n) = (self.count, other.count);
        let coefficients: Vec<T> = coefficients.iter().map(|&c| T::of(c)).collect();
        for (l, (sum, vectors)) in self.layers.iter_mut().zip(&other.layers).enumerate().filter(|_| m * n > 0) {
            let size = vectors.len() / n;
            let (coefficients, vectors) = (View::dense(&coefficients, m, n), View::dense(vectors, n, size));
            let sum = ViewMut::dense(sum, m, size);
            gemm::matmul(sum, gemm::Into::Add, T::of(weight(l)), coefficients, vectors, Threads::Pool);
        }
    }

    /// Sets what lies in other layers to zero.
    pub(super) fn keep_layer(&mut self, l: usize) {
        let others = self.layers.iter_mut().enumerate().filter(|(other, _)| *other != l);
        others.for_each(|(_, layer)| layer.fill(T::of(0.0)));
    }

    /// Divides each vector by its norm.
    pub(super) fn normalise(&mut self) {
        let inverse = |square: f64| if square > 0.0 { 1.0 / square.sqrt() } else { 0.0 };
        self.scale(&self.squares().into_iter().map(inverse).collect::<Vec<_>>());
    }

    /// Takes the part along a unit vector off one vector.
    pub(super) fn subtract_along(&mut self, unit: &Self) {
        let dot = |(a, b): (&Vec<T>, &Vec<T>)| a.iter().zip(b).map(|(a, b)| a.wide() * b.wide()).sum::<f64>();
        let along = T::of(self.layers.iter().zip(&unit.layers).map(dot).sum());
        for (layer, unit) in self.layers.iter_mut().zip(&unit.layers) {
            layer.iter_mut().zip(unit).for_each(|(x, u)| *x -= along * *u);
        }
    }

    /// The vectors of several blocks, one after the other.
    pub(super) fn joined(specs: &[LayerSpec], blocks: Vec<Self>) -> Self {
        let count = blocks.iter().map(|block| block.count).sum();
        let of = |l: usize| blocks.iter().flat_map(|block| block.layers[l].iter().copied()).collect();
        Self { count, layers: (0..specs.len()).map(of).collect() }
    }

    /// The vectors of these numbers.
    pub(super) fn chosen(&self, which: &[usize]) -> Self {
        let of = |layer: &Vec<T>| {
            let size = layer.len() / self.count.max(1);
            which.iter().flat_map(|&k| layer[k * size..(k + 1) * size].iter().copied()).collect()
        };
        Self { count: which.len(), layers: self.layers.iter().map(of).collect() }
    }
}
