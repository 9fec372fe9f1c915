//! The output folder of a Hugging Face Trainer.
//!
//! # Source
//! FORMATS §3 to §5.

mod arguments;
mod checkpoints;
mod optimizer;
mod replay;
mod scheduler_file;
mod state;

use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::{Schedule, StepRates, TrainedLayers};

use self::arguments::TrainingArguments;
use self::checkpoints::Folder;
use self::replay::{Convention, Record};
use self::scheduler_file::SchedulerState;
use self::state::TrainerState;
pub(super) use self::state::read_json;
use super::optimizer_state::{self, OptimizerStateError, ParameterGroup};
use super::reading::{Batch, Epochs};
use super::{CheckpointFiles, Fact, RatesOrigin, ReadError, Reading, Warning};

/// What to do about steps whose rate nothing tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gaps {
    /// Refuse the run.
    #[default]
    Refuse,
    /// Interpolate between recorded rates, with a warning.
    Interpolate,
}

/// How a Trainer folder is read.
#[derive(Debug, Clone, Default)]
pub struct TrainerOptions {
    /// The schedule, where the user knows better than the arguments. It is checked against the record as well.
    pub schedule: Option<Schedule>,
    /// Steps whose rate nothing tells.
    pub gaps: Gaps,
}

/// Reads a run: its checkpoints, arguments, optimizer, and the rate of every step up to the last checkpoint.
///
/// # Errors
/// No checkpoints; files that are missing, damaged or disagree; rates that the replayed schedule contradicts or that
/// nothing tells.
pub fn read(run: &Path, options: &TrainerOptions) -> Result<Reading, ReadError> {
    let folders = checkpoints::find(run)?;
    let version = checkpoints::check_configs(&folders)?;
    let state = last_state(&folders)?;
    let arguments = common_arguments(run, &folders)?;
    let mut warnings = Vec::new();
    let mut schedulers = Vec::new();
    for folder in &folders {
        let file = folder.path.join("scheduler.pt");
        if file.is_file() {
            schedulers.push(SchedulerState::read(&file, folder.step)?);
        }
    }
    let n_steps = folders[folders.len() - 1].step;
    let record =
        Record { file: &state.file, log: &state.log, schedulers: &schedulers, convention: version.map(Convention::of) };
    let schedule = match &options.schedule {
        Some(schedule) => Some(schedule.clone()),
        None => arguments.schedule(state.max_steps)?,
    };
    let replayed = match &schedule {
        Some(schedule) => replay::from_schedule(schedule, record, n_steps)?,
        None => replay::from_record(&arguments.scheduler, run.to_path_buf(), record, n_steps, options.gaps)?,
    };
    warnings.extend(replayed.warnings);
    let rates = StepRates::per_step(replayed.rates)
        .map_err(|problem| ReadError::Numbers { source_path: run.to_path_buf(), problem })?;
    let (checkpoints, groups) = checkpoint_files(&folders, &mut warnings)?;
    let group_list = groups.as_ref().map(|(_, groups)| groups.as_slice());
    let optimizer = optimizer::optimizer(&arguments, group_list, &mut warnings);
    let batch = Batch {
        per_process: state.train_batch_size.unwrap_or(arguments.per_device_batch_size * arguments.devices),
        accumulation: arguments.accumulation,
        processes: arguments.processes,
    };
    if batch.processes.is_none() {
        warnings.push(Warning::UnknownProcesses);
    }
    let gradient_norms: Vec<(usize, f64)> = state
        .log
        .iter()
        .filter(|entry| (1..=n_steps).contains(&entry.step))
        .filter_map(|entry| Some((entry.step - 1, entry.gradient_norm.filter(|norm| !norm.is_nan() && *norm >= 0.0)?)))
        .collect();
    let max_grad_norm = Some(arguments.max_grad_norm).filter(|&norm| norm > 0.0);
    if let Some(max_norm) = max_grad_norm.filter(|_| gradient_norms.is_empty()) {
        warnings.push(Warning::ClippingWithoutNorms { max_norm });
    }
    let epochs = epochs(&state, &arguments, &mut warnings);
    if n_steps < state.max_steps {
        warnings.push(Warning::Unfinished { step: n_steps, max_steps: state.max_steps });
    }
    warnings.extend(missing_checkpoints(&state, &folders));
    for (option, value) in &arguments.training_only {
        warnings.push(Warning::TrainingOnly { option, value: value.clone() });
    }
    let mut reading = Reading {
        source: run.to_path_buf(),
        name: "training".to_string(),
        rates,
        rates_origin: replayed.origin,
        optimizer,
        batch,
        checkpoints,
        n_examples: None,
        loss_scale: None,
        epochs,
        max_grad_norm,
        gradient_norms,
        version,
        segment_ends: None,
        trained_layers: TrainedLayers::All,
        facts: Vec::new(),
        warnings,
    };
    reading.facts = facts(&reading, &state, &arguments, options, groups.map(|(file, _)| file));
    Ok(reading)
}

