//! Names of the columns that hold an example, where they are not the usual ones.

use serde_json::{Map, Value};

use super::line_problem::LineProblem;
use super::specials::Role;
use super::value::string;

/// Names of the columns that hold an example; none: the usual name.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Columns {
    /// The column of texts, usually `text`.
    pub text: Option<String>,
    /// The column of prompts, usually `prompt`.
    pub prompt: Option<String>,
    /// The column of completions, usually `completion`.
    pub completion: Option<String>,
    /// The column of labels of texts, usually `label` or `labels`.
    pub label: Option<String>,
    /// The column of images, usually `image` or `file_name`.
    pub image: Option<String>,
}

impl Columns {
    /// Whether this column was chosen as one of texts.
    pub(super) fn is_text(&self, name: &str) -> bool {
        [&self.text, &self.prompt, &self.completion].into_iter().flatten().any(|chosen| chosen == name)
    }

    /// Whether this column was chosen as that of labels.
    pub(super) fn is_label(&self, name: &str) -> bool {
        self.label.as_deref() == Some(name)
    }

    /// Whether a row is read by the columns that were chosen for a text, or for a prompt and a completion. Queries are
    /// often written by hand: one that has none of these columns is read by the usual names.
    pub(super) fn are_of(&self, fields: &Map<String, Value>, role: Role) -> bool {
        let mut chosen = [&self.text, &self.prompt, &self.completion].into_iter().flatten().peekable();
        chosen.peek().is_some() && (role == Role::Train || chosen.any(|name| fields.contains_key(name)))
    }

    /// Takes a column's value from the fields of a row; null where a row has null. `usual` is what the column is called
    /// where no other name was chosen by the flag.
    pub(super) fn take(
        fields: &mut Map<String, Value>,
        chosen: Option<&str>,
        usual: &str,
        flag: &'static str,
    ) -> Result<Value, LineProblem> {
        let name = chosen.unwrap_or(usual);
        fields.shift_remove(name).ok_or_else(|| {
            let near =
                fields.keys().filter(|key| strsim::damerau_levenshtein(key, name) <= 1 + name.chars().count() / 4);
            LineProblem::NoColumn {
                column: name.to_owned(),
                flag,
                near: near.min_by_key(|key| strsim::damerau_levenshtein(key, name)).cloned(),
                fields: fields.keys().cloned().collect(),
            }
        })
    }

    /// Calls the column that was chosen for labels `label`, and returns columns of that usual name, which are metadata then.
    pub(super) fn choose_label(&self, fields: &mut Map<String, Value>) -> Result<Map<String, Value>, LineProblem> {
        let mut set_aside = Map::new();
        if let Some(label) = &self.label {
            let value = Self::take(fields, Some(label), "label", "--label-field")?;
            for usual in ["label", "labels"] {
                set_aside.extend(fields.shift_remove(usual).map(|value| (usual.to_owned(), value)));
            }
            fields.insert("label".to_owned(), value);
        }
        Ok(set_aside)
    }

    /// Takes the texts of the prompt's and the completion's column from the fields of a row.
    pub(super) fn take_pair(&self, fields: &mut Map<String, Value>) -> Result<(String, String), LineProblem> {
        let mut text = |chosen: &Option<String>, usual, flag| {
            let value = Self::take(fields, chosen.as_deref(), usual, flag)?;
            string(chosen.as_deref().unwrap_or(usual), value)
        };
        let prompt = text(&self.prompt, "prompt", "--prompt-field")?;
        Ok((prompt, text(&self.completion, "completion", "--completion-field")?))
    }
}
