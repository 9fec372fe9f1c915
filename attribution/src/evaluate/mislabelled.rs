//! Does self-influence find examples whose label is known to be wrong?

use serde::Serialize;

use super::EvaluateError;
use super::predictions::{disagree, require_finite_row};
use super::spearman::average_ranks;

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
/// # Source
/// METHOD §6.
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
    fn nothing_to_tell_apart_is_refused() {
        assert!(mislabelled(&[1.0, 2.0], &[true, true], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[false, false], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[true], &[]).is_err());
        assert!(mislabelled(&[1.0, f32::NAN], &[true, false], &[]).is_err());
        assert!(mislabelled(&[1.0, 2.0], &[true, false], &[1.5]).is_err());
    }
}
