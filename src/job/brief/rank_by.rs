//! Which jobs can rank by another number than the score.

use crate::job::error::JobError;
use crate::job::request::{DuplicatesRequest, IntervalsRequest, Job, Normalize, RankBy, StoreScores, TokensRequest};

/// Refuses an order by RelatIF where there is no self-influence to divide by, or where something else asks which examples
/// have the strongest scores.
pub(in crate::job) fn check(job: &Job) -> Result<(), JobError> {
    if job.output.rank_by == RankBy::Score {
        return Ok(());
    }
    let output = &job.output;
    let refused = |problem: &'static str, hint: &'static str| Err(JobError::options(problem, hint));
    if job.source.is_some() {
        return refused(
            "<rank_by = relatif> divides by self-influence, which can be below 0 along a training run",
            "leave <rank_by> out; influence functions can be ranked so",
        );
    }
    if !job.method.self_influence {
        return refused(
            "<rank_by = relatif> divides scores by the square roots of the examples' self-influences, and these are not \
             taken",
            "add <self_influence>",
        );
    }
    if job.method.damping.0.len() > 1 || !output.layer_sets.is_empty() || !output.split_layers.is_empty() {
        return refused(
            "<rank_by = relatif> divides by self-influence, which is taken with the first damping over all layers",
            "name one <damping>, and leave <layer_sets> and <split_layers> out",
        );
    }
    let others = [
        (
            output.store_scores == StoreScores::Top,
            "<store_scores = top> keeps the highest scores, and <rank_by = relatif> lists others",
        ),
        (
            job.method.normalize == Normalize::Cosine,
            "<normalize = cosine> divides by self-influence already; its order is that of <rank_by = relatif>",
        ),
        (
            output.duplicates != DuplicatesRequest::Off,
            "<duplicates> are listed by their scores, not by <rank_by = relatif>",
        ),
        (
            output.tokens != TokensRequest::None,
            "<tokens> are of the examples with the highest scores, and <rank_by = relatif> lists others",
        ),
        (
            output.intervals != IntervalsRequest::None,
            "<intervals> compare the examples with the highest scores, and <rank_by = relatif> lists others",
        ),
        (
            output.candidates.is_some(),
            "<candidates> are compared by their scores, and <rank_by = relatif> lists others",
        ),
    ];
    match others.into_iter().find(|(is_asked, _)| *is_asked) {
        None => Ok(()),
        Some((_, problem)) => refused(problem, "leave one of the two out"),
    }
}
