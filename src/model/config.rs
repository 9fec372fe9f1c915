//! `config.json`, key by key: a key that is missing, of another kind or unsupported is an error that
//! names it. Which keys were read is remembered, so that those that nobody read can be named.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Map, Value};

use super::checkpoint::{Checkpoint, read};
use super::error::LoadError;
use super::unsupported::instead_of_option;
use crate::Hint;
use crate::data::EndToken;

/// A checkpoint's configuration.
#[derive(Debug, Clone)]
pub struct Config {
    file: PathBuf,
    keys: Map<String, Value>,
    /// What a token at the end of a text counts as, and which it is, where that is not known from the keys.
    end: Option<(EndToken, Option<u32>)>,
    reading: Arc<Mutex<Reading>>,
}

/// What became of a configuration while a model was built of it.
#[derive(Debug, Default)]
struct Reading {
    /// Keys that were asked for, whether there or not.
    asked: BTreeSet<String>,
    /// What a person should know of how they were understood.
    notes: Vec<String>,
    /// Whole numbers of the class, for keys that are not there.
    class_numbers: &'static [(&'static str, u64)],
    /// The whole numbers of the class that counted, by the keys that are not there.
    taken: BTreeMap<&'static str, u64>,
}

/// The largest `config.json` that is read, in bytes.
const LARGEST: u64 = 16 << 20;

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
            let hint = Checkpoint::open(folder).err().and_then(|error| error.hint());
            return Err(LoadError::NotACheckpoint { folder: folder.to_owned(), missing: "config.json", instead: hint });
        }
        let config = Self::read_file(file)?;
        Ok(Self { keys: with_text_config(config.keys), ..config })
    }

    /// Reads a JSON object of settings.
    ///
    /// # Errors
    /// [`LoadError`] if the file cannot be read or is not a JSON object.
    pub(super) fn read_file(file: PathBuf) -> Result<Self, LoadError> {
        match serde_json::from_str(&read(&file, LARGEST)?) {
            Ok(Value::Object(keys)) => Ok(Self { file, keys, end: None, reading: Arc::default() }),
            Ok(_) => Err(LoadError::Config { file, problem: "not a JSON object".into() }),
            Err(error) => Err(LoadError::Config { file, problem: format!("not valid JSON: {error}") }),
        }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// All keys. Nothing counts as read by it.
    pub fn keys(&self) -> &Map<String, Value> {
        &self.keys
    }

    /// This configuration with other values of some keys; `null` makes a key count as absent.
    pub(super) fn with<const N: usize>(mut self, keys: [(&str, Value); N]) -> Self {
        self.keys.extend(keys.map(|(key, value)| (key.to_owned(), value)));
        self
    }

    /// This configuration as one whose keys do not say what a token at the end of a text was in training; without a token
    /// it is the padding token, or where there is none the end token.
    pub(super) fn with_end(self, end: EndToken, token: Option<u32>) -> Self {
        Self { end: Some((end, token)), ..self }
    }

    /// What was said by [`Self::with_end`].
    pub(super) fn end(&self) -> Option<(EndToken, Option<u32>)> {
        self.end
    }

    /// A key's value; `null` counts as absent.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.given(key).filter(|value| !value.is_null())
    }

    /// A key's value, which may be `null`.
    pub(super) fn given(&self, key: &str) -> Option<&Value> {
        self.reading().asked.insert(key.to_owned());
        self.keys.get(key)
    }

    /// Lets whole numbers of the class count for keys that are absent. A key that is `null` stays as if it were absent.
    pub(super) fn complete(&self, class_numbers: &'static [(&'static str, u64)]) {
        self.reading().class_numbers = class_numbers;
    }

    /// A whole number of the class, if a key is absent; that it was taken is remembered.
    fn of_class(&self, key: &str) -> Option<u64> {
        let mut reading = self.reading();
        let &(key, number) = reading.class_numbers.iter().find(|(other, _)| *other == key)?;
        reading.taken.insert(key, number);
        Some(number)
    }

    /// The keys that are absent and whose numbers are the class's, as `key` = number.
    pub(super) fn taken_of_class(&self) -> Vec<String> {
        self.reading().taken.iter().map(|(key, number)| format!("`{key}` = {number}")).collect()
    }

    /// The keys that nobody has asked for so far.
    pub(super) fn unread(&self) -> Vec<String> {
        let reading = self.reading();
        self.keys.keys().filter(|key| !reading.asked.contains(*key)).cloned().collect()
    }

    /// Notes for a person how something in here was understood.
    pub(super) fn note(&self, note: impl Into<String>) {
        self.reading().notes.push(note.into());
    }

    /// The notes so far, which are taken away.
    pub(super) fn take_notes(&self) -> Vec<String> {
        let taken = self.taken_of_class();
        let mut notes = std::mem::take(&mut self.reading().notes);
        if !taken.is_empty() {
            notes.push(format!(
                "keys that `config.json` leaves out are the class's, as in transformers: {}",
                taken.join(", ")
            ));
        }
        notes
    }

    fn reading(&self) -> MutexGuard<'_, Reading> {
        // a panic between two of its methods leaves a set and a list that are whole
        self.reading.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An error about this file.
    pub fn problem(&self, problem: impl Into<String>) -> LoadError {
        LoadError::Config { file: self.file.clone(), problem: problem.into() }
    }

    /// An error about a value that is valid but not implemented.
    pub fn unsupported(&self, key: &'static str) -> LoadError {
        let instead = instead_of_option(key, self.keys.get(key));
        LoadError::UnsupportedOption { file: self.file.clone(), key, value: self.quoted(key), instead }
    }

    /// A key's value as an error quotes it.
    pub(super) fn quoted(&self, key: &str) -> String {
        self.keys.get(key).map_or_else(|| "null".to_owned(), short)
    }

    /// A positive whole number of at most 2³¹; the class's, if the key is absent and the class has one.
    ///
    /// # Errors
    /// If the key is missing or holds something else.
    pub fn size(&self, key: &str) -> Result<usize, LoadError> {
        self.optional_size(key)?.ok_or_else(|| self.problem(format!("no key `{key}`")))
    }

    /// A positive whole number; if the key is absent the class's, and none if the class has none either.
    ///
    /// # Errors
    /// If it holds something else.
    pub fn optional_size(&self, key: &str) -> Result<Option<usize>, LoadError> {
        if self.given(key).is_none() {
            return Ok(self.of_class(key).map(|number| number as usize));
        }
        let Some(value) = self.get(key) else { return Ok(None) };
        match value.as_u64() {
            Some(n) if (1..=1 << 31).contains(&n) => Ok(Some(n as usize)),
            _ => Err(self.problem(format!("`{key}` = {}, expected a positive whole number", short(value)))),
        }
    }

    /// A positive whole number of at most 2³¹; none for `null`, and the default if the key is absent.
    ///
    /// # Errors
    /// If it holds something else.
    pub(super) fn size_or(&self, key: &str, default: Option<usize>) -> Result<Option<usize>, LoadError> {
        if self.given(key).is_none() { Ok(default) } else { self.optional_size(key) }
    }

    /// The number of a token, none for `null` and for a negative number, which is no token's; if the key is absent the
    /// class's, and none if the class has none either.
    ///
    /// # Errors
    /// If it holds something else.
    pub(super) fn token(&self, key: &str) -> Result<Option<u32>, LoadError> {
        let value = match self.given(key) {
            None => return Ok(self.of_class(key).and_then(|number| u32::try_from(number).ok())),
            Some(Value::Null) => return Ok(None),
            Some(value) if value.as_i64().is_some_and(|id| id < 0) => return Ok(None),
            Some(value) => value,
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        let problem = || self.problem(format!("`{key}` = {}, expected the number of a token", short(value)));
        number.map(Some).ok_or_else(problem)
    }

    /// A number, or the default if the key is absent.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn number(&self, key: &str, default: f64) -> Result<f64, LoadError> {
        let Some(value) = self.given(key) else { return Ok(default) };
        value.as_f64().ok_or_else(|| self.problem(format!("`{key}` = {}, expected a number", short(value))))
    }

    /// What a norm adds to a variance: a number of at least 0, since the root of less is none.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn epsilon(&self, key: &str, default: f64) -> Result<f64, LoadError> {
        let epsilon = self.number(key, default)?;
        match epsilon >= 0.0 {
            true => Ok(epsilon),
            false => Err(self.problem(format!("`{key}` = {epsilon}, expected a number of at least 0"))),
        }
    }

    /// A number, none if the key is absent or `null`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub(super) fn number_or_null(&self, key: &str) -> Result<Option<f64>, LoadError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64();
        number.map(Some).ok_or_else(|| self.problem(format!("`{key}` = {}, expected a number", short(value))))
    }

    /// A positive number, none for `null`, the default if the key is absent.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn optional_number(&self, key: &str, default: Option<f64>) -> Result<Option<f64>, LoadError> {
        match self.given(key) {
            None => Ok(default),
            Some(Value::Null) => Ok(None),
            Some(value) => match value.as_f64().filter(|number| *number > 0.0) {
                Some(number) => Ok(Some(number)),
                None => Err(self.problem(format!("`{key}` = {}, expected a positive number or null", short(value)))),
            },
        }
    }

    /// True or false, or the default if the key is absent.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn flag(&self, key: &str, default: bool) -> Result<bool, LoadError> {
        let Some(value) = self.given(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.problem(format!("`{key}` = {}, expected true or false", short(value))))
    }

    /// A text, or the default if the key is absent.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn text<'a>(&'a self, key: &str, default: &'a str) -> Result<&'a str, LoadError> {
        let Some(value) = self.given(key) else { return Ok(default) };
        value.as_str().ok_or_else(|| self.problem(format!("`{key}` = {}, expected a text", short(value))))
    }

    /// A list, none if the key is absent or `null`.
    ///
    /// # Errors
    /// If the key holds something else.
    pub fn list(&self, key: &str) -> Result<Option<&[Value]>, LoadError> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(value) => Err(self.problem(format!("`{key}` = {}, expected a list", short(value)))),
        }
    }
}

/// Lays what a model of several modalities says of its language model (`text_config`) beside its own keys: what the
/// outer dictionary says of the whole model's type, class and head stays.
fn with_text_config(mut keys: Map<String, Value>) -> Map<String, Value> {
    const OF_THE_WHOLE: [&str; 3] = ["model_type", "architectures", "tie_word_embeddings"];
    if let Some(Value::Object(text)) = keys.remove("text_config") {
        for (key, value) in text {
            if !(OF_THE_WHOLE.contains(&key.as_str()) && keys.contains_key(&key)) && key != "model_type" {
                keys.insert(key, value);
            }
        }
    }
    keys
}

/// A value as an error quotes it: a long one is cut.
fn short(value: &Value) -> String {
    const LONGEST: usize = 200;
    let text = value.to_string();
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}... ({} characters)", &text[..end], text.chars().count()),
        None => text,
    }
}
