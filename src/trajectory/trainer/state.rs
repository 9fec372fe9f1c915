//! `trainer_state.json`.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::de::{DeserializeOwned, IgnoredAny, MapAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::foreign_file::{self, Refusal};
use crate::trajectory::error::ReadError;

/// Bytes of a JSON file that are read at most. A log of a million entries has about 150 MB.
const MAX_JSON: u64 = 256 << 20;

/// What one entry of `log_history` says about an update.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LogEntry {
    /// Updates done when it was written.
    pub(super) step: usize,
    /// The logged rate.
    pub(super) rate: f64,
    /// The gradient's norm before clipping, whatever number it is.
    pub(super) gradient_norm: Option<f64>,
    /// The mean loss since the entry before.
    pub(super) loss: Option<f64>,
    /// Epochs done.
    pub(super) epoch: Option<f64>,
    /// Input tokens since training began, or as TRL counts them since it was resumed.
    pub(super) tokens: Option<f64>,
    /// Whether TRL counted them, which leaves padding out.
    pub(super) counted_by_trl: bool,
}

/// What we take from a state file.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct TrainerState {
    pub(super) file: PathBuf,
    pub(super) global_step: usize,
    pub(super) max_steps: usize,
    pub(super) epoch: Option<f64>,
    pub(super) num_train_epochs: Option<f64>,
    pub(super) save_steps: Option<f64>,
    pub(super) train_batch_size: Option<usize>,
    /// Entries of training, ascending; evaluation and summary entries have no rate and are not here.
    pub(super) log: Vec<LogEntry>,
    /// (updates done, loss on the evaluation set) where training was interrupted to evaluate, ascending.
    pub(super) evaluations: Vec<(usize, f64)>,
    /// (updates done, `eval_NAME_loss`) of each evaluation set that has a name, ascending.
    pub(super) named_evaluations: BTreeMap<String, Vec<(usize, f64)>>,
}

/// A state file as it stands. A log is long, so that its entries hold only what is used.
#[derive(Deserialize)]
struct Raw {
    global_step: Option<Value>,
    max_steps: Option<Value>,
    epoch: Option<Value>,
    num_train_epochs: Option<Value>,
    save_steps: Option<Value>,
    train_batch_size: Option<Value>,
    log_history: Option<Vec<RawEntry>>,
}

#[derive(Deserialize)]
struct RawEntry {
    // `null` is there and no rate; a missing key is another thing than that
    #[serde(default, deserialize_with = "present")]
    learning_rate: Option<Value>,
    step: Option<Value>,
    grad_norm: Option<Value>,
    loss: Option<Value>,
    epoch: Option<Value>,
    num_tokens: Option<Value>,
    #[serde(flatten)]
    evaluation: Evaluation,
}

/// What an entry has of evaluations, if it has any; most have none. Of all other keys nothing is kept.
#[derive(Debug, Default)]
struct Evaluation {
    all: Option<Box<Evaluated>>,
    /// `num_input_tokens_seen`.
    input_tokens: Option<f64>,
}

#[derive(Debug, Default)]
struct Evaluated {
    /// `eval_loss`.
    loss: Option<Value>,
    /// Each `eval_NAME_loss` by its name.
    named: Vec<(String, Value)>,
    /// Names with a time: the Trainer writes one for each set, whoever computes measures of one set does not.
    timed: Vec<String>,
}

impl<'de> Deserialize<'de> for Evaluation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Keys;
        impl<'de> Visitor<'de> for Keys {
            type Value = Evaluation;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an entry of a log")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Evaluation, A::Error> {
                let (mut all, mut input_tokens): (Option<Box<Evaluated>>, _) = (None, None);
                while let Some(key) = map.next_key::<String>()? {
                    let name = key.strip_prefix("eval_");
                    let of = |end: &str| name.and_then(|name| name.strip_suffix(end)).map(str::to_owned);
                    if key == "num_input_tokens_seen" {
                        let value: Value = map.next_value()?;
                        input_tokens = float(&value).filter(|tokens| tokens.is_finite());
                    } else if name == Some("loss") {
                        all.get_or_insert_default().loss = Some(map.next_value()?);
                    } else if let Some(name) = of("_loss") {
                        all.get_or_insert_default().named.push((name, map.next_value()?));
                    } else {
                        if let Some(name) = of("_runtime") {
                            all.get_or_insert_default().timed.push(name);
                        }
                        map.next_value::<IgnoredAny>()?;
                    }
                }
                Ok(Evaluation { all, input_tokens })
            }
        }
        deserializer.deserialize_map(Keys)
    }
}

fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Value>, D::Error> {
    Value::deserialize(deserializer).map(Some)
}

impl TrainerState {
    pub(super) fn read(file: &Path) -> Result<Self, ReadError> {
        let root: Raw = read_json_as(file)?;
        let whole = |key: &str, value: &Option<Value>| {
            let number = value.as_ref().and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            number.ok_or_else(|| entry(file, key, value.as_ref()))
        };
        // A number of at least 0 where there is one: NaN is none, and would pass over every comparison.
        let number = |key: &str, value: &Option<Value>| match value {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                let number = float(value).filter(|number| number.is_finite() && *number >= 0.0);
                number.map(Some).ok_or_else(|| entry(file, key, Some(value)))
            }
        };
        let history = root.log_history.ok_or_else(|| entry(file, "log_history", None))?;
        let finite = |value: &Option<Value>| value.as_ref().and_then(float).filter(|value| value.is_finite());
        let (mut log, mut evaluations) = (Vec::new(), Vec::new());
        let mut named_evaluations = BTreeMap::<String, Vec<(usize, f64)>>::new();
        for item in history {
            let evaluated = item.evaluation.all.map(|all| *all).unwrap_or_default();
            if let Some(loss) = finite(&evaluated.loss) {
                evaluations.push((whole("log_history.step", &item.step)?, loss));
            }
            for (name, loss) in evaluated.named.into_iter().filter(|(name, _)| evaluated.timed.contains(name)) {
                if let Some(loss) = float(&loss).filter(|loss| loss.is_finite()) {
                    let step = whole("log_history.step", &item.step)?;
                    named_evaluations.entry(name).or_default().push((step, loss));
                }
            }
            // Evaluation entries have `eval_…`, the summary `train_runtime`; neither has a rate.
            let Some(rate) = item.learning_rate else { continue };
            let step = whole("log_history.step", &item.step)?;
            let rate = float(&rate).ok_or_else(|| entry(file, "log_history.learning_rate", Some(&rate)))?;
            if !rate.is_finite() || rate < 0.0 {
                return Err(ReadError::LoggedRate { file: file.to_path_buf(), step, rate });
            }
            let norm = item.grad_norm.filter(|norm| !norm.is_null());
            let gradient_norm = norm
                .map(|norm| float(&norm).ok_or_else(|| entry(file, "log_history.grad_norm", Some(&norm))))
                .transpose()?;
            let (loss, epoch, of_trl) = (finite(&item.loss), finite(&item.epoch), finite(&item.num_tokens));
            let (tokens, counted_by_trl) = (of_trl.or(item.evaluation.input_tokens), of_trl.is_some());
            log.push(LogEntry { step, rate, gradient_norm, loss, epoch, tokens, counted_by_trl });
        }
        log.sort_by_key(|entry| entry.step);
        evaluations.sort_by_key(|&(step, _)| step);
        named_evaluations.values_mut().for_each(|losses| losses.sort_by_key(|&(step, _)| step));
        Ok(Self {
            file: file.to_path_buf(),
            global_step: whole("global_step", &root.global_step)?,
            max_steps: whole("max_steps", &root.max_steps)?,
            epoch: number("epoch", &root.epoch)?,
            num_train_epochs: number("num_train_epochs", &root.num_train_epochs)?,
            save_steps: number("save_steps", &root.save_steps)?,
            train_batch_size: match &root.train_batch_size {
                None | Some(Value::Null) => None,
                size => Some(whole("train_batch_size", size)?),
            },
            log,
            evaluations,
            named_evaluations,
        })
    }
}

