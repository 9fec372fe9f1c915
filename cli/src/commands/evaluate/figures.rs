//! What evaluations have in common: the runs that are evaluated, intervals, and how figures are printed.

use std::path::PathBuf;

use ascribe::attribution::evaluate::{Bootstrap, Interval};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use serde::Serialize;

use crate::status::Status;
use crate::terminal;

/// The runs that are evaluated, and how figures are printed.
#[derive(Debug, Clone, Args)]
pub(super) struct Figures {
    /// Run folders, or score files with `query_ids` and `train_ids` in their metadata
    #[arg(long, value_name = "RUN", required = true, num_args = 1..)]
    pub(super) scores: Vec<PathBuf>,
    /// How figures are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    pub(super) format: FigureFormat,
    /// End with exit code 1 if a run's figure is below this
    #[arg(long, value_name = "FIGURE", value_parser = figure, help_heading = "Output")]
    pub(super) at_least: Option<f64>,
}

impl Figures {
    /// Done, or the check said no.
    pub(super) fn status(&self, figures: impl IntoIterator<Item = f64>) -> Status {
        let Some(least) = self.at_least else { return Status::Done };
        // a figure that is no number is not at least anything
        if figures.into_iter().all(|figure| figure >= least) { Status::Done } else { Status::CheckFailed }
    }
}

/// Intervals have long settled by then.
pub(super) const MOST_RESAMPLES: u64 = 100_000;

/// A number of resamples.
pub(super) fn resamples() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=MOST_RESAMPLES)
}

/// How intervals are resampled.
#[derive(Debug, Clone, Copy, Args)]
pub(super) struct Resampling {
    /// Resamples for the 95 % intervals; 0 for none
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples, value_parser = resamples())]
    pub(super) resamples: usize,
    /// Seed of the resamples; figures that are compared must share it
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    pub(super) seed: u64,
}

impl From<Resampling> for Bootstrap {
    fn from(Resampling { resamples, seed }: Resampling) -> Self {
        Self { resamples, seed }
    }
}

/// A figure that others can be compared with.
pub(super) fn figure(text: &str) -> Result<f64, String> {
    text.trim().parse().ok().filter(|figure: &f64| figure.is_finite()).ok_or_else(|| "write a number".to_owned())
}

/// How figures are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(super) enum FigureFormat {
    /// For reading
    #[default]
    Table,
    /// Everything, every query by itself included
    Json,
    /// A line for each run
    Csv,
}

pub(super) fn print(text: &str) -> anyhow::Result<()> {
    terminal::print(text, "the figures")
}

pub(super) fn print_json(report: &impl Serialize) -> anyhow::Result<()> {
    terminal::print_json(&format!("{}\n", serde_json::to_string_pretty(report)?), "the figures")
}

/// Rows of cells with a header.
pub(super) fn print_csv(rows: impl IntoIterator<Item = Vec<String>>) -> anyhow::Result<()> {
    let mut writer = csv::Writer::from_writer(vec![]);
    for row in rows {
        let visible = |cell: String| match terminal::stdout_is_terminal() {
            true => terminal::inline(&cell).into_owned(),
            false => cell,
        };
        writer.write_record(row.into_iter().map(visible))?;
    }
    let bytes = writer.into_inner().map_err(|error| anyhow::anyhow!("{error}"))?;
    terminal::print_prepared(&bytes, "the figures")
}

/// A number of a CSV cell with every digit, or nothing.
pub(super) fn cell(value: Option<f64>) -> String {
    value.map_or_else(String::new, |value| value.to_string())
}

/// Figure and ends of its interval as cells.
pub(super) fn cells(value: Option<f64>, interval: Option<Interval>) -> [String; 3] {
    [cell(value), cell(interval.map(|interval| interval.low)), cell(interval.map(|interval| interval.high))]
}

/// `0.123 to 0.456`, or nothing.
pub(super) fn range(interval: Option<Interval>) -> String {
    interval.map_or_else(String::new, |Interval { low, high }| format!("{low:.3} to {high:.3}"))
}

/// Three digits that count: `0.0512`, `1.31`.
pub(super) fn amount(value: f64) -> String {
    let places = match value.abs() {
        size if size >= 1.0 || size == 0.0 => 2,
        size => (2.0 - size.log10().floor()).clamp(2.0, 9.0) as usize,
    };
    format!("{value:.places$}")
}
