//! What `ascribe inspect` says of a checkpoint's folder.

use std::fmt::Write;
use std::path::Path;

use ascribe::curvature::{LayerSpec, Network};
use ascribe::data::{ImageSize, RowShape, Task, Tokenizer};
use ascribe::model::{Limits, LoadOptions, Model};

use super::detail::Detail;
use crate::show::Columns;
use crate::terminal::inline;
use crate::words::{count, counted};

/// Layers listed without `--verbose`.
const SHOWN: usize = 16;

/// A checkpoint: architecture, what it can be given, and the layers that are tracked by default.
pub(super) fn explain(folder: &Path, base: Option<&Path>, detail: Detail) -> anyhow::Result<String> {
    let model = Model::load(folder, &LoadOptions { base: base.map(Path::to_owned), ..LoadOptions::default() })?;
    let mut text = format!("{}: a checkpoint of `{}`\n", folder.display(), model.kind());
    match model.limits() {
        Limits::Tokens(limits) => {
            let positions = limits.max_positions.map_or("any number of".to_owned(), |n| format!("up to {n}"));
            let _ = writeln!(text, "reads sequences of {positions} tokens, out of {}", count(limits.vocabulary as u64));
            if let Some(decoder) = limits.decoder {
                let _ = writeln!(
                    text,
                    "its encoder reads a prompt, its decoder writes the completion behind the token {}",
                    decoder.start
                );
            }
            if limits.masked.is_some() {
                let _ = writeln!(text, "it fills in masked tokens: rows have `input_ids` and `labels`");
            }
            if let Some(labels) = model.labels() {
                let what = match labels.task {
                    Some(Task::Classification) => "gives for each text the logits of",
                    Some(Task::MultiLabel) => "gives for each text the logits, label by label, of",
                    Some(Task::Regression) => "gives for each text values:",
                    None => "gives for each text numbers, whose meaning the data decide:",
                };
                let _ = writeln!(text, "{what} {}", counted(labels.outputs as u64, "labels"));
            }
            match Tokenizer::find(folder, None) {
                Ok(tokenizer) => {
                    let (file, size) = (tokenizer.file().display(), count(tokenizer.vocabulary() as u64));
                    let _ = writeln!(text, "tokenizer: {file}, {size} tokens");
                }
                Err(error) => {
                    let _ = writeln!(text, "tokenizer: {}", inline(&error.to_string()));
                }
            }
        }
        Limits::Rows(limits) => {
            let task = match limits.task {
                Task::Classification => "classes",
                Task::MultiLabel => "labels",
                Task::Regression => "values",
            };
            let inputs = match limits.inputs {
                RowShape::Numbers(width) => format!("rows of {width} numbers"),
                RowShape::Image { channels, size: ImageSize::Exactly { height, width, .. } } => {
                    format!("images of {} and {height} x {width} pixels", counted(channels as u64, "channels"))
                }
                RowShape::Image { channels, size: ImageSize::Any } => {
                    format!("images of {} and any size", counted(channels as u64, "channels"))
                }
            };
            let _ = writeln!(text, "reads {inputs}, gives {} {task}", limits.outputs);
        }
    }
    let layers = model.layers();
    let weights: usize = layers.iter().map(LayerSpec::parameters).sum();
    let _ = writeln!(
        text,
        "\n{} tracked by default, {} weights:",
        counted(layers.len() as u64, "layers"),
        count(weights as u64)
    );
    let mut columns = Columns::titled(["layer", "outputs", "inputs", "bias"]);
    let shown = if detail == Detail::Full { layers.len() } else { SHOWN };
    for layer in layers.iter().take(shown) {
        let bias = if layer.columns() > layer.inputs { "yes" } else { "no" };
        columns.row([layer.name.clone(), layer.outputs.to_string(), layer.inputs.to_string(), bias.into()]);
    }
    text.push_str(&columns.text("  "));
    if layers.len() > shown {
        let _ = writeln!(text, "  and {} more (--verbose)", layers.len() - shown);
    }
    if !model.untracked().is_empty() {
        let all: u64 = model.untracked().iter().map(|kind| kind.parameters).sum();
        let _ = writeln!(text, "\nnot tracked, so in no score: {} parameters", count(all));
        let mut columns = Columns::titled(["tensors", "parameters"]);
        for kind in model.untracked() {
            columns.row([inline(&kind.name).into_owned(), count(kind.parameters)]);
        }
        text.push_str(&columns.text("  "));
    }
    for note in model.notes() {
        let _ = writeln!(text, "note: {}", inline(note));
    }
    Ok(text)
}
