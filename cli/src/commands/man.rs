//! `ascribe man`: manual pages from the same definition as the help.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};

use crate::status::Status;

/// Write a man page for every command
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Man {
    /// The folder for `ascribe.1`, `ascribe-influence.1` and so on; made if it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

const EXAMPLES: &str = "\
Examples:
  ascribe man --out ~/.local/share/man/man1";

impl Man {
    pub(super) fn run(self, definition: fn() -> Command) -> anyhow::Result<Status> {
        std::fs::create_dir_all(&self.out).with_context(|| format!("{}: cannot be made", self.out.display()))?;
        clap_mangen::generate_to(definition(), &self.out)
            .with_context(|| format!("{}: man pages cannot be written", self.out.display()))?;
        Ok(Status::Done)
    }
}
