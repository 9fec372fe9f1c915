//! From what was asked to what will be done: files read and checked, every default resolved.

use std::ops::Range;
use std::sync::Arc;

use candle_core::DType;
use serde::Serialize;

use super::request::{Curvature, Fisher, Measure, Normalize, Precision, StoreScores};
use super::{Job, JobError};
use crate::attribution::{Error, Examples, LabelMode};
use crate::curvature::{Graphs, LayerSpec, Network};
use crate::data::{self, Batch, DataOptions, Dataset, ReadReport, Role, RowTask, Specials, Tokenizer};
use crate::model::{LayerSelection, Limits, LoadOptions, Model};

/// A job whose inputs were read and checked and whose every choice is made.
#[derive(Debug)]
pub struct Plan {
    /// The job with defaults resolved: what `run` replays.
    pub job: Job,
    pub(super) model: Model,
    pub(super) train: Dataset,
    pub(super) queries: Option<Dataset>,
    summary: Summary,
}

/// What a person should see before the work begins.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct Summary {
    /// `model_type`.
    pub architecture: String,
    /// Tracked layers and their shapes.
    pub layers: Vec<LayerSummary>,
    /// Numbers in all tracked gradients of one example.
    pub tracked_parameters: usize,
    /// What was read of the training file.
    pub train: DataSummary,
    /// What was read of the queries.
    pub queries: Option<DataSummary>,
    /// N of METHOD §1.3: examples the training objective averaged over.
    pub train_size: usize,
    /// Bytes of curvature factors on disk.
    pub factor_bytes: u64,
    /// Bytes of the queries' vectors on disk.
    pub query_bytes: u64,
    /// Guesses and oddities that change numbers.
    pub notes: Vec<String>,
}

/// A tracked layer.
#[derive(Debug, Clone, Serialize)]
pub struct LayerSummary {
    /// Its name in the checkpoint.
    pub name: String,
    /// O.
    pub outputs: usize,
    /// I, with the column of ones.
    pub columns: usize,
}

/// One file of examples.
#[derive(Debug, Clone, Serialize)]
pub struct DataSummary {
    /// Examples.
    pub examples: usize,
    /// Positions of all of them.
    pub positions: usize,
    /// Positions that are predicted.
    pub targets: usize,
    /// Positions of the longest.
    pub longest: usize,
    /// Examples that were cut to the maximal length.
    pub cut: usize,
    /// The first example's tokens; whether each is a target.
    pub first: Vec<(String, bool)>,
}

impl From<&ReadReport> for DataSummary {
    fn from(report: &ReadReport) -> Self {
        Self {
            examples: report.examples,
            positions: report.tokens,
            targets: report.targets,
            longest: report.longest,
            cut: report.cut,
            first: report.first.clone(),
        }
    }
}

