//! The optimizer's state beside one checkpoint, whatever is known of the run around it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::TrainedLayers;

use super::frozen_parameters::FrozenParameters;
use super::optimizer_state::{self, OptimizerStateError};
use super::second_moments::second_moments;
use super::trainer;
use crate::curvature::LayerSpec;
use crate::model::Weights;
use crate::trajectory::error::ReadError;
use crate::trajectory::version::TransformersVersion;

/// The optimizer's state of a checkpoint.
#[derive(Debug, Clone)]
pub struct CheckpointOptimizer {
    folder: PathBuf,
    file: PathBuf,
    version: Option<TransformersVersion>,
    frozen: FrozenParameters,
}

impl CheckpointOptimizer {
    /// Finds the state of the checkpoint `folder`: `stated`, or the file in the folder; none if there is none.
    ///
    /// `others` are checkpoints of the same run: parameters that are the same in all of them may have been kept from the
    /// optimizer. `base` is the folder of an adapter's base, none the one that its settings name.
    ///
    /// # Errors
    /// The sharded state of FSDP or DeepSpeed; a state that has seen another number of updates than the name of its
    /// folder says; a configuration that cannot be read.
    pub fn find(
        folder: &Path,
        stated: Option<&Path>,
        others: &[PathBuf],
        base: Option<&Path>,
    ) -> Result<Option<Self>, ReadError> {
        let found = match stated {
            Some(file) => Some(file.to_owned()),
            None => optimizer_state::find(folder).map_err(ReadError::from)?,
        };
        let Some(file) = found else { return Ok(None) };
        let version = trainer::check_state(folder, &file)?;
        let frozen = FrozenParameters {
            unchanged: unchanged(others),
            trained_layers: TrainedLayers::All,
            base: base.map(Path::to_owned),
        };
        Ok(Some(Self { folder: folder.to_owned(), file, version, frozen }))
    }

    /// Its file.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// The bias-corrected second moments of every layer in the layout of its gradient, `[outputs, columns]`.
    ///
    /// # Errors
    /// As [`second_moments`]; also a layer that the optimizer never updated.
    pub fn second_moments(&self, layers: &[LayerSpec]) -> Result<Vec<Vec<f32>>, ReadError> {
        let found = second_moments(&self.folder, &self.file, layers, self.version, &self.frozen)?;
        let of_layer = |(moments, layer): (Option<Vec<f32>>, &LayerSpec)| {
            moments.ok_or_else(|| {
                let (file, parameter) = (self.file.clone(), format!("{}.weight", layer.name));
                OptimizerStateError::NoState { file, parameter }.into()
            })
        };
        found.into_iter().zip(layers).map(of_layer).collect()
    }
}

/// Tensors that are the same in all of these checkpoints; none unless there are two that can be read.
fn unchanged(folders: &[PathBuf]) -> BTreeSet<String> {
    let opened: Vec<Weights> = folders.iter().filter_map(|folder| Weights::open_trained(folder).ok()).collect();
    match opened.as_slice() {
        [first, rest @ ..] if !rest.is_empty() => {
            let same = |name: &&str| rest.iter().all(|other| first.same(other, name));
            first.names().filter(same).map(str::to_owned).collect()
        }
        _ => BTreeSet::new(),
    }
}
