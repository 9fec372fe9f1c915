//! A stage of training: steps over one dataset with one optimizer, its checkpoints, and the layers that it trained.

use std::collections::{BTreeMap, BTreeSet};

use super::error::within;
use super::{Clipping, LossScale, Optimizer, StepRates, TrajectoryError};

/// A checkpoint of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckpointAt {
    /// Updates done when it was saved, from 1, counted within its stage.
    pub step: usize,
    /// Its name, unique in its stage and independent of where it lies (`checkpoint-420`).
    pub id: String,
}

/// Which layers a stage changed.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum TrainedLayers {
    /// Every layer of the network.
    #[default]
    All,
    /// The named ones; the others were frozen or did not exist yet, and have no leg in this stage.
    Only(BTreeSet<String>),
}

impl TrainedLayers {
    /// Whether the stage changed `layer`.
    pub fn contains(&self, layer: &str) -> bool {
        match self {
            Self::All => true,
            Self::Only(layers) => layers.contains(layer),
        }
    }
}

/// What a [`TrainingStage`] is made from, unchecked.
#[derive(Debug, Clone, PartialEq)]
pub struct StageNumbers {
    /// Its name.
    pub name: String,
    /// `N`: examples of the stage's whole training set, not of the part that is scored.
    pub n_examples: usize,
    /// `c`.
    pub loss_scale: LossScale,
    /// The optimizer.
    pub optimizer: Optimizer,
    /// `η_k`, one for each optimizer update.
    pub rates: StepRates,
    /// Examples in one optimizer update, over all devices and accumulated micro-batches.
    pub batch_size: usize,
    /// Ascending by step.
    pub checkpoints: Vec<CheckpointAt>,
    /// What clipping multiplied the rates by, if it is to count.
    pub clipping: Option<Clipping>,
    /// Layers that the stage changed.
    pub trained_layers: TrainedLayers,
    /// What multiplies the stage's rates in a layer; 1 for a layer that is not in it.
    pub layer_rates: BTreeMap<String, f64>,
}

/// A part of training with its own data, loss, optimizer and rates; every value is checked.
///
/// # Source
/// `docs/method.md`, Source.
#[derive(Debug, Clone, PartialEq)]
pub struct TrainingStage(StageNumbers);

/// What is true of a stage and bears on how far its scores can be trusted.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Note {
    /// A checkpoint of an Adam run so early that `v̂` is the square of a few gradients.
    EarlySecondMoments {
        /// The checkpoint.
        checkpoint: String,
        /// Its step.
        step: usize,
    },
    /// Fewer than 20 batches in an epoch: a smaller last batch weighs its examples more than `1/N` says.
    FewBatches {
        /// `N`.
        n_examples: usize,
        /// Examples in an update.
        batch_size: usize,
    },
    /// Steps after the last checkpoint, which no leg covers.
    StepsAfterLastCheckpoint {
        /// How many.
        steps: usize,
        /// Their share of `Σ η`.
        share: f64,
    },
}

impl std::fmt::Display for Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::EarlySecondMoments { checkpoint, step } => write!(
                f,
                "checkpoint `{checkpoint}` is at step {step}: before step 20 Adam's second moments describe a handful of gradients"
            ),
            Self::FewBatches { n_examples, batch_size } => write!(
                f,
                "{n_examples} examples make fewer than 20 batches of {batch_size}: if the last batch of an epoch is smaller, its examples weigh more than 1/N"
            ),
            Self::StepsAfterLastCheckpoint { steps, share } => write!(
                f,
                "{steps} steps ({:.1} % of the sum of rates) come after the last checkpoint and are not part of any segment",
                100.0 * share
            ),
        }
    }
}

