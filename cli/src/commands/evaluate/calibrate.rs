//! `ascribe evaluate calibrate`: the scale of a run's amounts, fixed by a few models that were retrained.

use std::path::PathBuf;

use anyhow::Context;
use ascribe::attribution::evaluate::{Bootstrap, CALIBRATION, Calibration, Interval, Run, Scale, find_slope};
use clap::Args;

use super::figures::{FigureFormat, amount, cells, print, print_csv, print_json};
use super::retrained::{Retrained, Truth};
use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal::say;
use crate::words::counted;

/// Fix the scale of a run's predicted amounts by a few retrained subsets
///
/// Finds the slope of measured over predicted changes, median over queries, with a 95 % interval over subsets and
/// queries, for every method, damping and time scale of the run. Four subsets are usual, three the fewest. Writes
/// `calibration.json` into the run folder; `ascribe rank` then prints calibrated amounts beside the scores.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Calibrate {
    /// A run folder, or a score file of one
    #[arg(long, value_name = "RUN")]
    scores: PathBuf,
    #[command(flatten)]
    retrained: Retrained,
    /// The file that is written, and replaced if it exists [default: `calibration.json` in the run folder]
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Resamples of queries for the interval
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples, value_parser = super::figures::resamples())]
    resamples: usize,
    /// Seed of the resamples
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// How figures are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: FigureFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate subsets --examples 5000 --count 4 --removed --out removals.safetensors
  ascribe evaluate calibrate --scores run --removals removals.safetensors \\
    --outcomes outcomes.safetensors --outcome margin
  ascribe rank --out run"
);

/// The entry of a score file that says which computation it is of.
const KEY: &str = "ascribe_key";

impl Calibrate {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let truth = self.retrained.read()?;
        let files = ScoreFile::open_all(std::slice::from_ref(&self.scores))?;
        let folder = match self.scores.is_dir() {
            true => Some(self.scores.as_path()),
            false => self.scores.parent(),
        };
        let out = match (self.out, folder) {
            (Some(out), _) => out,
            (None, Some(folder)) => folder.join(CALIBRATION),
            (None, None) => PathBuf::from(CALIBRATION),
        };
        let (removals, outcomes) = match &truth {
            Truth::Subsets(_, outcomes) => (false, outcomes),
            Truth::Removals(removals) => (true, removals.changes()),
        };
        let bootstrap = Bootstrap { resamples: self.resamples, seed: self.seed };
        let mut scales = vec![];
        for file in &files {
            let Some(key) = file.metadata(KEY) else {
                let message = format!("{}: no `{KEY}` in the metadata", file.path.display());
                return Err(Problem::hinted(
                    message,
                    "give the scores of a run of ascribe: amounts are calibrated for these alone",
                ));
            };
            if let Some(amounts) = file.amounts {
                let predictions = truth.predictions(file)?;
                let run = Run { name: &file.name, predictions: &predictions, amounts: Some(amounts) };
                let found = find_slope(&run, outcomes, bootstrap)?;
                let Interval { low, high } = found.interval;
                scales.push(Scale {
                    answer: file.metadata("answer").unwrap_or(&file.name).to_owned(),
                    key: key.to_owned(),
                    slope: found.slope,
                    slope_interval: found.interval,
                    factor: found.slope * amounts,
                    factor_interval: Interval { low: low * amounts, high: high * amounts },
                });
            }
        }
        if scales.is_empty() {
            let message = format!("{}: the scores are cosines and no amounts", self.scores.display());
            return Err(Problem::hinted(message, "score without `--normalize cosine`"));
        }
        let calibration = Calibration::new(outcomes, removals, scales);
        let text = calibration.text()?;
        std::fs::write(&out, text).with_context(|| format!("{}: cannot be written", out.display()))?;
        match self.format {
            FigureFormat::Table => print(&table(&calibration, &files))?,
            FigureFormat::Json => print_json(&calibration)?,
            FigureFormat::Csv => print_csv(rows(&calibration))?,
        }
        say(&format!("{} in {}", counted(calibration.scales.len() as u64, "scales"), out.display()));
        Ok(Status::Done)
    }
}

fn rows(calibration: &Calibration) -> Vec<Vec<String>> {
    let titles = ["answer", "slope", "slope_low", "slope_high", "factor", "factor_low", "factor_high"];
    let row = |scale: &Scale| {
        let slope = cells(Some(scale.slope), Some(scale.slope_interval));
        let factor = cells(Some(scale.factor), Some(scale.factor_interval));
        [scale.answer.clone()].into_iter().chain(slope).chain(factor).collect()
    };
    std::iter::once(titles.map(str::to_owned).to_vec()).chain(calibration.scales.iter().map(row)).collect()
}

fn table(calibration: &Calibration, files: &[ScoreFile]) -> String {
    let sets = if calibration.removals { "removals" } else { "subsets" };
    let mut columns = Columns::titled(["scores", "slope", "95 % interval"]);
    for Scale { answer, slope, slope_interval: Interval { low, high }, .. } in &calibration.scales {
        columns.row([answer.clone(), amount(*slope), format!("{} to {}", amount(*low), amount(*high))]);
    }
    let mut text = format!(
        "{} of {} after {}\n\n{}\nSlope: of measured over predicted changes; calibrated amounts are scores times it.\n",
        calibration.measurement,
        counted(calibration.queries as u64, "queries"),
        counted(calibration.subsets as u64, sets),
        columns.text(""),
    );
    let scored = files.first().and_then(|file| file.metadata("measurement"));
    if let Some(scored) = scored.filter(|scored| !calibration.measurement.to_lowercase().contains(scored)) {
        text.push_str(&format!(
            "The scores are of `{scored}`, the outcome is named `{}`: amounts are right only if they are the same measurement.\n",
            calibration.measurement
        ));
    }
    if calibration.scales.iter().any(|scale| scale.slope_interval.low <= 0.0) {
        text.push_str("An interval holds 0: not even the sign of amounts is certain. Retrain more subsets.\n");
    }
    text
}
