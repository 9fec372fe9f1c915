//! Results at fixed places of the run folder, for people and scripts.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde_json::json;

use crate::attribution::ranking::{Ranking, RankingError, ScoreRows, rank};
use crate::attribution::store::{
    Dtype, FORMAT, Key, Metadata, TensorData, TensorFile, TensorSpec, TensorWriter, sealed_json, write_safetensors,
};
use crate::job::brief::answers::Method;
use crate::job::brief::reuse::CURVATURE_DATA;
use crate::job::error::JobError;
use crate::job::plan::Plan;
use crate::job::request::AggregateRequest;
use crate::job::request::Curvature;
use crate::job::request::DampingRequest;
use crate::job::request::Fisher;
use crate::job::request::Normalize;
use crate::job::request::ScoreScale;
use crate::job::request::StoreScores;
use crate::job::steps::StepReport;
use crate::job::steps::rank::{QueryRanking, write_csv};
use crate::job::steps::scores::Sums;
use crate::presence::is_file;

/// Kind of the store's score parts.
pub(in crate::job) const SCORES: &str = "scores";

const KEY: &str = "ascribe_key";

/// Each query's captured share of its squared norm, in files of scores.
pub(in crate::job) const CAPTURED: &str = "captured";

impl Plan {
    /// Refuses a run folder whose results belong to another job, before any work.
    pub(in crate::job) fn check_results(&self) -> Result<(), JobError> {
        for answer in 0..self.answers.len() {
            let Some(key) = self.answer_key(answer) else { return Ok(()) };
            for file in [scores_file(self, answer), top_file(self, answer)] {
                if is_file(&file) && !has_key(&file, &key)? {
                    return Err(JobError::OtherResults { file });
                }
            }
        }
        // a calibration of other scores would end a long job with an error
        self.scale(0)?;
        Ok(())
    }
}

/// `name.safetensors` of the first answer, `name.ANSWER.safetensors` of the others.
fn of_answer(plan: &Plan, answer: usize, name: &str, ending: &str) -> PathBuf {
    let file = match answer {
        0 => format!("{name}.{ending}"),
        _ => format!("{name}.{}.{ending}", plan.answers[answer].name),
    };
    plan.job.output.path.join(file)
}

/// An answer's score matrix.
pub(in crate::job) fn scores_file(plan: &Plan, answer: usize) -> PathBuf {
    of_answer(plan, answer, "scores", "safetensors")
}

/// Each query's best and worst, if the matrix is not kept.
pub(in crate::job) fn top_file(plan: &Plan, answer: usize) -> PathBuf {
    of_answer(plan, answer, "top", "safetensors")
}

/// Every training example's score for itself.
pub(in crate::job) fn self_influence_file(plan: &Plan) -> PathBuf {
    plan.job.output.path.join("self_influence.safetensors")
}

/// Stages whose contributions to an answer's scores are written apart.
pub(in crate::job) fn stages_apart(plan: &Plan, answer: usize) -> std::ops::Range<usize> {
    let by_stage = plan.job.source.as_ref().is_some_and(|source| source.by_stage);
    let wanted = by_stage && answer == 0 && plan.job.output.store_scores == StoreScores::Full;
    if wanted { 0..plan.training.stages.len() } else { 0..0 }
}

/// What one stage contributes to the first answer's scores.
fn stage_file(plan: &Plan, stage: usize) -> PathBuf {
    // a stage's name is a person's, and no part of a path
    let plain = |c: char| if c.is_alphanumeric() || c == '-' || c == '_' { c } else { '-' };
    let name: String = plan.training.stages[stage].name.chars().map(plain).collect();
    plan.job.output.path.join(format!("scores.stage-{name}.safetensors"))
}

/// Whether the folder holds an answer's results with this key.
pub(in crate::job) fn has_results(plan: &Plan, answer: usize, key: &Key) -> Result<bool, JobError> {
    for stage in stages_apart(plan, answer) {
        if !has_key(&stage_file(plan, stage), key)? {
            return Ok(false);
        }
    }
    Ok(has_key(&scores_file(plan, answer), key)? || has_key(&top_file(plan, answer), key)?)
}

/// Whether there is such a file and it was made from what the key says.
pub(in crate::job) fn has_key(file: &Path, key: &Key) -> Result<bool, JobError> {
    Ok(is_file(file) && TensorFile::open_checked(file)?.metadata(KEY) == Some(&key.to_string()))
}

