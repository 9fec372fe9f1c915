//! A multilayer perceptron in f64 with its first and second derivatives, written down rather than taped: its loss, its
//! gradient, and products of a batch's Hessian with directions.

use crate::curvature::Measurement;
use crate::curvature::gemm::{Into, Threads, View, ViewMut, matmul};
use crate::data::{Targets, Task};
use crate::model::MlpParameters;
use crate::nn::{Activation, SquaredError};

/// Where the numbers of a layer stand among all parameters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Layer {
    /// Numbers that it reads.
    inputs: usize,
    /// Numbers that it writes.
    outputs: usize,
    /// Its matrix `[outputs, inputs]` begins here.
    matrix: usize,
    /// Its bias begins here, if it has one.
    bias: Option<usize>,
}

/// The network without its parameters, which change at every step: layers with one activation between them.
#[derive(Debug, Clone, PartialEq)]
pub struct Perceptron {
    layers: Vec<Layer>,
    activation: Activation,
    task: Task,
    /// The loss of a regression; a classifier has no use for it.
    squared_error: SquaredError,
}

/// A pass of a batch forwards: what its derivatives need.
#[derive(Debug)]
pub(super) struct Forward {
    rows: usize,
    /// What each layer reads, `[R, inputs]`.
    inputs: Vec<Vec<f64>>,
    /// First and second derivatives of the activation at what each layer but the last writes, `[R, outputs]`.
    slopes: Vec<Vec<f64>>,
    bends: Vec<Vec<f64>>,
    /// What the last layer writes, `[R, outputs]`.
    pub(super) outputs: Vec<f64>,
}

/// A pass backwards from gradients at the outputs.
#[derive(Debug)]
pub(super) struct Backward {
    /// The gradient at what each layer writes, `[R, outputs]`.
    at_outputs: Vec<Vec<f64>>,
    /// The gradient at what each layer but the first reads, before the activation's slope, `[R, inputs]`; of the first
    /// empty.
    at_inputs: Vec<Vec<f64>>,
}

/// `C = factor · a b`, or adds it, on this thread: the queries are what is spread over threads.
fn product(c: &mut [f64], (rows, columns): (usize, usize), into: Into, a: View<'_, f64>, b: View<'_, f64>) {
    matmul(ViewMut::dense(c, rows, columns), into, 1.0, a, b, Threads::One);
}

/// `[R, C]`, elementwise.
fn multiply(numbers: &mut [f64], by: &[f64]) {
    numbers.iter_mut().zip(by).for_each(|(number, by)| *number *= by);
}

impl Perceptron {
    /// The network of these parameters, and the parameters in one row: of each layer its matrix, then its bias.
    pub fn of(parameters: &MlpParameters) -> (Self, Vec<f64>) {
        let (mut layers, mut numbers) = (vec![], vec![]);
        for layer in &parameters.layers {
            let matrix = numbers.len();
            numbers.extend_from_slice(&layer.weight);
            let bias = layer.bias.as_ref().map(|_| numbers.len());
            numbers.extend(layer.bias.iter().flatten());
            layers.push(Layer { inputs: layer.inputs, outputs: layer.outputs, matrix, bias });
        }
        let MlpParameters { activation, squared_error, limits, .. } = *parameters;
        (Self { layers, activation, task: limits.task, squared_error }, numbers)
    }

    /// How many parameters there are.
    pub fn parameters(&self) -> usize {
        self.layers.iter().map(|layer| layer.outputs * (layer.inputs + usize::from(layer.bias.is_some()))).sum()
    }

    /// Numbers that it reads of an example.
    pub fn width(&self) -> usize {
        self.layers[0].inputs
    }

    /// For each parameter `1/√inputs` of its layer: PyTorch's linear layers begin uniform between plus and minus this.
    pub(super) fn bounds(&self) -> Vec<f64> {
        let mut bounds = vec![0.0; self.parameters()];
        for layer in &self.layers {
            let end = layer.bias.map_or(layer.matrix + layer.outputs * layer.inputs, |bias| bias + layer.outputs);
            bounds[layer.matrix..end].fill((layer.inputs as f64).sqrt().recip());
        }
        bounds
    }

