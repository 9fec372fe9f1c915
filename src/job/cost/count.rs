//! What is counted of a job: its stages, each with its operations by kind, its bytes and its memory.

use serde::Serialize;

use crate::job::budget::disk::DiskCost;

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
    /// The stage's name in `run.json`.
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
    /// The kind of work; each kind has its rate.
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

/// How gradients of layers of one shape are contracted, in the batch that most examples are in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Contraction {
    /// Layers of this shape.
    pub layers: u64,
    /// O.
    pub outputs: usize,
    /// I, with the column of ones.
    pub columns: usize,
    /// How example gradients get into the eigenbasis; none if no pass needs it.
    pub lambda: Option<&'static str>,
    /// How they are multiplied with query vectors; none without queries.
    pub scores: Option<&'static str>,
}
