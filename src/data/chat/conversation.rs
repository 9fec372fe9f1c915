//! A row's conversation: its messages, checked and in one form, whichever fields held them.

use serde_json::{Map, Value};

use super::problem::ChatProblem;
use crate::data::line_problem::LineProblem;
use crate::data::value::kind;

/// The names of what a model thought before it answered. transformers gives a template the first that a message has
/// as `reasoning_content`, and as `thinking` unless the message has that.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// The turns of a row and what else the template is given.
#[derive(Debug, PartialEq)]
pub(super) struct Conversation {
    /// The field that held it.
    pub(super) field: &'static str,
    /// All turns, those of the prompt first.
    pub(super) messages: Vec<Value>,
    /// How many of them are the prompt's; 0 where the row has no prompt.
    pub(super) prompt: usize,
    /// Descriptions of tools.
    pub(super) tools: Option<Value>,
    /// Further values that the row has for the template (`chat_template_kwargs`).
    pub(super) values: Map<String, Value>,
    /// Whether a `human` or a `gpt` became a user or an assistant.
    pub(super) renamed: bool,
}

/// Takes the conversation out of a row; `None` if the row is none.
///
/// `messages` and `conversations` are one, unless the row has `text` or `input_ids` too, and so are lists in `prompt` and
/// `completion`. Of `chosen` and `rejected` the first is what training on good answers has seen; the other stays.
pub(super) fn take(fields: &mut Map<String, Value>) -> Result<Option<Conversation>, LineProblem> {
    let has = |fields: &Map<String, Value>, field: &str| fields.get(field).is_some_and(|value| !value.is_null());
    let is_list = |fields: &Map<String, Value>, field: &str| fields.get(field).is_some_and(Value::is_array);
    if has(fields, "text") || has(fields, "input_ids") {
        return Ok(None);
    }
    if has(fields, "chosen") && !has(fields, "messages") && !has(fields, "conversations") {
        if has(fields, "completion") {
            return Err(LineProblem::TwoContents { first: "completion", second: "chosen" });
        }
        if !is_list(fields, "chosen") {
            if !has(fields, "prompt") {
                return Err(LineProblem::Partner { has: "chosen", lacks: "prompt" });
            }
            let chosen = fields.shift_remove("chosen").unwrap_or_default();
            fields.insert("completion".into(), chosen);
        }
    }
    let whole = ["messages", "conversations"].into_iter().filter(|field| has(fields, field)).collect::<Vec<_>>();
    let (field, completion) = match whole.as_slice() {
        &[first, second, ..] => return Err(LineProblem::TwoContents { first, second }),
        &[field] if has(fields, "completion") => {
            return Err(LineProblem::TwoContents { first: field, second: "completion" });
        }
        &[field] => (field, None),
        [] if is_list(fields, "chosen") => match has(fields, "prompt") {
            true => ("prompt", Some("chosen")),
            false => ("chosen", None),
        },
        [] if is_list(fields, "prompt") || is_list(fields, "completion") => {
            if let Some((has, lacks)) = match (has(fields, "prompt"), has(fields, "completion")) {
                (true, false) => Some(("prompt", "completion")),
                (false, true) => Some(("completion", "prompt")),
                _ => None,
            } {
                return Err(LineProblem::Partner { has, lacks });
            }
            ("prompt", Some("completion"))
        }
        [] => return Ok(None),
    };
    let mut renamed = false;
    let mut list = |field| messages(field, fields.shift_remove(field).unwrap_or_default(), &mut renamed);
    let mut turns = list(field)?;
    let mut prompt = 0;
    if let Some(completion) = completion {
        prompt = turns.len();
        turns.extend(list(completion)?);
    }
    let tools = match fields.shift_remove("tools") {
        None | Some(Value::Null) => None,
        Some(tools) => Some(tools_of(tools)?),
    };
    let values = match fields.shift_remove("chat_template_kwargs") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(values)) => values,
        Some(other) => {
            let field = "chat_template_kwargs".into();
            return Err(LineProblem::FieldType { field, found: kind(&other), expected: "an object" });
        }
    };
    Ok(Some(Conversation { field, messages: turns, prompt, tools, values, renamed }))
}

