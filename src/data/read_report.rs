//! What reading a file found, for the plan.

use super::chat::report::ChatReport;
use super::images::report::ImageReport;
use super::labels::DoubtfulEnd;
use super::responses::ResponseReport;

/// What reading found, for the plan.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct ReadReport {
    /// Examples of the dataset (blocks, if packed).
    pub examples: usize,
    /// Positions of all examples.
    pub tokens: usize,
    /// Targets of all examples: tokens that are predicted, rows, or labelled texts.
    pub targets: usize,
    /// Examples (before packing) that `max_length` cut.
    pub cut: usize,
    /// Examples that were divided into pieces of `max_length`.
    pub divided: usize,
    /// Whether they kept their last tokens and not their first.
    pub kept_end: bool,
    /// Whether the tokenizer's own truncation would have cut the beginning of those, where their end was cut.
    pub cut_at_other_end: bool,
    /// Examples that are contrasts of two completions.
    pub contrasts: usize,
    /// Rows without a token, which were skipped.
    pub empty: usize,
    /// Examples, or blocks, in which nothing is predicted, and which were left out: training takes nothing from them.
    pub without_target: LeftOut,
    /// Examples of which a cut left no target, and which were left out as TRL leaves them out.
    pub cut_away: LeftOut,
    /// Prompts whose tokens are not how those of the whole begin, where targets begin at the first other token.
    pub parted: usize,
    /// Texts that begin or end with a token that the tokenizer adds there too, and have it twice.
    pub doubled: usize,
    /// Tokens that would be targets, and are none because the tokenizer's files name them for padding.
    pub padding: usize,
    /// What was found of the templates that tell answers from questions, if such were given.
    pub responses: Option<ResponseReport>,
    /// Whether end tokens are targets, though the tokenizer's files name the end token as padding, which collators
    /// leave out of the loss.
    pub end_may_be_padding: bool,
    /// Positions of the longest example.
    pub longest: usize,
    /// Tokens of the longest example before it was cut or packed.
    pub longest_before_cut: usize,
    /// A token that may have been padding, and how many examples end with it.
    pub doubtful_ends: Option<(DoubtfulEnd, usize)>,
    /// What packing did.
    pub packed: Option<Packed>,
    /// Whether examples are rows of numbers or images, not sequences of tokens.
    pub is_rows: bool,
    /// What became of conversations, if there are any.
    pub chat: Option<ChatReport>,
    /// What became of images, if files hold them.
    pub images: Option<ImageReport>,
    /// The first example, token for token, and whether each is a target.
    pub first: Vec<(String, bool)>,
}

impl ReadReport {
    /// What is found of so many rows or images, of so many positions each; `first` is the first of them as a line.
    pub(super) fn of_rows(examples: usize, positions: usize, first: String) -> Self {
        Self {
            examples,
            tokens: examples * positions,
            targets: examples,
            longest: positions,
            longest_before_cut: positions,
            is_rows: true,
            first: vec![(first, true)],
            ..Self::default()
        }
    }
}

/// Examples that were left out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct LeftOut {
    /// How many.
    pub examples: usize,
    /// Their tokens.
    pub tokens: usize,
}

impl LeftOut {
    /// One more, of so many tokens.
    pub(super) fn add(&mut self, tokens: usize) {
        self.examples += 1;
        self.tokens += tokens;
    }
}

/// What packing did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Packed {
    /// Documents read.
    pub documents: usize,
    /// Tokens at the end, or at ends of groups of rows, that filled no block and were left out.
    pub dropped_tokens: usize,
    /// Blocks that such tokens make; `None` where they are left out.
    pub shorter_blocks: Option<usize>,
    /// Rows after which packing began anew.
    pub rows: Option<usize>,
    /// Shares of the rows, each packed by itself; none: one.
    pub shares: Option<usize>,
}
