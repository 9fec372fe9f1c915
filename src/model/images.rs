//! What models of images share: how a batch's images lie in memory, what a configuration says of sizes, and what the
//! labels are.

use candle_core::{DType, Device, Tensor};

use super::body::wrong_batch;
use super::config::Config;
use super::error::LoadError;
use super::heads::labels;
use super::weights::Weights;
use crate::curvature::{Error, Plane, Section};
use crate::data::{Batch, Inputs, Labels, RowInputs, Task};

/// A batch's images, a row for each pixel: `[B · H · W, channels]`.
pub(super) struct ImageBatch {
    pub(super) rows: Tensor,
    /// What belongs to one image.
    pub(super) plane: Plane,
}

impl ImageBatch {
    /// The images of a batch, whose channels lie one behind the other.
    pub(super) fn of(batch: &Batch, dtype: DType, device: &Device) -> Result<Self, Error> {
        let Inputs::Rows(RowInputs { values, shape }) = &batch.inputs else { return Err(wrong_batch()) };
        let &[channels, height, width] = shape.as_slice() else { return Err(wrong_batch()) };
        let images = Tensor::from_slice(values, (batch.positions.examples(), channels, height * width), &Device::Cpu)?;
        let rows = images.transpose(1, 2)?.contiguous()?.reshape(((), channels))?;
        Ok(Self { rows: rows.to_dtype(dtype)?.to_device(device)?, plane: Plane { height, width } })
    }
}

/// Sections one after the other: the first, those that repeat, and the last.
pub(super) fn chained<'a>(
    first: &'a impl Section,
    between: &'a [impl Section],
    last: &'a impl Section,
) -> Vec<&'a dyn Section> {
    let between = between.iter().map(|section| section as &dyn Section);
    std::iter::once(first as &dyn Section).chain(between).chain([last as &dyn Section]).collect()
}

/// A size, or what it usually is if the key is absent or `null`.
pub(super) fn size(config: &Config, key: &str, usual: usize) -> Result<usize, LoadError> {
    Ok(config.optional_size(key)?.unwrap_or(usual))
}

/// A height and a width: one number for both, or a list of the two.
pub(super) fn pair(config: &Config, key: &str, default: usize) -> Result<[usize; 2], LoadError> {
    let Some(list) = config.get(key).and_then(|value| value.as_array()) else {
        return Ok([size(config, key, default)?; 2]);
    };
    let size = |k: usize| list.get(k)?.as_u64().filter(|n| (1..=1 << 16).contains(n)).map(|n| n as usize);
    match (size(0), size(1), list.len()) {
        (Some(height), Some(width), 2) => Ok([height, width]),
        _ => Err(config.problem(format!(
            "`{key}` = {}, expected a positive whole number, or a height and a width",
            config.quoted(key)
        ))),
    }
}

/// Says so if batch norms run with the base's statistics under an adapter that was trained: training in batches moves them,
/// and PEFT saves those of copied norms alone.
pub(super) fn note_statistics(config: &Config, weights: &Weights) {
    const STATISTICS: &str = "running_mean";
    let Some(adapter) = weights.adapter() else { return };
    let norms = weights.names().filter(|name| name.ends_with(STATISTICS)).count();
    let saved = adapter.replaced().filter(|name| name.ends_with(STATISTICS)).count();
    if saved < norms {
        config.note(format!(
            "{} of {norms} batch norms have the base's running statistics, as when PEFT loads the adapter: training moves \
             them, and PEFT saves them only of norms in `modules_to_save`, so that losses may be off those of the log",
            norms - saved
        ));
    }
}

/// The labels of an image classifier. Where the configuration does not say what they are, they are classes.
pub(super) fn labels(config: &Config) -> Result<(Labels, Task), LoadError> {
    let labels = labels::labels(config)?;
    let task = labels.task.unwrap_or_else(|| {
        config.note("`config.json` has no `problem_type`: targets are classes");
        Task::Classification
    });
    Ok((Labels { task: Some(task), ..labels }, task))
}
