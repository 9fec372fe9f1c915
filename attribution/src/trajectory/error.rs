//! Why numbers do not describe a training run.

use ascribe_curvature::Hint;

/// Why numbers do not describe a training run.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TrajectoryError {
    /// A trajectory without stages.
    #[error("the trajectory has no stage")]
    NoStages,
    /// Two stages of one name.
    #[error("two stages have the name `{stage}`")]
    RepeatedStage {
        /// The name.
        stage: String,
    },
    /// `N` is zero.
    #[error("stage `{stage}` has no training examples")]
    NoExamples {
        /// The stage's name.
        stage: String,
    },
    /// A stage without checkpoints.
    #[error("stage `{stage}` has no checkpoint")]
    NoCheckpoints {
        /// The stage's name.
        stage: String,
    },
    /// A checkpoint at step 0 or before the one that precedes it.
    #[error("stage `{stage}`: checkpoint `{checkpoint}` at step {step} does not follow step {previous}")]
    CheckpointOrder {
        /// The stage's name.
        stage: String,
        /// The checkpoint's name.
        checkpoint: String,
        /// Its step.
        step: usize,
        /// The step that it has to exceed.
        previous: usize,
    },
    /// A checkpoint after the last step that has a rate.
    #[error("stage `{stage}`: checkpoint `{checkpoint}` is at step {step}, but training has {n_steps} steps")]
    CheckpointBeyondEnd {
        /// The stage's name.
        stage: String,
        /// The checkpoint's name.
        checkpoint: String,
        /// Its step.
        step: usize,
        /// Steps of the stage.
        n_steps: usize,
    },
    /// Two checkpoints of one name in a stage.
    #[error("stage `{stage}`: two checkpoints are called `{checkpoint}`")]
    RepeatedCheckpoint {
        /// The stage's name.
        stage: String,
        /// The name.
        checkpoint: String,
    },
    /// A learning rate that is negative, NaN or infinite.
    #[error("the learning rate of step {step} is {rate}")]
    Rate {
        /// The first step with this rate, counted from 0.
        step: usize,
        /// The rate.
        rate: f64,
    },
    /// No step has a rate.
    #[error("there are no learning rates: training has no steps")]
    NoSteps,
    /// More steps than [`MAX_STEPS`](super::MAX_STEPS).
    #[error("training has {n_steps} steps, more than the {} that are read", super::MAX_STEPS)]
    TooManySteps {
        /// Steps.
        n_steps: usize,
    },
    /// The first piece of piecewise rates starts after step 0.
    #[error("the first learning rate starts at step {start}, so steps 0 to {} have none", start - 1)]
    RatesStartLate {
        /// Its first step.
        start: usize,
    },
    /// Pieces of piecewise rates are out of order, or one starts after the last step.
    #[error("a learning rate starts at step {start}, which is not between step {previous} and the end, {n_steps}")]
    RatePieceOrder {
        /// Its first step.
        start: usize,
        /// The first step of the piece before.
        previous: usize,
        /// Steps in all.
        n_steps: usize,
    },
    /// A number outside its range.
    #[error("`{name}` is {value}, expected {expected}")]
    OutOfRange {
        /// Which number.
        name: &'static str,
        /// What it is.
        value: f64,
        /// Its range in words.
        expected: &'static str,
    },
    /// An optimizer for which no form of Source is known.
    #[error("Source has no form for the optimizer `{name}`")]
    UnsupportedOptimizer {
        /// Its name.
        name: String,
    },
    /// Clipping factors of another number of steps than rates.
    #[error("stage `{stage}`: {factors} clipping factors for {n_steps} steps")]
    ClippingLength {
        /// The stage's name.
        stage: String,
        /// Factors.
        factors: usize,
        /// Steps.
        n_steps: usize,
    },
    /// Zero segments.
    #[error("a stage cannot be cut into zero segments")]
    NoSegments,
    /// More segments than checkpoints.
    #[error("stage `{stage}`: {segments} segments need as many checkpoints, it has {checkpoints}")]
    TooManySegments {
        /// The stage's name.
        stage: String,
        /// Segments asked for.
        segments: usize,
        /// Checkpoints there are.
        checkpoints: usize,
    },
    /// Given boundaries that are not ascending steps within training.
    #[error("stage `{stage}`: the boundary at step {boundary} does not follow step {previous}")]
    BoundaryOrder {
        /// The stage's name.
        stage: String,
        /// The boundary.
        boundary: usize,
        /// The boundary before, or 0.
        previous: usize,
    },
    /// A given boundary after the last step of training.
    #[error("stage `{stage}`: a segment ends at step {boundary}, but training has {n_steps} steps")]
    BoundaryBeyondEnd {
        /// The stage's name.
        stage: String,
        /// The boundary.
        boundary: usize,
        /// Steps of the stage.
        n_steps: usize,
    },
    /// A segment between given boundaries holds no checkpoint.
    #[error("stage `{stage}`: no checkpoint lies in the segment of steps {start} to {end}")]
    EmptySegment {
        /// The stage's name.
        stage: String,
        /// Where the segment starts (exclusive).
        start: usize,
        /// Where it ends (inclusive).
        end: usize,
    },
}

impl Hint for TrajectoryError {
    fn hint(&self) -> Option<String> {
        use TrajectoryError as E;
        Some(match self {
            E::UnsupportedOptimizer { .. } => {
                "use influence at the final checkpoint, which does not depend on the optimizer".to_string()
            }
            E::TooManySegments { checkpoints, .. } => {
                format!("ask for at most {checkpoints} segments, or give more checkpoints")
            }
            E::EmptySegment { .. } => "move the boundary, or give a checkpoint between the two steps".to_string(),
            E::CheckpointOrder { .. } | E::RepeatedCheckpoint { .. } => {
                "list checkpoints once each, in the order of their steps; a step counts optimizer updates from 1"
                    .to_string()
            }
            E::CheckpointBeyondEnd { .. } => {
                "give the learning rates of all steps up to the last checkpoint".to_string()
            }
            E::BoundaryBeyondEnd { n_steps, .. } => {
                format!("steps count optimizer updates: the last segment ends at {n_steps} at the latest")
            }
            E::TooManySteps { .. } => "a step is an optimizer update, not an example or a token".to_string(),
            E::NoExamples { .. } => "name the data that the stage was trained on".to_string(),
            E::RatesStartLate { .. } => "let the first learning rate start at step 0".to_string(),
            _ => return None,
        })
    }
}

/// `Err` unless `value` is finite and satisfies `fits`.
pub(super) fn within(
    name: &'static str,
    value: f64,
    expected: &'static str,
    fits: impl Fn(f64) -> bool,
) -> Result<(), TrajectoryError> {
    if value.is_finite() && fits(value) { Ok(()) } else { Err(TrajectoryError::OutOfRange { name, value, expected }) }
}
