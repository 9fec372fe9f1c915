//! The output folder of a Hugging Face Trainer.
//!
//! # Source
//! transformers' `trainer.py` and `trainer_callback.py`, which write the folder.

mod arguments;
mod checkpoints;
mod optimizer;
mod parts;
mod replay;
mod scheduler_file;
mod state;
mod training_log;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use ascribe_attribution::trajectory::{MAX_STEPS, Schedule, StepRates, TrainedLayers, TrajectoryError};

use self::arguments::TrainingArguments;
use self::checkpoints::Folder;
use self::parts::Parts;
pub use self::replay::Gaps;
use self::replay::{Convention, Record};
use self::scheduler_file::SchedulerState;
use self::state::TrainerState;
pub(super) use self::state::read_text;
pub use self::training_log::{Around, TrainingLog};
use super::optimizer_state::{self, OptimizerStateError, ParameterGroup};
use super::reading::{Batch, Epochs, GroupRates};
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::{CheckpointFiles, Fact, RatesOrigin, Reading};
use crate::trajectory::text_record::TextRecord;
use crate::trajectory::token_counts::LoggedTokens;
use crate::trajectory::version::TransformersVersion;
use crate::trajectory::warning::Warning;

/// How a Trainer folder is read.
#[derive(Debug, Clone, Default)]
pub struct TrainerOptions {
    /// The schedule, where the user knows better than the arguments. It is checked against the record as well.
    pub schedule: Option<Schedule>,
    /// Steps whose rate nothing tells.
    pub gaps: Gaps,
    /// Updates after which the part of the run begins that is read; 0 for all of it.
    pub after: usize,
    /// The checkpoint that it ends with, by its step; none: the last one.
    pub last: Option<usize>,
}

