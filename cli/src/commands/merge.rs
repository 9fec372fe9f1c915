//! `ascribe merge`: what shards left, joined.

use std::path::PathBuf;

use clap::Args;

use super::session::Session;
use crate::options::JobOptions;
use crate::status::{Status, exit_codes, with_exit_codes};

/// Join what shards left: sums of the curvature, or parts of the scores
///
/// The result is what one process would have written. Gaps, overlaps and parts of other jobs are refused.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES, mut_arg("out", |arg| arg.required(true)))]
pub(crate) struct Merge {
    /// Folders of shards that wrote elsewhere than into `--out`
    #[arg(value_name = "FROM")]
    from: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) options: JobOptions,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe merge --out run
  ascribe merge --out run node-1/run node-2/run"
);

impl Merge {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        let session = Session::open(self.options.job_of_run_folder()?, self.options.talk)?;
        session.tell(&session.plan.merge(&self.from, &*session.progress)?);
        Ok(Status::Done)
    }
}
