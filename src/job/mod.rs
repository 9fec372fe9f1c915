//! A run from files to ranking: what was asked ([`Job`]), what will be done ([`Plan`]), and doing it.

mod brief;
mod budget;
mod cost;
mod error;
mod folder;
mod number;
mod option_text;
mod plan;
mod request;
mod steps;
mod training;

pub use brief::Brief;
pub use brief::copies::{RankedCopies, RankedCopy};
pub use brief::example_groups::RankedGroup;
pub use brief::loss_check::{Cause, CheckpointLoss, EvaluationLoss, LossCheck, TokenCount};
pub use brief::summary::{
    CheckpointSummary, DataSummary, LayerSetSummary, LayerSummary, LegSummary, StageSummary, Summary,
};
pub use budget::disk::{DiskCost, FileCost};
pub use budget::machine::default_budget;
pub use cost::{Calibration, Contraction, Cost, EigenRate, Seconds, StageCost, Work, WorkKind};
pub use error::JobError;
pub use folder::calibration::Amount;
pub use folder::rankings::{
    Before, CandidateCheck, Compared, PairShare, QueryInfo, QueryRanking, QueryToken, RankedExample, SideStability,
    Stability, TargetShare, TokenShare, VariantShare, write_csv,
};
pub use folder::record::RunRecord;
pub use folder::report::{LayerSaturation, Saturation, StageReport, StepReport};
pub use option_text::OptionText;
pub use plan::Plan;
pub use request::*;
pub use steps::sensitivity::Sensitivity;
