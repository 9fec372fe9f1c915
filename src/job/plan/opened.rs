//! What a job names, opened: its training run or its checkpoints, the model, and the files of its examples.

use std::path::PathBuf;
use std::sync::Arc;

use candle_core::DType;

use crate::curvature::gemm::Products;
use crate::curvature::{Graphs, LayerSpec, Network};
use crate::data::Labels;
use crate::job::brief::candidates;
use crate::job::brief::checkpoints::Checkpoints;
use crate::job::brief::data;
use crate::job::brief::layer_sets;
use crate::job::brief::options;
use crate::job::error::JobError;
use crate::job::plan::adapters;
use crate::job::request::{Job, Precision};
use crate::model::{HeadPart, LayerSelection, Limits, LoadOptions, Model, Residence, Weights};
use crate::trajectory::{ReadError, Reading, Warning};

/// A job whose model is open and whose options fit that model; its examples are not read yet.
pub(super) struct Opened {
    /// The job, with the choices that the model and the run decide.
    pub job: Job,
    /// Stages of the training run of Source; empty for influence functions.
    pub readings: Vec<Reading>,
    /// Checkpoints of influence functions; empty for Source.
    pub checkpoints: Checkpoints,
    /// The checkpoint at which queries take their gradients.
    pub last: PathBuf,
    /// How every checkpoint is loaded.
    pub options: LoadOptions,
    /// The network of the last checkpoint.
    pub model: Model,
    /// What the model can be given.
    pub limits: Limits,
    /// What the model gives for a whole text, if it is a classifier.
    pub labels: Option<Arc<Labels>>,
    /// Attention heads, where scores are split by them.
    pub heads: Vec<HeadPart>,
    /// The file of training examples of every stage with the stage's name, in the order of training.
    pub files: Vec<(String, PathBuf)>,
    /// What a person should know of choices that change numbers.
    pub notes: Vec<String>,
}

impl Opened {
    /// Opens what the job names.
    ///
    /// # Errors
    /// A run, checkpoint or model that cannot be read; options that exclude each other or do not fit the model.
    pub(super) fn of(mut job: Job) -> Result<Self, JobError> {
        let solve_note = options::take_solve(&mut job);
        options::check(&job)?;
        let mut readings = match &job.source {
            Some(source) => source.trajectory.read()?,
            None => vec![],
        };
        check_objective(&readings)?;
        adapters::resolve(&mut job, &mut readings)?;
        let checkpoints = Checkpoints::of(&job)?;
        let last = last_checkpoint(&checkpoints, &readings)?;
        let options = load_options(&job)?;
        let model = Model::load(&last, &options)?;
        compare_checkpoints(&mut readings, model.layers())?;
        let limits = model.limits();
        let heads = layer_sets::heads_of(&job, &model)?;
        let mut notes = job.commits();
        notes.extend(model.notes().iter().cloned());
        notes.extend(solve_note);
        notes.extend(checkpoints.notes.iter().cloned());
        notes.extend(checkpoints.untrained_note(model.layers().iter().map(|layer| layer.name.as_str())));
        if !job.resources.device.is_cpu() {
            notes.push(format!(
                "the network runs on {}; curvature and scores are computed on the CPU",
                job.resources.device
            ));
        }
        let files = stage_files(&job, &readings)?;
        if job.output.candidates.is_some() && files.len() > 1 {
            return Err(candidates::of_several_stages());
        }
        let mut labels = None;
        if let Some((_, file)) = files.last() {
            labels = data::inputs_and_labels(&job, &model, file).1;
            notes.extend(data::label_note(&model, labels.as_ref(), file));
        }
        let task = labels.as_ref().and_then(|labels| labels.task);
        job.method.measure = Some(options::resolve_measure(job.method.measure, limits, task)?);
        options::check_tokens_of(&job, limits, task)?;
        Ok(Self { job, readings, checkpoints, last, options, model, limits, labels, heads, files, notes })
    }
}

/// Refuses a run whose objective Source cannot follow.
fn check_objective(readings: &[Reading]) -> Result<(), JobError> {
    for reading in readings {
        if let Some(warning) = reading.warnings.iter().find(|warning| matches!(warning, Warning::OtherObjective { .. }))
        {
            return Err(JobError::options(
                format!("{}: {warning}", reading.source.display()),
                "Source follows what training minimised; `ascribe influence` at a checkpoint scores the examples' own \
                 loss, with this as a note",
            ));
        }
    }
    Ok(())
}

