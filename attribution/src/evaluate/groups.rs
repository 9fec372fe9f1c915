//! Removing examples: from scores to the predicted change, and how well it fits what was measured.

use serde::Serialize;

use super::EvaluateError;
use super::predictions::require_finite_row;
use super::spearman::spearman;

/// Predicted change of a query's gain when `removed` are taken out of the training set and the model
/// is retrained on the mean loss of the other `N − k`:
///
/// `−N/(N−k) · (Σ_{m removed} score(m) − k · mean_m score(m))`.
///
/// The centring is there because the freed places of a batch are filled by others, each of which then
/// weighs `1/(N−k)`. Effects are added to first order; the larger the group, the worse the approximation.
///
/// This is the definition of a group's effect for one query; figures over many queries and groups compute it by sums of
/// columns and are tested against it.
///
/// # Shapes
/// `scores`: `[N]`, one query against all training examples.
/// # Units
/// Gain: positive = the query gets better.
/// # Errors
/// [`EvaluateError::Example`] for an index outside or named twice, [`EvaluateError::TooFew`] if nothing
/// is left, [`EvaluateError::NonFinite`].
/// # Source
/// `docs/method.md`, Score.
pub fn group_effect(scores: &[f32], removed: &[usize]) -> Result<f64, EvaluateError> {
    require_finite_row("the query's scores", scores)?;
    let (n, k) = (scores.len(), removed.len());
    let mut sorted = removed.to_vec();
    sorted.sort_unstable();
    let refuse = |example, problem| Err(EvaluateError::Example { example, problem, examples: n });
    if let Some(&example) = sorted.last().filter(|&&m| m >= n) {
        return refuse(example, "is outside the scores");
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return refuse(pair[0], "is named twice");
    }
    if k >= n {
        return Err(EvaluateError::TooFew {
            figure: "a group's effect",
            axis: "examples that stay",
            needed: 1,
            found: n - k,
        });
    }
    let sum: f64 = sorted.iter().map(|&m| f64::from(scores[m])).sum();
    Ok(centred(sum, k, mean(scores), n))
}

fn centred(sum: f64, k: usize, mean: f64, n: usize) -> f64 {
    let (k, n) = (k as f64, n as f64);
    // `+ 0.0`: nothing removed is no change, not its negative.
    -n / (n - k) * (sum - k * mean) + 0.0
}

fn mean(scores: &[f32]) -> f64 {
    scores.iter().map(|&score| f64::from(score)).sum::<f64>() / scores.len() as f64
}

/// How predicted changes agree with measured ones.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Agreement {
    /// Rank correlation; 0 if either side is constant.
    pub spearman: f64,
    /// Slope of the least-squares line (with intercept) of measured over predicted: 1 = the sizes are
    /// right, below 1 = predictions are too large. None if all predictions are equal.
    pub slope: Option<f64>,
}

/// Compares predicted and measured changes of the gain, of single examples or groups.
///
/// # Errors
/// [`EvaluateError::Disagree`] for different lengths, [`EvaluateError::TooFew`] below two,
/// [`EvaluateError::NonFinite`].
/// # Source
/// `docs/evaluation.md`, leave-one-out.
pub fn agreement(predicted: &[f64], measured: &[f64]) -> Result<Agreement, EvaluateError> {
    let n = predicted.len();
    if n != measured.len() {
        return Err(super::predictions::disagree("changes", "the prediction", n, "the measurement", measured.len()));
    }
    if n < 2 {
        return Err(EvaluateError::TooFew { figure: "agreement", axis: "changes", needed: 2, found: n });
    }
    for (what, values) in [("the prediction", predicted), ("the measurement", measured)] {
        if let Some(column) = values.iter().position(|v| !v.is_finite()) {
            return Err(EvaluateError::NonFinite { what: what.to_owned(), row: 0, column, value: values[column] });
        }
    }
    let mean = |values: &[f64]| values.iter().sum::<f64>() / n as f64;
    let (mean_p, mean_m) = (mean(predicted), mean(measured));
    let covariance: f64 = predicted.iter().zip(measured).map(|(p, m)| (p - mean_p) * (m - mean_m)).sum();
    let variance: f64 = predicted.iter().map(|p| (p - mean_p).powi(2)).sum();
    let slope = (variance > 0.0).then(|| covariance / variance);
    Ok(Agreement { spearman: spearman(predicted, measured), slope })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A mean of numbers is a model that can be retrained by hand: θ = mean of `x`, training loss
    /// `(θ − x_m)²/2`, measurement f = θ. With H = 1, score(m) = −(1/N)·1·(θ − x_m).
    #[test]
    fn removing_from_a_mean_is_predicted_exactly() {
        let x = [3.0f32, -1.0, 4.0, 1.5, -5.0, 9.0, 2.5];
        let n = x.len();
        let theta = x.iter().sum::<f32>() / n as f32; // 2.0
        let scores: Vec<f32> = x.iter().map(|v| (v - theta) / n as f32).collect();
        for removed in [vec![], vec![5], vec![4, 0], vec![1, 2, 3, 6]] {
            let left: Vec<f64> = (0..n).filter(|m| !removed.contains(m)).map(|m| f64::from(x[m])).collect();
            let want = left.iter().sum::<f64>() / left.len() as f64 - f64::from(theta);
            // Scores are rounded to f32.
            assert!((group_effect(&scores, &removed).expect("valid") - want).abs() < 1e-6, "{removed:?}");
        }
        // A constant added to all scores (not a stationary point) cancels.
        let shifted: Vec<f32> = scores.iter().map(|s| s + 0.5).collect();
        let (a, b) = (group_effect(&scores, &[5, 1]), group_effect(&shifted, &[5, 1]));
        assert!((a.expect("valid") - b.expect("valid")).abs() < 1e-6);
    }

    #[test]
    fn impossible_groups_are_refused() {
        let message = |removed: &[usize]| group_effect(&[1.0, 2.0], removed).expect_err("impossible").to_string();
        assert_eq!(message(&[2]), "example 2 is outside the scores (2 examples)");
        assert_eq!(message(&[1, 1]), "example 1 is named twice (2 examples)");
        assert_eq!(message(&[0, 1]), "a group's effect needs at least 1 examples that stay, there are 0");
        assert!(group_effect(&[1.0, f32::NAN], &[0]).is_err());
    }

    #[test]
    fn agreement_has_rank_and_size() {
        let predicted = [1.0, 2.0, 4.0];
        let found = agreement(&predicted, &[2.5, 4.5, 8.5]).expect("three");
        assert!((found.spearman - 1.0).abs() < 1e-15 && (found.slope.expect("varies") - 2.0).abs() < 1e-14);
        assert_eq!(agreement(&[1.0; 3], &predicted).expect("three"), Agreement { spearman: 0.0, slope: None });
        assert!(agreement(&predicted, &[1.0]).is_err() && agreement(&[f64::NAN, 0.0], &[0.0, 0.0]).is_err());
    }
}
