//! The field `label` of texts that are classified or valued: which labels a model knows, and what a line says of them.

use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::files::first_row;
use super::line_problem::LineProblem;
use super::targets::{Target, Task};
use super::value::kind;

/// The labels of a model that gives something for a whole text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labels {
    /// How many numbers the model gives: classes, labels, or values.
    pub outputs: usize,
    /// What they mean; none where the configuration leaves it to the data.
    pub task: Option<Task>,
    /// Names of classes, each with its number.
    pub names: Vec<(String, u32)>,
    /// Texts of a pair that the model tells apart by a type of each token; none: it does not.
    pub token_types: Option<usize>,
    /// What the last token of a text may have been, where the last one that is no padding is classified and nothing
    /// certain says which token was padding.
    pub end: Option<DoubtfulEnd>,
}

/// A token that texts may end with and that may have been padding in training.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DoubtfulEnd {
    /// The token.
    pub token: u32,
    /// What it counts as.
    pub counts_as: EndToken,
}

/// What a token at the end of a text counts as, if it may be padding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndToken {
    /// Padding, by the word of a tokenizer: the token before it is classified.
    Padding,
    /// The text's last token, which is classified.
    Text,
    /// Nothing says it, and texts that end with it cannot be used.
    Unknown,
}

impl Labels {
    /// What the labels are: what the configuration says, else what the first example of a file shows, as transformers
    /// decides. Integers and names are classes, lists are several labels. A file that shows nothing counts as one of
    /// classes; reading it says what is wrong.
    pub fn decided(&self, file: &Path, columns: &Columns) -> Self {
        let task = self.task.unwrap_or_else(|| match first_label(file, columns) {
            Some(Value::Array(_)) => Task::MultiLabel,
            _ => Task::Classification,
        });
        Self { task: Some(task), ..self.clone() }
    }

    /// Takes the target of an example from the fields of its line.
    pub(super) fn take(&self, fields: &mut Map<String, Value>) -> Result<Target, LineProblem> {
        let mut take = |field: &str| fields.shift_remove(field).filter(|value| !value.is_null());
        let (field, value) = match (take("label"), take("labels")) {
            (Some(label), None) => ("label", label),
            (None, Some(labels)) => ("labels", labels),
            (Some(_), Some(_)) => return Err(LineProblem::TwoContents { first: "label", second: "labels" }),
            (None, None) => return Err(LineProblem::NoLabel { fields: fields.keys().cloned().collect() }),
        };
        match self.task.unwrap_or(Task::Classification) {
            Task::Classification => self.class(field, &value).map(Target::Class),
            Task::MultiLabel => {
                let holds = |value: &f64| (0.0..=1.0).contains(value);
                self.numbers(field, &value, "a list of 0 and 1", holds).map(Target::Labels)
            }
            Task::Regression => self.numbers(field, &value, "a number", |_| true).map(Target::Values),
        }
    }

    fn class(&self, field: &str, value: &Value) -> Result<u32, LineProblem> {
        if let Some(name) = value.as_str() {
            let known = self.names.iter().find(|(known, _)| known == name).map(|&(_, class)| class);
            return known.ok_or_else(|| LineProblem::LabelName {
                name: name.to_owned(),
                known: self.names.iter().map(|(name, _)| name.clone()).collect(),
            });
        }
        let expected = "a class: an integer, or its name in `label2id`";
        let wrong = || LineProblem::FieldType { field: field.into(), found: kind(value), expected };
        // Integers beyond i64 are out of every range, which is what is then said of them.
        let class = value.as_i64().or_else(|| value.as_u64().map(|_| i64::MAX)).ok_or_else(wrong)?;
        let there = u32::try_from(class).ok().filter(|&class| (class as usize) < self.outputs);
        there.ok_or(LineProblem::LabelRange { label: class, classes: self.outputs })
    }

    fn numbers(
        &self,
        field: &str,
        value: &Value,
        expected: &'static str,
        allowed: impl Fn(&f64) -> bool,
    ) -> Result<Vec<f32>, LineProblem> {
        let one = std::slice::from_ref(value);
        let list = match value {
            Value::Array(list) => list.as_slice(),
            // a single number stands for a list of one
            _ if self.outputs == 1 => one,
            _ => return Err(LineProblem::FieldType { field: field.into(), found: kind(value), expected: "a list" }),
        };
        let number = |value: &Value| {
            let number = value.as_f64().filter(|number| allowed(number) && (*number as f32).is_finite());
            let wrong = || LineProblem::LabelNumber { field: field.into(), found: value.to_string(), expected };
            number.map(|number| number as f32).ok_or_else(wrong)
        };
        let numbers = list.iter().map(number).collect::<Result<Vec<_>, _>>()?;
        if numbers.len() != self.outputs {
            return Err(LineProblem::LabelCount { field: field.into(), found: numbers.len(), expected: self.outputs });
        }
        Ok(numbers)
    }
}

/// The label of a file's first row.
fn first_label(file: &Path, columns: &Columns) -> Option<Value> {
    let mut fields = first_row(file, columns)?;
    let mut take = |field: &str| fields.shift_remove(field).filter(|value| !value.is_null());
    match &columns.label {
        Some(label) => take(label),
        None => take("label").or_else(|| take("labels")),
    }
}
