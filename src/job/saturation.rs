//! How far each segment of training went: `τσ`, which says what Source adds to a sum of gradient products.

use serde::{Deserialize, Serialize};

use super::Plan;
use super::run::{Number, Run};
use crate::attribution::source::{LegCurvature, exponents};

/// Shares of the eigenvalues at which `τσ` is reported.
const LEVELS: [f64; 4] = [0.1, 0.5, 0.9, 1.0];

/// A segment is far from saturation where half of a layer's directions keep more than nine tenths of an older change.
const FAR: f64 = 0.1;

/// `τσ` of one segment: an older change is left times `exp(-τσ)` in each direction of curvature.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Saturation {
    /// The segment.
    pub segment: String,
    /// Median over layers of the layers' medians.
    pub median: f64,
    /// Each layer's quantiles.
    pub layers: Vec<LayerSaturation>,
}

/// `τσ` of one layer.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LayerSaturation {
    /// Its name.
    pub layer: String,
    /// The 10 %, 50 % and 90 % quantiles over its eigenvalues, and the largest.
    pub quantiles: [f64; 4],
}

impl Saturation {
    /// Whether training was too short for curvature to matter in most directions.
    pub fn is_far(&self) -> bool {
        self.median < FAR
    }
}

impl Plan {
    /// How far each segment of the training run went, as the run folder tells; empty before the curvature is fitted,
    /// and for influence functions.
    pub fn saturation(&self) -> Vec<Saturation> {
        let text = std::fs::read_to_string(self.job.output.path.join("run.json")).ok();
        let report = text.and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
        let found = report.and_then(|mut report| serde_json::from_value(report.get_mut("saturation")?.take()).ok());
        found.unwrap_or_default()
    }
}

impl Run<'_> {
    /// `τσ` of every segment, once its curvature is known.
    pub(super) fn saturation<T: Number>(&self, curvatures: &[LegCurvature<T>]) -> Vec<Saturation> {
        let training = &self.plan.training;
        let mut found = Vec::with_capacity(training.segments().len());
        for ((_, segment), (fit, curvature)) in training.segments().iter().zip(training.fits.iter().zip(curvatures)) {
            let layers: Vec<LayerSaturation> = training
                .layers()
                .iter()
                .enumerate()
                .filter(|(l, _)| !fit.frozen.contains(l) && curvature.factors.layers[*l].lambda.is_some())
                .map(|(l, layer)| {
                    let values = exponents(&curvature.factors.layers[l], segment, &LEVELS);
                    let quantiles = std::array::from_fn(|k| values[k]);
                    LayerSaturation { layer: layer.name.clone(), quantiles }
                })
                .collect();
            let mut medians: Vec<f64> = layers.iter().map(|layer| layer.quantiles[1]).collect();
            medians.sort_by(f64::total_cmp);
            let median = medians.get(medians.len() / 2).copied().unwrap_or(0.0);
            found.push(Saturation { segment: fit.name.clone(), median, layers });
        }
        found
    }
}
