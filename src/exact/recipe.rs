//! What a training run did at every step: which examples it saw, at which rate, and how the optimizer moved. Read from a
//! description and a file of batches, or drawn anew for a seed.

use std::path::Path;

use safetensors::{Dtype, SafeTensors};

use super::error::ExactError;
use super::perceptron::Perceptron;
use crate::attribution::trajectory::{LossScale, Optimizer, TrainedLayers};
use crate::curvature::LabelDraw;
use crate::curvature::random::{stream, uniforms, words};
use crate::foreign_file;
use crate::trajectory::{ReadError, Reading};

/// The most bytes of a file of batches, which is read whole.
const MAX_BATCHES: u64 = 4 << 30;

/// Stochastic gradient descent as `torch.optim.SGD` does it: `v ← β v + (1 - d) g`, the first step without `d`, with
/// `g = ∇L + λ θ`; then `θ ← θ - ε v`, or `θ ← θ - ε (g + β v)` with Nesterov's form.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Descent {
    /// β.
    pub momentum: f64,
    /// d.
    pub dampening: f64,
    /// Nesterov's form.
    pub nesterov: bool,
    /// λ, added to the gradient of every parameter.
    pub weight_decay: f64,
}

/// The examples of one step.
#[derive(Debug, Clone, PartialEq)]
pub struct Step {
    /// Rows of the training file; one that stands twice counts twice.
    pub examples: Vec<u32>,
    /// What the sum of their losses is multiplied by.
    pub scale: f64,
}

/// The recipe of a run without its order: what every seed has in common.
#[derive(Debug, Clone, PartialEq)]
pub struct Recipe {
    /// The optimizer.
    pub descent: Descent,
    /// ε of each step.
    pub rates: Vec<f64>,
    /// Examples of a whole batch.
    pub batch_size: usize,
    /// Whether an epoch's last batch is left out where it is smaller.
    pub drops_last: bool,
    /// Whether a step's loss is the mean over its batch, incomplete ones by their own size; or its sum.
    is_mean: bool,
    /// A further factor of the loss.
    factor: f64,
}

impl Recipe {
    /// The recipe of a run's one stage, trained on `examples` rows.
    ///
    /// # Errors
    /// An optimizer other than SGD, clipping, rates of single layers or frozen ones; a batch or an epoch that does not
    /// fit the data.
    pub fn of(reading: &Reading, examples: usize) -> Result<Self, ExactError> {
        let run = || reading.source.clone();
        let unsupported = |what: String| ExactError::Unsupported { run: run(), what };
        let Optimizer::Sgd { momentum, dampening, nesterov, weight_decay } = reading.optimizer else {
            return Err(unsupported(format!("the optimizer {}", reading.optimizer.name())));
        };
        reading.optimizer.check().map_err(|problem| ReadError::Numbers { source_path: run(), problem })?;
        if reading.max_grad_norm.is_some() {
            return Err(unsupported("clipping of gradients".into()));
        }
        if reading.trained_layers != TrainedLayers::All {
            return Err(unsupported("`trained_layers`".into()));
        }
        if !reading.layer_rates.is_empty() {
            return Err(unsupported("`layer_rates`".into()));
        }
        if let Some(recorded) = reading.n_examples.filter(|&recorded| recorded != examples) {
            return Err(ExactError::Examples { run: run(), recorded, found: examples });
        }
        let batch_size = reading.batch.per_process * reading.batch.accumulation * reading.batch.processes.unwrap_or(1);
        if !(1..=examples).contains(&batch_size) {
            return Err(ExactError::BatchSize { run: run(), batch_size, examples });
        }
        let (whole, all) = (examples / batch_size, examples.div_ceil(batch_size));
        let drops_last = match reading.epochs.as_ref().map(|epochs| epochs.steps as usize) {
            None => false,
            Some(steps) if steps == all => false,
            Some(steps) if steps == whole => true,
            Some(steps) => return Err(ExactError::EpochSteps { run: run(), steps, whole, all }),
        };
        let (is_mean, factor) = match reading.loss_scale {
            None => return Err(ExactError::NoReduction { run: run() }),
            Some(LossScale::MeanOverExamples) => (true, 1.0),
            Some(LossScale::SumOverBatch { .. }) => (false, 1.0),
            Some(other) => (true, other.value()),
        };
        let descent = Descent { momentum, dampening, nesterov, weight_decay };
        let rates = reading.rates.iter().collect();
        Ok(Self { descent, rates, batch_size, drops_last, is_mean, factor })
    }

