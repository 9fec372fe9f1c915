//! The definitions written out in `f64`: what the fast routes are tested against.

use std::num::NonZeroUsize;

use candle_core::{Device, Tensor};

use crate::contraction::low_rank::Vectors;
use crate::contraction::product::GradientProducts;
use crate::contraction::quadratic::QuadraticForm;
use crate::error::Error;
use crate::estimate::covariance::{Counts, Covariance, CovarianceSum};
use crate::estimate::eigenbasis::Eigenbasis;
use crate::estimate::factors::{Damping, Factors};
use crate::estimate::lambda::LambdaSum;
use crate::estimate::spectral::SpectralFn;
use crate::linalg::block_diagonal::BlockWidth;
use crate::linalg::gemm::Real;
use crate::linalg::matrix::Matrix;
use crate::linalg::symmetric_blocks::SymmetricBlocks;
use crate::network::layer::{LayerId, LayerSpec};
use crate::network::tap::{Positions, Tap, TapSink};

/// One layer with 5 outputs, 3 inputs and a bias; examples of the given lengths.
struct Case {
    layer: LayerSpec,
    positions: Positions,
    a: Vec<f64>,
    s: Vec<f64>,
}

impl Case {
    fn new(outputs: usize, inputs: usize, bias: bool, lengths: &[usize]) -> Self {
        let layer = LayerSpec { name: "fc".into(), outputs, inputs, bias, input_group: 0, vocabulary: None };
        let positions = Positions::from_lengths(lengths.iter().copied());
        let wave = |n: usize, step: f64| (0..n).map(|k| (k as f64 * step + 0.3).sin() * 1.7 - 0.2).collect();
        let (a, s) = (wave(positions.rows() * inputs, 0.73), wave(positions.rows() * outputs, 1.31));
        Self { layer, positions, a, s }
    }

    fn push<T: Real>(&self, sink: &mut dyn TapSink) -> Result<(), Error> {
        let (dtype, rows) = (T::DTYPE, self.positions.rows());
        let input = Tensor::from_slice(&self.a, (rows, self.layer.inputs), &Device::Cpu)?.to_dtype(dtype)?;
        let output_gradient = Tensor::from_slice(&self.s, (rows, self.layer.outputs), &Device::Cpu)?.to_dtype(dtype)?;
        sink.tap(Tap {
            layer: LayerId(0),
            input: &input,
            output_gradient: &output_gradient,
            positions: &self.positions,
        })
    }

    /// `G_m = Σ_t s_t a_tᵀ` with the bias as the last column, element by element.
    fn gradient(&self, m: usize) -> Vec<f64> {
        let (o, i) = (self.layer.outputs, self.layer.inputs);
        let mut gradient = vec![];
        for r in 0..o {
            for c in 0..self.layer.columns() {
                let rows = self.positions.example(m);
                gradient.push(rows.map(|t| self.s[t * o + r] * if c < i { self.a[t * i + c] } else { 1.0 }).sum());
            }
        }
        gradient
    }

    fn covariance<T: Real>(&self) -> Result<Covariance, Error> {
        let mut sum = CovarianceSum::<T>::new(std::slice::from_ref(&self.layer));
        self.push::<T>(&mut sum)?;
        sum.flush(0..self.positions.examples(), 1)?;
        sum.finish()
    }

    fn bases<T: Real>(&self, width: BlockWidth) -> Result<Vec<Eigenbasis<T>>, Error> {
        Eigenbasis::of_layers_in_blocks(&self.covariance::<T>()?, std::slice::from_ref(&self.layer), width)
    }
}

/// `[i, j]` of the Kronecker eigenvector matrix, `vec` row by row.
fn eigenvector<T: Real>([s, a]: &[Matrix<T>; 2], i: usize, j: usize) -> f64 {
    let columns = a.columns();
    s.row(i / columns)[j / columns].wide() * a.row(i % columns)[j % columns].wide()
}

fn at_most(width: usize) -> BlockWidth {
    BlockWidth::AtMost(NonZeroUsize::new(width).expect("not 0"))
}

