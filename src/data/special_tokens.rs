//! Which token a tokenizer's files name as the beginning or the end of a sequence.

use std::path::Path;

use super::error::DataError;
use super::foreign_json::{named, read_json};
use super::specials::Special;
use super::tokenizer::Tokenizer;

/// The token's id: that of the chosen text, else from the files beside the tokenizer, else from the model's `config.json`.
pub(super) fn resolve(
    tokenizer: &Tokenizer,
    special: Special,
    vocabulary: usize,
    chosen: Option<&str>,
) -> Result<u32, DataError> {
    let token = special.name();
    let mut looked = Vec::new();
    let checked = |file: &Path, found: String, id: Option<u32>| {
        let bad = |why| DataError::BadSpecial { file: file.to_owned(), token, found: found.clone(), why };
        let id = id.ok_or_else(|| bad("which is no token of the tokenizer"))?;
        if (id as usize) < vocabulary { Ok(id) } else { Err(bad("which is beyond the model's vocabulary")) }
    };
    if let Some(chosen) = chosen {
        let id = tokenizer.token_id(chosen).filter(|&id| (id as usize) < vocabulary);
        return id.ok_or_else(|| DataError::NoSuchEnd { token: chosen.to_owned(), file: tokenizer.file().to_owned() });
    }
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let file = tokenizer.folder().join(name);
        if let Some(config) = read_json(&file)? {
            if let Some(content) = named(&config[format!("{token}_token")]) {
                return checked(&file, format!("`{content}`"), tokenizer.token_id(content));
            }
            looked.push(file);
        }
    }
    for folder in tokenizer.model_folder().into_iter().chain([tokenizer.folder()]) {
        let file = folder.join("config.json");
        if looked.contains(&file) {
            continue;
        }
        if let Some(config) = read_json(&file)? {
            let entry = &config[format!("{token}_token_id")];
            // Some models end with any of several tokens; none of them is the one that training appended.
            let entry = match entry.as_array().map(Vec::as_slice) {
                Some([only]) => only,
                Some(_) => return checked(&file, entry.to_string(), None),
                None => entry,
            };
            if let Some(id) = entry.as_u64() {
                return checked(&file, id.to_string(), u32::try_from(id).ok());
            }
            looked.push(file);
        }
    }
    if looked.is_empty() {
        looked.push(tokenizer.folder().join("tokenizer_config.json"));
    }
    Err(DataError::NoSpecial { token, looked })
}
