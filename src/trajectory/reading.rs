use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use ascribe_attribution::trajectory::{
    CheckpointAt, Clipping, LossScale, Optimizer, Schedule, StageNumbers, StepRates, TrainedLayers, TrainingStage,
    TrajectoryError,
};

use super::{ReadError, TransformersVersion, Warning};

/// One thing that was understood, and where it comes from. For printing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fact {
    /// What it is about.
    pub what: &'static str,
    /// Its value in words.
    pub value: String,
    /// The file or the rule that says so.
    pub origin: String,
}

/// How the rate of every step came to be known.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum RatesOrigin {
    /// Replayed from a schedule, and how many recorded rates agree with it.
    Schedule {
        /// The schedule.
        schedule: Schedule,
        /// Recorded rates that it was checked against.
        checked: usize,
    },
    /// Every step's rate is in the log.
    Logged,
    /// Interpolated between `known` recorded steps.
    Interpolated {
        /// Steps whose rate is recorded.
        known: usize,
    },
    /// Written down step by step or piece by piece.
    Stated,
}

/// A checkpoint on disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointFiles {
    /// Updates done.
    pub step: usize,
    /// Its name, independent of where it lies.
    pub id: String,
    /// Its folder.
    pub folder: PathBuf,
    /// Its `optimizer.pt`, if there is one of a kind that is read.
    pub optimizer: Option<PathBuf>,
}

/// Examples in one update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Batch {
    /// Examples in a micro-batch of one process, over its devices.
    pub per_process: usize,
    /// Micro-batches accumulated into one update.
    pub accumulation: usize,
    /// Processes; `None` if not recorded.
    pub processes: Option<usize>,
}

/// Parameter groups with rates of their own.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupRates {
    /// The optimizer's file.
    pub file: PathBuf,
    /// The checkpoint that it belongs to.
    pub folder: PathBuf,
    /// What multiplies the run's rates in each group.
    pub multiples: Vec<f64>,
}

/// Steps of an epoch in the log, and how its end was treated.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Epochs {
    /// Updates of an epoch.
    pub steps: f64,
    /// Whether an incomplete last batch was dropped.
    pub drops_last: bool,
}

/// What a reader understood of one stage of training. [`stage`](Self::stage) makes the numbers of a method from it.
#[derive(Debug, Clone)]
pub struct Reading {
    /// The folder or file.
    pub source: PathBuf,
    /// The stage's name.
    pub name: String,
    /// The rate of every step.
    pub rates: StepRates,
    /// How they are known.
    pub rates_origin: RatesOrigin,
    /// The optimizer; one that Source does not know is refused by [`stage`](Self::stage), not by the reader.
    pub optimizer: Optimizer,
    /// Examples in one update.
    pub batch: Batch,
    /// Ascending by step.
    pub checkpoints: Vec<CheckpointFiles>,
    /// `N`, if recorded.
    pub n_examples: Option<usize>,
    /// `c`, if recorded.
    pub loss_scale: Option<LossScale>,
    /// The log's epochs, to check `N` against.
    pub epochs: Option<Epochs>,
    /// `max_grad_norm`, if gradients were clipped.
    pub max_grad_norm: Option<f64>,
    /// (step counted from 0, gradient norm before clipping) where logged.
    pub gradient_norms: Vec<(usize, f64)>,
    /// The transformers that wrote the last checkpoint.
    pub version: Option<TransformersVersion>,
    /// Segments that the description asks for, as steps at which they end.
    pub segment_ends: Option<Vec<usize>>,
    /// Layers that the stage changed.
    pub trained_layers: TrainedLayers,
    /// Tensors that are the same in all checkpoints, by name, once
    /// [`find_frozen_layers`](Self::find_frozen_layers) has compared them.
    pub unchanged: BTreeSet<String>,
    /// What multiplies the rates of a layer, if not 1: stated, or found by
    /// [`find_layer_rates`](Self::find_layer_rates).
    pub layer_rates: BTreeMap<String, f64>,
    /// Parameter groups with rates of their own, whose layers are not known yet.
    pub group_rates: Option<GroupRates>,
    /// Everything that was understood.
    pub facts: Vec<Fact>,
    /// Everything that a person should know.
    pub warnings: Vec<Warning>,
}

