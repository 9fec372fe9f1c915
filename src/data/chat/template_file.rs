//! Where the chat template of a model's folder is written, and the special tokens that it may name.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::problem::ChatProblem;
use crate::data::foreign_json::{named, read_json};
use crate::data::tokenizer::Tokenizer;
use crate::foreign_file;

/// The most bytes of a file with a template. Those in use have up to 20 thousand.
const FILE_LIMIT: u64 = 4 << 20;

/// Special tokens that transformers gives to templates by name.
const TOKENS: [&str; 7] = ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"];

/// One or several templates of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Texts {
    /// The file.
    pub(super) file: PathBuf,
    /// The template of conversations without tools.
    pub(super) default: String,
    /// The template of conversations with tools, if it is another.
    pub(super) tool_use: Option<String>,
}

/// The template that a person gave, or that of the tokenizer's folder or of the model's.
pub(super) fn find(given: Option<&Path>, tokenizer: Option<&Tokenizer>) -> Result<Texts, ChatProblem> {
    if let Some(file) = given {
        let is_json = file.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("json"));
        let found = if is_json { of_json(file)? } else { of_text(file)? };
        return found.ok_or_else(|| {
            let message = if file.exists() { "it has no `chat_template`" } else { "there is no such file" };
            broken(file, message)
        });
    }
    let mut folders: Vec<&Path> = Vec::new();
    for folder in tokenizer.into_iter().flat_map(|tokenizer| [Some(tokenizer.folder()), tokenizer.model_folder()]) {
        folders.extend(folder.filter(|folder| !folders.contains(folder)));
    }
    for folder in &folders {
        // A file of its own counts more than the entry, as in transformers.
        if let Some(mut found) = of_text(&folder.join("chat_template.jinja"))? {
            let tools = folder.join("additional_chat_templates").join("tool_use.jinja");
            found.tool_use = of_text(&tools)?.map(|tools| tools.default);
            return Ok(found);
        }
        for name in ["tokenizer_config.json", "chat_template.json"] {
            if let Some(found) = of_json(&folder.join(name))? {
                return Ok(found);
            }
        }
    }
    Err(ChatProblem::NoTemplate { looked: folders.into_iter().map(Path::to_owned).collect(), recorded: None })
}

fn broken(file: &Path, message: impl Into<String>) -> ChatProblem {
    ChatProblem::BrokenTemplate { file: file.to_owned(), message: message.into() }
}

/// The template that is the file's whole text; none if there is no file.
fn of_text(file: &Path) -> Result<Option<Texts>, ChatProblem> {
    match foreign_file::read_text(file, FILE_LIMIT) {
        Ok(default) => Ok(Some(Texts { file: file.to_owned(), default, tool_use: None })),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(broken(file, error.to_string())),
    }
}

/// The template that `chat_template` of a JSON file is: a text, a list of named templates, or an object of them.
fn of_json(file: &Path) -> Result<Option<Texts>, ChatProblem> {
    let config = read_json(file).map_err(|error| broken(file, error.to_string()))?.unwrap_or_default();
    let entry = &config["chat_template"];
    let named = |name: &str| match entry {
        Value::Array(list) => list.iter().find(|one| one["name"] == name).and_then(|one| one["template"].as_str()),
        _ => entry[name].as_str(),
    };
    match entry {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(Texts { file: file.to_owned(), default: text.clone(), tool_use: None })),
        Value::Array(_) | Value::Object(_) => {
            let tool_use = named("tool_use").map(str::to_owned);
            let default = named("default").map(str::to_owned);
            let default = default.ok_or_else(|| {
                broken(file, "`chat_template` has several templates, and none of them is named `default`")
            })?;
            Ok(Some(Texts { file: file.to_owned(), default, tool_use }))
        }
        _ => Err(broken(file, "`chat_template` is neither a text nor a list of templates")),
    }
}

/// The special tokens that the files beside the tokenizer name.
pub(super) fn special_tokens(tokenizer: Option<&Tokenizer>) -> Map<String, Value> {
    let mut tokens = Map::new();
    let Some(tokenizer) = tokenizer else { return tokens };
    for name in ["tokenizer_config.json", "special_tokens_map.json"] {
        let config = read_json(&tokenizer.folder().join(name)).ok().flatten().unwrap_or_default();
        for token in TOKENS {
            if let Some(text) = named(&config[token])
                && !tokens.contains_key(token)
            {
                tokens.insert(token.to_owned(), Value::from(text));
            }
        }
    }
    tokens
}
