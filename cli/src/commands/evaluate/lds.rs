use std::fmt::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;
use ascribe::attribution::evaluate::{
    self, Bootstrap, LdsReport, MaskMeaning, Orientation, Outcomes, Predictions, Run,
};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};

use super::{FigureFormat, Figures, print, print_json, range};
use crate::failure::Problem;
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal::inline;
use crate::words::counted;

/// Intervals have long settled by then.
const MOST_RESAMPLES: u64 = 100_000;

/// Linear datamodeling score: do summed scores predict what retraining on subsets gave?
///
/// For each query the rank correlation, over subsets, of the summed scores of the kept examples with the
/// measurement after retraining on them; then the mean over queries. 1 is perfect, 0 is chance. Several runs
/// are compared on the same resamples. The formats are in docs/evaluation.md.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Lds {
    #[command(flatten)]
    figures: Figures,
    /// Which examples each retrained model saw: `mask` `[subsets, examples]` in a safetensors file
    #[arg(long, value_name = "FILE")]
    subsets: PathBuf,
    /// What a 1 in the mask says
    #[arg(long, value_name = "MEANING", value_enum, default_value_t)]
    mask: Mask,
    /// What was measured after retraining, in a safetensors file
    #[arg(long, value_name = "FILE")]
    outcomes: PathBuf,
    /// The measurement: a tensor `NAME` `[subsets, queries]`, or `NAME_seeds` `[subsets, seeds, queries]`
    #[arg(long, value_name = "NAME")]
    outcome: String,
    /// Whether higher values of the measurement are better [default: unless its name contains `loss`]
    #[arg(long, value_name = "BOOL")]
    higher_is_better: Option<bool>,
    /// Resamples for the 95 % intervals; 0 for none
    #[arg(long, value_name = "N", default_value_t = Bootstrap::default().resamples, value_parser = RangedU64ValueParser::<usize>::new().range(..=MOST_RESAMPLES))]
    resamples: usize,
    /// Seed of the resamples; figures that are compared must share it
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum Mask {
    /// The example was in the training set
    #[default]
    Kept,
    /// The example was left out
    Removed,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate lds --scores run --outcome margin \\
    --subsets subsets.safetensors --outcomes outcomes.safetensors
  ascribe evaluate lds --scores ekfac kfac identity --outcome loss \\
    --subsets subsets.safetensors --outcomes outcomes.safetensors"
);

impl Lds {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let orientation = self.higher_is_better.map(|higher| match higher {
            true => Orientation::HigherIsBetter,
            false => Orientation::LowerIsBetter,
        });
        let meaning = match self.mask {
            Mask::Kept => MaskMeaning::Kept,
            Mask::Removed => MaskMeaning::Removed,
        };
        let subsets = evaluate::Subsets::read(&self.subsets, meaning)?;
        refuse_equal(&subsets, &self.subsets)?;
        let outcomes = Outcomes::read(&self.outcomes, &self.outcome, orientation)?;
        let files = ScoreFile::open_all(&self.figures.scores)?;
        let predictions = files.iter().map(|file| {
            let beside = || format!("{}: cannot be evaluated on {}", file.path().display(), self.subsets.display());
            Predictions::new(file.rows()?, &subsets).with_context(beside)
        });
        let predictions = predictions.collect::<anyhow::Result<Vec<_>>>()?;
        let runs: Vec<_> =
            files.iter().zip(&predictions).map(|(file, predictions)| Run { name: &file.name, predictions }).collect();
        let bootstrap = Bootstrap { resamples: self.resamples, seed: self.seed };
        let report = evaluate::compare(&runs, &outcomes, bootstrap)
            .with_context(|| format!("{}: cannot be compared with the scores", self.outcomes.display()))?;
        match self.figures.format {
            FigureFormat::Table => print(&table(&report))?,
            FigureFormat::Json => print_json(&report)?,
        }
        Ok(self.figures.status(report.runs.iter().map(|run| run.lds)))
    }
}

/// Refuses subsets that leave nothing to correlate: all of them the same, with every example or with none.
fn refuse_equal(subsets: &evaluate::Subsets, file: &Path) -> anyhow::Result<()> {
    let mut rows = subsets.mask().chunks_exact(subsets.examples().max(1));
    let Some(first) = rows.next().filter(|_| subsets.count() > 1) else { return Ok(()) };
    if rows.any(|row| row != first) {
        return Ok(());
    }
    let kept = match subsets.sizes() {
        (0, _) => "keep no example".to_owned(),
        (n, _) if n == subsets.examples() => "keep every example".to_owned(),
        (n, _) => format!("keep the same {}", counted(n as u64, "examples")),
    };
    let problem = format!("{}: all {} {kept}", file.display(), counted(subsets.count() as u64, "subsets"));
    Err(Problem::hinted(problem, "a correlation over subsets needs subsets that differ; is `--mask` right?"))
}

/// Of more runs than this the table shows differences from the first alone; JSON has them all.
const PAIRS_OF: usize = 4;

fn table(report: &LdsReport) -> String {
    let mut text = String::new();
    let better = if report.higher_is_better { "higher is better" } else { "lower is better" };
    let sizes = match (report.smallest_subset, report.largest_subset) {
        (low, high) if low == high => format!("{low} of {}", counted(report.examples as u64, "examples")),
        (low, high) => format!(
            "{low} to {high} of {} (sizes differ: that adds a correlation no method earned)",
            counted(report.examples as u64, "examples")
        ),
    };
    let (subsets, queries) = (counted(report.subsets as u64, "subsets"), counted(report.queries as u64, "queries"));
    let _ = writeln!(
        text,
        "{} after retraining ({better}); {subsets} of {sizes}; {queries}\n",
        inline(&report.measurement)
    );
    let mut runs = Columns::titled(["run", "LDS", "95 % interval", "worst query", "best query"]);
    for run in &report.runs {
        let extreme = |pick: fn(f64, f64) -> f64| {
            format!("{:.3}", run.per_query.iter().copied().reduce(pick).unwrap_or(f64::NAN))
        };
        let interval = range(run.intervals.map(|intervals| intervals.subsets_and_queries));
        runs.row([run.name.clone(), format!("{:.3}", run.lds), interval, extreme(f64::min), extreme(f64::max)]);
    }
    text.push_str(&runs.text(""));
    if !report.differences.is_empty() {
        let mut differences = Columns::titled(["difference", "LDS", "95 % interval"]);
        let first = report.runs.first().map(|run| &run.name);
        let all = report.runs.len() <= PAIRS_OF;
        for difference in report.differences.iter().filter(|difference| all || Some(&difference.run) == first) {
            let interval = range(difference.intervals.map(|intervals| intervals.subsets_and_queries));
            let name = format!("{} minus {}", difference.run, difference.minus);
            differences.row([name, format!("{:+.3}", difference.lds), interval]);
        }
        let _ = write!(text, "\n{}", differences.text(""));
    }
    text.push('\n');
    if report.bootstrap.resamples > 0 {
        let n = counted(report.bootstrap.resamples as u64, "resamples");
        let _ = writeln!(text, "Intervals: {n} of subsets and queries together, the same for every run.");
    }
    match &report.ceiling {
        Some(ceiling) => {
            let (reach, seeds, half) = (ceiling.ceiling, ceiling.seeds, ceiling.half_against_half);
            let _ = writeln!(
                text,
                "Noise ceiling: a perfect prediction would reach {reach:.3} ({seeds} seeds, half against half {half:.3})."
            );
        }
        None => text.push_str("No noise ceiling: the outcomes have no seeds.\n"),
    }
    text
}
