//! From files to score files: runs that are recorded or drawn, queries in blocks that fit into memory, and what is finished
//! already.

use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};

use super::error::ExactError;
use super::perceptron::Perceptron;
use super::recipe::{Recipe, Step, drawn_start};
use super::reverse::Replay;
use super::training::Training;
use crate::attribution::store::{Dtype, FORMAT, Key, KeyBuilder, Metadata, TensorFile, TensorSpec, TensorWriter};
use crate::attribution::{Event, Observer, Pass};
use crate::curvature::Measurement;
use crate::data::{Dataset, Task, read_rows};
use crate::model::MlpParameters;
use crate::presence::is_file;
use crate::trajectory::{Reading, TrajectoryRequest};

/// The most queries of a block, which is what an interruption loses.
const BLOCK: usize = 64;
/// What the scores of this module mean; it changes when they do.
const VERSION: u32 = 1;

/// What is asked: which training, of which examples, about which queries.
#[derive(Debug, Clone, PartialEq)]
pub struct ExactJob {
    /// The run: rates, optimizer and batch size; its checkpoints say what the model is.
    pub trajectory: PathBuf,
    /// The rows that it was trained on.
    pub train: PathBuf,
    /// The queries.
    pub queries: PathBuf,
    /// What is measured at a query; none: the log-odds of the right class, or the prediction.
    pub measurement: Option<Measurement>,
    /// Folders of the models that training began with: none, one for all runs or one for each. Without one the start is
    /// drawn.
    pub starts: Vec<PathBuf>,
    /// Files of recorded batches, one for each run. Without one the order is drawn.
    pub batches: Vec<PathBuf>,
    /// The seeds of runs whose start or order is drawn; as many runs. Of no meaning with `batches`.
    pub seeds: Range<u64>,
    /// Bytes to stay within.
    pub memory: u64,
    /// The folder of the score files.
    pub out: PathBuf,
}

/// A run that was differentiated.
#[derive(Debug, Clone, PartialEq)]
pub struct ExactRun {
    /// `seed 3`, or `run 1` of recorded batches.
    pub name: String,
    /// The mean loss over the training rows behind its last step.
    pub loss: f64,
    /// For each checkpoint that the description of a recorded run lists, its name and the distance of the replay from it,
    /// as a share of the way from the start to it; empty of a run that was drawn.
    pub distances: Vec<(String, f64)>,
    /// Its score file.
    pub file: PathBuf,
    /// Whether the file was there already.
    pub is_reused: bool,
}

/// What was done.
#[derive(Debug, Clone, PartialEq)]
pub struct ExactReport {
    /// The runs.
    pub runs: Vec<ExactRun>,
    /// The file of the mean over runs; with one run that run's own.
    pub scores: PathBuf,
    /// What the scores are changes of.
    pub measurement: Measurement,
    /// Whether the last, smaller batch of each epoch was left out; none where batches are recorded or all are equal.
    pub drops_last: Option<bool>,
    /// Queries.
    pub queries: usize,
    /// Training examples.
    pub examples: usize,
}

/// Everything that was read, before any work.
struct Inputs {
    reading: Reading,
    recipe: Recipe,
    network: Perceptron,
    /// Of each run where it begins, if that is not drawn.
    starts: Vec<Option<Vec<f64>>>,
    train: Dataset,
    queries: Dataset,
    measurement: Measurement,
}

/// One run before it is done.
struct Run {
    name: String,
    start: Vec<f64>,
    steps: Vec<Step>,
    /// Whether both are those of the recorded run.
    is_recorded: bool,
    key: Key,
    file: PathBuf,
}

impl Run {
    /// What its score file, which is there already, says of it.
    fn of_file(&self, file: &TensorFile) -> ExactRun {
        let loss = file.metadata("training_loss").and_then(|text| text.parse().ok()).unwrap_or(f64::NAN);
        let distances = file.metadata("distances").and_then(|text| serde_json::from_str(text).ok());
        ExactRun {
            name: self.name.clone(),
            loss,
            distances: distances.unwrap_or_default(),
            file: self.file.clone(),
            is_reused: true,
        }
    }
}

