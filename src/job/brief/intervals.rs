//! Intervals of scores: what they are not defined for, and what their variants add to the work.

use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::request::{Curvature, IntervalsRequest, Job, Normalize, Solve, StoreScores};

/// Refuses intervals of scores that have none.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    if job.output.intervals == IntervalsRequest::None {
        return Ok(());
    }
    let (method, output) = (&job.method, &job.output);
    let refused = |problem: OptionText, hint: &'static str| Err(JobError::options(problem, hint));
    if job.source.is_some() {
        return refused(
            "<intervals> are made of variants of influence functions, and Source is asked for".into(),
            "leave <intervals> out, or ask `ascribe influence` about the same run (`--run`)",
        );
    }
    if method.curvature == Curvature::Identity {
        return refused(
            "<intervals> vary the curvature and its damping, and <curvature = identity> has none".into(),
            "leave <curvature> or <intervals> out",
        );
    }
    if method.solve != Solve::Ekfac {
        return refused(
            option_text!(
                "<intervals> vary the curvature of each layer, and <solve = {}> solves for all jointly",
                method.solve.name()
            ),
            "add `--solve ekfac`, or leave <intervals> out",
        );
    }
    if method.normalize == Normalize::Cosine {
        return refused("cosines have no <intervals>".into(), "leave <intervals> or <normalize = cosine> out");
    }
    if output.store_scores == StoreScores::Top {
        return refused(
            "<intervals> need every score of every variant".into(),
            "leave <intervals> or <store_scores = top> out",
        );
    }
    if output.intervals == IntervalsRequest::All && method.factors.is_some() {
        return refused(
            "<intervals = all> takes curvatures on halves of the training examples, and <factors> uses another run's"
                .into(),
            "write <intervals = damping>, or leave <factors> out",
        );
    }
    Ok(())
}

/// What variants add to the work.
pub(in crate::job) fn note(brief: &Brief) -> Option<String> {
    let variants: Vec<String> = brief.answers.iter().filter_map(|answer| Some(answer.variant?.words())).collect();
    if variants.is_empty() {
        return None;
    }
    let answers = brief.answers.len();
    let (with, without) = (brief.vectors_alike(0..answers), brief.vectors_alike(0..answers - variants.len()));
    let fits = match brief.job.output.intervals {
        IntervalsRequest::All => {
            "; the curvature is fitted a second time, on two halves of the training examples, and decomposed three times"
        }
        _ => "",
    };
    Some(format!(
        "intervals are the lowest and the highest of {} variants of each score: {}{fits}; every pass of scores multiplies \
         with {with} query vectors instead of {without}",
        variants.len(),
        variants.join(", ")
    ))
}

impl Brief {
    /// Query vectors that the largest pass over training examples meets for these answers.
    fn vectors_alike(&self, answers: std::ops::Range<usize>) -> usize {
        let passes = self.score_passes(&answers.collect::<Vec<_>>());
        passes.iter().map(|pass| self.vectors_of(pass)).max().unwrap_or(0)
    }
}
