//! Token sequences in memory, with what each position or each example should give.

use std::ops::Range;
use std::sync::Arc;

use bytemuck::Pod;
use serde_json::{Map, Value};

use ascribe_attribution::store::LongArray;
use ascribe_curvature::Positions;

use super::example::Examples;
use super::excerpt::{BETWEEN_SEQUENCES, ExcerptOf, Excerpts, contrast, one_line, prompted};
use super::inputs::TokenInputs;
use super::targets::{Target, Targets, Task};
use super::tokenizer::Tokenizer;

/// Bytes that a token takes with its target, its share of places and ids, if all of it lies in memory.
pub const BYTES_OF_TOKEN: u64 = 12;

/// What stays in memory of arrays that lie in files, eight of them: the pages of each that were passed last.
const PAGES_OF_FILES: u64 = 8 * (64 << 20);

/// Bytes of so many tokens that lie in files.
fn left_in_files(tokens: usize, is_in_memory: bool) -> u64 {
    if is_in_memory { 0 } else { (BYTES_OF_TOKEN * tokens as u64).saturating_sub(PAGES_OF_FILES) }
}

/// Token sequences with their targets.
#[derive(Debug)]
pub struct TokenDataset {
    examples: Examples,
    /// All examples' tokens, one after the other; example `i` owns `offsets[i]..offsets[i + 1]`.
    tokens: LongArray<u32>,
    offsets: LongArray<usize>,
    /// 1 where the token is predicted, else 0: by the row before it, and then never true for an example's first, or where
    /// tokens are masked by its own.
    target: LongArray<u8>,
    /// Whether each row predicts its own token, which is masked in what is read.
    masked: bool,
    /// What is predicted where it is not the token itself; absent while no label differs from its token.
    labels: Option<LongArray<u32>>,
    /// One target for each example, of texts that are classified or valued. Then no token is a target.
    of_examples: Option<Targets>,
    /// To which text of a pair each token belongs; absent while all belong to the first.
    types: Option<LongArray<u32>>,
    /// How many of each example's tokens an encoder reads; behind them stand the decoder's first token and its targets.
    /// Absent where all tokens are one sequence.
    encoders: Option<LongArray<usize>>,
    /// Where each example's second sequence begins, 0 where it has one alone; absent while all have.
    seconds: Option<LongArray<usize>>,
    sources: Excerpts,
    tokenizer: Option<Arc<Tokenizer>>,
}

/// A token of an example that a row predicts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TargetToken {
    /// Its place among the example's tokens.
    pub place: usize,
    /// The text of what is predicted there, or its number where there is no tokenizer.
    pub text: String,
    /// Whether it is one of the rejected completion of a contrast.
    pub is_rejected: bool,
}

/// Where the tokens of an example are divided.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Divided {
    /// They are one sequence.
    Nowhere,
    /// Behind those that an encoder reads.
    Encoder(usize),
    /// Where the rejected sequence of a contrast begins.
    Second(usize),
}

impl TokenDataset {
    pub(super) fn new(tokenizer: Option<Arc<Tokenizer>>) -> Self {
        Self {
            examples: Examples::new("tokens"),
            tokens: LongArray::new(),
            offsets: LongArray::from_iter([0]),
            target: LongArray::new(),
            masked: false,
            labels: None,
            of_examples: None,
            types: None,
            encoders: None,
            seconds: None,
            sources: Excerpts::default(),
            tokenizer,
        }
    }

    /// Of texts that have `width` numbers of this kind as their target.
    pub(super) fn labelled(tokenizer: Option<Arc<Tokenizer>>, task: Task, width: usize) -> Self {
        Self { of_examples: Some(Targets::none(task, width)), ..Self::new(tokenizer) }
    }

    /// Of tokens some of which are masked, and predicted by their own rows.
    pub(super) fn masked(tokenizer: Option<Arc<Tokenizer>>) -> Self {
        Self { masked: true, ..Self::new(tokenizer) }
    }

    /// Whether each row predicts its own token, which is masked in what is read, and not the one after it.
    pub fn is_masked(&self) -> bool {
        self.masked
    }

    /// Bytes that lie in files and not in memory.
    pub(super) fn bytes_in_files(&self) -> u64 {
        left_in_files(self.tokens.len(), self.tokens.is_in_memory())
    }

    /// Whether labels at their tokens are a target for no row.
    pub(super) fn has_no_target(&self, labels: &[Option<u32>]) -> bool {
        labels.iter().skip(self.ahead()).all(Option::is_none)
    }

