//! Examples that go through a model together: their inputs, and beside them their targets.

use std::ops::Range;

use ascribe_curvature::Positions;

use super::contrast::Contrasts;
use super::dataset::{Dataset, Kind};
use super::inputs::{Inputs, RowInputs};
use super::targets::Targets;

/// Examples that go through a model together.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    /// What the model reads.
    pub inputs: Inputs,
    /// What it should give.
    pub targets: Targets,
    /// Which rows belong to which example.
    pub positions: Positions,
    /// Key of each example ([`Dataset::key`]), `[B]`.
    pub keys: Vec<u64>,
    /// The sequences that the examples consist of; absent where each example is one.
    pub contrasts: Option<Contrasts>,
    /// The examples' numbers in the dataset.
    pub range: Range<usize>,
}

impl Batch {
    /// Which rows belong to which example.
    pub fn positions(&self) -> &Positions {
        &self.positions
    }

    /// Key of each example.
    pub fn keys(&self) -> &[u64] {
        &self.keys
    }

    /// The examples' numbers in the dataset.
    pub fn range(&self) -> Range<usize> {
        self.range.clone()
    }
}

/// Splits `range` into batches: as many examples as have at most `batch_tokens` positions together, and at
/// least one. Boundaries depend only on the examples from the range's start on, in their order; whoever
/// resumes at a boundary goes on with the same batches.
///
/// # Panics
/// If the range does not lie in the dataset.
pub fn batches(
    dataset: &Dataset,
    range: Range<usize>,
    batch_tokens: usize,
) -> impl Iterator<Item = Range<usize>> + use<'_> {
    assert!(range.end <= dataset.len(), "examples {range:?} of {}", dataset.len());
    let mut start = range.start;
    std::iter::from_fn(move || {
        if start >= range.end {
            return None;
        }
        let (mut end, mut sum) = (start + 1, dataset.positions(start));
        while end < range.end {
            sum = sum.saturating_add(dataset.positions(end));
            if sum > batch_tokens {
                break;
            }
            end += 1;
        }
        let batch = start..end;
        start = end;
        Some(batch)
    })
}

/// The examples `range` as one batch.
///
/// # Panics
/// If the range does not lie in the dataset.
pub fn batch(dataset: &Dataset, range: Range<usize>) -> Batch {
    let keys = range.clone().map(|i| dataset.key(i)).collect();
    let (inputs, targets) = match dataset.kind() {
        Kind::Tokens(tokens) => (Inputs::Tokens(tokens.inputs(range.clone())), tokens.targets_of(range.clone())),
        Kind::Rows(rows) => {
            let inputs = RowInputs { values: rows.inputs(range.clone()), shape: rows.shape().to_vec() };
            (Inputs::Rows(inputs), rows.targets(range.clone()))
        }
    };
    let positions = Positions::from_lengths(range.clone().map(|i| dataset.target_positions(i)));
    let contrasts = match dataset.kind() {
        Kind::Tokens(tokens) => {
            Contrasts::of(range.clone().map(|i| (tokens.positions(i), tokens.second(i).unwrap_or_default())))
        }
        Kind::Rows(_) => None,
    };
    Batch { inputs, targets, positions, keys, contrasts, range }
}
