//! What a cheap filter keeps of a ranking: the share of a query's strongest training examples that are among the first
//! ones in the filter's order.

use serde::Serialize;

use super::EvaluateError;
use super::bootstrap::{Bootstrap, Interval};
use super::predictions::{disagree, require_finite_row};
use crate::ranking::{Ranking, ScoreRows, rank};

/// What a filter keeps where it lets a share of the training examples pass.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CandidateRecall {
    /// The share of the training examples that are candidates of each query.
    pub share: f64,
    /// How many these are.
    pub candidates: usize,
    /// The share of the strongest proponents that are among the candidates.
    pub proponents: Recall,
    /// The share of the strongest opponents that are among the candidates.
    pub opponents: Recall,
}

/// The share of one side that is among the candidates.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Recall {
    /// Mean over the queries that have examples on this side; none if no query has.
    pub recall: Option<f64>,
    /// Where the mean lies in resamples of these queries.
    pub interval: Option<Interval>,
    /// Of every query, in their order; none if it has no example on this side.
    pub per_query: Vec<Option<f64>>,
}

/// Measures a filter at each share: candidates of a query are the `⌈share · N⌉` training examples with the highest
/// scores of the filter, equal ones in the order of the data; what is to be found are the `top` examples with the
/// highest scores, those above 0, and the `top` with the lowest, those below.
///
/// # Shapes
/// `scores` and `filter` `[Q, N]`, of the same queries and examples.
/// # Errors
/// [`EvaluateError::Disagree`] for different sizes, [`EvaluateError::NonFinite`].
pub fn candidate_recall(
    scores: ScoreRows<'_>,
    filter: ScoreRows<'_>,
    top: usize,
    shares: &[f64],
    bootstrap: Bootstrap,
) -> Result<Vec<CandidateRecall>, EvaluateError> {
    let (queries, n) = (scores.queries(), scores.examples());
    let axes = [("queries", filter.queries(), queries), ("training examples", filter.examples(), n)];
    for (axis, found, expected) in axes {
        if found != expected {
            return Err(disagree(axis, "the filter", found, "the scores", expected));
        }
    }
    // the filter's place of every example, from 0
    let mut places = Vec::with_capacity(queries);
    for q in 0..queries {
        require_finite_row("the scores", scores.row(q))?;
        let row = filter.row(q);
        require_finite_row("the filter", row)?;
        let mut order: Vec<usize> = (0..n).collect();
        order.sort_by(|&a, &b| row[b].total_cmp(&row[a]).then(a.cmp(&b)));
        let mut place = vec![0; n];
        order.into_iter().enumerate().for_each(|(at, m)| place[m] = at);
        places.push(place);
    }
    let strongest: Vec<Ranking> =
        rank(scores, top).expect("every score is finite").into_iter().map(Ranking::signed).collect();
    let side = |candidates: usize, of: fn(&Ranking) -> &[(usize, f32)]| {
        let recall = |(ranking, places): (&Ranking, &Vec<usize>)| {
            let wanted = of(ranking);
            let found = wanted.iter().filter(|&&(m, _)| places[m] < candidates).count();
            (!wanted.is_empty()).then(|| found as f64 / wanted.len() as f64)
        };
        let per_query: Vec<Option<f64>> = strongest.iter().zip(&places).map(recall).collect();
        let known: Vec<f64> = per_query.iter().copied().flatten().collect();
        let mean = |queries: &[usize]| queries.iter().map(|&q| known[q]).sum::<f64>() / queries.len() as f64;
        let all: Vec<usize> = (0..known.len()).collect();
        let resamples = if known.is_empty() { 0 } else { bootstrap.resamples };
        let means = (0..resamples).map(|r| mean(&bootstrap.queries(r, known.len()))).collect();
        Recall { recall: (!known.is_empty()).then(|| mean(&all)), interval: Interval::of(means), per_query }
    };
    let at = |&share: &f64| {
        // what rounding adds to a whole number is no further candidate
        let candidates = ((share * n as f64 - 1e-9).ceil() as usize).clamp(1, n.max(1));
        let proponents = side(candidates, |ranking| &ranking.proponents);
        CandidateRecall { share, candidates, proponents, opponents: side(candidates, |ranking| &ranking.opponents) }
    };
    Ok(shares.iter().map(at).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recall_counts_the_strongest_among_the_first() {
        let scores: [f32; 12] = [
            5.0, 4.0, -1.0, 0.5, -3.0, 0.0, // the two strongest 0 and 1, the two worst 4 and 2
            -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, // nothing helps
        ];
        let filter: [f32; 12] = [
            9.0, 0.0, 8.0, 8.0, 0.0, 0.0, // 0 2 3 1 4 5
            0.0, 0.0, 0.0, 0.0, 0.0, 1.0, // 5 0 1 2 3 4
        ];
        let rows = ScoreRows::new;
        let (scores, filter) = (rows(&scores, 2, 6).expect("2 x 6"), rows(&filter, 2, 6).expect("2 x 6"));
        let none = Bootstrap { resamples: 0, seed: 0 };
        let found = candidate_recall(scores, filter, 2, &[0.2, 0.6, 1.0], none).expect("same sizes");
        assert_eq!(found.iter().map(|at| at.candidates).collect::<Vec<_>>(), [2, 4, 6]);
        let of = |side: fn(&CandidateRecall) -> &Recall| {
            found.iter().map(|at| side(at).per_query.clone()).collect::<Vec<_>>()
        };
        assert_eq!(of(|at| &at.proponents), [[Some(0.5), None], [Some(1.0), None], [Some(1.0), None]]);
        assert_eq!(of(|at| &at.opponents), [[Some(0.5), Some(0.5)], [Some(0.5), Some(0.5)], [Some(1.0), Some(1.0)]]);
        assert_eq!(found[0].proponents.recall, Some(0.5));
        let resampled = candidate_recall(scores, filter, 2, &[0.6], Bootstrap::default()).expect("same sizes");
        let interval = resampled[0].opponents.interval.expect("resamples");
        assert_eq!((interval.low, interval.high), (0.5, 0.5));
        let other = ScoreRows::new(&[0.0; 5], 1, 5).expect("1 x 5");
        assert!(candidate_recall(scores, other, 2, &[0.5], none).is_err());
    }
}
