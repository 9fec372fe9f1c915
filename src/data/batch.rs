use std::ops::Range;

use ascribe_curvature::Positions;

use super::dataset::{Dataset, Kind};

/// Examples that go through a model together.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Batch {
    /// Token sequences.
    Tokens(TokenBatch),
    /// Rows of numbers.
    Rows(RowBatch),
}

/// Token sequences, one after the other without padding.
///
/// # Shapes
/// `input_ids` and `targets`: `[R]`, R = Σ T; `keys`: `[B]`.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenBatch {
    /// The tokens.
    pub input_ids: Vec<u32>,
    /// Which rows belong to which example.
    pub positions: Positions,
    /// What each row predicts: the label of the token after it, or nothing.
    pub targets: Vec<Option<u32>>,
    /// Key of each example ([`Dataset::key`]).
    pub keys: Vec<u64>,
    /// The examples' numbers in the dataset.
    pub range: Range<usize>,
}

/// Rows of numbers with their targets.
///
/// # Shapes
/// `inputs`: `[B, width]`; `keys`: `[B]`.
#[derive(Debug, Clone, PartialEq)]
pub struct RowBatch {
    /// The rows, already scaled.
    pub inputs: Vec<f32>,
    /// Numbers in a row.
    pub width: usize,
    /// What the rows should give.
    pub targets: RowTargets,
    /// One position for each example.
    pub positions: Positions,
    /// Key of each example ([`Dataset::key`]).
    pub keys: Vec<u64>,
    /// The examples' numbers in the dataset.
    pub range: Range<usize>,
}

/// Targets of rows.
#[derive(Debug, Clone, PartialEq)]
pub enum RowTargets {
    /// A class for each row, `[B]`.
    Classes(Vec<u32>),
    /// Numbers for each row, `[B, width]`.
    Values {
        /// The numbers.
        values: Vec<f32>,
        /// Numbers for a row.
        width: usize,
    },
}

impl Batch {
    /// Which rows belong to which example.
    pub fn positions(&self) -> &Positions {
        match self {
            Self::Tokens(batch) => &batch.positions,
            Self::Rows(batch) => &batch.positions,
        }
    }

    /// Key of each example.
    pub fn keys(&self) -> &[u64] {
        match self {
            Self::Tokens(batch) => &batch.keys,
            Self::Rows(batch) => &batch.keys,
        }
    }

    /// The examples' numbers in the dataset.
    pub fn range(&self) -> Range<usize> {
        match self {
            Self::Tokens(batch) => batch.range.clone(),
            Self::Rows(batch) => batch.range.clone(),
        }
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
    match dataset.kind() {
        Kind::Tokens(tokens) => Batch::Tokens(TokenBatch {
            input_ids: range.clone().flat_map(|i| tokens.tokens(i)).copied().collect(),
            positions: Positions::from_lengths(range.clone().map(|i| tokens.positions(i))),
            targets: range.clone().flat_map(|i| tokens.predicted(i)).collect(),
            keys,
            range,
        }),
        Kind::Rows(rows) => Batch::Rows(RowBatch {
            inputs: rows.inputs(range.clone()),
            width: rows.width(),
            targets: rows.targets(range.clone()),
            positions: Positions::single(range.len()),
            keys,
            range,
        }),
    }
}
