//! Self-influence: quadratic forms of each example's gradient in a function of the curvature.

use crate::contraction::rotated::{LayerRows, RowBuffers, TILE_ROWS};
use crate::error::Error;
use crate::estimate::factors::{Factors, Spectrum};
use crate::estimate::spectral::SpectralFn;
use crate::linalg::dot::{dot, sum_over};
use crate::linalg::gemm::{self, Real, Threads, View, ViewMut};
use crate::network::layer::LayerSpec;
use crate::network::tap::{Tap, TapSink};

/// `<G_m, f(H) G_m>` for every example of a batch, summed over layers: self-influence without any
/// matrix between examples.
///
/// In the eigenbasis this is `Σ f(Λ) ⊙ (U_Sᵀ G_m U_A)²`, so nothing is rotated back.
///
/// # Source
/// `docs/method.md`, Score.
#[derive(Debug)]
pub struct QuadraticForm<'a, T> {
    layers: &'a [LayerSpec],
    factors: &'a Factors<T>,
    spectra: Vec<Spectrum<T>>,
    values: Vec<f64>,
    buffers: RowBuffers<T>,
    squares: [Vec<T>; 2],
}

impl<'a, T: Real> QuadraticForm<'a, T> {
    /// For one function by layer.
    pub fn new(layers: &'a [LayerSpec], factors: &'a Factors<T>, f: impl Fn(usize) -> SpectralFn) -> Self {
        let spectra = factors.layers.iter().enumerate().map(|(l, layer)| layer.spectrum(&f(l))).collect();
        Self { layers, factors, spectra, values: vec![], buffers: RowBuffers::default(), squares: [vec![], vec![]] }
    }

    /// The values of the batch that was differentiated since the last call, one for each example.
    pub fn take(&mut self) -> Vec<f64> {
        std::mem::take(&mut self.values)
    }
}

impl<T: Real> TapSink for QuadraticForm<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let l = tap.layer.0;
        let layer = &self.layers[l];
        let rows = LayerRows::of(tap, layer, self.factors.layers[l].basis.as_ref(), None);
        let (o, i, b) = (layer.outputs, layer.columns(), tap.positions.examples());
        self.values.resize(b, 0.0);
        let spectrum = &self.spectra[l];
        if tap.positions.all_single() {
            let (a, s) = self.buffers.single_rows(rows)?;
            let [a2, s2] = &mut self.squares;
            for (into, x) in [(&mut *a2, a), (&mut *s2, s)] {
                into.clear();
                into.extend(x.iter().map(|&x| x * x));
            }
            let mut weighted = vec![T::of(0.0); b * o];
            match spectrum {
                Spectrum::Each(f) => {
                    let (a2, f) = (View::dense(a2, b, i), View::dense(f, o, i));
                    gemm::matmul(
                        ViewMut::dense(&mut weighted, b, o),
                        gemm::Into::Replace,
                        T::of(1.0),
                        a2,
                        f.t(),
                        Threads::Pool,
                    );
                }
                Spectrum::All(f) => {
                    for (row, a2) in weighted.chunks_exact_mut(o).zip(a2.chunks_exact(i)) {
                        row.fill(*f * T::of(a2.iter().map(|x| x.wide()).sum()));
                    }
                }
            }
            for (m, value) in self.values.iter_mut().enumerate() {
                let pairs = weighted[m * o..(m + 1) * o].iter().zip(&s2[m * o..(m + 1) * o]);
                *value += pairs.map(|(w, s)| w.wide() * s.wide()).sum::<f64>();
            }
            return Ok(());
        }
        let mut blocks: Vec<(usize, Vec<f64>)> =
            (0..o.div_ceil(TILE_ROWS)).map(|block| (block, vec![0.0; b])).collect();
        self.buffers.for_each_tile(rows, &mut blocks, |(block, values), m, tile| {
            values[m] += match spectrum {
                Spectrum::Each(f) => {
                    let f = &f[*block * TILE_ROWS * i..][..tile.len()];
                    sum_over(tile, f, |g, f| g.wide() * g.wide() * f.wide())
                }
                Spectrum::All(f) => f.wide() * dot(tile, tile),
            };
        })?;
        for (_, block) in blocks {
            self.values.iter_mut().zip(block).for_each(|(value, x)| *value += x);
        }
        Ok(())
    }
}
