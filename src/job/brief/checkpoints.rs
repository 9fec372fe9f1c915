//! Which checkpoints influence is taken at, and what each counts in the mean.

use std::path::PathBuf;

use crate::job::error::JobError;
use crate::job::request::Job;
use crate::job::request::{CheckpointsRequest, MeanWeights};
use crate::model::Weights;
use crate::trajectory::{RunCheckpoints, nearest_shares};

/// The checkpoints of influence functions.
#[derive(Debug)]
pub(in crate::job) struct Checkpoints {
    /// Folders, first trained first, with weights that sum to 1.
    pub list: Vec<(PathBuf, f64)>,
    /// Guesses that change numbers.
    pub notes: Vec<String>,
}

impl Checkpoints {
    /// The checkpoint of a job, or those that it averages over; empty for Source.
    ///
    /// # Errors
    /// A training run that cannot be read; fewer than two checkpoints to average over, or one that is named twice;
    /// weights of another number of checkpoints.
    pub(in crate::job) fn of(job: &Job) -> Result<Self, JobError> {
        let mut notes = vec![];
        let Some(request) = &job.checkpoints else {
            let alone = job.source.is_none().then(|| (job.model.path.clone(), 1.0));
            return Ok(Self { list: alone.into_iter().collect(), notes });
        };
        let folders = folders(request, &mut notes)?;
        let weights = weights(request, folders.len())?;
        if let Some(n) = unused(&weights) {
            notes.push(format!("{n} of {} checkpoints have a weight of 0 and are left out", weights.len()));
        }
        let list: Vec<(PathBuf, f64)> = folders.into_iter().zip(weights).filter(|(_, weight)| *weight > 0.0).collect();
        Ok(Self { list, notes })
    }

    /// The checkpoint at which queries are measured.
    pub(in crate::job) fn last(&self) -> Option<&PathBuf> {
        self.list.last().map(|(folder, _)| folder)
    }

    /// A note on tracked layers that are the same in the first and the last checkpoint: training may not have changed
    /// them, and influence functions take all tracked layers as trained. A checkpoint that cannot be read is passed
    /// over; whatever reads its weights says why.
    pub(in crate::job) fn untrained_note<'n>(&self, layers: impl Iterator<Item = &'n str>) -> Option<String> {
        let [(first, _), .., (last, _)] = self.list.as_slice() else { return None };
        let (first, last) = (Weights::open_trained(first).ok()?, Weights::open_trained(last).ok()?);
        let layers: Vec<&str> = layers.collect();
        // the vector of a norm's biases is the layer of its own tensor's name
        let tensor = |layer: &str| if layer.ends_with(".bias") { layer.to_owned() } else { format!("{layer}.weight") };
        let is_untrained = |layer: &&str| first.same(&last, &tensor(layer));
        let untrained: Vec<String> = layers.iter().copied().filter(is_untrained).map(str::to_owned).collect();
        if untrained.is_empty() {
            return None;
        }
        Some(format!(
            "{} of {} tracked layers are the same in the first and the last checkpoint, so training seems to have left them frozen; they are scored all the same (`skip_layers` leaves them out): {}",
            untrained.len(),
            layers.len(),
            crate::model::abridged(&untrained)
        ))
    }
}

fn unused(weights: &[f64]) -> Option<usize> {
    Some(weights.iter().filter(|weight| **weight == 0.0).count()).filter(|n| *n > 0)
}

fn folders(request: &CheckpointsRequest, notes: &mut Vec<String>) -> Result<Vec<PathBuf>, JobError> {
    let options = |problem: String, hint: &'static str| Err(JobError::options(problem, hint));
    let one = "influence at one checkpoint is asked for with `--model` and its folder";
    let folders: Vec<PathBuf> = match &request.run {
        Some(run) => {
            let found = RunCheckpoints::find(run)?;
            if found.stages > 1 {
                notes.push(format!(
                    "the training run has {} stages; influence is averaged over the checkpoints of the last, `{}`, on its training examples",
                    found.stages, found.stage
                ));
            }
            if let [only] = found.checkpoints.as_slice() {
                let problem = format!(
                    "{}: the training run has one checkpoint, `{}`, and influence is to be averaged over several",
                    run.display(),
                    only.id
                );
                return options(problem, one);
            }
            found.checkpoints.into_iter().map(|files| files.folder).collect()
        }
        None => request.folders.clone(),
    };
    if folders.len() < 2 {
        return options(format!("influence is to be averaged over checkpoints, and {} is named", folders.len()), one);
    }
    let places = folders.iter().map(|folder| folder.canonicalize().unwrap_or_else(|_| folder.clone()));
    let places: Vec<PathBuf> = places.collect();
    if let Some(k) = (1..places.len()).find(|&k| places[..k].contains(&places[k])) {
        let problem = format!("{}: the checkpoint is named twice", folders[k].display());
        return options(problem, "name each checkpoint once; what each counts is said with `--checkpoint-weights`");
    }
    Ok(folders)
}

/// What each checkpoint counts; they sum to 1.
fn weights(request: &CheckpointsRequest, count: usize) -> Result<Vec<f64>, JobError> {
    let options = |problem: String, hint: &'static str| Err(JobError::options(problem, hint));
    match &request.weights {
        MeanWeights::Uniform => Ok(vec![1.0 / count as f64; count]),
        MeanWeights::Nearest => match &request.run {
            Some(run) => Ok(nearest_shares(run)?),
            None => options(
                "the weights `nearest` need the learning rates of a training run, and folders are named".into(),
                "give the run with `--run` or `--trajectory`, or a number for each checkpoint",
            ),
        },
        MeanWeights::Given(weights) if weights.len() != count => options(
            format!("{} checkpoint weights are given for {count} checkpoints", weights.len()),
            "give `--checkpoint-weights` a number for each checkpoint, first trained first",
        ),
        MeanWeights::Given(weights) => {
            let sum: f64 = weights.iter().sum();
            if weights.last() == Some(&0.0) {
                return options(
                    "the last checkpoint has a weight of 0, and queries are measured there".into(),
                    "leave the last checkpoint out, or give it a weight",
                );
            }
            if weights.iter().filter(|weight| **weight > 0.0).count() < 2 {
                return options(
                    "one checkpoint alone has a weight above 0, and influence is to be averaged over several".into(),
                    "influence at one checkpoint is asked for with `--model` and its folder",
                );
            }
            Ok(weights.iter().map(|weight| weight / sum).collect())
        }
    }
}
