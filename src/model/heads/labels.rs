//! What a configuration says of the labels of a `...ForSequenceClassification`.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use crate::data::{DoubtfulEnd, EndToken, Labels, Task};
use crate::model::config::Config;
use crate::model::error::LoadError;

/// Classes of transformers where a configuration names none.
const USUAL: usize = 2;

/// The labels: how many there are, what they mean and what they are called.
pub(in crate::model) fn labels(config: &Config) -> Result<Labels, LoadError> {
    let by_name = dictionary(config, "label2id")?;
    let by_number = dictionary(config, "id2label")?;
    let numbers = config.optional_size("num_labels")?;
    let outputs = by_number.as_ref().map(BTreeMap::len).filter(|&n| n > 0).or(numbers).unwrap_or(USUAL);
    if by_number.is_none() && numbers.is_none() {
        config.note(format!(
            "`config.json` has neither `id2label` nor `num_labels`: {USUAL} labels, as transformers decides"
        ));
    }
    if let Some(numbers) = numbers.filter(|&numbers| numbers != outputs) {
        return Err(config.problem(format!("`num_labels` = {numbers}, but `id2label` has {outputs} entries")));
    }
    if let Some(by_number) = &by_number {
        check_numbers(config, by_number, outputs)?;
    }
    let task = match config.get("problem_type").map(|kind| kind.as_str().unwrap_or_default()) {
        None if outputs == 1 => {
            config.note("`config.json` has no `problem_type` and one label: a regression, as transformers decides");
            Some(Task::Regression)
        }
        None => None,
        Some("single_label_classification") => Some(Task::Classification),
        Some("multi_label_classification") => Some(Task::MultiLabel),
        Some("regression") => Some(Task::Regression),
        Some(_) => return Err(config.unsupported("problem_type")),
    };
    let number = |value: &Value| value.as_u64().and_then(|n| u32::try_from(n).ok());
    let mut names: Vec<(String, u32)> = match (by_name, by_number) {
        (Some(names), _) => names.iter().filter_map(|(name, n)| Some((name.clone(), number(n)?))).collect(),
        (None, Some(numbers)) => {
            let named = |(n, name): (&String, &Value)| Some((name.as_str()?.to_owned(), n.parse().ok()?));
            numbers.iter().filter_map(named).collect()
        }
        (None, None) => vec![],
    };
    names.retain(|&(_, class)| (class as usize) < outputs);
    names.sort_by_key(|&(_, class)| class);
    Ok(Labels { outputs, task, names, token_types: None, end: None })
}

/// The token that is padding, which is never classified, and what is doubtful about it.
///
/// # Errors
/// If a key holds no token.
pub(in crate::model) fn padding(config: &Config) -> Result<(Option<u32>, Option<DoubtfulEnd>), LoadError> {
    let padding = config.token("pad_token_id")?;
    let (counts_as, token) = match (padding, config.end()) {
        (Some(_), None) => return Ok((padding, None)),
        (None, None) => {
            config.note("`config.json` names no `pad_token_id`: each text's last token is classified");
            (EndToken::Text, None)
        }
        (_, Some(end)) => end,
    };
    let ends = match config.get("eos_token_id") {
        Some(Value::Array(ends)) => ends.first(),
        end => end,
    };
    let ends = ends.and_then(Value::as_u64).and_then(|id| u32::try_from(id).ok());
    let token = token.or(padding).or(ends);
    Ok((padding, token.map(|token| DoubtfulEnd { token, counts_as })))
}

/// Refuses keys of `id2label` that are no whole numbers, as transformers does, and notes those that are no class.
fn check_numbers(config: &Config, by_number: &BTreeMap<String, Value>, outputs: usize) -> Result<(), LoadError> {
    let mut classes = BTreeSet::new();
    let mut beyond = None;
    for key in by_number.keys() {
        match key.trim().parse::<i64>() {
            Err(_) => {
                let shown: String = key.chars().take(40).collect();
                return Err(config.problem(format!("`id2label` has the key {shown:?}, expected whole numbers")));
            }
            Ok(class) => match usize::try_from(class).ok().filter(|&class| class < outputs) {
                Some(class) => drop(classes.insert(class)),
                None => beyond = beyond.or(Some(class)),
            },
        }
    }
    if let Some(beyond) = beyond {
        let missing = (0..outputs).find(|class| !classes.contains(class));
        let missing = missing.map_or_else(String::new, |class| format!(" and none for class {class}"));
        config.note(format!(
            "`id2label` has {outputs} entries, so that the model has {outputs} classes, but it has a name for class \
             {beyond}{missing}: as in transformers the count decides, and that name is not used"
        ));
    }
    Ok(())
}

fn dictionary(config: &Config, key: &str) -> Result<Option<BTreeMap<String, Value>>, LoadError> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::Object(entries)) => Ok(Some(entries.iter().map(|(k, v)| (k.clone(), v.clone())).collect())),
        Some(_) => Err(config.problem(format!("`{key}` = {}, expected a dictionary", config.quoted(key)))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What is read from a configuration with this `id2label`, and its notes.
    fn read(id2label: &Value) -> (Result<Labels, LoadError>, Vec<String>) {
        let folder = tempfile::tempdir().expect("a folder");
        let content = json!({ "id2label": id2label, "problem_type": "single_label_classification" });
        std::fs::write(folder.path().join("config.json"), content.to_string()).expect("writable");
        let config = Config::read(folder.path()).expect("a configuration");
        (labels(&config), config.take_notes())
    }

    #[test]
    fn keys_of_labels_that_are_no_numbers_are_refused() {
        for key in ["one", "1.5", "", "\u{1b}[31m"] {
            let error = read(&json!({ "0": "a", key: "b" })).0.expect_err("no number").to_string();
            assert!(error.contains(&format!("`id2label` has the key {key:?}, expected whole numbers")), "{error}");
            assert!(error.contains("config.json"), "{error}");
        }
    }

    #[test]
    fn keys_of_labels_that_are_no_class_are_named() {
        for (key, missing) in [("7", 2), ("-1", 2), ("3", 2)] {
            let (labels, notes) = read(&json!({ "0": "a", "1": "b", key: "c" }));
            let labels = labels.expect("readable");
            assert_eq!((labels.outputs, labels.names), (3, vec![("a".to_owned(), 0), ("b".to_owned(), 1)]));
            assert_eq!(notes.len(), 1, "{notes:?}");
            assert!(notes[0].contains(&format!("a name for class {key} and none for class {missing}")), "{notes:?}");
        }
        let (labels, notes) = read(&json!({ "1": "b", "0": "a" }));
        assert_eq!((labels.expect("readable").outputs, notes), (2, vec![]));
    }
}
