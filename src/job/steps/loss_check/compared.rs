//! A checkpoint's losses beside the log: what was computed, and how far it may be from what was logged.

use std::path::PathBuf;

use super::rows::{ExampleLosses, MeanLoss, Share};
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
    pub(super) logged: Logged,
}

/// What the log has of a checkpoint.
#[derive(Debug, Clone, Copy)]
pub(super) enum Logged {
    /// The losses of training around it.
    Training(Around),
    /// The loss on an evaluation set.
    Evaluation(f64),
}

impl Logged {
    /// The number that a reader of the log would name.
    pub(super) fn middle(&self) -> f64 {
        match self {
            Self::Training(around) => (around.low + around.high) / 2.0,
            Self::Evaluation(loss) => *loss,
        }
    }

    /// The number that distances from the log are shares of.
    fn scale(&self) -> f64 {
        match self {
            Self::Training(around) => around.middle.abs().max(1e-9),
            Self::Evaluation(loss) => loss.abs().max(1e-9),
        }
    }
}

/// A loss beside the log.
#[derive(Debug, Clone, Copy)]
pub(super) struct Judged {
    pub(super) loss: f64,
    /// How far it is beyond what the log allows, as a share of the logged loss; 0 if it agrees.
    pub(super) beyond: f64,
    /// Whether it agrees because labels of first tokens were counted among the targets.
    pub(super) first_labels: bool,
}

impl Judged {
    pub(super) fn agrees(&self) -> bool {
        self.beyond == 0.0
    }
}

/// The conversations that a sample was taken of.
pub(super) struct Conversations {
    /// Their file.
    pub(super) file: PathBuf,
    /// The stage of training whose arguments say which tokens are targets.
    pub(super) stage: usize,
}

/// A stage of training whose log there is.
pub(super) struct OfStage<'a> {
    pub(super) plan: &'a Plan,
    pub(super) log: TrainingLog,
    pub(super) sample: Dataset,
    /// Examples of the stage.
    pub(super) population: usize,
    /// Where the sample was taken, if its rows may be conversations.
    pub(super) conversations: Option<Conversations>,
    /// The end token, if the tokenizer or the model names one.
    pub(super) end: Option<u32>,
}

impl OfStage<'_> {
    pub(super) fn mean(&self, examples: &[(f64, f64)]) -> Option<MeanLoss> {
        MeanLoss::of(examples, self.log.batch, self.population)
    }

    /// What each example adds as it was read.
    pub(super) fn sums(&self, rows: &[ExampleLosses]) -> Vec<Share> {
        rows.iter().map(|example| example.sum(self.log.label_smoothing, |row| example.is_target[row])).collect()
    }

    /// The loss of the examples as they were read.
    pub(super) fn as_read(&self, rows: &[ExampleLosses]) -> Option<MeanLoss> {
        self.mean(&self.sums(rows).into_iter().map(|share| share.of(false)).collect::<Vec<_>>())
    }

    /// The loss of examples, `times` as much as it is, beside the log: that of their targets, or divided by the labels of
    /// first tokens too, if that alone agrees.
    pub(super) fn judge(&self, examples: &[Share], times: f64, logged: &Logged) -> Option<Judged> {
        let judge = |with_first: bool| {
            let examples: Vec<(f64, f64)> = examples.iter().map(|share| share.of(with_first)).collect();
            let (loss, beyond) = match logged {
                Logged::Training(around) => {
                    let mean = self.mean(&examples)?;
                    let mean = MeanLoss { loss: mean.loss * times, of_batches: mean.of_batches * times, ..mean };
                    (mean.loss, excess(&mean, around))
                }
                Logged::Evaluation(logged) => {
                    let loss = times * self.batches().mean(&examples)?;
                    (loss, ((loss - logged).abs() - of_three_digits(*logged)).max(0.0))
                }
            };
            Some(Judged { loss, beyond: beyond / logged.scale(), first_labels: with_first })
        };
        let of_targets = judge(false)?;
        if of_targets.agrees() || examples.iter().all(|share| share.first == 0.0) {
            return Some(of_targets);
        }
        judge(true).filter(Judged::agrees).or(Some(of_targets))
    }

    /// How a Trainer cuts an evaluation set.
    pub(super) fn batches(&self) -> EvaluationBatches {
        let size = self.log.evaluation_batch.unwrap_or(EvaluationBatches::DEFAULT);
        EvaluationBatches { size, drops_last: self.log.evaluation_drops_last }
    }
}

/// The batches in which a Trainer evaluates.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct EvaluationBatches {
    pub(super) size: usize,
    /// Whether a last batch with fewer examples is left out.
    pub(super) drops_last: bool,
}

impl EvaluationBatches {
    /// The Trainer's own default for `per_device_eval_batch_size`.
    pub(super) const DEFAULT: usize = 8;

    /// What a Trainer logs as `eval_loss`: of (sum of losses, targets) of each example the mean over the batches of
    /// each one's mean over its targets, a batch counting as often as it has examples.
    pub(super) fn mean(&self, examples: &[(f64, f64)]) -> Option<f64> {
        let (mut sum, mut count) = (0.0, 0.0);
        for batch in examples.chunks(self.size.max(1)) {
            if self.drops_last && batch.len() < self.size {
                break;
            }
            let (loss, targets) = batch.iter().fold((0.0, 0.0), |sum, example| (sum.0 + example.0, sum.1 + example.1));
            // a batch without a target has no mean, and the Trainer's is not a number then
            if targets == 0.0 {
                return None;
            }
            sum += batch.len() as f64 * loss / targets;
            count += batch.len() as f64;
        }
        (count > 0.0).then(|| sum / count)
    }
}

/// How far a number may be from `logged` and have its first three digits, but for rounding.
pub(super) fn of_three_digits(logged: f64) -> f64 {
    match logged.abs() {
        0.0 => 0.0,
        logged => 0.5 * 10f64.powf(logged.log10().floor() - 2.0),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_evaluation_is_the_mean_over_batches_by_their_examples() {
        let examples = [(2.0, 1.0), (9.0, 3.0), (8.0, 8.0)];
        let found = |size, drops_last| EvaluationBatches { size, drops_last }.mean(&examples);
        // (2 + 9) / (1 + 3) of two examples, 8 / 8 of one
        assert_eq!(found(2, false), Some((2.0 * 2.75 + 1.0) / 3.0));
        assert_eq!(found(2, true), Some(2.75));
        assert_eq!(found(8, false), Some(19.0 / 12.0));
        assert_eq!(found(8, true), None);
        assert_eq!(found(1, false), Some((2.0 + 3.0 + 1.0) / 3.0));
        assert_eq!(EvaluationBatches { size: 1, drops_last: false }.mean(&[(1.0, 1.0), (0.0, 0.0)]), None);
    }

    #[test]
    fn three_digits_are_half_a_unit_of_the_third() {
        for (logged, expected) in [(2.345, 0.005), (12.3, 0.05), (0.0456, 0.00005), (-3.0, 0.005), (0.0, 0.0)] {
            assert!((of_three_digits(logged) - expected).abs() < 1e-12, "{logged}");
        }
    }
}
