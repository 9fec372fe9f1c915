//! `before.safetensors`: what the queries' measurements are at another checkpoint, such as the base that was tuned.

use crate::attribution::store::{FORMAT, Key, Metadata, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::folder::metadata::{KEY, query_ids};
use crate::job::folder::places::before_file;

/// Writes each query's measurement there.
pub(in crate::job) fn write_before(
    brief: &Brief,
    key: &Key,
    (checkpoint, measurement): (&str, &str),
    values: &[f64],
) -> Result<(), JobError> {
    let shape = [values.len()];
    let tensors = [TensorData::new("measurements", &shape, values)];
    let ids = serde_json::to_string(&query_ids(brief)).expect("texts are JSON");
    let entries = [
        (KEY, key.to_string()),
        ("ascribe_version", env!("CARGO_PKG_VERSION").into()),
        ("format", FORMAT.to_string()),
        ("checkpoint", checkpoint.into()),
        ("measurement", measurement.into()),
        ("query_ids", ids),
    ];
    let metadata: Metadata = entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    Ok(write_safetensors(&before_file(brief), &tensors, &metadata)?)
}

/// Each query's measurement at the other checkpoint, from its file.
pub(in crate::job) fn read_before(file: &TensorFile) -> Result<Vec<f64>, JobError> {
    Ok(file.f64("measurements")?.to_vec())
}
