//! Model architectures and the checkpoints they are read from: one file for each architecture.

pub(crate) mod adapter;
mod architecture;
mod config;
mod decoder;
mod error;
mod footprint;
mod gpt2;
mod gpt_neox;
mod gptj;
mod identity;
mod llama;
mod mlp;
mod norms;
mod opt;
mod parameters;
mod projection;
mod relatives;
mod rotary;
mod tracking;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

pub use adapter::AdapterMode;
pub(crate) use architecture::{Architecture, BlockNames, Parameters};
pub use config::Config;
pub use error::LoadError;
pub(crate) use error::abridged;
pub use footprint::Footprint;
pub use identity::Identity;
pub use parameters::{Layout, Residence};
pub use tracking::LayerSelection;
pub use weights::Weights;

use self::decoder::LanguageModel;
use crate::curvature::gemm::Products;
use crate::curvature::{Error, Graphs, LayerSpec, Network, Objective, Positions, TapSink};
use crate::data::{Batch, ModelLimits, RowLimits};

/// The architectures that are supported.
const ARCHITECTURES: &[&Architecture] = &[
    &gpt2::ARCHITECTURE,
    &gpt_neox::ARCHITECTURE,
    &gptj::ARCHITECTURE,
    &opt::ARCHITECTURE,
    &llama::ARCHITECTURE,
    &relatives::qwen2::ARCHITECTURE,
    &relatives::qwen3::ARCHITECTURE,
    &relatives::mistral::ARCHITECTURE,
    &relatives::gemma::ARCHITECTURE,
    &relatives::gemma2::ARCHITECTURE,
    &relatives::gemma3::TEXT,
    &relatives::gemma3::WITH_IMAGES,
    &relatives::phi3::ARCHITECTURE,
    &relatives::olmo::ARCHITECTURE,
    &relatives::olmo2::ARCHITECTURE,
    &relatives::olmo3::ARCHITECTURE,
    &relatives::smollm3::ARCHITECTURE,
    &mlp::ARCHITECTURE,
];

/// Values of `model_type` that are supported.
pub fn supported() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.model_type)
}

/// A checkpoint, ready to be differentiated.
#[derive(Debug)]
pub struct Model {
    body: Body,
    layers: Vec<LayerSpec>,
    limits: Limits,
    footprint: Footprint,
    graphs: Graphs,
    products: Products,
    kind: &'static str,
    notes: Vec<String>,
    identity: Arc<Identity>,
}

/// What runs.
#[derive(Debug)]
pub(crate) enum Body {
    Decoder(Box<dyn LanguageModel>),
    Mlp(mlp::Mlp),
}

/// What an architecture builds of a checkpoint's folder.
pub(crate) struct Loaded {
    body: Body,
    layers: Vec<LayerSpec>,
    limits: Limits,
    footprint: Footprint,
}

/// What a model can be given.
#[derive(Debug, Clone, Copy)]
pub enum Limits {
    /// Token sequences.
    Tokens(ModelLimits),
    /// Rows of numbers.
    Rows(RowLimits),
}

impl Limits {
    /// Whether models with these limits take the same inputs and say the same kind of thing about them.
    pub fn agree(self, other: Self) -> bool {
        match (self, other) {
            (Self::Tokens(a), Self::Tokens(b)) => a == b,
            (Self::Rows(a), Self::Rows(b)) => (a.inputs, a.task) == (b.inputs, b.task),
            _ => false,
        }
    }
}

/// How a checkpoint is read.
#[derive(Debug, Clone)]
pub struct LoadOptions {
    /// Which layers are tracked.
    pub selection: LayerSelection,
    /// Type of the arithmetic, F32 or F64.
    pub dtype: DType,
    /// Where the network runs. What is computed of its taps is computed on the CPU.
    pub device: Device,
    /// What is kept between forward and backward.
    pub graphs: Graphs,
    /// When weights are read. Those of a section are in memory as long as its graph: with [`Graphs::Kept`] all are,
    /// while a batch is differentiated.
    pub residence: Residence,
    /// How products of `f32` run: those of linear layers, attention and head, and those with taps.
    pub products: Products,
    /// The folder of the base, if the checkpoint is an adapter; none: the folder that the adapter's settings name.
    pub base: Option<PathBuf>,
    /// Which layers of an adapter and its base are tracked; none: A and B, and of a folder that holds whole weights
    /// beside an adapter the weights are used.
    pub adapter: Option<AdapterMode>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            selection: LayerSelection::default(),
            dtype: DType::F32,
            device: Device::Cpu,
            graphs: Graphs::Kept,
            residence: Residence::Kept,
            products: Products::Exact,
            base: None,
            adapter: None,
        }
    }
}

