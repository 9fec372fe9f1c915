//! What was done with each query's own list of top examples, held against what the lists of the other queries did to
//! it, which are as large but were not chosen for it.

use serde::Serialize;

use super::EvaluateError;
use super::bootstrap::{Bootstrap, Interval};
use super::predictions::disagree;
use super::removals::Removals;

/// A mean over queries with its interval.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct MeanChange {
    /// Mean over queries.
    pub mean: f64,
    /// 95 %, resampling queries; none without resamples.
    pub interval: Option<Interval>,
}

/// How one query changed, mean over seeds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct QueryChange {
    /// The row of the scores.
    pub query: usize,
    /// By its own list.
    pub own: f64,
    /// Mean over the lists of other queries; none if there are no others.
    pub others: Option<f64>,
}

/// How queries changed by their own lists and by those of others.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct OwnLists {
    /// By each query's own list.
    pub own: MeanChange,
    /// By lists that were chosen for others.
    pub others: Option<MeanChange>,
    /// `own − others`: what the choice was worth.
    pub difference: Option<MeanChange>,
    /// Every query by itself.
    pub per_query: Vec<QueryChange>,
    /// Examples of a list: fewest and most.
    pub sizes: (usize, usize),
}

/// Changes of the gain of each list's query, multiplied by `sign`: 1 where a good list raises the gain, -1 where it lowers
/// it. `figure` names it in errors.
///
/// # Errors
/// [`EvaluateError::Disagree`] if there is not one query for each list, [`EvaluateError::Query`] for a row that is not there
/// or comes twice, [`EvaluateError::TooFew`] without lists.
pub(super) fn own_lists(
    lists: &Removals,
    query: &[usize],
    sign: f64,
    figure: &'static str,
    bootstrap: Bootstrap,
) -> Result<OwnLists, EvaluateError> {
    let changes = lists.changes();
    let (count, queries) = (changes.subsets(), changes.queries());
    if count == 0 {
        return Err(EvaluateError::TooFew { figure, axis: "removals", needed: 1, found: 0 });
    }
    if query.len() != count {
        return Err(disagree("removals", "the list `query`", query.len(), "the mask `removed`", count));
    }
    let mut sorted = query.to_vec();
    sorted.sort_unstable();
    if let Some(&query) = sorted.iter().find(|&&q| q >= queries) {
        return Err(EvaluateError::Query { query, problem: "is outside the outcomes", queries });
    }
    if let Some(pair) = sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        return Err(EvaluateError::Query { query: pair[0], problem: "has two removals", queries });
    }
    let of_query = |(j, &q): (usize, &usize)| {
        let gains = changes.gains(q);
        let sum: f64 = gains.iter().enumerate().filter(|&(other, _)| other != j).map(|(_, gain)| sign * gain).sum();
        let others = (count > 1).then(|| sum / (count - 1) as f64);
        QueryChange { query: q, own: sign * gains[j] + 0.0, others }
    };
    let per_query: Vec<QueryChange> = query.iter().enumerate().map(of_query).collect();
    let mean = |value: &dyn Fn(&QueryChange) -> Option<f64>| -> Option<MeanChange> {
        let values = per_query.iter().map(value).collect::<Option<Vec<f64>>>()?;
        let mean = |chosen: &[usize]| chosen.iter().map(|&i| values[i]).sum::<f64>() / chosen.len() as f64;
        let resampled = (0..bootstrap.resamples).map(|r| mean(&bootstrap.queries(r, count)));
        let all: Vec<usize> = (0..count).collect();
        Some(MeanChange { mean: mean(&all), interval: Interval::of(resampled.collect()) })
    };
    let own = mean(&|change| Some(change.own));
    let own = own.ok_or(EvaluateError::TooFew { figure, axis: "removals", needed: 1, found: 0 })?;
    let others = mean(&|change| change.others);
    let difference = mean(&|change| change.others.map(|others| change.own - others));
    let (low, high) = lists.subsets().sizes();
    let examples = lists.subsets().examples();
    Ok(OwnLists { own, others, difference, per_query, sizes: (examples - high, examples - low) })
}
