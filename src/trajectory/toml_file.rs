//! `trajectory.toml`: a training run written down by hand or by a training script.
//!
//! A file describes one stage at its top level, or several as `[[stage]]` tables with the same keys. An unknown key
//! is an error with its line. Steps are optimizer updates; `from_step` counts them from 0, a checkpoint's `step` is
//! how many were done when it was saved.
//!
//! A stage may be a Trainer's run, or a part of one, instead of being written out:
//!
//! ```toml
//! [[stage]]
//! name = "tuning"
//! run = "output"               # a Trainer's output folder, relative to this file
//! after_step = 60              # optional: the updates after this one alone, which count from there
//! last_step = 120              # optional: up to this checkpoint
//! ```
//!
//! Beside these `train_examples`, `base`, `segment_ends`, `trained_layers` and `layer_rates` may be stated.
//!
//! ```toml
//! name = "training"            # optional; needed when there are several stages
//! optimizer = "sgd"            # "sgd", "adam" or "adamw"
//! momentum = 0.9               # sgd; `dampening` = 0 and `nesterov` = false may be left out
//! weight_decay = 1e-4          # adam and adamw: also `betas = [0.9, 0.999]` and `epsilon = 1e-8`
//! train_examples = 830
//! batch_size = 32              # examples in an update, over devices and accumulated micro-batches
//! loss_reduction = "mean"      # or "sum", "token_mean" with `label_tokens_per_example`, "output_mean" with
//!                              # `outputs`; or `loss_scale = 1.0` instead
//! steps = 1000                 # optional
//! steps_per_epoch = 25         # optional, checked against `train_examples`; so is `epochs`, against `steps`
//! seed = 0                     # optional, not used
//! base = "base"                # optional: the base's folder, relative to this file, if checkpoints are adapters
//! segment_ends = [333, 667]    # optional: where segments end
//! trained_layers = ["fc1"]     # optional: layers that this stage changed, if not all
//! layer_rates = { fc1 = 0.1 }  # optional: what multiplies the rates of a layer, if not 1
//!
//! [[learning_rate]]            # one of four ways to give rates: pieces,
//! from_step = 0
//! value = 0.03
//! # learning_rates = [0.03, …]                                     every step,
//! # schedule = { name = "cosine", learning_rate = 0.03, warmup_steps = 10, arguments = { num_cycles = 0.5 } }
//! # or a `learning_rate_mean` in every checkpoint: the mean over the steps since the one before
//!
//! [[checkpoint]]
//! path = "checkpoint-500"      # relative to this file; its last part is the checkpoint's name
//! step = 500
//! steps_since_previous = 500   # optional, checked
//! learning_rate_mean = 0.03    # optional, checked when rates are given otherwise
//! optimizer_state = "o.pt"     # optional; `optimizer.pt` in the checkpoint's folder is found by itself
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use ascribe_attribution::trajectory::{
    LossScale, MAX_STEPS, Optimizer, Schedule, StepRates, TrainedLayers, TrajectoryError,
};
use serde::Deserialize;
use toml::Spanned;

use super::reading::{Batch, Company, Epochs};
use super::schedule_arguments::{Argument, schedule_kind};
use super::trainer::{self, Gaps, TrainerOptions, read_text};
use crate::trajectory::error::ReadError;
use crate::trajectory::optimizer_state;
use crate::trajectory::reading::{CheckpointFiles, Fact, RatesOrigin, Reading};
use crate::trajectory::token_counts::LoggedTokens;

