//! `ascribe rank`: the last step of a job, strongest proponents and opponents from stored scores.

use clap::Args;

use super::session::Session;
use crate::options::{JobOptions, RankingFormat};
use crate::status::{Status, exit_codes, with_exit_codes};
use crate::terminal;

/// Rank the scores of a run folder and print the strongest proponents and opponents
#[derive(Debug, Args)]
#[command(after_help = exit_codes!(), after_long_help = EXAMPLES, mut_arg("out", |arg| arg.required(true)))]
pub(crate) struct Rank {
    #[command(flatten)]
    pub(super) options: JobOptions,
    /// How rankings are printed on stdout
    #[arg(long, value_name = "FORMAT", value_enum, default_value_t, help_heading = "Output")]
    format: RankingFormat,
}

const EXAMPLES: &str = with_exit_codes!(
    "\
Examples:
  ascribe rank --out run --top 3
  ascribe rank --out run --top 100 --format csv > ranking.csv"
);

impl Rank {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        // The plan was shown when the scores were made.
        let session = Session::resolve(self.options.job_of_run_folder()?, self.options.talk)?;
        if !self.options.talk.quiet {
            session.plan.notes_on_copies().iter().for_each(|note| terminal::say(&format!("note: {note}")));
        }
        let rankings = session.plan.rank()?;
        session.print(&rankings, self.format)?;
        Ok(Status::Done)
    }
}
