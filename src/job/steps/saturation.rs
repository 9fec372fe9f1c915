//! How far each segment of training went: `τσ`, which says what Source adds to a sum of gradient products.

use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::attribution::source::{exponents, forgotten};
use crate::job::error::JobError;
use crate::job::number::Number;
use crate::job::steps::Run;

/// Shares of the eigenvalues at which `τσ` is reported.
const LEVELS: [f64; 4] = [0.1, 0.5, 0.9, 1.0];

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

impl Run<'_> {
    /// `τσ` of every segment, once its curvature is known.
    pub(in crate::job) fn saturation<T: Number>(&self) -> Result<Vec<Saturation>, JobError> {
        let training = &self.plan.training;
        let mut found = Vec::with_capacity(training.segments().len());
        for ((stage, segment), fit) in training.segments().iter().zip(&training.fits) {
            let factors = self.factors::<T>(fit)?;
            let layers: Vec<LayerSaturation> = training
                .layers()
                .iter()
                .enumerate()
                .filter(|(l, _)| !fit.frozen.contains(l) && factors.layers[*l].lambda.is_some())
                .map(|(l, layer)| {
                    let rate = training.stage_numbers(*stage).map_or(1.0, |stage| stage.layer_rate(&layer.name));
                    let segment = segment.at_rate(rate);
                    let values = exponents(&factors.layers[l], &segment, &LEVELS);
                    let quantiles = std::array::from_fn(|k| values[k]);
                    let forgotten = forgotten(&factors.layers[l], &segment);
                    LayerSaturation { layer: layer.name.clone(), forgotten, quantiles }
                })
                .collect();
            let rate = |k: usize| training.stage_numbers(*stage).and_then(|stage| stage.scaled_rate(k)).unwrap_or(0.0);
            let largest_rate = segment.steps.clone().map(rate).fold(0.0, f64::max) * segment.momentum_factor;
            let of_layer = |layer: &LayerSaturation| layer.quantiles[3];
            let largest_exponent = layers.iter().map(of_layer).fold(0.0, f64::max);
            let largest_step = if segment.tau > 0.0 { largest_exponent / segment.tau * largest_rate } else { 0.0 };
            let mut shares: Vec<f64> = layers.iter().map(|layer| layer.forgotten).collect();
            shares.sort_by(f64::total_cmp);
            let forgotten = shares.get(shares.len() / 2).copied().unwrap_or(0.0);
            found.push(Saturation { segment: fit.name.clone(), forgotten, largest_step, layers });
        }
        Ok(found)
    }
}
