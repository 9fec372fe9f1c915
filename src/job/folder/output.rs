//! Results at fixed places of the run folder, for people and scripts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::attribution::ranking::{Ranking, RankingError};
use crate::attribution::store::{FORMAT, Key, Metadata, TensorData, TensorFile, write_safetensors};
use crate::job::brief::Brief;
use crate::job::brief::answers::Method;
use crate::job::brief::summary::Summary;
use crate::job::error::JobError;
use crate::job::folder::calibration::scale_of;
use crate::job::request::{AggregateRequest, Curvature, DampingRequest, Fisher, Normalize, ScoreScale, StoreScores};
use crate::presence::is_file;

/// Kind of the store's score parts.
pub(in crate::job) const SCORES: &str = "scores";

const KEY: &str = "ascribe_key";

/// Each query's captured share of its squared norm, in files of scores.
pub(in crate::job) const CAPTURED: &str = "captured";

/// What joint solves left of each query's system, in files of scores.
pub(in crate::job) const RESIDUALS: &str = "residuals";

/// Refuses a run folder whose results belong to another job, before any work.
pub(in crate::job) fn check_results(brief: &Brief) -> Result<(), JobError> {
    for answer in 0..brief.answers.len() {
        let Some(key) = brief.answer_key(answer) else { return Ok(()) };
        for file in [scores_file(brief, answer), top_file(brief, answer)] {
            if is_file(&file) && !has_key(&file, &key)? {
                return Err(JobError::OtherResults { file });
            }
        }
    }
    // a calibration of other scores would end a long job with an error
    scale_of(brief, 0)?;
    Ok(())
}

/// `name.safetensors` of the first answer, `name.ANSWER.safetensors` of the others.
pub(in crate::job) fn of_answer(brief: &Brief, answer: usize, name: &str, ending: &str) -> PathBuf {
    let file = match answer {
        0 => format!("{name}.{ending}"),
        _ => format!("{name}.{}.{ending}", brief.answers[answer].name),
    };
    brief.job.output.path.join(file)
}

/// An answer's score matrix.
pub(in crate::job) fn scores_file(brief: &Brief, answer: usize) -> PathBuf {
    of_answer(brief, answer, "scores", "safetensors")
}

/// Each query's best and worst, if the matrix is not kept.
pub(in crate::job) fn top_file(brief: &Brief, answer: usize) -> PathBuf {
    of_answer(brief, answer, "top", "safetensors")
}

/// Every training example's score for itself.
pub(in crate::job) fn self_influence_file(brief: &Brief) -> PathBuf {
    brief.job.output.path.join("self_influence.safetensors")
}

/// Stages whose contributions to an answer's scores are written apart.
pub(in crate::job) fn stages_apart(brief: &Brief, answer: usize) -> std::ops::Range<usize> {
    let by_stage = brief.job.source.as_ref().is_some_and(|source| source.by_stage);
    let wanted = by_stage && answer == 0 && brief.job.output.store_scores == StoreScores::Full;
    if wanted { 0..brief.training.stages.len() } else { 0..0 }
}

/// What one stage contributes to the first answer's scores.
pub(in crate::job) fn stage_file(brief: &Brief, stage: usize) -> PathBuf {
    let names: Vec<&str> = brief.training.stages.iter().map(|stage| stage.name.as_str()).collect();
    brief.job.output.path.join(format!("scores.stage-{}.safetensors", stage_in_path(&names, stage)))
}

/// A stage's name as a part of a file's. The name is a person's, so whatever may mean something in a path is a hyphen;
/// where that makes it the name of another stage, on file systems that ignore case too, the stage's number follows.
fn stage_in_path(names: &[&str], stage: usize) -> String {
    let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let plain = |name: &str| name.chars().map(plain).collect::<String>();
    let own = plain(names[stage]);
    let is_own = |(other, name): (usize, &&str)| other != stage && plain(name).to_lowercase() == own.to_lowercase();
    if names.iter().enumerate().any(is_own) { format!("{own}.{}", stage + 1) } else { own }
}

/// Whether the folder holds an answer's results with this key.
pub(in crate::job) fn has_results(brief: &Brief, answer: usize, key: &Key) -> Result<bool, JobError> {
    for stage in stages_apart(brief, answer) {
        if !has_key(&stage_file(brief, stage), key)? {
            return Ok(false);
        }
    }
    Ok(has_key(&scores_file(brief, answer), key)? || has_key(&top_file(brief, answer), key)?)
}

