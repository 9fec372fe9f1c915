use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;

use anyhow::Context;
use serde_json::{Map, Value};

use super::Detail;
use crate::failure::Problem;
use crate::words::counted;

/// A file of JSON lines: how many, and the fields of the first.
pub(super) fn explain(path: &Path, detail: Detail) -> anyhow::Result<String> {
    let reading = || format!("{}: cannot be read", path.display());
    let (mut n, mut first) = (0, None);
    for line in BufReader::new(File::open(path).with_context(reading)?).lines() {
        let line = line.with_context(reading)?;
        if line.trim().is_empty() {
            continue;
        }
        n += 1;
        first.get_or_insert(line);
    }
    let Some(first) = first else { return Ok(format!("{}: an empty file\n", path.display())) };
    let object: Map<String, Value> = serde_json::from_str(&first).map_err(|error| {
        Problem::hinted(format!("{}:1: {error}", path.display()), "each line must be one JSON object")
    })?;
    let what = match () {
        () if object.contains_key("proponents") => "rankings, one query a line",
        () if object.contains_key("input_ids") => "examples as token ids",
        () if object.contains_key("prompt") => "examples with prompt and completion",
        () if object.contains_key("text") => "examples with text",
        () => "JSON objects",
    };
    let mut text = format!("{}: {}, {what}; the first has\n", path.display(), counted(n, "lines"));
    for (field, value) in &object {
        text.push_str(&format!("  {field}: {}\n", super::tensors::abridged(&value.to_string(), detail)));
    }
    Ok(text)
}