/// Reads a run, or a part of it: its checkpoints, arguments, optimizer, and the rate of every step up to the last
/// checkpoint.
///
/// # Errors
/// No checkpoints; checkpoints of two runs; files that are missing, damaged or disagree; rates that the replayed schedule contradicts or that
/// nothing tells.
pub fn read(run: &Path, options: &TrainerOptions) -> Result<Reading, ReadError> {
    let (folders, begins, later) = checkpoints::part(run, options.after, options.last)?;
    let of_part = &folders[begins..];
    let version = checkpoints::check_configs(of_part)?;
    let n_steps = folders[folders.len() - 1].step;
    if n_steps > MAX_STEPS {
        let problem = TrajectoryError::TooManySteps { n_steps };
        return Err(ReadError::Numbers { source_path: run.to_path_buf(), problem });
    }
    let began_from = checkpoints::began_from(run, &folders[folders.len() - 1]).filter(|_| options.after == 0);
    let states = parts::states(&folders)?;
    parts::check_one_run(&folders)?;
    let all_arguments = parts::arguments(run, &folders, begins, later)?;
    let mut warnings = Vec::new();
    warnings.extend(began_from.map(|(checkpoint, step)| Warning::BeganFrom { checkpoint, step }));
    let mut schedulers = Vec::new();
    for folder in &folders {
        let file = folder.path.join("scheduler.pt");
        if crate::presence::is_file(&file) {
            schedulers.push(SchedulerState::read(&file, folder.step)?);
        }
    }
    let schedule = match &options.schedule {
        Some(schedule) => Some(Parts::one(schedule.clone())),
        None => parts::parts(&folders, &states, &all_arguments, &schedulers, &mut warnings)?,
    };
    let state = states.into_iter().next_back().flatten().expect("`states` refuses a run whose last has none");
    let arguments = all_arguments.into_iter().next_back().flatten().expect("`arguments` fills the last");
    let (checkpoints, groups) = checkpoint_files(of_part, &mut warnings)?;
    check_updates(&checkpoints, &schedulers)?;
    let group_rates = group_rates(groups.as_ref(), &checkpoints, &schedulers, schedule.as_ref().map(Parts::last))?;
    let mut log = state.log.clone();
    if let (Some(rates), Some(_)) = (&group_rates, &schedule) {
        // the record has the first group's rates, the schedule the run's
        log.iter_mut().for_each(|entry| entry.rate /= rates.multiples[0]);
        schedulers.iter_mut().filter_map(|state| state.next_rate.as_mut()).for_each(|rate| *rate /= rates.multiples[0]);
    }
    let record =
        Record { file: &state.file, log: &log, schedulers: &schedulers, convention: version.map(Convention::of) };
    let replayed = match &schedule {
        Some(parts) => match replay::from_schedule(parts, record, n_steps) {
            // A schedule of the user's own leaves the arguments as they were: the log is enough, if it has every step.
            Err(error) if options.schedule.is_none() => replay::from_log(error, record, n_steps)?,
            replayed => replayed?,
        },
        None => replay::from_record(&arguments.scheduler, run.to_path_buf(), record, n_steps, options.gaps)?,
    };
    warnings.extend(replayed.warnings);
    let rates = StepRates::per_step(replayed.rates)
        .map_err(|problem| ReadError::Numbers { source_path: run.to_path_buf(), problem })?;
    let group_list = groups.as_ref().map(|(_, groups)| groups.as_slice());
    let optimizer = optimizer::optimizer(&arguments, group_list, &mut warnings);
    let batch = Batch {
        per_process: state
            .train_batch_size
            .unwrap_or(arguments.per_device_batch_size.saturating_mul(arguments.devices)),
        devices: arguments.devices,
        accumulation: arguments.accumulation,
        processes: arguments.processes,
        across_processes: arguments.across_processes,
        company: arguments.company,
    };
    if batch.processes.is_none() {
        warnings.push(Warning::UnknownProcesses);
    }
    let mut gradient_norms: Vec<(usize, f64)> = state
        .log
        .iter()
        .filter(|entry| (1..=n_steps).contains(&entry.step))
        .filter_map(|entry| Some((entry.step - 1, entry.gradient_norm?)))
        .collect();
    // An update that loss scaling skipped moved nothing, whatever its norm; any other with such a norm is refused
    // where clipping counts.
    let all_norms = gradient_norms.len();
    if arguments.fp16 {
        gradient_norms.retain(|(_, norm)| !norm.is_nan());
    }
    if gradient_norms.len() < all_norms {
        warnings.push(Warning::NormsOfSkippedUpdates { norms: all_norms - gradient_norms.len() });
    }
    let max_grad_norm = Some(arguments.max_grad_norm).filter(|&norm| norm > 0.0);
    if let Some(max_norm) = max_grad_norm.filter(|_| gradient_norms.is_empty()) {
        warnings.push(Warning::ClippingWithoutNorms { max_norm });
    }
    let epochs = epochs(&state, &arguments, &mut warnings);
    if n_steps < state.max_steps {
        warnings.push(Warning::Unfinished { step: n_steps, max_steps: state.max_steps });
    }
    warnings.extend(missing_checkpoints(&state, &folders));
    warnings.extend(missing_files(run, of_part));
    warnings.extend(training_only(&arguments));
    let logged_tokens = logged_tokens(&state, &arguments);
    let mut reading = Reading {
        source: run.to_path_buf(),
        name: "training".to_string(),
        rates,
        rates_origin: replayed.origin,
        optimizer,
        batch,
        checkpoints,
        n_examples: None,
        left_out: [0, 0],
        loss_scale: None,
        epochs,
        max_grad_norm,
        gradient_norms,
        losses: state.log.iter().filter_map(|entry| Some((entry.step, entry.loss?))).collect(),
        logged_tokens,
        texts: arguments.texts.clone(),
        log: Some(state.file.clone()),
        version,
        segment_ends: None,
        base: None,
        trained_layers: TrainedLayers::All,
        unchanged: BTreeSet::new(),
        layer_rates: BTreeMap::new(),
        group_rates,
        facts: Vec::new(),
        warnings,
    };
    if options.after > 0 || later {
        // each part is described by itself
        reading.warnings.retain(|warning| !matches!(warning, Warning::Resumed { .. }));
    }
    reading.facts = facts(&reading, &state, &arguments, options, groups.map(|(file, _)| file));
    if options.after > 0 {
        reading
            .begin_after(options.after)
            .map_err(|problem| ReadError::Numbers { source_path: run.into(), problem })?;
    }
    Ok(reading)
}

