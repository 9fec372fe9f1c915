//! `ascribe evaluate candidates`: what a cheap filter keeps of a run's rankings.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use ascribe::attribution::evaluate::{CandidateRecall, Recall, candidate_recall};
use clap::Args;
use serde::Serialize;

use super::figures::{FigureFormat, Figures, Resampling, cells, print, print_csv, print_json, range};
use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::{count, counted};

/// How much of a run's rankings does a cheap filter keep?
///
/// Had each query's training examples been filtered first, by the order of another score file such as that of
/// `evaluate baseline`, which share of the strongest proponents and opponents would have been scored at all?
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Candidates {
    #[command(flatten)]
    figures: Figures,
    /// The score file whose order is the filter, of the same queries and training examples
    #[arg(long, value_name = "FILE")]
    filter: PathBuf,
    /// Strongest examples of each side that are to be found
    #[arg(long, value_name = "K", default_value_t = 10, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..))]
    top: usize,
    /// Shares of the training examples that the filter lets pass
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_value = "0.01,0.05,0.1", value_parser = share)]
    share: Vec<f64>,
    #[command(flatten)]
    resampling: Resampling,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate baseline --method bm25 --train train.jsonl --queries queries.jsonl --out bm25.safetensors
  ascribe evaluate candidates --scores run --filter bm25.safetensors --top 10 --share 0.01,0.05,0.1"
);

fn share(text: &str) -> Result<f64, String> {
    let share: Option<f64> = text.trim().parse().ok();
    share.filter(|share| *share > 0.0 && *share <= 1.0).ok_or_else(|| "write a number above 0 and up to 1".to_owned())
}

#[derive(Serialize)]
struct Report {
    filter: String,
    top: usize,
    examples: usize,
    queries: usize,
    runs: Vec<RunReport>,
}

#[derive(Serialize)]
struct RunReport {
    name: String,
    candidates: Vec<CandidateRecall>,
}

impl Candidates {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let files = ScoreFile::open_all(&self.figures.scores)?;
        let mut filters = ScoreFile::open_all(std::slice::from_ref(&self.filter))?;
        if let [_, second, ..] = &filters[..] {
            let message = format!("{}: has {} kinds of scores", self.filter.display(), filters.len());
            return Err(Problem::hinted(
                message,
                format!("name one of its files, such as `--filter {}`", second.path().display()),
            ));
        }
        let filter = filters.remove(0);
        let mut runs = vec![];
        for file in &files {
            let (axis, same) = match file.query_ids == filter.query_ids {
                false => ("queries", false),
                true => ("training examples", file.train_ids == filter.train_ids),
            };
            if !same {
                let message = format!("`{}` and `{}` are not of the same {axis}", file.name, filter.name);
                return Err(Problem::hinted(message, "make the filter of the run's own files, in the same order"));
            }
            let found = candidate_recall(file.rows()?, filter.rows()?, self.top, &self.share, self.resampling.into());
            let candidates = found
                .with_context(|| format!("{}: cannot be compared with `{}`", file.path().display(), filter.name))?;
            runs.push(RunReport { name: file.name.clone(), candidates });
        }
        let report = Report {
            filter: filter.name.clone(),
            top: self.top,
            examples: filter.train_ids.len(),
            queries: filter.query_ids.len(),
            runs,
        };
        match self.figures.format {
            FigureFormat::Table => print(&table(&report))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report))?,
        }
        let least = |run: &RunReport| {
            let recalls = run.candidates.iter().filter_map(|at| at.proponents.recall);
            recalls.fold(f64::INFINITY, f64::min)
        };
        Ok(self.figures.status(report.runs.iter().map(least)))
    }
}

/// A header and a line for each run and share.
fn rows(report: &Report) -> Vec<Vec<String>> {
    let header = [
        "run",
        "share",
        "candidates",
        "proponents",
        "proponents_low",
        "proponents_high",
        "opponents",
        "opponents_low",
        "opponents_high",
    ];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for run in &report.runs {
        for at in &run.candidates {
            let side = |of: &Recall| cells(of.recall, of.interval);
            let first = [run.name.clone(), at.share.to_string(), at.candidates.to_string()];
            rows.push(first.into_iter().chain(side(&at.proponents)).chain(side(&at.opponents)).collect());
        }
    }
    rows
}

fn table(report: &Report) -> String {
    let mut columns = Columns::default();
    let titles = ["run", "share", "candidates", "of proponents", "95 %", "of opponents", "95 %"];
    columns.row(titles.map(str::to_owned));
    let figure = |of: &Recall| of.recall.map_or_else(|| "none".to_owned(), |recall| format!("{recall:.3}"));
    for run in &report.runs {
        for at in &run.candidates {
            columns.row([
                run.name.clone(),
                at.share.to_string(),
                count(at.candidates as u64),
                figure(&at.proponents),
                range(at.proponents.interval),
                figure(&at.opponents),
                range(at.opponents.interval),
            ]);
        }
    }
    let mut text = columns.text("");
    let _ = writeln!(
        text,
        "\nThe share of each query's {} strongest examples of either sign that are among so many first ones of `{}`: \
         means over {}, of {}. Intervals are over queries.",
        report.top,
        crate::terminal::inline(&report.filter),
        counted(report.queries as u64, "queries"),
        counted(report.examples as u64, "training examples")
    );
    text
}
