//! Values as Python writes them: what a template prints of a number, a list or a dictionary, and its `tojson`.

use minijinja::value::ValueKind;
use minijinja::{Error, ErrorKind, Value};
use serde_json::Value as Parsed;

/// A value of JSON as a template meets it.
pub(super) fn value(json: &Parsed) -> Value {
    match json {
        Parsed::Null => Value::from(()),
        Parsed::Bool(yes) => Value::from(*yes),
        Parsed::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(number), _) => Value::from(number),
            (None, Some(number)) => Value::from(number),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Parsed::String(text) => Value::from(text.as_str()),
        Parsed::Array(items) => items.iter().map(value).collect::<Vec<_>>().into(),
        Parsed::Object(fields) => Value::from_pairs(fields.iter().map(|(key, field)| (key.as_str(), value(field)))),
    }
}

/// As `str` of Python writes a value.
pub(super) fn text(value: &Value) -> String {
    match value.as_str() {
        Some(text) => text.to_owned(),
        None if value.is_undefined() => String::new(),
        None => repr(value),
    }
}

/// As `repr` of Python writes a value.
fn repr(value: &Value) -> String {
    let list = |value: &Value| -> String {
        let items = value.try_iter().into_iter().flatten().map(|item| repr(&item));
        items.collect::<Vec<_>>().join(", ")
    };
    match value.kind() {
        ValueKind::Undefined => "Undefined".into(),
        ValueKind::None => "None".into(),
        ValueKind::Bool => if value.is_true() { "True" } else { "False" }.into(),
        ValueKind::Number => number(value),
        ValueKind::String => quoted(value.as_str().unwrap_or_default()),
        ValueKind::Seq | ValueKind::Iterable if !value.is_tuple() => format!("[{}]", list(value)),
        ValueKind::Map => {
            let item = |key: Value| {
                let of_key = value.get_item(&key).unwrap_or_default();
                format!("{}: {}", repr(&key), repr(&of_key))
            };
            let items = value.try_iter().into_iter().flatten().map(item);
            format!("{{{}}}", items.collect::<Vec<_>>().join(", "))
        }
        _ => value.to_string(),
    }
}

fn number(value: &Value) -> String {
    match f64::try_from(value.clone()) {
        Ok(number) if !value.is_integer() => float(number),
        _ => value.to_string(),
    }
}

