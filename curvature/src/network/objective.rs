//! What a pass differentiates: a training loss, with which labels, or the measurement of a query.

use crate::linalg::random::LabelDraw;

/// The number of a query whose change is explained, `f` (`docs/method.md`, Score).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measurement {
    /// The training loss, in nats or squared units; lower is better (κ = -1).
    Loss,
    /// Log-probability of the targets; higher is better.
    LogProbability,
    /// `Σ p_y`, the probability of the right label, from 0 to 1 at each target; higher is better.
    Probability,
    /// `Σ (z_y - lse(z without y))`, the log-odds of the right label; higher is better.
    Margin,
    /// The predicted value of a regression, summed over outputs; "higher is better" by convention.
    Prediction,
}

impl Measurement {
    /// κ of `docs/method.md`, Score: `+1` if a higher value is better, `-1` for a loss.
    pub fn orientation(self) -> f64 {
        match self {
            Self::Loss => -1.0,
            Self::LogProbability | Self::Probability | Self::Margin | Self::Prediction => 1.0,
        }
    }
}

/// How a measurement is taken over an example's label positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduction {
    /// Sum over label positions (outputs of a regression).
    Sum,
    /// The sum divided by the number of label positions.
    Mean,
}

/// What a pass differentiates, for each example by itself, summed over its positions.
#[derive(Debug, Clone, Copy, PartialEq)]
#[non_exhaustive]
pub enum Objective {
    /// The training loss with the recorded targets.
    TrainingLoss,
    /// The training loss with targets drawn from the model where real targets exist (true Fisher).
    SampledLoss(LabelDraw),
    /// A classifier's loss for one class, its gradient multiplied by `√(C · p_class)`: the mean of
    /// squares over all C classes is the exact Fisher.
    ExpectedLoss {
        /// The class, below the number of classes C.
        class: usize,
    },
    /// The *cost* `-κ f` of a measurement `f`; the reported value is `f` itself.
    Measurement(Measurement, Reduction),
}
