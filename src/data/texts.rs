//! What is written in the rows of a file, without a tokenizer: for filters and baselines that know words alone.

use std::collections::HashMap;
use std::path::Path;

use serde_json::{Map, Value};

use super::columns::Columns;
use super::error::DataError;
use super::fields;
use super::files::{Bounds, Rows, expand};
use super::line_problem::LineProblem;
use super::reading_options::{IdField, names_of};
use super::specials::Role;

/// Fields of texts, or of lists of messages, in the order in which they are read.
const WRITTEN: [&str; 8] =
    ["text", "text_pair", "prompt", "completion", "messages", "conversations", "chosen", "rejected"];

/// What was read of a file of texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TextReport {
    /// Rows with a text.
    pub texts: usize,
    /// Rows whose text is empty, which were skipped.
    pub empty: usize,
}

/// Gives id and text of each row of a file, or of several ([`expand`](super::expand)) as if they stood in one, in their
/// order. Ids are those of [`read_tokens`](super::read_tokens). The text is everything that is written in the row: `text`
/// and `text_pair`, `prompt` and `completion`, the messages of a conversation, or the column that was chosen; of a training
/// example with `chosen` and `rejected` the chosen one, as training has seen it. Rows whose text is empty are skipped and
/// counted.
///
/// # Errors
/// [`DataError`] names the file and the first row that is broken, has no text, or has an id that another has.
pub fn for_each_text(
    path: &Path,
    role: Role,
    columns: &Columns,
    id_field: &IdField,
    mut give: impl FnMut(String, &str),
) -> Result<TextReport, DataError> {
    let mut report = TextReport::default();
    let mut places: HashMap<String, usize> = HashMap::new();
    let mut before = 0;
    for file in expand(path)? {
        let (mut rows, format) = Rows::open(&file, columns, Bounds::of(None))?;
        let (columns, id_field) = names_of(format, columns, id_field);
        before += rows.each(|rows, row| {
            let (in_file, number) = (row.number, before + row.number);
            let read = |mut fields: Map<String, Value>| {
                let id = fields::take_id(&mut fields, id_field)?.unwrap_or_else(|| number.to_string());
                let names = fields.keys().cloned().collect();
                let text = written(fields, columns, role).ok_or(LineProblem::NoWords { fields: names })?;
                Ok::<_, LineProblem>((id, text))
            };
            let (id, text) = row.fields().and_then(read).map_err(|problem| rows.fail(in_file, problem))?;
            if text.is_empty() {
                report.empty += 1;
                return Ok(());
            }
            if let Some(first) = places.insert(id.clone(), number) {
                return Err(rows.fail(in_file, LineProblem::DuplicateId { id, first }));
            }
            report.texts += 1;
            give(id, &text);
            Ok(())
        })?;
    }
    if report.texts == 0 {
        return Err(DataError::Empty { file: path.to_owned() });
    }
    Ok(report)
}

/// Everything that is written in a row, a line for each part; none if it has no field for it.
fn written(mut fields: Map<String, Value>, columns: &Columns, role: Role) -> Option<String> {
    let mut parts = vec![];
    if columns.are_of(&fields, role) {
        let named = |chosen: &Option<String>, usual: &str| chosen.clone().unwrap_or_else(|| usual.to_owned());
        let names = match &columns.text {
            Some(text) => vec![text.clone()],
            None => vec![named(&columns.prompt, "prompt"), named(&columns.completion, "completion")],
        };
        for name in names {
            parts_of(&fields.shift_remove(&name)?, &mut parts)?;
        }
        return Some(parts.join("\n"));
    }
    let mut has_any = false;
    for name in WRITTEN {
        // a training example was trained on the chosen completion
        if name == "rejected" && role == Role::Train {
            continue;
        }
        let Some(value) = fields.shift_remove(name) else { continue };
        parts_of(&value, &mut parts)?;
        has_any = true;
    }
    has_any.then(|| parts.join("\n"))
}

/// Adds a text, or the texts of a list of messages; none if the value is neither. A table says null where a text is
/// missing.
fn parts_of(value: &Value, parts: &mut Vec<String>) -> Option<()> {
    match value {
        Value::Null => Some(()),
        Value::String(text) => {
            if !text.is_empty() {
                parts.push(text.clone());
            }
            Some(())
        }
        Value::Array(messages) => messages.iter().try_for_each(|message| {
            let content = ["content", "value", "text"].into_iter().find_map(|name| message.get(name));
            // a call of a tool has no content
            content.map_or(message.is_object().then_some(()), |content| parts_of(content, parts))
        }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn text(row: Value, columns: &Columns, role: Role) -> Option<String> {
        let Value::Object(fields) = row else { panic!("an object") };
        written(fields, columns, role)
    }

    #[test]
    fn everything_that_is_written_is_read() {
        let usual = Columns::default();
        let of = |row, role| text(row, &usual, role);
        assert_eq!(of(json!({"text": "a", "text_pair": "b", "label": 1}), Role::Train).as_deref(), Some("a\nb"));
        assert_eq!(of(json!({"completion": "b", "prompt": "a"}), Role::Train).as_deref(), Some("a\nb"));
        let turns = json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": null},
            {"from": "gpt", "value": [{"type": "text", "text": "b"}]}, {"role": "assistant", "tool_calls": []}]);
        assert_eq!(of(json!({"messages": turns}), Role::Train).as_deref(), Some("a\nb"));
        let contrast = json!({"prompt": "a", "chosen": "b", "rejected": "c"});
        assert_eq!(of(contrast.clone(), Role::Train).as_deref(), Some("a\nb"));
        assert_eq!(of(contrast, Role::Queries).as_deref(), Some("a\nb\nc"));
        assert_eq!(of(json!({"text": null}), Role::Train).as_deref(), Some(""));
        assert_eq!(of(json!({"input_ids": [1, 2]}), Role::Train), None);
        assert_eq!(of(json!({"text": 3}), Role::Train), None);
    }

    #[test]
    fn chosen_columns_stand_for_the_usual_ones() {
        let body = Columns { text: Some("body".into()), ..Columns::default() };
        assert_eq!(text(json!({"body": "a", "text": "b"}), &body, Role::Train).as_deref(), Some("a"));
        assert_eq!(text(json!({"text": "b"}), &body, Role::Train), None);
        // queries are often written by hand
        assert_eq!(text(json!({"text": "b"}), &body, Role::Queries).as_deref(), Some("b"));
        let asked = Columns { prompt: Some("question".into()), ..Columns::default() };
        assert_eq!(text(json!({"question": "a", "completion": "b"}), &asked, Role::Train).as_deref(), Some("a\nb"));
    }
}
