//! Does a query get better when the model is trained a little more on the examples that are said to help it most?
//!
//! Every query has a list of its own, its top examples, and the checkpoint is trained for a step on that list alone (a
//! *tail patch*, Chang et al. 2024). The rise of the query's gain is held against its rise in the patches of the other
//! queries, which are as large but were not chosen for it.

use serde::Serialize;

use super::EvaluateError;
use super::bootstrap::Bootstrap;
use super::own_lists::{MeanChange, QueryChange, own_lists};
use super::removals::Removals;

/// The rise of queries' gains after a step on their top examples.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TailPatch {
    /// The measurement's name.
    pub measurement: String,
    /// If false, a fall is given: positive always means that the query got better.
    pub higher_is_better: bool,
    /// Examples trained on for a query: fewest and most.
    pub trained_on: (usize, usize),
    /// After a step on each query's own examples. Positive: the query gets better.
    pub own: MeanChange,
    /// After a step on examples that were chosen for others.
    pub others: Option<MeanChange>,
    /// `own − others`: what the choice was worth.
    pub difference: Option<MeanChange>,
    /// Every query by itself.
    pub per_query: Vec<QueryChange>,
}

/// Rises of the gain of each list's query; `lists` marks an example as removed if it is in the list, as
/// [`Subsets::write_removals`](super::Subsets::write_removals) does.
///
/// # Errors
/// [`EvaluateError::Disagree`] if there is not one query for each list, [`EvaluateError::Query`] for a row that is not
/// there or comes twice, [`EvaluateError::TooFew`] without lists.
/// # Source
/// Chang, Rajagopal, Bolukbasi, Dixon and Tenney 2024, "Scalable Influence and Fact Tracing for Large Language Model
/// Pretraining", tail-patch scores.
pub fn tail_patch(lists: &Removals, query: &[usize], bootstrap: Bootstrap) -> Result<TailPatch, EvaluateError> {
    let found = own_lists(lists, query, 1.0, "the tail patch", bootstrap)?;
    Ok(TailPatch {
        measurement: lists.changes().name().to_owned(),
        higher_is_better: lists.changes().orientation() == super::Orientation::HigherIsBetter,
        trained_on: found.sizes,
        own: found.own,
        others: found.others,
        difference: found.difference,
        per_query: found.per_query,
    })
}

#[cfg(test)]
mod tests {
    use super::super::{SeedOutcomes, Subsets};
    use super::*;

    #[test]
    fn a_query_is_held_against_its_rise_in_the_patches_of_others() {
        let subsets = Subsets::without(&[vec![1, 2], vec![0]], 4).expect("lists");
        // log-probabilities of three queries before, and after each of two patches
        let (full, after) = (vec![-3.0, -2.0, -1.0], vec![-2.5, -2.0, -1.0, -3.25, -2.0, 0.0]);
        let outcomes = SeedOutcomes { after, full, seeds: 1, queries: 3 };
        let lists = Removals::new(subsets, "logprob", &outcomes, None, 0).expect("fitting sizes");
        let found = tail_patch(&lists, &[0, 2], Bootstrap { resamples: 40, seed: 0 }).expect("two lists");
        // query 0: 0.5 by its own and -0.25 by the other's; query 2: 1 and 0
        assert_eq!((found.own.mean, found.others.map(|others| others.mean)), (0.75, Some(-0.125)));
        assert_eq!(found.difference.map(|difference| difference.mean), Some(0.875));
        assert_eq!((found.trained_on, found.higher_is_better), ((1, 2), true));
        assert_eq!(found.per_query[0], QueryChange { query: 0, own: 0.5, others: Some(-0.25) });
        assert!(found.own.interval.is_some());
        // of a loss a fall is better
        let loss = Removals::new(lists.subsets().clone(), "loss", &outcomes, None, 0).expect("fitting sizes");
        let turned = tail_patch(&loss, &[0, 2], Bootstrap { resamples: 0, seed: 0 }).expect("two lists");
        assert_eq!((turned.own.mean, turned.higher_is_better), (-0.75, false));
        let error = tail_patch(&lists, &[0], Bootstrap::default()).expect_err("one row for two lists");
        assert_eq!(error.to_string(), "the list `query` has 1 removals, the mask `removed` has 2");
    }
}