impl Plan {
    /// Reads the checkpoint and the data, checks that they fit, and resolves every default.
    ///
    /// # Errors
    /// [`JobError`], before any long work and before anything is written.
    pub fn resolve(mut job: Job) -> Result<Self, JobError> {
        check_options(&job)?;
        let dtype = match job.model.dtype {
            Precision::F32 => DType::F32,
            Precision::F64 => DType::F64,
        };
        let selection = LayerSelection::new(&job.model.layers, &job.model.skip_layers)?;
        let mut options = LoadOptions { selection, dtype, graphs: Graphs::Kept };
        let mut model = Model::load(&job.model.path, &options)?;
        let mut notes = model.notes().to_vec();
        let measure = resolve_measure(job.method.measure, model.limits())?;
        job.method.measure = Some(measure);

        let tokenizer = load_tokenizer(&job, model.limits())?;
        let (train, train_report) = read(&job, &job.data.train, Role::Train, model.limits(), tokenizer.as_ref())?;
        let queries = match &job.data.queries {
            Some(file) => Some(read(&job, file, Role::Queries, model.limits(), tokenizer.as_ref())?),
            None => None,
        };
        let train_size = *job.data.train_size.get_or_insert(train.len());
        for (what, report) in [("training examples", Some(&train_report)), ("queries", queries.as_ref().map(|q| &q.1))]
        {
            if let Some(report) = report.filter(|report| report.cut > 0) {
                notes.push(format!("{} {what} were cut to {} tokens", report.cut, report.longest));
            }
            if let Some(packed) = report.and_then(|report| report.packed) {
                notes.push(format!(
                    "{} documents were packed; {} tokens at the end filled no block and are left out",
                    packed.documents, packed.dropped_tokens
                ));
            }
        }
        if train_size != train.len() {
            notes.push(format!(
                "scores are for a training set of {train_size} examples, of which {} are scored",
                train.len()
            ));
        }
        let layers = model.layers();
        let longest = train_report.longest.max(queries.as_ref().map_or(0, |q| q.1.longest));
        let (batch_tokens, graphs) = batch_size(&job, layers, longest, model.limits())?;
        job.resources.batch_tokens = Some(batch_tokens);
        if graphs != options.graphs {
            options.graphs = graphs;
            model.set_graphs(graphs);
            notes.push("memory is short: activations are computed twice instead of kept".into());
        }
        let summary = summarize(&job, &model, &train_report, queries.as_ref().map(|q| &q.1), train_size, notes);
        Ok(Self { job, model, train, queries: queries.map(|q| q.0), summary })
    }

    /// What a person should see before the work begins.
    pub fn summary(&self) -> &Summary {
        &self.summary
    }

    /// The training examples.
    pub fn train(&self) -> &Dataset {
        &self.train
    }

    /// The queries, if the job names any.
    pub fn queries(&self) -> Option<&Dataset> {
        self.queries.as_ref()
    }

    /// The checkpoint.
    pub fn model(&self) -> &Model {
        &self.model
    }

    /// Labels for the curvature.
    pub(super) fn label_mode(&self) -> LabelMode {
        match self.job.method.fisher {
            Fisher::Empirical => LabelMode::Empirical,
            Fisher::True => LabelMode::Sampled { seed: self.job.method.seed, draws: self.job.method.label_draws },
        }
    }

    /// The measurement, resolved.
    pub(super) fn measure(&self) -> Measure {
        self.job.method.measure.expect("`resolve` sets it")
    }

    /// N, resolved.
    pub(super) fn train_size(&self) -> usize {
        self.job.data.train_size.expect("`resolve` sets it")
    }

    /// A dataset cut into batches of the resolved size.
    pub(super) fn in_batches<'a>(&self, dataset: &'a Dataset) -> InBatches<'a> {
        InBatches { dataset, batch_tokens: self.job.resources.batch_tokens.expect("`resolve` sets it") }
    }
}

/// A dataset in batches of a given number of positions.
#[derive(Debug, Clone, Copy)]
pub(super) struct InBatches<'a> {
    /// The examples.
    pub dataset: &'a Dataset,
    /// Positions of a batch, at most, unless one example has more.
    pub batch_tokens: usize,
}

impl Examples<Batch> for InBatches<'_> {
    fn len(&self) -> usize {
        self.dataset.len()
    }

    fn positions(&self, example: usize) -> usize {
        self.dataset.positions(example)
    }

    fn batch_end(&self, start: usize, end: usize) -> usize {
        data::batches(self.dataset, start..end, self.batch_tokens).next().map_or(end, |batch| batch.end)
    }

    fn batch(&self, range: Range<usize>) -> Result<Batch, Error> {
        Ok(data::batch(self.dataset, range))
    }
}

