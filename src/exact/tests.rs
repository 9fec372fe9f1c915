//! Derivatives through training against training itself: the definition with loops, done again with the weight of one
//! example a little higher and a little lower.

use std::collections::HashMap;
use std::path::Path;

use safetensors::tensor::{Dtype, TensorView};

use super::{Descent, Perceptron, Replay, Step, Training, drawn_start};
use crate::curvature::Measurement;
use crate::data::{Dataset, RowLimits, RowShape, Task, read_rows_from};
use crate::model::{MlpLayer, MlpParameters};
use crate::nn::{Activation, SquaredError};

const SIZES: [usize; 4] = [3, 5, 4, 3];
const EXAMPLES: usize = 7;
const QUERIES: usize = 2;

/// A number between -1 and 1 that depends on `k` alone.
fn number(k: usize) -> f64 {
    ((k * 2_654_435_761 + 12_345) % 1_000_003) as f64 / 500_001.5 - 1.0
}

fn limits(task: Task) -> RowLimits {
    RowLimits { inputs: RowShape::Numbers(SIZES[0]), outputs: SIZES[3], task }
}

fn data(count: usize, task: Task, salt: usize) -> Dataset {
    let inputs: Vec<u8> = (0..count * SIZES[0]).flat_map(|k| (number(k + salt) as f32).to_le_bytes()).collect();
    let inputs = TensorView::new(Dtype::F32, vec![count, SIZES[0]], &inputs).expect("sizes fit");
    let targets: Vec<u8> = match task {
        Task::Classification => (0..count).flat_map(|k| ((k * 5 + salt) as i64 % 3).to_le_bytes()).collect(),
        _ => (0..count * SIZES[3]).flat_map(|k| (number(k + salt + 999) as f32).to_le_bytes()).collect(),
    };
    let targets = match task {
        Task::Classification => TensorView::new(Dtype::I64, vec![count], &targets),
        _ => TensorView::new(Dtype::F32, vec![count, SIZES[3]], &targets),
    };
    let tensors = HashMap::from([("inputs", inputs), ("targets", targets.expect("sizes fit"))]);
    let bytes = safetensors::serialize(tensors, None).expect("tensors");
    read_rows_from(&bytes, Path::new("made.safetensors"), limits(task)).expect("rows").0
}

/// The definition: layers as nested rows, `[O][I]`, and biases.
#[derive(Clone)]
struct Dense {
    weights: Vec<Vec<Vec<f64>>>,
    biases: Vec<Vec<f64>>,
}

struct Case {
    activation: Activation,
    task: Task,
    descent: Descent,
    measurement: Measurement,
    steps: Vec<Step>,
}

impl Case {
    fn value(&self, x: f64) -> f64 {
        self.activation.derivatives(x)[0]
    }

    fn outputs(&self, dense: &Dense, x: &[f64]) -> Vec<f64> {
        let mut x = x.to_vec();
        for (l, (weight, bias)) in dense.weights.iter().zip(&dense.biases).enumerate() {
            x = weight
                .iter()
                .zip(bias)
                .map(|(row, b)| b + row.iter().zip(&x).map(|(w, x)| w * x).sum::<f64>())
                .collect();
            if l + 1 < dense.weights.len() {
                x = x.into_iter().map(|z| self.value(z)).collect();
            }
        }
        x
    }

    /// What is minimised; and minus or plus what is measured, so that more is better.
    fn loss(&self, z: &[f64], target: &[f64]) -> f64 {
        if self.task == Task::Classification {
            return z.iter().map(|z| z.exp()).sum::<f64>().ln() - z[target[0] as usize];
        }
        0.5 * z.iter().zip(target).map(|(z, y)| (z - y).powi(2)).sum::<f64>()
    }

    fn gain(&self, z: &[f64], target: &[f64]) -> f64 {
        match self.measurement {
            Measurement::Margin => {
                let class = target[0] as usize;
                let others: f64 = z.iter().enumerate().filter(|&(k, _)| k != class).map(|(_, z)| z.exp()).sum();
                z[class] - others.ln()
            }
            Measurement::Prediction => z.iter().sum(),
            Measurement::Probability => (-self.loss(z, target)).exp(),
            _ => -self.loss(z, target),
        }
    }