    /// How far behind a row the token stands that it predicts.
    fn ahead(&self) -> usize {
        usize::from(!self.masked)
    }

    /// Adds an example of masked tokens; `labels` stand at their tokens. `types` are empty where all tokens are of the
    /// first text.
    pub(super) fn push_masked(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        (tokens, types): (&[u32], &[u32]),
        labels: &[Option<u32>],
    ) {
        self.add_types(types, tokens.len());
        self.push_divided(id, metadata, source, (tokens, labels), Divided::Nowhere);
    }

    /// Adds the types of the tokens that are added next; whether some are of another text than the first.
    fn add_types(&mut self, types: &[u32], tokens: usize) -> bool {
        let (start, several) = (self.tokens.len(), types.iter().any(|&kind| kind > 0));
        if several || self.types.is_some() {
            let all = self.types.get_or_insert_with(|| std::iter::repeat_n(0, start).collect());
            all.extend_from_slice(types);
            all.resize(start + tokens, 0);
        }
        several
    }

    /// Adds an example with one target for all its tokens. `types` are empty where all tokens are of the first text.
    pub(super) fn push_labelled(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        (tokens, types): (&[u32], &[u32]),
        target: &Target,
    ) {
        let several = self.add_types(types, tokens.len());
        self.tokens.extend_from_slice(tokens);
        self.target.resize(self.tokens.len(), 0);
        self.end_example(0, &source);
        let i = self.offsets.len() - 2;
        let targets = self.of_examples.get_or_insert_with(|| match target {
            Target::Class(_) => Targets::none(Task::Classification, 1),
            Target::Labels(values) => Targets::none(Task::MultiLabel, values.len()),
            Target::Values(values) => Targets::none(Task::Regression, values.len()),
        });
        targets.push(target);
        let of_example = targets.of(i..i + 1).bytes();

        let mut digest = blake3::Hasher::new();
        digest.update(&(tokens.len() as u64).to_le_bytes());
        let mut bytes: Vec<u8> = tokens.iter().flat_map(|token| token.to_le_bytes()).collect();
        if several {
            bytes.extend(types.iter().flat_map(|kind| kind.to_le_bytes()));
        }
        bytes.extend(of_example);
        digest.update(&bytes);
        self.examples.push(&id, metadata, digest.finalize());
    }

    /// Notes what every example has behind its tokens.
    fn end_example(&mut self, second: usize, source: &ExcerptOf) {
        let before = self.offsets.len() - 1;
        self.offsets.push(self.tokens.len());
        self.sources.push(source);
        if second > 0 || self.seconds.is_some() {
            let seconds = self.seconds.get_or_insert_with(|| std::iter::repeat_n(0, before).collect());
            seconds.push(second);
        }
    }

    /// Lets what lies in files leave the memory.
    pub(super) fn forget(&self) {
        self.examples.forget();
        self.tokens.forget();
        self.offsets.forget();
        self.target.forget();
        self.sources.forget();
        [&self.labels, &self.types].into_iter().flatten().for_each(LongArray::forget);
        [&self.encoders, &self.seconds].into_iter().flatten().for_each(LongArray::forget);
    }

    /// What a model reads of the examples `range`.
    pub(super) fn inputs(&self, range: Range<usize>) -> TokenInputs {
        let rows = self.offsets[range.start]..self.offsets[range.end];
        self.passed(rows.clone());
        if let Some(encoders) = &self.encoders {
            let read = range.clone().flat_map(|i| &self.tokens(i)[..encoders[i]]);
            let written = range.clone().flat_map(|i| &self.tokens[self.rows(i)]);
            let ids = read.chain(written).copied().collect();
            let encoder = Some(Positions::from_lengths(encoders[range].iter().copied()));
            return TokenInputs { ids, types: None, encoder };
        }
        let (ids, types) = (self.tokens[rows.clone()].to_vec(), self.types.as_ref().map(|of| of[rows].to_vec()));
        TokenInputs { ids, types, encoder: None }
    }

    /// What it should give of the examples `range`.
    pub(super) fn targets_of(&self, range: Range<usize>) -> Targets {
        match &self.of_examples {
            Some(targets) => targets.of(range),
            None => Targets::Tokens(range.flat_map(|i| self.predicted(i)).collect()),
        }
    }

