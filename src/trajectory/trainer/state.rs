//! `trainer_state.json`.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::super::ReadError;

/// What one entry of `log_history` says about the optimizer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct LogEntry {
    /// Updates done when it was written.
    pub(super) step: usize,
    /// The logged rate.
    pub(super) rate: f64,
    /// The gradient's norm before clipping.
    pub(super) gradient_norm: Option<f64>,
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
}

impl TrainerState {
    pub(super) fn read(file: &Path) -> Result<Self, ReadError> {
        let root = read_json(file)?;
        let whole = |key: &str| {
            root.get(key).and_then(Value::as_u64).map(|n| n as usize).ok_or_else(|| entry(file, key, root.get(key)))
        };
        let number = |key: &str| root.get(key).and_then(float);
        let history = root.get("log_history").and_then(Value::as_array);
        let history = history.ok_or_else(|| entry(file, "log_history", root.get("log_history")))?;
        let mut log = Vec::new();
        for item in history {
            // Evaluation entries have `eval_…`, the summary `train_runtime`; neither has a rate.
            let Some(rate) = item.get("learning_rate") else { continue };
            let step = item.get("step").and_then(Value::as_u64);
            let step = step.ok_or_else(|| entry(file, "log_history.step", item.get("step")))? as usize;
            let rate = float(rate).ok_or_else(|| entry(file, "log_history.learning_rate", Some(rate)))?;
            if !rate.is_finite() || rate < 0.0 {
                return Err(ReadError::LoggedRate { file: file.to_path_buf(), step, rate });
            }
            let gradient_norm = item.get("grad_norm").and_then(float);
            log.push(LogEntry { step, rate, gradient_norm });
        }
        log.sort_by_key(|entry| entry.step);
        Ok(Self {
            file: file.to_path_buf(),
            global_step: whole("global_step")?,
            max_steps: whole("max_steps")?,
            epoch: number("epoch"),
            num_train_epochs: number("num_train_epochs"),
            save_steps: number("save_steps"),
            train_batch_size: root.get("train_batch_size").and_then(Value::as_u64).map(|n| n as usize),
            log,
        })
    }
}

fn entry(file: &Path, key: &str, found: Option<&Value>) -> ReadError {
    ReadError::Entry {
        file: file.to_path_buf(),
        key: key.to_string(),
        found: found.map_or("missing".to_string(), Value::to_string),
        expected: if key == "log_history" { "a list" } else { "a number" },
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
    let text = std::fs::read_to_string(file).map_err(|source| ReadError::Read { file: file.to_path_buf(), source })?;
    serde_json::from_str(&quote_constants(&text)).map_err(|source| ReadError::Json {
        file: file.to_path_buf(),
        line: source.line(),
        source,
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
