//! `ascribe evaluate qld`: what removing a query's strongest proponents costs that query (query loss difference).

use std::fmt::Write;
use std::path::PathBuf;

use ascribe::attribution::evaluate::{self, MeanFall, Orientation, Removals};
use clap::Args;

use super::figures::{FigureFormat, Resampling, amount, cells, print, print_csv, print_json};
use crate::show::Columns;
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
    /// What was measured after retraining, in a safetensors file [default: that of `--removals`]
    #[arg(long, value_name = "FILE")]
    outcomes: Option<PathBuf>,
    /// The measurement: tensors `NAME` `[removals, seeds, queries]` and `full_NAME` `[seeds, queries]`
    #[arg(long, value_name = "NAME")]
    outcome: String,
    /// Whether higher values of the measurement are better [default: unless its name contains `loss`]
    #[arg(long, value_name = "BOOL")]
    higher_is_better: Option<bool>,
    #[command(flatten)]
    resampling: Resampling,
    /// How figures are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: FigureFormat,
    /// End with exit code 1 if own minus others is below this
    #[arg(long, value_name = "FIGURE", help_heading = "Output")]
    at_least: Option<f64>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --top 100 --scores run --out top.safetensors --lists top.jsonl
  ascribe evaluate qld --removals top.safetensors --outcomes outcomes.safetensors --outcome loss"
);

impl Qld {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let orientation = self.higher_is_better.map(|higher| match higher {
            true => Orientation::HigherIsBetter,
            false => Orientation::LowerIsBetter,
        });
        let outcomes = self.outcomes.as_ref().unwrap_or(&self.removals);
        let queries = evaluate::removal_queries(&self.removals)?;
        let removals = Removals::read(&self.removals, outcomes, &self.outcome, orientation, 0)?;
        let report = evaluate::qld(&removals, &queries, self.resampling.into())?;
        match self.format {
            FigureFormat::Table => print(&table(&report))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report))?,
        }
        let chosen = report.difference.unwrap_or(report.own).mean;
        let passed = self.at_least.is_none_or(|least| chosen >= least);
        Ok(if passed { Status::Done } else { Status::CheckFailed })
    }
}

fn figures(report: &evaluate::Qld) -> [(&'static str, Option<MeanFall>); 3] {
    [("own", Some(report.own)), ("others", report.others), ("own minus others", report.difference)]
}

fn rows(report: &evaluate::Qld) -> Vec<Vec<String>> {
    let header = ["removed", "mean", "low", "high"].map(str::to_owned).to_vec();
    let row = |(name, fall): (&str, Option<MeanFall>)| {
        let cells = cells(fall.map(|fall| fall.mean), fall.and_then(|fall| fall.interval));
        [name.to_owned()].into_iter().chain(cells).collect()
    };
    std::iter::once(header).chain(figures(report).into_iter().map(row)).collect()
}

fn table(report: &evaluate::Qld) -> String {
    let what = if report.higher_is_better { "fall" } else { "rise" };
    let (low, high) = report.removed;
    let size = if low == high { low.to_string() } else { format!("{low} to {high}") };
    let queries = counted(report.per_query.len() as u64, "queries");
    let mut text = format!("{what} of the {} of {queries} after {size} examples are removed\n\n", report.measurement);
    let mut columns = Columns::titled(["top examples of", what, "95 % interval"]);
    for (name, fall) in figures(report) {
        let Some(fall) = fall else { continue };
        let name = match name {
            "own" => "the query itself",
            "others" => "other queries",
            name => name,
        };
        let interval = fall.interval.map(|range| format!("{} to {}", amount(range.low), amount(range.high)));
        columns.row([name.to_owned(), amount(fall.mean), interval.unwrap_or_default()]);
    }
    text.push_str(&columns.text(""));
    let worse = report.per_query.iter().filter(|fall| fall.others.is_none_or(|others| fall.own > others)).count();
    let _ = writeln!(
        text,
        "\nPositive: the query gets worse. {worse} of {queries} lose more by their own examples than by others'."
    );
    text
}
