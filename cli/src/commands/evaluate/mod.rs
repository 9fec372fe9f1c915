//! `ascribe evaluate`: scores against what is known.

mod baseline;
mod calibrate;
mod candidates;
mod exact;
mod figures;
mod lds;
mod likeness;
mod mislabelled;
mod own_lists;
mod qld;
mod retrained;
mod retrieval;
mod subsets;
mod tail_patch;

use clap::Subcommand;

use crate::message::MessageStyle;
use crate::status::{Status, exit_codes};

/// Compare scores with retraining, or with known answers
#[derive(Debug, Subcommand)]
#[command(after_help = exit_codes!())]
pub(crate) enum Evaluate {
    Lds(lds::Lds),
    Likeness(likeness::Likeness),
    Retrieval(retrieval::Retrieval),
    Mislabelled(mislabelled::Mislabelled),
    Qld(qld::Qld),
    TailPatch(tail_patch::TailPatch),
    Calibrate(calibrate::Calibrate),
    Baseline(baseline::Baseline),
    Candidates(candidates::Candidates),
    Subsets(subsets::Subsets),
    Exact(exact::Exact),
}

impl Evaluate {
    pub(super) fn run(self) -> anyhow::Result<Status> {
        match self {
            Self::Lds(command) => command.run(),
            Self::Likeness(command) => command.run(),
            Self::Retrieval(command) => command.run(),
            Self::Mislabelled(command) => command.run(),
            Self::Qld(command) => command.run(),
            Self::TailPatch(command) => command.run(),
            Self::Calibrate(command) => command.run(),
            Self::Baseline(command) => command.run(),
            Self::Candidates(command) => command.run(),
            Self::Subsets(command) => command.run(),
            Self::Exact(command) => command.run(),
        }
    }

    /// How its errors are written.
    pub(super) fn message_style(&self) -> MessageStyle {
        match self {
            Self::Exact(command) => command.talk.progress.into(),
            _ => MessageStyle::Text,
        }
    }
}
