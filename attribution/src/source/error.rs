//! Why a walk over a training run cannot be built.

use ascribe_curvature::Hint;

/// Why a walk over training cannot be built.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// No segment.
    #[error("Source needs at least one segment of training")]
    NoLegs,
    /// A leg's curvature is of other layers than the network.
    #[error("segment {}: curvature of {found} layers, the network has {expected}", .leg + 1)]
    Layers {
        /// The segment, from 0.
        leg: usize,
        /// Layers that it has curvature or conditioners of.
        found: usize,
        /// Layers of the network.
        expected: usize,
    },
    /// Two checkpoints of a segment have different layers.
    #[error("checkpoint {checkpoint} of the segment does not have the layers of its first")]
    DifferentLayers {
        /// Which of the segment's checkpoints, from 0.
        checkpoint: usize,
    },
    /// A trained layer has no second moments although its segment was trained with an optimizer that keeps them.
    #[error("segment {} trained the layer `{layer}`, but there are no second moments of it", .leg + 1)]
    LayerWithoutMoments {
        /// The segment, from 0.
        leg: usize,
        /// The layer's name.
        layer: String,
    },
    /// An optimizer with second moments without any.
    #[error("segment {} was trained with {optimizer}, but none of its checkpoints has second moments", .leg + 1)]
    NoSecondMoments {
        /// The segment, from 0.
        leg: usize,
        /// The optimizer's name.
        optimizer: String,
    },
    /// Second moments for an optimizer that has none.
    #[error("segment {} was trained with {optimizer}, which has no second moments, but some were given", .leg + 1)]
    UnexpectedSecondMoments {
        /// The segment, from 0.
        leg: usize,
        /// The optimizer's name.
        optimizer: String,
    },
    /// Second moments of another number of parameters than the layer's.
    #[error("layer `{layer}`: {found} second moments, expected {expected}")]
    SecondMomentCount {
        /// The layer's name.
        layer: String,
        /// Numbers found.
        found: usize,
        /// Parameters of the layer.
        expected: usize,
    },
    /// A second moment, or the preconditioner made from it, that is not a positive number.
    #[error("layer `{layer}`: parameter {index} has the second moment {value:e}, which gives no finite preconditioner")]
    SecondMoment {
        /// The layer's name.
        layer: String,
        /// Place in `[O, columns]`.
        index: usize,
        /// The bias-corrected second moment, averaged over checkpoints.
        value: f64,
    },
    /// The step-by-step form where a single step more than undoes a direction.
    #[error(
        "segment {}: step {step} has rate × curvature = {product}, above {limit}, where the product form oscillates",
        .leg + 1
    )]
    ProductDiverges {
        /// The segment, from 0.
        leg: usize,
        /// The step within its stage, from 0.
        step: usize,
        /// `η_k (c σ + w)` with the largest σ of the segment.
        product: f64,
        /// [`SourceOptions::largest_step`](super::SourceOptions::largest_step).
        limit: f64,
    },
    /// A factor on all rates that is not a positive number.
    #[error("the time scale is {0}, expected a number above 0")]
    TimeScale(f64),
    /// Checkpoints whose weights do not say how much each counts.
    #[error("the weights of a segment's checkpoints sum to {0}, expected 1")]
    Weights(f64),
}

impl Hint for SourceError {
    fn hint(&self) -> Option<String> {
        Some(
            match self {
                Self::NoSecondMoments { .. } => {
                    "give the optimizer's state of at least one checkpoint of the segment, or make the segments larger"
                }
                Self::LayerWithoutMoments { .. } => {
                    "say that the stage froze the layer if it did, or leave the layer out of the tracked ones"
                }
                Self::UnexpectedSecondMoments { .. } => "check which optimizer the stage was trained with",
                Self::SecondMoment { .. } => {
                    "second moments have to be bias-corrected and at least 0, and `epsilon` above 0 where one is 0"
                }
                Self::SecondMomentCount { .. } => "the optimizer's state is of another model, or of other layers",
                Self::ProductDiverges { .. } => "use the exponential form, which does not",
                _ => return None,
            }
            .to_string(),
        )
    }
}