/// How the checkpoints of a job are loaded.
fn load_options(job: &Job) -> Result<LoadOptions, JobError> {
    Ok(LoadOptions {
        dtype: match job.model.dtype {
            Precision::F32 | Precision::Bf16 => DType::F32,
            Precision::F64 => DType::F64,
        },
        products: options::products(job, Products::run_here)?,
        selection: LayerSelection::new(&job.model.layers, &job.model.skip_layers)?.and(&job.model.track),
        device: job.resources.device.open()?,
        graphs: Graphs::Kept,
        residence: Residence::BySection,
        base: job.model.base.clone(),
        adapter: job.model.adapter,
    })
}

/// What each stage did not train, as far as its checkpoints show it, and layers that it trained at other rates.
fn compare_checkpoints(readings: &mut [Reading], layers: &[LayerSpec]) -> Result<(), JobError> {
    let mut before: Option<PathBuf> = None;
    if let Some(reading) = readings.first().filter(|_| !readings.iter().any(|reading| reading.trains_any(layers))) {
        reading.check_layer_names(layers)?;
        return Err(ReadError::NothingTracked { source_path: reading.source.clone() }.into());
    }
    for reading in readings {
        for files in reading.checkpoints.iter().filter(|_| crate::presence::is_file(&reading.source)) {
            Weights::open_trained(&files.folder)?;
        }
        reading.check_layer_names(layers)?;
        reading.find_frozen_layers(before.as_deref(), layers)?;
        reading.find_layer_rates(layers)?;
        before = reading.checkpoints.last().map(|files| files.folder.clone());
    }
    Ok(())
}

/// The checkpoint at which queries take their gradients.
fn last_checkpoint(checkpoints: &Checkpoints, readings: &[Reading]) -> Result<PathBuf, JobError> {
    let of_run = readings.last().and_then(|reading| reading.checkpoints.last()).map(|files| &files.folder);
    checkpoints.last().or(of_run).cloned().ok_or_else(|| JobError::Options {
        problem: match readings.last() {
            Some(reading) => format!("{}: the training run has no checkpoint", reading.source.display()).into(),
            None => "the job names no checkpoint".into(),
        },
        hint: None,
    })
}

/// The name of the only stage of a job that names none.
const ONLY_STAGE: &str = "training";

/// The file of training examples of every stage, in the order of training.
fn stage_files(job: &Job, readings: &[Reading]) -> Result<Vec<(String, PathBuf)>, JobError> {
    let (train, by_name) = (&job.data.train, &job.data.stages);
    let options = |problem: String, hint: String| Err(JobError::options(problem, hint));
    match readings {
        [] | [_] if by_name.is_empty() => {
            let name = readings.first().map_or(ONLY_STAGE, |reading| &reading.name);
            Ok(vec![(name.to_owned(), train.clone())])
        }
        [] => Err(JobError::options("stages of data are for a training run", "give <train>")),
        _ if !train.as_os_str().is_empty() && !by_name.is_empty() => options(
            "training examples are given as one file and by stage".into(),
            "leave one of the two out; a run with several stages needs a file for each".into(),
        ),
        _ if !train.as_os_str().is_empty() => {
            let names: Vec<_> = readings.iter().map(|reading| reading.name.as_str()).collect();
            options(
                format!("the training run has {} stages, and one file of training examples is given", names.len()),
                format!("give a file for each stage, by name: {}", names.join(", ")),
            )
        }
        _ => {
            let names: Vec<&str> = readings.iter().map(|reading| reading.name.as_str()).collect();
            if let Some(unknown) = by_name.keys().find(|name| !names.contains(&name.as_str())) {
                return options(
                    format!("the training run has no stage `{unknown}`"),
                    format!("its stages are {}", names.join(", ")),
                );
            }
            if let Some(name) = names.iter().find(|name| !by_name.contains_key(**name)) {
                return options(
                    format!("the stage `{name}` of the training run has no file of training examples"),
                    format!("name one: `stages.{name}` in a job file, `--stage-train {name}=FILE` as a flag"),
                );
            }
            Ok(names.iter().map(|name| ((*name).to_owned(), by_name[*name].clone())).collect())
        }
    }
}
