//! Eigenvalues corrected by squared gradients in the eigenbasis (George et al. 2018, EK-FAC).

use std::ops::Range;

use rayon::prelude::*;

use crate::contraction::rotated::{LayerRows, RowBuffers, TILE_ROWS};
use crate::error::Error;
use crate::estimate::eigenbasis::Eigenbasis;
use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::linalg::matrix::Matrix;
use crate::network::layer::LayerSpec;
use crate::network::tap::{Tap, TapSink};

/// Running sum of squared example gradients in an eigenbasis, `Σ_m (U_Sᵀ G_m U_A)²`.
///
/// # Source
/// `docs/method.md`, Curvature.
#[derive(Debug)]
pub struct LambdaSum<'a, T> {
    layers: &'a [LayerSpec],
    /// By layer; `None` is the standard basis (diagonal curvature).
    bases: Vec<Option<&'a Eigenbasis<T>>>,
    /// By layer, `[O, columns]`: multiplies gradients before they are rotated (`docs/method.md`, Source).
    conditioners: Vec<Option<&'a [T]>>,
    pending: Vec<Vec<T>>,
    sum: Vec<Vec<f64>>,
    examples: u64,
    buffers: RowBuffers<T>,
    squares: [Vec<T>; 2],
}

/// Mean squared example gradient in the eigenbasis, Λ, undamped.
///
/// # Units
/// (loss / parameter)² for each example, an example's loss being the sum over its positions.
/// # Source
/// Grosse et al. 2023, eq. 20; `docs/method.md`, Curvature.
#[derive(Debug, Clone)]
pub struct Lambda {
    /// `[O, columns]` for each layer.
    pub layers: Vec<Matrix<f64>>,
    /// Examples in the mean.
    pub examples: u64,
}

impl<'a, T: Real> LambdaSum<'a, T> {
    /// Empty sums; `bases[l]` is layer `l`'s eigenbasis, `None` for the standard one.
    pub fn new(layers: &'a [LayerSpec], bases: Vec<Option<&'a Eigenbasis<T>>>) -> Self {
        let sizes = || layers.iter().map(LayerSpec::parameters);
        Self {
            layers,
            bases,
            conditioners: vec![None; layers.len()],
            pending: sizes().map(|n| vec![T::of(0.0); n]).collect(),
            sum: sizes().map(|n| vec![0.0; n]).collect(),
            examples: 0,
            buffers: RowBuffers::default(),
            squares: [Vec::new(), Vec::new()],
        }
    }

    /// Sets what gradients are multiplied by elementwise before they are rotated.
    #[must_use]
    pub fn conditioned(mut self, conditioners: Vec<Option<&'a [T]>>) -> Self {
        self.conditioners = conditioners;
        self
    }

    /// Sets the arithmetic that gradients are formed and rotated in; their squares and sums are not rounded.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.buffers.products = products;
        self
    }

    /// Moves what was added since the last call into the `f64` sums; `examples` are those added since, each with
    /// `draws` labels.
    ///
    /// # Errors
    /// [`Error::NonFinite`], naming the first layer whose sum is not finite.
    pub fn flush(&mut self, examples: Range<usize>, draws: usize) -> Result<(), Error> {
        self.examples += (examples.len() * draws) as u64;
        self.sum.par_iter_mut().zip(&mut self.pending).for_each(|(sum, pending)| {
            for (sum, x) in sum.iter_mut().zip(pending) {
                *sum += x.wide();
                *x = T::of(0.0);
            }
        });
        match self.sum.iter().position(|sum| !sum.iter().all(|x| x.is_finite())) {
            Some(l) => {
                Err(Error::NonFinite { layer: self.layers[l].name.clone(), what: "a squared gradient", examples })
            }
            None => Ok(()),
        }
    }

    /// The sums by name, for storage; only meaningful right after [`LambdaSum::flush`].
    pub fn state(&self) -> Vec<(String, &[f64])> {
        self.sum.iter().enumerate().map(|(l, sum)| (format!("lambda.{l}"), sum.as_slice())).collect()
    }

    /// Examples counted so far.
    pub fn examples(&self) -> u64 {
        self.examples
    }

    /// Adds stored sums of another shard or of the interrupted pass that goes on.
    ///
    /// # Errors
    /// [`Error::Shape`] if a sum is missing or has another size.
    pub fn add_state<'s>(
        &mut self,
        mut find: impl FnMut(&str) -> Option<&'s [f64]>,
        examples: u64,
    ) -> Result<(), Error> {
        for (l, sum) in self.sum.iter_mut().enumerate() {
            let found = find(&format!("lambda.{l}")).unwrap_or(&[]);
            if found.len() != sum.len() {
                let (layer, what) = (self.layers[l].name.clone(), "a stored sum of squared gradients");
                return Err(Error::Shape { layer, what, found: vec![found.len()], expected: vec![sum.len()] });
            }
            sum.iter_mut().zip(found).for_each(|(sum, x)| *sum += x);
        }
        self.examples += examples;
        Ok(())
    }

    /// The means.
    ///
    /// # Errors
    /// [`Error::NoExamples`] if nothing was added.
    pub fn finish(self) -> Result<Lambda, Error> {
        if self.examples == 0 {
            let layer = self.layers.first().map_or_else(String::new, |layer| layer.name.clone());
            return Err(Error::NoExamples { layer, what: "its lambda" });
        }
        let n = self.examples as f64;
        let mean = |mut sum: Vec<f64>| {
            sum.iter_mut().for_each(|x| *x /= n);
            sum
        };
        let layers = self.layers.iter().zip(self.sum);
        let layers = layers.map(|(layer, sum)| Matrix::new(mean(sum), layer.outputs, layer.columns())).collect();
        Ok(Lambda { layers, examples: self.examples })
    }
}

impl<T: Real> TapSink for LambdaSum<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.add(tap)?;
        if let Some(basis) = self.bases[tap.layer.0] {
            basis.forget();
        }
        Ok(())
    }
}

impl<T: Real> LambdaSum<'_, T> {
    fn add(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        let layer = &self.layers[l];
        let rows = LayerRows::of(tap, layer, self.bases[l], self.conditioners[l]);
        let (o, i) = (layer.outputs, layer.columns());
        if tap.positions.all_single() && rows.conditioner.is_none() {
            // A gradient of one row is an outer product, so its square is one: Λ += (S̃²)ᵀ Ã².
            let (a, s) = self.buffers.single_rows(rows)?;
            let b = tap.positions.examples();
            let square = |into: &mut Vec<T>, x: &[T]| {
                into.clear();
                into.extend(x.iter().map(|&x| x * x));
            };
            let [a2, s2] = &mut self.squares;
            square(a2, a);
            square(s2, s);
            let lambda = ViewMut::dense(&mut self.pending[l], o, i);
            let (s2, a2) = (View::dense(s2, b, o), View::dense(a2, b, i));
            gemm::matmul(lambda, gemm::Into::Add, T::of(1.0), s2.t(), a2, Threads::Pool);
            return Ok(());
        }
        let mut blocks: Vec<&mut [T]> = self.pending[l].chunks_mut(TILE_ROWS * i).collect();
        self.buffers.for_each_tile(rows, &mut blocks, |lambda, _, tile| {
            for (lambda, g) in lambda.iter_mut().zip(tile) {
                *lambda += *g * *g;
            }
        })
    }
}
