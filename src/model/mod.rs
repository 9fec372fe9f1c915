//! Model architectures and the checkpoints they are read from: one file for each architecture.

pub(crate) mod adapter;
mod architecture;
mod bert;
mod cnn;
mod config;
mod contrasts;
mod decoder;
mod distilbert;
mod encoder;
mod error;
mod footprint;
mod gpt2;
mod gpt_neox;
mod gptj;
mod heads;
mod identity;
mod images;
mod llama;
mod mlp;
mod modernbert;
mod norms;
mod opt;
mod parameters;
mod projection;
mod relatives;
mod resnet;
mod roberta;
mod rotary;
mod t5;
mod tracking;
mod untracked;
mod vit;
mod weights;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{DType, Device, Tensor};

pub use adapter::AdapterMode;
pub(crate) use architecture::{Architecture, BlockNames, ExpertNames, Parameters, SCORE, class_of_texts};
pub use config::Config;
pub use error::LoadError;
pub(crate) use error::abridged;
pub use footprint::Footprint;
pub use identity::Identity;
pub use parameters::{Layout, Residence};
pub use tracking::LayerSelection;
pub use untracked::Untracked;
pub use weights::Weights;

use crate::curvature::gemm::Products;
use crate::curvature::{Directions, Error, Graphs, LayerSpec, Network, Objective, Positions, TapSink};
use crate::data::{Batch, Labels, ModelLimits, RowLimits};

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
    &relatives::mixtral::ARCHITECTURE,
    &relatives::qwen2_moe::ARCHITECTURE,
    &relatives::qwen3_moe::ARCHITECTURE,
    &relatives::olmoe::ARCHITECTURE,
    &bert::ARCHITECTURE,
    &distilbert::ARCHITECTURE,
    &roberta::ARCHITECTURE,
    &roberta::XLM,
    &modernbert::ARCHITECTURE,
    &t5::ARCHITECTURE,
    &t5::MULTILINGUAL,
    &vit::ARCHITECTURE,
    &resnet::ARCHITECTURE,
    &cnn::ARCHITECTURE,
    &mlp::ARCHITECTURE,
];

/// Values of `model_type` that are supported.
pub fn supported() -> impl Iterator<Item = &'static str> {
    ARCHITECTURES.iter().map(|architecture| architecture.model_type)
}

/// A checkpoint, ready to be differentiated.
#[derive(Debug)]
pub struct Model {
    body: Box<dyn Body>,
    layers: Vec<LayerSpec>,
    limits: Limits,
    labels: Option<Arc<Labels>>,
    footprint: Footprint,
    graphs: Graphs,
    products: Products,
    kind: &'static str,
    notes: Vec<String>,
    untracked: Vec<Untracked>,
    identity: Arc<Identity>,
}

