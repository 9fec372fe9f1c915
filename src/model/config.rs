//! `config.json`, key by key: a key that is missing, of another kind or unsupported is an error that
//! names it.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::LoadError;
use super::weights::read;

/// A checkpoint's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    file: PathBuf,
    keys: Map<String, Value>,
}

impl Config {
    /// Reads `config.json` of a folder.
    ///
    /// # Errors
    /// [`LoadError`] if the folder or the file is missing, or is not a JSON object.
    pub fn read(folder: &Path) -> Result<Self, LoadError> {
        if let Err(source) = std::fs::read_dir(folder) {
            return Err(LoadError::Unreadable { path: folder.to_owned(), source });
        }
        let file = folder.join("config.json");
        if !crate::presence::is_file(&file) {
            // let the weights say what the folder is, if they can
            let hint = super::Weights::open(folder).err().and_then(|error| error.hint());
            return Err(LoadError::NotACheckpoint { folder: folder.to_owned(), missing: "config.json", instead: hint });
        }
        match serde_json::from_str(&read(&file)?) {
            Ok(Value::Object(keys)) => Ok(Self { file, keys }),
            Ok(_) => Err(LoadError::Config { file, problem: "not a JSON object".into() }),
            Err(error) => Err(LoadError::Config { file, problem: format!("not valid JSON: {error}") }),
        }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys.
    pub fn keys(&self) -> &Map<String, Value> {
        &self.keys
    }

    /// A key's value; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// An error about this file.
    pub fn problem(&self, problem: impl Into<String>) -> LoadError {
        LoadError::Config { file: self.file.clone(), problem: problem.into() }
    }

    /// An error about a value that is valid but not implemented.
    pub fn unsupported(&self, key: &'static str) -> LoadError {
        let value = self.keys.get(key).map_or_else(|| "null".to_owned(), Value::to_string);
        LoadError::UnsupportedOption { file: self.file.clone(), key, value }
    }

    /// A positive whole number of at most 2³¹.
    ///
    /// # Errors
    /// If the key is missing or holds something else.
    pub fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.optional_size(key)?.ok_or_else(|| self.problem(format!("no key `{key}`")))
    }

    /// The same for a key that may be missing.
    ///
    /// # Errors
    /// If it holds something else.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=1 << 31).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.problem(format!("`{key}` = {value}, expected a positive whole number"))),
        }
    }

    /// A number, or the default.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.problem(format!("`{key}` = {value}, expected a number")))
    }

    /// True or false, or the default.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.problem(format!("`{key}` = {value}, expected true or false")))
    }

    /// A text, or the default.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, LoadError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.problem(format!("`{key}` = {value}, expected a text")))
    }
}