fn relative_error(found: &[f64], want: &[f64]) -> f64 {
    assert_eq!(found.len(), want.len());
    let scale = want.iter().fold(0f64, |m, x| m.max(x.abs()));
    found.iter().zip(want).fold(0f64, |m, (f, w)| m.max((f - w).abs())) / scale
}

/// Λ, dense curvature, IHVP and scores of one case, all against loops over every element.
fn check<T: Real>(case: &Case, width: BlockWidth, conditioner: Option<&[T]>, tolerance: f64) -> Result<(), Error> {
    let layers = std::slice::from_ref(&case.layer);
    let (n, b) = (case.layer.parameters(), case.positions.examples());
    let bases = case.bases::<T>(width)?;
    let vectors = [bases[0].output.vectors.whole(), bases[0].input.vectors.whole()];
    let mut sum = LambdaSum::new(layers, vec![Some(&bases[0])]).conditioned(vec![conditioner]);
    case.push::<T>(&mut sum)?;
    sum.flush(0..b, 1)?;
    let lambda = sum.finish()?;
    let mut want = vec![0.0; n];
    for m in 0..b {
        let mut g = case.gradient(m);
        if let Some(h) = conditioner {
            g.iter_mut().zip(h).for_each(|(g, h)| *g *= h.wide());
        }
        for j in 0..n {
            let turned: f64 = (0..n).map(|i| eigenvector(&vectors, i, j) * g[i]).sum();
            want[j] += turned * turned / b as f64;
        }
    }
    let error = relative_error(lambda.layers[0].as_slice(), &want);
    assert!(error < tolerance, "lambda: {error:e} for {:?}", case.layer);

    let factors = Factors::ekfac(bases, lambda);
    let layer = &factors.layers[0];
    let damping = layer.damping(Damping::MeanFraction(0.1));
    // The dense operator applied to the IHVP gives the vector back: no inverse is needed.
    let query = case.gradient(0);
    let mut ihvp: Vec<T> = query.iter().map(|x| T::of(*x)).collect();
    layer.apply(&SpectralFn::Inverse { damping }, &mut ihvp, &case.layer);
    let dense = layer.to_dense(&case.layer)?;
    let back: Vec<f64> =
        (0..n).map(|i| damping * ihvp[i].wide() + (0..n).map(|j| dense[i][j] * ihvp[j].wide()).sum::<f64>()).collect();
    let error = relative_error(&back, &query);
    assert!(error < 10.0 * tolerance, "IHVP: {error:e}");

    // Three queries whose vectors differ, so that a swap of queries shows.
    let vectors: Vec<T> = (0..3).flat_map(|q| ihvp.iter().map(move |x| *x * T::of(1.0 + f64::from(q)))).collect();
    let mut scores = Scores {
        products: GradientProducts::default(),
        layer: &case.layer,
        vectors: &vectors,
        scores: vec![0.0; 3 * b],
    };
    case.push::<T>(&mut scores)?;
    let mut want = vec![];
    for m in 0..b {
        let dot: f64 = case.gradient(m).iter().zip(&ihvp).map(|(g, z)| g * z.wide()).sum();
        want.extend([dot, 2.0 * dot, 3.0 * dot]);
    }
    let error = relative_error(&scores.scores, &want);
    assert!(error < tolerance, "scores: {error:e}");

    let mut form = QuadraticForm::new(layers, &factors, |_| SpectralFn::Inverse { damping });
    case.push::<T>(&mut form)?;
    let found = form.take();
    for m in 0..b {
        let gradient = case.gradient(m);
        let mut z: Vec<T> = gradient.iter().map(|x| T::of(*x)).collect();
        factors.layers[0].apply(&SpectralFn::Inverse { damping }, &mut z, &case.layer);
        let want: f64 = gradient.iter().zip(&z).map(|(g, z)| g * z.wide()).sum();
        assert!((found[m] - want).abs() <= 10.0 * tolerance * want.abs(), "self-influence {m}: {} {want}", found[m]);
    }
    Ok(())
}

struct Scores<'a, T> {
    products: GradientProducts<T>,
    layer: &'a LayerSpec,
    vectors: &'a [T],
    scores: Vec<f64>,
}

