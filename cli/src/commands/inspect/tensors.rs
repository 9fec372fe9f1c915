//! What `ascribe inspect` says of a file of tensors.

use std::fmt::Write;
use std::path::Path;

use ascribe::attribution::store::TensorFile;

use super::detail::Detail;
use crate::show::Columns;
use crate::terminal::inline;
use crate::words::{bytes, counted};

/// Tensors listed without `--verbose`.
const SHOWN: usize = 24;
/// Characters of a value without `--verbose`.
const WIDTH: usize = 100;

/// A safetensors file: what it is, its tensors, its metadata.
pub(super) fn explain(path: &Path, detail: Detail) -> anyhow::Result<String> {
    let file = TensorFile::open(path)?;
    let mut text = format!("{}: {}\n\n", inline(&path.display().to_string()), what(&file));
    let mut columns = Columns::titled(["tensor", "type", "shape", "size"]);
    let mut total = 0;
    for (i, name) in file.names().iter().enumerate() {
        let (spec, size) = (file.spec(name)?, file.bytes(name)?.len() as u64);
        total += size;
        if detail == Detail::Full || i < SHOWN {
            columns.row([name.clone(), spec.dtype.to_string(), format!("{:?}", spec.shape), bytes(size)]);
        }
    }
    text.push_str(&columns.text("  "));
    let n = file.names().len();
    if detail == Detail::Short && n > SHOWN {
        let _ = writeln!(text, "  and {} more (--verbose)", n - SHOWN);
    }
    let _ = writeln!(text, "{}, {} in all", counted(n as u64, "tensors"), bytes(total));
    if !file.all_metadata().is_empty() {
        text.push_str("\nmetadata\n");
        for (name, value) in file.all_metadata() {
            let _ = writeln!(text, "  {}: {}", inline(name), inline(&list_or_text(value, detail)));
        }
    }
    Ok(text)
}

/// What the file is, by what it says of itself or holds.
fn what(file: &TensorFile) -> String {
    if let (Some(kind), Some(_)) = (file.metadata("kind"), file.metadata("ascribe_format")) {
        let partial = file.path().to_string_lossy().contains(".partial");
        let state = if partial { "progress of " } else { "" };
        let explained = match kind {
            "covariance" => "uncentred covariances of each layer's inputs and output gradients",
            "eigenbasis" => "eigenvectors of the covariances",
            "lambda" => "mean squared gradients in the eigenbasis, undamped",
            "queries" => "query cache: gradients of the measurements times the inverse curvature",
            "scores" => "scores of a range of training examples, transposed",
            _ => return format!("an artifact of the kind `{}`", inline(kind)),
        };
        return format!("{state}{explained} (`{kind}`)");
    }
    let has = |name: &str| file.names().iter().any(|n| n == name);
    match () {
        () if has("scores") && file.metadata("query_ids").is_some() => "scores, queries x training examples".into(),
        () if has("proponents.index") => "each query's best and worst training examples".into(),
        () if has("self_influence") => "self-influence of the training examples".into(),
        () if has("mask") => "subsets of training examples (1 = kept, unless it says otherwise)".into(),
        () if has("inputs") && has("targets") => "examples for an MLP".into(),
        () if file.names().iter().any(|name| name.ends_with(".weight")) => "weights".into(),
        () => "a safetensors file".into(),
    }
}

/// A JSON list of ids by its length and its first elements, anything else as it is.
fn list_or_text(value: &str, detail: Detail) -> String {
    match serde_json::from_str::<Vec<String>>(value) {
        Ok(ids) if detail == Detail::Short && ids.len() > 4 => format!("{}: {}, …", ids.len(), ids[..4].join(", ")),
        Ok(ids) if detail == Detail::Short => ids.join(", "),
        _ => abridged(value, detail),
    }
}

/// At most a line of a value.
pub(super) fn abridged(value: &str, detail: Detail) -> String {
    match value.char_indices().nth(WIDTH) {
        Some((at, _)) if detail == Detail::Short => format!("{}…", &value[..at]),
        _ => value.to_owned(),
    }
}
