//! `ascribe evaluate exact`: exact differentiation through training, for approximations to be held to.

use std::fmt::Write;
use std::path::PathBuf;
use std::sync::Arc;

use ascribe::exact::{ExactJob, ExactReport, name_of};
use ascribe::job::{Measure, default_budget};
use clap::builder::RangedU64ValueParser;
use clap::{Args, ValueEnum};
use serde_json::json;

use crate::commands::session::set_threads;
use crate::interrupt;
use crate::options::{TalkOptions, measure, memory};
use crate::progress::Progress;
use crate::show::Columns;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;
use crate::words::{count, counted};

/// Where the system does not say how much memory there is.
const MEMORY: u64 = 2 << 30;

/// Differentiate training itself: the exact effect of each example's weight, for a small model
///
/// Trains a multilayer perceptron again as the description of its run says, by SGD with or without momentum, and takes
/// the derivative of every query by the weight of every training example backwards through all steps. What approximations
/// predict is this derivative, of a run or of the mean over runs. Each run needs a start and an order of batches: those
/// of the recorded run (`--start`, `--batches`), or drawn for each of `--seeds`. The scores are files that `evaluate lds`,
/// `likeness` and the others take beside a run's.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Exact {
    /// The description of the run: optimizer, rates, batch size, checkpoints that say what the model is
    #[arg(long, value_name = "FILE")]
    trajectory: PathBuf,
    /// The training rows, as `ascribe influence` reads them
    #[arg(long, value_name = "FILE")]
    train: PathBuf,
    /// The queries
    #[arg(long, value_name = "FILE")]
    queries: PathBuf,
    /// What is measured at a query [default: by the model]
    ///
    /// By default the margin of classifiers and the prediction of regressions.
    #[arg(long, value_name = "WHAT", value_parser = measure())]
    measure: Option<Measure>,
    /// The folder of the model that training began with; for several runs one for all, or one for each
    ///
    /// By default each seed draws its own, uniform between plus and minus 1/√inputs of each layer, as PyTorch does.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    start: Vec<PathBuf>,
    /// The recorded batches of a run: `batches` `[steps, slots]` in a safetensors file, one file for each run
    ///
    /// Integers, rows of the training file; -1 where a slot stayed empty. By default each seed draws a new permutation of
    /// the examples for every epoch.
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["seeds", "seed"])]
    batches: Vec<PathBuf>,
    /// How many runs are drawn; beside their scores their mean is written
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = RangedU64ValueParser::<u64>::new().range(1..=10_000))]
    seeds: u64,
    /// The seed of the first run that is drawn; the others follow
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    seed: u64,
    /// The folder of the score files
    ///
    /// The same command goes on where it was interrupted.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// Threads [default: as many as this process may use]
    #[arg(long, value_name = "N", help_heading = "Resources")]
    threads: Option<usize>,
    /// Memory to stay within: `8GiB`, `512MiB` or a number of bytes [default: 80 % of the machine's]
    #[arg(long, value_name = "SIZE", value_parser = memory, help_heading = "Resources")]
    memory: Option<u64>,
    /// How the runs are printed
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: ExactFormat,
    #[command(flatten)]
    pub(super) talk: TalkOptions,
}

/// How the runs are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum ExactFormat {
    /// For reading
    #[default]
    Table,
    /// One object
    Json,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe evaluate exact --trajectory run/trajectory.toml --seeds 3 --out exact \\
    --train train.safetensors --queries query.safetensors
  ascribe evaluate exact --trajectory run/trajectory.toml --out exact-of-the-run \\
    --start run/checkpoint-0 --batches run/batches.safetensors \\
    --train train.safetensors --queries query.safetensors
  ascribe evaluate lds --scores influence exact --outcome margin \\
    --subsets subsets.safetensors --outcomes outcomes.safetensors"
);

impl Exact {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        set_threads(self.threads)?;
        let progress = Arc::new(Progress::new(self.talk));
        interrupt::listen(&progress)?;
        let job = ExactJob {
            trajectory: self.trajectory,
            train: self.train,
            queries: self.queries,
            measurement: self.measure.map(Into::into),
            starts: self.start,
            batches: self.batches,
            seeds: self.seed..self.seed.saturating_add(self.seeds),
            memory: self.memory.or_else(default_budget).unwrap_or(MEMORY),
            out: self.out,
        };
        let report = job.run(&*progress)?;
        match self.format {
            ExactFormat::Table => terminal::print(&table(&report), "the runs")?,
            ExactFormat::Json => terminal::print_json(&format!("{}\n", object(&report)), "the runs")?,
        }
        if !self.talk.quiet {
            progress.say(&format!("scores in {}", report.scores.display()));
        }
        Ok(Status::Done)
    }
}

fn table(report: &ExactReport) -> String {
    let ExactReport { queries, examples, .. } = *report;
    let mut text = format!(
        "the exact change of the {} of {} for one more copy of each of {}\n\n",
        name_of(report.measurement),
        counted(queries as u64, "queries"),
        counted(examples as u64, "training examples"),
    );
    let mut columns = Columns::titled(["run", "training loss", ""]);
    for run in &report.runs {
        let reused = if run.is_reused { "found from before" } else { "" };
        columns.row([run.name.clone(), format!("{:.4}", run.loss), reused.to_owned()]);
    }
    text.push_str(&columns.text(""));
    for run in report.runs.iter().filter(|run| !run.distances.is_empty()) {
        let _ =
            write!(text, "\n{}, distance from the recorded checkpoints, in ways from the start to them:\n", run.name);
        let mut columns = Columns::titled(["checkpoint", "distance"]);
        for (checkpoint, distance) in &run.distances {
            columns.row([checkpoint.clone(), format!("{distance:.1e}")]);
        }
        text.push_str(&columns.text(""));
        if run.distances.iter().any(|(_, distance)| *distance > FAR) {
            text.push_str("This is another run than the recorded one: are start, batches, rates and inputs its own?\n");
        }
    }
    match report.drops_last {
        Some(true) => text.push_str("\nDrawn orders leave out the last, smaller batch of each epoch.\n"),
        Some(false) => text.push_str("\nDrawn orders keep the last, smaller batch of each epoch.\n"),
        None => {}
    }
    if report.runs.len() > 1 {
        let runs = count(report.runs.len() as u64);
        let _ = writeln!(text, "The mean of {runs} runs is in {}.", report.scores.display());
    }
    text
}

/// Replays in f64 of runs in f32 end within a few percent of them.
const FAR: f64 = 0.1;

fn object(report: &ExactReport) -> serde_json::Value {
    let runs = report.runs.iter().map(|run| {
        let distances: serde_json::Map<_, _> =
            run.distances.iter().map(|(checkpoint, distance)| (checkpoint.clone(), json!(distance))).collect();
        json!({
            "name": run.name,
            "file": run.file,
            "training_loss": run.loss,
            "distances": distances,
            "is_reused": run.is_reused,
        })
    });
    json!({
        "measurement": name_of(report.measurement),
        "queries": report.queries,
        "examples": report.examples,
        "drops_last": report.drops_last,
        "runs": runs.collect::<Vec<_>>(),
        "scores": report.scores,
    })
}
