//! Flags about the training run that influence is averaged over or that Source follows.

use std::path::PathBuf;

use ascribe::job::{
    AdamRequest, Average, Beside, CheckpointsRequest, FormRequest, Job, SelfInfluenceForm, Several, SourceRequest,
};
use ascribe::trajectory::TrajectoryRequest;
use clap::{Args, ValueEnum};

use super::trajectory::TrajectoryOptions;
use super::values::{one_of, stage_file, time_scale};
use crate::failure::Problem;

/// What a training run is read for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RunMethod {
    /// Source, through the whole run
    Source,
    /// Influence functions, averaged over the run's checkpoints
    Influence,
}

/// A training run, for Source or for influence averaged over its checkpoints.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Training run")]
pub(crate) struct TrainingOptions {
    /// Output folder of a Hugging Face Trainer, with its `checkpoint-N` folders, or `hub:ORG/NAME` with them
    #[arg(long, value_name = "DIR", conflicts_with = "trajectory")]
    pub(crate) run: Option<PathBuf>,
    /// A training run written down as TOML: checkpoints, learning rates, optimizer, stages
    #[arg(long, value_name = "FILE")]
    pub(crate) trajectory: Option<PathBuf>,
    /// What the run is read for [default: source]
    #[arg(long, value_name = "METHOD", value_enum)]
    pub(crate) method: Option<RunMethod>,
    /// Training examples of one stage of a run with several; once for each
    #[arg(long, value_name = "STAGE=FILE", value_parser = stage_file)]
    stage_train: Vec<(String, PathBuf)>,
    #[command(flatten)]
    reading: TrajectoryOptions,
    /// Of a run with several stages, also write what each stage contributes to the scores
    #[arg(long)]
    by_stage: bool,
    /// Also write what each segment of training contributes to the scores
    #[arg(long)]
    by_segment: bool,
    /// What a segment's checkpoints are averaged in [default: factors]
    #[arg(long, value_name = "WHAT", value_parser = one_of::<Average>(&[
        ("factors", "their curvatures and scores"),
        ("parameters", "their weights, once (FAST-Source): cheaper, a little less accurate"),
    ]))]
    average: Option<Average>,
    /// How a segment's steps are put together [default: exponential]
    #[arg(long, value_name = "FORM", value_parser = one_of::<FormRequest>(&[
        ("exponential", "the exponential of their sum"),
        ("product", "step by step"),
        ("momentum", "step by step, the momentum buffer followed"),
    ]))]
    form: Option<FormRequest>,
    /// How Adam's preconditioner enters [default: conditioned]
    #[arg(long, value_name = "FORM", value_parser = one_of::<AdamRequest>(&[
        ("conditioned", "each parameter's second moment"),
        ("scalar", "one number for each layer"),
    ]))]
    adam: Option<AdamRequest>,
    /// Multiply every learning rate; several, with commas, are scored in one pass [default: 1]
    #[arg(long, value_name = "SCALES", value_delimiter = ',', value_parser = time_scale)]
    time_scale: Vec<f64>,
    /// Score these methods in the same passes, with commas
    #[arg(long, value_name = "METHODS", value_delimiter = ',', value_parser = one_of::<Beside>(&[
        ("influence", "EK-FAC influence at the final checkpoint, with each --damping"),
        ("influence-mean", "EK-FAC influence averaged over the checkpoints, with each --damping"),
        ("tracin", "TracIn over all checkpoints"),
        ("gradients", "the gradient dot product at the final checkpoint"),
    ]))]
    with: Vec<Beside>,
    /// What --self-influence means for Source [default: walk]
    #[arg(long, value_name = "FORM", value_parser = one_of::<SelfInfluenceForm>(&[
        ("walk", "the example's own loss at the end is the query"),
        ("local", "each segment's own gradients: never negative, cheaper, for ranking alone"),
    ]))]
    self_influence_form: Option<SelfInfluenceForm>,
}

impl TrainingOptions {
    /// Whether a training run is named.
    pub(crate) fn names_a_run(&self) -> bool {
        self.run.is_some() || self.trajectory.is_some()
    }

    /// Refuses what the method that the run is read for cannot be told.
    ///
    /// # Errors
    /// Numbers as weights of Source's checkpoints; flags of Source, or weights, where nothing asks for them.
    pub(super) fn check(&self, job: &Job) -> anyhow::Result<()> {
        if job.source.is_some() {
            return self.reading.check();
        }
        let given = [
            ("--stage-train", !self.stage_train.is_empty()),
            ("--by-stage", self.by_stage),
            ("--by-segment", self.by_segment),
            ("--average", self.average.is_some()),
            ("--form", self.form.is_some()),
            ("--adam", self.adam.is_some()),
            ("--time-scale", !self.time_scale.is_empty()),
            ("--with", !self.with.is_empty()),
            ("--self-influence-form", self.self_influence_form.is_some()),
        ];
        let given = given.into_iter().filter(|(_, given)| *given).map(|(flag, _)| flag).chain(self.reading.of_rates());
        if let Some(flag) = given.into_iter().next() {
            let problem = format!("`{flag}` is for Source");
            return Err(Problem::hinted(problem, "leave it out, or use `ascribe source`"));
        }
        if job.checkpoints.is_none() && self.reading.checkpoint_weights.is_some() {
            let problem = "`--checkpoint-weights` is for several checkpoints, and one is given";
            return Err(Problem::hinted(problem, "leave it out, or give `--run`, or `--model` several times"));
        }
        Ok(())
    }

    /// Lays the flags that were given on top of a job.
    pub(crate) fn apply(&self, job: &mut Job) {
        for (stage, file) in &self.stage_train {
            job.data.stages.insert(stage.clone(), file.clone());
        }
        if let Some(path) = self.run.as_ref().or(self.trajectory.as_ref()) {
            let averages = match self.method {
                Some(method) => method == RunMethod::Influence,
                None => job.checkpoints.is_some(),
            };
            match (&mut job.source, &mut job.checkpoints) {
                (_, Some(checkpoints)) if averages => checkpoints.run = Some(path.clone()),
                (_, checkpoints) if averages => *checkpoints = Some(CheckpointsRequest::of_run(path.clone())),
                (Some(source), _) => source.trajectory.path.clone_from(path),
                (source, _) => *source = Some(SourceRequest::new(TrajectoryRequest::new(path.clone()))),
            }
        }
        if let (Some(checkpoints), Some(weights)) = (&mut job.checkpoints, &self.reading.checkpoint_weights) {
            checkpoints.weights.clone_from(weights);
        }
        let Some(source) = &mut job.source else { return };
        self.reading.apply(&mut source.trajectory);
        source.by_stage |= self.by_stage;
        source.by_segment |= self.by_segment;
        source.average = self.average.unwrap_or(source.average);
        source.form = self.form.unwrap_or(source.form);
        source.adam = self.adam.unwrap_or(source.adam);
        source.self_influence = self.self_influence_form.unwrap_or(source.self_influence);
        if !self.time_scale.is_empty() {
            source.time_scale = Several(self.time_scale.clone());
        }
        if !self.with.is_empty() {
            source.with.clone_from(&self.with);
        }
    }
}
