//! What a job will cost, before any of it is done: operations, memory and disk of each stage from shapes, and time from
//! a short calibration of the machine.
//!
//! [`Plan::cost`] counts; it reads the checkpoint's configuration and headers and the lengths of examples, which the
//! plan has. [`Plan::calibrate`] measures how fast this machine does each kind of work, with the code that the job
//! runs. [`Cost::seconds`] divides one by the other.

mod architecture;
mod calibration;
mod contractions;
mod miniature;
mod seconds;
mod stages;
mod work;

use serde::Serialize;

pub use self::calibration::{Calibration, EigenRate};
pub use self::contractions::Contraction;

pub use self::seconds::Seconds;
use crate::job::budget::disk::{self, DiskCost};
use crate::job::error::JobError;
use crate::job::plan::Plan;

/// What a job will cost.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Cost {
    /// Every pass and decomposition, in the order of the work.
    pub stages: Vec<StageCost>,
    /// How gradients are contracted at layers of each shape.
    pub contractions: Vec<Contraction>,
    /// Bytes of the run folder.
    pub disk: DiskCost,
    /// Bytes of memory that the largest stage is expected to take; what a budget is compared with.
    pub memory: u64,
}

/// One pass over examples, or the eigendecompositions of one curvature.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct StageCost {
    /// As `run.json` names it.
    pub stage: String,
    /// The checkpoint that the pass is taken at, or the curvature that is decomposed.
    pub of: String,
    /// Examples, queries or layers.
    pub units: u64,
    /// What is counted.
    pub unit: String,
    /// Positions of the examples.
    pub positions: u64,
    /// Operations by kind.
    pub work: Vec<Work>,
    /// Sizes of the matrices that are decomposed, and how many have each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub decomposed: Vec<(usize, u64)>,
    /// Rows from which on they are decomposed one after the other, for want of memory.
    #[serde(skip)]
    pub alone_from: usize,
    /// Bytes of query vectors that are read from memory, once for each batch.
    pub vector_bytes: u64,
    /// Numbers that are added to sums in 64 bits, over all chunks.
    pub summed: u64,
    /// Bytes written during the stage.
    pub written: u64,
    /// Bytes of sums that are saved every ten seconds, so that a stopped run can go on.
    pub saved: u64,
    /// Places where sums may be saved.
    pub chunks: u64,
    /// Bytes of the files that the stage leaves.
    pub disk: u64,
    /// Bytes of memory while it runs, with pages of mapped files that stay.
    pub memory: u64,
}

impl StageCost {
    /// Operations of all kinds.
    pub fn flop(&self) -> u128 {
        self.work.iter().map(|work| work.flop).sum()
    }
}

/// Operations of one kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Work {
    /// Which: each kind has its rate.
    pub kind: WorkKind,
    /// How many; a multiply-add counts two.
    #[serde(serialize_with = "as_number")]
    pub flop: u128,
}

/// JSON's whole numbers end at 64 bits; beyond them the nearest number is near enough.
fn as_number<S: serde::Serializer>(flop: &u128, serializer: S) -> Result<S::Ok, S::Error> {
    match u64::try_from(*flop) {
        Ok(flop) => serializer.serialize_u64(flop),
        Err(_) => serializer.serialize_f64(*flop as f64),
    }
}

/// Work that runs at a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub enum WorkKind {
    /// Differentiation of the model.
    Passes,
    /// Gram matrices of inputs and output gradients.
    Covariances,
    /// Example gradients, rotated and squared.
    Squares,
    /// Example gradients as matrices, and their rotations into eigenbases and out of them.
    Vectors,
    /// Approximations of query vectors by factors of low rank.
    Truncations,
    /// Products of training gradients with query vectors.
    Scores,
    /// Eigendecompositions in 64 bits.
    Eigendecompositions,
}

impl Plan {
    /// Counts what the job will cost if it starts with an empty run folder.
    ///
    /// # Errors
    /// [`JobError::Load`] if the headers of the checkpoint cannot be read.
    pub fn cost(&self) -> Result<Cost, JobError> {
        let stages = stages::of(self)?;
        let disk = disk::of(self)?;
        Ok(Cost { memory: self.memory.needed, contractions: contractions::of(self), stages, disk })
    }
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::curvature::Graphs;
    use crate::job::error::JobError;
    use crate::job::request::Job;
    use crate::model::Residence;

    fn plan(model: &str, memory: Option<u64>) -> Result<Plan, JobError> {
        let fixtures = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        let (train, queries) = match model {
            "mlp-tiny" => ("mlp-tiny/train.safetensors", "mlp-tiny/query.safetensors"),
            _ => ("gpt2-tiny/train.jsonl", "gpt2-tiny/queries.jsonl"),
        };
        let path = |path: &str| serde_json::json!(fixtures.join(path)).to_string();
        let memory = memory.map_or_else(String::new, |bytes| format!("memory = {bytes}\n"));
        let job = format!(
            "[model]\npath = {}\n[data]\ntrain = {}\nqueries = {}\n[resources]\n{memory}[output]\npath = \"no-folder\"\n",
            path(model),
            path(train),
            path(queries)
        );
        Plan::resolve(toml::from_str::<Job>(&job).expect("a job"))
    }

    #[test]
    fn the_budget_is_compared_with_the_stage_that_takes_most() -> Result<(), JobError> {
        for model in ["gpt2-tiny", "llama-tiny", "mlp-tiny"] {
            let free = plan(model, None)?;
            let cost = free.cost()?;
            assert_eq!(Some(cost.memory), cost.stages.iter().map(|stage| stage.memory).max(), "{model}");
            assert!(cost.stages.iter().all(|stage| stage.memory > 0), "{model}");
            let enough = plan(model, Some(cost.memory))?;
            assert_eq!((enough.memory.batch, enough.memory.graphs), (free.memory.batch, Graphs::Kept), "{model}");
            assert_eq!((enough.memory.residence, enough.cost()?.memory), (Residence::Kept, cost.memory), "{model}");
            // a byte less changes a choice: some of what is mapped does not stay, or more is computed again
            let less = plan(model, Some(cost.memory - 1))?;
            assert!(less.cost()?.memory < cost.memory, "{model}");
        }
        Ok(())
    }
}
