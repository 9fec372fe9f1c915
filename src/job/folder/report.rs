//! `run.json`: what each step did, how far each segment of training went, and what the plan was.

use std::path::Path;

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::attribution::store::{Store, sealed_json};
use crate::job::brief::Brief;
use crate::job::brief::reuse::CURVATURE_DATA;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::output::write_file;

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

impl Saturation {
    /// What a run folder tells of each segment; empty before the curvature is fitted, and for influence functions.
    pub fn of_run_folder(folder: &Path) -> Vec<Self> {
        let text = std::fs::read_to_string(folder.join("run.json")).ok();
        let report = text.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        let found = report.and_then(|mut report| serde_json::from_value(report.get_mut("saturation")?.take()).ok());
        found.unwrap_or_default()
    }
}

/// `run.json`: the plan's summary and the stages of all steps so far, newest last. What is there is read, added to and
/// written again, so it is written through the claimed store alone, whose lock keeps other writers out meanwhile.
pub(in crate::job) fn write_report(
    store: &Store,
    brief: &Brief,
    summary: &Summary,
    report: &StepReport,
) -> Result<(), JobError> {
    let file = store.folder().join("run.json");
    let before =
        std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let mut stages = before.as_ref().and_then(|value| value.get("stages")?.as_array().cloned()).unwrap_or_default();
    stages.extend(report.stages.iter().filter(|stage| !stage.reused).map(|stage| json!(stage)));
    let data = brief.training.stages.iter().enumerate().map(|(index, stage)| {
        (stage.name.clone(), json!(blake3::Hash::from_bytes(brief.curvature_data(index)).to_hex().as_str()))
    });
    let saturation =
        report.saturation.as_ref().map(|found| json!(found)).or_else(|| before?.get("saturation").cloned());
    let report = json!({
        "ascribe_version": env!("CARGO_PKG_VERSION"),
        CURVATURE_DATA: data.collect::<serde_json::Map<_, _>>(),
        "summary": summary,
        "saturation": saturation,
        "stages": stages,
    });
    let serde_json::Value::Object(report) = report else { unreachable!("written as an object above") };
    write_file(&file, sealed_json(report).as_bytes())
}
