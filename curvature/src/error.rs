//! What can go wrong while curvature is fitted or applied.

use std::ops::Range;

/// What a person can do about an error, beside what the error says of itself.
pub trait Hint {
    /// One sentence that says what to do; `None` where the message says all that is known.
    fn hint(&self) -> Option<String>;
}

/// What can go wrong while curvature is fitted or applied.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor operation failed.
    #[error(transparent)]
    Tensor(#[from] candle_core::Error),
    /// A value that has to be finite is not.
    #[error("layer `{layer}`: {what} holds NaN or infinity (examples {}..{} of the batch)", examples.start, examples.end)]
    NonFinite {
        /// The layer's name in the checkpoint.
        layer: String,
        /// Which quantity: input, output gradient, covariance, ...
        what: &'static str,
        /// Examples of the batch in which it was seen.
        examples: Range<usize>,
    },
    /// A covariance has an eigenvalue that rounding cannot explain.
    #[error(
        "layer `{layer}`: the {side} covariance has the eigenvalue {value:e}, below -1e-4 of its largest, {largest:e}"
    )]
    NegativeEigenvalue {
        /// The layer's name.
        layer: String,
        /// `input` or `output`.
        side: &'static str,
        /// The smallest eigenvalue.
        value: f64,
        /// The largest eigenvalue.
        largest: f64,
    },
    /// The eigendecomposition did not converge.
    #[error("layer `{layer}`: the eigendecomposition of the {side} covariance did not converge")]
    NoConvergence {
        /// The layer's name.
        layer: String,
        /// `input` or `output`.
        side: &'static str,
    },
    /// Shapes that belong together differ.
    #[error("layer `{layer}`: {what} has the shape {found:?}, expected {expected:?}")]
    Shape {
        /// The layer's name.
        layer: String,
        /// Which tensor.
        what: &'static str,
        /// Its shape.
        found: Vec<usize>,
        /// The shape it must have.
        expected: Vec<usize>,
    },
    /// A mean over nothing.
    #[error("layer `{layer}`: no example reached the layer, so {what} has no mean")]
    NoExamples {
        /// The layer's name.
        layer: String,
        /// Which sum.
        what: &'static str,
    },
    /// One layer handed over two taps for one batch.
    #[error("layer `{layer}` was used twice in one batch; layers that are applied more than once are not supported")]
    LayerUsedTwice {
        /// The layer's name.
        layer: String,
    },
    /// The network cannot differentiate what was asked.
    #[error("{objective} is not defined for {network}")]
    Objective {
        /// What was asked for.
        objective: String,
        /// The kind of network.
        network: &'static str,
    },
    /// A failure that a sink brings from outside this crate (a full disk, say).
    #[error(transparent)]
    Sink(Box<dyn std::error::Error + Send + Sync>),
}
