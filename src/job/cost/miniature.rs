//! A checkpoint of one block of a job's architecture, with invented weights: what the machine is measured with.
//!
//! Of n blocks one is kept, and of the vocabulary an n-th, so that a pass through the miniature is an n-th of a pass
//! through the model in all its parts. Networks without blocks are kept whole.

use std::path::Path;

use serde_json::{Map, Value};
use tempfile::TempDir;

use super::architecture::{Architecture, block_of};
use crate::attribution::store::{Metadata, TensorData, write_safetensors};
use crate::data::{Batch, Inputs, Targets};
use crate::job::error::JobError;
use crate::model::{self, Config, LoadOptions};

/// A miniature on disk; dropped, it is gone.
#[derive(Debug)]
pub(super) struct Miniature {
    folder: TempDir,
    /// Tokens of the miniature's vocabulary, if it is smaller than the checkpoint's.
    vocabulary: Option<usize>,
}

/// The least vocabulary: a block of rows of the head would otherwise be no product worth the name.
const LEAST_VOCABULARY: usize = 64;

impl Miniature {
    /// Writes the miniature of a checkpoint's folder, or of an adapter's base, into a temporary folder.
    ///
    /// # Errors
    /// [`JobError::Load`] for headers that cannot be read; [`JobError::Io`] if nothing can be written there.
    pub(super) fn of(checkpoint: &Path, options: &LoadOptions) -> Result<Self, JobError> {
        let (config, shapes) = model::shapes(checkpoint, options)?;
        let architecture = Architecture::of(&config, &shapes)?;
        let temporary = std::env::temp_dir();
        let io = |source| JobError::Io { file: temporary.clone(), action: "cannot be written", source };
        let folder = tempfile::Builder::new().prefix("ascribe-plan-").tempdir_in(&temporary).map_err(io)?;
        let vocabulary = architecture.vocabulary.map(|v| (v / architecture.blocks).max(LEAST_VOCABULARY).min(v));
        let mut tensors = vec![];
        for (name, mut shape) in shapes {
            match (block_of(&name), architecture.vocabulary) {
                (Some(1..), _) if architecture.blocks > 1 => continue,
                (None, Some(v)) if shape.first() == Some(&v) => shape[0] = vocabulary.unwrap_or(v),
                _ => {}
            }
            let values = invented(&shape, tensors.len() as u64);
            tensors.push((name, shape, values));
        }
        let data: Vec<_> = tensors.iter().map(|(name, shape, values)| TensorData::new(name, shape, values)).collect();
        write_safetensors(&folder.path().join("model.safetensors"), &data, &Metadata::new())?;
        let file = folder.path().join("config.json");
        let text = Value::Object(smaller(&config, vocabulary)?).to_string();
        std::fs::write(&file, text).map_err(|source| JobError::Io { file, action: "cannot be written", source })?;
        Ok(Self { folder, vocabulary })
    }

    /// Its folder.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A batch of the job's with tokens that the miniature knows.
    pub(super) fn batch(&self, mut batch: Batch) -> Batch {
        let Some(v) = self.vocabulary else { return batch };
        if let Inputs::Tokens(inputs) = &mut batch.inputs {
            inputs.ids.iter_mut().for_each(|id| *id %= v as u32);
        }
        if let Targets::Tokens(targets) = &mut batch.targets {
            targets.iter_mut().flatten().for_each(|id| *id %= v as u32);
        }
        batch
    }
}

fn smaller(config: &Config, vocabulary: Option<usize>) -> Result<Map<String, Value>, JobError> {
    let mut keys = config.keys().clone();
    if let Some(key) = model::architecture_of(config)?.blocks {
        // also where the usual number counts, because there is none
        keys.insert(key.to_owned(), 1.into());
    }
    if let Some(decoder) = keys.get_mut("num_decoder_layers") {
        *decoder = 1.into();
    }
    if let Some(vocabulary) = vocabulary {
        keys.insert("vocab_size".to_owned(), vocabulary.into());
    }
    Ok(keys)
}

/// Weights of about the size that initialisation gives; vectors are near 1, as those of norms.
fn invented(shape: &[usize], seed: u64) -> Vec<f32> {
    let (centre, size) = if shape.len() == 1 { (1.0, 0.1) } else { (0.0, 0.04) };
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        // xorshift: quick, and no number repeats
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1u64 << 24) as f32 - 0.5
    };
    (0..shape.iter().product()).map(|_| centre + size * next()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::curvature::Network;
    use crate::model::Model;

    #[test]
    fn one_block_of_several_and_its_part_of_the_vocabulary() -> Result<(), JobError> {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
        for name in ["gpt2-tiny", "llama-tiny", "mlp-tiny"] {
            let folder = fixtures.join(name);
            let whole = Model::load(&folder, &LoadOptions::default())?;
            let miniature = Miniature::of(&folder, &LoadOptions::default())?;
            let model = Model::load(miniature.path(), &LoadOptions::default())?;
            let blocks = Architecture::read(&folder, &LoadOptions::default())?.blocks;
            assert_eq!(model.layers().len() * blocks, whole.layers().len(), "{name}");
            let shapes = |layers: &[crate::curvature::LayerSpec]| -> Vec<_> {
                layers.iter().map(|layer| (layer.outputs, layer.columns(), layer.input_group)).collect()
            };
            assert_eq!(shapes(model.layers()), shapes(&whole.layers()[..model.layers().len()]), "{name}");
            let path = miniature.path().to_owned();
            drop(miniature);
            assert!(!path.exists());
        }
        Ok(())
    }
}