/// Bytes of a description that are read at most: a million rates, written out, have 20 MB.
const MAX_TOML: u64 = 64 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stages {
    stage: Vec<Spanned<Stage>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Stage {
    name: Option<String>,
    run: Option<String>,
    after_step: Option<usize>,
    last_step: Option<usize>,
    optimizer: Option<String>,
    momentum: Option<f64>,
    dampening: Option<f64>,
    nesterov: Option<bool>,
    weight_decay: Option<f64>,
    betas: Option<[f64; 2]>,
    epsilon: Option<f64>,
    train_examples: Option<usize>,
    batch_size: Option<usize>,
    loss_reduction: Option<LossReduction>,
    loss_scale: Option<f64>,
    label_tokens_per_example: Option<f64>,
    outputs: Option<usize>,
    steps: Option<usize>,
    epochs: Option<f64>,
    steps_per_epoch: Option<usize>,
    #[serde(rename = "seed")]
    _seed: Option<i64>,
    base: Option<String>,
    segment_ends: Option<Vec<usize>>,
    trained_layers: Option<BTreeSet<String>>,
    #[serde(default)]
    layer_rates: BTreeMap<String, f64>,
    learning_rate: Option<Vec<Piece>>,
    learning_rates: Option<Vec<f64>>,
    schedule: Option<ScheduleTable>,
    #[serde(default)]
    checkpoint: Vec<Spanned<Checkpoint>>,
}

#[derive(Deserialize, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
enum LossReduction {
    Mean,
    Sum,
    TokenMean,
    OutputMean,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Piece {
    from_step: usize,
    value: f64,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ScheduleTable {
    name: String,
    learning_rate: f64,
    #[serde(default)]
    warmup_steps: usize,
    #[serde(default)]
    arguments: BTreeMap<String, toml::Value>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Checkpoint {
    path: String,
    step: usize,
    steps_since_previous: Option<usize>,
    learning_rate_mean: Option<f64>,
    optimizer_state: Option<String>,
}

/// Reads a file: one [`Reading`] for each stage, first trained first. `gaps` is about stages that are a Trainer's run.
///
/// # Errors
/// Text that is not TOML; an unknown key or a value of the wrong kind, with its line; a value that is missing or
/// contradicts another.
pub fn read(file: &Path, gaps: Gaps) -> Result<Vec<Reading>, ReadError> {
    let text = read_text(file, MAX_TOML)?;
    let source = TomlText { file, text: &text, gaps };
    let has_stages = toml::from_str::<toml::Table>(&text).map_err(|error| source.syntax(&error))?.contains_key("stage");
    if !has_stages {
        let stage: Stage = toml::from_str(&text).map_err(|error| source.syntax(&error))?;
        return Ok(vec![source.reading(stage, 0, "training")?]);
    }
    let stages: Stages = toml::from_str(&text).map_err(|error| source.syntax(&error))?;
    let mut readings = Vec::new();
    for (i, stage) in stages.stage.into_iter().enumerate() {
        let start = stage.span().start;
        readings.push(source.reading(stage.into_inner(), start, &format!("stage {}", i + 1))?);
    }
    Ok(readings)
}

/// The file, for messages.
struct TomlText<'a> {
    file: &'a Path,
    text: &'a str,
    gaps: Gaps,
}

impl TomlText<'_> {
    fn at(&self, offset: usize, message: String) -> ReadError {
        ReadError::Toml { file: self.file.to_path_buf(), line: self.line(offset), message }
    }

    /// The line, from 1, of a place in the text.
    fn line(&self, offset: usize) -> usize {
        1 + self.text.bytes().take(offset).filter(|&byte| byte == b'\n').count()
    }

    fn syntax(&self, error: &toml::de::Error) -> ReadError {
        let message = error.message().lines().collect::<Vec<_>>().join(", ");
        self.at(error.span().map_or(0, |span| span.start), message)
    }

    fn numbers(&self, problem: TrajectoryError) -> ReadError {
        ReadError::Numbers { source_path: self.file.to_path_buf(), problem }
    }

    /// A stage; `start` is where it stands, for what has no line of its own.
    fn reading(&self, stage: Stage, start: usize, default_name: &str) -> Result<Reading, ReadError> {
        let wrong = |message: String| self.at(start, message);
        if stage.run.is_some() {
            return self.of_run(stage, start, default_name);
        }
        if stage.after_step.or(stage.last_step).is_some() {
            return Err(wrong("`after_step` and `last_step` are of a stage with a `run`".into()));
        }
        let missing = |key: &str| wrong(format!("missing field `{key}`"));
        let name = stage.optimizer.as_deref().ok_or_else(|| missing("optimizer"))?;
        let batch_size = stage.batch_size.ok_or_else(|| missing("batch_size"))?;
        let checkpoints = self.checkpoints(&stage)?;
        let optimizer = optimizer(&stage, name).map_err(wrong)?;
        let loss_scale = loss_scale(&stage, batch_size).map_err(wrong)?;
        let (rates, rates_origin) = self.rates(&stage, start)?;
        self.check_means(&stage, &rates)?;
        if let (Some(steps), Some(epochs), Some(per_epoch)) = (stage.steps, stage.epochs, stage.steps_per_epoch) {
            let product = epochs * per_epoch as f64;
            // The last epoch may be cut short, and `epochs` rounded.
            if (product - steps as f64).abs() > per_epoch as f64 {
                return Err(wrong(format!("`epochs` × `steps_per_epoch` is {product}, `steps` is {steps}")));
            }
        }
        let epochs =
            stage.steps_per_epoch.map(|steps| Epochs { steps: steps as f64, drops_last: None, recorded: vec![] });
        let trained_layers = stage.trained_layers.map_or(TrainedLayers::All, TrainedLayers::Only);
        let mut reading = Reading {
            source: self.file.to_path_buf(),
            name: stage.name.unwrap_or_else(|| default_name.to_string()),
            rates,
            rates_origin,
            optimizer,
            batch: Batch {
                per_process: batch_size,
                devices: 1,
                accumulation: 1,
                processes: Some(1),
                across_processes: false,
                company: Company::Drawn,
            },
            checkpoints,
            n_examples: stage.train_examples,
            left_out: [0, 0],
            loss_scale,
            epochs,
            max_grad_norm: None,
            gradient_norms: Vec::new(),
            losses: vec![],
            logged_tokens: LoggedTokens::default(),
            texts: None,
            log: None,
            version: None,
            base: stage.base.map(|base| self.file.parent().unwrap_or(Path::new("")).join(base)),
            segment_ends: stage.segment_ends,
            trained_layers,
            unchanged: BTreeSet::new(),
            layer_rates: stage.layer_rates,
            group_rates: None,
            facts: Vec::new(),
            warnings: Vec::new(),
        };
        reading.facts = facts(&reading);
        Ok(reading)
    }

    /// A stage that a Trainer's folder tells.
    fn of_run(&self, stage: Stage, start: usize, default_name: &str) -> Result<Reading, ReadError> {
        let wrong = |message: String| self.at(start, message);
        if let Some(key) = stage.written_out() {
            return Err(wrong(format!("`{key}` of a stage with a `run` is what the run's files say: leave one out")));
        }
        let folder = self.file.parent().unwrap_or(Path::new(""));
        let run = folder.join(stage.run.as_deref().unwrap_or_default());
        let (after, last) = (stage.after_step.unwrap_or(0), stage.last_step);
        let options = TrainerOptions { schedule: None, gaps: self.gaps, after, last };
        let mut reading = trainer::read(&run, &options)?;
        reading.name = stage.name.unwrap_or_else(|| default_name.to_string());
        reading.n_examples = stage.train_examples;
        reading.base = stage.base.map(|base| folder.join(base));
        reading.segment_ends = stage.segment_ends;
        reading.trained_layers = stage.trained_layers.map_or(TrainedLayers::All, TrainedLayers::Only);
        reading.layer_rates = stage.layer_rates;
        Ok(reading)
    }

    fn checkpoints(&self, stage: &Stage) -> Result<Vec<CheckpointFiles>, ReadError> {
        let folder = self.file.parent().unwrap_or(Path::new("."));
        let (mut previous, mut checkpoints) = (0, Vec::new());
        for entry in &stage.checkpoint {
            let (at, checkpoint) = (entry.span().start, entry.get_ref());
            if checkpoint.step <= previous {
                return Err(self.at(at, format!("checkpoint of step {} after step {previous}", checkpoint.step)));
            }
            if let Some(stated) = checkpoint.steps_since_previous
                && stated != checkpoint.step - previous
            {
                let actual = checkpoint.step - previous;
                return Err(self.at(at, format!("`steps_since_previous` is {stated}, but {actual} steps lie between")));
            }
            let path = folder.join(&checkpoint.path);
            let id = path.file_name().map_or(checkpoint.path.clone(), |name| name.to_string_lossy().into_owned());
            let stated = checkpoint.optimizer_state.as_ref().map(|state| folder.join(state));
            if let Some(state) = stated.as_ref().filter(|state| !crate::presence::is_file(state)) {
                let message = format!(
                    "`optimizer_state` of step {} is {}, which is missing; it holds the optimizer's second moments",
                    checkpoint.step,
                    state.display()
                );
                return Err(self.at(at, message));
            }
            // of a sharded run it has none that is read, which whatever needs it will say
            let own = optimizer_state::find(&path).unwrap_or(None);
            let (optimizer, line) = (stated.or(own), Some(self.line(at)));
            checkpoints.push(CheckpointFiles { step: checkpoint.step, id, folder: path, optimizer, line });
            previous = checkpoint.step;
        }
        Ok(checkpoints)
    }

    fn rates(&self, stage: &Stage, start: usize) -> Result<(StepRates, RatesOrigin), ReadError> {
        let wrong = |message: String| self.at(start, message);
        let last = stage.checkpoint.last().map_or(0, |checkpoint| checkpoint.get_ref().step);
        let steps = stage.steps.unwrap_or(last);
        let given = [stage.learning_rate.is_some(), stage.learning_rates.is_some(), stage.schedule.is_some()];
        if given.iter().filter(|&&given| given).count() > 1 {
            return Err(wrong(
                "rates are given twice: keep one of `learning_rate`, `learning_rates`, `schedule`".into(),
            ));
        }
        if let Some(pieces) = &stage.learning_rate {
            let pieces = pieces.iter().map(|piece| (piece.from_step, piece.value)).collect();
            let rates = StepRates::piecewise(pieces, steps).map_err(|problem| self.numbers(problem))?;
            return Ok((rates, RatesOrigin::Stated));
        }
        if let Some(rates) = &stage.learning_rates {
            if let Some(steps) = stage.steps.filter(|&steps| steps != rates.len()) {
                return Err(wrong(format!("`learning_rates` has {} values, `steps` is {steps}", rates.len())));
            }
            let rates = StepRates::per_step(rates.clone()).map_err(|problem| self.numbers(problem))?;
            return Ok((rates, RatesOrigin::Stated));
        }
        if let Some(table) = &stage.schedule {
            let schedule = table.schedule(steps).map_err(wrong)?.map_err(|problem| self.numbers(problem))?;
            if steps > MAX_STEPS {
                return Err(self.numbers(TrajectoryError::TooManySteps { n_steps: steps }));
            }
            let rates = (0..steps).map(|k| schedule.rate(k)).collect();
            let rates = StepRates::per_step(rates).map_err(|problem| self.numbers(problem))?;
            return Ok((rates, RatesOrigin::Schedule { schedule, checked: 0 }));
        }
        // The mean of every interval has the interval's sum, which is all that the exponential form needs.
        let (mut pieces, mut previous) = (Vec::new(), 0);
        for checkpoint in stage.checkpoint.iter().map(Spanned::get_ref) {
            let mean = checkpoint.learning_rate_mean.ok_or_else(|| {
                wrong(
                    "no learning rates: give `[[learning_rate]]`, `learning_rates`, `schedule`, or a `learning_rate_mean` in every checkpoint"
                        .into(),
                )
            })?;
            pieces.push((previous, mean));
            previous = checkpoint.step;
        }
        let rates = StepRates::piecewise(pieces, last).map_err(|problem| self.numbers(problem))?;
        Ok((rates, RatesOrigin::Stated))
    }

    /// `Err` if a checkpoint's mean rate is not that of the steps before it.
    fn check_means(&self, stage: &Stage, rates: &StepRates) -> Result<(), ReadError> {
        let mut previous = 0;
        for checkpoint in stage.checkpoint.iter().map(Spanned::get_ref) {
            if let Some(stated) = checkpoint.learning_rate_mean {
                let computed = rates.sum(previous..checkpoint.step) / (checkpoint.step - previous) as f64;
                // As many digits as a person writes.
                if stated.is_nan() || (stated - computed).abs() > 1e-6 * computed {
                    let (file, checkpoint) = (self.file.to_path_buf(), checkpoint.path.clone());
                    return Err(ReadError::MeanRate { file, checkpoint, stated, computed });
                }
            }
            previous = checkpoint.step;
        }
        Ok(())
    }
}

impl Stage {
    /// A key of a stage that is written out.
    fn written_out(&self) -> Option<&'static str> {
        let given = [
            ("optimizer", self.optimizer.is_some()),
            ("momentum", self.momentum.is_some()),
            ("dampening", self.dampening.is_some()),
            ("nesterov", self.nesterov.is_some()),
            ("weight_decay", self.weight_decay.is_some()),
            ("betas", self.betas.is_some()),
            ("epsilon", self.epsilon.is_some()),
            ("batch_size", self.batch_size.is_some()),
            ("loss_reduction", self.loss_reduction.is_some()),
            ("loss_scale", self.loss_scale.is_some()),
            ("label_tokens_per_example", self.label_tokens_per_example.is_some()),
            ("outputs", self.outputs.is_some()),
            ("steps", self.steps.is_some()),
            ("epochs", self.epochs.is_some()),
            ("steps_per_epoch", self.steps_per_epoch.is_some()),
            ("learning_rate", self.learning_rate.is_some()),
            ("learning_rates", self.learning_rates.is_some()),
            ("schedule", self.schedule.is_some()),
            ("checkpoint", !self.checkpoint.is_empty()),
        ];
        given.into_iter().find_map(|(key, given)| given.then_some(key))
    }
}

impl ScheduleTable {
    fn schedule(&self, steps: usize) -> Result<Result<Schedule, TrajectoryError>, String> {
        let mut arguments = Vec::new();
        for (key, value) in &self.arguments {
            let value = match value {
                toml::Value::Integer(i) => Argument::Number(*i as f64),
                toml::Value::Float(f) => Argument::Number(*f),
                toml::Value::String(text) => Argument::Text(text.clone()),
                other => Argument::Other(other.type_str()),
            };
            arguments.push((key.clone(), value));
        }
        let kind = schedule_kind(&self.name, &arguments, self.learning_rate);
        let kind = kind.ok_or_else(|| {
            let keys: Vec<&str> = self.arguments.keys().map(String::as_str).collect();
            format!("no schedule `{}` with the arguments {keys:?} is known", self.name)
        })?;
        Ok(Schedule::new(kind, self.learning_rate, self.warmup_steps, steps))
    }
}

fn optimizer(stage: &Stage, given: &str) -> Result<Optimizer, String> {
    let name = given.to_lowercase();
    let need = |key: &str, value: Option<f64>| value.ok_or_else(|| format!("`{key}` is missing, which `{name}` needs"));
    let refuse = |key: &str, given: bool| {
        if given { Err(format!("`{key}` is not an option of the optimizer `{name}`")) } else { Ok(()) }
    };
    match name.as_str() {
        "sgd" => {
            refuse("betas", stage.betas.is_some())?;
            refuse("epsilon", stage.epsilon.is_some())?;
            Ok(Optimizer::Sgd {
                momentum: need("momentum", stage.momentum)?,
                dampening: stage.dampening.unwrap_or(0.0),
                nesterov: stage.nesterov.unwrap_or(false),
                weight_decay: need("weight_decay", stage.weight_decay)?,
            })
        }
        "adam" | "adamw" => {
            refuse("momentum", stage.momentum.is_some())?;
            refuse("dampening", stage.dampening.is_some())?;
            refuse("nesterov", stage.nesterov.is_some())?;
            let [beta1, beta2] = stage.betas.ok_or_else(|| format!("`betas` is missing, which `{name}` needs"))?;
            let epsilon = need("epsilon", stage.epsilon)?;
            let weight_decay = need("weight_decay", stage.weight_decay)?;
            Ok(match name.as_str() {
                "adam" => Optimizer::Adam { beta1, beta2, epsilon, weight_decay },
                _ => Optimizer::AdamW { beta1, beta2, epsilon, weight_decay },
            })
        }
        _ => Ok(Optimizer::Other(given.to_owned())),
    }
}

fn loss_scale(stage: &Stage, batch_size: usize) -> Result<Option<LossScale>, String> {
    if stage.loss_scale.is_some() && stage.loss_reduction.is_some() {
        return Err("`loss_scale` and `loss_reduction` are both given: keep one".to_string());
    }
    let needs =
        |key: &str, reduction: &str| format!("`{key}` is missing, which `loss_reduction = \"{reduction}\"` needs");
    let scale = match stage.loss_reduction {
        None => stage.loss_scale.map(LossScale::Stated),
        Some(LossReduction::Mean) => Some(LossScale::MeanOverExamples),
        Some(LossReduction::Sum) => Some(LossScale::SumOverBatch { batch_size }),
        Some(LossReduction::TokenMean) => {
            let tokens = stage.label_tokens_per_example;
            let tokens_per_example = tokens.ok_or_else(|| needs("label_tokens_per_example", "token_mean"))?;
            Some(LossScale::MeanOverTokens { tokens_per_example })
        }
        Some(LossReduction::OutputMean) => {
            let outputs = stage.outputs.ok_or_else(|| needs("outputs", "output_mean"))?;
            Some(LossScale::MeanOverOutputs { outputs })
        }
    };
    for (key, given, reduction) in [
        ("label_tokens_per_example", stage.label_tokens_per_example.is_some(), LossReduction::TokenMean),
        ("outputs", stage.outputs.is_some(), LossReduction::OutputMean),
    ] {
        if given && stage.loss_reduction != Some(reduction) {
            return Err(format!("`{key}` has no meaning with this `loss_reduction`"));
        }
    }
    Ok(scale)
}

fn facts(reading: &Reading) -> Vec<Fact> {
    let origin = reading.source.file_name().map_or(String::new(), |name| name.to_string_lossy().into_owned());
    let mut facts = Vec::new();
    let mut fact = |what, value: String| facts.push(Fact { what, value, origin: origin.clone() });
    let steps: Vec<String> = reading.checkpoints.iter().map(|checkpoint| checkpoint.step.to_string()).collect();
    fact("checkpoints", steps.join(", "));
    fact("steps", reading.rates.n_steps().to_string());
    fact(
        "learning rate",
        match &reading.rates_origin {
            RatesOrigin::Schedule { schedule, .. } => {
                format!("{}, base {:e}, {} warm-up steps", schedule.kind.name(), schedule.base, schedule.warmup_steps)
            }
            _ => "as listed".to_string(),
        },
    );
    fact("optimizer", reading.optimizer.to_string());
    fact("batch", format!("{} examples", reading.batch.per_process));
    fact("examples", reading.n_examples.map_or("not stated".to_string(), |n| n.to_string()));
    fact("loss scale", reading.loss_scale.map_or("not stated".to_string(), |scale| scale.to_string()));
    if let TrainedLayers::Only(layers) = &reading.trained_layers {
        fact("trained layers", layers.iter().map(String::as_str).collect::<Vec<_>>().join(", "));
    }
    if !reading.layer_rates.is_empty() {
        let each = reading.layer_rates.iter().map(|(layer, rate)| format!("{layer} x {rate}"));
        fact("layer rates", each.collect::<Vec<_>>().join(", "));
    }
    facts
}

#[cfg(test)]
mod tests;
