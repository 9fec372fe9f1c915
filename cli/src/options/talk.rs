//! Flags about what is said on stderr while the work goes on.

use clap::{Args, ValueEnum};

/// What is said on stderr while the work goes on.
#[derive(Debug, Clone, Copy, Default, Args)]
#[command(next_help_heading = "Output")]
pub(crate) struct TalkOptions {
    /// Progress on stderr
    #[arg(long, value_name = "WHEN", value_enum, default_value_t)]
    pub(crate) progress: ProgressMode,
    /// Print results and errors alone
    #[arg(short, long)]
    pub(crate) quiet: bool,
    /// Print every tracked layer and the seconds of each stage
    #[arg(short, long, conflicts_with = "quiet")]
    pub(crate) verbose: bool,
}

/// When and how progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub(crate) enum ProgressMode {
    /// Bars with the time remaining where stderr is a terminal, else nothing
    #[default]
    Auto,
    /// Also where stderr is no terminal, as a line now and then
    Always,
    /// Nothing
    Never,
    /// One JSON object a line; everything else on stderr is JSON then, too
    Json,
}
