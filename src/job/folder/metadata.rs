//! What files of scores say of themselves: the metadata that a reader needs to make sense of the numbers.

use std::collections::BTreeMap;

use serde::Serializer;
use serde_json::json;

use crate::attribution::store::{FORMAT, Key, Metadata};
use crate::job::brief::Brief;
use crate::job::brief::answers::{Joint, Method};
use crate::job::brief::options::measure_name;
use crate::job::brief::summary::Summary;
use crate::job::folder::places::Apart;
use crate::job::request::{
    AggregateRequest, Curvature, DampingRequest, Fisher, Normalize, ScoreScale, Solve, SolveLayers,
};
use crate::job::training::Stage;

/// The entry that holds the key of what the file was made from.
pub(in crate::job) const KEY: &str = "ascribe_key";

/// Ids of the score matrix's rows.
pub(in crate::job) fn query_ids(brief: &Brief) -> Vec<String> {
    let Some(queries) = &brief.queries else { return vec![] };
    match brief.job.method.aggregate {
        AggregateRequest::Each => (0..queries.len()).map(|q| queries.id(q).to_owned()).collect(),
        AggregateRequest::Sum => vec!["sum".into()],
        AggregateRequest::Mean => vec!["mean".into()],
    }
}

/// What a reader of one part's contribution to the scores has to know.
pub(in crate::job) fn part_metadata(
    brief: &Brief,
    summary: &Summary,
    (answer, part): (usize, Apart),
    key: &Key,
) -> Metadata {
    let mut metadata = score_metadata(brief, summary, answer, key);
    let of = match part {
        Apart::Stage(stage) => format!("stage {}", brief.training.stages[stage].name),
        Apart::Segment(leg) => format!("segment {}", brief.training.segment_fits()[leg].name),
    };
    metadata.insert("answer".into(), of);
    metadata
}

/// What a reader of the scores has to know.
pub(in crate::job) fn score_metadata(brief: &Brief, summary: &Summary, answer: usize, key: &Key) -> Metadata {
    let method = &brief.job.method;
    let columns = &brief.training.columns;
    let measure = measure_name(brief.measure());
    let unit = match (method.normalize, brief.job.output.scale) {
        (Normalize::Cosine, _) => "cosine between -1 and 1".to_owned(),
        (Normalize::None, _) if method.curvature == Curvature::Adam && !method.solve.is_joint() => {
            "gradients' product over the root of Adam's second moments: examples compare, amounts mean nothing"
                .to_owned()
        }
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
    let no_curvature =
        method.curvature == Curvature::Identity && brief.job.source.is_none() && method.solve != Solve::MFac;
    let (method_name, detail) = match answered.method {
        Method::Influence { .. } if no_curvature => ("gradient dot product", String::new()),
        Method::InfluenceMean { .. } if no_curvature => ("gradient dot product, mean over checkpoints", String::new()),
        Method::InfluenceMean { damping, .. } => {
            ("influence, mean over checkpoints", String::from(DampingRequest::Value(damping)))
        }
        Method::Influence { damping, .. } => ("influence", String::from(DampingRequest::Value(damping))),
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
        ("query_ids", json_list(query_ids(brief).iter().map(String::as_str))),
        ("train_ids", json_list((0..columns.len()).map(|column| columns.id(column)))),
    ]);
    if let (Some(chosen), Some(request)) = (brief.training.chosen(), &brief.job.output.candidates) {
        let control: Vec<usize> = (0..chosen.places.len()).filter(|&m| chosen.is_control[m]).collect();
        entries.insert("candidates", request.to_string());
        entries.insert("candidates_of", chosen.of.to_string());
        entries.insert("train_rows", json!(chosen.places).to_string());
        entries.insert("control_columns", json!(control).to_string());
    }
    if let Some(check) = summary.loss_check.get() {
        entries.insert("loss_check", json!(check).to_string());
    }
    if let Some(positions) = brief.job.resources.batch_tokens {
        entries.insert("batch_tokens", positions.to_string());
    }
    if let Some(width) = method.eigen_block_width.filter(|_| brief.has_eigenbasis() && brief.is_cut()) {
        entries.insert("eigen_block_width", width.to_string());
    }
    let in_blocks = brief.kept_in_blocks();
    if !in_blocks.is_empty() {
        entries.insert("covariances_in_blocks", json!(in_blocks).to_string());
    }
    if !brief.query_weights.is_empty() {
        entries.insert("query_weights", json!(brief.query_weights).to_string());
    }
    if let Some(rank) = method.query_rank {
        entries.insert("query_rank", rank.to_string());
    }
    if brief.solves_jointly(answer) {
        entries.insert("solve", method.solve.name().into());
        if method.solve == Solve::GaussNewton {
            entries.insert("solve_iterations", method.products().to_string());
            if method.solve_layers == SolveLayers::Each {
                entries.insert("solve_layers", "each".into());
            }
        }
        if method.solve == Solve::Subspace && method.fisher == Fisher::True {
            entries.insert("solve_label_draws", brief.form_draws().to_string());
        }
        if method.solve == Solve::MFac {
            entries.insert("solve_gradients", brief.sampled_gradients().to_string());
        }
        let counts = |stages: &[Stage]| {
            let counts: Vec<String> = stages.iter().map(|stage| stage.solve_data().len().to_string()).collect();
            counts.join(", ")
        };
        let stages = &brief.training.stages;
        let of_products = match brief.joint(answer) {
            Some(Joint::Segments) => counts(stages),
            _ => counts(&stages[stages.len() - 1..]),
        };
        entries.insert("solve_examples", of_products);
        entries.insert("solve_block", brief.solve_block().to_string());
    }
    if let Some(variant) = answered.variant {
        entries.insert("variant", variant.words());
    }
    if let Some(set) = answered.layer_set {
        let set = &brief.layer_sets[set];
        entries.insert("layer_set", set.name.clone());
        if !set.slices.is_empty() {
            let slices: Vec<String> = set.slices.iter().map(|slice| brief.slice_name(slice)).collect();
            entries.insert("layer_slices", json!(slices).to_string());
        }
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

/// A JSON array of texts, of which there may be millions.
fn json_list<'a>(texts: impl Iterator<Item = &'a str>) -> String {
    let mut json = vec![];
    serde_json::Serializer::new(&mut json).collect_seq(texts).expect("texts are JSON");
    String::from_utf8(json).expect("JSON is UTF-8")
}

/// What a reader of `self_influence.safetensors` has to know.
pub(in crate::job) fn self_influence_metadata(brief: &Brief, summary: &Summary, key: &Key) -> Metadata {
    let mut metadata = score_metadata(brief, summary, 0, key);
    metadata.remove("query_ids");
    metadata.insert("units".into(), "rise of the example's own loss predicted for its removal from training".into());
    metadata
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::request::ReductionRequest;

    #[test]
    fn choices_are_named_in_files_as_in_jobs() {
        let named = |value: toml::Value| value.as_str().expect("a text").to_owned();
        let curvatures = [Curvature::Identity, Curvature::Diagonal, Curvature::Kfac, Curvature::Ekfac];
        for curvature in
            curvatures.into_iter().chain([Curvature::Tkfac, Curvature::Shampoo, Curvature::Soap, Curvature::Adam])
        {
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