impl<T: Real> TapSink for Scores<'_, T> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        // as vectors of two methods lie apart
        let (one, others) = self.vectors.split_at(self.layer.parameters());
        self.products.add_scores(tap, self.layer, &[Vectors::Full(one), Vectors::Full(others)], &mut self.scores)
    }
}

/// Lengths that make each of the four rotation routes, the single-row product and both score routes the
/// cheapest; 67 outputs need a second, incomplete tile.
const CASES: [(usize, usize, bool, &[usize]); 7] = [
    (5, 3, true, &[1, 4, 2]),          // R: both sides by rows
    (5, 3, false, &[40, 50, 60]),      // G: both sides after
    (3, 12, true, &[20, 19, 23]),      // output side by rows, input side after
    (12, 3, false, &[20, 19, 23]),     // input side by rows, output side after
    (5, 3, true, &[1, 1, 1, 1, 1, 1]), // one row each
    (67, 2, true, &[2, 5]),
    (4, 6, true, &[3, 0, 2]), // an example without positions has no gradient
];

#[test]
fn every_route_equals_the_definition() -> Result<(), Error> {
    for (o, i, bias, lengths) in CASES {
        let case = Case::new(o, i, bias, lengths);
        check::<f64>(&case, BlockWidth::Any, None, 1e-12)?;
        check::<f32>(&case, BlockWidth::Any, None, 2e-5)?;
    }
    Ok(())
}

/// The same in bases of blocks: Λ, influence and self-influence by U's definition, whatever the route.
#[test]
fn every_route_equals_the_definition_in_blocks() -> Result<(), Error> {
    for (o, i, bias, lengths) in CASES {
        let case = Case::new(o, i, bias, lengths);
        for width in [1, 2, 3] {
            check::<f64>(&case, at_most(width), None, 1e-12)?;
        }
    }
    // blocks that begin and end inside of a tile; blocks of 17, whose last column is computed by itself
    check::<f64>(&Case::new(67, 2, true, &[2, 5]), at_most(30), None, 1e-12)?;
    for lengths in [&[2, 1][..], &[1, 1, 1]] {
        check::<f64>(&Case::new(18, 33, true, lengths), at_most(17), None, 1e-12)?;
    }
    Ok(())
}

/// `U` diagonalises the diagonal blocks of `A` and `S` and is zero elsewhere; the curvature is made of these blocks.
#[test]
fn blocks_are_those_of_the_covariances() -> Result<(), Error> {
    let case = Case::new(5, 6, true, &[4, 9, 7]);
    let (covariance, width) = (case.covariance::<f64>()?, at_most(3));
    let bases = case.bases::<f64>(width)?;
    let input = covariance.inputs[0].as_ref().expect("one group");
    let group_of = |n: usize, k: usize| width.groups(n).position(|group| group.contains(&k));
    let kept = |matrix: &SymmetricBlocks, r: usize, c: usize| {
        let n = matrix.size();
        if group_of(n, r) == group_of(n, c) { matrix.at(r, c) } else { 0.0 }
    };
    for (matrix, pairs) in [(input, &bases[0].input), (&covariance.outputs[0], &bases[0].output)] {
        let (n, u) = (matrix.size(), pairs.vectors.whole());
        assert_eq!(pairs.values.len(), n);
        for (r, c) in (0..n * n).map(|k| (k / n, k % n)) {
            let rebuilt: f64 = (0..n).map(|k| u.row(r)[k] * pairs.values[k] * u.row(c)[k]).sum();
            let unit: f64 = (0..n).map(|k| u.row(k)[r] * u.row(k)[c]).sum();
            assert!((rebuilt - kept(matrix, r, c)).abs() < 1e-13, "[{r}, {c}]");
            assert!((unit - f64::from(u8::from(r == c))).abs() < 1e-14, "[{r}, {c}]");
            assert!(group_of(n, r) == group_of(n, c) || u.row(r)[c] == 0.0, "[{r}, {c}]");
        }
    }
    let factors = Factors::<f64>::kfac(bases, &Factors::<f64>::kfac_scales(&covariance));
    let dense = factors.layers[0].to_dense(&case.layer)?;
    for (i, row) in dense.iter().enumerate() {
        for (j, found) in row.iter().enumerate() {
            let want = 20.0 / 3.0 * kept(&covariance.outputs[0], i / 7, j / 7) * kept(input, i % 7, j % 7);
            assert!((found - want).abs() < 1e-12, "[{i}, {j}]: {found} {want}");
        }
    }
    Ok(())
}

