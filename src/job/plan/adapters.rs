//! What a job says of adapters: where their base lies, and which of its methods fit which tracked layers.

use crate::job::error::JobError;
use crate::job::request::Job;
use crate::model::AdapterMode;
use crate::trajectory::Reading;

/// Lays what the job and the description of a run say of the base on top of each other; the job wins.
///
/// # Errors
/// Layers that the adapter's training did not train, for a method that follows training.
pub(super) fn resolve(job: &mut Job, readings: &mut [Reading]) -> Result<(), JobError> {
    if let (Some(_), Some(mode @ (AdapterMode::Merged | AdapterMode::Both))) = (&job.source, job.model.adapter) {
        return Err(JobError::Options {
            problem: format!(
                "`--adapter {}` tracks layers of the base, which an adapter's training run leaves as they are",
                mode.name()
            )
            .into(),
            hint: Some("Source follows what was trained: use `--adapter only`".into()),
        });
    }
    let described = readings.iter().rev().find_map(|reading| reading.base.clone());
    if job.model.base.is_none() {
        job.model.base = described;
    } else {
        readings.iter_mut().for_each(|reading| reading.base.clone_from(&job.model.base));
    }
    Ok(())
}
