//! From where to where attention goes, and what acts on its scores beside queries and keys.

use candle_core::Tensor;

use crate::rotation::RopeTables;
use ascribe_curvature::Positions;

/// Whose the rows of queries and of keys are, and what acts on their scores.
#[derive(Debug, Clone, Copy)]
pub struct Between<'a> {
    /// Rows of queries.
    pub queries: &'a Positions,
    /// Rows of keys, of as many examples. Unless there is no mask and no window, an example has as many as queries.
    pub keys: &'a Positions,
    /// What queries and keys are rotated by first.
    pub rope: Option<&'a RopeTables>,
    /// What is added to scores once they are scaled: `[H, T, S]` of the longest examples, of which a shorter one has the
    /// first rows and columns. It is not differentiated.
    pub bias: Option<&'a Tensor>,
}

impl<'a> Between<'a> {
    /// Attention within one sequence, without a bias.
    pub fn within(positions: &'a Positions, rope: Option<&'a RopeTables>) -> Self {
        Self { queries: positions, keys: positions, rope, bias: None }
    }
}
