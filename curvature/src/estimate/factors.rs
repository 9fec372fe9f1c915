//! The curvature of every layer in one of its approximations, and functions of it applied to gradients.

use rayon::prelude::*;

use crate::error::Error;
use crate::estimate::covariance::Covariance;
use crate::estimate::eigenbasis::Eigenbasis;
use crate::estimate::lambda::Lambda;
use crate::estimate::pair_weights::PairWeights;
use crate::estimate::spectral::SpectralFn;
use crate::linalg::block_diagonal::Turn;
use crate::linalg::gemm::{Products, Real, Threads};
use crate::linalg::matrix::Matrix;
use crate::network::layer::LayerSpec;

/// How the curvature of a layer is approximated (`docs/method.md`, Curvature).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CurvatureKind {
    /// The unit matrix: scores become gradient dot products.
    Identity,
    /// The diagonal of the Fisher in the standard basis.
    Diagonal,
    /// `T̄ · S ⊗ A`.
    Kfac,
    /// The eigenbasis of `S ⊗ A` with the Fisher's own diagonal there.
    Ekfac,
    /// `T̄ · S ⊗ A / tr S` of sums in which each position counts with its other side's squared norm.
    Tkfac,
    /// `L ⊗ R / tr L` with `L` and `R` the means of `G Gᵀ` and `Gᵀ G`.
    Shampoo,
    /// The eigenbasis of `L ⊗ R` with the Fisher's own diagonal there.
    Soap,
    /// The diagonal of the root of Adam's second moments in the standard basis.
    Adam,
}

impl CurvatureKind {
    /// Whether covariances and eigenbases are needed.
    pub fn has_eigenbasis(self) -> bool {
        !matches!(self, Self::Identity | Self::Diagonal | Self::Adam)
    }

    /// Which pairs of positions its two sums add up.
    pub fn pair_weights(self) -> PairWeights {
        match self {
            Self::Identity | Self::Diagonal | Self::Kfac | Self::Ekfac | Self::Adam => PairWeights::Positions,
            Self::Tkfac => PairWeights::Norms,
            Self::Shampoo | Self::Soap => PairWeights::Gradients,
        }
    }

    /// Whether a pass for Λ is needed.
    pub fn has_lambda_pass(self) -> bool {
        matches!(self, Self::Diagonal | Self::Ekfac | Self::Soap)
    }

    /// Whether its eigenvalues are numbers of their own: not 1, and not products of those of two covariances.
    pub fn has_lambda(self) -> bool {
        self.has_lambda_pass() || self == Self::Adam
    }
}

/// What is added to every eigenvalue before it is inverted.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Damping {
    /// One number that is added in every layer.
    Absolute(f64),
    /// This multiple of the mean of the layer's eigenvalues, zeros included.
    MeanFraction(f64),
}

impl Default for Damping {
    /// 0.1 times the layer's mean eigenvalue, as in Grosse et al. 2023.
    fn default() -> Self {
        Self::MeanFraction(0.1)
    }
}

/// One layer's curvature: `H = U diag(Λ) Uᵀ`, `U = U_S ⊗ U_A`.
///
/// # Source
/// `docs/method.md`, Curvature.
#[derive(Debug, Clone)]
pub struct LayerFactors<T> {
    /// `None` is the standard basis.
    pub basis: Option<Eigenbasis<T>>,
    /// Λ, `[O, columns]`, undamped; `None` is 1 everywhere, without damping.
    pub lambda: Option<Matrix<f64>>,
    /// How vectors are rotated.
    products: Products,
}

/// Curvature of every tracked layer.
#[derive(Debug, Clone)]
pub struct Factors<T> {
    /// How it was approximated.
    pub kind: CurvatureKind,
    /// In the order of [`crate::Network::layers`].
    pub layers: Vec<LayerFactors<T>>,
}

impl<T: Real> Factors<T> {
    /// The unit matrix for every layer.
    pub fn identity(layers: usize) -> Self {
        let layers = (0..layers).map(|_| LayerFactors::new(None, None)).collect();
        Self { kind: CurvatureKind::Identity, layers }
    }

