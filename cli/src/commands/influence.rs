//! `ascribe influence`: the whole job, at one checkpoint or averaged over several.

use std::path::PathBuf;

use ascribe::job::Job;
use clap::Args;

use super::session::Session;
use crate::failure::Problem;
use crate::options::{JobOptions, RankingFormat, RunMethod};
use crate::status::{Status, exit_codes, with_exit_codes};

/// The whole job: fit the curvature, score every training example for every query, rank
///
/// At one checkpoint (`--model`), or averaged over those of a training run (`--run`), which predicts retraining better
/// and takes as many times longer. Prints the plan on stderr and, for each query, the strongest proponents and opponents on stdout. The run
/// folder holds `scores.safetensors`, `ranking.jsonl`, and the `job.toml` that repeats the run. Stopped at
/// any moment, the same command goes on from what is finished.
#[derive(Debug, Args)]
#[command(
    after_help = exit_codes!(),
    after_long_help = EXAMPLES,
    mut_args(|arg| match (arg.get_help_heading(), arg.get_id().as_str()) {
        // the others of a training run are for `source`
        (Some("Training run"), "run" | "trajectory" | "checkpoint_weights") => arg,
        (Some("Training run"), _) => arg.hide(true),
        _ => arg,
    }),
    mut_arg("model", |arg| arg.required_unless_present_any(["run", "trajectory"])),
    mut_arg("train", |arg| arg.required(true)),
    mut_arg("queries", |arg| arg.required(true)),
    mut_arg("out", |arg| arg.required(true))
)]
pub(crate) struct Influence {
    #[command(flatten)]
    pub(super) options: JobOptions,
    #[command(flatten)]
    pub(super) printing: Printing,
}

/// What the commands that end in a ranking print.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct Printing {
    /// How rankings are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t)]
    pub(super) format: RankingFormat,
    /// Read and check everything, print the plan on stdout, and stop
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Also write the run as one page to read and to send on, as `ascribe report` does
    ///
    /// `--report` writes `report.html` in the run folder, `--report=FILE` another file.
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, conflicts_with = "dry_run")]
    pub(super) report: Option<Option<PathBuf>>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe influence --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run
  ascribe influence --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run --dry-run
  ascribe influence --run trainer-output --train train.jsonl --queries queries.jsonl --out run
  ascribe influence --model mlp --train train.safetensors --queries test.safetensors --out run
  ascribe influence --model my-gpt2 --train train.jsonl --queries queries.jsonl --out run \\
    --format jsonl | jq '[.query.id, .proponents[0].id]'"
);

impl Influence {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let mut options = self.options;
        if options.training.method == Some(RunMethod::Source) {
            return Err(Problem::hinted("`--method source` is for Source", "use `ascribe source`"));
        }
        options.training.method = Some(RunMethod::Influence);
        whole(options.job_of_flags()?, &options, self.printing)
    }
}

/// Plans a job, does it and prints its rankings.
pub(super) fn whole(job: Job, options: &JobOptions, printing: Printing) -> anyhow::Result<Status> {
    if printing.dry_run {
        Session::resolve(job, options.talk)?.print_plan(printing.format)?;
        return Ok(Status::Done);
    }
    let session = Session::open(job, options.talk)?;
    let rankings = session.plan.run(&*session.progress)?;
    session.print(&rankings, printing.format)?;
    session.tell_sensitivity()?;
    session.tell_saturation()?;
    if let Some(file) = printing.report {
        session.report(file)?;
    }
    Ok(Status::Done)
}
