//! A run from files to ranking: what was asked ([`Job`]), what will be done ([`Plan`]), and doing it.

mod error;
mod plan;
mod request;

pub use error::JobError;
pub use plan::{DataSummary, LayerSummary, Plan, Summary};
pub use request::*;
