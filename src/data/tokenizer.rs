//! The model's tokenizer: where it is found, and how text becomes tokens.

use std::path::{Path, PathBuf};

use tokenizers::models::ModelWrapper;
use tokenizers::processors::PostProcessorWrapper;

use super::error::DataError;
use crate::presence::is_file;

/// Files of tokenizers that need Python, most telling first.
const SLOW_FILES: [&str; 5] = ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model", "vocab.json", "vocab.txt"];

/// A fast tokenizer (`tokenizer.json`).
///
/// Its truncation, padding and BPE dropout are switched off: how long an example may be is a matter of
/// [`super::DataOptions`], batches are not padded, and the same text always gives the same tokens.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    file: PathBuf,
    model_folder: Option<PathBuf>,
    vocabulary: usize,
}

/// Tokens of a text.
pub(super) struct Encoded {
    /// The tokens, with those that the post-processor adds.
    pub(super) ids: Vec<u32>,
    /// Where each token ends in the text, in bytes. Empty without [`Offsets::Wanted`].
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
                return if is_file(file) {
                    Ok(Self { model_folder: Some(model_folder.to_owned()), ..Self::load(file)? })
                } else {
                    Err(DataError::NoTokenizer { looked: vec![file.to_owned()], nearby: None })
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
            if is_file(&file) {
                return Ok(Self { model_folder: Some(model_folder.to_owned()), ..Self::load(&file)? });
            }
        }
        for folder in &folders {
            if let Some(found) = SLOW_FILES.into_iter().find(|name| folder.join(name).is_file()) {
                return Err(DataError::SlowTokenizer { folder: folder.clone(), found });
            }
        }
        let nearby = folders.iter().map(|folder| folder.join("tokenizer")).find(|f| f.join("tokenizer.json").is_file());
        Err(DataError::NoTokenizer { looked: folders, nearby })
    }

    /// The tokenizer of one file.
    ///
    /// # Errors
    /// [`DataError::Read`], [`DataError::BrokenTokenizer`].
    pub fn load(file: &Path) -> Result<Self, DataError> {
        let bytes = std::fs::read(file).map_err(|source| DataError::Read { file: file.to_owned(), source })?;
        let broken = |source| DataError::BrokenTokenizer { file: file.to_owned(), source };
        let mut inner = tokenizers::Tokenizer::from_bytes(&bytes).map_err(broken)?;
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
        Ok(Self { inner, file: file.to_owned(), model_folder: None, vocabulary })
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
        self.inner.decode(tokens, false).unwrap_or_default()
    }

    /// One token as a reader should see it: with its leading space, and in the vocabulary's own spelling
    /// where it is only a part of a character.
    pub fn token_text(&self, token: u32) -> String {
        let Some(spelled) = self.inner.id_to_token(token) else { return format!("[{token}]") };
        if spelled.contains('▁') {
            // Decoding a single piece would drop the space that it begins with.
            return spelled.replace('▁', " ");
        }
        match self.inner.decode(&[token], false) {
            Ok(text) if !text.is_empty() && !text.contains('\u{FFFD}') => text,
            _ => spelled,
        }
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

    /// Refuses tokens for which the model has no embedding.
    pub(super) fn check_vocabulary(&self, embedding: usize) -> Result<(), DataError> {
        if self.vocabulary <= embedding {
            return Ok(());
        }
        Err(DataError::VocabularyTooLarge { file: self.file.clone(), vocabulary: self.vocabulary, embedding })
    }

    pub(super) fn encode(&self, text: &str, offsets: Offsets) -> Result<Encoded, String> {
        let encoding = match offsets {
            Offsets::Wanted => self.inner.encode(text, true),
            Offsets::Skipped => self.inner.encode_fast(text, true),
        }
        .map_err(|error| error.to_string())?;
        // The mask marks what the post-processor added, not special tokens that the text spells out.
        let mask = encoding.get_special_tokens_mask();
        let front = mask.iter().take_while(|&&special| special == 1).count();
        let back = mask[front..].iter().rev().take_while(|&&special| special == 1).count();
        let ends = match offsets {
            Offsets::Wanted => encoding.get_offsets().iter().map(|&(_, end)| end).collect(),
            Offsets::Skipped => Vec::new(),
        };
        Ok(Encoded { ids: encoding.get_ids().to_vec(), ends, front, back })
    }
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
