//! Dampings that depend on how the model was trained: `auto` of joint systems in a subspace, and `1/rates`.

use std::path::{Path, PathBuf};

use crate::attribution::trajectory::Optimizer;
use crate::curvature::Damping;
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::request::{DampingRequest, Job};
use crate::trajectory::{Reading, StageData, TrajectoryRequest};

/// What is added to joint systems in a subspace for a run of SGD, and where the optimizer is not known: near `1 / Σ rates`
/// of the runs that it was chosen on (`docs/validation.md`, Damping of subspace solves).
const OF_DESCENT: Damping = Damping::Absolute(0.01);

/// What is added to them for a run of Adam, whose steps have about the same length in directions of much and of little
/// curvature, so that early stopping keeps less back. An absolute number: a share of a layer's mean eigenvalue is next to
/// nothing where a layer is wide and few examples move it (`docs/validation.md`, Damping of subspace solves).
const OF_ADAM: Damping = Damping::Absolute(0.001);

/// Writes the number of every damping that depends on the training run, and returns what a person should know of it.
///
/// `data` is what the examples of each stage in the job say; those of the last stage come last.
///
/// # Errors
/// For `1/rates`, no training run whose rates could be known, one of Adam, whose rates multiply gradients in other
/// coordinates, and whatever keeps the run from being read.
pub(in crate::job) fn take(job: &mut Job, data: &[StageData]) -> Result<Vec<String>, JobError> {
    let mut notes = vec![];
    if job.method.damping.0.contains(&DampingRequest::Auto) {
        notes.extend(take_auto(job));
    }
    if job.method.damping.0.contains(&DampingRequest::Rates) {
        notes.extend(take_rates(job, data)?);
    }
    Ok(notes)
}

/// Writes the number of every `auto`, which is left to systems in a subspace alone.
fn take_auto(job: &mut Job) -> Option<String> {
    // checkpoints that are named one by one, or alone, lie in the folder of their run; of one that cannot be read whole,
    // the checkpoints are known all the same
    let around = |folder: &Path| {
        let parent = folder.parent()?;
        Some(if parent.as_os_str().is_empty() { PathBuf::from(".") } else { parent.to_owned() })
    };
    let run = match &job.checkpoints {
        Some(request) => request.run.clone().or_else(|| around(request.folders.last()?)),
        None => around(&job.model.path),
    };
    let readings = run.and_then(|run| TrajectoryRequest::new(run).read().ok()).unwrap_or_default();
    let optimizer = readings.last().map(|reading| &reading.optimizer);
    let (damping, note) = match optimizer {
        Some(optimizer @ (Optimizer::Adam { .. } | Optimizer::AdamW { .. })) => {
            let name = optimizer.name();
            let said = format!("damping auto is 0.001, since the run was trained by {name}; of a run of SGD it is 0.01");
            (OF_ADAM, Some(said))
        }
        Some(Optimizer::Sgd { .. }) => (OF_DESCENT, None),
        _ => (
            OF_DESCENT,
            Some(
                "damping auto is 0.01, as for a run of SGD, since nothing says what trained these checkpoints; of a run \
                 of Adam it is 0.001 (`--solve subspace --damping 0.001`)"
                    .into(),
            ),
        ),
    };
    for request in job.method.damping.0.iter_mut().filter(|request| **request == DampingRequest::Auto) {
        *request = DampingRequest::Value(damping);
    }
    note
}

/// Writes the number of every `1/rates` among the job's dampings, and returns what a person should know of it.
///
/// The number is `1 / Σ τ` over the segments of the last stage of training, `τ` their rates times the loss's scale and
/// what momentum makes of them. Gradient descent for a time `t` leaves of a direction with curvature σ what a ridge of
/// about `1 / t` leaves (Ali, Kolter and Tibshirani 2019), which is also where Source's response `(1 - exp(-τσ)) / σ`
/// bends.
fn take_rates(job: &mut Job, data: &[StageData]) -> Result<Option<String>, JobError> {
    let refused = |problem: OptionText, hint: &'static str| Err(JobError::Options { problem, hint: Some(hint.into()) });
    let number = "give <damping> a number, such as `0.01`";
    let trajectory = match (&job.source, job.checkpoints.as_ref().and_then(|request| request.run.clone())) {
        (Some(source), _) => source.trajectory.clone(),
        (None, Some(run)) => TrajectoryRequest::new(run),
        (None, None) => {
            return refused(
                "<damping = 1/rates> asks for the rates of a training run, and checkpoints are named by their folders"
                    .into(),
                "name the run with `--run` or `--trajectory`, or give <damping> a number, such as `0.01`",
            );
        }
    };
    let readings = trajectory.read()?;
    let Some(Reading { source, optimizer, .. }) = readings.last() else { return Ok(None) };
    if !matches!(optimizer, Optimizer::Sgd { .. }) {
        return refused(
            option_text!(
                "{}: <damping = 1/rates> is known for SGD, and this run was trained with another optimizer, whose rates \
                 do not multiply the gradient itself",
                source.display()
            ),
            number,
        );
    }
    let source = source.display().to_string();
    let last = readings.len() - 1;
    let mut of_stages = vec![StageData::default(); readings.len()];
    let known = data.len().min(readings.len());
    of_stages[readings.len() - known..].copy_from_slice(&data[data.len() - known..]);
    let outline = trajectory.outline(readings, &of_stages)?;
    if outline.unknown.iter().any(|(stage, _)| *stage == last) {
        return refused(
            option_text!(
                "{}: what training divided the loss by is not known, and <damping = 1/rates> needs it",
                source
            ),
            number,
        );
    }
    let time: f64 = outline.segments.iter().filter(|(stage, _)| *stage == last).map(|(_, segment)| segment.tau).sum();
    if !(time > 0.0 && time.is_finite()) {
        return refused(option_text!("{}: the rates of the training run add up to {}", source, time), number);
    }
    let damping = 1.0 / time;
    for request in job.method.damping.0.iter_mut().filter(|request| **request == DampingRequest::Rates) {
        *request = DampingRequest::Value(Damping::Absolute(damping));
    }
    Ok(Some(format!("damping 1/rates is {damping:.3e}: the rates of {source} add up to {time:.4}")))
}
