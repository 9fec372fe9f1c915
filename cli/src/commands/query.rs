//! `ascribe query`: the second step of a job alone, the queries' vectors.

use clap::Args;

use super::session::Session;
use crate::options::JobOptions;
use crate::status::{Status, exit_codes, with_exit_codes};

/// Prepare the queries: their gradients times the inverse curvature
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES, mut_arg("out", |arg| arg.required(true)))]
pub(crate) struct Query {
    #[command(flatten)]
    pub(super) options: JobOptions,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe query --out run --queries queries.jsonl"
);

impl Query {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let session = Session::open(self.options.job_of_run_folder()?, self.options.talk)?;
        session.tell(&session.plan.query(&*session.progress)?);
        Ok(Status::Done)
    }
}
