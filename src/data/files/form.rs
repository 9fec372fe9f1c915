//! Which form a file of rows has: by the ending of its name.

use std::path::Path;

use crate::data::error::DataError;

/// How the bytes of a file are rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Format {
    /// One JSON object a line.
    JsonLines,
    /// An array of JSON objects, or one JSON object a line: what the file begins with decides.
    Json,
    /// One text a line.
    Text,
}

impl Format {
    /// By the file's ending: `.jsonl` and `.ndjson`, `.json`, or `.txt`.
    ///
    /// # Errors
    /// [`DataError::Format`] for any other.
    pub fn of(file: &Path) -> Result<Self, DataError> {
        let ending = file.extension().and_then(|ending| ending.to_str()).map(str::to_ascii_lowercase);
        match ending.as_deref() {
            Some("jsonl" | "ndjson") => Ok(Self::JsonLines),
            Some("json") => Ok(Self::Json),
            Some("txt") => Ok(Self::Text),
            _ => Err(DataError::Format { file: file.to_owned() }),
        }
    }
}
