//! A finished run folder, read for a report: its job, its own records, rankings and scores, and nothing else.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;

use anyhow::Context;
use ascribe::attribution::store::{Store, TensorFile};
use ascribe::job::{Job, LossCheck, Saturation};
use ascribe::presence::is_file;
use serde_json::Value;

use super::stored::{Inputs, Records, StoredRanking};
use crate::failure::Problem;

/// Bytes of the longest line of a ranking, and of the longest `run.json`, that are read.
const LONGEST: u64 = 64 << 20;

/// Scores of the first answer by layer set or stage.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) name: String,
    pub(super) scores: Scores,
}

/// A matrix of scores with the places of its examples.
#[derive(Debug)]
pub(super) struct Scores {
    file: TensorFile,
    examples: usize,
}

impl Scores {
    fn open(path: &Path, query_ids: &[&str]) -> anyhow::Result<(Self, Vec<String>)> {
        let file = TensorFile::open_checked(path)?;
        let ids = |entry: &str| -> anyhow::Result<Vec<String>> {
            let list = file.metadata(entry).and_then(|text| serde_json::from_str(text).ok());
            list.ok_or_else(|| {
                Problem::hinted(
                    format!("{}: no list `{entry}` in the metadata", path.display()),
                    "a report needs the run folder as ascribe wrote it",
                )
            })
        };
        let train_ids = ids("train_ids")?;
        let found = ids("query_ids")?;
        if found.iter().map(String::as_str).ne(query_ids.iter().copied()) {
            let problem = format!("{}: `ranking.jsonl` beside it is of other queries", path.display());
            return Err(Problem::hinted(problem, "`ascribe rank --out RUN` writes the ranking of these scores"));
        }
        let shape = file.spec("scores")?.shape.clone();
        if shape != [found.len(), train_ids.len()] {
            let problem = format!(
                "{}: `scores` has the shape {shape:?}, the metadata names {} queries and {} examples",
                path.display(),
                found.len(),
                train_ids.len()
            );
            return Err(Problem::hinted(problem, "a report needs the run folder as ascribe wrote it"));
        }
        file.f32("scores")?;
        Ok((Self { file, examples: train_ids.len() }, train_ids))
    }

    /// A query's scores.
    pub(super) fn row(&self, query: usize) -> &[f32] {
        let all = self.file.f32("scores").unwrap_or_default();
        all.get(query * self.examples..(query + 1) * self.examples).unwrap_or_default()
    }
}

/// A run folder whose job is done.
#[derive(Debug)]
pub(super) struct RunFolder {
    pub(super) job: Job,
    pub(super) records: Records,
    pub(super) saturation: Vec<Saturation>,
    /// The check of the data against the training log, if the run has one; an error if its file cannot be read.
    pub(super) loss_check: Option<Result<LossCheck, String>>,
    pub(super) rankings: Vec<StoredRanking>,
    /// The matrix, unless the run kept each query's best and worst alone.
    pub(super) scores: Option<Scores>,
    /// Column of each training example.
    pub(super) columns: HashMap<String, usize>,
    /// `[N]`, if the run has it.
    pub(super) self_influence: Option<Vec<f32>>,
    pub(super) layer_sets: Vec<Part>,
    pub(super) stages: Vec<Part>,
    /// The first answer's scores by segment of training.
    pub(super) segments: Vec<Part>,
    /// Rankings of further methods, dampings and time scales, by name.
    pub(super) others: Vec<(String, Vec<StoredRanking>)>,
}

