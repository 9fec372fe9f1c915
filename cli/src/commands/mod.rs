//! The subcommands, one file each.

mod completions;
mod evaluate;
mod fit;
mod influence;
mod inspect;
mod man;
mod merge;
mod plan;
mod query;
mod rank;
mod report;
mod run;
mod score;
mod session;
mod source;
mod trajectory;

use clap::Subcommand;

use crate::message::MessageStyle;
use crate::options::Wording;
use crate::status::Status;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Influence(influence::Influence),
    Source(source::Source),
    Plan(plan::Plan),
    Run(run::Run),
    Fit(fit::Fit),
    Query(query::Query),
    Score(score::Score),
    Merge(merge::Merge),
    Rank(rank::Rank),
    Report(report::Report),
    Inspect(inspect::Inspect),
    Trajectory(trajectory::Trajectory),
    #[command(subcommand)]
    Evaluate(evaluate::Evaluate),
    Completions(completions::Completions),
    Man(man::Man),
}

impl Command {
    /// How the options of a job are given to it.
    pub(crate) fn wording(&self) -> Wording {
        match self {
            Self::Influence(_) | Self::Source(_) | Self::Fit(_) => Wording::Flags,
            Self::Plan(plan) if plan.is_of_flags() => Wording::Flags,
            _ => Wording::Keys,
        }
    }

    /// Does it; `definition` is that of the whole command line.
    pub(crate) fn run(self, definition: fn() -> clap::Command) -> anyhow::Result<Status> {
        match self {
            Self::Influence(command) => command.run(),
            Self::Source(command) => command.run(),
            Self::Plan(command) => command.run(),
            Self::Run(command) => command.run(),
            Self::Fit(command) => command.run(),
            Self::Query(command) => command.run(),
            Self::Score(command) => command.run(),
            Self::Merge(command) => command.run(),
            Self::Rank(command) => command.run(),
            Self::Report(command) => command.run(),
            Self::Inspect(command) => command.run(),
            Self::Trajectory(command) => command.run(),
            Self::Evaluate(command) => command.run(),
            Self::Completions(command) => command.run(definition),
            Self::Man(command) => command.run(definition),
        }
    }

    /// How its errors are written.
    pub(crate) fn message_style(&self) -> MessageStyle {
        let options = match self {
            Self::Influence(influence::Influence { options, .. })
            | Self::Source(source::Source { options, .. })
            | Self::Plan(plan::Plan { options, .. })
            | Self::Run(run::Run { options, .. })
            | Self::Fit(fit::Fit { options, .. })
            | Self::Query(query::Query { options, .. })
            | Self::Score(score::Score { options, .. })
            | Self::Merge(merge::Merge { options, .. })
            | Self::Rank(rank::Rank { options, .. }) => options,
            Self::Evaluate(command) => return command.message_style(),
            _ => return MessageStyle::Text,
        };
        options.talk.progress.into()
    }
}
