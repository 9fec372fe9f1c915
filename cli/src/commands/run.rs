//! `ascribe run`: a job from a file.

use std::path::PathBuf;

use clap::Args;

use super::influence::{Printing, whole};
use crate::options::JobOptions;
use crate::status::{Status, exit_codes, with_exit_codes};

/// The whole job from a file, with flags on top
///
/// Every run folder holds the `job.toml` that repeats it. Everything that a flag can say, a job file can say.
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES)]
pub(crate) struct Run {
    /// The job, as every run folder holds one
    #[arg(value_name = "JOB.toml")]
    job: PathBuf,
    #[command(flatten)]
    pub(super) options: JobOptions,
    #[command(flatten)]
    printing: Printing,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe run run/job.toml
  ascribe run run/job.toml --curvature kfac --out run-kfac"
);

impl Run {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        whole(self.options.job_of_file(&self.job)?, &self.options, self.printing)
    }
}
