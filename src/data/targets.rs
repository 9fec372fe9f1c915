//! What examples should give, whatever their inputs are: tokens at their positions, a class, several labels, or
//! numbers.

use std::ops::Range;

/// Targets of a batch's examples.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum Targets {
    /// What each row predicts: the label of the token after it, of a masked language model of its own, or nothing. `[R]`.
    Tokens(Vec<Option<u32>>),
    /// A class for each example, `[B]`.
    Classes(Vec<u32>),
    /// For each example how far each label holds, from 0 to 1, `[B, width]`.
    Labels {
        /// The numbers.
        values: Vec<f32>,
        /// Labels of an example.
        width: usize,
    },
    /// Numbers for each example, `[B, width]`.
    Values {
        /// The numbers.
        values: Vec<f32>,
        /// Numbers of an example.
        width: usize,
    },
}

/// What an example's target is, where it has one for all its positions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Task {
    /// One class.
    Classification,
    /// Several labels, each of which holds or not.
    MultiLabel,
    /// Numbers.
    Regression,
}

/// One example's target.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Target {
    Class(u32),
    Labels(Vec<f32>),
    Values(Vec<f32>),
}

impl Targets {
    /// Targets of no examples.
    pub(super) fn none(task: Task, width: usize) -> Self {
        match task {
            Task::Classification => Self::Classes(vec![]),
            Task::MultiLabel => Self::Labels { values: vec![], width },
            Task::Regression => Self::Values { values: vec![], width },
        }
    }

    /// Adds an example's target, which is of the kind of those before.
    pub(super) fn push(&mut self, target: &Target) {
        match (self, target) {
            (Self::Classes(classes), Target::Class(class)) => classes.push(*class),
            (Self::Labels { values, .. }, Target::Labels(labels)) => values.extend_from_slice(labels),
            (Self::Values { values, .. }, Target::Values(numbers)) => values.extend_from_slice(numbers),
            _ => unreachable!("a file's targets are read as one kind"),
        }
    }

    /// Targets of the examples `range`; of tokens, of the rows `range`.
    pub(super) fn of(&self, range: Range<usize>) -> Self {
        let part = |values: &[f32], width: usize| values[range.start * width..range.end * width].to_vec();
        match self {
            Self::Tokens(tokens) => Self::Tokens(tokens[range].to_vec()),
            Self::Classes(classes) => Self::Classes(classes[range].to_vec()),
            Self::Labels { values, width } => Self::Labels { values: part(values, *width), width: *width },
            Self::Values { values, width } => Self::Values { values: part(values, *width), width: *width },
        }
    }

    /// Targets of the examples at these places; of tokens, of the rows there.
    pub(super) fn at(&self, places: &[usize]) -> Self {
        let rows = |values: &[f32], width: usize| {
            places.iter().flat_map(|&i| &values[i * width..(i + 1) * width]).copied().collect()
        };
        match self {
            Self::Tokens(tokens) => Self::Tokens(places.iter().map(|&i| tokens[i]).collect()),
            Self::Classes(classes) => Self::Classes(places.iter().map(|&i| classes[i]).collect()),
            Self::Labels { values, width } => Self::Labels { values: rows(values, *width), width: *width },
            Self::Values { values, width } => Self::Values { values: rows(values, *width), width: *width },
        }
    }

    /// What a digest of the contents takes in.
    pub(super) fn bytes(&self) -> Vec<u8> {
        match self {
            // No vocabulary has 2³² tokens, so the largest number can stand for "no target".
            Self::Tokens(tokens) => tokens.iter().flat_map(|token| token.unwrap_or(u32::MAX).to_le_bytes()).collect(),
            Self::Classes(classes) => classes.iter().flat_map(|class| class.to_le_bytes()).collect(),
            Self::Labels { values, .. } | Self::Values { values, .. } => {
                values.iter().flat_map(|value| value.to_le_bytes()).collect()
            }
        }
    }

    /// The targets as a reader sees them.
    pub(super) fn text(&self) -> String {
        match self {
            Self::Tokens(tokens) => tokens.iter().flatten().map(u32::to_string).collect::<Vec<_>>().join(" "),
            Self::Classes(classes) => classes.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
            Self::Labels { values, .. } | Self::Values { values, .. } => {
                values.iter().map(f32::to_string).collect::<Vec<_>>().join(" ")
            }
        }
    }
}
