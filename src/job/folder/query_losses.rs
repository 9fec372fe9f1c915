//! `query_losses.safetensors`: how badly the last network predicts each target token of the queries.

use crate::attribution::store::{FORMAT, Key, Metadata, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::folder::metadata::{KEY, query_ids};
use crate::job::folder::places::query_losses_file;

/// Writes the losses of each query's targets, in their order; a list is empty where they are not known.
pub(in crate::job) fn write_query_losses(brief: &Brief, key: &Key, losses: &[Vec<f32>]) -> Result<(), JobError> {
    let ends = losses.iter().scan(0, |end, own| {
        *end += own.len() as i64;
        Some(*end)
    });
    let offsets: Vec<i64> = std::iter::once(0).chain(ends).collect();
    let values = losses.concat();
    let shapes = [[offsets.len()], [values.len()]];
    let tensors = [TensorData::new("offsets", &shapes[0], &offsets), TensorData::new("losses", &shapes[1], &values)];
    // nothing of the training examples, of which there may be millions
    let ids = serde_json::to_string(&query_ids(brief)).expect("texts are JSON");
    let entries = [
        (KEY, key.to_string()),
        ("ascribe_version", env!("CARGO_PKG_VERSION").into()),
        ("format", FORMAT.to_string()),
        ("query_ids", ids),
        ("units", "-log p of each target token of the query, at the last checkpoint".into()),
    ];
    let metadata: Metadata = entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(write_safetensors(&query_losses_file(brief), &tensors, &metadata)?)
}

/// The losses of each query's targets.
pub(in crate::job) fn read_query_losses(file: &TensorFile) -> Result<Vec<Vec<f32>>, JobError> {
    let (offsets, losses) = (file.i64("offsets")?, file.f32("losses")?);
    let own = |ends: &[i64]| losses.get(ends[0] as usize..ends[1] as usize).unwrap_or_default().to_vec();
    Ok(offsets.windows(2).map(own).collect())
}
