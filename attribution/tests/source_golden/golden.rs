//! The golden file and comparisons with it.

use std::path::Path;

use ascribe_attribution::trajectory::{
    CheckpointAt, CheckpointWeights, LossScale, Optimizer, Segment, SegmentRule, StageNumbers, StepRates,
    TrainedLayers, TrainingStage, segments,
};
use ascribe_curvature::gemm::Real;
use serde_json::Value;

/// One case of `golden.json`: the shared file if it is there, else the fixture with the same bytes.
pub(crate) fn case(name: &str) -> Value {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let places =
        ["../../shared/data/golden/golden.json", "../fixtures/golden/golden.json"].map(|place| root.join(place));
    let file = places.iter().find(|place| place.is_file()).expect("the repository holds the golden file");
    let text = std::fs::read_to_string(file).expect("it can be read");
    let mut all: Value = serde_json::from_str(&text).expect("it is JSON");
    all[name].take()
}

/// All numbers of nested lists, in order; none of what is not there.
pub(crate) fn flat(value: &Value) -> Vec<f64> {
    match value {
        Value::Array(list) => list.iter().flat_map(flat).collect(),
        Value::Null => vec![],
        number => vec![number.as_f64().unwrap_or_else(|| panic!("not a number: {number}"))],
    }
}

pub(crate) fn lists(value: &Value) -> Vec<Vec<f64>> {
    items(value).iter().map(flat).collect()
}

pub(crate) fn items(value: &Value) -> &[Value] {
    value.as_array().expect("a list")
}

pub(crate) fn number(value: &Value) -> f64 {
    value.as_f64().expect("a number")
}

/// Largest difference below `tolerance` times the largest magnitude wanted.
#[track_caller]
pub(crate) fn close(what: &str, found: &[f64], want: &[f64], tolerance: f64) {
    assert_eq!(found.len(), want.len(), "{what}: lengths");
    let size = want.iter().fold(0.0_f64, |size, x| size.max(x.abs()));
    let error = found.iter().zip(want).fold(0.0_f64, |error, (a, b)| {
        assert!(a.is_finite(), "{what}: {a}");
        error.max((a - b).abs())
    });
    assert!(error <= tolerance * size, "{what}: {:.1e} of the largest, allowed {tolerance:.0e}", error / size);
}

pub(crate) fn wide<T: Real>(values: &[T]) -> Vec<f64> {
    values.iter().map(|x| x.wide()).collect()
}

/// A stage with checkpoints after the given steps, of all layers.
pub(crate) fn stage(
    name: &str,
    rates: &[f64],
    checkpoints: &[usize],
    n_examples: usize,
    optimizer: Optimizer,
) -> StageNumbers {
    StageNumbers {
        name: name.into(),
        n_examples,
        loss_scale: LossScale::MeanOverExamples,
        optimizer,
        rates: StepRates::per_step(rates.to_vec()).expect("rates"),
        batch_size: 1,
        checkpoints: checkpoints.iter().map(|&step| CheckpointAt { step, id: format!("checkpoint-{step}") }).collect(),
        clipping: None,
        trained_layers: TrainedLayers::All,
        layer_rates: std::collections::BTreeMap::new(),
    }
}

/// The stage, and its segments.
pub(crate) fn cut(numbers: StageNumbers, n: usize) -> (TrainingStage, Vec<Segment>) {
    let stage = TrainingStage::new(numbers).expect("a stage");
    let segments = segments(&stage, &SegmentRule::EqualCheckpoints(n), CheckpointWeights::Uniform).expect("segments");
    (stage, segments)
}

/// The optimizer of a golden run.
pub(crate) fn optimizer(value: &Value) -> Optimizer {
    let number = |key: &str| value.get(key).and_then(Value::as_f64).unwrap_or(0.0);
    match value["kind"].as_str() {
        Some("adamw") => Optimizer::AdamW {
            beta1: number("beta1"),
            beta2: number("beta2"),
            epsilon: number("eps"),
            weight_decay: number("weight_decay"),
        },
        _ => Optimizer::Sgd {
            momentum: number("beta"),
            dampening: number("dampening"),
            nesterov: value.get("nesterov").and_then(Value::as_bool).unwrap_or(false),
            weight_decay: number("weight_decay"),
        },
    }
}