/// The state of the last checkpoint, after a check that all are states of one run.
fn last_state(folders: &[Folder]) -> Result<TrainerState, ReadError> {
    let mut last: Option<TrainerState> = None;
    for (i, folder) in folders.iter().enumerate() {
        let file = folder.path.join("trainer_state.json");
        if !file.is_file() {
            if i + 1 == folders.len() {
                return Err(ReadError::MissingFile { file, what: "the steps and the log of the run" });
            }
            continue;
        }
        let state = TrainerState::read(&file)?;
        if state.global_step != folder.step {
            return Err(ReadError::StepMismatch { file, step: folder.step, found: state.global_step });
        }
        if let Some(earlier) = last.as_ref().filter(|earlier| earlier.max_steps != state.max_steps) {
            return Err(ReadError::CheckpointsDiffer {
                key: "max_steps".to_string(),
                first: earlier.max_steps.to_string(),
                first_file: earlier.file.clone(),
                second: state.max_steps.to_string(),
                second_file: file,
            });
        }
        last = Some(state);
    }
    Ok(last.expect("the last folder has a state or an error was returned"))
}

/// The arguments of the run, after a check that all checkpoints have the same.
fn common_arguments(run: &Path, folders: &[Folder]) -> Result<TrainingArguments, ReadError> {
    let mut common: Option<TrainingArguments> = None;
    let places = folders.iter().map(|folder| folder.path.as_path()).chain([run]);
    for file in places.map(|place| place.join("training_args.bin")).filter(|file| file.is_file()) {
        let arguments = TrainingArguments::read(&file)?;
        if let Some(earlier) = &common
            && let Some((key, first, second)) = earlier.difference(&arguments)
        {
            let (key, first_file) = (key.to_string(), earlier.file.clone());
            return Err(ReadError::CheckpointsDiffer { key, first, first_file, second, second_file: file });
        }
        common = Some(arguments);
    }
    common.ok_or_else(|| ReadError::MissingFile {
        file: folders[folders.len() - 1].path.join("training_args.bin"),
        what: "the optimizer and the learning rate",
    })
}

/// Checkpoints with their optimizer files, and the parameter groups of the last of these.
#[allow(clippy::type_complexity)] // a pair, used once
fn checkpoint_files(
    folders: &[Folder],
    warnings: &mut Vec<Warning>,
) -> Result<(Vec<CheckpointFiles>, Option<(PathBuf, Vec<ParameterGroup>)>), ReadError> {
    let mut groups = None;
    let mut checkpoints = Vec::with_capacity(folders.len());
    for folder in folders {
        let id = format!("checkpoint-{}", folder.step);
        let found = optimizer_state::find(&folder.path)
            .and_then(|file| file.map(|file| Ok((optimizer_state::read_groups(&file)?, file))).transpose());
        let optimizer = match found {
            Ok(None) => None,
            Ok(Some((read, file))) => {
                check_group_rates(&read, &file)?;
                groups = Some((file.clone(), read));
                Some(file)
            }
            // Weights and rates can be used without it; methods that need it will say so.
            Err(error @ OptimizerStateError::Kind { .. }) => {
                warnings.push(Warning::OptimizerStateUnread { checkpoint: id.clone(), reason: error.to_string() });
                None
            }
            Err(error) => return Err(error.into()),
        };
        checkpoints.push(CheckpointFiles { step: folder.step, id, folder: folder.path.clone(), optimizer });
    }
    Ok((checkpoints, groups))
}

fn check_group_rates(groups: &[ParameterGroup], file: &Path) -> Result<(), ReadError> {
    let rates: Vec<f64> = groups.iter().filter_map(|group| group.base_rate.or(group.learning_rate)).collect();
    if rates.iter().any(|rate| *rate != rates[0]) {
        return Err(ReadError::GroupRates { file: file.to_path_buf(), rates });
    }
    Ok(())
}

