//! Writes results at the fixed places of the run folder, for people and scripts.

use crate::Hint;
use crate::attribution::VectorForm;
use crate::attribution::ranking::{Ranking, RankingError};
use crate::attribution::store::{Dtype, Key, TensorData, TensorSpec, write_safetensors};
use crate::data::Dataset;
use crate::job::brief::Brief;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::metadata::{score_metadata, self_influence_metadata};
use crate::job::folder::places::{self_influence_file, top_file};
use crate::job::request::{Solve, StoreScores};

/// Each query's captured share of its squared norm, in files of scores.
pub(in crate::job) const CAPTURED: &str = "captured";

/// How well each query's joint system was solved, in files of scores: what products left of it, or how far the solutions
/// of two halves of the draws differ.
pub(in crate::job) fn solved_name(brief: &Brief) -> &'static str {
    match brief.job.method.solve {
        Solve::Subspace => "disagreements",
        Solve::Auto | Solve::Ekfac | Solve::GaussNewton | Solve::MFac => "residuals",
    }
}

/// The tensors of an answer's file of scores: the matrix, or each query's best and worst, and what is said of each query.
pub(in crate::job) fn score_specs(brief: &Brief, answer: usize) -> Vec<TensorSpec> {
    let (rows, n) = (brief.query_rows(), brief.training.columns.len());
    let queries = brief.queries.as_ref().map_or(0, Dataset::len);
    let of_rows = |name: &str| TensorSpec::new(name, Dtype::F64, [rows]);
    let measurements = TensorSpec::new("measurements", Dtype::F64, [queries]);
    let captured = (brief.vector_form() != VectorForm::Full).then(|| of_rows(CAPTURED));
    let solved = brief.solves_jointly(answer).then(|| of_rows(solved_name(brief)));
    match brief.job.output.store_scores {
        StoreScores::Full => {
            let scores = TensorSpec::new("scores", Dtype::F32, [rows, n]);
            [scores, measurements].into_iter().chain(solved).chain(captured).collect()
        }
        StoreScores::Top => {
            let best = [rows, brief.job.output.top.min(n)];
            let of_side = |side: &'static str| {
                [("index", Dtype::I64), ("score", Dtype::F32)]
                    .map(|(what, dtype)| TensorSpec::new(format!("{side}.{what}"), dtype, best))
            };
            let sides = ["proponents", "opponents"].into_iter().flat_map(of_side);
            sides.chain([measurements]).chain(captured).chain(solved).collect()
        }
    }
}

/// The tensor of self-influence.
pub(in crate::job) fn self_influence_spec(brief: &Brief) -> TensorSpec {
    TensorSpec::new("self_influence", Dtype::F32, [brief.training.columns.len()])
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
    JobError::Options { problem: error.to_string().into(), hint: error.hint().map(Into::into) }
}