    /// The examples at these places, without their texts and metadata.
    pub(super) fn sample(&self, places: &[usize]) -> Self {
        fn gather<T: Pod>(values: &[T], rows: &[Range<usize>]) -> LongArray<T> {
            rows.iter().flat_map(|rows| &values[rows.clone()]).copied().collect()
        }
        let rows: Vec<Range<usize>> = places.iter().map(|&i| self.range(i)).collect();
        let ends = rows.iter().scan(0, |end, rows| {
            *end += rows.len();
            Some(*end)
        });
        let mut sources = Excerpts::default();
        places.iter().for_each(|_| sources.push(&ExcerptOf::Tokens));
        Self {
            examples: self.examples.sample(places),
            tokens: gather(&self.tokens, &rows),
            offsets: std::iter::once(0).chain(ends).collect(),
            target: gather(&self.target, &rows),
            masked: self.masked,
            labels: self.labels.as_ref().map(|labels| gather(labels, &rows)),
            of_examples: self.of_examples.as_ref().map(|targets| targets.at(places)),
            types: self.types.as_ref().map(|types| gather(types, &rows)),
            encoders: self.encoders.as_ref().map(|encoders| places.iter().map(|&i| encoders[i]).collect()),
            seconds: self.seconds.as_ref().map(|seconds| places.iter().map(|&i| seconds[i]).collect()),
            sources,
            tokenizer: self.tokenizer.clone(),
        }
    }

    /// Each of these examples with one of its targets alone, by its place among the example's tokens: what is read is the
    /// same, and what is predicted adds up to the example over all of its targets.
    ///
    /// # Panics
    /// If a token is no target of its example.
    pub(super) fn with_one_target(&self, of: &[(usize, usize)]) -> Self {
        let one = |&(i, place): &(usize, usize)| {
            assert!(self.is_target(i)[place], "token {place} of example {i} is no target");
            (0..self.range(i).len()).map(move |k| u8::from(k == place))
        };
        let target = of.iter().flat_map(one).collect();
        Self { target, ..self.sample(&of.iter().map(|(i, _)| *i).collect::<Vec<_>>()) }
    }

    /// Whether example `i` has the tokens and targets of example `j` of another dataset.
    pub(super) fn has_contents_of(&self, i: usize, other: &Self, j: usize) -> bool {
        let types = |of: &Self, i: usize| of.types.as_ref().map_or_else(Vec::new, |types| types[of.range(i)].to_vec());
        let is_same_type = |a: &[u32], b: &[u32]| match (a.is_empty(), b.is_empty()) {
            (false, false) => a == b,
            // all tokens are of the first text where there are no types
            _ => a.iter().chain(b).all(|&kind| kind == 0),
        };
        self.tokens(i) == other.tokens(j)
            && self.rows(i).len() == other.rows(j).len()
            && self.second(i) == other.second(j)
            && self.masked == other.masked
            && self.target_bytes(i) == other.target_bytes(j)
            && self.predicted(i).eq(other.predicted(j))
            && is_same_type(&types(self, i), &types(other, j))
    }

    /// The target that example `i` has for all its tokens; none where tokens are targets.
    pub(super) fn target_bytes(&self, i: usize) -> Option<Vec<u8>> {
        self.of_examples.as_ref().map(|targets| targets.of(i..i + 1).bytes())
    }

    /// Whether each example has one target for all its tokens.
    pub fn is_labelled(&self) -> bool {
        self.of_examples.is_some()
    }

    /// Adds an example; `labels` stand at their tokens. The first token's label is dropped: nothing
    /// predicts it, and examples that differ only there are the same.
    pub(super) fn push(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        tokens: &[u32],
        labels: &[Option<u32>],
    ) {
        self.push_divided(id, metadata, source, (tokens, labels), Divided::Nowhere);
    }

    /// Adds an example of which an encoder reads this many tokens, and behind which stand the decoder's first token and
    /// its targets. All examples are of the same kind.
    pub(super) fn push_split(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        tokens_and_labels: (&[u32], &[Option<u32>]),
        encoder: usize,
    ) {
        self.push_divided(id, metadata, source, tokens_and_labels, Divided::Encoder(encoder));
    }

    /// Adds a contrast: the chosen sequence and the rejected one.
    pub(super) fn push_contrast(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        chosen: (Vec<u32>, Vec<Option<u32>>),
        rejected: (Vec<u32>, Vec<Option<u32>>),
    ) {
        let second = chosen.0.len();
        let (tokens, labels) = ([chosen.0, rejected.0].concat(), [chosen.1, rejected.1].concat());
        self.push_divided(id, metadata, source, (&tokens, &labels), Divided::Second(second));
    }

