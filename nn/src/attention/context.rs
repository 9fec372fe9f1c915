//! What an attention op keeps from its forward pass for its backward pass.

use super::shape::Attention;
use crate::rotation::RopeTables;
use ascribe_curvature::Positions;

/// What forward and backward pass need beside the tensors.
pub(super) struct Context {
    pub(super) attention: Attention,
    pub(super) positions: Positions,
    pub(super) rope: Option<RopeTables>,
}

impl Context {
    pub(super) fn new(attention: &Attention, positions: &Positions, rope: Option<&RopeTables>) -> Self {
        Self { attention: attention.clone(), positions: positions.clone(), rope: rope.cloned() }
    }
}