/// Whether clipping lowers the effective rates.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum ClippingUse {
    /// Rates count times `min(1, max_norm / norm)`, where norms are logged.
    ///
    /// # Source
    /// METHOD §4.1.
    #[default]
    Count,
    /// Rates count as the schedule has them.
    Ignore,
}

/// What a person states about a stage; it wins over what was read, and fills what was not.
#[derive(Debug, Clone, Default)]
pub struct Stated {
    /// `N`.
    pub n_examples: Option<usize>,
    /// `c`.
    pub loss_scale: Option<LossScale>,
    /// Processes of the training run.
    pub processes: Option<usize>,
    /// Whether clipping counts.
    pub clipping: ClippingUse,
    /// Layers that the stage changed.
    pub trained_layers: Option<TrainedLayers>,
}

impl Reading {
    /// The stage's validated numbers.
    ///
    /// # Errors
    /// `N` or `c` neither recorded nor stated; an `N` that contradicts the log's epochs; numbers that a
    /// [`TrainingStage`] refuses, an unknown optimizer among them.
    pub fn stage(&self, stated: &Stated) -> Result<TrainingStage, ReadError> {
        let source = || self.source.clone();
        let n_examples = stated.n_examples.or(self.n_examples);
        let n_examples = n_examples.ok_or_else(|| ReadError::UnknownExamples { source_path: source() })?;
        let loss_scale = stated.loss_scale.or(self.loss_scale);
        let loss_scale = loss_scale.ok_or_else(|| ReadError::UnknownLossScale { source_path: source() })?;
        let processes = stated.processes.or(self.batch.processes).unwrap_or(1);
        let batch_size = self.batch_size(processes);
        self.check_epochs(n_examples, processes)?;
        let clipping = match (stated.clipping, self.max_grad_norm) {
            (ClippingUse::Count, Some(max_norm)) if !self.gradient_norms.is_empty() => {
                let clipping = Clipping::from_norms(max_norm, &self.gradient_norms, self.rates.n_steps());
                Some(clipping.map_err(|problem| self.numbers(problem))?)
            }
            _ => None,
        };
        TrainingStage::new(StageNumbers {
            name: self.name.clone(),
            n_examples,
            loss_scale,
            optimizer: self.optimizer.clone(),
            rates: self.rates.clone(),
            batch_size,
            checkpoints: self
                .checkpoints
                .iter()
                .map(|checkpoint| CheckpointAt { step: checkpoint.step, id: checkpoint.id.clone() })
                .collect(),
            clipping,
            trained_layers: stated.trained_layers.clone().unwrap_or_else(|| self.trained_layers.clone()),
            layer_rates: self.layer_rates.clone(),
        })
        .map_err(|problem| self.numbers(problem))
    }

    /// Examples in one update of this many processes.
    pub(super) fn batch_size(&self, processes: usize) -> usize {
        self.batch.per_process.saturating_mul(self.batch.accumulation).saturating_mul(processes)
    }

    fn numbers(&self, problem: TrajectoryError) -> ReadError {
        ReadError::Numbers { source_path: self.source.clone(), problem }
    }

    /// `Err` if `N` examples cannot have made the epochs of the log.
    fn check_epochs(&self, n_examples: usize, processes: usize) -> Result<(), ReadError> {
        let Some(epochs) = self.epochs else { return Ok(()) };
        let micro = self.batch.per_process.saturating_mul(processes).max(1);
        let batches = if epochs.drops_last { n_examples / micro } else { n_examples.div_ceil(micro) };
        // Versions differ in whether the leftover micro-batches of an epoch make an update.
        let accumulation = self.batch.accumulation.max(1);
        let (few, many) = ((batches / accumulation).max(1), batches.div_ceil(accumulation).max(1));
        // The log rounds nothing, but its epoch counts micro-batches: within one update.
        let slack = 1.0 + 1e-3 * many as f64;
        if epochs.steps < few as f64 - slack || epochs.steps > many as f64 + slack {
            return Err(ReadError::ExamplesDisagree {
                source_path: self.source.clone(),
                n_examples,
                batch_size: self.batch_size(processes),
                expected: many,
                logged: epochs.steps,
            });
        }
        Ok(())
    }
}
