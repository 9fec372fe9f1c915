//! What a step of a job reports: its stages, and how far each segment of training went.

use serde::{Deserialize, Serialize};

/// What a step did.
#[derive(Debug, Clone, Default, Serialize)]
#[non_exhaustive]
pub struct StepReport {
    /// Its stages, in order.
    pub stages: Vec<StageReport>,
    /// What has to be run next, if the step alone does not finish the job (shards).
    pub next: Option<String>,
    /// How far each segment of training went, once its curvature is fitted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub saturation: Option<Vec<Saturation>>,
}

/// One stage of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StageReport {
    /// The stage's name.
    pub stage: String,
    /// Wall time in this process.
    pub seconds: f64,
    /// Examples, queries or layers that were done in this process.
    pub units: u64,
    /// What is counted.
    pub unit: String,
    /// Whether the whole result was found from an earlier run.
    pub reused: bool,
}

/// A segment is far from saturation if, along the directions in which examples push, it takes away less than this share
/// of an older change. Between what was found on runs where Source predicted retraining better than influence functions
/// or as well (0.79 to 0.97 in every segment) and on one where it did not (0.53 in the last); see docs/source.md.
const FAR: f64 = 2.0 / 3.0;

/// `τσ` of one segment: an older change is left times `exp(-τσ)` in each direction of curvature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Saturation {
    /// The segment.
    pub segment: String,
    /// Median over layers of [`LayerSaturation::forgotten`].
    pub forgotten: f64,
    /// The largest rate of a step times the largest eigenvalue, with the loss scale and momentum: descent overshoots
    /// above 1 and diverges above 2 along that direction, if the curvature there is what it was at the checkpoints.
    pub largest_step: f64,
    /// Each layer's quantiles.
    pub layers: Vec<LayerSaturation>,
}

/// `τσ` of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSaturation {
    /// Its name.
    pub layer: String,
    /// The share of an older change that the segment makes forgotten, along the directions in which training examples
    /// push.
    pub forgotten: f64,
    /// τσ: its 10 %, 50 % and 90 % quantiles over the layer's eigenvalues, and the largest.
    pub quantiles: [f64; 4],
}

impl Saturation {
    /// Whether the segment was too short, or its rates too low, for curvature to matter much.
    pub fn is_far(&self) -> bool {
        self.forgotten < FAR
    }
}