impl Model {
    /// Reads a checkpoint folder as it lies on disk.
    ///
    /// # Errors
    /// [`LoadError`], naming the file and the key or tensor.
    pub fn load(folder: &Path, options: &LoadOptions) -> Result<Self, LoadError> {
        Self::load_mean(&[(folder, 1.0)], options)
    }

    /// The weighted mean of the parameters of several checkpoints of one architecture; the last one's configuration
    /// counts.
    ///
    /// # Errors
    /// As [`Model::load`]; [`LoadError::NotACheckpoint`] without any checkpoint.
    ///
    /// # Source
    /// METHOD §4.2, FAST-Source.
    pub fn load_mean(checkpoints: &[(&Path, f64)], options: &LoadOptions) -> Result<Self, LoadError> {
        let (config, architecture, weights) = adapter::opened(checkpoints, options)?;
        let weights = Arc::new(weights);
        architecture.check(&config, &weights)?;
        let Loaded { body, layers, limits, footprint } = (architecture.load)(&config, &weights, options)?;
        let adapted = weights.adapter().map(|adapter| adapter.finish()).transpose()?;
        let mut notes = architecture.notes(&config, &weights);
        if let Some(adapter) = weights.adapter() {
            notes.extend(adapted.into_iter().flatten());
            let tracked: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
            notes.extend(adapter.unscored_note(&tracked));
        }
        let identity = Arc::new(Identity::new(weights, &config));
        Ok(Self {
            body,
            layers,
            limits,
            footprint,
            graphs: options.graphs,
            products: options.products,
            kind: architecture.model_type,
            notes,
            identity,
        })
    }

    /// Reads the weights that are not in memory once, section by section, and keeps none.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub fn check_weights(&self) -> Result<(), LoadError> {
        match &self.body {
            Body::Decoder(model) => model.check(),
            Body::Mlp(_) => Ok(()),
        }
    }

    /// Changes what is kept between forward and backward.
    pub fn set_graphs(&mut self, graphs: Graphs) {
        self.graphs = graphs;
    }

    /// What the model can be given.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// How large it is.
    pub fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// `model_type` of the configuration.
    pub fn kind(&self) -> &str {
        self.kind
    }

    /// What a person should know of how the checkpoint was read.
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// BLAKE3 over weights and configuration; the first call reads them.
    pub fn content_hash(&self) -> [u8; 32] {
        self.identity.content_hash()
    }

    /// What [`Model::content_hash`] is computed from, which outlives the model.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Logits of every row, `[R, V]`; outputs of an MLP, `[B, outputs]`.
    ///
    /// # Errors
    /// If the batch is of another kind than the model takes.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        match (&self.body, batch) {
            (Body::Decoder(model), Batch::Tokens(batch)) => model.logits(batch),
            (Body::Mlp(model), Batch::Rows(batch)) => Ok(model.outputs(batch)?),
            _ => Err(wrong_batch()),
        }
    }
}

impl Network for Model {
    type Batch = Batch;

    fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    fn positions<'a>(&self, batch: &'a Batch) -> &'a Positions {
        batch.positions()
    }

    fn products(&self) -> Products {
        self.products
    }

    fn differentiate(&self, batch: &Batch, objective: Objective, sink: &mut dyn TapSink) -> Result<Vec<f64>, Error> {
        let graphs = self.graphs;
        match (&self.body, batch) {
            (Body::Decoder(model), Batch::Tokens(batch)) => model.differentiate(batch, objective, graphs, sink),
            (Body::Mlp(model), Batch::Rows(batch)) => model.differentiate(batch, objective, graphs, sink),
            _ => Err(wrong_batch()),
        }
    }
}

fn wrong_batch() -> Error {
    Error::Objective { objective: "a batch of the other kind".into(), network: "this model" }
}