    /// Trains with weights of examples; gradients are differences of the loss in every parameter.
    fn trained(&self, start: &[f64], rates: &[f64], rows: &[(Vec<f64>, Vec<f64>)], weights: &[f64]) -> Vec<f64> {
        let (mut parameters, mut velocity) = (start.to_vec(), vec![0.0; start.len()]);
        for (k, step) in self.steps.iter().enumerate() {
            let loss = |parameters: &[f64]| -> f64 {
                let dense = dense(parameters);
                let of = |&m: &u32| {
                    weights[m as usize] * self.loss(&self.outputs(&dense, &rows[m as usize].0), &rows[m as usize].1)
                };
                step.scale * step.examples.iter().map(of).sum::<f64>()
            };
            let gradient: Vec<f64> = (0..parameters.len())
                .map(|p| {
                    // the derivative by a polynomial through four points: exact to 1e-12
                    let at = |h: f64| {
                        let mut moved = parameters.clone();
                        moved[p] += h;
                        loss(&moved)
                    };
                    let h = 1e-3;
                    let slope = (8.0 * (at(h) - at(-h)) - (at(2.0 * h) - at(-2.0 * h))) / (12.0 * h);
                    slope + self.descent.weight_decay * parameters[p]
                })
                .collect();
            let entering = if k == 0 { 1.0 } else { 1.0 - self.descent.dampening };
            for p in 0..parameters.len() {
                velocity[p] = self.descent.momentum * velocity[p] + entering * gradient[p];
                let moved =
                    if self.descent.nesterov { gradient[p] + self.descent.momentum * velocity[p] } else { velocity[p] };
                parameters[p] -= rates[k] * moved;
            }
        }
        parameters
    }
}

/// Parameters in the order of [`Perceptron::of`].
fn dense(parameters: &[f64]) -> Dense {
    let (mut weights, mut biases, mut at) = (vec![], vec![], 0);
    for pair in SIZES.windows(2) {
        let (i, o) = (pair[0], pair[1]);
        weights.push(parameters[at..at + i * o].chunks_exact(i).map(<[f64]>::to_vec).collect());
        biases.push(parameters[at + i * o..at + i * o + o].to_vec());
        at += (i + 1) * o;
    }
    Dense { weights, biases }
}

fn network(case: &Case) -> Perceptron {
    let layer = |pair: &[usize]| MlpLayer {
        name: String::new(),
        inputs: pair[0],
        outputs: pair[1],
        weight: vec![0.0; pair[0] * pair[1]],
        bias: Some(vec![0.0; pair[1]]),
    };
    let layers = SIZES.windows(2).map(layer).collect();
    let (activation, squared_error) = (case.activation, SquaredError { a: 0.5 });
    Perceptron::of(&MlpParameters { layers, activation, squared_error, limits: limits(case.task) }).0
}

fn plain(data: &Dataset) -> Vec<(Vec<f64>, Vec<f64>)> {
    let row = |m: usize| {
        let (inputs, targets) = super::training::rows(data, &[m]);
        let target = match targets {
            crate::data::Targets::Classes(classes) => classes.iter().map(|&class| f64::from(class)).collect(),
            crate::data::Targets::Values { values, .. } => values.iter().map(|&value| f64::from(value)).collect(),
            other => panic!("{other:?}"),
        };
        (inputs, target)
    };
    (0..data.len()).map(row).collect()
}

fn steps(batches: &[&[u32]], slots: usize) -> Vec<Step> {
    batches.iter().map(|batch| Step { examples: batch.to_vec(), scale: 1.0 / slots as f64 }).collect()
}

/// Batches that repeat an example, leave slots empty, and one that is empty altogether.
fn batches() -> Vec<Step> {
    steps(
        &[&[0, 3, 5], &[1, 2], &[6, 6, 4], &[], &[0, 2, 5], &[3, 1, 4], &[5, 0, 6], &[2, 4, 1], &[3, 0, 0], &[6, 5, 1]],
        3,
    )
}

