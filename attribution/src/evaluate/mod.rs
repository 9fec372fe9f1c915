//! Scores against what is known: retraining (linear datamodeling score, groups), known answers
//! (retrieval), known faults (mislabelled examples).
//!
//! Everything here speaks of the *gain* `γ = κ f`, where `f` is the query's measurement and κ = −1 for
//! a loss, so that a good method always means a positive figure. A score is the gain's predicted change
//! when an example's weight *rises* (METHOD §1.3); a subset lists the examples that were *kept*.
//!
//! # Source
//! METHOD §6; file formats and figures in `docs/evaluation.md`.

mod bootstrap;
mod ceiling;
mod error;
mod groups;
mod lds;
mod mislabelled;
mod normalise;
mod outcomes;
mod predictions;
mod retrieval;
mod spearman;
mod subsets;
mod tensors;

#[cfg(test)]
mod golden;

pub use bootstrap::{Bootstrap, Interval, Intervals};
pub use ceiling::{Ceiling, SPLITS, noise_ceiling, split_half};
pub use error::EvaluateError;
pub use groups::{Agreement, agreement, group_effect, leave_one_out};
pub use lds::{Difference, LdsReport, Run, RunLds, compare, lds};
pub use mislabelled::{Mislabelled, mislabelled};
pub use normalise::{cosine, relatif_loss, relatif_theta};
pub use outcomes::{Orientation, Outcomes, PerSeed};
pub use predictions::{PredictionSum, Predictions};
pub use retrieval::{Answers, QueryRanks, Retrieval, rank_of, retrieval};
pub use spearman::{average_ranks, spearman};
pub use subsets::{MaskMeaning, Subsets};
