//! Text turned into tokens and labels.

use serde_json::{Map, Value};

use super::error::DataError;
use super::excerpt::Source;
use super::line_problem::LineProblem;
use super::specials::{Role, Special, Specials, resolve};
use super::tokenizer::{Encoded, Offsets, Tokenizer};

/// One example as its line has it, before cutting and packing.
#[derive(Debug)]
pub(super) struct Document {
    pub(super) id: Option<String>,
    pub(super) metadata: Map<String, Value>,
    pub(super) source: Source,
    pub(super) tokens: Vec<u32>,
    /// Label of each token, at the token: not shifted. `None` is no target.
    pub(super) labels: Vec<Option<u32>>,
}

/// Turns the texts of one file into tokens.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    tokenizer: Option<&'a Tokenizer>,
    bos: Option<u32>,
    eos: Option<u32>,
    /// A special token was asked for, if only to refuse it where it cannot be added.
    asked: Option<Special>,
    vocabulary: usize,
}

impl<'a> Encoder<'a> {
    pub(super) fn new(
        tokenizer: Option<&'a Tokenizer>,
        specials: Specials,
        role: Role,
        vocabulary: usize,
    ) -> Result<Self, DataError> {
        if let Some(tokenizer) = tokenizer {
            tokenizer.check_vocabulary(vocabulary)?;
        }
        let add_bos = specials.add_bos.applies(role);
        let add_eos = specials.add_eos.applies(role);
        let id = |special, wanted| match tokenizer {
            Some(tokenizer) if wanted => resolve(tokenizer, special, vocabulary).map(Some),
            _ => Ok(None),
        };
        let asked = if add_bos { Some(Special::Bos) } else { add_eos.then_some(Special::Eos) };
        Ok(Self { tokenizer, bos: id(Special::Bos, add_bos)?, eos: id(Special::Eos, add_eos)?, asked, vocabulary })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Refuses tokens as data where special tokens were asked for.
    pub(super) fn check_ids(&self) -> Result<(), LineProblem> {
        self.asked.map_or(Ok(()), |special| Err(LineProblem::SpecialForIds { which: special.name() }))
    }

    /// Every token of a text is its own label.
    pub(super) fn text(&self, text: &str) -> Result<(Vec<u32>, Vec<Option<u32>>), LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field: "text" })?;
        let encoded = encode(tokenizer, text, Offsets::Skipped)?;
        let tokens = self.add_specials(tokenizer, &encoded)?;
        let labels = tokens.iter().map(|&token| Some(token)).collect();
        Ok((tokens, labels))
    }

    /// Prompt and completion are tokenized as one text, as the model meets them. A token belongs to the
    /// completion, and is a target, if it ends beyond the end of the prompt: a token that holds the
    /// prompt's last and the completion's first characters is a target. So is what is added behind.
    pub(super) fn prompted(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<Option<u32>>), LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field: "prompt" })?;
        let encoded = encode(tokenizer, &format!("{prompt}{completion}"), Offsets::Wanted)?;
        let text = encoded.front..encoded.ids.len() - encoded.back;
        let first = text.clone().find(|&k| encoded.ends[k] > prompt.len()).unwrap_or(text.end);
        let tokens = self.add_specials(tokenizer, &encoded)?;
        let first = first + usize::from(self.bos.is_some());
        let labels = tokens.iter().enumerate().map(|(k, &token)| (k >= first).then_some(token)).collect();
        Ok((tokens, labels))
    }

    /// The tokens between the special tokens that were asked for, none of them twice.
    fn add_specials(&self, tokenizer: &Tokenizer, encoded: &Encoded) -> Result<Vec<u32>, LineProblem> {
        let Encoded { ids, front, back, .. } = encoded;
        let (front, rest) = ids.split_at(*front);
        let (text, back) = rest.split_at(rest.len() - back);
        let twice = |special: Special, token| LineProblem::SpecialTwice {
            which: special.name(),
            token: tokenizer.token_text(token),
        };
        if let Some(bos) = self.bos.filter(|bos| front.contains(bos)) {
            return Err(twice(Special::Bos, bos));
        }
        if let Some(eos) = self.eos.filter(|eos| back.contains(eos)) {
            return Err(twice(Special::Eos, eos));
        }
        let in_text = |special: Special, token| LineProblem::SpecialInText {
            which: special.name(),
            token: tokenizer.token_text(token),
        };
        let neighbour = front.last().copied().or(self.bos);
        if let Some(&token) = text.first().filter(|&&token| Some(token) == neighbour) {
            return Err(in_text(Special::Bos, token));
        }
        let neighbour = back.first().copied().or(self.eos);
        if let Some(&token) = text.last().filter(|&&token| Some(token) == neighbour) {
            return Err(in_text(Special::Eos, token));
        }
        let mut tokens = Vec::with_capacity(ids.len() + 2);
        tokens.extend(self.bos);
        tokens.extend_from_slice(ids);
        tokens.extend(self.eos);
        Ok(tokens)
    }
}

fn encode(tokenizer: &Tokenizer, text: &str, offsets: Offsets) -> Result<Encoded, LineProblem> {
    tokenizer.encode(text, offsets).map_err(|message| LineProblem::Encode { message })
}
