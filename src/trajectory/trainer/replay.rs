//! The rate of every update, replayed from a schedule or taken from the log.
//!
//! Evidence in order: a closed form that every recorded rate confirms; a log of every step; interpolation, only when
//! allowed. A step that was not logged never counts as zero.
//!
//! # Source
//! `docs/method.md`, Source.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::parts::Parts;
use super::scheduler_file::SchedulerState;
use super::state::LogEntry;
use crate::trajectory::error::ReadError;
use crate::trajectory::reading::RatesOrigin;
use crate::trajectory::version::TransformersVersion;
use crate::trajectory::warning::Warning;

/// What to do about steps whose rate nothing tells.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Gaps {
    /// Refuse the run.
    #[default]
    Refuse,
    /// Interpolate between recorded rates, with a warning.
    Interpolate,
}

/// Which update's rate a log entry shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Convention {
    /// From 4.51: the entry of step `n` has the rate that update `n` used, in our count `k = n - 1`.
    Used,
    /// Before: the rate of the next update, `k = n`.
    Next,
}

impl Convention {
    pub(super) fn of(version: TransformersVersion) -> Self {
        if version >= TransformersVersion::new(4, 51) { Self::Used } else { Self::Next }
    }

    /// Updates before the one whose rate the entry of step `n` shows.
    fn updates_before(self, n: usize) -> usize {
        match self {
            Self::Used => n.saturating_sub(1),
            Self::Next => n,
        }
    }
}

/// What the run recorded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Record<'a> {
    /// The file that has the log.
    pub(super) file: &'a Path,
    /// Ascending by step.
    pub(super) log: &'a [LogEntry],
    /// Ascending by step.
    pub(super) schedulers: &'a [SchedulerState],
    /// `None` if the version is not recorded.
    pub(super) convention: Option<Convention>,
}

/// Rates of all updates, and how they are known.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Replayed {
    pub(super) rates: Vec<f64>,
    pub(super) origin: RatesOrigin,
    pub(super) warnings: Vec<Warning>,
}

/// Replays the schedules of a run over `n_steps` updates and checks it against everything recorded.
pub(super) fn from_schedule(parts: &Parts, record: Record<'_>, n_steps: usize) -> Result<Replayed, ReadError> {
    let (points, checked) = match record.convention {
        Some(convention) => check(parts, record, convention)?,
        // The closed form does not depend on the convention: either may confirm it.
        None => check(parts, record, Convention::Used)
            .or_else(|error| check(parts, record, Convention::Next).map_err(|_| error))?,
    };
    let mut rates = Vec::with_capacity(n_steps);
    let (mut moves, mut skipped) = (0, 0);
    let mut points = points.into_iter().peekable();
    for k in 0..n_steps {
        while points.next_if(|point| point.updates <= k).is_some() {}
        // Updates that loss scaling skipped are placed first in the interval in which they must lie.
        if points.peek().is_some_and(|point| skipped < point.skipped) {
            skipped += 1;
            rates.push(0.0);
        } else {
            rates.push(parts.rate(k, moves));
            moves += 1;
        }
    }
    let mut warnings = Vec::new();
    if skipped > 0 {
        warnings.push(Warning::SkippedUpdates { updates: skipped });
    }
    if checked == 0 {
        warnings.push(Warning::UncheckedSchedule { schedule: parts.last().kind.name().to_string() });
    }
    Ok(Replayed { rates, origin: RatesOrigin::Schedule { schedule: parts.last().clone(), checked }, warnings })
}

/// After this many updates, this many had been skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Point {
    updates: usize,
    skipped: usize,
}

/// Checks every recorded rate, and finds how many updates had been skipped at each.
fn check(parts: &Parts, record: Record<'_>, convention: Convention) -> Result<(Vec<Point>, usize), ReadError> {
    let disagrees = |file: &Path, step, logged, replayed| ReadError::RateDisagrees {
        file: file.to_path_buf(),
        step,
        logged,
        replayed,
        schedule: parts.last().kind.name().to_string(),
    };
    // A rate was computed in f64 and may have passed through f32; 1e-9 of the base where it is nearly zero.
    let agrees = |logged: f64, replayed: f64| (logged - replayed).abs() <= 1e-6 * replayed + 1e-9 * parts.last().base;
    let known: Vec<Point> = record
        .schedulers
        .iter()
        .filter_map(|state| Some(Point { updates: state.step, skipped: state.step - state.moves? }))
        .collect();
    let mut checked = 0;
    for state in record.schedulers {
        if let (Some(moves), Some(rate)) = (state.moves, state.next_rate) {
            let replayed = parts.rate(state.step, moves);
            if !agrees(rate, replayed) {
                return Err(disagrees(&state.file, state.step, rate, replayed));
            }
            checked += 1;
        }
    }
    let mut points: Vec<Point> = Vec::with_capacity(known.len() + record.log.len());
    let mut known = known.into_iter().peekable();
    for entry in record.log {
        let updates = convention.updates_before(entry.step);
        while let Some(point) = known.next_if(|point| point.updates <= updates) {
            points.push(point);
        }
        let fewest = points.last().map_or(0, |point| point.skipped);
        let most = known.peek().map_or(fewest, |point| point.skipped).min(updates).max(fewest);
        let skipped = (fewest..=most)
            .find(|skipped| agrees(entry.rate, parts.rate(updates, updates - skipped.min(&updates))))
            .ok_or_else(|| {
                disagrees(record.file, entry.step, entry.rate, parts.rate(updates, updates - fewest.min(updates)))
            })?;
        points.push(Point { updates, skipped });
        checked += 1;
    }
    points.extend(known);
    Ok((points, checked))
}