    fn push_divided(
        &mut self,
        id: String,
        metadata: &Map<String, Value>,
        source: ExcerptOf,
        (tokens, labels): (&[u32], &[Option<u32>]),
        divided: Divided,
    ) {
        let (encoder, second) = match divided {
            Divided::Nowhere => (None, 0),
            Divided::Encoder(encoder) => (Some(encoder), 0),
            Divided::Second(second) => (None, second),
        };
        if let Some(encoder) = encoder {
            self.encoders.get_or_insert_default().push(encoder);
        }
        let start = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        let ahead = self.ahead();
        // the first token of a sequence has nothing before it, and so has that of a contrast's second one
        let begins = |k: usize| k < ahead || (second > 0 && k == second);
        let labels = || labels.iter().enumerate().map(|(k, &label)| label.filter(|_| !begins(k)));
        self.target.extend(labels().map(|label| u8::from(label.is_some())));
        let differs = labels().zip(tokens).any(|(label, &token)| label.is_some_and(|label| label != token));
        if differs || self.labels.is_some() {
            let all = self.labels.get_or_insert_with(|| self.tokens[..start].iter().copied().collect());
            all.extend(labels().zip(tokens).map(|(label, &token)| label.unwrap_or(token)));
        }
        self.end_example(second, &source);

        let mut digest = blake3::Hasher::new();
        digest.update(&(tokens.len() as u64).to_le_bytes());
        let mut bytes = Vec::with_capacity(tokens.len() * 8);
        bytes.extend(tokens.iter().flat_map(|token| token.to_le_bytes()));
        // No vocabulary has 2³² tokens, so the largest number can stand for "no target".
        bytes.extend(labels().flat_map(|label| label.unwrap_or(u32::MAX).to_le_bytes()));
        // of masked tokens alone there are types here
        let types = self.types.iter().flat_map(|types| &types[start..]).copied().filter(|_| self.masked);
        if types.clone().any(|kind| kind > 0) {
            bytes.extend(types.flat_map(u32::to_le_bytes));
        }
        bytes.extend(encoder.into_iter().flat_map(|encoder| (encoder as u64).to_le_bytes()));
        digest.update(&bytes);
        if second > 0 {
            digest.update(b"contrast");
            digest.update(&(second as u64).to_le_bytes());
        }
        self.examples.push(&id, metadata, digest.finalize());
    }

    /// Where the second sequence of example `i` begins, if it is a contrast.
    pub fn second(&self, i: usize) -> Option<usize> {
        self.seconds.as_ref().map(|seconds| seconds[i]).filter(|&second| second > 0)
    }

    pub(super) fn examples(&self) -> &Examples {
        &self.examples
    }

    /// Tokens of example `i`.
    pub fn tokens(&self, i: usize) -> &[u32] {
        let range = self.range(i);
        self.tokens.passed(range.clone());
        &self.tokens[range]
    }

    /// For each token of example `i`, whether it is a target: whether the row before it predicts it, or its own.
    pub fn is_target(&self, i: usize) -> &[bool] {
        let range = self.range(i);
        self.target.passed(range.clone());
        bytemuck::checked::cast_slice(&self.target[range])
    }

