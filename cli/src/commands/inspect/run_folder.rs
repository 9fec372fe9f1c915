//! What `ascribe inspect` says of a run folder.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use anyhow::Context;
use ascribe::attribution::store::Store;
use ascribe::job::{Job, RunRecord};

use super::detail::Detail;
use crate::show::Columns;
use crate::terminal::inline;
use crate::words::{bytes, count, duration, name_of};

/// Files at fixed places, and what they hold.
const RESULTS: [(&str, &str); 9] = [
    ("job.toml", "the job, which `ascribe run` repeats"),
    ("run.json", "the plan and the stages"),
    ("scores.safetensors", "scores, queries x training examples"),
    ("top.safetensors", "each query's best and worst"),
    ("self_influence.safetensors", "self-influence of the training examples"),
    ("ranking.jsonl", "proponents and opponents, one query a line"),
    ("ranking.csv", "the same as a table"),
    ("report.html", "the run as a page to read"),
    ("report.md", "the same for an issue or a notebook"),
];

/// A run folder: its job, its stages, its results and artifacts.
pub(super) fn explain(folder: &Path, detail: Detail) -> anyhow::Result<String> {
    let store = Store::open(folder)?;
    let mut text = format!("{}: a run folder, of the job {}\n", folder.display(), store.job().short());
    let job = folder.join("job.toml");
    if ascribe::presence::is_file(&job) {
        let _ = write!(text, "\n{}", summary(&Job::read(&job)?));
    }
    if let Some(record) = RunRecord::of_run_folder(folder)? {
        let mut columns = Columns::titled(["stage", "done", "in"]);
        for stage in record.stages {
            columns.row([stage.stage, format!("{} {}", count(stage.units), stage.unit), duration(stage.seconds)]);
        }
        let _ = write!(text, "\n{}", columns.text("  "));
    }
    let mut columns = Columns::titled(["file", "size", "what it is"]);
    for (name, what) in RESULTS {
        if let Ok(metadata) = fs::metadata(folder.join(name)) {
            columns.row([name.to_owned(), bytes(metadata.len()), what.to_owned()]);
        }
    }
    for (name, size) in of_other_answers(folder)? {
        columns.row([name, bytes(size), "the same of another method, damping or time scale".to_owned()]);
    }
    let _ = write!(text, "\n{}", columns.text("  "));
    text.push_str(&artifacts(&folder.join("artifacts"), detail)?);
    Ok(text)
}

/// Results of a run's further answers, by name.
fn of_other_answers(folder: &Path) -> anyhow::Result<Vec<(String, u64)>> {
    let reading = || format!("{}: cannot be read", folder.display());
    let mut found = vec![];
    for entry in fs::read_dir(folder).with_context(reading)? {
        let entry = entry.with_context(reading)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let is_result = ["scores.", "top.", "ranking."].iter().any(|kind| name.starts_with(kind));
        if is_result && !RESULTS.iter().any(|(result, _)| *result == name) {
            found.push((name, entry.metadata().with_context(reading)?.len()));
        }
    }
    found.sort();
    Ok(found)
}

/// A job file.
pub(super) fn explain_job(file: &Path) -> anyhow::Result<String> {
    Ok(format!("{}: a job\n\n{}", file.display(), summary(&Job::read(file)?)))
}

fn summary(job: &Job) -> String {
    let queries = job.data.queries.as_ref().map_or("none".to_owned(), |file| file.display().to_string());
    let measure = job.method.measure.map_or("the model's default".to_owned(), |measure| name_of(&measure));
    let model = match (&job.source, &job.checkpoints) {
        (Some(source), _) => ("source", source.trajectory.path.display().to_string()),
        (None, Some(checkpoints)) => {
            let of = checkpoints.run.iter().chain(&checkpoints.folders).map(|path| path.display().to_string());
            ("checkpoints", of.collect::<Vec<_>>().join(", "))
        }
        (None, None) => ("model", job.model.path.display().to_string()),
    };
    let stages = job.data.stages.iter().map(|(stage, file)| format!("{stage}={}", file.display()));
    let train = match job.data.stages.is_empty() {
        true => job.data.train.display().to_string(),
        false => stages.collect::<Vec<_>>().join(", "),
    };
    let lines = [
        model,
        ("train", train),
        ("queries", queries),
        ("curvature", format!("{}, {} Fisher", name_of(&job.method.curvature), name_of(&job.method.fisher))),
        ("damping", job.method.damping.0.iter().map(|damping| String::from(*damping)).collect::<Vec<_>>().join(", ")),
        ("measure", measure),
        ("run", job.output.path.display().to_string()),
    ];
    lines.map(|(name, value)| format!("  {name:<10} {}\n", inline(&value))).concat()
}

/// What can be computed again, by name.
fn artifacts(folder: &Path, detail: Detail) -> anyhow::Result<String> {
    let mut files: Vec<(String, u64)> = vec![];
    let reading = || format!("{}: cannot be read", folder.display());
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        entries => Some(entries.with_context(reading)?),
    };
    if let Some(entries) = entries {
        for entry in entries {
            let entry = entry.with_context(reading)?;
            // another process may have renamed it meanwhile
            let Ok(metadata) = entry.metadata() else { continue };
            files.push((entry.file_name().to_string_lossy().into_owned(), metadata.len()));
        }
    }
    files.sort();
    let total: u64 = files.iter().map(|(_, size)| size).sum();
    let mut text =
        format!("\n  {} artifacts, {}: deleting them costs time and nothing else\n", files.len(), bytes(total));
    let shown = if detail == Detail::Full { files.len() } else { 16 };
    let mut columns = Columns::default();
    for (name, size) in files.iter().take(shown) {
        columns.row([name.clone(), bytes(*size)]);
    }
    text.push_str(&columns.text("  "));
    if files.len() > shown {
        let _ = writeln!(text, "  and {} more (--verbose)", files.len() - shown);
    }
    Ok(text)
}