fn entry(file: &Path, key: &str, found: Option<&Value>) -> ReadError {
    ReadError::Entry {
        file: file.to_path_buf(),
        key: key.to_string(),
        found: found.map_or("missing".to_string(), |value| short(&value.to_string())),
        expected: match key {
            "log_history" => "a list",
            "epoch" | "num_train_epochs" | "save_steps" => "a number of at least 0",
            _ => "a number",
        },
    }
}

/// The beginning of a text that a file may have made long.
fn short(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_string(),
    }
}

/// A number, or one of those that Python writes and JSON does not have.
fn float(value: &Value) -> Option<f64> {
    match value.as_str() {
        Some("NaN") => Some(f64::NAN),
        Some("Infinity") => Some(f64::INFINITY),
        Some("-Infinity") => Some(f64::NEG_INFINITY),
        _ => value.as_f64(),
    }
}

/// Reads JSON as Python writes it: `NaN` and `Infinity` come out as strings of that name.
pub(in crate::trajectory) fn read_json(file: &Path) -> Result<Value, ReadError> {
    read_json_as(file)
}

fn read_json_as<T: DeserializeOwned>(file: &Path) -> Result<T, ReadError> {
    let text = read_text(file, MAX_JSON)?;
    let text = if text.contains("NaN") || text.contains("Infinity") { quote_constants(&text) } else { text };
    serde_json::from_str(&text).map_err(|source| ReadError::Json {
        file: file.to_path_buf(),
        line: source.line(),
        source,
    })
}

/// A file's text, if it is a regular file of at most `limit` bytes.
pub(in crate::trajectory) fn read_text(file: &Path, limit: u64) -> Result<String, ReadError> {
    foreign_file::read_text(file, limit).map_err(|source| match Refusal::of(&source) {
        Some(Refusal::NotRegular { .. }) => ReadError::NoFile { file: file.to_path_buf() },
        Some(Refusal::TooLong { limit }) => ReadError::TooLarge { file: file.to_path_buf(), limit },
        _ => ReadError::Read { file: file.to_path_buf(), source },
    })
}

