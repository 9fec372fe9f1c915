//! `ascribe trajectory`: what is known of a training run, and what is not.

use std::path::{Path, PathBuf};

use ascribe::job::{CheckpointsRequest, Curvature, Job, LossCheck, Plan, RunRecord, Saturation, StageSummary};
use ascribe::trajectory::{RunCheckpoints, StageData};
use clap::{Args, ValueEnum};

use crate::failure::Problem;
use crate::hub;
use crate::options::{DataOptions, TalkOptions, TrajectoryOptions};
use crate::progress::Progress;
use crate::show::TrajectoryReport;
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// Explain a training run: checkpoints, learning rates, optimizer, segments, and what is not known
///
/// PATH is the output folder of a Hugging Face Trainer, a TOML file, or a folder with a `trajectory.toml`. Nothing is
/// guessed: every fact comes with the file or the rule that it was taken from. Weights are not read, unless examples are
/// given (`--train`, with the flags that say how they are read): then their loss at each checkpoint stands beside the one
/// that was logged. Of the run folder of `ascribe source` it also shows how far each segment went, layer by layer.
#[derive(Debug, Args)]
#[command(
    after_help = exit_codes!(),
    after_long_help = EXAMPLES,
    mut_args(|arg| match arg.get_id().as_str() {
        // what the comparison of losses has no use for
        "queries" | "no_loss_check" => arg.hide(true),
        _ => arg,
    })
)]
pub(crate) struct Trajectory {
    /// The training run; also `hub:ORG/NAME`
    path: PathBuf,
    #[command(flatten)]
    data: DataOptions,
    /// Folder of the base of PEFT adapters, where examples are given [default: the folder that `adapter_config.json` names]
    #[arg(long, value_name = "DIR", requires = "train", help_heading = "Model")]
    base: Option<PathBuf>,
    #[command(flatten)]
    options: TrajectoryOptions,
    /// Examples of the whole training set, where they are not recorded; one number for each stage
    ///
    /// `ascribe source` counts them in its training data.
    #[arg(long, value_name = "N,…", value_delimiter = ',', help_heading = "Training run", conflicts_with = "train")]
    train_examples: Vec<usize>,
    /// How it is printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: TrajectoryFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe trajectory output
  ascribe trajectory output --train train.jsonl --add-eos train
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

/// What a plan counted in the data of each stage.
fn counted(stages: Vec<StageSummary>) -> Vec<StageData> {
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
    stages.into_iter().map(of_stage).collect()
}

/// What a run folder's plan counted in the data of each stage.
fn recorded_data(folder: &Path) -> anyhow::Result<Vec<StageData>> {
    Ok(RunRecord::of_run_folder(folder)?.map(|record| counted(record.summary.stages)).unwrap_or_default())
}

/// A run's examples beside its log: the loss at each checkpoint, and what the data say of the numbers of each stage.
/// Where a run has several stages, the examples are those of its last stage.
fn compared(mut job: Job, run: &Path) -> anyhow::Result<(Option<LossCheck>, Vec<StageData>)> {
    let found = RunCheckpoints::find(run)?;
    match found.checkpoints.as_slice() {
        [only] => (job.model.path, job.checkpoints) = (only.folder.clone(), None),
        _ => job.checkpoints = Some(CheckpointsRequest::of_run(run.to_owned())),
    }
    // losses need no curvature
    job.method.curvature = Curvature::Identity;
    // a folder that nothing is written to
    job.output.path = run.join("no-run-folder");
    let plan = Plan::resolve(job)?;
    plan.check_weights()?;
    let check = plan.loss_check(&Progress::new(TalkOptions::default()))?.cloned();
    let mut data = vec![StageData::default(); found.stages - 1];
    data.extend(counted(plan.summary().stages.clone()));
    Ok((check, data))
}

impl Trajectory {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        self.options.check()?;
        let mut data: Vec<StageData> =
            self.train_examples.iter().map(|&n| StageData { examples: Some(n), ..StageData::default() }).collect();
        if let Some(problem) = self.data.without_meaning() {
            return Err(Problem::hinted(problem, "give training examples with `--train FILE`, or leave it out"));
        }
        let job_file = self.path.join("job.toml");
        let (request, saturation, check) = match ascribe::presence::is_file(&job_file) {
            true => {
                if self.data.train.is_some() {
                    let hint =
                        "leave `--train` out: the run folder has what was found; or give the training run itself";
                    return Err(Problem::hinted(
                        format!("{}: a run folder has its own data", self.path.display()),
                        hint,
                    ));
                }
                let mut job = Job::read(&job_file)?;
                job.find_in_cache(&ascribe::hub::Settings::from_environment());
                let Some(source) = job.source else {
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
                (request, Saturation::of_run_folder(&self.path)?, LossCheck::of_run_folder(&self.path))
            }
            false => {
                let mut job = Job::new("", "", "");
                job.checkpoints = Some(CheckpointsRequest::of_run(self.path.clone()));
                job.model.base.clone_from(&self.base);
                self.data.apply(&mut job);
                hub::fetch(&mut job, TalkOptions::default())?;
                let run = job.checkpoints.as_ref().and_then(|of| of.run.clone()).unwrap_or(self.path);
                let mut check = None;
                if self.data.train.is_some() {
                    (check, data) = compared(job, &run)?;
                }
                (self.options.request(run), vec![], check)
            }
        };
        let outline = request.outline(request.read()?, &data)?;
        let report = TrajectoryReport::new(&request, &outline, saturation, check);
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
