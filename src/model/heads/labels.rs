//! What a configuration says of the labels of a `...ForSequenceClassification`.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::data::{Labels, Task};
use crate::model::{Config, LoadError};

/// Classes of transformers where a configuration names none.
const USUAL: usize = 2;

/// The labels: how many there are, what they mean and what they are called.
pub(in crate::model) fn labels(config: &Config) -> Result<Labels, LoadError> {
    let by_name = dictionary(config, "label2id")?;
    let by_number = dictionary(config, "id2label")?;
    let numbers = config.optional_size("num_labels")?;
    let outputs = by_number.as_ref().map(BTreeMap::len).filter(|&n| n > 0).or(numbers).unwrap_or(USUAL);
    if let Some(numbers) = numbers.filter(|&numbers| numbers != outputs) {
        return Err(config.problem(format!("`num_labels` = {numbers}, but `id2label` has {outputs} entries")));
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
    Ok(Labels { outputs, task, names, token_types: None })
}

fn dictionary(config: &Config, key: &str) -> Result<Option<BTreeMap<String, Value>>, LoadError> {
    match config.get(key) {
        None => Ok(None),
        Some(Value::Object(entries)) => Ok(Some(entries.iter().map(|(k, v)| (k.clone(), v.clone())).collect())),
        Some(_) => Err(config.problem(format!("`{key}` = {}, expected a dictionary", config.quoted(key)))),
    }
}
