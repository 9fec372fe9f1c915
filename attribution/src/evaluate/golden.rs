//! The golden case `evaluation`, for tests: `tests/data/evaluation.json` holds the numbers that an
//! independent implementation of `docs/evaluation.md` recorded.

use serde_json::Value;

use super::{Orientation, Outcomes, Predictions, Subsets};
use crate::ranking::ScoreRows;

pub(super) fn evaluation() -> Value {
    serde_json::from_str(include_str!("../../tests/data/evaluation.json")).expect("the recorded case is JSON")
}

pub(super) fn list(value: &Value) -> Vec<f64> {
    let list = value.as_array().expect("a list");
    list.iter().map(|x| x.as_f64().expect("a number")).collect()
}

pub(super) fn matrix(value: &Value) -> Vec<Vec<f64>> {
    value.as_array().expect("a list of lists").iter().map(list).collect()
}

/// `[Q, J]` lists as `[J, Q]` values.
pub(super) fn by_subset(rows: &[Vec<f64>]) -> Vec<f32> {
    (0..rows[0].len()).flat_map(|j| rows.iter().map(move |row| row[j] as f32)).collect()
}

/// The predictions of the case's scores and its outcomes, which are recorded as gains.
pub(super) fn predictions(golden: &Value) -> (Predictions, Outcomes) {
    let (scores, mask, gain) = (matrix(&golden["scores"]), matrix(&golden["subsets"]), matrix(&golden["gain"]));
    let flat: Vec<f32> = scores.concat().iter().map(|&v| v as f32).collect();
    let subsets = Subsets::new(mask.concat().iter().map(|&v| v as u8).collect(), mask.len(), mask[0].len());
    let rows = ScoreRows::new(&flat, scores.len(), scores[0].len()).expect("a matrix");
    let predictions = Predictions::new(rows, &subsets.expect("a mask")).expect("finite");
    let orientation = Some(Orientation::HigherIsBetter);
    let outcomes = Outcomes::new("gain", by_subset(&gain), mask.len(), gain.len(), None, orientation);
    (predictions, outcomes.expect("finite"))
}
