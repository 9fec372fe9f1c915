//! Adam's second moments at a checkpoint, as the curvature of influence functions.

use std::path::{Path, PathBuf};

use crate::curvature::LayerSpec;
use crate::job::error::JobError;
use crate::job::option_text::option_text;
use crate::job::request::Job;
use crate::trajectory::{CheckpointOptimizer, RunCheckpoints};

/// The optimizer's state of a checkpoint, whose second moments were read once.
#[derive(Debug, Clone)]
pub(in crate::job) struct SecondMoments {
    optimizer: CheckpointOptimizer,
    /// BLAKE3 over the moments of all tracked layers.
    pub content_hash: [u8; 32],
}

impl SecondMoments {
    /// Finds the states of all checkpoints and reads each once, so that what is wrong with them is said before any work.
    ///
    /// # Errors
    /// A checkpoint without an optimizer's state, or with one that is not Adam's; a tracked layer that it does not know.
    pub(in crate::job) fn of_checkpoints(
        job: &Job,
        folders: &[PathBuf],
        layers: &[LayerSpec],
    ) -> Result<Vec<Self>, JobError> {
        // a description of a run may name the file of a checkpoint's state
        let listed = match job.checkpoints.as_ref().and_then(|of| of.run.as_ref()) {
            Some(run) => RunCheckpoints::find(run)?.checkpoints,
            None => vec![],
        };
        let others = match folders {
            [only] => beside(only),
            several => several.to_vec(),
        };
        let of_checkpoint = |folder: &PathBuf| {
            let stated =
                listed.iter().find(|files| files.folder == *folder).and_then(|files| files.optimizer.as_deref());
            let found = CheckpointOptimizer::find(folder, stated, &others, job.model.base.as_deref())?;
            let optimizer = found.ok_or_else(|| {
                JobError::options(
                    option_text!(
                        "{}: has no optimizer's state (`optimizer.pt`), and <curvature = adam> is made of its second moments",
                        folder.display()
                    ),
                    "name checkpoints that a Trainer saved without `save_only_model`, or take another <curvature>",
                )
            })?;
            let mut hasher = blake3::Hasher::new();
            for moments in optimizer.second_moments(layers)? {
                moments.iter().for_each(|x| {
                    hasher.update(&x.to_le_bytes());
                });
            }
            Ok(Self { optimizer, content_hash: *hasher.finalize().as_bytes() })
        };
        folders.iter().map(of_checkpoint).collect()
    }

    /// The file of the state.
    pub(in crate::job) fn file(&self) -> &Path {
        self.optimizer.file()
    }

    /// `v̂` of each layer, `[outputs, columns]`.
    pub(in crate::job) fn values(&self, layers: &[LayerSpec]) -> Result<Vec<Vec<f32>>, JobError> {
        Ok(self.optimizer.second_moments(layers)?)
    }
}

/// The checkpoints of the run that a checkpoint lies in; none if nothing says that it lies in one.
fn beside(folder: &Path) -> Vec<PathBuf> {
    let is_named =
        folder.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("checkpoint-"));
    let run = folder.parent().filter(|_| is_named).and_then(|run| RunCheckpoints::find(run).ok());
    run.into_iter().flat_map(|run| run.checkpoints).map(|files| files.folder).collect()
}
