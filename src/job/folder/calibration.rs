//! The scale of a run's amounts, where `ascribe evaluate calibrate` left it in the run folder.

use serde::Serialize;

use crate::Hint;
use crate::attribution::evaluate::{CALIBRATION, Calibration, EvaluateError, Interval, Scale};
use crate::job::brief::Brief;
use crate::job::error::JobError;

/// What a score says once its scale is fixed.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Amount {
    /// Improvement of the query's measurement for one more copy of the example.
    pub value: f64,
    /// Lower end of its 95 % interval: of the scale, not of the score.
    pub low: f64,
    /// Upper end.
    pub high: f64,
}

impl Amount {
    /// The amount that a score stands for.
    pub(in crate::job) fn of(scale: &Scale, score: f32) -> Self {
        let (value, Interval { low, high }) = scale.amount(score);
        Self { value, low, high }
    }
}

/// The scale of an answer's scores; none without a calibration of them.
///
/// # Errors
/// If the folder's calibration cannot be read, or is of none of this job's scores.
pub(in crate::job) fn scale_of(brief: &Brief, answer: usize) -> Result<Option<Scale>, JobError> {
    let file = brief.job.output.path.join(CALIBRATION);
    if !crate::presence::is_file(&file) || brief.answer_key(answer).is_none() {
        return Ok(None);
    }
    let unreadable = |error: EvaluateError| {
        let cause = std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
        JobError::Options { problem: format!("{error}{cause}").into(), hint: error.hint().map(Into::into) }
    };
    let calibration = Calibration::read(&file).map_err(unreadable)?;
    let of_answer = |answer: usize| {
        let key = brief.answer_key(answer)?.to_string();
        calibration.scales.iter().find(|scale| scale.key == key)
    };
    if (0..brief.answers.len()).all(|answer| of_answer(answer).is_none()) {
        return Err(JobError::Options {
            problem: format!("{}: was made for other scores (other queries, data or options)", file.display()).into(),
            hint: Some("run `ascribe evaluate calibrate` on this folder again, or delete the file".into()),
        });
    }
    Ok(of_answer(answer).cloned())
}
