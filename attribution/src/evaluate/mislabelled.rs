//! Does self-influence find examples whose label is known to be wrong?

use std::collections::HashMap;
use std::path::Path;

use serde::Serialize;
use serde_json::Value;

use super::predictions::{disagree, require_finite_row};
use super::retrieval::id;
use super::spearman::average_ranks;
use super::{EvaluateError, MAX_TEXT};
use crate::foreign_file;

/// Which training examples are known to have a wrong label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KnownLabels {
    /// `[N]`, in the order of the training examples.
    pub mislabelled: Vec<bool>,
    /// Training examples that the file does not name; they count as rightly labelled.
    pub not_named: usize,
}

impl KnownLabels {
    /// Reads JSON lines with an example's `id` and `field`, which is `true` or 1 for a wrong label and `false` or 0
    /// for a right one; a line without the field says right.
    ///
    /// # Errors
    /// [`EvaluateError::Io`]; [`EvaluateError::Line`] with the line's number, also if no line has the field or an id
    /// comes twice; [`EvaluateError::UnknownExample`].
    pub fn read(path: &Path, field: &str, train_ids: &[String]) -> Result<Self, EvaluateError> {
        let io = |source| EvaluateError::Io { file: path.to_owned(), doing: "read", source };
        let text = foreign_file::read_text(path, MAX_TEXT).map_err(io)?;
        let fail = |line: usize, problem: String| EvaluateError::Line { file: path.to_owned(), line, problem };
        let places: HashMap<&str, usize> = train_ids.iter().enumerate().map(|(m, id)| (id.as_str(), m)).collect();
        let mut found: Vec<Option<bool>> = vec![None; train_ids.len()];
        let mut has_field = false;
        let mut first_keys = None;
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let number = number + 1;
            let value: Value = serde_json::from_str(line).map_err(|error| fail(number, error.to_string()))?;
            let Value::Object(object) = value else {
                return Err(fail(number, "expected a JSON object".to_owned()));
            };
            let Some(id) = object.get("id").and_then(id) else {
                return Err(fail(number, "no field `id` that is a string or a whole number".to_owned()));
            };
            first_keys
                .get_or_insert_with(|| object.keys().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", "));
            let wrong = match object.get(field) {
                None => false,
                Some(Value::Bool(wrong)) => *wrong,
                Some(value) => match value.as_u64() {
                    Some(wrong @ 0..=1) => wrong == 1,
                    _ => return Err(fail(number, format!("`{field}` is {value}, expected true, false, 1 or 0"))),
                },
            };
            has_field |= object.contains_key(field);
            let Some(&place) = places.get(id.as_str()) else {
                let first = train_ids.first().cloned().unwrap_or_default();
                return Err(EvaluateError::UnknownExample {
                    file: path.to_owned(),
                    id,
                    examples: train_ids.len(),
                    first,
                });
            };
            if found[place].replace(wrong).is_some() {
                return Err(fail(number, format!("the id `{id}` was used before")));
            }
        }
        match first_keys {
            Some(keys) if !has_field => Err(fail(1, format!("no line has the field `{field}`; the first has {keys}"))),
            None => Err(fail(1, "the file has no lines".to_owned())),
            _ => {
                let not_named = found.iter().filter(|known| known.is_none()).count();
                let mislabelled = found.into_iter().map(Option::unwrap_or_default).collect();
                Ok(Self { mislabelled, not_named })
            }
        }
    }
}

/// How well a ranking finds mislabelled examples. Compare with the figures of the training loss in
/// place of self-influence: a method that only matches them has added nothing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Mislabelled {
    /// N.
    pub examples: usize,
    /// Mislabelled ones among them.
    pub mislabelled: usize,
    /// Probability that a mislabelled example ranks above a right one, ties counting half.
    pub auc: f64,
    /// Found among as many first places as there are mislabelled examples.
    pub recall: f64,
    /// Found among the first `round(share · N)` places, for each share asked for.
    pub recall_at: Vec<(f64, f64)>,
}

