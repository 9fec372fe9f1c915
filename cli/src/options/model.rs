//! Flags about the checkpoint, its adapter, and which layers are tracked.

use std::path::PathBuf;

use ascribe::job::{CheckpointsRequest, Job, Precision};
use ascribe::model::{AdapterMode, AlsoTracked};
use clap::Args;

use super::values::one_of;

/// The checkpoint and what of it is tracked.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Model")]
pub(crate) struct ModelOptions {
    /// Folder of the checkpoint: `config.json` and `model.safetensors`, or shards with their index
    ///
    /// `hub:ORG/NAME` or `hub:ORG/NAME@REVISION` is a model of the Hugging Face hub, fetched into its cache; a path never is.
    ///
    /// Given several times, first trained first, influence is averaged over the checkpoints, and queries are measured
    /// at the last.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Vec<PathBuf>,
    /// Folder of the base of a PEFT adapter [default: the folder that `adapter_config.json` names]
    ///
    /// An adapter's folder (`adapter_config.json`, `adapter_model.safetensors`) is a model together with its base. `hub:ORG/NAME` fetches it.
    #[arg(long, value_name = "DIR")]
    base: Option<PathBuf>,
    /// Another checkpoint of the model, such as the one that was tuned: queries are measured there too
    ///
    /// Says how much of each answer is training's doing. Scores are of the last checkpoint's measurement all the same.
    #[arg(long, value_name = "DIR")]
    before: Option<PathBuf>,
    /// Which layers of an adapter and its base are tracked [default: only]
    #[arg(long, value_parser = one_of::<AdapterMode>(&[
        ("only", "the adapter's matrices A and B; the base is frozen"),
        ("merged", "the base's layers, with the adapter merged into their weights"),
        ("both", "the adapter's matrices A and B, and the base's layers"),
    ]))]
    adapter: Option<AdapterMode>,
    /// Track layers whose name in the checkpoint matches this glob; may be repeated
    ///
    /// By default every linear layer inside the blocks, and all layers of an MLP: the embeddings and the
    /// language-model head are large and say little.
    #[arg(long, value_name = "GLOB")]
    layers: Vec<String>,
    /// Leave out layers whose name matches this glob; may be repeated
    #[arg(long, value_name = "GLOB")]
    skip_layers: Vec<String>,
    /// Track other parameters beside these layers; several with commas [default: none of them]
    #[arg(long, value_name = "KIND", value_delimiter = ',', value_parser = one_of::<AlsoTracked>(&[
        ("norms", "factors and biases of norms, each vector a layer with a curvature of its own"),
        ("head", "the layer that gives logits or classes; of one tied to the embedding, its part of their gradient"),
        ("embeddings", "the tables of tokens, positions and token types; of one tied to the head, its part of their gradient"),
    ]))]
    track: Vec<AlsoTracked>,
    /// Type of the arithmetic [default: f32]
    ///
    /// Scores in f32 agree with f64 to about four digits; sums over batches are in f64 anyway.
    #[arg(long, value_parser = one_of::<Precision>(&[
        ("f32", "32 bits"),
        ("bf16", "as f32, but products of layers, covariances and gradients round their inputs to bf16: faster, less exact; needs AVX512-BF16"),
        ("f64", "64 bits throughout: slow, for checks"),
    ]))]
    dtype: Option<Precision>,
}

impl ModelOptions {
    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        match self.model.as_slice() {
            [] => {}
            [path] => {
                job.model.path.clone_from(path);
                job.checkpoints = None;
            }
            folders => {
                job.model.path = PathBuf::new();
                let weights = job.checkpoints.take().map(|before| before.weights).unwrap_or_default();
                job.checkpoints = Some(CheckpointsRequest { run: None, folders: folders.to_vec(), weights });
            }
        }
        let model = &mut job.model;
        if self.base.is_some() {
            model.base.clone_from(&self.base);
        }
        if self.before.is_some() {
            model.before.clone_from(&self.before);
        }
        model.adapter = self.adapter.or(model.adapter);
        if !self.layers.is_empty() {
            model.layers.clone_from(&self.layers);
        }
        if !self.skip_layers.is_empty() {
            model.skip_layers.clone_from(&self.skip_layers);
        }
        if !self.track.is_empty() {
            model.track.clone_from(&self.track);
        }
        model.dtype = self.dtype.unwrap_or(model.dtype);
    }
}
