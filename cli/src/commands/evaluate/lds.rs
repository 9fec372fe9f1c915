//! `ascribe evaluate lds`: summed scores against outcomes of retraining.

use std::fmt::Write;

use anyhow::Context;
use ascribe::attribution::evaluate::{self, Bootstrap, Figure, LdsReport, Run};
use clap::Args;

use super::figures::{FigureFormat, Figures, Resampling, amount, cells, print, print_csv, print_json, range};
use super::retrained::{Retrained, Truth};
use crate::score_file::ScoreFile;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::words::counted;

/// Linear datamodeling score: do summed scores predict what retraining on subsets gave?
///
/// For each query the rank correlation, over subsets, of the summed scores of the kept examples with the
/// measurement after retraining on them; then the mean over queries. 1 is perfect, 0 is chance. With `--removals`
/// the same of minus the sum over the few removed examples and the change against the run with everything. The slope
/// says whether predicted amounts are right (1) or too large (below 1): the median over queries. Several runs are
/// compared on the same resamples. The formats are in docs/evaluation.md.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Lds {
    #[command(flatten)]
    figures: Figures,
    #[command(flatten)]
    retrained: Retrained,
    #[command(flatten)]
    resampling: Resampling,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate lds --scores run --outcome margin \\
    --subsets subsets.safetensors --outcomes outcomes.safetensors
  ascribe evaluate lds --scores ekfac kfac identity --outcome loss \\
    --subsets subsets.safetensors --outcomes outcomes.safetensors
  ascribe evaluate lds --scores run --outcome margin --removals removals.safetensors"
);

impl Lds {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let truth = self.retrained.read()?;
        let files = ScoreFile::open_all(&self.figures.scores)?;
        let predictions = files.iter().map(|file| {
            let beside =
                || format!("{}: cannot be evaluated on {}", file.path().display(), self.retrained.masks().display());
            truth.predictions(file).with_context(beside)
        });
        let predictions = predictions.collect::<anyhow::Result<Vec<_>>>()?;
        let run = |(file, predictions)| {
            let ScoreFile { name, amounts, .. }: &ScoreFile = file;
            Run { name, predictions, amounts: *amounts }
        };
        let runs: Vec<_> = files.iter().zip(&predictions).map(run).collect();
        let bootstrap = Bootstrap::from(self.resampling);
        let report = match &truth {
            Truth::Subsets(_, outcomes) => evaluate::compare(&runs, outcomes, bootstrap),
            Truth::Removals(removals) => evaluate::compare_removals(&runs, removals, bootstrap),
        };
        let report = report
            .with_context(|| format!("{}: cannot be compared with the scores", self.retrained.outcomes().display()))?;
        match self.figures.format {
            FigureFormat::Table => print(&table(&report, &files))?,
            FigureFormat::Json => print_json(&report)?,
            FigureFormat::Csv => print_csv(rows(&report))?,
        }
        Ok(self.figures.status(report.runs.iter().map(|run| run.lds)))
    }
}

/// A header and a line for each run.
fn rows(report: &LdsReport) -> Vec<Vec<String>> {
    let both = |intervals: Option<evaluate::Intervals>| intervals.map(|intervals| intervals.subsets_and_queries);
    let mut titles = vec!["run".to_owned()];
    let figures = ["lds", "slope", "lds_same_seed", "lds_other_seeds"];
    titles.extend(figures.iter().flat_map(|name| [(*name).to_owned(), format!("{name}_low"), format!("{name}_high")]));
    let mut rows = vec![titles];
    for run in &report.runs {
        let slope = run.slope.as_ref();
        let of = |figure: Option<Figure>| cells(figure.map(|f| f.lds), figure.and_then(|f| both(f.intervals)));
        let cells = [
            cells(Some(run.lds), both(run.intervals)),
            cells(slope.map(|slope| slope.median), slope.and_then(|slope| both(slope.intervals))),
            of(run.same_seed),
            of(run.other_seeds),
        ];
        rows.push([run.name.clone()].into_iter().chain(cells.concat()).collect());
    }
    rows
}

/// The table compares all pairs of at most so many runs. With more it shows differences from the first alone; JSON has all.
const PAIRS_OF: usize = 4;

fn table(report: &LdsReport, files: &[ScoreFile]) -> String {
    let mut text = String::new();
    let better = if report.higher_is_better { "higher is better" } else { "lower is better" };
    let removes = report.own_seed.is_some();
    let range_of_sizes = match removes {
        true => (report.examples - report.largest_subset, report.examples - report.smallest_subset),
        false => (report.smallest_subset, report.largest_subset),
    };
    let examples = counted(report.examples as u64, "examples");
    let sizes = match range_of_sizes {
        (low, high) if low == high => format!("{low} of {examples}"),
        (low, high) => {
            format!("{low} to {high} of {examples} (sizes differ: that adds a correlation no method earned)")
        }
    };
    let sets = counted(report.subsets as u64, if removes { "removals" } else { "subsets" });
    let queries = counted(report.queries as u64, "queries");
    let measured = match removes {
        true => format!("change of the {} by retraining without few examples", report.measurement),
        false => format!("{} after retraining", report.measurement),
    };
    let _ = writeln!(text, "{measured} ({better}); {sets} of {sizes}; {queries}\n");
    let mut runs = Columns::default();
    let has_slope = report.runs.iter().any(|run| run.slope.is_some());
    let has_other_seeds = report.runs.iter().any(|run| run.other_seeds.is_some());
    let both = |intervals: Option<evaluate::Intervals>| range(intervals.map(|intervals| intervals.subsets_and_queries));
    let mut titles = vec!["run", "LDS", "95 % interval"];
    titles.extend(["slope", "95 % interval"].iter().filter(|_| has_slope));
    titles.extend(["same seed", "other seeds"].iter().filter(|_| has_other_seeds));
    titles.extend(["worst query", "best query"]);
    runs.row(titles.into_iter().map(str::to_owned));
    for run in &report.runs {
        let extreme = |pick: fn(f64, f64) -> f64| {
            format!("{:.3}", run.per_query.iter().copied().reduce(pick).unwrap_or(f64::NAN))
        };
        let mut cells = vec![run.name.clone(), format!("{:.3}", run.lds), both(run.intervals)];
        if has_slope {
            let slope = run.slope.as_ref();
            cells.push(slope.map_or_else(String::new, |slope| amount(slope.median)));
            let interval = slope.and_then(|slope| slope.intervals).map(|intervals| intervals.subsets_and_queries);
            cells.push(
                interval.map_or_else(String::new, |interval| {
                    format!("{} to {}", amount(interval.low), amount(interval.high))
                }),
            );
        }
        if has_other_seeds {
            let lds = |figure: Option<Figure>| figure.map_or_else(String::new, |figure| format!("{:.3}", figure.lds));
            cells.extend([lds(run.same_seed), lds(run.other_seeds)]);
        }
        cells.extend([extreme(f64::min), extreme(f64::max)]);
        runs.row(cells);
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
    if has_slope {
        text.push_str("Slope: of measured over predicted changes, median over queries; 1 = amounts are right, below 1 = too large.\n");
    }
    for file in files.iter().filter(|file| file.is_scale_unknown) {
        let _ = writeln!(text, "`{}` does not name its scale: scores are taken as changes for one copy.", file.name);
    }
    if let Some(own) = report.own_seed.filter(|_| has_other_seeds) {
        let _ =
            writeln!(text, "LDS is of the mean over seeds; seed {own} is taken as the scored run's own (--own-seed).");
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