/// What runs, whichever its architecture is.
pub(crate) trait Body: std::fmt::Debug + Send + Sync {
    /// Runs one batch forwards and backwards.
    fn differentiate(
        &self,
        batch: &Batch,
        objective: Objective,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<Vec<f64>, Error>;

    /// Taps of the products of the loss's Gauss-Newton matrix with directions.
    fn gauss_newton(
        &self,
        batch: &Batch,
        directions: &Directions,
        graphs: Graphs,
        sink: &mut dyn TapSink,
    ) -> Result<(), Error>;

    /// Outputs of the head: of every row, or of every example.
    fn logits(&self, batch: &Batch) -> Result<Tensor, Error>;

    /// Reads the parameters that are not in memory once, section by section, for the sake of errors.
    fn check(&self) -> Result<(), LoadError>;
}

/// What an architecture builds of a checkpoint's folder.
pub(crate) struct Loaded {
    body: Box<dyn Body>,
    layers: Vec<LayerSpec>,
    limits: Limits,
    /// What a model gives for a whole text, if it gives that.
    labels: Option<Labels>,
    footprint: Footprint,
}

/// What a model can be given.
#[derive(Debug, Clone, Copy)]
pub enum Limits {
    /// Token sequences.
    Tokens(ModelLimits),
    /// Rows of numbers, or images.
    Rows(RowLimits),
}

impl Limits {
    /// Whether every example has one position.
    pub fn has_one_position(self) -> bool {
        matches!(self, Self::Rows(rows) if rows.inputs.has_one_position())
    }

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
    /// `docs/method.md`, Source, FAST-Source.
    pub fn load_mean(checkpoints: &[(&Path, f64)], options: &LoadOptions) -> Result<Self, LoadError> {
        let (config, architecture, weights) = adapter::opened(checkpoints, options)?;
        let weights = Arc::new(weights);
        architecture.check(&config, &weights)?;
        let Loaded { body, layers, limits, labels, footprint } = (architecture.load)(&config, &weights, options)?;
        let adapted = weights.adapter().map(|adapter| adapter.finish()).transpose()?;
        let mut notes = architecture.notes(&config, &weights);
        if let Some(adapter) = weights.adapter() {
            notes.extend(adapted.into_iter().flatten());
            let tracked: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
            notes.extend(adapter.unscored_note(&tracked));
        }
        // What an adapter leaves alone is frozen, and is not missing in a score.
        let mut untracked = if weights.adapter().is_some() { vec![] } else { untracked::untracked(&weights) };
        untracked.retain(|kind| !architecture.parameters.is_buffer(&kind.name));
        let identity = Arc::new(Identity::new(weights, &config));
        Ok(Self {
            body,
            layers,
            limits,
            labels: labels.map(Arc::new),
            footprint,
            graphs: options.graphs,
            products: options.products,
            kind: architecture.model_type,
            notes,
            untracked,
            identity,
        })
    }

    /// Reads the weights that are not in memory once, section by section, and keeps none.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub fn check_weights(&self) -> Result<(), LoadError> {
        self.body.check()
    }

    /// Changes what is kept between forward and backward.
    pub fn set_graphs(&mut self, graphs: Graphs) {
        self.graphs = graphs;
    }

    /// What the model can be given.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What the model gives for a whole text; none for a language model and for a model of rows.
    pub fn labels(&self) -> Option<&Arc<Labels>> {
        self.labels.as_ref()
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

    /// What is in no score, though training may have changed it; empty for an adapter, which leaves the rest alone.
    pub fn untracked(&self) -> &[Untracked] {
        &self.untracked
    }

    /// BLAKE3 over weights and configuration; the first call reads them.
    pub fn content_hash(&self) -> [u8; 32] {
        self.identity.content_hash()
    }

    /// What [`Model::content_hash`] is computed from, which outlives the model.
    pub fn identity(&self) -> &Arc<Identity> {
        &self.identity
    }

    /// Logits of every row, `[R, V]`; what a model gives for whole examples, `[B, outputs]`.
    ///
    /// # Errors
    /// If the batch is of another kind than the model takes.
    pub fn logits(&self, batch: &Batch) -> Result<Tensor, Error> {
        self.body.logits(batch)
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
        let Some(contrasts) = &batch.contrasts else {
            return self.body.differentiate(batch, objective, self.graphs, sink);
        };
        let mut sink = contrasts::Joining { sink, contrasts };
        let values = self.body.differentiate(&contrasts::apart(batch, contrasts), objective, self.graphs, &mut sink)?;
        Ok(contrasts::joined(&values, contrasts))
    }

    fn gauss_newton(&self, batch: &Batch, directions: &Directions, sink: &mut dyn TapSink) -> Result<(), Error> {
        if batch.contrasts.is_some() {
            let network = "a contrast of two completions";
            return Err(Error::Objective { objective: "a product with the Gauss-Newton matrix".into(), network });
        }
        self.body.gauss_newton(batch, directions, self.graphs, sink)
    }
}

fn wrong_batch() -> Error {
    Error::Objective { objective: "a batch of another kind".into(), network: "this model" }
}