impl ExactJob {
    /// Differentiates every run that is not finished yet, and writes the scores.
    ///
    /// Scores have the shape `[Q, N]`: by how much a query's gain rises for one more copy of an example wherever training
    /// drew it, which is weight `1/N`.
    ///
    /// # Errors
    /// [`ExactError`]: before any work what does not fit; after an interruption what is finished stays.
    pub fn run(&self, observer: &dyn Observer) -> Result<ExactReport, ExactError> {
        let inputs = self.read()?;
        let mut runs = vec![];
        for number in 0..self.count() {
            runs.push(self.prepare(&inputs, number)?);
        }
        let block = self.block(&inputs)?;
        std::fs::create_dir_all(&self.out).map_err(|source| unreadable(&self.out, source))?;
        let steps = inputs.recipe.rates.len() as u64 * inputs.queries.len().div_ceil(block) as u64;
        let mut there = vec![];
        for run in &runs {
            there.push(finished(&run.file, &run.key)?);
        }
        let total = runs.len() as u64 * steps;
        let done = there.iter().flatten().count() as u64 * steps;
        observer.event(Event::Started { pass: Pass::Reverse, done, total });
        let mut report = vec![];
        for (run, there) in runs.iter().zip(there) {
            report.push(match there {
                Some(file) => run.of_file(&file),
                None => self.differentiate(&inputs, run, block, observer)?,
            });
        }
        observer.event(Event::Finished { pass: Pass::Reverse });
        let scores = self.scores_file();
        if runs.len() > 1 {
            self.write_mean(&inputs, &runs, &scores)?;
        }
        let ExactJob { batches, .. } = self;
        let has_rest = !inputs.train.len().is_multiple_of(inputs.recipe.batch_size);
        Ok(ExactReport {
            runs: report,
            scores,
            measurement: inputs.measurement,
            drops_last: (batches.is_empty() && has_rest).then_some(inputs.recipe.drops_last),
            queries: inputs.queries.len(),
            examples: inputs.train.len(),
        })
    }

    fn count(&self) -> usize {
        if self.batches.is_empty() { (self.seeds.end - self.seeds.start) as usize } else { self.batches.len() }
    }

    fn scores_file(&self) -> PathBuf {
        self.out.join("scores.safetensors")
    }

    fn read(&self) -> Result<Inputs, ExactError> {
        let mut readings = TrajectoryRequest::new(self.trajectory.clone()).read()?;
        if readings.len() != 1 {
            let what = format!("a run of {} stages", readings.len());
            return Err(ExactError::Unsupported { run: self.trajectory.clone(), what });
        }
        let reading = readings.remove(0);
        let runs = self.count();
        if self.starts.len() > 1 && self.starts.len() != runs {
            return Err(ExactError::Starts { starts: self.starts.len(), runs });
        }
        let shown = self.starts.first().or(reading.checkpoints.last().map(|checkpoint| &checkpoint.folder));
        let shown = shown.ok_or_else(|| ExactError::NoModel { run: reading.source.clone() })?;
        let model = MlpParameters::read(shown)?;
        let (network, _) = Perceptron::of(&model);
        let mut starts = vec![None; runs];
        for (k, folder) in self.starts.iter().enumerate() {
            let start = of_network(&network, folder, shown)?;
            match self.starts.len() {
                1 => starts.fill(Some(start)),
                _ => starts[k] = Some(start),
            }
        }
        let (train, _) = read_rows(&self.train, model.limits)?;
        let (queries, _) = read_rows(&self.queries, model.limits)?;
        let recipe = Recipe::of(&reading, train.len())?;
        let is_classifier = model.limits.task == Task::Classification;
        let measurement = match (self.measurement, is_classifier) {
            (None, true) => Measurement::Margin,
            (None, false) => Measurement::Prediction,
            (Some(Measurement::Prediction), true) => {
                return Err(ExactError::Measurement { measurement: "prediction", model: "classifier" });
            }
            (Some(Measurement::Margin), false) => {
                return Err(ExactError::Measurement { measurement: "margin", model: "regression" });
            }
            (Some(Measurement::LogProbability), false) => {
                return Err(ExactError::Measurement { measurement: "logprob", model: "regression" });
            }
            (Some(Measurement::Probability), false) => {
                return Err(ExactError::Measurement { measurement: "probability", model: "regression" });
            }
            (Some(measurement), _) => measurement,
        };
        Ok(Inputs { reading, recipe, network, starts, train, queries, measurement })
    }

    fn prepare(&self, inputs: &Inputs, number: usize) -> Result<Run, ExactError> {
        let Inputs { recipe, network, train, .. } = inputs;
        let seed = self.seeds.start + number as u64;
        let (steps, name, file) = match self.batches.get(number) {
            Some(file) => {
                (recipe.recorded(file, train.len())?, format!("run {}", number + 1), format!("run-{}", number + 1))
            }
            None => (recipe.drawn(train.len(), seed), format!("seed {seed}"), format!("seed-{seed}")),
        };
        let is_recorded = !self.batches.is_empty() && inputs.starts[number].is_some();
        let start = inputs.starts[number].clone().unwrap_or_else(|| drawn_start(network, seed));
        let file = match self.count() {
            1 => self.scores_file(),
            _ => self.out.join(format!("scores.{file}.safetensors")),
        };
        let order: Vec<u8> = steps.iter().flat_map(|step| &step.examples).flat_map(|row| row.to_le_bytes()).collect();
        let descent = recipe.descent;
        let key = KeyBuilder::new("exact differentiation", VERSION)
            .list("start", start.iter().copied())
            .field("order", order.as_slice())
            .list("batches", steps.iter().map(|step| step.examples.len() as u64))
            .list("scales", steps.iter().map(|step| step.scale))
            .list("rates", recipe.rates.iter().copied())
            .list("descent", [descent.momentum, descent.dampening, descent.weight_decay])
            .field("nesterov", descent.nesterov)
            .field("network", format!("{network:?}").as_str())
            .field("train", train.content_hash().as_slice())
            .field("queries", inputs.queries.content_hash().as_slice())
            .field("measurement", name_of(inputs.measurement))
            .finish();
        Ok(Run { name, start, steps, is_recorded, key, file })
    }

