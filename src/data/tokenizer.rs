//! The model's tokenizer: where it is found, and how text becomes tokens.

use std::path::{Path, PathBuf};

use serde_json::Value;
use tokenizers::models::ModelWrapper;
use tokenizers::normalizers::NormalizerWrapper;
use tokenizers::processors::PostProcessorWrapper;
use tokenizers::{
    NormalizedString, Normalizer, PostProcessor, TruncationDirection, TruncationParams, truncate_encodings,
};

use super::error::DataError;
use super::foreign_json::{named, read_json};
use super::guarded::guarded;
use super::line_problem::LineProblem;
use super::specials::Special;
use super::tokenizer_file::{self, Checked};
use crate::foreign_file;

/// Name of the input that tells the texts of a pair apart.
const TYPES: &str = "token_type_ids";

/// Files of tokenizers that need Python, most telling first.
const SLOW_FILES: [&str; 5] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"];

/// A fast tokenizer (`tokenizer.json`).
///
/// Its truncation, padding and BPE dropout are switched off: how long an example may be is a matter of
/// [`super::DataOptions`], batches are not padded, and the same text always gives the same tokens. Which end of a text
/// is cut, if one is too long for a classifier, is the tokenizer's own `truncation_side`.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    model_folder: Option<PathBuf>,
    vocabulary: usize,
    checked: Checked,
    /// What the post-processor puts in front of a text, and behind it.
    adds: (Vec<u32>, Vec<u32>),
    /// Whether models are given the text of a pair that each token belongs to.
    gives_types: bool,
    /// The end at which its own truncation cuts.
    cuts: TruncationDirection,
}

/// Tokens of a text.
pub(super) struct Encoded {
    /// The tokens, with those that the post-processor adds.
    pub(super) ids: Vec<u32>,
    /// Where each token begins in the text, in bytes. Empty without [`Offsets::Wanted`].
    pub(super) starts: Vec<usize>,
    /// Where each token ends in the text, likewise.
    pub(super) ends: Vec<usize>,
    /// How many tokens the post-processor put in front.
    pub(super) front: usize,
    /// How many tokens the post-processor put behind.
    pub(super) back: usize,
}

/// Whether ends of tokens are needed; without them encoding is faster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offsets {
    Wanted,
    Skipped,
}

impl Tokenizer {
    /// The tokenizer of a model: `given` (a file, or a folder with `tokenizer.json`), else that of the
    /// model's folder, else that of its parent, since a Trainer's `checkpoint-N` often has none.
    ///
    /// # Errors
    /// [`DataError::NoTokenizer`]; [`DataError::SlowTokenizer`] if a folder has only files that need
    /// Python; [`DataError::BrokenTokenizer`].
    pub fn find(model_folder: &Path, given: Option<&Path>) -> Result<Self, DataError> {
        let mut folders = match given {
            Some(file) if !file.is_dir() => {
                return if absent(file) {
                    Err(DataError::NoTokenizer { looked: vec![file.to_owned()], nearby: None })
                } else {
                    Ok(Self { model_folder: Some(model_folder.to_owned()), ..Self::load(file)? })
                };
            }
            Some(folder) => vec![folder.to_owned()],
            None => vec![model_folder.to_owned()],
        };
        if given.is_none() {
            // The parent of a relative path such as `.` is known only to the file system.
            let parent = match model_folder.parent() {
                Some(parent) if !parent.as_os_str().is_empty() => Some(parent.to_owned()),
                _ => model_folder.canonicalize().ok().and_then(|path| path.parent().map(Path::to_owned)),
            };
            folders.extend(parent);
        }
        for folder in &folders {
            let file = folder.join("tokenizer.json");
            // A file that is there and cannot be read is said to be so, and not to be absent.
            if !absent(&file) {
                return Ok(Self { model_folder: Some(model_folder.to_owned()), ..Self::load(&file)? });
            }
        }
        for folder in &folders {
            if let Some(found) = SLOW_FILES.into_iter().find(|name| !absent(&folder.join(name))) {
                return Err(DataError::SlowTokenizer { folder: folder.clone(), found });
            }
        }
        let nearby = folders.iter().map(|folder| folder.join("tokenizer")).find(|f| !absent(&f.join("tokenizer.json")));
        Err(DataError::NoTokenizer { looked: folders, nearby })
    }

