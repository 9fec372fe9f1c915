//! `ascribe evaluate likeness`: scores beside those of a reference run, on the queries that both have.

use std::collections::HashMap;
use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use ascribe::attribution::evaluate::{self, Bootstrap};
use clap::Args;
use serde::Serialize;

use super::figures::{FigureFormat, Figures, Resampling, cells, print, print_csv, print_json, range};
use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::counted;

/// How like the scores of a reference run are these?
///
/// For each query that both have, the correlation of its scores over the training examples; then the mean over queries.
/// A few queries by `--solve gauss-newton` say so which damping of the cheap method to take for all: the one whose
/// scores are most like theirs. No retraining is needed.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Likeness {
    #[command(flatten)]
    figures: Figures,
    /// The run folder or score file that the others are compared with; some of their queries are enough
    #[arg(long, value_name = "RUN")]
    reference: PathBuf,
    #[command(flatten)]
    resampling: Resampling,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe influence --run trained --train train.jsonl --queries queries.jsonl --damping 1x,0.1x,0.01x,0.001x --out run
  ascribe influence --run trained --train train.jsonl --queries few.jsonl \\
    --solve gauss-newton --damping 0.01 --out refined
  ascribe evaluate likeness --scores run --reference refined"
);

#[derive(Serialize)]
struct Report {
    reference: String,
    /// The queries that are compared.
    query_ids: Vec<String>,
    /// Queries of the reference that the scores do not have.
    not_shared: usize,
    runs: Vec<RunReport>,
    /// The run with the highest correlation.
    most_like: String,
}

#[derive(Serialize)]
struct RunReport {
    name: String,
    #[serde(flatten)]
    likeness: evaluate::Likeness,
}

impl Likeness {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let files = ScoreFile::open_all(&self.figures.scores)?;
        let reference = self.reference()?;
        let report = compare(&files, &reference, self.resampling.into())?;
        match self.figures.format {
            FigureFormat::Table => print(&table(&report, self.resampling.resamples))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report))?,
        }
        Ok(self.figures.status(report.runs.iter().map(|run| run.likeness.correlation)))
    }

    /// The one score file of the reference.
    fn reference(&self) -> anyhow::Result<ScoreFile> {
        let mut files = ScoreFile::open_all(std::slice::from_ref(&self.reference))?;
        if let [_, second, ..] = &files[..] {
            let message = format!("{}: has {} kinds of scores", self.reference.display(), files.len());
            let hint = format!("name one of its files, such as `--reference {}`", second.path().display());
            return Err(Problem::hinted(message, hint));
        }
        Ok(files.remove(0))
    }
}

fn compare(files: &[ScoreFile], reference: &ScoreFile, bootstrap: Bootstrap) -> anyhow::Result<Report> {
    let first = files.first().expect("clap asks for one at least");
    let beside = |file: &ScoreFile| format!("{}: cannot be compared with `{}`", file.path().display(), reference.name);
    if first.train_ids != reference.train_ids {
        let message = format!("`{}` and `{}` are not of the same training examples", first.name, reference.name);
        return Err(Problem::hinted(message, "compare runs of the same training file, in the same order"));
    }
    let places: HashMap<&str, usize> = first.query_ids.iter().enumerate().map(|(q, id)| (id.as_str(), q)).collect();
    let pairs = reference.query_ids.iter().enumerate();
    let pairs: Vec<_> = pairs.filter_map(|(theirs, id)| Some((*places.get(id.as_str())?, theirs))).collect();
    if pairs.is_empty() {
        let message = format!("`{}` and `{}` have no query in common", first.name, reference.name);
        return Err(Problem::hinted(message, "queries are the same if their ids are"));
    }
    let mut runs = vec![];
    for file in files {
        let likeness = evaluate::likeness(file.rows()?, reference.rows()?, &pairs, bootstrap);
        runs.push(RunReport { name: file.name.clone(), likeness: likeness.with_context(|| beside(file))? });
    }
    let by_correlation = |a: &&RunReport, b: &&RunReport| a.likeness.correlation.total_cmp(&b.likeness.correlation);
    let most_like = runs.iter().max_by(by_correlation).map(|run| run.name.clone()).unwrap_or_default();
    Ok(Report {
        reference: reference.name.clone(),
        query_ids: pairs.iter().map(|&(_, theirs)| reference.query_ids[theirs].clone()).collect(),
        not_shared: reference.query_ids.len() - pairs.len(),
        runs,
        most_like,
    })
}

/// A header and a line for each run.
fn rows(report: &Report) -> Vec<Vec<String>> {
    let header = [
        "run",
        "correlation",
        "correlation_low",
        "correlation_high",
        "rank_correlation",
        "rank_correlation_low",
        "rank_correlation_high",
    ];
    let row = |RunReport { name, likeness }: &RunReport| {
        let linear = cells(Some(likeness.correlation), likeness.interval);
        let rank = cells(Some(likeness.rank_correlation), likeness.rank_interval);
        [name.clone()].into_iter().chain(linear).chain(rank).collect()
    };
    std::iter::once(header.map(str::to_owned).to_vec()).chain(report.runs.iter().map(row)).collect()
}

fn table(report: &Report, resamples: usize) -> String {
    let queries = counted(report.query_ids.len() as u64, "queries");
    let mut text = format!("correlation with the scores of {}; {queries}\n\n", report.reference);
    let mut columns = Columns::titled(["run", "correlation", "95 % interval", "of ranks", "95 % interval"]);
    for RunReport { name, likeness } in &report.runs {
        columns.row([
            name.clone(),
            format!("{:.3}", likeness.correlation),
            range(likeness.interval),
            format!("{:.3}", likeness.rank_correlation),
            range(likeness.rank_interval),
        ]);
    }
    text.push_str(&columns.text(""));
    if report.runs.len() > 1 {
        let _ = write!(text, "\nMost like it: {}.\n", report.most_like);
    }
    if report.not_shared > 0 {
        let _ =
            writeln!(text, "{} of the reference are not in the scores.", counted(report.not_shared as u64, "queries"));
    }
    if resamples > 0 {
        let n = counted(resamples as u64, "resamples");
        let _ = writeln!(text, "Intervals: {n} of queries, the same for every run.");
    }
    text
}
