//! How alike the scores of two runs are: for each query the correlation of its scores over the training examples.
//!
//! A run whose method is too costly for all queries can judge cheaper ones on a few of them: the damping whose scores
//! are most like those of refined solves needs no retraining to be found (`docs/choosing.md`).

use serde::Serialize;

use super::EvaluateError;
use super::bootstrap::{Bootstrap, Interval};
use super::predictions::{disagree, require_finite_row};
use super::spearman::{correlation, spearman};
use crate::ranking::ScoreRows;

/// How alike the scores of two runs are.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Likeness {
    /// Pearson's correlation over training examples, mean over queries.
    pub correlation: f64,
    /// Where that mean lies in resamples of queries; none without resamples.
    pub interval: Option<Interval>,
    /// Spearman's correlation over training examples, mean over queries.
    pub rank_correlation: f64,
    /// Where the mean of Spearman's correlation lies in resamples of queries; none without resamples.
    pub rank_interval: Option<Interval>,
    /// Each query's two correlations, in the order of the pairs.
    pub per_query: Vec<QueryLikeness>,
}

/// How alike two runs' scores of one query are.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QueryLikeness {
    /// Pearson's correlation over training examples; 0 if a side is constant.
    pub correlation: f64,
    /// Spearman's correlation over training examples; 0 if a side is constant.
    pub rank_correlation: f64,
}

/// Correlates the scores of the queries that two runs share.
///
/// Pearson's correlation weighs the examples with large scores, which the sums of a subset consist of; Spearman's
/// counts the order of the many small ones as much.
///
/// # Shapes
/// `scores` `[Q, N]`, `reference` `[Q', N]`; `pairs`: a row of `scores` and the row of `reference` of the same query.
/// # Errors
/// [`EvaluateError::Disagree`] for different N, [`EvaluateError::TooFew`] without a pair or with fewer than two
/// training examples, [`EvaluateError::NonFinite`].
/// # Panics
/// If a pair names a row that is not there.
pub fn likeness(
    scores: ScoreRows<'_>,
    reference: ScoreRows<'_>,
    pairs: &[(usize, usize)],
    bootstrap: Bootstrap,
) -> Result<Likeness, EvaluateError> {
    let (n, expected) = (scores.examples(), reference.examples());
    if n != expected {
        return Err(disagree("training examples", "the scores", n, "the reference", expected));
    }
    for (axis, needed, found) in [("queries of both runs", 1, pairs.len()), ("training examples", 2, n)] {
        if found < needed {
            return Err(EvaluateError::TooFew { figure: "a correlation of scores", axis, needed, found });
        }
    }
    let per_query = pairs.iter().map(|&(ours, theirs)| of_query(scores.row(ours), reference.row(theirs)));
    let per_query = per_query.collect::<Result<Vec<_>, _>>()?;
    let mean = |queries: &[usize], value: fn(&QueryLikeness) -> f64| {
        queries.iter().map(|&q| value(&per_query[q])).sum::<f64>() / queries.len() as f64
    };
    let resamples: Vec<_> = (0..bootstrap.resamples).map(|r| bootstrap.queries(r, pairs.len())).collect();
    let interval = |value| Interval::of(resamples.iter().map(|queries| mean(queries, value)).collect());
    let all: Vec<usize> = (0..pairs.len()).collect();
    let (linear, rank) = (|query: &QueryLikeness| query.correlation, |query: &QueryLikeness| query.rank_correlation);
    Ok(Likeness {
        correlation: mean(&all, linear),
        interval: interval(linear),
        rank_correlation: mean(&all, rank),
        rank_interval: interval(rank),
        per_query,
    })
}