impl TrainingStage {
    /// Checks the numbers of a stage.
    ///
    /// # Errors
    /// No examples, no checkpoint, checkpoints out of order, repeated or beyond the last rate, numbers out of their
    /// ranges, an optimizer that Source cannot unroll.
    pub fn new(numbers: StageNumbers) -> Result<Self, TrajectoryError> {
        let stage = || numbers.name.clone();
        if numbers.n_examples == 0 {
            return Err(TrajectoryError::NoExamples { stage: stage() });
        }
        within("batch_size", numbers.batch_size as f64, "between 1 and 2^32", |b| {
            (1.0..=4_294_967_296.0).contains(&b)
        })?;
        numbers.optimizer.check()?;
        numbers.loss_scale.check()?;
        if numbers.checkpoints.is_empty() {
            return Err(TrajectoryError::NoCheckpoints { stage: stage() });
        }
        let (mut previous, mut seen) = (0, BTreeSet::new());
        for CheckpointAt { step, id } in &numbers.checkpoints {
            if *step <= previous {
                let (checkpoint, step) = (id.clone(), *step);
                return Err(TrajectoryError::CheckpointOrder { stage: stage(), checkpoint, step, previous });
            }
            let n_steps = numbers.rates.n_steps();
            if *step > n_steps {
                let (checkpoint, step) = (id.clone(), *step);
                return Err(TrajectoryError::CheckpointBeyondEnd { stage: stage(), checkpoint, step, n_steps });
            }
            if !seen.insert(id) {
                return Err(TrajectoryError::RepeatedCheckpoint { stage: stage(), checkpoint: id.clone() });
            }
            previous = *step;
        }
        for &rate in numbers.layer_rates.values() {
            within("layer rate", rate, "a number of at least 0", |rate| rate >= 0.0)?;
        }
        if let Some(clipping) = &numbers.clipping
            && clipping.n_steps() != numbers.rates.n_steps()
        {
            let (factors, n_steps) = (clipping.n_steps(), numbers.rates.n_steps());
            return Err(TrajectoryError::ClippingLength { stage: stage(), factors, n_steps });
        }
        Ok(Self(numbers))
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// `N`.
    pub fn n_examples(&self) -> usize {
        self.0.n_examples
    }

    /// `c` and where it comes from.
    pub fn loss_scale(&self) -> LossScale {
        self.0.loss_scale
    }

    /// The optimizer.
    pub fn optimizer(&self) -> &Optimizer {
        &self.0.optimizer
    }

    /// The rate of every update, before clipping.
    pub fn rates(&self) -> &StepRates {
        &self.0.rates
    }

    /// Examples in one update.
    pub fn batch_size(&self) -> usize {
        self.0.batch_size
    }

    /// Ascending by step; at least one.
    pub fn checkpoints(&self) -> &[CheckpointAt] {
        &self.0.checkpoints
    }

    /// Clipping that counts, if any.
    pub fn clipping(&self) -> Option<&Clipping> {
        self.0.clipping.as_ref()
    }

    /// Layers that the stage changed.
    pub fn trained_layers(&self) -> &TrainedLayers {
        &self.0.trained_layers
    }

    /// What multiplies the stage's rates in `layer`, where parameter groups had rates of their own.
    pub fn layer_rate(&self, layer: &str) -> f64 {
        self.0.layer_rates.get(layer).copied().unwrap_or(1.0)
    }

    /// `η_k c f` of update `k`: its rate with loss scale and clipping, without momentum. For the product form.
    ///
    /// # Source
    /// `docs/method.md`, Source.
    pub fn scaled_rate(&self, k: usize) -> Option<f64> {
        let clipped = self.0.clipping.as_ref().map_or(1.0, |clipping| clipping.factor(k));
        Some(self.0.rates.rate(k)? * clipped * self.0.loss_scale.value())
    }

    /// What a person should know about the stage.
    pub fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.optimizer().has_second_moments() {
            for checkpoint in self.checkpoints().iter().filter(|checkpoint| checkpoint.step < 20) {
                notes.push(Note::EarlySecondMoments { checkpoint: checkpoint.id.clone(), step: checkpoint.step });
            }
        }
        let (n_examples, batch_size) = (self.n_examples(), self.batch_size());
        if n_examples / batch_size < 20 && !n_examples.is_multiple_of(batch_size) {
            notes.push(Note::FewBatches { n_examples, batch_size });
        }
        let (last, n_steps) = (self.checkpoints().last().map_or(0, |c| c.step), self.rates().n_steps());
        let all = self.rates().sum(0..n_steps);
        if last < n_steps && all > 0.0 {
            let share = self.rates().sum(last..n_steps) / all;
            notes.push(Note::StepsAfterLastCheckpoint { steps: n_steps - last, share });
        }
        notes
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A stage of plain descent with the given checkpoints.
    pub(in crate::trajectory) fn numbers(rates: StepRates, checkpoints: &[usize]) -> StageNumbers {
        StageNumbers {
            name: "training".to_string(),
            n_examples: 830,
            loss_scale: LossScale::MeanOverExamples,
            optimizer: Optimizer::sgd(),
            rates,
            batch_size: 32,
            checkpoints: checkpoints
                .iter()
                .map(|&step| CheckpointAt { step, id: format!("checkpoint-{step}") })
                .collect(),
            clipping: None,
            trained_layers: TrainedLayers::All,
            layer_rates: BTreeMap::new(),
        }
    }

    fn error(change: impl Fn(&mut StageNumbers)) -> String {
        let mut bad = numbers(StepRates::per_step(vec![0.1; 10]).unwrap(), &[4, 8]);
        change(&mut bad);
        TrainingStage::new(bad).unwrap_err().to_string()
    }

    #[test]
    fn bad_numbers_are_refused_one_by_one() {
        let at = |step: usize, id: &str| CheckpointAt { step, id: id.to_string() };
        assert_eq!(error(|n| n.n_examples = 0), "stage `training` has no training examples");
        assert_eq!(error(|n| n.batch_size = 0), "`batch_size` is 0, expected between 1 and 2^32");
        assert_eq!(error(|n| n.checkpoints.clear()), "stage `training` has no checkpoint");
        assert_eq!(
            error(|n| n.checkpoints.swap(0, 1)),
            "stage `training`: checkpoint `checkpoint-4` at step 4 does not follow step 8"
        );
        assert_eq!(
            error(|n| n.checkpoints.push(at(8, "again"))),
            "stage `training`: checkpoint `again` at step 8 does not follow step 8"
        );
        assert_eq!(
            error(|n| n.checkpoints.push(at(9, "checkpoint-4"))),
            "stage `training`: two checkpoints are called `checkpoint-4`"
        );
        assert_eq!(
            error(|n| n.checkpoints.push(at(11, "late"))),
            "stage `training`: checkpoint `late` is at step 11, but training has 10 steps"
        );
        assert_eq!(
            error(|n| n.checkpoints[0].step = 0),
            "stage `training`: checkpoint `checkpoint-4` at step 0 does not follow step 0"
        );
        assert_eq!(
            error(|n| n.optimizer = Optimizer::Other("muon".to_string())),
            "Source has no form for the optimizer `muon`"
        );
        assert_eq!(
            error(|n| n.loss_scale = LossScale::Stated(f64::NAN)),
            "`loss scale` is NaN, expected a number above 0"
        );
        assert_eq!(
            error(|n| n.loss_scale = LossScale::MeanOverTokens { tokens_per_example: 0.0 }),
            "`loss scale` is inf, expected a number above 0"
        );
        assert_eq!(
            error(|n| n.clipping = Some(Clipping::from_norms(1.0, &[(0, 2.0)], 9).unwrap())),
            "stage `training`: 9 clipping factors for 10 steps"
        );
    }

    #[test]
    fn notes_say_what_weakens_a_stage() {
        let mut n = numbers(StepRates::per_step(vec![0.1; 10]).unwrap(), &[4, 8]);
        n.n_examples = 70;
        n.optimizer = Optimizer::AdamW { beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.0 };
        let notes = TrainingStage::new(n).unwrap().notes();
        assert_eq!(notes.len(), 4, "{notes:?}");
        let Some(Note::StepsAfterLastCheckpoint { steps: 2, share }) = notes.last() else { panic!("{notes:?}") };
        assert!((share - 0.2).abs() < 1e-15);
    }
}