    /// The Fisher's diagonal, from Λ in the standard basis.
    pub fn diagonal(lambda: Lambda) -> Self {
        let layers = lambda.layers.into_iter().map(|lambda| LayerFactors::new(None, Some(lambda))).collect();
        Self { kind: CurvatureKind::Diagonal, layers }
    }

    /// `√v̂` in the standard basis, of bias-corrected second moments `v̂`: what Adam divides a step by, but for its ε. In
    /// the place of Λ are these roots.
    ///
    /// # Source
    /// Kingma and Ba 2015, Algorithm 1; `docs/method.md`, Curvature, Adam's second moments.
    pub fn adam(roots: Lambda) -> Self {
        Self { kind: CurvatureKind::Adam, ..Self::diagonal(roots) }
    }

    /// `scale · λ_S λ_Aᵀ` in the eigenbasis, with a scale for each layer. It is T̄ ([`Counts::mean_positions`]); 1
    /// gives kronfluence's per-position scale.
    ///
    /// [`Counts::mean_positions`]: crate::Counts::mean_positions
    pub fn kfac(bases: Vec<Eigenbasis<T>>, scales: &[f64]) -> Self {
        let layer = |(basis, scale): (Eigenbasis<T>, &f64)| {
            let (s, a) = (&basis.output.values, &basis.input.values);
            let products = s.iter().flat_map(|s| a.iter().map(move |a| scale * s * a)).collect();
            let lambda = Some(Matrix::new(products, s.len(), a.len()));
            LayerFactors::new(Some(basis), lambda)
        };
        Self { kind: CurvatureKind::Kfac, layers: bases.into_iter().zip(scales).map(layer).collect() }
    }

    /// `T̄ / tr S · λ_S λ_Aᵀ` in the eigenbasis, of sums whose traces are both the mean squared norm of what they
    /// approximate: TKFAC, and Shampoo, whose T̄ is 1. 0 at a layer that no gradient reached.
    ///
    /// # Source
    /// Gao et al. 2021, eq. 8; Morwani et al. 2024, Corollary 1; `docs/method.md`, Curvature, Other Kronecker
    /// factorisations.
    pub fn of_trace(kind: CurvatureKind, bases: Vec<Eigenbasis<T>>, mean_positions: &[f64]) -> Self {
        let scale = |(basis, positions): (&Eigenbasis<T>, &f64)| {
            let trace: f64 = basis.output.values.iter().sum();
            if trace > 0.0 { positions / trace } else { 0.0 }
        };
        let scales: Vec<f64> = bases.iter().zip(mean_positions).map(scale).collect();
        Self { kind, ..Self::kfac(bases, &scales) }
    }

    /// Λ in the eigenbasis it was taken in.
    pub fn ekfac(bases: Vec<Eigenbasis<T>>, lambda: Lambda) -> Self {
        Self::ekfac_of_trained(bases.into_iter().map(Some).collect(), lambda)
    }

    /// Λ in the eigenbases that it was taken in, where some layers may not have been trained: they have no basis, and nothing
    /// is taken there.
    pub fn ekfac_of_trained(bases: Vec<Option<Eigenbasis<T>>>, lambda: Lambda) -> Self {
        let layer = |(basis, lambda): (Option<_>, _)| match basis {
            Some(_) => LayerFactors::new(basis, Some(lambda)),
            None => LayerFactors::new(None, None),
        };
        Self { kind: CurvatureKind::Ekfac, layers: bases.into_iter().zip(lambda.layers).map(layer).collect() }
    }

    /// Sets the arithmetic that vectors are rotated in.
    #[must_use]
    pub fn with_products(mut self, products: Products) -> Self {
        self.layers.iter_mut().for_each(|layer| layer.products = products);
        self
    }

