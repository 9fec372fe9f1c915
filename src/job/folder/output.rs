//! Writes results at the fixed places of the run folder, for people and scripts.

use crate::attribution::ranking::{Ranking, RankingError};
use crate::attribution::store::{Key, TensorData, write_safetensors};
use crate::job::brief::Brief;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::{score_metadata, self_influence_metadata};
use crate::job::folder::places::{self_influence_file, top_file};
use crate::job::request::Solve;

/// Each query's captured share of its squared norm, in files of scores.
pub(in crate::job) const CAPTURED: &str = "captured";

/// How well each query's joint system was solved, in files of scores: what products left of it, or how far the solutions
/// of two halves of the draws differ.
pub(in crate::job) fn solved_name(brief: &Brief) -> &'static str {
    match brief.job.method.solve {
        Solve::Subspace => "disagreements",
        Solve::Auto | Solve::Ekfac | Solve::GaussNewton => "residuals",
    }
}

/// What results say of each query.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct OfQueries<'a> {
    /// Each query's measurement now.
    pub measurements: &'a [f64],
    /// For each row of scores, the share of its vectors' squared norm that low rank left.
    pub captured: Option<&'a [f64]>,
    /// For each row of scores, how well its joint system was solved, at the checkpoint where that is worst.
    pub solved: Option<&'a [f64]>,
}

/// `self_influence.safetensors`.
pub(in crate::job) fn write_self_influence(
    brief: &Brief,
    summary: &Summary,
    key: &Key,
    values: &[f32],
) -> Result<(), JobError> {
    let metadata = self_influence_metadata(brief, summary, key);
    let file = self_influence_file(brief);
    Ok(write_safetensors(&file, &[TensorData::new("self_influence", &[values.len()], values)], &metadata)?)
}

/// `top.safetensors`: for each query the places in the training file and the scores of its best and
/// worst examples.
pub(in crate::job) fn write_top(
    brief: &Brief,
    summary: &Summary,
    answer: usize,
    key: &Key,
    rankings: &[Ranking],
    of_queries: OfQueries<'_>,
) -> Result<(), JobError> {
    let width = rankings.first().map_or(0, |ranking| ranking.proponents.len());
    let shape = [rankings.len(), width];
    let split = |pairs: Vec<(usize, f32)>| {
        pairs.into_iter().map(|(m, score)| (m as i64, score)).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (best_index, best_score) = split(rankings.iter().flat_map(|ranking| ranking.proponents.clone()).collect());
    let (worst_index, worst_score) = split(rankings.iter().flat_map(|ranking| ranking.opponents.clone()).collect());
    let queries = [of_queries.measurements.len()];
    let mut tensors = vec![
        TensorData::new("proponents.index", &shape, &best_index),
        TensorData::new("proponents.score", &shape, &best_score),
        TensorData::new("opponents.index", &shape, &worst_index),
        TensorData::new("opponents.score", &shape, &worst_score),
        TensorData::new("measurements", &queries, of_queries.measurements),
    ];
    tensors.extend(of_queries.captured.map(|captured| TensorData::new(CAPTURED, &shape[..1], captured)));
    tensors.extend(of_queries.solved.map(|solved| TensorData::new(solved_name(brief), &shape[..1], solved)));
    Ok(write_safetensors(&top_file(brief, answer), &tensors, &score_metadata(brief, summary, answer, key))?)
}

/// The error of a ranking as one of a job.
pub(in crate::job) fn ranking_error(error: RankingError) -> JobError {
    let hint = error.hint();
    JobError::Options { problem: error.to_string(), hint }
}
