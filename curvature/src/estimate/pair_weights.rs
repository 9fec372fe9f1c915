//! Which pairs of an example's positions the two sums of a Kronecker factorisation add up, and rows multiplied with
//! these weights.

use rayon::prelude::*;

use crate::linalg::dot::dot;
use crate::linalg::gemm::{self, Products, Real, Threads, View, ViewMut};
use crate::network::tap::Positions;

/// Rows that one task weighs where each has a weight of its own.
const ROWS: usize = 64;

/// The weight `w` of a pair of positions `t`, `t'` of one example in `Σ_{t,t'} w a_t a_{t'}ᵀ`, the sum of a layer's
/// inputs, where `s` are the gradients at its outputs. In the sum of these, `a` and `s` change places.
///
/// # Source
/// `docs/method.md`, Curvature, Other Kronecker factorisations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PairWeights {
    /// 1 for a position with itself, else 0: the covariances of K-FAC (Martens and Grosse 2015).
    Positions,
    /// `|s_t|²` for a position with itself, else 0: TKFAC (Gao et al. 2021).
    Norms,
    /// `s_t · s_{t'}`: the sums are `Gᵀ G` and `G Gᵀ` of gradients of whole examples, `G = Σ_t s_t a_tᵀ`, which are those
    /// of Shampoo (Gupta, Koren and Singer 2018).
    Gradients,
}

impl PairWeights {
    /// Whether the sums of a layer's inputs depend on the gradients at its outputs, so that layers that read the same
    /// input have sums of their own.
    pub fn couple_sides(self) -> bool {
        self != Self::Positions
    }
}

/// `W x`: every row of `x` becomes the sum of its example's rows, each with the weight of the pair.
///
/// # Shapes
/// `x`: `[R, n]`, `other`: `[R, k]`, the rows that weights are made of.
/// # Panics
/// If `weights` are those of [`PairWeights::Positions`], which need no product.
pub(crate) fn weigh<T: Real>(
    into: &mut Vec<T>,
    (x, n): (&[T], usize),
    (other, k): (&[T], usize),
    positions: &Positions,
    weights: PairWeights,
    products: Products,
) {
    assert!(weights.couple_sides(), "covariances of positions have no weights");
    into.resize(x.len(), T::of(0.0));
    if weights == PairWeights::Norms || positions.all_single() {
        let tasks = into.par_chunks_mut(ROWS * n).zip(x.par_chunks(ROWS * n)).zip(other.par_chunks(ROWS * k));
        tasks.for_each(|((into, x), other)| {
            for ((into, x), other) in into.chunks_exact_mut(n).zip(x.chunks_exact(n)).zip(other.chunks_exact(k)) {
                let weight = T::of(dot(other, other));
                into.iter_mut().zip(x).for_each(|(into, x)| *into = weight * *x);
            }
        });
        return;
    }
    let mut rest = into.as_mut_slice();
    let mut examples = vec![];
    for rows in positions.iter().filter(|rows| !rows.is_empty()) {
        let (own, others) = std::mem::take(&mut rest).split_at_mut(rows.len() * n);
        examples.push((own, rows));
        rest = others;
    }
    let one = |pairs: &mut Vec<T>, (into, rows): (&mut [T], std::ops::Range<usize>), threads| {
        let t = rows.len();
        pairs.resize(t * t, T::of(0.0));
        let other = View::dense(&other[rows.start * k..rows.end * k], t, k).to(products);
        gemm::matmul(ViewMut::dense(pairs, t, t), gemm::Into::Replace, T::of(1.0), other, other.t(), threads);
        let x = View::dense(&x[rows.start * n..rows.end * n], t, n).to(products);
        let pairs = View::dense(pairs, t, t).to(products);
        gemm::matmul(ViewMut::dense(into, t, n), gemm::Into::Replace, T::of(1.0), pairs, x, threads);
    };
    // one thread an example where there are enough of them; the numbers are the same
    if examples.len() >= rayon::current_num_threads() {
        examples.into_par_iter().for_each_init(Vec::new, |pairs, example| one(pairs, example, Threads::One));
    } else {
        let mut pairs = vec![];
        examples.into_iter().for_each(|example| one(&mut pairs, example, Threads::Pool));
    }
}

#[cfg(test)]
mod tests {
    use candle_core::{Device, Tensor};

