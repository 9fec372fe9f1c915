//! The networks of a run: its checkpoints, read one at a time.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use crate::curvature::gemm::Products;
use crate::curvature::{
    Directions, Error, Graphs, LayerId, LayerSpec, Network, Objective, Positions, Renumbered, TapSink,
};
use crate::data::{Batch, Labels};
use crate::job::error::JobError;
use crate::model::{Footprint, Identity, LayerRows, LayerSelection, Limits, LoadOptions, Model, Operations, Residence};

/// Where a network's parameters come from.
#[derive(Debug, Clone)]
pub(in crate::job) struct Parameters {
    /// For people: the checkpoint's name, or those whose mean it is.
    pub name: String,
    /// Checkpoint folders and what each counts in the mean; one with 1 for a checkpoint as it is.
    pub of: Vec<(PathBuf, f64)>,
    /// Weights and configuration.
    pub identity: Arc<Identity>,
}

/// All networks of a run; the one that was used last stays in memory.
#[derive(Debug)]
pub(in crate::job) struct Networks {
    parameters: Vec<Parameters>,
    kind: String,
    footprint: Footprint,
    layers: Vec<LayerSpec>,
    /// The rows of a batch that each of them sees.
    rows: Vec<LayerRows>,
    operations: Operations,
    /// For each network the layers of the run that it does not have.
    absent: Vec<Vec<usize>>,
    options: LoadOptions,
    limits: Limits,
    labels: Option<Arc<Labels>>,
    /// Another checkpoint, at which queries are measured too.
    before: Option<Parameters>,
    latest: Mutex<Option<(usize, Arc<TrackedNetwork>)>>,
    /// Set when all weights were found to be finite numbers.
    checked: OnceLock<()>,
}

impl Networks {
    /// The networks at `of`, each with its name; `last` is the last of them, read already, whose tracked layers are
    /// the run's. Every other one is checked now, as far as its header goes if `options` read weights by section.
    ///
    /// # Errors
    /// A checkpoint that cannot be read, is of another architecture, or takes other inputs than the last.
    pub(in crate::job) fn open(
        of: Vec<(String, Vec<(PathBuf, f64)>)>,
        last: Model,
        options: LoadOptions,
    ) -> Result<Self, JobError> {
        let (layers, limits, kind) = (last.layers().to_vec(), last.limits(), last.kind().to_owned());
        let (footprint, labels) = (last.footprint(), last.labels().cloned());
        let (rows, operations) = (last.layer_rows().to_vec(), last.operations());
        let last = Arc::new(TrackedNetwork::new(last, &layers));
        let count = of.len();
        let (mut parameters, mut absent) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for (index, (name, of)) in of.into_iter().enumerate() {
            let network = match index + 1 == count {
                true => last.clone(),
                false => Arc::new(TrackedNetwork::load(&of, &options, &layers)?),
            };
            if network.model.kind() != kind {
                let (folder, found) = (of[0].0.clone(), network.model.kind().to_owned());
                return Err(JobError::OtherArchitecture { folder, found, expected: kind });
            }
            if !network.model.limits().agree(limits) || network.model.labels() != labels.as_ref() {
                return Err(JobError::OtherInputs { folder: of[0].0.clone() });
            }
            let identity = network.model.identity().clone();
            absent.push(network.absent());
            parameters.push(Parameters { name, of, identity });
        }
        let latest = Mutex::new(Some((count - 1, last)));
        let checked = OnceLock::new();
        Ok(Self {
            parameters,
            kind,
            footprint,
            layers,
            rows,
            operations,
            absent,
            options,
            limits,
            labels,
            before: None,
            latest,
            checked,
        })
    }

    /// Where they come from, in the order of training.
    pub(in crate::job) fn parameters(&self) -> &[Parameters] {
        &self.parameters
    }

    /// The run's tracked layers: those of the last checkpoint.
    pub(in crate::job) fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    /// Gives every layer an input of its own, for a curvature whose sums of inputs are a layer's own.
    pub(in crate::job) fn separate_inputs(&mut self) {
        self.layers.iter_mut().enumerate().for_each(|(l, layer)| layer.input_group = l);
    }

    /// For each network the layers of the run that it does not have.
    pub(in crate::job) fn absent(&self) -> &[Vec<usize>] {
        &self.absent
    }