    /// For each row of example `i`, what it predicts: the label of the token after it, or where tokens are masked of its
    /// own. `None` where there is no target, and for the last row that would predict a token behind it. Where there is an encoder, rows are the decoder's, and each has one.
    pub fn predicted(&self, i: usize) -> impl ExactSizeIterator<Item = Option<u32>> + '_ {
        let end = self.range(i).end;
        let labels = self.labels.as_ref().unwrap_or(&self.tokens);
        let ahead = self.ahead();
        let target = move |row: usize| row < end && self.target[row] == 1;
        self.rows(i).map(move |row| target(row + ahead).then(|| labels[row + ahead]))
    }

    /// Number of tokens of example `i` that are targets.
    pub fn targets(&self, i: usize) -> usize {
        self.is_target(i).iter().filter(|&&target| target).count()
    }

    /// The tokens of example `i` that are targets, in their order.
    pub fn target_tokens(&self, i: usize) -> Vec<TargetToken> {
        let (start, labels) = (self.range(i).start, self.labels.as_ref().unwrap_or(&self.tokens));
        let places = self.is_target(i).iter().enumerate().filter(|(_, is_target)| **is_target);
        let token = |place: usize| TargetToken {
            place,
            text: self.text(labels[start + place]),
            is_rejected: self.second(i).is_some_and(|second| place >= second),
        };
        places.map(|(place, _)| token(place)).collect()
    }

    /// The text of a token, or its number where there is no tokenizer.
    fn text(&self, token: u32) -> String {
        match &self.tokenizer {
            Some(tokenizer) => tokenizer.token_text(token),
            None => token.to_string(),
        }
    }

    /// The tokenizer that made the tokens, if there is one.
    pub fn tokenizer(&self) -> Option<&Tokenizer> {
        self.tokenizer.as_deref()
    }

    /// The tokenizer, as whoever reads further examples with it needs it.
    pub(crate) fn shared_tokenizer(&self) -> Option<&Arc<Tokenizer>> {
        self.tokenizer.as_ref()
    }

    /// Text of each token of example `i`, and whether it is a target.
    ///
    /// Behind the tokens of a text that is classified or valued stands what it should give.
    pub fn marked_tokens(&self, i: usize) -> Vec<(String, bool)> {
        let tokens = self.tokens(i).iter().zip(self.is_target(i));
        let mut marked: Vec<_> = tokens.map(|(&token, &target)| (self.text(token), target)).collect();
        if let Some(second) = self.second(i) {
            marked.insert(second, (BETWEEN_SEQUENCES.to_owned(), false));
        }
        let given = self.of_examples.as_ref().map(|targets| (format!(" → {}", targets.of(i..i + 1).text()), true));
        marked.into_iter().chain(given).collect()
    }

    pub(super) fn excerpt(&self, i: usize, max_chars: usize) -> String {
        match (self.sources.get(i), &self.tokenizer) {
            (ExcerptOf::Text(text), _) => one_line(text, max_chars),
            (ExcerptOf::Prompted(prompt, completion), _) => prompted(prompt, completion, max_chars),
            (ExcerptOf::Contrast(prompt, chosen, rejected), _) => contrast([prompt, chosen, rejected], max_chars),
            (ExcerptOf::Tokens, tokenizer) => {
                // A token has at least one character or is joined with others to one: 4 for each are enough.
                let tokens = self.tokens(i);
                let shown = &tokens[..tokens.len().min(max_chars.saturating_mul(4).saturating_add(1))];
                let text = match tokenizer {
                    Some(tokenizer) => tokenizer.decode(shown),
                    None => shown.iter().map(u32::to_string).collect::<Vec<_>>().join(" "),
                };
                one_line(&text, max_chars)
            }
        }
    }

    /// Says that these tokens were read, with all that stands at them.
    fn passed(&self, rows: Range<usize>) {
        self.tokens.passed(rows.clone());
        self.target.passed(rows.clone());
        let further = [&self.labels, &self.types].into_iter().flatten();
        further.for_each(|of| of.passed(rows.clone()));
    }

    fn range(&self, i: usize) -> Range<usize> {
        self.offsets.passed(i..i + 1);
        self.offsets[i]..self.offsets[i + 1]
    }

    /// The tokens that may predict one, by their place among those of all examples: all of an example's, and of a
    /// decoder beside an encoder all but the last, since no row reads that.
    pub(super) fn rows(&self, i: usize) -> Range<usize> {
        let Range { start, end } = self.range(i);
        self.encoders.as_ref().map_or(start..end, |encoders| start + encoders[i]..end - 1)
    }

    /// Which of an example's tokens the rows of a batch are made from: all, or those of the decoder that it reads.
    pub fn own_places(&self, i: usize) -> Range<usize> {
        let (rows, start) = (self.rows(i), self.range(i).start);
        rows.start - start..rows.end - start
    }

    /// The tokens that rows of the language model read and predict: all, or those of the decoder, the last of which is
    /// only predicted.
    pub fn written(&self, i: usize) -> &[u32] {
        &self.tokens[self.rows(i).start..self.range(i).end]
    }

    /// Whether each example has a text for an encoder and one for a decoder.
    pub fn is_split(&self) -> bool {
        self.encoders.is_some()
    }

    pub(super) fn positions(&self, i: usize) -> usize {
        self.range(i).len() - usize::from(self.is_split())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Ten million short texts have 260 million tokens, which do not lie in memory.
    #[test]
    fn tokens_in_files_take_no_memory_but_some_pages() {
        assert_eq!(left_in_files(260_000_000, true), 0);
        assert_eq!(left_in_files(1_000_000, false), 0);
        assert_eq!(BYTES_OF_TOKEN * 260_000_000 - left_in_files(260_000_000, false), 512 << 20);
        assert_eq!(TokenDataset::new(None).bytes_in_files(), 0);
    }
}
