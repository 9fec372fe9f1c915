//! A run that is several stages, as the file that says so: each part of a run that was resumed may have had training
//! examples of its own.

use std::path::{Path, PathBuf};

use crate::trajectory::reading::Reading;
use crate::trajectory::warning::Warning;

/// A part of a Trainer's run.
struct Part {
    name: String,
    run: PathBuf,
    after: Option<usize>,
    last: Option<usize>,
}

impl Reading {
    /// A `trajectory.toml` with a stage for the run whose checkpoint this one began with, and one for each part of a run
    /// that was resumed, with the names of the stages; `None` of a run that is one stage.
    pub fn as_stages(&self) -> Option<(String, Vec<String>)> {
        let mut parts = vec![];
        let resumed = self.warnings.iter().find_map(|warning| match warning {
            Warning::Resumed { after } => Some(after.clone()),
            _ => None,
        });
        let before = self.warnings.iter().find_map(|warning| match warning {
            Warning::BeganFrom { checkpoint, step } => Some((checkpoint.parent()?, *step)),
            _ => None,
        });
        if let Some((run, step)) = before {
            parts.push(Part { name: "before".into(), run: absolute(run), after: None, last: Some(step) });
        }
        let ends = resumed.unwrap_or_default();
        if parts.is_empty() && ends.is_empty() {
            return None;
        }
        let (mut after, several) = (None, !ends.is_empty());
        for (number, end) in ends.into_iter().map(Some).chain([None]).enumerate() {
            let name = if several { format!("part-{}", number + 1) } else { self.name.clone() };
            parts.push(Part { name, run: absolute(&self.source), after, last: end });
            after = end;
        }
        let text = parts.iter().map(|Part { name, run, after, last }| {
            let quoted = |text: &str| toml::Value::from(text).to_string();
            let steps = [("after_step", after), ("last_step", last)];
            let steps = steps.iter().filter_map(|(key, step)| Some(format!("{key} = {}\n", (**step)?)));
            let (name, run) = (quoted(name), quoted(&run.to_string_lossy()));
            format!("[[stage]]\nname = {name}\nrun = {run}\n{}", steps.collect::<String>())
        });
        let text = text.collect::<Vec<_>>().join("\n");
        Some((text, parts.into_iter().map(|part| part.name).collect()))
    }
}

fn absolute(path: &Path) -> PathBuf {
    std::path::absolute(path).unwrap_or_else(|_| path.to_owned())
}
