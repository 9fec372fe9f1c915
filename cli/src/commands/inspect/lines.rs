//! What `ascribe inspect` says of a file of JSON lines.

use std::io::{self, BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use ascribe::foreign_file;
use serde_json::{Map, Value};

use super::detail::Detail;
use crate::failure::Problem;
use crate::terminal::inline;
use crate::words::{bytes, counted};

/// Bytes of the longest line that is read.
const LONGEST: u64 = 64 << 20;

/// A file of JSON lines: how many, and the fields of the first.
pub(super) fn explain(path: &Path, detail: Detail) -> anyhow::Result<String> {
    let reading = || format!("{}: cannot be read", path.display());
    let (mut n, mut first) = (0, None);
    let mut lines = BufReader::new(foreign_file::open(path).with_context(reading)?);
    loop {
        let mut line = vec![];
        lines.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line).with_context(reading)?;
        if line.is_empty() {
            break;
        }
        if line.len() as u64 > LONGEST {
            let problem = format!("{}: a line is longer than {}", path.display(), bytes(LONGEST));
            return Err(Problem::hinted(problem, "each line must be one JSON object"));
        }
        if line.trim_ascii().is_empty() {
            continue;
        }
        n += 1;
        if first.is_none() {
            first = Some(String::from_utf8(line).map_err(io::Error::other).with_context(reading)?);
        }
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
        text.push_str(&format!(
            "  {}: {}\n",
            inline(field),
            inline(&super::tensors::abridged(&value.to_string(), detail))
        ));
    }
    Ok(text)
}
