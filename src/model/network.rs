//! A checkpoint, ready to be differentiated.

use std::path::Path;
use std::sync::Arc;

use candle_core::Tensor;

use super::attention_heads::{AttentionHeads, HeadPart};
use super::body::{Body, Loaded};
use super::contrasts;
use super::error::LoadError;
use super::footprint::Footprint;
use super::identity::Identity;
use super::limits::Limits;
use super::load_options::LoadOptions;
use super::opening::opened;
use super::operations::{LayerRows, Operations};
use super::tracking::Tracked;
use super::untracked::{Untracked, untracked};
use crate::curvature::gemm::Products;
use crate::curvature::{Directions, Error, Graphs, LayerSpec, Network, Objective, Positions, TapSink};
use crate::data::{Batch, Labels};

/// A checkpoint, ready to be differentiated.
#[derive(Debug)]
pub struct Model {
    body: Box<dyn Body>,
    layers: Vec<LayerSpec>,
    rows: Vec<LayerRows>,
    operations: Operations,
    limits: Limits,
    labels: Option<Arc<Labels>>,
    footprint: Footprint,
    graphs: Graphs,
    products: Products,
    kind: &'static str,
    notes: Vec<String>,
    untracked: Vec<Untracked>,
    identity: Arc<Identity>,
    attention: Option<AttentionHeads>,
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
        let (config, architecture, weights) = opened(checkpoints, options)?;
        let weights = Arc::new(weights);
        architecture.check(&config, &weights)?;
        let loaded = (architecture.load)(&config, &weights, options);
        let Loaded { body, tracked, limits, labels, footprint } = loaded.map_err(|error| match error {
            LoadError::Shape { .. } | LoadError::MissingTensor { .. } if !config.taken_of_class().is_empty() => {
                let (file, taken) = (config.file().to_owned(), config.taken_of_class().join(", "));
                LoadError::ClassNumbers { file, taken, source: Box::new(error) }
            }
            _ => error,
        })?;
        let Tracked { layers, rows, operations } = tracked;
        let adapted = weights.adapter().map(|adapter| adapter.finish(&weights.asked())).transpose()?;
        let mut notes = architecture.notes(&config, &weights);
        if let Some(adapter) = weights.adapter() {
            notes.extend(adapted.into_iter().flatten());
            let tracked: Vec<String> = layers.iter().map(|layer| layer.name.clone()).collect();
            notes.extend(adapter.unscored_note(&tracked));
        }
        // What an adapter leaves alone is frozen, and is not missing in a score.
        let mut untracked = if weights.adapter().is_some() { vec![] } else { untracked(&weights) };
        untracked.retain(|kind| !architecture.parameters.is_buffer(&kind.name));
        let identity = Arc::new(Identity::new(weights, &config));
        let attention = AttentionHeads::of(architecture.attention, architecture.heads, &config)?;
        Ok(Self {
            body,
            layers,
            rows,
            operations,
            limits,
            labels: labels.map(Arc::new),
            footprint,
            graphs: options.graphs,
            products: options.products,
            kind: architecture.model_type,
            notes,
            untracked,
            identity,
            attention,
        })
    }

    /// Reads the weights that are not in memory once, section by section, and keeps none.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`].
    pub fn check_weights(&self) -> Result<(), LoadError> {
        self.body.check()
    }

    /// Changes what is kept between forward and backward, from the next batch on. A job decides it once, when it loads a model;
    /// this is for callers that compare both on one model.
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

    /// The rows of a batch that each tracked layer sees.
    pub fn layer_rows(&self) -> &[LayerRows] {
        &self.rows
    }

    /// What it computes of a batch.
    pub fn operations(&self) -> Operations {
        self.operations
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

    /// The parts of the tracked layers around attention that belong to its heads, to key-value heads that several heads
    /// share, and to none; empty if no such layer is tracked, none if the network has no attention.
    ///
    /// # Errors
    /// The name of a layer of keys or values whose heads cannot be told, because neither the queries nor the output beside
    /// it are tracked.
    pub fn head_parts(&self) -> Option<Result<Vec<HeadPart>, String>> {
        self.attention.as_ref().map(|attention| attention.parts(&self.layers))
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
