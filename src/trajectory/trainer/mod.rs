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

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::{Schedule, StepRates, TrainedLayers};

use self::arguments::TrainingArguments;
use self::checkpoints::Folder;
use self::replay::{Convention, Record};
use self::scheduler_file::SchedulerState;
use self::state::TrainerState;
pub(super) use self::state::read_json;
use super::optimizer_state::{self, OptimizerStateError, ParameterGroup};
use super::reading::{Batch, Epochs, GroupRates};
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
        if crate::presence::is_file(&file) {
            schedulers.push(SchedulerState::read(&file, folder.step)?);
        }
    }
    let n_steps = folders[folders.len() - 1].step;
    let schedule = match &options.schedule {
        Some(schedule) => Some(schedule.clone()),
        None => arguments.schedule(state.max_steps)?,
    };
    let (checkpoints, groups) = checkpoint_files(&folders, &mut warnings)?;
    let group_rates = group_rates(groups.as_ref(), &checkpoints, &schedulers, schedule.as_ref())?;
    let mut log = state.log.clone();
    if let (Some(rates), Some(_)) = (&group_rates, &schedule) {
        // the record has the first group's rates, the schedule the run's
        log.iter_mut().for_each(|entry| entry.rate /= rates.multiples[0]);
        schedulers.iter_mut().filter_map(|state| state.next_rate.as_mut()).for_each(|rate| *rate /= rates.multiples[0]);
    }
    let record =
        Record { file: &state.file, log: &log, schedulers: &schedulers, convention: version.map(Convention::of) };
    let replayed = match &schedule {
        Some(schedule) => replay::from_schedule(schedule, record, n_steps)?,
        None => replay::from_record(&arguments.scheduler, run.to_path_buf(), record, n_steps, options.gaps)?,
    };
    warnings.extend(replayed.warnings);
    let rates = StepRates::per_step(replayed.rates)
        .map_err(|problem| ReadError::Numbers { source_path: run.to_path_buf(), problem })?;
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
        unchanged: BTreeSet::new(),
        layer_rates: BTreeMap::new(),
        group_rates,
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
        if !crate::presence::is_file(&file) {
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
    for file in places.map(|place| place.join("training_args.bin")).filter(|file| crate::presence::is_file(file)) {
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
    let mut groups: Option<(PathBuf, Vec<ParameterGroup>)> = None;
    let mut checkpoints = Vec::with_capacity(folders.len());
    for folder in folders {
        let id = format!("checkpoint-{}", folder.step);
        let found = optimizer_state::find(&folder.path)
            .and_then(|file| file.map(|file| Ok((optimizer_state::read_groups(&file)?, file))).transpose());
        let optimizer = match found {
            Ok(None) => None,
            Ok(Some((read, file))) => {
                let rates: Vec<f64> = read.iter().filter_map(ParameterGroup::rate).collect();
                let earlier = groups.iter().map(|(_, groups)| groups.iter().filter_map(ParameterGroup::rate));
                // groups that change on the way have no multiple of the run's rate
                if rates.iter().any(|rate| *rate != rates[0])
                    && earlier.flatten().ne(rates.iter().copied())
                    && groups.is_some()
                {
                    return Err(ReadError::GroupRates { file, rates });
                }
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

/// What multiplies the run's rates in each parameter group, if they have rates of their own. The run's rates are those
/// of `schedule`, and without one those of the first group, which the log shows.
fn group_rates(
    groups: Option<&(PathBuf, Vec<ParameterGroup>)>,
    checkpoints: &[CheckpointFiles],
    schedulers: &[SchedulerState],
    schedule: Option<&Schedule>,
) -> Result<Option<GroupRates>, ReadError> {
    let different = |rates: &[f64]| rates.iter().any(|rate| *rate != rates[0]);
    let refuse =
        |file: &Path, rates: &[f64]| Err(ReadError::GroupRates { file: file.to_path_buf(), rates: rates.to_vec() });
    let unknown = schedulers.iter().find(|state| different(&state.next_rates));
    let Some((file, groups)) = groups else {
        // without the optimizer's file nothing says which group has which parameters
        return unknown.map_or(Ok(None), |state| refuse(&state.file, &state.next_rates));
    };
    let rates: Vec<f64> = groups.iter().filter_map(ParameterGroup::rate).collect();
    if rates.len() != groups.len() || !different(&rates) {
        return unknown.map_or(Ok(None), |state| refuse(&state.file, &state.next_rates));
    }
    let base = schedule.map_or(rates[0], |schedule| schedule.base);
    if !(rates.iter().all(|rate| rate.is_finite() && *rate >= 0.0) && rates[0] > 0.0 && base > 0.0) {
        return refuse(file, &rates);
    }
    for state in schedulers {
        // one function of the step for all groups
        let first = state.next_rates.first().copied().unwrap_or(0.0);
        let same = |(next, rate): (&f64, &f64)| (next * rates[0] - rate * first).abs() <= 1e-9 * rates[0] * base;
        if state.next_rates.len() != rates.len() || !state.next_rates.iter().zip(&rates).all(same) {
            return refuse(&state.file, &state.next_rates);
        }
    }
    let folder = checkpoints.iter().find(|files| files.optimizer.as_ref() == Some(file));
    let folder = folder.map_or_else(PathBuf::new, |files| files.folder.clone());
    let multiples = rates.iter().map(|rate| rate / base).collect();
    Ok(Some(GroupRates { file: file.clone(), folder, multiples }))
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
    if let Some(rates) = &reading.group_rates {
        let each: Vec<String> = rates.multiples.iter().map(|multiple| format!("x {multiple}")).collect();
        fact("rates of parameter groups", each.join(", "), relative(&rates.file));
    }
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
