//! `ascribe score`: the third step of a job alone, scores of training examples.

use ascribe::attribution::store::Shard;
use clap::Args;

use super::session::Session;
use crate::options::{JobOptions, shard};
use crate::status::{Status, exit_codes, with_exit_codes};

/// Score the training examples for the prepared queries
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES, mut_arg("out", |arg| arg.required(true)))]
pub(crate) struct Score {
    #[command(flatten)]
    pub(super) options: JobOptions,
    /// Take only the I-th of N ranges of the training examples, and leave a part that `merge` joins
    #[arg(long, value_name = "I/N", value_parser = shard, help_heading = "Resources")]
    shard: Option<Shard>,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe score --out run
  ascribe score --out run --shard 2/8"
);

impl Score {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let session = Session::open(self.options.job_of_run_folder()?, self.options.talk)?;
        session.tell(&session.plan.score(self.shard, &*session.progress)?);
        Ok(Status::Done)
    }
}
