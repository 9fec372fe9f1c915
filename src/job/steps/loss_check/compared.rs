//! A checkpoint's losses beside the log: what was computed, and how far it may be from what was logged.

use super::rows::{ExampleLosses, MeanLoss};
use crate::data::Dataset;
use crate::job::plan::Plan;
use crate::job::training::Site;
use crate::trajectory::{Around, TrainingLog};

/// Standard deviations of batches and sample within which a loss agrees.
const DEVIATIONS: f64 = 3.0;

/// What precision of the arithmetic may change, as a share of the loss.
const PRECISION: f64 = 0.005;

/// A loss beyond its bounds by more than this share disagrees even at a single checkpoint of many.
pub(super) const FAR: f64 = 0.1;

/// A checkpoint whose losses were computed.
pub(super) struct Compared {
    pub(super) site: Site,
    pub(super) name: String,
    pub(super) rows: Vec<ExampleLosses>,
    pub(super) around: Around,
}

/// A stage of training whose log there is.
pub(super) struct OfStage<'a> {
    pub(super) plan: &'a Plan,
    pub(super) log: TrainingLog,
    pub(super) sample: Dataset,
    /// Examples of the stage.
    pub(super) population: usize,
    /// The end token, if the tokenizer or the model names one.
    pub(super) end: Option<u32>,
}

impl OfStage<'_> {
    pub(super) fn mean(&self, examples: &[(f64, f64)]) -> Option<MeanLoss> {
        MeanLoss::of(examples, self.log.batch, self.population)
    }

    /// The loss of the examples as they were read.
    pub(super) fn as_read(&self, rows: &[ExampleLosses]) -> Option<MeanLoss> {
        let sums: Vec<(f64, f64)> =
            rows.iter().map(|example| example.sum(self.log.label_smoothing, |row| example.is_target[row])).collect();
        self.mean(&sums)
    }
}

/// On either side of the log's bounds, what noise may add.
pub(super) fn tolerance(found: &MeanLoss, around: &Around) -> f64 {
    let batches = found.batch_noise.powi(2) / around.batches.max(1.0);
    DEVIATIONS * (batches + found.error.powi(2)).sqrt() + PRECISION * around.middle
}

/// How far a loss is beyond the log's bounds and noise; 0 if it agrees.
pub(super) fn excess(found: &MeanLoss, around: &Around) -> f64 {
    let tolerance = tolerance(found, around);
    let loss = found.of_batches;
    (around.low - tolerance - loss).max(loss - around.high - tolerance).max(0.0)
}

/// Four decimals: what a kernel rounds otherwise on another machine is not told.
pub(super) fn rounded(number: f64) -> f64 {
    (number * 1e4).round() / 1e4
}
