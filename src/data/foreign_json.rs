//! The JSON files beside a tokenizer.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::DataError;
use crate::foreign_file;

/// The token that an entry names: a string, or an object with the string as `content`.
pub(super) fn named(entry: &Value) -> Option<&str> {
    entry.as_str().or_else(|| entry["content"].as_str())
}

/// The most bytes of a configuration. Chat templates and lists of added tokens make some a few MB long.
const CONFIG_LIMIT: u64 = 32 << 20;

/// The JSON of a file; `None` if there is no such file.
pub(super) fn read_json(file: &Path) -> Result<Option<Value>, DataError> {
    let bytes = match foreign_file::read(file, CONFIG_LIMIT) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(DataError::Read { file: file.to_owned(), source }),
    };
    let broken = |source| DataError::BrokenConfig { file: PathBuf::from(file), source };
    serde_json::from_slice(&bytes).map(Some).map_err(broken)
}