    /// Takes another checkpoint of the same model, at which queries are measured too.
    ///
    /// # Errors
    /// As [`Networks::open`]; if it has the weights of the last.
    pub(in crate::job) fn take_before(&mut self, folder: &Path) -> Result<(), JobError> {
        let folder = folder.to_owned();
        let model = Model::load(&folder, &self.options_before(&folder))?;
        if model.kind() != self.kind {
            let (found, expected) = (model.kind().to_owned(), self.kind.clone());
            return Err(JobError::OtherArchitecture { folder, found, expected });
        }
        if !model.limits().agree(self.limits) || model.labels() != self.labels.as_ref() {
            return Err(JobError::OtherInputs { folder });
        }
        let identity = model.identity().clone();
        let is_last = |of: &Parameters| of.identity.content_hash() == identity.content_hash();
        if self.parameters.last().is_some_and(is_last) {
            let problem = format!("{}: holds the weights that the queries are asked at", folder.display());
            return Err(JobError::options(
                problem,
                "give the checkpoint that training began from, or leave `--before` out",
            ));
        }
        let name = match folder.file_name() {
            Some(name) => name.to_string_lossy().into_owned(),
            None => folder.display().to_string(),
        };
        self.before = Some(Parameters { name, of: vec![(folder, 1.0)], identity });
        Ok(())
    }

    /// The other checkpoint.
    pub(in crate::job) fn before(&self) -> Option<&Parameters> {
        self.before.as_ref()
    }

    /// Reads the other checkpoint; no network of the run is in memory beside it.
    ///
    /// # Errors
    /// If there is none, or its files have changed or hold numbers that are none.
    pub(in crate::job) fn load_before(&self) -> Result<Model, JobError> {
        let before = self.before.as_ref().ok_or(JobError::NoQueries)?;
        let folder = &before.of[0].0;
        *self.latest.lock().unwrap_or_else(PoisonError::into_inner) = None;
        let model = Model::load(folder, &self.options_before(folder))?;
        if model.content_hash() != before.identity.content_hash() {
            return Err(JobError::Changed { folder: folder.clone() });
        }
        model.check_weights()?;
        Ok(model)
    }

    /// How the other checkpoint is read. Queries are only measured there, so that it does not matter which of its layers are
    /// tracked; it may be the base of the run's adapter.
    fn options_before(&self, folder: &Path) -> LoadOptions {
        let of_run = self.options.clone();
        let selection = LayerSelection::default();
        match crate::presence::is_file(&folder.join("adapter_config.json")) {
            true => LoadOptions { selection, ..of_run },
            false => LoadOptions { selection, base: None, adapter: None, ..of_run },
        }
    }

    /// How large the last is.
    pub(in crate::job) fn footprint(&self) -> Footprint {
        self.footprint
    }

    /// The rows of a batch that each tracked layer of the last sees.
    pub(in crate::job) fn layer_rows(&self) -> &[LayerRows] {
        &self.rows
    }

    /// What the last computes of a batch.
    pub(in crate::job) fn operations(&self) -> Operations {
        self.operations
    }

    /// `model_type` of the last.
    pub(in crate::job) fn kind(&self) -> &str {
        &self.kind
    }

    /// Chooses what is kept in memory from now on.
    pub(in crate::job) fn keep(&mut self, graphs: Graphs, residence: Residence) {
        if (self.options.graphs, self.options.residence) != (graphs, residence) {
            self.latest = Mutex::new(None);
            self.options = LoadOptions { graphs, residence, ..self.options.clone() };
        }
    }

    /// Reads the weights of every network once, so that damaged ones are found before work; at most the last
    /// one's stay in memory.
    ///
    /// # Errors
    /// [`LoadError::NonFinite`](crate::model::LoadError).
    pub(in crate::job) fn check_weights(&self) -> Result<(), JobError> {
        if self.checked.get().is_some() {
            return Ok(());
        }
        let options = LoadOptions { residence: Residence::BySection, ..self.options.clone() };
        let count = self.parameters.len();
        for (index, parameters) in self.parameters.iter().enumerate() {
            match (self.options.residence, index + 1 == count) {
                (Residence::Kept, true) => drop(self.get(index)?),
                _ => TrackedNetwork::load(&parameters.of, &options, &self.layers)?.model.check_weights()?,
            }
        }
        self.checked.get_or_init(|| ());
        Ok(())
    }

