//! `ascribe evaluate retrieval`: known answers among the strongest proponents.

use std::fmt::Write;
use std::path::PathBuf;

use anyhow::Context;
use ascribe::attribution::evaluate::{self, Answers};
use clap::Args;
use serde::Serialize;

use super::figures::{FigureFormat, Figures, print, print_csv, print_json};
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal::inline;
use crate::words::{count, counted};

/// Do a query's strongest proponents contain the training examples that are known to answer it?
///
/// Recall@k is the share of a query's known answers among its first k training examples, the mean reciprocal
/// rank that of the first answer; both are means over queries.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Retrieval {
    #[command(flatten)]
    figures: Figures,
    /// JSON lines with a query's `id` and the list of the training examples that answer it
    #[arg(long, value_name = "FILE")]
    answers: PathBuf,
    /// The field that holds the list
    #[arg(long, value_name = "FIELD", default_value = "stated_by")]
    field: String,
    /// Places at which recall is taken
    #[arg(long, value_name = "K,…", value_delimiter = ',', default_value = "1,4,8,16")]
    k: Vec<usize>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate retrieval --scores run --answers queries.jsonl
  ascribe evaluate retrieval --scores ekfac identity --answers queries.jsonl --field stated_by --k 1,8
  ascribe evaluate retrieval --scores run --answers queries.jsonl --at-least 0.9"
);

#[derive(Serialize)]
struct Report {
    runs: Vec<RunReport>,
}

#[derive(Serialize)]
struct RunReport {
    name: String,
    #[serde(flatten)]
    figures: evaluate::Retrieval,
}

impl Retrieval {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let answers = Answers::read(&self.answers, &self.field)?;
        let mut runs = vec![];
        for file in ScoreFile::open_all(&self.figures.scores)? {
            let figures = evaluate::retrieval(file.rows()?, &file.query_ids, &file.train_ids, &answers, &self.k)
                .with_context(|| {
                    format!("{}: cannot be evaluated on {}", file.path().display(), self.answers.display())
                })?;
            runs.push(RunReport { name: file.name, figures });
        }
        let report = Report { runs };
        match self.figures.format {
            FigureFormat::Table => print(&table(&report))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report))?,
        }
        Ok(self.figures.status(report.runs.iter().map(|run| run.figures.mean_reciprocal_rank)))
    }
}

/// A header and a line for each run.
fn rows(report: &Report) -> Vec<Vec<String>> {
    let at = |run: &RunReport| run.figures.recall_at.clone();
    let places = report.runs.first().map(at).unwrap_or_default();
    let titles = places.iter().map(|(k, _)| format!("recall_at_{k}"));
    let header = ["run".to_owned()].into_iter().chain(titles).chain(["mean_reciprocal_rank".to_owned()]).collect();
    let row = |run: &RunReport| {
        let recall = at(run).into_iter().map(|(_, share)| share.to_string());
        let rank = run.figures.mean_reciprocal_rank.to_string();
        [run.name.clone()].into_iter().chain(recall).chain([rank]).collect()
    };
    std::iter::once(header).chain(report.runs.iter().map(row)).collect()
}

fn table(report: &Report) -> String {
    let mut columns = Columns::default();
    let mut text = String::new();
    let Some(first) = report.runs.first() else { return text };
    let at = first.figures.recall_at.iter().map(|(k, _)| format!("recall@{k}"));
    columns.row(["run".to_owned()].into_iter().chain(at).chain(["mean reciprocal rank".into()]));
    for RunReport { name, figures } in &report.runs {
        let recall = figures.recall_at.iter().map(|(_, share)| format!("{share:.3}"));
        columns.row([name.clone()].into_iter().chain(recall).chain([format!("{:.3}", figures.mean_reciprocal_rank)]));
    }
    text.push_str(&columns.text(""));
    let answers: Vec<usize> = first.figures.queries.iter().map(|query| query.ranks.len()).collect();
    let (fewest, most) = (answers.iter().min().copied().unwrap_or(0), answers.iter().max().copied().unwrap_or(0));
    let each = if fewest == most { counted(most as u64, "answers") } else { format!("{fewest} to {most} answers") };
    let _ = writeln!(text, "\n{} with {each} each.", counted(answers.len() as u64, "queries"));
    if !first.figures.not_scored.is_empty() {
        let n = count(first.figures.not_scored.len() as u64);
        let _ = writeln!(text, "{n} with known answers not scored: {}", inline(&abridged(&first.figures.not_scored)));
    }
    text
}

fn abridged(ids: &[String]) -> String {
    let shown: Vec<&str> = ids.iter().take(8).map(String::as_str).collect();
    if ids.len() > shown.len() { format!("{}, …", shown.join(", ")) } else { shown.join(", ") }
}