/// Whether there is such a file and it was made from what the key says.
pub(in crate::job) fn has_key(file: &Path, key: &Key) -> Result<bool, JobError> {
    Ok(is_file(file) && TensorFile::open_checked(file)?.metadata(KEY) == Some(&key.to_string()))
}

/// Ids of the score matrix's rows.
pub(in crate::job) fn query_ids(brief: &Brief) -> Vec<String> {
    let Some(queries) = &brief.queries else { return vec![] };
    match brief.job.method.aggregate {
        AggregateRequest::Each => (0..queries.len()).map(|q| queries.id(q).to_owned()).collect(),
        AggregateRequest::Sum => vec!["sum".into()],
        AggregateRequest::Mean => vec!["mean".into()],
    }
}

/// What results say of each query.
#[derive(Debug, Clone, Copy)]
pub(in crate::job) struct OfQueries<'a> {
    /// Each query's measurement now.
    pub measurements: &'a [f64],
    /// For each row of scores, the share of its vectors' squared norm that low rank left.
    pub captured: Option<&'a [f64]>,
    /// For each row of scores, what joint solves left of its system at the checkpoint where that is most.
    pub residuals: Option<&'a [f64]>,
}

/// What a reader of the scores has to know.
pub(in crate::job) fn score_metadata(brief: &Brief, summary: &Summary, answer: usize, key: &Key) -> Metadata {
    let method = &brief.job.method;
    let ids = |ids: Vec<String>| serde_json::to_string(&ids).expect("texts are JSON");
    let columns = &brief.training.columns;
    let train_ids = (0..columns.len()).map(|column| columns.id(column).to_owned()).collect();
    let measure = crate::job::brief::options::measure_name(brief.measure());
    let unit = match (method.normalize, brief.job.output.scale) {
        (Normalize::Cosine, _) => "cosine between -1 and 1".to_owned(),
        (Normalize::None, ScoreScale::PerExample) => {
            format!(
                "improvement of the query's {measure} predicted for one more copy of the example in training (weight 1/N)"
            )
        }
        (Normalize::None, ScoreScale::Kronfluence) => {
            format!("N times the improvement of the query's {measure} for one more copy")
        }
    };
    let fisher = match method.fisher {
        Fisher::True => "true",
        Fisher::Empirical => "empirical",
    };
    let answered = &brief.answers[answer];
    let no_curvature = method.curvature == Curvature::Identity && brief.job.source.is_none();
    let (method_name, detail) = match answered.method {
        Method::Influence { .. } if no_curvature => ("gradient dot product", String::new()),
        Method::InfluenceMean { .. } if no_curvature => ("gradient dot product, mean over checkpoints", String::new()),
        Method::InfluenceMean { damping } => {
            ("influence, mean over checkpoints", String::from(DampingRequest(damping)))
        }
        Method::Influence { damping, .. } => ("influence", String::from(DampingRequest(damping))),
        Method::Source { time_scale } => ("source", time_scale.to_string()),
        Method::Tracin => ("tracin", String::new()),
        Method::Gradients => ("gradient dot product", String::new()),
    };
    let layers: Vec<&str> = brief.layers_of(answer).iter().map(|&l| brief.training.layers()[l].name.as_str()).collect();
    let mut entries: BTreeMap<&str, String> = BTreeMap::from([
        (KEY, key.to_string()),
        ("ascribe_version", env!("CARGO_PKG_VERSION").into()),
        ("format", FORMAT.to_string()),
        ("method", method_name.into()),
        ("curvature", method.curvature.name().into()),
        ("fisher", fisher.into()),
        ("answer", answered.name.clone()),
        ("seed", method.seed.to_string()),
        ("dtype", brief.job.model.dtype.name().into()),
        ("measurement", measure.into()),
        ("reduction", method.reduction.name().into()),
        ("normalize", method.normalize.name().into()),
        ("sign", "positive: a proponent, training on it helps the query; negative: an opponent".into()),
        ("units", unit),
        (
            "scale",
            match brief.job.output.scale {
                ScoreScale::PerExample => format!("1/{}", brief.training.last_stage().n_examples),
                ScoreScale::Kronfluence => "1".into(),
            },
        ),
        ("train_size", brief.training.last_stage().n_examples.to_string()),
        ("layers", json!(layers).to_string()),
        ("notes", json!(summary.notes).to_string()),
        ("query_ids", ids(query_ids(brief))),
        ("train_ids", ids(train_ids)),
    ]);
    if let Some(check) = summary.loss_check.get() {
        entries.insert("loss_check", json!(check).to_string());
    }
    if let Some(positions) = brief.job.resources.batch_tokens {
        entries.insert("batch_tokens", positions.to_string());
    }
    if let Some(width) = method.eigen_block_width.filter(|_| brief.has_eigenbasis() && brief.is_cut()) {
        entries.insert("eigen_block_width", width.to_string());
    }
    if let Some(rank) = method.query_rank {
        entries.insert("query_rank", rank.to_string());
    }
    if brief.solves_jointly(answer) {
        entries.insert("solve", "gauss-newton".into());
        entries.insert("solve_iterations", method.products().to_string());
        entries.insert("solve_examples", brief.training.last_stage().solve_data().len().to_string());
        entries.insert("solve_block", brief.solve_block().to_string());
    }
    if let Some(set) = answered.layer_set {
        entries.insert("layer_set", brief.layer_sets[set].name.clone());
    }
    match answered.method {
        Method::Influence { .. } if !detail.is_empty() => drop(entries.insert("damping", detail)),
        Method::InfluenceMean { .. } => {
            if !detail.is_empty() {
                entries.insert("damping", detail);
            }
            entries.insert("checkpoints", json!(summary.checkpoints).to_string());
            let scores = if brief.spreads(answer) { "spread" } else { "plain" };
            entries.insert("checkpoint_scores", scores.into());
        }
        Method::Source { .. } => {
            entries.insert("time_scale", detail);
            entries.insert("legs", json!(summary.legs).to_string());
        }
        _ => {}
    }
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// What a reader of `self_influence.safetensors` has to know.
pub(in crate::job) fn self_influence_metadata(brief: &Brief, summary: &Summary, key: &Key) -> Metadata {
    let mut metadata = score_metadata(brief, summary, 0, key);
    metadata.remove("query_ids");
    metadata.insert("units".into(), "rise of the example's own loss predicted for its removal from training".into());
    metadata
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
    tensors.extend(of_queries.residuals.map(|residuals| TensorData::new(RESIDUALS, &shape[..1], residuals)));
    Ok(write_safetensors(&top_file(brief, answer), &tensors, &score_metadata(brief, summary, answer, key))?)
}

/// Writes a file whole or not at all.
pub(in crate::job) fn write_file(file: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let io = |source| JobError::Io { file: file.to_owned(), action: "cannot be written", source };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".ascribe-tmp-output-");
    // others may read results, as far as the user's mask lets them; a temporary file is its owner's alone otherwise
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut temporary = builder.tempfile_in(folder).map_err(io)?;
    temporary.write_all(bytes).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(file).map_err(|error| io(error.error))?;
    Ok(())
}