/// Rates of `n_steps` updates from a log of all of them that contradicts the schedule of the arguments.
///
/// # Errors
/// The contradiction itself, if a step is not logged, or if updates may have been skipped, which a log does not show.
pub(super) fn from_log(contradiction: ReadError, record: Record<'_>, n_steps: usize) -> Result<Replayed, ReadError> {
    let ReadError::RateDisagrees { step, logged, replayed, schedule, .. } = &contradiction else {
        return Err(contradiction);
    };
    let warning =
        Warning::OtherSchedule { schedule: schedule.clone(), step: *step, logged: *logged, replayed: *replayed };
    let skips = record.schedulers.iter().any(|state| state.moves.is_some_and(|moves| moves != state.step));
    match from_record(schedule, PathBuf::new(), record, n_steps, Gaps::Refuse) {
        Ok(mut replayed) if !skips && record.convention.is_some() => {
            replayed.warnings.push(warning);
            Ok(replayed)
        }
        _ => Err(contradiction),
    }
}

/// Rates of `n_steps` updates from what was recorded, without a closed form.
pub(super) fn from_record(
    name: &str,
    folder: PathBuf,
    record: Record<'_>,
    n_steps: usize,
    gaps: Gaps,
) -> Result<Replayed, ReadError> {
    let convention = record.convention.unwrap_or(Convention::Used);
    let mut known = BTreeMap::new();
    for state in record.schedulers {
        known.extend(state.next_rate.map(|rate| (state.step, rate)));
    }
    // Where both speak of a step, the log saw it happen.
    known.extend(record.log.iter().map(|entry| (convention.updates_before(entry.step), entry.rate)));
    let known: Vec<(usize, f64)> = known.into_iter().filter(|&(k, _)| k < n_steps).collect();
    let n_known = known.len();
    let mut warnings = Vec::new();
    if n_known == n_steps {
        let rates = known.into_iter().map(|(_, rate)| rate).collect();
        return Ok(Replayed { rates, origin: RatesOrigin::Logged, warnings });
    }
    if gaps == Gaps::Refuse || known.is_empty() {
        return Err(ReadError::RatesUnknown { folder, schedule: name.to_string(), known: n_known, n_steps });
    }
    if record.convention.is_none() {
        warnings.push(Warning::UnknownVersion);
    }
    warnings.push(Warning::Interpolated { known: n_known, n_steps });
    let rates = (0..n_steps)
        .map(|k| match known.partition_point(|&(step, _)| step <= k) {
            0 => known[0].1,
            after if after == n_known => known[n_known - 1].1,
            after => {
                let ((a, left), (b, right)) = (known[after - 1], known[after]);
                left + (right - left) * (k - a) as f64 / (b - a) as f64
            }
        })
        .collect();
    Ok(Replayed { rates, origin: RatesOrigin::Interpolated { known: n_known }, warnings })
}

#[cfg(test)]
mod tests {
    use ascribe_attribution::trajectory::{Schedule, ScheduleKind};

    use super::*;

    fn linear() -> Schedule {
        Schedule::new(ScheduleKind::Linear, 0.1, 3, 20).unwrap()
    }

    fn parts() -> Parts {
        Parts::one(linear())
    }

    fn entry(step: usize, rate: f64) -> LogEntry {
        LogEntry { step, rate, gradient_norm: None, loss: None, epoch: None, tokens: None, counted_by_trl: false }
    }

    fn record<'a>(log: &'a [LogEntry], schedulers: &'a [SchedulerState], convention: Option<Convention>) -> Record<'a> {
        Record { file: Path::new("trainer_state.json"), log, schedulers, convention }
    }

    fn scheduler(step: usize, moves: usize, rate: f64) -> SchedulerState {
        SchedulerState {
            file: "scheduler.pt".into(),
            step,
            moves: Some(moves),
            next_rate: Some(rate),
            next_rates: vec![rate],
            base_rates: vec![],
        }
    }

