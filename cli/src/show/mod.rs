//! What is printed for people: the plan before the work, the rankings after it, aligned columns.

mod columns;
mod cost;
mod plan;
mod rankings;
mod trajectory;

pub(crate) use columns::Columns;
pub(crate) use cost::cost;
pub(crate) use plan::{losses, plan};
pub(crate) use rankings::rankings;
pub(crate) use trajectory::TrajectoryReport;