fn check_options(job: &Job) -> Result<(), JobError> {
    let options =
        |problem: &str, hint: &str| Err(JobError::Options { problem: problem.into(), hint: Some(hint.into()) });
    // `job.toml` has to be able to say what was asked
    let paths = [
        Some(&job.model.path),
        Some(&job.data.train),
        job.data.queries.as_ref(),
        job.data.tokenizer.as_ref(),
        Some(&job.output.path),
    ];
    if let Some(path) = paths.into_iter().flatten().find(|path| path.to_str().is_none()) {
        let problem = format!("the path `{}` is not UTF-8", path.display());
        return Err(JobError::Options { problem, hint: Some("rename it, or give another path to it".into()) });
    }
    if i64::try_from(job.method.seed).is_err() {
        return options("`seed` is out of range", "choose a seed below 2^63");
    }
    if job.output.top == 0 {
        return options("`top` is 0", "list at least one proponent");
    }
    if job.method.label_draws == 0 || job.method.label_draws >= 1 << 12 {
        return options("`label_draws` is out of range", "draw between 1 and 4095 labels");
    }
    if job.data.train_size == Some(0) {
        return options("`train_size` is 0", "leave it out, or give the number of examples the model was trained on");
    }
    if job.resources.batch_tokens == Some(0) {
        return options("`batch_tokens` is 0", "leave it out, or give at least 1");
    }
    if job.method.normalize == Normalize::Cosine && job.output.store_scores == StoreScores::Top {
        return options("`normalize = cosine` needs the full matrix", "leave `store_scores = top` out");
    }
    Ok(())
}

fn resolve_measure(asked: Option<Measure>, limits: Limits) -> Result<Measure, JobError> {
    use Measure::{Logprob, Loss, Margin, Prediction};
    let (task, possible, allowed): (_, _, &[Measure]) = match limits {
        Limits::Tokens(_) => ("language model", "`loss`, `logprob` or `margin`", &[Loss, Logprob, Margin]),
        Limits::Rows(rows) => match rows.task {
            RowTask::Classification => ("classifier", "`margin`, `loss` or `logprob`", &[Margin, Loss, Logprob]),
            RowTask::Regression => ("regression", "`prediction` or `loss`", &[Prediction, Loss]),
        },
    };
    match asked {
        None => Ok(allowed[0]),
        Some(measure) if allowed.contains(&measure) => Ok(measure),
        Some(measure) => Err(JobError::Measure { measure: measure_name(measure), task, possible }),
    }
}

/// As it is written in flags and files.
pub(super) fn measure_name(measure: Measure) -> &'static str {
    match measure {
        Measure::Loss => "loss",
        Measure::Logprob => "logprob",
        Measure::Margin => "margin",
        Measure::Prediction => "prediction",
    }
}

