//! Values of JSON as fields hold them: their kind in messages, and strings.

use serde_json::Value;

use super::line_problem::LineProblem;

/// The one key of an object that stands for bytes of a table that are no text; its value is their number.
pub(super) const BYTES: &str = "bytes";

/// The text of a field that must be a string.
pub(super) fn string(field: &str, value: Value) -> Result<String, LineProblem> {
    match value {
        Value::String(text) => Ok(text),
        other => Err(LineProblem::FieldType { field: field.into(), found: kind(&other), expected: "a string" }),
    }
}

/// What a value is, as messages call it.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(number) if number.is_f64() => "a number with a fraction",
        Value::Number(_) => "an integer",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(parts) if parts.len() == 1 && parts.get(BYTES).is_some_and(Value::is_u64) => {
            "bytes that are no UTF-8"
        }
        Value::Object(_) => "an object",
    }
}