    /// The network that was used last.
    pub(in crate::job) fn latest(&self) -> Option<&Parameters> {
        let latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        latest.as_ref().map(|(index, _)| &self.parameters[*index])
    }

    /// How they are read.
    pub(in crate::job) fn options(&self) -> &LoadOptions {
        &self.options
    }

    /// A network, read if it is not the one that was used last.
    ///
    /// # Errors
    /// If its files have changed and cannot be read any more.
    pub(in crate::job) fn get(&self, index: usize) -> Result<Arc<TrackedNetwork>, JobError> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, network)) = latest.as_ref().filter(|(found, _)| *found == index) {
            return Ok(network.clone());
        }
        // the one before goes first: two large networks need not fit
        *latest = None;
        let parameters = &self.parameters[index];
        let network = Arc::new(TrackedNetwork::load(&parameters.of, &self.options, &self.layers)?);
        if network.model.content_hash() != parameters.identity.content_hash() {
            return Err(JobError::Changed { folder: parameters.of[0].0.clone() });
        }
        *latest = Some((index, network.clone()));
        Ok(network)
    }
}

/// A model whose tracked layers are numbered as the run's: a checkpoint of an earlier stage may lack some.
#[derive(Debug)]
pub(in crate::job) struct TrackedNetwork {
    pub(in crate::job) model: Model,
    layers: Vec<LayerSpec>,
    /// For each layer of the model its place among the run's, if they differ.
    places: Option<Vec<Option<usize>>>,
}

impl TrackedNetwork {
    fn load(of: &[(PathBuf, f64)], options: &LoadOptions, layers: &[LayerSpec]) -> Result<Self, JobError> {
        let folders: Vec<(&Path, f64)> = of.iter().map(|(folder, weight)| (folder.as_path(), *weight)).collect();
        Ok(Self::new(Model::load_mean(&folders, options)?, layers))
    }

    fn new(model: Model, layers: &[LayerSpec]) -> Self {
        let own = model.layers();
        let same = |a: &LayerSpec, b: &LayerSpec| {
            (&a.name, a.outputs, a.inputs, a.bias) == (&b.name, b.outputs, b.inputs, b.bias)
        };
        let place = |own: &LayerSpec| layers.iter().position(|layer| same(layer, own));
        let places = (own != layers).then(|| own.iter().map(place).collect());
        Self { model, layers: layers.to_vec(), places }
    }

    /// Places of the run's layers that this network does not have.
    pub(in crate::job) fn absent(&self) -> Vec<usize> {
        match &self.places {
            None => vec![],
            Some(places) => (0..self.layers.len()).filter(|l| !places.contains(&Some(*l))).collect(),
        }
    }
}

impl Network for TrackedNetwork {
    type Batch = Batch;

    fn layers(&self) -> &[LayerSpec] {
        &self.layers
    }

    fn positions<'a>(&self, batch: &'a Batch) -> &'a Positions {
        self.model.positions(batch)
    }

    fn products(&self) -> Products {
        self.model.products()
    }

    fn differentiate(&self, batch: &Batch, objective: Objective, sink: &mut dyn TapSink) -> Result<Vec<f64>, Error> {
        match &self.places {
            None => self.model.differentiate(batch, objective, sink),
            Some(places) => self.model.differentiate(batch, objective, &mut Renumbered { places, sink }),
        }
    }

    fn gauss_newton(&self, batch: &Batch, directions: &Directions, sink: &mut dyn TapSink) -> Result<(), Error> {
        let Some(places) = &self.places else { return self.model.gauss_newton(batch, directions, sink) };
        let mut own = Vec::with_capacity(places.len());
        for (place, spec) in places.iter().zip(self.model.layers()) {
            own.push(match place {
                Some(place) => directions.of(LayerId(*place))?.clone(),
                // the run does not track the layer, so it does not move
                None => directions.at_rest(spec)?,
            });
        }
        let own = Directions::new(self.model.layers(), own)?;
        self.model.gauss_newton(batch, &own, &mut Renumbered { places, sink })
    }
}
