//! Training done again in f64, step by step.

use super::error::ExactError;
use super::perceptron::{Backward, Forward, Perceptron};
use super::recipe::{Descent, Step};
use crate::data::{Dataset, Inputs, RowInputs, Targets, batch};

/// What a training run goes through: its network, data, optimizer and every step's batch and rate.
#[derive(Debug, Clone, Copy)]
pub struct Training<'a> {
    /// The network.
    pub network: &'a Perceptron,
    /// The training rows.
    pub data: &'a Dataset,
    /// The optimizer.
    pub descent: Descent,
    /// ε of each step.
    pub rates: &'a [f64],
    /// The examples of each step, as many as rates.
    pub steps: &'a [Step],
}

/// Where training stands between two steps.
#[derive(Debug, Clone, PartialEq)]
pub struct State {
    /// θ.
    pub parameters: Vec<f64>,
    /// v, the optimizer's velocity.
    velocity: Vec<f64>,
}

impl State {
    /// Before the first step.
    pub fn first(parameters: Vec<f64>) -> Self {
        Self { velocity: vec![0.0; parameters.len()], parameters }
    }
}

/// Rows of a dataset in f64, with their targets.
pub(super) fn rows(data: &Dataset, places: &[usize]) -> (Vec<f64>, Targets) {
    let of = batch(&data.at(places), 0..places.len());
    let Inputs::Rows(RowInputs { values, .. }) = of.inputs else { unreachable!("a perceptron reads rows of numbers") };
    (values.into_iter().map(f64::from).collect(), of.targets)
}

impl Training<'_> {
    /// Both passes of a step's batch at these parameters; none of a step whose slots are all empty.
    pub(super) fn passes(&self, step: usize, parameters: &[f64]) -> Option<(Forward, Backward)> {
        let places: Vec<usize> = self.steps[step].examples.iter().map(|&row| row as usize).collect();
        if places.is_empty() {
            return None;
        }
        let (inputs, targets) = rows(self.data, &places);
        let forward = self.network.forward(parameters, inputs);
        let (_, gradient) = self.network.loss(&forward.outputs, &targets);
        let backward = self.network.backward(parameters, &forward, gradient);
        Some((forward, backward))
    }

    /// What the step multiplies its gradient by when it enters the velocity: 1 - d, but 1 in the first step.
    pub(super) fn entering(&self, step: usize) -> f64 {
        if step == 0 { 1.0 } else { 1.0 - self.descent.dampening }
    }

    /// One step.
    ///
    /// # Errors
    /// [`ExactError::NotFinite`].
    pub fn advance(&self, step: usize, state: &mut State) -> Result<(), ExactError> {
        let State { parameters, velocity } = state;
        let Descent { momentum, nesterov, weight_decay, .. } = self.descent;
        let mut gradient: Vec<f64> = parameters.iter().map(|parameter| weight_decay * parameter).collect();
        if let Some((forward, backward)) = self.passes(step, parameters) {
            self.network.add_gradient(&forward, &backward, self.steps[step].scale, &mut gradient);
        }
        let (rate, entering) = (self.rates[step], self.entering(step));
        let mut is_finite = true;
        for ((parameter, velocity), gradient) in parameters.iter_mut().zip(velocity).zip(gradient) {
            *velocity = momentum * *velocity + entering * gradient;
            *parameter -= rate * if nesterov { gradient + momentum * *velocity } else { *velocity };
            is_finite &= parameter.is_finite();
        }
        if is_finite { Ok(()) } else { Err(ExactError::NotFinite { step }) }
    }

    /// The mean loss of all rows of a dataset.
    pub fn mean_loss(&self, data: &Dataset, parameters: &[f64]) -> f64 {
        const TOGETHER: usize = 1024;
        let all: Vec<usize> = (0..data.len()).collect();
        let mut sum = 0.0;
        for places in all.chunks(TOGETHER) {
            let (inputs, targets) = rows(data, places);
            let outputs = self.network.forward(parameters, inputs).outputs;
            sum += self.network.loss(&outputs, &targets).0.iter().sum::<f64>();
        }
        sum / data.len() as f64
    }
}