    /// The tokenizer of one file.
    ///
    /// # Errors
    /// [`DataError::Read`], [`DataError::BrokenTokenizer`].
    pub fn load(file: &Path) -> Result<Self, DataError> {
        let bytes = foreign_file::read(file, tokenizer_file::FILE_LIMIT)
            .map_err(|source| DataError::Read { file: file.to_owned(), source })?;
        let broken = |source| DataError::BrokenTokenizer { file: file.to_owned(), source };
        let checked = tokenizer_file::check(&bytes).map_err(broken)?;
        let mut inner = guarded("tokenizers", || tokenizers::Tokenizer::from_bytes(&bytes)).map_err(broken)?;
        let cuts = inner.get_truncation().map_or(TruncationDirection::Right, |truncation| truncation.direction);
        inner.with_truncation(None).map_err(broken)?;
        inner.with_padding(None);
        if let ModelWrapper::BPE(model) = inner.get_model()
            && model.dropout.is_some()
        {
            let mut model = model.clone();
            model.dropout = None;
            inner.with_model(model);
        }
        // Trimmed offsets end before a token's trailing spaces; the boundary of a prompt needs the real end.
        let processor = inner.get_post_processor().cloned().map(untrimmed);
        inner.with_post_processor(processor);
        // Ids may have gaps, so the largest counts, not how many there are.
        let vocabulary = inner.get_vocab(true).values().max().map_or(0, |&id| id as usize + 1);
        let adds = (Vec::new(), Vec::new());
        let (file, model_folder) = (file.to_owned(), None);
        let mut tokenizer = Self { inner, file, model_folder, vocabulary, checked, adds, gives_types: true, cuts };
        let config = tokenizer.config();
        tokenizer.gives_types = says_types(&config);
        tokenizer.cuts = says_cuts(&config).map_err(|problem| broken(problem.into()))?.unwrap_or(tokenizer.cuts);
        // A first text: what the library panics at in every text is wrong with the file.
        let probe = tokenizer.encode("a", Offsets::Skipped, true).map_err(broken)?;
        let (front, back) = (probe.front, probe.ids.len() - probe.back);
        tokenizer.adds = (probe.ids[..front].to_vec(), probe.ids[back..].to_vec());
        Ok(tokenizer)
    }

    /// `tokenizer_config.json` beside it; empty where there is none that can be read.
    fn config(&self) -> Value {
        read_json(&self.folder().join("tokenizer_config.json")).ok().flatten().unwrap_or_default()
    }

    /// The file it was read from.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The largest token id plus one.
    pub fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    /// The text of tokens, special tokens included.
    pub fn decode(&self, tokens: &[u32]) -> String {
        guarded("tokenizers", || self.inner.decode(tokens, false)).unwrap_or_default()
    }

    /// One token as a reader should see it: with its leading space, and in the vocabulary's own spelling
    /// where it is only a part of a character.
    pub fn token_text(&self, token: u32) -> String {
        let Some(spelled) = self.inner.id_to_token(token) else { return format!("[{token}]") };
        if spelled.contains('▁') {
            // Decoding a single piece would drop the space that it begins with.
            return spelled.replace('▁', " ");
        }
        match guarded("tokenizers", || self.inner.decode(&[token], false)) {
            Ok(text) if !text.is_empty() && !text.contains('\u{FFFD}') => text,
            _ => spelled,
        }
    }

    /// A token as the vocabulary spells it, which of a special token is its text.
    pub(super) fn spelled(&self, token: u32) -> Option<String> {
        self.inner.id_to_token(token)
    }

    pub(super) fn folder(&self) -> &Path {
        self.file.parent().unwrap_or(Path::new(""))
    }

    pub(super) fn model_folder(&self) -> Option<&Path> {
        self.model_folder.as_deref()
    }

