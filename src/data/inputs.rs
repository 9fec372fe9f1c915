//! What a model reads of a batch: token sequences, rows of numbers, or images.

use ascribe_curvature::Positions;

/// What a model reads of a batch.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Inputs {
    /// Token sequences, one after the other without padding.
    Tokens(TokenInputs),
    /// Rows of numbers, or images.
    Rows(RowInputs),
}

/// Token sequences, one after the other without padding.
///
/// # Shapes
/// `ids`: `[R]`, R = Σ T; `types` as well. With texts for an encoder, `[S + R]`: those of all examples stand first.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenInputs {
    /// The tokens.
    pub ids: Vec<u32>,
    /// To which text of a pair each token belongs; absent where all belong to the first.
    pub types: Option<Vec<u32>>,
    /// Which of the first `ids` each example's encoder reads; absent where all tokens are one sequence. The positions of
    /// the batch are those of the other tokens, which the decoder reads.
    pub encoder: Option<Positions>,
}

/// Rows of numbers, or images.
///
/// # Shapes
/// `values`: `[B, ...shape]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowInputs {
    /// The rows, already scaled.
    pub values: Vec<f32>,
    /// The shape of a row: one size, or channels, height and width of an image.
    pub shape: Vec<usize>,
}
