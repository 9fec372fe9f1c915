//! Texts turned into tokens and labels, with the special tokens that were asked for.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::chat::options::LossOn;
use super::chat::problem::ChatProblem;
use super::document::{Texts, Tokens, joined};
use super::error::DataError;
use super::labels::Labels;
use super::line_problem::LineProblem;
use super::reading_options::{DecoderTokens, MaskedTokens};
use super::special_tokens::resolve;
use super::specials::{FromTokenizer, InConversations, Role, Special, Specials, Which};
use super::tokenizer::{Encoded, Offsets, Tokenizer};

/// Turns the texts of one file into tokens.
#[derive(Debug)]
pub(super) struct Encoder<'a> {
    tokenizer: Option<&'a Tokenizer>,
    bos: Option<Added>,
    eos: Option<Added>,
    from_tokenizer: FromTokenizer,
    /// Whether a text that has a token which is added at its place gets none.
    only_where_missing: bool,
    conversations: InConversations,
    /// The end token that conversations get, if they get one.
    end_of_conversations: Option<u32>,
    /// A special token was asked for, if only to refuse it where it cannot be added.
    asked: Option<Special>,
    vocabulary: usize,
    text_limit: usize,
    /// Labels of texts that are classified or valued.
    labels: Option<&'a Labels>,
    /// What a decoder beside an encoder reads.
    decoder: Option<DecoderTokens>,
    masked: Option<MaskedTokens>,
    /// To how many tokens texts are cut between their special tokens, if there are labels or a decoder.
    max_length: Option<usize>,
    /// Which tokens of conversations are targets, if that was chosen.
    loss_on: Option<LossOn>,
    role: Role,
    /// Whether texts are tokenized as TRL does it ([`super::DataOptions::as_trl`]).
    as_trl: bool,
    /// Prompts whose tokens are not how those of the whole begin.
    parted: AtomicUsize,
    /// Texts that have a token twice, once from the tokenizer.
    doubled: AtomicUsize,
}

/// A special token that is added to every text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Added {
    token: u32,
    /// Whether it can be a target. If not, no occurrence of it is one: a collator that leaves the padding out of
    /// the loss does not ask where a token came from.
    target: bool,
}

impl<'a> Encoder<'a> {
    /// `end_token` is the text of the end token, if it is another than the tokenizer's; `text_limit` is the most bytes of a
    /// text that is tokenized at once.
    pub(super) fn new(
        tokenizer: Option<&'a Tokenizer>,
        (specials, end_token): (Specials, Option<&str>),
        role: Role,
        vocabulary: usize,
        text_limit: usize,
    ) -> Result<Self, DataError> {
        let add_bos = specials.add_bos.applies(role);
        let add_eos = specials.add_eos.applies(role);
        let added = |special, which: Which| match tokenizer {
            Some(tokenizer) if which.applies(role) => {
                let chosen = end_token.filter(|_| special == Special::Eos);
                let token = resolve(tokenizer, special, vocabulary, chosen)?;
                Ok(Some(Added { token, target: which.is_target() }))
            }
            _ => Ok(None),
        };
        let asked = if add_bos { Some(Special::Bos) } else { add_eos.then_some(Special::Eos) };
        let (bos, eos) = (added(Special::Bos, specials.add_bos)?, added(Special::Eos, specials.add_eos)?);
        let Specials { from_tokenizer, only_where_missing, conversations, .. } = specials;
        let end_of_conversations = tokenizer
            .filter(|_| conversations == InConversations::TokenizerAndEnd)
            .and_then(|tokenizer| resolve(tokenizer, Special::Eos, vocabulary, end_token).ok());
        Ok(Self {
            tokenizer,
            bos,
            eos,
            from_tokenizer,
            only_where_missing,
            conversations,
            end_of_conversations,
            asked,
            vocabulary,
            text_limit,
            labels: None,
            decoder: None,
            masked: None,
            max_length: None,
            loss_on: None,
            role,
            as_trl: false,
            parted: AtomicUsize::new(0),
            doubled: AtomicUsize::new(0),
        })
    }

    /// For texts that are classified or valued.
    pub(super) fn with_labels(self, labels: Option<&'a Labels>) -> Self {
        Self { labels, ..self }
    }

    /// For texts of which an encoder reads one and a decoder another.
    pub(super) fn with_decoder(self, decoder: Option<DecoderTokens>) -> Self {
        Self { decoder, ..self }
    }

    /// For tokens of which some are masked.
    pub(super) fn with_masks(self, masked: Option<MaskedTokens>) -> Self {
        Self { masked, ..self }
    }

    /// What a masked language model reads.
    pub(super) fn masked(&self) -> Option<MaskedTokens> {
        self.masked
    }

