//! What a model can be given.

use crate::data::{ModelLimits, RowLimits};

/// What a model can be given.
#[derive(Debug, Clone, Copy)]
pub enum Limits {
    /// Token sequences.
    Tokens(ModelLimits),
    /// Rows of numbers, or images.
    Rows(RowLimits),
}

impl Limits {
    /// Whether every example has one position.
    pub fn has_one_position(self) -> bool {
        matches!(self, Self::Rows(rows) if rows.inputs.has_one_position())
    }

    /// Whether models with these limits take the same inputs and say the same kind of thing about them.
    pub fn agree(self, other: Self) -> bool {
        match (self, other) {
            (Self::Tokens(a), Self::Tokens(b)) => a == b,
            (Self::Rows(a), Self::Rows(b)) => (a.inputs, a.task) == (b.inputs, b.task),
            _ => false,
        }
    }
}
