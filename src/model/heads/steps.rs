//! The few layers that a head has one behind the other: linear layers, functions of every number, and norms.

use crate::curvature::{TapRecorder, Traced};
use crate::model::error::LoadError;
use crate::model::norms::{LayerNorm, Norm, StoredLayerNorm};
use crate::model::projection::{Projection, StoredLinear};
use crate::model::residence::Stored;
use crate::nn::Activation;

/// One step of a head.
#[derive(Debug)]
pub(in crate::model) enum Step {
    /// A linear layer: its full name, its outputs and inputs, and whether it has a bias.
    Linear {
        /// The name in the checkpoint, without `.weight`.
        name: &'static str,
        /// Outputs and inputs.
        sizes: [usize; 2],
        /// Whether it has a bias.
        bias: bool,
    },
    /// A function of every number.
    Activation(Activation),
    /// A layer norm.
    Norm(Box<StoredLayerNorm>),
}

/// The steps of a head, whose linear layers are numbered.
#[derive(Debug)]
pub(super) struct StoredSteps(Vec<StoredStep>);

impl StoredSteps {
    /// The steps, whose linear layers `linear` finds by name, sizes and whether there is a bias.
    pub(super) fn new(
        steps: Vec<Step>,
        mut linear: impl FnMut(&'static str, [usize; 2], bool) -> Result<StoredLinear, LoadError>,
    ) -> Result<Self, LoadError> {
        let stored = |step: Step| {
            Ok(match step {
                Step::Linear { name, sizes, bias } => StoredStep::Linear(Box::new(linear(name, sizes, bias)?)),
                Step::Activation(activation) => StoredStep::Activation(activation),
                Step::Norm(norm) => StoredStep::Norm(norm),
            })
        };
        steps.into_iter().map(stored).collect::<Result<_, LoadError>>().map(Self)
    }
}

#[derive(Debug)]
enum StoredStep {
    Linear(Box<StoredLinear>),
    Activation(Activation),
    Norm(Box<StoredLayerNorm>),
}

#[derive(Debug)]
enum StepInMemory {
    Linear(Projection),
    Activation(Activation),
    Norm(LayerNorm),
}

impl Stored for StoredSteps {
    type Value = Steps;

    fn read(&self) -> Result<Steps, LoadError> {
        let read = |step: &StoredStep| {
            Ok(match step {
                StoredStep::Linear(linear) => StepInMemory::Linear(linear.read()?),
                StoredStep::Activation(activation) => StepInMemory::Activation(*activation),
                StoredStep::Norm(norm) => StepInMemory::Norm(norm.read()?),
            })
        };
        self.0.iter().map(read).collect::<Result<_, LoadError>>().map(Steps)
    }
}

/// The steps in memory.
#[derive(Debug)]
pub(super) struct Steps(Vec<StepInMemory>);

impl Steps {
    /// One row of numbers to another, each row by itself.
    pub(super) fn trace(&self, x: &Traced, taps: &TapRecorder) -> candle_core::Result<Traced> {
        self.0.iter().try_fold(x.clone(), |x, step| match step {
            StepInMemory::Linear(linear) => linear.trace(&x, taps),
            StepInMemory::Activation(activation) => activation.trace(&x),
            StepInMemory::Norm(norm) => norm.trace(&x, taps),
        })
    }
}
