//! A run from files to ranking: what was asked ([`Job`]), what will be done ([`Plan`]), and doing it.

mod answers;
mod calibration;
mod cost;
mod curvature;
mod error;
mod groups;
mod keys;
mod layer_sets;
mod mapped;
mod moments;
mod networks;
mod output;
mod plan;
mod queries;
mod rank;
mod request;
mod reuse;
mod run;
mod saturation;
mod scores;
mod self_influence;
mod sensitivity;
#[cfg(test)]
mod small_memory;
mod spread;
mod training;

pub use calibration::Amount;
pub use cost::{Calibration, Contraction, Cost, DiskCost, EigenRate, FileCost, Seconds, StageCost, Work, WorkKind};
pub use error::JobError;
pub use groups::RankedGroup;
pub use plan::{
    CheckpointSummary, DataSummary, LayerSetSummary, LayerSummary, LegSummary, Plan, StageSummary, Summary,
};
pub use rank::{QueryInfo, QueryRanking, RankedExample, write_csv};
pub use request::*;
pub use run::{StageReport, StepReport};
pub use saturation::{LayerSaturation, Saturation};
pub use sensitivity::Sensitivity;