    fn matrix<'a>(layer: &Layer, parameters: &'a [f64]) -> View<'a, f64> {
        View::dense(&parameters[layer.matrix..], layer.outputs, layer.inputs)
    }

    /// Adds a layer's bias to what it writes of each row.
    fn add_bias(layer: &Layer, parameters: &[f64], written: &mut [f64]) {
        if let Some(bias) = layer.bias {
            let bias = &parameters[bias..bias + layer.outputs];
            for row in written.chunks_exact_mut(layer.outputs) {
                row.iter_mut().zip(bias).for_each(|(written, bias)| *written += bias);
            }
        }
    }

    /// Rows `[R, width]` through the network.
    pub(super) fn forward(&self, parameters: &[f64], rows: Vec<f64>) -> Forward {
        let count = rows.len() / self.width();
        let mut forward = Forward { rows: count, inputs: vec![], slopes: vec![], bends: vec![], outputs: vec![] };
        let mut read = rows;
        for (l, layer) in self.layers.iter().enumerate() {
            let mut written = vec![0.0; count * layer.outputs];
            let (x, w) = (View::dense(&read, count, layer.inputs), Self::matrix(layer, parameters));
            product(&mut written, (count, layer.outputs), Into::Replace, x, w.t());
            Self::add_bias(layer, parameters, &mut written);
            forward.inputs.push(read);
            if l + 1 == self.layers.len() {
                forward.outputs = written;
                break;
            }
            let (mut slopes, mut bends) = (Vec::with_capacity(written.len()), Vec::with_capacity(written.len()));
            for number in &mut written {
                let [value, slope, bend] = self.activation.derivatives(*number);
                *number = value;
                slopes.push(slope);
                bends.push(bend);
            }
            forward.slopes.push(slopes);
            forward.bends.push(bends);
            read = written;
        }
        forward
    }

    /// Gradients at the outputs, `[R, outputs]`, back through the network.
    pub(super) fn backward(&self, parameters: &[f64], forward: &Forward, at_outputs: Vec<f64>) -> Backward {
        let count = self.layers.len();
        let mut backward = Backward { at_outputs: vec![vec![]; count], at_inputs: vec![vec![]; count] };
        let mut gradient = at_outputs;
        for l in (1..count).rev() {
            let (layer, shape) = (&self.layers[l], (forward.rows, self.layers[l].inputs));
            let mut pulled = vec![0.0; shape.0 * shape.1];
            let d = View::dense(&gradient, forward.rows, layer.outputs);
            product(&mut pulled, shape, Into::Replace, d, Self::matrix(layer, parameters));
            let mut next = pulled.clone();
            multiply(&mut next, &forward.slopes[l - 1]);
            backward.at_inputs[l] = pulled;
            backward.at_outputs[l] = std::mem::replace(&mut gradient, next);
        }
        backward.at_outputs[0] = gradient;
        backward
    }

    /// Adds `scale · Σ rows' gradients` to `onto`, `[parameters]`.
    pub(super) fn add_gradient(&self, forward: &Forward, backward: &Backward, scale: f64, onto: &mut [f64]) {
        for (l, layer) in self.layers.iter().enumerate() {
            let d = View::dense(&backward.at_outputs[l], forward.rows, layer.outputs);
            let x = View::dense(&forward.inputs[l], forward.rows, layer.inputs);
            let matrix = ViewMut::dense(&mut onto[layer.matrix..], layer.outputs, layer.inputs);
            matmul(matrix, Into::Add, scale, d.t(), x, Threads::One);
            if let Some(bias) = layer.bias {
                add_rows(&backward.at_outputs[l], scale, &mut onto[bias..bias + layer.outputs]);
            }
        }
    }

    /// Along a direction `v` of the parameters: adds `scale · H v` to `onto`, H the Hessian of the rows' summed loss, and
    /// gives for each row the derivative of its loss along `v`, `⟨v, ∇ℓ⟩`.
    ///
    /// # Source
    /// Pearlmutter 1994: every quantity of both passes is differentiated along `v`.
    pub(super) fn along(
        &self,
        parameters: &[f64],
        (forward, backward): (&Forward, &Backward),
        v: &[f64],
        scale: f64,
        onto: &mut [f64],
    ) -> Vec<f64> {
        let (rows, count) = (forward.rows, self.layers.len());
        // How what each layer reads moves; the rows of the data stand still.
        let mut moving_inputs: Vec<Vec<f64>> = vec![vec![]];
        let mut moving_outputs: Vec<Vec<f64>> = vec![];
        for (l, layer) in self.layers.iter().enumerate() {
            let shape = (rows, layer.outputs);
            let mut moved = vec![0.0; rows * layer.outputs];
            let x = View::dense(&forward.inputs[l], rows, layer.inputs);
            product(&mut moved, shape, Into::Replace, x, Self::matrix(layer, v).t());
            if l > 0 {
                let dx = View::dense(&moving_inputs[l], rows, layer.inputs);
                product(&mut moved, shape, Into::Add, dx, Self::matrix(layer, parameters).t());
            }
            Self::add_bias(layer, v, &mut moved);
            if l + 1 < count {
                let mut next = moved.clone();
                multiply(&mut next, &forward.slopes[l]);
                moving_inputs.push(next);
            }
            moving_outputs.push(moved);
        }
        let (last, outputs) = (&moving_outputs[count - 1], self.layers[count - 1].outputs);
        let pairs = last.chunks_exact(outputs).zip(backward.at_outputs[count - 1].chunks_exact(outputs));
        let derivatives = pairs.map(|(moved, d)| moved.iter().zip(d).map(|(m, d)| m * d).sum()).collect();

        let mut turning = self.loss_hessian(&forward.outputs, last);
        for l in (0..count).rev() {
            let layer = &self.layers[l];
            let x = View::dense(&forward.inputs[l], rows, layer.inputs);
            let (d, dd) = (&backward.at_outputs[l], View::dense(&turning, rows, layer.outputs));
            let d = View::dense(d, rows, layer.outputs);
            let mut add = |a: View<'_, f64>, b| {
                let matrix = ViewMut::dense(&mut onto[layer.matrix..], layer.outputs, layer.inputs);
                matmul(matrix, Into::Add, scale, a.t(), b, Threads::One);
            };
            add(dd, x);
            if l > 0 {
                add(d, View::dense(&moving_inputs[l], rows, layer.inputs));
            }
            if let Some(bias) = layer.bias {
                add_rows(&turning, scale, &mut onto[bias..bias + layer.outputs]);
            }
            if l == 0 {
                break;
            }
            let shape = (rows, layer.inputs);
            let mut next = vec![0.0; rows * layer.inputs];
            product(&mut next, shape, Into::Replace, d, Self::matrix(layer, v));
            product(&mut next, shape, Into::Add, dd, Self::matrix(layer, parameters));
            let bent = forward.bends[l - 1].iter().zip(&moving_outputs[l - 1]).zip(&backward.at_inputs[l]);
            for ((next, slope), ((bend, moved), pulled)) in next.iter_mut().zip(&forward.slopes[l - 1]).zip(bent) {
                *next = *next * slope + pulled * bend * moved;
            }
            turning = next;
        }
        derivatives
    }

    /// The loss of each row, and its gradient at the outputs `[R, outputs]`.
    pub(super) fn loss(&self, outputs: &[f64], targets: &Targets) -> (Vec<f64>, Vec<f64>) {
        let width = self.outputs();
        match targets {
            Targets::Classes(classes) => {
                let (mut losses, mut gradient) = (vec![], Vec::with_capacity(outputs.len()));
                for (z, &class) in outputs.chunks_exact(width).zip(classes) {
                    let (mut p, normaliser) = softmax(z);
                    losses.push(normaliser - z[class as usize]);
                    p[class as usize] -= 1.0;
                    gradient.extend(p);
                }
                (losses, gradient)
            }
            Targets::Values { values, .. } => {
                let a = self.squared_error.a;
                let errors: Vec<f64> = outputs.iter().zip(values).map(|(z, &y)| z - f64::from(y)).collect();
                let losses = errors.chunks_exact(width).map(|e| a * e.iter().map(|e| e * e).sum::<f64>()).collect();
                (losses, errors.iter().map(|e| 2.0 * a * e).collect())
            }
            _ => unreachable!("a perceptron's targets are classes or numbers"),
        }
    }

    /// The loss's Hessian at the outputs times their movements, `[R, outputs]` each: of a softmax `diag(p) - p pᵀ`, of a
    /// squared error `a Σ (y - t)²` its constant `2a`.
    fn loss_hessian(&self, outputs: &[f64], moved: &[f64]) -> Vec<f64> {
        if !self.is_classifier() {
            return moved.iter().map(|m| 2.0 * self.squared_error.a * m).collect();
        }
        let width = self.outputs();
        let mut product = Vec::with_capacity(moved.len());
        for (z, moved) in outputs.chunks_exact(width).zip(moved.chunks_exact(width)) {
            let (p, _) = softmax(z);
            let mean: f64 = p.iter().zip(moved).map(|(p, m)| p * m).sum();
            product.extend(p.iter().zip(moved).map(|(p, m)| p * (m - mean)));
        }
        product
    }

    /// The gradient of each row's *gain* κ f at the outputs, `[R, outputs]`; f is a measurement of the row, κ = -1 for a
    /// loss.
    pub(super) fn gain_gradient(&self, outputs: &[f64], targets: &Targets, measurement: Measurement) -> Vec<f64> {
        match (measurement, targets) {
            (Measurement::Margin, Targets::Classes(classes)) => {
                let mut gradient = Vec::with_capacity(outputs.len());
                for (z, &class) in outputs.chunks_exact(self.outputs()).zip(classes) {
                    // log p - log(1 - p): its second part is the normaliser of the other classes
                    let mut others = z.to_vec();
                    others[class as usize] = f64::NEG_INFINITY;
                    let (p, _) = softmax(&others);
                    gradient.extend(p.iter().enumerate().map(|(k, p)| f64::from(u8::from(k == class as usize)) - p));
                }
                gradient
            }
            (Measurement::Probability, Targets::Classes(classes)) => {
                let mut gradient = Vec::with_capacity(outputs.len());
                for (z, &class) in outputs.chunks_exact(self.outputs()).zip(classes) {
                    let (p, _) = softmax(z);
                    let own = p[class as usize];
                    let slopes =
                        p.iter().enumerate().map(|(k, p)| own * (f64::from(u8::from(k == class as usize)) - p));
                    gradient.extend(slopes);
                }
                gradient
            }
            (Measurement::Prediction, Targets::Values { .. }) => vec![1.0; outputs.len()],
            // minus the loss, which is the log-probability of a classifier's label
            _ => self.loss(outputs, targets).1.into_iter().map(|d| -d).collect(),
        }
    }

    fn outputs(&self) -> usize {
        self.layers[self.layers.len() - 1].outputs
    }

    fn is_classifier(&self) -> bool {
        self.task == Task::Classification
    }
}

/// Adds `scale` times the sum over rows to `onto`.
fn add_rows(rows: &[f64], scale: f64, onto: &mut [f64]) {
    for row in rows.chunks_exact(onto.len()) {
        onto.iter_mut().zip(row).for_each(|(onto, number)| *onto += scale * number);
    }
}

/// The softmax of a row, and the logarithm of the sum of exponentials.
fn softmax(z: &[f64]) -> (Vec<f64>, f64) {
    let most = z.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let exponentials: Vec<f64> = z.iter().map(|z| (z - most).exp()).collect();
    let sum: f64 = exponentials.iter().sum();
    (exponentials.iter().map(|e| e / sum).collect(), most + sum.ln())
}
