//! Which token was padding while an adapter of a decoder that classifies texts was trained.
//!
//! Training in batches needs `model.config.pad_token_id`, since the last token that is no padding is classified. PEFT
//! saves no configuration of the base, so that a base that names no padding token says nothing about it. The tokenizer
//! that lies with the adapter does: `model.config.pad_token_id = tokenizer.pad_token_id` is what training code writes.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::model::checkpoint::read;
use crate::model::error::LoadError;
use crate::presence::is_file;

/// The largest `tokenizer_config.json` that is read, in bytes.
const LARGEST_CONFIG: u64 = 16 << 20;

/// The largest `tokenizer.json` that is read, in bytes.
const LARGEST_TOKENIZER: u64 = 128 << 20;

/// A tokenizer's padding token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::model) struct PaddingToken {
    /// Its number.
    pub(in crate::model) id: u32,
    /// The file that names it.
    pub(in crate::model) file: PathBuf,
}

/// The part of a `tokenizer.json` with special tokens.
#[derive(Deserialize)]
struct TokenizerFile {
    #[serde(default)]
    added_tokens: Vec<AddedToken>,
}

#[derive(Deserialize)]
struct AddedToken {
    id: u32,
    content: String,
}

/// The padding token that a tokenizer beside the adapter, in the folder above or beside the base names; the first that
/// names one counts.
///
/// # Errors
/// [`LoadError`] if a file cannot be read or is no JSON.
pub(in crate::model) fn of_tokenizers(adapter: &Path, base: &Path) -> Result<Option<PaddingToken>, LoadError> {
    for folder in [Some(adapter), adapter.parent(), Some(base)].into_iter().flatten() {
        if let Some(found) = of_folder(folder)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}

/// The padding token that a folder's tokenizer names.
///
/// # Errors
/// As [`of_tokenizers`].
pub(in crate::model) fn of_folder(folder: &Path) -> Result<Option<PaddingToken>, LoadError> {
    let file = folder.join("tokenizer_config.json");
    if !is_file(&file) {
        return Ok(None);
    }
    let broken = |file: &Path, error: serde_json::Error| LoadError::Config {
        file: file.to_owned(),
        problem: format!("not valid JSON: {error}"),
    };
    let keys: Map<String, Value> =
        serde_json::from_str(&read(&file, LARGEST_CONFIG)?).map_err(|error| broken(&file, error))?;
    let Some(token) = keys.get("pad_token").and_then(content) else { return Ok(None) };
    let listed = keys.get("added_tokens_decoder").and_then(Value::as_object).into_iter().flatten();
    let mut ids = listed.filter(|(_, added)| content(added) == Some(token)).map(|(id, _)| id.parse::<u32>().ok());
    if let Some(Some(id)) = ids.next() {
        return Ok(Some(PaddingToken { id, file }));
    }
    let tokenizer = folder.join("tokenizer.json");
    if !is_file(&tokenizer) {
        return Ok(None);
    }
    let TokenizerFile { added_tokens } =
        serde_json::from_str(&read(&tokenizer, LARGEST_TOKENIZER)?).map_err(|error| broken(&tokenizer, error))?;
    let id = added_tokens.iter().find(|added| added.content == token).map(|added| added.id);
    Ok(id.map(|id| PaddingToken { id, file }))
}

/// A token as these files write it: its text, or an object with it.
fn content(value: &Value) -> Option<&str> {
    value.as_str().or_else(|| value.get("content")?.as_str())
}