/// Where nothing is cut the numbers are the same, bit by bit.
#[test]
fn a_width_that_cuts_nothing_changes_nothing() -> Result<(), Error> {
    let case = Case::new(5, 6, true, &[4, 9, 7]);
    let [whole, wide] = [BlockWidth::Any, at_most(7)].map(|width| case.bases::<f32>(width));
    let (whole, wide) = (whole?.remove(0), wide?.remove(0));
    for (whole, wide) in [(whole.output, wide.output), (whole.input, wide.input)] {
        assert_eq!(whole.vectors.whole().as_slice(), wide.vectors.whole().as_slice());
        assert_eq!(whole.values, wide.values);
    }
    Ok(())
}

#[test]
fn gradients_in_the_eigenbasis_are_the_rotated_ones() -> Result<(), Error> {
    struct Both<'a>(&'a LayerSpec, &'a Eigenbasis<f64>, [Vec<f64>; 2]);
    impl TapSink for Both<'_> {
        fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
            let mut products = GradientProducts::default();
            self.2 = [products.gradients(tap, self.0)?, products.rotated_gradients(tap, self.0, self.1)?];
            Ok(())
        }
    }
    for (o, i, bias, lengths) in CASES {
        let case = Case::new(o, i, bias, lengths);
        for width in [BlockWidth::Any, at_most(2), at_most(1)] {
            let basis = &case.bases::<f64>(width)?[0];
            let mut both = Both(&case.layer, basis, Default::default());
            case.push::<f64>(&mut both)?;
            let [mut want, found] = both.2;
            let factors = crate::estimate::factors::LayerFactors::new(Some(basis.clone()), None);
            factors.rotate(&mut want, &case.layer);
            assert!(relative_error(&found, &want) < 1e-12, "{o} x {i}, {lengths:?}, {width:?}");
        }
    }
    Ok(())
}

#[test]
fn conditioned_gradients_equal_the_definition() -> Result<(), Error> {
    for (o, i, bias, lengths) in CASES {
        let case = Case::new(o, i, bias, lengths);
        let h: Vec<f64> = (0..case.layer.parameters()).map(|k| 0.5 + (k % 7) as f64 / 3.0).collect();
        check::<f64>(&case, BlockWidth::Any, Some(&h), 1e-12)?;
        check::<f64>(&case, at_most(2), Some(&h), 1e-12)?;
    }
    Ok(())
}

#[test]
fn kfac_is_the_product_of_its_covariances() -> Result<(), Error> {
    let case = Case::new(3, 4, true, &[2, 3]);
    let mut sum = CovarianceSum::<f64>::new(std::slice::from_ref(&case.layer));
    case.push::<f64>(&mut sum)?;
    sum.flush(0..2, 1)?;
    let covariance = sum.finish()?;
    let bases = Eigenbasis::of_layers(&covariance, std::slice::from_ref(&case.layer))?;
    let factors = Factors::<f64>::kfac(bases, &Factors::<f64>::kfac_scales(&covariance));
    let dense = factors.layers[0].to_dense(&case.layer)?;
    let a = covariance.inputs[0].as_ref().expect("one group");
    for i in 0..15 {
        for j in 0..15 {
            let want = 2.5 * covariance.outputs[0].at(i / 5, j / 5) * a.at(i % 5, j % 5);
            assert!((dense[i][j] - want).abs() < 1e-12, "[{i}, {j}]");
        }
    }
    Ok(())
}

