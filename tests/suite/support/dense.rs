//! Definitions with every number formed: gradients by loops over taps, and systems by elimination.

use ascribe::curvature::{Error, LayerSpec, Network, Objective, Tap, TapSink};
use ascribe::data::{self, Batch, Dataset};
use ascribe::model::Model;

/// The gradient of everything in a batch, by layer, one number at a time.
struct Summed<'a> {
    layers: &'a [LayerSpec],
    sums: Vec<Vec<f64>>,
}

impl TapSink for Summed<'_> {
    fn tap(&mut self, tap: Tap<'_>) -> Result<(), Error> {
        let spec = &self.layers[tap.layer.0];
        let (a, s) = (tap.input.to_vec2::<f64>()?, tap.output_gradient.to_vec2::<f64>()?);
        for (a, s) in a.iter().zip(&s) {
            for o in 0..spec.outputs {
                for i in 0..spec.columns() {
                    self.sums[tap.layer.0][o * spec.columns() + i] += s[o] * a.get(i).copied().unwrap_or(1.0);
                }
            }
        }
        Ok(())
    }
}

/// The values of an objective for each example of a batch, and the sum of their gradients by layer.
pub fn gradient(model: &Model, batch: &Batch, objective: Objective) -> (Vec<f64>, Vec<Vec<f64>>) {
    let layers = model.layers();
    let mut summed = Summed { layers, sums: layers.iter().map(|l| vec![0.0; l.parameters()]).collect() };
    let values = model.differentiate(batch, objective, &mut summed).expect("differentiable");
    (values, summed.sums)
}

/// The gradient of one example's objective, by layer.
pub fn gradient_of(model: &Model, data: &Dataset, example: usize, objective: Objective) -> Vec<Vec<f64>> {
    gradient(model, &data::batch(data, example..example + 1), objective).1
}

/// The inner product of two vectors.
pub fn dot(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}

/// Gaussian elimination with pivots.
pub fn eliminate(mut a: Vec<Vec<f64>>, mut b: Vec<f64>) -> Vec<f64> {
    let n = b.len();
    for k in 0..n {
        let pivot = (k..n).max_by(|&i, &j| a[i][k].abs().total_cmp(&a[j][k].abs())).expect("rows");
        a.swap(k, pivot);
        b.swap(k, pivot);
        let row = a[k].clone();
        for i in k + 1..n {
            let factor = a[i][k] / row[k];
            a[i][k..].iter_mut().zip(&row[k..]).for_each(|(a, r)| *a -= factor * r);
            b[i] -= factor * b[k];
        }
    }
    for k in (0..n).rev() {
        let sum: f64 = (k + 1..n).map(|j| a[k][j] * b[j]).sum();
        b[k] = (b[k] - sum) / a[k][k];
    }
    b
}
