//! A run from files to ranking: what was asked ([`Job`]), what will be done ([`Plan`]), and doing it.

mod error;
mod fit;
mod keys;
mod output;
mod plan;
mod queries;
mod rank;
mod request;
mod run;
mod scores;

pub use error::JobError;
pub use plan::{DataSummary, LayerSummary, Plan, Summary};
pub use rank::{QueryInfo, QueryRanking, RankedExample};
pub use request::*;
pub use run::{StageReport, StepReport};
