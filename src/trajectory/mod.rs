//! Training runs on disk: Trainer folders and TOML files, read into validated trajectories.
//!
//! A reader returns a [`Reading`]: what it understood, where each fact comes from, and warnings.
//! [`Reading::stage`] joins it with what the user states into a validated
//! [`TrainingStage`](ascribe_attribution::trajectory::TrainingStage). Files of Python are read without Python and
//! without running anything in them ([`pickle`]).

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::print_stderr))]

mod averaging;
mod checkpoint_optimizer;
mod error;
mod frozen_parameters;
mod layer_names;
mod layer_rates;
pub mod optimizer_state;
pub mod parameter_groups;
pub mod pickle;
mod reading;
pub mod request;
mod run_checkpoints;
mod schedule_arguments;
mod second_moments;
mod tensor_place;
mod text_data;
mod text_record;
mod text_treatment;
mod token_counts;
pub mod toml_file;
mod torch_error;
pub mod torch_parameters;
pub mod torch_zip;
pub mod trainer;
mod training_run;
mod version;
mod warning;
mod written_stages;
mod zip_directory;

pub use averaging::{Averaging, ExampleWeights, Over, Targets};
pub use checkpoint_optimizer::CheckpointOptimizer;
pub use error::ReadError;
pub use frozen_parameters::FrozenParameters;
pub use reading::{
    Batch, CheckpointFiles, ClippingUse, Company, Epochs, Fact, GroupRates, RatesOrigin, Reading, Stated,
};
pub use request::{TrajectoryRequest, read_description, reads_trainer_folder};
pub use run_checkpoints::{RunCheckpoints, nearest_shares};
pub use second_moments::second_moments;
pub use text_data::TextData;
pub use text_record::TextRecord;
pub use text_treatment::{Blocks, Difference, Packing, TextTreatment, TrlRelease};
pub use token_counts::{LoggedTokens, TokenComparison};
pub use trainer::{Around, Gaps, TrainingLog, text_record};
pub use training_run::{Outline, StageData, TrainingRun, Unknown};
pub use version::TransformersVersion;
pub use warning::Warning;
