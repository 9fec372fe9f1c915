//! Validated numbers of a training run: stages, steps, rates, optimizer, segments.
//!
//! A [`Trajectory`] holds what Source needs to know about training, in the symbols of `docs/method.md` and nothing of files:
//! checkpoints have a step and a name, not a path. Readers of foreign formats build it through the constructors
//! here, so that a value that exists is one that a walk can use.
//!
//! | symbol | here |
//! |---|---|
//! | `N`, `c` | [`TrainingStage::n_examples`], [`LossScale::value`] |
//! | `η_k` | [`StepRates::rate`], the rate *used by* update `k = 0, 1, …` |
//! | `K_l`, `Σ η`, `τ_l` | [`Segment::n_steps`], [`Segment::rate_sum`], [`Segment::tau`] |
//! | `w_a` | [`SegmentCheckpoint::weight`] |
//!
//! # Source
//! `docs/method.md`, Source.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod clipping;
mod error;
mod loss_scale;
mod optimizer;
mod rates;
mod schedule;
mod segment;
mod stage;

pub use clipping::Clipping;
pub use error::TrajectoryError;
pub use loss_scale::LossScale;
pub use optimizer::{Optimizer, WeightDecay};
pub use rates::{MAX_STEPS, StepRates};
pub use schedule::{DecayShape, Schedule, ScheduleKind};
pub use segment::{CheckpointWeights, Segment, SegmentCheckpoint, SegmentRule, segments};
pub use stage::{CheckpointAt, Note, StageNumbers, TrainedLayers, TrainingStage};

/// A training run: its stages in the order in which they were trained.
#[derive(Debug, Clone, PartialEq)]
pub struct Trajectory {
    stages: Vec<TrainingStage>,
}

impl Trajectory {
    /// Joins stages, first trained first.
    ///
    /// # Errors
    /// No stage, or two stages of one name.
    pub fn new(stages: Vec<TrainingStage>) -> Result<Self, TrajectoryError> {
        if stages.is_empty() {
            return Err(TrajectoryError::NoStages);
        }
        for (i, stage) in stages.iter().enumerate() {
            if stages[..i].iter().any(|earlier| earlier.name() == stage.name()) {
                return Err(TrajectoryError::RepeatedStage { stage: stage.name().to_string() });
            }
        }
        Ok(Self { stages })
    }

    /// The stages, first trained first.
    pub fn stages(&self) -> &[TrainingStage] {
        &self.stages
    }

    /// Segments of every stage under one rule, in the order of training, each with the index of its stage.
    /// A border between stages is always one between segments: data, `N`, `c` and the optimizer may change there.
    ///
    /// # Errors
    /// As [`segments`].
    pub fn segments(
        &self,
        rule: &SegmentRule,
        weights: CheckpointWeights,
    ) -> Result<Vec<(usize, Segment)>, TrajectoryError> {
        let mut all = Vec::new();
        for (index, stage) in self.stages.iter().enumerate() {
            all.extend(segments(stage, rule, weights)?.into_iter().map(|segment| (index, segment)));
        }
        Ok(all)
    }
}