impl RunFolder {
    /// Reads a run folder.
    ///
    /// # Errors
    /// If it is none, not finished, or its files do not belong together.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if !path.is_dir() {
            let problem = match is_file(path) {
                true => format!("{}: a file, and a report is of a run folder", path.display()),
                false => format!("{}: no such folder", path.display()),
            };
            return Err(Problem::hinted(problem, "give the folder that `--out` named when the scores were made"));
        }
        Store::open(path)?;
        let [job, records, ranking] = ["job.toml", "run.json", "ranking.jsonl"].map(|name| path.join(name));
        if !is_file(&ranking) {
            let scored = ["scores.safetensors", "top.safetensors"].iter().any(|name| is_file(&path.join(name)));
            let hint = match scored {
                true => format!("the scores are there: `ascribe rank --out {}` ranks them", path.display()),
                false => format!("`ascribe run {}` goes on from what is finished", job.display()),
            };
            return Err(Problem::hinted(format!("{}: not finished: no `ranking.jsonl`", path.display()), hint));
        }
        let job = Job::read(&job)?;
        let records = read_records(&records)?;
        let rankings = read_rankings(&ranking)?;
        if rankings.is_empty() {
            let hint = format!("`ascribe rank --out {}` writes it again", path.display());
            return Err(Problem::hinted(format!("{}: a ranking without a query", ranking.display()), hint));
        }
        let query_ids: Vec<&str> = rankings.iter().map(|ranking| ranking.query.id.as_str()).collect();
        let optional = |name: String| -> anyhow::Result<Option<(Scores, Vec<String>)>> {
            let file = path.join(name);
            if is_file(&file) { Scores::open(&file, &query_ids).map(Some) } else { Ok(None) }
        };
        let (scores, train_ids) = optional("scores.safetensors".to_owned())?.unzip();
        let mut columns: HashMap<String, usize> =
            train_ids.unwrap_or_default().into_iter().enumerate().map(|(column, id)| (id, column)).collect();
        let part = |name: &str, kind: &str| -> anyhow::Result<Option<Part>> {
            let found = optional(format!("scores.{kind}-{}.safetensors", plain(name)))?;
            let same = |(scores, _): &(Scores, Vec<String>)| scores.examples == columns.len();
            Ok(found.filter(same).map(|(scores, _)| Part { name: name.to_owned(), scores }))
        };
        let parts = |names: Vec<&str>, kind: &str| -> anyhow::Result<Vec<Part>> {
            Ok(names
                .into_iter()
                .map(|name| part(name, kind))
                .collect::<anyhow::Result<Vec<_>>>()?
                .into_iter()
                .flatten()
                .collect())
        };
        let summary = &records.summary;
        let layer_sets = parts(summary.layer_sets.iter().map(|set| set.name.as_str()).collect(), "layers")?;
        let stages = parts(summary.stages.iter().map(|stage| stage.name.as_str()).collect(), "stage")?;
        let mut segments = vec![];
        for (leg, of) in summary.legs.iter().enumerate() {
            let found = part(&(leg + 1).to_string(), "segment")?;
            segments.extend(found.map(|part| Part { name: of.name.clone(), ..part }));
        }
        let self_influence = path.join("self_influence.safetensors");
        let self_influence = match is_file(&self_influence) {
            true => {
                let file = TensorFile::open_checked(&self_influence)?;
                // beside best and worst scores alone it is the only file that knows the examples' places
                if let Some(text) = file.metadata("train_ids").filter(|_| columns.is_empty()) {
                    let ids: Vec<String> = serde_json::from_str(text).unwrap_or_default();
                    columns = ids.into_iter().enumerate().map(|(column, id)| (id, column)).collect();
                }
                Some(file.f32("self_influence")?.to_vec())
            }
            false => None,
        };
        let mut others = vec![];
        let is_set =
            |answer: &str| summary.layer_sets.iter().any(|set| answer.ends_with(&format!("layers-{}", set.name)));
        for answer in summary.answers.iter().skip(1).filter(|answer| !is_set(answer)) {
            let file = path.join(format!("ranking.{}.jsonl", answer.replace(['/', '\\'], "-")));
            if is_file(&file) {
                others.push((answer.clone(), read_rankings(&file)?));
            }
        }
        let saturation = Saturation::of_run_folder(path)?;
        let check = path.join("loss_check.json");
        let loss_check = is_file(&check).then(|| {
            LossCheck::of_run_folder(path)
                .ok_or_else(|| "`loss_check.json` of the run folder cannot be read".to_owned())
        });
        Ok(Self {
            job,
            saturation,
            loss_check,
            rankings,
            scores,
            columns,
            self_influence,
            layer_sets,
            stages,
            segments,
            others,
            records,
        })
    }

    /// What training examples are.
    pub(super) fn inputs(&self) -> Inputs {
        self.records.summary.stages.last().map_or(Inputs::Texts, |stage| stage.train.inputs())
    }

    /// What was read of all training data.
    pub(super) fn training_examples(&self) -> u64 {
        self.records.summary.stages.iter().map(|stage| stage.train.examples).sum()
    }
}

/// A name as it stands in that of a file.
fn plain(name: &str) -> String {
    name.chars().map(|c| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' }).collect()
}

fn read_records(file: &Path) -> anyhow::Result<Records> {
    const HINT: &str = "`ascribe run RUN/job.toml --out NEW` makes the run again with this version";
    if !is_file(file) {
        return Err(Problem::hinted(format!("{}: not there, and a finished run has it", file.display()), HINT));
    }
    let text = ascribe::foreign_file::read_text(file, LONGEST)
        .with_context(|| format!("{}: cannot be read", file.display()))?;
    let other = |what: String| Problem::hinted(format!("{}: {what}", file.display()), HINT);
    let value: Value = serde_json::from_str(&text).map_err(|error| other(format!("no JSON: {error}")))?;
    let version = value.get("ascribe_version").and_then(Value::as_str).unwrap_or("an unknown version").to_owned();
    serde_json::from_value(value)
        .map_err(|error| other(format!("of {version}, which recorded runs in another form: {error}")))
}

fn read_rankings(file: &Path) -> anyhow::Result<Vec<StoredRanking>> {
    let mut rankings = vec![];
    for_each_line(file, |number, line| {
        let ranking = serde_json::from_slice(line).map_err(|error| {
            let problem = format!("{}:{number}: no line of a ranking: {error}", file.display());
            Problem::hinted(problem, "`ascribe rank --out RUN` writes it again")
        })?;
        rankings.push(ranking);
        Ok(())
    })?;
    Ok(rankings)
}

/// Gives every line that is not blank, with its number from 1.
///
/// # Errors
/// If the file cannot be read, or a line is absurdly long.
pub(super) fn for_each_line(
    file: &Path,
    mut give: impl FnMut(usize, &[u8]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let reading = || format!("{}: cannot be read", file.display());
    let opened: File = ascribe::foreign_file::open(file).with_context(reading)?;
    let mut lines = BufReader::new(opened);
    let mut line = vec![];
    for number in 1.. {
        line.clear();
        lines.by_ref().take(LONGEST + 1).read_until(b'\n', &mut line).with_context(reading)?;
        if line.is_empty() {
            break;
        }
        if line.len() as u64 > LONGEST {
            let problem = format!("{}:{number}: a line of more than 64 MiB", file.display());
            return Err(Problem::hinted(problem, "each line must be one JSON object"));
        }
        if !line.trim_ascii().is_empty() {
            give(number, &line)?;
        }
    }
    Ok(())
}
