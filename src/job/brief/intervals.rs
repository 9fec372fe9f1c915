//! Intervals of scores: what they are not defined for, and what their variants add to the work.

use crate::job::brief::Brief;
use crate::job::error::JobError;
use crate::job::option_text::{OptionText, option_text};
use crate::job::request::{Curvature, Fisher, IntervalsRequest, Job, Normalize, Solve, StoreScores};

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
    if method.solve == Solve::GaussNewton {
        return refused(
            option_text!(
                "<intervals> vary each query's systems, and with <solve = {}> all dampings share one space, which variants would change",
                method.solve.name()
            ),
            "write <solve = subspace> or <solve = ekfac>, or leave <intervals> out",
        );
    }
    if method.solve == Solve::MFac {
        return refused(
            "<intervals> vary the systems of layers or of subspaces, and <solve = m-fac> has one of all sampled gradients"
                .into(),
            "write <solve = subspace> or <solve = ekfac>, or leave <intervals> out",
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
    if output.intervals.has_halves() && method.factors.is_some() {
        return refused(
            option_text!(
                "<intervals = {}> takes curvatures on halves of the training examples, and <factors> uses another run's",
                output.intervals.name()
            ),
            "write <intervals = damping>, or leave <factors> out",
        );
    }
    if output.intervals == IntervalsRequest::Labels {
        if method.fisher == Fisher::Empirical {
            return refused(
                "<intervals = labels> draws labels by another seed, and <fisher = empirical> draws none".into(),
                "write <intervals = all>, or leave <fisher> out",
            );
        }
        if method.solve.is_joint() {
            return refused(
                option_text!(
                    "<intervals = labels> takes the curvature of each layer with other labels, and with <solve = {}> systems are of all layers, whose variants are halves of the draws",
                    method.solve.name()
                ),
                "write <intervals = all>, or <solve = ekfac>",
            );
        }
    }
    Ok(())
}

/// What halves of the training examples add to the work.
const HALVES: &str = "; curvatures of two halves of the training examples come from the same passes as that of all, and have \
                      eigendecompositions of their own";

/// What variants add to the work.
pub(in crate::job) fn note(brief: &Brief) -> Option<String> {
    let variants: Vec<String> = brief.answers.iter().filter_map(|answer| Some(answer.variant?.words())).collect();
    if variants.is_empty() {
        return None;
    }
    let (answers, scored) = (brief.all_answers(), brief.scored_answers());
    let of_scores: Vec<usize> =
        answers.iter().copied().filter(|&answer| brief.answers[answer].variant.is_none()).collect();
    let (with, without) = (brief.vectors_alike(&scored), brief.vectors_alike(&of_scores));
    let fits = match brief.job.output.intervals {
        IntervalsRequest::All if brief.job.takes_halves() => HALVES.to_owned(),
        IntervalsRequest::Labels => format!(
            "{HALVES}; for the labels of seed {} all of them are differentiated once more",
            brief.job.method.next_seed()
        ),
        _ => String::new(),
    };
    let shortlisted = brief.shortlisted();
    let (count, named) = (variants.len(), variants.join(", "));
    let products = match shortlisted.is_empty() {
        true => format!("every pass of scores multiplies with {with} query vectors instead of {without}"),
        false => format!(
            "{} of them score the {} strongest examples of each side of every query and {} drawn at random alone, in a pass \
             over these ({} of {} examples at most), and whether one of them lists an example is estimated from these",
            shortlisted.len(),
            brief.shortlist_depth(),
            brief.shortlist_control().len(),
            brief.shortlisted_examples(),
            brief.training.columns.len()
        ),
    };
    Some(format!(
        "intervals are the lowest and the highest of {count} variants of each score: {named}{fits}; {products}"
    ))
}

impl Brief {
    /// Query vectors that the largest pass over training examples meets for these answers.
    fn vectors_alike(&self, answers: &[usize]) -> usize {
        let passes = self.score_passes(answers);
        passes.iter().map(|pass| self.vectors_of(pass)).max().unwrap_or(0)
    }
}