/// An expert sees the tokens that are routed to it, a convolution the places of its output: each layer's covariances
/// are means over its own positions, Λ is over all examples, and a layer that nothing reaches has no curvature and
/// adds nothing.
#[test]
fn layers_with_positions_of_their_own_are_each_as_the_definition_says() -> Result<(), Error> {
    let lengths: [&[usize]; 4] = [&[2, 3, 4], &[0, 3, 1], &[0, 0, 0], &[7, 7, 7]];
    let cases: Vec<Case> =
        lengths.iter().enumerate().map(|(l, lengths)| Case::new(3, 2 + l, l != 1, lengths)).collect();
    let layers: Vec<LayerSpec> = (cases.iter().enumerate())
        .map(|(l, case)| LayerSpec { name: format!("fc.{l}"), input_group: l, ..case.layer.clone() })
        .collect();
    let push = |sink: &mut dyn TapSink| -> Result<(), Error> {
        for (l, case) in cases.iter().enumerate() {
            case.push::<f64>(&mut Renumbered(LayerId(l), sink))?;
        }
        Ok(())
    };
    let mut sum = CovarianceSum::<f64>::new(&layers);
    push(&mut sum)?;
    sum.flush(0..3, 1)?;
    // through a file and back, added to an empty sum
    let (counts, state) = (sum.counts(), sum.state());
    assert_eq!(counts, Counts { positions: vec![9, 4, 0, 21], examples: 3 });
    let mut again = CovarianceSum::<f64>::new(&layers);
    again.add_state(|name| state.iter().find(|(found, _)| found == name).map(|(_, sum)| *sum), &counts)?;
    let covariance = again.finish()?;
    let bases = Eigenbasis::of_layers(&covariance, &layers)?;
    let mut lambda = LambdaSum::new(&layers, bases.iter().map(Some).collect());
    push(&mut lambda)?;
    lambda.flush(0..3, 1)?;
    let lambda = lambda.finish()?;
    let kfac = Factors::<f64>::kfac(bases.clone(), &Factors::<f64>::kfac_scales(&covariance));
    let ekfac = Factors::ekfac(bases, lambda);
    for (l, (case, layer)) in cases.iter().zip(&layers).enumerate() {
        let (o, i, rows) = (layer.outputs, layer.columns(), case.positions.rows());
        let a = |t: usize, c: usize| if c < layer.inputs { case.a[t * layer.inputs + c] } else { 1.0 };
        let mean = |x: &dyn Fn(usize) -> f64| (0..rows).map(x).sum::<f64>() / rows.max(1) as f64;
        let dense = kfac.layers[l].to_dense(layer)?;
        for (p, q) in (0..o * i).flat_map(|p| (0..o * i).map(move |q| (p, q))) {
            let s = mean(&|t| case.s[t * o + p / i] * case.s[t * o + q / i]);
            let want = rows as f64 / 3.0 * s * mean(&|t| a(t, p % i) * a(t, q % i));
            assert!((dense[p][q] - want).abs() < 1e-11, "K-FAC of layer {l}, [{p}, {q}]: {} {want}", dense[p][q]);
        }
        // the trace does not depend on the basis: the mean square of a gradient, over all three examples
        let lambda = ekfac.layers[l].lambda.as_ref().expect("EK-FAC has one").as_slice();
        let want = (0..3).flat_map(|m| case.gradient(m)).map(|g| g * g).sum::<f64>() / 3.0;
        assert!((lambda.iter().sum::<f64>() - want).abs() < 1e-11, "EK-FAC of layer {l}");
    }
    // queries may reach what no example does
    let inverse = |factors: &Factors<f64>, l: usize| {
        let damping = factors.layers[l].damping(Damping::MeanFraction(0.1));
        let mut vector = vec![1.0; layers[l].parameters()];
        factors.layers[l].apply(&SpectralFn::Inverse { damping }, &mut vector, &layers[l]);
        vector
    };
    for factors in [&kfac, &ekfac] {
        assert_eq!(inverse(factors, 2), vec![0.0; layers[2].parameters()]);
        assert!(inverse(factors, 1).iter().all(|x| x.is_finite()));
    }
    let vectors = vec![1.0; 3 * layers[2].parameters()];
    let (products, layer) = (GradientProducts::default(), &layers[2]);
    let mut scores = Scores { products, layer, vectors: &vectors, scores: vec![0.0; 9] };
    cases[2].push::<f64>(&mut scores)?;
    assert_eq!(scores.scores, [0.0; 9]);
    let mut form = QuadraticForm::new(&layers, &ekfac, |_| SpectralFn::Inverse { damping: 0.5 });
    cases[2].push::<f64>(&mut Renumbered(LayerId(2), &mut form))?;
    assert_eq!(form.take(), [0.0; 3]);
    Ok(())
}