    pub(super) fn token_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token)
    }

    /// Whether its own truncation cuts the beginning of a text (`truncation_side: left`).
    pub(super) fn cuts_the_beginning(&self) -> bool {
        self.cuts == TruncationDirection::Left
    }

    /// What a GPT-2 trained with this tokenizer was probably given that is not given here; none if nothing.
    ///
    /// GPT-2 adds the embedding of each token's type, a row of its token embedding, where it is given types. Its own
    /// tokenizer gives none; a bare `PreTrainedTokenizerFast` of transformers 4 gives the type 0 to every token.
    pub fn note_of_types_for_gpt2(&self) -> Option<String> {
        let config = self.config();
        let given = match config["model_input_names"].as_array() {
            Some(names) => names.iter().any(|name| name == TYPES),
            None => config["tokenizer_class"] == "PreTrainedTokenizerFast",
        };
        given.then(|| {
            format!(
                "the tokenizer gives `{TYPES}` to models, and GPT-2 adds the embedding of token 0 to every position where \
                 it is given them; that is not done here: if training did it, these scores are of another model"
            )
        })
    }

    /// What the post-processor puts in front of a text, and behind it.
    pub(super) fn adds(&self) -> (&[u32], &[u32]) {
        (&self.adds.0, &self.adds.1)
    }

    /// The token that the files beside it name for padding.
    pub(super) fn padding(&self) -> Option<u32> {
        ["tokenizer_config.json", "special_tokens_map.json"].into_iter().find_map(|name| {
            let config = read_json(&self.folder().join(name)).ok().flatten()?;
            self.token_id(named(&config["pad_token"])?)
        })
    }

    /// Whether the files beside it name one token for padding and for the end.
    pub(super) fn pads_with_end(&self) -> bool {
        ["tokenizer_config.json", "special_tokens_map.json"].into_iter().any(|name| {
            let config = read_json(&self.folder().join(name)).ok().flatten().unwrap_or_default();
            let token = |name: &str| named(&config[name]).map(str::to_owned);
            token("pad_token").is_some_and(|pad| Some(pad) == token("eos_token"))
        })
    }

    /// Where `tokenizer_config.json` says otherwise of special tokens than `tokenizer.json` does, a sentence each.
    /// What `tokenizer.json` does is done.
    pub fn notes(&self) -> Vec<String> {
        let config = self.config();
        let mut notes = Vec::new();
        for (special, added) in [(Special::Bos, &self.adds.0), (Special::Eos, &self.adds.1)] {
            let name = special.name();
            let place = if special == Special::Bos { "in front of" } else { "behind" };
            let Some(says) = config[format!("add_{name}_token")].as_bool() else { continue };
            match added.as_slice() {
                [] if says => notes.push(format!(
                    "`tokenizer_config.json` says `add_{name}_token: true`, but `tokenizer.json` adds nothing {place} a \
                     text, and nothing is added; if training had the token, give `--add-{name}`"
                )),
                [token, ..] if !says => notes.push(format!(
                    "`tokenizer_config.json` says `add_{name}_token: false`, but `tokenizer.json` adds `{}` {place} a text, \
                     and that is done; if training had none, give `--special-tokens none`",
                    self.token_text(*token)
                )),
                _ => {}
            }
        }
        notes
    }

    /// A warning of a release of transformers whose Llama class splits text in another way than the file says.
    ///
    /// # Source
    /// transformers 5.0 to at least 5.8 (reported of 5.3 and 5.15 too): `LlamaTokenizer` sets its own splitting at `▁` in
    /// place of a byte-level one, whose vocabulary has no such token, and the blanks of a text are lost.
    pub fn note_of_llama_class(&self, transformers_version: &str) -> Option<String> {
        let config = self.config();
        let class = config["tokenizer_class"].as_str()?;
        let is_llama = matches!(class, "LlamaTokenizer" | "LlamaTokenizerFast");
        let splits = serde_json::to_string(&self.inner.get_pre_tokenizer()?).ok()?;
        (is_llama && transformers_version.starts_with("5.") && splits.contains("\"ByteLevel\"")).then(|| {
            format!(
                "`tokenizer_config.json` names the class `{class}`, `tokenizer.json` is byte-level, and `config.json` was \
                 written by transformers {transformers_version}: releases from 5.0 to 5.8 and some later ones make other \
                 tokens with that class, without blanks; those of `tokenizer.json` are taken here, so if training loaded \
                 its tokenizer so, give what it read as `input_ids`"
            )
        })
    }

    /// Refuses a text that is too long to be tokenized within `limit` bytes, as it is or as the normalizer makes it.
    pub(super) fn check_length(&self, text: &str, limit: usize) -> Result<(), LineProblem> {
        let problem = |bytes, normalized| LineProblem::TextTooLong { bytes, normalized, limit };
        if text.len() > limit {
            return Err(problem(text.len(), false));
        }
        let longest = (text.len() as u64).saturating_mul(self.checked.growth);
        match self.inner.get_normalizer() {
            Some(normalizer) if longest > limit as u64 => {
                let length = normalized_length(normalizer, text, limit)
                    .map_err(|error| LineProblem::Encode { file: self.file.clone(), message: error.to_string() })?;
                if length > limit { Err(problem(length, true)) } else { Ok(()) }
            }
            _ => Ok(()),
        }
    }

    /// Tokens of a text or of a pair of texts in the form that the post-processor gives them, and to which of the two
    /// each belongs. The longer text is cut first, so that at most `max_length` tokens are left with those that the
    /// post-processor adds; the last number is how many were cut.
    pub(super) fn encode_pair(
        &self,
        text: &str,
        pair: Option<&str>,
        max_length: Option<usize>,
        special: bool,
    ) -> tokenizers::Result<(Encoded, Vec<u32>, usize)> {
        let (encoding, cut) = guarded("tokenizers", || {
            let encode = |text: &str| self.inner.encode_fast(text, false);
            let (mut text, mut pair) = (encode(text)?, pair.map(encode).transpose()?);
            let length = |text: &tokenizers::Encoding, pair: &Option<tokenizers::Encoding>| {
                text.len() + pair.as_ref().map_or(0, tokenizers::Encoding::len)
            };
            let whole = length(&text, &pair);
            if let Some(max_length) = max_length {
                let processor = self.inner.get_post_processor().filter(|_| special);
                let adds = processor.map_or(0, |processor| processor.added_tokens(pair.is_some()));
                let max_length = max_length.saturating_sub(adds);
                let room = TruncationParams { max_length, direction: self.cuts, ..Default::default() };
                (text, pair) = truncate_encodings(text, pair, &room)?;
            }
            let cut = whole - length(&text, &pair);
            Ok((self.inner.post_process(text, pair, special)?, cut))
        })?;
        let (front, back) = added(&encoding);
        let types = if self.gives_types { encoding.get_type_ids().to_vec() } else { vec![0; encoding.len()] };
        let ids = encoding.get_ids().to_vec();
        Ok((Encoded { ids, starts: vec![], ends: vec![], front, back }, types, cut))
    }

    /// Tokens of a text; with what the post-processor adds, if `special`.
    pub(super) fn encode(&self, text: &str, offsets: Offsets, special: bool) -> tokenizers::Result<Encoded> {
        let encoding = guarded("tokenizers", || match offsets {
            Offsets::Wanted => self.inner.encode(text, special),
            Offsets::Skipped => self.inner.encode_fast(text, special),
        })?;
        let (front, back) = added(&encoding);
        let (starts, ends) = match offsets {
            Offsets::Wanted => encoding.get_offsets().iter().copied().unzip(),
            Offsets::Skipped => (Vec::new(), Vec::new()),
        };
        Ok(Encoded { ids: encoding.get_ids().to_vec(), starts, ends, front, back })
    }
}

