//! What can go wrong in a pass over queries or training examples.

use std::ops::Range;

/// What can go wrong in a pass of an attribution method.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// In the network or the curvature.
    #[error(transparent)]
    Curvature(#[from] ascribe_curvature::Error),
    /// In the run folder.
    #[error(transparent)]
    Store(#[from] crate::store::StoreError),
    /// In the description of training or of an optimizer's state.
    #[error(transparent)]
    Source(#[from] crate::source::SourceError),
    /// Somebody asked to stop; what was finished is kept.
    #[error("interrupted")]
    Interrupted,
    /// A score is NaN or infinite.
    #[error("the scores of training examples {}..{} hold NaN or infinity", .0.start, .0.end)]
    NonFiniteScore(Range<usize>),
    /// A query's gradient is NaN or infinite.
    #[error("query {query}: its gradient at layer `{layer}` holds NaN or infinity")]
    NonFiniteQuery {
        /// Place of the query in its file.
        query: usize,
        /// The layer's name.
        layer: String,
    },
    /// The gradient of a training example that was sampled is NaN or infinite.
    #[error("sampled training example {example}: its gradient at layer `{layer}` holds NaN or infinity")]
    NonFiniteSample {
        /// Place of the example in the sample.
        example: usize,
        /// The layer's name.
        layer: String,
    },
    /// A system with the Gauss-Newton matrix could not be solved.
    #[error("the systems with the Gauss-Newton matrix were not solved: {0}")]
    Refinement(String),
}

impl From<candle_core::Error> for Error {
    fn from(error: candle_core::Error) -> Self {
        Self::Curvature(error.into())
    }
}