/// The tools of a row, which tables hold as JSON text.
fn tools_of(tools: Value) -> Result<Value, LineProblem> {
    let tools = match tools {
        Value::String(text) => {
            serde_json::from_str(&text).map_err(|_| ChatProblem::Tools { found: "a text that is no JSON".into() })?
        }
        tools => tools,
    };
    match &tools {
        Value::Array(list) if list.iter().all(Value::is_object) => Ok(tools),
        Value::Array(_) => Err(ChatProblem::Tools { found: "an array with other things than objects".into() }.into()),
        other => Err(ChatProblem::Tools { found: kind(other).into() }.into()),
    }
}

/// The messages of one field: objects with `role` and `content`.
fn messages(field: &'static str, value: Value, renamed: &mut bool) -> Result<Vec<Value>, LineProblem> {
    let Value::Array(list) = value else {
        let expected = "an array of messages";
        return Err(LineProblem::FieldType { field: field.into(), found: kind(&value), expected });
    };
    if list.is_empty() {
        return Err(ChatProblem::Empty { field }.into());
    }
    let one = |(index, message)| message_of(field, index, message, renamed);
    list.into_iter().enumerate().map(one).collect()
}

fn message_of(field: &'static str, index: usize, message: Value, renamed: &mut bool) -> Result<Value, LineProblem> {
    let place = |part: &str| format!("{field}[{index}]{part}");
    let Value::Object(given) = message else {
        let expected = "a message: an object with `role` and `content`";
        return Err(LineProblem::FieldType { field: place(""), found: kind(&message), expected });
    };
    let mut message = Map::new();
    // A key that is null is one that a table has and the message has not.
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
        match (key.as_str(), value) {
            ("from", Value::String(from)) => {
                let role = match from.as_str() {
                    "human" => "user",
                    "gpt" => "assistant",
                    other => other,
                };
                *renamed |= role != from;
                message.insert("role".into(), role.into());
            }
            ("value", value) => _ = message.insert("content".into(), value),
            (_, value) => _ = message.insert(key, value),
        }
    }
    let keys = || message.keys().cloned().collect();
    match message.get("role") {
        Some(Value::String(_)) => {}
        Some(other) => {
            let found = kind(other);
            return Err(LineProblem::FieldType { field: place(".role"), found, expected: "a string" });
        }
        None => return Err(ChatProblem::Lacks { field, index, lacks: "role", keys: keys() }.into()),
    }
    match message.get("content") {
        Some(Value::String(_)) => {}
        Some(Value::Array(parts)) => parts.iter().enumerate().try_for_each(|(part, value)| match value {
            Value::Object(of) if of.get("type").is_none_or(|kind| kind == "text") && of.contains_key("text") => Ok(()),
            Value::Object(of) => {
                let kind = of.get("type").and_then(Value::as_str).unwrap_or("none");
                Err(LineProblem::from(ChatProblem::NotText { field, index, part, kind: super::problem::escaped(kind) }))
            }
            other => {
                let field = place(&format!(".content[{part}]"));
                Err(LineProblem::FieldType { field, found: kind(other), expected: "a part with `text`" })
            }
        })?,
        Some(other) => {
            let expected = "a string or an array of parts with `text`";
            return Err(LineProblem::FieldType { field: place(".content"), found: kind(other), expected });
        }
        // What a model calls, thinks or is told of tools may be all of a message.
        None if message.contains_key("tool_calls") || REASONING.iter().any(|key| message.contains_key(*key)) => {}
        None => return Err(ChatProblem::Lacks { field, index, lacks: "content", keys: keys() }.into()),
    }
    if let Some(thought) = REASONING.iter().find_map(|key| message.get(*key)).cloned() {
        message.insert("reasoning_content".into(), thought.clone());
        message.entry("thinking").or_insert(thought);
    }
    Ok(Value::Object(message))
}

impl Conversation {
    /// Whose turn it is.
    pub(super) fn role(&self, turn: usize) -> &str {
        self.messages[turn]["role"].as_str().unwrap_or_default()
    }

    /// The turns before the last one, and the last one, for a line that people read.
    pub(super) fn excerpt(&self) -> (String, String) {
        let said = |message: &Value| match &message["content"] {
            Value::String(text) => text.clone(),
            Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
            _ => message.get("tool_calls").map_or_else(String::new, Value::to_string),
        };
        let turn = |message: &Value| format!("{}: {}", message["role"].as_str().unwrap_or_default(), said(message));
        let (last, before) = self.messages.split_last().expect("a conversation has a turn");
        let before: Vec<String> = before.iter().map(turn).collect();
        let before = if before.is_empty() { String::new() } else { format!("{} ", before.join(" ")) };
        (before, turn(last))
    }
}
