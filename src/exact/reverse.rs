//! The derivative of every query's gain by the weight of every training example, backwards through all steps of training.
//!
//! With a_k and b_k the gain's derivatives by the parameters θ_k and by the velocity that enters step k, the step
//! `v_k = β v_{k-1} + c_k g_k`, `θ_{k+1} = θ_k - ε_k v_k` (Nesterov: `g_k + β v_k` in place of `v_k`), and the gradient
//! `g_k = s_k Σ_m w_m ∇ℓ_m(θ_k) + λ θ_k` of a batch,
//!
//! ```text
//! v̄ = b_{k+1} - ε_k a_{k+1}        (Nesterov: b_{k+1} - ε_k β a_{k+1})
//! ḡ = c_k v̄                        (Nesterov: c_k v̄ - ε_k a_{k+1})
//! a_k = a_{k+1} + (s_k Σ_m ∇²ℓ_m + λ) ḡ,   b_k = β v̄
//! dγ/dw_m += s_k ⟨ḡ, ∇ℓ_m(θ_k)⟩
//! ```
//!
//! from `a_K = ∇γ(θ_K)` and `b_K = 0`. Weights are 1 where training happened, so that a derivative is the change for one
//! more copy of the example wherever it was drawn.
//!
//! # Source
//! Maclaurin, Duvenaud and Adams 2015; Ilyas and Engstrom 2025 (MAGIC).

use std::ops::Range;

use rayon::prelude::*;

use super::error::ExactError;
use super::recipe::{Descent, Step};
use super::training::{State, Training, rows};
use crate::attribution::{Event, Observer, Pass};
use crate::curvature::Measurement;
use crate::data::Dataset;

/// What a query's derivative is, on its way back: a and b of the module's description, and its row of scores.
struct Adjoint {
    parameters: Vec<f64>,
    velocity: Vec<f64>,
    scores: Vec<f64>,
}

/// A training run with states along it, from which any part of it can be done again.
#[derive(Debug)]
pub struct Replay<'a> {
    training: Training<'a>,
    /// The state before every step that is a multiple of `stride`.
    states: Vec<State>,
    stride: usize,
    last: Vec<f64>,
}

impl<'a> Replay<'a> {
    /// Trains from these parameters. States are kept every `√steps` steps, so that the parameters of all steps between two
    /// of them fit beside them. `seen` gets the number of steps done, from 1, and the parameters after them.
    ///
    /// # Errors
    /// [`ExactError::NotFinite`]; [`ExactError::Interrupted`].
    pub fn new(
        training: Training<'a>,
        start: Vec<f64>,
        observer: &dyn Observer,
        mut seen: impl FnMut(usize, &[f64]),
    ) -> Result<Self, ExactError> {
        let steps = training.steps.len();
        let stride = Self::stride(steps);
        let mut state = State::first(start);
        let mut states = vec![];
        for step in 0..steps {
            if observer.interrupted() {
                return Err(ExactError::Interrupted);
            }
            if step % stride == 0 {
                states.push(state.clone());
            }
            training.advance(step, &mut state)?;
            seen(step + 1, &state.parameters);
        }
        Ok(Self { training, states, stride, last: state.parameters })
    }

    fn stride(steps: usize) -> usize {
        (steps as f64).sqrt().ceil().max(1.0) as usize
    }

    /// Bytes that the states of a run take, with those that are made again between two of them.
    pub fn bytes(parameters: usize, steps: usize) -> u64 {
        let stride = Self::stride(steps);
        8 * parameters as u64 * (2 * steps.div_ceil(stride) + stride + 3) as u64
    }

    /// Bytes of one query on its way back: two vectors of parameters and what a product needs, and its row of scores.
    pub fn bytes_of_query(parameters: usize, examples: usize) -> u64 {
        8 * (3 * parameters + examples) as u64
    }

    /// The parameters behind the last step.
    pub fn last(&self) -> &[f64] {
        &self.last
    }

    /// Scores `[Q, N]` of these queries: by how much a query's gain κ f rises for one more copy of each example.
    ///
    /// # Errors
    /// [`ExactError::Interrupted`].
    pub fn scores(
        &self,
        queries: &Dataset,
        range: Range<usize>,
        measurement: Measurement,
        observer: &dyn Observer,
    ) -> Result<Vec<f64>, ExactError> {
        let (training, network) = (self.training, self.training.network);
        let examples = training.data.len();
        let adjoint = |query: usize| {
            let (inputs, targets) = rows(queries, &[query]);
            let forward = network.forward(&self.last, inputs);
            let gradient = network.gain_gradient(&forward.outputs, &targets, measurement);
            let backward = network.backward(&self.last, &forward, gradient);
            let mut parameters = vec![0.0; self.last.len()];
            network.add_gradient(&forward, &backward, 1.0, &mut parameters);
            Adjoint { parameters, velocity: vec![0.0; self.last.len()], scores: vec![0.0; examples] }
        };
        let mut adjoints: Vec<Adjoint> = range.into_par_iter().map(adjoint).collect();
        for (k, state) in self.states.iter().enumerate().rev() {
            let first = k * self.stride;
            let steps = first..(first + self.stride).min(training.steps.len());
            let mut along = vec![];
            let mut state = state.clone();
            for step in steps.clone() {
                along.push(state.parameters.clone());
                training.advance(step, &mut state)?;
            }
            for step in steps.rev() {
                if observer.interrupted() {
                    return Err(ExactError::Interrupted);
                }
                let parameters = along.pop().expect("as many as steps");
                self.step_back(step, &parameters, &mut adjoints);
                observer.event(Event::Advanced { pass: Pass::Reverse, units: 1 });
            }
        }
        Ok(adjoints.into_iter().flat_map(|adjoint| adjoint.scores).collect())
    }

    /// Takes the derivatives of all queries from behind a step to before it.
    fn step_back(&self, step: usize, parameters: &[f64], adjoints: &mut [Adjoint]) {
        let Training { network, descent, rates, steps, .. } = self.training;
        let Descent { momentum, nesterov, weight_decay, .. } = descent;
        let (rate, entering) = (rates[step], self.training.entering(step));
        let passes = self.training.passes(step, parameters);
        let Step { examples, scale } = &steps[step];
        adjoints.par_iter_mut().for_each(|adjoint| {
            let mut of_gradient = Vec::with_capacity(parameters.len());
            for (a, b) in adjoint.parameters.iter_mut().zip(&mut adjoint.velocity) {
                let (of_velocity, direct) =
                    if nesterov { (*b - rate * momentum * *a, -rate * *a) } else { (*b - rate * *a, 0.0) };
                let gradient = entering * of_velocity + direct;
                of_gradient.push(gradient);
                *b = momentum * of_velocity;
                *a += weight_decay * gradient;
            }
            let Some((forward, backward)) = &passes else { return };
            let derivatives =
                network.along(parameters, (forward, backward), &of_gradient, *scale, &mut adjoint.parameters);
            for (&example, derivative) in examples.iter().zip(derivatives) {
                adjoint.scores[example as usize] += scale * derivative;
            }
        });
    }
}
