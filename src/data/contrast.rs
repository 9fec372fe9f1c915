//! Contrasts: queries of two completions of one prompt, measured by the difference of both.
//!
//! A contrast is one example of two sequences, the chosen one first, so that it has one gradient, one row of scores and
//! one id. Each sequence is read by itself: attention and positions begin anew at the second.

use std::iter::{once, repeat_n};

use ascribe_curvature::Positions;

/// The sequences that the examples of a batch consist of, where some are contrasts.
#[derive(Debug, Clone, PartialEq)]
pub struct Contrasts {
    /// Which rows belong to which sequence.
    pub sequences: Positions,
    /// For each example whether it has two sequences, of which the second counts negatively. `[B]`.
    pub is_contrast: Vec<bool>,
}

impl Contrasts {
    /// From each example's length and the place where its second sequence begins, 0 if it has one alone. None if no
    /// example is a contrast.
    pub(super) fn of(examples: impl Iterator<Item = (usize, usize)> + Clone) -> Option<Self> {
        let is_contrast: Vec<bool> = examples.clone().map(|(_, second)| second > 0).collect();
        is_contrast.contains(&true).then(|| {
            let lengths = examples.flat_map(|(length, second)| match second {
                0 => vec![length],
                _ => vec![second, length - second],
            });
            Self { sequences: Positions::from_lengths(lengths), is_contrast }
        })
    }

    /// For each sequence the number of its example in the batch, and the sign with which it counts.
    pub fn signs(&self) -> impl Iterator<Item = (usize, f64)> + '_ {
        self.is_contrast.iter().enumerate().flat_map(|(example, &is_contrast)| {
            once((example, 1.0)).chain(repeat_n((example, -1.0), usize::from(is_contrast)))
        })
    }
}
