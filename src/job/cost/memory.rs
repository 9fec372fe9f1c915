//! Memory of each stage, about: what is held at its peak, with files that are mapped and read whole.

use std::collections::BTreeMap;

use super::stages::Stages;
use super::work::BatchShape;
use crate::curvature::{BlockWidth, Graphs, LayerSpec};

/// The program with its threads, tokenizer and allocator.
const PROGRAM: u64 = 48 << 20;

/// Numbers of all covariances, of one network.
pub(super) fn covariance_numbers(layers: &[LayerSpec]) -> u64 {
    block_numbers(layers, BlockWidth::Any)
}

/// Numbers of their blocks of at most this width.
fn block_numbers(layers: &[LayerSpec], width: BlockWidth) -> u64 {
    (0..layers.len()).map(|l| width.numbers_of_layer(layers, l) as u64).sum()
}

/// The program, the weights, and what a batch keeps between forward and backward.
fn of_pass(stages: &Stages<'_>) -> u64 {
    let (plan, width) = (stages.plan, stages.plan.width());
    let layers = plan.training.layers();
    let positions = plan.job.resources.batch_tokens.unwrap_or(1) as u64;
    let per_position: u64 = layers.iter().map(|layer| (layer.inputs + layer.outputs) as u64).sum();
    let per_block = per_position / stages.network.blocks.max(1) as u64 + 4 * stages.network.width as u64;
    let kept = match stages.graphs {
        Graphs::Kept => per_position + 2 * per_block,
        Graphs::Rebuilt => 3 * per_block + (stages.network.blocks * stages.network.width) as u64,
    };
    PROGRAM + width * (stages.network.parameters + positions * kept)
}

/// Numbers of the eigenvectors.
fn bases(stages: &Stages<'_>) -> u64 {
    block_numbers(stages.plan.training.layers(), stages.plan.block_width())
}

pub(super) fn covariance(stages: &Stages<'_>) -> u64 {
    of_pass(stages) + (8 + stages.plan.width()) * covariance_numbers(stages.plan.training.layers())
}

pub(super) fn eigendecomposition(stages: &Stages<'_>) -> u64 {
    let layers = stages.plan.training.layers();
    let widest = |n: usize| stages.plan.block_width().groups(n).map(|group| group.len()).max().unwrap_or(0);
    let largest = layers.iter().map(|l| widest(l.outputs.max(l.columns())) as u64).max().unwrap_or(0);
    // the network of the last pass is still there
    let weights = stages.network.parameters * stages.plan.width();
    PROGRAM + weights + 8 * covariance_numbers(layers) + stages.plan.width() * bases(stages) + 4 * 8 * largest * largest
}

pub(super) fn lambda(stages: &Stages<'_>, fits: u64) -> u64 {
    let width = stages.plan.width();
    let largest = stages.plan.training.layers().iter().map(LayerSpec::parameters).max().unwrap_or(0) as u64;
    of_pass(stages) + fits * ((8 + width) * stages.tracked() + width * bases(stages)) + 2 * width * largest
}

pub(super) fn queries(stages: &Stages<'_>, batches: &BTreeMap<BatchShape, u64>) -> u64 {
    let width = stages.plan.width();
    let at_once = batches.keys().map(|batch| batch.examples).max().unwrap_or(1) as u64;
    let largest = stages.plan.training.layers().iter().map(LayerSpec::parameters).max().unwrap_or(0) as u64;
    let fits = stages.plan.needed_fits().count() as u64;
    of_pass(stages) + fits * (width * bases(stages) + 8 * stages.tracked()) + 3 * width * at_once * largest
}

pub(super) fn scores(stages: &Stages<'_>, vectors: u64) -> u64 {
    of_pass(stages) + vectors.min(stages.plan.memory.mapped)
}