/// What is recorded of texts beside a checkpoint: in its folder, and of the arguments also in the run's folder that it
/// lies in. `None` if there is neither a state nor arguments.
///
/// # Errors
/// A file that is damaged.
pub fn text_record(folder: &Path) -> Result<Option<TextRecord>, ReadError> {
    let there = |file: PathBuf| Some(file).filter(|file| crate::presence::is_file(file));
    let state = there(folder.join("trainer_state.json")).map(|file| TrainerState::read(&file)).transpose()?;
    // the arguments above a folder that is no checkpoint are of another model
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let run = folder.parent().filter(|_| state.is_some() || name.starts_with("checkpoint-"));
    let file = [Some(folder), run].into_iter().flatten().find_map(|place| there(place.join("training_args.bin")));
    let arguments = file.map(|file| TrainingArguments::read(&file)).transpose()?;
    if state.is_none() && arguments.is_none() {
        return Ok(None);
    }
    let of_arguments = arguments.as_ref();
    let both = state.as_ref().zip(of_arguments);
    Ok(Some(TextRecord {
        source: folder.to_path_buf(),
        log: state.as_ref().map(|state| state.file.clone()),
        texts: of_arguments.and_then(|arguments| arguments.texts.clone()),
        drops_last: both
            .and_then(|(state, arguments)| epochs(state, arguments, &mut vec![]))
            .and_then(|epochs| epochs.drops_last),
        tokens: both.map(|(state, arguments)| logged_tokens(state, arguments)).unwrap_or_default(),
        processes: of_arguments.and_then(|arguments| arguments.processes),
        training_only: of_arguments.map(|arguments| training_only(arguments).collect()).unwrap_or_default(),
    }))
}

/// What changed training and is not part of the loss that scores explain.
fn training_only(arguments: &TrainingArguments) -> impl Iterator<Item = Warning> + '_ {
    let warning = |(option, value): &(&'static str, String)| Warning::TrainingOnly { option, value: value.clone() };
    let objective = arguments.other_objective.iter().map(|of| Warning::OtherObjective { of: of.clone() });
    objective.chain(arguments.training_only.iter().map(warning))
}

/// The input tokens that TRL counted, else those that the Trainer did.
fn logged_tokens(state: &TrainerState, arguments: &TrainingArguments) -> LoggedTokens {
    let of_trl = state.log.iter().any(|entry| entry.counted_by_trl);
    let counted = state.log.iter().filter(|entry| entry.counted_by_trl == of_trl);
    let entries = counted.filter_map(|entry| Some((entry.step, entry.epoch?, entry.tokens?))).collect();
    LoggedTokens { entries, with_padding: !of_trl && arguments.counts_padding }
}

/// The checkpoints of a run, first trained first, without its optimizer and learning rates.
///
/// # Errors
/// No checkpoints, or checkpoints of different models.
pub fn checkpoints(run: &Path) -> Result<Vec<CheckpointFiles>, ReadError> {
    let folders = checkpoints::find(run)?;
    checkpoints::check_configs(&folders)?;
    parts::check_one_run(&folders)?;
    let files = |folder: Folder| CheckpointFiles {
        step: folder.step,
        id: format!("checkpoint-{}", folder.step),
        folder: folder.path,
        optimizer: None,
        line: None,
    };
    Ok(folders.into_iter().map(files).collect())
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
        checkpoints.push(CheckpointFiles { step: folder.step, id, folder: folder.path.clone(), optimizer, line: None });
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
    let logged = state.log.iter().filter(|entry| entry.step <= state.global_step);
    let mut recorded: Vec<(usize, f64)> = logged.filter_map(|entry| Some((entry.step, entry.epoch?))).collect();
    recorded.push((state.global_step, epoch));
    Some(Epochs { steps: state.global_step as f64 / epoch, drops_last: Some(arguments.drops_last), recorded })
}