    /// K-FAC's scale of each layer for a covariance: T̄.
    pub fn kfac_scales(covariance: &Covariance) -> Vec<f64> {
        (0..covariance.outputs.len()).map(|l| covariance.counts.mean_positions(l)).collect()
    }
}

impl<T: Real> LayerFactors<T> {
    /// Λ in a basis, whose vectors are rotated in their own type.
    pub fn new(basis: Option<Eigenbasis<T>>, lambda: Option<Matrix<f64>>) -> Self {
        Self { basis, lambda, products: Products::Exact }
    }

    /// Says that the numbers are not needed for a while ([`Matrix::forget`]).
    pub fn forget(&self) {
        if let Some(basis) = &self.basis {
            basis.forget();
        }
        if let Some(lambda) = &self.lambda {
            lambda.forget();
        }
    }

    /// The number that a damping means for this layer; 0 for identity curvature.
    pub fn damping(&self, damping: Damping) -> f64 {
        match (&self.lambda, damping) {
            (None, _) => 0.0,
            (Some(_), Damping::Absolute(damping)) => damping,
            (Some(lambda), Damping::MeanFraction(fraction)) => {
                let values = lambda.as_slice();
                fraction * values.iter().sum::<f64>() / values.len() as f64
            }
        }
    }

    /// `f(Λ)`, `[O, columns]`, evaluated in `f64` and rounded once; a single number if Λ is 1 everywhere.
    pub fn spectrum(&self, f: &SpectralFn) -> Spectrum<T> {
        match &self.lambda {
            Some(lambda) => Spectrum::Each(lambda.as_slice().par_iter().map(|&sigma| T::of(f.at(sigma))).collect()),
            None => Spectrum::All(T::of(f.at(1.0))),
        }
    }

    /// Rotates gradients into the basis: `U_Sᵀ V U_A` for each `V: [O, columns]` of `vectors`.
    pub fn rotate(&self, vectors: &mut [T], layer: &LayerSpec) {
        self.turn(vectors, layer, Turn::Into);
    }

    /// Rotates back: `U_S V U_Aᵀ`.
    pub fn rotate_back(&self, vectors: &mut [T], layer: &LayerSpec) {
        self.turn(vectors, layer, Turn::Back);
    }

    /// Rotates factors back: with `V = Σ_k l_k r_kᵀ` in the basis, `U_S l_k` and `U_A r_k` for every row.
    ///
    /// # Shapes
    /// `left: [_, O]`, `right: [_, columns]`.
    pub fn rotate_factors_back(&self, left: &mut Vec<T>, right: &mut Vec<T>) {
        let Some(basis) = &self.basis else { return };
        for (rows, vectors) in [(left, &basis.output.vectors), (right, &basis.input.vectors)] {
            let mut turned = vec![T::of(0.0); rows.len()];
            vectors.turn_rows(&mut turned, rows, Turn::Back, self.products, Threads::Pool);
            *rows = turned;
        }
    }

    /// Turns both sides of each `V`.
    fn turn(&self, vectors: &mut [T], layer: &LayerSpec, turn: Turn) {
        let Some(basis) = &self.basis else { return };
        let (o, i) = (layer.outputs, layer.columns());
        let one = |half: &mut [T], vector: &mut [T], threads| {
            basis.input.vectors.turn_rows(half, vector, turn, self.products, threads);
            basis.output.vectors.turn_columns(vector, half, i, turn, self.products, threads);
        };
        let half = || vec![T::of(0.0); o * i];
        // A vector a thread keeps its half in that core's cache, and no stack of halves exists.
        if vectors.len() / (o * i) >= rayon::current_num_threads() {
            let tasks = vectors.par_chunks_exact_mut(o * i).with_max_len(1);
            tasks.for_each_init(half, |half, vector| one(half, vector, Threads::One));
        } else {
            let mut half = half();
            vectors.chunks_exact_mut(o * i).for_each(|vector| one(&mut half, vector, Threads::Pool));
        }
    }