pub(in crate::job) fn ranking_error(error: RankingError) -> JobError {
    let hint = error.hint();
    JobError::Options { problem: error.to_string(), hint }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::request::ReductionRequest;

    #[test]
    fn stages_with_like_names_have_files_of_their_own() {
        let files = |names: &[&str]| (0..names.len()).map(|stage| stage_in_path(names, stage)).collect::<Vec<_>>();
        assert_eq!(files(&["pre-train", "fine tune", "größe/2"]), ["pre-train", "fine-tune", "größe-2"]);
        assert_eq!(files(&["fine tune", "fine-tune", "last"]), ["fine-tune.1", "fine-tune.2", "last"]);
        assert_eq!(files(&["Tune", "tune"]), ["Tune.1", "tune.2"]);
    }

    #[test]
    fn choices_are_named_in_files_as_in_jobs() {
        let named = |value: toml::Value| value.as_str().expect("a text").to_owned();
        for curvature in [Curvature::Identity, Curvature::Diagonal, Curvature::Kfac, Curvature::Ekfac] {
            assert_eq!(curvature.name(), named(toml::Value::try_from(curvature).expect("TOML")));
        }
        for reduction in [ReductionRequest::Sum, ReductionRequest::Mean] {
            assert_eq!(reduction.name(), named(toml::Value::try_from(reduction).expect("TOML")));
        }
        for normalize in [Normalize::None, Normalize::Cosine] {
            assert_eq!(normalize.name(), named(toml::Value::try_from(normalize).expect("TOML")));
        }
    }
}
