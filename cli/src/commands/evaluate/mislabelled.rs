//! `ascribe evaluate mislabelled`: whether self-influence finds training examples whose labels are known to be wrong.

use std::path::{Path, PathBuf};

use ascribe::attribution::evaluate::{self, KnownLabels};
use ascribe::attribution::store::TensorFile;
use clap::Args;
use serde::Serialize;

use super::figures::{FigureFormat, Figures, print, print_csv, print_json};
use crate::failure::Problem;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::{count, counted};

/// Does self-influence find the training examples whose label is known to be wrong?
///
/// Examples are ranked by self-influence, highest first. AUC is the probability that a wrongly labelled example ranks
/// above a right one (0.5 is chance); recall is the share of wrong ones among as many first places as there are.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Mislabelled {
    #[command(flatten)]
    figures: Figures,
    /// JSON lines with a training example's `id` and whether its label is wrong
    #[arg(long, value_name = "FILE")]
    answers: PathBuf,
    /// The field that says so: true or 1 for a wrong label
    #[arg(long, value_name = "FIELD", default_value = "mislabelled")]
    field: String,
    /// Shares of the examples among which recall is taken
    #[arg(long, value_name = "SHARE,…", value_delimiter = ',', default_value = "0.05,0.1,0.2")]
    share: Vec<f64>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe influence --model model --train train.jsonl --queries queries.jsonl --self-influence --out run
  ascribe evaluate mislabelled --scores run --answers known.jsonl
  ascribe evaluate mislabelled --scores run --answers known.jsonl --field flipped --share 0.01,0.1"
);

#[derive(Serialize)]
struct Report {
    /// Training examples that the file of answers does not name; they count as rightly labelled.
    not_named: usize,
    runs: Vec<RunReport>,
}

#[derive(Serialize)]
struct RunReport {
    name: String,
    #[serde(flatten)]
    figures: evaluate::Mislabelled,
}

impl Mislabelled {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let mut report = Report { not_named: 0, runs: vec![] };
        for path in &self.figures.scores {
            let (ids, values) = self_influence(path)?;
            let known = KnownLabels::read(&self.answers, &self.field, &ids)?;
            report.not_named = known.not_named;
            let figures = evaluate::mislabelled(&values, &known.mislabelled, &self.share)?;
            report.runs.push(RunReport { name: crate::score_file::name_of(path), figures });
        }
        match self.figures.format {
            FigureFormat::Table => print(&table(&report))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report, ToString::to_string))?,
        }
        Ok(self.figures.status(report.runs.iter().map(|run| run.figures.auc)))
    }
}

const SELF_INFLUENCE: &str = "self_influence.safetensors";

/// Ids and self-influence of the training examples of a run.
fn self_influence(path: &Path) -> anyhow::Result<(Vec<String>, Vec<f32>)> {
    let file = if path.is_dir() { path.join(SELF_INFLUENCE) } else { path.to_owned() };
    if path.is_dir() && !ascribe::presence::is_file(&file) {
        let message = format!("{}: no `{SELF_INFLUENCE}`", path.display());
        return Err(Problem::hinted(message, "score with `--self-influence`"));
    }
    let tensors = TensorFile::open(&file)?;
    let values = tensors.f32("self_influence")?.to_vec();
    let ids: Option<Vec<String>> = tensors.metadata("train_ids").and_then(|text| serde_json::from_str(text).ok());
    match ids.filter(|ids| ids.len() == values.len()) {
        Some(ids) => Ok((ids, values)),
        None => {
            let message =
                format!("{}: no list `train_ids` of its {} examples in the metadata", file.display(), values.len());
            Err(Problem::hinted(message, "give a run folder of ascribe"))
        }
    }
}

/// A header, a line for each run, and one for chance.
fn rows(report: &Report, number: impl Fn(&f64) -> String) -> Vec<Vec<String>> {
    let Some(first) = report.runs.first() else { return vec![] };
    let shares = first.figures.recall_at.iter().map(|(share, _)| format!("recall@{share}"));
    let mut rows = vec![["run", "AUC", "recall"].map(str::to_owned).into_iter().chain(shares).collect::<Vec<_>>()];
    for RunReport { name, figures } in &report.runs {
        let recall = figures.recall_at.iter().map(|(_, recall)| number(recall));
        rows.push([name.clone(), number(&figures.auc), number(&figures.recall)].into_iter().chain(recall).collect());
    }
    let wrong = first.figures.mislabelled as f64 / first.figures.examples as f64;
    let recall = first.figures.recall_at.iter().map(|(share, _)| number(share));
    rows.push(["random".to_owned(), number(&0.5), number(&wrong)].into_iter().chain(recall).collect());
    rows
}

fn table(report: &Report) -> String {
    let mut columns = Columns::default();
    rows(report, |number| format!("{number:.3}")).into_iter().for_each(|row| columns.row(row));
    let mut text = columns.text("");
    if let Some(RunReport { figures, .. }) = report.runs.first() {
        let examples = counted(figures.examples as u64, "examples");
        text.push_str(&format!("\n{} of {examples} have a wrong label.\n", count(figures.mislabelled as u64)));
    }
    if report.not_named > 0 {
        let n = counted(report.not_named as u64, "examples");
        text.push_str(&format!("{n} are not named among the answers and count as rightly labelled.\n"));
    }
    text
}