fn of_query(ours: &[f32], theirs: &[f32]) -> Result<QueryLikeness, EvaluateError> {
    require_finite_row("the scores", ours)?;
    require_finite_row("the reference", theirs)?;
    let wide = |values: &[f32]| values.iter().map(|&value| f64::from(value)).collect::<Vec<_>>();
    let (ours, theirs) = (wide(ours), wide(theirs));
    let centred = |values: &[f64]| {
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        values.iter().map(|value| value - mean).collect::<Vec<_>>()
    };
    let ones = vec![1; ours.len()];
    Ok(QueryLikeness {
        correlation: correlation(&ones, &centred(&ours), &centred(&theirs)),
        rank_correlation: spearman(&ours, &theirs),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: Bootstrap = Bootstrap { resamples: 0, seed: 0 };

    /// Pearson's correlation from raw moments.
    fn by_definition(x: &[f32], y: &[f32]) -> f64 {
        let n = x.len() as f64;
        let sum =
            |f: &dyn Fn(f64, f64) -> f64| x.iter().zip(y).map(|(&x, &y)| f(f64::from(x), f64::from(y))).sum::<f64>();
        let (sx, sy) = (sum(&|x, _| x), sum(&|_, y| y));
        let (xx, yy, xy) = (sum(&|x, _| x * x), sum(&|_, y| y * y), sum(&|x, y| x * y));
        (n * xy - sx * sy) / ((n * xx - sx * sx) * (n * yy - sy * sy)).sqrt()
    }

    #[test]
    fn correlations_are_of_the_paired_rows() {
        let scores = [1.0, -2.0, 4.0, 0.5, 3.0, 3.0, -1.0, 2.0_f32];
        let reference = [2.0, 0.0, -1.0, 5.0, 1.5, -2.5, 3.0, 0.0, 9.0, 1.0, 0.0, -3.0_f32];
        let (ours, theirs) = (ScoreRows::new(&scores, 2, 4), ScoreRows::new(&reference, 3, 4));
        let (ours, theirs) = (ours.expect("two rows"), theirs.expect("three rows"));
        let found = likeness(ours, theirs, &[(1, 0), (0, 2)], NONE).expect("valid");
        let wanted = [by_definition(&scores[4..], &reference[..4]), by_definition(&scores[..4], &reference[8..])];
        for (found, wanted) in found.per_query.iter().zip(wanted) {
            assert!((found.correlation - wanted).abs() < 1e-14, "{} is not {wanted}", found.correlation);
        }
        assert!((found.correlation - (wanted[0] + wanted[1]) / 2.0).abs() < 1e-14);
        // ranks 3.5 3.5 1 2 beside 3 2 1 4; ranks 3 1 4 2 beside 4 3 2 1
        let ranks = [1.5 / (4.5_f64 * 5.0).sqrt(), 0.0];
        for (found, wanted) in found.per_query.iter().zip(ranks) {
            assert!((found.rank_correlation - wanted).abs() < 1e-14, "{} is not {wanted}", found.rank_correlation);
        }
        assert_eq!(found.interval, None);
        let same = likeness(ours, ours, &[(0, 0), (1, 1)], Bootstrap { resamples: 20, seed: 1 }).expect("valid");
        assert!((same.correlation - 1.0).abs() < 1e-14 && same.rank_correlation == 1.0);
        assert!(same.interval.is_some_and(|interval| interval.high - interval.low < 1e-14));
    }

    #[test]
    fn what_cannot_be_compared_is_refused() {
        let scores = [1.0, f32::NAN, 2.0, 3.0];
        let rows = |queries, examples| ScoreRows::new(&scores, queries, examples).expect("rows");
        let refused = |pairs: &[(usize, usize)], ours, theirs| likeness(ours, theirs, pairs, NONE).is_err();
        assert!(refused(&[(0, 0)], rows(2, 2), rows(1, 4)), "another number of training examples");
        assert!(refused(&[], rows(2, 2), rows(2, 2)), "no query of both");
        assert!(refused(&[(0, 0)], rows(4, 1), rows(4, 1)), "one training example");
        assert!(refused(&[(1, 0)], rows(2, 2), rows(2, 2)), "NaN in the reference");
        assert!(!refused(&[(1, 1)], rows(2, 2), rows(2, 2)));
    }
}
