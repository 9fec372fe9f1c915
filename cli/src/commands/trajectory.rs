//! `ascribe trajectory`: what is known of a training run, and what is not.

use std::path::{Path, PathBuf};

use ascribe::job::{Job, RunRecord, Saturation, StageSummary};
use ascribe::trajectory::StageData;
use clap::{Args, ValueEnum};

use crate::failure::Problem;
use crate::options::TrajectoryOptions;
use crate::show::TrajectoryReport;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// Explain a training run: checkpoints, learning rates, optimizer, segments, and what is not known
///
/// PATH is the output folder of a Hugging Face Trainer, a TOML file, or a folder with a `trajectory.toml`. Nothing is
/// guessed: every fact comes with the file or the rule that it was taken from. Weights are not read. Of the run folder
/// of `ascribe source` it also shows how far each segment went, layer by layer.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Trajectory {
    /// The training run
    path: PathBuf,
    #[command(flatten)]
    options: TrajectoryOptions,
    /// Examples of the whole training set, where they are not recorded; one number for each stage
    ///
    /// `ascribe source` counts them in its training data.
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Training run")]
    train_examples: Vec<usize>,
    /// How it is printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: TrajectoryFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe trajectory output
  ascribe trajectory output --segments 2 --train-examples 4656
  ascribe trajectory trajectory.toml --format json
  ascribe trajectory source-run"
);

/// How a training run is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
enum TrajectoryFormat {
    /// For reading
    #[default]
    Table,
    /// One object
    Json,
}

/// What a run folder's plan counted in the data of each stage.
fn recorded_data(folder: &Path) -> anyhow::Result<Vec<StageData>> {
    let of_stage = |stage: StageSummary| {
        let is_text = stage.train.longest > 1;
        let per_example = stage.train.targets as f64 / stage.train.examples as f64;
        StageData {
            examples: (stage.train_size > 0).then_some(stage.train_size),
            targets_per_example: is_text.then_some(per_example),
            targets: None,
            texts: None,
        }
    };
    let stages = RunRecord::of_run_folder(folder)?.map(|record| record.summary.stages).unwrap_or_default();
    Ok(stages.into_iter().map(of_stage).collect())
}

impl Trajectory {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        self.options.check()?;
        let mut data: Vec<StageData> =
            self.train_examples.into_iter().map(|n| StageData { examples: Some(n), ..StageData::default() }).collect();
        let job_file = self.path.join("job.toml");
        let (request, saturation) = match ascribe::presence::is_file(&job_file) {
            true => {
                let Some(source) = Job::read(&job_file)?.source else {
                    let hint = "give the run folder of `ascribe source`, or a training run";
                    return Err(Problem::hinted(
                        format!("{}: a run without a training run", self.path.display()),
                        hint,
                    ));
                };
                let mut request = source.trajectory;
                self.options.apply(&mut request);
                if data.is_empty() {
                    data = recorded_data(&self.path)?;
                }
                (request, Saturation::of_run_folder(&self.path)?)
            }
            false => (self.options.request(self.path), vec![]),
        };
        let outline = request.outline(request.read()?, &data)?;
        let report = TrajectoryReport::new(&request, &outline, saturation);
        const WHAT: &str = "the training run";
        match self.format {
            TrajectoryFormat::Table => terminal::print(&report.table(), WHAT)?,
            TrajectoryFormat::Json => {
                terminal::print_json(&format!("{}\n", serde_json::to_string_pretty(&report)?), WHAT)?;
            }
        }
        Ok(Status::Done)
    }
}