    use super::*;
    use crate::error::Error;
    use crate::estimate::covariance::CovarianceSum;
    use crate::estimate::eigenbasis::Eigenbasis;
    use crate::estimate::factors::{CurvatureKind, Factors};
    use crate::estimate::lambda::LambdaSum;
    use crate::network::layer::{LayerId, LayerSpec};
    use crate::network::tap::{Tap, TapSink};

    /// Two batches of a layer whose examples have these lengths.
    struct Taps {
        layer: LayerSpec,
        batches: Vec<(Positions, Vec<f64>, Vec<f64>)>,
    }

    impl Taps {
        fn new(bias: bool, batches: [&[usize]; 2]) -> Self {
            let layer = LayerSpec { name: "fc".into(), outputs: 4, inputs: 3, bias, input_group: 0, vocabulary: None };
            let wave = |n: usize, step: f64| (0..n).map(|k| (k as f64 * step + 0.3).sin() * 1.7 - 0.2).collect();
            let batch = |(b, lengths): (usize, &&[usize])| {
                let positions = Positions::from_lengths(lengths.iter().copied());
                let rows = positions.rows();
                (positions, wave(rows * 3, 0.73 + b as f64), wave(rows * 4, 1.31 + b as f64))
            };
            Self { layer, batches: batches.iter().enumerate().map(batch).collect() }
        }

        fn push<T: Real>(&self, sink: &mut dyn TapSink) -> Result<(), Error> {
            for (positions, a, s) in &self.batches {
                let tensor =
                    |x: &[f64], n| Tensor::from_slice(x, (positions.rows(), n), &Device::Cpu)?.to_dtype(T::DTYPE);
                let (input, output_gradient) = (tensor(a, 3)?, tensor(s, 4)?);
                sink.tap(Tap { layer: LayerId(0), input: &input, output_gradient: &output_gradient, positions })?;
            }
            Ok(())
        }

        fn examples(&self) -> usize {
            self.batches.iter().map(|(positions, ..)| positions.examples()).sum()
        }

        /// `a` with its 1 and `s` of every position of every example.
        fn rows(&self) -> Vec<Vec<(Vec<f64>, Vec<f64>)>> {
            let of = |(positions, a, s): &(Positions, Vec<f64>, Vec<f64>)| {
                let row = |t: usize| {
                    let one = self.layer.bias.then_some(1.0);
                    (a[t * 3..t * 3 + 3].iter().copied().chain(one).collect(), s[t * 4..t * 4 + 4].to_vec())
                };
                positions.iter().map(|rows| rows.map(row).collect()).collect::<Vec<_>>()
            };
            self.batches.iter().flat_map(of).collect()
        }

        fn factors<T: Real>(&self, kind: CurvatureKind) -> Result<Factors<T>, Error> {
            let layers = std::slice::from_ref(&self.layer);
            let mut sum = CovarianceSum::<T>::weighted(layers, kind.pair_weights());
            self.push::<T>(&mut sum)?;
            sum.flush(0..self.examples(), 1)?;
            // through a file and back
            let (counts, state) = (sum.counts(), sum.state());
            let mut again = CovarianceSum::<T>::weighted(layers, kind.pair_weights());
            again.add_state(|name| state.iter().find(|(found, _)| found == name).map(|(_, sum)| *sum), &counts)?;
            let covariance = again.finish()?;
            let bases = Eigenbasis::of_layers(&covariance, layers)?;
            if !kind.has_lambda_pass() {
                return Ok(Factors::of_trace(kind, bases, &Factors::<T>::kfac_scales(&covariance)));
            }
            let mut lambda = LambdaSum::new(layers, vec![Some(&bases[0])]);
            self.push::<T>(&mut lambda)?;
            lambda.flush(0..self.examples(), 1)?;
            let lambda = lambda.finish()?;
            Ok(Factors { kind, ..Factors::ekfac(bases, lambda) })
        }
    }

