//! Scores against what is known: retraining (linear datamodeling score, groups), known answers
//! (retrieval), known faults (mislabelled examples).
//!
//! Everything here speaks of the *gain* `γ = κ f`, where `f` is the query's measurement and κ = −1 for
//! a loss, so that a good method always means a positive figure. A score is the gain's predicted change
//! when an example's weight *rises*; a subset lists the examples that were *kept*. File formats and figures are
//! described in `docs/evaluation.md`.

mod bootstrap;
mod calibration;
mod candidates;
mod ceiling;
mod control;
mod error;
mod groups;
mod lds;
mod lexical;
mod likeness;
mod mislabelled;
mod normalise;
mod outcomes;
mod own_lists;
mod predictions;
mod qld;
mod removals;
mod retrieval;
mod slopes;
mod spearman;
mod subsets;
mod tail_patch;
mod tensors;

/// The most bytes of a text file: answers, known labels, a calibration.
const MAX_TEXT: u64 = 256 << 20;

#[cfg(test)]
mod golden;

pub use bootstrap::{Bootstrap, Interval, Intervals};
pub use calibration::{CALIBRATION, Calibration, FoundSlope, Scale, find_slope};
pub use candidates::{CandidateRecall, Recall, candidate_recall};
pub use ceiling::{Ceiling, SPLITS, noise_ceiling, split_half};
pub use control::{ControlRecall, RankedSide, control_recall};
pub use error::EvaluateError;
pub use groups::{Agreement, agreement, group_effect};
pub use lds::{Difference, Figure, LdsReport, Run, RunLds, compare, compare_removals, lds};
pub use lexical::{Lexicon, LexiconBuilder, Weighting, random_scores};
pub use likeness::{Likeness, QueryLikeness, likeness};
pub use mislabelled::{KnownLabels, Mislabelled, mislabelled};
pub use normalise::{cosine, relatif_loss, relatif_theta};
pub use outcomes::{Orientation, Outcomes, PerSeed};
pub use own_lists::{MeanChange, QueryChange};
pub use predictions::{PredictionSum, Predictions};
pub use qld::{Qld, qld, removal_queries};
pub use removals::{Removals, SeedOutcomes};
pub use retrieval::{Answers, QueryRanks, Retrieval, rank_of, retrieval};
pub use slopes::Slopes;
pub use spearman::{average_ranks, spearman};
pub use subsets::{MaskMeaning, Subsets};
pub use tail_patch::{TailPatch, tail_patch};
