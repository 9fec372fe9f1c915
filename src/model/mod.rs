//! Model architectures and the checkpoints they are read from: one file for each architecture.

mod config;
mod decoder;
mod error;
mod footprint;
mod gpt2;
mod identity;
mod llama;
mod mlp;
mod norms;
mod parameters;
mod tracking;
mod weights;

use std::path::Path;
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

pub use config::Config;
pub use error::LoadError;
pub(crate) use error::abridged;
pub use footprint::Footprint;
pub use identity::Identity;
pub use parameters::Residence;
pub use tracking::LayerSelection;
pub use weights::Weights;

use self::decoder::LanguageModel;
use crate::curvature::gemm::Products;
use crate::curvature::{Error, Graphs, LayerSpec, Network, Objective, Positions, TapSink};
use crate::data::{Batch, ModelLimits, RowLimits};

/// Values of `model_type` that are supported.
pub const SUPPORTED: [&str; 3] = ["gpt2", "llama", "mlp"];

/// A checkpoint, ready to be differentiated.
#[derive(Debug)]
pub struct Model {
    architecture: Architecture,
    layers: Vec<LayerSpec>,
    limits: Limits,
    footprint: Footprint,
    graphs: Graphs,
    products: Products,
    kind: String,
    notes: Vec<String>,
    identity: Arc<Identity>,
}

#[derive(Debug)]
enum Architecture {
    Decoder(Box<dyn LanguageModel>),
    Mlp(mlp::Mlp),
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
        let config = Config::read(checkpoints.last().map_or(Path::new(""), |(folder, _)| folder))?;
        let kind = config.text("model_type", "")?.to_owned();
        if !SUPPORTED.contains(&kind.as_str()) {
            let file = config.file().to_owned();
            return Err(match kind.as_str() {
                "" => LoadError::Config { file, problem: "no key `model_type`".into() },
                _ => LoadError::UnsupportedModel { file, found: kind },
            });
        }
        let weights = Arc::new(Weights::open_mean(checkpoints)?);
        let language_model = |loaded: decoder::Loaded| {
            let decoder::Loaded { decoder, layers, limits, footprint, notes } = loaded;
            (Architecture::Decoder(decoder), layers, Limits::Tokens(limits), footprint, notes)
        };
        let (architecture, layers, limits, footprint, notes) = match kind.as_str() {
            "gpt2" => language_model(gpt2::load(&config, &weights, options)?),
            "llama" => language_model(llama::load(&config, &weights, options)?),
            _ => {
                let loaded = mlp::load(&config, &weights, options)?;
                let limits = RowLimits { inputs: loaded.inputs, outputs: loaded.outputs, task: loaded.task };
                (Architecture::Mlp(loaded.mlp), loaded.layers, Limits::Rows(limits), loaded.footprint, loaded.notes)
            }
        };
        let identity = Arc::new(Identity::new(weights, &config));
        Ok(Self {
            architecture,
            layers,
            limits,
            footprint,
            graphs: options.graphs,
            products: options.products,
            kind,
            notes,
            identity,
        })
    }

    /// Reads the weights that are not in memory once, section by section, and keeps none.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub fn check_weights(&self) -> Result<(), LoadError> {
        match &self.architecture {
            Architecture::Decoder(model) => model.check(),
            Architecture::Mlp(_) => Ok(()),
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
        &self.kind
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
        match (&self.architecture, batch) {
            (Architecture::Decoder(model), Batch::Tokens(batch)) => model.logits(batch),
            (Architecture::Mlp(model), Batch::Rows(batch)) => Ok(model.outputs(batch)?),
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
        match (&self.architecture, batch) {
            (Architecture::Decoder(model), Batch::Tokens(batch)) => model.differentiate(batch, objective, graphs, sink),
            (Architecture::Mlp(model), Batch::Rows(batch)) => model.differentiate(batch, objective, graphs, sink),
            _ => Err(wrong_batch()),
        }
    }
}

fn wrong_batch() -> Error {
    Error::Objective { objective: "a batch of the other kind".into(), network: "this model" }
}
