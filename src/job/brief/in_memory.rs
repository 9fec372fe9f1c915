//! Briefs about the small perceptron that are built without a plan, for tests.

use std::path::{Path, PathBuf};

use super::answers::Answer;
use super::layer_sets::LayerSet;
use super::*;
use crate::curvature::Network;
use crate::data::{self, RowLimits};
use crate::job::request::SourceRequest;
use crate::job::training::Stage;
use crate::model::{LayerSelection, Limits, LoadOptions, Model};
use crate::trajectory::{StageData, TrajectoryRequest};

pub(in crate::job) fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures")
}

pub(in crate::job) fn rows(file: &str, limits: RowLimits) -> Dataset {
    data::read_rows(&fixtures().join("mlp-tiny").join(file), limits).expect("rows").0
}

/// A job about the small perceptron and its training examples.
pub(in crate::job) fn job() -> Job {
    let mut job = Job::new(fixtures().join("mlp-tiny"), "", "no-folder");
    job.method.measure = Some(Measure::Margin);
    job
}

/// A job of Source over the run that trained the small perceptron.
pub(in crate::job) fn source_job() -> Job {
    let path = fixtures().join("mlp-trajectory/trajectory.toml").display().to_string();
    let request: TrajectoryRequest = toml::from_str(&format!("path = {path:?}\n")).expect("a request");
    let mut job = job();
    job.model.path = PathBuf::new();
    job.source = Some(SourceRequest::new(request));
    job
}

/// The brief of a job, whose data and training may be changed before its answers are made.
pub(in crate::job) fn brief(job: Job, change: impl FnOnce(&mut Training)) -> Brief {
    let selection =
        LayerSelection::new(&job.model.layers, &job.model.skip_layers).expect("globs").and(&job.model.track);
    let options = LoadOptions { selection, ..LoadOptions::default() };
    let folder = match &job.source {
        None => fixtures().join("mlp-tiny"),
        Some(_) => fixtures().join("mlp-trajectory/checkpoint-720"),
    };
    let model = Model::load(&folder, &options).expect("a perceptron");
    let Limits::Rows(limits) = model.limits() else { panic!("a perceptron takes rows") };
    let stages = vec![Stage::new("training".into(), rows("train.safetensors", limits))];
    let mut training = match &job.source {
        None => Training::of_checkpoints(&job, vec![(folder, 1.0)], model, stages, options),
        Some(source) => {
            let mut readings = source.trajectory.read().expect("a description");
            for reading in &mut readings {
                reading.find_frozen_layers(None, model.layers()).expect("checkpoints");
            }
            let n = stages[0].train.len();
            let data = [StageData { examples: Some(n), targets_per_example: None, targets: None, texts: None }];
            let run = source.trajectory.resolve(readings, &data).expect("a run");
            Training::of_run(&job, source, run, (folder, model), stages, options)
        }
    }
    .expect("a training");
    change(&mut training);
    let layer_sets = LayerSet::all(&job, training.layers(), vec![]).expect("layers");
    let answers = Answer::all(&job, &training, &layer_sets).expect("answers");
    let queries = Some(rows("query.safetensors", limits));
    Brief {
        job,
        training,
        answers,
        layer_sets,
        groups: None,
        copies: None,
        queries,
        query_weights: vec![],
        evaluation: None,
        texts: Default::default(),
        reused: None,
    }
}
