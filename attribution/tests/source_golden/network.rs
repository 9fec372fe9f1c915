//! Tanh networks of a few parameters, written out with loops, in numbers that carry a derivative: the taps of a
//! [`Network`], its gradients, and its Hessian.

use std::ops::{Add, Mul, Range, Sub};

use ascribe_attribution::{Error, Examples, Pass, Sweep};
use ascribe_curvature::{LayerId, LayerSpec, Network, Objective, Positions, Tap, TapSink};
use candle_core::{DType, Device, Tensor};

/// `re + eps ε` with `ε² = 0`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Dual {
    pub(crate) re: f64,
    pub(crate) eps: f64,
}

impl Dual {
    pub(crate) fn constant(re: f64) -> Self {
        Self { re, eps: 0.0 }
    }

    /// A function whose value and derivative at `re` are known.
    fn map(self, value: f64, derivative: f64) -> Self {
        Self { re: value, eps: self.eps * derivative }
    }
}

impl Add for Dual {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { re: self.re + other.re, eps: self.eps + other.eps }
    }
}

impl Sub for Dual {
    type Output = Self;
    fn sub(self, other: Self) -> Self {
        Self { re: self.re - other.re, eps: self.eps - other.eps }
    }
}

impl Mul for Dual {
    type Output = Self;
    fn mul(self, other: Self) -> Self {
        Self { re: self.re * other.re, eps: self.re * other.eps + self.eps * other.re }
    }
}

/// What an example is compared with.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// Softmax cross-entropy.
    Class(usize),
    /// `½ Σ (z - t)²`.
    Values(Vec<f64>),
}

pub(crate) type Example = (Vec<f64>, Target);

/// Weights `[O, I + 1]` layer after layer, tanh between them.
#[derive(Debug, Clone)]
pub(crate) struct Tiny {
    pub(crate) layers: Vec<LayerSpec>,
    pub(crate) theta: Vec<f64>,
    pub(crate) dtype: DType,
}

impl Tiny {
    pub(crate) fn new(dims: &[usize], theta: Vec<f64>) -> Self {
        let layer = |(l, pair): (usize, &[usize])| LayerSpec {
            name: format!("layers.{l}"),
            outputs: pair[1],
            inputs: pair[0],
            bias: true,
            input_group: l,
            vocabulary: None,
        };
        let layers: Vec<LayerSpec> = dims.windows(2).enumerate().map(layer).collect();
        assert_eq!(layers.iter().map(LayerSpec::parameters).sum::<usize>(), theta.len());
        Self { layers, theta, dtype: DType::F64 }
    }

    /// Where each layer's weights lie in `theta`.
    pub(crate) fn ranges(&self) -> Vec<Range<usize>> {
        let mut end = 0;
        let range = |layer: &LayerSpec| {
            end += layer.parameters();
            end - layer.parameters()..end
        };
        self.layers.iter().map(range).collect()
    }

    /// Inputs of every layer with their trailing 1, and the last layer's output.
    fn forward(&self, theta: &[Dual], x: &[f64]) -> (Vec<Vec<Dual>>, Vec<Dual>) {
        let mut inputs = vec![];
        let mut a: Vec<Dual> = x.iter().map(|&x| Dual::constant(x)).collect();
        for (l, range) in self.ranges().into_iter().enumerate() {
            a.push(Dual::constant(1.0));
            let rows = theta[range].chunks_exact(a.len());
            let dot = |row: &[Dual]| row.iter().zip(&a).fold(Dual::constant(0.0), |sum, (&w, &a)| sum + w * a);
            let z: Vec<Dual> = rows.map(dot).collect();
            inputs.push(a);
            let last = l + 1 == self.layers.len();
            let tanh = |z: Dual| z.map(z.re.tanh(), 1.0 - z.re.tanh() * z.re.tanh());
            a = if last { z } else { z.into_iter().map(tanh).collect() };
        }
        (inputs, a)
    }

    /// `s` of every layer from that of the last.
    fn backward(&self, theta: &[Dual], inputs: &[Vec<Dual>], dz: Vec<Dual>) -> Vec<Vec<Dual>> {
        let mut s = vec![dz];
        for l in (1..self.layers.len()).rev() {
            let (layer, weights) = (&self.layers[l], &theta[self.ranges()[l].clone()]);
            let below = |i: usize| {
                let h = inputs[l][i];
                let back = (0..layer.outputs)
                    .fold(Dual::constant(0.0), |sum, o| sum + weights[o * layer.columns() + i] * s[0][o]);
                back * (Dual::constant(1.0) - h * h)
            };
            let below = (0..layer.inputs).map(below).collect();
            s.insert(0, below);
        }
        s
    }

    fn probabilities(z: &[Dual]) -> Vec<Dual> {
        let largest = z.iter().fold(f64::NEG_INFINITY, |max, z| max.max(z.re));
        let e: Vec<Dual> = z.iter().map(|z| z.map((z.re - largest).exp(), (z.re - largest).exp())).collect();
        let sum = e.iter().fold(Dual::constant(0.0), |sum, &e| sum + e);
        let inverse = sum.map(1.0 / sum.re, -1.0 / (sum.re * sum.re));
        e.into_iter().map(|e| e * inverse).collect()
    }