fn epochs(state: &TrainerState, arguments: &TrainingArguments, warnings: &mut Vec<Warning>) -> Option<Epochs> {
    // A stream has no length: the Trainer then counts the whole run as one epoch of endlessly many.
    if state.num_train_epochs.is_some_and(|epochs| epochs > 1e15) {
        warnings.push(Warning::StreamedData);
        return None;
    }
    let epoch = state.epoch.filter(|&epoch| epoch > 0.0)?;
    Some(Epochs { steps: state.global_step as f64 / epoch, drops_last: arguments.drops_last })
}

/// Whether checkpoints that were saved are gone (`save_total_limit`).
fn missing_checkpoints(state: &TrainerState, folders: &[Folder]) -> Option<Warning> {
    let save_steps = state.save_steps.filter(|&steps| steps >= 1.0)? as usize;
    // With checkpoints at other steps than multiples, `save_steps` is not what they were saved by.
    let (last, others) = folders.split_last()?;
    if others.iter().any(|folder| !folder.step.is_multiple_of(save_steps)) {
        return None;
    }
    let all = (1..).map(|i| i * save_steps).take_while(|&step| step < last.step);
    let missing: Vec<usize> = all.filter(|&step| others.iter().all(|folder| folder.step != step)).collect();
    let n_missing = missing.len();
    (n_missing > 0).then(|| Warning::MissingCheckpoints {
        save_steps,
        missing: missing.into_iter().take(5).collect(),
        n_missing,
    })
}

/// Everything that was understood, in the order of interest.
fn facts(
    reading: &Reading,
    state: &TrainerState,
    arguments: &TrainingArguments,
    options: &TrainerOptions,
    groups: Option<PathBuf>,
) -> Vec<Fact> {
    let relative = |path: &Path| path.strip_prefix(&reading.source).unwrap_or(path).display().to_string();
    let (state_file, arguments_file) = (relative(&state.file), relative(&arguments.file));
    let mut facts = Vec::new();
    let mut fact = |what, value: String, origin: String| facts.push(Fact { what, value, origin });
    let steps: Vec<String> = reading.checkpoints.iter().map(|checkpoint| checkpoint.step.to_string()).collect();
    fact("checkpoints", steps.join(", "), "folders `checkpoint-N`".to_string());
    fact("steps", format!("{} of {}", reading.rates.n_steps(), state.max_steps), state_file.clone());
    let (value, origin) = match &reading.rates_origin {
        RatesOrigin::Schedule { schedule, checked } => (
            format!("{}, base {:e}, {} warm-up steps", schedule.kind.name(), schedule.base, schedule.warmup_steps),
            match &options.schedule {
                Some(_) => format!("stated; {checked} recorded rates agree"),
                None => format!("{arguments_file}; {checked} recorded rates agree"),
            },
        ),
        RatesOrigin::Logged => ("every step logged".to_string(), state_file.clone()),
        RatesOrigin::Interpolated { known } => (format!("interpolated between {known} steps"), state_file.clone()),
        RatesOrigin::Stated => ("stated".to_string(), String::new()),
    };
    fact("learning rate", value, origin);
    let version = reading.version.map_or("not recorded".to_string(), |version| match Convention::of(version) {
        Convention::Used => format!("{version}: the log shows the rate that its step used"),
        Convention::Next => format!("{version}: the log shows the rate of the step after"),
    });
    fact("transformers", version, "config.json".to_string());
    let optimizer_origin = groups.map_or(arguments_file.clone(), |file| relative(&file));
    fact("optimizer", reading.optimizer.to_string(), optimizer_origin);
    let Batch { per_process, accumulation, processes } = reading.batch;
    let processes = match processes {
        Some(1) => "1 process".to_string(),
        Some(n) => format!("{n} processes"),
        None => "unknown processes".to_string(),
    };
    fact("batch", format!("{per_process} examples × {accumulation} accumulated × {processes}"), arguments_file.clone());
    if let Some(max_norm) = reading.max_grad_norm {
        let n = reading.gradient_norms.len();
        fact("clipping", format!("at norm {max_norm}; {n} norms logged"), arguments_file.clone());
    }
    let with_state: Vec<&str> = reading
        .checkpoints
        .iter()
        .filter(|checkpoint| checkpoint.optimizer.is_some())
        .map(|checkpoint| checkpoint.id.as_str())
        .collect();
    let value = if with_state.is_empty() { "none".to_string() } else { with_state.join(", ") };
    fact("optimizer states", value, "optimizer.pt".to_string());
    if let Some(epochs) = reading.epochs {
        fact("steps of an epoch", format!("{:.2}", epochs.steps), state_file);
    }
    fact("arguments", arguments.class.clone(), arguments_file);
    facts
}

#[cfg(test)]
mod tests;