fn holds(case: &Case) {
    let (network, train, queries) = (network(case), data(EXAMPLES, case.task, 0), data(QUERIES, case.task, 31));
    let rates: Vec<f64> = (0..case.steps.len()).map(|k| 0.3 / (1.0 + 0.1 * k as f64)).collect();
    let start = drawn_start(&network, 5);
    let training =
        Training { network: &network, data: &train, descent: case.descent, rates: &rates, steps: &case.steps };
    let replay = Replay::new(training, start.clone(), &(), |_, _| ()).expect("finite");
    let (rows, asked) = (plain(&train), plain(&queries));
    let last = case.trained(&start, &rates, &rows, &[1.0; EXAMPLES]);
    for (found, expected) in replay.last().iter().zip(&last) {
        assert!((found - expected).abs() < 1e-10, "training itself: {found} and {expected}");
    }
    // in two parts, as queries that do not fit into memory together
    let [first, second] =
        [0..1, 1..QUERIES].map(|part| replay.scores(&queries, part, case.measurement, &()).expect("scores"));
    let scores = [first, second].concat();
    let gains = |weights: &[f64]| -> Vec<f64> {
        let dense = dense(&case.trained(&start, &rates, &rows, weights));
        asked.iter().map(|(x, y)| case.gain(&case.outputs(&dense, x), y)).collect()
    };
    let largest = scores.iter().fold(0.0_f64, |most, score| most.max(score.abs()));
    assert!(largest > 1e-3, "scores that say nothing: {scores:?}");
    for m in 0..EXAMPLES {
        let with = |weight: f64| {
            let mut weights = [1.0; EXAMPLES];
            weights[m] = weight;
            gains(&weights)
        };
        let h = 1e-3;
        let [a, b, c, d] = [1.0 + h, 1.0 - h, 1.0 + 2.0 * h, 1.0 - 2.0 * h].map(with);
        for q in 0..QUERIES {
            let expected = (8.0 * (a[q] - b[q]) - (c[q] - d[q])) / (12.0 * h);
            let found = scores[q * EXAMPLES + m];
            assert!((found - expected).abs() < 1e-7 * largest, "query {q}, example {m}: {found} and {expected}");
        }
    }
}

const PLAIN: Descent = Descent { momentum: 0.0, dampening: 0.0, nesterov: false, weight_decay: 0.0 };

#[test]
fn of_a_classifier_with_momentum_and_decay() {
    let descent = Descent { momentum: 0.9, weight_decay: 0.05, ..PLAIN };
    let (activation, task) = (Activation::Tanh, Task::Classification);
    holds(&Case { activation, task, descent, measurement: Measurement::Margin, steps: batches() });
}

#[test]
fn of_a_classifier_with_nesterovs_form_and_a_loss() {
    let descent = Descent { momentum: 0.7, nesterov: true, weight_decay: 0.01, ..PLAIN };
    let (activation, task) = (Activation::Gelu, Task::Classification);
    holds(&Case { activation, task, descent, measurement: Measurement::Loss, steps: batches() });
}

#[test]
fn of_a_regression_with_dampening() {
    let descent = Descent { momentum: 0.8, dampening: 0.4, ..PLAIN };
    let (activation, task) = (Activation::Silu, Task::Regression);
    holds(&Case { activation, task, descent, measurement: Measurement::Prediction, steps: batches() });
}

#[test]
fn of_plain_descent_and_of_probabilities() {
    let (activation, task, descent) = (Activation::Sigmoid, Task::Classification, PLAIN);
    for measurement in [Measurement::LogProbability, Measurement::Probability] {
        holds(&Case { activation, task, descent, measurement, steps: batches() });
    }
}

#[test]
fn an_order_that_is_drawn_has_every_example_once_an_epoch() {
    let recipe = |drops_last, steps| super::Recipe::made(PLAIN, vec![0.1; steps], 3, drops_last);
    let all = recipe(false, 6).drawn(EXAMPLES, 1);
    for epoch in all.chunks(3) {
        let mut seen: Vec<u32> = epoch.iter().flat_map(|step| step.examples.clone()).collect();
        assert_eq!(epoch.iter().map(|step| step.examples.len()).collect::<Vec<_>>(), [3, 3, 1]);
        assert_eq!(epoch[2].scale, 1.0, "an incomplete batch is the mean over its own examples");
        seen.sort_unstable();
        assert_eq!(seen, (0..EXAMPLES as u32).collect::<Vec<_>>());
    }
    let dropped = recipe(true, 4).drawn(EXAMPLES, 1);
    assert!(dropped.iter().all(|step| step.examples.len() == 3 && step.scale == 1.0 / 3.0));
    assert_eq!(dropped[..2], all[..2], "the order is the seed's alone");
    assert_ne!(recipe(false, 6).drawn(EXAMPLES, 2), all);
}