struct Renumbered<'a>(LayerId, &'a mut dyn TapSink);

impl TapSink for Renumbered<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        self.1.tap(Tap { layer: self.0, ..tap })
    }
}

#[test]
fn diagonal_curvature_is_the_mean_square_and_identity_is_one() -> Result<(), Error> {
    let case = Case::new(3, 2, true, &[2, 3, 1]);
    let layers = std::slice::from_ref(&case.layer);
    let mut sum = LambdaSum::<f64>::new(layers, vec![None]);
    case.push::<f64>(&mut sum)?;
    sum.flush(0..3, 1)?;
    let factors = Factors::<f64>::diagonal(sum.finish()?);
    let dense = factors.layers[0].to_dense(&case.layer)?;
    for k in 0..9 {
        let want = (0..3).map(|m| case.gradient(m)[k].powi(2)).sum::<f64>() / 3.0;
        assert!((dense[k][k] - want).abs() < 1e-14, "[{k}]");
    }
    let mut vector = case.gradient(1);
    Factors::<f64>::identity(1).layers[0].apply(&SpectralFn::Inverse { damping: 0.0 }, &mut vector, &case.layer);
    assert_eq!(vector, case.gradient(1));
    Ok(())
}

/// Layers that read the same tensor share its prepared rows only where those are the same: not with
/// another bias setting, not with other eigenvectors.
#[test]
fn layers_that_share_an_input_do_not_share_what_differs() -> Result<(), Error> {
    for lengths in [[3, 4], [1, 1]] {
        let positions = Positions::from_lengths(lengths);
        let rows = positions.rows();
        let cases = [(5, true), (4, false), (6, true)].map(|(o, bias)| Case::new(o, 3, bias, &lengths));
        // the third layer reads the same tensor as the first in a basis of its own
        let layers: Vec<LayerSpec> = (cases.iter().enumerate())
            .map(|(input_group, case)| LayerSpec { input_group, ..case.layer.clone() })
            .collect();
        let mut bases: Vec<Eigenbasis<f64>> = vec![];
        for case in &cases {
            bases.extend(case.bases::<f64>(BlockWidth::Any)?);
        }
        let columns = bases[2].input.vectors.whole().to_rows();
        let turned = columns.iter().flat_map(|row| row.iter().rev().copied()).collect();
        bases[2].input.vectors = Matrix::new(turned, 4, 4).into();
        let input = Tensor::from_slice(&cases[0].a, (rows, 3), &Device::Cpu)?;
        let tap = |sink: &mut dyn TapSink, layer: usize, place: usize| {
            let s = Tensor::from_slice(&cases[layer].s, (rows, cases[layer].layer.outputs), &Device::Cpu)?;
            sink.tap(Tap { layer: LayerId(place), input: &input, output_gradient: &s, positions: &positions })
        };
        for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
            let mut together = LambdaSum::new(&layers, bases.iter().map(Some).collect());
            for layer in order {
                tap(&mut together, layer, layer)?;
            }
            together.flush(0..2, 1)?;
            let together = together.finish()?;
            for layer in 0..3 {
                let mut alone = LambdaSum::new(&layers[layer..=layer], vec![Some(&bases[layer])]);
                tap(&mut alone, layer, 0)?;
                alone.flush(0..2, 1)?;
                let (found, want) = (&together.layers[layer], &alone.finish()?.layers[0]);
                assert_eq!(found.as_slice(), want.as_slice(), "layer {layer} of {order:?}");
            }
        }
    }
    Ok(())
}
