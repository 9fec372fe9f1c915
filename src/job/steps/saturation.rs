//! How far each segment of training went: `τσ`, which says what Source adds to a sum of gradient products.

use crate::attribution::source::{exponents, forgotten};
use crate::job::error::JobError;
use crate::job::folder::report::{LayerSaturation, Saturation};
use crate::job::number::Number;
use crate::job::steps::context::Run;

/// Shares of the eigenvalues at which `τσ` is reported.
const LEVELS: [f64; 4] = [0.1, 0.5, 0.9, 1.0];

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