    /// A recipe of the mean loss over batches.
    #[cfg(test)]
    pub(super) fn made(descent: Descent, rates: Vec<f64>, batch_size: usize, drops_last: bool) -> Self {
        Self { descent, rates, batch_size, drops_last, is_mean: true, factor: 1.0 }
    }

    fn step(&self, examples: Vec<u32>, slots: usize) -> Step {
        let scale = if self.is_mean { self.factor / slots as f64 } else { self.factor };
        Step { examples, scale }
    }

    /// The batches of a seed: every epoch is a new permutation of all examples, cut into batches.
    pub fn drawn(&self, examples: usize, seed: u64) -> Vec<Step> {
        let mut steps = Vec::with_capacity(self.rates.len());
        for epoch in 0.. {
            let mut order: Vec<u32> = (0..examples as u32).collect();
            // Fisher and Yates
            for last in (1..examples).rev() {
                let (u, _) = uniforms(words(draw(seed), last as u64, epoch, ORDER));
                order.swap(last, (u * (last + 1) as f64) as usize);
            }
            for batch in order.chunks(self.batch_size) {
                if steps.len() == self.rates.len() {
                    return steps;
                }
                if batch.len() == self.batch_size || !self.drops_last {
                    steps.push(self.step(batch.to_vec(), batch.len()));
                }
            }
        }
        steps
    }

    /// The recorded batches of a run: `batches`, integers `[steps, slots]`, rows of the training file. A slot of -1 is
    /// empty: it is in no sum, but a mean still counts it.
    ///
    /// # Errors
    /// A file without this tensor, another number of steps than the run has, a row that there is not.
    pub fn recorded(&self, file: &Path, examples: usize) -> Result<Vec<Step>, ExactError> {
        let problem = |problem: String| ExactError::Batches { file: file.to_owned(), problem };
        let bytes = foreign_file::read(file, MAX_BATCHES)
            .map_err(|source| ExactError::Unreadable { file: file.to_owned(), source })?;
        let tensors = SafeTensors::deserialize(&bytes).map_err(|error| problem(error.to_string()))?;
        let tensor = tensors.tensor("batches").map_err(|_| problem("no tensor `batches`".into()))?;
        let &[steps, slots] = tensor.shape() else {
            return Err(problem(format!("`batches` has the shape {:?}, expected [steps, slots]", tensor.shape())));
        };
        if steps != self.rates.len() || slots == 0 {
            let expected = self.rates.len();
            return Err(problem(format!(
                "`batches` is of {steps} steps with {slots} slots; the run has {expected} steps"
            )));
        }
        let numbers: Vec<i64> = match tensor.dtype() {
            Dtype::I64 => tensor.data().as_chunks().0.iter().map(|&bytes| i64::from_le_bytes(bytes)).collect(),
            Dtype::I32 => tensor.data().as_chunks().0.iter().map(|&bytes| i32::from_le_bytes(bytes).into()).collect(),
            other => return Err(problem(format!("`batches` holds {other:?}, expected I64 or I32"))),
        };
        let mut recorded = Vec::with_capacity(steps);
        for (step, batch) in numbers.chunks_exact(slots).enumerate() {
            if let Some(row) = batch.iter().find(|&&row| row < -1 || row >= examples as i64) {
                return Err(problem(format!(
                    "step {step} has the row {row}; the training file has rows 0 to {}",
                    examples - 1
                )));
            }
            let kept = batch.iter().filter(|&&row| row >= 0).map(|&row| row as u32).collect();
            recorded.push(self.step(kept, slots));
        }
        Ok(recorded)
    }
}

/// Purposes of a seed's random numbers.
const ORDER: u32 = 0;
const START: u32 = 1;

fn draw(seed: u64) -> LabelDraw {
    LabelDraw { seed, stream: stream::TRAINING, draw: 0 }
}

/// The parameters that training begins with, drawn for a seed as PyTorch's linear layers draw theirs: uniform between
/// plus and minus `1/√inputs`.
pub fn drawn_start(network: &Perceptron, seed: u64) -> Vec<f64> {
    let bounds = network.bounds().into_iter().enumerate();
    bounds.map(|(place, bound)| (2.0 * uniforms(words(draw(seed), place as u64, 0, START)).0 - 1.0) * bound).collect()
}