/// Whether checkpoints that were saved are gone (`save_total_limit`).
fn missing_checkpoints(state: &TrainerState, folders: &[Folder]) -> Option<Warning> {
    let save_steps = state.save_steps.filter(|&steps| steps >= 1.0)? as usize;
    // With checkpoints at other steps than multiples, `save_steps` is not what they were saved by.
    let (last, others) = folders.split_last()?;
    if others.iter().any(|folder| !folder.step.is_multiple_of(save_steps)) {
        return None;
    }
    // the others are all multiples, so that what is not among them is missing
    let n_missing = (last.step.saturating_sub(1) / save_steps).saturating_sub(others.len());
    let there: BTreeSet<usize> = others.iter().map(|folder| folder.step).collect();
    let all = (1..).map(|i| i * save_steps).take_while(|&step| step < last.step);
    let missing: Vec<usize> = all.filter(|step| !there.contains(step)).take(5).collect();
    (n_missing > 0).then_some(Warning::MissingCheckpoints { save_steps, missing, n_missing })
}

/// Files that tell how training went and that some of the checkpoints lack.
fn missing_files<'a>(run: &'a Path, folders: &'a [Folder]) -> impl Iterator<Item = Warning> + 'a {
    let in_run = crate::presence::is_file(&run.join("training_args.bin"));
    folders.iter().flat_map(move |folder| {
        let names = ["trainer_state.json", "training_args.bin"].into_iter();
        names
            .filter(move |&name| {
                !(crate::presence::is_file(&folder.path.join(name)) || in_run && name == "training_args.bin")
            })
            .map(|file| Warning::MissingInCheckpoint { checkpoint: format!("checkpoint-{}", folder.step), file })
    })
}

/// `Err` if an optimizer's state has seen another number of updates than its checkpoint: that of another one.
fn check_updates(checkpoints: &[CheckpointFiles], schedulers: &[SchedulerState]) -> Result<(), ReadError> {
    for files in checkpoints {
        let Some(file) = &files.optimizer else { continue };
        // updates that loss scaling skipped are none for the optimizer
        let scheduler = schedulers.iter().find(|state| state.step == files.step);
        let expected = scheduler.and_then(|state| state.moves).unwrap_or(files.step);
        if let Some(found) = optimizer_state::updates(file)?.filter(|&found| found != expected as f64) {
            return Err(ReadError::OptimizerStep { file: file.clone(), expected, found });
        }
    }
    Ok(())
}

/// The transformers that wrote a checkpoint, after a check that `optimizer`, the file of its optimizer's state, has seen as
/// many updates as the name of the folder says, if it says one.
///
/// # Errors
/// A file that cannot be read; a state of another checkpoint.
pub(super) fn check_state(folder: &Path, optimizer: &Path) -> Result<Option<TransformersVersion>, ReadError> {
    let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("");
    let step = name.strip_prefix("checkpoint-").and_then(|number| number.parse().ok());
    if let Some(step) = step {
        let scheduler = Some(folder.join("scheduler.pt")).filter(|file| crate::presence::is_file(file));
        let schedulers = scheduler.map(|file| SchedulerState::read(&file, step)).transpose()?;
        let (id, folder, optimizer) = (name.to_owned(), folder.to_owned(), Some(optimizer.to_owned()));
        let files = CheckpointFiles { step, id, folder, optimizer, line: None };
        check_updates(&[files], schedulers.as_slice())?;
    }
    checkpoints::check_configs(&[Folder { step: step.unwrap_or(0), path: folder.to_owned() }])
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
    let steps = match options.after {
        0 => format!("{} of {}", reading.rates.n_steps(), state.max_steps),
        after => format!("{} to {} of {}", after + 1, reading.rates.n_steps(), state.max_steps),
    };
    fact("steps", steps, state_file.clone());
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
    let Batch { per_process, accumulation, processes, .. } = reading.batch;
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
    if let Some(epochs) = &reading.epochs {
        fact("steps of an epoch", format!("{:.2}", epochs.steps), state_file);
    }
    if let Some(texts) = &reading.texts {
        fact("texts", texts.describe(), arguments_file.clone());
    }
    fact("arguments", arguments.class.clone(), arguments_file);
    facts
}

#[cfg(test)]
mod recorded;
#[cfg(test)]
mod tests;
