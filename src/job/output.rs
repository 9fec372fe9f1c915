//! Results at fixed places of the run folder, for people and scripts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;

use serde_json::json;

use super::rank::QueryRanking;
use super::run::StepReport;
use super::{AggregateRequest, Curvature, Fisher, JobError, Normalize, Plan, ScoreScale};
use crate::attribution::ranking::{Ranking, RankingError};
use crate::attribution::store::{Key, Metadata, TensorData, TensorFile, write_safetensors};

/// Kind of the store's score parts.
pub(super) const SCORES: &str = "scores";
/// The score matrix.
pub(super) const SCORES_FILE: &str = "scores.safetensors";
/// Each query's best and worst, if the matrix is not kept.
pub(super) const TOP_FILE: &str = "top.safetensors";

const KEY: &str = "ascribe_key";

impl Plan {
    /// Refuses a run folder whose results belong to another job, before any work.
    pub(super) fn check_results(&self) -> Result<(), JobError> {
        let Some(key) = self.score_key() else { return Ok(()) };
        for name in [SCORES_FILE, TOP_FILE] {
            let file = self.job.output.path.join(name);
            if file.exists() && !has_key(&file, &key)? {
                return Err(JobError::OtherResults { file });
            }
        }
        Ok(())
    }
}

/// Whether the folder holds the results with this key.
pub(super) fn results_of(folder: &Path, key: &Key) -> Result<bool, JobError> {
    for name in [SCORES_FILE, TOP_FILE] {
        let file = folder.join(name);
        if file.exists() && has_key(&file, key)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn has_key(file: &Path, key: &Key) -> Result<bool, JobError> {
    Ok(TensorFile::open(file)?.metadata(KEY) == Some(&key.to_string()))
}

/// Ids of the score matrix's rows.
pub(super) fn query_ids(plan: &Plan) -> Vec<String> {
    let Some(queries) = &plan.queries else { return vec![] };
    match plan.job.method.aggregate {
        AggregateRequest::Each => (0..queries.len()).map(|q| queries.id(q).to_owned()).collect(),
        AggregateRequest::Sum => vec!["sum".into()],
        AggregateRequest::Mean => vec!["mean".into()],
    }
}

/// What a reader of the scores has to know.
pub(super) fn score_metadata(plan: &Plan, key: &Key) -> Metadata {
    let method = &plan.job.method;
    let ids = |ids: Vec<String>| serde_json::to_string(&ids).expect("texts are JSON");
    let train_ids = (0..plan.train.len()).map(|m| plan.train.id(m).to_owned()).collect();
    let measure = super::plan::measure_name(plan.measure());
    let unit = match (method.normalize, plan.job.output.scale) {
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
    let method_name = match method.curvature {
        Curvature::Identity => "gradient dot product",
        _ => "influence",
    };
    let layers: Vec<&str> = plan.summary().layers.iter().map(|layer| layer.name.as_str()).collect();
    let entries: BTreeMap<&str, String> = BTreeMap::from([
        (KEY, key.to_string()),
        ("ascribe_version", env!("CARGO_PKG_VERSION").into()),
        ("format", "1".into()),
        ("method", method_name.into()),
        ("curvature", format!("{:?}", method.curvature).to_lowercase()),
        ("fisher", fisher.into()),
        ("damping", method.damping.into()),
        ("seed", method.seed.to_string()),
        ("measurement", measure.into()),
        ("reduction", format!("{:?}", method.reduction).to_lowercase()),
        ("normalize", format!("{:?}", method.normalize).to_lowercase()),
        ("sign", "positive: a proponent, training on it helps the query; negative: an opponent".into()),
        ("units", unit),
        (
            "scale",
            match plan.job.output.scale {
                ScoreScale::PerExample => format!("1/{}", plan.train_size()),
                ScoreScale::Kronfluence => "1".into(),
            },
        ),
        ("train_size", plan.train_size().to_string()),
        ("layers", json!(layers).to_string()),
        ("notes", json!(plan.summary().notes).to_string()),
        ("query_ids", ids(query_ids(plan))),
        ("train_ids", ids(train_ids)),
    ]);
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `self_influence.safetensors`.
pub(super) fn write_self_influence(plan: &Plan, key: &Key, values: &[f32]) -> Result<(), JobError> {
    let mut metadata = score_metadata(plan, key);
    metadata.remove("query_ids");
    metadata.insert("units".into(), "rise of the example's own loss predicted for its removal from training".into());
    let file = plan.job.output.path.join("self_influence.safetensors");
    Ok(write_safetensors(&file, &[TensorData::new("self_influence", &[values.len()], values)], &metadata)?)
}

/// `top.safetensors`: for each query the places in the training file and the scores of its best and
/// worst examples.
pub(super) fn write_top(plan: &Plan, key: &Key, rankings: &[Ranking], measurements: &[f64]) -> Result<(), JobError> {
    let width = rankings.first().map_or(0, |ranking| ranking.proponents.len());
    let shape = [rankings.len(), width];
    let split = |pairs: Vec<(usize, f32)>| {
        pairs.into_iter().map(|(m, score)| (m as i64, score)).unzip::<_, _, Vec<_>, Vec<_>>()
    };
    let (best_index, best_score) = split(rankings.iter().flat_map(|ranking| ranking.proponents.clone()).collect());
    let (worst_index, worst_score) = split(rankings.iter().flat_map(|ranking| ranking.opponents.clone()).collect());
    let queries = [measurements.len()];
    let tensors = [
        TensorData::new("proponents.index", &shape, &best_index),
        TensorData::new("proponents.score", &shape, &best_score),
        TensorData::new("opponents.index", &shape, &worst_index),
        TensorData::new("opponents.score", &shape, &worst_score),
        TensorData::new("measurements", &queries, measurements),
    ];
    Ok(write_safetensors(&plan.job.output.path.join(TOP_FILE), &tensors, &score_metadata(plan, key))?)
}

/// `ranking.jsonl`, one object for each query, and `ranking.csv` if asked for.
pub(super) fn write_rankings(plan: &Plan, rankings: &[QueryRanking]) -> Result<(), JobError> {
    let mut lines = String::new();
    for ranking in rankings {
        lines.push_str(&serde_json::to_string(ranking).expect("a ranking is JSON"));
        lines.push('\n');
    }
    write_file(&plan.job.output.path.join("ranking.jsonl"), lines.as_bytes())?;
    if !plan.job.output.csv {
        return Ok(());
    }
    let file = plan.job.output.path.join("ranking.csv");
    let failed =
        |error: csv::Error| JobError::Io { file: file.clone(), action: "cannot be written", source: error.into() };
    let mut writer = csv::Writer::from_writer(vec![]);
    writer.write_record(["query_id", "side", "rank", "train_id", "score", "excerpt"]).map_err(failed)?;
    for ranking in rankings {
        for (side, examples) in [("proponent", &ranking.proponents), ("opponent", &ranking.opponents)] {
            for (rank, example) in examples.iter().enumerate() {
                let (rank, score) = ((rank + 1).to_string(), example.score.to_string());
                let record = [&ranking.query.id, side, &rank, &example.id, &score, &example.excerpt];
                writer.write_record(record).map_err(failed)?;
            }
        }
    }
    let bytes = writer.into_inner().map_err(|error| failed(error.into_error().into()))?;
    write_file(&file, &bytes)
}

/// `run.json`: the plan's summary and the stages of all steps so far, newest last.
pub(super) fn write_report(plan: &Plan, report: &StepReport) -> Result<(), JobError> {
    let file = plan.job.output.path.join("run.json");
    let before =
        std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let mut stages = before.and_then(|value| value.get("stages")?.as_array().cloned()).unwrap_or_default();
    stages.extend(report.stages.iter().filter(|stage| !stage.reused).map(|stage| json!(stage)));
    let text = json!({
        "ascribe_version": env!("CARGO_PKG_VERSION"),
        "summary": plan.summary(),
        "stages": stages,
    });
    let text = serde_json::to_string_pretty(&text).expect("a report is JSON");
    write_file(&file, text.as_bytes())
}

/// Writes a file whole or not at all.
pub(super) fn write_file(file: &Path, bytes: &[u8]) -> Result<(), JobError> {
    let io = |source| JobError::Io { file: file.to_owned(), action: "cannot be written", source };
    let folder = file.parent().unwrap_or(Path::new("."));
    let mut temporary = tempfile::Builder::new().prefix(".ascribe-tmp-output-").tempfile_in(folder).map_err(io)?;
    temporary.write_all(bytes).map_err(io)?;
    temporary.as_file().sync_all().map_err(io)?;
    temporary.persist(file).map_err(|error| io(error.error))?;
    Ok(())
}

pub(super) fn ranking_error(error: RankingError) -> JobError {
    let hint = error.hint();
    JobError::Options { problem: error.to_string(), hint }
}
