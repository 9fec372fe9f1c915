//! Which special tokens are added to text, and which tokens those are.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::error::DataError;
use super::tokenizer::Tokenizer;
use crate::foreign_file;

/// What a file's examples are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Training examples.
    Train,
    /// Queries.
    Queries,
}

/// To which files a choice applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Which {
    /// Neither.
    #[default]
    None,
    /// The training examples.
    Train,
    /// The queries.
    Queries,
    /// Training examples and queries.
    Both,
    /// The training examples, where the token is read and never predicted: no occurrence of it is a target.
    TrainInput,
    /// The queries, where no occurrence of the token is a target.
    QueriesInput,
    /// Training examples and queries, where no occurrence of the token is a target.
    BothInput,
}

impl Which {
    /// Whether the choice applies to a file of this role.
    pub fn applies(self, role: Role) -> bool {
        match self {
            Self::None => false,
            Self::Train | Self::TrainInput => role == Role::Train,
            Self::Queries | Self::QueriesInput => role == Role::Queries,
            Self::Both | Self::BothInput => true,
        }
    }

    /// Whether the token can be a target where the choice applies.
    pub fn is_target(self) -> bool {
        !matches!(self, Self::TrainInput | Self::QueriesInput | Self::BothInput)
    }
}

/// What becomes of the special tokens that the tokenizer's own post-processor adds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FromTokenizer {
    /// They are added, and a text that has one at that place already is an error.
    #[default]
    Once,
    /// They are added, also to texts that have them already.
    Keep,
    /// They are not added.
    None,
}

/// Special tokens to add to text beside those that the tokenizer's own post-processor adds. Nothing is
/// added unless asked for: training scripts differ, and no file records what they did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Specials {
    /// Where a begin-of-sequence token goes in front.
    pub add_bos: Which,
    /// Where an end-of-sequence token goes behind. It is a target, of a completion too, unless the choice says that
    /// it is only read.
    pub add_eos: Which,
    /// What becomes of those that the tokenizer adds.
    pub from_tokenizer: FromTokenizer,
}

/// One of the two special tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Special {
    Bos,
    Eos,
}

impl Special {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Bos => "bos",
            Self::Eos => "eos",
        }
    }
}

/// The token's id: from the files beside the tokenizer, else from the model's `config.json`.
pub(super) fn resolve(tokenizer: &Tokenizer, special: Special, vocabulary: usize) -> Result<u32, DataError> {
    let token = special.name();
    let mut looked = Vec::new();
    let checked = |file: &Path, found: String, id: Option<u32>| {
        let bad = |why| DataError::BadSpecial { file: file.to_owned(), token, found: found.clone(), why };
        let id = id.ok_or_else(|| bad("which is no token of the tokenizer"))?;
        if (id as usize) < vocabulary { Ok(id) } else { Err(bad("which is beyond the model's vocabulary")) }
    };
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