    fn output_gradient(z: &[Dual], target: &Target) -> Vec<Dual> {
        let minus = |(z, t): (&Dual, f64)| *z - Dual::constant(t);
        match target {
            Target::Class(y) => {
                let hot = (0..z.len()).map(|c| f64::from(c == *y));
                Self::probabilities(z).iter().zip(hot).map(minus).collect()
            }
            Target::Values(t) => z.iter().zip(t.iter().copied()).map(minus).collect(),
        }
    }

    fn dual_gradient(&self, theta: &[Dual], (x, target): &Example) -> Vec<Dual> {
        let (inputs, z) = self.forward(theta, x);
        let s = self.backward(theta, &inputs, Self::output_gradient(&z, target));
        let outer = |(s, a): (&Vec<Dual>, &Vec<Dual>)| -> Vec<Dual> {
            s.iter().flat_map(|&s| a.iter().map(move |&a| s * a)).collect()
        };
        s.iter().zip(&inputs).flat_map(outer).collect()
    }

    /// Gradient of one example's loss, `[P]`.
    pub(crate) fn gradient(&self, example: &Example) -> Vec<f64> {
        let theta: Vec<Dual> = self.theta.iter().map(|&x| Dual::constant(x)).collect();
        self.dual_gradient(&theta, example).iter().map(|g| g.re).collect()
    }

    /// Mean Hessian of some examples' losses, `[P, P]`.
    pub(crate) fn hessian(&self, examples: &[&Example]) -> Vec<f64> {
        let mut rows = vec![];
        for j in 0..self.theta.len() {
            let theta: Vec<Dual> =
                self.theta.iter().enumerate().map(|(k, &re)| Dual { re, eps: f64::from(k == j) }).collect();
            let mut row = vec![0.0; theta.len()];
            for example in examples {
                let gradient = self.dual_gradient(&theta, example);
                row.iter_mut().zip(gradient).for_each(|(row, g)| *row += g.eps / examples.len() as f64);
            }
            rows.extend(row);
        }
        rows
    }
}

/// Examples of a batch.
#[derive(Debug)]
pub(crate) struct Batch {
    examples: Vec<Example>,
    positions: Positions,
}

impl Network for Tiny {
    type Batch = Batch;

    fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    fn positions<'a>(&self, batch: &'a Batch) -> &'a Positions {
        &batch.positions
    }

    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, ascribe_curvature::Error> {
        let theta: Vec<Dual> = self.theta.iter().map(|&x| Dual::constant(x)).collect();
        let mut rows: Vec<[Vec<f64>; 2]> = vec![Default::default(); self.layers.len()];
        for (x, target) in &batch.examples {
            let (inputs, z) = self.forward(&theta, x);
            let dz = match objective {
                // every other objective of these tests has the gradient of the loss
                Objective::ExpectedLoss { class } => {
                    let classes = z.len() as f64;
                    let (gradient, weight) = match target {
                        Target::Class(_) => {
                            (Self::output_gradient(&z, &Target::Class(class)), Self::probabilities(&z)[class].re)
                        }
                        // unit noise on each output in turn: the mean of squares is the unit matrix
                        Target::Values(_) => {
                            ((0..z.len()).map(|c| Dual::constant(f64::from(c == class))).collect(), 1.0)
                        }
                    };
                    gradient.into_iter().map(|g| g * Dual::constant((classes * weight).sqrt())).collect()
                }
                _ => Self::output_gradient(&z, target),
            };
            let s = self.backward(&theta, &inputs, dz);
            for (rows, (a, s)) in rows.iter_mut().zip(inputs.iter().zip(&s)) {
                rows[0].extend(a[..a.len() - 1].iter().map(|a| a.re));
                rows[1].extend(s.iter().map(|s| s.re));
            }
        }
        let b = batch.examples.len();
        for (l, layer) in self.layers.iter().enumerate().rev() {
            let [a, s] = &rows[l];
            let input = Tensor::from_slice(a, (b, layer.inputs), &Device::Cpu)?.to_dtype(self.dtype)?;
            let output_gradient = Tensor::from_slice(s, (b, layer.outputs), &Device::Cpu)?.to_dtype(self.dtype)?;
            let (input, output_gradient, positions) = (&input, &output_gradient, &batch.positions);
            sink.tap(Tap { layer: LayerId(l), input, output_gradient, positions })?;
        }
        Ok(vec![0.0; b])
    }
}

/// Data in batches of four: a batch border lies inside every set of the golden file.
#[derive(Debug, Clone)]
pub(crate) struct Data(pub(crate) Vec<Example>);

impl Examples<Batch> for Data {
    fn len(&self) -> usize {
        self.0.len()
    }

    fn positions(&self, _: usize) -> usize {
        1
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        (start + 4).min(end)
    }

    fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        let examples = self.0[range].to_vec();
        Ok(Batch { positions: Positions::single(examples.len()), examples })
    }
}

/// A sweep of a network over all of some data.
pub(crate) fn sweep<'a>(network: &'a Tiny, data: &'a Data) -> Sweep<'a, Tiny> {
    Sweep { network, examples: data, range: 0..data.0.len(), pass: Pass::Scores, observer: &() }
}