/// The shortest digits of a number that give it back, with an exponent where Python has one.
fn float(number: f64) -> String {
    if !number.is_finite() {
        return if number.is_nan() {
            "nan"
        } else if number > 0.0 {
            "inf"
        } else {
            "-inf"
        }
        .into();
    }
    let written = format!("{number:e}");
    let (digits, exponent) = written.split_once('e').unwrap_or((&written, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    if number != 0.0 && !(-4..16).contains(&exponent) {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{digits}e{sign}{:02}", exponent.abs());
    }
    let plain = number.to_string();
    if plain.contains('.') { plain } else { format!("{plain}.0") }
}

/// A text between quotes, with what cannot be printed escaped.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    let mut written = String::from(quote);
    for c in text.chars() {
        match c {
            '\\' => written += "\\\\",
            '\n' => written += "\\n",
            '\r' => written += "\\r",
            '\t' => written += "\\t",
            c if c == quote => {
                written.push('\\');
                written.push(c);
            }
            c if c.is_control() => written += &format!("\\x{:02x}", c as u32),
            c => written.push(c),
        }
    }
    written.push(quote);
    written
}

/// How JSON is written, by the arguments of Python's `json.dumps`.
#[derive(Debug, Clone)]
pub(super) struct Json {
    /// Characters beyond ASCII are escaped.
    pub(super) ascii: bool,
    /// What each level is moved by; none: everything on one line.
    pub(super) indent: Option<String>,
    /// Between items, and between a key and its value.
    pub(super) separators: Option<(String, String)>,
    /// Keys in their order.
    pub(super) sorted: bool,
}

impl Json {
    /// A value as `json.dumps` writes it.
    pub(super) fn write(&self, value: &Value) -> Result<String, Error> {
        let mut out = String::new();
        self.value(value, 0, &mut out)?;
        Ok(out)
    }

    fn value(&self, value: &Value, level: usize, out: &mut String) -> Result<(), Error> {
        match value.kind() {
            ValueKind::None => out.push_str("null"),
            ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => {
                let number = number(value);
                out.push_str(match number.as_str() {
                    "nan" => "NaN",
                    "inf" => "Infinity",
                    "-inf" => "-Infinity",
                    number => number,
                });
            }
            ValueKind::String => self.string(value.as_str().unwrap_or_default(), out),
            ValueKind::Seq | ValueKind::Iterable => {
                let items: Vec<Value> = value.try_iter()?.collect();
                self.items(('[', ']'), &items, level, out, |item, out| self.value(item, level + 1, out))?;
            }
            ValueKind::Map => {
                let mut keys: Vec<Value> = value.try_iter()?.collect();
                if self.sorted {
                    keys.sort_by_key(text);
                }
                self.items(('{', '}'), &keys, level, out, |key, out| {
                    self.string(&text(key), out);
                    out.push_str(self.separators.as_ref().map_or(": ", |(_, colon)| colon));
                    self.value(&value.get_item(key)?, level + 1, out)
                })?;
            }
            kind => {
                let message = format!("a value that is {kind} cannot be written as JSON");
                return Err(Error::new(ErrorKind::BadSerialization, message));
            }
        }
        Ok(())
    }

    fn items(
        &self,
        (open, close): (char, char),
        items: &[Value],
        level: usize,
        out: &mut String,
        mut write: impl FnMut(&Value, &mut String) -> Result<(), Error>,
    ) -> Result<(), Error> {
        let comma = match (&self.separators, &self.indent) {
            (Some((comma, _)), _) => comma.as_str(),
            (None, Some(_)) => ",",
            (None, None) => ", ",
        };
        let line = |level: usize, out: &mut String| {
            if let Some(indent) = self.indent.as_ref().filter(|_| !items.is_empty()) {
                out.push('\n');
                (0..level).for_each(|_| out.push_str(indent));
            }
        };
        out.push(open);
        for (k, item) in items.iter().enumerate() {
            if k > 0 {
                out.push_str(comma);
            }
            line(level + 1, out);
            write(item, out)?;
        }
        line(level, out);
        out.push(close);
        Ok(())
    }

    fn string(&self, text: &str, out: &mut String) {
        let written = serde_json::to_string(text).unwrap_or_default();
        for c in written.chars() {
            if self.ascii && !c.is_ascii() {
                let mut units = [0; 2];
                c.encode_utf16(&mut units).iter().for_each(|unit| out.push_str(&format!("\\u{unit:04x}")));
            } else {
                out.push(c);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn json(indent: Option<&str>) -> Json {
        Json { ascii: false, indent: indent.map(str::to_owned), separators: None, sorted: false }
    }

    // Every expectation below is what Python 3 prints.
    #[test]
    fn values_are_written_as_python_writes_them() {
        let value = super::value(&json!({"b": [1, 2.0, true, null], "a": "it's", "c": {"d": "\"x\"\n"}}));
        assert_eq!(text(&value), "{'b': [1, 2.0, True, None], 'a': \"it's\", 'c': {'d': '\"x\"\\n'}}");
        for (number, written) in [
            (0.1, "0.1"),
            (1e16, "1e+16"),
            (1e15, "1000000000000000.0"),
            (1.5e-5, "1.5e-05"),
            (-0.0, "-0.0"),
            (1e-4, "0.0001"),
            (1.25e300, "1.25e+300"),
            (0.0, "0.0"),
        ] {
            assert_eq!(text(&Value::from(number)), written);
        }
        assert_eq!((text(&Value::from(3)), text(&Value::UNDEFINED)), ("3".into(), String::new()));
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value = super::value(&json!({"b": [1, 2.5, "ü<'&\u{1}"], "a": {}, "n": [], "z": null}));
        let write = |json: &Json| json.write(&value).expect("JSON");
        assert_eq!(write(&json(None)), r#"{"b": [1, 2.5, "ü<'&\u0001"], "a": {}, "n": [], "z": null}"#);
        let lines =
            "{\n  \"b\": [\n    1,\n    2.5,\n    \"ü<'&\\u0001\"\n  ],\n  \"a\": {},\n  \"n\": [],\n  \"z\": null\n}";
        assert_eq!(write(&json(Some("  "))), lines);
        let compact = Json { ascii: true, separators: Some((",".into(), ":".into())), sorted: true, ..json(None) };
        assert_eq!(write(&compact), r#"{"a":{},"b":[1,2.5,"\u00fc<'&\u0001"],"n":[],"z":null}"#);
        assert!(json(None).write(&Value::UNDEFINED).is_err());
    }
}