    /// What the two sums are by their definition, and the curvature that is made of them: means over all examples.
    fn definition(taps: &Taps, kind: CurvatureKind) -> Vec<Vec<f64>> {
        let (o, i) = (taps.layer.outputs, taps.layer.columns());
        let (mut left, mut right) = (vec![vec![0.0; o]; o], vec![vec![0.0; i]; i]);
        let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
        for example in taps.rows() {
            for (t, (a, s)) in example.iter().enumerate() {
                for (u, (b, r)) in example.iter().enumerate() {
                    if kind == CurvatureKind::Tkfac && t != u {
                        continue;
                    }
                    for (p, q) in (0..o).flat_map(|p| (0..o).map(move |q| (p, q))) {
                        left[p][q] += dot(a, b) * s[p] * r[q] / taps.examples() as f64;
                    }
                    for (p, q) in (0..i).flat_map(|p| (0..i).map(move |q| (p, q))) {
                        right[p][q] += dot(s, r) * a[p] * b[q] / taps.examples() as f64;
                    }
                }
            }
        }
        let trace: f64 = (0..o).map(|p| left[p][p]).sum();
        let entry = |p: usize, q: usize| left[p / i][q / i] * right[p % i][q % i] / trace;
        (0..o * i).map(|p| (0..o * i).map(|q| entry(p, q)).collect()).collect()
    }

    const BATCHES: [[&[usize]; 2]; 4] =
        [[&[1, 1, 1], &[1]], [&[2, 3], &[5, 1, 4]], [&[7], &[2]], [&[0, 3, 0], &[2, 0]]];

    #[test]
    fn kronecker_products_are_those_of_their_definitions() -> Result<(), Error> {
        for (batches, bias) in BATCHES.into_iter().flat_map(|batches| [(batches, false), (batches, true)]) {
            let taps = Taps::new(bias, batches);
            for kind in [CurvatureKind::Tkfac, CurvatureKind::Shampoo] {
                let want = definition(&taps, kind);
                let largest = want.iter().flatten().fold(0f64, |m, x| m.max(x.abs()));
                let error = |dense: Vec<Vec<f64>>| {
                    let pairs = dense.iter().flatten().zip(want.iter().flatten());
                    pairs.fold(0f64, |m, (x, y)| m.max((x - y).abs())) / largest
                };
                let exact = error(taps.factors::<f64>(kind)?.layers[0].to_dense(&taps.layer)?);
                assert!(exact < 1e-12, "{kind:?}, {batches:?}: {exact:e}");
                let single = error(taps.factors::<f32>(kind)?.layers[0].to_dense(&taps.layer)?);
                assert!(single < 1e-5, "{kind:?} in f32, {batches:?}: {single:e}");
            }
        }
        Ok(())
    }

    #[test]
    fn traces_are_the_mean_squared_norm_and_single_positions_make_both_one() -> Result<(), Error> {
        for batches in BATCHES {
            let taps = Taps::new(true, batches);
            let trace = |kind| -> Result<f64, Error> {
                let factors = taps.factors::<f64>(kind)?;
                Ok(factors.layers[0].lambda.as_ref().map_or(0.0, |lambda| lambda.as_slice().iter().sum()))
            };
            let square = |example: &Vec<(Vec<f64>, Vec<f64>)>| {
                let pairs = example.iter().flat_map(|x| example.iter().map(move |y| (x, y)));
                let dot = |x: &[f64], y: &[f64]| x.iter().zip(y).map(|(x, y)| x * y).sum::<f64>();
                pairs.map(|((a, s), (b, r))| dot(a, b) * dot(s, r)).sum::<f64>()
            };
            let want = taps.rows().iter().map(square).sum::<f64>() / taps.examples() as f64;
            for kind in [CurvatureKind::Shampoo, CurvatureKind::Soap] {
                assert!((trace(kind)? / want - 1.0).abs() < 1e-12, "{kind:?}, {batches:?}");
            }
            if batches[0] == [1, 1, 1] {
                assert!((trace(CurvatureKind::Tkfac)? / want - 1.0).abs() < 1e-12);
            }
        }
        Ok(())
    }

    #[test]
    fn threads_change_no_number() -> Result<(), Error> {
        let taps = Taps::new(true, [&[9, 12, 30, 4], &[40]]);
        let of = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
            pool.install(|| taps.factors::<f32>(CurvatureKind::Shampoo))
        };
        let (one, three) = (of(1)?, of(3)?);
        let lambda =
            |factors: &Factors<f32>| factors.layers[0].lambda.as_ref().map(|lambda| lambda.as_slice().to_vec());
        assert_eq!(lambda(&one), lambda(&three));
        Ok(())
    }
}
