//! One example as its row has it: tokens and labels before they are cut and packed.

use serde_json::{Map, Value};

use super::excerpt::ExcerptOf;
use super::line_problem::LineProblem;
use super::reading_options::DecoderTokens;
use super::targets::Target;

/// One example as its line has it, before cutting and packing.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) id: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) source: ExcerptOf,
    pub(super) tokens: Vec<u32>,
    /// Label of each token, at the token: not shifted. `None` is no target. Empty where the text has one `target`.
    pub(super) labels: Vec<Option<u32>>,
    /// What the text as a whole should give.
    pub(super) target: Option<OfText>,
    /// Where the tokens are divided, if an encoder reads the first of them.
    pub(super) split: Option<Split>,
    /// To which text of a pair each token belongs, of tokens that are masked; empty where all belong to the first.
    pub(super) types: Vec<u32>,
    /// Tokens and labels of a contrast's rejected completion behind its prompt.
    pub(super) rejected: Option<(Vec<u32>, Vec<Option<u32>>)>,
}

/// Where tokens are divided into those of an encoder and those of a decoder: its first one, then its targets.
#[derive(Debug, Clone, Copy)]
pub(super) struct Split {
    /// Tokens of the encoder, at least one.
    pub(super) encoder: usize,
    /// Tokens that were cut from both texts.
    pub(super) cut: usize,
}

impl Document {
    /// A row without a text.
    pub(super) fn empty(id: Option<String>, metadata: Map<String, Value>) -> Self {
        Self {
            id,
            metadata,
            source: ExcerptOf::text(""),
            tokens: vec![],
            labels: vec![],
            target: None,
            split: None,
            types: vec![],
            rejected: None,
        }
    }
}

/// What there is of a text that is classified or valued beside its tokens.
#[derive(Debug)]
pub(super) struct OfText {
    pub(super) target: Target,
    /// To which text of a pair each token belongs; empty where all belong to the first.
    pub(super) types: Vec<u32>,
    /// Tokens that were cut from the texts, between special tokens.
    pub(super) cut: usize,
}

/// Tokens of a text or of a pair of texts.
#[derive(Debug)]
pub(super) struct Texts {
    pub(super) tokens: Vec<u32>,
    /// To which of the two each token belongs.
    pub(super) types: Vec<u32>,
    /// Tokens that were cut.
    pub(super) cut: usize,
}

/// Tokens of an encoder and of a decoder, with their labels.
pub(super) type Tokens = (Vec<u32>, Vec<Option<u32>>, Split);

/// What an encoder reads, and behind it what a decoder reads for these targets: a first token, then each target, or padding
/// where there is none. Transformers shifts targets in the same way.
pub(super) fn joined(
    read: &[u32],
    targets: &[Option<u32>],
    decoder: DecoderTokens,
    cut: usize,
) -> Result<Tokens, LineProblem> {
    if read.is_empty() {
        return Err(LineProblem::NothingToRead);
    }
    let targets = &targets[..targets.iter().rposition(Option::is_some).map_or(0, |last| last + 1)];
    if targets.is_empty() {
        return Err(LineProblem::NothingToWrite);
    }
    let written = targets.iter().map(|target| target.unwrap_or(decoder.padding));
    let tokens = read.iter().copied().chain([decoder.start]).chain(written).collect();
    let labels = vec![None; read.len() + 1].into_iter().chain(targets.iter().copied()).collect();
    Ok((tokens, labels, Split { encoder: read.len(), cut }))
}
