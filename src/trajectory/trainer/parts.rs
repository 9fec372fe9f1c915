//! The schedules of a run that was resumed with other settings, one for each part.
//!
//! Every checkpoint has the arguments and the number of steps of the part that it ended or lies in. When the Trainer
//! resumes, it makes the new schedule and then loads the old scheduler's state: the base rate stays the old one, which
//! `scheduler.pt` has, and the first update after resuming uses the rate that the old schedule had left in the
//! optimizer. From the second update on the new schedule counts.

use std::collections::BTreeMap;
use std::path::Path;

use ascribe_attribution::trajectory::Schedule;

use super::arguments::TrainingArguments;
use super::checkpoints::Folder;
use super::scheduler_file::SchedulerState;
use super::state::TrainerState;
use crate::trajectory::error::ReadError;
use crate::trajectory::warning::Warning;

/// Schedules with the update from which each counts: the first from 0.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Parts(Vec<(usize, Schedule)>);

impl Parts {
    /// One schedule for the whole run.
    pub(super) fn one(schedule: Schedule) -> Self {
        Self(vec![(0, schedule)])
    }

    /// The schedule that counted last.
    pub(super) fn last(&self) -> &Schedule {
        &self.0[self.0.len() - 1].1
    }

    /// The rate that `update`, counted from 0, uses if the scheduler has moved `moves` times before.
    pub(super) fn rate(&self, update: usize, moves: usize) -> f64 {
        // the first update of a part still has the rate of the one before
        let part = self.0.partition_point(|&(start, _)| start < update).saturating_sub(1);
        self.0[part].1.rate(moves)
    }
}

/// The schedules by which checkpoints, with their states and arguments where they have them, were trained; `None` if
/// one of them has no known closed form.
pub(super) fn parts(
    folders: &[Folder],
    states: &[Option<TrainerState>],
    arguments: &[Option<TrainingArguments>],
    schedulers: &[SchedulerState],
    warnings: &mut Vec<Warning>,
) -> Result<Option<Parts>, ReadError> {
    let mut parts: Vec<(usize, Schedule)> = vec![];
    let (mut start, mut overridden) = (0, false);
    for ((folder, state), arguments) in folders.iter().zip(states).zip(arguments) {
        // what a checkpoint lacks is as in the next one
        let (Some(state), Some(arguments)) = (state, arguments) else { continue };
        let scheduler = schedulers.iter().find(|scheduler| scheduler.step == folder.step);
        let base = scheduler.and_then(SchedulerState::base_rate).unwrap_or(arguments.learning_rate);
        if base != arguments.learning_rate && !overridden {
            warnings.push(Warning::OtherBaseRate { arguments: arguments.learning_rate, scheduler: base });
            overridden = true;
        }
        let Some(schedule) = arguments.schedule(base, state.max_steps)? else { return Ok(None) };
        if parts.last().is_none_or(|(_, before)| *before != schedule) {
            parts.push((if parts.is_empty() { 0 } else { start }, schedule));
        }
        start = folder.step;
    }
    if parts.len() > 1 {
        warnings.push(Warning::Resumed { after: parts[1..].iter().map(|&(start, _)| start).collect() });
    }
    Ok((!parts.is_empty()).then_some(Parts(parts)))
}

/// The states of all checkpoints that have one.
///
/// # Errors
/// The last has none, or a state is of another step than its folder.
pub(super) fn states(folders: &[Folder]) -> Result<Vec<Option<TrainerState>>, ReadError> {
    let read = |folder: &Folder| -> Result<Option<TrainerState>, ReadError> {
        let file = folder.path.join("trainer_state.json");
        if !crate::presence::is_file(&file) {
            return Ok(None);
        }
        let mut state = TrainerState::read(&file)?;
        if state.global_step != folder.step {
            return Err(ReadError::StepMismatch { file, step: folder.step, found: state.global_step });
        }
        // the last one's log is of the whole run
        if folders.last() != Some(folder) {
            state.log = Vec::new();
        }
        Ok(Some(state))
    };
    let states: Vec<Option<TrainerState>> = folders.iter().map(read).collect::<Result<_, _>>()?;
    match (states.last(), folders.last()) {
        (Some(None), Some(folder)) => Err(ReadError::MissingFile {
            file: folder.path.join("trainer_state.json"),
            what: "the steps and the log of the run",
        }),
        _ => Ok(states),
    }
}

