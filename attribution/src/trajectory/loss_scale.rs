//! What training divided an example's summed loss by.

use super::TrajectoryError;
use super::error::within;

/// The loss scale `c`: training descended on `c` times the summed loss of an example, averaged over the batch.
///
/// The variant says where the number comes from. Taps hold gradients of *summed* losses, so `c` enters once,
/// through `τ = c Σ η`; taking it wrong by the sequence length makes every `τσ` wrong by that factor.
///
/// # Source
/// `docs/method.md`, Source, table of `c`.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum LossScale {
    /// Mean over the batch of one loss for each example, as classifiers are trained: `c = 1`.
    MeanOverExamples,
    /// Mean over the batch's label tokens, as language models are trained: `c = 1 / tokens of an example`.
    MeanOverTokens {
        /// Mean number of label tokens of a training example.
        tokens_per_example: f64,
    },
    /// Mean over batch *and* outputs (`MSELoss`), where our loss sums the outputs: `c = 1 / outputs`.
    MeanOverOutputs {
        /// Outputs of the model.
        outputs: usize,
    },
    /// Sum over the batch instead of the mean: `c` = batch size.
    SumOverBatch {
        /// Examples in a batch.
        batch_size: usize,
    },
    /// A number that the user states.
    Stated(f64),
}

impl LossScale {
    /// The number `c`.
    pub fn value(&self) -> f64 {
        match *self {
            Self::MeanOverExamples => 1.0,
            Self::MeanOverTokens { tokens_per_example } => 1.0 / tokens_per_example,
            Self::MeanOverOutputs { outputs } => 1.0 / outputs as f64,
            Self::SumOverBatch { batch_size } => batch_size as f64,
            Self::Stated(c) => c,
        }
    }

    pub(super) fn check(&self) -> Result<(), TrajectoryError> {
        within("loss scale", self.value(), "a number above 0", |c| c > 0.0)
    }
}

impl std::fmt::Display for LossScale {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let c = self.value();
        match self {
            Self::MeanOverExamples => write!(f, "{c} (mean over the batch)"),
            Self::MeanOverTokens { tokens_per_example } => {
                write!(f, "{c} (mean over the batch's label tokens, {tokens_per_example} for each example)")
            }
            Self::MeanOverOutputs { outputs } => write!(f, "{c} (mean over the batch and {outputs} outputs)"),
            Self::SumOverBatch { .. } => write!(f, "{c} (sum over the batch)"),
            Self::Stated(_) => write!(f, "{c} (stated)"),
        }
    }
}
