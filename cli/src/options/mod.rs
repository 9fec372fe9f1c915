//! Flags by subject, each group of which can be laid on top of a job.
//!
//! A flag that was not given changes nothing: what stands in a job file, or the library's default, stays.

mod data;
mod method;
mod model;
mod output;
mod resources;
mod source;
mod talk;
mod training;
mod trajectory;
mod values;
mod wording;

pub(crate) use data::DataOptions;
pub(crate) use output::RankingFormat;
pub(crate) use source::JobOptions;
pub(crate) use talk::{ProgressMode, TalkOptions};
pub(crate) use training::RunMethod;
pub(crate) use trajectory::TrajectoryOptions;
pub(crate) use values::{measure, memory, shard};
pub(crate) use wording::Wording;
