//! Positions of a batch, by what memory allows.

use super::super::request::Curvature;
use super::super::{Job, JobError};
use crate::curvature::{Graphs, LayerSpec};
use crate::model::{Limits, Residence};

/// Positions of a batch, and whether activations are kept.
///
/// Deterministic unless a memory budget is given: results must not depend on what else runs.
pub(super) fn batch_size(
    job: &Job,
    layers: &[LayerSpec],
    longest: usize,
    limits: Limits,
) -> Result<(usize, Graphs, Residence), JobError> {
    let default = if matches!(limits, Limits::Tokens(_)) { 2048 } else { 4096 };
    let wanted = job.resources.batch_tokens.unwrap_or(default);
    let Some(budget) = job.resources.memory else { return Ok((wanted, Graphs::Kept, Residence::Kept)) };
    // what does not depend on the batch: weights, covariance sums and one copy of the eigenvectors
    let fixed: u64 = layers.iter().map(|layer| fixed_bytes(layer, job.method.curvature)).sum();
    // activations and their gradients, about three numbers for every input and output of a layer
    let per_position: u64 = layers.iter().map(|layer| 12 * (layer.inputs + layer.outputs) as u64).sum();
    let deepest = layers.iter().map(|layer| 12 * (layer.inputs + layer.outputs) as u64).max().unwrap_or(0) * 6;
    let needs = |positions: usize, graphs| {
        let each = match graphs {
            Graphs::Kept => per_position,
            Graphs::Rebuilt => deepest + layers.len() as u64 * 4 * layers.first().map_or(0, |l| l.inputs) as u64,
        };
        fixed + positions.max(longest) as u64 * each
    };
    let choices = [(wanted, Graphs::Kept), (wanted, Graphs::Rebuilt), (longest.max(1), Graphs::Rebuilt)];
    match choices.into_iter().find(|&(positions, graphs)| needs(positions, graphs) <= budget) {
        Some((positions, graphs)) => Ok((positions, graphs, Residence::Kept)),
        None => Err(JobError::Memory { needed: needs(longest, Graphs::Rebuilt), budget }),
    }
}

fn fixed_bytes(layer: &LayerSpec, curvature: Curvature) -> u64 {
    let square = |n: usize| (n * n) as u64;
    let covariances = square(layer.columns()) + square(layer.outputs);
    let weights = 4 * layer.parameters() as u64;
    weights
        + match curvature {
            Curvature::Identity => 0,
            Curvature::Diagonal => 12 * layer.parameters() as u64,
            Curvature::Kfac | Curvature::Ekfac => 12 * covariances.max(layer.parameters() as u64),
        }
}
