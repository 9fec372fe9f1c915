//! What the library asks of a network: differentiate a batch and hand out taps of its tracked layers.

use crate::gemm::Products;
use crate::{Directions, Error, LayerSpec, Positions, TapSink};

/// Where random labels come from: a counter-based generator keyed by these numbers, the example's key
/// and the position, so that order, batches, shards and resumption cannot change a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LabelDraw {
    /// The run's seed.
    pub seed: u64,
    /// Who draws: [`crate::random::stream`]. Covariances and Λ never share a stream.
    pub stream: u32,
    /// 0, 1, ... when several draws for each position are averaged.
    pub draw: u32,
}

/// The number of a query whose change is explained, `f` (`docs/method.md`, Score).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Measurement {
    /// The training loss, in nats or squared units; lower is better (κ = -1).
    Loss,
    /// Log-probability of the targets; higher is better.
    LogProbability,
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
            Self::LogProbability | Self::Margin | Self::Prediction => 1.0,
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

/// A model that can be differentiated for taps.
pub trait Network: Send + Sync {
    /// Examples that go through the model together.
    type Batch: Send + Sync;

    /// The tracked layers; [`crate::LayerId`] counts in this order.
    fn layers(&self) -> &[LayerSpec];

    /// Positions of the batch's examples. A layer whose rows are others says so in its tap.
    fn positions<'a>(&self, batch: &'a Self::Batch) -> &'a Positions;

    /// In which arithmetic its products run, and so those with its taps.
    fn products(&self) -> Products {
        Products::Exact
    }

    /// Runs the model forwards and backwards once and pushes every tracked layer's tap exactly once.
    ///
    /// Returns the value of the objective for each example, `[B]` (for a measurement: `f`, for a loss:
    /// the summed loss).
    ///
    /// # Errors
    /// [`Error::Objective`] if the model does not define the objective; whatever tensors or the sink report.
    fn differentiate(
        &self,
        batch: &Self::Batch,
        objective: Objective,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error>;

    /// Pushes taps whose sum over rows, `Σ_r s_r [a_r, 1]ᵀ`, is the product of the Gauss-Newton matrix of the batch's
    /// summed training loss, of all tracked layers jointly, with each direction: R rows of inputs, `Q · R` of output
    /// gradients, one direction below the other. They are for a [`crate::ProductSum`].
    ///
    /// # Errors
    /// [`Error::Objective`] if the network defines no such product, which is so unless it says otherwise; whatever
    /// tensors or the sink report.
    fn gauss_newton(
        &self,
        _batch: &Self::Batch,
        _directions: &Directions,
        _sink: &mut dyn TapSink,
    ) -> Result<(), Error> {
        Err(Error::Objective { objective: "a product with the Gauss-Newton matrix".into(), network: "this network" })
    }
}