    /// For texts with labels or a decoder: cut to so many tokens, with special tokens among them.
    pub(super) fn cut_to(self, max_length: Option<usize>) -> Self {
        Self { max_length, ..self }
    }

    /// What a decoder beside an encoder reads.
    pub(super) fn decoder(&self) -> Option<DecoderTokens> {
        self.decoder
    }

    /// With the choice of which tokens of conversations are targets.
    pub(super) fn with_loss_on(self, loss_on: Option<LossOn>) -> Self {
        Self { loss_on, ..self }
    }

    /// For training examples that TRL tokenized.
    pub(super) fn of_trl(self, as_trl: bool) -> Self {
        Self { as_trl: as_trl && self.role == Role::Train, ..self }
    }

    /// Prompts so far whose tokens are not how those of the whole begin, where that decides what is a target.
    pub(super) fn parted(&self) -> usize {
        self.parted.load(Ordering::Relaxed)
    }

    /// Texts so far that have a token twice, once of their own and once from the tokenizer.
    pub(super) fn doubled(&self) -> usize {
        self.doubled.load(Ordering::Relaxed)
    }

    /// The most bytes of a text that is tokenized at once.
    pub(super) fn text_limit(&self) -> usize {
        self.text_limit
    }

    /// Refuses what is no conversation, where training examples have loss on turns of conversations.
    pub(super) fn check_no_turns(&self, field: &'static str) -> Result<(), LineProblem> {
        match self.loss_on {
            Some(loss_on @ (LossOn::Assistant | LossOn::Last)) if self.role == Role::Train => {
                Err(ChatProblem::NoTurns { field, loss_on: loss_on.name() }.into())
            }
            _ => Ok(()),
        }
    }

    /// Whether every token has loss, of prompts too.
    pub(super) fn has_loss_on_prompts(&self) -> bool {
        self.loss_on == Some(LossOn::All)
    }

    /// Refuses a conversation where special tokens were asked for, or where there is no tokenizer.
    pub(super) fn check_conversation(&self, field: &'static str) -> Result<(), LineProblem> {
        if let Some(special) = self.asked {
            return Err(ChatProblem::Added { which: special.name() }.into());
        }
        if self.tokenizer.is_none() { Err(LineProblem::NeedsTokenizer { field }) } else { Ok(()) }
    }