/// Ids of the score matrix's rows.
pub(in crate::job) fn query_ids(plan: &Plan) -> Vec<String> {
    let Some(queries) = &plan.queries else { return vec![] };
    match plan.job.method.aggregate {
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
}

/// What a reader of the scores has to know.
pub(in crate::job) fn score_metadata(plan: &Plan, answer: usize, key: &Key) -> Metadata {
    let method = &plan.job.method;
    let ids = |ids: Vec<String>| serde_json::to_string(&ids).expect("texts are JSON");
    let columns = &plan.training.columns;
    let train_ids = (0..columns.len()).map(|column| columns.id(column).to_owned()).collect();
    let measure = crate::job::brief::options::measure_name(plan.measure());
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
    let answered = &plan.answers[answer];
    let no_curvature = method.curvature == Curvature::Identity && plan.job.source.is_none();
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
    let layers: Vec<&str> = plan.layers_of(answer).iter().map(|&l| plan.training.layers()[l].name.as_str()).collect();
    let mut entries: BTreeMap<&str, String> = BTreeMap::from([
        (KEY, key.to_string()),
        ("ascribe_version", env!("CARGO_PKG_VERSION").into()),
        ("format", FORMAT.to_string()),
        ("method", method_name.into()),
        ("curvature", format!("{:?}", method.curvature).to_lowercase()),
        ("fisher", fisher.into()),
        ("answer", answered.name.clone()),
        ("seed", method.seed.to_string()),
        ("dtype", plan.job.model.dtype.name().into()),
        ("measurement", measure.into()),
        ("reduction", format!("{:?}", method.reduction).to_lowercase()),
        ("normalize", format!("{:?}", method.normalize).to_lowercase()),
        ("sign", "positive: a proponent, training on it helps the query; negative: an opponent".into()),
        ("units", unit),
        (
            "scale",
            match plan.job.output.scale {
                ScoreScale::PerExample => format!("1/{}", plan.training.last_stage().n_examples),
                ScoreScale::Kronfluence => "1".into(),
            },
        ),
        ("train_size", plan.training.last_stage().n_examples.to_string()),
        ("layers", json!(layers).to_string()),
        ("notes", json!(plan.summary().notes).to_string()),
        ("query_ids", ids(query_ids(plan))),
        ("train_ids", ids(train_ids)),
    ]);
    if let Some(positions) = plan.job.resources.batch_tokens {
        entries.insert("batch_tokens", positions.to_string());
    }
    if let Some(width) = method.eigen_block_width.filter(|_| plan.has_eigenbasis() && plan.is_cut()) {
        entries.insert("eigen_block_width", width.to_string());
    }
    if let Some(rank) = method.query_rank {
        entries.insert("query_rank", rank.to_string());
    }
    if let Some(set) = answered.layer_set {
        entries.insert("layer_set", plan.layer_sets[set].name.clone());
    }
    match answered.method {
        Method::Influence { .. } if !detail.is_empty() => drop(entries.insert("damping", detail)),
        Method::InfluenceMean { .. } => {
            if !detail.is_empty() {
                entries.insert("damping", detail);
            }
            entries.insert("checkpoints", json!(plan.summary().checkpoints).to_string());
            let scores = if plan.spreads(answer) { "spread" } else { "plain" };
            entries.insert("checkpoint_scores", scores.into());
        }
        Method::Source { .. } => {
            entries.insert("time_scale", detail);
            entries.insert("legs", json!(plan.summary().legs).to_string());
        }
        _ => {}
    }
    entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// `self_influence.safetensors`.
pub(in crate::job) fn write_self_influence(plan: &Plan, key: &Key, values: &[f32]) -> Result<(), JobError> {
    let mut metadata = score_metadata(plan, 0, key);
    metadata.remove("query_ids");
    metadata.insert("units".into(), "rise of the example's own loss predicted for its removal from training".into());
    let file = self_influence_file(plan);
    Ok(write_safetensors(&file, &[TensorData::new("self_influence", &[values.len()], values)], &metadata)?)
}

/// `top.safetensors`: for each query the places in the training file and the scores of its best and
/// worst examples.
pub(in crate::job) fn write_top(
    plan: &Plan,
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
    Ok(write_safetensors(&top_file(plan, answer), &tensors, &score_metadata(plan, answer, key))?)
}

/// Numbers of the score matrix that are in memory at a time.
const BLOCK: usize = 1 << 24;

/// `scores.safetensors` from sums that are read a block of rows at a time; `finish(q, row)` has the last word on a
/// row. With a stage they are what it contributes. If the matrix is not to be kept, its best and worst are, as in
/// [`write_top`].
pub(in crate::job) fn write_scores(
    plan: &Plan,
    (answer, stage): (usize, Option<usize>),
    key: &Key,
    of_queries: OfQueries<'_>,
    sums: &mut Sums<'_>,
    finish: impl Fn(usize, &mut [f32]),
) -> Result<(), JobError> {
    let (rows, n) = (sums.rows(), plan.training.columns.len());
    let full = plan.job.output.store_scores == StoreScores::Full;
    let mut specs = vec![
        TensorSpec::new("scores", Dtype::F32, [rows, n]),
        TensorSpec::new("measurements", Dtype::F64, [of_queries.measurements.len()]),
    ];
    specs.extend(of_queries.captured.map(|captured| TensorSpec::new(CAPTURED, Dtype::F64, [captured.len()])));
    let mut metadata = score_metadata(plan, answer, key);
    let file = match stage {
        None => scores_file(plan, answer),
        Some(stage) => {
            let name = &plan.training.stages[stage].name;
            metadata.insert("answer".into(), format!("stage {name}"));
            stage_file(plan, stage)
        }
    };
    let writer = if full { Some(TensorWriter::create(&file, &specs, &metadata)?) } else { None };
    let mut rankings = vec![];
    let at_once = (BLOCK / n.max(1)).max(1);
    for start in (0..rows).step_by(at_once) {
        let block = start..(start + at_once).min(rows);
        let mut scores = sums.read(block.clone())?;
        block.clone().zip(scores.chunks_exact_mut(n)).for_each(|(q, row)| finish(q, row));
        match &writer {
            Some(writer) => writer.write_values_at("scores", (start * n) as u64, &scores)?,
            None => {
                let matrix = ScoreRows::new(&scores, block.len(), n).map_err(ranking_error)?;
                let found = rank(matrix, plan.job.output.top).map_err(ranking_error)?;
                rankings.extend(found.into_iter().map(|found| Ranking { query: start + found.query, ..found }));
            }
        }
    }
    match writer {
        None => write_top(plan, answer, key, &rankings, of_queries),
        Some(writer) => {
            writer.write_values_at("measurements", 0, of_queries.measurements)?;
            if let Some(captured) = of_queries.captured {
                writer.write_values_at(CAPTURED, 0, captured)?;
            }
            writer.finish()?;
            Ok(())
        }
    }
}

/// `ranking.jsonl`, one object for each query, and `ranking.csv` if asked for.
pub(in crate::job) fn write_rankings(plan: &Plan, answer: usize, rankings: &[QueryRanking]) -> Result<(), JobError> {
    let mut lines = String::new();
    for ranking in rankings {
        lines.push_str(&serde_json::to_string(ranking).expect("a ranking is JSON"));
        lines.push('\n');
    }
    write_file(&of_answer(plan, answer, "ranking", "jsonl"), lines.as_bytes())?;
    if !plan.job.output.csv {
        return Ok(());
    }
    let file = of_answer(plan, answer, "ranking", "csv");
    let mut bytes = vec![];
    let failed = |source| JobError::Io { file: file.clone(), action: "cannot be written", source };
    write_csv(rankings, &mut bytes).map_err(failed)?;
    write_file(&file, &bytes)
}

/// `run.json`: the plan's summary and the stages of all steps so far, newest last.
pub(in crate::job) fn write_report(plan: &Plan, report: &StepReport) -> Result<(), JobError> {
    let file = plan.job.output.path.join("run.json");
    let before =
        std::fs::read_to_string(&file).ok().and_then(|text| serde_json::from_str::<serde_json::Value>(&text).ok());
    let mut stages = before.as_ref().and_then(|value| value.get("stages")?.as_array().cloned()).unwrap_or_default();
    stages.extend(report.stages.iter().filter(|stage| !stage.reused).map(|stage| json!(stage)));
    let data = plan.training.stages.iter().enumerate().map(|(index, stage)| {
        (stage.name.clone(), json!(blake3::Hash::from_bytes(plan.curvature_data(index)).to_hex().as_str()))
    });
    let saturation =
        report.saturation.as_ref().map(|found| json!(found)).or_else(|| before?.get("saturation").cloned());
    let report = json!({
        "ascribe_version": env!("CARGO_PKG_VERSION"),
        CURVATURE_DATA: data.collect::<serde_json::Map<_, _>>(),
        "summary": plan.summary(),
        "saturation": saturation,
        "stages": stages,
    });
    let serde_json::Value::Object(report) = report else { unreachable!("written as an object above") };
    write_file(&file, sealed_json(report).as_bytes())
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
