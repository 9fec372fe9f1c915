//! `ascribe fit`: the first step of a job alone, the curvature.

use ascribe::attribution::store::Shard;
use clap::Args;

use super::session::Session;
use crate::options::{JobOptions, shard};
use crate::status::{Status, exit_codes, with_exit_codes};

/// Fit the curvature alone: covariances, eigenvectors, eigenvalues
///
/// `--model` and `--train` may be left out where `--out` is the folder of an earlier run.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES, mut_arg("out", |arg| arg.required(true)))]
pub(crate) struct Fit {
    #[command(flatten)]
    pub(super) options: JobOptions,
    /// Take only the I-th of N ranges of the training examples, and leave sums that `merge` joins
    #[arg(long, value_name = "I/N", value_parser = shard, help_heading = "Resources")]
    shard: Option<Shard>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe fit --model my-gpt2 --train train.jsonl --out run

  One job for each shard, by any scheduler, twice: covariances, then eigenvalues
  ascribe fit --model my-gpt2 --train train.jsonl --out run --shard 1/2
  ascribe fit --model my-gpt2 --train train.jsonl --out run --shard 2/2
  ascribe merge --out run
  ascribe fit --out run --shard 1/2
  ascribe fit --out run --shard 2/2
  ascribe merge --out run"
);

impl Fit {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let session = Session::open(self.options.job_of_run_folder()?, self.options.talk)?;
        session.tell(&session.plan.fit(self.shard, &*session.progress)?);
        Ok(Status::Done)
    }
}
