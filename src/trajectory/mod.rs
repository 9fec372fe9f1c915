//! Training runs on disk: Trainer folders and TOML files, read into validated trajectories.

#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod optimizer_state;
pub mod parameter_groups;
pub mod pickle;
pub mod torch_zip;
mod version;

pub use version::TransformersVersion;
