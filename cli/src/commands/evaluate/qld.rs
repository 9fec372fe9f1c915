//! `ascribe evaluate qld`: what removing a query's strongest proponents costs that query (query loss difference).

use std::path::PathBuf;

use ascribe::attribution::evaluate;
use clap::Args;

use super::figures::{FigureFormat, print, print_csv, print_json};
use super::own_lists::{Figures, OwnLists, size};
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::counted;

/// Does a query get worse when the examples that are said to help it most are removed?
///
/// The rise of each query's loss (the fall of another measurement) after retraining without its own top examples,
/// beside its rise in the removals of the other queries' top examples, which are as large and not chosen for it.
/// Removals are those of `ascribe evaluate subsets --top`.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Qld {
    /// `removed` `[removals, examples]` and `query` `[removals]` in a safetensors file
    #[arg(long, value_name = "FILE")]
    removals: PathBuf,
    #[command(flatten)]
    of: OwnLists,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --top 100 --scores run --out top.safetensors --lists top.jsonl
  ascribe evaluate qld --removals top.safetensors --outcomes outcomes.safetensors --outcome loss"
);

impl Qld {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let (removals, queries) = self.of.read(&self.removals)?;
        let report = evaluate::qld(&removals, &queries, self.of.resampling.into())?;
        let evaluate::Qld { own, others, difference, ref per_query, .. } = report;
        let figures = Figures { own, others, difference, per_query };
        match self.of.format {
            FigureFormat::Table => print(&table(&report, figures))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(figures.rows("removed"))?,
        }
        let passed = self.of.at_least.is_none_or(|least| figures.chosen() >= least);
        Ok(if passed { Status::Done } else { Status::CheckFailed })
    }
}

fn table(report: &evaluate::Qld, figures: Figures<'_>) -> String {
    let what = if report.higher_is_better { "fall" } else { "rise" };
    let queries = counted(report.per_query.len() as u64, "queries");
    let title = format!(
        "{what} of the {} of {queries} after {} examples are removed",
        report.measurement,
        size(report.removed)
    );
    figures.table(&title, what, ["worse", "lose more by their own examples than by others'"])
}