    /// One log under the meanings of two ages: only the right one passes, and without a version either may.
    #[test]
    fn the_convention_of_the_version_decides() {
        let schedule = linear();
        let used: Vec<LogEntry> = [5, 10, 15].map(|n| entry(n, schedule.rate(n - 1))).to_vec();
        let next: Vec<LogEntry> = [5, 10, 15].map(|n| entry(n, schedule.rate(n))).to_vec();
        let expected: Vec<f64> = (0..20).map(|k| schedule.rate(k)).collect();
        for (log, right, wrong) in
            [(&used, Convention::Used, Convention::Next), (&next, Convention::Next, Convention::Used)]
        {
            for convention in [Some(right), None] {
                let replayed = from_schedule(&parts(), record(log, &[], convention), 20).unwrap();
                assert_eq!(replayed.rates, expected);
                assert!(matches!(replayed.origin, RatesOrigin::Schedule { checked: 3, .. }));
            }
            let error = from_schedule(&parts(), record(log, &[], Some(wrong)), 20).unwrap_err();
            assert!(matches!(error, ReadError::RateDisagrees { step: 5, .. }), "{error}");
        }
        assert_eq!(Convention::of(TransformersVersion::new(4, 50)), Convention::Next);
        assert_eq!(Convention::of(TransformersVersion::new(4, 51)), Convention::Used);
    }

    #[test]
    fn a_rate_that_disagrees_names_step_and_values() {
        let log = [entry(5, linear().rate(4)), entry(10, 0.05)];
        let error = from_schedule(&parts(), record(&log, &[], Some(Convention::Used)), 20).unwrap_err();
        assert_eq!(
            error.to_string(),
            "trainer_state.json: the learning rate at step 10 is 5e-2, but the schedule `linear` replays 6.470588235294118e-2"
        );
        let schedulers = [scheduler(8, 8, 0.02)];
        let error = from_schedule(&parts(), record(&[], &schedulers, Some(Convention::Used)), 20).unwrap_err();
        assert!(matches!(error, ReadError::RateDisagrees { step: 8, .. }), "{error}");
        let replayed = from_schedule(&parts(), record(&[], &[], Some(Convention::Used)), 20).unwrap();
        assert_eq!(replayed.warnings, [Warning::UncheckedSchedule { schedule: "linear".to_string() }]);
    }

    /// fp16: updates 0, 1 and 9 were skipped and did not move the scheduler.
    #[test]
    fn skipped_updates_are_found_and_count_as_zero() {
        let schedule = linear();
        let mut true_rates = Vec::new();
        let mut moves = 0;
        let (mut log, mut schedulers) = (Vec::new(), Vec::new());
        for k in 0..20 {
            let skipped = [0, 1, 9].contains(&k);
            log.push(entry(k + 1, schedule.rate(moves)));
            true_rates.push(if skipped { 0.0 } else { schedule.rate(moves) });
            moves += usize::from(!skipped);
            if k + 1 == 10 || k + 1 == 20 {
                schedulers.push(scheduler(k + 1, moves, schedule.rate(moves)));
            }
        }
        let dense = from_schedule(&parts(), record(&log, &schedulers, Some(Convention::Used)), 20).unwrap();
        assert_eq!(dense.rates, true_rates, "every step logged: the skipped ones are known exactly");
        assert_eq!(dense.warnings, [Warning::SkippedUpdates { updates: 3 }]);
        let sparse: Vec<LogEntry> = log.iter().copied().filter(|entry| entry.step % 5 == 0).collect();
        let replayed = from_schedule(&parts(), record(&sparse, &schedulers, Some(Convention::Used)), 20).unwrap();
        assert_eq!(replayed.rates.iter().filter(|&&rate| rate == 0.0).count(), 4, "three skipped, one warm-up");
        let error = from_schedule(&parts(), record(&sparse, &[], Some(Convention::Used)), 20).unwrap_err();
        assert!(matches!(error, ReadError::RateDisagrees { .. }), "without scheduler files nothing says so");
    }

    #[test]
    fn gaps_are_refused_or_interpolated_and_never_zero() {
        let log = [entry(3, 0.2), entry(7, 0.1)];
        let get = |gaps, n| from_record("greedy", "run".into(), record(&log, &[], Some(Convention::Used)), n, gaps);
        let error = get(Gaps::Refuse, 9).unwrap_err();
        assert_eq!(
            error.to_string(),
            "run: the schedule `greedy` has no closed form here and the run recorded the rates of 2 of 9 steps"
        );
        let replayed = get(Gaps::Interpolate, 9).unwrap();
        let expected = [0.2, 0.2, 0.2, 0.175, 0.15, 0.125, 0.1, 0.1, 0.1];
        for (rate, expected) in replayed.rates.iter().zip(expected) {
            assert!((rate - expected).abs() < 1e-16, "{:?}", replayed.rates);
        }
        assert_eq!(replayed.warnings, [Warning::Interpolated { known: 2, n_steps: 9 }]);
        let all: Vec<LogEntry> = (1..=9).map(|n| entry(n, 1.0 / n as f64)).collect();
        let replayed =
            from_record("greedy", "run".into(), record(&all, &[], Some(Convention::Used)), 9, Gaps::Refuse).unwrap();
        assert_eq!((replayed.rates[8], replayed.origin), (1.0 / 9.0, RatesOrigin::Logged));
    }
}
