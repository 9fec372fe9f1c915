//! `ascribe evaluate tail-patch`: what a step of training on a query's strongest proponents does to that query.

use std::path::PathBuf;

use ascribe::attribution::evaluate;
use clap::Args;

use super::figures::{FigureFormat, print, print_csv, print_json};
use super::own_lists::{Figures, OwnLists, size};
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::counted;

/// Does a query get better by a step of training on the examples that are said to help it most?
///
/// The rise of each query's log-probability (the fall of a loss) after a step from the checkpoint on its own top examples
/// (Chang et al. 2024), beside its rise in the steps on the other queries' top examples, which are as many and not chosen
/// for it. Lists are those of `ascribe evaluate subsets --top`; the steps are yours.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct TailPatch {
    /// `removed` `[lists, examples]`, 1 for the examples of a list, and `query` `[lists]` in a safetensors file
    #[arg(long, value_name = "FILE")]
    lists: PathBuf,
    #[command(flatten)]
    of: OwnLists,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --top 8 --scores run --out top.safetensors --lists top.jsonl
  ascribe evaluate tail-patch --lists top.safetensors --outcomes patched.safetensors --outcome logprob"
);

impl TailPatch {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let (lists, queries) = self.of.read(&self.lists)?;
        let report = evaluate::tail_patch(&lists, &queries, self.of.resampling.into())?;
        let evaluate::TailPatch { own, others, difference, ref per_query, .. } = report;
        let figures = Figures { own, others, difference, per_query };
        match self.of.format {
            FigureFormat::Table => print(&table(&report, figures))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(figures.rows("trained on"))?,
        }
        let passed = self.of.at_least.is_none_or(|least| figures.chosen() >= least);
        Ok(if passed { Status::Done } else { Status::CheckFailed })
    }
}

fn table(report: &evaluate::TailPatch, figures: Figures<'_>) -> String {
    let what = if report.higher_is_better { "rise" } else { "fall" };
    let queries = counted(report.per_query.len() as u64, "queries");
    let title = format!(
        "{what} of the {} of {queries} after a step on {} examples",
        report.measurement,
        size(report.trained_on)
    );
    figures.table(&title, what, ["better", "gain more by their own examples than by others'"])
}
