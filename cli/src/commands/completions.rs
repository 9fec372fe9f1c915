//! `ascribe completions`: what a shell needs to complete flags.

use clap::{Args, Command};
use clap_complete::Shell;

use crate::status::Status;
use crate::terminal;

/// Print completions for a shell
#[derive(Debug, Args)]
#[command(after_long_help = EXAMPLES)]
pub(crate) struct Completions {
    /// Which shell
    #[arg(value_enum)]
    shell: Shell,
}

const EXAMPLES: &str = "\
Examples:
  ascribe completions bash > ~/.local/share/bash-completion/completions/ascribe
  ascribe completions fish > ~/.config/fish/completions/ascribe.fish";

impl Completions {
    pub(super) fn run(self, definition: fn() -> Command) -> anyhow::Result<Status> {
        let mut script = vec![];
        clap_complete::generate(self.shell, &mut definition(), "ascribe", &mut script);
        terminal::print_prepared(&script, "the completions")?;
        Ok(Status::Done)
    }
}