/// `Err` if the log of a checkpoint is not the beginning of the last one's: then a second run wrote into the folder of
/// the first, and training never went from the one to the other. What a state lacks shows nothing.
pub(super) fn check_one_run(folders: &[Folder]) -> Result<(), ReadError> {
    let losses = |folder: &Folder| {
        let state = TrainerState::read(&folder.path.join("trainer_state.json")).ok()?;
        let losses = state.log.iter().filter_map(|entry| Some((entry.step, entry.loss?)));
        Some(losses.filter(|(_, loss)| loss.is_finite()).collect::<BTreeMap<usize, f64>>())
    };
    let Some((last, earlier)) = folders.split_last() else { return Ok(()) };
    let Some(whole) = losses(last) else { return Ok(()) };
    for folder in earlier {
        let own = losses(folder).unwrap_or_default();
        let other = own.into_iter().find_map(|(step, loss)| {
            let of_last = *whole.get(&step).filter(|of_last| **of_last != loss)?;
            Some((step, loss, of_last))
        });
        if let Some((step, loss, of_last)) = other {
            let [file, last] = [folder, last].map(|folder| folder.path.join("trainer_state.json"));
            return Err(ReadError::OtherRun { file, last, step, loss, of_last });
        }
    }
    Ok(())
}

/// The arguments of all checkpoints; those of the run's own folder stand in for what the last ones lack. Where `later`
/// says that the run went on, they are of its last part, and count only if no checkpoint has its own.
///
/// # Errors
/// If no file of arguments is there, or two checkpoints from place `begins` on have arguments that differ in more than
/// the schedule, which is all that a resumed run may change here.
pub(super) fn arguments(
    run: &Path,
    folders: &[Folder],
    begins: usize,
    later: bool,
) -> Result<Vec<Option<TrainingArguments>>, ReadError> {
    let read = |folder: &Path| {
        let file = folder.join("training_args.bin");
        crate::presence::is_file(&file).then(|| TrainingArguments::read(&file)).transpose()
    };
    let mut all: Vec<Option<TrainingArguments>> =
        folders.iter().map(|folder| read(&folder.path)).collect::<Result<_, _>>()?;
    let of_run = match later && all.iter().any(Option::is_some) {
        true => None,
        false => read(run)?,
    };
    let mut common: Option<&TrainingArguments> = None;
    for arguments in all[begins..].iter().chain([&of_run]).flatten() {
        if let Some(earlier) = common
            && let Some((key, first, second)) = earlier.difference(arguments)
        {
            let (first_file, second_file) = (earlier.file.clone(), arguments.file.clone());
            return Err(ReadError::CheckpointsDiffer { key: key.to_string(), first, first_file, second, second_file });
        }
        common = Some(arguments);
    }
    let Some(last) = common.cloned() else {
        return Err(ReadError::MissingFile {
            file: folders[folders.len() - 1].path.join("training_args.bin"),
            what: "the optimizer and the learning rate",
        });
    };
    // a run's own file is written when training ends, or is resumed
    let place = all.len() - 1;
    if all[place].is_none() {
        all[place] = Some(last);
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use ascribe_attribution::trajectory::ScheduleKind;

    use super::*;

    /// A run of 40 steps that falls to zero, resumed for 60: the first update after resuming has the old rate, zero.
    #[test]
    fn the_first_update_of_a_part_has_the_old_rate() {
        let linear = |steps| Schedule::new(ScheduleKind::Linear, 0.1, 0, steps).unwrap();
        let parts = Parts(vec![(0, linear(40)), (40, linear(60))]);
        assert_eq!(parts.rate(39, 39), 0.1 * (1.0 / 40.0));
        assert_eq!(parts.rate(40, 40), 0.0);
        assert_eq!(parts.rate(41, 41), 0.1 * (19.0 / 60.0));
        assert_eq!(parts.rate(0, 0), 0.1);
    }
}