/// Whether `tokenizer_config.json` says that models are given token types: by `model_input_names`, else by a class that
/// has none.
fn says_types(config: &Value) -> bool {
    /// Classes that give none, as their names begin, but for the one that stands for every tokenizer since
    /// transformers 5.
    const WITHOUT: [&str; 4] = ["Roberta", "XLMRoberta", "DistilBert", "GPT2"];
    match config["model_input_names"].as_array() {
        Some(names) => names.iter().any(|name| name == TYPES),
        None => {
            let class = config["tokenizer_class"].as_str().unwrap_or_default();
            let is = |name: &str| class.strip_prefix(name).is_some_and(|rest| rest.starts_with("Tokenizer"));
            class != "TokenizersBackend" && !WITHOUT.into_iter().any(is)
        }
    }
}

/// The end at which `tokenizer_config.json` says that long texts are cut.
fn says_cuts(config: &Value) -> Result<Option<TruncationDirection>, String> {
    match &config["truncation_side"] {
        Value::Null => Ok(None),
        Value::String(side) if side == "left" => Ok(Some(TruncationDirection::Left)),
        Value::String(side) if side == "right" => Ok(Some(TruncationDirection::Right)),
        other => Err(format!("`truncation_side` = {other} in `tokenizer_config.json`, expected \"left\" or \"right\"")),
    }
}

/// How many tokens the post-processor put in front, and behind. The mask marks those, not special tokens that the text
/// spells out.
fn added(encoding: &tokenizers::Encoding) -> (usize, usize) {
    let mask = encoding.get_special_tokens_mask();
    let front = mask.iter().take_while(|&&special| special == 1).count();
    (front, mask[front..].iter().rev().take_while(|&&special| special == 1).count())
}

/// Bytes of a text behind a normalizer, counted piece by piece, so that a text that grows a thousandfold never is in
/// memory; the count ends soon after `enough`.
fn normalized_length(normalizer: &NormalizerWrapper, text: &str, enough: usize) -> tokenizers::Result<usize> {
    const PIECE: usize = 4096;
    let (mut length, mut rest) = (0, text);
    while !rest.is_empty() && length <= enough {
        let (piece, behind) = rest.split_at(rest.floor_char_boundary(PIECE));
        let mut piece = NormalizedString::from(piece);
        guarded("tokenizers", || normalizer.normalize(&mut piece))?;
        length += piece.get().len();
        rest = behind;
    }
    Ok(length)
}

/// Whether there is no such file. One that the system does not let us see is there.
fn absent(file: &Path) -> bool {
    use std::io::ErrorKind::{NotADirectory, NotFound};
    std::fs::metadata(file).is_err_and(|error| matches!(error.kind(), NotFound | NotADirectory))
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer").field("file", &self.file).field("vocabulary", &self.vocabulary).finish()
    }
}

fn untrimmed(processor: PostProcessorWrapper) -> PostProcessorWrapper {
    match processor {
        PostProcessorWrapper::ByteLevel(bytes) => bytes.trim_offsets(false).into(),
        PostProcessorWrapper::Roberta(roberta) => roberta.trim_offsets(false).into(),
        PostProcessorWrapper::Sequence(mut sequence) => {
            for processor in sequence.as_mut() {
                *processor = untrimmed(processor.clone());
            }
            sequence.into()
        }
        other => other,
    }
}