    /// How many queries go back together.
    fn block(&self, inputs: &Inputs) -> Result<usize, ExactError> {
        let (parameters, examples) = (inputs.network.parameters(), inputs.train.len());
        let data = (inputs.train.input_bytes() + inputs.queries.input_bytes()) as u64;
        let fixed = data + Replay::bytes(parameters, inputs.recipe.rates.len());
        let each = Replay::bytes_of_query(parameters, examples);
        if self.memory < fixed + each {
            return Err(ExactError::Memory { needed: fixed + each, given: self.memory });
        }
        Ok(((self.memory - fixed) / each).min(BLOCK.min(inputs.queries.len()) as u64) as usize)
    }

    fn differentiate(
        &self,
        inputs: &Inputs,
        run: &Run,
        block: usize,
        observer: &dyn Observer,
    ) -> Result<ExactRun, ExactError> {
        let Inputs { reading, recipe, network, train, queries, measurement, .. } = inputs;
        let mut recorded = vec![];
        for checkpoint in reading.checkpoints.iter().filter(|_| run.is_recorded) {
            recorded.push((checkpoint, of_network(network, &checkpoint.folder, &self.trajectory)?));
        }
        let training =
            Training { network, data: train, descent: recipe.descent, rates: &recipe.rates, steps: &run.steps };
        let mut distances = vec![];
        let replay = Replay::new(training, run.start.clone(), observer, |step, parameters| {
            for (checkpoint, there) in recorded.iter().filter(|(checkpoint, _)| checkpoint.step == step) {
                let way = distance(&run.start, there);
                distances.push((checkpoint.id.clone(), distance(parameters, there) / way.max(f64::MIN_POSITIVE)));
            }
        })?;
        let loss = training.mean_loss(train, replay.last());
        let mut parts = vec![];
        for first in (0..queries.len()).step_by(block) {
            let range = first..(first + block).min(queries.len());
            let part = self.out.join(format!("{}{first}-{}", Self::of_parts(&run.key), range.end));
            if finished(&part, &run.key)?.is_some() {
                observer.event(Event::Advanced { pass: Pass::Reverse, units: run.steps.len() as u64 });
            } else {
                let scores = replay.scores(queries, range.clone(), *measurement, observer)?;
                let numbers: Vec<f32> = scores.into_iter().map(|score| score as f32).collect();
                let metadata = Metadata::from([("key".into(), run.key.to_string())]);
                let specs = [TensorSpec::new("scores", Dtype::F32, [range.len(), train.len()])];
                let writer = TensorWriter::create(&part, &specs, &metadata)?;
                writer.write_values_at("scores", 0, &numbers)?;
                writer.finish()?;
            }
            parts.push((range, part));
        }
        let mut metadata = self.metadata(inputs, &run.name, &run.key);
        metadata.insert("training_loss".into(), loss.to_string());
        metadata.insert("distances".into(), serde_json::to_string(&distances).expect("names and numbers are JSON"));
        self.write(inputs, &run.file, &metadata, |write| {
            for (range, part) in &parts {
                write(range.start, TensorFile::open_checked(part)?.f32("scores")?)?;
            }
            Ok(())
        })?;
        self.remove_parts(&run.key)?;
        let (name, file) = (run.name.clone(), run.file.clone());
        Ok(ExactRun { name, loss, distances, file, is_reused: false })
    }

    /// What a run's parts begin with, whatever blocks they are of.
    fn of_parts(key: &Key) -> String {
        format!(".{}.queries-", key.short())
    }

    fn remove_parts(&self, key: &Key) -> Result<(), ExactError> {
        let of_parts = Self::of_parts(key);
        for entry in std::fs::read_dir(&self.out).map_err(|source| unreadable(&self.out, source))? {
            let entry = entry.map_err(|source| unreadable(&self.out, source))?;
            if entry.file_name().to_string_lossy().starts_with(&of_parts) {
                std::fs::remove_file(entry.path()).map_err(|source| unreadable(&entry.path(), source))?;
            }
        }
        Ok(())
    }