/// Ranks by `influence`, highest first, equal values in the order of the data.
///
/// `AUC = (Σ ranks of mislabelled − n₁(n₁+1)/2) / (n₁ n₀)` with average ranks, lowest value first.
///
/// # Shapes
/// `influence`, `flipped`: `[N]`.
/// # Errors
/// [`EvaluateError::Disagree`] for different lengths, [`EvaluateError::TooFew`] unless there are
/// mislabelled and right examples, [`EvaluateError::NonFinite`], [`EvaluateError::Share`] for a share
/// outside 0 to 1.
pub fn mislabelled(influence: &[f32], flipped: &[bool], shares: &[f64]) -> Result<Mislabelled, EvaluateError> {
    let n = influence.len();
    if flipped.len() != n {
        return Err(disagree("training examples", "self-influence", n, "the list of flipped labels", flipped.len()));
    }
    require_finite_row("self-influence", influence)?;
    let wrong = flipped.iter().filter(|&&f| f).count();
    for (axis, found) in [("mislabelled examples", wrong), ("rightly labelled examples", n - wrong)] {
        if found == 0 {
            return Err(EvaluateError::TooFew { figure: "AUC", axis, needed: 1, found });
        }
    }
    let wide: Vec<f64> = influence.iter().map(|&v| f64::from(v)).collect();
    let rank_sum: f64 = average_ranks(&wide).iter().zip(flipped).filter(|(_, f)| **f).map(|(rank, _)| rank).sum();
    let (n1, n0) = (wrong as f64, (n - wrong) as f64);
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&a, &b| influence[b].partial_cmp(&influence[a]).unwrap_or(std::cmp::Ordering::Equal));
    let found = |places: usize| order[..places].iter().filter(|&&m| flipped[m]).count() as f64 / n1;
    let mut recall_at = Vec::with_capacity(shares.len());
    for &share in shares {
        if !(0.0..=1.0).contains(&share) {
            return Err(EvaluateError::Share { share, examples: n, kept: 0 });
        }
        recall_at.push((share, found((share * n as f64).round() as usize)));
    }
    let auc = (rank_sum - n1 * (n1 + 1.0) / 2.0) / (n1 * n0);
    Ok(Mislabelled { examples: n, mislabelled: wrong, auc, recall: found(wrong), recall_at })
}

#[cfg(test)]
mod tests {
    use super::super::golden;
    use super::*;

    #[test]
    fn golden_auc_and_recall() {
        let golden = &golden::evaluation()["mislabelled"];
        let influence: Vec<f32> = golden::list(&golden["self_influence"]).iter().map(|&v| v as f32).collect();
        let flipped: Vec<bool> = golden::list(&golden["flipped"]).iter().map(|&v| v == 1.0).collect();
        let found = mislabelled(&influence, &flipped, &[0.0, 0.125, 0.375, 1.0]).expect("valid");
        // Half ranks over 15 pairs: one quotient.
        assert!((found.auc - golden["auc"].as_f64().expect("a number")).abs() < 1e-15);
        let third = golden["recall_at_3"].as_f64().expect("a number");
        assert!((found.recall - third).abs() < 1e-15);
        assert_eq!(found.recall_at, [(0.0, 0.0), (0.125, 1.0 / 3.0), (0.375, found.recall), (1.0, 1.0)]);
        let pairs = (0..8).flat_map(|a| (0..8).map(move |b| (a, b))).filter(|&(a, b)| flipped[a] && !flipped[b]);
        let wins: Vec<f64> = pairs
            .map(|(a, b)| match influence[a].total_cmp(&influence[b]) {
                std::cmp::Ordering::Greater => 1.0,
                std::cmp::Ordering::Equal => 0.5,
                std::cmp::Ordering::Less => 0.0,
            })
            .collect();
        assert!((found.auc - wins.iter().sum::<f64>() / wins.len() as f64).abs() < 1e-15);
    }

    #[test]
    fn known_labels_are_read_by_id_and_what_is_wrong_is_named_by_line() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path().join("known.jsonl");
        let ids: Vec<String> = ["a", "7", "c", "d"].map(str::to_owned).to_vec();
        let read = |text: &str| {
            std::fs::write(&path, text).expect("writable");
            let name = path.display().to_string();
            KnownLabels::read(&path, "wrong", &ids).map_err(|error| error.to_string().replace(&name, "FILE"))
        };
        let known = read("{\"id\": 7, \"wrong\": true}\n\n{\"id\": \"d\", \"wrong\": 1}\n{\"id\": \"a\"}\n");
        assert_eq!(known, Ok(KnownLabels { mislabelled: vec![false, true, false, true], not_named: 1 }));
        for (text, want) in [
            (
                "{\"id\": \"a\", \"label\": 1}",
                "FILE: line 1: no line has the field `wrong`; the first has `id`, `label`",
            ),
            ("", "FILE: line 1: the file has no lines"),
            ("[1]", "FILE: line 1: expected a JSON object"),
            ("{\"wrong\": true}", "FILE: line 1: no field `id` that is a string or a whole number"),
            ("\n{\"id\": \"a\", \"wrong\": 2}", "FILE: line 2: `wrong` is 2, expected true, false, 1 or 0"),
            ("{\"id\": \"a\", \"wrong\": 1}\n{\"id\": \"a\"}", "FILE: line 2: the id `a` was used before"),
            ("{\"id\": \"z\", \"wrong\": 1}", "FILE: the example `z` is not among the 4 training examples"),
        ] {
            assert_eq!(read(text), Err(want.to_owned()));
        }
    }

    #[test]
    fn nothing_to_tell_apart_is_refused() {
        assert!(mislabelled(&[1.0, 2.0], &[true, true], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[false, false], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[true], &[]).is_err());
        assert!(mislabelled(&[1.0, f32::NAN], &[true, false], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[true, false], &[1.5]).is_err());
    }
}