    /// Tokens of a rendered conversation, or of the beginning of one, and where each stands in its text. The template has
    /// written the special tokens, and the tokenizer adds its own only where training had both.
    pub(super) fn rendered(
        &self,
        text: &str,
        is_whole: bool,
        field: &'static str,
    ) -> Result<(Vec<u32>, Vec<Range<usize>>), LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field })?;
        tokenizer.check_length(text, self.text_limit)?;
        let encoded = tokenizer
            .encode(text, Offsets::Wanted, self.adds_to_conversations())
            .map_err(|error| LineProblem::Encode { file: tokenizer.file().to_owned(), message: error.to_string() })?;
        let Encoded { mut ids, starts, ends, .. } = encoded;
        let mut places: Vec<Range<usize>> = starts.iter().zip(&ends).map(|(&start, &end)| start..end).collect();
        if let Some(end) = self.end_of_conversations.filter(|end| is_whole && ids.last() != Some(end)) {
            ids.push(end);
            places.push(text.len()..text.len());
        }
        self.check_embedding(tokenizer, &ids)?;
        Ok((ids, places))
    }

    /// Whether the tokenizer adds its special tokens to rendered conversations.
    fn adds_to_conversations(&self) -> bool {
        match self.conversations {
            InConversations::AsChosen => self.from_tokenizer == FromTokenizer::Keep,
            InConversations::Bare => false,
            InConversations::Tokenizer | InConversations::TokenizerAndEnd => true,
        }
    }

    /// Refuses a token for which the model has no embedding.
    fn check_embedding(&self, tokenizer: &Tokenizer, tokens: &[u32]) -> Result<(), LineProblem> {
        match tokens.iter().find(|&&id| id as usize >= self.vocabulary) {
            None => Ok(()),
            Some(&id) => {
                let (token, vocabulary) = (tokenizer.token_text(id), self.vocabulary);
                Err(LineProblem::NoEmbedding { token, id, vocabulary })
            }
        }
    }

    /// Labels of texts that are classified or valued.
    pub(super) fn labels_of_texts(&self) -> Option<&'a Labels> {
        self.labels
    }

    /// Tokens of a text or of a pair of texts as a classifier reads them.
    pub(super) fn text_or_pair(&self, text: &str, pair: Option<&str>) -> Result<Texts, LineProblem> {
        self.whole("text", text, pair)
    }

    /// Tokens of a text for an encoder and of one for a decoder, each as it is tokenized by itself, with its special
    /// tokens: the decoder's first token and its targets stand behind the encoder's.
    pub(super) fn split(&self, prompt: &str, completion: &str, decoder: DecoderTokens) -> Result<Tokens, LineProblem> {
        let read = self.whole("prompt", prompt, None)?;
        let written = self.whole("completion", completion, None)?;
        let labels = self.labels(&written.tokens, 0);
        joined(&read.tokens, &labels, decoder, read.cut + written.cut)
    }

    fn whole(&self, field: &'static str, text: &str, pair: Option<&str>) -> Result<Texts, LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field })?;
        for text in [Some(text), pair].into_iter().flatten() {
            tokenizer.check_length(text, self.text_limit)?;
        }
        let own = usize::from(self.bos.is_some()) + usize::from(self.eos.is_some());
        let max_length = self.max_length.map(|n| n.saturating_sub(own));
        let special = self.from_tokenizer != FromTokenizer::None;
        let problem = |message: String| LineProblem::Encode { file: tokenizer.file().to_owned(), message };
        let (encoded, mut types, cut) =
            tokenizer.encode_pair(text, pair, max_length, special).map_err(|error| problem(error.to_string()))?;
        let (tokens, in_front) = self.add_specials(tokenizer, &encoded)?;
        types.splice(0..0, vec![0; in_front]);
        let last = types.last().copied().unwrap_or(0);
        types.resize(tokens.len(), last);
        Ok(Texts { tokens, types, cut })
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// Whether end tokens are targets here, though the tokenizer's files name the end token as padding, which
    /// collators leave out of the loss.
    pub(super) fn end_may_be_padding(&self) -> bool {
        let Some(tokenizer) = self.tokenizer else { return false };
        let added = match self.eos {
            Some(eos) => eos.target,
            None => self.from_tokenizer != FromTokenizer::None && !tokenizer.adds().1.is_empty(),
        };
        added && tokenizer.pads_with_end()
    }

    /// Whether the tokenizer cuts the beginning of long texts, where examples lose their end here.
    pub(super) fn cuts_the_beginning(&self) -> bool {
        self.tokenizer.is_some_and(Tokenizer::cuts_the_beginning)
    }

    /// Refuses contrasts where they have no meaning.
    pub(super) fn check_contrast(&self) -> Result<(), LineProblem> {
        match (self.labels, self.decoder) {
            (Some(_), _) => Err(LineProblem::ContrastOfClasses),
            (None, Some(_)) => Err(LineProblem::ContrastOfPairs),
            (None, None) => Ok(()),
        }
    }

    /// Refuses tokens as data where special tokens were asked for.
    pub(super) fn check_ids(&self) -> Result<(), LineProblem> {
        self.asked.map_or(Ok(()), |special| Err(LineProblem::SpecialForIds { which: special.name() }))
    }

    /// Every token of a text is its own label, but for special tokens that are only read. A text without a token
    /// of its own has none.
    pub(super) fn text(&self, text: &str) -> Result<(Vec<u32>, Vec<Option<u32>>), LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field: "text" })?;
        let encoded = self.encode(tokenizer, &self.with_end(tokenizer, text), Offsets::Skipped)?;
        let (tokens, _) = self.add_specials(tokenizer, &encoded)?;
        let labels = self.labels(&tokens, 0);
        Ok((tokens, labels))
    }

    /// Prompt and completion are tokenized as one text, as the model meets them. A token belongs to the
    /// completion, and is a target, if it ends beyond the end of the prompt: a token that holds the
    /// prompt's last and the completion's first characters is a target. So is what is added behind.
    pub(super) fn prompted(&self, prompt: &str, completion: &str) -> Result<(Vec<u32>, Vec<Option<u32>>), LineProblem> {
        let tokenizer = self.tokenizer.ok_or(LineProblem::NeedsTokenizer { field: "prompt" })?;
        let completion = self.with_end(tokenizer, completion);
        let encoded = self.encode(tokenizer, &format!("{prompt}{completion}"), Offsets::Wanted)?;
        let text = encoded.front..encoded.ids.len() - encoded.back;
        let first = match self.as_trl {
            true => self.parting(tokenizer, prompt, &encoded.ids)?,
            false => text.clone().find(|&k| encoded.ends[k] > prompt.len()).unwrap_or(text.end),
        };
        let (tokens, in_front) = self.add_specials(tokenizer, &encoded)?;
        let labels = self.labels(&tokens, first + in_front);
        Ok((tokens, labels))
    }

    /// The first token of the whole that is another than that of the prompt alone.
    fn parting(&self, tokenizer: &Tokenizer, prompt: &str, whole: &[u32]) -> Result<usize, LineProblem> {
        let alone = self.encode(tokenizer, prompt, Offsets::Skipped)?.ids;
        let first = alone.iter().zip(whole).take_while(|(alone, whole)| alone == whole).count();
        self.parted.fetch_add(usize::from(first < alone.len()), Ordering::Relaxed);
        Ok(first)
    }

    /// The end token, if it is written into texts before they are tokenized.
    fn end_in_text(&self) -> Option<u32> {
        self.eos.filter(|_| self.as_trl).map(|end| end.token)
    }

    /// A text with its end token, if that is written there and is missing.
    fn with_end<'t>(&self, tokenizer: &Tokenizer, text: &'t str) -> Cow<'t, str> {
        match self.end_in_text().and_then(|token| tokenizer.spelled(token)) {
            Some(end) if !text.ends_with(&end) => Cow::Owned(format!("{text}{end}")),
            _ => Cow::Borrowed(text),
        }
    }

    /// Tokens from `first` on are their own labels, but for special tokens that are only read.
    fn labels(&self, tokens: &[u32], first: usize) -> Vec<Option<u32>> {
        let only_read = |token| [self.bos, self.eos].into_iter().flatten().any(|s| s.token == token && !s.target);
        let label = |(k, &token): (usize, &u32)| (k >= first && !only_read(token)).then_some(token);
        tokens.iter().enumerate().map(label).collect()
    }

    fn encode(&self, tokenizer: &Tokenizer, text: &str, offsets: Offsets) -> Result<Encoded, LineProblem> {
        tokenizer.check_length(text, self.text_limit)?;
        tokenizer
            .encode(text, offsets, self.from_tokenizer != FromTokenizer::None)
            .map_err(|error| LineProblem::Encode { file: tokenizer.file().to_owned(), message: error.to_string() })
    }

    /// The tokens between the special tokens that were asked for, none of them twice unless that was asked for too;
    /// and how many were put in front of the tokenizer's.
    fn add_specials(&self, tokenizer: &Tokenizer, encoded: &Encoded) -> Result<(Vec<u32>, usize), LineProblem> {
        let Encoded { ids, front, back, .. } = encoded;
        let (front, rest) = ids.split_at(*front);
        let (text, back) = rest.split_at(rest.len() - back);
        if text.is_empty() {
            return Ok((Vec::new(), 0));
        }
        // A token that is only read may also be the tokenizer's own, and so may one that is put where it is missing.
        let added = |special: Special, added: Option<Added>, own: &[u32], at: Option<&u32>| match added {
            Some(Added { token, .. }) if self.only_where_missing && (own.contains(&token) || at == Some(&token)) => {
                Ok(None)
            }
            Some(Added { token, target }) if own.contains(&token) => {
                let (which, text) = (special.name(), tokenizer.token_text(token));
                if target { Err(LineProblem::SpecialTwice { which, token: text }) } else { Ok(None) }
            }
            added => Ok(added.map(|added| added.token)),
        };
        let bos = added(Special::Bos, self.bos, front, text.first())?;
        let is_in_text = self.end_in_text().is_some();
        let eos = added(Special::Eos, self.eos.filter(|_| !is_in_text), back, text.last())?;
        let begins = text.first().filter(|&&token| Some(token) == front.last().copied().or(bos));
        let ends = text.last().filter(|&&token| Some(token) == back.first().copied().or(eos));
        let in_text = |special: Special, token: u32, by_tokenizer: bool| match self.from_tokenizer {
            FromTokenizer::Keep => Ok(()),
            FromTokenizer::KeepOwn if by_tokenizer => Ok(()),
            _ => {
                let (which, token) = (special.name(), tokenizer.token_text(token));
                Err(LineProblem::SpecialInText { which, token, by_tokenizer })
            }
        };
        if let Some(&token) = begins {
            in_text(Special::Bos, token, !front.is_empty())?;
        }
        if let Some(&token) = ends.filter(|_| !is_in_text) {
            in_text(Special::Eos, token, !back.is_empty())?;
        }
        let twice = begins.is_some() && !front.is_empty() || ends.is_some() && !back.is_empty();
        self.doubled.fetch_add(usize::from(twice), Ordering::Relaxed);
        let mut tokens = Vec::with_capacity(ids.len() + 2);
        tokens.extend(bos);
        tokens.extend_from_slice(ids);
        tokens.extend(eos);
        self.check_embedding(tokenizer, &tokens)?;
        Ok((tokens, usize::from(bos.is_some())))
    }
}