    /// A score file, row by row.
    fn write(
        &self,
        inputs: &Inputs,
        file: &Path,
        metadata: &Metadata,
        rows: impl FnOnce(&dyn Fn(usize, &[f32]) -> Result<(), ExactError>) -> Result<(), ExactError>,
    ) -> Result<(), ExactError> {
        let examples = inputs.train.len();
        let specs = [TensorSpec::new("scores", Dtype::F32, [inputs.queries.len(), examples])];
        let writer = TensorWriter::create(file, &specs, metadata)?;
        rows(&|query, scores| Ok(writer.write_values_at("scores", (query * examples) as u64, scores)?))?;
        writer.finish()?;
        Ok(())
    }

    /// The mean over runs, in f64.
    fn write_mean(&self, inputs: &Inputs, runs: &[Run], scores: &Path) -> Result<(), ExactError> {
        let keys: Vec<Key> = runs.iter().map(|run| run.key).collect();
        let key = KeyBuilder::new("exact differentiation, mean", VERSION).list("runs", keys).finish();
        if finished(scores, &key)?.is_some() {
            return Ok(());
        }
        let files: Result<Vec<TensorFile>, _> = runs.iter().map(|run| TensorFile::open_checked(&run.file)).collect();
        let (files, examples) = (files?, inputs.train.len());
        let name = format!("mean of {}", runs.len());
        self.write(inputs, scores, &self.metadata(inputs, &name, &key), |write| {
            for query in 0..inputs.queries.len() {
                let mut sums = vec![0.0_f64; examples];
                for file in &files {
                    let row = &file.f32("scores")?[query * examples..(query + 1) * examples];
                    sums.iter_mut().zip(row).for_each(|(sum, score)| *sum += f64::from(*score));
                }
                let mean: Vec<f32> = sums.iter().map(|sum| (sum / files.len() as f64) as f32).collect();
                write(query, &mean)?;
            }
            Ok(())
        })
    }

    fn metadata(&self, inputs: &Inputs, name: &str, key: &Key) -> Metadata {
        let ids = |data: &Dataset| {
            let ids: Vec<&str> = (0..data.len()).map(|i| data.id(i)).collect();
            serde_json::to_string(&ids).expect("texts are JSON")
        };
        let measurement = name_of(inputs.measurement);
        let units = format!(
            "improvement of the query's {measurement} for one more copy of the example in training (weight 1/N)"
        );
        Metadata::from([
            ("key".into(), key.to_string()),
            ("format".into(), FORMAT.to_string()),
            ("ascribe_version".into(), env!("CARGO_PKG_VERSION").into()),
            ("method".into(), "exact differentiation".into()),
            ("answer".into(), format!("exact, {name}")),
            ("measurement".into(), measurement.into()),
            ("normalize".into(), "none".into()),
            ("sign".into(), "positive: a proponent, training on it helps the query; negative: an opponent".into()),
            ("units".into(), units),
            ("scale".into(), format!("1/{}", inputs.train.len())),
            ("train_size".into(), inputs.train.len().to_string()),
            ("query_ids".into(), ids(&inputs.queries)),
            ("train_ids".into(), ids(&inputs.train)),
        ])
    }
}

/// The name of a measurement, as the flag has it.
pub fn name_of(measurement: Measurement) -> &'static str {
    match measurement {
        Measurement::Loss => "loss",
        Measurement::LogProbability => "logprob",
        Measurement::Probability => "probability",
        Measurement::Margin => "margin",
        _ => "prediction",
    }
}

fn unreadable(file: &Path, source: io::Error) -> ExactError {
    ExactError::Unreadable { file: file.to_owned(), source }
}

/// The parameters of a folder, which must be of this network.
fn of_network(network: &Perceptron, folder: &Path, other: &Path) -> Result<Vec<f64>, ExactError> {
    let (found, parameters) = Perceptron::of(&MlpParameters::read(folder)?);
    if found != *network {
        return Err(ExactError::OtherModel { folder: folder.to_owned(), other: other.to_owned() });
    }
    Ok(parameters)
}

/// The file, if it is there and of this key.
fn finished(file: &Path, key: &Key) -> Result<Option<TensorFile>, ExactError> {
    if !is_file(file) {
        return Ok(None);
    }
    let there = TensorFile::open_checked(file)?;
    if there.metadata("key") != Some(key.to_string().as_str()) {
        return Err(ExactError::OtherScores { file: file.to_owned() });
    }
    Ok(Some(there))
}

fn distance(a: &[f64], b: &[f64]) -> f64 {
    a.iter().zip(b).map(|(a, b)| (a - b) * (a - b)).sum::<f64>().sqrt()
}