fn load_tokenizer(job: &Job, limits: Limits) -> Result<Option<Arc<Tokenizer>>, JobError> {
    let Limits::Tokens(_) = limits else { return Ok(None) };
    match Tokenizer::find(&job.model.path, job.data.tokenizer.as_deref()) {
        Ok(tokenizer) => Ok(Some(Arc::new(tokenizer))),
        // files of token ids need none; the reader says so if they hold text after all
        Err(_) if job.data.tokenizer.is_none() && only_ids(job) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Whether the first line of every file holds token ids.
fn only_ids(job: &Job) -> bool {
    use std::io::BufRead;
    let has_ids = |file: &std::path::PathBuf| {
        let first = std::fs::File::open(file).ok().and_then(|file| std::io::BufReader::new(file).lines().next());
        first.and_then(Result::ok).is_some_and(|line| line.contains("\"input_ids\""))
    };
    has_ids(&job.data.train) && job.data.queries.as_ref().is_none_or(has_ids)
}

fn read(
    job: &Job,
    file: &std::path::Path,
    role: Role,
    limits: Limits,
    tokenizer: Option<&Arc<Tokenizer>>,
) -> Result<(Dataset, ReadReport), JobError> {
    Ok(match limits {
        Limits::Tokens(limits) => {
            let specials = Specials { add_bos: job.data.add_bos.into(), add_eos: job.data.add_eos.into() };
            let options = DataOptions { max_length: job.data.max_length, pack: job.data.pack, specials };
            data::read_tokens(file, role, tokenizer, limits, options)?
        }
        Limits::Rows(limits) => data::read_rows(file, limits)?,
    })
}

/// Positions of a batch, and whether activations are kept.
///
/// Deterministic unless a memory budget is given: results must not depend on what else runs.
fn batch_size(job: &Job, layers: &[LayerSpec], longest: usize, limits: Limits) -> Result<(usize, Graphs), JobError> {
    let default = if matches!(limits, Limits::Tokens(_)) { 2048 } else { 4096 };
    let wanted = job.resources.batch_tokens.unwrap_or(default);
    let Some(budget) = job.resources.memory else { return Ok((wanted, Graphs::Kept)) };
    // what does not depend on the batch: weights, covariance sums and one copy of the eigenvectors
    let fixed: u64 = layers.iter().map(|layer| fixed_bytes(layer, job.method.curvature)).sum();
    // activations and their gradients, about three numbers for every input and output of a layer
    let per_position: u64 = layers.iter().map(|layer| 12 * (layer.inputs + layer.outputs) as u64).sum();
    let deepest = layers.iter().map(|layer| 12 * (layer.inputs + layer.outputs) as u64).max().unwrap_or(0) * 6;
    let needs = |positions: usize, graphs| {
        let each = match graphs {
            Graphs::Kept => per_position,
            Graphs::Rebuilt => deepest + layers.len() as u64 * 4 * layers.first().map_or(0, |l| l.inputs) as u64,
        };
        fixed + positions.max(longest) as u64 * each
    };
    let choices = [(wanted, Graphs::Kept), (wanted, Graphs::Rebuilt), (longest.max(1), Graphs::Rebuilt)];
    match choices.into_iter().find(|&(positions, graphs)| needs(positions, graphs) <= budget) {
        Some(choice) => Ok(choice),
        None => Err(JobError::Memory { needed: needs(longest, Graphs::Rebuilt), budget }),
    }
}

fn fixed_bytes(layer: &LayerSpec, curvature: Curvature) -> u64 {
    let square = |n: usize| (n * n) as u64;
    let covariances = square(layer.columns()) + square(layer.outputs);
    let weights = 4 * layer.parameters() as u64;
    weights
        + match curvature {
            Curvature::Identity => 0,
            Curvature::Diagonal => 12 * layer.parameters() as u64,
            Curvature::Kfac | Curvature::Ekfac => 12 * covariances.max(layer.parameters() as u64),
        }
}

fn summarize(
    job: &Job,
    model: &Model,
    train: &ReadReport,
    queries: Option<&ReadReport>,
    train_size: usize,
    notes: Vec<String>,
) -> Summary {
    let layers = model.layers();
    let width = if job.model.dtype == Precision::F64 { 8 } else { 4 };
    let square = |n: usize| (n * n) as u64;
    let basis: u64 = layers.iter().map(|l| (width + 8) * (square(l.outputs) + square(l.columns()))).sum();
    let tracked: usize = layers.iter().map(LayerSpec::parameters).sum();
    let factor_bytes = match job.method.curvature {
        Curvature::Identity => 0,
        Curvature::Diagonal => 8 * tracked as u64,
        Curvature::Kfac => basis,
        Curvature::Ekfac => basis + 8 * tracked as u64,
    };
    let rows = queries.map_or(0, |q| crate::attribution::Aggregate::from(job.method.aggregate).rows(q.examples));
    let layer = |l: &LayerSpec| LayerSummary { name: l.name.clone(), outputs: l.outputs, columns: l.columns() };
    Summary {
        architecture: model.kind().to_owned(),
        layers: layers.iter().map(layer).collect(),
        tracked_parameters: tracked,
        train: train.into(),
        queries: queries.map(Into::into),
        train_size,
        factor_bytes,
        query_bytes: rows as u64 * tracked as u64 * width,
        notes,
    }
}