    /// `f(H) vec(V)` for each `V: [O, columns]` of `vectors`, in place (`docs/method.md`, Curvature).
    pub fn apply(&self, f: &SpectralFn, vectors: &mut [T], layer: &LayerSpec) {
        self.rotate(vectors, layer);
        self.spectrum(f).scale(vectors);
        self.rotate_back(vectors, layer);
    }

    /// The curvature as one matrix, `[O · columns, O · columns]` with `vec` row by row: for tests.
    pub fn to_dense(&self, layer: &LayerSpec) -> Result<Vec<Vec<f64>>, Error> {
        let n = layer.parameters();
        let mut rows = Vec::with_capacity(n);
        for k in 0..n {
            let mut unit = vec![T::of(0.0); n];
            unit[k] = T::of(1.0);
            self.rotate(&mut unit, layer);
            if let Some(lambda) = &self.lambda {
                unit.iter_mut().zip(lambda.as_slice()).for_each(|(x, sigma)| *x *= T::of(*sigma));
            }
            self.rotate_back(&mut unit, layer);
            rows.push(unit.iter().map(|x| x.wide()).collect());
        }
        Ok(rows)
    }
}

/// A spectral function's values on a layer's Λ.
#[derive(Debug, Clone, PartialEq)]
pub enum Spectrum<T> {
    /// A value for each eigenvalue, `[O, columns]`.
    Each(Vec<T>),
    /// One value for all eigenvalues.
    All(T),
}

impl<T: Real> Spectrum<T> {
    /// Multiplies each of `vectors` elementwise.
    pub fn scale(&self, vectors: &mut [T]) {
        match self {
            Self::Each(values) => {
                vectors.par_chunks_exact_mut(values.len()).for_each(|vector| {
                    vector.iter_mut().zip(values).for_each(|(x, f)| *x *= *f);
                });
            }
            Self::All(value) => vectors.iter_mut().for_each(|x| *x *= *value),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::estimate::eigenbasis::Eigenpairs;

    #[test]
    fn vectors_are_rotated_in_the_arithmetic_that_was_asked_for() {
        if !Products::Bf16.run_here() {
            return; // nothing to test without AVX512-BF16
        }
        let wave = |n: usize, step: f32| (0..n).map(|k| (k as f32 * step).sin()).collect::<Vec<f32>>();
        let (o, i) = (40, 33);
        let layer =
            LayerSpec { name: "fc".into(), outputs: o, inputs: i, bias: false, input_group: 0, vocabulary: None };
        // a reflection: orthogonal, as eigenvectors are, so that nothing cancels
        let pairs = |n: usize| {
            let v = wave(n, 0.7);
            let square = v.iter().map(|x| x * x).sum::<f32>();
            let reflected = |k: usize| f32::from(k / n == k % n) - 2.0 * v[k / n] * v[k % n] / square;
            let vectors = Matrix::new((0..n * n).map(reflected).collect(), n, n).into();
            Eigenpairs { vectors, values: vec![1.0; n], clipped: 0 }
        };
        let basis = Eigenbasis { output: pairs(o), input: pairs(i) };
        let of = |products| {
            let factors =
                Factors { kind: CurvatureKind::Ekfac, layers: vec![LayerFactors::new(Some(basis.clone()), None)] };
            factors.with_products(products)
        };
        let [exact, rounded] = [Products::Exact, Products::Bf16].map(of);
        for turn in [LayerFactors::rotate, LayerFactors::rotate_back] {
            let [want, found] = [&exact, &rounded].map(|factors| {
                let mut vectors = wave(o * i, 1.3);
                turn(&factors.layers[0], &mut vectors, &layer);
                vectors
            });
            let norm = |x: &mut dyn Iterator<Item = f32>| x.map(|x| f64::from(x * x)).sum::<f64>().sqrt();
            let error = norm(&mut want.iter().zip(&found).map(|(x, y)| x - y)) / norm(&mut want.iter().copied());
            assert!((1e-4..1e-2).contains(&error), "{error}");
        }
    }
}