fn quote_constants(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let (mut rest, mut in_string) = (text, false);
    while let Some(c) = rest.chars().next() {
        let constant = ["NaN", "Infinity", "-Infinity"].into_iter().find(|name| !in_string && rest.starts_with(name));
        if let Some(name) = constant {
            out.extend(["\"", name, "\""]);
            rest = &rest[name.len()..];
            continue;
        }
        let mut taken = c.len_utf8();
        match c {
            '"' => in_string = !in_string,
            // An escaped character is part of the string whatever it is.
            '\\' if in_string => taken += rest[1..].chars().next().map_or(0, char::len_utf8),
            _ => {}
        }
        out.push_str(&rest[..taken]);
        rest = &rest[taken..];
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<TrainerState, ReadError> {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trainer_state.json");
        std::fs::write(&file, text).unwrap();
        TrainerState::read(&file)
    }

    #[test]
    fn constants_of_python_are_quoted_outside_strings() {
        let text = r#"{"a": NaN, "b NaN \" Infinity": [-Infinity, Infinity], "c": "\\"}"#;
        let expected = r#"{"a": "NaN", "b NaN \" Infinity": ["-Infinity", "Infinity"], "c": "\\"}"#;
        assert_eq!(quote_constants(text), expected);
        assert_eq!(quote_constants("é\\"), "é\\");
    }

    #[test]
    fn entries_without_a_rate_are_no_rates() {
        let state = read(
            r#"{"global_step": 20, "max_steps": 20, "epoch": 2.0, "log_history": [
            {"loss": NaN, "learning_rate": 0.1, "grad_norm": Infinity, "step": 10},
            {"eval_loss": 2.0, "eval_runtime": 1.0, "step": 10},
            {"loss": 1.0, "learning_rate": 0, "step": 20},
            {"train_runtime": 3.0, "train_loss": 1.5, "step": 20}]}"#,
        )
        .unwrap();
        assert_eq!(state.log.len(), 2);
        assert_eq!(state.log[0].gradient_norm, Some(f64::INFINITY));
        assert_eq!((state.log[1].rate, state.log[1].gradient_norm), (0.0, None));
    }

    #[test]
    fn evaluation_sets_may_have_names() {
        let state = read(
            r#"{"global_step": 20, "max_steps": 20, "epoch": 2.0, "log_history": [
            {"eval_b_loss": 2.5, "eval_b_runtime": 1.0, "step": 20},
            {"eval_b_loss": 3.5, "eval_b_runtime": 1.0, "eval_b_other": [1], "step": 10},
            {"eval_a_b_loss": 1.5, "eval_a_b_runtime": 1.0, "step": 10},
            {"eval_loss": 2.0, "eval_runtime": 1.0, "eval_aux_loss": 9.0, "step": 10},
            {"eval_nan_loss": NaN, "eval_nan_runtime": 1.0, "step": 10}]}"#,
        )
        .unwrap();
        assert_eq!(state.evaluations, [(10, 2.0)]);
        let named: Vec<_> =
            state.named_evaluations.iter().map(|(name, losses)| (name.as_str(), losses.as_slice())).collect();
        assert_eq!(named, [("a_b", &[(10, 1.5)][..]), ("b", &[(10, 3.5), (20, 2.5)])]);
    }

    /// NaN passes over every comparison: a stream would have been taken for a set, an epoch for none.
    #[test]
    fn counts_that_are_no_numbers_are_refused() {
        for key in ["num_train_epochs", "epoch", "save_steps"] {
            for (bad, shown) in [("NaN", "\"NaN\""), ("-1", "-1"), ("Infinity", "\"Infinity\""), ("[2]", "[2]")] {
                let text = format!(r#"{{"global_step": 2, "max_steps": 2, "log_history": [], "{key}": {bad}}}"#);
                let message = read(&text).unwrap_err().to_string();
                let expected = format!("`{key}` is {shown}, expected a number of at least 0");
                assert!(message.ends_with(&expected), "{message}");
            }
        }
    }

    #[test]
    fn a_file_beyond_its_bound_is_not_read() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("trainer_state.json");
        std::fs::File::create(&file).unwrap().set_len(MAX_JSON + 1).unwrap();
        let message = TrainerState::read(&file).unwrap_err().to_string();
        assert!(message.ends_with("trainer_state.json: is larger than 256 MiB, the most that is read"), "{message}");
        let message = TrainerState::read(folder.path()).unwrap_err().to_string();
        assert!(message.ends_with("is no file"), "{message}");
    }

    /// A million entries, which were 3 GB as values with names.
    #[test]
    fn a_long_log_is_read() {
        let entry = |k: usize| format!(r#"{{"loss":1.0,"learning_rate":0.1,"grad_norm":0.5,"epoch":1.5,"step":{k}}}"#);
        let entries: Vec<String> = (1..=20_000).map(entry).collect();
        let text = format!(r#"{{"global_step":2,"max_steps":2,"log_history":[{}]}}"#, entries.join(","));
        let state = read(&text).unwrap();
        assert_eq!((state.log.len(), state.log[7].epoch), (20_000, Some(1.5)));
        assert!(size_of::<RawEntry>() <= 7 * size_of::<Value>() && size_of::<LogEntry>() <= 88);
    }

    #[test]
    fn bad_states_name_key_and_line() {
        let tail = |error: ReadError| error.to_string().rsplit("trainer_state.json: ").next().unwrap().to_string();
        let error = read(r#"{"global_step": 2, "max_steps": 2, "log_history": [{"learning_rate": NaN, "step": 1}]}"#);
        assert_eq!(tail(error.unwrap_err()), "the learning rate logged at step 1 is NaN");
        let error = read(r#"{"global_step": 2, "max_steps": 2, "log_history": [{"learning_rate": "a", "step": 1}]}"#);
        assert_eq!(tail(error.unwrap_err()), "`log_history.learning_rate` is \"a\", expected a number");
        assert_eq!(
            tail(read(r#"{"global_step": -1, "log_history": []}"#).unwrap_err()),
            "`global_step` is -1, expected a number"
        );
        assert_eq!(tail(read("{\n\"a\": 1,\n}").unwrap_err()), "line 3: not valid JSON");
        assert_eq!(tail(read("{}").unwrap_err()), "`log_history` is missing, expected a list");
    }
}
